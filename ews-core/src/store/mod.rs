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

pub(crate) mod embedded;
mod ext;
mod key;
mod memory;
#[cfg(feature = "redb")]
mod redb;
mod transaction;
mod typed;

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

pub use self::embedded::EmbeddedConfig;
pub use self::embedded::backup::BackupSummary;
pub use self::ext::StoreExt;
pub use self::key::{Key, Prefix};
pub use self::memory::MemoryStore;
#[cfg(feature = "redb")]
pub use self::redb::{RedbConfig, RedbStore};
pub use self::transaction::{Condition, Expect, Fence, StoreLimits, Transaction, Write};
pub use self::typed::{Schema, Typed, TypedExt, decode_typed, encode_typed};

use async_trait::async_trait;
use bytes::Bytes;
use futures_core::stream::BoxStream;
use serde::{Deserialize, Serialize};

use crate::error::Result;
#[cfg(doc)]
use crate::error::{Error, ErrorKind};

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
#[non_exhaustive]
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

impl Record {
    /// A record with these marks that lives by no lease; for drivers.
    pub fn new(
        key: Key,
        value: Bytes,
        created: StoreRevision,
        modified: StoreRevision,
        version: u64,
    ) -> Self {
        Self { key, value, created, modified, version, lease: None }
    }

    /// Living by this lease, or none.
    #[must_use]
    pub fn with_lease(mut self, lease: impl Into<Option<LeaseId>>) -> Self {
        self.lease = lease.into();
        self
    }
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
#[non_exhaustive]
pub struct ListPage {
    /// The records, ordered by key.
    pub records: Vec<Record>,
    /// The revision that this page shows. A watch from here misses nothing.
    pub revision: StoreRevision,
    /// Whether there is more after the last record.
    pub more: bool,
}

impl ListPage {
    /// These records, ordered by key, as of this revision; for drivers. [`more`](Self::more) says no.
    pub fn new(records: Vec<Record>, revision: StoreRevision) -> Self {
        Self { records, revision, more: false }
    }
}

/// What one transaction changed under a watched prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct WatchBatch {
    /// The revision of the transaction. Batches come in order, each revision at most once.
    pub revision: StoreRevision,
    /// The changes under the prefix, in the order they were written; never empty.
    pub changes: Arc<[Change]>,
}

impl WatchBatch {
    /// What the transaction of this revision changed; for drivers.
    pub fn new(revision: StoreRevision, changes: impl Into<Arc<[Change]>>) -> Self {
        Self { revision, changes: changes.into() }
    }
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
