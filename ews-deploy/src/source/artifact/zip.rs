//! A zip archive as a tree.
//!
//! The reader is our own, and strict. A zip says everything twice, in a header before each entry's bytes and in a directory at its end,
//! and nothing keeps the two alike: who checks one and unpacks the other sees two archives. The `zip` crate goes by the directory alone
//! and keeps entries in a map, so that of two entries of one name one is lost before anybody could refuse it. Here both must say the
//! same, entries must not share bytes (the bomb that unpacks 5 GB from 46 MB does), names come once, and nothing stands before or behind.
//!
//! Read are entries that are stored or deflated, with sizes above 4 GiB too (zip64); not encrypted or split ones.

use std::io::{self, BufReader, Read};

use ews_core::archive::ShownBytes;
use ews_core::{Error, ErrorKind, Result};
use flate2::Crc;
use flate2::read::DeflateDecoder;

use super::UploadLimits;
use super::names::Rules;
use super::tree::{Planting, Tree, too_much};
use crate::source::scratch::{Part, Scratch, ScratchFile, of_disk};

const END: u32 = 0x0605_4b50;
const END64: u32 = 0x0606_4b50;
const LOCATOR64: u32 = 0x0706_4b50;
const CENTRAL: u32 = 0x0201_4b50;
const LOCAL: u32 = 0x0403_4b50;
const END_SIZE: u64 = 22;

/// An entry, as the directory at the end tells it.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) name: Vec<u8>,
    flags: u16,
    deflated: bool,
    crc: u32,
    packed: u64,
    size: u64,
    /// Where its own header stands.
    offset: u64,
    /// Unix's mode; 0 where it was made elsewhere.
    mode: u32,
}

/// Reads a zip archive.
///
/// # Errors
/// `Invalid` for what is damaged, ambiguous or refused, which is named; `Unsupported` for other methods and encryption; `OutOfResources`
/// beyond a limit.
pub(super) fn read(file: &ScratchFile, rules: Rules<'_>, scratch: &Scratch) -> Result<Tree> {
    let entries = list(file, rules.limits)?;
    let mut planting = Planting::new(rules, file.size(), scratch)?;
    for entry in &entries {
        read_entry(file, entry, &mut planting, rules.limits.name)?;
    }
    planting.finish()
}

fn read_entry(file: &ScratchFile, entry: &Entry, planting: &mut Planting<'_>, longest: usize) -> Result<()> {
    let data = data_of(file, entry)?;
    let kind = entry.mode & 0o170_000;
    if entry.name.ends_with(b"/") || kind == 0o040_000 {
        if entry.size != 0 {
            return Err(refused(entry, "it is a directory and has content"));
        }
        return planting.directory(&entry.name);
    }
    let mut content = Checked { from: unpacked(data, entry), crc: Crc::new(), left: entry.size, entry };
    match kind {
        0 | 0o100_000 => {
            planting.file(&entry.name, entry.mode & 0o111 != 0, &mut content)?;
        }
        0o120_000 => {
            let mut target = Vec::new();
            (&mut content)
                .take(longest as u64 + 1)
                .read_to_end(&mut target)
                .map_err(ews_core::archive::fault)?;
            planting.link(&entry.name, &target)?;
        }
        _ => return Err(refused(entry, "it is a device, a pipe or a socket")),
    }
    Ok(())
}

fn unpacked<'a>(data: Part<'a>, entry: &Entry) -> Box<dyn Read + 'a> {
    if entry.deflated { Box::new(DeflateDecoder::new(data)) } else { Box::new(data) }
}

/// Reads content of the size and sum that were announced, or fails.
struct Checked<'a> {
    from: Box<dyn Read + 'a>,
    crc: Crc,
    left: u64,
    entry: &'a Entry,
}

impl Read for Checked<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.from.read(into)?;
        let wrong = |fault: &str| Err(io::Error::other(refused(self.entry, fault)));
        if count == 0 && !into.is_empty() {
            if self.left != 0 {
                return wrong("its content ends before its size");
            }
            if self.crc.sum() != self.entry.crc {
                return wrong("its content is damaged: the checksum is another");
            }
            return Ok(0);
        }
        let Some(left) = self.left.checked_sub(count as u64) else {
            return wrong("its content is longer than its size");
        };
        self.left = left;
        self.crc.update(into.get(..count).unwrap_or_default());
        Ok(count)
    }
}

/// The entries of a zip archive in the order of their bytes, which are apart from each other.
///
/// # Errors
/// As [`read`], for what the directory tells.
pub(super) fn list(file: &ScratchFile, limits: &UploadLimits) -> Result<Vec<Entry>> {
    let end = End::find(file)?;
    if end.count > limits.entries {
        return Err(too_much("entries", limits.entries, "entries"));
    }
    let mut reader = BufReader::new(file.part(end.directory, end.at - end.directory));
    let (mut entries, mut names) = (Vec::new(), 0_usize);
    for _ in 0..end.count {
        let entry = central(&mut reader, limits)?;
        names += entry.name.len();
        if names > 64 << 20 {
            return Err(too_much("names", 64 << 20, "bytes of names"));
        }
        entries.push(entry);
    }
    if reader.read(&mut [0]).map_err(|error| of_disk("the scratch space", error))? != 0 {
        return Err(Error::invalid("the zip archive's directory holds more than the entries that it counts"));
    }
    entries.sort_by_key(|entry| entry.offset);
    let mut free = 0;
    for entry in &entries {
        if entry.offset < free {
            return Err(refused(entry, "its bytes are another entry's too, as only a bomb's are"));
        }
        if free == 0 && entry.offset != 0 {
            return Err(Error::invalid(
                "something stands before the zip archive's first entry; accepted: a plain archive",
            ));
        }
        let data = data_of(file, entry)?;
        free = data.end();
        if free > end.directory {
            return Err(refused(entry, "its bytes reach into the archive's directory"));
        }
    }
    let (most, limit) = limits.unpacked_from(file.size());
    let total = entries.iter().try_fold(0_u64, |sum, entry| sum.checked_add(entry.size));
    if total.is_none_or(|total| total > most) {
        return Err(too_much(limit, most, "bytes when unpacked"));
    }
    Ok(entries)
}

/// Where the directory is.
struct End {
    count: u64,
    directory: u64,
    /// Where it ends.
    at: u64,
}

impl End {
    fn find(file: &ScratchFile) -> Result<Self> {
        let none = || {
            Error::invalid(
                "the zip archive has no directory at its end: it was cut off, or something follows it",
            )
        };
        let longest = END_SIZE + u64::from(u16::MAX);
        let start = file.size().saturating_sub(longest);
        let mut tail = Vec::new();
        file.part(start, longest)
            .read_to_end(&mut tail)
            .map_err(|error| of_disk("the scratch space", error))?;
        let at = (0..tail.len().saturating_sub(END_SIZE as usize - 1)).rev().find(|at| {
            let field = tail.get(*at..).unwrap_or_default();
            let comment = field.get(20..22).and_then(|two| two.try_into().ok()).map(u16::from_le_bytes);
            field.starts_with(&END.to_le_bytes())
                && comment.is_some_and(|comment| field.len() as u64 == END_SIZE + u64::from(comment))
        });
        let at = at.ok_or_else(none)?;
        let record = tail.get(at..).unwrap_or_default();
        let at = start + at as u64;
        let mut fields = Fields(record.get(4..).unwrap_or_default());
        let disks = (fields.u16()?, fields.u16()?);
        let (here, count, size, directory) = (fields.u16()?, fields.u16()?, fields.u32()?, fields.u32()?);
        let plain = Self { count: count.into(), directory: directory.into(), at };
        let wide = here == u16::MAX || count == u16::MAX || size == u32::MAX || directory == u32::MAX;
        let (found, size) = match if wide { Self::find_wide(file, at)? } else { None } {
            Some(found) => found,
            None => {
                if disks != (0, 0) || here != count {
                    return Err(Error::new(
                        ErrorKind::Unsupported,
                        "the zip archive is split; accepted: one file",
                    ));
                }
                (plain, size.into())
            }
        };
        if found.directory.checked_add(size) != Some(found.at) {
            return Err(Error::invalid(
                "the zip archive's directory is not where its end says: something was put before or behind the archive",
            ));
        }
        Ok(found)
    }

    /// The end in 64 bits, which stands before the other.
    fn find_wide(file: &ScratchFile, end: u64) -> Result<Option<(Self, u64)>> {
        let Some(locator) = end.checked_sub(20) else { return Ok(None) };
        let mut bytes = [0; 20];
        read_exact(file, locator, &mut bytes)?;
        let mut fields = Fields(&bytes);
        if fields.u32()? != LOCATOR64 {
            return Ok(None);
        }
        let (disk, at, disks) = (fields.u32()?, fields.u64()?, fields.u32()?);
        let mut bytes = [0; 56];
        if at.checked_add(56) != Some(locator) || disk != 0 || disks > 1 {
            return Err(Error::invalid("the zip archive's end in 64 bits is not where it is said to be"));
        }
        read_exact(file, at, &mut bytes)?;
        let mut fields = Fields(&bytes);
        let (mark, rest) = (fields.u32()?, fields.u64()?);
        let _versions = fields.u32()?;
        let disks = (fields.u32()?, fields.u32()?);
        let (here, count, size, directory) = (fields.u64()?, fields.u64()?, fields.u64()?, fields.u64()?);
        if mark != END64 || rest != 44 || disks != (0, 0) || here != count {
            return Err(Error::invalid("the zip archive's end in 64 bits is damaged"));
        }
        Ok(Some((Self { count, directory, at }, size)))
    }
}

fn central(reader: &mut impl Read, limits: &UploadLimits) -> Result<Entry> {
    let mut head = [0; 46];
    reader.read_exact(&mut head).map_err(cut)?;
    let mut fields = Fields(&head);
    if fields.u32()? != CENTRAL {
        return Err(Error::invalid("the zip archive's directory is damaged"));
    }
    let (made_by, _needed, flags, method) = (fields.u16()?, fields.u16()?, fields.u16()?, fields.u16()?);
    let _time = fields.u32()?;
    let (crc, packed, size) = (fields.u32()?, fields.u32()?, fields.u32()?);
    let (name_size, extra_size, comment_size) = (fields.u16()?, fields.u16()?, fields.u16()?);
    let (disk, _internal, external, offset) = (fields.u16()?, fields.u16()?, fields.u32()?, fields.u32()?);
    if usize::from(name_size) > limits.name {
        return Err(Error::invalid(format!(
            "an entry's name has {name_size} bytes; the limit is {}",
            limits.name
        )));
    }
    let mut name = vec![0; name_size.into()];
    let mut extra = vec![0; extra_size.into()];
    reader.read_exact(&mut name).and_then(|()| reader.read_exact(&mut extra)).map_err(cut)?;
    io::copy(&mut reader.take(comment_size.into()), &mut io::sink()).map_err(cut)?;
    // The upper half of the attributes is Unix's only where Unix (3) or macOS (19) made the entry.
    let mode = if matches!(made_by >> 8, 3 | 19) { external >> 16 } else { 0 };
    let mut entry = Entry {
        name,
        flags,
        deflated: method == 8,
        crc,
        packed: packed.into(),
        size: size.into(),
        offset: offset.into(),
        mode,
    };
    if flags & 0x2041 != 0 {
        return Err(unsupported(&entry, "it is encrypted"));
    }
    if !matches!(method, 0 | 8) {
        return Err(unsupported(&entry, &format!("it is compressed by method {method}")));
    }
    if disk != 0 && disk != u16::MAX {
        return Err(unsupported(&entry, "it lies in another part of a split archive"));
    }
    more(&mut entry, &extra, [size == u32::MAX, packed == u32::MAX, offset == u32::MAX])?;
    if !entry.deflated && entry.packed != entry.size {
        return Err(refused(&entry, "it is stored and has two sizes"));
    }
    Ok(entry)
}

/// What stands in the extra fields: sizes in 64 bits, and another name.
fn more(entry: &mut Entry, extra: &[u8], wide: [bool; 3]) -> Result<()> {
    let mut rest = Fields(extra);
    let mut seen = false;
    // Some tools fill up with less than a field's head.
    while rest.0.len() >= 4 {
        let (id, size) = (rest.u16()?, rest.u16()?);
        let Some((field, after)) = rest.0.split_at_checked(size.into()) else {
            return Err(refused(entry, "its extra fields are damaged"));
        };
        rest = Fields(after);
        match id {
            1 if seen => return Err(refused(entry, "its sizes in 64 bits come twice")),
            1 => {
                seen = true;
                let mut field = Fields(field);
                for (wanted, slot) in
                    wide.into_iter().zip([&mut entry.size, &mut entry.packed, &mut entry.offset])
                {
                    if wanted {
                        *slot = field.u64()?;
                    }
                }
            }
            // Info-ZIP's name in UTF-8, behind a version and the sum of the other name.
            0x7075 if field.get(5..).is_some_and(|name| name != entry.name) => {
                return Err(refused(entry, "it has two names, of which readers take one or the other"));
            }
            _ => {}
        }
    }
    if wide.contains(&true) && !seen {
        return Err(refused(entry, "its sizes in 64 bits are missing"));
    }
    Ok(())
}

/// The bytes of an entry, behind its own header, which must say what the directory says.
fn data_of<'a>(file: &'a ScratchFile, entry: &Entry) -> Result<Part<'a>> {
    let mut head = [0; 30];
    read_exact(file, entry.offset, &mut head)?;
    let mut fields = Fields(&head);
    if fields.u32()? != LOCAL {
        return Err(refused(entry, "its header is not where the directory says"));
    }
    let (_needed, flags, method) = (fields.u16()?, fields.u16()?, fields.u16()?);
    let _time = fields.u32()?;
    let (crc, packed, size) = (fields.u32()?, fields.u32()?, fields.u32()?);
    let (name_size, extra_size) = (fields.u16()?, fields.u16()?);
    let mut name = vec![0; name_size.into()];
    read_exact(file, entry.offset + 30, &mut name)?;
    // Bit 3: the sizes follow the content, and the header may have zeros.
    let told = flags & 8 == 0;
    let same = |here: u32, there: u64| here == u32::MAX || u64::from(here) == there;
    let alike = name == entry.name
        && (method == 8) == entry.deflated
        && flags & 0x2041 == 0
        && flags & 8 == entry.flags & 8
        && (!told || (crc == entry.crc && same(packed, entry.packed) && same(size, entry.size)));
    if !alike {
        return Err(refused(entry, "its header and the archive's directory say different things of it"));
    }
    let start = entry.offset + 30 + u64::from(name_size) + u64::from(extra_size);
    if start.checked_add(entry.packed).is_none_or(|end| end > file.size()) {
        return Err(refused(entry, "its content is cut off"));
    }
    Ok(file.part(start, entry.packed))
}

fn read_exact(file: &ScratchFile, offset: u64, into: &mut [u8]) -> Result<()> {
    file.part(offset, into.len() as u64).read_exact(into).map_err(cut)
}

fn cut(error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => {
            Error::invalid("the zip archive is cut off or damaged").with_source(error)
        }
        _ => of_disk("the scratch space", error),
    }
}

fn refused(entry: &Entry, fault: &str) -> Error {
    Error::invalid(format!("the entry `{}` is refused: {fault}", ShownBytes(&entry.name)))
}

fn unsupported(entry: &Entry, fault: &str) -> Error {
    let message = format!(
        "the entry `{}` is refused: {fault}; accepted: entries that are stored or deflated",
        ShownBytes(&entry.name)
    );
    Error::new(ErrorKind::Unsupported, message)
}

/// Little-endian fields, one after the other.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N]> {
        let short = || Error::invalid("a record of the zip archive is too short");
        let (field, rest) = self.0.split_first_chunk::<N>().ok_or_else(short)?;
        self.0 = rest;
        Ok(*field)
    }

    fn u16(&mut self) -> Result<u16> {
        self.take().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64> {
        self.take().map(u64::from_le_bytes)
    }
}
