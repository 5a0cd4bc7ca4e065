//! Where the rows of an embedded store live: four ordered tables of bytes, read and written in transactions.
//!
//! Everything that an embedded store decides (conditions, revisions, leases, history) stands on these traits, so that the
//! store in memory and the store on disk differ in this alone.

use std::ops::{Bound, ControlFlow};

use bytes::Bytes;

use crate::error::Result;

/// The tables of an embedded store. [`codec`](super::codec) says what their rows hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Table {
    /// Key of the record → its marks and value.
    Records,
    /// Revision → what that transaction changed, values included.
    Log,
    /// Lease → its time to live; lease and key → nothing, for each record that lives by it.
    Leases,
    /// The format version, the store's id, the revision the log starts from, the next lease.
    Meta,
}

impl Table {
    /// Every table, in the order of their numbers.
    pub(crate) const ALL: [Self; 4] = [Self::Records, Self::Log, Self::Leases, Self::Meta];
}

/// What a scan does with a row: take it and go on, or stop.
pub(crate) type Visit<'a> = &'a mut dyn FnMut(&[u8], Bytes) -> Result<ControlFlow<()>>;

/// One state of the tables, which does not change while it is read.
pub(crate) trait Rows {
    /// The row at `key`.
    fn get(&mut self, table: Table, key: &[u8]) -> Result<Option<Bytes>>;

    /// Visits the rows from `from` on, ordered by key, until the visitor stops.
    fn scan(&mut self, table: Table, from: Bound<&[u8]>, visit: Visit<'_>) -> Result<()>;

    /// The key of the last row.
    fn last(&mut self, table: Table) -> Result<Option<Vec<u8>>>;
}

/// A transaction under way; it sees its own writes.
pub(crate) trait RowsMut: Rows {
    /// Creates or replaces a row.
    fn put(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<()>;

    /// Removes a row and returns how long its value was, or `None` where there was none.
    fn remove(&mut self, table: Table, key: &[u8]) -> Result<Option<usize>>;
}

/// What becomes of a write transaction whose work ended without an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Make it durable.
    Commit,
    /// Nothing was written; drop it.
    Abandon,
}

/// A place where rows live.
pub(crate) trait Backend: Send + Sync + 'static {
    /// A state that stays as it is while transactions go on.
    type Snapshot: Rows + Send + 'static;

    /// Whether calls wait for a disk and so must stay off the async threads.
    const BLOCKS: bool;

    /// Reads the latest committed state.
    fn read(&self, work: &mut dyn FnMut(&mut dyn Rows) -> Result<()>) -> Result<()>;

    /// The latest committed state, for reading at leisure.
    fn snapshot(&self) -> Result<Self::Snapshot>;

    /// Runs one transaction and makes it durable. An error that says
    /// [`maybe_applied`](crate::Error::maybe_applied) leaves open whether it happened; after any other nothing did.
    /// There is one writer at a time.
    fn write(&self, work: &mut dyn FnMut(&mut dyn RowsMut) -> Result<Ending>) -> Result<()>;
}
