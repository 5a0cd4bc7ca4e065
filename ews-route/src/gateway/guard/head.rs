//! Reads a request head line by line and decides whether everybody would read it alike.
//!
//! What is accepted is far narrower than what servers accept: the part of HTTP/1 on which no two of them disagree. So the
//! framing found here is the framing that hyper and the upstream find.

use super::chars::{are_value, is_host, is_target, is_token, line_feed, trim};
use super::refusal::Refusal;

/// How much a head may hold.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HeadLimits {
    /// Bytes, from the request line to the empty line.
    pub(crate) bytes: usize,
    /// Headers.
    pub(crate) headers: usize,
}

/// How long the body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    /// So many bytes; zero where the head says nothing.
    Length(u64),
    /// Chunks.
    Chunked,
}

/// What is known after more bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// The head goes on.
    More,
    /// It ended after so many bytes.
    Done { length: usize, framing: Framing },
    /// It is refused.
    Refused(Refusal),
}

/// A head as far as it came.
#[derive(Debug, Default)]
pub(crate) struct Head {
    /// Where the line begins that is not complete yet.
    line: usize,
    /// Up to where no line end was found.
    seen: usize,
    has_request_line: bool,
    is_one_zero: bool,
    headers: usize,
    length: Option<u64>,
    is_chunked: bool,
    has_host: bool,
    /// Where `Host`'s value stands, and the authority of an absolute target.
    host: (usize, usize),
    authority: Option<(usize, usize)>,
}

impl Head {
    /// Looks at the head's bytes, all of them from its first one.
    pub(crate) fn feed(&mut self, bytes: &[u8], limits: &HeadLimits) -> Step {
        loop {
            let rest = bytes.get(self.seen..).unwrap_or_default();
            let Some(at) = line_feed(rest) else {
                self.seen = bytes.len();
                if bytes.len() > limits.bytes {
                    return Step::Refused(Refusal::HeadTooLarge);
                }
                return Step::More;
            };
            let end = self.seen + at + 1;
            if end > limits.bytes {
                return Step::Refused(Refusal::HeadTooLarge);
            }
            let line = bytes.get(self.line..end).unwrap_or_default();
            let Some(line) = line.strip_suffix(b"\r\n") else {
                return Step::Refused(Refusal::BareLineEnd);
            };
            let start = self.line;
            (self.line, self.seen) = (end, end);
            let result = if !self.has_request_line {
                self.has_request_line = true;
                self.request_line(line, start)
            } else if line.is_empty() {
                return match self.finish(bytes) {
                    Ok(framing) => Step::Done { length: end, framing },
                    Err(refusal) => Step::Refused(refusal),
                };
            } else {
                self.headers += 1;
                if self.headers > limits.headers {
                    return Step::Refused(Refusal::TooManyHeaders);
                }
                self.header(line, start)
            };
            if let Err(refusal) = result {
                return Step::Refused(refusal);
            }
        }
    }

    fn request_line(&mut self, line: &[u8], start: usize) -> Result<(), Refusal> {
        if line.contains(&b'\r') {
            return Err(Refusal::BareLineEnd);
        }
        let mut words = line.split(|byte| *byte == b' ');
        let (Some(method), Some(target), version, None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Err(Refusal::RequestLine);
        };
        if method.is_empty() || method.len() > 32 || !method.iter().all(|byte| is_token(*byte)) {
            return Err(Refusal::RequestLine);
        }
        match version {
            Some(b"HTTP/1.1") => {}
            Some(b"HTTP/1.0") => self.is_one_zero = true,
            // HTTP/0.9 has none, HTTP/2 begins with `PRI * HTTP/2.0`.
            Some(version) if version.starts_with(b"HTTP/") => return Err(Refusal::Version),
            _ => return Err(Refusal::RequestLine),
        }
        if method == b"CONNECT" {
            return Err(Refusal::Connect);
        }
        if target.is_empty() || !target.iter().all(|byte| is_target(*byte)) {
            return Err(Refusal::Target);
        }
        if target.starts_with(b"/") || (target == b"*" && method == b"OPTIONS") {
            return Ok(());
        }
        // Absolute form: `http://authority/path`.
        let scheme = target.get(..7).unwrap_or_default();
        if !scheme.eq_ignore_ascii_case(b"http://") {
            return Err(Refusal::Target);
        }
        let rest = target.get(7..).unwrap_or_default();
        let length = rest.iter().position(|byte| matches!(byte, b'/' | b'?')).unwrap_or(rest.len());
        if rest.get(length) == Some(&b'?') {
            return Err(Refusal::Target);
        }
        let from = start + method.len() + 1 + 7;
        self.authority = Some((from, from + length));
        Ok(())
    }

    fn header(&mut self, line: &[u8], start: usize) -> Result<(), Refusal> {
        if matches!(line.first(), Some(b' ' | b'\t')) {
            return Err(Refusal::Folding);
        }
        let colon = line.iter().position(|byte| !is_token(*byte)).ok_or(Refusal::HeaderName)?;
        let (name, value) = line.split_at_checked(colon).ok_or(Refusal::HeaderName)?;
        let Some((b':', value)) = value.split_first() else { return Err(Refusal::HeaderName) };
        if name.is_empty() {
            return Err(Refusal::HeaderName);
        }
        if !are_value(value) {
            return Err(if value.contains(&b'\r') { Refusal::BareLineEnd } else { Refusal::HeaderValue });
        }
        // Only these lengths are of interest, so that most headers are told by their length alone.
        match name.len() {
            4 if name.eq_ignore_ascii_case(b"host") => {
                let trimmed = trim(value);
                if self.has_host || !is_authority(trimmed) {
                    return Err(Refusal::Host);
                }
                self.has_host = true;
                let from = start + colon + 1 + leading(value);
                self.host = (from, from + trimmed.len());
                Ok(())
            }
            14 if name.eq_ignore_ascii_case(b"content-length") => self.content_length(trim(value)),
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => self.transfer_encoding(trim(value)),
            _ if is_disguise(name) => Err(Refusal::Disguised),
            _ => Ok(()),
        }
    }

    fn content_length(&mut self, value: &[u8]) -> Result<(), Refusal> {
        // 19 digits always fit, and no body is longer.
        if self.length.is_some() || !(1..=19).contains(&value.len()) || !value.iter().all(u8::is_ascii_digit)
        {
            return Err(Refusal::ContentLength);
        }
        if self.is_chunked {
            return Err(Refusal::BothLengths);
        }
        let number = value.iter().fold(0_u64, |number, digit| number * 10 + u64::from(digit - b'0'));
        self.length = Some(number);
        Ok(())
    }

    fn transfer_encoding(&mut self, value: &[u8]) -> Result<(), Refusal> {
        if self.length.is_some() {
            return Err(Refusal::BothLengths);
        }
        if self.is_chunked || self.is_one_zero || !value.eq_ignore_ascii_case(b"chunked") {
            return Err(Refusal::TransferEncoding);
        }
        self.is_chunked = true;
        Ok(())
    }

    fn finish(&self, bytes: &[u8]) -> Result<Framing, Refusal> {
        // RFC 9112, section 3.2: exactly one; HTTP/1.0 knew none.
        if !self.has_host && !self.is_one_zero {
            return Err(Refusal::Host);
        }
        if let Some((from, to)) = self.authority {
            let authority = bytes.get(from..to).unwrap_or_default();
            if !is_authority(authority) {
                return Err(Refusal::Target);
            }
            let host = bytes.get(self.host.0..self.host.1).unwrap_or_default();
            if self.has_host && !authority.eq_ignore_ascii_case(host) {
                return Err(Refusal::Target);
            }
        }
        Ok(if self.is_chunked { Framing::Chunked } else { Framing::Length(self.length.unwrap_or(0)) })
    }
}

fn leading(value: &[u8]) -> usize {
    value.iter().position(|byte| !matches!(byte, b' ' | b'\t')).unwrap_or(value.len())
}

/// Whether this is a host with at most one port behind it.
pub(super) fn is_authority(text: &[u8]) -> bool {
    if text.is_empty() || text.len() > 262 || !text.iter().all(|byte| is_host(*byte)) {
        return false;
    }
    let (host, port) = if text.starts_with(b"[") {
        let Some(end) = text.iter().position(|byte| *byte == b']') else { return false };
        let Some((address, port)) = text.split_at_checked(end + 1) else { return false };
        let inner = address.get(1..end).unwrap_or_default();
        let is_address = std::str::from_utf8(inner).is_ok_and(|t| t.parse::<std::net::Ipv6Addr>().is_ok());
        match port.split_first() {
            None => return is_address,
            Some((b':', port)) if is_address => return is_port(port),
            Some(_) => return false,
        }
    } else {
        match text.iter().position(|byte| *byte == b':') {
            None => (text, None),
            Some(at) => (text.get(..at).unwrap_or_default(), text.get(at + 1..)),
        }
    };
    !host.is_empty() && !host.iter().any(|byte| matches!(byte, b'[' | b']')) && port.is_none_or(is_port)
}

/// An empty port is legal (RFC 3986, section 3.2.3).
fn is_port(text: &[u8]) -> bool {
    text.len() <= 5 && text.iter().all(u8::is_ascii_digit)
}

/// Whether some server would read this name as one that frames a body: gateways to CGI turn `-` into `_`, and others drop
/// what they do not know.
pub(super) fn is_disguise(name: &[u8]) -> bool {
    let is_delimiter = |byte: &u8| matches!(byte, b'-' | b'_');
    let letters = || name.iter().filter(|byte| !is_delimiter(byte)).map(u8::to_ascii_lowercase);
    // Most names are told by their first letter.
    matches!(letters().next(), Some(b'c' | b't'))
        && (letters().eq(b"contentlength".iter().copied())
            || letters().eq(b"transferencoding".iter().copied()))
}
