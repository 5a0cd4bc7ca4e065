//! The one error type of EWS.
//!
//! Every contract returns [`Error`]. A caller never has to read its text to decide what to do: [`ErrorKind`] says what
//! went wrong, [`Retry`] whether the same call may be tried again, and [`Error::maybe_applied`] whether the operation may
//! have happened although it failed. Drivers keep an error enum of their own and map it to this one in a single place;
//! the peer's own words travel along as [`Error::detail`], for people.
//!
//! Secrets never enter an error: a message names a reference ([`crate::SecretRef`]), never its value.

use std::borrow::Cow;
use std::fmt;

/// The result of every EWS contract.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, in terms a caller can act on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ErrorKind {
    /// The object does not exist.
    NotFound,
    /// An object of that name or key exists already and is not the same.
    AlreadyExists,
    /// The object is in a state that forbids the operation now, such as removing a running instance without force.
    Busy,
    /// A precondition failed: the version, incarnation or fencing token that the caller named is no longer current.
    Stale,
    /// History that the caller asked for was discarded; list again and go on from there.
    Compacted,
    /// The request itself is wrong and will be wrong every time.
    Invalid,
    /// The driver does not have the capability that the request needs.
    Unsupported,
    /// The image is not on the node and could not be found where it should come from.
    ImageMissing,
    /// The registry refuses the image to these credentials.
    ImageDenied,
    /// The image does not run on the node's platform.
    ImageIncompatible,
    /// A port that the request binds is taken.
    PortInUse,
    /// A stated limit would be exceeded: disk, memory, queue length, value size, operations in a transaction.
    OutOfResources,
    /// Credentials are missing or refused.
    Unauthorized,
    /// The peer can't be reached, or says that it can't serve now.
    Unavailable,
    /// The deadline passed.
    Timeout,
    /// The work was cancelled by somebody who may do so.
    Cancelled,
    /// The peer answered with something that could not be understood.
    Decode,
    /// Stored data is damaged or was written by a newer version.
    Corrupt,
    /// A defect, here or in the peer.
    Internal,
}

impl ErrorKind {
    /// The name used in logs, metrics and JSON: `not_found`, `already_exists`, …
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::AlreadyExists => "already_exists",
            Self::Busy => "busy",
            Self::Stale => "stale",
            Self::Compacted => "compacted",
            Self::Invalid => "invalid",
            Self::Unsupported => "unsupported",
            Self::ImageMissing => "image_missing",
            Self::ImageDenied => "image_denied",
            Self::ImageIncompatible => "image_incompatible",
            Self::PortInUse => "port_in_use",
            Self::OutOfResources => "out_of_resources",
            Self::Unauthorized => "unauthorized",
            Self::Unavailable => "unavailable",
            Self::Timeout => "timeout",
            Self::Cancelled => "cancelled",
            Self::Decode => "decode",
            Self::Corrupt => "corrupt",
            Self::Internal => "internal",
        }
    }

    /// What a caller may assume about trying again when nobody said otherwise: passing conditions are
    /// [`Retry::Safe`], everything else [`Retry::Never`].
    pub const fn default_retry(self) -> Retry {
        match self {
            Self::Busy | Self::Unavailable | Self::Timeout => Retry::Safe,
            _ => Retry::Never,
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whether the same call may be made again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Retry {
    /// The same call would fail in the same way.
    Never,
    /// The same call may be made again as it is.
    Safe,
    /// Look first (`get`, `list`, `observe`): the operation may have happened.
    AfterInspect,
}

/// What a failed EWS operation says of itself.
///
/// ```
/// use ews_core::{Error, ErrorKind, Retry};
///
/// let error = Error::new(ErrorKind::PortInUse, "port 8080 of node n1 is taken")
///     .with_operation("runtime.create")
///     .with_context("instance", "web-0");
/// assert_eq!(error.kind(), ErrorKind::PortInUse);
/// assert_eq!(error.retry(), Retry::Never);
/// assert!(!error.maybe_applied());
/// assert_eq!(
///     error.to_string(),
///     "runtime.create: port_in_use: port 8080 of node n1 is taken (instance=web-0)"
/// );
/// ```
pub struct Error {
    // Boxed, so that a `Result` on the hot path stays small.
    inner: Box<Inner>,
}

struct Inner {
    kind: ErrorKind,
    operation: Cow<'static, str>,
    message: Cow<'static, str>,
    context: Vec<(&'static str, String)>,
    detail: Option<String>,
    retry: Option<Retry>,
    maybe_applied: bool,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// The longest [`detail`](Self::detail) that is kept, in bytes; the rest is cut at a character boundary.
    pub const MAX_DETAIL: usize = 4 * 1024;

    /// An error of this kind with a message in whole words: what was wrong, where, and what would be accepted.
    pub fn new(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            inner: Box::new(Inner {
                kind,
                operation: Cow::Borrowed(""),
                message: message.into(),
                context: Vec::new(),
                detail: None,
                retry: None,
                maybe_applied: false,
                source: None,
            }),
        }
    }

    /// [`ErrorKind::NotFound`] for a named object.
    pub fn not_found(what: &'static str, name: impl fmt::Display) -> Self {
        Self::new(ErrorKind::NotFound, format!("no such {what}: {name}"))
    }

    /// [`ErrorKind::Invalid`]: the request will be wrong every time.
    pub fn invalid(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Invalid, message)
    }

    /// [`ErrorKind::Unsupported`]: the driver lacks `capability`.
    pub fn unsupported(capability: impl fmt::Display) -> Self {
        Self::new(ErrorKind::Unsupported, format!("this driver does not have the capability `{capability}`"))
    }

    /// [`ErrorKind::Internal`]: a defect, here or in the peer.
    pub fn internal(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Internal, message)
    }

    /// Names the contract call, such as `runtime.create`. The first name given stays: it is the nearest to the fault.
    #[must_use]
    pub fn with_operation(mut self, operation: impl Into<Cow<'static, str>>) -> Self {
        if self.inner.operation.is_empty() {
            self.inner.operation = operation.into();
        }
        self
    }

    /// Adds a field that helps a reader find the place, such as `instance=web-0`. Never a secret.
    #[must_use]
    pub fn with_context(mut self, name: &'static str, value: impl fmt::Display) -> Self {
        self.inner.context.push((name, value.to_string()));
        self
    }

    /// Keeps the peer's own words, cut at [`Self::MAX_DETAIL`] bytes.
    #[must_use]
    pub fn with_detail(mut self, detail: impl Into<String>) -> Self {
        let mut detail = detail.into();
        if detail.len() > Self::MAX_DETAIL {
            let mut end = Self::MAX_DETAIL;
            while !detail.is_char_boundary(end) {
                end -= 1;
            }
            detail.truncate(end);
        }
        self.inner.detail = Some(detail);
        self
    }

    /// Overrides what [`ErrorKind::default_retry`] says.
    #[must_use]
    pub fn with_retry(mut self, retry: Retry) -> Self {
        self.inner.retry = Some(retry);
        self
    }

    /// Marks that the operation may have happened although it failed.
    #[must_use]
    pub fn with_maybe_applied(mut self) -> Self {
        self.inner.maybe_applied = true;
        self
    }

    /// Keeps the error underneath.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.inner.source = Some(source.into());
        self
    }

    /// What went wrong.
    pub fn kind(&self) -> ErrorKind {
        self.inner.kind
    }

    /// Whether the same call may be made again. Where [`maybe_applied`](Self::maybe_applied) holds, a retry that would
    /// be safe otherwise becomes [`Retry::AfterInspect`].
    pub fn retry(&self) -> Retry {
        match self.inner.retry {
            Some(retry) => retry,
            None => match self.inner.kind.default_retry() {
                Retry::Safe if self.inner.maybe_applied => Retry::AfterInspect,
                retry => retry,
            },
        }
    }

    /// Whether the operation may have happened although it failed.
    pub fn maybe_applied(&self) -> bool {
        self.inner.maybe_applied
    }

    /// The contract call that failed, such as `runtime.create`; empty where nobody said.
    pub fn operation(&self) -> &str {
        &self.inner.operation
    }

    /// What was wrong, where, and what would be accepted, without the fields of [`context`](Self::context).
    pub fn message(&self) -> &str {
        &self.inner.message
    }

    /// The fields that say where, in the order they were added.
    pub fn context(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.inner.context.iter().map(|(name, value)| (*name, value.as_str()))
    }

    /// The peer's own words, for people.
    pub fn detail(&self) -> Option<&str> {
        self.inner.detail.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = &*self.inner;
        if !inner.operation.is_empty() {
            write!(f, "{}: ", inner.operation)?;
        }
        write!(f, "{}: {}", inner.kind, inner.message)?;
        let mut separator = " (";
        for (name, value) in &inner.context {
            write!(f, "{separator}{name}={value}")?;
            separator = ", ";
        }
        if inner.maybe_applied {
            write!(f, "{separator}may have been applied")?;
            separator = ", ";
        }
        if separator == ", " {
            f.write_str(")")?;
        }
        if let Some(detail) = &inner.detail {
            write!(f, ": {detail}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.inner.source.as_deref().map(|source| source as &(dyn std::error::Error + 'static))
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = &*self.inner;
        f.debug_struct("Error")
            .field("kind", &inner.kind)
            .field("operation", &inner.operation)
            .field("message", &inner.message)
            .field("context", &inner.context)
            .field("detail", &inner.detail)
            .field("retry", &self.retry())
            .field("maybe_applied", &inner.maybe_applied)
            .field("source", &inner.source)
            .finish()
    }
}

/// An error of a stream or file.
pub(crate) fn io_error(what: &'static str, error: std::io::Error) -> Error {
    use std::io::ErrorKind as Io;
    let kind = match error.kind() {
        Io::StorageFull | Io::QuotaExceeded | Io::FileTooLarge | Io::OutOfMemory => ErrorKind::OutOfResources,
        Io::NotFound => ErrorKind::NotFound,
        Io::AlreadyExists => ErrorKind::AlreadyExists,
        Io::PermissionDenied | Io::ReadOnlyFilesystem => ErrorKind::Unauthorized,
        _ => ErrorKind::Unavailable,
    };
    Error::new(kind, what).with_detail(error.to_string()).with_source(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_applied_timeout_wants_a_look_before_a_retry() {
        let error = Error::new(ErrorKind::Timeout, "no answer in 5s");
        assert_eq!(error.retry(), Retry::Safe);
        assert_eq!(error.with_maybe_applied().retry(), Retry::AfterInspect);
    }

    #[test]
    fn the_operation_nearest_to_the_fault_stays() {
        let error = Error::invalid("x").with_operation("store.put").with_operation("deploy.plan");
        assert_eq!(error.operation(), "store.put");
    }

    #[test]
    fn a_long_detail_is_cut_at_a_character() {
        let error = Error::invalid("x").with_detail("中".repeat(3000));
        let detail = error.detail().unwrap();
        assert!(detail.len() <= Error::MAX_DETAIL && detail.len() > Error::MAX_DETAIL - 3);
    }

    #[test]
    fn the_error_underneath_is_in_the_chain() {
        use std::error::Error as _;
        let error = Error::invalid("x").with_source(Error::internal("below"));
        assert_eq!(error.source().unwrap().to_string(), "internal: below");
        assert!(Error::invalid("x").source().is_none());
    }

    #[test]
    fn display_closes_its_parenthesis_only_when_opened() {
        assert_eq!(Error::invalid("x").to_string(), "invalid: x");
        assert_eq!(
            Error::invalid("x").with_maybe_applied().to_string(),
            "invalid: x (may have been applied)"
        );
    }
}
