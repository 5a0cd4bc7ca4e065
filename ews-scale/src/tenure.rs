//! Being the one controller that scales a service: a lock that lives by a lease, and a record that only its holder writes.
//!
//! A controller that was paused and lost its lease finds its next write refused by the fence and acts no more; the count itself
//! is written with the version it was decided on, so that even what was on its way can't undo a successor's change.

use std::sync::Arc;
use std::time::Duration;

use ews_core::store::{Fence, Key, Lease, Transaction, TypedExt as _, encode_typed};
use ews_core::{Error, ErrorKind, Result, ServiceName, Store, StoreExt as _};
use tokio::time::Instant;

use crate::record::Kept;

/// Where a service's lock and record are.
pub(crate) struct Office {
    store: Arc<dyn Store>,
    holder: String,
    lock: Key,
    record: Key,
    ttl: Duration,
}

/// The lock as it is held.
pub(crate) struct Tenure {
    lease: Lease,
    fence: Fence,
    renewed: Instant,
}

impl Office {
    pub(crate) fn new(
        store: Arc<dyn Store>,
        holder: String,
        service: &ServiceName,
        ttl: Duration,
    ) -> Result<Self> {
        let (shortest, longest) = store.limits().lease;
        let lock = Key::new(format!("scale/{service}/lock"))?;
        let record = Key::new(format!("scale/{service}/state"))?;
        Ok(Self { store, holder, lock, record, ttl: ttl.max(shortest).min(longest) })
    }

    /// Holds on to the lock or takes it. With a new tenure comes what the one before has left.
    pub(crate) async fn hold(&self, tenure: &mut Option<Tenure>) -> Result<Option<Kept>> {
        let begun = Instant::now();
        if let Some(held) = tenure {
            match self.store.renew(held.lease.id).await {
                Ok(()) => {
                    held.renewed = begun;
                    return Ok(None);
                }
                Err(error) if error.kind() == ErrorKind::NotFound => *tenure = None,
                Err(error) => return Err(error),
            }
        }
        let lease = self.store.grant(self.ttl).await?;
        let fence = match self.store.lock(&self.lock, &lease, &self.holder).await {
            Ok(fence) => fence,
            Err(error) => {
                // What can't be revoked ends by itself.
                let _ = self.store.revoke(lease.id).await;
                return Err(error);
            }
        };
        *tenure = Some(Tenure { lease: lease.clone(), fence, renewed: begun });
        match self.store.get_typed::<Kept>(&self.record).await {
            Ok(found) => Ok(found.map(|typed| typed.value)),
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                tracing::warn!(%error, "the record of a service's scaling can't be read: it starts anew");
                Ok(None)
            }
            Err(error) => {
                // Without having looked it must not count as held: the next try reads again.
                *tenure = None;
                let _ = self.store.revoke(lease.id).await;
                Err(error)
            }
        }
    }

    /// Writes the record, as the holder.
    pub(crate) async fn write(&self, tenure: &mut Option<Tenure>, kept: &Kept) -> Result<()> {
        let Some(held) = tenure else { return Err(Error::internal("the lock is not held")) };
        let transaction = Transaction::new().fence(held.fence.clone()).put(&self.record, encode_typed(kept)?);
        match self.store.commit(&transaction).await {
            Ok(_) => Ok(()),
            Err(error) => {
                if error.kind() == ErrorKind::Stale {
                    *tenure = None;
                }
                Err(error)
            }
        }
    }

    /// Whether the lock outlasts something that may take so long.
    pub(crate) fn outlasts(&self, tenure: Option<&Tenure>, call: Duration) -> bool {
        tenure.is_some_and(|held| held.renewed.elapsed() + call < self.ttl)
    }

    /// Gives the lock back, so that a successor need not wait for the lease's end.
    pub(crate) async fn leave(&self, tenure: &mut Option<Tenure>) {
        if let Some(held) = tenure.take()
            && let Err(error) = self.store.revoke(held.lease.id).await
        {
            tracing::debug!(%error, "a lease was not given back; it ends by itself");
        }
    }
}
