//! The store in memory: for tests, and for a controller whose state may go when its process goes.

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use tokio::io::AsyncRead;

use super::Record;
use super::embedded::backup::{self, BackupSummary, Sink};
use super::embedded::rows::{Backend, Ending, Rows, RowsMut, Table, Visit};
use super::embedded::{Embedded, EmbeddedConfig};
use crate::error::Result;

/// A [`Store`](super::Store) whose records live and die with it.
///
/// It keeps every promise of the contract but one: nothing survives the process. What bounds it is
/// [`EmbeddedConfig`]; the records themselves are bounded by memory alone. Use it on a tokio runtime.
///
/// ```
/// use ews_core::store::{Expect, Key, MemoryStore, Store, StoreExt};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> ews_core::Result<()> {
/// let store = MemoryStore::new();
/// let key = Key::new("service/web")?;
/// let created = store.put(&key, "v1".into(), Expect::Absent).await?;
/// store.put(&key, "v2".into(), Expect::Revision(created)).await?;
/// assert_eq!(store.get(&key).await?.map(|record| record.version), Some(2));
/// # Ok(())
/// # }
/// ```
pub struct MemoryStore {
    pub(super) embedded: Embedded<MemoryRows>,
}

impl MemoryStore {
    /// An empty store with the default bounds.
    pub fn new() -> Self {
        Self::with_config(EmbeddedConfig::default())
    }

    /// An empty store with these bounds.
    pub fn with_config(config: EmbeddedConfig) -> Self {
        Self::over(MemoryRows::default(), config)
    }

    /// A store that holds what a [`backup`](Self::backup) of any embedded store holds, with these bounds. Records keep
    /// their marks; the revision jumps, so that no fence and no watch position from before is mistaken for a new one.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`](crate::ErrorKind::Corrupt) for a stream that is damaged, cut off or of another format;
    /// [`ErrorKind::OutOfResources`](crate::ErrorKind::OutOfResources) for a value beyond these limits; the reader's.
    pub async fn restore(
        backup: &mut (impl AsyncRead + Unpin + Send),
        config: EmbeddedConfig,
    ) -> Result<(Self, BackupSummary)> {
        let restored = backup::restore(backup, &config, MemoryRows::default()).await;
        let (rows, summary) = restored.map_err(|error| error.with_operation("store.restore"))?;
        Ok((Self::over(rows, config), summary))
    }

    #[allow(clippy::expect_used, reason = "the rows are empty or were just written and checked by a restore")]
    pub(super) fn over(rows: MemoryRows, config: EmbeddedConfig) -> Self {
        Self { embedded: Embedded::new(rows, config).expect("rows in memory are readable") }
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

type Tables = [BTreeMap<Vec<u8>, Bytes>; Table::ALL.len()];

/// Rows in ordered maps. Shared with the snapshots of backups: while one is out, the first write copies the maps, though
/// not the values.
#[derive(Default)]
pub(super) struct MemoryRows {
    tables: RwLock<Arc<Tables>>,
}

impl Backend for MemoryRows {
    type Snapshot = Snapshot;
    const BLOCKS: bool = false;

    fn read(&self, work: &mut dyn FnMut(&mut dyn Rows) -> Result<()>) -> Result<()> {
        let tables = self.tables.read().unwrap_or_else(PoisonError::into_inner);
        work(&mut View(&tables))
    }

    fn snapshot(&self) -> Result<Snapshot> {
        Ok(Snapshot(self.tables.read().unwrap_or_else(PoisonError::into_inner).clone()))
    }

    fn write(&self, work: &mut dyn FnMut(&mut dyn RowsMut) -> Result<Ending>) -> Result<()> {
        let mut tables = self.tables.write().unwrap_or_else(PoisonError::into_inner);
        work(&mut Edit(Arc::make_mut(&mut tables))).map(drop)
    }
}

impl Sink for MemoryRows {
    fn records(&mut self, records: Vec<Record>) -> Result<()> {
        self.write(&mut |rows| backup::put_records(rows, &records).map(|()| Ending::Commit))
    }

    fn finish(&mut self, base: u64) -> Result<()> {
        self.write(&mut |rows| backup::begin(rows, 0, base).map(|()| Ending::Commit))
    }
}

struct View<'a>(&'a Tables);
struct Edit<'a>(&'a mut Tables);

/// The maps as they were when a backup began.
pub(super) struct Snapshot(Arc<Tables>);

#[allow(clippy::indexing_slicing, reason = "there is one map for each table")]
fn map(tables: &Tables, table: Table) -> &BTreeMap<Vec<u8>, Bytes> {
    &tables[table as usize]
}

#[allow(clippy::indexing_slicing, reason = "there is one map for each table")]
fn map_mut(tables: &mut Tables, table: Table) -> &mut BTreeMap<Vec<u8>, Bytes> {
    &mut tables[table as usize]
}

macro_rules! rows_of_maps {
    ($($of:ty)+) => {$(
        impl Rows for $of {
            fn get(&mut self, table: Table, key: &[u8]) -> Result<Option<Bytes>> {
                Ok(map(&self.0, table).get(key).cloned())
            }

            fn scan(&mut self, table: Table, from: Bound<&[u8]>, visit: Visit<'_>) -> Result<()> {
                for (key, value) in map(&self.0, table).range::<[u8], _>((from, Bound::Unbounded)) {
                    if let ControlFlow::Break(()) = visit(key, value.clone())? {
                        break;
                    }
                }
                Ok(())
            }

            fn last(&mut self, table: Table) -> Result<Option<Vec<u8>>> {
                Ok(map(&self.0, table).last_key_value().map(|(key, _)| key.clone()))
            }
        }
    )+};
}
rows_of_maps!(View<'_> Edit<'_> Snapshot);

impl RowsMut for Edit<'_> {
    fn put(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<()> {
        map_mut(self.0, table).insert(key.to_vec(), Bytes::copy_from_slice(value));
        Ok(())
    }

    fn remove(&mut self, table: Table, key: &[u8]) -> Result<Option<usize>> {
        Ok(map_mut(self.0, table).remove(key).map(|value| value.len()))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::super::{Expect, Key, ListRequest, Prefix, StoreRevision, Transaction};
    use super::*;
    use crate::error::{Error, ErrorKind};

    /// What a disk may do to a commit that it reports as failed.
    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Fault {
        None,
        AppliedAndSilent,
        LostAndSilent,
        Refused,
    }

    /// Rows that fail; silent ones can't be read either until they are healed.
    struct Faulty {
        rows: MemoryRows,
        fault: Mutex<Fault>,
        silent: Mutex<bool>,
    }

    impl Backend for Arc<Faulty> {
        type Snapshot = Snapshot;
        const BLOCKS: bool = false;

        fn read(&self, work: &mut dyn FnMut(&mut dyn Rows) -> Result<()>) -> Result<()> {
            if *self.silent.lock().unwrap() {
                return Err(Error::new(ErrorKind::Unavailable, "no answer"));
            }
            self.rows.read(work)
        }

        fn snapshot(&self) -> Result<Snapshot> {
            self.rows.snapshot()
        }

        fn write(&self, work: &mut dyn FnMut(&mut dyn RowsMut) -> Result<Ending>) -> Result<()> {
            let before = self.rows.tables.read().unwrap().clone();
            self.rows.write(work)?;
            let fault = *self.fault.lock().unwrap();
            if matches!(fault, Fault::LostAndSilent | Fault::Refused) {
                *self.rows.tables.write().unwrap() = before;
            }
            let error = Error::new(ErrorKind::Unavailable, "the disk failed");
            match fault {
                Fault::None => Ok(()),
                Fault::Refused => Err(error),
                Fault::AppliedAndSilent | Fault::LostAndSilent => {
                    *self.silent.lock().unwrap() = true;
                    Err(error.with_maybe_applied())
                }
            }
        }
    }

    #[tokio::test]
    async fn a_commit_in_doubt_is_settled_by_what_the_rows_say() {
        for fault in [Fault::AppliedAndSilent, Fault::LostAndSilent, Fault::Refused] {
            let faulty = Arc::new(Faulty {
                rows: MemoryRows::default(),
                fault: Mutex::new(Fault::None),
                silent: Mutex::new(false),
            });
            let store = Embedded::new(faulty.clone(), EmbeddedConfig::default()).unwrap();
            let key = Key::new("a").unwrap();
            let put = |value: &'static str| Transaction::new().expect(&key, Expect::Any).put(&key, value);
            let first = store.commit(&put("first")).await.unwrap();
            let mut watch = store.watch(&Prefix::all(), first).await.unwrap();

            *faulty.fault.lock().unwrap() = fault;
            let error = store.commit(&put("doubtful")).await.unwrap_err();
            assert_eq!(error.maybe_applied(), fault != Fault::Refused, "{fault:?}");
            *faulty.fault.lock().unwrap() = Fault::None;
            if fault != Fault::Refused {
                assert!(
                    store.commit(&put("early")).await.is_err(),
                    "nothing is written before the doubt is settled"
                );
            }
            *faulty.silent.lock().unwrap() = false;

            let next = store.commit(&put("next")).await.unwrap();
            let happened = u64::from(fault == Fault::AppliedAndSilent);
            assert_eq!(next.0, first.0 + 1 + happened, "{fault:?}");
            for revision in first.0 + 1..=next.0 {
                let batch = futures_util::StreamExt::next(&mut watch).await.unwrap().unwrap();
                assert_eq!(batch.revision.0, revision, "{fault:?}: a watch sees what happened, once");
            }
            let at = store.list(&ListRequest::new(Prefix::all()).at(StoreRevision(first.0))).await.unwrap();
            assert_eq!(at.records[0].value, "first", "{fault:?}: history leads back past it");
        }
    }
}
