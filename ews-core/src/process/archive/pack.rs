//! A file or a directory into a tar archive.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use cap_std::fs::{Dir, Metadata};
use tar::{Builder, EntryType, Header};

use super::names::Inside;
use super::{Limits, beneath, fault};
use crate::error::{Error, ErrorKind, Result};

/// Packs a file or a directory into a tar archive, as `docker cp` does: names start with the path's last component; those
/// of the work directory itself with what lies in it. Links are packed as links; sockets, devices and pipes are left out.
///
/// Names come in order, so that the same files give the same archive. A file that changes meanwhile has the size that it had
/// when it was opened: cut, or filled with zeros. What vanishes meanwhile is left out.
///
/// # Errors
/// `NotFound` for the path; `Invalid` for one that leads out of the directory.
#[cfg(test)]
pub(crate) fn pack(from: &Dir, path: &str, out: impl Write) -> Result<()> {
    Target::find(from, &Inside::from_path(path, &Limits::default())?)?.pack(out)
}

/// What is to be packed, found and not yet read.
pub(super) struct Target {
    place: Inside,
    /// The directory that it lies in, and its name there; the work directory itself has none.
    parent: Dir,
    name: Option<OsString>,
}

impl Target {
    /// Finds what a path of the instance means. Links on the way to it are followed within the directory.
    ///
    /// # Errors
    /// As [`pack`].
    pub(super) fn find(root: &Dir, place: &Inside) -> Result<Self> {
        let open = |error| missing(place, error);
        let mut parent = root.try_clone().map_err(open)?;
        let Some((name, parents)) = place.split() else {
            return Ok(Self { place: place.clone(), parent, name: None });
        };
        if !parents.is_empty() {
            parent = parent.open_dir(parents.iter().collect::<PathBuf>()).map_err(open)?;
        }
        parent.symlink_metadata(name).map_err(open)?;
        Ok(Self { place: place.clone(), parent, name: Some(name.clone()) })
    }

    /// Packs it.
    ///
    /// # Errors
    /// As [`pack`].
    pub(super) fn pack(self, out: impl Write) -> Result<()> {
        let limits = Limits::default();
        let mut packing = Packing { archive: Builder::new(out), limits: &limits, entries: limits.entries };
        match &self.name {
            None => packing.listing(&self.parent, &Inside::default())?,
            Some(name) => {
                let top = Inside::default().join(name.clone(), &limits)?;
                packing.named(&self.parent, name, &top)?;
            }
        }
        packing.archive.into_inner().map(drop).map_err(|error| fault::file("packed", &self.place, error))
    }
}

/// A path of the instance that leads nowhere.
fn missing(place: &Inside, error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
            Error::not_found("file or directory", place)
        }
        _ => fault::file("opened", place, error),
    }
}

struct Packing<'a, W: Write> {
    archive: Builder<W>,
    limits: &'a Limits,
    /// How many more entries there may be: names of a directory are held in memory to be sorted.
    entries: u64,
}

impl<W: Write> Packing<'_, W> {
    /// What lies in a directory, in the order of its names.
    fn listing(&mut self, directory: &Dir, place: &Inside) -> Result<()> {
        let listed = |error| fault::file("listed", place, error);
        let mut names = Vec::new();
        for entry in directory.entries().map_err(listed)? {
            self.entries = self.entries.checked_sub(1).ok_or_else(|| {
                Error::new(
                    ErrorKind::OutOfResources,
                    format!(
                        "with `{place}` there are more than {} files, the limit of an archive",
                        self.limits.entries
                    ),
                )
            })?;
            names.push(entry.map_err(listed)?.file_name());
        }
        names.sort_unstable();
        for name in names {
            let place = place.join(name.clone(), self.limits)?;
            self.named(directory, &name, &place)?;
        }
        Ok(())
    }

    /// One name and what lies below it. What it is may change between our look and our open; then it is left out.
    fn named(&mut self, parent: &Dir, name: &OsStr, place: &Inside) -> Result<()> {
        let packed = |error| fault::file("packed", place, error);
        let gone = |error: &io::Error| {
            matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::InvalidInput
            )
        };
        let found = match parent.symlink_metadata(name) {
            Err(error) if gone(&error) => return Ok(()),
            found => found.map_err(packed)?,
        };
        if found.is_symlink() {
            return match beneath::link_target(parent, name) {
                Err(error) if gone(&error) => Ok(()),
                target => self.link(place, &found, &target.map_err(packed)?),
            };
        }
        if found.is_dir() {
            return match beneath::open_dir(parent, name) {
                Err(error) if gone(&error) => Ok(()),
                opened => self.directory(place, &opened.map_err(packed)?),
            };
        }
        // Anything else is not even opened: a device may act on it.
        if !found.is_file() {
            return Ok(());
        }
        match beneath::open_file(parent, name) {
            Ok(Some(file)) => self.file(place, file),
            Ok(None) => Ok(()),
            Err(error) if gone(&error) => Ok(()),
            Err(error) => Err(packed(error)),
        }
    }

    fn directory(&mut self, place: &Inside, directory: &Dir) -> Result<()> {
        let packed = |error| fault::file("packed", place, error);
        let metadata = directory.dir_metadata().map_err(packed)?;
        let mut header = header(EntryType::Directory, &metadata, 0);
        // The empty name at the end gives it the `/` that marks a directory.
        let name = place.path().join("");
        self.archive.append_data(&mut header, name, io::empty()).map_err(packed)?;
        self.listing(directory, place)
    }

    fn link(&mut self, place: &Inside, metadata: &Metadata, target: &[u8]) -> Result<()> {
        let mut header = header(EntryType::Symlink, metadata, 0);
        let target =
            os_path(target).ok_or_else(|| Error::invalid(format!("the target of `{place}` is no text")))?;
        let packed = self.archive.append_link(&mut header, place.path(), target);
        packed.map_err(|error| fault::file("packed", place, error))
    }

    fn file(&mut self, place: &Inside, file: File) -> Result<()> {
        let packed = |error| fault::file("packed", place, error);
        let metadata = Metadata::from_file(&file).map_err(packed)?;
        let mut header = header(EntryType::Regular, &metadata, metadata.len());
        let content = Exactly { from: file, left: metadata.len() };
        self.archive.append_data(&mut header, place.path(), content).map_err(packed)
    }
}

fn header(kind: EntryType, metadata: &Metadata, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(beneath::mode(metadata));
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    let modified = metadata.modified().ok().map(cap_std::time::SystemTime::into_std);
    let since = modified.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    header.set_mtime(since.map_or(0, |since| since.as_secs()));
    header
}

#[cfg(unix)]
fn os_path(bytes: &[u8]) -> Option<&Path> {
    use std::os::unix::ffi::OsStrExt as _;
    Some(Path::new(OsStr::from_bytes(bytes)))
}

#[cfg(not(unix))]
fn os_path(bytes: &[u8]) -> Option<&Path> {
    std::str::from_utf8(bytes).ok().map(Path::new)
}

/// Exactly so many bytes, whatever the file has meanwhile: its size stands in the archive already.
pub(super) struct Exactly<R> {
    pub(super) from: R,
    pub(super) left: u64,
}

impl<R: Read> Read for Exactly<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).map_or(into.len(), |left| left.min(into.len()));
        let into = into.get_mut(..most).unwrap_or_default();
        if into.is_empty() {
            return Ok(0);
        }
        let mut count = self.from.read(into)?;
        if count == 0 {
            into.fill(0);
            count = into.len();
        }
        self.left -= count as u64;
        Ok(count)
    }
}
