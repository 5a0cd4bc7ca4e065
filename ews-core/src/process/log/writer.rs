//! Writes a log: appends, rotates, and survives a disk that refuses.

use std::io;
use std::path::{Path, PathBuf};

use super::disk::{Disk, Files, Segment};
use super::format::{self, MOST_PAYLOAD, Place};
use super::scan::{Forward, Remainder};
use super::segment;
use crate::runtime::OutputStream;
use crate::spec::lifecycle::LogLimits;
use crate::time::Timestamp;

/// How much of the system's words a record of what was lost quotes, in characters.
const MOST_REASON: usize = 200;

/// Appends records to the newest segment. There is one writer of a directory at a time.
///
/// A record is handed to the disk in one call, so that a reader sees it at once, and is not held back: a writer that is
/// killed loses at most the record it was writing. It is not forced to the platter, so a machine that loses its power may
/// lose more.
///
/// Writing never fails. What the disk refuses is counted and given up, since the program must not wait for a log; the first
/// record that can be written again is preceded by one that says how much is missing and why.
#[derive(Debug)]
pub(crate) struct LogWriter<D: Disk = Files> {
    disk: D,
    dir: PathBuf,
    max_size: u64,
    max_files: usize,
    /// `None` until the first record, where there is no segment to go on with.
    current: Option<Current<D::Segment>>,
    /// The number of the segment to begin next.
    next: u64,
    dropped: Dropped,
    /// What was lost and not said yet.
    lost: Option<Lost>,
    /// Kept, so that no record costs an allocation.
    frame: Vec<u8>,
}

#[derive(Debug)]
struct Current<S> {
    segment: S,
    /// Where the next record begins.
    end: Place,
    /// Whether something that is no record may lie behind `end`, which could not be cut off.
    torn: bool,
}

/// What a writer could not write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Dropped {
    /// Lines, or pieces of long ones.
    pub(crate) lines: u64,
    /// Their bytes, without the lines' ends.
    pub(crate) bytes: u64,
}

#[derive(Debug)]
struct Lost {
    dropped: Dropped,
    reason: String,
}

impl LogWriter {
    /// Goes on with the log in this directory, which is created where it is missing, behind its last whole record.
    ///
    /// The rest of a record that a killed writer left is cut off. A newest segment that is damaged otherwise is left as it
    /// is, and a new one begun.
    pub(crate) fn open(dir: &Path, limits: &LogLimits) -> io::Result<Self> {
        Self::open_on(Files, dir, limits)
    }
}

impl<D: Disk> LogWriter<D> {
    pub(super) fn open_on(disk: D, dir: &Path, limits: &LogLimits) -> io::Result<Self> {
        disk.create_dir(dir)?;
        let mut writer = Self {
            disk,
            dir: dir.to_owned(),
            max_size: limits.max_size.bytes(),
            max_files: usize::try_from(limits.max_files.max(1)).unwrap_or(usize::MAX),
            current: None,
            next: 1,
            dropped: Dropped::default(),
            lost: None,
            frame: Vec::new(),
        };
        let numbers = segment::numbers(dir)?;
        if let Some(newest) = numbers.last() {
            writer.next = newest.saturating_add(1);
            writer.current = writer.go_on(*newest)?;
        }
        if numbers.len() > writer.max_files {
            writer.keep(writer.max_files);
        }
        Ok(writer)
    }

    fn go_on(&self, number: u64) -> io::Result<Option<Current<D::Segment>>> {
        let Some(file) = segment::open(&self.dir, number)? else { return Ok(None) };
        let mut records = Forward::new(file, Place { segment: number, offset: 0 });
        let remainder = records.skip_whole()?;
        if remainder == Remainder::Damaged {
            return Ok(None);
        }
        let segment = self.disk.open(&segment::path(&self.dir, number))?;
        Ok(Some(Current { segment, end: records.place(), torn: true }))
    }

    /// Writes a line, or a piece of one, that was read at this time. One of more than 64 KiB is written in pieces, all but
    /// the last of them partial.
    pub(crate) fn write(&mut self, stream: OutputStream, at: Timestamp, bytes: &[u8], partial: bool) {
        let mut rest = bytes;
        while let Some((piece, after)) = rest.split_at_checked(MOST_PAYLOAD)
            && !after.is_empty()
        {
            self.write_record(stream, at, piece, true);
            rest = after;
        }
        self.write_record(stream, at, rest, partial);
    }

    /// What could not be written since this writer was opened, whether or not the log says so by now.
    pub(crate) fn dropped(&self) -> Dropped {
        self.dropped
    }

    /// Tries once more to say what was lost, for a writer that has nothing else to write any more.
    pub(crate) fn finish(&mut self, at: Timestamp) {
        if self.lost.is_some() {
            // What is lost stays counted; nobody is left whom the failure could tell more.
            let _ = self.append(at, None);
        }
    }

    fn write_record(&mut self, stream: OutputStream, at: Timestamp, payload: &[u8], partial: bool) {
        let line = Line { stream, payload, partial };
        if let Err(error) = self.append(at, Some(&line)) {
            let lost = self.lost.get_or_insert_with(|| Lost::because(&error));
            for dropped in [&mut lost.dropped, &mut self.dropped] {
                dropped.lines = dropped.lines.saturating_add(1);
                dropped.bytes = dropped.bytes.saturating_add(payload.len() as u64);
            }
        }
    }

    /// Appends what is to be said of losses and this line, in one call.
    fn append(&mut self, at: Timestamp, line: Option<&Line<'_>>) -> io::Result<()> {
        let notice = self.lost.as_ref().map(Lost::text);
        let told = notice.as_ref().map_or(0, |text| format::size(text.len()));
        let size = told + line.map_or(0, |line| format::size(line.payload.len()));
        self.make_room(size as u64)?;
        let Some(current) = &mut self.current else { return Err(io::Error::other("no segment is open")) };

        let frame = &mut self.frame;
        frame.clear();
        if let Some(text) = notice {
            format::append(frame, current.end, OutputStream::Stderr, at, false, text.as_bytes());
        }
        if let Some(line) = line {
            let place = Place { offset: current.end.offset + told as u64, ..current.end };
            format::append(frame, place, line.stream, at, line.partial, line.payload);
        }
        let (written, result) = put(&mut current.segment, frame);
        // A record that is whole in the file stays, although what follows it failed: a reader may have it.
        let whole = match &result {
            Ok(()) => size,
            Err(_) if written >= told => told,
            Err(_) => 0,
        };
        current.end.offset += whole as u64;
        if whole >= told {
            self.lost = None;
        }
        if result.is_err() {
            current.torn = current.segment.cut(current.end.offset).is_err();
        }
        result
    }

    /// Sees to it that the current segment is one that a record of this size belongs to, with nothing behind its end.
    fn make_room(&mut self, size: u64) -> io::Result<()> {
        if let Some(current) = &mut self.current {
            let is_full = current.end.offset > 0 && current.end.offset.saturating_add(size) > self.max_size;
            if !is_full && current.torn && current.segment.cut(current.end.offset).is_ok() {
                current.torn = false;
            }
            // Where the rest can't be cut off, it may as well end a segment: readers go on with the next.
            if !is_full && !current.torn {
                return Ok(());
            }
        }
        // Room is made first, since on a full disk this may be all the room there is. The segment being read most, the
        // current one, stays until there is another.
        self.keep(self.max_files.saturating_sub(1).max(1));
        let segment = self.disk.create(&segment::path(&self.dir, self.next))?;
        self.current = Some(Current { segment, end: Place { segment: self.next, offset: 0 }, torn: false });
        self.next = self.next.saturating_add(1);
        self.keep(self.max_files);
        Ok(())
    }

    /// Removes the oldest segments but so many. One that can't be removed now is tried again at the next rotation.
    fn keep(&self, most: usize) {
        let numbers = segment::numbers(&self.dir).unwrap_or_default();
        for number in numbers.iter().rev().skip(most) {
            let _ = std::fs::remove_file(segment::path(&self.dir, *number));
        }
    }
}

struct Line<'a> {
    stream: OutputStream,
    payload: &'a [u8],
    partial: bool,
}

impl Lost {
    fn because(error: &io::Error) -> Self {
        let reason = error.to_string().chars().filter(|c| !c.is_control()).take(MOST_REASON).collect();
        Self { dropped: Dropped::default(), reason }
    }

    fn text(&self) -> String {
        let Dropped { lines, bytes } = self.dropped;
        format!("ews: {lines} lines ({bytes} bytes) of output were lost here: {}", self.reason)
    }
}

/// Writes all of this, in one call where the system takes it so, and says how much of it was written.
fn put(segment: &mut impl Segment, bytes: &[u8]) -> (usize, io::Result<()>) {
    let mut rest = bytes;
    while !rest.is_empty() {
        match segment.write(rest) {
            Ok(0) => return (bytes.len() - rest.len(), Err(io::ErrorKind::WriteZero.into())),
            Ok(written) => rest = rest.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (bytes.len() - rest.len(), Err(error)),
        }
    }
    (bytes.len(), Ok(()))
}
