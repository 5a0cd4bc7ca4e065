//! A gateway in another process, as far as its clients can tell: over its admin endpoint on loopback.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that can't go on fails"
)]

mod stage;

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use ews_core::balancer::{Balancer, BalancerEvent, Change, Drained, ObjectKind, ObjectQuery, ObserveQuery};
use ews_core::event::{Gap, Notice};
use ews_core::id::ChangeId;
use ews_core::metrics::{Aggregate, Aggregation, Function, MetricQuery, Metrics, Reading, TimeRange, Window};
use ews_core::{BalancerExt as _, Clock as _, ErrorKind, SecretValue, Selector, SystemClock};
use ews_route::server::{Addresses, Server, ServerConfig};
use ews_route::{RemoteBalancer, RemoteConfig, RemoteMetrics};
use futures_util::StreamExt as _;
use stage::{Client, Upstream, config, key, pool, put_domain, put_member, put_pool, put_routes, until};

const TOKEN: &str = "0123456789abcdef";

fn server_config(folder: &Path, admin: &str) -> ServerConfig {
    let tokens = folder.join("tokens");
    std::fs::write(&tokens, format!("{TOKEN}\n")).unwrap();
    ServerConfig::default()
        .with_gateway(config())
        .with_admin(admin.parse().unwrap(), tokens)
        .with_state(folder.join("state.redb"))
        .with_addresses_file(folder.join("addresses.json"))
        .with_drain(Duration::from_secs(5))
}

fn remote(address: SocketAddr) -> RemoteConfig {
    RemoteConfig::new(format!("http://{address}")).with_token(SecretValue::new(TOKEN).unwrap())
}

fn change(id: &str, ops: impl IntoIterator<Item = ews_core::balancer::Op>) -> Change {
    Change::new(ChangeId::new(id).unwrap(), ops)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_process_is_driven_from_outside_and_remembers() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(server_config(folder.path(), "127.0.0.1:0")).await.unwrap();
    let file = folder.path().join("addresses.json");
    assert_eq!(Addresses::read(&file).unwrap().as_ref(), Some(server.addresses()));
    let admin = server.addresses().admin.unwrap();
    let balancer = RemoteBalancer::connect(remote(admin)).await.unwrap();
    assert_eq!(balancer.capabilities(), Balancer::capabilities(server.gateway()));
    assert_eq!(balancer.gateway().as_str(), "gateway");

    let upstream = Upstream::named("up").await;
    let ops = [
        put_pool("p"),
        put_member("p", "i0", upstream.address),
        put_routes("r", &[("/", "p")]),
        put_domain("*", "r"),
    ];
    let applied = balancer.apply(&change("first", ops.clone())).await.unwrap();
    until("it is served", async || {
        let views = balancer.observe(&ObserveQuery::default()).await.unwrap();
        views[0].generation == Some(applied.generation)
    })
    .await;
    assert_eq!(Client::connect(server.addresses().http[0]).await.get("/").await.text(), "up");

    // It starts anew, elsewhere, with what it knew; its memory of changes is a part of that.
    let mut events = balancer.watch().await.unwrap();
    assert_eq!(server.stop().await, 0);
    assert_eq!(Addresses::read(&file).unwrap(), None);
    let error = balancer.observe(&ObserveQuery::default()).await.unwrap_err();
    assert_eq!((error.kind(), error.maybe_applied()), (ErrorKind::Unavailable, false));
    let server = Server::start(server_config(folder.path(), &admin.to_string())).await.unwrap();
    assert_eq!(Client::connect(server.addresses().http[0]).await.get("/").await.text(), "up");
    assert_eq!(balancer.apply(&change("first", ops)).await.unwrap(), applied);
    let objects = balancer.objects(&ObjectQuery::kinds([ObjectKind::Endpoint])).await.unwrap();
    assert_eq!(objects.len(), 1);

    // The watcher has come back by itself, and says that it may have missed something.
    let gap = async {
        while let Some(notice) = events.next().await {
            if notice == Notice::Gap(Gap::Reconnected) {
                return;
            }
        }
        panic!("the stream ended");
    };
    tokio::time::timeout(stage::PATIENCE, gap).await.unwrap();
    let later = balancer.apply(&change("second", [put_pool("q")])).await.unwrap();
    let heard = async {
        while let Some(notice) = events.next().await {
            if let Notice::Event(BalancerEvent::Applied { generation, .. }) = notice {
                return generation;
            }
        }
        panic!("the stream ended");
    };
    assert_eq!(tokio::time::timeout(stage::PATIENCE, heard).await.unwrap(), later.generation);

    let id = ChangeId::new("d").unwrap();
    let drained = balancer.drain(&id, &pool("p"), &key("i0"), Duration::from_secs(30)).await.unwrap();
    assert_eq!(drained, Drained::Drained);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_say_the_same_from_outside() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(server_config(folder.path(), "127.0.0.1:0")).await.unwrap();
    let admin = server.addresses().admin.unwrap();
    let balancer = RemoteBalancer::connect(remote(admin)).await.unwrap();
    let metrics = RemoteMetrics::connect(remote(admin)).await.unwrap();
    let upstream = Upstream::named("up").await;
    let ops = [
        put_pool("p"),
        put_member("p", "i0", upstream.address),
        put_routes("r", &[("/", "p")]),
        put_domain("*", "r"),
    ];
    balancer.apply(&change("first", ops)).await.unwrap();
    let http = server.addresses().http[0];
    until("it answers", async || Client::connect(http).await.get("/").await.status == 200).await;
    let query = MetricQuery::new("ews.route.requests", Selector::equal("pool", "p").unwrap())
        .function(Function::Increase(Window(Duration::from_secs(60))))
        .aggregate(Aggregate::all(Aggregation::Sum));
    until("it is sampled", async || {
        let answer = metrics.instant(&query, None).await.unwrap();
        matches!(&answer.series[..], [one] if matches!(&one.value, Reading::Number(n) if n.value >= 1.0))
    })
    .await;
    // The series of a sample are recorded one after another: those up to now are whole once there is a later one.
    let now = SystemClock.now();
    until("a later one is there", async || {
        let answer = metrics.instant(&query, None).await.unwrap();
        matches!(&answer.series[..], [one] if matches!(&one.value, Reading::Number(n) if n.at > now))
    })
    .await;
    let quantile = MetricQuery::new("http.server.request.duration", Selector::everything())
        .function(Function::Quantile(0.5, Window(Duration::from_secs(60))));
    for query in [&query, &quantile] {
        let (inside, outside) =
            (server.gateway().instant(query, Some(now)).await, metrics.instant(query, Some(now)).await);
        assert_eq!(inside.unwrap(), outside.unwrap());
        let step = Duration::from_millis(10);
        let range = TimeRange::new(now - Duration::from_millis(200), now, step);
        let (inside, outside) =
            (server.gateway().range(query, &range).await, metrics.range(query, &range).await);
        assert_eq!(inside.unwrap(), outside.unwrap());
    }
    let all = Metrics::describe(server.gateway(), None, 100).await.unwrap();
    assert_eq!(metrics.describe(None, 100).await.unwrap(), all);
    assert_eq!(balancer.metrics().describe(Some(all[0].name.clone()), 1).await.unwrap(), all[1..2]);
    assert_eq!(metrics.describe(None, 0).await.unwrap_err().kind(), ErrorKind::Invalid);
    let wrong = query.clone().function(Function::Mean(Window(Duration::from_secs(1))));
    assert_eq!(metrics.instant(&wrong, None).await.unwrap_err().kind(), ErrorKind::Invalid);

    let mut scraper = Client::connect(admin).await;
    scraper.send(&format!("GET /metrics HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {TOKEN}\r\n\r\n")).await;
    let text = scraper.answer().await.text();
    assert!(
        text.contains("ews_route_requests_total{gateway=\"gateway\",pool=\"p\",status_class=\"2xx\"}"),
        "{text}"
    );
}

#[tokio::test]
async fn nobody_gets_in_without_a_token_but_health_is_open() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(server_config(folder.path(), "127.0.0.1:0")).await.unwrap();
    let admin = server.addresses().admin.unwrap();
    let wrong = RemoteConfig::new(format!("http://{admin}"));
    for config in [wrong.clone(), wrong.with_token(SecretValue::new("something else").unwrap())] {
        let error = RemoteBalancer::connect(config.clone()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unauthorized, "{error}");
        assert!(RemoteMetrics::connect(config).await.is_err());
    }
    for (path, status) in [("/healthz", 200), ("/readyz", 200), ("/metrics", 401), ("/nowhere", 401)] {
        let answer = Client::connect(admin).await.get(path).await;
        assert_eq!(answer.status, status, "{path}");
    }
    for url in ["https://a", "a", "ftp://a:1", ""] {
        let error = RemoteBalancer::connect(RemoteConfig::new(url)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{url}");
    }
    let mut open = server_config(folder.path(), "127.0.0.1:0");
    open.token_file = None;
    open.state = None;
    assert_eq!(Server::start(open).await.unwrap_err().kind(), ErrorKind::Invalid);
}

#[tokio::test]
async fn an_answer_that_is_lost_says_that_it_may_have_happened() {
    use stage::upstream::Deed;
    // What it can do, and then nothing but broken connections.
    let known = r#"{"gateway":"g","balancer":[],"metrics":[]}"#;
    let text = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{known}", known.len());
    let broken = Upstream::new(move |received| {
        let text = text.clone();
        async move {
            if received.path() == "/v1/capabilities" {
                return Deed::Send(text.into_bytes());
            }
            Deed::SendAndReset(Vec::new())
        }
    })
    .await;
    let balancer =
        RemoteBalancer::connect(RemoteConfig::new(format!("http://{}", broken.address))).await.unwrap();
    let error = balancer.apply(&change("c", [put_pool("p")])).await.unwrap_err();
    assert_eq!((error.kind(), error.maybe_applied()), (ErrorKind::Unavailable, true), "{error}");
    assert_eq!(broken.received().iter().filter(|one| one.path().ends_with("apply")).count(), 1);
    let error = balancer.observe(&ObserveQuery::default()).await.unwrap_err();
    assert_eq!((error.kind(), error.maybe_applied()), (ErrorKind::Unavailable, false));
    // One that hangs, too.
    let hanging = Upstream::new(|received| async move {
        if received.path() == "/v1/capabilities" {
            return stage::upstream::ok(r#"{"gateway":"g","balancer":[],"metrics":[]}"#);
        }
        std::future::pending().await
    })
    .await;
    let config =
        RemoteConfig::new(format!("http://{}", hanging.address)).with_timeout(Duration::from_secs(2));
    let balancer = RemoteBalancer::connect(config).await.unwrap();
    let error = balancer.apply(&change("c", [put_pool("p")])).await.unwrap_err();
    assert_eq!((error.kind(), error.maybe_applied()), (ErrorKind::Unavailable, true), "{error}");
}

#[test]
fn a_configuration_is_read_and_what_is_unknown_is_refused() {
    let config = ServerConfig::from_toml(
        "admin = \"127.0.0.1:7070\"\ntoken_file = \"t\"\ndrain = \"10s\"\n[gateway]\nlisten = [\"0.0.0.0:80\"]\nthreads = 2\n\
         [gateway.timeouts]\nhead = \"5s\"\n",
    )
    .unwrap();
    assert_eq!(config.drain, Duration::from_secs(10));
    assert_eq!((config.gateway.threads, config.gateway.timeouts.head), (Some(2), Duration::from_secs(5)));
    for wrong in
        ["nonsense = 1", "[gateway]\nnonsense = 1", "[gateway.timeouts]\nhead = 5", "admin = \"here\""]
    {
        let error = ServerConfig::from_toml(wrong).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    }
}
