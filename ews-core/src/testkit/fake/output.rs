//! What an instance has written: lines per output, within the spec's limits.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use tokio::sync::watch;

use crate::runtime::{LogLine, LogOptions, OutputStream};
use crate::spec::lifecycle::LogLimits;
use crate::time::Timestamp;

/// The longest piece of a line, in bytes; the contract's.
const PIECE: usize = 64 * 1024;

/// The kept output of one instance. Its bound is the spec's `max_size` times `max_files`; the oldest lines go first.
pub(super) struct OutputLog {
    lines: VecDeque<LogLine>,
    /// The number of the first kept line, so that a follower knows its place after a rotation.
    first: u64,
    bytes: u64,
    limit: u64,
    pending: [BytesMut; 2],
    /// Counts changes; followers wait on it.
    pub(super) changed: watch::Sender<u64>,
}

impl OutputLog {
    pub(super) fn new(limits: &LogLimits) -> Self {
        Self {
            lines: VecDeque::new(),
            first: 0,
            bytes: 0,
            limit: limits.max_size.bytes().saturating_mul(u64::from(limits.max_files.max(1))),
            pending: [BytesMut::new(), BytesMut::new()],
            changed: watch::Sender::new(0),
        }
    }

    /// Takes what was written and cuts it into lines, and lines into pieces of at most 64 KiB.
    pub(super) fn write(&mut self, stream: OutputStream, mut bytes: &[u8], at: Timestamp) {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            let (line, rest) = bytes.split_at(end);
            self.extend(stream, line, at);
            self.push(stream, false, at);
            bytes = rest.get(1..).unwrap_or_default();
        }
        self.extend(stream, bytes, at);
        self.changed.send_modify(|version| *version += 1);
    }

    /// The program has ended: what had no end of line is a partial line.
    pub(super) fn end(&mut self, at: Timestamp) {
        for stream in [OutputStream::Stdout, OutputStream::Stderr] {
            if !self.pending(stream).is_empty() {
                self.push(stream, true, at);
            }
        }
        self.changed.send_modify(|version| *version += 1);
    }

    fn pending(&mut self, stream: OutputStream) -> &mut BytesMut {
        let [stdout, stderr] = &mut self.pending;
        if stream == OutputStream::Stdout { stdout } else { stderr }
    }

    fn extend(&mut self, stream: OutputStream, mut bytes: &[u8], at: Timestamp) {
        loop {
            let room = PIECE - self.pending(stream).len();
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.pending(stream).extend_from_slice(now);
            if later.is_empty() {
                return;
            }
            self.push(stream, true, at);
            bytes = later;
        }
    }

    fn push(&mut self, stream: OutputStream, partial: bool, at: Timestamp) {
        let bytes: Bytes = self.pending(stream).split().freeze();
        self.bytes += bytes.len() as u64 + 1;
        self.lines.push_back(LogLine { at, stream, bytes, partial });
        while self.bytes > self.limit && self.lines.len() > 1 {
            if let Some(dropped) = self.lines.pop_front() {
                self.bytes -= dropped.bytes.len() as u64 + 1;
                self.first += 1;
            }
        }
    }

    /// The lines there are, by these options, and the place where a follower goes on.
    pub(super) fn read(&self, options: &LogOptions, now: Timestamp) -> (Vec<LogLine>, u64) {
        let mut lines: Vec<LogLine> = self.from(self.first, options);
        if !options.follow {
            for (stream, pending) in
                [OutputStream::Stdout, OutputStream::Stderr].into_iter().zip(&self.pending)
            {
                let line = LogLine { at: now, stream, bytes: Bytes::copy_from_slice(pending), partial: true };
                if !pending.is_empty() && wanted(&line, options) {
                    lines.push(line);
                }
            }
        }
        if let Some(tail) = options.tail {
            lines.drain(..lines.len().saturating_sub(tail));
        }
        (lines, self.first + self.lines.len() as u64)
    }

    /// The lines from this place on.
    pub(super) fn from(&self, place: u64, options: &LogOptions) -> Vec<LogLine> {
        let skip = usize::try_from(place.saturating_sub(self.first)).unwrap_or(usize::MAX);
        self.lines.iter().skip(skip).filter(|line| wanted(line, options)).cloned().collect()
    }

    pub(super) fn end_place(&self) -> u64 {
        self.first + self.lines.len() as u64
    }
}

fn wanted(line: &LogLine, options: &LogOptions) -> bool {
    let stream = if line.stream == OutputStream::Stdout { options.stdout } else { options.stderr };
    stream && options.since.is_none_or(|since| line.at >= since)
}
