//! A tar archive into a directory.

use std::fs::File;
use std::io::{self, Read};
use std::time::{Duration, UNIX_EPOCH};

use cap_std::fs::Dir;

use super::names::Inside;
use super::place::Placement;
use super::{Limits, Owner, fault};
use crate::archive::{Entries, Entry, Kind};
use crate::error::{Error, ErrorKind, Result};

/// Unpacks a tar archive. A file that is there is replaced by a new one in one step, a directory that is there is kept.
///
/// Permission bits and times of files are the archive's, but for set-id and sticky bits and with at least `u+rw`, `u+rwx`
/// for directories. Owners are not. What follows the archive's end is read and dropped.
///
/// # Errors
/// `Invalid` for what is no tar archive or holds an entry that is refused, which is named; `OutOfResources` for more than
/// the limits or the disk hold. It says `maybe_applied` where something was unpacked before.
pub(crate) fn unpack(into: &Dir, archive: impl Read, limits: &Limits, owner: Owner) -> Result<()> {
    let mut placement = Placement::new(into, limits, owner);
    unpack_into(&mut placement, archive).map_err(|error| placement.blame(error))
}

fn unpack_into(placement: &mut Placement<'_>, archive: impl Read) -> Result<()> {
    let limits = placement.limits();
    let mut entries = Entries::new(archive, limits);
    while let Some(entry) = entries.next()? {
        unpack_entry(placement, &mut entries, &entry)?;
    }
    drain(entries.into_inner(), limits)
}

fn unpack_entry<R: Read>(
    placement: &mut Placement<'_>,
    content: &mut Entries<'_, R>,
    entry: &Entry,
) -> Result<()> {
    let limits = placement.limits();
    let place = Inside::from_entry(&entry.name, limits)?;
    match entry.kind {
        Kind::Directory => placement.directory(&place, entry.mode),
        Kind::Symlink => placement.link(&place, &entry.target),
        Kind::HardLink => {
            let target = Inside::from_entry(&entry.target, limits)
                .map_err(|error| error.with_context("hard_link", &place))?;
            placement.hard_link(&place, &target)
        }
        Kind::File => placement.file(&place, entry.mode, entry.size, |file| {
            fill(file, content, entry.size, &place)?;
            set_modified(file, entry.modified);
            Ok(())
        }),
    }
}

/// Copies by hand, so that an error of the archive is told from one of the disk.
fn fill(file: &mut File, content: &mut impl Read, size: u64, place: &Inside) -> Result<()> {
    // Most files are small, and need no large buffer.
    let mut buffer = vec![0; size.clamp(1, 64 * 1024) as usize];
    loop {
        let count = match content.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(fault::read(error)),
        };
        let piece = buffer.get(..count).unwrap_or_default();
        io::Write::write_all(file, piece).map_err(|error| fault::file("written", place, error))?;
    }
}

/// A time that the file system can't hold is not kept: it is a remark, and no reason to refuse the content.
fn set_modified(file: &File, seconds: u64) {
    if let Some(time) = UNIX_EPOCH.checked_add(Duration::from_secs(seconds)) {
        let _ = file.set_modified(time);
    }
}

/// How much may follow the archive's end besides what the limit allows: tar fills its last record with empty blocks, by
/// default to 10 KiB.
const FILLING: u64 = 1 << 20;

/// Reads on to the end, so that the sender can finish and what is checked at the end (a digest, gzip's own sum) covers all
/// of it.
fn drain(mut rest: impl Read, limits: &Limits) -> Result<()> {
    let most = limits.bytes.saturating_add(FILLING);
    let drained = io::copy(&mut (&mut rest).take(most.saturating_add(1)), &mut io::sink());
    if drained.map_err(fault::read)? > most {
        return Err(Error::new(
            ErrorKind::OutOfResources,
            format!(
                "more than {most} bytes follow the archive's end; accepted: the limit of what is unpacked and 1 MiB"
            ),
        ));
    }
    Ok(())
}
