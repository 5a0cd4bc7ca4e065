//! How one record lies in a segment.
//!
//! All numbers are little-endian:
//!
//! | Bytes | What |
//! |---|---|
//! | 2 | the mark of a record; its second byte is the version of this format |
//! | 4 | a CRC-32 over the segment's number, the record's offset in it, and all that follows |
//! | 4 | the length of the payload |
//! | 8 | when it was written, in microseconds since 1970, which is what a [`Timestamp`] holds |
//! | 1 | the stream: 1 standard output, 2 standard error |
//! | 1 | flags: 1 for a line whose end is missing; others are ignored |
//! | … | the payload, at most 64 KiB |
//! | 4 | the length of the payload again, so that a segment can be read backwards |
//!
//! The checksum covers the place because a program may print anything, a segment of its own log included: bytes that
//! happen to lie where a record is looked for are no record unless they were written to stand there.

use flate2::Crc;

use crate::runtime::OutputStream;
use crate::time::Timestamp;

/// The longest payload, which is the longest piece of a line that [`LogLine`](crate::runtime::LogLine) promises.
pub(super) const MOST_PAYLOAD: usize = 64 * 1024;

/// What a record takes beyond its payload.
const FRAME: usize = HEADER + TRAILER;
const HEADER: usize = 20;
const TRAILER: usize = 4;

const MARK: [u8; 2] = [0xE5, 1];
const PARTIAL: u8 = 1;

/// The longest record.
pub(super) const MOST_RECORD: usize = MOST_PAYLOAD + FRAME;

/// Where a record begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) segment: u64,
    pub(super) offset: u64,
}

/// A record without its payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) at: Timestamp,
    pub(super) stream: OutputStream,
    /// Whether the line's end is missing.
    pub(super) partial: bool,
    payload: usize,
}

impl Record {
    /// How many bytes it takes in the segment.
    pub(super) fn size(&self) -> usize {
        size(self.payload)
    }

    /// The payload of this record, which `bytes` begin with.
    pub(super) fn payload<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        bytes.get(HEADER..HEADER + self.payload).unwrap_or_default()
    }
}

/// What bytes that should begin with a record begin with.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Parsed {
    Whole(Record),
    /// The beginning of a record of which the end is missing, or nothing at all.
    Torn,
    /// Not what a writer leaves, wherever it is stopped.
    Damaged,
}

/// How many bytes a record with such a payload takes.
pub(super) fn size(payload: usize) -> usize {
    payload + FRAME
}

/// Appends a record to `frame` that is to stand at `place`. The caller sees to it that the payload is not too long.
pub(super) fn append(
    frame: &mut Vec<u8>,
    place: Place,
    stream: OutputStream,
    at: Timestamp,
    partial: bool,
    payload: &[u8],
) {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_le_bytes();
    let stream = match stream {
        OutputStream::Stdout => 1,
        OutputStream::Stderr => 2,
    };
    let [l0, l1, l2, l3] = length;
    let [a0, a1, a2, a3, a4, a5, a6, a7] = at.as_micros().to_le_bytes();
    let head = [l0, l1, l2, l3, a0, a1, a2, a3, a4, a5, a6, a7, stream, if partial { PARTIAL } else { 0 }];
    frame.extend_from_slice(&MARK);
    frame.extend_from_slice(&checksum(place, &[&head, payload, &length]).to_le_bytes());
    frame.extend_from_slice(&head);
    frame.extend_from_slice(payload);
    frame.extend_from_slice(&length);
}

/// Reads the record that `bytes`, found at `place`, begin with. Nothing is allocated, whatever the bytes say.
pub(super) fn parse(bytes: &[u8], place: Place) -> Parsed {
    let Some((header, _)) = bytes.split_first_chunk::<HEADER>() else {
        let begun = bytes.get(..MARK.len()).unwrap_or(bytes);
        return if MARK.starts_with(begun) { Parsed::Torn } else { Parsed::Damaged };
    };
    let [m0, m1, c0, c1, c2, c3, l0, l1, l2, l3, at @ .., stream, flags] = *header;
    let length = u32::from_le_bytes([l0, l1, l2, l3]);
    let payload = usize::try_from(length).unwrap_or(usize::MAX);
    if [m0, m1] != MARK || payload > MOST_PAYLOAD {
        return Parsed::Damaged;
    }
    let Some(bytes) = bytes.get(..size(payload)) else { return Parsed::Torn };
    let covered = bytes.get(MARK.len() + 4..).unwrap_or_default();
    let stream = match stream {
        1 => OutputStream::Stdout,
        2 => OutputStream::Stderr,
        _ => return Parsed::Damaged,
    };
    if !covered.ends_with(&length.to_le_bytes())
        || checksum(place, &[covered]) != u32::from_le_bytes([c0, c1, c2, c3])
    {
        return Parsed::Damaged;
    }
    let at = Timestamp::from_micros(u64::from_le_bytes(at));
    Parsed::Whole(Record { at, stream, partial: flags & PARTIAL != 0, payload })
}

/// How many bytes the record takes of which `bytes` are the end, by its trailing length; not yet whether it is one.
pub(super) fn size_by_trailer(bytes: &[u8]) -> Option<usize> {
    let (_, trailer) = bytes.split_last_chunk::<TRAILER>()?;
    let payload = usize::try_from(u32::from_le_bytes(*trailer)).ok()?;
    (payload <= MOST_PAYLOAD).then(|| size(payload))
}

fn checksum(place: Place, parts: &[&[u8]]) -> u32 {
    let mut crc = Crc::new();
    crc.update(&place.segment.to_le_bytes());
    crc.update(&place.offset.to_le_bytes());
    for part in parts {
        crc.update(part);
    }
    crc.sum()
}
