//! Uploads over HTTP: resumable ones, and those of one request.

use std::sync::Arc;

use axum::Extension;
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse as _, Response};
use ews_core::http::Problem;
use ews_core::{Digest, Error, ErrorKind, Result};
use futures_util::StreamExt as _;
use serde::Deserialize;

use super::{Answered, Caller, document, parameters};
use crate::intake::Inner;
use crate::intake::answer::{json, problem};
use crate::intake::config::Verb;
use crate::intake::hooks::once;
use crate::intake::uploads::{Chunk, Refused, Seen};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct BeginBody {
    size: u64,
    digest: Digest,
}

/// How an upload stands, in headers and in the body.
fn told(status: StatusCode, seen: &Seen) -> Response {
    let mut response = json(status, seen);
    let headers = response.headers_mut();
    headers.insert("upload-offset", HeaderValue::from(seen.offset));
    headers.insert("upload-length", HeaderValue::from(seen.size));
    if let Ok(place) = HeaderValue::try_from(format!("/v1/uploads/{}", seen.id)) {
        headers.insert(header::LOCATION, place);
    }
    response
}

fn refused(why: Refused) -> Problem {
    match why {
        Refused::Mismatch(error) => problem(error, StatusCode::UNPROCESSABLE_ENTITY),
        Refused::Other(error) => bounded(error),
    }
}

/// What is too large is the request's fault, not the disk's.
fn bounded(error: Error) -> Problem {
    let asked = error.context().any(|(name, value)| name == "field" && value == "size");
    if error.kind() == ErrorKind::OutOfResources && asked {
        return problem(error, StatusCode::PAYLOAD_TOO_LARGE);
    }
    if error.kind() == ErrorKind::Timeout {
        return problem(error, StatusCode::REQUEST_TIMEOUT);
    }
    error.into()
}

pub(super) async fn begin(
    State(inner): State<Arc<Inner>>,
    Extension(caller): Extension<Caller>,
    body: Bytes,
) -> Answered {
    caller.can(Verb::Upload)?;
    let BeginBody { size, digest } = document(&body)?;
    let (seen, new) = inner.uploads.begin(&caller.name, size, digest).await.map_err(bounded)?;
    Ok(told(if new { StatusCode::CREATED } else { StatusCode::OK }, &seen))
}

pub(super) async fn see(
    State(inner): State<Arc<Inner>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Answered {
    caller.can(Verb::Upload)?;
    Ok(told(StatusCode::OK, &inner.uploads.see(&id, &caller.name).await?))
}

pub(super) async fn append(
    State(inner): State<Arc<Inner>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Answered {
    caller.can(Verb::Upload)?;
    let (offset, length) = place(&headers)?;
    let digest = match headers.get("chunk-digest") {
        Some(value) => {
            let parsed = value.to_str().ok().and_then(|value| value.parse().ok());
            Some(parsed.ok_or_else(|| {
                Error::invalid("not a digest; accepted: `sha256:` and 64 digits")
                    .with_context("field", "Chunk-Digest")
            })?)
        }
        None => None,
    };
    let chunk = Chunk { offset, length, digest };
    inner.uploads.append(&id, &caller.name, chunk, body).await.map_err(bounded)?;
    Ok(told(StatusCode::OK, &inner.uploads.see(&id, &caller.name).await?))
}

/// Where a piece begins, and how long it says that it is.
fn place(headers: &HeaderMap) -> Result<(u64, Option<u64>)> {
    let wrong = || {
        Error::invalid("it is not said where the piece begins; accepted: `Upload-Offset: 0` or `Content-Range: bytes 0-99/100`, one of them once")
            .with_context("field", "Upload-Offset")
    };
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        text.parse::<u64>().ok().filter(|_| digits)
    };
    if headers.contains_key("upload-offset") == headers.contains_key("content-range") {
        return Err(wrong());
    }
    if let Some(offset) = once(headers, "upload-offset") {
        return Ok((number(offset.trim()).ok_or_else(wrong)?, None));
    }
    let range = once(headers, "content-range").and_then(|range| range.trim().strip_prefix("bytes "));
    let (range, _total) = range.and_then(|range| range.split_once('/')).ok_or_else(wrong)?;
    let (from, to) = range.split_once('-').ok_or_else(wrong)?;
    let (from, to) = (number(from).ok_or_else(wrong)?, number(to).ok_or_else(wrong)?);
    let length = to.checked_sub(from).and_then(|length| length.checked_add(1)).ok_or_else(wrong)?;
    Ok((from, Some(length)))
}

pub(super) async fn complete(
    State(inner): State<Arc<Inner>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Answered {
    caller.can(Verb::Upload)?;
    let seen = inner.uploads.complete(&id, &caller.name).await.map_err(refused)?;
    Ok(told(StatusCode::OK, &seen))
}

pub(super) async fn delete(
    State(inner): State<Arc<Inner>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Answered {
    caller.can(Verb::Upload)?;
    inner.uploads.delete(&id, &caller.name).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// An upload in one request; what comes of half of one is nothing.
pub(super) async fn artifact(
    State(inner): State<Arc<Inner>>,
    Extension(caller): Extension<Caller>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Answered {
    caller.can(Verb::Upload)?;
    let digest = parameters(&uri)?.get("digest").cloned().ok_or_else(|| {
        Error::invalid("no digest is said; accepted: `?digest=sha256:…`").with_context("field", "digest")
    })?;
    let digest: Digest = digest.parse().map_err(|error: Error| error.with_context("field", "digest"))?;
    let Some(size) = once(&headers, "content-length").and_then(|length| length.parse().ok()) else {
        let error =
            Error::invalid("the length is not said; accepted: `Content-Length`, as `curl -T file` says it");
        return Err(problem(error, StatusCode::LENGTH_REQUIRED));
    };
    let (seen, new) = inner.uploads.begin(&caller.name, size, digest).await.map_err(bounded)?;
    if !new {
        // It is here already. What is sent is read all the same: many a client looks for no answer before its end.
        let mut body = body.into_data_stream();
        while let Ok(Some(Ok(_))) = tokio::time::timeout(inner.config.limits.silence, body.next()).await {}
        return Ok(told(StatusCode::OK, &seen));
    }
    let chunk = Chunk { offset: 0, length: Some(size), digest: None };
    if let Err(error) = inner.uploads.append(&seen.id, &caller.name, chunk, body).await {
        let _ = inner.uploads.delete(&seen.id, &caller.name).await;
        return Err(bounded(error));
    }
    match inner.uploads.complete(&seen.id, &caller.name).await {
        Ok(seen) => Ok(told(StatusCode::CREATED, &seen)),
        Err(why) => {
            let _ = inner.uploads.delete(&seen.id, &caller.name).await;
            Err(refused(why))
        }
    }
}
