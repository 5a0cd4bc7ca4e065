//! Reads the records of one segment, forwards and backwards, through a window of bounded size.
//!
//! The segment may be written to meanwhile. Both directions trust what they have once seen whole, because a whole record
//! never changes, and read anything else again from the file before they say that it is not there.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};

use super::format::{self, MOST_RECORD, Parsed, Place, Record};

/// How much of a segment is in memory. Larger than any record, so that one that does not fit is not whole.
const WINDOW: usize = 256 * 1024;
const _: () = assert!(WINDOW >= MOST_RECORD);

/// Reads forwards. It keeps the file open, so the segment can be finished after the writer has removed it.
#[derive(Debug)]
pub(super) struct Forward {
    file: File,
    /// Where the next record begins.
    place: Place,
    window: Vec<u8>,
    /// How much of the window lies before `place`.
    taken: usize,
}

/// What follows the last whole record of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Remainder {
    Nothing,
    /// The beginning of a record, as a killed writer leaves it.
    Torn,
    /// Something that no writer left there.
    Damaged,
}

impl Forward {
    /// From this place on, which must be where a record begins.
    pub(super) fn new(file: File, place: Place) -> Self {
        Self { file, place, window: Vec::new(), taken: 0 }
    }

    /// Where the next record begins.
    pub(super) fn place(&self) -> Place {
        self.place
    }

    /// The next record and its payload; `None` where none is whole, which may be different the next time.
    pub(super) fn next(&mut self) -> io::Result<Option<(Record, &[u8])>> {
        let record = match format::parse(self.unread(), self.place) {
            Parsed::Whole(record) => record,
            Parsed::Torn | Parsed::Damaged => {
                self.load()?;
                match format::parse(self.unread(), self.place) {
                    Parsed::Whole(record) => record,
                    Parsed::Torn | Parsed::Damaged => return Ok(None),
                }
            }
        };
        let begin = self.taken;
        self.taken += record.size();
        self.place.offset += record.size() as u64;
        Ok(Some((record, record.payload(self.window.get(begin..).unwrap_or_default()))))
    }

    /// Skips all whole records and says what follows the last.
    pub(super) fn skip_whole(&mut self) -> io::Result<Remainder> {
        while self.next()?.is_some() {}
        Ok(match format::parse(self.unread(), self.place) {
            _ if self.unread().is_empty() => Remainder::Nothing,
            Parsed::Damaged => Remainder::Damaged,
            Parsed::Whole(_) | Parsed::Torn => Remainder::Torn,
        })
    }

    fn unread(&self) -> &[u8] {
        self.window.get(self.taken..).unwrap_or_default()
    }

    fn load(&mut self) -> io::Result<()> {
        self.taken = 0;
        load(&self.file, self.place.offset, WINDOW as u64, &mut self.window)
    }
}

/// Reads backwards.
#[derive(Debug)]
pub(super) struct Backward<'a> {
    file: &'a File,
    /// Where the record before ends.
    place: Place,
    window: Vec<u8>,
    window_begin: u64,
}

/// What stands before a place in a segment.
#[derive(Debug)]
pub(super) enum Previous {
    Record(Record),
    /// The segment begins here.
    Nothing,
    /// No record ends here: one is being written, a writer was killed in it, or it is damaged.
    Broken,
}

impl<'a> Backward<'a> {
    /// Begins before this place.
    pub(super) fn new(file: &'a File, place: Place) -> Self {
        Self { file, place, window: Vec::new(), window_begin: place.offset }
    }

    /// Where the record last given begins.
    pub(super) fn place(&self) -> Place {
        self.place
    }

    /// The record that ends where the one last given begins.
    pub(super) fn previous(&mut self) -> io::Result<Previous> {
        if self.place.offset == 0 {
            return Ok(Previous::Nothing);
        }
        let found = match self.parse() {
            Some(found) => Some(found),
            None => {
                self.window_begin = self.place.offset.saturating_sub(WINDOW as u64);
                load(self.file, self.window_begin, self.place.offset - self.window_begin, &mut self.window)?;
                self.parse()
            }
        };
        Ok(match found {
            Some((record, begin)) => {
                self.place.offset = begin;
                Previous::Record(record)
            }
            None => Previous::Broken,
        })
    }

    fn parse(&self) -> Option<(Record, u64)> {
        let end = usize::try_from(self.place.offset.checked_sub(self.window_begin)?).ok()?;
        let before = self.window.get(..end)?;
        let size = format::size_by_trailer(before)?;
        let begin = end.checked_sub(size)?;
        let place = Place { offset: self.window_begin + begin as u64, ..self.place };
        match format::parse(before.get(begin..)?, place) {
            Parsed::Whole(record) if record.size() == size => Some((record, place.offset)),
            _ => None,
        }
    }
}

fn load(mut file: &File, begin: u64, most: u64, window: &mut Vec<u8>) -> io::Result<()> {
    window.clear();
    file.seek(SeekFrom::Start(begin))?;
    file.take(most).read_to_end(window)?;
    Ok(())
}
