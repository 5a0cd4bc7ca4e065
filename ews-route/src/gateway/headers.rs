//! What a gateway takes from a message's headers and adds to them.

use hyper::HeaderMap;
use hyper::header::{self, HeaderName, HeaderValue};

use super::connection::Connection;
use super::{client, trace};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");
pub(crate) const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
pub(crate) const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
pub(crate) const FORWARDED: HeaderName = HeaderName::from_static("forwarded");
/// Tells one request from all others.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The most names that one `Connection` header takes out.
const NOMINATED: usize = 16;

/// Removes what belongs to one connection only (RFC 9110, section 7.6.1).
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    // One walk over the few that are there is cheaper than a look-up for each that might be.
    let mut found = 0_u8;
    for name in headers.keys() {
        found |= match *name {
            header::CONNECTION => 1,
            header::TRANSFER_ENCODING => 2,
            header::UPGRADE => 4,
            header::TE => 8,
            header::PROXY_AUTHORIZATION | header::PROXY_AUTHENTICATE => 16,
            _ if name == KEEP_ALIVE => 32,
            _ if name == PROXY_CONNECTION || name == HTTP2_SETTINGS => 64,
            _ => 0,
        };
    }
    if found == 0 {
        return;
    }
    if found & 1 != 0 {
        for name in nominated(headers) {
            headers.remove(name);
        }
        headers.remove(header::CONNECTION);
    }
    if found & 2 != 0 {
        headers.remove(header::TRANSFER_ENCODING);
    }
    if found & 4 != 0 {
        headers.remove(header::UPGRADE);
    }
    // Whether the sender understands trailers concerns both ends; all else that `TE` may say does not.
    if found & 8 != 0
        && !headers.get(header::TE).is_some_and(|te| te.as_bytes().eq_ignore_ascii_case(b"trailers"))
    {
        headers.remove(header::TE);
    }
    if found & 16 != 0 {
        headers.remove(header::PROXY_AUTHORIZATION);
        headers.remove(header::PROXY_AUTHENTICATE);
    }
    if found & 32 != 0 {
        headers.remove(KEEP_ALIVE);
    }
    if found & 64 != 0 {
        headers.remove(PROXY_CONNECTION);
        headers.remove(HTTP2_SETTINGS);
    }
}

/// The headers that `Connection` takes out. It can't take out what the request means or what this gateway adds: that was
/// an attack on others.
fn nominated(headers: &HeaderMap) -> Vec<HeaderName> {
    let names = headers.get_all(header::CONNECTION).iter();
    let names = names.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    let names = names.filter_map(|name| {
        let name = name.trim_ascii();
        // What nearly all say.
        if name.eq_ignore_ascii_case(b"keep-alive") || name.eq_ignore_ascii_case(b"close") {
            return None;
        }
        HeaderName::from_bytes(name).ok()
    });
    names.filter(|name| !is_end_to_end(name)).take(NOMINATED).collect()
}

fn is_end_to_end(name: &HeaderName) -> bool {
    [
        header::HOST,
        header::CONTENT_LENGTH,
        header::CONTENT_TYPE,
        header::AUTHORIZATION,
        header::COOKIE,
        header::TE,
        header::CACHE_CONTROL,
        header::ORIGIN,
        REQUEST_ID,
        FORWARDED,
        X_REAL_IP,
    ]
    .contains(name)
        || name.as_str().starts_with("x-forwarded-")
}

/// HTTP/2 sends each cookie by itself, HTTP/1.1 has one line for all (RFC 9113, section 8.2.3).
pub(crate) fn join_cookies(headers: &mut HeaderMap) {
    let mut lines = headers.get_all(header::COOKIE).iter();
    if lines.next().is_none() || lines.next().is_none() {
        return;
    }
    let lines: Vec<&[u8]> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if let Ok(joined) = HeaderValue::from_bytes(&lines.join(&b"; "[..])) {
        headers.insert(header::COOKIE, joined);
    }
}

/// Tells the endpoint who asks for what.
pub(crate) fn add_forwarded(headers: &mut HeaderMap, connection: &Connection) {
    let forwarding = &connection.thread.shared.config.forwarding;
    let believed = connection.is_believed();
    if believed {
        extend(headers, X_FORWARDED_FOR, b", ", connection.client().as_bytes());
        headers.entry(X_FORWARDED_PROTO).or_insert(HeaderValue::from_static(connection.scheme));
        if let Some(host) = headers.get(header::HOST).cloned() {
            headers.entry(X_FORWARDED_HOST).or_insert(host);
        }
    } else {
        let mut claims = forwarding.send_forwarded;
        for name in headers.keys() {
            claims |= *name == FORWARDED || name == X_REAL_IP || name == X_FORWARDED_PORT;
        }
        if claims {
            headers.remove(FORWARDED);
            headers.remove(X_REAL_IP);
            headers.remove(X_FORWARDED_PORT);
        }
        headers.insert(X_FORWARDED_FOR, connection.client().clone());
        headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(connection.scheme));
        if let Some(host) = headers.get(header::HOST).cloned() {
            headers.insert(X_FORWARDED_HOST, host);
        }
    }
    if forwarding.send_forwarded {
        let element = client::element(connection, headers.get(header::HOST));
        extend(headers, FORWARDED, b", ", &element);
    }
    if forwarding.trace_context {
        trace::ensure(headers, || connection.thread.random());
    }
    if let header::Entry::Vacant(entry) = headers.entry(REQUEST_ID) {
        entry.insert(request_id(connection));
    }
}

/// Puts more at the end of a list that may stand in several lines.
fn extend(headers: &mut HeaderMap, name: HeaderName, between: &[u8], more: &[u8]) {
    let mut list: Vec<&[u8]> = headers.get_all(&name).iter().map(HeaderValue::as_bytes).collect();
    list.push(more);
    if let Ok(value) = HeaderValue::from_bytes(&list.join(between)) {
        headers.insert(name, value);
    }
}

/// 128 random bits in hexadecimal: unique, not secret.
fn request_id(connection: &Connection) -> HeaderValue {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = [b'0'; 32];
    for half in text.chunks_mut(16) {
        let mut number = connection.thread.random();
        for place in half {
            *place = DIGITS.get((number & 15) as usize).copied().unwrap_or(b'0');
            number >>= 4;
        }
    }
    let text = connection.thread.shared_copy(&text);
    HeaderValue::from_maybe_shared(text).unwrap_or(HeaderValue::from_static("0"))
}

/// A host as routes know it: in lower case, without port and final dot. An address in brackets stays as it is.
pub(crate) fn host_name(authority: &str) -> std::borrow::Cow<'_, str> {
    let host = match authority.strip_prefix('[') {
        Some(address) => address.split(']').next().unwrap_or(address),
        None => authority.split(':').next().unwrap_or(authority),
    };
    let host = host.strip_suffix('.').unwrap_or(host);
    if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
        host.to_ascii_lowercase().into()
    } else {
        host.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&str, &str)| {
            (HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap())
        };
        let mut headers = HeaderMap::new();
        for (name, value) in pairs.iter().map(pair) {
            headers.append(name, value);
        }
        headers
    }

    #[test]
    fn what_belongs_to_one_connection_goes() {
        let mut headers = map(&[
            ("connection", "keep-alive, X-Mine"),
            ("connection", "host, content-length, x-forwarded-for, cookie"),
            ("keep-alive", "5"),
            ("x-mine", "1"),
            ("te", "gzip"),
            ("upgrade", "h2c"),
            ("http2-settings", "x"),
            ("proxy-connection", "keep-alive"),
            ("proxy-authorization", "x"),
            ("transfer-encoding", "chunked"),
            ("host", "a"),
            ("content-length", "1"),
            ("cookie", "c"),
            ("x-forwarded-for", "1"),
            ("trailer", "t"),
        ]);
        strip_hop_by_hop(&mut headers);
        let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["content-length", "cookie", "host", "trailer", "x-forwarded-for"]);
        let mut headers = map(&[("te", "trailers")]);
        strip_hop_by_hop(&mut headers);
        assert_eq!(headers.len(), 1);
    }

    #[test]
    fn hosts_become_names() {
        for (authority, wanted) in
            [("A.Example:80", "a.example"), ("a.", "a"), ("[::1]:80", "::1"), ("1.2.3.4", "1.2.3.4")]
        {
            assert_eq!(host_name(authority), wanted);
        }
    }
}
