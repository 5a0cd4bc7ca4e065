//! From a request to its answer: route, endpoint, connection, attempts.
//!
//! # What is tried again
//! | What happened | Again? |
//! |---|---|
//! | the endpoint refused the connection, or did not accept it in time | yes, elsewhere: nothing was sent |
//! | a kept connection was closed before the request went out | yes, on a new one: nothing was sent |
//! | a kept connection ended without a byte of an answer, and the request is idempotent and without a body | yes, on a new one: it was closed just as the request came |
//! | the connection broke after that, before an answer, and the request is idempotent and without a body | yes, within the budget |
//! | the same, and the request may have had an effect | no: 502 |
//! | the answer took too long | no: 504; whoever waited that long would wait again |
//! | the answer broke off | no: the client's connection breaks off too |
//!
//! At most [`attempts`](crate::UpstreamConfig::attempts) endpoints see a request. One that can't be connected to is passed
//! over for a while by all threads.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use ews_core::balancer::PoolProtocol;
use ews_core::{Clock as _, SystemClock};
use hyper::body::{Body as _, Incoming};
use hyper::header::{self, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, Request, Response, StatusCode, Uri, Version};

use super::affinity::{self, Affinity};
use super::body::{Fate, RequestBody, ResponseBody};
use super::client::Client;
use super::connection::{Connection, Phase};
use super::exchange::Exchange;
use super::headers::{add_forwarded, host_name, join_cookies, strip_hop_by_hop};
use super::http1::{Reached, Reply, Unanswered, Upgraded};
use super::policy::{self, Policy, Waiting};
use super::pool::PoolView;
use super::respond::{last, plain, redirect, text};
use super::route::{Action, Ask, Edits};
use super::tunnel::Tunnel;
use super::upstream::{Lease, Sender, connect};
use crate::access::{End, Entry};
use crate::metrics::recorder::Failure;

/// Serves one request.
#[expect(
    clippy::manual_async_fn,
    reason = "an `async fn` moves its arguments once more, and has room for both"
)]
pub(crate) fn answer(
    connection: Rc<Connection>,
    mut request: Request<Incoming>,
) -> impl Future<Output = Result<Response<ResponseBody>, Infallible>> {
    async move {
        if let Some(refusal) = connection.call() {
            connection.enter(Phase::Idle);
            return Ok(last(plain(refusal.status())));
        }
        let began = Instant::now();
        let client = Client::of(&connection, request.headers());
        let entry = connection
            .thread
            .logs()
            .then(|| Box::new(Entry::new(&request, client.text(&connection), client.scheme)));
        let target = match route(&connection, &client, &request, began) {
            Way::Pool(target) => target,
            Way::Own(response, failure) => {
                return Ok(own(&connection, began, response, failure, entry.as_deref()));
            }
            Way::Nowhere => {
                connection.thread.own.failed(Failure::Blackhole);
                connection.cut();
                return std::future::pending().await;
            }
        };
        if let Some(auth) = target.policy.as_ref().and_then(|policy| policy.auth.clone())
            && let Err(response) = Box::pin(auth.ask(&connection, &client, &mut request)).await
        {
            return Ok(own(&connection, began, response, Some(Failure::Unauthorized), entry.as_deref()));
        }
        let counts = connection.thread.pool_counts(&target.pool);
        let mut exchange = Exchange::new(connection.clone(), counts, target.pool.identity.clone(), began);
        exchange.logs(entry);
        if let Some(slots) = target.policy.as_ref().and_then(|policy| policy.slots.as_ref()) {
            let slot = Box::pin(slots.take()).await;
            if slot.is_none() {
                let status = StatusCode::SERVICE_UNAVAILABLE;
                exchange.failed(Failure::Overloaded, status);
                return Ok(policy::error(target.policy.as_ref(), status));
            }
            exchange.occupies(slot);
            // It has waited enough already; what follows is the endpoint's time.
            connection.enter(Phase::Response);
        }
        let wish = Affinity::of(&target.pool, client.address, &request);
        let (request, fate) = prepare(request, &connection, &target);
        Ok(forward(connection, &client, target, request, fate, wish, exchange).await)
    }
}

/// How often who waits for a place at an endpoint looks for one.
const FULL_PAUSE: std::time::Duration = std::time::Duration::from_millis(2);

/// Where a request goes.
enum Way {
    /// To a pool.
    Pool(Target),
    /// Nowhere: this is its answer, and what it failed for.
    Own(Response<ResponseBody>, Option<Failure>),
    /// Nowhere, and it gets no answer.
    Nowhere,
}

/// A pool, and what holds on the way there.
struct Target {
    pool: Arc<PoolView>,
    policy: Option<Arc<Policy>>,
    edits: Option<Arc<Edits>>,
}

impl Target {
    /// The largest body that may be sent there.
    fn max_body(&self, connection: &Connection) -> Option<u64> {
        let own = self.policy.as_ref().and_then(|policy| policy.max_body);
        own.or(connection.thread.shared.config.limits.body_bytes)
    }
}

fn route(connection: &Connection, client: &Client, request: &Request<Incoming>, began: Instant) -> Way {
    let headers = request.headers();
    let authority = request.uri().authority().map(|authority| authority.as_str());
    let authority = authority.or_else(|| headers.get(header::HOST)?.to_str().ok()).unwrap_or_default();
    let (thread, uri) = (&connection.thread, request.uri());
    let snapshot = thread.snapshot();
    let host = host_name(authority);
    if snapshot.blackholes.drops_host(&host, || SystemClock.now()) {
        return Way::Nowhere;
    }
    if client.address != connection.address()
        && snapshot.blackholes.drops(client.address, || SystemClock.now())
    {
        // The connection is a proxy's, and others are on it.
        return Way::Own(plain(StatusCode::FORBIDDEN), Some(Failure::Blackhole));
    }
    let site = snapshot.site(&host);
    if let Some(certificate) = site.and_then(|site| snapshot.certificate(site.certificate.as_ref()?))
        && certificate.client_ca.is_some()
        && connection.certificate.get() != Some(&certificate.id)
    {
        // It proved itself to another site, or to none (RFC 9110, section 15.5.20).
        let response = plain(StatusCode::MISDIRECTED_REQUEST);
        return Way::Own(response, Some(Failure::Misdirected));
    }
    let ask = Ask { method: request.method(), path: uri.path(), query: uri.query(), headers };
    let rule = site.and_then(|site| snapshot.routes(site)?.find(&ask));
    let policy = rule.and_then(|rule| rule.policy.as_ref()).or_else(|| site?.policy.as_ref());
    let policy = policy.and_then(|id| snapshot.policy(id));
    let refused = |status: StatusCode, failure| Way::Own(policy::error(policy, status), Some(failure));
    if let Some(policy) = policy {
        let now = thread.shared.nanos(began);
        if let Some(turned) = policy.turns_away(client.address, now, &thread.shared.rates) {
            return Way::Own(turned.response, Some(turned.failure));
        }
        if let Some(millis) = policy.response {
            connection.set_patience(millis);
        }
    }
    let Some(rule) = rule else { return refused(StatusCode::NOT_FOUND, Failure::NoRoute) };
    let mut response = match &rule.action {
        Action::Redirect(status, to) => redirect(*status, to.clone()),
        Action::RedirectTo(to) => match to.location(client.scheme, authority, uri) {
            Some(location) => redirect(to.status, location),
            None => return refused(StatusCode::BAD_REQUEST, Failure::NoRoute),
        },
        Action::Respond(status, body) => text(*status, body.clone()),
        Action::Forward(shares) => {
            let Some(pool) = shares
                .next(|by| affinity::key(by, client.address, uri.path(), headers))
                .and_then(|id| snapshot.pool(id))
            else {
                return refused(StatusCode::SERVICE_UNAVAILABLE, Failure::NoEndpoint);
            };
            if pool.protocol == PoolProtocol::Tcp {
                return refused(StatusCode::BAD_GATEWAY, Failure::Unsupported);
            }
            let (pool, policy) = (pool.clone(), policy.cloned());
            let target = Target { pool, policy, edits: rule.edits.clone() };
            let length = request.body().size_hint().exact();
            if let (Some(most), Some(length)) = (target.max_body(connection), length)
                && length > most
            {
                let response = policy::error(target.policy.as_ref(), StatusCode::PAYLOAD_TOO_LARGE);
                return Way::Own(last(response), Some(Failure::TooLarge));
            }
            return Way::Pool(target);
        }
    };
    if let Some(edits) = &rule.edits {
        edits.response(response.headers_mut());
    }
    Way::Own(response, None)
}

/// Counts an answer that the gateway gives without a pool.
fn own(
    connection: &Connection,
    began: Instant,
    response: Response<ResponseBody>,
    failure: Option<Failure>,
    entry: Option<&Entry>,
) -> Response<ResponseBody> {
    if let Some(entry) = entry {
        let end = End {
            at: SystemClock.now(),
            status: Some(response.status()),
            bytes: response.body().size_hint().exact().unwrap_or(0),
            duration: began.elapsed(),
            pool: None,
            endpoint: None,
            failure: failure.map(Failure::as_str),
        };
        connection.thread.log(entry, &end);
    }
    let counts = &connection.thread.own;
    if let Some(failure) = failure {
        counts.failed(failure);
    }
    counts.answered(response.status(), u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX));
    connection.enter(Phase::Idle);
    response
}

/// Why an attempt gave no answer.
pub(super) enum Attempt {
    /// Nothing was sent: it may be tried elsewhere whatever it is.
    NotSent(Box<Request<RequestBody>>, Failure),
    /// A kept connection was dead: a new one to the same endpoint is not a second attempt.
    Stale(Box<Request<RequestBody>>),
    /// It may have been sent and was not answered; this is it, where it has no body.
    Lost(Option<Box<Request<RequestBody>>>),
    /// It must not be tried again.
    Final(Failure),
}

async fn forward(
    connection: Rc<Connection>,
    client: &Client,
    target: Target,
    request: Box<Request<RequestBody>>,
    fate: Rc<std::cell::Cell<Fate>>,
    wish: Affinity,
    mut exchange: Exchange,
) -> Response<ResponseBody> {
    let thread = connection.thread.clone();
    exchange.named(request.headers());
    let may_upgrade = request.headers().contains_key(header::UPGRADE);
    let Target { mut pool, policy, edits } = target;
    let replayable = request.body().is_empty() && is_idempotent(request.method());
    let is_head = request.method() == Method::HEAD;
    // A server that expects no body here would take it for the next request: so there is none after it.
    let is_odd = !request.body().is_empty() && (is_head || request.method() == Method::GET);
    thread.budget.deposit();
    let (mut request, mut tried) = (Some(request), Vec::new());
    let mut reason = Failure::NoEndpoint;
    if !pool.has_room() && pool.hold.is_some() {
        match Box::pin(held(&connection, &pool)).await {
            Some(there) => pool = there,
            None => reason = Failure::Overloaded,
        }
        connection.enter(Phase::Response);
    }
    let attempts = policy.as_ref().and_then(|policy| policy.attempts);
    for _ in 0..attempts.unwrap_or(thread.shared.config.upstream.attempts) {
        let Some(sending) = request.take() else { break };
        let mut random = || thread.random();
        let Some(state) = pool.pick(thread.now(), &mut random, wish, &tried) else {
            if tried.is_empty() && pool.has_any() {
                reason = Failure::Overloaded;
            }
            break;
        };
        let local = thread.endpoint(state);
        let has_another = replayable && pool.has_another(state, &tried);
        let lease = Rc::new(local.lease(&connection));
        let ask = Asking {
            connection: &connection,
            lease: &lease,
            fate: &fate,
            pool: &pool,
            may_upgrade,
            replayable,
            has_another,
        };
        let mut result = ask.attempt(sending, true).await;
        if let Err(Attempt::Stale(again)) = result {
            result = ask.attempt(again, false).await;
        }
        match result {
            Ok(response) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
                let mut answer = switch(&response);
                let Some(Upgraded(upstream, read)) = response.into_body().upgraded() else {
                    lease.fail();
                    reason = Failure::Upstream;
                    break;
                };
                exchange.answered(answer.status(), lease);
                if let Some(edits) = &edits {
                    edits.response(answer.headers_mut());
                }
                connection.upgrade(Tunnel { upstream, read, exchange });
                return answer;
            }
            Ok(response) => {
                let micros = exchange.began().elapsed().as_micros();
                state.took(u64::try_from(micros).unwrap_or(u64::MAX), thread.now());
                pool.note(state, !response.status().is_server_error(), thread.now());
                exchange.answered(response.status(), lease);
                let mut answer = respond(&connection, response, exchange, is_head, edits.as_deref());
                if let Some(cookie) = wish.cookie(&pool, state, client.scheme) {
                    answer.headers_mut().append(header::SET_COOKIE, cookie);
                }
                return if is_odd { last(answer) } else { answer };
            }
            Err(Attempt::NotSent(again, failure)) => {
                reason = failure;
                request = Some(again);
            }
            Err(Attempt::Stale(again)) => request = Some(again),
            Err(Attempt::Lost(again)) => {
                pool.note(state, false, thread.now());
                reason = Failure::Upstream;
                request = again.filter(|_| has_another && thread.budget.withdraw());
            }
            Err(Attempt::Final(failure)) => {
                if matches!(failure, Failure::Timeout | Failure::Upstream) {
                    pool.note(state, false, thread.now());
                }
                reason = failure;
                break;
            }
        }
        tried.push(state.uid);
    }
    let status = match reason {
        Failure::NoEndpoint | Failure::Forced | Failure::Overloaded => StatusCode::SERVICE_UNAVAILABLE,
        Failure::Timeout => StatusCode::GATEWAY_TIMEOUT,
        Failure::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Failure::Client => StatusCode::BAD_REQUEST,
        _ => StatusCode::BAD_GATEWAY,
    };
    exchange.failed(reason, status);
    // A body that was not read to its end leaves nothing to find the next request by.
    let is_cut = fate.get() != Fate::Untouched || connection.is_aborted();
    let response = policy::error(policy.as_ref(), status);
    if is_cut { last(response) } else { response }
}

/// Waits until the pool has an endpoint for traffic, as long as it lets requests wait.
pub(super) async fn held(connection: &Connection, pool: &PoolView) -> Option<Arc<PoolView>> {
    let (thread, hold) = (&connection.thread, pool.hold?);
    let _waiting = Waiting::join(&pool.identity.held, hold.requests)?;
    let there = async {
        loop {
            let mut changed = pin!(thread.changed.notified());
            // Before the look, so that no change between the two is missed.
            changed.as_mut().enable();
            let current = thread.snapshot().pool(&pool.identity.id).cloned()?;
            if current.has_room() {
                return Some(current);
            }
            if current.has_any() {
                // All are full. What ends elsewhere wakes nobody here, so it is looked for.
                let _ = tokio::time::timeout(FULL_PAUSE, changed).await;
            } else {
                changed.await;
            }
            // Its wait is bounded by the hold, not by the time that an endpoint may take.
            connection.enter(Phase::Response);
        }
    };
    tokio::time::timeout(hold.wait, there).await.ok()?
}

/// One endpoint that is asked.
pub(super) struct Asking<'a> {
    pub(super) connection: &'a Connection,
    pub(super) lease: &'a Rc<Lease>,
    pub(super) fate: &'a std::cell::Cell<Fate>,
    pub(super) pool: &'a PoolView,
    pub(super) may_upgrade: bool,
    /// Whether it may be sent twice.
    pub(super) replayable: bool,
    /// Whether somebody else could get it then.
    pub(super) has_another: bool,
}

impl Asking<'_> {
    /// Sends a request to the endpoint and waits for the begin of its answer.
    pub(super) async fn attempt(
        &self,
        mut request: Box<Request<RequestBody>>,
        may_reuse: bool,
    ) -> Result<Response<Reply>, Attempt> {
        let Self { connection, pool, lease, fate, may_upgrade, replayable, has_another } = *self;
        let thread = &connection.thread;
        let (local, state) = (&lease.local, &lease.local.state);
        let kept = if may_reuse { local.checkout(pool, replayable) } else { None };
        let is_kept = kept.is_some();
        let sender = match kept {
            Some(sender) => sender,
            // In a box, as all that is rare: what a connection needs in memory is the largest of all that may come.
            None => match until_abort(connection, Box::pin(connect(thread, local, pool)).as_mut()).await {
                Some(Ok(sender)) => {
                    state.reached();
                    sender
                }
                Some(Err(_)) => {
                    pool.unreachable(state, thread.now(), thread.shared.config.upstream.eject);
                    lease.fail();
                    request.body_mut().set_lease(None);
                    return Err(Attempt::NotSent(request, Failure::Connect));
                }
                None => return Err(Attempt::Final(aborted(connection))),
            },
        };
        if !request.body().is_empty() {
            request.body_mut().set_lease(Some(lease.clone()));
        }
        #[cfg(not(feature = "http2"))]
        let _ = has_another;
        let answered = match sender {
            Sender::Http1(http1) => {
                let mut asked = http1.ask(request);
                until_abort(connection, pin!(poll_fn(|cx| asked.poll(thread, cx)))).await
            }
            #[cfg(feature = "http2")]
            Sender::Http2(stream) => {
                until_abort(connection, Box::pin(stream.send(request, has_another)).as_mut()).await
            }
        };
        match answered {
            Some(Ok(response)) if response.status() == StatusCode::SWITCHING_PROTOCOLS && !may_upgrade => {
                // Nobody asked for it.
                lease.fail();
                Err(Attempt::Final(Failure::Upstream))
            }
            Some(Ok(response)) => Ok(response),
            Some(Err(Unanswered { request, reached })) => match (fate.get(), request) {
                (Fate::TooLarge, _) => Err(Attempt::Final(Failure::TooLarge)),
                (Fate::Broken, _) => Err(Attempt::Final(Failure::Client)),
                (_, Some(mut request)) if reached == Reached::Nobody => {
                    request.body_mut().set_lease(None);
                    if is_kept {
                        return Err(Attempt::Stale(request));
                    }
                    lease.fail();
                    Err(Attempt::NotSent(request, Failure::Upstream))
                }
                // It was closed just as the request came (RFC 9112, section 9.3.1).
                (_, Some(request)) if is_kept && reached == Reached::Silence && replayable => {
                    Err(Attempt::Stale(request))
                }
                (_, request) => {
                    lease.fail();
                    Err(Attempt::Lost(request))
                }
            },
            None => {
                let failure = aborted(connection);
                if failure == Failure::Timeout {
                    lease.fail();
                }
                Err(Attempt::Final(failure))
            }
        }
    }
}

/// The future's output, or `None` once the connection was cut off or waited too long.
async fn until_abort<F: Future>(connection: &Connection, mut future: Pin<&mut F>) -> Option<F::Output> {
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        // The connection's task, which polls this, is woken for either.
        Poll::Pending
            if connection.is_dropped()
                || connection.is_aborted()
                || connection.is_expired(Phase::Response) =>
        {
            Poll::Ready(None)
        }
        Poll::Pending => Poll::Pending,
    })
    .await
}

fn aborted(connection: &Connection) -> Failure {
    match (connection.is_aborted(), connection.is_dropped()) {
        (true, _) => Failure::Forced,
        (false, true) => Failure::Client,
        (false, false) => Failure::Timeout,
    }
}

/// The request as an endpoint gets it.
fn prepare(
    request: Request<Incoming>,
    connection: &Rc<Connection>,
    target: &Target,
) -> (Box<Request<RequestBody>>, Rc<std::cell::Cell<Fate>>) {
    let (mut parts, body) = request.into_parts();
    if parts.uri.authority().is_some() {
        let authority = parts.uri.authority().and_then(|a| HeaderValue::from_str(a.as_str()).ok());
        if let (Some(authority), false) = (authority, parts.headers.contains_key(header::HOST)) {
            parts.headers.insert(header::HOST, authority);
        }
        let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
        parts.uri = path.parse().unwrap_or_else(|_| Uri::from_static("/"));
    }
    let may_upgrade = target.pool.protocol == PoolProtocol::Http1;
    let upgrade = wanted_upgrade(&parts, &body).filter(|_| may_upgrade);
    if parts.version == Version::HTTP_2 {
        join_cookies(&mut parts.headers);
    }
    parts.version = Version::HTTP_11;
    strip_hop_by_hop(&mut parts.headers);
    if let Some(upgrade) = upgrade {
        parts.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        parts.headers.insert(header::UPGRADE, upgrade);
    }
    // hyper has told the client to go on; an endpoint would only be asked twice.
    parts.headers.remove(header::EXPECT);
    add_forwarded(&mut parts.headers, connection);
    if let Some(edits) = &target.edits {
        edits.request(&mut parts.headers, &mut parts.uri);
    }
    // Of gRPC's streams either side may be silent for as long as it likes.
    let kind = parts.headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    let is_paced = !kind.is_some_and(|kind| kind.starts_with(b"application/grpc"));
    let (body, fate) = RequestBody::new(body, target.max_body(connection), is_paced, connection);
    // From here to there and back it is moved many times.
    let mut request = Box::new(Request::new(body));
    *request.method_mut() = parts.method;
    *request.uri_mut() = parts.uri;
    *request.headers_mut() = parts.headers;
    (request, fate)
}

/// What the client wants to speak from here on. Not with a body, which nobody sends; and not another form of HTTP, which would
/// pass the guard by.
fn wanted_upgrade(parts: &Parts, body: &Incoming) -> Option<HeaderValue> {
    let upgrade = parts.headers.get(header::UPGRADE)?;
    let is_asked = parts.headers.get_all(header::CONNECTION).iter().any(|value| {
        value
            .as_bytes()
            .split(|byte| *byte == b',')
            .any(|one| one.trim_ascii().eq_ignore_ascii_case(b"upgrade"))
    });
    let names = || upgrade.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
    let is_http = names().any(|name| {
        let name = name.split(|byte| *byte == b'/').next().unwrap_or_default();
        [&b"h2c"[..], b"h2", b"http", b"tls"].iter().any(|http| name.eq_ignore_ascii_case(http))
    });
    let is_fine = is_asked && !is_http && parts.version == Version::HTTP_11 && body.is_end_stream();
    is_fine.then(|| upgrade.clone())
}

/// The answer to an upgrade as the client gets it.
fn switch(response: &Response<Reply>) -> Response<ResponseBody> {
    let mut answer = Response::new(ResponseBody::Own(None));
    *answer.status_mut() = response.status();
    let headers = answer.headers_mut();
    headers.clone_from(response.headers());
    strip_hop_by_hop(headers);
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    if let Some(upgrade) = response.headers().get(header::UPGRADE) {
        headers.insert(header::UPGRADE, upgrade.clone());
    }
    answer
}

/// RFC 9110, section 9.2.2.
fn is_idempotent(method: &Method) -> bool {
    [Method::GET, Method::HEAD, Method::OPTIONS, Method::PUT, Method::DELETE, Method::TRACE].contains(method)
}

/// The answer as the client gets it.
fn respond(
    connection: &Connection,
    response: Response<Reply>,
    mut exchange: Exchange,
    is_head: bool,
    edits: Option<&Edits>,
) -> Response<ResponseBody> {
    let (mut parts, mut reply) = response.into_parts();
    strip_hop_by_hop(&mut parts.headers);
    if let Some(edits) = edits {
        edits.response(&mut parts.headers);
    }
    connection.enter(Phase::Body);
    let body = if is_head || reply.is_end_stream() {
        exchange.complete(reply.finish());
        ResponseBody::Own(None)
    } else if let Some(whole) = reply.take_whole() {
        exchange.progress(whole.len());
        exchange.complete(reply.finish());
        ResponseBody::Own(Some(whole))
    } else {
        ResponseBody::Upstream(Some(reply), Some(Box::new(exchange)))
    };
    let mut answer = Response::new(body);
    *answer.status_mut() = parts.status;
    *answer.headers_mut() = parts.headers;
    answer
}
