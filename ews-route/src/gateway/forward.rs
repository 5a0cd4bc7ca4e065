//! From a request to its answer: route, endpoint, connection, attempts.
//!
//! # What is tried again
//! | What happened | Again? |
//! |---|---|
//! | the endpoint refused the connection, or did not accept it in time | yes, elsewhere: nothing was sent |
//! | a kept connection was closed before the request went out | yes, on a new one: hyper gives the request back |
//! | the connection broke after that, before an answer, and the request is idempotent and without a body | yes, within the budget |
//! | the same, and the request may have had an effect | no: 502 |
//! | the answer took too long | no: 504; whoever waited that long would wait again |
//! | the answer broke off | no: the client's connection breaks off too |
//!
//! At most [`attempts`](crate::UpstreamConfig::attempts) endpoints see a request. One that can't be connected to is passed
//! over for a while by all threads.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use hyper::body::{Body as _, Incoming};
use hyper::header::{self, HeaderValue};
use hyper::{Method, Request, Response, StatusCode, Uri, Version};

use super::body::{Fate, RequestBody, ResponseBody};
use super::connection::{Connection, Phase};
use super::exchange::Exchange;
use super::headers::{add_forwarded, host_name, strip_hop_by_hop};
use super::pool::PoolView;
use super::respond::{last, plain, redirect, text};
use super::route::Action;
use super::upstream::{Lease, Sender, connect};
use crate::metrics::recorder::Failure;

/// Serves one request.
pub(crate) async fn answer(
    connection: Rc<Connection>,
    request: Request<Incoming>,
) -> Result<Response<ResponseBody>, Infallible> {
    if let Some(refusal) = connection.call() {
        connection.enter(Phase::Idle);
        return Ok(last(plain(refusal.status())));
    }
    let began = Instant::now();
    let pool = match route(&connection, &request) {
        Way::Pool(pool) => pool,
        Way::Own(response, failure) => return Ok(own(&connection, began, response, failure)),
    };
    let counts = connection.thread.pool_counts(&pool);
    let exchange = Exchange::new(connection.clone(), counts, began);
    Ok(forward(connection, &pool, request, exchange).await)
}

/// Where a request goes.
enum Way {
    /// To a pool.
    Pool(Arc<PoolView>),
    /// Nowhere: this is its answer, and what it failed for.
    Own(Response<ResponseBody>, Option<Failure>),
}

fn route(connection: &Connection, request: &Request<Incoming>) -> Way {
    let refused = |status: StatusCode, failure| Way::Own(plain(status), Some(failure));
    let headers = request.headers();
    if let Some(upgrade) = headers.get(header::UPGRADE)
        // Every HTTP/2 client of old asks for it, and goes on without (RFC 9110, section 7.8).
        && !upgrade.as_bytes().eq_ignore_ascii_case(b"h2c")
    {
        return refused(StatusCode::NOT_IMPLEMENTED, Failure::Unsupported);
    }
    if let (Some(most), Some(length)) =
        (connection.thread.shared.config.limits.body_bytes, request.body().size_hint().exact())
        && length > most
    {
        return Way::Own(last(plain(StatusCode::PAYLOAD_TOO_LARGE)), Some(Failure::TooLarge));
    }
    let authority = request.uri().authority().map(|authority| authority.as_str());
    let authority = authority.or_else(|| headers.get(header::HOST)?.to_str().ok()).unwrap_or_default();
    let snapshot = connection.thread.snapshot();
    let action = snapshot.routes(&host_name(authority)).and_then(|routes| routes.find(request.uri().path()));
    match action {
        None => refused(StatusCode::NOT_FOUND, Failure::NoRoute),
        Some(Action::Redirect(status, to)) => Way::Own(redirect(*status, to.clone()), None),
        Some(Action::Respond(status, body)) => Way::Own(text(*status, body.clone()), None),
        Some(Action::Forward(shares)) => match shares.next().and_then(|id| snapshot.pool(id)) {
            Some(pool) => Way::Pool(pool.clone()),
            None => refused(StatusCode::SERVICE_UNAVAILABLE, Failure::NoEndpoint),
        },
    }
}

/// Counts an answer that the gateway gives without a pool.
fn own(
    connection: &Connection,
    began: Instant,
    response: Response<ResponseBody>,
    failure: Option<Failure>,
) -> Response<ResponseBody> {
    let counts = &connection.thread.own;
    if let Some(failure) = failure {
        counts.failed(failure);
    }
    counts.answered(response.status(), u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX));
    connection.enter(Phase::Idle);
    response
}

/// Why an attempt gave no answer.
enum Attempt {
    /// Nothing was sent: it may be tried elsewhere whatever it is.
    NotSent(Request<RequestBody>, Failure),
    /// A kept connection was dead: a new one to the same endpoint is not a second attempt.
    Stale(Request<RequestBody>),
    /// It may have been sent and was not answered.
    Lost,
    /// It must not be tried again.
    Final(Failure),
}

async fn forward(
    connection: Rc<Connection>,
    pool: &PoolView,
    request: Request<Incoming>,
    mut exchange: Exchange,
) -> Response<ResponseBody> {
    let thread = connection.thread.clone();
    let (request, fate) = prepare(request, &connection);
    let replayable = request.body().is_empty() && is_idempotent(request.method());
    let is_head = request.method() == Method::HEAD;
    // A server that expects no body here would take it for the next request: so there is none after it.
    let is_odd = !request.body().is_empty() && (is_head || request.method() == Method::GET);
    thread.budget.deposit();
    let (mut request, mut tried) = (Some(request), Vec::new());
    let mut reason = Failure::NoEndpoint;
    for _ in 0..thread.shared.config.upstream.attempts {
        let Some(sending) = request.take() else { break };
        let mut random = || thread.random();
        let Some(state) = pool.pick(thread.now(), &mut random, &tried) else { break };
        let local = thread.endpoint(state);
        let spare = replayable.then(|| head_of(&sending));
        let lease = Rc::new(local.lease(&connection));
        let mut result = attempt(&connection, &lease, sending, &fate, true).await;
        if let Err(Attempt::Stale(again)) = result {
            result = attempt(&connection, &lease, again, &fate, false).await;
        }
        match result {
            Ok((response, sender)) => {
                let micros = exchange.began().elapsed().as_micros();
                state.took(u64::try_from(micros).unwrap_or(u64::MAX), thread.now());
                exchange.answered(response.status(), lease, (!is_odd).then_some(sender));
                let answer = respond(&connection, response, exchange, is_head);
                return if is_odd { last(answer) } else { answer };
            }
            Err(Attempt::NotSent(again, failure)) => {
                reason = failure;
                request = Some(again);
            }
            Err(Attempt::Stale(again)) => request = Some(again),
            Err(Attempt::Lost) => {
                reason = Failure::Upstream;
                request = spare.filter(|_| thread.budget.withdraw());
            }
            Err(Attempt::Final(failure)) => {
                reason = failure;
                break;
            }
        }
        tried.push(state.uid);
    }
    let status = match reason {
        Failure::NoEndpoint | Failure::Forced => StatusCode::SERVICE_UNAVAILABLE,
        Failure::Timeout => StatusCode::GATEWAY_TIMEOUT,
        Failure::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Failure::Client => StatusCode::BAD_REQUEST,
        _ => StatusCode::BAD_GATEWAY,
    };
    exchange.failed(reason, status);
    // A body that was not read to its end leaves nothing to find the next request by.
    let is_cut = fate.get() != Fate::Untouched || connection.is_aborted();
    if is_cut { last(plain(status)) } else { plain(status) }
}

/// Sends a request to an endpoint and waits for the begin of its answer.
async fn attempt(
    connection: &Connection,
    lease: &Rc<Lease>,
    mut request: Request<RequestBody>,
    fate: &std::cell::Cell<Fate>,
    may_reuse: bool,
) -> Result<(Response<Incoming>, Sender), Attempt> {
    let thread = &connection.thread;
    let (local, state) = (&lease.local, &lease.local.state);
    let kept = if may_reuse { local.checkout() } else { None };
    let is_kept = kept.is_some();
    let mut sender = match kept {
        Some(sender) => sender,
        None => match until_abort(connection, connect(thread, state)).await {
            Some(Ok(sender)) => {
                state.reached();
                sender
            }
            Some(Err(_)) => {
                state.unreachable(thread.now(), thread.shared.config.upstream.eject);
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
    match until_abort(connection, sender.try_send_request(request)).await {
        Some(Ok(response)) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
            // Nobody asked for it.
            lease.fail();
            Err(Attempt::Final(Failure::Upstream))
        }
        Some(Ok(response)) => Ok((response, sender)),
        Some(Err(mut error)) => {
            let returned = error.take_message();
            match (fate.get(), returned) {
                (Fate::TooLarge, _) => Err(Attempt::Final(Failure::TooLarge)),
                (Fate::Broken, _) => Err(Attempt::Final(Failure::Client)),
                (_, Some(mut request)) => {
                    request.body_mut().set_lease(None);
                    if is_kept {
                        return Err(Attempt::Stale(request));
                    }
                    lease.fail();
                    Err(Attempt::NotSent(request, Failure::Upstream))
                }
                (_, None) => {
                    lease.fail();
                    Err(Attempt::Lost)
                }
            }
        }
        None => {
            let failure = aborted(connection);
            if failure == Failure::Timeout {
                lease.fail();
            }
            Err(Attempt::Final(failure))
        }
    }
}

/// The future's output, or `None` once the connection was cut off or waited too long.
async fn until_abort<F: Future>(connection: &Connection, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        // The connection's task, which polls this, is woken for either.
        Poll::Pending if connection.is_aborted() || connection.is_expired(Phase::Response) => {
            Poll::Ready(None)
        }
        Poll::Pending => Poll::Pending,
    })
    .await
}

fn aborted(connection: &Connection) -> Failure {
    if connection.is_aborted() { Failure::Forced } else { Failure::Timeout }
}

/// The request as an endpoint gets it.
fn prepare(
    request: Request<Incoming>,
    connection: &Rc<Connection>,
) -> (Request<RequestBody>, Rc<std::cell::Cell<Fate>>) {
    let (mut parts, body) = request.into_parts();
    if parts.uri.authority().is_some() {
        let authority = parts.uri.authority().and_then(|a| HeaderValue::from_str(a.as_str()).ok());
        if let (Some(authority), false) = (authority, parts.headers.contains_key(header::HOST)) {
            parts.headers.insert(header::HOST, authority);
        }
        let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
        parts.uri = path.parse().unwrap_or_else(|_| Uri::from_static("/"));
    }
    parts.version = Version::HTTP_11;
    strip_hop_by_hop(&mut parts.headers);
    // hyper has told the client to go on; an endpoint would only be asked twice.
    parts.headers.remove(header::EXPECT);
    add_forwarded(&mut parts.headers, connection);
    let (body, fate) = RequestBody::new(body, connection);
    let mut request = Request::new(body);
    *request.method_mut() = parts.method;
    *request.uri_mut() = parts.uri;
    *request.headers_mut() = parts.headers;
    (request, fate)
}

/// The same request once more, without a body.
fn head_of(request: &Request<RequestBody>) -> Request<RequestBody> {
    let mut copy = Request::new(RequestBody::Empty);
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    copy
}

/// RFC 9110, section 9.2.2.
fn is_idempotent(method: &Method) -> bool {
    [Method::GET, Method::HEAD, Method::OPTIONS, Method::PUT, Method::DELETE, Method::TRACE].contains(method)
}

/// The answer as the client gets it.
fn respond(
    connection: &Connection,
    response: Response<Incoming>,
    exchange: Exchange,
    is_head: bool,
) -> Response<ResponseBody> {
    let (mut parts, body) = response.into_parts();
    strip_hop_by_hop(&mut parts.headers);
    parts.version = Version::HTTP_11;
    connection.enter(Phase::Body);
    let exchange = Box::new(exchange);
    let body = if is_head || body.is_end_stream() {
        exchange.complete();
        ResponseBody::Own(None)
    } else {
        ResponseBody::Upstream(body, Some(exchange))
    };
    let mut answer = Response::new(body);
    *answer.status_mut() = parts.status;
    *answer.headers_mut() = parts.headers;
    answer
}
