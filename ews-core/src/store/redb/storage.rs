//! The file under the database: locked for as long as the store lives, also while the database is opened again.
//!
//! redb locks the file itself, but lets go when a database is closed; a store that recovers from a full disk must not lose
//! its file to another process in that moment. So the lock is taken here and redb's own is left out.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use redb::StorageBackend;
use redb::backends::FileBackend;

use super::super::embedded::codec::corrupt;
use crate::error::{Error, ErrorKind, Result, io_error};

/// Where a database's bytes are.
#[derive(Debug)]
pub(super) struct Storage {
    medium: Box<dyn StorageBackend>,
    /// Holds the lock; absent in tests on other media.
    file: Option<File>,
    sync_failed: AtomicBool,
}

impl Storage {
    /// Opens and locks an existing file.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let metadata =
            std::fs::metadata(path).map_err(|error| io_error("the store's file can't be read", error))?;
        if !metadata.is_file() {
            return Err(Error::invalid("the path is not a regular file; name the store's file"));
        }
        if metadata.permissions().readonly() {
            return Err(Error::new(
                ErrorKind::Unauthorized,
                "the store's file is read-only; make it writable",
            ));
        }
        let file = OpenOptions::new().read(true).write(true).open(path);
        let file = file.map_err(|error| io_error("the store's file can't be opened for writing", error))?;
        let storage = Self::locked(file)?;
        if storage.medium.len().map_err(|error| io_error("the store's file can't be read", error))? == 0 {
            return Err(corrupt(
                "the store's file is empty, which no store leaves behind; restore a backup, or remove the file to begin \
                 anew",
            ));
        }
        Ok(storage)
    }

    /// Locks a file that was just created.
    pub(super) fn new_file(file: File) -> Result<Self> {
        Self::locked(file)
    }

    fn locked(file: File) -> Result<Self> {
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Error::new(
                    ErrorKind::Busy,
                    "the store is open in another process, or by another store of this process; one at a time may have \
                     it open",
                ));
            }
            Err(TryLockError::Error(error)) => {
                return Err(io_error("the store's file can't be locked", error));
            }
        }
        match Self::medium_of(&file) {
            Ok(medium) => {
                Ok(Self { medium: Box::new(medium), file: Some(file), sync_failed: AtomicBool::new(false) })
            }
            Err(error) => {
                let _ = file.unlock();
                Err(error)
            }
        }
    }

    fn medium_of(file: &File) -> Result<FileBackend> {
        let medium =
            file.try_clone().map_err(|error| io_error("the store's file can't be opened twice", error))?;
        FileBackend::new(medium).map_err(|error| {
            Error::new(ErrorKind::Unavailable, "the store's file can't be used").with_source(error)
        })
    }

    /// Another medium, for tests that make it fail.
    #[cfg(test)]
    pub(super) fn on(medium: impl StorageBackend) -> Self {
        Self { medium: Box::new(medium), file: None, sync_failed: AtomicBool::new(false) }
    }

    /// Whether a sync ever failed, so that nobody knows what is on the disk.
    pub(super) fn sync_failed(&self) -> bool {
        self.sync_failed.load(Ordering::Acquire)
    }

    /// Lets others open the file. Nothing is written after this.
    pub(super) fn unlock(&self) {
        if let Some(file) = &self.file {
            // It would be let go when the file is closed; this waits neither for the last reader nor for a child that was
            // forked meanwhile and has the file open until it runs its program. Unlocked twice, nothing happens.
            let _ = file.unlock();
        }
    }
}

/// Also where opening failed, and nobody came to close it.
impl Drop for Storage {
    fn drop(&mut self) {
        self.unlock();
    }
}

/// The medium as a database uses it. Closing a database leaves the medium open, and its lock held. The lock methods keep
/// their defaults: redb takes no lock.
#[derive(Debug)]
pub(super) struct Medium(pub(super) Arc<Storage>);

impl StorageBackend for Medium {
    fn len(&self) -> io::Result<u64> {
        self.0.medium.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.medium.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.medium.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.medium.sync_data().inspect_err(|_| self.0.sync_failed.store(true, Ordering::Release))
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.medium.write(offset, data)
    }
}
