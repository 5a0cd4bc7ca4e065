//! The files of an instance: a tree in memory, and archives in and out of it.

use std::collections::BTreeMap;

use crate::error::{Error, ErrorKind, Result};
use crate::testkit::tar::{self, Entry, EntryKind};

/// A tree of files by absolute path; `None` is a directory.
#[derive(Debug, Clone, Default)]
pub(super) struct Files(BTreeMap<String, Option<Vec<u8>>>);

impl Files {
    /// What a small image has.
    pub(super) fn of_an_image() -> Self {
        let mut files = Self::default();
        for directory in ["/", "/etc", "/tmp"] {
            files.0.insert(directory.to_owned(), None);
        }
        files.0.insert("/etc/passwd".to_owned(), Some(b"root:x:0:0::/:/bin/sh\n".to_vec()));
        files
    }

    pub(super) fn read(&self, path: &str) -> Option<&[u8]> {
        self.0.get(&normal(path))?.as_deref()
    }

    pub(super) fn write(&mut self, path: &str, content: Vec<u8>) {
        let path = normal(path);
        let mut parent = path.as_str();
        while let Some((before, _)) = parent.rsplit_once('/') {
            self.0.entry(if before.is_empty() { "/".to_owned() } else { before.to_owned() }).or_insert(None);
            parent = before;
        }
        self.0.insert(path, Some(content));
    }

    /// Unpacks an archive into a directory, all of it or nothing.
    pub(super) fn unpack(&mut self, directory: &str, archive: &[u8]) -> Result<()> {
        let directory = normal(directory);
        if !matches!(self.0.get(&directory), Some(None)) {
            return Err(Error::not_found("directory in the instance", directory));
        }
        let entries = tar::read(archive)?;
        for entry in &entries {
            check(entry)?;
        }
        for entry in entries {
            let path = format!("{}/{}", directory.trim_end_matches('/'), entry.name.trim_end_matches('/'));
            match entry.kind {
                EntryKind::File => self.write(&path, entry.content),
                EntryKind::Directory => {
                    self.0.entry(normal(&path)).or_insert(None);
                }
                // Links that stay inside are accepted and not kept: the fake's programs follow none.
                EntryKind::Symlink | EntryKind::Link | EntryKind::Special => {}
            }
        }
        Ok(())
    }

    /// Packs a file or a directory; names start with the last part of the path, as Docker's do.
    pub(super) fn pack(&self, path: &str) -> Result<Vec<u8>> {
        let path = normal(path);
        if !self.0.contains_key(&path) {
            return Err(Error::not_found("file in the instance", path));
        }
        let cut = path.rfind('/').map_or(0, |at| at + 1);
        let inside = format!("{}/", path.trim_end_matches('/'));
        let entries: Vec<Entry> = self
            .0
            .iter()
            .filter(|(name, _)| **name == path || name.starts_with(&inside))
            .map(|(name, content)| {
                let name = name.get(cut..).unwrap_or_default();
                match content {
                    Some(content) => Entry::file(name, content.clone()),
                    None => Entry::special(name, EntryKind::Directory, ""),
                }
            })
            .collect();
        Ok(tar::write(&entries))
    }
}

/// Refuses what leads out of the directory, and what is no file, directory or link.
fn check(entry: &Entry) -> Result<()> {
    let leaves = |path: &str| path.starts_with('/') || path.split('/').any(|part| part == "..");
    let fault = if leaves(&entry.name) {
        "a name that leads out of the directory"
    } else if matches!(entry.kind, EntryKind::Symlink | EntryKind::Link) && leaves(&entry.target) {
        "a link that leads out of the directory"
    } else if entry.kind == EntryKind::Special {
        "a device or a pipe"
    } else {
        return Ok(());
    };
    Err(Error::new(ErrorKind::Invalid, format!("the archive holds {fault}"))
        .with_context("entry", entry.name.escape_debug()))
}

fn normal(path: &str) -> String {
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}
