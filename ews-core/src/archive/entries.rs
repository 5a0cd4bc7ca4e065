//! Reading the tar format (POSIX ustar and pax, GNU long names), entry by entry, with bounded memory.
//!
//! The header's fields are read by the `tar` crate. The walk over the entries is our own, because that crate's reads a long
//! name or a pax header of any length into memory, takes an archive that was cut between two entries for a whole one, and
//! reads pax records by lines, which a value with a line break upsets. Where readers of the format differ on what an entry
//! is, the entry is refused: who checks an archive and who unpacks it must see the same files.

use std::io::{self, Read};

use tar::{EntryType, Header};

use super::{Limits, ShownBytes, fault};
use crate::error::{Error, ErrorKind, Result};

const BLOCK: usize = 512;

/// The longest pax header that is read, in bytes: names and times take a few hundred, attributes at most 64 KiB on Linux.
const LONGEST_PAX: u64 = 256 * 1024;

/// What an entry is to become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// A file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// Another name of a file that came before.
    HardLink,
}

/// An entry, as its headers say it.
#[derive(Debug)]
#[non_exhaustive]
pub struct Entry {
    /// What it is to become.
    pub kind: Kind,
    /// As written, not checked.
    pub name: Vec<u8>,
    /// Where a link leads, as written.
    pub target: Vec<u8>,
    /// Permission bits, as written.
    pub mode: u32,
    /// Seconds since 1970.
    pub modified: u64,
    /// Bytes of content; none but a file has any.
    pub size: u64,
}

/// What the headers before an entry say of it.
#[derive(Default)]
struct Said {
    name: Option<Vec<u8>>,
    target: Option<Vec<u8>>,
    size: Option<u64>,
    modified: Option<u64>,
    /// Whether anything was said, so that an entry must follow.
    any: bool,
}

/// The entries of an archive. It is a reader too: of the content of the entry that came last.
pub struct Entries<'a, R> {
    from: R,
    limits: &'a Limits,
    /// Content of the last entry that is not read yet, and the rest of its last block.
    content: u64,
    padding: u64,
    /// Headers that stand for no entry; so many may come.
    globals: u64,
}

impl<R> std::fmt::Debug for Entries<'_, R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Entries").field("limits", self.limits).finish_non_exhaustive()
    }
}

impl<'a, R: Read> Entries<'a, R> {
    /// Reads from here. Of the limits, `path` and `entries` are held to: names and targets that take more memory are refused, and so are more
    /// global headers; how many entries come is for the caller to count.
    pub fn new(from: R, limits: &'a Limits) -> Self {
        Self { from, limits, content: 0, padding: 0, globals: limits.entries }
    }

    /// What the archive was read from, once it is at its end.
    pub fn into_inner(self) -> R {
        self.from
    }

    /// The next entry; `None` at the archive's end, which must be marked by an empty block.
    ///
    /// # Errors
    /// `Invalid` for what is no tar archive, is cut off, or holds an entry that is no file, directory or link.
    #[allow(clippy::should_implement_trait, reason = "an iterator could not lend its content")]
    pub fn next(&mut self) -> Result<Option<Entry>> {
        let mut said = Said::default();
        loop {
            self.skip()?;
            let Some(header) = self.header()? else {
                if said.any {
                    return Err(Error::invalid(
                        "the archive ends behind a header that describes one more entry",
                    ));
                }
                return Ok(None);
            };
            let size = header.entry_size().map_err(|error| damaged(&header, &error))?;
            match header.entry_type() {
                EntryType::GNULongName => {
                    let name = self.long_name(size)?;
                    once(&header, &mut said.name, name)?;
                }
                EntryType::GNULongLink => {
                    let target = self.long_name(size)?;
                    once(&header, &mut said.target, target)?;
                }
                EntryType::XHeader => self.pax(&header, size, &mut said)?,
                EntryType::XGlobalHeader => {
                    self.global(&header, size)?;
                    continue;
                }
                _ => return self.entry(&header, size, said).map(Some),
            }
            said.any = true;
        }
    }

    fn entry(&mut self, header: &Header, size: u64, said: Said) -> Result<Entry> {
        let name = said.name.unwrap_or_else(|| header.path_bytes().into_owned());
        let refused = |fault: &str| {
            Err(Error::invalid(format!("the entry `{}` is refused: {fault}", ShownBytes(&name))))
        };
        let kind = match header.entry_type() {
            // Before ustar a directory was a file whose name ends so.
            EntryType::Regular | EntryType::Continuous if name.ends_with(b"/") => Kind::Directory,
            EntryType::Regular | EntryType::Continuous => Kind::File,
            EntryType::Directory => Kind::Directory,
            EntryType::Symlink => Kind::Symlink,
            EntryType::Link => Kind::HardLink,
            EntryType::Char | EntryType::Block => {
                return refused("it is a device; accepted: files, directories and links");
            }
            EntryType::Fifo => return refused("it is a pipe; accepted: files, directories and links"),
            EntryType::GNUSparse => {
                return refused("it is a sparse file; accepted: the same packed without `--sparse`");
            }
            other => {
                let fault = format!(
                    "its type `{}` is not known; accepted: files, directories and links",
                    char::from(other.as_byte()).escape_default()
                );
                return refused(&fault);
            }
        };
        let size = said.size.unwrap_or(size);
        if kind != Kind::File && size != 0 {
            return refused("it is no file and has content; accepted: content of files only");
        }
        self.expect(size)?;
        let target = said.target.unwrap_or_else(|| header.link_name_bytes().unwrap_or_default().into_owned());
        // A field that is blank or damaged is no reason to refuse: it decides nothing that the limits do not hold.
        let mode = header.mode().unwrap_or(0o644);
        let modified = said.modified.unwrap_or_else(|| header.mtime().unwrap_or(0));
        Ok(Entry { kind, name, target, mode, modified, size })
    }

    /// From here on, so much content follows.
    fn expect(&mut self, size: u64) -> Result<()> {
        let padded = size.checked_next_multiple_of(BLOCK as u64);
        let padded = padded.ok_or_else(|| Error::invalid("the size of an entry is out of range"))?;
        self.content = size;
        self.padding = padded - size;
        Ok(())
    }

    /// Reads a header; `None` for an empty block.
    fn header(&mut self) -> Result<Option<Header>> {
        let mut header = Header::new_old();
        self.from.read_exact(header.as_mut_bytes()).map_err(fault)?;
        let bytes = header.as_bytes();
        if bytes.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        // The checksum counts its own field, eight bytes from 148 on, as blanks.
        let sum: u32 = bytes
            .iter()
            .enumerate()
            .map(|(at, byte)| if (148..156).contains(&at) { u32::from(b' ') } else { u32::from(*byte) })
            .sum();
        if header.cksum().is_ok_and(|written| written == sum) {
            return Ok(Some(header));
        }
        Err(Error::invalid(
            "this is not a tar archive, or it is damaged: a header's checksum is wrong; accepted: tar as POSIX or GNU write it",
        ))
    }

    fn long_name(&mut self, size: u64) -> Result<Vec<u8>> {
        // One byte more, since GNU ends it with a NUL.
        let mut name = self.whole(size, self.limits.path as u64 + 1, "a name")?;
        if name.last() == Some(&0) {
            name.pop();
        }
        Ok(name)
    }

    fn global(&mut self, header: &Header, size: u64) -> Result<()> {
        self.globals = self.globals.checked_sub(1).ok_or_else(|| {
            let most = self.limits.entries;
            Error::new(ErrorKind::OutOfResources, format!("more than {most} headers, the limit of entries"))
        })?;
        let mut said = Said::default();
        self.pax(header, size, &mut said)?;
        if said.name.is_some() || said.target.is_some() || said.size.is_some() {
            return Err(Error::invalid(
                "a global pax header gives all entries one name or size; accepted: a header for each entry",
            ));
        }
        Ok(())
    }

    fn pax(&mut self, header: &Header, size: u64, said: &mut Said) -> Result<()> {
        let records = self.whole(size, LONGEST_PAX, "a pax header")?;
        let mut rest = records.as_slice();
        while !rest.is_empty() {
            let ((key, value), after) = record(rest)
                .ok_or_else(|| Error::invalid(format!("{}: a pax record is malformed", Naming(header))))?;
            rest = after;
            match key {
                b"path" => once(header, &mut said.name, value.to_vec())?,
                b"linkpath" => once(header, &mut said.target, value.to_vec())?,
                b"size" => {
                    let size = number(value).ok_or_else(|| {
                        Error::invalid(format!("{}: `{}` is no size", Naming(header), ShownBytes(value)))
                    })?;
                    once(header, &mut said.size, size)?;
                }
                // With a fraction, which is dropped. Times before 1970 are not kept.
                b"mtime" => said.modified = value.split(|byte| *byte == b'.').next().and_then(number),
                _ if key.starts_with(b"GNU.sparse.") => {
                    return Err(Error::invalid(format!(
                        "{}: it is a sparse file; accepted: the same packed without `--sparse`",
                        Naming(header)
                    )));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Reads a header's content into memory.
    fn whole(&mut self, size: u64, most: u64, what: &str) -> Result<Vec<u8>> {
        if size > most {
            return Err(Error::invalid(format!("{what} has {size} bytes; at most {most} are accepted")));
        }
        self.expect(size)?;
        let mut content = Vec::new();
        self.read_to_end(&mut content).map_err(fault)?;
        Ok(content)
    }

    /// Passes over what is left of the entry.
    fn skip(&mut self) -> Result<()> {
        io::copy(self, &mut io::sink()).map_err(fault)?;
        let mut padding = [0; BLOCK];
        let padding = padding.get_mut(..self.padding as usize).unwrap_or_default();
        self.padding = 0;
        self.from.read_exact(padding).map_err(fault)
    }
}

impl<R: Read> Read for Entries<'_, R> {
    /// Reads the content of the last entry. An archive that ends before it does is an error, not an end.
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.content).map_or(into.len(), |left| left.min(into.len()));
        let into = into.get_mut(..most).unwrap_or_default();
        if into.is_empty() {
            return Ok(0);
        }
        let count = self.from.read(into)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.content = self.content.saturating_sub(count as u64);
        Ok(count)
    }
}

/// The entry that a header is about, for a message.
struct Naming<'a>(&'a Header);

impl std::fmt::Display for Naming<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the header `{}`", ShownBytes(&self.0.path_bytes()))
    }
}

fn damaged(header: &Header, error: &io::Error) -> Error {
    Error::invalid(format!("{}: its size can't be read: {error}", Naming(header)))
}

/// An entry that is named twice has a name for each reader.
fn once<T>(header: &Header, slot: &mut Option<T>, value: T) -> Result<()> {
    if slot.replace(value).is_some() {
        return Err(Error::invalid(format!(
            "{}: an entry is given a name, a target or a size twice; accepted: once",
            Naming(header)
        )));
    }
    Ok(())
}

/// A pax record's key and value, and what follows it.
type Record<'a> = ((&'a [u8], &'a [u8]), &'a [u8]);

/// Splits the first pax record off: `length key=value\n`, where the length counts the whole record.
fn record(records: &[u8]) -> Option<Record<'_>> {
    let digits = records.iter().take(8).position(|byte| *byte == b' ')?;
    let length = usize::try_from(number(records.get(..digits)?)?).ok()?;
    let (record, after) = records.split_at_checked(length)?;
    let record = record.get(digits + 1..)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|byte| *byte == b'=')?;
    Some(((record.get(..equals)?, record.get(equals + 1..)?), after))
}

fn number(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}
