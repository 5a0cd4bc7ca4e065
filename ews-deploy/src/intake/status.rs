//! Telling whoever asked how a deployment goes.

use std::time::Duration;

use async_trait::async_trait;
use ews_core::{Error, ErrorKind, Result, ServiceName};
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{CONNECTION, CONTENT_TYPE, HOST, HeaderValue, USER_AGENT};
use hyper::{Method, Request, Uri};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;

use super::heard::Heard;

/// How a deployment that a webhook asked for goes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Status {
    /// How.
    pub state: StatusState,
    /// In a sentence, for people.
    pub description: String,
    /// Where more is to be read, where the embedder said so.
    pub link: Option<String>,
    /// The rule.
    pub rule: String,
    /// What it deploys.
    pub service: ServiceName,
    /// The rollout; `None` where it never became one.
    pub rollout: Option<u64>,
    /// What the webhook said: the repository and the commit that the status belongs to.
    pub heard: Heard,
}

/// How a deployment goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum StatusState {
    /// It has begun.
    Pending,
    /// It did what was asked for.
    Success,
    /// It did not.
    Failure,
}

/// Who is told. Each status at least once, `Pending` before the end; after as many failures as
/// [`attempts`](super::IntakeLimits::attempts) no more. What is added to this trait later has a default.
#[async_trait]
pub trait StatusSink: Send + Sync + 'static {
    /// Tells one. It is dropped after 30 s and told again.
    ///
    /// # Errors
    /// Any: it is told again later.
    async fn tell(&self, status: &Status) -> Result<()>;
}

/// Posts each [`Status`] as JSON over plain HTTP/1.1, for a receiver on the same machine or network. An answer of 2xx is taken for
/// told; no redirect is followed, and nothing of the answer is kept. For TLS, put a proxy before the receiver or bring a
/// [`StatusSink`] of your own.
///
/// ```
/// use ews_deploy::intake::PostStatus;
///
/// let sink = PostStatus::to("http://127.0.0.1:9000/deployments")?;
/// assert!(PostStatus::to("https://example.com/").is_err());
/// # let _ = sink;
/// # Ok::<(), ews_core::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct PostStatus {
    uri: Uri,
    authority: String,
}

impl PostStatus {
    /// To this address.
    ///
    /// # Errors
    /// `Invalid` for what is no `http://` address, and for one with a user and a password.
    pub fn to(address: &str) -> Result<Self> {
        let wrong = || {
            Error::invalid("not an address for statuses; accepted: `http://host[:port]/path`, no user in it")
        };
        let uri: Uri = address.parse().map_err(|_| wrong())?;
        let authority = uri.authority().ok_or_else(wrong)?.as_str().to_owned();
        if uri.scheme_str() != Some("http") || authority.contains('@') {
            return Err(wrong());
        }
        Ok(Self { uri, authority })
    }

    fn request(&self, status: &Status) -> Result<Request<Full<Bytes>>> {
        let body = serde_json::to_vec(status).map_err(|_| Error::internal("a status can't be written"))?;
        let path = self.uri.path_and_query().map_or("/", |path| path.as_str());
        let host = HeaderValue::try_from(&self.authority).map_err(|_| Error::invalid("the host is wrong"))?;
        let request = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header(HOST, host)
            .header(USER_AGENT, concat!("ews-intake/", env!("CARGO_PKG_VERSION")))
            .header(CONTENT_TYPE, "application/json")
            .header(CONNECTION, "close");
        request.body(Full::new(Bytes::from(body))).map_err(|_| Error::invalid("the address is wrong"))
    }
}

#[async_trait]
impl StatusSink for PostStatus {
    async fn tell(&self, status: &Status) -> Result<()> {
        let away = |what: &'static str| Error::new(ErrorKind::Unavailable, what);
        let request = self.request(status)?;
        let host = self.uri.host().unwrap_or_default().trim_matches(['[', ']']);
        let port = self.uri.port_u16().unwrap_or(80);
        let stream = TcpStream::connect((host, port)).await;
        let stream = stream.map_err(|_| away("the receiver of statuses can't be reached"))?;
        let broken = |_| away("the receiver of statuses does not speak HTTP/1");
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        let mut connection = std::pin::pin!(connection);
        let mut answer = std::pin::pin!(sender.send_request(request));
        let mut over = false;
        // The connection lives in this future: dropped with it, closed with it.
        let answer = std::future::poll_fn(|context| {
            if !over && connection.as_mut().poll(context).is_ready() {
                over = true;
            }
            answer.as_mut().poll(context)
        });
        let status = answer.await.map_err(broken)?.status();
        if status.is_success() {
            return Ok(());
        }
        Err(away("the receiver of statuses refused one").with_context("status", status.as_u16()))
    }
}

/// How long telling one may take.
pub(super) const TELLING: Duration = Duration::from_secs(30);
