//! The operator's API: what the command line speaks to.
//!
//! JSON below `/v1/`, errors as problems (RFC 9457), streams as a JSON document a line. Bodies, waits and the number of streams are
//! bounded. At the socket the file system says who may ask; on TCP a token does, compared in constant time before a byte of the
//! body is read.
//!
//! | Path | What |
//! |---|---|
//! | `GET /v1/host` | the host |
//! | `GET /v1/services`, `GET`, `DELETE /v1/services/{name}` | how services stand; one is removed |
//! | `POST /v1/services/{name}/deploy`, `/plan` | a deployment; what it would do |
//! | `GET /v1/services/{name}/rollouts/{number}?wait=30s` | a rollout, when it has ended or that time is over |
//! | `GET /v1/services/{name}/history` | what there was, and who asked for it |
//! | `POST /v1/services/{name}/rollback`, `/restart`, `/pause`, `/resume`, `/abort`, `/cancel`, `/scale` | as the deployer's methods |
//! | `POST /v1/services/{name}/hotfix?reload=…&reason=…` | a tar of files, by their paths in the instance |
//! | `GET /v1/services/{name}/logs?tail=100&follow=true&instance=…` | a stream of lines |
//! | `POST /v1/services/{name}/exec?stdin=true` | a stream of output, and the exit code |
//! | `GET /v1/events?service=…&follow=true` | a stream of what happened |
//! | `GET /v1/metrics` | signals, as Prometheus reads them |

mod act;
mod deploy;
mod hotfix;
mod logs;
mod read;
mod stream;
pub(crate) mod wire;
pub(crate) mod words;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use axum::body::Body;
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use bytes::Bytes;
use ews_core::http::{Access, ControlConfig, Problem, control};
use ews_core::{Bus, Error, ErrorKind, Result, Runtime, ServiceName};
use ews_deploy::source::Sources;
use ews_deploy::{Deployer, Hotfix};
use ews_monitor::LiveStore;
use futures_util::Stream;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::config::RuntimeKind;
use wire::{HostEvent, HostView};

/// The longest that a request waits for a rollout's end.
const WAIT: Duration = Duration::from_secs(60);
/// The largest document.
const DOCUMENT: usize = 2 << 20;
/// The most of a command's standard input.
const INPUT: usize = 8 << 30;
/// How long the making of a source may take.
const MAKING: Duration = Duration::from_secs(900);
/// The most streams at once.
const STREAMS: usize = 256;

type Answered = std::result::Result<Response, Problem>;

/// What an API stands on.
pub(crate) struct ApiParts {
    pub(crate) deployer: Deployer,
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) sources: Sources,
    pub(crate) live: LiveStore,
    pub(crate) bus: Bus<HostEvent>,
    pub(crate) host: HostView,
    /// Whether the host is about to end.
    pub(crate) ending: Arc<AtomicBool>,
    pub(crate) kind: RuntimeKind,
}

/// The API. Clones are the same.
#[derive(Clone)]
pub(crate) struct Api {
    parts: Arc<ApiParts>,
    streams: Arc<Semaphore>,
}

impl Api {
    pub(crate) fn new(parts: ApiParts) -> Self {
        Self { parts: Arc::new(parts), streams: Arc::new(Semaphore::new(STREAMS)) }
    }

    fn deployer(&self) -> &Deployer {
        &self.parts.deployer
    }

    fn runtime(&self) -> &dyn Runtime {
        &*self.parts.runtime
    }

    /// Room for one more stream, taken before anything is gathered for it.
    fn room(&self) -> Result<Room> {
        match Arc::clone(&self.streams).try_acquire_owned() {
            Ok(permit) => Ok(Room { _permit: permit }),
            Err(_) => Err(Error::new(ErrorKind::Unavailable, "too many streams are open; come back later")),
        }
    }
}

/// Room for a stream.
struct Room {
    _permit: OwnedSemaphorePermit,
}

impl Room {
    /// An answer that is a document a line, as long as somebody reads it.
    fn lines<T: Serialize>(self, lines: impl Stream<Item = T> + Send + 'static) -> Response {
        use futures_util::StreamExt as _;
        let lines = lines.map(move |line| {
            let _held = &self;
            let mut text = serde_json::to_vec(&line).unwrap_or_default();
            text.push(b'\n');
            Ok::<_, std::convert::Infallible>(Bytes::from(text))
        });
        let headers = [(header::CONTENT_TYPE, "application/x-ndjson"), (header::CACHE_CONTROL, "no-store")];
        (headers, Body::from_stream(lines)).into_response()
    }
}

/// Who asks, for the audit trail.
#[derive(Debug, Clone, Copy)]
struct Caller(&'static str);

/// The router for those whom `access` lets in.
///
/// # Errors
/// `Invalid` for limits that can't be kept.
pub(crate) fn router(api: &Api, access: Access, by: &'static str) -> Result<Router> {
    let bounded = |routes: Router<Api>, most: usize, limit: Duration| {
        let config = ControlConfig::default().with_max_body(most).with_timeout(limit);
        control(routes.with_state(api.clone()), access.clone(), config)
    };
    let small = Router::new()
        .route("/v1/host", get(read::host))
        .route("/v1/metrics", get(read::metrics))
        .route("/v1/services", get(read::services))
        .route("/v1/services/{name}", get(read::service).delete(act::remove))
        .route("/v1/services/{name}/rollouts/{number}", get(read::rollout))
        .route("/v1/services/{name}/history", get(read::history))
        .route("/v1/services/{name}/rollback", post(act::rollback))
        .route("/v1/services/{name}/restart", post(act::restart))
        .route("/v1/services/{name}/pause", post(act::pause))
        .route("/v1/services/{name}/resume", post(act::resume))
        .route("/v1/services/{name}/abort", post(act::abort))
        .route("/v1/services/{name}/cancel", post(act::cancel))
        .route("/v1/services/{name}/scale", post(act::scale))
        .route("/v1/services/{name}/logs", get(logs::logs))
        .route("/v1/events", get(stream::events));
    let making = Router::new()
        .route("/v1/services/{name}/deploy", post(deploy::deploy))
        .route("/v1/services/{name}/plan", post(deploy::plan));
    let large = Router::new().route("/v1/services/{name}/hotfix", post(hotfix::hotfix));
    // A tar rounds each file up to blocks, with a header before it.
    let archive = usize::try_from(Hotfix::TOTAL).unwrap_or(usize::MAX) + Hotfix::FILES * 4_096 + 10_240;
    let endless = Router::new().route("/v1/services/{name}/exec", post(stream::exec));
    let parts = [
        bounded(large, archive, MAKING)?,
        bounded(making, DOCUMENT, MAKING)?,
        bounded(endless, INPUT, WAIT)?,
        bounded(small, DOCUMENT, WAIT + Duration::from_secs(30))?,
    ];
    let routes = parts.into_iter().fold(Router::new(), Router::merge);
    Ok(routes.layer(Extension(Caller(by))))
}

fn json<T: Serialize>(status: StatusCode, value: &T) -> Response {
    match serde_json::to_vec(value) {
        Ok(text) => {
            let headers = [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")];
            (status, headers, text).into_response()
        }
        Err(error) => {
            Problem::from(Error::internal("the answer can't be written").with_source(error)).into_response()
        }
    }
}

/// Reads a document; an empty body is an empty one.
fn document<T: DeserializeOwned>(body: &[u8]) -> Result<T> {
    let body = if body.trim_ascii().is_empty() { b"{}" } else { body };
    serde_json::from_slice(body).map_err(|error| {
        // Serde's words name the field and what is accepted.
        let message: String = error.to_string().chars().take(8_192).collect();
        Error::invalid(format!("the request can't be read: {message}"))
    })
}

fn service_name(text: &str) -> Result<ServiceName> {
    ServiceName::new(text)
}

/// The parameters after `?`, of which only these are known.
fn parameters(uri: &Uri, known: &[&str]) -> Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    let query = uri.query().unwrap_or_default();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (name, value) = (decoded(name)?, decoded(value)?);
        if !known.contains(&name.as_str()) {
            let shown: String = name.chars().take(64).flat_map(char::escape_default).collect();
            let accepted = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            return Err(Error::invalid(format!("the parameter `{shown}` is unknown; accepted: {accepted}")));
        }
        found.insert(name, value);
    }
    Ok(found)
}

fn decoded(text: &str) -> Result<String> {
    let wrong = || Error::invalid("a parameter that is not percent-encoded text");
    let (mut bytes, mut rest) = (Vec::new(), text.bytes());
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let mut digit = || rest.next().and_then(|digit| char::from(digit).to_digit(16));
                let (high, low) = (digit().ok_or_else(wrong)?, digit().ok_or_else(wrong)?);
                u8::try_from(high * 16 + low).map_err(|_| wrong())?
            }
            b'+' => b' ',
            other => other,
        });
    }
    String::from_utf8(bytes).map_err(|_| wrong())
}

/// A parameter that is `true` or `false`; false where it is left out.
fn flag(parameters: &BTreeMap<String, String>, name: &str) -> Result<bool> {
    match parameters.get(name).map(String::as_str) {
        None | Some("false") => Ok(false),
        Some("true" | "") => Ok(true),
        Some(_) => Err(Error::invalid(format!("`{name}` is neither; accepted: `true` or `false`"))),
    }
}
