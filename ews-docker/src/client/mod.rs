//! The client of one engine: bounded, pooled, with a deadline around everything.
//!
//! Typed calls that carry no secret go through bollard, over this client's transport. What bollard would log (bodies with an
//! environment), fail on (an enum value that it does not know), guess at (frames of a terminal) or never end (a body that stops half-way)
//! is sent by [`Engine`] itself and read into models of our own, which take what they know and leave the rest.
//!
//! Reads are retried by the pool alone, and only where a kept connection turned out closed before a byte of the request was sent.

mod call;
pub(crate) mod facts;
pub(crate) mod fault;
pub(crate) mod frames;
mod hijack;
pub(crate) mod models;

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bollard::{BollardRequest, Docker};
use bytes::{Bytes, BytesMut};
use ews_core::runtime::ByteStream;
use ews_core::{Error, ErrorKind, Result};
use futures_util::{StreamExt as _, TryStreamExt as _};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Empty, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::HOST;
use hyper::{Request, Response, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use serde::de::DeserializeOwned;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

pub(crate) use call::Call;
pub(crate) use facts::Facts;
pub(crate) use fault::Subject;
pub(crate) use hijack::Hijacked;

use crate::config::DockerConfig;
use crate::connect::Connector;

/// The body of a request.
pub(crate) type Body = UnsyncBoxBody<Bytes, io::Error>;

/// The longest answer that is read into memory: a list of some ten thousand containers.
const MAX_ANSWER: usize = 64 * 1024 * 1024;
/// The longest refusal that is read.
const MAX_REFUSAL: usize = 64 * 1024;
/// How long a kept connection may lie idle. Below what engines close at, so that few are found closed.
const POOL_IDLE: Duration = Duration::from_secs(15);
/// How many idle connections are kept.
const POOL_SIZE: usize = 16;

pub(crate) fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

pub(crate) fn full(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

/// A body that flows. An error of the stream breaks the request off.
pub(crate) fn flowing(bytes: ByteStream) -> Body {
    let frames = bytes.map_ok(Frame::data).map_err(io::Error::other);
    StreamBody::new(frames).boxed_unsync()
}

/// The client of one engine. Cloning copies a pointer.
#[derive(Clone)]
pub(crate) struct Engine {
    inner: Arc<Inner>,
}

struct Inner {
    config: DockerConfig,
    connector: Connector,
    pool: Client<Connector, Body>,
    bollard: Docker,
    permits: Arc<Semaphore>,
    facts: Facts,
    /// `/v1.41`, in front of every path.
    prefix: String,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("address", &self.inner.config.address).finish_non_exhaustive()
    }
}

impl Engine {
    /// Connects, and learns what the engine is.
    pub(crate) async fn connect(config: DockerConfig) -> Result<Self> {
        config.check()?;
        let connector = Connector::new(config.address.clone())?;
        let pool = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(POOL_IDLE)
            .pool_timer(TokioTimer::new())
            .pool_max_idle_per_host(POOL_SIZE)
            .build(connector.clone());
        // Only unversioned calls until the version is known.
        let mut inner = Inner {
            bollard: bollard_over(pool.clone(), String::new(), config.work_limit)?,
            permits: Arc::new(Semaphore::new(config.concurrency)),
            facts: Facts::default(),
            prefix: String::new(),
            config,
            connector,
            pool,
        };
        let probe = Self { inner: Arc::new(inner.copy()?) };
        let version = facts::Version::of(&probe).await?;
        inner.prefix = version.prefix()?;
        let probe = Self { inner: Arc::new(inner.copy()?) };
        inner.facts = Facts::of(&probe, version).await?;
        inner.bollard = bollard_over(inner.pool.clone(), inner.prefix.clone(), inner.config.work_limit)?;
        Ok(Self { inner: Arc::new(inner) })
    }

    pub(crate) fn config(&self) -> &DockerConfig {
        &self.inner.config
    }

    pub(crate) fn facts(&self) -> &Facts {
        &self.inner.facts
    }

    /// bollard over our transport, for typed calls without secrets in them. Its own limit on an answer's headers is `work_limit`; put
    /// [`typed`](Self::typed) around each call.
    pub(crate) fn bollard(&self) -> &Docker {
        &self.inner.bollard
    }

    /// One typed call through bollard, with a place in the queue and a deadline of its own.
    pub(crate) async fn typed<T>(
        &self,
        operation: &'static str,
        subject: Subject,
        deadline: Duration,
        call: impl Future<Output = std::result::Result<T, bollard::errors::Error>>,
    ) -> Result<T> {
        let work = async {
            let _permit = self.permit().await?;
            call.await.map_err(|error| of_bollard(error, subject))
        };
        let out = timeout(deadline, work).await.unwrap_or_else(|_| Err(late(deadline, true)));
        out.map_err(|error| self.named(error, operation))
    }

    async fn permit(&self) -> Result<OwnedSemaphorePermit> {
        let permits = Arc::clone(&self.inner.permits);
        permits
            .acquire_owned()
            .await
            .map_err(|error| Error::internal("the queue of calls is closed").with_source(error))
    }

    fn named(&self, error: Error, operation: &'static str) -> Error {
        let error = error.with_operation(operation);
        if error.context().any(|(name, _)| name == "engine") {
            return error;
        }
        error.with_context("engine", &self.inner.config.address)
    }

    /// Sends a call and gives its answer once it is known to be a success.
    async fn send(&self, call: Call) -> Result<Response<Incoming>> {
        let (mutates, subject) = (call.mutates(), call.subject);
        let request = self.request(call)?;
        let answer = self.inner.pool.request(request).await;
        // Whatever was said before an answer was of another connection.
        let refusal = self.inner.connector.refusal();
        let answer = answer.map_err(|error| refusal.unwrap_or_else(|| unreachable(&error, mutates)))?;
        accepted(answer, subject, mutates).await
    }

    fn request(&self, call: Call) -> Result<Request<Body>> {
        let uri = format!("http://docker{}{}", self.inner.prefix, call.target);
        let mut request = Request::builder().method(call.method).uri(uri).header(HOST, "docker");
        for (name, value) in call.headers {
            request = request.header(name, value);
        }
        request
            .body(call.body)
            .map_err(|error| Error::internal("a request can't be put together").with_source(error))
    }

    /// The answer's JSON.
    pub(crate) async fn json<T: DeserializeOwned>(&self, call: Call) -> Result<T> {
        let operation = call.operation;
        let bytes = self.bytes(call).await?;
        let undecoded = || Error::new(ErrorKind::Decode, "the engine's answer is not what its API says");
        // Looked at as text once: the decoder would look at each of its hundreds of words by itself, which costs a tenth of a call.
        let read = match std::str::from_utf8(&bytes) {
            Ok(text) => serde_json::from_str(text).map_err(|error| undecoded().with_source(error)),
            Err(error) => Err(undecoded().with_source(error)),
        };
        read.map_err(|error| self.named(error, operation))
    }

    /// The answer's list, which may be null where it is empty.
    pub(crate) async fn list<T: DeserializeOwned>(&self, call: Call) -> Result<Vec<T>> {
        Ok(self.json::<Option<Vec<T>>>(call).await?.unwrap_or_default())
    }

    /// Nothing but success.
    pub(crate) async fn unit(&self, call: Call) -> Result<()> {
        self.bytes(call).await.map(drop)
    }

    /// The whole answer.
    pub(crate) async fn bytes(&self, call: Call) -> Result<Bytes> {
        let (operation, mutates) = (call.operation, call.mutates());
        let deadline = call.deadline.unwrap_or(self.inner.config.call_limit);
        let work = async {
            let _permit = self.permit().await?;
            let answer = self.send(call).await?;
            read_whole(answer.into_body(), MAX_ANSWER).await
        };
        let out = timeout(deadline, work).await.unwrap_or_else(|_| Err(late(deadline, mutates)));
        out.map_err(|error| self.named(error, operation))
    }

    /// An answer that flows: its headers come within the call's deadline, and each piece within `idle_limit` of the one before, where
    /// there is a limit. Holds no place in the queue: a followed log would keep it for ever.
    pub(crate) async fn flow(
        &self,
        call: Call,
        idle: Option<Duration>,
    ) -> Result<(Response<()>, ByteStream)> {
        let (operation, mutates) = (call.operation, call.mutates());
        let deadline = call.deadline.unwrap_or(self.inner.config.call_limit);
        let answer =
            timeout(deadline, self.send(call)).await.unwrap_or_else(|_| Err(late(deadline, mutates)));
        let (parts, body) = answer.map_err(|error| self.named(error, operation))?.into_parts();
        let engine = self.clone();
        let pieces = body.into_data_stream().map_err(move |error| {
            let error =
                Error::new(ErrorKind::Unavailable, "the engine broke off its answer").with_source(error);
            engine.named(if mutates { error.with_maybe_applied() } else { error }, operation)
        });
        let stream = match idle {
            Some(idle) => {
                let engine = self.clone();
                let timed = futures_util::stream::unfold(Some(pieces.boxed()), move |pieces| {
                    let engine = engine.clone();
                    async move {
                        let mut pieces = pieces?;
                        match timeout(idle, pieces.next()).await {
                            Ok(Some(Ok(piece))) => Some((Ok(piece), Some(pieces))),
                            Ok(Some(Err(error))) => Some((Err(error), None)),
                            Ok(None) => None,
                            Err(_) => Some((Err(engine.named(late(idle, mutates), operation)), None)),
                        }
                    }
                });
                timed.boxed()
            }
            None => pieces.boxed(),
        };
        Ok((Response::from_parts(parts, ()), stream))
    }

    /// Takes the connection over: what follows the answer's head belongs to the caller, both ways.
    pub(crate) async fn hijack(&self, call: Call) -> Result<Hijacked> {
        let operation = call.operation;
        let deadline = call.deadline.unwrap_or(self.inner.config.call_limit);
        let work = hijack::hijack(&self.inner.connector, self.inner.prefix.as_str(), call);
        let out = timeout(deadline, work).await.unwrap_or_else(|_| Err(late(deadline, true)));
        out.map_err(|error| self.named(error, operation))
    }
}

impl Inner {
    /// The same client with what is known so far.
    fn copy(&self) -> Result<Self> {
        Ok(Self {
            config: self.config.clone(),
            connector: self.connector.clone(),
            pool: self.pool.clone(),
            bollard: bollard_over(self.pool.clone(), self.prefix.clone(), self.config.work_limit)?,
            permits: Arc::clone(&self.permits),
            facts: Facts::default(),
            prefix: self.prefix.clone(),
        })
    }
}

/// bollard never says a version on the wire, so the transport does.
fn bollard_over(pool: Client<Connector, Body>, prefix: String, limit: Duration) -> Result<Docker> {
    let transport = move |request: BollardRequest| {
        let (pool, prefix) = (pool.clone(), prefix.clone());
        async move {
            let (mut parts, body) = request.into_parts();
            let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
            parts.uri =
                format!("http://docker{prefix}{target}").parse().map_err(bollard::errors::Error::from)?;
            parts.headers.insert(HOST, hyper::header::HeaderValue::from_static("docker"));
            let request = Request::from_parts(parts, body.map_err(io::Error::other).boxed_unsync());
            pool.request(request).await.map_err(|error| bollard::errors::Error::from(io::Error::other(error)))
        }
    };
    let seconds = limit.as_secs().saturating_add(1);
    Docker::connect_with_custom_transport(
        transport,
        Some("http://docker"),
        seconds,
        bollard::API_DEFAULT_VERSION,
    )
    .map_err(|error| Error::internal("bollard refuses our transport").with_source(error))
}

/// The answer, or the error that its status means.
pub(super) async fn accepted(
    answer: Response<Incoming>,
    subject: Subject,
    mutates: bool,
) -> Result<Response<Incoming>> {
    let status = answer.status();
    if status.is_success() || status == StatusCode::SWITCHING_PROTOCOLS || status == StatusCode::NOT_MODIFIED
    {
        return Ok(answer);
    }
    let body = read_whole(answer.into_body(), MAX_REFUSAL).await.unwrap_or_default();
    Err(fault::refused(status.as_u16(), &models::words_of(&body), subject, mutates))
}

async fn read_whole(mut body: Incoming, most: usize) -> Result<Bytes> {
    // Most answers come in one piece, which is then the whole as it is.
    let (mut only, mut whole) = (None, BytesMut::new());
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            Error::new(ErrorKind::Unavailable, "the engine broke off its answer").with_source(error)
        })?;
        let Ok(piece) = frame.into_data() else { continue };
        length += piece.len();
        if length > most {
            return Err(Error::new(
                ErrorKind::Decode,
                format!("the engine's answer is longer than {most} bytes"),
            ));
        }
        if only.is_none() && whole.is_empty() {
            only = Some(piece);
            continue;
        }
        if let Some(first) = only.take() {
            whole.extend_from_slice(&first);
        }
        whole.extend_from_slice(&piece);
    }
    Ok(only.unwrap_or_else(|| whole.freeze()))
}

fn late(deadline: Duration, mutates: bool) -> Error {
    let error = Error::new(ErrorKind::Timeout, format!("the engine did not answer in {deadline:?}"));
    if mutates { error.with_maybe_applied() } else { error }
}

/// An engine that can't be reached, or went away during a call.
fn unreachable(error: &hyper_util::client::legacy::Error, mutates: bool) -> Error {
    if let Some(io) = io_of(error) {
        if error.is_connect() {
            return not_connected(io);
        }
        // An engine says what it thinks of our certificate only when it is asked something.
        if let Some(refused) = refused_tls(io) {
            return refused;
        }
    }
    let no_http = source_of::<hyper::Error>(error).is_some_and(hyper::Error::is_parse);
    let (kind, words) = if no_http {
        (
            ErrorKind::Decode,
            "what answers here speaks no HTTP: is it an engine? A port that wants TLS needs certificates (`DOCKER_TLS_VERIFY`, `TlsFiles`)",
        )
    } else {
        (ErrorKind::Unavailable, "the connection to the engine broke")
    };
    let fault = Error::new(kind, words).with_detail(chain(error));
    if mutates && !error.is_connect() { fault.with_maybe_applied() } else { fault }
}

/// What keeps us from connecting, with what to do about it.
pub(super) fn not_connected(error: &io::Error) -> Error {
    use io::ErrorKind as Io;
    if let Some(refused) = refused_tls(error) {
        return refused;
    }
    let (kind, message) = match error.kind() {
        Io::NotFound => (
            ErrorKind::Unavailable,
            "there is no engine at this address: is it running, and is DOCKER_HOST right?",
        ),
        Io::ConnectionRefused => {
            (ErrorKind::Unavailable, "nobody listens at this address: is the engine running?")
        }
        Io::PermissionDenied => (
            ErrorKind::Unauthorized,
            "this user may not use the engine's socket: join the group `docker`, or run as a user that may",
        ),
        _ => (ErrorKind::Unavailable, "the engine can't be reached"),
    };
    Error::new(kind, message).with_detail(error.to_string())
}

/// What TLS says, where it was TLS that failed.
fn refused_tls(error: &io::Error) -> Option<Error> {
    #[cfg(feature = "tls")]
    return crate::connect::explain_tls(error)
        .map(|(kind, words)| Error::new(kind, words).with_detail(error.to_string()));
    #[cfg(not(feature = "tls"))]
    {
        let _ = error;
        None
    }
}

fn io_of<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a io::Error> {
    source_of(error)
}

fn source_of<'a, E: std::error::Error + 'static>(
    error: &'a (dyn std::error::Error + 'static),
) -> Option<&'a E> {
    std::iter::successors(Some(error), |error| error.source()).find_map(|cause| cause.downcast_ref())
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        words.push_str(": ");
        words.push_str(&cause.to_string());
        source = cause.source();
    }
    words
}

/// bollard's errors, by what the engine said.
pub(crate) fn of_bollard(error: bollard::errors::Error, subject: Subject) -> Error {
    use bollard::errors::Error as E;
    match error {
        E::DockerResponseServerError { status_code, message } => {
            fault::refused(status_code, &message, subject, true)
        }
        E::DockerStreamError { error } => said(&error),
        E::RequestTimeoutError => {
            Error::new(ErrorKind::Timeout, "the engine did not answer in time").with_maybe_applied()
        }
        E::JsonDataError { .. } | E::JsonSerdeError { .. } => {
            Error::new(ErrorKind::Decode, "the engine's answer is not what its API says").with_source(error)
        }
        E::IOError { err } => {
            let legacy =
                err.get_ref().and_then(|inner| inner.downcast_ref::<hyper_util::client::legacy::Error>());
            match legacy {
                Some(legacy) => unreachable(legacy, true),
                None => Error::new(ErrorKind::Unavailable, "the connection to the engine broke")
                    .with_maybe_applied()
                    .with_source(err),
            }
        }
        error => Error::new(ErrorKind::Unavailable, "the call to the engine failed")
            .with_maybe_applied()
            .with_source(error),
    }
}

/// An error that the engine gave in words within a stream.
pub(crate) fn said(words: &str) -> Error {
    match fault::kind_of(words) {
        Some(kind) => {
            let status = match kind {
                ErrorKind::ImageMissing => 404,
                _ => 500,
            };
            fault::refused(status, words, Subject::Image, true)
        }
        None => Error::new(ErrorKind::Internal, "the engine gave up").with_detail(words),
    }
}

/// A moment that a deadline ends at, for several calls in a row.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Until(Instant);

impl Until {
    pub(crate) fn after(time: Duration) -> Self {
        Self(Instant::now() + time)
    }

    pub(crate) fn left(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }
}
