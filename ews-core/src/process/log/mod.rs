//! What a program has written, kept in files that are bounded, framed and survive their writer.
//!
//! The *shim*, one process per instance, splits a program's output into [`Lines`] and appends each to the newest segment
//! with a [`LogWriter`]. The *controller*, another process of the same user, reads the segments at the same time with a
//! [`LogReader`], mostly through [`stream`]. Nothing but the files connects the two, so the files carry the agreement:
//!
//! - A directory holds segments, numbered from 1: `00000001.log`, `00000002.log`, … Only the newest is written to; from the
//!   moment the next one exists, a segment never changes again. The oldest are removed.
//! - A segment is a row of records ([`mod@format`]). A record is whole or it does not count: it carries a checksum over its
//!   content and its place, so what a killed writer left half, what a disk damaged and what merely looks like a record are
//!   all told from a record that was written there.
//! - Whole records never change. A writer that fails cuts back what is not whole, and nothing else.
//!
//! From this follows what a reader does where it finds no whole record: in the newest segment it waits, in an older one it
//! goes on with the next.

mod disk;
mod format;
mod lines;
mod reader;
mod scan;
mod segment;
mod stream;
mod tail;
#[cfg(test)]
mod tests;
mod writer;

pub(crate) use lines::Lines;
pub(crate) use stream::stream;
pub(crate) use writer::LogWriter;
#[cfg(test)]
use {reader::LogReader, writer::Dropped};
