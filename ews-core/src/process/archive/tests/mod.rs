//! Tests of archives and artifacts as a whole: what is hostile, what races, what goes round, what is damaged.

mod artifacts;
mod hostile;
mod mutated;
#[cfg(target_os = "linux")]
mod racing;
mod round_trips;
mod streams;

use std::path::Path;

use cap_std::fs::Dir;
use tar::{EntryType, Header};
use tempfile::TempDir;

use super::{Limits, Owner, unpack};
use crate::error::{Error, ErrorKind, Result};

/// A directory to unpack into, with a canary beside it.
struct Yard {
    top: TempDir,
    dir: Dir,
}

impl Yard {
    fn new() -> Self {
        let top = tempfile::tempdir().unwrap();
        std::fs::create_dir(top.path().join("in")).unwrap();
        std::fs::create_dir(top.path().join("out")).unwrap();
        std::fs::write(top.path().join("out/canary"), "alive").unwrap();
        let dir = open(&top.path().join("in"));
        Self { top, dir }
    }

    fn inside(&self, name: &str) -> std::path::PathBuf {
        self.top.path().join("in").join(name)
    }

    fn outside(&self) -> std::path::PathBuf {
        self.top.path().join("out")
    }

    fn unpack(&self, archive: &[u8]) -> Result<()> {
        unpack(&self.dir, archive, &Limits::default(), Owner::default())
    }

    /// Nothing lies beside the directory but what was there.
    fn assert_untouched(&self, what: &str) {
        assert_eq!(names(self.top.path()), ["in", "out"], "{what}");
        assert_eq!(names(&self.outside()), ["canary"], "{what}");
        assert_eq!(std::fs::read(self.outside().join("canary")).unwrap(), b"alive", "{what}");
    }
}

fn open(path: &Path) -> Dir {
    Dir::open_ambient_dir(path, cap_std::ambient_authority()).unwrap()
}

fn names(path: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(path)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// Writes archives that no honest program writes: each field is taken as it is given.
#[derive(Default)]
struct Forge {
    bytes: Vec<u8>,
}

impl Forge {
    fn header(kind: u8, name: &[u8], target: &[u8], mode: u32, size: u64) -> Header {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::new(kind));
        let old = header.as_old_mut();
        old.name[..name.len()].copy_from_slice(name);
        old.linkname[..target.len()].copy_from_slice(target);
        header.set_mode(mode);
        header.set_mtime(1_000_000_000);
        header.set_size(size);
        header.set_cksum();
        header
    }

    fn raw(mut self, header: &Header, content: &[u8]) -> Self {
        self.bytes.extend_from_slice(header.as_bytes());
        self.bytes.extend_from_slice(content);
        self.bytes.resize(self.bytes.len().next_multiple_of(512), 0);
        self
    }

    fn entry(self, kind: u8, name: impl AsRef<[u8]>, target: &str, mode: u32, content: &[u8]) -> Self {
        let header = Self::header(kind, name.as_ref(), target.as_bytes(), mode, content.len() as u64);
        self.raw(&header, content)
    }

    fn file(self, name: impl AsRef<[u8]>, content: impl AsRef<[u8]>) -> Self {
        self.entry(b'0', name, "", 0o644, content.as_ref())
    }

    fn dir(self, name: &str) -> Self {
        self.entry(b'5', name, "", 0o755, b"")
    }

    fn symlink(self, name: &str, target: &str) -> Self {
        self.entry(b'2', name, target, 0o777, b"")
    }

    fn hard_link(self, name: &str, target: &str) -> Self {
        self.entry(b'1', name, target, 0o644, b"")
    }

    /// A pax header with these records.
    fn pax(self, kind: u8, records: &[(&str, &[u8])]) -> Self {
        let mut content = Vec::new();
        for (key, value) in records {
            // The length counts its own digits.
            let rest = key.len() + value.len() + 3;
            let mut length = rest + 1;
            while length != rest + length.to_string().len() {
                length += 1;
            }
            content.extend_from_slice(format!("{length} {key}=").as_bytes());
            content.extend_from_slice(value);
            content.push(b'\n');
        }
        self.entry(kind, "pax", "", 0o644, &content)
    }

    fn end(mut self) -> Vec<u8> {
        self.bytes.resize(self.bytes.len() + 1024, 0);
        self.bytes
    }
}

fn kind<T: std::fmt::Debug>(result: Result<T>) -> ErrorKind {
    result.map_err(|error: Error| error.kind()).unwrap_err()
}
