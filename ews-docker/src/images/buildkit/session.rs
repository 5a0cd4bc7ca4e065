//! The connection through which BuildKit asks back: HTTP/2 in the other direction, over a connection that the engine took over.
//!
//! It may ask for a secret of the spec, for a credential of a registry, and whether we are still there. A question about anything else, and
//! one that is too long, is refused. The session ends with its value.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io::Cursor;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ews_core::{Result, SecretValue};
use futures_util::stream;
use http_body_util::{BodyExt as _, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::AsyncReadExt as _;

use super::message::{field, frame, put, unframe};
use crate::client::{Call, Engine, Hijacked, Subject};
use crate::credentials::{Credential, Credentials};
use crate::images::credentials;

const HEALTH: &str = "/grpc.health.v1.Health/Check";
const SECRET: &str = "/moby.buildkit.secrets.v1.Secrets/GetSecret";
const CREDENTIALS: &str = "/moby.filesync.v1.Auth/Credentials";
/// The longest question, in bytes.
const MAX_QUESTION: usize = 64 * 1024;

/// gRPC's numbers for how a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Status {
    Ok = 0,
    InvalidArgument = 3,
    NotFound = 5,
    Unimplemented = 12,
    Unavailable = 14,
}

/// What a builder may be told.
pub(in crate::images) struct Answers {
    pub(super) secrets: BTreeMap<String, SecretValue>,
    pub(super) credentials: Credentials,
    /// The longest that a credential may take.
    pub(super) deadline: Duration,
}

/// An open session.
pub(in crate::images) struct Session {
    pub(super) id: String,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Session {
    /// Opens one.
    pub(super) async fn open(
        engine: &Engine,
        operation: &'static str,
        id: String,
        answers: Answers,
    ) -> Result<Self> {
        let mut call = Call::post(operation, Subject::Engine, &["session"])
            .header("upgrade", "h2c")?
            .header("x-docker-expose-session-uuid", &id)?
            .header("x-docker-expose-session-name", "ews")?;
        for method in [HEALTH, SECRET, CREDENTIALS] {
            call = call.header("x-docker-expose-session-grpc-method", method)?;
        }
        let Hijacked { first, stream } = engine.hijack(call).await?;
        let (read, write) = tokio::io::split(stream);
        let stream = tokio::io::join(Cursor::new(first).chain(read), write);
        let answers = Arc::new(answers);
        let task = tokio::spawn(async move {
            let service = service_fn(move |request| {
                let answers = answers.clone();
                async move { Ok::<_, Infallible>(answered(request, &answers).await) }
            });
            let served =
                http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service);
            if let Err(error) = served.await {
                tracing::debug!(%error, "a session with the builder broke");
            }
        });
        Ok(Self { id, task })
    }
}

type Body = StreamBody<stream::Iter<std::vec::IntoIter<std::result::Result<Frame<Bytes>, Infallible>>>>;

async fn answered(request: Request<Incoming>, answers: &Answers) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let asked = Limited::new(request.into_body(), MAX_QUESTION).collect().await;
    let question = asked.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let (status, message) = match unframe(&question) {
        Some(question) => answers.answer(&path, question).await,
        None => (Status::InvalidArgument, Vec::new()),
    };
    let mut frames = Vec::new();
    if status == Status::Ok
        && let Some(frame) = frame(&message)
    {
        frames.push(Ok(Frame::data(Bytes::from(frame))));
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from(status as u16));
    frames.push(Ok(Frame::trailers(trailers)));
    let mut response = Response::new(StreamBody::new(stream::iter(frames)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

impl Answers {
    async fn answer(&self, path: &str, question: &[u8]) -> (Status, Vec<u8>) {
        let name = field(question, 1).and_then(|name| name.text()).unwrap_or_default();
        let mut message = Vec::new();
        match path {
            // "Serving".
            HEALTH => (Status::Ok, vec![0x08, 1]),
            SECRET => match self.secrets.get(&name) {
                Some(secret) => {
                    put(&mut message, 1, secret.expose());
                    (Status::Ok, message)
                }
                None => (Status::NotFound, message),
            },
            CREDENTIALS => match self.credential(&name).await {
                Ok((user, secret)) => {
                    put(&mut message, 1, user.as_bytes());
                    put(&mut message, 2, &secret);
                    (Status::Ok, message)
                }
                Err(error) => {
                    tracing::warn!(registry = name, %error, "a builder gets no credential");
                    (Status::Unavailable, message)
                }
            },
            _ => (Status::Unimplemented, message),
        }
    }

    /// A registry's user and secret; both empty for nobody, the user alone for an identity token.
    async fn credential(&self, host: &str) -> Result<(String, Vec<u8>)> {
        // What Docker Hub is called depends on what of it is asked.
        let registry = match host {
            "registry-1.docker.io" | "index.docker.io" | "https://index.docker.io/v1/" => "docker.io",
            host => host,
        };
        Ok(match credentials::ask(&self.credentials, registry, self.deadline).await? {
            None => (String::new(), Vec::new()),
            Some(Credential::Password { user, password }) => (user, password.expose().to_vec()),
            Some(Credential::IdentityToken(token)) => (String::new(), token.expose().to_vec()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credentials::CredentialSource;
    use async_trait::async_trait;
    use ews_core::{Error, ErrorKind};

    struct Hub;

    #[async_trait]
    impl CredentialSource for Hub {
        async fn find(&self, registry: &str) -> Result<Option<Credential>> {
            match registry {
                "docker.io" => Ok(Some(Credential::password("me", SecretValue::new("it")?))),
                "token.example" => Ok(Some(Credential::identity_token(SecretValue::new("t")?))),
                "sealed.example" => Err(Error::new(ErrorKind::Unauthorized, "sealed")),
                _ => Ok(None),
            }
        }
    }

    fn answers(credentials: Credentials) -> Answers {
        let secrets = [("token".to_owned(), SecretValue::new("hunter2").unwrap())].into();
        Answers { secrets, credentials, deadline: Duration::from_secs(5) }
    }

    fn named(name: &str) -> Vec<u8> {
        let mut message = Vec::new();
        put(&mut message, 1, name.as_bytes());
        message
    }

    #[tokio::test]
    async fn a_builder_is_told_what_it_may_know() {
        let answers = answers(Credentials::anonymous());
        let (status, message) = answers.answer(SECRET, &named("token")).await;
        assert_eq!((status, field(&message, 1).unwrap().bytes()), (Status::Ok, Some(&b"hunter2"[..])));
        assert_eq!(answers.answer(SECRET, &named("other")).await, (Status::NotFound, Vec::new()));
        assert_eq!(answers.answer(SECRET, b"\xff\xff").await.0, Status::NotFound);
        assert_eq!(answers.answer("/moby.filesync.v1.FileSync/DiffCopy", b"").await.0, Status::Unimplemented);
        assert_eq!(answers.answer(HEALTH, b"").await, (Status::Ok, vec![8, 1]));
    }

    #[tokio::test]
    async fn credentials_are_asked_for_by_the_registrys_own_name() {
        let answers = answers(Credentials::anonymous().or(Hub));
        for (host, status, user, secret) in [
            ("registry-1.docker.io", Status::Ok, "me", "it"),
            ("token.example", Status::Ok, "", "t"),
            ("nobody.example", Status::Ok, "", ""),
            ("sealed.example", Status::Unavailable, "", ""),
        ] {
            let (found, message) = answers.answer(CREDENTIALS, &named(host)).await;
            let text = |number| field(&message, number).and_then(|field| field.text()).unwrap_or_default();
            assert_eq!((found, text(1).as_str(), text(2).as_str()), (status, user, secret), "{host}");
        }
    }
}
