//! Making files, directories and links below one directory, within the limits: what unpacking and copying share.
//!
//! Nothing is made through a symbolic link, not even one that leads within the directory: an archive of a real tree never
//! asks for it, and it keeps the count of `..` in links true.

use std::ffi::OsStr;
use std::fs::File;
use std::io;

use cap_std::fs::Dir;

use super::beneath::New;
use super::names::{Inside, link_within};
use super::{Limits, Owner, beneath, fault};
use crate::error::{Error, ErrorKind, Result};

/// The mode of a directory that is made only because something lies in it.
pub(super) const PARENT_MODE: u32 = 0o755;

/// A directory that is being filled, and what may still be put into it.
pub(super) struct Placement<'a> {
    into: &'a Dir,
    limits: &'a Limits,
    owner: Owner,
    entries: u64,
    bytes: u64,
    /// Whether anything was made, so that an error must say so.
    applied: bool,
}

impl<'a> Placement<'a> {
    pub(super) fn new(into: &'a Dir, limits: &'a Limits, owner: Owner) -> Self {
        Self { into, limits, owner, entries: limits.entries, bytes: limits.bytes, applied: false }
    }

    pub(super) fn limits(&self) -> &'a Limits {
        self.limits
    }

    /// The same error, which says that something was made before.
    pub(super) fn blame(&self, error: Error) -> Error {
        if self.applied { error.with_maybe_applied() } else { error }
    }

    /// A directory; one that is there is kept as it is.
    pub(super) fn directory(&mut self, place: &Inside, mode: u32) -> Result<()> {
        self.count(place)?;
        let Some((name, parents)) = place.split() else { return Ok(()) };
        let parent = self.parent(place, parents.len())?;
        let made = beneath::make_dir(&parent, name, mode | 0o700, self.owner);
        let (_, new) = made.map_err(|error| no_directory(place, place, error))?;
        self.applied |= new;
        Ok(())
    }

    /// A file of `size` bytes, in the place of another if there is one, which stays until this one is whole. `fill` writes it.
    pub(super) fn file(
        &mut self,
        place: &Inside,
        mode: u32,
        size: u64,
        fill: impl FnOnce(&mut File) -> Result<()>,
    ) -> Result<()> {
        self.count(place)?;
        self.bytes = self.bytes.checked_sub(size).ok_or_else(|| {
            Error::new(
                ErrorKind::OutOfResources,
                format!(
                    "with `{place}` the files exceed {} bytes, the limit of what is unpacked",
                    self.limits.bytes
                ),
            )
        })?;
        let (parent, name) = self.named(place)?;
        let new = New::at(&parent, name, |name| beneath::new_file(&parent, name));
        let mut new = new.map_err(|error| occupied(place, error))?;
        self.applied |= new.is_named();
        let settle = |file: &File| beneath::settle_file(file, mode | 0o600, self.owner);
        let filled =
            fill(&mut new.made).and_then(|()| settle(&new.made).map_err(|error| fault::made(place, error)));
        if let Err(error) = filled {
            new.forget(&parent);
            return Err(error);
        }
        self.give(new, &parent, name, place)
    }

    /// Gives what is whole its name.
    fn give<T>(&mut self, new: New<T>, parent: &Dir, name: &OsStr, place: &Inside) -> Result<()> {
        new.name(parent, name).map_err(|error| occupied(place, error))?;
        self.applied = true;
        Ok(())
    }

    /// A symbolic link to a target within the directory.
    pub(super) fn link(&mut self, place: &Inside, target: &[u8]) -> Result<()> {
        self.count(place)?;
        link_within(place, target, self.limits)?;
        let (parent, name) = self.named(place)?;
        let new = New::at(&parent, name, |name| beneath::new_link(&parent, target, name));
        self.give(new.map_err(|error| occupied(place, error))?, &parent, name, place)
    }

    /// Another name for a file that is there already.
    pub(super) fn hard_link(&mut self, place: &Inside, target: &Inside) -> Result<()> {
        self.count(place)?;
        let missing = || {
            Error::invalid(format!(
                "the hard link `{place}` to `{target}` is refused: that is no file here; accepted: the name of a file that \
                 stands before it in the archive"
            ))
        };
        // To remove what is there first would remove the file itself.
        if place == target {
            return Err(missing());
        }
        let Some((target_name, target_parents)) = target.split() else { return Err(missing()) };
        let mut source = self.root()?;
        for name in target_parents {
            source = beneath::open_dir(&source, name).map_err(|_| missing())?;
        }
        // A link to a link would lead elsewhere from another directory, where nobody counted its `..`.
        if !source.symlink_metadata(target_name).is_ok_and(|found| found.is_file()) {
            return Err(missing());
        }
        let (parent, name) = self.named(place)?;
        let new = New::at(&parent, name, |name| source.hard_link(target_name, &parent, name));
        self.give(new.map_err(|error| occupied(place, error))?, &parent, name, place)
    }

    fn count(&mut self, place: &Inside) -> Result<()> {
        self.entries = self.entries.checked_sub(1).ok_or_else(|| {
            Error::new(
                ErrorKind::OutOfResources,
                format!("`{place}` is one entry more than the limit of {}", self.limits.entries),
            )
        })?;
        Ok(())
    }

    fn root(&self) -> Result<Dir> {
        self.into.try_clone().map_err(|error| fault::file("opened", &".", error))
    }

    /// The open directory that a place lies in, and its name there.
    pub(super) fn named<'p>(&mut self, place: &'p Inside) -> Result<(Dir, &'p OsStr)> {
        let Some((name, parents)) = place.split() else {
            return Err(Error::invalid(
                "the directory itself can't be a file or a link; accepted: a name within it",
            ));
        };
        Ok((self.parent(place, parents.len())?, name))
    }

    /// Opens the first `depth` directories on the way to a place; those that are missing are made, and counted.
    fn parent(&mut self, place: &Inside, depth: usize) -> Result<Dir> {
        let mut at = self.root()?;
        let Some((_, parents)) = place.split() else { return Ok(at) };
        for (index, name) in parents.iter().take(depth).enumerate() {
            let step = |error| no_directory(place, &place.prefix(index + 1), error);
            at = match beneath::open_dir(&at, name) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    self.count(place)?;
                    let (next, new) = beneath::make_dir(&at, name, PARENT_MODE, self.owner).map_err(step)?;
                    self.applied |= new;
                    next
                }
                opened => opened.map_err(step)?,
            };
        }
        Ok(at)
    }
}

/// `step`, on the way to `place` or that place itself, is no directory.
pub(super) fn no_directory(place: &Inside, step: &Inside, error: io::Error) -> Error {
    if error.kind() == io::ErrorKind::NotADirectory {
        return Error::invalid(format!(
            "`{place}` is refused: `{step}` is there and is no directory; accepted: a directory, not a link to one"
        ));
    }
    fault::made(place, error)
}

/// A file or a link could not be made at `place`.
pub(super) fn occupied(place: &Inside, error: io::Error) -> Error {
    if error.kind() == io::ErrorKind::IsADirectory {
        return Error::invalid(format!(
            "`{place}` is refused: a directory has that name; accepted: a name that is free or a file's"
        ));
    }
    fault::made(place, error)
}
