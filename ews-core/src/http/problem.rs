//! Errors on the wire: `application/problem+json` (RFC 9457).

use std::collections::BTreeMap;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Retry};

/// The media type of a problem.
pub(super) const MEDIA_TYPE: &str = "application/problem+json";

/// An error as a response.
///
/// A problem says the kind, the message and the context of an [`Error`], and whether to try again. It never says the error's
/// detail or its sources: they hold a peer's own words. A client that speaks EWS gets the error back ([`Problem::into_error`]),
/// so that retry and `maybe_applied` survive the hop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Problem {
    /// `urn:ews:error:` and the kind.
    #[serde(rename = "type")]
    pub kind_uri: String,
    /// The status in words.
    pub title: String,
    /// The status.
    pub status: u16,
    /// What was wrong, where, and what would be accepted.
    pub detail: String,
    /// The error's kind.
    pub kind: ErrorKind,
    /// The contract call that failed; empty where nobody said.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub operation: String,
    /// The fields that say where.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub context: BTreeMap<String, String>,
    /// Whether the same call may be made again.
    pub retry: Retry,
    /// Whether the operation may have happened although it failed.
    #[serde(default)]
    pub maybe_applied: bool,
}

impl Problem {
    /// The status that stands for a kind.
    pub const fn status_of(kind: ErrorKind) -> StatusCode {
        match kind {
            ErrorKind::NotFound => StatusCode::NOT_FOUND,
            ErrorKind::AlreadyExists | ErrorKind::Busy | ErrorKind::PortInUse | ErrorKind::Cancelled => {
                StatusCode::CONFLICT
            }
            ErrorKind::Stale => StatusCode::PRECONDITION_FAILED,
            ErrorKind::Compacted => StatusCode::GONE,
            ErrorKind::Invalid => StatusCode::BAD_REQUEST,
            ErrorKind::Unsupported => StatusCode::NOT_IMPLEMENTED,
            ErrorKind::ImageMissing | ErrorKind::ImageDenied | ErrorKind::ImageIncompatible => {
                StatusCode::UNPROCESSABLE_ENTITY
            }
            ErrorKind::OutOfResources => StatusCode::INSUFFICIENT_STORAGE,
            // The caller of this endpoint was let in (that is 401): what refuses is behind it.
            ErrorKind::Unauthorized => StatusCode::FORBIDDEN,
            ErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            ErrorKind::Timeout => StatusCode::GATEWAY_TIMEOUT,
            ErrorKind::Decode => StatusCode::BAD_GATEWAY,
            ErrorKind::Corrupt | ErrorKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// The kind that a status of somebody else's stands for.
    pub(super) const fn kind_of(status: StatusCode) -> ErrorKind {
        match status.as_u16() {
            401 | 403 => ErrorKind::Unauthorized,
            404 => ErrorKind::NotFound,
            409 => ErrorKind::Busy,
            410 => ErrorKind::Compacted,
            412 => ErrorKind::Stale,
            413 | 507 => ErrorKind::OutOfResources,
            429 | 503 => ErrorKind::Unavailable,
            501 => ErrorKind::Unsupported,
            502 => ErrorKind::Decode,
            504 => ErrorKind::Timeout,
            400..=499 => ErrorKind::Invalid,
            _ => ErrorKind::Internal,
        }
    }

    /// A problem of a status that is not the kind's own, such as 413.
    pub(super) fn with_status(mut self, status: StatusCode) -> Self {
        self.status = status.as_u16();
        self.title = title(status);
        self
    }

    /// The error that a peer meant. The context's fields become its detail.
    pub fn into_error(self) -> Error {
        let error = Error::new(self.kind, self.detail).with_retry(self.retry);
        let error = if self.operation.is_empty() { error } else { error.with_operation(self.operation) };
        let error = if self.maybe_applied { error.with_maybe_applied() } else { error };
        if self.context.is_empty() {
            return error;
        }
        let fields: Vec<_> = self.context.iter().map(|(name, value)| format!("{name}={value}")).collect();
        error.with_detail(fields.join(", "))
    }
}

fn title(status: StatusCode) -> String {
    status.canonical_reason().unwrap_or("Error").to_owned()
}

impl From<&Error> for Problem {
    fn from(error: &Error) -> Self {
        let status = Self::status_of(error.kind());
        Self {
            kind_uri: format!("urn:ews:error:{}", error.kind()),
            title: title(status),
            status: status.as_u16(),
            detail: error.message().to_owned(),
            kind: error.kind(),
            operation: error.operation().to_owned(),
            context: error.context().map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
            retry: error.retry(),
            maybe_applied: error.maybe_applied(),
        }
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        Self::from(&error)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        // Writing plain fields into memory does not fail; an empty body would still carry the status.
        let body = serde_json::to_vec(&self).unwrap_or_default();
        // Said here, since axum says it for routes and not for fallbacks: who is refused must not learn which path exists.
        let length = HeaderValue::from(body.len());
        let mut response = (status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_LENGTH, length);
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
