//! One request to an engine, put together safely: path segments and query values are escaped here and nowhere else.

use std::fmt::Write as _;
use std::time::Duration;

use bytes::Bytes;
use ews_core::{Error, Result};
use hyper::Method;
use hyper::header::{HeaderName, HeaderValue};
use serde::Serialize;

use super::fault::Subject;
use super::{Body, empty, full};

/// A request that is being put together.
pub(crate) struct Call {
    pub(super) method: Method,
    pub(super) target: String,
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    pub(super) body: Body,
    pub(super) operation: &'static str,
    pub(super) subject: Subject,
    pub(super) deadline: Option<Duration>,
    queries: bool,
}

impl Call {
    /// A call whose path is made of these segments, each escaped. A segment that a URL would take for a step (`..`, or empty) can't
    /// leave its place: the dots are escaped too.
    pub(crate) fn new(method: Method, operation: &'static str, subject: Subject, segments: &[&str]) -> Self {
        let mut target = String::new();
        for segment in segments {
            target.push('/');
            escape(&mut target, segment);
        }
        Self {
            method,
            target,
            headers: Vec::new(),
            body: empty(),
            operation,
            subject,
            deadline: None,
            queries: false,
        }
    }

    pub(crate) fn get(operation: &'static str, subject: Subject, segments: &[&str]) -> Self {
        Self::new(Method::GET, operation, subject, segments)
    }

    pub(crate) fn post(operation: &'static str, subject: Subject, segments: &[&str]) -> Self {
        Self::new(Method::POST, operation, subject, segments)
    }

    #[must_use]
    pub(crate) fn query(mut self, name: &str, value: &str) -> Self {
        self.target.push(if self.queries { '&' } else { '?' });
        self.queries = true;
        escape(&mut self.target, name);
        self.target.push('=');
        escape(&mut self.target, value);
        self
    }

    #[must_use]
    pub(crate) fn flag(self, name: &str, set: bool) -> Self {
        if set { self.query(name, "1") } else { self }
    }

    /// A JSON body.
    pub(crate) fn json(mut self, body: &impl Serialize) -> Result<Self> {
        let text = serde_json::to_vec(body)
            .map_err(|error| Error::internal("a request can't be written as JSON").with_source(error))?;
        self.headers.push((hyper::header::CONTENT_TYPE, HeaderValue::from_static("application/json")));
        self.body = full(Bytes::from(text));
        Ok(self)
    }

    #[must_use]
    pub(crate) fn body(mut self, kind: &'static str, body: Body) -> Self {
        self.headers.push((hyper::header::CONTENT_TYPE, HeaderValue::from_static(kind)));
        self.body = body;
        self
    }

    /// A header that anybody may see. One that is there already gets another value.
    #[cfg(feature = "buildkit")]
    pub(crate) fn header(mut self, name: &'static str, value: &str) -> Result<Self> {
        let value = HeaderValue::from_str(value)
            .map_err(|error| Error::internal("a header's value can't be sent").with_source(error))?;
        self.headers.push((HeaderName::from_static(name), value));
        Ok(self)
    }

    /// A header that must not be shown, such as credentials.
    pub(crate) fn secret_header(mut self, name: &'static str, value: &str) -> Result<Self> {
        let mut value = HeaderValue::from_str(value)
            .map_err(|_| Error::invalid("a credential holds characters that no HTTP header can carry"))?;
        value.set_sensitive(true);
        self.headers.push((HeaderName::from_static(name), value));
        Ok(self)
    }

    /// The longest that it may take. Default: the configuration's `call_limit`.
    #[must_use]
    pub(crate) fn within(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// Whether the engine's state may change through it.
    pub(super) fn mutates(&self) -> bool {
        !matches!(self.method, Method::GET | Method::HEAD)
    }
}

/// Percent-escapes all but what needs none anywhere in a path or a query.
fn escape(into: &mut String, text: &str) {
    // A dot needs no escaping but where the whole segment is dots, which a URL takes for a step.
    let step = matches!(text, "." | "..");
    for byte in text.bytes() {
        match byte {
            b'.' if step => into.push_str("%2E"),
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b':' | b'@' => {
                into.push(char::from(byte))
            }
            _ => {
                // Writing to a string can't fail.
                let _ = write!(into, "%{byte:02X}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_leaves_its_segment() {
        let target = |segments: &[&str]| Call::get("t", Subject::Container, segments).target;
        assert_eq!(
            target(&["containers", "../networks/bridge", "json"]),
            "/containers/..%2Fnetworks%2Fbridge/json"
        );
        assert_eq!(target(&["containers", "..", "json"]), "/containers/%2E%2E/json");
        assert_eq!(target(&["images", "a/b:1@sha256:0", "json"]), "/images/a%2Fb:1@sha256:0/json");
        let call = Call::get("t", Subject::Container, &["x"]).query("a", "1&b=2").query("c", "ü ?#");
        assert_eq!(call.target, "/x?a=1%26b%3D2&c=%C3%BC%20%3F%23");
    }
}
