//! The begin of an answer: its head, and how its body ends.
//!
//! No IO here. Two readers of an answer must find the same end of it, so what could be read in two ways is no answer at all: more
//! than one length, a coding that is not just `chunked`, chunks in HTTP/1.0.

use std::mem::MaybeUninit;

use bytes::Bytes;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Response, StatusCode, Version};

/// The largest head, in bytes and headers.
const MAX_BYTES: usize = 256 * 1024;
const MAX_HEADERS: usize = 128;

/// The most answers that are none yet (1xx) before one.
const MAX_INTERIM: u8 = 16;

/// Until so many were looked at, all are whenever something comes, so that who speaks something else is found out at once.
const FIRST_BYTES: usize = 64;

/// How many interim answers came.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Interim(u8);

impl Interim {
    pub(super) fn is_none(self) -> bool {
        self.0 == 0
    }
}

/// An answer's head.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) response: Response<()>,
    pub(crate) framing: Framing,
    /// Whether the connection takes no other request after it.
    pub(crate) is_last: bool,
    /// What came behind the head.
    pub(crate) rest: Bytes,
}

/// How an answer's body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    Length(u64),
    Chunked,
    /// With the connection.
    Close,
}

/// What some bytes hold.
#[derive(Debug)]
pub(crate) enum Read {
    Whole(Head),
    /// Not all of a head; so many bytes of them were interim answers and are not needed any more.
    Partial {
        used: usize,
    },
}

/// Why something is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed;

/// Reads an answer's head, past interim ones, into a copy and an empty map. What stands before `from` was looked at before.
pub(crate) fn read(
    bytes: &[u8],
    from: usize,
    is_head: bool,
    interim: &mut Interim,
    room: impl FnOnce(&[u8]) -> (Bytes, HeaderMap),
) -> Result<Read, Malformed> {
    if from > FIRST_BYTES && !ends_head(bytes, from) {
        return if bytes.len() > MAX_BYTES { Err(Malformed) } else { Ok(Read::Partial { used: 0 }) };
    }
    let mut used = 0;
    loop {
        let here = bytes.get(used..).unwrap_or_default();
        let mut headers = [const { MaybeUninit::uninit() }; MAX_HEADERS];
        let mut response = httparse::Response::new(&mut []);
        let parsed = httparse::ParserConfig::default().parse_response_with_uninit_headers(
            &mut response,
            here,
            &mut headers,
        );
        let length = match parsed {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) if here.len() > MAX_BYTES => return Err(Malformed),
            Ok(httparse::Status::Partial) => return Ok(Read::Partial { used }),
            Err(_) => return Err(Malformed),
        };
        let status = StatusCode::from_u16(response.code.unwrap_or_default()).map_err(|_| Malformed)?;
        if status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS {
            used += length;
            interim.0 += 1;
            if interim.0 > MAX_INTERIM {
                return Err(Malformed);
            }
            continue;
        }
        let version = if response.version == Some(0) { Version::HTTP_10 } else { Version::HTTP_11 };
        // One copy, which all values and the begin of the body are parts of.
        let (whole, mut map) = room(here);
        map.reserve(response.headers.len());
        for header in response.headers.iter() {
            let name = HeaderName::from_bytes(header.name.as_bytes()).map_err(|_| Malformed)?;
            let value = HeaderValue::from_maybe_shared(whole.slice_ref_of(here, header.value));
            map.append(name, value.map_err(|_| Malformed)?);
        }
        return finish(status, version, map, is_head, whole.slice(length..)).map(Read::Whole);
    }
}

/// A part of the copy, where it stands in what was copied.
trait SliceOf {
    fn slice_ref_of(&self, original: &[u8], part: &[u8]) -> Bytes;
}

impl SliceOf for Bytes {
    fn slice_ref_of(&self, original: &[u8], part: &[u8]) -> Bytes {
        let from = (part.as_ptr() as usize).wrapping_sub(original.as_ptr() as usize);
        match self.get(from..).and_then(|rest| rest.get(..part.len())) {
            Some(_) => self.slice(from..from + part.len()),
            // An empty one may stand anywhere.
            None => Bytes::new(),
        }
    }
}

/// Whether a head may end in what came last.
fn ends_head(bytes: &[u8], from: usize) -> bool {
    let tail = bytes.get(from.saturating_sub(3)..).unwrap_or_default();
    let mut rest = tail;
    while let Some(at) = rest.iter().position(|byte| *byte == b'\n') {
        rest = rest.get(at + 1..).unwrap_or_default();
        if matches!(rest, [b'\n', ..] | [b'\r', b'\n', ..]) {
            return true;
        }
    }
    false
}

fn finish(
    status: StatusCode,
    version: Version,
    mut headers: HeaderMap,
    is_head: bool,
    rest: Bytes,
) -> Result<Head, Malformed> {
    let is_chunked = is_chunked(&headers, version)?;
    let length = length(&mut headers)?;
    let has_no_body = is_head
        || status == StatusCode::NO_CONTENT
        || status == StatusCode::NOT_MODIFIED
        || status == StatusCode::SWITCHING_PROTOCOLS;
    let mut is_last = is_last(&headers, version);
    let framing = match (is_chunked, length) {
        _ if has_no_body => Framing::Length(0),
        (true, length) => {
            // Chunks count, and whoever says both may be understood otherwise elsewhere (RFC 9112, section 6.3).
            if length.is_some() {
                headers.remove(header::CONTENT_LENGTH);
                is_last = true;
            }
            Framing::Chunked
        }
        (false, Some(length)) => Framing::Length(length),
        (false, None) => {
            is_last = true;
            Framing::Close
        }
    };
    let mut response = Response::new(());
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    Ok(Head { response, framing, is_last, rest })
}

fn is_chunked(headers: &HeaderMap, version: Version) -> Result<bool, Malformed> {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    let Some(coding) = codings.next() else { return Ok(false) };
    let is_chunked = coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked");
    let is_clear = is_chunked && codings.next().is_none() && version == Version::HTTP_11;
    if is_clear { Ok(true) } else { Err(Malformed) }
}

/// The length that is given. One that is given twice alike is put down once.
fn length(headers: &mut HeaderMap) -> Result<Option<u64>, Malformed> {
    let mut lines = headers.get_all(header::CONTENT_LENGTH).iter();
    let Some(first) = lines.next() else { return Ok(None) };
    let is_one = lines.next().is_none();
    if let (true, Some(length)) = (is_one, digits(first.as_bytes())) {
        return Ok(Some(length));
    }
    let lines = headers.get_all(header::CONTENT_LENGTH).iter();
    let mut lengths = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b',')).map(digits);
    let first = lengths.next().flatten().ok_or(Malformed)?;
    if lengths.any(|other| other != Some(first)) {
        return Err(Malformed);
    }
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(first));
    Ok(Some(first))
}

fn digits(text: &[u8]) -> Option<u64> {
    let text = text.trim_ascii();
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

fn is_last(headers: &HeaderMap, version: Version) -> bool {
    let says = |wanted: &[u8]| {
        let mut lines = headers.get_all(header::CONNECTION).iter();
        lines.any(|line| {
            let mut parts = line.as_bytes().split(|byte| *byte == b',');
            parts.any(|part| part.trim_ascii().eq_ignore_ascii_case(wanted))
        })
    };
    says(b"close") || (version == Version::HTTP_10 && !says(b"keep-alive"))
}
