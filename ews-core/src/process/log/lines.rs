//! Splits a stream of bytes into lines, in bounded memory and whatever the pieces it comes in.

use super::format::MOST_PAYLOAD;

/// The lines of one stream.
///
/// A line is given without its `\n`; all other bytes are unharmed, a `\r` before it included. A line longer than 64 KiB
/// comes in pieces of 64 KiB, all but the last of them partial. Which pieces come out depends on the bytes alone, never on
/// how they were fed.
///
/// At most 64 KiB are held. A line that is whole in what is fed is given from there, without a copy.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    held: Vec<u8>,
}

impl Lines {
    /// Gives each line, or piece of one, that these bytes make whole, and whether it is partial.
    pub(crate) fn feed(&mut self, mut bytes: &[u8], mut each: impl FnMut(&[u8], bool)) {
        while !bytes.is_empty() {
            // One byte more than there is room for decides whether a full piece is the line's last.
            let room = MOST_PAYLOAD.saturating_sub(self.held.len());
            let reach = bytes.get(..=room).unwrap_or(bytes);
            if let Some(end) = reach.iter().position(|byte| *byte == b'\n') {
                let (line, rest) = bytes.split_at(end);
                self.give(line, false, &mut each);
                bytes = rest.get(1..).unwrap_or_default();
            } else if reach.len() > room {
                let (piece, rest) = bytes.split_at(room);
                self.give(piece, true, &mut each);
                bytes = rest;
            } else {
                self.hold(bytes);
                return;
            }
        }
    }

    /// Gives what is left of a last line without an end. The next line fed begins anew.
    pub(crate) fn finish(&mut self, mut each: impl FnMut(&[u8], bool)) {
        if !self.held.is_empty() {
            self.give(&[], true, &mut each);
        }
    }

    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.held.capacity()
    }

    fn give(&mut self, end: &[u8], partial: bool, each: &mut impl FnMut(&[u8], bool)) {
        if self.held.is_empty() {
            each(end, partial);
        } else {
            self.hold(end);
            each(&self.held, partial);
            self.held.clear();
        }
    }

    fn hold(&mut self, bytes: &[u8]) {
        // Growing step by step would end at twice the bound.
        if self.held.capacity() == 0 {
            self.held.reserve_exact(MOST_PAYLOAD);
        }
        self.held.extend_from_slice(bytes);
    }
}
