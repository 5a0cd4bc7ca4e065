//! The client of the operator's API: over the host's socket, or over TCP with a token.
//!
//! A connection for each request; answers are bounded. An error says whether the host can't be reached or what it said.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use ews_core::http::Problem;
use ews_core::{Error, ErrorKind};
use futures_util::{StreamExt as _, stream};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use crate::cli::Failure;
use crate::files;

/// The largest answer that is no stream.
const ANSWER: usize = 64 << 20;
/// The longest line of a stream.
const LINE: usize = 1 << 20;
/// How long a connection over TCP may take.
const CONNECT: Duration = Duration::from_secs(10);
/// As much of the standard input as is sent at once.
const PIECE: usize = 16 << 10;

/// The body of a request.
pub(crate) type Sent = UnsyncBoxBody<Bytes, std::io::Error>;

/// Where the API is.
#[derive(Debug, Clone)]
enum Place {
    Socket(PathBuf),
    Tcp { authority: String, token: HeaderValue },
}

/// The client.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    place: Place,
}

impl Client {
    /// Of the host that has this data directory.
    pub(crate) fn of_data(data: &Path) -> Self {
        Self { place: Place::Socket(data.join(crate::host::SOCKET)) }
    }

    /// At an address as it is given on the command line.
    pub(crate) fn at(api: &str, token_file: Option<&Path>) -> Result<Self, Failure> {
        if let Some(path) = api.strip_prefix("unix:") {
            return Ok(Self { place: Place::Socket(PathBuf::from(path)) });
        }
        let Some(authority) = api.strip_prefix("http://").map(|rest| rest.trim_end_matches('/')) else {
            return Err(Failure::usage(format!(
                "`--api {api}`; accepted: `unix:` and the path of a socket, or `http://127.0.0.1:7400`"
            )));
        };
        let Some(file) = token_file else {
            return Err(Failure::usage(
                "the API on TCP asks for a token; accepted: `--token-file FILE`, or `EWS_TOKEN_FILE`"
                    .to_owned(),
            ));
        };
        let wrong = |what: &str| Failure::usage(format!("the token file {} {what}", file.display()));
        let text = files::secret(file, "the token file")
            .map_err(|error| Failure::usage(error.message().to_owned()))?;
        let text = text.expose_str().map_err(|_| wrong("is no UTF-8 text"))?;
        let token = text.lines().map(str::trim).find(|line| !line.is_empty());
        let token = token.ok_or_else(|| wrong("holds no token; accepted: one on its first line"))?;
        let mut token = HeaderValue::from_str(&format!("Bearer {token}"))
            .map_err(|_| wrong("holds what no token may"))?;
        token.set_sensitive(true);
        Ok(Self { place: Place::Tcp { authority: authority.to_owned(), token } })
    }

    /// The place in words.
    fn shown(&self) -> String {
        match &self.place {
            Place::Socket(path) => path.display().to_string(),
            Place::Tcp { authority, .. } => authority.clone(),
        }
    }

    fn unreachable(&self, error: &dyn std::fmt::Display) -> Failure {
        let advice = match &self.place {
            Place::Socket(path) => {
                let data = path.parent().unwrap_or(path).display();
                format!(
                    "; start one with `ews serve --data {data}`, or name the host's directory with `--data` or EWS_DATA"
                )
            }
            Place::Tcp { .. } => String::new(),
        };
        Failure::unreachable(format!("no host answers at {}: {error}{advice}", self.shown()))
    }

    fn broken(&self, error: &dyn std::fmt::Display) -> Failure {
        Failure::unreachable(format!("the answer of the host at {} broke off: {error}", self.shown()))
    }

    fn silent(&self, limit: Duration) -> Failure {
        Failure::unreachable(format!(
            "the host at {} does not answer within {} s",
            self.shown(),
            limit.as_secs()
        ))
    }

    /// Reads a document.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        Ok(self.call(Method::GET, path, None).await?.1)
    }

    /// Sends a document and reads another.
    pub(crate) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, Failure> {
        Ok(self.call(Method::POST, path, Some(whole(written(body)?))).await?.1)
    }

    /// Sends a request and reads the document of its answer, with its status.
    pub(crate) async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<Sent>,
    ) -> Result<(StatusCode, T), Failure> {
        let limit = limit(&method);
        let answer = async {
            let response = self.send(method, path, body).await?;
            let status = response.status();
            let body = Limited::new(response.into_body(), ANSWER).collect().await;
            Ok((status, body.map_err(|error| self.broken(&error))?.to_bytes()))
        };
        let (status, body) = timeout(limit, answer).await.unwrap_or_else(|_| Err(self.silent(limit)))?;
        let value = serde_json::from_slice(&body)
            .map_err(|error| Failure::odd(format!("the host's answer can't be read: {error}")))?;
        Ok((status, value))
    }

    /// Reads a stream of documents, one a line, until it ends or `each` has had enough.
    pub(crate) async fn lines<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<Sent>,
        mut each: impl FnMut(T) -> Result<ControlFlow<()>, Failure>,
    ) -> Result<(), Failure> {
        let limit = limit(&method);
        let begun = timeout(limit, self.send(method, path, body)).await;
        let mut body = begun.unwrap_or_else(|_| Err(self.silent(limit)))?.into_body();
        let mut kept = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| self.broken(&error))?;
            let Ok(data) = frame.into_data() else { continue };
            kept.extend_from_slice(&data);
            let mut rest = kept.as_slice();
            while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let (line, after) = rest.split_at(end);
                rest = after.get(1..).unwrap_or_default();
                let value = serde_json::from_slice(line)
                    .map_err(|error| Failure::odd(format!("a line of the host's can't be read: {error}")))?;
                if each(value)?.is_break() {
                    return Ok(());
                }
            }
            kept = rest.to_vec();
            if kept.len() > LINE {
                return Err(Failure::odd("the host sends a line without an end".to_owned()));
            }
        }
        Ok(())
    }

    /// Sends a request; an answer from 400 on is an error.
    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<Sent>,
    ) -> Result<Response<Incoming>, Failure> {
        let mut request = Request::builder().method(method).uri(path);
        if body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let request = match &self.place {
            Place::Socket(_) => request.header(HOST, "ews"),
            Place::Tcp { authority, token } => {
                request.header(HOST, authority).header(AUTHORIZATION, token.clone())
            }
        };
        let request = request
            .body(body.unwrap_or_else(|| whole(Bytes::new())))
            .map_err(|error| Failure::usage(format!("this can't be asked for: {error}")))?;
        let response = match &self.place {
            Place::Socket(path) => {
                let stream = UnixStream::connect(path).await.map_err(|error| self.unreachable(&error))?;
                self.over(stream, request).await?
            }
            Place::Tcp { authority, .. } => {
                let connected = timeout(CONNECT, TcpStream::connect(authority)).await;
                let connected = connected.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()));
                let stream = connected.map_err(|error| self.unreachable(&error))?;
                self.over(stream, request).await?
            }
        };
        let status = response.status();
        if !status.is_client_error() && !status.is_server_error() {
            return Ok(response);
        }
        let body = Limited::new(response.into_body(), ANSWER).collect().await;
        let body = body.map_err(|error| self.broken(&error))?.to_bytes();
        Err(match serde_json::from_slice::<Problem>(&body) {
            Ok(problem) => Failure::of(&problem.into_error()),
            Err(_) => {
                Failure::of(&Error::new(ErrorKind::Internal, format!("the host answered with {status}")))
            }
        })
    }

    async fn over(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        request: Request<Sent>,
    ) -> Result<Response<Incoming>, Failure> {
        let made = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = made.map_err(|error| self.broken(&error))?;
        tokio::spawn(async move {
            // What goes wrong with it shows where its answer is read.
            let _ = connection.await;
        });
        sender.send_request(request).await.map_err(|error| self.broken(&error))
    }
}

/// How long an answer may take to begin, a little longer than the host itself lets it take: only deployments take longer, for what they
/// copy.
fn limit(method: &Method) -> Duration {
    Duration::from_secs(if *method == Method::POST { 930 } else { 100 })
}

/// A document as it is sent.
pub(crate) fn written(body: &impl Serialize) -> Result<Bytes, Failure> {
    let text = serde_json::to_vec(body)
        .map_err(|error| Failure::odd(format!("the request can't be written: {error}")))?;
    Ok(text.into())
}

/// A body that is there.
pub(crate) fn whole(bytes: Bytes) -> Sent {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

/// A document, a line break, and then this program's standard input as it comes.
pub(crate) fn with_input(head: Bytes) -> Sent {
    let input = stream::unfold(tokio::io::stdin(), |mut input| async move {
        let mut buffer = BytesMut::with_capacity(PIECE);
        match input.read_buf(&mut buffer).await {
            Ok(0) => None,
            Ok(_) => Some((Ok(Frame::data(buffer.freeze())), input)),
            Err(error) => Some((Err(error), input)),
        }
    });
    let first = [head, Bytes::from_static(b"\n")].map(|bytes| Ok(Frame::data(bytes)));
    StreamBody::new(stream::iter(first).chain(input)).boxed_unsync()
}

/// Percent-encodes what stands in a path or a query.
pub(crate) fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~');
    text.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_host_that_takes_connections_and_says_nothing_is_not_waited_for_for_ever() {
        let folder = tempfile::tempdir().unwrap();
        // It is there, and never looks at who connects.
        let _listener = tokio::net::UnixListener::bind(folder.path().join(crate::host::SOCKET)).unwrap();
        let client = Client::of_data(folder.path());
        let failure = client.get::<serde_json::Value>("/v1/host").await.unwrap_err();
        assert!(failure.message().contains("does not answer within 100 s"), "{}", failure.message());
        assert_eq!(failure.code(), 3);
        let each = |_: serde_json::Value| Ok(ControlFlow::Continue(()));
        let failure = client.lines(Method::GET, "/v1/events", None, each).await.unwrap_err();
        assert_eq!(failure.code(), 3);
    }
}
