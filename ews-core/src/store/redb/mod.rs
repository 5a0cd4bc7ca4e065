//! The store on disk: one file, one process at a time, on [redb](https://www.redb.org).
//!
//! - [`rows`] keeps the rows in redb's tables, and opens the database again after the disk failed.
//! - [`storage`] is the file underneath: its lock, and what its errors mean.
//! - [`format`](mod@format) says which version of the tables this is, and migrates older ones.

mod format;
mod rows;
mod storage;

#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod file_tests;

use std::path::{Path, PathBuf};

use tokio::io::AsyncRead;
use tokio::task::spawn_blocking;

use self::format::Formats;
use self::rows::RedbRows;
use self::storage::Storage;
use super::Record;
use super::embedded::backup::{self, BackupSummary, Sink};
use super::embedded::file::{NewFile, at};
use super::embedded::rows::{Backend as _, Ending};
use super::embedded::{Embedded, EmbeddedConfig};
use crate::error::{Error, ErrorKind, Result};

/// What bounds a [`RedbStore`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RedbConfig {
    /// The bounds that all embedded stores have.
    pub embedded: EmbeddedConfig,
    /// The most bytes of the file that are kept in memory. Default 32 MiB: records are small and few.
    pub cache_bytes: usize,
    /// Whether opening reads the whole file and checks each page. Default `true`: damage is found at the start, as an error.
    /// Without it a damaged file that was closed properly is found out later, or not at all. Turn it off where the file is so
    /// large that reading it delays a takeover.
    pub verify_on_open: bool,
}

impl Default for RedbConfig {
    fn default() -> Self {
        Self { embedded: EmbeddedConfig::default(), cache_bytes: 32 << 20, verify_on_open: true }
    }
}

impl RedbConfig {
    /// Sets [`embedded`](Self::embedded).
    #[must_use]
    pub fn with_embedded(mut self, embedded: EmbeddedConfig) -> Self {
        self.embedded = embedded;
        self
    }

    /// Sets [`cache_bytes`](Self::cache_bytes).
    #[must_use]
    pub fn with_cache_bytes(mut self, cache_bytes: usize) -> Self {
        self.cache_bytes = cache_bytes;
        self
    }

    /// Sets [`verify_on_open`](Self::verify_on_open).
    #[must_use]
    pub fn with_verify_on_open(mut self, verify_on_open: bool) -> Self {
        self.verify_on_open = verify_on_open;
        self
    }
}

/// A [`Store`](super::Store) in a file, for one process at a time.
///
/// An acknowledged transaction was synced to the disk. Transactions that wait at the same time share a sync. Calls are made
/// on a tokio runtime, whose blocking threads wait for the disk. [`close`] finishes what was queued and lets the file go.
/// Dropping the store does so too, though at a time of its own, and the thread that drops the last of it waits for the disk.
///
/// The file keeps the space that it once took; a backup restored into a new file is as small as its records.
///
/// # How it fails and recovers
/// redb writes copies and switches to them with checksums, so a crash, a torn or a lost write leaves the last commit that
/// was synced; an acknowledged transaction was. After an error of the disk, such as no space, the database is opened again
/// at the next call and goes on from the last commit. Only where *syncing* failed it stays closed: what the system then
/// keeps in memory may not be what is on the disk, and only an operator can tell.
///
/// ```
/// use ews_core::store::{Expect, Key, RedbConfig, RedbStore, StoreExt};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> ews_core::Result<()> {
/// # let folder = std::env::temp_dir().join(format!("ews-doc-{}", std::process::id()));
/// # std::fs::create_dir_all(&folder).unwrap();
/// let store = RedbStore::open(folder.join("state.redb"), RedbConfig::default()).await?;
/// store.put(&Key::new("service/web")?, "v1".into(), Expect::Absent).await?;
/// store.close().await?;
/// # std::fs::remove_dir_all(&folder).unwrap();
/// # Ok(())
/// # }
/// ```
///
/// [`close`]: Self::close
pub struct RedbStore {
    pub(super) embedded: Embedded<RedbRows>,
    path: PathBuf,
}

impl RedbStore {
    /// Opens the store in the file at `path`, and creates it, readable by its owner only, where there is none.
    ///
    /// A store of an older format is migrated in one transaction. Leases that lived when it was last open begin anew.
    ///
    /// # Errors
    /// All name the path. [`ErrorKind::Busy`] where another process, or another store of this one, has it open;
    /// [`ErrorKind::NotFound`] where the folder is missing; [`ErrorKind::Unauthorized`] where the file may not be written;
    /// [`ErrorKind::Corrupt`] where it is damaged, empty, not such a store, or of a newer format;
    /// [`ErrorKind::OutOfResources`] on a full disk.
    pub async fn open(path: impl AsRef<Path>, config: RedbConfig) -> Result<Self> {
        let path = path.as_ref().to_owned();
        let opened = spawn_blocking(move || open_file(&path, config, &format::CURRENT)).await;
        let store =
            opened.map_err(|error| Error::internal("opening the store panicked").with_source(error))?;
        let store = store.map_err(|error| error.with_operation("store.open"))?;
        store.embedded.start_sweeper();
        Ok(store)
    }

    /// Makes a new store at `path` of a [`backup`](Self::backup) of any embedded store, and opens it. Records keep their
    /// marks; the revision jumps, so that no fence and no watch position from before is mistaken for a new one.
    ///
    /// The file appears at `path` once everything is in it; after an error, or a crash, there is none.
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyExists`] where there is a file at `path`; [`ErrorKind::Corrupt`] for a stream that is damaged, cut
    /// off or of another format; [`ErrorKind::OutOfResources`] for a value beyond these limits or a full disk; the reader's;
    /// those of [`open`](Self::open).
    pub async fn restore(
        path: impl AsRef<Path>,
        backup: &mut (impl AsyncRead + Unpin + Send),
        config: RedbConfig,
    ) -> Result<(Self, BackupSummary)> {
        let path = path.as_ref();
        let summary = restore_file(path, backup, &config).await;
        let summary = summary.map_err(|error| at(error, path).with_operation("store.restore"))?;
        Ok((Self::open(path, config).await?, summary))
    }

    /// Where the store's file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Finishes what was queued, ends the watches and lets the file go, so that it can be opened again.
    ///
    /// # Errors
    /// What the disk says at the end; everything acknowledged is safe nevertheless.
    pub async fn close(self) -> Result<()> {
        let inner = self.embedded.inner().clone();
        drop(self);
        inner.drained().await;
        let closed = spawn_blocking(move || inner.backend().close()).await;
        closed.map_err(|error| Error::internal("closing the store panicked").with_source(error))?
    }
}

fn open_file(path: &Path, config: RedbConfig, formats: &Formats) -> Result<RedbStore> {
    if !path.exists() {
        match create(path, &config) {
            // Somebody else was faster; then it is there to be opened.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            created => created?,
        }
    }
    let storage = Storage::open(path).map_err(|error| at(error, path))?;
    let embedded = open_storage(storage, config, formats).map_err(|error| at(error, path))?;
    Ok(RedbStore { embedded, path: path.to_owned() })
}

fn open_storage(storage: Storage, config: RedbConfig, formats: &Formats) -> Result<Embedded<RedbRows>> {
    let rows = RedbRows::open(storage, config.cache_bytes, config.verify_on_open)?;
    format::migrate(&rows, formats)?;
    Embedded::new(rows, config.embedded)
}

/// Makes an empty store that appears whole.
fn create(path: &Path, config: &RedbConfig) -> Result<()> {
    let (new, file) = NewFile::create(path)?;
    let filled = Storage::new_file(file).and_then(|storage| {
        let rows = RedbRows::open(storage, config.cache_bytes, false)?;
        rows.write(&mut |rows| backup::begin(rows, format::CURRENT.version, 0).map(|()| Ending::Commit))?;
        rows.close()
    });
    filled.map_err(|error| at(error, path))?;
    new.publish()
}

async fn restore_file(
    path: &Path,
    backup: &mut (impl AsyncRead + Unpin + Send),
    config: &RedbConfig,
) -> Result<BackupSummary> {
    let (wanted, cache) = (path.to_owned(), config.cache_bytes);
    let lost = |error| Error::internal("the restored file was lost").with_source(error);
    let begun = spawn_blocking(move || {
        let (new, file) = NewFile::create(&wanted)?;
        let rows = RedbRows::open(Storage::new_file(file)?, cache, false)?;
        Ok::<_, Error>(RestoredFile { rows, waiting: Vec::new(), bytes: 0, new })
    });
    let sink = begun.await.map_err(lost)??;
    let (sink, summary) = backup::restore(backup, &config.embedded, sink).await?;
    spawn_blocking(move || {
        let RestoredFile { rows, new, .. } = sink;
        rows.close()?;
        drop(rows);
        new.publish()
    })
    .await
    .map_err(lost)??;
    Ok(summary)
}

/// A restore under way. Records are collected, so that there are fewer commits than frames.
struct RestoredFile {
    // Before the file's name, so that the file is closed when that is removed.
    rows: RedbRows,
    waiting: Vec<Record>,
    bytes: usize,
    new: NewFile,
}

const RESTORE_STEP: usize = 8 << 20;

impl RestoredFile {
    fn write(&mut self) -> Result<()> {
        let records = std::mem::take(&mut self.waiting);
        self.bytes = 0;
        self.rows.write(&mut |rows| backup::put_records(rows, &records).map(|()| Ending::Commit))
    }
}

impl Sink for RestoredFile {
    fn records(&mut self, records: Vec<Record>) -> Result<()> {
        self.bytes += records.iter().map(|r| 256 + r.key.as_str().len() + r.value.len()).sum::<usize>();
        self.waiting.extend(records);
        if self.bytes >= RESTORE_STEP { self.write() } else { Ok(()) }
    }

    fn finish(&mut self, base: u64) -> Result<()> {
        self.write()?;
        self.rows
            .write(&mut |rows| backup::begin(rows, format::CURRENT.version, base).map(|()| Ending::Commit))
    }
}
