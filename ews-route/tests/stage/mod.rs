//! What the tests of the gateway play on: upstreams that do as they are told, and clients that speak raw bytes.

#![allow(dead_code, unused_imports, reason = "each test takes what it needs")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a stage that falls down fails the test"
)]

pub(crate) mod client;
#[cfg(feature = "http2")]
pub(crate) mod http2;
pub(crate) mod upstream;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ews_core::balancer::{
    Balancer, BalancerExt as _, Change, Domain, DomainName, EndpointView, Member, MemberState, Object,
    ObjectRef, ObserveQuery, Op, PathMatch, Pool, RouteAction, RouteRule, RouteSet, WeightedPool,
};
use ews_core::endpoint::{Endpoint, EndpointKey, Scope};
use ews_core::id::{ChangeId, InstanceId, PoolId, PortName, RouteSetId};
use ews_core::instance::Incarnation;
use ews_core::spec::network::Protocol;
use ews_route::{Gateway, GatewayConfig, SampleConfig, Timeouts};

pub(crate) use client::{Answer, Client};
pub(crate) use upstream::Upstream;

/// How long a condition is waited for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn config() -> GatewayConfig {
    let mut metrics = SampleConfig::default();
    (metrics.interval, metrics.histogram_every) = (Duration::from_millis(20), 1);
    GatewayConfig::default()
        .with_listen(["127.0.0.1:0".parse().unwrap()])
        .with_threads(2)
        .with_metrics(metrics)
}

pub(crate) fn with_timeouts(change: impl FnOnce(&mut Timeouts)) -> GatewayConfig {
    let mut timeouts = Timeouts::default();
    change(&mut timeouts);
    config().with_timeouts(timeouts)
}

/// A gateway with the pool `p` behind every host.
pub(crate) struct Stage {
    pub(crate) gateway: Gateway,
    pub(crate) address: SocketAddr,
}

impl Stage {
    pub(crate) async fn new(config: GatewayConfig) -> Self {
        let gateway = Gateway::start(config).await.unwrap();
        Self::of(gateway).await
    }

    pub(crate) async fn of(gateway: Gateway) -> Self {
        let address = gateway.addresses()[0];
        let stage = Self { gateway, address };
        stage.apply([put_pool("p"), put_routes("r", &[("/", "p")]), put_domain("*", "r")]).await;
        stage
    }

    /// The same with these endpoints in it.
    pub(crate) async fn with(config: GatewayConfig, addresses: &[SocketAddr]) -> Self {
        let stage = Self::new(config).await;
        for (number, address) in addresses.iter().enumerate() {
            stage.apply([put_member("p", &format!("i{number}"), *address)]).await;
        }
        stage
    }

    /// Applies, and waits until every thread serves it.
    pub(crate) async fn apply(&self, ops: impl IntoIterator<Item = Op>) -> u64 {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let id = ChangeId::new(format!("test-{}", NEXT.fetch_add(1, Ordering::Relaxed))).unwrap();
        let generation = self.gateway.apply(&Change::new(id, ops)).await.unwrap().generation;
        until("every thread serves the change", async || {
            let views = self.gateway.observe(&ObserveQuery::default()).await.unwrap();
            views.iter().all(|view| view.generation >= Some(generation))
        })
        .await;
        generation
    }

    pub(crate) async fn client(&self) -> Client {
        Client::connect(self.address).await
    }

    /// One request on a connection of its own.
    pub(crate) async fn get(&self, host: &str, path: &str) -> Answer {
        let mut client = self.client().await;
        client.send(&format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
        client.answer().await
    }

    pub(crate) async fn seen(&self, instance: &str) -> Option<EndpointView> {
        let views = self.gateway.observe(&ObserveQuery::endpoint(pool("p"), key(instance))).await.unwrap();
        views.into_iter().flat_map(|view| view.endpoints).next()
    }

    pub(crate) async fn state(&self, instance: &str, state: MemberState) {
        self.apply([put_state(instance, state)]).await;
    }

    pub(crate) async fn drain(&self, instance: &str, deadline: Duration) -> ews_core::balancer::Drained {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let id = ChangeId::new(format!("drain-{}", NEXT.fetch_add(1, Ordering::Relaxed))).unwrap();
        self.gateway.drain(&id, &pool("p"), &key(instance), deadline).await.unwrap()
    }

    pub(crate) async fn remove(&self, instance: &str) {
        self.apply([Op::Delete(ObjectRef::Endpoint(pool("p"), key(instance)))]).await;
    }
}

/// The endpoint of the pool `p` in this state.
pub(crate) fn put_state(instance: &str, state: MemberState) -> Op {
    Op::State { pool: pool("p"), endpoint: key(instance), state }
}

pub(crate) fn pool(name: &str) -> PoolId {
    PoolId::new(name).unwrap()
}

pub(crate) fn key(instance: &str) -> EndpointKey {
    EndpointKey {
        instance: InstanceId::new(instance).unwrap(),
        incarnation: Incarnation(1),
        port: PortName::new("http").unwrap(),
    }
}

pub(crate) fn member(pool_name: &str, instance: &str, address: SocketAddr) -> Member {
    let endpoint = Endpoint { key: key(instance), address, protocol: Protocol::Tcp, scope: Scope::Loopback };
    Member::new(pool(pool_name), endpoint)
}

pub(crate) fn put_member(pool: &str, instance: &str, address: SocketAddr) -> Op {
    Op::Put(Object::Endpoint(member(pool, instance, address)))
}

pub(crate) fn put_pool(name: &str) -> Op {
    Op::Put(Object::Pool(Pool::new(pool(name))))
}

/// Prefixes and the pools they lead to.
pub(crate) fn put_routes(name: &str, rules: &[(&str, &str)]) -> Op {
    put_rules(name, rules.iter().map(|(path, to)| forward(path, to)).collect())
}

/// What is below this path goes to this pool.
pub(crate) fn forward(path: &str, to: &str) -> RouteRule {
    let shares = vec![WeightedPool::new(pool(to), 1)];
    RouteRule::new(PathMatch::Prefix(path.to_owned()), RouteAction::Forward(shares))
}

pub(crate) fn put_rules(name: &str, rules: Vec<RouteRule>) -> Op {
    Op::Put(Object::RouteSet(RouteSet::new(RouteSetId::new(name).unwrap(), rules)))
}

pub(crate) fn put_domain(name: &str, routes: &str) -> Op {
    let (name, routes) = (DomainName::new(name).unwrap(), RouteSetId::new(routes).unwrap());
    Op::Put(Object::Domain(Domain::new(name, routes)))
}

/// Waits until it is so.
pub(crate) async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let ends = tokio::time::Instant::now() + PATIENCE;
    while !condition().await {
        assert!(tokio::time::Instant::now() < ends, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// An address where nobody listens.
pub(crate) async fn nowhere() -> SocketAddr {
    tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}
