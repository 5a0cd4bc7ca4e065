//! Answers: JSON, and problems of a status of their own.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use ews_core::Error;
use ews_core::http::Problem;
use serde::Serialize;

/// A value as JSON.
pub(super) fn json(status: StatusCode, value: &impl Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(body) => text(status, body),
        Err(_) => Problem::from(Error::internal("the answer can't be written")).into_response(),
    }
}

/// JSON that is written already.
pub(super) fn text(status: StatusCode, body: impl Into<axum::body::Body>) -> Response {
    let mut response = (status, body.into()).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// A problem of a status that is not its kind's own.
pub(super) fn problem(error: Error, status: StatusCode) -> Problem {
    let mut problem = Problem::from(error);
    problem.status = status.as_u16();
    problem.title = status.canonical_reason().unwrap_or("Error").to_owned();
    problem
}
