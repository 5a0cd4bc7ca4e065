//! Endpoints by name: found out without anybody waiting, followed as answers change, and kept when there are none.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that can't go on fails"
)]

mod stage;

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ews_core::balancer::{
    Balancer as _, Change, DomainName, HealthCheck, Hold, Member, Object, ObserveQuery, Op, Pool,
    PoolProtocol, ProxyProtocol,
};
use ews_core::endpoint::{Endpoint, EndpointAddress, HostName, Scope};
use ews_core::id::ChangeId;
use ews_core::spec::network::Protocol;
use ews_core::store::MemoryStore;
use ews_core::{Error, ErrorKind};
use ews_route::{Gateway, GatewayConfig, NamesConfig, Resolver, TcpListen, UpstreamConfig};
use stage::upstream::{Deed, ok};
use stage::{Client, PATIENCE, Stage, Upstream, config, forward, key, pool, put_domain, put_rules, until};
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};

/// What the resolver of a test says of a name.
#[derive(Debug, Clone)]
enum Says {
    These(Vec<IpAddr>),
    Error,
    Hangs,
}

/// A resolver that says what it is told, and knows how often it was asked.
#[derive(Debug, Default)]
struct Book {
    says: Mutex<HashMap<String, Says>>,
    asked: AtomicUsize,
    at_once: AtomicUsize,
    most_at_once: AtomicUsize,
}

impl Book {
    fn say(&self, host: &str, says: Says) {
        self.says.lock().unwrap().insert(host.to_owned(), says);
    }

    fn these<I: Into<IpAddr> + Copy>(&self, host: &str, addresses: &[I]) {
        self.say(host, Says::These(addresses.iter().map(|address| (*address).into()).collect()));
    }

    /// Waits until it was asked so often from now on.
    async fn asked(&self, times: usize) {
        let until_then = self.asked.load(Ordering::SeqCst) + times;
        until("the name is looked up", async || self.asked.load(Ordering::SeqCst) >= until_then).await;
    }
}

/// One question less, also where nobody waits for the answer any more.
struct Asking<'a>(&'a Book);

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.0.at_once.fetch_sub(1, Ordering::SeqCst);
    }
}

#[async_trait::async_trait]
impl Resolver for Book {
    async fn resolve(&self, host: &HostName) -> ews_core::Result<Vec<IpAddr>> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let now = self.at_once.fetch_add(1, Ordering::SeqCst) + 1;
        let _asking = Asking(self);
        self.most_at_once.fetch_max(now, Ordering::SeqCst);
        let says = self.says.lock().unwrap().get(host.as_str()).cloned();
        match says {
            Some(Says::These(addresses)) => Ok(addresses),
            Some(Says::Hangs) => std::future::pending().await,
            Some(Says::Error) | None => Err(Error::new(ErrorKind::Unavailable, "nobody knows it")),
        }
    }
}

fn quick() -> GatewayConfig {
    let names = NamesConfig::default();
    config()
        .with_names(names.with_refresh(Duration::from_millis(20)).with_timeout(Duration::from_millis(200)))
}

async fn stage(config: GatewayConfig) -> (Stage, Arc<Book>) {
    let book = Arc::new(Book::default());
    let gateway = Gateway::builder(config).with_resolver(book.clone()).start().await.unwrap();
    (Stage::of(gateway).await, book)
}

fn put_named(to: &str, instance: &str, host: &str, port: u16) -> Op {
    let address: EndpointAddress = format!("{host}:{port}").parse().unwrap();
    let endpoint = Endpoint { key: key(instance), address, protocol: Protocol::Tcp, scope: Scope::Routable };
    Op::Put(Object::Endpoint(Member::new(pool(to), endpoint)))
}

fn put(change: impl FnOnce(&mut Pool)) -> Op {
    let mut pool = Pool::new(pool("p"));
    change(&mut pool);
    Op::Put(Object::Pool(pool))
}

/// One port at two addresses.
async fn two() -> (TcpListener, TcpListener, u16) {
    loop {
        let one = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = one.local_addr().unwrap().port();
        // Somebody else may have it there.
        if let Ok(other) = TcpListener::bind(("127.0.0.2", port)).await {
            return (one, other, port);
        }
    }
}

const ONE: [u8; 4] = [127, 0, 0, 1];
const OTHER: [u8; 4] = [127, 0, 0, 2];

/// Answers with its name and closes, so that each request is a connection.
fn once(listener: TcpListener, name: &'static str) -> Upstream {
    Upstream::at(listener, move |_| async move {
        let head = format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}", name.len());
        Deed::SendAndClose(format!("{head}\r\n\r\n{name}").into_bytes())
    })
}

async fn healthy(stage: &Stage, instance: &str) -> bool {
    stage.seen(instance).await.unwrap().healthy.unwrap()
}

#[tokio::test]
async fn nobody_waits_for_a_name_and_it_serves_once_it_is_known() {
    let upstream = Upstream::named("found").await;
    let port = upstream.address.port();
    let (stage, book) = stage(quick()).await;
    book.say("db.example", Says::Hangs);
    // The change is served while the resolver hangs.
    stage.apply([put_named("p", "i0", "db.example", port)]).await;
    assert_eq!(stage.get("a", "/").await.status, 503);
    assert!(!healthy(&stage, "i0").await);
    // One at an address in the same pool gets everything.
    let other = Upstream::named("other").await;
    stage.apply([stage::put_member("p", "i1", other.address)]).await;
    for _ in 0..10 {
        assert_eq!(stage.get("a", "/").await.text(), "other");
    }
    stage.remove("i1").await;
    assert_eq!(stage.get("a", "/").await.status, 503);
    // Requests that may wait do.
    stage.apply([put(|pool| pool.hold = Some(Hold::new(10, PATIENCE)))]).await;
    let mut held = stage.client().await;
    held.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    book.these("db.example", &[ONE]);
    assert_eq!(held.answer().await.text(), "found");
    until("it is well", async || healthy(&stage, "i0").await).await;
    assert_eq!(stage.get("a", "/").await.text(), "found");
    assert_eq!(stage.seen("i0").await.unwrap().errors, Some(0), "nothing was sent into nowhere");
}

#[tokio::test]
async fn the_last_good_answer_stays() {
    let upstream = Upstream::named("here").await;
    let (stage, book) = stage(quick()).await;
    book.these("a.example", &[ONE]);
    stage.apply([put_named("p", "i0", "a.example", upstream.address.port())]).await;
    until("it is well", async || healthy(&stage, "i0").await).await;
    for says in [Says::Error, Says::These(Vec::new()), Says::Hangs, Says::These(vec![[0, 0, 0, 0].into()])] {
        book.say("a.example", says.clone());
        // The second question comes after the first was answered, or given up.
        book.asked(2).await;
        assert_eq!(stage.get("a", "/").await.text(), "here", "{says:?}");
        assert!(healthy(&stage, "i0").await, "{says:?}");
    }
    // And one that comes later knows it at once.
    book.say("a.example", Says::Error);
    let other = Upstream::named("other port").await;
    stage.apply([put_named("p", "i1", "a.example", other.address.port())]).await;
    until("the other port is known", async || healthy(&stage, "i1").await).await;
}

#[tokio::test]
async fn connections_go_round_all_addresses_and_pass_over_one_that_fails() {
    let (one, other, port) = two().await;
    let (one, other) = (once(one, "one"), once(other, "other"));
    // Out for long, so that it still is when that is looked at.
    let upstream = UpstreamConfig::default().with_eject(Duration::from_secs(30));
    let (stage, book) = stage(quick().with_upstream(upstream)).await;
    book.these("a.example", &[ONE, OTHER]);
    stage.apply([put_named("p", "i0", "a.example", port)]).await;
    until("it is well", async || healthy(&stage, "i0").await).await;
    for _ in 0..10 {
        assert_eq!(stage.get("a", "/").await.status, 200);
    }
    assert_eq!((one.received().len(), other.received().len()), (5, 5));
    other.kill();
    for _ in 0..10 {
        assert_eq!(stage.get("a", "/").await.text(), "one");
    }
    let seen = stage.seen("i0").await.unwrap();
    assert_eq!((seen.healthy, seen.errors), (Some(true), Some(0)), "one of two is no failure");
    one.kill();
    assert_eq!(stage.get("a", "/").await.status, 502, "and none of two is");
    assert!(!healthy(&stage, "i0").await);
}

#[tokio::test]
async fn connections_to_an_address_that_is_gone_are_closed_but_for_those_under_way() {
    let (one, other, port) = two().await;
    let gate = Arc::new(tokio::sync::Notify::new());
    let opened = gate.clone();
    let one = Upstream::at(one, move |received| {
        let gate = opened.clone();
        async move {
            if received.path() == "/slow" {
                gate.notified().await;
            }
            ok("one")
        }
    });
    let other = Upstream::at(other, |_| async { ok("other") });
    let (stage, book) = stage(quick()).await;
    book.these("a.example", &[ONE]);
    stage.apply([put_named("p", "i0", "a.example", port)]).await;
    until("it is well", async || healthy(&stage, "i0").await).await;
    let mut slow = stage.client().await;
    slow.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n").await;
    until("it is under way", async || one.received().len() == 1).await;
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(stage.client().await);
    }
    for client in &mut clients {
        assert_eq!(client.get("/").await.text(), "one");
    }
    assert!(one.connections().1 >= 2);
    book.these("a.example", &[OTHER]);
    until("what was idle is closed", async || one.connections().1 == 1).await;
    for client in &mut clients {
        assert_eq!(client.get("/").await.text(), "other");
    }
    assert_eq!(other.connections().1, other.connections().0, "it is kept");
    gate.notify_one();
    assert_eq!(slow.answer().await.text(), "one", "what was under way is finished");
    until("and then closed too", async || one.connections().1 == 0).await;
    assert_eq!(slow.get("/").await.text(), "other");
}

#[tokio::test]
async fn a_thousand_addresses_and_answers_that_change_all_the_time_do_no_harm() {
    let (one, other, port) = two().await;
    let (_one, _other) = (once(one, "one"), once(other, "other"));
    let (stage, book) = stage(quick()).await;
    // Each of them refuses, but for the first.
    let many: Vec<IpAddr> =
        (0..1_000_u32).map(|n| IpAddr::from((0x7f00_0001 + n * 256).to_be_bytes())).collect();
    book.say("many.example", Says::These(many));
    stage.apply([put_named("p", "i0", "many.example", port)]).await;
    until("the one that answers is found", async || stage.get("a", "/").await.status == 200).await;
    stage.remove("i0").await;
    book.these("flaps.example", &[ONE]);
    stage.apply([put_named("p", "i1", "flaps.example", port)]).await;
    until("it is well", async || healthy(&stage, "i1").await).await;
    let mut seen = BTreeSet::new();
    for turn in 0..40 {
        book.these("flaps.example", &[if turn % 2 == 0 { OTHER } else { ONE }]);
        let answer = stage.get("a", "/").await;
        assert_eq!(answer.status, 200);
        seen.insert(answer.text());
        if turn % 4 == 0 {
            book.asked(2).await;
        }
    }
    assert_eq!(Vec::from_iter(seen), ["one", "other"]);
}

#[tokio::test]
async fn a_hundred_names_that_hang_take_turns_and_no_more_than_so_many_are_taken() {
    let names = NamesConfig::default()
        .with_refresh(Duration::from_millis(20))
        .with_timeout(Duration::from_millis(20))
        .with_most(100);
    let (stage, book) = stage(config().with_names(names)).await;
    let upstream = Upstream::named("found").await;
    let ops = (0..99).map(|n| {
        let host = format!("h{n}.example");
        book.say(&host, Says::Hangs);
        put_named("p", &format!("i{n}"), &host, 80)
    });
    stage.apply(ops.collect::<Vec<_>>()).await;
    book.these("good.example", &[ONE]);
    stage.apply([put_named("p", "good", "good.example", upstream.address.port())]).await;
    until("the good one has its turn", async || healthy(&stage, "good").await).await;
    assert_eq!(stage.get("a", "/").await.text(), "found");
    assert!(book.most_at_once.load(Ordering::SeqCst) <= 16);
    let change = |id: &str, op| Change::new(ChangeId::new(id).unwrap(), [op]);
    let refused = stage.gateway.apply(&change("more", put_named("p", "more", "more.example", 80))).await;
    let error = refused.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfResources);
    assert!(error.to_string().contains("100"), "{error}");
    // A name that is there already is no more.
    stage.apply([put_named("p", "same", "good.example", upstream.address.port())]).await;
    stage.remove("i0").await;
    until("there is room again", async || {
        stage.gateway.apply(&change("more", put_named("p", "more", "more.example", 80))).await.is_ok()
    })
    .await;
    // Nobody asks for names that nobody has.
    for n in 1..99 {
        stage.remove(&format!("i{n}")).await;
    }
    for instance in ["good", "same", "more"] {
        stage.remove(instance).await;
    }
    until("nobody asks any more", async || {
        let before = book.asked.load(Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(200)).await;
        book.asked.load(Ordering::SeqCst) == before
    })
    .await;
}

#[tokio::test]
async fn checks_try_what_a_name_stands_for() {
    let (one, other, port) = two().await;
    let (one, other) = (once(one, "one"), once(other, "other"));
    let (stage, book) = stage(quick()).await;
    let check = HealthCheck::http("/healthz")
        .with_interval(Duration::from_millis(100))
        .with_timeout(Duration::from_secs(5))
        .with_thresholds(1, 1);
    stage
        .apply([put(|pool| pool.check = Some(Box::new(check))), put_named("p", "i0", "a.example", port)])
        .await;
    assert!(!healthy(&stage, "i0").await);
    book.these("a.example", &[ONE, OTHER]);
    until("it passes", async || healthy(&stage, "i0").await).await;
    let asked = one.received().into_iter().chain(other.received()).next().unwrap();
    assert_eq!(asked.header("host"), [format!("a.example:{port}")]);
    one.kill();
    let before = other.received().len();
    until("the other one is tried", async || other.received().len() > before + 2).await;
    assert!(healthy(&stage, "i0").await, "one of two is enough");
    other.kill();
    until("none is not", async || !healthy(&stage, "i0").await).await;
}

#[tokio::test]
async fn tcp_goes_to_names_and_says_whom_it_is_from() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let host = DomainName::new("t.tcp").unwrap();
    let config = quick().with_listen_tcp([TcpListen::new("127.0.0.1:0".parse().unwrap(), host)]);
    let (stage, book) = stage(config).await;
    let mut tcp = Pool::new(pool("t"));
    (tcp.protocol, tcp.proxy_protocol) = (PoolProtocol::Tcp, Some(ProxyProtocol::V1));
    let rules = put_rules("tr", vec![forward("/", "t")]);
    stage
        .apply([
            Op::Put(Object::Pool(tcp)),
            rules,
            put_domain("t.tcp", "tr"),
            put_named("t", "i0", "a.example", port),
        ])
        .await;
    let address = stage.gateway.addresses()[1];
    let mut client = Client::connect(address).await;
    assert!(client.is_closed().await, "there is nobody yet");
    book.these("a.example", &[ONE]);
    until("it is found", async || {
        let query = ObserveQuery::endpoint(pool("t"), key("i0"));
        let views = stage.gateway.observe(&query).await.unwrap();
        views.iter().flat_map(|view| &view.endpoints).any(|seen| seen.healthy == Some(true))
    })
    .await;
    let client = TcpStream::connect(address).await.unwrap();
    let came = tokio::time::timeout(PATIENCE, listener.accept()).await.expect("a connection in time");
    let (mut stream, _) = came.unwrap();
    let wanted = format!("PROXY TCP4 127.0.0.1 127.0.0.1 {} ", client.local_addr().unwrap().port());
    let mut head = vec![0; wanted.len()];
    stream.read_exact(&mut head).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&head), wanted);
}

#[tokio::test]
async fn the_system_knows_this_host() {
    // Whichever addresses it has for it.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address: SocketAddr = listener.local_addr().unwrap();
    let _upstream = Upstream::at(listener, |_| async { ok("here") });
    let stage = Stage::new(config()).await;
    stage.apply([put_named("p", "i0", "localhost", address.port())]).await;
    until("it is found", async || stage.get("a", "/").await.text() == "here").await;
}

#[tokio::test]
async fn a_gateway_starts_without_waiting_for_the_names_that_it_remembers() {
    let store = Arc::new(MemoryStore::new());
    let upstream = Upstream::named("found").await;
    let start = async |says: Says| {
        let book = Arc::new(Book::default());
        book.say("db.example", says);
        let builder = Gateway::builder(quick()).with_store(store.clone()).with_resolver(book.clone());
        (Stage::of(builder.start().await.unwrap()).await, book)
    };
    let (stage, _) = start(Says::These(vec![ONE.into()])).await;
    stage.apply([put_named("p", "i0", "db.example", upstream.address.port())]).await;
    until("it is well", async || healthy(&stage, "i0").await).await;
    stage.gateway.shutdown(PATIENCE).await;
    drop(stage);
    let (stage, book) = start(Says::Hangs).await;
    assert_eq!(stage.get("a", "/").await.status, 503);
    book.these("db.example", &[ONE]);
    until("it is well", async || healthy(&stage, "i0").await).await;
    assert_eq!(stage.get("a", "/").await.text(), "found");
}

#[cfg(feature = "http2")]
#[tokio::test]
async fn connections_for_many_requests_follow_the_name_too() {
    let endpoint = stage::http2::Endpoint::new().await;
    let (stage, book) = stage(quick()).await;
    book.these("a.example", &[ONE]);
    let put = put(|pool| pool.protocol = PoolProtocol::H2c);
    stage.apply([put, put_named("p", "i0", "a.example", endpoint.address.port())]).await;
    until("it is well", async || healthy(&stage, "i0").await).await;
    let mut client = stage.client().await;
    for _ in 0..5 {
        assert_eq!(client.get("/").await.status, 200);
    }
    assert_eq!(endpoint.connections(), 1);
    // Nobody is there.
    book.these("a.example", &[OTHER]);
    until("it is somewhere else", async || client.get("/").await.status == 502).await;
    until("the first one is closed", async || endpoint.open() == 0).await;
    book.these("a.example", &[ONE]);
    until("it is back", async || client.get("/").await.status == 200).await;
    assert_eq!(endpoint.connections(), 2, "the first one was of no use any more");
}
