//! A body in chunks on its way back: its own bytes out of what they are wrapped in.
//!
//! The [guard](crate::gateway::guard)'s reader of chunks, which is strict, and one thing that endpoints do and clients must not: spaces
//! behind a chunk's size.

use std::ops::Range;

use hyper::header::{HeaderMap, HeaderName, HeaderValue};

use super::head::Malformed;
use crate::gateway::guard::ChunkedBody;

/// The most trailers.
const MAX_TRAILERS: usize = 64;

/// Reads chunks.
#[derive(Debug)]
pub(crate) struct Chunks {
    body: ChunkedBody,
    /// Whether spaces came behind a size: then it has no more digits.
    is_padded: bool,
    trailers: Vec<u8>,
}

impl Chunks {
    pub(crate) fn new() -> Self {
        Self { body: ChunkedBody::chunked(), is_padded: false, trailers: Vec::new() }
    }

    pub(crate) fn is_done(&self) -> bool {
        self.body.is_done()
    }

    /// Where the next of the body's own bytes lie, and how many bytes are used with them. Empty where there are none in these, or
    /// none any more.
    pub(crate) fn next(&mut self, bytes: &[u8]) -> Result<(Range<usize>, usize), Malformed> {
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            let data = self.body.take_data(bytes.len() - at);
            if data > 0 {
                return Ok((at..at + data, at + data));
            }
            if self.body.is_done() {
                break;
            }
            at += 1;
            let is_space = byte == b' ' || byte == b'\t';
            if is_space && self.body.is_behind_size() {
                self.is_padded = true;
                continue;
            }
            if std::mem::take(&mut self.is_padded) && byte != b'\r' && byte != b';' {
                return Err(Malformed);
            }
            let is_trailer = self.body.is_in_trailers();
            self.body.step(byte).map_err(|_| Malformed)?;
            if is_trailer {
                self.trailers.push(byte);
            }
        }
        Ok((at..at, at))
    }

    /// The trailers behind the last chunk.
    pub(crate) fn take_trailers(&mut self) -> Result<Option<HeaderMap>, Malformed> {
        let bytes = std::mem::take(&mut self.trailers);
        if bytes.len() <= b"\r\n".len() {
            return Ok(None);
        }
        let mut trailers = [httparse::EMPTY_HEADER; MAX_TRAILERS];
        let Ok(httparse::Status::Complete((_, found))) = httparse::parse_headers(&bytes, &mut trailers)
        else {
            return Err(Malformed);
        };
        let mut map = HeaderMap::with_capacity(found.len());
        for trailer in found {
            let name = HeaderName::from_bytes(trailer.name.as_bytes()).map_err(|_| Malformed)?;
            map.append(name, HeaderValue::from_bytes(trailer.value).map_err(|_| Malformed)?);
        }
        Ok(Some(map))
    }
}
