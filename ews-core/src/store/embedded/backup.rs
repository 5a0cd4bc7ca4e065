//! The portable backup: one stream format for every embedded store.
//!
//! ```text
//! header   "EWSSTORE"  format u16  store id [16]  revision u64             then its check
//! frame    kind 1  length u32  records                                     then its check
//! …
//! end      kind 2  number of records u64  SHA-256 of everything before     and nothing after
//! ```
//! Numbers are little-endian. A check is the first 8 bytes of the SHA-256 of everything before it, so that a damaged stream
//! is refused where the damage is, before a damaged length can cost anything. A frame holds at most [`FRAME_BYTES`] besides
//! one record; a record is key length u16, key, created, modified, version (u64 each), value length u32, value; keys ascend.
//!
//! A record that lives by a lease is left out: its lease does not survive a restore. The checksum finds damage, not
//! forgery.

use std::ops::{Bound, ControlFlow};
use std::path::Path;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use hmac_sha256::Hash;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use super::codec::{self, corrupt, meta};
use super::file::{self, NewFile};
use super::rows::{Backend, Rows, RowsMut, Table};
use super::{Embedded, EmbeddedConfig, apply};
use crate::error::{Error, ErrorKind, Result, io_error};
use crate::store::{Key, Record, StoreRevision};

const MAGIC: &[u8; 8] = b"EWSSTORE";
/// The version of the stream; a reader refuses a newer one.
const FORMAT: u16 = 1;
/// Frames are closed when they reach this size.
const FRAME_BYTES: usize = 256 * 1024;
/// The longest frame that a reader accepts: one record more than a full frame, of the largest value that any store takes.
const FRAME_MAX: usize = FRAME_BYTES + (64 << 20);
const RECORDS: u8 = 1;
const END: u8 = 2;

/// What a backup holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct BackupSummary {
    /// The revision whose state it is.
    pub revision: StoreRevision,
    /// How many records it holds.
    pub records: u64,
    /// Its length.
    pub bytes: u64,
}

impl<B: Backend> Embedded<B> {
    /// Writes the state of now as a backup stream, while the store goes on.
    pub(crate) async fn backup(&self, out: &mut (impl AsyncWrite + Unpin + Send)) -> Result<BackupSummary> {
        let inner = self.inner().clone();
        // A snapshot on disk is read by a thread that may wait; two frames under way bound the memory.
        let (frames, mut written) = mpsc::channel(2);
        let writer = spawn_blocking(move || {
            let mut snapshot = inner.backend.snapshot()?;
            drop(inner);
            write_stream(&mut snapshot, &mut |bytes| {
                frames
                    .blocking_send(bytes)
                    .map_err(|_| Error::new(ErrorKind::Cancelled, "nobody takes the backup any more"))
            })
        });
        let failed = |error| io_error("the backup could not be written", error);
        while let Some(bytes) = written.recv().await {
            out.write_all(&bytes).await.map_err(failed)?;
        }
        out.flush().await.map_err(failed)?;
        writer.await.map_err(|error| Error::internal("the backup's reader ended").with_source(error))?
    }
}

impl<B: Backend> Embedded<B> {
    /// Writes a backup into a new file, which has its name only once it is whole and durable.
    pub(crate) async fn backup_to_file(&self, path: &Path) -> Result<BackupSummary> {
        let lost = |error| Error::internal("the backup's file was lost").with_source(error);
        let wanted = path.to_owned();
        let (new, file) = spawn_blocking(move || NewFile::create(&wanted)).await.map_err(lost)??;
        let mut file = tokio::fs::File::from_std(file);
        let summary = self.backup(&mut file).await.map_err(|error| file::at(error, path))?;
        drop(file);
        spawn_blocking(move || new.publish()).await.map_err(lost)??;
        Ok(summary)
    }
}

/// The bytes so far, and their digest.
struct Writer<'a> {
    out: &'a mut dyn FnMut(Bytes) -> Result<()>,
    hash: Hash,
    bytes: u64,
}

impl Writer<'_> {
    fn write(&mut self, bytes: Vec<u8>) -> Result<()> {
        self.hash.update(&bytes);
        self.bytes += bytes.len() as u64;
        (self.out)(bytes.into())
    }

    fn check(&mut self) -> Result<()> {
        let check = check(&self.hash);
        self.write(check.to_vec())
    }

    fn frame(&mut self, payload: &mut Vec<u8>) -> Result<()> {
        let mut frame = Vec::with_capacity(payload.len() + 5);
        if payload.len() > FRAME_MAX {
            let max = FRAME_MAX - FRAME_BYTES;
            return Err(Error::new(
                ErrorKind::OutOfResources,
                format!("a backup holds no value of more than {max} bytes"),
            ));
        }
        frame.put_u8(RECORDS);
        frame.put_u32_le(length(payload.len())?);
        frame.append(payload);
        self.write(frame)?;
        self.check()
    }
}

fn length(bytes: usize) -> Result<u32> {
    u32::try_from(bytes).map_err(|_| Error::internal("a record of more than 4 GiB"))
}

fn check(hash: &Hash) -> [u8; 8] {
    let digest = (*hash).finalize();
    let mut check = [0; 8];
    check.copy_from_slice(digest.first_chunk::<8>().unwrap_or(&[0; 8]));
    check
}

fn write_stream(rows: &mut dyn Rows, out: &mut dyn FnMut(Bytes) -> Result<()>) -> Result<BackupSummary> {
    let revision = apply::revision(rows)?;
    let store_id = rows.get(Table::Meta, meta::STORE_ID)?.unwrap_or_else(|| Bytes::from_static(&[0; 16]));
    let mut writer = Writer { out, hash: Hash::new(), bytes: 0 };
    let mut header = Vec::with_capacity(64);
    header.extend_from_slice(MAGIC);
    header.put_u16_le(FORMAT);
    header.extend_from_slice(&store_id);
    header.put_u64_le(revision);
    writer.write(header)?;
    writer.check()?;
    let (mut payload, mut records) = (Vec::with_capacity(FRAME_BYTES), 0);
    rows.scan(Table::Records, Bound::Unbounded, &mut |key, row| {
        let record = codec::read_record(codec::read_key(key)?, row)?;
        if record.lease.is_some() {
            return Ok(ControlFlow::Continue(()));
        }
        put_record(&record, &mut payload)?;
        records += 1;
        if payload.len() >= FRAME_BYTES {
            writer.frame(&mut payload)?;
        }
        Ok(ControlFlow::Continue(()))
    })?;
    if !payload.is_empty() {
        writer.frame(&mut payload)?;
    }
    let mut end = vec![END];
    end.put_u64_le(records);
    writer.write(end)?;
    let digest = writer.hash.finalize();
    writer.write(digest.to_vec())?;
    Ok(BackupSummary { revision: StoreRevision(revision), records, bytes: writer.bytes })
}

fn put_record(record: &Record, payload: &mut Vec<u8>) -> Result<()> {
    payload.put_u16_le(u16::try_from(record.key.as_str().len()).unwrap_or(u16::MAX));
    payload.extend_from_slice(record.key.as_str().as_bytes());
    payload.put_u64_le(record.created.0);
    payload.put_u64_le(record.modified.0);
    payload.put_u64_le(record.version);
    payload.put_u32_le(length(record.value.len())?);
    payload.extend_from_slice(&record.value);
    Ok(())
}

/// The revision that a restored store starts from, so that no fencing token and no watch position of the store's other
/// lives can be mistaken for one of this life.
///
/// That is the wall clock in microseconds (no store commits a million transactions in each second of its life, so none
/// has come that far), at least 2³² beyond the backup in case the clock is wrong, plus up to 2³² of `salt`, in case two
/// restores of one backup share even that. All of it stays below 2⁵³, which JSON's readers keep exactly.
pub(crate) fn restored_revision(backup: u64, now_micros: u64, salt: u64) -> u64 {
    let floor = backup.saturating_add(1 << 32).max(now_micros);
    floor.saturating_add(salt & 0xffff_ffff)
}

/// A number that differs at each call and in each process.
pub(crate) fn salt() -> u64 {
    use std::hash::{BuildHasher as _, Hasher as _, RandomState};
    RandomState::new().build_hasher().finish()
}

/// Writes the meta rows of a store that begins.
pub(crate) fn begin(rows: &mut dyn RowsMut, format: u64, base: u64) -> Result<()> {
    let id = [salt().to_le_bytes(), salt().to_le_bytes()].concat();
    rows.put(Table::Meta, meta::STORE_ID, &id)?;
    rows.put(Table::Meta, meta::BASE, &base.to_le_bytes())?;
    rows.put(Table::Meta, meta::FORMAT, &format.to_le_bytes())
}

/// Where a restore writes: an empty place that nobody else sees until the restore is over.
pub(crate) trait Sink: Send + 'static {
    /// Takes the next records.
    fn records(&mut self, records: Vec<Record>) -> Result<()>;
    /// Everything was there and intact; the store starts from this revision.
    fn finish(&mut self, base: u64) -> Result<()>;
}

/// Reads a whole backup into a sink and returns both. Nothing counts until [`Sink::finish`] was called.
pub(crate) async fn restore<S: Sink>(
    input: &mut (impl AsyncRead + Unpin + Send),
    config: &EmbeddedConfig,
    mut sink: S,
) -> Result<(S, BackupSummary)> {
    let (records, mut taken) = mpsc::channel::<Vec<Record>>(2);
    let filled = spawn_blocking(move || {
        while let Some(records) = taken.blocking_recv() {
            sink.records(records)?;
        }
        Ok::<_, Error>(sink)
    });
    let read = read_stream(input, config, &records).await;
    drop(records);
    let filled =
        filled.await.map_err(|error| Error::internal("the restore's writer ended").with_source(error))?;
    // A sink that failed made the reader fail too; its error is the one that says why.
    let mut sink = filled?;
    let summary = read?;
    let now = crate::time::Timestamp::from(std::time::SystemTime::now()).as_micros();
    let base = restored_revision(summary.revision.0, now, salt());
    spawn_blocking(move || sink.finish(base).map(|()| (sink, summary)))
        .await
        .map_err(|error| Error::internal("the restore's writer ended").with_source(error))?
}

struct Reader<'a, R> {
    input: &'a mut R,
    hash: Hash,
    bytes: u64,
}

impl<R: AsyncRead + Unpin + Send> Reader<'_, R> {
    /// The next bytes of the stream; they grow as they arrive, so that a length alone reserves nothing.
    async fn take(&mut self, length: usize) -> Result<Bytes> {
        let mut bytes = BytesMut::new();
        let mut rest = (&mut *self.input).take(length as u64);
        while bytes.len() < length {
            let read = rest
                .read_buf(&mut bytes)
                .await
                .map_err(|error| io_error("the backup could not be read", error))?;
            if read == 0 {
                return Err(
                    corrupt("the backup is cut off").with_context("offset", self.bytes + bytes.len() as u64)
                );
            }
        }
        self.bytes += bytes.len() as u64;
        Ok(bytes.freeze())
    }

    async fn hashed(&mut self, length: usize) -> Result<Bytes> {
        let bytes = self.take(length).await?;
        self.hash.update(&bytes);
        Ok(bytes)
    }

    async fn check(&mut self) -> Result<()> {
        let expected = check(&self.hash);
        let at = self.bytes;
        if *self.hashed(8).await? != expected {
            return Err(
                corrupt("the backup is damaged: a checksum does not match").with_context("offset", at)
            );
        }
        Ok(())
    }
}

async fn read_stream(
    input: &mut (impl AsyncRead + Unpin + Send),
    config: &EmbeddedConfig,
    records: &mpsc::Sender<Vec<Record>>,
) -> Result<BackupSummary> {
    let mut reader = Reader { input, hash: Hash::new(), bytes: 0 };
    let mut header = reader.hashed(34).await?;
    if header.split_to(8) != MAGIC[..] {
        return Err(corrupt("this is not a backup of a store"));
    }
    let format = header.get_u16_le();
    if format != FORMAT {
        return Err(corrupt(format!(
            "the backup has the format {format}; this version of EWS reads the format {FORMAT}"
        )));
    }
    header.advance(16);
    let revision = header.get_u64_le();
    reader.check().await?;
    let mut read = ReadRecords { last: None, count: 0, revision, value_bytes: config.limits.value_bytes };
    loop {
        match reader.hashed(1).await?.get_u8() {
            RECORDS => {
                let length = reader.hashed(4).await?.get_u32_le() as usize;
                if length > FRAME_MAX {
                    return Err(corrupt("the backup is damaged: a frame is longer than any"));
                }
                let payload = reader.hashed(length).await?;
                reader.check().await?;
                let batch = read.records(payload)?;
                if records.send(batch).await.is_err() {
                    return Err(Error::new(ErrorKind::Cancelled, "nobody takes the records any more"));
                }
            }
            END => break,
            _ => return Err(corrupt("the backup is damaged: a frame is of no known kind")),
        }
    }
    let count = reader.hashed(8).await?.get_u64_le();
    let expected = reader.hash.finalize();
    if *reader.take(32).await? != expected {
        return Err(corrupt("the backup is damaged: its checksum does not match"));
    }
    if count != read.count {
        return Err(corrupt(format!("the backup says {count} records and holds {}", read.count)));
    }
    let mut beyond = [0];
    let beyond = reader
        .input
        .read(&mut beyond)
        .await
        .map_err(|error| io_error("the backup could not be read", error))?;
    if beyond != 0 {
        return Err(corrupt("the backup goes on after its end"));
    }
    Ok(BackupSummary { revision: StoreRevision(revision), records: count, bytes: reader.bytes })
}

/// What must hold from record to record.
struct ReadRecords {
    last: Option<Key>,
    count: u64,
    revision: u64,
    value_bytes: usize,
}

impl ReadRecords {
    fn records(&mut self, mut payload: Bytes) -> Result<Vec<Record>> {
        let mut records = Vec::new();
        while payload.has_remaining() {
            let record = read_record(&mut payload)?;
            if self.last.as_ref().is_some_and(|last| *last >= record.key) {
                return Err(corrupt("the backup's keys do not ascend").with_context("key", record.key));
            }
            if record.modified.0 > self.revision || record.created > record.modified || record.version == 0 {
                return Err(
                    corrupt("a record of the backup contradicts itself").with_context("key", record.key)
                );
            }
            if record.value.len() > self.value_bytes {
                let message = format!(
                    "a value of {} bytes; this store accepts at most {}",
                    record.value.len(),
                    self.value_bytes
                );
                return Err(Error::new(ErrorKind::OutOfResources, message).with_context("key", record.key));
            }
            self.last = Some(record.key.clone());
            self.count += 1;
            records.push(record);
        }
        Ok(records)
    }
}

fn read_record(payload: &mut Bytes) -> Result<Record> {
    let cut = || corrupt("a record of the backup is cut off");
    let length = usize::from(payload.try_get_u16_le().map_err(|_| cut())?);
    if payload.len() < length + 28 {
        return Err(cut());
    }
    let key = codec::read_key(&payload.split_to(length))?;
    let (created, modified, version) = (payload.get_u64_le(), payload.get_u64_le(), payload.get_u64_le());
    let length = payload.get_u32_le() as usize;
    if payload.len() < length {
        return Err(cut());
    }
    let (created, modified) = (StoreRevision(created), StoreRevision(modified));
    Ok(Record { key, value: payload.split_to(length), created, modified, version, lease: None })
}

/// Puts restored records into rows.
pub(crate) fn put_records(rows: &mut dyn RowsMut, records: &[Record]) -> Result<()> {
    for record in records {
        rows.put(Table::Records, record.key.as_str().as_bytes(), &codec::record_row(record))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restored_store_starts_beyond_every_other_life() {
        let year = 365 * 86_400 * 1_000_000_u64;
        let now = 56 * year;
        assert_eq!(restored_revision(5_000, now, 7), now + 7, "the clock is far ahead of any count");
        assert_eq!(restored_revision(5_000, 0, 7), 5_000 + (1 << 32) + 7, "a clock that stands at its epoch");
        let again = restored_revision(now + 10, now + 20, 0);
        assert!(again >= now + 10 + (1 << 32), "a backup of a store that was restored just now");
        assert!(restored_revision(now, now, u64::MAX) < 1 << 53);
        assert_eq!(restored_revision(u64::MAX, 0, 5), u64::MAX);
    }
}
