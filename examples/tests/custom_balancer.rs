//! The example balancer keeps the contract over a real nginx, and moves requests as its objects say.

#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "tests"
)]

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use axum::Router;
use ews_core::balancer::{
    Change, Domain, DomainName, Drained, Member, MemberState, Object, ObserveQuery, Op, PathMatch, Pool,
    RouteAction, RouteRule, RouteSet, WeightedPool,
};
use ews_core::spec::network::Protocol;
use ews_core::testkit::conformance::balancer;
use ews_core::{
    Balancer, BalancerExt as _, ChangeId, Endpoint, EndpointKey, ErrorKind, Incarnation, PoolId, RouteSetId,
    Scope,
};
use ews_examples::custom_balancer::{Harness, NginxBalancer, NginxConfig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep};

fn nginx_is_here() -> bool {
    let is_here = Path::new("/usr/sbin/nginx").exists();
    if !is_here {
        eprintln!("skipped: there is no /usr/sbin/nginx");
    }
    is_here
}

async fn free_address() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap().local_addr().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nginx_keeps_the_contract() {
    if !nginx_is_here() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let harness = Harness::new(directory.path(), free_address().await).await.unwrap();
    let report = balancer::run(&harness).await;
    harness.driver().await.stop().await.unwrap();
    report.assert_passed(Harness::SKIPS);
}

/// A balancer, and upstreams that answer with their own letter.
struct Stage {
    directory: tempfile::TempDir,
    address: SocketAddr,
    balancer: NginxBalancer,
    upstreams: BTreeMap<&'static str, SocketAddr>,
    changes: std::sync::atomic::AtomicUsize,
}

fn id<T: std::str::FromStr<Err = ews_core::Error>>(text: &str) -> T {
    text.parse().unwrap()
}

fn key(letter: &str) -> EndpointKey {
    EndpointKey { instance: id(letter), incarnation: Incarnation(1), port: id("http") }
}

impl Stage {
    async fn new(letters: &[&'static str]) -> Self {
        let mut upstreams = BTreeMap::new();
        for letter in letters {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            upstreams.insert(*letter, listener.local_addr().unwrap());
            let answer = (*letter).to_owned();
            let app = Router::new().fallback(move || std::future::ready(answer.clone()));
            tokio::spawn(async move { axum::serve(listener, app).await });
        }
        let (directory, address) = (tempfile::tempdir().unwrap(), free_address().await);
        let balancer = NginxBalancer::open(NginxConfig::new(directory.path(), address)).await.unwrap();
        Self { directory, address, balancer, upstreams, changes: Default::default() }
    }

    fn pool(letter: &str) -> Op {
        Op::Put(Object::Pool(Pool::new(id(letter))))
    }

    fn member(&self, pool: &str, letter: &str) -> Op {
        let address = self.upstreams[letter];
        let endpoint =
            Endpoint { key: key(letter), address, protocol: Protocol::Tcp, scope: Scope::Loopback };
        Op::Put(Object::Endpoint(Member::new(id(pool), endpoint)))
    }

    fn domain(name: &str, set: &str) -> Op {
        let name = DomainName::new(name).unwrap();
        Op::Put(Object::Domain(Domain::new(name, id(set))))
    }

    fn routes(set: &str, rules: impl IntoIterator<Item = RouteRule>) -> Op {
        let id: RouteSetId = id(set);
        Op::Put(Object::RouteSet(RouteSet::new(id, rules)))
    }

    fn forward(path: &str, pools: &[(&str, u32)]) -> RouteRule {
        let pools = pools.iter().map(|(pool, weight)| WeightedPool::new(id(pool), *weight));
        RouteRule::new(PathMatch::Prefix(path.to_owned()), RouteAction::Forward(pools.collect()))
    }

    /// Applies a change and waits until it is served.
    async fn serve(&self, ops: impl IntoIterator<Item = Op>) {
        let number = self.changes.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let change = Change::new(ChangeId::new(format!("c{number}")).unwrap(), ops);
        let wanted = self.balancer.apply(&change).await.unwrap().generation;
        let ends = Instant::now() + Duration::from_secs(30);
        while self.balancer.observe(&ObserveQuery::default()).await.unwrap()[0].generation < Some(wanted) {
            assert!(Instant::now() < ends, "{:?}", self.balancer.trouble());
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// The status, the `Location` and the body.
    async fn get(&self, host: &str, path: &str) -> (u16, String, String) {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let head = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| unreachable!("{text:?}"));
        let location = head.lines().find_map(|line| line.strip_prefix("Location: ")).unwrap_or_default();
        (head[9..12].parse().unwrap(), location.to_owned(), body.to_owned())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_go_where_the_objects_say() {
    if !nginx_is_here() {
        return;
    }
    let stage = Stage::new(&["a", "b"]).await;
    let exact = |path: &str, action| RouteRule::new(PathMatch::Exact(path.to_owned()), action);
    let hostile = "\"';}{ $host ${x} \\n\n$";
    stage
        .serve([
            Stage::pool("a"),
            Stage::pool("b"),
            Stage::pool("empty"),
            stage.member("a", "a"),
            stage.member("b", "b"),
            Stage::routes(
                "shop",
                [
                    Stage::forward("/", &[("a", 1)]),
                    Stage::forward("/api", &[("b", 1)]),
                    Stage::forward("/slash/", &[("b", 1)]),
                    Stage::forward("/empty", &[("empty", 1)]),
                    Stage::forward("/none", &[("a", 0)]),
                    exact("/say", RouteAction::Respond { status: 503, body: hostile.to_owned() }),
                    exact("/silent", RouteAction::Respond { status: 404, body: String::new() }),
                    exact("/old", RouteAction::Redirect { to: "/new?price=$5".to_owned(), status: 307 }),
                ],
            ),
            Stage::domain("shop.example", "shop"),
        ])
        .await;
    for (host, path, status, location, body) in [
        ("shop.example", "/", 200, "", "a"),
        ("SHOP.example:8080", "/apis", 200, "", "a"),
        ("shop.example", "/api", 200, "", "b"),
        ("shop.example", "/api/x?y=%2f", 200, "", "b"),
        ("shop.example", "/slash", 200, "", "a"),
        ("shop.example", "/slash/x", 200, "", "b"),
        ("shop.example", "/empty", 503, "", ""),
        ("shop.example", "/none", 503, "", ""),
        ("shop.example", "/say", 503, "", hostile),
        ("shop.example", "/silent", 404, "", ""),
        ("other.example", "/", 404, "", ""),
    ] {
        let answer = stage.get(host, path).await;
        assert_eq!(answer, (status, location.to_owned(), body.to_owned()), "{host}{path}");
    }
    let (status, location, _) = stage.get("shop.example", "/old").await;
    assert_eq!((status, &*location), (307, "/new?price=$5"));

    // For every host that no domain takes, and three of four requests elsewhere.
    let shares = vec![WeightedPool::new(id::<PoolId>("a"), 3), WeightedPool::new(id::<PoolId>("b"), 1)];
    stage
        .serve([
            Stage::routes("rest", [Stage::forward("/", &[("a", 1), ("b", 0)])]),
            Stage::domain("*", "rest"),
            Op::Shares { set: id("rest"), weights: shares },
        ])
        .await;
    let mut counts = BTreeMap::<String, usize>::new();
    for _ in 0..80 {
        let (status, _, body) = stage.get("any.example", "/").await;
        assert_eq!(status, 200);
        *counts.entry(body).or_default() += 1;
    }
    // Each of the two workers counts for itself.
    assert!((58..=62).contains(&counts["a"]), "{counts:?}");
    stage.balancer.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_while_endpoints_are_drained_and_controllers_come_and_go() {
    if !nginx_is_here() {
        return;
    }
    let mut stage = Stage::new(&["a", "b"]).await;
    let every = Stage::routes("s", [Stage::forward("/", &[("p", 1)])]);
    let start =
        [Stage::pool("p"), stage.member("p", "a"), stage.member("p", "b"), every, Stage::domain("*", "s")];
    stage.serve(start).await;

    let address = stage.address;
    let (end, mut ended) = tokio::sync::watch::channel(false);
    let load = tokio::spawn(async move {
        let (mut done, mut failed) = (0, Vec::new());
        while !*ended.borrow_and_update() {
            let asked = async {
                let mut stream = TcpStream::connect(address).await?;
                stream.write_all(b"GET / HTTP/1.1\r\nHost: any\r\nConnection: close\r\n\r\n").await?;
                let mut text = String::new();
                stream.read_to_string(&mut text).await?;
                std::io::Result::Ok(text)
            };
            match asked.await {
                Ok(text) if text.starts_with("HTTP/1.1 200") => done += 1,
                other => failed.push(format!("{other:?}")),
            }
            sleep(Duration::from_millis(2)).await;
        }
        (done, failed)
    });
    for round in 0..3 {
        for (letter, other) in [("a", "b"), ("b", "a")] {
            let change = ChangeId::new(format!("d{round}{letter}")).unwrap();
            let drained = stage
                .balancer
                .drain(&change, &id("p"), &key(letter), Duration::from_millis(500))
                .await
                .unwrap();
            assert_eq!(drained, Drained::Elapsed, "nginx can't prove it");
            stage.serve([Stage::pool("p")]).await;
            for _ in 0..4 {
                assert_eq!(stage.get("any", "/").await.2, other);
            }
            let state = MemberState::Active;
            stage.serve([Op::State { pool: id("p"), endpoint: key(letter), state }]).await;
        }
        // A second controller is kept out, and a successor finds everything.
        let config = NginxConfig::new(stage.directory.path(), address);
        let error = NginxBalancer::open(config.clone()).await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
        stage.balancer.close().await;
        // A process that another test is starting has all that is open here, until it is another program.
        let until = Instant::now() + Duration::from_secs(30);
        stage.balancer = loop {
            match NginxBalancer::open(config.clone()).await {
                Err(error) if error.kind() == ErrorKind::Busy && Instant::now() < until => {
                    sleep(Duration::from_millis(10)).await;
                }
                opened => break opened.unwrap(),
            }
        };
        assert_eq!(stage.balancer.trouble(), None);
    }
    end.send_replace(true);
    let (done, failed) = load.await.unwrap();
    assert!(failed.is_empty(), "{} of {} failed: {:?}", failed.len(), done + failed.len(), failed.first());
    assert!(done > 100, "only {done} requests were made");
    stage.balancer.stop().await.unwrap();
}
