//! What the fuzz targets reach that nobody else shall.

use bytes::Bytes;
use hyper::HeaderMap;

use super::guard::{Guard, HeadLimits, Verdict};
use super::http1::fuzzing::{Chunks, Framing, Interim, Read, read};
use super::proxy_protocol;

/// What the head guard hands on of these bytes as they come, and how it ends. Nothing is looked at after a refusal.
pub fn heads(pieces: &[&[u8]]) -> (Vec<u8>, String) {
    let limits = HeadLimits { bytes: 8 * 1024, headers: 50 };
    let (mut guard, mut out) = (Guard::new(limits), Vec::new());
    for piece in pieces {
        match guard.advance(piece, &mut |bytes: &[u8]| out.extend_from_slice(bytes)) {
            Verdict::Fine => {}
            verdict => return (out, format!("{verdict:?}")),
        }
    }
    (out, String::new())
}

/// Reads what may stand before a connection's own bytes.
pub fn proxy(bytes: &[u8]) {
    proxy_protocol::parse(bytes);
}

const NO_ANSWER: &str = "no answer";
const MISSED: &str = "the end of a head was missed";

/// What an endpoint's answer is read as that comes in these pieces: its head, its body's bytes, and how it ended.
pub fn answers(pieces: &[&[u8]], is_head: bool) -> (String, Vec<u8>, String) {
    let room = |bytes: &[u8]| (Bytes::copy_from_slice(bytes), HeaderMap::new());
    let (mut kept, mut interim, mut pieces) = (Vec::new(), Interim::default(), pieces.iter());
    let head = loop {
        let Some(piece) = pieces.next() else {
            // Asked about all of it once more: an end must not be missed for where it was cut.
            let is_missed = matches!(read(&kept, 0, is_head, &mut interim, room), Ok(Read::Whole(_)));
            return (String::new(), Vec::new(), if is_missed { MISSED } else { NO_ANSWER }.to_owned());
        };
        let from = kept.len();
        kept.extend_from_slice(piece);
        match read(&kept, from, is_head, &mut interim, room) {
            Ok(Read::Whole(head)) => break head,
            Ok(Read::Partial { used }) => drop(kept.drain(..used)),
            // What is wrong and has no end is found to be wrong at once, or is waited for in vain, by where it was cut.
            Err(_) => return (String::new(), Vec::new(), NO_ANSWER.to_owned()),
        }
    };
    let said = format!(
        "{:?} {:?} {} {:?}",
        head.response.status(),
        head.framing,
        head.is_last,
        head.response.headers()
    );
    let rest = std::iter::once(&head.rest[..]).chain(pieces.copied());
    let (mut body, mut chunks, mut end) = (Vec::new(), Chunks::new(), String::new());
    for mut piece in rest {
        match head.framing {
            Framing::Length(length) => {
                let left = usize::try_from(length).unwrap_or(usize::MAX) - body.len();
                body.extend_from_slice(piece.get(..left).unwrap_or(piece));
            }
            Framing::Close => body.extend_from_slice(piece),
            Framing::Chunked => loop {
                let (data, used) = match chunks.next(piece) {
                    Ok(next) => next,
                    Err(error) => return (said, body, format!("{error:?}")),
                };
                body.extend_from_slice(piece.get(data.clone()).unwrap_or_default());
                piece = piece.get(used..).unwrap_or_default();
                if data.is_empty() {
                    break;
                }
            },
        }
    }
    if chunks.is_done() {
        end = format!("{:?}", chunks.take_trailers());
    }
    (said, body, end)
}
