//! What failed between us and a registry, and the one place where it becomes EWS's error.
//!
//! The status decides, whatever the body says: a proxy's error page is no JSON (openshift/oc-mirror#1505). A body adds the
//! registry's code, which only ever makes the kind more precise, and its words, which are for people.

use std::borrow::Cow;
use std::time::Duration;

use ews_core::{Error, ErrorKind, ImageRef, Retry};
use oci_client::errors::{OciEnvelope, OciErrorCode};
use reqwest::StatusCode;

/// Who answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Party {
    /// The registry itself.
    Registry,
    /// A host that the registry sent us to, such as an object store.
    Store,
    /// The registry's token service.
    TokenService,
}

/// What failed.
#[derive(Debug)]
pub(super) enum Fault {
    /// An answer with a status that is no success.
    Refused(Box<Refusal>),
    /// No answer, or no more of it, in time.
    Silent {
        /// What was awaited.
        what: &'static str,
        /// For how long.
        after: Duration,
    },
    /// The connection was not made, or was lost.
    Broken {
        /// What was done.
        what: &'static str,
        /// What went wrong.
        source: reqwest::Error,
    },
    /// An answer that ended properly before what it was to bring.
    Short,
    /// An answer that we don't follow.
    Misbehaved(Cow<'static, str>),
    /// Something that was an error of EWS before: credentials, or the caller's own stream.
    Given(Error),
}

/// An answer with a status that is no success.
#[derive(Debug)]
pub(super) struct Refusal {
    /// Who gave it.
    pub(super) party: Party,
    /// Its status.
    pub(super) status: StatusCode,
    /// The registry's first code, in its own writing.
    pub(super) code: Option<String>,
    /// The registry's words, without secrets.
    pub(super) words: String,
    /// The pause that was asked for.
    pub(super) retry_after: Option<Duration>,
    /// Whether credentials were shown.
    pub(super) known: bool,
    /// Whether the credentials were good and the right was missing.
    pub(super) out_of_scope: bool,
}

impl Refusal {
    /// Reads an error's body.
    pub(super) fn read(body: &[u8]) -> (Option<String>, String) {
        const MAX_WORDS: usize = 512;
        let plain = |text: &str| -> String {
            let text: String =
                text.chars().take(MAX_WORDS).map(|c| if c.is_control() { ' ' } else { c }).collect();
            text.trim().to_owned()
        };
        match serde_json::from_slice::<OciEnvelope>(body) {
            Ok(envelope) => {
                let code = envelope.errors.first().map(|error| code_text(&error.code));
                let words: Vec<&str> = envelope.errors.iter().map(|error| error.message.as_str()).collect();
                (code, plain(&words.join("; ")))
            }
            // Not a page of HTML, though: it says nothing that the status does not.
            Err(_) if body.trim_ascii_start().starts_with(b"<") => (None, String::new()),
            Err(_) => (None, plain(&String::from_utf8_lossy(body))),
        }
    }

    fn has_code(&self, codes: &[&str]) -> bool {
        self.code.as_deref().is_some_and(|code| codes.contains(&code))
    }

    /// Whether the same request may be answered otherwise in a while.
    fn is_passing(&self) -> bool {
        if self.has_code(&["TOOMANYREQUESTS"]) {
            return true;
        }
        match self.party {
            // A signed address that ran out, most of the time; the registry gives another.
            Party::Store if matches!(self.status.as_u16(), 401 | 403) => true,
            _ => matches!(self.status.as_u16(), 408 | 425 | 429 | 500 | 502 | 503 | 504),
        }
    }
}

fn code_text(code: &OciErrorCode) -> String {
    let text =
        serde_json::to_value(code).ok().and_then(|code| code.as_str().map(str::to_owned)).unwrap_or_default();
    text.chars().take(64).filter(|c| c.is_ascii_graphic()).collect()
}

impl Fault {
    /// Whether the same request may go better in a while.
    pub(super) fn is_passing(&self) -> bool {
        match self {
            Self::Refused(refusal) => refusal.is_passing(),
            Self::Silent { .. } | Self::Short => true,
            Self::Broken { source, .. } => !source.is_builder() && tls_fault(source).is_none(),
            Self::Misbehaved(_) | Self::Given(_) => false,
        }
    }

    /// The pause that the registry asked for.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused(refusal) => refusal.retry_after,
            _ => None,
        }
    }

    /// Whether the registry says that it has no such thing.
    pub(super) fn is_missing(&self) -> bool {
        matches!(self, Self::Refused(refusal) if refusal.party == Party::Registry && refusal.status == StatusCode::NOT_FOUND)
    }

    /// The status, where there was an answer.
    pub(super) fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Refused(refusal) => Some(refusal.status),
            _ => None,
        }
    }

    /// As an error about this image; `missing` is what a 404 means here.
    pub(super) fn into_error(self, name: &ImageRef, missing: ErrorKind) -> Error {
        let error = match self {
            Self::Refused(refusal) => refused(*refusal, missing),
            Self::Silent { what, after } => Error::new(
                ErrorKind::Timeout,
                format!("no {what} within {after:?}; the registry or the way to it hangs"),
            ),
            Self::Broken { what, source } => broken(what, source),
            Self::Short => {
                Error::new(ErrorKind::Unavailable, "the registry sends less of a blob than it says it has")
            }
            Self::Misbehaved(what) => Error::new(ErrorKind::Decode, what),
            Self::Given(error) => error,
        };
        located(error, name)
    }
}

/// Adds where: registry, repository, and the digest or tag.
pub(super) fn located(error: Error, name: &ImageRef) -> Error {
    let error = error.with_context("registry", name.registry()).with_context("repository", name.repository());
    match (name.digest(), name.tag()) {
        (Some(digest), _) => error.with_context("digest", digest),
        (None, Some(tag)) => error.with_context("tag", tag),
        (None, None) => error,
    }
}

fn refused(refusal: Refusal, missing: ErrorKind) -> Error {
    let status = refusal.status.as_u16();
    let passing = refusal.is_passing();
    let (kind, message) = match (refusal.party, status) {
        _ if status == 429 || refusal.has_code(&["TOOMANYREQUESTS"]) => (
            ErrorKind::Unavailable,
            "the registry limits the rate; log in, ask less often, or put a mirror in between",
        ),
        (Party::Store, _) if passing => (
            ErrorKind::Unavailable,
            "the store behind the registry refuses; check the registry's storage, and both clocks",
        ),
        _ if passing => (ErrorKind::Unavailable, "the registry can't serve now; its own log says why"),
        (Party::TokenService, 400..=404) => (
            ErrorKind::Unauthorized,
            if refusal.known {
                "the registry's token service refuses the credentials; log in anew, or check the user and the secret"
            } else {
                "the registry's token service gives nothing to anonymous users; configure credentials for this registry"
            },
        ),
        (_, 401) if refusal.out_of_scope || refusal.has_code(&["DENIED"]) => (
            ErrorKind::ImageDenied,
            "the registry denies this to these credentials, or has no such repository; check the name and the rights",
        ),
        (_, 401) if refusal.known => (
            ErrorKind::Unauthorized,
            "the registry refuses the credentials; log in anew, or check the user and the secret",
        ),
        (_, 401) => (
            ErrorKind::Unauthorized,
            "the registry wants credentials and none are configured for it; configure some",
        ),
        (_, 403) => (
            ErrorKind::ImageDenied,
            "the registry denies this to these credentials; check the rights on the repository",
        ),
        (Party::Registry, 404) => {
            (missing, "the registry has no such repository, tag, manifest or blob; check the name")
        }
        (_, 405 | 501) => {
            (ErrorKind::Unsupported, "the registry does not do this; its configuration may allow it")
        }
        _ if refusal.has_code(&["UNSUPPORTED"]) => {
            (ErrorKind::Unsupported, "the registry does not do this; its configuration may allow it")
        }
        (_, 413 | 507) => {
            (ErrorKind::OutOfResources, "this is too large for the registry, or its storage or quota is full")
        }
        (Party::Store, 400..=499) => (
            ErrorKind::Unavailable,
            "the store behind the registry does not give what the registry says it has",
        ),
        (_, 400..=499) => {
            (ErrorKind::Invalid, "the registry refuses the request; its own words say what is wrong")
        }
        (_, 500..=599) => (ErrorKind::Unavailable, "the registry failed; its own log says why"),
        _ => (ErrorKind::Decode, "the registry answered with a status that has no meaning here"),
    };
    let mut error = Error::new(kind, message).with_context("status", status);
    if let Some(code) = refusal.code {
        error = error.with_context("code", code);
    }
    if let Some(pause) = refusal.retry_after {
        error = error.with_context("retry_after", format_args!("{}s", pause.as_secs()));
    }
    if passing {
        error = error.with_retry(Retry::Safe);
    }
    if refusal.words.is_empty() { error } else { error.with_detail(refusal.words) }
}

fn broken(what: &'static str, source: reqwest::Error) -> Error {
    // An address may be a capability: a signed one, or an upload's.
    let source = source.without_url();
    let error = match tls_fault(&source) {
        Some(TlsFault::NoTls) => Error::new(
            ErrorKind::Unavailable,
            "the registry does not speak TLS; plain HTTP must be asked for (`plain_http` with its `host:port`)",
        )
        .with_retry(Retry::Never),
        Some(TlsFault::Certificate) => Error::new(
            ErrorKind::Unavailable,
            "the registry's certificate is not trusted; add its authority to `certificates`, or check the name and the clock",
        )
        .with_retry(Retry::Never),
        None if source.is_builder() => Error::internal("the request can't be made"),
        None if source.is_connect() => {
            Error::new(ErrorKind::Unavailable, "the registry can't be reached; check its name, its port and the way to it")
        }
        None => Error::new(ErrorKind::Unavailable, format!("the connection was lost while {what}")),
    };
    let mut words = String::new();
    let mut cause: Option<&dyn std::error::Error> = std::error::Error::source(&source);
    while let Some(inner) = cause {
        words = inner.to_string();
        cause = inner.source();
    }
    let error = if words.is_empty() { error } else { error.with_detail(words) };
    error.with_source(source)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TlsFault {
    Certificate,
    NoTls,
}

/// What TLS found that no repetition mends.
fn tls_fault(error: &(dyn std::error::Error + 'static)) -> Option<TlsFault> {
    match error.downcast_ref::<rustls::Error>() {
        Some(rustls::Error::InvalidCertificate(_)) => return Some(TlsFault::Certificate),
        Some(rustls::Error::InvalidMessage(_)) => return Some(TlsFault::NoTls),
        Some(_) => return None,
        None => {}
    }
    // What an error of IO wraps is not its source: that is already the source of what it wraps.
    let wrapped = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
    wrapped.and_then(|inner| tls_fault(inner)).or_else(|| tls_fault(error.source()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(party: Party, status: u16, body: &str) -> Refusal {
        let (code, words) = Refusal::read(body.as_bytes());
        let status = StatusCode::from_u16(status).unwrap();
        Refusal { party, status, code, words, retry_after: None, known: true, out_of_scope: false }
    }

    fn error(party: Party, status: u16, body: &str) -> Error {
        let name = "a.example/b:1".parse().unwrap();
        Fault::Refused(Box::new(refusal(party, status, body))).into_error(&name, ErrorKind::ImageMissing)
    }

    #[test]
    fn the_status_decides_and_the_code_refines() {
        use Party::{Registry, Store, TokenService};
        for (party, status, body, kind, retry) in [
            (Registry, 401, "", ErrorKind::Unauthorized, Retry::Never),
            (Registry, 403, "<html>no</html>", ErrorKind::ImageDenied, Retry::Never),
            (
                Registry,
                404,
                r#"{"errors":[{"code":"MANIFEST_UNKNOWN"}]}"#,
                ErrorKind::ImageMissing,
                Retry::Never,
            ),
            (Registry, 405, r#"{"errors":[{"code":"UNSUPPORTED"}]}"#, ErrorKind::Unsupported, Retry::Never),
            (Registry, 400, r#"{"errors":[{"code":"UNSUPPORTED"}]}"#, ErrorKind::Unsupported, Retry::Never),
            (
                Registry,
                400,
                r#"{"errors":[{"code":"MANIFEST_BLOB_UNKNOWN"}]}"#,
                ErrorKind::Invalid,
                Retry::Never,
            ),
            (Registry, 413, "", ErrorKind::OutOfResources, Retry::Never),
            (Registry, 429, "slow down", ErrorKind::Unavailable, Retry::Safe),
            (
                Registry,
                403,
                r#"{"errors":[{"code":"TOOMANYREQUESTS"}]}"#,
                ErrorKind::Unavailable,
                Retry::Safe,
            ),
            (Registry, 503, "<html>", ErrorKind::Unavailable, Retry::Safe),
            (Registry, 507, "", ErrorKind::OutOfResources, Retry::Never),
            (Registry, 302, "", ErrorKind::Decode, Retry::Never),
            (Store, 403, "<Error><Code>AccessDenied</Code></Error>", ErrorKind::Unavailable, Retry::Safe),
            (TokenService, 401, "", ErrorKind::Unauthorized, Retry::Never),
            (TokenService, 502, "", ErrorKind::Unavailable, Retry::Safe),
        ] {
            let error = error(party, status, body);
            assert_eq!((error.kind(), error.retry()), (kind, retry), "{party:?} {status} {body}: {error}");
            assert!(error.context().any(|c| c == ("status", &*status.to_string())), "{error}");
        }
    }

    #[test]
    fn an_error_says_where_and_repeats_no_page_and_no_control_characters() {
        let long =
            format!(r#"{{"errors":[{{"code":"X\u001b","message":"\u001b[31m{}"}}]}}"#, "a".repeat(5000));
        let error = error(Party::Registry, 403, &long);
        let context: Vec<_> = error.context().collect();
        for wanted in [("registry", "a.example"), ("repository", "b"), ("tag", "1"), ("code", "X")] {
            assert!(context.contains(&wanted), "{error}");
        }
        let detail = error.detail().unwrap();
        assert!(detail.len() <= 512 && !detail.contains('\u{1b}'), "{detail}");
        assert_eq!(Refusal::read(b" <html><body>x").1, "");
    }

    #[test]
    fn nobody_is_told_to_check_credentials_that_were_not_shown() {
        let mut anonymous = refusal(Party::Registry, 401, "");
        anonymous.known = false;
        assert!(refused(anonymous, ErrorKind::ImageMissing).message().contains("none are configured"));
        let mut scoped = refusal(Party::Registry, 401, "");
        scoped.out_of_scope = true;
        assert_eq!(refused(scoped, ErrorKind::ImageMissing).kind(), ErrorKind::ImageDenied);
    }
}
