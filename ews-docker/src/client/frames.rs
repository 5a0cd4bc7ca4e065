//! The frames in which an engine sends two outputs over one connection.
//!
//! Eight bytes (the output's number, three zeros, the length), then the payload. A frame's length is an engine's word: payloads are given
//! on as they come, in pieces, so that no length makes us keep one in memory.

use bytes::{Buf as _, Bytes, BytesMut};
use ews_core::runtime::OutputStream;
use ews_core::{Error, ErrorKind, Result};

/// Takes bytes and gives pieces of payload.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    waiting: BytesMut,
    /// Of the frame that is being read: its output, and how much is still to come.
    open: Option<(OutputStream, usize)>,
}

/// A piece of a frame's payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) stream: OutputStream,
    pub(crate) bytes: Bytes,
    /// Whether the frame ends with it.
    pub(crate) ends: bool,
}

impl Frames {
    /// Takes what came.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.waiting.extend_from_slice(bytes);
    }

    /// The next piece, where one is there.
    pub(crate) fn next(&mut self) -> Result<Option<Piece>> {
        loop {
            let (stream, left) = match self.open {
                Some(open) => open,
                None => {
                    let Some(head) = self.waiting.first_chunk::<8>().copied() else { return Ok(None) };
                    let stream = match head {
                        // Standard input's number is used by some engines for messages of their own.
                        [0 | 1, 0, 0, 0, ..] => OutputStream::Stdout,
                        [2, 0, 0, 0, ..] => OutputStream::Stderr,
                        // Docker's number for an error of its own in the middle of a stream.
                        [3, 0, 0, 0, ..] => OutputStream::Stderr,
                        _ => {
                            return Err(Error::new(
                                ErrorKind::Decode,
                                "the engine's stream is not in frames",
                            )
                            .with_detail(format!("{head:02x?}")));
                        }
                    };
                    let [_, _, _, _, a, b, c, d] = head;
                    self.waiting.advance(8);
                    let length = u32::from_be_bytes([a, b, c, d]) as usize;
                    self.open = Some((stream, length));
                    (stream, length)
                }
            };
            if left == 0 {
                self.open = None;
                continue;
            }
            if self.waiting.is_empty() {
                return Ok(None);
            }
            let take = left.min(self.waiting.len());
            let bytes = self.waiting.split_to(take).freeze();
            self.open = (left > take).then_some((stream, left - take));
            return Ok(Some(Piece { stream, bytes, ends: left == take }));
        }
    }

    /// Whether the stream may end here.
    pub(crate) fn is_between_frames(&self) -> bool {
        self.open.is_none() && self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(number: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![number, 0, 0, 0];
        frame.extend_from_slice(&(payload.len() as u32).to_be_bytes());
        frame.extend_from_slice(payload);
        frame
    }

    fn all(frames: &mut Frames) -> Result<Vec<Piece>> {
        std::iter::from_fn(|| frames.next().transpose()).collect()
    }

    #[test]
    fn what_is_no_frame_is_said_to_be_none() {
        let mut frames = Frames::default();
        frames.push(b"hello there");
        assert_eq!(frames.next().unwrap_err().kind(), ErrorKind::Decode);
    }

    #[test]
    fn a_giant_frame_is_given_on_in_pieces() {
        let mut frames = Frames::default();
        frames.push(&[1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]);
        assert_eq!(frames.next().unwrap(), None);
        frames.push(b"abc");
        let piece = frames.next().unwrap().unwrap();
        assert_eq!((&piece.bytes[..], piece.ends), (&b"abc"[..], false));
        assert!(!frames.is_between_frames());
    }

    proptest! {
        #[test]
        fn however_it_is_cut_the_payload_comes_out(
            payloads in prop::collection::vec((1_u8..3, prop::collection::vec(any::<u8>(), 0..40)), 0..12),
            cuts in prop::collection::vec(1_usize..20, 1..40),
        ) {
            let wire: Vec<u8> = payloads.iter().flat_map(|(number, payload)| frame(*number, payload)).collect();
            let (mut frames, mut rest, mut out) = (Frames::default(), &wire[..], [Vec::new(), Vec::new()]);
            for cut in cuts.iter().cycle() {
                if rest.is_empty() { break }
                let (now, later) = rest.split_at((*cut).min(rest.len()));
                rest = later;
                frames.push(now);
                for piece in all(&mut frames).unwrap() {
                    out[usize::from(piece.stream == OutputStream::Stderr)].extend_from_slice(&piece.bytes);
                }
            }
            prop_assert!(all(&mut frames).unwrap().is_empty());
            for number in [1, 2] {
                let wanted: Vec<u8> = payloads.iter().filter(|(n, _)| *n == number).flat_map(|(_, p)| p.clone()).collect();
                prop_assert_eq!(&out[usize::from(number) - 1], &wanted);
            }
            prop_assert!(frames.is_between_frames());
        }

        #[test]
        fn nothing_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut frames = Frames::default();
            frames.push(&bytes);
            let _ = all(&mut frames);
        }
    }
}
