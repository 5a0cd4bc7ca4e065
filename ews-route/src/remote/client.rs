//! The little HTTP client behind both: one gateway, JSON both ways, a deadline for each call.
//!
//! A few connections are kept. One that turns out closed before a request went out costs a second try; an answer that is
//! lost after that is an error that says `maybe_applied` where the call changes something.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use ews_core::http::Problem;
use ews_core::{Error, ErrorKind, Result, SecretValue};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{self, HeaderValue};
use hyper::{Method, Request, Response, StatusCode, Uri};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;

use super::watch::TokioIo;

/// The most connections that wait for the next call.
const IDLE: usize = 8;
/// The largest answer.
const MAX_ANSWER: usize = 256 * 1024 * 1024;

/// How a gateway is reached.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RemoteConfig {
    /// The admin endpoint: `http://host:port`, with a path where it is mounted below one. TLS is not here yet: reach it over
    /// loopback or a private network.
    pub url: String,
    /// The token that it wants. Default: none, which only an endpoint without access control takes.
    pub token: Option<SecretValue>,
    /// How long one call may take, above zero; a watch has no such limit once it is open. Default 10 s, a choice of ours.
    pub timeout: Duration,
}

impl RemoteConfig {
    /// The admin endpoint at this address.
    pub fn new(url: impl Into<String>) -> Self {
        Self { url: url.into(), token: None, timeout: Duration::from_secs(10) }
    }

    /// With this token.
    #[must_use]
    pub fn with_token(mut self, token: SecretValue) -> Self {
        self.token = Some(token);
        self
    }

    /// With so much time for one call.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }
}

/// Whether a call changes something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Reads,
    Changes,
}

type Sender = http1::SendRequest<Full<Bytes>>;

/// A client of one gateway.
pub(super) struct Client {
    authority: String,
    prefix: String,
    bearer: Option<HeaderValue>,
    timeout: Duration,
    idle: Mutex<Vec<Sender>>,
}

impl Client {
    pub(super) fn new(config: &RemoteConfig) -> Result<Self> {
        if config.timeout.is_zero() {
            return Err(Error::invalid("a call may take no time; accepted: above zero")
                .with_context("field", "timeout"));
        }
        // What stands before an `@` may be a password.
        let shown = config.url.rsplit('@').next().unwrap_or_default();
        let wrong = |what: &str| {
            Error::invalid(format!("{what}; accepted: `http://host:port`, optionally with a path"))
                .with_context("url", shown)
        };
        let url: Uri = config.url.parse().map_err(|_| wrong("the address can't be read"))?;
        if url.scheme_str() != Some("http") {
            return Err(wrong("the address is not one of plain HTTP"));
        }
        let host = url.host().ok_or_else(|| wrong("the address names no host"))?;
        let authority = format!("{host}:{}", url.port_u16().unwrap_or(80));
        let bearer = match &config.token {
            None => None,
            Some(token) => {
                let value = format!("Bearer {}", token.expose_str()?.trim());
                let mut value = HeaderValue::from_str(&value)
                    .map_err(|_| Error::invalid("the token (it is not shown) can't stand in a header"))?;
                value.set_sensitive(true);
                Some(value)
            }
        };
        Ok(Self {
            authority,
            prefix: url.path().trim_end_matches('/').to_owned(),
            bearer,
            timeout: config.timeout,
            idle: Mutex::default(),
        })
    }

    /// Sends a question and reads the answer.
    pub(super) async fn post<T: DeserializeOwned>(
        &self,
        operation: &'static str,
        path: &str,
        body: &impl Serialize,
        kind: Kind,
    ) -> Result<T> {
        let body = serde_json::to_vec(body)
            .map_err(|error| Error::internal("a request can't be written as JSON").with_source(error))?;
        self.call(operation, &Method::POST, path, body.into(), kind).await
    }

    pub(super) async fn get<T: DeserializeOwned>(&self, operation: &'static str, path: &str) -> Result<T> {
        self.call(operation, &Method::GET, path, Bytes::new(), Kind::Reads).await
    }

    async fn call<T: DeserializeOwned>(
        &self,
        operation: &'static str,
        method: &Method,
        path: &str,
        body: Bytes,
        kind: Kind,
    ) -> Result<T> {
        let call = async {
            let response = self.exchange(method, path, body, kind).await?;
            let answer = answer(response, kind).await?;
            serde_json::from_slice(&answer).map_err(|error| {
                lost(
                    Error::new(ErrorKind::Decode, "the gateway's answer can't be read").with_source(error),
                    kind,
                )
            })
        };
        let result = match tokio::time::timeout(self.timeout, call).await {
            Ok(result) => result,
            Err(_) => Err(lost(
                Error::new(
                    ErrorKind::Unavailable,
                    format!("the gateway did not answer within {:?}", self.timeout),
                ),
                kind,
            )),
        };
        result.map_err(|error: Error| {
            let error = if error.operation().is_empty() { error.with_operation(operation) } else { error };
            error.with_context("gateway", &self.authority)
        })
    }

    /// Opens a stream of its own, and returns it with its answer's head read.
    pub(super) async fn stream(&self, path: &str) -> Result<Response<Incoming>> {
        let open = async {
            let mut sender = self.connect().await?;
            let request = self.request(&Method::GET, path, Bytes::new())?;
            let response = sender.send_request(request).await.map_err(|error| unreachable(error.into()))?;
            if response.status() == StatusCode::OK {
                return Ok(response);
            }
            answer(response, Kind::Reads).await?;
            Err(Error::new(ErrorKind::Decode, "the gateway answered with something else than a stream"))
        };
        let result = match tokio::time::timeout(self.timeout, open).await {
            Ok(result) => result,
            Err(_) => Err(Error::new(
                ErrorKind::Unavailable,
                format!("the gateway did not answer within {:?}", self.timeout),
            )),
        };
        result.map_err(|error| error.with_context("gateway", &self.authority))
    }

    async fn exchange(&self, method: &Method, path: &str, body: Bytes, kind: Kind) -> Result<Answered<'_>> {
        loop {
            let kept = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let is_kept = kept.is_some();
            let mut sender = match kept {
                Some(sender) => sender,
                None => self.connect().await?,
            };
            let request = self.request(method, path, body.clone())?;
            match sender.try_send_request(request).await {
                Ok(response) => return Ok(Answered { response, sender, client: self }),
                // Never sent, or without effect: a kept connection may be old.
                Err(error) if is_kept && (error.message().is_some() || kind == Kind::Reads) => {}
                Err(mut error) => {
                    let was_sent = error.take_message().is_none();
                    let error = unreachable(error.into_error().into());
                    return Err(if was_sent { lost(error, kind) } else { error });
                }
            }
        }
    }

    async fn connect(&self) -> Result<Sender> {
        let stream = TcpStream::connect(&self.authority).await.map_err(|error| unreachable(error.into()))?;
        stream.set_nodelay(true).map_err(|error| unreachable(error.into()))?;
        let (sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| unreachable(error.into()))?;
        tokio::spawn(async move {
            // How it ends is told to whoever waits for an answer.
            let _ = connection.await;
        });
        Ok(sender)
    }

    fn request(&self, method: &Method, path: &str, body: Bytes) -> Result<Request<Full<Bytes>>> {
        let wrong = |error: hyper::http::Error| Error::internal("a request can't be made").with_source(error);
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.prefix))
            .header(header::HOST, &self.authority)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(wrong)?;
        if let Some(bearer) = &self.bearer {
            request.headers_mut().insert(header::AUTHORIZATION, bearer.clone());
        }
        Ok(request)
    }
}

/// An answer and the connection that it came on.
struct Answered<'a> {
    response: Response<Incoming>,
    sender: Sender,
    client: &'a Client,
}

/// Reads an answer whole; a problem becomes the error that the gateway meant.
async fn answer(answered: impl Into<Parts<'_>>, kind: Kind) -> Result<Bytes> {
    let Parts { response, sender } = answered.into();
    let status = response.status();
    let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
    let body = body
        .map_err(|error| {
            lost(
                Error::new(ErrorKind::Unavailable, "the gateway's answer broke off").with_source(error),
                kind,
            )
        })?
        .to_bytes();
    if let Some((sender, client)) = sender {
        let mut idle = client.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE && !sender.is_closed() {
            idle.push(sender);
        }
    }
    if status == StatusCode::OK {
        return Ok(body);
    }
    Err(match serde_json::from_slice::<Problem>(&body) {
        Ok(problem) => problem.into_error(),
        Err(_) => lost(
            Error::new(ErrorKind::Unavailable, format!("something answered {status} in the gateway's place")),
            kind,
        ),
    })
}

struct Parts<'a> {
    response: Response<Incoming>,
    sender: Option<(Sender, &'a Client)>,
}

impl From<Response<Incoming>> for Parts<'_> {
    fn from(response: Response<Incoming>) -> Self {
        Self { response, sender: None }
    }
}

impl<'a> From<Answered<'a>> for Parts<'a> {
    fn from(Answered { response, sender, client }: Answered<'a>) -> Self {
        Self { response, sender: Some((sender, client)) }
    }
}

fn unreachable(source: Box<dyn std::error::Error + Send + Sync>) -> Error {
    Error::new(ErrorKind::Unavailable, "the gateway can't be reached").with_source(source)
}

/// The error of a call that may have happened.
fn lost(error: Error, kind: Kind) -> Error {
    if kind == Kind::Changes { error.with_maybe_applied() } else { error }
}
