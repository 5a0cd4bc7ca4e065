//! How rows are written: fixed-width numbers in little-endian order, keys that sort in big-endian order.
//!
//! | Table | Key | Value |
//! |---|---|---|
//! | records | the key's text | created, modified, version, lease (0 = none), each u64, then the value |
//! | log | revision, u64 big-endian | count u32, then per change: tag u8, key length u16, key, and for a put: length u32, record row |
//! | leases | lease, u64 big-endian | time to live in nanoseconds u64, number of records u32 |
//! | leases | lease, then the record's key | nothing |
//! | meta | a name | the number or id of that name |
//!
//! What can't be read is [`ErrorKind::Corrupt`] and names the row; nothing here panics, whatever a file holds.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};

use crate::error::{Error, ErrorKind, Result};
use crate::store::{Change, Key, LeaseId, Record, StoreRevision};
use crate::time::Shown;

/// How many bytes of a record row come before the value.
const RECORD_HEADER: usize = 32;

pub(crate) fn record_row(record: &Record) -> Vec<u8> {
    let mut row = Vec::with_capacity(RECORD_HEADER + record.value.len());
    put_record(record, &mut row);
    row
}

fn put_record(record: &Record, row: &mut Vec<u8>) {
    row.put_u64_le(record.created.0);
    row.put_u64_le(record.modified.0);
    row.put_u64_le(record.version);
    row.put_u64_le(record.lease.map_or(0, |lease| lease.0));
    row.extend_from_slice(&record.value);
}

pub(crate) fn read_record(key: Key, mut row: Bytes) -> Result<Record> {
    if row.len() < RECORD_HEADER {
        return Err(corrupt("a record's row is too short").with_context("key", key));
    }
    let (created, modified) = (row.get_u64_le(), row.get_u64_le());
    let (version, lease) = (row.get_u64_le(), row.get_u64_le());
    Ok(Record {
        key,
        value: row,
        created: StoreRevision(created),
        modified: StoreRevision(modified),
        version,
        lease: (lease != 0).then_some(LeaseId(lease)),
    })
}

pub(crate) fn read_key(bytes: &[u8]) -> Result<Key> {
    let text = std::str::from_utf8(bytes).map_err(|_| corrupt("a record's key is not UTF-8"))?;
    Key::new(text).map_err(|error| {
        corrupt("a record's key is not a valid key").with_context("key", Shown(text)).with_source(error)
    })
}

const TAG_PUT: u8 = 1;
const TAG_DELETED: u8 = 2;

pub(crate) fn log_row(changes: &[Change]) -> Vec<u8> {
    let mut row = Vec::with_capacity(4 + changes.iter().map(change_bytes).sum::<usize>());
    row.put_u32_le(u32::try_from(changes.len()).unwrap_or(u32::MAX));
    for change in changes {
        match change {
            Change::Put(record) => {
                row.put_u8(TAG_PUT);
                put_key(&record.key, &mut row);
                row.put_u32_le(u32::try_from(RECORD_HEADER + record.value.len()).unwrap_or(u32::MAX));
                put_record(record, &mut row);
            }
            Change::Deleted(key) => {
                row.put_u8(TAG_DELETED);
                put_key(key, &mut row);
            }
        }
    }
    row
}

fn put_key(key: &Key, row: &mut Vec<u8>) {
    row.put_u16_le(u16::try_from(key.as_str().len()).unwrap_or(u16::MAX));
    row.extend_from_slice(key.as_str().as_bytes());
}

/// How many bytes a change takes in a log row, and about what it takes in memory.
pub(crate) fn change_bytes(change: &Change) -> usize {
    match change {
        Change::Put(record) => 7 + record.key.as_str().len() + RECORD_HEADER + record.value.len(),
        Change::Deleted(key) => 3 + key.as_str().len(),
    }
}

pub(crate) fn read_log_row(revision: u64, row: Bytes) -> Result<Arc<[Change]>> {
    read_changes(row).map_err(|error| error.with_context("revision", revision))
}

fn read_changes(mut row: Bytes) -> Result<Arc<[Change]>> {
    let cut = |_| corrupt("a row of the change log is too short");
    let count = row.try_get_u32_le().map_err(cut)?;
    // The count is not trusted with an allocation: each change takes more than three bytes of the row.
    let mut changes = Vec::with_capacity((count as usize).min(row.len() / 3 + 1));
    for _ in 0..count {
        let tag = row.try_get_u8().map_err(cut)?;
        let length = row.try_get_u16_le().map_err(cut)?;
        let key = read_key(&take(&mut row, usize::from(length))?)?;
        changes.push(match tag {
            TAG_PUT => {
                let length = row.try_get_u32_le().map_err(cut)?;
                Change::Put(read_record(key, take(&mut row, length as usize)?)?)
            }
            TAG_DELETED => Change::Deleted(key),
            _ => return Err(corrupt(format!("a row of the change log has the unknown tag {tag}"))),
        });
    }
    if row.is_empty() { Ok(changes.into()) } else { Err(corrupt("a row of the change log is too long")) }
}

fn take(row: &mut Bytes, length: usize) -> Result<Bytes> {
    if row.len() < length {
        return Err(corrupt("a row of the change log is too short"));
    }
    Ok(row.split_to(length))
}

/// The key of a log row.
pub(crate) fn log_key(revision: u64) -> [u8; 8] {
    revision.to_be_bytes()
}

pub(crate) fn read_log_key(key: &[u8]) -> Result<u64> {
    key.try_into().map(u64::from_be_bytes).map_err(|_| corrupt("a key of the change log is not 8 bytes long"))
}

/// A lease as its row keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LeaseRow {
    pub(crate) ttl: Duration,
    pub(crate) records: u32,
}

pub(crate) fn lease_key(lease: LeaseId) -> [u8; 8] {
    lease.0.to_be_bytes()
}

pub(crate) fn lease_record_key(lease: LeaseId, key: &Key) -> Vec<u8> {
    [&lease_key(lease), key.as_str().as_bytes()].concat()
}

/// Splits a key of the leases table into the lease and, for a lease's record, that record's key.
pub(crate) fn read_lease_key(key: &[u8]) -> Result<(LeaseId, &[u8])> {
    let (lease, rest) =
        key.split_first_chunk::<8>().ok_or_else(|| corrupt("a key of the lease table is too short"))?;
    Ok((LeaseId(u64::from_be_bytes(*lease)), rest))
}

impl LeaseRow {
    pub(crate) fn row(&self) -> [u8; 12] {
        let mut row = [0; 12];
        let (ttl, records) = row.split_at_mut(8);
        ttl.copy_from_slice(&u64::try_from(self.ttl.as_nanos()).unwrap_or(u64::MAX).to_le_bytes());
        records.copy_from_slice(&self.records.to_le_bytes());
        row
    }

    pub(crate) fn read(mut row: Bytes) -> Result<Self> {
        if row.len() != 12 {
            return Err(corrupt("a lease's row is not 12 bytes long"));
        }
        Ok(Self { ttl: Duration::from_nanos(row.get_u64_le()), records: row.get_u32_le() })
    }
}

/// The names of the meta table.
pub(crate) mod meta {
    /// The format version, u64. It never changes its place or width.
    pub(crate) const FORMAT: &[u8] = b"format";
    /// 16 bytes that tell one store from another.
    pub(crate) const STORE_ID: &[u8] = b"store_id";
    /// The revision of the store while its log is empty, u64.
    pub(crate) const BASE: &[u8] = b"base_revision";
    /// The next lease's number, u64.
    pub(crate) const NEXT_LEASE: &[u8] = b"next_lease";
}

pub(crate) fn read_number(name: &'static str, row: &[u8]) -> Result<u64> {
    row.try_into().map(u64::from_le_bytes).map_err(|_| {
        corrupt("a number in the store's meta table is not 8 bytes long").with_context("name", name)
    })
}

pub(crate) fn corrupt(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::Corrupt, message)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record(key: &str, value: Vec<u8>, lease: u64) -> Record {
        Record {
            key: Key::new(key).unwrap(),
            value: value.into(),
            created: StoreRevision(3),
            modified: StoreRevision(u64::MAX),
            version: 7,
            lease: (lease != 0).then_some(LeaseId(lease)),
        }
    }

    proptest! {
        #[test]
        fn a_log_row_reads_back_and_no_damage_panics(
            value in proptest::collection::vec(any::<u8>(), 0..40),
            lease in 0..3_u64,
            at in any::<prop::sample::Index>(),
            byte in any::<u8>(),
        ) {
            let changes = [
                Change::Put(record("a/b", value.clone(), lease)),
                Change::Deleted(Key::new("中").unwrap()),
                Change::Put(record("z", Vec::new(), 0)),
            ];
            let row = log_row(&changes);
            prop_assert_eq!(row.len(), 4 + changes.iter().map(change_bytes).sum::<usize>());
            prop_assert_eq!(&*read_log_row(1, row.clone().into()).unwrap(), &changes[..]);
            let mut damaged = row.clone();
            let index = at.index(damaged.len());
            damaged[index] = byte;
            let _ = read_log_row(1, damaged.into());
            let cut = read_log_row(1, Bytes::from(row).slice(..index));
            prop_assert_eq!(cut.unwrap_err().kind(), ErrorKind::Corrupt);
        }

        #[test]
        fn garbage_is_an_error_and_never_a_panic(row in proptest::collection::vec(any::<u8>(), 0..64)) {
            let row = Bytes::from(row);
            let _ = read_log_row(1, row.clone());
            let _ = LeaseRow::read(row.clone());
            let _ = read_lease_key(&row);
            let _ = read_key(&row);
            let short = read_record(Key::new("k").unwrap(), row.clone());
            prop_assert_eq!(short.is_err(), row.len() < RECORD_HEADER);
        }
    }
}
