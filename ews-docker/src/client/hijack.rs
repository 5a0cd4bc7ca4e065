//! Connections that an engine hands over: exec and attach.
//!
//! The engine answers `101 UPGRADED` (or 200 from some proxies), and what follows is the program's: raw bytes with a terminal, frames
//! without. Each has a connection of its own, outside the pool.

use std::io;

use bytes::Bytes;
use ews_core::{Error, ErrorKind, Result};
use hyper::Request;
use hyper::header::{CONNECTION, HOST, HeaderValue, UPGRADE};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;

use super::{Call, accepted, not_connected};
use crate::connect::{Connector, EngineStream};

/// A connection that was handed over.
pub(crate) struct Hijacked {
    /// What the engine had sent already behind the answer's head.
    pub(crate) first: Bytes,
    /// The connection.
    pub(crate) stream: EngineStream,
}

/// Makes a connection, sends the call and takes the connection over.
pub(super) async fn hijack(connector: &Connector, prefix: &str, call: Call) -> Result<Hijacked> {
    let subject = call.subject;
    let stream = connector.connect().await.map_err(|error| not_connected(&error))?;
    let broke = |error: hyper::Error| {
        Error::new(ErrorKind::Unavailable, "the connection to the engine broke")
            .with_maybe_applied()
            .with_source(error)
    };
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake::<_, super::Body>(TokioIo::new(stream)).await.map_err(broke)?;
    let driver = tokio::spawn(connection.with_upgrades());
    let mut request = Request::builder()
        .method(call.method)
        .uri(format!("{prefix}{}", call.target))
        .header(HOST, "docker")
        .header(CONNECTION, HeaderValue::from_static("Upgrade"));
    // A builder's session says for itself what it goes on in.
    if !call.headers.iter().any(|(name, _)| *name == UPGRADE) {
        request = request.header(UPGRADE, HeaderValue::from_static("tcp"));
    }
    for (name, value) in call.headers {
        request = request.header(name, value);
    }
    let request = request
        .body(call.body)
        .map_err(|error| Error::internal("a request can't be put together").with_source(error))?;
    let answer = accepted(sender.send_request(request).await.map_err(broke)?, subject, true).await?;
    let upgraded = hyper::upgrade::on(answer).await.map_err(broke)?;
    drop(driver);
    let parts = upgraded.downcast::<TokioIo<EngineStream>>().map_err(|_: Upgraded| {
        Error::internal("the connection that was handed over is not the one that was made")
            .with_source(io::Error::other("another type"))
    })?;
    Ok(Hijacked { first: parts.read_buf, stream: parts.io.into_inner() })
}
