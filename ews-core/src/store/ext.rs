//! What is built from [`Store`]'s methods: single writes, whole lists, locks.

use async_trait::async_trait;
use bytes::Bytes;

use crate::error::{Error, ErrorKind, Result};
use crate::store::{
    Expect, Fence, Key, Lease, ListPage, ListRequest, Prefix, Store, StoreRevision, Transaction,
};
use crate::time::Shown;

/// What can be built from [`Store`]'s methods.
#[async_trait]
pub trait StoreExt: Store {
    /// Puts one record.
    ///
    /// # Errors
    /// Those of [`Store::commit`].
    async fn put(&self, key: &Key, value: Bytes, expect: Expect) -> Result<StoreRevision> {
        self.commit(&Transaction::new().expect(key, expect).put(key, value)).await
    }

    /// Deletes one record.
    ///
    /// # Errors
    /// Those of [`Store::commit`].
    async fn delete(&self, key: &Key, expect: Expect) -> Result<StoreRevision> {
        self.commit(&Transaction::new().expect(key, expect).delete(key)).await
    }

    /// All pages under a prefix as of one revision. It starts over when history is compacted in between, a few times, and
    /// refuses more than `max` records.
    ///
    /// # Errors
    /// [`ErrorKind::OutOfResources`] for more than `max`; [`ErrorKind::Compacted`] when it can't keep up; those of
    /// [`Store::list`].
    async fn list_all(&self, prefix: &Prefix, max: usize) -> Result<ListPage> {
        const ATTEMPTS: usize = 5;
        let mut last = None;
        for _ in 0..ATTEMPTS {
            match list_at_once(self, prefix, max).await {
                Err(error) if error.kind() == ErrorKind::Compacted => last = Some(error),
                result => return result,
            }
        }
        Err(last.unwrap_or_else(|| Error::internal("no attempt was made")))
    }

    /// Takes a lock that lives by `lease`, with the holder's name as its value, and returns the fence that proves it.
    /// Taking it again under the same lease returns the same fence.
    ///
    /// # Errors
    /// [`ErrorKind::Busy`] where somebody else holds it; those of [`Store::commit`].
    async fn lock(&self, key: &Key, lease: &Lease, holder: &str) -> Result<Fence> {
        let transaction = Transaction::new().expect(key, Expect::Absent).put_leased(
            key,
            Bytes::copy_from_slice(holder.as_bytes()),
            lease,
        );
        let conflict = match self.commit(&transaction).await {
            Ok(token) => return Ok(Fence { lock: key.clone(), token }),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => error,
            Err(error) => return Err(error),
        };
        let Some(record) = self.get(key).await? else {
            return Err(Error::new(ErrorKind::Busy, "the lock changed hands just now; try again")
                .with_context("lock", key));
        };
        if record.lease == Some(lease.id) {
            return Ok(Fence { lock: key.clone(), token: record.created });
        }
        Err(Error::new(ErrorKind::Busy, "the lock is held by another until its lease ends")
            .with_context("lock", key)
            .with_context("holder", Shown(&String::from_utf8_lossy(&record.value)))
            .with_source(conflict))
    }

    /// Gives a lock back; nothing happens where it is no longer held.
    ///
    /// # Errors
    /// Those of [`Store::commit`], except the stale fence.
    async fn unlock(&self, fence: &Fence) -> Result<()> {
        match self.commit(&Transaction::new().fence(fence.clone()).delete(&fence.lock)).await {
            Err(error) if error.kind() == ErrorKind::Stale => Ok(()),
            result => result.map(drop),
        }
    }
}

impl<T: Store + ?Sized> StoreExt for T {}

/// All pages under a prefix, as of the revision of the first.
async fn list_at_once<S: Store + ?Sized>(store: &S, prefix: &Prefix, max: usize) -> Result<ListPage> {
    let mut all = store.list(&ListRequest::new(prefix.clone())).await?;
    while all.more && all.records.len() <= max {
        let Some(last) = all.records.last() else { break };
        let request = ListRequest::new(prefix.clone()).after(last.key.clone()).at(all.revision);
        let page = store.list(&request).await?;
        all.more = page.more;
        all.records.extend(page.records);
    }
    if all.records.len() > max {
        return Err(Error::new(
            ErrorKind::OutOfResources,
            format!(
                "more than {max} records; ask for fewer by a longer prefix, or for more by a larger `max`"
            ),
        )
        .with_context("prefix", prefix));
    }
    Ok(all)
}
