//! What an upload is, by its content: a name says what somebody wished.

use std::io::Read as _;

use ews_core::{Arch, Error, ErrorKind, Os, Result};
use flate2::read::GzDecoder;
use serde::{Deserialize, Serialize};

use super::{UploadLimits, zip};
use crate::source::scratch::{ScratchFile, of_disk};

/// What an upload is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Content {
    /// A directory of this machine.
    Directory,
    /// A tar archive.
    Tar,
    /// A tar archive within gzip.
    TarGz,
    /// A zip archive.
    Zip,
    /// A Java archive: a zip with `META-INF/MANIFEST.MF`.
    Jar,
    /// A Java web application: a zip with `WEB-INF/`.
    War,
    /// A program, or a script that names its interpreter.
    Program {
        /// For which system and architecture; none where it runs on all, or EWS has no word for them.
        platform: Option<(Os, Arch)>,
    },
}

impl std::fmt::Display for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Directory => "a directory",
            Self::Tar => "a tar archive",
            Self::TarGz => "a tar archive within gzip",
            Self::Zip => "a zip archive",
            Self::Jar => "a jar",
            Self::War => "a war",
            Self::Program { .. } => "a program",
        })
    }
}

const ACCEPTED: &str = "accepted: tar, tar.gz, zip, war, jar, or a single program (ELF, PE, Mach-O, or a script with `#!` in front)";

/// How much of a file says what it is, in bytes: a PE's header lies behind its DOS stub.
const FRONT: u64 = 1024;

/// Tells what a file is.
///
/// # Errors
/// `Unsupported` for archives of another kind, `Invalid` for everything else, and for a zip that [`zip::list`] refuses.
pub(in crate::source) fn detect(file: &ScratchFile, limits: &UploadLimits) -> Result<Content> {
    let mut front = Vec::new();
    file.part(0, FRONT).read_to_end(&mut front).map_err(|error| of_disk("the scratch space", error))?;
    if front.is_empty() {
        return Err(Error::invalid(format!("the upload is empty; {ACCEPTED}")));
    }
    if front.starts_with(&[0x1f, 0x8b]) {
        let mut inner = Vec::new();
        // What is damaged further on shows when it is unpacked.
        let read = GzDecoder::new(file.whole()).take(512).read_to_end(&mut inner);
        if read.is_ok() && is_tar(&inner) {
            return Ok(Content::TarGz);
        }
        return Err(Error::invalid(format!(
            "the upload is gzip, and what is in it is no tar archive; {ACCEPTED}"
        )));
    }
    if front.starts_with(b"PK\x03\x04") || front.starts_with(b"PK\x05\x06") {
        return of_zip(file, limits);
    }
    if is_tar(&front) {
        return Ok(Content::Tar);
    }
    for (magic, what) in [
        (&b"\xfd7zXZ\0"[..], "compressed by xz"),
        (b"\x28\xb5\x2f\xfd", "compressed by zstd"),
        (b"BZh", "compressed by bzip2"),
        (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
        (b"Rar!", "a rar archive"),
        (b"PK\x07\x08", "a part of a split zip archive"),
        (b"\xca\xfe\xba\xbe", "a Java class, or a program for several architectures"),
    ] {
        if front.starts_with(magic) {
            return Err(Error::new(ErrorKind::Unsupported, format!("the upload is {what}; {ACCEPTED}")));
        }
    }
    program(&front).ok_or_else(|| {
        Error::invalid(format!("the upload is nothing that can be told by its first bytes; {ACCEPTED}"))
    })
}

fn of_zip(file: &ScratchFile, limits: &UploadLimits) -> Result<Content> {
    let entries = zip::list(file, limits)?;
    let has = |what: &dyn Fn(&[u8]) -> bool| entries.iter().any(|entry| what(&entry.name));
    Ok(if has(&|name| name.starts_with(b"WEB-INF/")) {
        Content::War
    } else if has(&|name| name.eq_ignore_ascii_case(b"META-INF/MANIFEST.MF")) {
        Content::Jar
    } else {
        Content::Zip
    })
}

/// By its magic, or from before it had one by its checksum.
fn is_tar(front: &[u8]) -> bool {
    let Some(block) = front.get(..512) else { return false };
    if block.get(257..262) == Some(b"ustar") {
        return true;
    }
    let written = block.get(148..156).and_then(|field| std::str::from_utf8(field).ok());
    let written = written.and_then(|text| u32::from_str_radix(text.trim_matches(['\0', ' ']), 8).ok());
    let sum = block
        .iter()
        .enumerate()
        .map(|(at, byte)| if (148..156).contains(&at) { 32 } else { u32::from(*byte) })
        .sum();
    // An empty archive is empty blocks.
    written == Some(sum) || block.iter().all(|byte| *byte == 0)
}

fn program(front: &[u8]) -> Option<Content> {
    let u16_at = |at: usize, big: bool| {
        let bytes: [u8; 2] = front.get(at..at + 2)?.try_into().ok()?;
        Some(if big { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) })
    };
    let platform = if front.starts_with(b"\x7fELF") {
        let (wide, big) = (front.get(4) == Some(&2), front.get(5) == Some(&2));
        let arch = match (u16_at(18, big)?, wide, big) {
            (62, true, false) => Some(Arch::Amd64),
            (3, false, false) => Some(Arch::I386),
            (183, true, false) => Some(Arch::Arm64),
            (40, false, false) => Some(Arch::Arm),
            (21, true, false) => Some(Arch::Ppc64le),
            (22, true, true) => Some(Arch::S390x),
            (243, true, false) => Some(Arch::Riscv64),
            (258, true, false) => Some(Arch::Loong64),
            _ => None,
        };
        arch.map(|arch| (Os::Linux, arch))
    } else if front.starts_with(b"MZ") {
        let header = usize::from(u16_at(0x3c, false)?);
        if front.get(header..header + 4) != Some(b"PE\0\0") {
            return None;
        }
        let arch = match u16_at(header + 4, false)? {
            0x8664 => Some(Arch::Amd64),
            0xaa64 => Some(Arch::Arm64),
            0x014c => Some(Arch::I386),
            _ => None,
        };
        arch.map(|arch| (Os::Windows, arch))
    } else if front.starts_with(b"\xcf\xfa\xed\xfe") {
        let arch = match front.get(4..8)? {
            [7, 0, 0, 1] => Some(Arch::Amd64),
            [12, 0, 0, 1] => Some(Arch::Arm64),
            _ => None,
        };
        arch.map(|arch| (Os::Darwin, arch))
    } else if front.starts_with(b"#!") {
        None
    } else {
        return None;
    };
    Some(Content::Program { platform })
}
