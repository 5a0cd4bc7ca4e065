//! A config file or a secret in the work directory: whole or not at all, and never readable by others for a moment.

use std::io::Write as _;

use cap_std::fs::Dir;

use super::beneath::New;
use super::names::Inside;
use super::place::{Placement, occupied};
use super::{Limits, Owner, beneath, fault};
use crate::error::Result;
use crate::spec::content::FileMode;

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

    let mut new = New::aside(|name| beneath::new_file(&parent, name)).map_err(made)?;
    let written = new
        .made
        .write_all(content)
        .and_then(|()| beneath::settle_file(&new.made, u32::from(mode.bits()), owner))
        // A name that survives a crash must not stand for half a file.
        .and_then(|()| new.made.sync_all());
    match written {
        Ok(()) => new.name(&parent, name),
        Err(error) => {
            new.forget(&parent);
            Err(error)
        }
    }
    .map_err(|error| occupied(&place, error))
}
