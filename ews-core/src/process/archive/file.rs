//! A config file or a secret in the work directory: whole or not at all, and never readable by others for a moment.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::io::{self, Write as _};

use cap_std::fs::Dir;

use super::names::Inside;
use super::place::{Placement, occupied};
use super::{Limits, Owner, beneath, fault};
use crate::error::Result;
use crate::spec::content::FileMode;

/// How many names are tried for the file before it has its own. A name is random, so that a second try is rare.
const NAME_TRIES: usize = 16;

/// Places a file at a path of the instance, in the place of another if there is one. Directories on the way are made.
///
/// It is written under another name with mode 0600, then given its owner, its mode and its name, in this order. On Windows
/// it inherits the access list of its directory.
///
/// # Errors
/// `Invalid` for a path that leads out, over a link or to a directory; `OutOfResources` for a full disk.
pub(crate) fn place_file(root: &Dir, path: &str, content: &[u8], mode: FileMode, owner: Owner) -> Result<()> {
    let limits = Limits::default();
    let place = Inside::from_path(path, &limits)?;
    let mut placement = Placement::new(root, &limits, owner);
    let (parent, name) = placement.named(&place)?;
    let made = |error| fault::made(&place, error);

    let (mut file, temporary) = temporary(&parent).map_err(made)?;
    let placed = file
        .write_all(content)
        .and_then(|()| beneath::settle_file(&file, u32::from(mode.bits()), owner))
        // A name that survives a crash must not stand for half a file.
        .and_then(|()| file.sync_all())
        .and_then(|()| {
            drop(file);
            parent.rename(&temporary, &parent, name)
        });
    placed.map_err(|error| {
        // It may be gone by the program's hand; then there is nothing to do.
        let _ = parent.remove_file(&temporary);
        // Systems differ in what they say of a directory here.
        let directory = parent.symlink_metadata(name).is_ok_and(|found| found.is_dir());
        occupied(&place, if directory { io::ErrorKind::IsADirectory.into() } else { error })
    })
}

/// A new file under a name that nobody has. That it is new is what keeps others from it, not that the name is hard to guess.
fn temporary(parent: &Dir) -> io::Result<(std::fs::File, String)> {
    for _ in 0..NAME_TRIES {
        let name = format!(".ews-{:016x}", RandomState::new().build_hasher().finish());
        match beneath::new_file(parent, name.as_ref()) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => return made.map(|file| (file, name)),
        }
    }
    Err(io::Error::new(io::ErrorKind::ResourceBusy, "no name is free for the file while it is written"))
}
