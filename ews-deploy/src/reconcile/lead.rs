//! Leading a service or a release: the lease, the lock, and knowing for how long both hold.
//!
//! A lead is valid from the moment before a renewal was sent for the time of the lease, by this process's monotonic clock: the
//! store's own count began later, so it ends later. [`Lead::outlasts`] is asked before every engine call; fenced writes prove
//! the rest.

use std::sync::Arc;
use std::time::Duration;

use ews_core::store::{Expect, Fence, Key, Lease, Transaction};
use ews_core::{Error, ErrorKind, Result, Store, StoreExt as _};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::config::DeployConfig;

/// The lead of one service or release. Dropping it stops renewing; the lock stays until the lease ends.
pub(crate) struct Lead {
    store: Arc<dyn Store>,
    fence: Fence,
    lease: Lease,
    valid: watch::Receiver<Instant>,
    renewal: AbortHandle,
}

impl Drop for Lead {
    fn drop(&mut self) {
        self.renewal.abort();
    }
}

impl Lead {
    /// Takes the lead by the lock at this key, or says that another has it.
    pub(crate) async fn take(
        store: &Arc<dyn Store>,
        key: Key,
        config: &DeployConfig,
        holder: &str,
    ) -> Result<Option<Self>> {
        // Whoever stands by only looks.
        let ours = |value: &[u8]| config.controller.is_some() && value == holder.as_bytes();
        if store.get(&key).await?.is_some_and(|record| !ours(&record.value)) {
            return Ok(None);
        }
        let asked = Instant::now();
        let lease = store.grant(config.lease).await?;
        let fence = match store.lock(&key, &lease, holder).await {
            Ok(fence) => fence,
            Err(error) if error.kind() == ErrorKind::Busy => {
                let held = store.get(&key).await?;
                if let Some(record) = held.filter(|record| ours(&record.value)) {
                    // Nobody else alive has our name: this is what our former life left.
                    let expected =
                        Transaction::new().expect(&key, Expect::Revision(record.modified)).delete(&key);
                    let _ = store.commit(&expected).await;
                }
                match store.lock(&key, &lease, holder).await {
                    Ok(fence) => fence,
                    Err(error) => {
                        let _ = store.revoke(lease.id).await;
                        return if error.kind() == ErrorKind::Busy { Ok(None) } else { Err(error) };
                    }
                }
            }
            Err(error) => {
                let _ = store.revoke(lease.id).await;
                return Err(error);
            }
        };
        let (sender, valid) = watch::channel(asked + config.lease);
        let renewal = tokio::spawn(renew(Arc::clone(store), lease.clone(), sender)).abort_handle();
        Ok(Some(Self { store: Arc::clone(store), fence, lease, valid, renewal }))
    }

    pub(crate) fn fence(&self) -> &Fence {
        &self.fence
    }

    /// Whether a call that takes so long at most may begin.
    ///
    /// # Errors
    /// `Stale` where the lead ends before.
    pub(crate) fn outlasts(&self, limit: Duration) -> Result<()> {
        if Instant::now() + limit < *self.valid.borrow() {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Stale, "the lead may end before the call does"))
    }

    /// Waits until the lead is over.
    pub(crate) async fn over(&self) {
        let mut valid = self.valid.clone();
        loop {
            let until = *valid.borrow_and_update();
            tokio::select! {
                () = sleep_until(until) => {
                    if *valid.borrow() <= Instant::now() {
                        return;
                    }
                }
                changed = valid.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
            }
        }
    }

    /// Gives the lead back, so that another may take it at once.
    pub(crate) async fn resign(&self) {
        self.renewal.abort();
        let _ = self.store.revoke(self.lease.id).await;
    }
}

/// Renews until the lease is lost.
async fn renew(store: Arc<dyn Store>, lease: Lease, valid: watch::Sender<Instant>) {
    loop {
        sleep(lease.ttl / 3).await;
        loop {
            let asked = Instant::now();
            match timeout(lease.ttl / 3, store.renew(lease.id)).await {
                Ok(Ok(())) => {
                    valid.send_replace(asked + lease.ttl);
                    break;
                }
                Ok(Err(error)) if error.kind() == ErrorKind::NotFound => {
                    valid.send_replace(Instant::now());
                    return;
                }
                Ok(Err(_)) | Err(_) => sleep(Duration::from_millis(500)).await,
            }
            if *valid.borrow() <= Instant::now() {
                return;
            }
        }
    }
}

/// What every leader's holder name looks like where the configuration has none.
pub(crate) fn anonymous() -> Arc<str> {
    use std::hash::{BuildHasher as _, Hasher as _};
    let random = std::hash::RandomState::new().build_hasher().finish();
    format!("controller-{random:016x}").into()
}
