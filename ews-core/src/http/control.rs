//! A router with everything that a control endpoint must have.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use http_body_util::{BodyExt as _, Limited};
use serde::{Deserialize, Serialize};

use super::problem::{MEDIA_TYPE, Problem};
use super::token::Tokens;
use crate::error::{Error, ErrorKind, Result};
use crate::time::duration;

/// The bounds of a control endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct ControlConfig {
    /// The largest body, in bytes. Default 1 MiB, the size of a store's largest value.
    pub max_body: usize,
    /// How long a request may take until its answer begins. Above zero, at most a day. Default 60 s: above the short deadline of
    /// the layers behind, so that their error reaches the caller.
    #[serde(with = "duration")]
    pub timeout: Duration,
}

impl Default for ControlConfig {
    fn default() -> Self {
        Self { max_body: 1024 * 1024, timeout: Duration::from_secs(60) }
    }
}

impl ControlConfig {
    /// With bodies of at most so many bytes.
    #[must_use]
    pub fn with_max_body(mut self, max_body: usize) -> Self {
        self.max_body = max_body;
        self
    }

    /// With so much time until the answer begins.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }
}

/// Who may use an endpoint.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Access {
    /// Whoever has one of these tokens.
    Tokens(Tokens),
    /// Whoever reaches it: for metrics on loopback, or behind a router that asks for itself.
    Open,
}

/// Puts around these routes what every control endpoint has; see the [module](super).
///
/// Paths that are not there are behind the token too, so that nobody learns which are.
///
/// # Errors
/// `Invalid` for a timeout of zero or above a day.
pub fn control(routes: Router, access: Access, config: ControlConfig) -> Result<Router> {
    const DAY: Duration = Duration::from_secs(24 * 3600);
    let ControlConfig { max_body, timeout } = config;
    if timeout.is_zero() || timeout > DAY {
        return Err(Error::invalid(format!("a timeout of {timeout:?}; accepted: above zero, at most a day")));
    }
    let access = Arc::new(access);
    // The last one is the outermost.
    Ok(routes
        .layer(DefaultBodyLimit::max(max_body))
        .layer(from_fn(move |request, next| bounded(max_body, request, next)))
        .layer(from_fn(move |request, next| admitted(Arc::clone(&access), request, next)))
        .layer(from_fn(move |request, next| timed(timeout, request, next)))
        .layer(from_fn(in_problems)))
}

async fn bounded(max: usize, request: Request, next: Next) -> Response {
    let said = request.headers().get(header::CONTENT_LENGTH);
    let said = said.and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if said.is_some_and(|length| length > max as u64) {
        return too_large(max).into_response();
    }
    // For handlers that take the body raw; the extractors have the same bound.
    next.run(request.map(|body| Body::new(Limited::new(body, max)))).await
}

fn too_large(max: usize) -> Problem {
    Problem::from(Error::new(
        ErrorKind::OutOfResources,
        format!("the body is too large; at most {max} bytes are accepted"),
    ))
    .with_status(StatusCode::PAYLOAD_TOO_LARGE)
}

async fn admitted(access: Arc<Access>, request: Request, next: Next) -> Response {
    match &*access {
        Access::Tokens(tokens) if !tokens.open(request.headers()) => {
            let error = Error::new(
                ErrorKind::Unauthorized,
                "a token is needed; accepted: `Authorization: Bearer` and one that is known here",
            );
            Problem::from(error).with_status(StatusCode::UNAUTHORIZED).into_response()
        }
        _ => next.run(request).await,
    }
}

async fn timed(limit: Duration, request: Request, next: Next) -> Response {
    let reads = request.method().is_safe();
    match tokio::time::timeout(limit, next.run(request)).await {
        Ok(response) => response,
        Err(_) => {
            let error = Error::new(ErrorKind::Timeout, format!("no answer within {limit:?}"));
            Problem::from(if reads { error } else { error.with_maybe_applied() }).into_response()
        }
    }
}

/// Whatever refuses, axum's extractors and its fallbacks included, speaks in problems.
async fn in_problems(request: Request, next: Next) -> Response {
    /// The most that is kept of a refusal's text.
    const TEXT: usize = 1024;
    let response = next.run(request).await;
    let status = response.status();
    let media_type = response.headers().get(header::CONTENT_TYPE).map(|value| value.as_bytes().to_vec());
    let plain = media_type.is_none_or(|media_type| media_type.starts_with(b"text/plain"));
    if !(status.is_client_error() || status.is_server_error()) || !plain {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    let text = match Limited::new(body, TEXT).collect().await {
        Ok(text) => String::from_utf8_lossy(&text.to_bytes()).into_owned(),
        Err(_) => String::new(),
    };
    let text = if text.is_empty() { status.canonical_reason().unwrap_or("refused").to_owned() } else { text };
    let problem =
        Problem::from(Error::new(Problem::kind_of(status), text)).with_status(status).into_response();
    // What the refusal said besides, such as `Allow`, stays.
    parts.headers.remove(header::CONTENT_LENGTH);
    let mut headers = parts.headers;
    let (mut parts, body) = problem.into_parts();
    headers.extend(std::mem::take(&mut parts.headers));
    debug_assert!(headers.get(header::CONTENT_TYPE).is_some_and(|value| value == MEDIA_TYPE));
    parts.headers = headers;
    Response::from_parts(parts, body)
}
