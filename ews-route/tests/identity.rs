//! Whom a request is from: proxies that are believed, the PROXY protocol, and what endpoints are told of it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that can't go on fails"
)]

mod stage;

use std::time::{Duration, Instant};

use ews_core::balancer::{Blackhole, BlackholeTarget, Network, Object, Op, TrafficPolicy};
use ews_core::id::TrafficPolicyId;
use ews_core::{Clock as _, SystemClock};
use ews_route::{ForwardedBy, Forwarding};
use stage::{Stage, Upstream, config, forward, put_rules, until};

fn network(text: &str) -> Network {
    text.parse().unwrap()
}

fn ask(headers: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: a\r\n{headers}\r\n")
}

/// The rules of the stage under a policy.
fn under(change: impl FnOnce(&mut TrafficPolicy)) -> Vec<Op> {
    let id = TrafficPolicyId::new("t").unwrap();
    let mut policy = TrafficPolicy::new(id.clone());
    change(&mut policy);
    vec![Op::Put(Object::TrafficPolicy(policy)), put_rules("r", vec![forward("/", "p").policy(id)])]
}

#[tokio::test]
async fn a_proxy_that_is_believed_says_who_asks() {
    let upstream = Upstream::named("up").await;
    let trusted = Forwarding::default().with_trusted([network("127.0.0.0/8"), network("10.0.0.0/8")]);
    let stage = Stage::with(config().with_forwarding(trusted), &[upstream.address]).await;
    stage.apply(under(|policy| policy.deny = vec![network("6.6.6.0/24")])).await;
    let mut client = stage.client().await;
    // What the client said of itself stands first, what our proxies said last.
    client
        .send(&ask(
            "X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-For: 1.2.3.4, 10.0.0.2\r\nX-Forwarded-Proto: https\r\n",
        ))
        .await;
    assert_eq!(client.answer().await.status, 200);
    let received = &upstream.received()[0];
    assert_eq!(received.header("x-forwarded-for"), ["6.6.6.6, 1.2.3.4, 10.0.0.2, 127.0.0.1"]);
    assert_eq!(received.header("x-forwarded-proto"), ["https"]);
    client.send(&ask("X-Forwarded-For: 1.2.3.4, 6.6.6.6, 10.0.0.2\r\n")).await;
    assert_eq!(client.answer().await.status, 403, "it goes by the client");
    client.send(&ask("X-Forwarded-For: 6.6.6.6, unreadable\r\n")).await;
    assert_eq!(client.answer().await.status, 200, "what stands before what can't be read is nobody's word");
    // Not a header that the proxies do not set.
    client.send(&ask("Forwarded: for=6.6.6.6\r\n")).await;
    assert_eq!(client.answer().await.status, 200);
}

#[tokio::test]
async fn who_is_not_believed_is_itself() {
    let upstream = Upstream::named("up").await;
    let trusted = Forwarding::default().with_trusted([network("10.0.0.0/8")]).with_send_forwarded(true);
    let stage = Stage::with(config().with_forwarding(trusted), &[upstream.address]).await;
    stage.apply(under(|policy| policy.allow = vec![network("127.0.0.1")])).await;
    let mut client = stage.client().await;
    client.send(&ask("X-Forwarded-For: 6.6.6.6\r\nForwarded: for=6.6.6.6\r\nX-Real-IP: 6.6.6.6\r\n")).await;
    assert_eq!(client.answer().await.status, 200);
    let received = &upstream.received()[0];
    assert_eq!(received.header("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(received.header("forwarded"), ["for=127.0.0.1;host=\"a\";proto=http"]);
    assert!(received.header("x-real-ip").is_empty());
}

#[tokio::test]
async fn forwarded_is_read_where_it_is_asked_for_and_is_passed_on() {
    let upstream = Upstream::named("up").await;
    let trusted = Forwarding::default()
        .with_trusted([network("127.0.0.1")])
        .with_read(ForwardedBy::Forwarded)
        .with_send_forwarded(true);
    let stage = Stage::with(config().with_forwarding(trusted), &[upstream.address]).await;
    stage.apply(under(|policy| policy.deny = vec![network("2001:db8::/32")])).await;
    let mut client = stage.client().await;
    client.send(&ask("Forwarded: for=\"[2001:db8::1]:80\"\r\n")).await;
    assert_eq!(client.answer().await.status, 403);
    client.send(&ask("X-Forwarded-For: 2001:db8::1\r\nForwarded: for=1.2.3.4;proto=https\r\n")).await;
    assert_eq!(client.answer().await.status, 200);
    let received = &upstream.received()[0];
    let list = ["for=1.2.3.4;proto=https, for=127.0.0.1;host=\"a\";proto=http"];
    assert_eq!(received.header("forwarded"), list);
}

#[tokio::test]
async fn clients_behind_a_proxy_have_rates_and_blackholes_of_their_own() {
    let upstream = Upstream::named("up").await;
    let trusted = Forwarding::default().with_trusted([network("127.0.0.1")]);
    let stage = Stage::with(config().with_forwarding(trusted), &[upstream.address]).await;
    stage.apply(under(|policy| (policy.rate_per_client, policy.burst_per_client) = (Some(1), Some(2)))).await;
    let mut client = stage.client().await;
    let mut number = 0_u8;
    let statuses = loop {
        number += 1;
        let (began, mut statuses) = (Instant::now(), Vec::new());
        let one = format!("1.1.1.{number}");
        for from in [one.as_str(), one.as_str(), one.as_str(), "2.2.2.2"] {
            client.send(&ask(&format!("X-Forwarded-For: {from}\r\n"))).await;
            statuses.push(client.answer().await.status);
        }
        // A second makes room for one more: then it is somebody else's turn.
        if began.elapsed() < Duration::from_secs(1) {
            break statuses;
        }
    };
    assert_eq!(statuses, [200, 200, 429, 200]);
    let target = BlackholeTarget::Source { network: "2.2.2.2".parse().unwrap(), bits: 32 };
    let until = SystemClock.now() + Duration::from_secs(600);
    stage.apply([Op::Put(Object::Blackhole(Blackhole::new(target, until)))]).await;
    client.send(&ask("X-Forwarded-For: 2.2.2.2\r\n")).await;
    assert_eq!(client.answer().await.status, 403, "the connection is its proxy's, and goes on");
    client.send(&ask("X-Forwarded-For: 3.3.3.3\r\n")).await;
    assert_eq!(client.answer().await.status, 200);
}

#[tokio::test]
async fn the_proxy_protocol_says_who_asks() {
    let upstream = Upstream::named("up").await;
    let announced = Forwarding::default().with_proxy_protocol([network("127.0.0.1")]);
    let stage = Stage::with(config().with_forwarding(announced), &[upstream.address]).await;
    stage.apply(under(|policy| policy.deny = vec![network("6.6.6.0/24")])).await;
    let head = "PROXY TCP4 1.2.3.4 10.0.0.1 4711 80\r\n";
    let mut client = stage.client().await;
    client.send(&format!("{head}{}", ask("X-Forwarded-For: 9.9.9.9\r\n"))).await;
    assert_eq!(client.answer().await.status, 200);
    client.send(&ask("")).await;
    assert_eq!(client.answer().await.status, 200, "it is said once");
    for received in upstream.received() {
        assert_eq!(received.header("x-forwarded-for"), ["1.2.3.4"]);
    }
    let mut denied = stage.client().await;
    denied.send(&format!("PROXY TCP4 6.6.6.6 10.0.0.1 4711 80\r\n{}", ask(""))).await;
    assert_eq!(denied.answer().await.status, 403);
    // Who must announce and does not gets nothing; nor does who is dropped.
    let target = BlackholeTarget::Source { network: "7.7.7.7".parse().unwrap(), bits: 32 };
    let until_when = SystemClock.now() + Duration::from_secs(600);
    stage.apply([Op::Put(Object::Blackhole(Blackhole::new(target, until_when)))]).await;
    for begin in ["", "PROXY TCP4 1.2.3.4\r\n", "PROXY TCP4 7.7.7.7 10.0.0.1 4711 80\r\n"] {
        let mut silent = stage.client().await;
        silent.send(&format!("{begin}{}", ask(""))).await;
        assert!(silent.answer_to("GET").await.is_none(), "{begin}");
    }
    assert_eq!(upstream.received().len(), 2);
}

#[tokio::test]
async fn who_announces_without_being_asked_is_refused() {
    let upstream = Upstream::named("up").await;
    let stage = Stage::with(config(), &[upstream.address]).await;
    let mut client = stage.client().await;
    client.send(&format!("PROXY TCP4 1.2.3.4 10.0.0.1 4711 80\r\n{}", ask(""))).await;
    assert_eq!(client.answer().await.status, 400);
    until("nothing arrived", async || upstream.received().is_empty()).await;
}

#[tokio::test]
async fn a_trace_context_is_passed_on_or_made() {
    let upstream = Upstream::named("up").await;
    let traced = Forwarding::default().with_trace_context(true);
    let stage = Stage::with(config().with_forwarding(traced), &[upstream.address]).await;
    let mut client = stage.client().await;
    let known = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    client.send(&ask(&format!("traceparent: {known}\r\ntracestate: a=1\r\n"))).await;
    client.answer().await;
    client.send(&ask("traceparent: nonsense\r\ntracestate: a=1\r\n")).await;
    client.answer().await;
    client.send(&ask("")).await;
    client.answer().await;
    let received = upstream.received();
    assert_eq!(received[0].header("traceparent"), [known]);
    assert_eq!(received[0].header("tracestate"), ["a=1"]);
    let made: Vec<_> = received[1..].iter().flat_map(|one| one.header("traceparent")).collect();
    assert!(made.len() == 2 && made[0] != made[1] && made.iter().all(|text| text.len() == 55), "{made:?}");
    assert!(received[1].header("tracestate").is_empty());
}
