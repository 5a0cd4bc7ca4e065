//! What is judged of a request that came over HTTP/2, before it becomes one over HTTP/1.1.
//!
//! The crate `h2` refuses upper-case names, fields of one connection, control characters and bodies that contradict their
//! length. Left are those things that only an HTTP/1.1 reader stumbles over.

use hyper::{Method, Request, header};

use super::chars::is_target;
use super::head::{is_authority, is_disguise};
use super::refusal::Refusal;

/// Whether a request may be passed on.
pub(crate) fn judge<B>(request: &Request<B>) -> Result<(), Refusal> {
    let (uri, headers) = (request.uri(), request.headers());
    if request.method() == Method::CONNECT {
        return Err(Refusal::Connect);
    }
    if !matches!(uri.scheme_str(), None | Some("http" | "https")) {
        return Err(Refusal::Target);
    }
    let target = uri.path_and_query().map_or("", |path| path.as_str());
    let is_path = target.starts_with('/') || (target == "*" && request.method() == Method::OPTIONS);
    if !is_path || !target.bytes().all(is_target) {
        return Err(Refusal::Target);
    }
    // RFC 9113, section 8.3.1: `:authority`, or `Host` in its place; if both, they agree.
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = hosts.next().map(|host| host.as_bytes());
    let authority = uri.authority().map(|authority| authority.as_str().as_bytes());
    let is_one = match (authority, host) {
        (Some(authority), Some(host)) => authority.eq_ignore_ascii_case(host),
        (authority, host) => authority.or(host).is_some(),
    };
    if hosts.next().is_some() || !is_one || !authority.or(host).is_some_and(is_authority) {
        return Err(Refusal::Host);
    }
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    if let Some(length) = lengths.next() {
        let length = length.as_bytes();
        if lengths.next().is_some()
            || !(1..=19).contains(&length.len())
            || !length.iter().all(u8::is_ascii_digit)
        {
            return Err(Refusal::ContentLength);
        }
    }
    if headers.contains_key(header::TRANSFER_ENCODING) {
        return Err(Refusal::TransferEncoding);
    }
    let is_known = |name: &header::HeaderName| *name == header::CONTENT_LENGTH;
    if headers.keys().any(|name| !is_known(name) && is_disguise(name.as_str().as_bytes())) {
        return Err(Refusal::Disguised);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(method: &str, uri: &str, headers: &[(&str, &str)]) -> Result<(), Refusal> {
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        judge(&request.body(()).unwrap())
    }

    #[test]
    fn what_an_older_reader_could_take_otherwise_is_refused() {
        for (uri, headers) in [
            ("https://shop.example/a?b=c", &[][..]),
            ("https://shop.example:8443/", &[("host", "SHOP.example:8443"), ("content-length", "0")]),
            ("/", &[("host", "[::1]:80")]),
        ] {
            assert_eq!(judged("GET", uri, headers), Ok(()), "{uri} {headers:?}");
        }
        for (method, uri, headers, wanted) in [
            ("GET", "/", &[][..], Refusal::Host),
            ("GET", "https://a.example/", &[("host", "b.example")], Refusal::Host),
            ("GET", "/", &[("host", "a"), ("host", "a")], Refusal::Host),
            ("GET", "/", &[("host", "a b")], Refusal::Host),
            ("GET", "https://user@a.example/", &[], Refusal::Host),
            ("GET", "ftp://a.example/", &[], Refusal::Target),
            ("GET", "https://a.example/\u{e4}", &[], Refusal::Target),
            ("CONNECT", "a.example:443", &[], Refusal::Connect),
            (
                "GET",
                "https://a.example/",
                &[("content-length", "1"), ("content-length", "1")],
                Refusal::ContentLength,
            ),
            ("GET", "https://a.example/", &[("content-length", "+1")], Refusal::ContentLength),
            ("GET", "https://a.example/", &[("transfer-encoding", "chunked")], Refusal::TransferEncoding),
            ("GET", "https://a.example/", &[("content_length", "1")], Refusal::Disguised),
        ] {
            assert_eq!(judged(method, uri, headers), Err(wanted), "{method} {uri} {headers:?}");
        }
    }
}
