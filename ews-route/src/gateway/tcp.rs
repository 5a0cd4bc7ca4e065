//! TCP connections as they are: routed by the host that their listener stands for, then a tunnel.
//!
//! A listener names a domain of the table, so that shares, policies, holds and drains are the same objects as for HTTP: the
//! rule for `/` says which pool. What has no meaning without requests (paths, edits, pages) holds for nothing here.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use ews_core::balancer::PoolProtocol;
use ews_core::{Clock as _, SystemClock};
use hyper::{HeaderMap, Method, StatusCode};
use tokio::io::AsyncWriteExt as _;

use super::affinity::{self, Affinity};
use super::connection::{Connection, Phase, alive};
use super::endpoint::EndpointState;
use super::exchange::Exchange;
use super::forward::held;
use super::io::ClientIo;
use super::policy::Policy;
use super::pool::PoolView;
use super::proxy_protocol;
use super::route::{Action, Ask};
use super::stream::Stream;
use super::tunnel::Tunnel;
use super::upstream::{self, Lease};
use crate::access::{End, Entry};
use crate::metrics::recorder::Failure;

/// Serves one connection to its end.
pub(crate) async fn serve(connection: &Rc<Connection>, stream: Stream, host: &str) {
    let began = Instant::now();
    let thread = connection.thread.clone();
    let (pool, policy) = match route(connection, host, began) {
        Ok(target) => target,
        Err(failure) => {
            thread.own.failed(failure);
            if thread.logs() {
                let end = End {
                    at: SystemClock.now(),
                    status: None,
                    bytes: 0,
                    duration: began.elapsed(),
                    pool: None,
                    endpoint: None,
                    failure: Some(failure.as_str()),
                };
                thread.log(&Entry::connection(host, connection.client()), &end);
            }
            return;
        }
    };
    let counts = thread.pool_counts(&pool);
    let mut exchange = Exchange::new(connection.clone(), counts, pool.identity.clone(), began);
    let entry = thread.logs().then(|| Box::new(Entry::connection(host, connection.client())));
    exchange.logs(entry);
    connection.enter(Phase::Tunnel);
    if let Some(slots) = policy.as_ref().and_then(|policy| policy.slots.as_ref()) {
        match alive(connection, slots.take()).await.flatten() {
            Some(slot) => exchange.occupies(Some(slot)),
            None => return exchange.failed(Failure::Overloaded, StatusCode::SERVICE_UNAVAILABLE),
        }
    }
    let pool = if pool.has_room() {
        pool
    } else {
        match alive(connection, held(connection, &pool)).await.flatten() {
            Some(pool) => pool,
            None => {
                let failure = if pool.hold.is_some() { Failure::Overloaded } else { Failure::NoEndpoint };
                return exchange.failed(failure, StatusCode::SERVICE_UNAVAILABLE);
            }
        }
    };
    let attempts = policy.as_ref().and_then(|policy| policy.attempts);
    let attempts = attempts.unwrap_or(thread.shared.config.upstream.attempts);
    let Some((lease, upstream)) = connect(connection, &pool, attempts, &stream).await else {
        return exchange.failed(Failure::Connect, StatusCode::BAD_GATEWAY);
    };
    exchange.answered(StatusCode::SWITCHING_PROTOCOLS, lease);
    connection.enter(Phase::Tunnel);
    let client = ClientIo::new(stream, connection.clone());
    Tunnel { upstream, read: bytes::Bytes::new(), exchange }
        .run(connection, client, bytes::Bytes::new())
        .await;
}

/// Which pool the connection goes to, and what holds for it.
fn route(
    connection: &Connection,
    host: &str,
    began: Instant,
) -> Result<(Arc<PoolView>, Option<Arc<Policy>>), Failure> {
    let (thread, headers) = (&connection.thread, HeaderMap::new());
    let snapshot = thread.snapshot();
    if snapshot.blackholes.drops_host(host, || SystemClock.now()) {
        return Err(Failure::Blackhole);
    }
    let site = snapshot.site(host).ok_or(Failure::NoRoute)?;
    let ask = Ask { method: &Method::CONNECT, path: "/", query: None, headers: &headers };
    let rule = snapshot.routes(site).and_then(|routes| routes.find(&ask)).ok_or(Failure::NoRoute)?;
    let policy = rule.policy.as_ref().or(site.policy.as_ref()).and_then(|id| snapshot.policy(id));
    if let Some(policy) = policy {
        let now = thread.shared.nanos(began);
        if let Some(turned) = policy.turns_away(connection.address(), now, &thread.shared.rates) {
            return Err(turned.failure);
        }
    }
    let Action::Forward(shares) = &rule.action else { return Err(Failure::Unsupported) };
    let id = shares.next(|by| affinity::key(by, connection.address(), "/", &headers));
    let pool = id.and_then(|id| snapshot.pool(id)).ok_or(Failure::NoEndpoint)?;
    if pool.protocol != PoolProtocol::Tcp {
        return Err(Failure::Unsupported);
    }
    Ok((pool.clone(), policy.cloned()))
}

/// A connection to an endpoint of the pool: nothing was sent yet, so every one may be tried.
async fn connect(
    connection: &Rc<Connection>,
    pool: &PoolView,
    attempts: u32,
    client: &Stream,
) -> Option<(Rc<Lease>, Stream)> {
    let thread = &connection.thread;
    let key = affinity::key(&pool.hash_on, connection.address(), "/", &HeaderMap::new());
    let wish = Affinity { key, tag: None };
    let mut tried = Vec::new();
    for _ in 0..attempts {
        let state = pool.pick(thread.now(), &mut || thread.random(), wish, &tried)?;
        let lease = Rc::new(thread.endpoint(state).lease(connection));
        match alive(connection, open(connection, state, pool, client)).await? {
            Ok(upstream) => {
                state.reached();
                pool.note(state, true, thread.now());
                return Some((lease, upstream));
            }
            Err(_) => {
                pool.unreachable(state, thread.now(), thread.shared.config.upstream.eject);
                lease.fail();
            }
        }
        tried.push(state.uid);
    }
    None
}

async fn open(
    connection: &Connection,
    state: &EndpointState,
    pool: &PoolView,
    client: &Stream,
) -> std::io::Result<Stream> {
    let mut stream = upstream::open(&connection.thread, state).await?;
    if let Some(version) = pool.announces {
        let head = proxy_protocol::head(version, connection.source(), client.local_address()?);
        // It fits into the socket's buffer, which is empty.
        stream.write_all(&head).await?;
    }
    upstream::secure(&connection.thread, state, pool, stream).await
}
