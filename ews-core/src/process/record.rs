//! What the runtime keeps on disk of an instance, in files that appear whole or not at all.
//!
//! | File | Written by | When |
//! |---|---|---|
//! | `instance.json` | controller | once, when it is created; synced |
//! | `run.json` | shim | when its program was started |
//! | `end.json` | shim, or a controller that found it dead | when the program has ended or could not be started; synced |
//! | `run.lock` | | locked for as long as a shim lives or is being started, one that waits for its first start included |
//!
//! A restart of the machine ends every program, so `run.json` need not survive a loss of power: the boot that it names is over.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result, io_error};
use crate::id::PortName;
use crate::instance::{ExitStatus, Failure, Incarnation, InstanceKey};
use crate::spec::InstanceSpec;
use crate::spec::source::Digest;
use crate::store::embedded::file::sync_folder;
use crate::time::Timestamp;

/// The layout of a root directory, raised when it changes so that an older program can't read it.
pub(super) const FORMAT: u32 = 1;

/// The largest file of records that is read: a spec is at most a few hundred KiB.
const MOST: u64 = 16 << 20;

/// An instance as it was created.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct InstanceRecord {
    pub(super) key: InstanceKey,
    pub(super) spec: InstanceSpec,
    pub(super) spec_hash: Digest,
    /// The numbers of its ports, allotted ones included.
    pub(super) ports: BTreeMap<PortName, u16>,
    /// The program, where the artifact is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) program: Option<String>,
    pub(super) created_at: Timestamp,
    pub(super) boot: String,
}

/// A start that took place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RunRecord {
    pub(super) incarnation: Incarnation,
    pub(super) started_at: Timestamp,
    pub(super) boot: String,
    pub(super) shim: ProcessId,
    pub(super) program: ProcessId,
}

/// The last end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct EndRecord {
    /// Which start ended; for a failure, the one before it that took place.
    pub(super) incarnation: Incarnation,
    pub(super) end: End,
}

/// How a start ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum End {
    /// The program ran and ended.
    Exited(ExitStatus),
    /// The program could not be started.
    Failed(Failure),
}

/// A process for certain: a number is given again, a number with the moment of its start is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ProcessId {
    pub(super) pid: u32,
    /// When it was started, in the system's own unit: clock ticks since the boot on Linux, 100 ns since 1601 on Windows.
    pub(super) start: u64,
}

/// Reads a record; `None` where there is none.
pub(super) fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(at(io_error("a record could not be opened", error), path)),
    };
    let mut text = Vec::new();
    let read = file.take(MOST).read_to_end(&mut text);
    read.map_err(|error| at(io_error("a record could not be read", error), path))?;
    serde_json::from_slice(&text).map(Some).map_err(|error| {
        let wrong = Error::new(ErrorKind::Corrupt, "a record of the process runtime can't be read");
        at(wrong.with_detail(error.to_string()), path)
    })
}

/// Whether a record must outlive a loss of power.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Durable {
    /// It is synced, and so is its name.
    Synced,
    /// It outlives this process and no more.
    Process,
}

/// Writes a record in one step: a reader sees the old one or the new one.
pub(super) fn write<T: Serialize>(path: &Path, record: &T, durable: Durable) -> Result<()> {
    write_file(path, record, durable)
        .map_err(|error| at(io_error("a record could not be written", error), path))
}

/// Writes a record into a directory that has not got its own name yet. The directory will appear whole, so the record need not do
/// so by itself: without a rename between them, the second sync finds nothing that the first has not written.
pub(super) fn write_hidden<T: Serialize>(path: &Path, record: &T) -> Result<()> {
    let written = || {
        let text = serde_json::to_vec(record)?;
        let mut options = owners_only();
        let mut file = options.create_new(true).open(path)?;
        file.write_all(&text)?;
        file.sync_data()?;
        path.parent().map_or(Ok(()), sync_folder)
    };
    written().map_err(|error| at(io_error("a record could not be written", error), path))
}

/// The same as [`write`], for who has no use for our errors.
pub(super) fn write_file<T: Serialize>(path: &Path, record: &T, durable: Durable) -> io::Result<()> {
    let text = serde_json::to_vec(record)?;
    let temporary = path.with_extension("tmp");
    let mut options = owners_only();
    let mut file = options.create(true).truncate(true).open(&temporary)?;
    file.write_all(&text)?;
    if durable == Durable::Synced {
        file.sync_data()?;
    }
    drop(file);
    fs::rename(&temporary, path)?;
    match (durable, path.parent()) {
        (Durable::Synced, Some(parent)) => sync_folder(parent),
        _ => Ok(()),
    }
}

/// For writing what nobody else may read.
fn owners_only() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;
        options.mode(0o600);
    }
    options
}

/// Adds the path that an error is about.
pub(super) fn at(error: Error, path: &Path) -> Error {
    error.with_context("path", path.display())
}
