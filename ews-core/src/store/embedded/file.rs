//! Files that appear whole or not at all: written under another name, synced, then given their name.
//!
//! A file that exists is never replaced. Where a crash interrupts the writing, a file that ends with `.tmp` stays behind and
//! may be deleted.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use super::backup::salt;
use crate::error::{Error, ErrorKind, Result, io_error};

/// A file that does not have its name yet. Dropping it removes it.
#[derive(Debug)]
pub(crate) struct NewFile {
    path: PathBuf,
    temporary: PathBuf,
}

impl NewFile {
    /// Creates the file beside `path`, readable by its owner only, and opens it.
    pub(crate) fn create(path: &Path) -> Result<(Self, File)> {
        let Some(name) = path.file_name() else {
            return Err(at(Error::invalid("the path does not name a file"), path));
        };
        let parent = parent(path);
        if !parent.is_dir() {
            let error =
                Error::new(ErrorKind::NotFound, "the folder for the file does not exist; create it first");
            return Err(at(error, path));
        }
        if path.exists() {
            return Err(taken(path));
        }
        let mut temporary = name.to_owned();
        temporary.push(format!(".{:016x}.tmp", salt()));
        let temporary = parent.join(temporary);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true);
        owner_only(&mut options);
        let file = options.open(&temporary);
        let file = file.map_err(|error| at(io_error("the file could not be created", error), path))?;
        Ok((Self { path: path.to_owned(), temporary }, file))
    }

    /// Makes the content durable and gives the file its name.
    pub(crate) fn publish(self) -> Result<()> {
        self.give_name().map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => taken(&self.path),
            _ => at(io_error("the file could not be given its name", error), &self.path),
        })
    }

    fn give_name(&self) -> io::Result<()> {
        File::options().read(true).write(true).open(&self.temporary)?.sync_all()?;
        // A link refuses where a rename would replace; the other name goes when this value is dropped.
        match fs::hard_link(&self.temporary, &self.path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err(error),
            // A file system without links. What appears at the path in this moment would be replaced.
            Err(_) if self.path.exists() => return Err(io::ErrorKind::AlreadyExists.into()),
            Err(_) => fs::rename(&self.temporary, &self.path)?,
        }
        sync_folder(&parent(&self.path))
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.temporary);
    }
}

/// Adds the path that an error is about.
pub(crate) fn at(error: Error, path: &Path) -> Error {
    error.with_context("path", path.display())
}

fn taken(path: &Path) -> Error {
    at(Error::new(ErrorKind::AlreadyExists, "a file of that name exists; name another or move it away"), path)
}

fn parent(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

#[cfg(unix)]
fn owner_only(options: &mut OpenOptions) {
    use std::os::unix::fs::OpenOptionsExt as _;
    options.mode(0o600);
}

/// Elsewhere the folder's access list is what protects the file.
#[cfg(not(unix))]
fn owner_only(_: &mut OpenOptions) {}

/// Makes the names in a folder durable.
#[cfg(unix)]
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// A folder can't be synced there; the file system's journal keeps the name.
#[cfg(not(unix))]
pub(crate) fn sync_folder(_: &Path) -> io::Result<()> {
    Ok(())
}
