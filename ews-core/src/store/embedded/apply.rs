//! What a transaction does to the rows: the one place where conditions, revisions, leases and the change log are decided.
//!
//! Nothing here waits, reads a clock or touches a lock. A transaction is checked as a whole before its first write, so a
//! refused one leaves no trace and the transactions that share a commit on disk don't disturb each other.

use std::collections::BTreeSet;
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;
use std::time::Duration;

use super::codec::{self, LeaseRow, corrupt, meta};
use super::config::EmbeddedConfig;
use super::history::Before;
use super::rows::{Rows, RowsMut, Table};
use crate::error::{Error, ErrorKind, Result};
use crate::store::{Change, Condition, Expect, Key, LeaseId, Record, StoreRevision, Transaction, Write};

/// Where a store's counters stand. It follows from the rows alone: [`Ledger::load`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ledger {
    /// The latest transaction.
    pub(crate) revision: u64,
    /// The oldest transaction in the log; `revision + 1` where the log is empty.
    pub(crate) log_first: u64,
    /// The bytes of the log's rows.
    pub(crate) log_bytes: u64,
    /// The number of the next lease.
    pub(crate) next_lease: u64,
}

impl Ledger {
    /// Reads the counters, and checks that the log has no gap.
    pub(crate) fn load(rows: &mut dyn Rows) -> Result<Self> {
        let mut number = |name: &'static str, key: &[u8]| match rows.get(Table::Meta, key)? {
            Some(row) => codec::read_number(name, &row).map(Some),
            None => Ok(None),
        };
        let base = number("base_revision", meta::BASE)?.unwrap_or(0);
        let next_lease = number("next_lease", meta::NEXT_LEASE)?.unwrap_or(1);
        let (mut first, mut last, mut bytes) = (None, base, 0);
        rows.scan(Table::Log, Bound::Unbounded, &mut |key, row| {
            let revision = codec::read_log_key(key)?;
            if first.is_some() && last.checked_add(1) != Some(revision) || revision <= base {
                return Err(corrupt("the change log has a gap").with_context("revision", revision));
            }
            first = first.or(Some(revision));
            last = revision;
            bytes += row.len() as u64;
            Ok(ControlFlow::Continue(()))
        })?;
        let after = last.checked_add(1).ok_or_else(|| corrupt("the store's revision is at its end"))?;
        Ok(Self { revision: last, log_first: first.unwrap_or(after), log_bytes: bytes, next_lease })
    }

    /// History up to and including this revision is gone.
    pub(crate) fn compacted(&self) -> u64 {
        self.log_first - 1
    }
}

/// A transaction that is written, though not yet durable.
#[derive(Debug, Clone)]
pub(crate) struct Written {
    pub(crate) revision: u64,
    pub(crate) changes: Arc<[Change]>,
    /// About what the changes take in memory.
    pub(crate) bytes: usize,
}

/// One transaction on disk under way: the rows, the counters as they become, and what was written and replaced so far.
pub(crate) struct Applier<'a> {
    pub(crate) rows: &'a mut dyn RowsMut,
    pub(crate) ledger: Ledger,
    pub(crate) written: Vec<Written>,
    pub(crate) replaced: Vec<Before>,
    pub(crate) config: &'a EmbeddedConfig,
}

/// The outer result is the storage's: it fails everything that is under way. The inner one is this transaction's.
pub(crate) type Decided<T> = Result<Result<T>>;

/// Returns from the function with an inner error.
macro_rules! refuse {
    ($error:expr) => {
        return Ok(Err($error))
    };
}

impl<'a> Applier<'a> {
    pub(crate) fn new(rows: &'a mut dyn RowsMut, ledger: Ledger, config: &'a EmbeddedConfig) -> Self {
        Self { rows, ledger, written: Vec::new(), replaced: Vec::new(), config }
    }

    /// The record at `key`.
    fn record(&mut self, key: &Key) -> Result<Option<Record>> {
        record(self.rows, key)
    }

    /// Checks a transaction and writes it.
    pub(crate) fn commit(&mut self, transaction: &Transaction) -> Decided<u64> {
        if let Err(error) = transaction.check(&self.config.limits) {
            refuse!(error);
        }
        for condition in &transaction.conditions {
            let (Condition::Key(key, _) | Condition::Fence(crate::store::Fence { lock: key, .. })) =
                condition;
            let found = self.record(key)?;
            if let Err(error) = check_condition(condition, found.as_ref()) {
                refuse!(error);
            }
        }
        let mut before = Vec::with_capacity(transaction.writes.len());
        for write in &transaction.writes {
            before.push((write.key().clone(), self.record(write.key())?));
        }
        if let Err(error) = self.check_leases(transaction, &before)? {
            refuse!(error);
        }
        let revision = self.ledger.revision + 1;
        let mut changes = Vec::with_capacity(transaction.writes.len());
        for (write, (key, old)) in transaction.writes.iter().zip(&before) {
            let change = match write {
                Write::Put { value, lease, .. } => Change::Put(Record {
                    key: key.clone(),
                    value: value.clone(),
                    created: old.as_ref().map_or(StoreRevision(revision), |old| old.created),
                    modified: StoreRevision(revision),
                    version: old.as_ref().map_or(0, |old| old.version) + 1,
                    lease: *lease,
                }),
                Write::Delete { .. } if old.is_some() => Change::Deleted(key.clone()),
                Write::Delete { .. } => continue,
            };
            self.write_record(&change, old.as_ref())?;
            changes.push(change);
        }
        // Both are in the order of the writes.
        let mut changed = changes.iter().peekable();
        before.retain(|(key, _)| changed.next_if(|change| change.key() == key).is_some());
        self.write_log(changes, before)?;
        Ok(Ok(revision))
    }

    /// That every lease which the transaction puts records under lives and has room for them.
    fn check_leases(&mut self, transaction: &Transaction, before: &Before) -> Decided<()> {
        let leases: BTreeSet<LeaseId> = transaction
            .writes
            .iter()
            .filter_map(|write| match write {
                Write::Put { lease, .. } => *lease,
                Write::Delete { .. } => None,
            })
            .collect();
        for id in leases {
            let Some(row) = self.lease(id)? else {
                refuse!(Error::not_found("lease", format_args!("{} (it ended or never was)", id.0)));
            };
            let joining = transaction
                .writes
                .iter()
                .zip(before)
                .filter(|(write, (_, old))| {
                    let joins = matches!(write, Write::Put { lease, .. } if *lease == Some(id));
                    joins && old.as_ref().and_then(|old| old.lease) != Some(id)
                })
                .count();
            if row.records as usize + joining > self.config.lease_records {
                let max = self.config.lease_records;
                refuse!(
                    Error::new(ErrorKind::OutOfResources, format!("at most {max} records live by one lease"))
                        .with_context("lease", id.0)
                );
            }
        }
        Ok(Ok(()))
    }

    /// Writes one change to the records, and keeps the leases' lists in step.
    fn write_record(&mut self, change: &Change, old: Option<&Record>) -> Result<()> {
        let key = change.key();
        let lease = match change {
            Change::Put(record) => {
                self.rows.put(Table::Records, key.as_str().as_bytes(), &codec::record_row(record))?;
                record.lease
            }
            Change::Deleted(_) => {
                self.rows.remove(Table::Records, key.as_str().as_bytes())?;
                None
            }
        };
        let old_lease = old.and_then(|old| old.lease);
        if lease != old_lease {
            if let Some(id) = old_lease {
                self.rows.remove(Table::Leases, &codec::lease_record_key(id, key))?;
                self.count_records(id, |count| count.saturating_sub(1))?;
            }
            if let Some(id) = lease {
                self.rows.put(Table::Leases, &codec::lease_record_key(id, key), &[])?;
                self.count_records(id, |count| count.saturating_add(1))?;
            }
        }
        Ok(())
    }

    fn lease(&mut self, id: LeaseId) -> Result<Option<LeaseRow>> {
        self.rows.get(Table::Leases, &codec::lease_key(id))?.map(LeaseRow::read).transpose()
    }

    fn count_records(&mut self, id: LeaseId, count: impl FnOnce(u32) -> u32) -> Result<()> {
        // A lease that ends takes its own row away first.
        if let Some(mut row) = self.lease(id)? {
            row.records = count(row.records);
            self.rows.put(Table::Leases, &codec::lease_key(id), &row.row())?;
        }
        Ok(())
    }

    /// Raises the revision by one and logs what the transaction changed.
    fn write_log(&mut self, changes: Vec<Change>, before: Before) -> Result<()> {
        let revision = self.ledger.revision + 1;
        let row = codec::log_row(&changes);
        self.rows.put(Table::Log, &codec::log_key(revision), &row)?;
        self.ledger.revision = revision;
        self.ledger.log_bytes += row.len() as u64;
        self.written.push(Written { revision, changes: changes.into(), bytes: row.len() });
        self.replaced.push(before);
        Ok(())
    }

    /// Writes a new lease and returns its id.
    pub(crate) fn grant(&mut self, ttl: Duration) -> Result<LeaseId> {
        let id = LeaseId(self.ledger.next_lease);
        self.ledger.next_lease += 1;
        self.rows.put(Table::Leases, &codec::lease_key(id), &LeaseRow { ttl, records: 0 }.row())?;
        self.rows.put(Table::Meta, meta::NEXT_LEASE, &self.ledger.next_lease.to_le_bytes())?;
        Ok(id)
    }

    /// Ends a lease and deletes its records, in one transaction where there are any. Says whether there was such a lease.
    pub(crate) fn end_lease(&mut self, id: LeaseId) -> Result<bool> {
        if self.rows.remove(Table::Leases, &codec::lease_key(id))?.is_none() {
            return Ok(false);
        }
        let mut keys = Vec::new();
        self.rows.scan(Table::Leases, Bound::Excluded(&codec::lease_key(id)), &mut |row, _| {
            let (lease, key) = codec::read_lease_key(row)?;
            if lease != id {
                return Ok(ControlFlow::Break(()));
            }
            keys.push(codec::read_key(key)?);
            Ok(ControlFlow::Continue(()))
        })?;
        if keys.is_empty() {
            return Ok(true);
        }
        let mut before = Vec::with_capacity(keys.len());
        let mut changes = Vec::with_capacity(keys.len());
        for key in keys {
            let old = self.record(&key)?;
            let change = Change::Deleted(key.clone());
            self.write_record(&change, old.as_ref())?;
            changes.push(change);
            before.push((key, old));
        }
        self.write_log(changes, before)?;
        Ok(true)
    }

    /// Takes the oldest transactions out of a log that exceeds its bounds: down to fifteen sixteenths of them, so that it
    /// is not done at every commit, and at most [`TRIM_STEP`] at a time, so that a store opened with smaller bounds than
    /// before gets there in steps.
    pub(crate) fn trim(&mut self) -> Result<()> {
        let max_entries = self.config.log_entries.max(1) as u64;
        let entries = |ledger: &Ledger| ledger.revision + 1 - ledger.log_first;
        if entries(&self.ledger) <= max_entries && self.ledger.log_bytes <= self.config.log_bytes {
            return Ok(());
        }
        let target_entries = max_entries - max_entries / 16;
        let target_bytes = self.config.log_bytes - self.config.log_bytes / 16;
        for _ in 0..TRIM_STEP {
            let full = entries(&self.ledger) > target_entries || self.ledger.log_bytes > target_bytes;
            // The newest stays: the log's last key is the store's revision.
            if !full || self.ledger.log_first >= self.ledger.revision {
                break;
            }
            let first = self.ledger.log_first;
            let Some(bytes) = self.rows.remove(Table::Log, &codec::log_key(first))? else {
                return Err(corrupt("the change log has a gap").with_context("revision", first));
            };
            self.ledger.log_first += 1;
            self.ledger.log_bytes = self.ledger.log_bytes.saturating_sub(bytes as u64);
        }
        Ok(())
    }
}

/// The most transactions that leave the log at one commit.
pub(crate) const TRIM_STEP: usize = 1024;

/// The latest transaction in these rows.
pub(crate) fn revision(rows: &mut dyn Rows) -> Result<u64> {
    match (rows.last(Table::Log)?, rows.get(Table::Meta, meta::BASE)?) {
        (Some(key), _) => codec::read_log_key(&key),
        (None, Some(base)) => codec::read_number("base_revision", &base),
        (None, None) => Ok(0),
    }
}

/// The record at `key`.
pub(crate) fn record(rows: &mut (impl Rows + ?Sized), key: &Key) -> Result<Option<Record>> {
    match rows.get(Table::Records, key.as_str().as_bytes())? {
        Some(row) => codec::read_record(key.clone(), row).map(Some),
        None => Ok(None),
    }
}

/// Whether a condition holds for the record that was found at its key.
fn check_condition(condition: &Condition, found: Option<&Record>) -> Result<()> {
    match condition {
        Condition::Key(key, expect) => {
            let (holds, kind, expected) = match expect {
                Expect::Any => return Ok(()),
                Expect::Absent => (found.is_none(), ErrorKind::AlreadyExists, "no record".to_owned()),
                Expect::Present => (found.is_some(), ErrorKind::Stale, "a record".to_owned()),
                Expect::Revision(revision) => (
                    found.is_some_and(|record| record.modified == *revision),
                    ErrorKind::Stale,
                    format!("a record put by revision {revision}"),
                ),
            };
            if holds {
                return Ok(());
            }
            let found = match found {
                Some(record) => format!("one put by revision {}", record.modified),
                None => "none".to_owned(),
            };
            Err(Error::new(kind, format!("expected {expected}, found {found}")).with_context("key", key))
        }
        Condition::Fence(fence) => {
            if found.is_some_and(|record| record.created == fence.token) {
                return Ok(());
            }
            let holder = match found {
                Some(record) => format!("it was taken anew by revision {}", record.created),
                None => "nobody holds it".to_owned(),
            };
            Err(Error::new(
                ErrorKind::Stale,
                format!("the lock taken by revision {} is lost: {holder}", fence.token),
            )
            .with_context("lock", &fence.lock))
        }
    }
}
