//! Answers that the gateway gives by itself: small, plain, and telling nothing of what is behind it.

use bytes::Bytes;
use hyper::header::{self, HeaderValue};
use hyper::{Response, StatusCode};

use super::body::ResponseBody;

/// A status and its words.
pub(crate) fn plain(status: StatusCode) -> Response<ResponseBody> {
    // Every status that the gateway uses has words.
    let words = status.canonical_reason().unwrap_or("");
    text(status, Bytes::from(format!("{} {words}\n", status.as_u16())))
}

/// A text, as a route wants it.
pub(crate) fn text(status: StatusCode, body: Bytes) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::Own(Some(body).filter(|body| !body.is_empty())));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// Another address.
pub(crate) fn redirect(status: StatusCode, to: HeaderValue) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::Own(None));
    *response.status_mut() = status;
    response.headers_mut().insert(header::LOCATION, to);
    response
}

/// The same, and the connection ends with it.
pub(crate) fn last(mut response: Response<ResponseBody>) -> Response<ResponseBody> {
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}
