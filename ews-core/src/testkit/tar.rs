//! The little of the tar format (POSIX ustar) that the fake runtime and the conformance suites speak.
//!
//! It writes and reads entries in memory, hostile ones too: whoever tests that `..` is refused must be able to write it.

use crate::error::{Error, Result};

/// What an entry is, by ustar's type flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// An ordinary file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A hard link.
    Link,
    /// A device, a pipe or anything else.
    Special,
}

/// An entry of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name as written, not checked; at most 100 bytes.
    pub name: String,
    /// What it is.
    pub kind: EntryKind,
    /// Where a link leads.
    pub target: String,
    /// What a file holds.
    pub content: Vec<u8>,
}

impl Entry {
    /// An ordinary file.
    pub fn file(name: &str, content: impl Into<Vec<u8>>) -> Self {
        Self { name: name.into(), kind: EntryKind::File, target: String::new(), content: content.into() }
    }

    /// An entry without content.
    pub fn special(name: &str, kind: EntryKind, target: &str) -> Self {
        Self { name: name.into(), kind, target: target.into(), content: Vec::new() }
    }
}

const BLOCK: usize = 512;

/// Writes an archive. Names and targets beyond ustar's 100 bytes are cut: tests use short ones.
pub fn write(entries: &[Entry]) -> Vec<u8> {
    let mut archive = Vec::new();
    for entry in entries {
        let mut header = Vec::with_capacity(BLOCK);
        let flag = match entry.kind {
            EntryKind::File => b'0',
            EntryKind::Link => b'1',
            EntryKind::Symlink => b'2',
            EntryKind::Special => b'3',
            EntryKind::Directory => b'5',
        };
        let mode = if entry.kind == EntryKind::Directory { "0000755\0" } else { "0000644\0" };
        field(&mut header, entry.name.as_bytes(), 100);
        field(&mut header, mode.as_bytes(), 8);
        field(&mut header, b"0000000\0", 8);
        field(&mut header, b"0000000\0", 8);
        field(&mut header, format!("{:011o}\0", entry.content.len()).as_bytes(), 12);
        field(&mut header, b"00000000000\0", 12);
        // The checksum counts its own field as blanks.
        let checksum_at = header.len();
        field(&mut header, b"        ", 8);
        header.push(flag);
        field(&mut header, entry.target.as_bytes(), 100);
        field(&mut header, b"ustar\x0000", 8);
        header.resize(BLOCK, 0);
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        let text = format!("{sum:06o}\0 ");
        for (slot, byte) in header.iter_mut().skip(checksum_at).zip(text.bytes()) {
            *slot = byte;
        }
        archive.extend(header);
        archive.extend(&entry.content);
        archive.resize(archive.len().next_multiple_of(BLOCK), 0);
    }
    archive.resize(archive.len() + 2 * BLOCK, 0);
    archive
}

fn field(header: &mut Vec<u8>, value: &[u8], width: usize) {
    let end = header.len() + width;
    header.extend(value.iter().take(width));
    header.resize(end, 0);
}

/// Reads an archive. Extensions of the format (long names, attributes) are passed over.
///
/// # Errors
/// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for what is no ustar archive.
pub fn read(archive: &[u8]) -> Result<Vec<Entry>> {
    let wrong = || Error::invalid("this is not a tar archive; accepted: ustar entries and two empty blocks");
    let mut entries = Vec::new();
    let mut rest = archive;
    while let Some((header, after)) = rest.split_at_checked(BLOCK) {
        if header.iter().all(|byte| *byte == 0) {
            return Ok(entries);
        }
        if header.get(257..262) != Some(b"ustar") {
            return Err(wrong());
        }
        let text = |from: usize, width: usize| {
            let bytes = header.get(from..from + width).unwrap_or_default();
            let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
            String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).into_owned()
        };
        let size = usize::from_str_radix(text(124, 12).trim(), 8).map_err(|_| wrong())?;
        let padded = size.checked_next_multiple_of(BLOCK).ok_or_else(wrong)?;
        let (content, after) = after.split_at_checked(padded).ok_or_else(wrong)?;
        let prefix = text(345, 155);
        let name = if prefix.is_empty() { text(0, 100) } else { format!("{prefix}/{}", text(0, 100)) };
        let kind = match header.get(156) {
            Some(0 | b'0') => Some(EntryKind::File),
            Some(b'1') => Some(EntryKind::Link),
            Some(b'2') => Some(EntryKind::Symlink),
            Some(b'5') => Some(EntryKind::Directory),
            Some(b'x' | b'g' | b'L' | b'K') => None,
            _ => Some(EntryKind::Special),
        };
        if let Some(kind) = kind {
            let content = content.get(..size).unwrap_or_default().to_vec();
            entries.push(Entry { name, kind, target: text(157, 100), content });
        }
        rest = after;
    }
    Err(wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archives_round_trip_and_cut_ones_are_refused() {
        let entries = [
            Entry::file("a/b.txt", "x".repeat(700)),
            Entry::file("empty", ""),
            Entry::special("dir", EntryKind::Directory, ""),
            Entry::special("link", EntryKind::Symlink, "../out"),
        ];
        let archive = write(&entries);
        assert_eq!(read(&archive).unwrap(), entries);
        for cut in [1, 511, 512, 600, 1100] {
            assert!(read(&archive[..cut]).is_err(), "{cut}");
        }
    }

    #[test]
    fn the_system_tar_reads_what_we_write() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), write(&[Entry::file("a/b.txt", "hello")])).unwrap();
        // A machine without `tar` proves nothing, and says so by passing over.
        let Ok(output) = std::process::Command::new("tar").arg("-xOf").arg(file.path()).output() else {
            return;
        };
        assert_eq!(output.stdout, b"hello", "{}", String::from_utf8_lossy(&output.stderr));
    }
}
