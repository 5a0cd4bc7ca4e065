//! A directory or a file of this machine, taken as an upload.
//!
//! Links are kept as links and nothing is read through one. The directory is read once, file after file: what is written to it meanwhile
//! may be in or not, so whoever hands one over lets nobody less trusted write to it.

use std::fs::File;
use std::io::{Read, Write as _};
use std::path::{Path, PathBuf};

use ews_core::{Digest, Error, Result};

use super::UploadLimits;
use super::names::Rules;
use super::tree::{Planting, Tree, too_much};
use crate::source::scratch::{Scratch, ScratchFile, of_disk};

/// Reads a directory into a tree.
pub(super) fn read(top: &Path, rules: Rules<'_>, scratch: &Scratch) -> Result<Tree> {
    // Nothing is packed: the ratio bounds nothing here.
    let mut planting = Planting::new(rules, u64::MAX, scratch)?;
    let mut left = vec![(top.to_owned(), String::new())];
    while let Some((directory, front)) = left.pop() {
        let failed = |error| of_disk(&format!("the directory `{}`", directory.display()), error);
        for found in std::fs::read_dir(&directory).map_err(failed)? {
            let found = found.map_err(failed)?;
            let name = found.file_name();
            let name = name.to_str().ok_or_else(|| {
                Error::invalid(format!(
                    "the name of `{}` is not UTF-8; accepted: UTF-8 names",
                    found.path().display()
                ))
            })?;
            let name = format!("{front}{name}");
            if let Some(below) = one(&mut planting, &found.path(), &name)? {
                left.push((below, format!("{name}/")));
            }
        }
    }
    planting.finish()
}

/// One entry; a directory comes back, to be looked into.
fn one(planting: &mut Planting<'_>, path: &Path, name: &str) -> Result<Option<PathBuf>> {
    let failed = |error| of_disk(&format!("`{}`", path.display()), error);
    let metadata = std::fs::symlink_metadata(path).map_err(failed)?;
    if metadata.is_dir() {
        planting.directory(name.as_bytes())?;
        return Ok(Some(path.to_owned()));
    }
    if metadata.is_symlink() {
        let target = std::fs::read_link(path).map_err(failed)?;
        let target = target.to_str().map(|target| target.replace(std::path::MAIN_SEPARATOR, "/"));
        let target =
            target.ok_or_else(|| Error::invalid(format!("the target of the link `{name}` is not UTF-8")))?;
        planting.link(name.as_bytes(), target.as_bytes())?;
        return Ok(None);
    }
    if !metadata.is_file() {
        return Err(Error::invalid(format!(
            "`{name}` is a device, a pipe or a socket; accepted: files, directories and links"
        )));
    }
    let file = File::open(path).map_err(failed)?;
    // What was looked at need not be what was opened.
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(Error::invalid(format!("`{name}` was a file and is none any more")));
    }
    planting.file(name.as_bytes(), executable(&metadata), file)?;
    Ok(None)
}

#[cfg(unix)]
fn executable(metadata: &std::fs::Metadata) -> bool {
    std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o111 != 0
}

/// Windows keeps no such bit, and a layer for Linux needs one: what runs nowhere is worse than what could be run.
#[cfg(not(unix))]
fn executable(_: &std::fs::Metadata) -> bool {
    true
}

/// Copies a file into scratch space, so that it can't change any more.
pub(super) fn copy(path: &Path, limits: &UploadLimits, scratch: &Scratch) -> Result<(ScratchFile, Digest)> {
    let failed = |error| of_disk(&format!("`{}`", path.display()), error);
    let mut from = File::open(path).map_err(failed)?.take(limits.packed.saturating_add(1));
    let (mut file, mut hash) = (scratch.file()?, hmac_sha256::Hash::new());
    let mut buffer = vec![0; 256 * 1024];
    loop {
        let count = from.read(&mut buffer).map_err(failed)?;
        let piece = buffer.get(..count).unwrap_or_default();
        if piece.is_empty() {
            return Ok((file, Digest::from_sha256(hash.finalize())));
        }
        hash.update(piece);
        file.write_all(piece).map_err(|error| of_disk("the scratch space", error))?;
        if file.size() > limits.packed {
            return Err(too_much("packed", limits.packed, "bytes"));
        }
    }
}
