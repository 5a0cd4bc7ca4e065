//! Reads a log, batch by batch, while it is written, rotated and removed.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::format::{Place, Record};
use super::scan::Forward;
use super::{segment, tail};
use crate::error::{Error, ErrorKind, Result};
use crate::runtime::{LogLine, LogOptions, OutputStream};
use crate::time::Timestamp;

/// A batch ends with the line that reaches one of these.
const MOST_LINES: usize = 1_000;
const MOST_BYTES: usize = 256 * 1024;

/// How often a segment may be removed between its being listed and opened until it is said that reading does not keep up.
const MOST_ROUNDS: usize = 64;

/// Reads what was written, the oldest first, and remembers how far it has come. All its calls block on the disk.
///
/// With [`follow`](LogOptions::follow) it may be asked again after nothing was there. Without, it ends where the log ended
/// when it was opened, however fast the program writes on.
///
/// It holds the segment open that it reads and finishes it although the writer has removed it. A reader that falls behind
/// further than that goes on with the oldest segment there is. Where a segment is damaged, what follows in it is skipped.
#[derive(Debug)]
pub(crate) struct LogReader {
    dir: PathBuf,
    filter: Filter,
    /// Where it ends; `None` never.
    end: Option<Place>,
    current: Option<Current>,
    /// The segment read last.
    finished: u64,
}

#[derive(Debug)]
struct Current {
    records: Forward,
    /// Whether a newer segment was seen. What is read from here on is all there will ever be.
    is_final: bool,
}

/// Which lines are wanted.
#[derive(Debug)]
pub(super) struct Filter {
    since: Option<Timestamp>,
    stdout: bool,
    stderr: bool,
}

impl Filter {
    pub(super) fn wants(&self, record: &Record) -> bool {
        let stream = match record.stream {
            OutputStream::Stdout => self.stdout,
            OutputStream::Stderr => self.stderr,
        };
        stream && self.since.is_none_or(|since| record.at >= since)
    }
}

impl LogReader {
    /// Begins with what the options ask for. A directory that does not exist yet is an empty log.
    ///
    /// # Errors
    /// `Unauthorized` where the log may not be read; `Unavailable` where the disk refuses.
    pub(crate) fn open(dir: PathBuf, options: &LogOptions) -> Result<Self> {
        Self::begin(dir, options).map_err(|error| failed(&error))
    }

    fn begin(dir: PathBuf, options: &LogOptions) -> io::Result<Self> {
        let filter = Filter { since: options.since, stdout: options.stdout, stderr: options.stderr };
        // What is read first is opened before anything else is looked at, so that no rotation takes it away.
        let oldest = if options.tail.is_none() { open_after(&dir, 0)? } else { None };
        let newest = newest(&dir)?;
        let end = newest.as_ref().map_or(Place { segment: 0, offset: 0 }, |(_, end)| *end);
        let records = match (options.tail, newest) {
            (Some(wanted), Some((file, end))) => Some(tail::start(&dir, file, end, &filter, wanted)?),
            _ => oldest,
        };
        let current = records.map(|records| Current { records, is_final: false });
        Ok(Self { dir, filter, end: (!options.follow).then_some(end), current, finished: 0 })
    }

    /// The next lines, at most 1,000 and about 256 KiB; none where there is nothing more at present.
    ///
    /// # Errors
    /// As for [`open`](Self::open).
    pub(crate) fn read(&mut self) -> Result<Vec<LogLine>> {
        self.batch().map_err(|error| failed(&error))
    }

    fn batch(&mut self) -> io::Result<Vec<LogLine>> {
        loop {
            let current = match &mut self.current {
                Some(current) => current,
                None => match open_after(&self.dir, self.finished)? {
                    Some(records) => self.current.insert(Current { records, is_final: false }),
                    None => return Ok(Vec::new()),
                },
            };
            let lines = lines_of(&mut current.records, &self.filter, self.end)?;
            if !lines.is_empty() || is_past(current.records.place(), self.end) {
                return Ok(lines);
            }
            let number = current.records.place().segment;
            if current.is_final {
                self.finished = number;
                self.current = None;
            } else if segment::numbers(&self.dir)?.last().is_some_and(|newest| *newest > number) {
                // Between the look at this segment and at the directory the writer may have ended the one and begun the
                // other; so this one is looked at once more.
                current.is_final = true;
            } else {
                return Ok(Vec::new());
            }
        }
    }
}

fn lines_of(records: &mut Forward, filter: &Filter, end: Option<Place>) -> io::Result<Vec<LogLine>> {
    let (mut lines, mut bytes) = (Vec::new(), 0);
    while lines.len() < MOST_LINES && bytes < MOST_BYTES && !is_past(records.place(), end) {
        let Some((record, payload)) = records.next()? else { break };
        if filter.wants(&record) {
            bytes += payload.len();
            lines.push(LogLine {
                at: record.at,
                stream: record.stream,
                // A copy, since a slice would keep the whole window alive for as long as one line is kept.
                bytes: Bytes::copy_from_slice(payload),
                partial: record.partial,
            });
        }
    }
    Ok(lines)
}

fn is_past(place: Place, end: Option<Place>) -> bool {
    end.is_some_and(|end| (place.segment, place.offset) >= (end.segment, end.offset))
}

/// The newest segment and where it ends now, which may be amid a record; `None` where there is no segment.
fn newest(dir: &Path) -> io::Result<Option<(File, Place)>> {
    for _ in 0..MOST_ROUNDS {
        let Some(number) = segment::numbers(dir)?.pop() else { return Ok(None) };
        if let Some(file) = segment::open(dir, number)? {
            let offset = file.metadata()?.len();
            return Ok(Some((file, Place { segment: number, offset })));
        }
    }
    Err(outrun())
}

/// Opens the first segment after this one that exists.
fn open_after(dir: &Path, number: u64) -> io::Result<Option<Forward>> {
    for _ in 0..MOST_ROUNDS {
        let later: Vec<u64> = segment::numbers(dir)?.into_iter().filter(|later| *later > number).collect();
        if later.is_empty() {
            return Ok(None);
        }
        for segment in later {
            if let Some(file) = segment::open(dir, segment)? {
                return Ok(Some(Forward::new(file, Place { segment, offset: 0 })));
            }
        }
    }
    Err(outrun())
}

fn outrun() -> io::Error {
    io::Error::other("segments are removed faster than they can be opened")
}

fn failed(error: &io::Error) -> Error {
    let kind = match error.kind() {
        io::ErrorKind::PermissionDenied => ErrorKind::Unauthorized,
        _ => ErrorKind::Unavailable,
    };
    Error::new(kind, format!("the log can't be read: {error}")).with_operation("runtime.logs")
}
