//! A directory of this machine, copied into another.

use std::fs::File;
use std::io::{self, Read as _};

use cap_std::fs::Dir;

use super::names::Inside;
use super::place::Placement;
use super::{Limits, Owner, beneath, fault};
use crate::error::{Error, ErrorKind, Result};

/// How many directories up an enclosing one is looked for; far more than a path has.
const HIGHEST: usize = 4096;

/// Copies what lies in `from`. Links are kept where they stay within it; special files are refused.
///
/// # Errors
/// As [`place_artifact`](super::place_artifact).
pub(super) fn copy_tree(from: &Dir, into: &Dir, limits: &Limits, owner: Owner) -> Result<()> {
    let look = |error| fault::file("looked at", &"the directory", error);
    if encloses(from, into).map_err(look)? || encloses(into, from).map_err(look)? {
        return Err(Error::invalid(
            "the artifact and the work directory are one, or one lies in the other; accepted: a directory elsewhere",
        ));
    }
    let mut placement = Placement::new(into, limits, owner);
    copy_listing(from, &Inside::default(), &mut placement).map_err(|error| placement.blame(error))
}

fn copy_listing(from: &Dir, place: &Inside, placement: &mut Placement<'_>) -> Result<()> {
    let listed = |error| fault::file("listed", place, error);
    for entry in from.entries().map_err(listed)? {
        let name = entry.map_err(listed)?.file_name();
        let place = place.join(name.clone(), placement.limits())?;
        let read = |error| fault::file("read", &place, error);
        let found = from.symlink_metadata(&name).map_err(read)?;
        if found.is_symlink() {
            let target = beneath::link_target(from, &name).map_err(read)?;
            placement.link(&place, &target)?;
        } else if found.is_dir() {
            let directory = beneath::open_dir(from, &name).map_err(read)?;
            placement.directory(&place, beneath::mode(&found))?;
            copy_listing(&directory, &place, placement)?;
        } else if found.is_file()
            && let Some(file) = beneath::open_file(from, &name).map_err(read)?
        {
            copy_file(&file, &place, placement)?;
        } else {
            return Err(Error::invalid(format!(
                "`{place}` is refused: it is a device, a pipe or a socket; accepted: files, directories and links"
            )));
        }
    }
    Ok(())
}

fn copy_file(from: &File, place: &Inside, placement: &mut Placement<'_>) -> Result<()> {
    let read = |error| fault::file("read", place, error);
    let metadata = cap_std::fs::Metadata::from_file(from).map_err(read)?;
    let size = metadata.len();
    placement.file(place, beneath::mode(&metadata), size, |to| {
        // Between two files the standard library lets the kernel copy, by reference where the file system can.
        let copied =
            io::copy(&mut from.take(size), to).map_err(|error| fault::file("copied", place, error))?;
        if copied != size || from.metadata().map_err(read)?.len() != size {
            return Err(Error::new(ErrorKind::Busy, format!("`{place}` changed while it was copied")));
        }
        if let Ok(modified) = metadata.modified() {
            // A time that the other file system can't hold is not kept.
            let _ = to.set_modified(modified.into_std());
        }
        Ok(())
    })
}

/// Whether `inner` is `outer` or lies in it.
fn encloses(outer: &Dir, inner: &Dir) -> io::Result<bool> {
    let mut at = inner.try_clone()?;
    for _ in 0..HIGHEST {
        if beneath::same(&at, outer)? {
            return Ok(true);
        }
        let parent = at.open_parent_dir(cap_std::ambient_authority())?;
        // Only the root is its own parent.
        if beneath::same(&parent, &at)? {
            return Ok(false);
        }
        at = parent;
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, "the directory lies too deep"))
}
