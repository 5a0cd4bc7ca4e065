//! The `Store` contract: small records that controllers share and survive by.
//!
//! A store is a map from [`Key`] to bytes with one global [`StoreRevision`] that every committed transaction raises by
//! one. On it stand compare-and-set ([`Expect`]), transactions, an ordered [`watch`](Store::watch), leases, and locks with
//! a fencing token ([`StoreExt::lock`]). Its limits are etcd's, so that what works on the embedded store works on etcd.
//!
//! It is for state, not for data: logs, metrics and recordings live elsewhere.
//!
//! # Fencing
//! A [`Fence`] names a lock key and the revision at which its holder created it. A transaction that carries one commits
//! only while that very lock is held: a controller that was paused, lost its lease and woke up can't overwrite what its
//! successor wrote.
//!
//! ```
//! use std::time::Duration;
//! use ews_core::store::{Expect, Key, Store, StoreExt, Transaction};
//!
//! async fn take_over(store: &dyn Store) -> ews_core::Result<()> {
//!     let lease = store.grant(Duration::from_secs(60)).await?;
//!     let lock = store.lock(&Key::new("service/web/lock")?, &lease, "controller-1").await?;
//!     let journal = Key::new("service/web/journal/1")?;
//!     store.commit(&Transaction::new().fence(lock).expect(&journal, Expect::Absent).put(&journal, "intent")).await?;
//!     Ok(())
//! }
//! ```

mod embedded;
mod memory;
#[cfg(feature = "redb")]
mod redb;
mod typed;

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

pub use self::embedded::EmbeddedConfig;
pub use self::embedded::backup::BackupSummary;
pub use self::memory::MemoryStore;
#[cfg(feature = "redb")]
pub use self::redb::{RedbConfig, RedbStore};
pub use self::typed::{Schema, Typed, TypedExt, decode_typed, encode_typed};

use async_trait::async_trait;
use bytes::Bytes;
use futures_core::stream::BoxStream;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::{Error, ErrorKind, Result};
use crate::time::Shown;

/// Where a record lives: segments joined by `/`, such as `service/web/rollout/7`.
///
/// Segments are not empty, are not `.` or `..`, and hold no control characters; a key is at most [`Key::MAX_LEN`] bytes.
/// Keys order by their bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Arc<str>);

impl Key {
    /// The longest key, in bytes.
    pub const MAX_LEN: usize = 1024;

    /// Checks and takes a key.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`], saying what is wrong and what is accepted.
    pub fn new(text: impl AsRef<str>) -> Result<Self> {
        let text = text.as_ref();
        check_path("key", text, Self::MAX_LEN)?;
        Ok(Self(Arc::from(text)))
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What a list or a watch covers: every key that starts with these whole segments, or everything.
///
/// A prefix is empty or ends with `/`, so that `service/web/` never takes in `service/web2`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix(Arc<str>);

impl Prefix {
    /// Every key.
    pub fn all() -> Self {
        Self(Arc::from(""))
    }

    /// Checks and takes a prefix; a missing `/` at the end is an error.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`], saying what is wrong and what is accepted.
    pub fn new(text: impl AsRef<str>) -> Result<Self> {
        let text = text.as_ref();
        match text.strip_suffix('/') {
            Some(path) => check_path("prefix", path, Key::MAX_LEN - 1)?,
            None if text.is_empty() => {}
            None => {
                return Err(Error::invalid(format!(
                    "prefix `{}` does not end with `/`; accepted: whole segments, such as `service/web/`",
                    Shown(text)
                )));
            }
        }
        Ok(Self(Arc::from(text)))
    }

    /// The prefix as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether `key` lies under this prefix.
    pub fn covers(&self, key: &Key) -> bool {
        key.0.starts_with(&*self.0)
    }
}

fn check_path(what: &'static str, text: &str, max: usize) -> Result<()> {
    let fault = if text.is_empty() {
        "is empty".to_owned()
    } else if text.len() > max {
        format!("is {} bytes long", text.len())
    } else if let Some(found) = text.chars().find(|c| c.is_control()) {
        format!("contains the control character `{}`", found.escape_default())
    } else if let Some(segment) = text.split('/').find(|s| matches!(*s, "" | "." | "..")) {
        format!("has the segment `{segment}`")
    } else {
        return Ok(());
    };
    Err(Error::invalid(format!(
        "{what} `{}` {fault}; accepted: at most {max} bytes of segments joined by `/`, none empty, `.` or `..`, without \
         control characters",
        Shown(text)
    )))
}

macro_rules! text_type {
    ($($name:ident)+) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                Self::new(text).map_err(|error| serde::de::Error::custom(error.message()))
            }
        }
    )+};
}
text_type!(Key Prefix);

/// How many transactions the store has committed; [`StoreRevision::ZERO`] for an empty new store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StoreRevision(pub u64);

impl StoreRevision {
    /// Before the first transaction.
    pub const ZERO: Self = Self(0);
}

impl fmt::Display for StoreRevision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A record and its history's marks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Where it lives.
    pub key: Key,
    /// What was put.
    pub value: Bytes,
    /// The revision that created it; a delete and a new put give a new one.
    pub created: StoreRevision,
    /// The revision that put this value.
    pub modified: StoreRevision,
    /// How many times it was put since it was created, from 1.
    pub version: u64,
    /// The lease that it lives by: when the lease ends, the record is deleted.
    pub lease: Option<LeaseId>,
}

/// A lease of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LeaseId(pub u64);

/// A lease as granted.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Lease {
    /// Its id.
    pub id: LeaseId,
    /// How long it lives after a grant or a renewal.
    pub ttl: Duration,
}

impl Lease {
    /// A lease of this id and time to live; for drivers.
    pub fn new(id: LeaseId, ttl: Duration) -> Self {
        Self { id, ttl }
    }
}

/// Proof that a lock is held: it is the revision at which the holder created the lock's record.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Fence {
    /// The lock's key.
    pub lock: Key,
    /// The revision that created the lock's record. A later holder always has a larger one.
    pub token: StoreRevision,
}

/// What a key must be for a transaction to commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Expect {
    /// Anything, absent included.
    Any,
    /// There is no such record.
    Absent,
    /// There is such a record, whatever its value.
    Present,
    /// The record was last put by this revision.
    Revision(StoreRevision),
}

/// What must hold for a transaction to commit.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Condition {
    /// The key is as expected.
    Key(Key, Expect),
    /// The lock is held by the one who got this fence.
    Fence(Fence),
}

/// One write.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Write {
    /// Creates or replaces a record.
    Put {
        /// Where.
        key: Key,
        /// What.
        value: Bytes,
        /// The lease that the record shall live by.
        lease: Option<LeaseId>,
    },
    /// Removes a record; nothing happens where there is none.
    Delete {
        /// Which.
        key: Key,
    },
}

impl Write {
    /// The key that is written.
    pub fn key(&self) -> &Key {
        match self {
            Self::Put { key, .. } | Self::Delete { key } => key,
        }
    }
}

/// Conditions and writes that happen all or not at all.
///
/// A key may be written at most once. Conditions are all checked before the first write.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Transaction {
    /// What must hold.
    pub conditions: Vec<Condition>,
    /// What is written.
    pub writes: Vec<Write>,
}

impl Transaction {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a condition on a key.
    #[must_use]
    pub fn expect(mut self, key: &Key, expect: Expect) -> Self {
        self.conditions.push(Condition::Key(key.clone(), expect));
        self
    }

    /// Commits only while this lock is held.
    #[must_use]
    pub fn fence(mut self, fence: Fence) -> Self {
        self.conditions.push(Condition::Fence(fence));
        self
    }

    /// Adds a put.
    #[must_use]
    pub fn put(mut self, key: &Key, value: impl Into<Bytes>) -> Self {
        self.writes.push(Write::Put { key: key.clone(), value: value.into(), lease: None });
        self
    }

    /// Adds a put of a record that lives by a lease.
    #[must_use]
    pub fn put_leased(mut self, key: &Key, value: impl Into<Bytes>, lease: &Lease) -> Self {
        self.writes.push(Write::Put { key: key.clone(), value: value.into(), lease: Some(lease.id) });
        self
    }

    /// Adds a delete.
    #[must_use]
    pub fn delete(mut self, key: &Key) -> Self {
        self.writes.push(Write::Delete { key: key.clone() });
        self
    }

    /// Checks this transaction against a store's limits; drivers call it first.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for a key written twice or no write at all, [`ErrorKind::OutOfResources`] for what exceeds a
    /// limit.
    pub fn check(&self, limits: &StoreLimits) -> Result<()> {
        let operations = self.conditions.len() + self.writes.len();
        if operations > limits.operations {
            return Err(Error::new(
                ErrorKind::OutOfResources,
                format!(
                    "{operations} conditions and writes in one transaction; at most {} are accepted",
                    limits.operations
                ),
            ));
        }
        if self.writes.is_empty() {
            return Err(Error::invalid("the transaction writes nothing; give it at least one put or delete"));
        }
        let mut keys = std::collections::BTreeSet::new();
        for write in &self.writes {
            if !keys.insert(write.key()) {
                return Err(Error::invalid("a transaction may write a key only once")
                    .with_context("key", write.key()));
            }
            if let Write::Put { key, value, .. } = write
                && value.len() > limits.value_bytes
            {
                return Err(Error::new(
                    ErrorKind::OutOfResources,
                    format!("a value of {} bytes; at most {} are accepted", value.len(), limits.value_bytes),
                )
                .with_context("key", key));
            }
        }
        Ok(())
    }
}

/// The limits of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoreLimits {
    /// The largest value, in bytes. Default 1 MiB (etcd's request limit is 1.5 MiB).
    pub value_bytes: usize,
    /// The most conditions and writes in one transaction. Default 128 (etcd's `--max-txn-ops`).
    pub operations: usize,
    /// The most records that one page of a list holds. Default 1,000.
    pub page: usize,
    /// The shortest and the longest lease.
    pub lease: (Duration, Duration),
}

impl Default for StoreLimits {
    fn default() -> Self {
        Self {
            value_bytes: 1024 * 1024,
            operations: 128,
            page: 1000,
            lease: (Duration::from_secs(1), Duration::from_secs(24 * 3600)),
        }
    }
}

/// What to list.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ListRequest {
    /// Which keys.
    pub prefix: Prefix,
    /// Only keys after this one: the last key of the page before.
    pub after: Option<Key>,
    /// The most records on the page, at least 1; the store's [`StoreLimits::page`] bounds it, and a store may end a page
    /// earlier so that large values don't add up. [`ListPage::more`] says whether to go on.
    pub limit: usize,
    /// The state as of this revision, so that several pages are one picture. A store that no longer has it says
    /// [`ErrorKind::Compacted`]: start over.
    pub at: Option<StoreRevision>,
}

impl ListRequest {
    /// The first page of everything under `prefix`.
    pub fn new(prefix: Prefix) -> Self {
        Self { prefix, after: None, limit: usize::MAX, at: None }
    }

    /// Goes on after this key.
    #[must_use]
    pub fn after(mut self, key: Key) -> Self {
        self.after = Some(key);
        self
    }

    /// Bounds the page.
    #[must_use]
    pub fn limit(mut self, limit: usize) -> Self {
        self.limit = limit;
        self
    }

    /// Asks for the state as of this revision.
    #[must_use]
    pub fn at(mut self, revision: StoreRevision) -> Self {
        self.at = Some(revision);
        self
    }
}

/// One page of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListPage {
    /// The records, ordered by key.
    pub records: Vec<Record>,
    /// The revision that this page shows. A watch from here misses nothing.
    pub revision: StoreRevision,
    /// Whether there is more after the last record.
    pub more: bool,
}

/// What one transaction changed under a watched prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchBatch {
    /// The revision of the transaction. Batches come in order, each revision at most once.
    pub revision: StoreRevision,
    /// The changes under the prefix, in the order they were written; never empty.
    pub changes: Arc<[Change]>,
}

/// One changed record.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Change {
    /// It was put.
    Put(Record),
    /// It was deleted, by a caller or because its lease ended.
    Deleted(Key),
}

impl Change {
    /// The key that changed.
    pub fn key(&self) -> &Key {
        match self {
            Self::Put(record) => &record.key,
            Self::Deleted(key) => key,
        }
    }
}

/// What a watch yields. After an error the stream ends.
pub type WatchStream = BoxStream<'static, Result<WatchBatch>>;

/// Keeps records. See the [module](self).
///
/// Dropping the future of a mutating call abandons the wait, not the operation: it may commit or not. An error says with
/// [`Error::maybe_applied`] when it may have.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// The limits of this store; they never change during its life.
    fn limits(&self) -> StoreLimits;

    /// The record at `key`, or `None`.
    ///
    /// Reads see every transaction that was acknowledged before the call.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`], [`ErrorKind::Timeout`], [`ErrorKind::Corrupt`].
    async fn get(&self, key: &Key) -> Result<Option<Record>>;

    /// One page of the records under a prefix, ordered by key; an empty page where there is none.
    ///
    /// # Errors
    /// [`ErrorKind::Compacted`] where [`ListRequest::at`] is no longer known or in the future; [`ErrorKind::Invalid`] for a
    /// limit of 0; those of [`get`](Self::get).
    async fn list(&self, request: &ListRequest) -> Result<ListPage>;

    /// Commits a transaction durably and returns its revision. Acknowledged means: it survives a crash.
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyExists`] where [`Expect::Absent`] does not hold; [`ErrorKind::Stale`] where another condition or
    /// a fence does not; [`ErrorKind::NotFound`] for a put under a lease that ended; what [`Transaction::check`] says;
    /// [`ErrorKind::OutOfResources`] for a full disk; those of [`get`](Self::get). Except after `Unavailable`, `Timeout` or
    /// `OutOfResources` that say `maybe_applied`, nothing was written.
    async fn commit(&self, transaction: &Transaction) -> Result<StoreRevision>;

    /// Every change under `prefix` by transactions after `after`, in order, none left out.
    ///
    /// A watcher that falls behind the kept history gets [`ErrorKind::Compacted`] as its last item, and lists again.
    ///
    /// # Errors
    /// [`ErrorKind::Compacted`] at once where history after `after` is gone already, and where `after` is in the future;
    /// [`ErrorKind::OutOfResources`] for too many watchers; those of [`get`](Self::get).
    async fn watch(&self, prefix: &Prefix, after: StoreRevision) -> Result<WatchStream>;

    /// Grants a lease: unless renewed within `ttl`, it ends and takes its records with it.
    ///
    /// An embedded store measures leases on its process's monotonic clock; where the process is restarted, a lease that had
    /// not ended begins its whole `ttl` anew.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for a `ttl` outside [`StoreLimits::lease`]; [`ErrorKind::OutOfResources`] for too many leases.
    async fn grant(&self, ttl: Duration) -> Result<Lease>;

    /// Begins the lease's time to live anew.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] where it ended: whoever held it must stop acting.
    async fn renew(&self, lease: LeaseId) -> Result<()>;

    /// Ends a lease now and deletes its records; nothing happens where it ended before.
    ///
    /// # Errors
    /// Those of [`commit`](Self::commit) on the store's own account.
    async fn revoke(&self, lease: LeaseId) -> Result<()>;
}

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
            match self.list_at_once(prefix, max).await {
                Err(error) if error.kind() == ErrorKind::Compacted => last = Some(error),
                result => return result,
            }
        }
        Err(last.unwrap_or_else(|| Error::internal("no attempt was made")))
    }

    #[doc(hidden)]
    async fn list_at_once(&self, prefix: &Prefix, max: usize) -> Result<ListPage> {
        let mut all = self.list(&ListRequest::new(prefix.clone())).await?;
        while all.more && all.records.len() <= max {
            let Some(last) = all.records.last() else { break };
            let request = ListRequest::new(prefix.clone()).after(last.key.clone()).at(all.revision);
            let page = self.list(&request).await?;
            all.more = page.more;
            all.records.extend(page.records);
        }
        if all.records.len() > max {
            return Err(Error::new(ErrorKind::OutOfResources, format!("more than {max} records"))
                .with_context("prefix", prefix));
        }
        Ok(all)
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
            return Err(
                Error::new(ErrorKind::Busy, "the lock changed hands just now").with_context("lock", key)
            );
        };
        if record.lease == Some(lease.id) {
            return Ok(Fence { lock: key.clone(), token: record.created });
        }
        Err(Error::new(ErrorKind::Busy, "the lock is held by another")
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

/// The contract, and what goes beyond it, for a store over [`embedded::Embedded`].
macro_rules! embedded_store {
    ($store:ident) => {
        #[async_trait]
        impl Store for $store {
            fn limits(&self) -> StoreLimits {
                self.embedded.limits()
            }

            async fn get(&self, key: &Key) -> Result<Option<Record>> {
                self.embedded.get(key).await
            }

            async fn list(&self, request: &ListRequest) -> Result<ListPage> {
                self.embedded.list(request).await
            }

            async fn commit(&self, transaction: &Transaction) -> Result<StoreRevision> {
                self.embedded.commit(transaction).await
            }

            async fn watch(&self, prefix: &Prefix, after: StoreRevision) -> Result<WatchStream> {
                self.embedded.watch(prefix, after).await
            }

            async fn grant(&self, ttl: Duration) -> Result<Lease> {
                self.embedded.grant(ttl).await
            }

            async fn renew(&self, lease: LeaseId) -> Result<()> {
                self.embedded.renew(lease)
            }

            async fn revoke(&self, lease: LeaseId) -> Result<()> {
                self.embedded.revoke(lease).await
            }
        }

        impl $store {
            /// The latest transaction that watches show.
            pub fn revision(&self) -> StoreRevision {
                self.embedded.revision()
            }

            /// Writes the records of this moment as a portable, checksummed stream, while the store goes on. Records that
            /// live by a lease are left out. It holds about 1 MiB at a time. Whoever reads the stream reads every value:
            /// protect it as the store itself.
            ///
            /// # Errors
            /// The writer's, as [`ErrorKind::Unavailable`] or [`ErrorKind::OutOfResources`]; those of [`Store::get`].
            pub async fn backup(
                &self,
                out: &mut (impl tokio::io::AsyncWrite + Unpin + Send),
            ) -> Result<BackupSummary> {
                self.embedded.backup(out).await.map_err(|error| error.with_operation("store.backup"))
            }

            /// Writes a [`backup`](Self::backup) into a new file, readable by its owner only. The file appears under its
            /// name once it is whole and durable.
            ///
            /// # Errors
            /// [`ErrorKind::AlreadyExists`] where there is a file of that name; [`ErrorKind::NotFound`] where its folder is
            /// missing; those of [`backup`](Self::backup).
            pub async fn backup_to_file(&self, path: impl AsRef<Path>) -> Result<BackupSummary> {
                let summary = self.embedded.backup_to_file(path.as_ref()).await;
                summary.map_err(|error| error.with_operation("store.backup"))
            }
        }

        impl fmt::Debug for $store {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($store))
                    .field("revision", &self.revision().0)
                    .finish_non_exhaustive()
            }
        }
    };
}
embedded_store!(MemoryStore);
#[cfg(feature = "redb")]
embedded_store!(RedbStore);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_prefixes_keep_to_whole_segments() {
        for bad in ["", "/a", "a/", "a//b", "a/../b", ".", "a\0b", &"k".repeat(1025)] {
            assert!(Key::new(bad).is_err(), "{bad:?}");
        }
        assert!(Prefix::new("service/web").unwrap_err().message().contains("does not end with `/`"));
        let prefix = Prefix::new("service/web/").unwrap();
        assert!(prefix.covers(&Key::new("service/web/1").unwrap()));
        assert!(!prefix.covers(&Key::new("service/web2").unwrap()));
        assert!(Prefix::all().covers(&Key::new("x").unwrap()));
    }

    #[test]
    fn a_transaction_is_checked_against_the_limits() {
        let key = Key::new("a").unwrap();
        let limits = StoreLimits::default();
        assert!(Transaction::new().check(&limits).is_err());
        assert!(Transaction::new().put(&key, "1").delete(&key).check(&limits).is_err());
        let big = Transaction::new().put(&key, vec![0; limits.value_bytes + 1]);
        assert_eq!(big.check(&limits).unwrap_err().kind(), ErrorKind::OutOfResources);
        let mut many = Transaction::new().put(&key, "1");
        many.conditions = vec![Condition::Key(key.clone(), Expect::Any); limits.operations];
        assert_eq!(many.check(&limits).unwrap_err().kind(), ErrorKind::OutOfResources);
    }
}
