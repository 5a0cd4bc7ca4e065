//! Rows in redb's tables.

use std::any::Any;
use std::ops::{Bound, ControlFlow};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use redb::{
    Builder, Database, Durability, ReadOnlyTable, ReadTransaction, ReadableDatabase as _, ReadableTable,
    TableDefinition, TableError, WriteTransaction,
};

use super::super::embedded::rows::{Backend, Ending, Rows, RowsMut, Table, Visit};
use super::storage::{Medium, Storage};
use crate::error::{Error, ErrorKind, Result, Retry};

type Definition = TableDefinition<'static, &'static [u8], &'static [u8]>;

const fn definition(table: Table) -> Definition {
    TableDefinition::new(match table {
        Table::Records => "records",
        Table::Log => "log",
        Table::Leases => "leases",
        Table::Meta => "meta",
    })
}

/// The rows of a [`RedbStore`](super::RedbStore).
pub(crate) struct RedbRows {
    storage: Arc<Storage>,
    state: RwLock<State>,
    cache_bytes: usize,
    verify: bool,
}

enum State {
    Open(Database),
    /// An operation on the disk failed, and redb wants to be opened anew.
    Broken(Database),
    /// It failed, and opening it anew failed too.
    Shut,
    /// The store is closed for good.
    Closed,
}

impl RedbRows {
    pub(super) fn open(storage: Storage, cache_bytes: usize, verify: bool) -> Result<Self> {
        let storage = Arc::new(storage);
        let database = open_database(&storage, cache_bytes, verify)?;
        Ok(Self { storage, state: RwLock::new(State::Open(database)), cache_bytes, verify })
    }

    /// Closes the database and lets go of the file.
    pub(super) fn close(&self) -> Result<()> {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *state, State::Closed);
        let closed = match before {
            State::Open(database) => guarded(|| database.close().map_err(failed)),
            State::Broken(database) => guarded(|| {
                drop(database);
                Ok(())
            }),
            State::Shut | State::Closed => Ok(()),
        };
        self.storage.unlock();
        closed
    }

    /// Begins something on the open database; opens it anew where it broke.
    fn begin<T>(&self, begin: impl Fn(&Database) -> Result<T>) -> Result<T> {
        {
            let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
            match &*state {
                State::Open(database) => return guarded(|| begin(database)),
                State::Closed => return Err(Error::new(ErrorKind::Unavailable, "the store was closed")),
                State::Broken(_) | State::Shut => {}
            }
        }
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        if matches!(*state, State::Broken(_) | State::Shut) {
            let broken = std::mem::replace(&mut *state, State::Shut);
            // What redb says at the end of a broken database was said before.
            let _ = guarded(|| {
                drop(broken);
                Ok(())
            });
            if self.storage.sync_failed() {
                return Err(Error::new(
                    ErrorKind::Unavailable,
                    "the disk failed to sync the store; check the disk, then close the store and open it again",
                )
                .with_retry(Retry::Never));
            }
            *state = State::Open(open_database(&self.storage, self.cache_bytes, self.verify)?);
            tracing::info!("the store's database was opened again after a failure of its disk");
        }
        match &*state {
            State::Open(database) => guarded(|| begin(database)),
            _ => Err(Error::new(ErrorKind::Unavailable, "the store was closed")),
        }
    }

    /// After an error of the database, it is opened anew before it is used again.
    fn note<T>(&self, result: Result<T>) -> Result<T> {
        if let Err(error) = &result
            && of_storage(error)
        {
            let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
            *state = match std::mem::replace(&mut *state, State::Shut) {
                State::Open(database) => State::Broken(database),
                other => other,
            };
        }
        result
    }
}

impl Drop for RedbRows {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            tracing::warn!(%error, "the store's database did not close properly; it is repaired when it is opened next");
        }
    }
}

fn open_database(storage: &Arc<Storage>, cache_bytes: usize, verify: bool) -> Result<Database> {
    guarded(|| {
        Builder::new()
            .set_cache_size(cache_bytes)
            .set_check_integrity_on_open(verify)
            .create_with_backend(Medium(storage.clone()))
            .map_err(failed)
    })
}

impl Backend for RedbRows {
    type Snapshot = Snapshot;
    const BLOCKS: bool = true;

    fn read(&self, work: &mut dyn FnMut(&mut dyn Rows) -> Result<()>) -> Result<()> {
        let mut snapshot = self.snapshot()?;
        self.note(guarded(|| work(&mut snapshot)))
    }

    fn snapshot(&self) -> Result<Snapshot> {
        let begun = self.begin(|database| database.begin_read().map_err(failed));
        Ok(Snapshot { transaction: self.note(begun)?, tables: Default::default() })
    }

    fn write(&self, work: &mut dyn FnMut(&mut dyn RowsMut) -> Result<Ending>) -> Result<()> {
        let transaction = self.note(self.begin(|database| {
            let mut transaction = database.begin_write().map_err(failed)?;
            transaction.set_durability(Durability::Immediate).map_err(failed)?;
            Ok(transaction)
        }))?;
        let worked = self.note(guarded(|| {
            let mut edit = Edit { transaction: &transaction, tables: Default::default() };
            work(&mut edit)
        }));
        match worked {
            Ok(Ending::Commit) => {
                // From here on, an error leaves open whether the new state is what the next open finds.
                let committed = guarded(|| transaction.commit().map_err(failed));
                self.note(committed.map_err(Error::with_maybe_applied))
            }
            Ok(Ending::Abandon) => self.note(guarded(|| transaction.abort().map_err(failed))),
            Err(error) => {
                let _ = self.note(guarded(|| transaction.abort().map_err(failed)));
                Err(error)
            }
        }
    }
}

/// A state of the tables that stays. The pages it needs are not reused while it lives.
pub(crate) struct Snapshot {
    transaction: ReadTransaction,
    /// Opened when first needed; the inner `None` is a table that nothing was written to yet.
    tables: [Option<Option<ReadOnlyTable<&'static [u8], &'static [u8]>>>; Table::ALL.len()],
}

impl Snapshot {
    #[allow(clippy::indexing_slicing, reason = "there is one place for each table")]
    fn table(&mut self, table: Table) -> Result<Option<&ReadOnlyTable<&'static [u8], &'static [u8]>>> {
        let place = &mut self.tables[table as usize];
        if place.is_none() {
            *place = Some(match self.transaction.open_table(definition(table)) {
                Ok(table) => Some(table),
                Err(TableError::TableDoesNotExist(_)) => None,
                Err(error) => return Err(failed(error)),
            });
        }
        Ok(place.as_ref().and_then(Option::as_ref))
    }
}

impl Rows for Snapshot {
    fn get(&mut self, table: Table, key: &[u8]) -> Result<Option<Bytes>> {
        self.table(table)?.map_or(Ok(None), |table| get(table, key))
    }

    fn scan(&mut self, table: Table, from: Bound<&[u8]>, visit: Visit<'_>) -> Result<()> {
        self.table(table)?.map_or(Ok(()), |table| scan(table, from, visit))
    }

    fn last(&mut self, table: Table) -> Result<Option<Vec<u8>>> {
        self.table(table)?.map_or(Ok(None), last)
    }
}

struct Edit<'t> {
    transaction: &'t WriteTransaction,
    /// Opened when first needed: a table that is left alone costs nothing.
    tables: [Option<redb::Table<'t, &'static [u8], &'static [u8]>>; Table::ALL.len()],
}

impl<'t> Edit<'t> {
    #[allow(clippy::indexing_slicing, reason = "there is one place for each table")]
    fn table(&mut self, table: Table) -> Result<&mut redb::Table<'t, &'static [u8], &'static [u8]>> {
        let place = &mut self.tables[table as usize];
        Ok(match place {
            Some(table) => table,
            None => place.insert(self.transaction.open_table(definition(table)).map_err(failed)?),
        })
    }
}

impl Rows for Edit<'_> {
    fn get(&mut self, table: Table, key: &[u8]) -> Result<Option<Bytes>> {
        get(self.table(table)?, key)
    }

    fn scan(&mut self, table: Table, from: Bound<&[u8]>, visit: Visit<'_>) -> Result<()> {
        scan(self.table(table)?, from, visit)
    }

    fn last(&mut self, table: Table) -> Result<Option<Vec<u8>>> {
        last(self.table(table)?)
    }
}

impl RowsMut for Edit<'_> {
    fn put(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<()> {
        self.table(table)?.insert(key, value).map_err(failed)?;
        Ok(())
    }

    fn remove(&mut self, table: Table, key: &[u8]) -> Result<Option<usize>> {
        let removed = self.table(table)?.remove(key).map_err(failed)?;
        Ok(removed.map(|value| value.value().len()))
    }
}

fn get(table: &impl ReadableTable<&'static [u8], &'static [u8]>, key: &[u8]) -> Result<Option<Bytes>> {
    let found = table.get(key).map_err(failed)?;
    Ok(found.map(|value| Bytes::copy_from_slice(value.value())))
}

fn scan(
    table: &impl ReadableTable<&'static [u8], &'static [u8]>,
    from: Bound<&[u8]>,
    visit: Visit<'_>,
) -> Result<()> {
    for row in table.range::<&[u8]>((from, Bound::Unbounded)).map_err(failed)? {
        let (key, value) = row.map_err(failed)?;
        if let ControlFlow::Break(()) = visit(key.value(), Bytes::copy_from_slice(value.value()))? {
            break;
        }
    }
    Ok(())
}

fn last(table: &impl ReadableTable<&'static [u8], &'static [u8]>) -> Result<Option<Vec<u8>>> {
    Ok(table.last().map_err(failed)?.map(|(key, _)| key.value().to_vec()))
}

/// Where every error of redb becomes one of EWS. The engine's own words travel as the detail.
fn failed(error: impl Into<redb::Error>) -> Error {
    use std::io::ErrorKind as Io;
    let error = error.into();
    let (kind, message) = match &error {
        redb::Error::Io(io) => match io.kind() {
            Io::StorageFull | Io::QuotaExceeded | Io::FileTooLarge => {
                (ErrorKind::OutOfResources, "the disk is full; the store goes on when there is space again")
            }
            Io::InvalidData => (ErrorKind::Corrupt, "the file is not a store, or its beginning is damaged"),
            Io::UnexpectedEof => (ErrorKind::Corrupt, "the store's file is cut off"),
            Io::PermissionDenied | Io::ReadOnlyFilesystem => {
                (ErrorKind::Unauthorized, "the store's file can't be written")
            }
            _ => (ErrorKind::Unavailable, "the store's disk failed"),
        },
        redb::Error::Corrupted(_)
        | redb::Error::TableTypeMismatch { .. }
        | redb::Error::TypeDefinitionChanged { .. }
        | redb::Error::TableIsMultimap(_)
        | redb::Error::UpgradeRequired(_)
        | redb::Error::RepairAborted => (ErrorKind::Corrupt, "the store's file is damaged"),
        redb::Error::PreviousIo | redb::Error::DatabaseClosed | redb::Error::LockPoisoned(_) => {
            (ErrorKind::Unavailable, "the store's database is opened again after a failure of its disk")
        }
        _ => (ErrorKind::Internal, "the store's database refused an operation"),
    };
    Error::new(kind, message).with_detail(error.to_string()).with_source(error)
}

/// Whether the database itself failed, rather than what was asked of it.
fn of_storage(error: &Error) -> bool {
    use std::error::Error as _;
    error.source().is_some_and(|source| source.is::<redb::Error>() || source.is::<Panicked>())
}

/// redb can panic on a file that was damaged behind its back. Then it is opened anew, which checks the file.
#[derive(Debug, thiserror::Error)]
#[error("redb panicked: {0}")]
struct Panicked(String);

fn guarded<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic_text(&*panic);
        Err(Error::new(ErrorKind::Corrupt, "the store's file is damaged: the database stumbled over it")
            .with_detail(text.clone())
            .with_source(Panicked(text)))
    })
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&'static str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default()
}
