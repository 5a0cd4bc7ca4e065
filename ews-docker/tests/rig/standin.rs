//! An engine that is none: it answers by a script, for what a real engine can't be made to show. Where the script has nothing to say, it can
//! pass a call on to a real engine.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use ews_docker::{DockerConfig, EngineAddress};
use futures_util::{StreamExt as _, stream};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::{UnixListener, UnixStream};

/// What is answered.
pub(crate) enum Reply {
    /// At once, with this status.
    Whole(u16, String),
    /// Piece by piece.
    Flow(Vec<Piece>),
    /// Not even a head comes.
    Never,
    /// What the real engine says.
    Real,
    /// The real engine does it, and its answer is lost on the way.
    Lost,
    /// Whatever is sent, as it is sent.
    Told(tokio::sync::mpsc::UnboundedReceiver<String>),
}

/// A piece of an answer.
pub(crate) enum Piece {
    Say(&'static str),
    /// What follows waits for a permit.
    Gate(Arc<tokio::sync::Semaphore>),
    /// Nothing more comes, and the connection stays.
    Hang,
    /// The connection breaks.
    Break,
}

/// One call: `POST /images/create?…`, the API's version, such as `1.41` (empty where none was said), and its headers. The body was read.
pub(crate) struct Asked {
    pub(crate) version: String,
    pub(crate) line: String,
    pub(crate) headers: hyper::HeaderMap,
    pub(crate) body: Bytes,
}

type Script = dyn Fn(&Asked) -> Reply + Send + Sync;

/// The engine. It ends with this value.
pub(crate) struct Standin {
    directory: tempfile::TempDir,
    asked: Arc<Mutex<Vec<(String, String)>>>,
    task: tokio::task::JoinHandle<()>,
}

const VERSION: &str = r#"{"Version":"20.10.24","ApiVersion":"1.41","MinAPIVersion":"1.12"}"#;
/// An engine without BuildKit, as far as its version tells.
const PODMAN: &str = r#"{"Version":"4.3.1","ApiVersion":"1.41","MinAPIVersion":"1.24","Components":[{"Name":"Podman Engine"}]}"#;
const INFO: &str = r#"{"ID":"STAND:IN","Name":"stand-in","OSType":"linux","Architecture":"x86_64","NCPU":1}"#;

impl Standin {
    /// Starts one.
    pub(crate) fn start(script: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Self {
        Self::made(None, VERSION, INFO, script)
    }

    /// Starts one that can pass calls on.
    pub(crate) fn over(
        real: &DockerConfig,
        script: impl Fn(&Asked) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::made(Some(real), VERSION, INFO, script)
    }

    /// Starts one that says to be podman, which has no BuildKit.
    pub(crate) fn podman(script: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Self {
        Self::made(None, PODMAN, INFO, script)
    }

    /// A real engine that says to be podman, so that it is asked for no BuildKit.
    pub(crate) fn classic(real: &DockerConfig) -> Self {
        Self::made(Some(real), PODMAN, INFO, |_| Reply::Real)
    }

    /// Starts one that says this of its version and of itself.
    pub(crate) fn saying(
        version: &str,
        info: &str,
        script: impl Fn(&Asked) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::made(None, version, info, script)
    }

    fn made(
        real: Option<&DockerConfig>,
        version: &str,
        info: &str,
        script: impl Fn(&Asked) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("engine.sock")).unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (seen, script): (_, Arc<Script>) = (asked.clone(), Arc::new(script));
        let facts = Arc::new((version.to_owned(), info.to_owned()));
        let real = real.map(|config| match &config.address {
            EngineAddress::Unix(path) => path.clone(),
            other => panic!("calls can't be passed on to {other}"),
        });
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (seen, script, real, facts) = (seen.clone(), script.clone(), real.clone(), facts.clone());
                let service = service_fn(move |request| {
                    let (seen, script, real, facts) =
                        (seen.clone(), script.clone(), real.clone(), facts.clone());
                    async move { answer(request, facts, seen, script, real).await }
                });
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        Self { directory, asked, task }
    }

    /// How it is reached.
    pub(crate) fn config(&self) -> DockerConfig {
        DockerConfig::new(EngineAddress::Unix(self.directory.path().join("engine.sock")))
    }

    /// The calls so far that contain this.
    pub(crate) fn asked(&self, part: &str) -> usize {
        self.asked.lock().unwrap().iter().filter(|(_, line)| line.contains(part)).count()
    }

    /// The calls so far, each with the version that it was made in, empty where it said none.
    pub(crate) fn calls(&self) -> Vec<(String, String)> {
        self.asked.lock().unwrap().clone()
    }
}

impl Drop for Standin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

type Answer = Response<UnsyncBoxBody<Bytes, std::io::Error>>;

async fn answer(
    request: Request<Incoming>,
    facts: Arc<(String, String)>,
    seen: Arc<Mutex<Vec<(String, String)>>>,
    script: Arc<Script>,
    real: Option<std::path::PathBuf>,
) -> std::io::Result<Answer> {
    let target = request.uri().to_string();
    let path = match target.strip_prefix("/v1.") {
        Some(rest) => rest.find('/').map_or("", |at| &rest[at..]),
        None => &target,
    };
    let line = format!("{} {path}", request.method());
    let version = target.strip_prefix("/v").and_then(|rest| rest.split('/').next()).unwrap_or_default();
    let version = if version.starts_with("1.") { version.to_owned() } else { String::new() };
    seen.lock().unwrap().push((version.clone(), line.clone()));
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let asked = Asked { version, line, headers: parts.headers.clone(), body };
    let reply = match path {
        "/version" => Reply::Whole(200, facts.0.clone()),
        "/info" => Reply::Whole(200, facts.1.clone()),
        _ => script(&asked),
    };
    Ok(match reply {
        Reply::Whole(status, text) => {
            let body = Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed_unsync();
            let mut answer = Response::new(body);
            *answer.status_mut() = status.try_into().unwrap();
            answer
        }
        Reply::Flow(pieces) => {
            let pieces = stream::iter(pieces).then(|piece| async {
                match piece {
                    Piece::Say(text) => Ok(Frame::data(Bytes::from(text))),
                    Piece::Gate(gate) => {
                        gate.acquire().await.unwrap().forget();
                        Ok(Frame::data(Bytes::new()))
                    }
                    Piece::Hang => std::future::pending().await,
                    Piece::Break => Err(std::io::Error::other("as the script says")),
                }
            });
            Response::new(StreamBody::new(pieces).boxed_unsync())
        }
        Reply::Told(told) => {
            let told = stream::unfold(told, async |mut told| {
                let text = told.recv().await?;
                Some((Ok(Frame::data(Bytes::from(text))), told))
            });
            Response::new(StreamBody::new(told).boxed_unsync())
        }
        Reply::Never => std::future::pending().await,
        Reply::Real | Reply::Lost => {
            let lost = matches!(reply, Reply::Lost);
            let stream = UnixStream::connect(real.expect("an engine to pass it on to")).await.unwrap();
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
            tokio::spawn(connection);
            let request = Request::from_parts(parts, Full::new(asked.body));
            let answer = sender.send_request(request).await.unwrap();
            if lost {
                answer.into_body().collect().await.unwrap();
                return Err(std::io::Error::other("as the script says"));
            }
            answer.map(|body| body.map_err(std::io::Error::other).boxed_unsync())
        }
    })
}
