//! A tar archive as a tree, plain or within gzip.

use std::io::{self, BufReader, Read};

use ews_core::archive::{Entries, Kind, fault};
use ews_core::{Error, Result};
use flate2::bufread::MultiGzDecoder;

use super::names::Rules;
use super::tree::{Planting, Tree, too_much};
use crate::source::scratch::{Scratch, ScratchFile};

/// How much may follow the archive's end: tar fills its last record with empty blocks, by default to 10 KiB.
const FILLING: u64 = 1 << 20;

/// Reads a tar archive.
///
/// # Errors
/// `Invalid` for what is damaged or refused, which is named; `OutOfResources` beyond a limit.
pub(super) fn read(file: &ScratchFile, gzip: bool, rules: Rules<'_>, scratch: &Scratch) -> Result<Tree> {
    let mut planting = Planting::new(rules, file.size(), scratch)?;
    let packed = BufReader::with_capacity(64 * 1024, file.whole());
    if gzip {
        read_into(&mut planting, MultiGzDecoder::new(packed), rules)?;
    } else {
        read_into(&mut planting, packed, rules)?;
    }
    planting.finish()
}

fn read_into(planting: &mut Planting<'_>, archive: impl Read, rules: Rules<'_>) -> Result<()> {
    let limits = rules.limits.of_tar();
    let mut entries = Entries::new(archive, &limits);
    // Entries that make nothing count too: a directory may come as often as an archive likes.
    let mut left = limits.entries;
    while let Some(entry) = entries.next()? {
        left = left.checked_sub(1).ok_or_else(|| too_much("entries", limits.entries, "entries"))?;
        match entry.kind {
            Kind::Directory => planting.directory(&entry.name)?,
            Kind::Symlink => planting.link(&entry.name, &entry.target)?,
            Kind::HardLink => planting.hard_link(&entry.name, &entry.target)?,
            Kind::File => {
                planting.file(&entry.name, entry.mode & 0o111 != 0, &mut entries)?;
            }
            other => return Err(Error::internal(format!("the reader of tar knows {other:?} and we do not"))),
        }
    }
    let mut rest = entries.into_inner();
    let filling = io::copy(&mut (&mut rest).take(FILLING + 1), &mut io::sink()).map_err(fault)?;
    if filling > FILLING {
        return Err(Error::invalid(format!(
            "more than {FILLING} bytes follow the archive's end; accepted: one tar archive and its filling"
        )));
    }
    Ok(())
}
