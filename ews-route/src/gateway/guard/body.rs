//! Follows a body to its end, so that the next head is found exactly where everybody else finds it.

use super::chars::{is_token, is_value};
use super::head::Framing;
use super::refusal::Refusal;

/// The most bytes of a chunk's extensions, and of all trailers together. Nobody uses more; floods do.
const MAX_EXTENSION: usize = 4 * 1024;
const MAX_TRAILERS: usize = 16 * 1024;

/// Where in a body the next byte stands.
#[derive(Debug)]
pub(crate) struct Body(State);

#[derive(Debug, Clone, Copy)]
enum State {
    Length(u64),
    Size {
        digits: u8,
        value: u64,
    },
    Extension {
        length: usize,
        value: u64,
    },
    SizeEnd {
        value: u64,
    },
    Data(u64),
    DataCr,
    DataLf,
    /// At the begin of a trailer or of the line that ends all.
    Line {
        length: usize,
    },
    Name {
        length: usize,
        any: bool,
    },
    Value {
        length: usize,
    },
    LineEnd {
        length: usize,
    },
    LastLf,
    Done,
}

impl Body {
    pub(crate) fn new(framing: Framing) -> Self {
        Self(match framing {
            Framing::Length(0) => State::Done,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::Size { digits: 0, value: 0 },
        })
    }

    /// One in chunks.
    pub(crate) fn chunked() -> Self {
        Self::new(Framing::Chunked)
    }

    pub(crate) fn is_done(&self) -> bool {
        matches!(self.0, State::Done)
    }

    /// How many of these bytes belong to the body.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Result<usize, Refusal> {
        let mut at = 0;
        while let Some(byte) = bytes.get(at).filter(|_| !self.is_done()) {
            let taken = self.take_data(bytes.len() - at);
            at += taken;
            if taken == 0 {
                self.step(*byte)?;
                at += 1;
            }
        }
        Ok(at)
    }

    /// How many of the next so many bytes are the body's own, and not what it is wrapped in.
    pub(crate) fn take_data(&mut self, most: usize) -> usize {
        let (State::Length(left) | State::Data(left)) = &mut self.0 else { return 0 };
        let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(most);
        *left -= taken as u64;
        match self.0 {
            State::Length(0) => self.0 = State::Done,
            State::Data(0) => self.0 = State::DataCr,
            _ => {}
        }
        taken
    }

    /// Takes a byte of what it is wrapped in.
    pub(crate) fn step(&mut self, byte: u8) -> Result<(), Refusal> {
        self.0 = self.0.next(byte)?;
        Ok(())
    }

    /// Whether a chunk's size has begun, and has not ended.
    pub(crate) fn is_behind_size(&self) -> bool {
        matches!(self.0, State::Size { digits: 1.., .. })
    }

    /// Whether the last chunk has come, and trailers or the end of all follow.
    pub(crate) fn is_in_trailers(&self) -> bool {
        matches!(
            self.0,
            State::Line { .. }
                | State::Name { .. }
                | State::Value { .. }
                | State::LineEnd { .. }
                | State::LastLf
        )
    }
}

impl State {
    fn next(self, byte: u8) -> Result<Self, Refusal> {
        Ok(match (self, byte) {
            (Self::Size { digits, value }, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') if digits < 15 => {
                let digit = char::from(byte).to_digit(16).unwrap_or(0);
                Self::Size { digits: digits + 1, value: value * 16 + u64::from(digit) }
            }
            (Self::Size { digits: 1.., value }, b'\r') => Self::SizeEnd { value },
            (Self::Size { digits: 1.., value }, b';') => Self::Extension { length: 0, value },
            (Self::Extension { value, .. }, b'\r') => Self::SizeEnd { value },
            (Self::Extension { length, value }, _) if length < MAX_EXTENSION && is_value(byte) => {
                Self::Extension { length: length + 1, value }
            }
            (Self::SizeEnd { value: 0 }, b'\n') => Self::Line { length: 0 },
            (Self::SizeEnd { value }, b'\n') => Self::Data(value),
            (Self::DataCr, b'\r') => Self::DataLf,
            (Self::DataLf, b'\n') => Self::Size { digits: 0, value: 0 },
            (Self::Line { .. }, b'\r') => Self::LastLf,
            (Self::Line { length }, _) if is_token(byte) => Self::Name { length, any: true },
            (Self::Name { length, .. }, _) if length >= MAX_TRAILERS => return Err(Refusal::Trailer),
            (Self::Value { length }, _) if length >= MAX_TRAILERS => return Err(Refusal::Trailer),
            (Self::Name { length, any: true }, b':') => Self::Value { length: length + 1 },
            (Self::Name { length, .. }, _) if is_token(byte) => Self::Name { length: length + 1, any: true },
            (Self::Value { length }, b'\r') => Self::LineEnd { length: length + 1 },
            (Self::Value { length }, _) if is_value(byte) => Self::Value { length: length + 1 },
            (Self::LineEnd { length }, b'\n') => Self::Line { length: length + 1 },
            (Self::LastLf, b'\n') => Self::Done,
            (
                Self::Line { .. }
                | Self::Name { .. }
                | Self::Value { .. }
                | Self::LineEnd { .. }
                | Self::LastLf,
                _,
            ) => return Err(Refusal::Trailer),
            _ => return Err(Refusal::Chunk),
        })
    }
}
