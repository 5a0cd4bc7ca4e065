//! Reading archives that strangers made, with bounded memory: the tar format's entries, and what all who read them share.
//!
//! Nothing here touches a file system. What an entry's name may be, and where it goes, whoever unpacks decides: the process runtime into
//! a work directory, ews-deploy into a layer of an image. That both read the format by the same code is the point: who checks an archive
//! and who unpacks it must see the same files.

mod entries;

use std::fmt;
use std::io;

pub use entries::{Entries, Entry, Kind};

use crate::error::{Error, ErrorKind};
use crate::time::Shown;

/// The most that one archive or artifact may become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Bytes of all files together. Default 16 GiB.
    pub bytes: u64,
    /// Entries, and directories that are made because an entry lies in them. Default 1,000,000.
    pub entries: u64,
    /// Bytes of one name or link target. Default 4096, Linux's `PATH_MAX`.
    pub path: usize,
    /// Components of one name. Default 128.
    pub depth: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { bytes: 16 << 30, entries: 1_000_000, path: 4096, depth: 128 }
    }
}

impl Limits {
    /// With so many bytes of all files together.
    #[must_use]
    pub fn with_bytes(mut self, bytes: u64) -> Self {
        self.bytes = bytes;
        self
    }

    /// With so many entries.
    #[must_use]
    pub fn with_entries(mut self, entries: u64) -> Self {
        self.entries = entries;
        self
    }

    /// With so many bytes of one name or link target.
    #[must_use]
    pub fn with_path(mut self, path: usize) -> Self {
        self.path = path;
        self
    }

    /// With so many components of one name.
    #[must_use]
    pub fn with_depth(mut self, depth: usize) -> Self {
        self.depth = depth;
        self
    }
}

/// Bytes from an archive as they may appear in a message.
#[derive(Debug, Clone, Copy)]
pub struct ShownBytes<'a>(pub &'a [u8]);

impl fmt::Display for ShownBytes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Four bytes are the most that a character takes, so what `Shown` would cut is not even decoded.
        let front = self.0.get(..260).unwrap_or(self.0);
        Shown(&String::from_utf8_lossy(front)).fmt(f)
    }
}

/// What an error becomes when bytes of an archive could not be read. An [`Error`] that travelled through `std::io::Read` comes out as it
/// went in.
pub fn fault(error: io::Error) -> Error {
    let error = match own(error) {
        Ok(own) => return own,
        Err(error) => error,
    };
    match error.kind() {
        io::ErrorKind::UnexpectedEof => Error::invalid(
            "the archive ends in the middle; accepted: a whole tar archive, up to its two empty blocks",
        ),
        io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput => {
            Error::invalid(format!("the archive is damaged: {error}"))
        }
        _ => Error::new(ErrorKind::Unavailable, format!("the archive can't be read: {error}")),
    }
    .with_source(error)
}

/// An error of ours that travelled through `std::io::Read` or `Write` comes out as it went in.
pub(crate) fn own(error: io::Error) -> Result<Error, io::Error> {
    if error.get_ref().is_some_and(|inner| inner.is::<Error>()) {
        let kind = error.kind();
        return match error.into_inner().map(|inner| inner.downcast::<Error>()) {
            Some(Ok(own)) => Ok(*own),
            _ => Err(kind.into()),
        };
    }
    Err(error)
}

/// Why Windows would take this name for something else than a file of that name, by Microsoft's "Naming Files, Paths, and
/// Namespaces". An image for Windows is made on any system.
pub fn windows_fault(part: &str) -> Option<&'static str> {
    if part.contains(['\\', ':']) {
        return Some("`\\` and `:` separate paths, drives and streams on Windows");
    }
    if part.contains(['<', '>', '"', '|', '?', '*']) || part.chars().any(|c| u32::from(c) < 32) {
        return Some("it holds a character that no name has on Windows");
    }
    if part.ends_with(['.', ' ']) {
        return Some("Windows takes off a dot or blank at the end");
    }
    let stem = part.split('.').next().unwrap_or_default().trim_end().to_uppercase();
    let numbered = |device: &str| {
        let number = stem.strip_prefix(device).unwrap_or_default();
        matches!(number, "0" | "1" | "2" | "3" | "4" | "5" | "6" | "7" | "8" | "9" | "¹" | "²" | "³")
    };
    let device = matches!(stem.as_str(), "CON" | "PRN" | "AUX" | "NUL" | "CONIN$" | "CONOUT$");
    (device || numbered("COM") || numbered("LPT")).then_some("it names a device on Windows")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_windows_takes_for_a_device_a_drive_or_a_stream() {
        for name in [
            "C:",
            "a:b",
            "a\\b",
            "..\\x",
            "CON",
            "nul.txt",
            "Com1",
            "LPT³.log",
            "aux ",
            "x.",
            "x ",
            "a?",
            "a\u{1}",
            "conin$",
            "NUL .txt",
        ] {
            assert!(windows_fault(name).is_some(), "{name:?}");
        }
        for name in ["a", "console", "com", "com10", "nul-1", "é", ".x", "a b", "x.nul"] {
            assert_eq!(windows_fault(name), None, "{name:?}");
        }
    }
}
