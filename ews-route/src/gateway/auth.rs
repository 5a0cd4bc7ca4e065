//! Asks a service whether a request may pass.
//!
//! What it is asked with is the request's own head, so that it can look at cookies and tokens, but no body. It fails closed:
//! no answer is a refusal.

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use ews_core::balancer::ForwardAuth;
use ews_core::id::PoolId;
use ews_core::{Error, Result};
use hyper::body::Incoming;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{HeaderMap, Request, Response, StatusCode, Uri};

use super::affinity::Affinity;
use super::body::{Fate, RequestBody, ResponseBody};
use super::client::Client;
use super::connection::{Connection, Phase};
use super::forward::{Asking, Attempt};
use super::headers::{add_forwarded, join_cookies, strip_hop_by_hop};
use super::http1::Reply;
use super::respond::plain;
use super::upstream::Sender;

const X_FORWARDED_METHOD: HeaderName = HeaderName::from_static("x-forwarded-method");
const X_FORWARDED_URI: HeaderName = HeaderName::from_static("x-forwarded-uri");
/// How many of its endpoints are asked.
const ATTEMPTS: usize = 3;
/// The most of an answer's body that is taken.
const MAX_BODY: usize = 64 * 1024;

/// Who is asked.
#[derive(Debug)]
pub(crate) struct Auth {
    pool: PoolId,
    path: Uri,
    copied: Vec<HeaderName>,
    timeout: Duration,
}

impl Auth {
    /// # Errors
    /// `Invalid` for a path or a name that can't be sent.
    pub(crate) fn new(auth: &ForwardAuth) -> Result<Self> {
        let copied = auth.response_headers.iter().map(|name| HeaderName::from_bytes(name.as_bytes()));
        let copied = copied.collect::<std::result::Result<_, _>>();
        let (Ok(path), Ok(copied)) = (auth.path.parse(), copied) else {
            return Err(Error::invalid("an authorizer's path or one of its headers can't be sent"));
        };
        Ok(Self { pool: auth.pool.clone(), path, copied, timeout: auth.timeout })
    }

    /// Lets the request pass, with the headers that the answer gives it; else what the client is told.
    pub(crate) async fn ask(
        &self,
        connection: &Rc<Connection>,
        client: &Client,
        request: &mut Request<Incoming>,
    ) -> std::result::Result<(), Response<ResponseBody>> {
        // What the client says of itself must not pass for what the answer says.
        for name in &self.copied {
            request.headers_mut().remove(name);
        }
        keep(request.headers_mut(), &self.copied);
        let answered = tokio::time::timeout(self.timeout, self.answer(connection, client, request)).await;
        // What follows is the endpoint's time.
        connection.enter(Phase::Response);
        let unavailable = || plain(StatusCode::SERVICE_UNAVAILABLE);
        let (status, headers, body) = answered.ok().flatten().ok_or_else(unavailable)?;
        if status.is_success() {
            for name in &self.copied {
                for value in headers.get_all(name) {
                    request.headers_mut().append(name, value.clone());
                }
            }
            return Ok(());
        }
        let mut response = Response::new(ResponseBody::Own(Some(body).filter(|body| !body.is_empty())));
        // Something between the two that is no refusal and no leave, such as 304, would mislead a cache.
        let is_refusal = status.is_redirection() && status != StatusCode::NOT_MODIFIED
            || status.is_client_error()
            || status.is_server_error();
        if !is_refusal {
            return Err(unavailable());
        }
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        strip_hop_by_hop(response.headers_mut());
        response.headers_mut().remove(header::CONTENT_LENGTH);
        Err(response)
    }

    /// What it answers, of the first endpoint that does.
    async fn answer(
        &self,
        connection: &Rc<Connection>,
        client: &Client,
        request: &Request<Incoming>,
    ) -> Option<(StatusCode, HeaderMap, Bytes)> {
        let thread = &connection.thread;
        let pool = thread.snapshot().pool(&self.pool)?.clone();
        let wish = Affinity::of(&pool, client.address, request);
        let mut sending = Some(self.question(connection, request));
        let mut tried = Vec::new();
        for _ in 0..ATTEMPTS {
            let asking = sending.take().unwrap_or_else(|| self.question(connection, request));
            let state = pool.pick(thread.now(), &mut || thread.random(), wish, &tried)?;
            let lease = Rc::new(thread.endpoint(state).lease(connection));
            let fate = Cell::new(Fate::Untouched);
            let ask = Asking {
                connection,
                lease: &lease,
                fate: &fate,
                pool: &pool,
                may_upgrade: false,
                replayable: true,
                has_another: false,
            };
            let mut result = ask.attempt(asking, true).await;
            if let Err(Attempt::Stale(again)) = result {
                result = ask.attempt(again, false).await;
            }
            match result {
                Ok(response) => {
                    let (parts, body) = response.into_parts();
                    let is_good = !parts.status.is_server_error();
                    pool.note(state, is_good, thread.now());
                    let (body, sender) = collect(body).await;
                    if let Some(sender) = sender {
                        lease.local.checkin(sender, thread);
                    }
                    return Some((parts.status, parts.headers, body));
                }
                Err(Attempt::NotSent(again, _) | Attempt::Stale(again)) => sending = Some(again),
                Err(Attempt::Lost(_)) => pool.note(state, false, thread.now()),
                Err(Attempt::Final(_)) => return None,
            }
            tried.push(state.uid);
        }
        None
    }

    fn question(&self, connection: &Connection, request: &Request<Incoming>) -> Box<Request<RequestBody>> {
        let mut asking = Box::new(Request::new(RequestBody::Empty));
        *asking.uri_mut() = self.path.clone();
        let headers = asking.headers_mut();
        headers.clone_from(request.headers());
        if let Some(authority) = request.uri().authority()
            && let Ok(host) = HeaderValue::from_str(authority.as_str())
        {
            headers.insert(header::HOST, host);
        }
        join_cookies(headers);
        strip_hop_by_hop(headers);
        for name in [header::CONTENT_LENGTH, header::CONTENT_TYPE, header::CONTENT_ENCODING, header::EXPECT] {
            headers.remove(name);
        }
        // Conditions and ranges are about what was asked for, not about this.
        for name in [
            header::IF_MATCH,
            header::IF_NONE_MATCH,
            header::IF_MODIFIED_SINCE,
            header::IF_UNMODIFIED_SINCE,
            header::IF_RANGE,
            header::RANGE,
        ] {
            headers.remove(name);
        }
        add_forwarded(headers, connection);
        let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
        for (name, value) in [(X_FORWARDED_METHOD, request.method().as_str()), (X_FORWARDED_URI, target)] {
            if let Ok(value) = HeaderValue::from_str(value) {
                headers.insert(name, value);
            }
        }
        asking
    }
}

/// What `Connection` names goes on the way to the endpoint: a client could take away so what the answer gives.
fn keep(headers: &mut HeaderMap, names: &[HeaderName]) {
    let parts = headers.get_all(header::CONNECTION).iter();
    let parts: Vec<&[u8]> = parts.flat_map(|line| line.as_bytes().split(|byte| *byte == b',')).collect();
    let is_kept = |part: &&[u8]| {
        names.iter().any(|name| part.trim_ascii().eq_ignore_ascii_case(name.as_str().as_bytes()))
    };
    if !parts.iter().any(is_kept) {
        return;
    }
    let others: Vec<&[u8]> = parts.into_iter().filter(|part| !is_kept(part)).collect();
    let others = HeaderValue::from_bytes(&others.join(&b","[..]));
    headers.remove(header::CONNECTION);
    if let Ok(others) = others {
        headers.insert(header::CONNECTION, others);
    }
}

/// A body as far as it is taken, and its connection, where it may be used again.
async fn collect(mut body: Reply) -> (Bytes, Option<Sender>) {
    let mut bytes = BytesMut::new();
    while let Some(frame) = poll_fn(|cx| body.poll_frame(cx)).await {
        let Ok(frame) = frame else { return (bytes.freeze(), None) };
        if let Ok(data) = frame.into_data() {
            let room = MAX_BODY - bytes.len();
            bytes.extend_from_slice(data.get(..data.len().min(room)).unwrap_or_default());
            if data.len() > room {
                return (bytes.freeze(), None);
            }
        }
    }
    (bytes.freeze(), body.finish())
}
