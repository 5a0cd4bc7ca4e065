//! One line.

use std::io::Write as _;
use std::time::Duration;

use ews_core::Timestamp;
use ews_core::endpoint::EndpointAddress;
use hyper::header::{self, HeaderValue};
use hyper::http::uri::PathAndQuery;
use hyper::{HeaderMap, Method, Request, StatusCode, Version};

use super::AccessFormat;
use crate::gateway::trace::trace_id;

/// The most bytes of one text in a line.
const MAX_TEXT: usize = 4 * 1024;

/// What a line says of a request. Nothing in it was copied but pointers.
#[derive(Debug)]
pub(crate) struct Entry {
    client: HeaderValue,
    scheme: &'static str,
    method: Method,
    host: Option<HeaderValue>,
    target: Option<PathAndQuery>,
    version: Version,
    user_agent: Option<HeaderValue>,
    referer: Option<HeaderValue>,
    pub(crate) request_id: Option<HeaderValue>,
    /// Its trace context, as it stands in `traceparent`.
    pub(crate) trace: Option<HeaderValue>,
}

/// What a line says of how it ended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct End<'a> {
    pub(crate) at: Timestamp,
    /// `None` where there was no answer.
    pub(crate) status: Option<StatusCode>,
    /// Of the body, as far as it was handed to the client's connection.
    pub(crate) bytes: u64,
    pub(crate) duration: Duration,
    pub(crate) pool: Option<&'a str>,
    pub(crate) endpoint: Option<&'a EndpointAddress>,
    pub(crate) failure: Option<&'static str>,
}

impl Entry {
    pub(crate) fn new<B>(request: &Request<B>, client: &HeaderValue, scheme: &'static str) -> Self {
        let headers: &HeaderMap = request.headers();
        let authority = request.uri().authority().and_then(|host| HeaderValue::from_str(host.as_str()).ok());
        Self {
            client: client.clone(),
            scheme,
            method: request.method().clone(),
            host: authority.or_else(|| headers.get(header::HOST).cloned()),
            target: request.uri().path_and_query().cloned(),
            version: request.version(),
            user_agent: headers.get(header::USER_AGENT).cloned(),
            referer: headers.get(header::REFERER).cloned(),
            request_id: headers.get("x-request-id").cloned(),
            trace: headers.get("traceparent").cloned(),
        }
    }

    /// A connection that is no HTTP, at the listener of this host.
    pub(crate) fn connection(host: &str, client: &HeaderValue) -> Self {
        Self {
            client: client.clone(),
            scheme: "tcp",
            method: Method::CONNECT,
            host: HeaderValue::from_str(host).ok(),
            target: None,
            version: Version::HTTP_11,
            user_agent: None,
            referer: None,
            request_id: None,
            trace: None,
        }
    }

    fn protocol(&self) -> &'static str {
        match (self.scheme, self.version) {
            ("tcp", _) => "TCP",
            (_, Version::HTTP_10) => "HTTP/1.0",
            (_, Version::HTTP_2) => "HTTP/2.0",
            _ => "HTTP/1.1",
        }
    }

    /// Writes the line and its end.
    pub(crate) fn write(&self, format: AccessFormat, end: &End<'_>, into: &mut Vec<u8>) {
        match format {
            AccessFormat::Json => self.json(end, into),
            AccessFormat::Combined => self.combined(end, into),
        }
        into.push(b'\n');
    }

    fn json(&self, end: &End<'_>, into: &mut Vec<u8>) {
        let time = end.at.to_string();
        let endpoint = end.endpoint.map(|address| address.to_string());
        let target = self.target.as_ref().map(|target| target.as_str().as_bytes());
        into.push(b'{');
        let mut is_first = true;
        let mut name = |name: &str, into: &mut Vec<u8>| {
            if !std::mem::take(&mut is_first) {
                into.push(b',');
            }
            into.push(b'"');
            into.extend_from_slice(name.as_bytes());
            into.extend_from_slice(b"\":");
        };
        let texts = [
            ("time", Some(time.as_bytes())),
            ("client", Some(self.client.as_bytes())),
            ("scheme", Some(self.scheme.as_bytes())),
            ("method", Some(self.method.as_str().as_bytes())),
            ("host", self.host.as_ref().map(HeaderValue::as_bytes)),
            ("target", target),
            ("protocol", Some(self.protocol().as_bytes())),
            ("pool", end.pool.map(str::as_bytes)),
            ("endpoint", endpoint.as_ref().map(String::as_bytes)),
            ("request_id", self.request_id.as_ref().map(HeaderValue::as_bytes)),
            ("trace_id", self.trace.as_ref().and_then(trace_id).map(str::as_bytes)),
            ("user_agent", self.user_agent.as_ref().map(HeaderValue::as_bytes)),
            ("referer", self.referer.as_ref().map(HeaderValue::as_bytes)),
            ("failure", end.failure.map(str::as_bytes)),
        ];
        for (key, text) in texts {
            let Some(text) = text else { continue };
            name(key, into);
            into.push(b'"');
            escape_json(text, into);
            into.push(b'"');
        }
        if let Some(status) = end.status {
            name("status", into);
            into.extend_from_slice(status.as_str().as_bytes());
        }
        name("bytes", into);
        // Writing to memory does not fail.
        let _ = write!(into, "{}", end.bytes);
        name("duration_ms", into);
        let micros = end.duration.as_micros();
        let _ = write!(into, "{}.{:03}", micros / 1_000, micros % 1_000);
        into.push(b'}');
    }

    fn combined(&self, end: &End<'_>, into: &mut Vec<u8>) {
        let dash = |text: Option<&[u8]>, into: &mut Vec<u8>| escape_quoted(text.unwrap_or(b"-"), into);
        escape_quoted(self.client.as_bytes(), into);
        into.extend_from_slice(b" - - [");
        clf_time(end.at, into);
        into.extend_from_slice(b"] \"");
        into.extend_from_slice(self.method.as_str().as_bytes());
        into.push(b' ');
        dash(self.target.as_ref().map(|target| target.as_str().as_bytes()), into);
        into.push(b' ');
        into.extend_from_slice(self.protocol().as_bytes());
        into.extend_from_slice(b"\" ");
        match end.status {
            Some(status) => into.extend_from_slice(status.as_str().as_bytes()),
            // As nginx: the client went away before there was one.
            None => into.extend_from_slice(b"499"),
        }
        let _ = write!(into, " {} \"", end.bytes);
        dash(self.referer.as_ref().map(HeaderValue::as_bytes), into);
        into.extend_from_slice(b"\" \"");
        dash(self.user_agent.as_ref().map(HeaderValue::as_bytes), into);
        into.push(b'"');
    }
}

/// What stands in a string of JSON. Bytes that are no UTF-8 become U+FFFD, so that every line can be read.
fn escape_json(text: &[u8], into: &mut Vec<u8>) {
    let cut = text.get(..text.len().min(MAX_TEXT)).unwrap_or_default();
    for character in String::from_utf8_lossy(cut).chars() {
        match character {
            '"' => into.extend_from_slice(b"\\\""),
            '\\' => into.extend_from_slice(b"\\\\"),
            control if control.is_control() => {
                let _ = write!(into, "\\u{:04x}", u32::from(control));
            }
            other => {
                let mut bytes = [0; 4];
                into.extend_from_slice(other.encode_utf8(&mut bytes).as_bytes());
            }
        }
    }
}

/// What stands between quotes in a line: as nginx writes it, so that nobody can end the quotes or the line.
fn escape_quoted(text: &[u8], into: &mut Vec<u8>) {
    for byte in text.iter().take(MAX_TEXT) {
        match byte {
            b'"' | b'\\' | 0..=0x1f | 0x7f.. => {
                let _ = write!(into, "\\x{byte:02X}");
            }
            plain => into.push(*plain),
        }
    }
}

/// `26/Nov/2026:03:42:31 +0000`, from `2026-11-26T03:42:31.123456Z`.
fn clf_time(at: Timestamp, into: &mut Vec<u8>) {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let text = at.to_string();
    let part = |from: usize, to: usize| text.get(from..to).unwrap_or_default();
    let month = part(5, 7).parse::<usize>().unwrap_or(1);
    let month = MONTHS.get(month.wrapping_sub(1)).copied().unwrap_or("Jan");
    let _ = write!(into, "{}/{month}/{}:{} +0000", part(8, 10), part(0, 4), part(11, 19));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(format: AccessFormat, agent: &[u8], end: impl FnOnce(&mut End<'_>)) -> String {
        let request = Request::get("/a?b=%20c")
            .header("host", "shop.example")
            .header("user-agent", HeaderValue::from_bytes(agent).unwrap())
            .body(())
            .unwrap();
        let mut entry = Entry::new(&request, &HeaderValue::from_static("10.0.0.1"), "https");
        entry.request_id = Some(HeaderValue::from_static("id-1"));
        entry.trace =
            Some(HeaderValue::from_static("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"));
        let address = "127.0.0.1:80".parse().unwrap();
        let mut all = End {
            at: "2026-11-26T03:42:31.5Z".parse().unwrap(),
            status: Some(StatusCode::OK),
            bytes: 12,
            duration: Duration::from_micros(1_234),
            pool: Some("shop-v1"),
            endpoint: Some(&address),
            failure: None,
        };
        end(&mut all);
        let mut into = Vec::new();
        entry.write(format, &all, &mut into);
        let text = String::from_utf8(into).unwrap();
        assert_eq!(text.matches('\n').count(), 1, "{text}");
        text.trim_end().to_owned()
    }

    #[test]
    fn a_line_of_json_can_be_read_whatever_a_client_sends() {
        let text = line(AccessFormat::Json, b"quote \" back \\ tab \t bad \xff", |_| {});
        let read: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(read["user_agent"], "quote \" back \\ tab \t bad \u{fffd}");
        assert_eq!(
            (&read["status"], &read["bytes"], &read["duration_ms"]),
            (&200.into(), &12.into(), &1.234.into())
        );
        assert_eq!((&read["target"], &read["host"]), (&"/a?b=%20c".into(), &"shop.example".into()));
        assert_eq!((&read["pool"], &read["endpoint"]), (&"shop-v1".into(), &"127.0.0.1:80".into()));
        assert_eq!((&read["scheme"], &read["request_id"]), (&"https".into(), &"id-1".into()));
        assert_eq!(read["trace_id"], "4bf92f3577b34da6a3ce929d0e0e4736");
        let text = line(AccessFormat::Json, b"x", |end| {
            (end.status, end.pool, end.endpoint, end.failure) = (None, None, None, Some("client"));
        });
        let read: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((read.get("status"), read.get("pool"), &read["failure"]), (None, None, &"client".into()));
    }

    #[test]
    fn a_combined_line_is_what_its_readers_expect() {
        assert_eq!(
            line(AccessFormat::Combined, b"curl/8 \"x\"\t\xff", |_| {}),
            "10.0.0.1 - - [26/Nov/2026:03:42:31 +0000] \"GET /a?b=%20c HTTP/1.1\" 200 12 \"-\" \"curl/8 \\x22x\\x22\\x09\\xFF\""
        );
        assert!(line(AccessFormat::Combined, b"x", |end| end.status = None).contains("\" 499 12 \""));
    }
}
