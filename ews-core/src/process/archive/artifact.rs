//! An artifact of this machine, made ready to run: a directory, an archive, or a single program.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _};
use std::path::{Path, PathBuf};

use cap_std::fs::Dir;
use flate2::read::MultiGzDecoder;

use super::copy::copy_tree;
use super::digest::Hashed;
use super::unpack::unpack;
use super::{Limits, Owner, fault};
use crate::error::{Error, ErrorKind, Result};
use crate::spec::source::ArtifactSource;
use crate::time::Shown;

const ACCEPTED: &str =
    "accepted: the path of a directory, of a program, or of a `.tar`, `.tar.gz` or `.tgz` on this machine";

/// What became of an artifact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Placed {
    /// It is a program, left where it is: its absolute path.
    Program(PathBuf),
    /// It is a directory or an archive, and lies in the work directory now.
    Content,
}

/// Places an artifact in the work directory. What it is, its content says: gzip and tar are unpacked, a directory is copied,
/// any other file is a program and stays where it is.
///
/// A digest is checked over the whole file, in the same pass that unpacks it: where it is wrong, there is content already,
/// and the caller removes it. A program is checked and not held: who may write its file may change it later.
///
/// # Errors
/// `NotFound` for the path; `Invalid` for another digest, a digest of a directory, and what [`unpack`] refuses;
/// `Unsupported` for an address and for other archives; `OutOfResources` beyond the limits. It says `maybe_applied` where
/// something was placed.
pub(crate) fn place_artifact(
    source: &ArtifactSource,
    into: &Dir,
    limits: &Limits,
    owner: Owner,
) -> Result<Placed> {
    let path = local(&source.location)?;
    place(&path, source, into, limits, owner)
        .map_err(|error| error.with_context("artifact", Shown(&path.to_string_lossy())))
}

fn place(path: &Path, source: &ArtifactSource, into: &Dir, limits: &Limits, owner: Owner) -> Result<Placed> {
    let opened = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
            Error::not_found("artifact", Shown(&path.to_string_lossy()))
        }
        _ => fault::file("opened", &"the artifact", error),
    };
    let metadata = std::fs::metadata(path).map_err(opened)?;
    if metadata.is_dir() {
        if source.digest.is_some() {
            return Err(Error::invalid(
                "a digest is given for a directory, which has none; accepted: a digest of an archive or a program",
            ));
        }
        let from = Dir::open_ambient_dir(path, cap_std::ambient_authority()).map_err(opened)?;
        return copy_tree(&from, into, limits, owner).map(|()| Placed::Content);
    }
    let special = || Error::invalid(format!("this is a device, a pipe or a socket; {ACCEPTED}"));
    if !metadata.is_file() {
        return Err(special());
    }
    let mut file = open(path).map_err(opened)?;
    // What was looked at need not be what was opened.
    let metadata = file.metadata().map_err(opened)?;
    if !metadata.is_file() {
        return Err(special());
    }
    let mut front = Vec::new();
    (&file).take(FRONT).read_to_end(&mut front).map_err(opened)?;
    file.rewind().map_err(opened)?;

    let mut hashed = Hashed::new(file, metadata.len(), source.digest);
    let unpacked = match content(&front, path)? {
        Content::Program => return hashed.finish().map(|()| Placed::Program(path.to_owned())),
        Content::Tar => unpack(into, &mut hashed, limits, owner),
        Content::Gzip => unpack(into, MultiGzDecoder::new(&mut hashed), limits, owner),
    };
    match unpacked {
        Ok(()) => hashed.finish().map_err(Error::with_maybe_applied)?,
        // An archive that is damaged is another than the one that was meant, and the digest says so better.
        Err(error) if error.kind() == ErrorKind::Invalid && source.digest.is_some() => {
            let applied = error.maybe_applied();
            hashed.finish().map_err(|other| if applied { other.with_maybe_applied() } else { other })?;
            return Err(error);
        }
        Err(error) => return Err(error),
    }
    Ok(Placed::Content)
}

/// Opens without waiting for a pipe's other end, should the file become one.
fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;
        options.custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed());
    }
    options.open(path)
}

/// The absolute path that a location means.
fn local(location: &str) -> Result<PathBuf> {
    if location.contains("://") {
        // It is not repeated: an address may hold a password.
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!("the artifact is an address, which the process runtime does not fetch; {ACCEPTED}"),
        ));
    }
    if location.is_empty() || location.contains('\0') {
        return Err(Error::invalid(format!("the artifact's path is empty or holds a NUL byte; {ACCEPTED}")));
    }
    std::path::absolute(location).map_err(|error| fault::file("found", &Shown(location), error))
}

/// How much of a file says what it is, in bytes: tar's first header.
const FRONT: u64 = 512;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Content {
    Tar,
    Gzip,
    Program,
}

/// Tells what a file is by its first bytes. The name only keeps a damaged archive from being run.
fn content(front: &[u8], path: &Path) -> Result<Content> {
    if front.starts_with(&[0x1f, 0x8b]) {
        return Ok(Content::Gzip);
    }
    if front.get(257..262) == Some(b"ustar") {
        return Ok(Content::Tar);
    }
    for (magic, what) in [
        (&b"PK\x03\x04"[..], "a zip archive"),
        (b"PK\x05\x06", "an empty zip archive"),
        (b"\xfd7zXZ\0", "compressed by xz"),
        (b"\x28\xb5\x2f\xfd", "compressed by zstd"),
        (b"BZh", "compressed by bzip2"),
        (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    ] {
        if front.starts_with(magic) {
            return Err(Error::new(ErrorKind::Unsupported, format!("the artifact is {what}; {ACCEPTED}")));
        }
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    if name.ends_with(".tar") {
        // From before ustar, or none: unpacking tells.
        return Ok(Content::Tar);
    }
    if [".tar.gz", ".tgz", ".zip"].iter().any(|end| name.ends_with(end)) {
        return Err(Error::invalid(format!("the artifact is named as an archive and is none; {ACCEPTED}")));
    }
    Ok(Content::Program)
}
