//! Rows in redb's tables.

use std::any::Any;
use std::ops::{Bound, ControlFlow};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use redb::{
    Builder, Database, Durability, ReadOnlyTable, ReadTransaction, ReadableDatabase as _, ReadableTable,
    TableDefinition, TableError, WriteTransaction,
};

use super::super::embedded::rows::{Backend, Ending, Rows, RowsMut, Table, Visit};
use super::storage::{Medium, Storage};
use crate::error::{Error, ErrorKind, Result, Retry};

type ReadTable = ReadOnlyTable<&'static [u8], &'static [u8]>;
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
    /// Held for reading while a write transaction lives, so that the database is never opened anew under one.
    state: RwLock<State>,
    faults: Faults,
    cache_bytes: usize,
    verify: bool,
}

enum State {
    Open(Database),
    /// Its disk failed, and opening it anew failed too; it is tried again at the next call.
    Shut,
    /// The store is closed for good.
    Closed,
}

/// Notes that the database failed, so that it is opened anew before it is used again.
#[derive(Clone, Default)]
struct Faults(Arc<AtomicBool>);

impl Faults {
    /// Where every error of redb in use becomes one of EWS.
    fn of(&self, error: impl Into<redb::Error>) -> Error {
        let error = error.into();
        // A snapshot that outlived the database it was of says nothing about the present one.
        if !matches!(error, redb::Error::DatabaseClosed) {
            self.0.store(true, Ordering::Release);
        }
        translated(error)
    }

    /// Runs something that redb may panic in, which it can on a file that was damaged behind its back.
    fn guard<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        guarded(work).unwrap_or_else(|text| {
            self.0.store(true, Ordering::Release);
            Err(stumbled(text))
        })
    }
}

impl RedbRows {
    pub(super) fn open(storage: Storage, cache_bytes: usize, verify: bool) -> Result<Self> {
        let storage = Arc::new(storage);
        let database = open_database(&storage, cache_bytes, verify)?;
        let state = RwLock::new(State::Open(database));
        Ok(Self { storage, state, faults: Faults::default(), cache_bytes, verify })
    }

    /// Closes the database and lets go of the file.
    pub(super) fn close(&self) -> Result<()> {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *state, State::Closed);
        let closed = match before {
            State::Open(database) => self.faults.guard(|| database.close().map_err(translated)),
            State::Shut | State::Closed => Ok(()),
        };
        self.storage.unlock();
        closed
    }

    /// Does something with the open database; opens it anew first where it failed.
    fn with<T>(&self, work: impl FnOnce(&Database) -> Result<T>) -> Result<T> {
        let mut state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        if self.faults.0.load(Ordering::Acquire) || matches!(*state, State::Shut) {
            drop(state);
            self.open_anew()?;
            state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        }
        match &*state {
            State::Open(database) => self.faults.guard(|| work(database)),
            State::Shut => Err(Error::new(ErrorKind::Unavailable, "the store's disk failed again")),
            State::Closed => Err(Error::new(ErrorKind::Unavailable, "the store was closed")),
        }
    }

    fn open_anew(&self) -> Result<()> {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        match &*state {
            State::Closed => return Ok(()),
            // Somebody else was here before.
            State::Open(_) if !self.faults.0.load(Ordering::Acquire) => return Ok(()),
            State::Open(_) | State::Shut => {}
        }
        let failed = std::mem::replace(&mut *state, State::Shut);
        // What redb says at the end of a database that failed was said before.
        let _ = guarded(move || drop(failed));
        if self.storage.sync_failed() {
            return Err(Error::new(
                ErrorKind::Unavailable,
                "the disk failed to sync the store; check the disk, then close the store and open it again",
            )
            .with_retry(Retry::Never));
        }
        *state = State::Open(open_database(&self.storage, self.cache_bytes, self.verify)?);
        self.faults.0.store(false, Ordering::Release);
        tracing::info!("the store's database was opened again after a failure of its disk");
        Ok(())
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
    let opened = guarded(|| {
        Builder::new()
            .set_cache_size(cache_bytes)
            .set_check_integrity_on_open(verify)
            .create_with_backend(Medium(storage.clone()))
            .map_err(translated)
    });
    opened.unwrap_or_else(|text| Err(stumbled(text)))
}

impl Backend for RedbRows {
    type Snapshot = Snapshot;
    const BLOCKS: bool = true;

    fn read(&self, work: &mut dyn FnMut(&mut dyn Rows) -> Result<()>) -> Result<()> {
        let mut snapshot = self.snapshot()?;
        self.faults.guard(|| work(&mut snapshot))
    }

    fn snapshot(&self) -> Result<Snapshot> {
        let transaction =
            self.with(|database| database.begin_read().map_err(|error| self.faults.of(error)))?;
        Ok(Snapshot { transaction, tables: Default::default(), faults: self.faults.clone() })
    }

    fn write(&self, work: &mut dyn FnMut(&mut dyn RowsMut) -> Result<Ending>) -> Result<()> {
        let failed = |error: redb::Error| self.faults.of(error);
        self.with(|database| {
            let mut transaction = database.begin_write().map_err(|error| failed(error.into()))?;
            transaction.set_durability(Durability::Immediate).map_err(|error| failed(error.into()))?;
            let mut edit =
                Edit { transaction: &transaction, tables: Default::default(), faults: &self.faults };
            let worked = self.faults.guard(|| work(&mut edit));
            drop(edit);
            match worked {
                Ok(Ending::Commit) => {
                    let committed =
                        self.faults.guard(|| transaction.commit().map_err(|error| failed(error.into())));
                    // From here on, an error leaves open whether the new state is what the next open finds.
                    committed.map_err(Error::with_maybe_applied)
                }
                Ok(Ending::Abandon) => transaction.abort().map_err(|error| failed(error.into())),
                Err(error) => {
                    let _ = transaction.abort().map_err(|error| failed(error.into()));
                    Err(error)
                }
            }
        })
    }
}

/// A state of the tables that stays. The pages it needs are not reused while it lives.
pub(crate) struct Snapshot {
    transaction: ReadTransaction,
    /// Opened when first needed; the inner `None` is a table that nothing was written to yet.
    tables: [Option<Option<ReadTable>>; Table::ALL.len()],
    faults: Faults,
}

impl Snapshot {
    #[allow(clippy::indexing_slicing, reason = "there is one place for each table")]
    fn table(&mut self, table: Table) -> Result<Option<&ReadTable>> {
        let place = &mut self.tables[table as usize];
        if place.is_none() {
            *place = Some(match self.transaction.open_table(definition(table)) {
                Ok(table) => Some(table),
                Err(TableError::TableDoesNotExist(_)) => None,
                Err(error) => return Err(self.faults.of(error)),
            });
        }
        Ok(place.as_ref().and_then(Option::as_ref))
    }
}

impl Rows for Snapshot {
    fn get(&mut self, table: Table, key: &[u8]) -> Result<Option<Bytes>> {
        let faults = self.faults.clone();
        self.table(table)?.map_or(Ok(None), |table| get(table, key, &faults))
    }

    fn scan(&mut self, table: Table, from: Bound<&[u8]>, visit: Visit<'_>) -> Result<()> {
        let faults = self.faults.clone();
        self.table(table)?.map_or(Ok(()), |table| scan(table, from, visit, &faults))
    }

    fn last(&mut self, table: Table) -> Result<Option<Vec<u8>>> {
        let faults = self.faults.clone();
        self.table(table)?.map_or(Ok(None), |table| last(table, &faults))
    }
}

struct Edit<'t> {
    transaction: &'t WriteTransaction,
    /// Opened when first needed: a table that is left alone costs nothing.
    tables: [Option<redb::Table<'t, &'static [u8], &'static [u8]>>; Table::ALL.len()],
    faults: &'t Faults,
}

impl<'t> Edit<'t> {
    #[allow(clippy::indexing_slicing, reason = "there is one place for each table")]
    fn table(&mut self, table: Table) -> Result<&mut redb::Table<'t, &'static [u8], &'static [u8]>> {
        let place = &mut self.tables[table as usize];
        Ok(match place {
            Some(table) => table,
            None => {
                let opened = self.transaction.open_table(definition(table));
                place.insert(opened.map_err(|error| self.faults.of(error))?)
            }
        })
    }
}

impl Rows for Edit<'_> {
    fn get(&mut self, table: Table, key: &[u8]) -> Result<Option<Bytes>> {
        let faults = self.faults;
        get(self.table(table)?, key, faults)
    }

    fn scan(&mut self, table: Table, from: Bound<&[u8]>, visit: Visit<'_>) -> Result<()> {
        let faults = self.faults;
        scan(self.table(table)?, from, visit, faults)
    }

    fn last(&mut self, table: Table) -> Result<Option<Vec<u8>>> {
        let faults = self.faults;
        last(self.table(table)?, faults)
    }
}

impl RowsMut for Edit<'_> {
    fn put(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<()> {
        let faults = self.faults;
        self.table(table)?.insert(key, value).map(drop).map_err(|error| faults.of(error))
    }

    fn remove(&mut self, table: Table, key: &[u8]) -> Result<Option<usize>> {
        let faults = self.faults;
        let removed = self.table(table)?.remove(key).map_err(|error| faults.of(error))?;
        Ok(removed.map(|value| value.value().len()))
    }
}

fn get(
    table: &impl ReadableTable<&'static [u8], &'static [u8]>,
    key: &[u8],
    faults: &Faults,
) -> Result<Option<Bytes>> {
    let found = table.get(key).map_err(|error| faults.of(error))?;
    Ok(found.map(|value| Bytes::copy_from_slice(value.value())))
}

fn scan(
    table: &impl ReadableTable<&'static [u8], &'static [u8]>,
    from: Bound<&[u8]>,
    visit: Visit<'_>,
    faults: &Faults,
) -> Result<()> {
    for row in table.range::<&[u8]>((from, Bound::Unbounded)).map_err(|error| faults.of(error))? {
        let (key, value) = row.map_err(|error| faults.of(error))?;
        if let ControlFlow::Break(()) = visit(key.value(), Bytes::copy_from_slice(value.value()))? {
            break;
        }
    }
    Ok(())
}

fn last(
    table: &impl ReadableTable<&'static [u8], &'static [u8]>,
    faults: &Faults,
) -> Result<Option<Vec<u8>>> {
    let last = table.last().map_err(|error| faults.of(error))?;
    Ok(last.map(|(key, _)| key.value().to_vec()))
}

/// What an error of redb means here. The engine's own words travel as the detail.
fn translated(error: impl Into<redb::Error>) -> Error {
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

fn stumbled(text: String) -> Error {
    Error::new(ErrorKind::Corrupt, "the store's file is damaged: the database stumbled over it")
        .with_detail(text)
}

/// Runs something and catches its panic's text.
fn guarded<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| panic_text(&*panic))
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&'static str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default()
}
