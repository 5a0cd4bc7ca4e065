//! Drains with proof, and changes under load.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that can't go on fails"
)]

mod stage;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use ews_core::balancer::{Balancer as _, BalancerEvent, Drained, MemberState, ObserveQuery};
use ews_core::event::Notice;
use ews_route::{Accept, Gateway, GatewayConfig};
use futures_util::StreamExt as _;
use stage::upstream::{Deed, ok};
use stage::{Client, Stage, Upstream, config, member, put_member, put_state, until};
use tokio::sync::Semaphore;

/// An upstream that holds requests to `/hold` until it is let go, and its gate.
async fn holding() -> (Upstream, Arc<Semaphore>) {
    let gate = Arc::new(Semaphore::new(0));
    let held = gate.clone();
    let upstream = Upstream::new(move |received| {
        let gate = held.clone();
        async move {
            if received.path() == "/hold" {
                gate.acquire().await.unwrap().forget();
            }
            ok("ok")
        }
    })
    .await;
    (upstream, gate)
}

async fn hold(stage: &Stage, count: u64) -> Vec<Client> {
    let mut clients = Vec::new();
    let before = stage.seen("i0").await.unwrap().in_flight.unwrap();
    for _ in 0..count {
        let mut client = stage.client().await;
        client.send("GET /hold HTTP/1.1\r\nHost: a\r\n\r\n").await;
        clients.push(client);
    }
    until("all are under way", async || stage.seen("i0").await.unwrap().in_flight == Some(before + count))
        .await;
    clients
}

#[tokio::test]
async fn a_drain_waits_for_the_last_byte_and_then_it_is_proved() {
    let (upstream, gate) = holding().await;
    let stage = Stage::with(config(), &[upstream.address]).await;
    let mut clients = hold(&stage, 3).await;
    let generations = async || -> Vec<Option<u64>> {
        let views = stage.gateway.observe(&ObserveQuery::default()).await.unwrap();
        views.into_iter().map(|view| view.generation).collect()
    };
    let before = generations().await.into_iter().max().unwrap();
    let mut drained = Box::pin(stage.drain("i0", Duration::from_secs(60)));
    let served = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        until("every thread serves the drain", async || {
            generations().await.into_iter().all(|generation| generation > before)
        })
        .await;
    };
    tokio::select! {
        early = &mut drained => panic!("{early:?} though three are under way"),
        () = served => {}
    }
    // Meanwhile nobody else is let in.
    assert_eq!(stage.get("a", "/").await.status, 503);
    gate.add_permits(3);
    for client in &mut clients {
        assert_eq!(client.answer().await.text(), "ok");
    }
    assert_eq!(drained.await, Drained::Drained);
    let seen = stage.seen("i0").await.unwrap();
    assert_eq!(
        (seen.in_flight, seen.requests, seen.errors, seen.forced),
        (Some(0), Some(3), Some(0), Some(0))
    );
}

#[tokio::test]
async fn a_body_that_is_still_coming_is_under_way() {
    let upstream = Upstream::new(|_| async {
        Deed::Send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf".to_vec())
    })
    .await;
    let stage = Stage::with(config(), &[upstream.address]).await;
    let mut client = stage.client().await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    until("half of it is here", async || client.stream.peek(&mut [0; 8]).await.unwrap() > 0).await;
    assert_eq!(stage.seen("i0").await.unwrap().in_flight, Some(1));
    assert_eq!(stage.drain("i0", Duration::from_millis(200)).await, Drained::Forced(1));
    assert!(client.answer().await.is_cut);
}

#[tokio::test]
async fn what_is_left_at_the_deadline_is_closed_and_counted() {
    let (upstream, _gate) = holding().await;
    let stage = Stage::with(config(), &[upstream.address]).await;
    let mut clients = hold(&stage, 5).await;
    assert_eq!(stage.drain("i0", Duration::from_millis(200)).await, Drained::Forced(5));
    let seen = stage.seen("i0").await.unwrap();
    assert_eq!((seen.in_flight, seen.forced, seen.errors), (Some(0), Some(5), Some(5)));
    for client in &mut clients {
        assert_eq!(client.answer().await.status, 503);
        assert!(client.is_closed().await);
    }
    until("the upstream sees it", async || upstream.connections().1 == 0).await;
}

#[tokio::test]
async fn kept_connections_of_a_draining_endpoint_are_closed() {
    let upstream = Upstream::named("up").await;
    let stage = Stage::with(config(), &[upstream.address]).await;
    assert_eq!(stage.get("a", "/").await.status, 200);
    assert_eq!(upstream.connections(), (1, 1));
    stage.state("i0", MemberState::Draining).await;
    until("it is closed", async || upstream.connections() == (1, 0)).await;
    stage.state("i0", MemberState::Active).await;
    assert_eq!(stage.get("a", "/").await.status, 200);
    stage.remove("i0").await;
    until("it is closed", async || upstream.connections() == (2, 0)).await;
    assert_eq!(stage.seen("i0").await, None);
}

#[tokio::test]
async fn a_removed_endpoint_is_listed_as_long_as_it_is_busy_and_its_address_is_free() {
    let (upstream, gate) = holding().await;
    let stage = Stage::with(config(), &[upstream.address]).await;
    let mut clients = hold(&stage, 1).await;
    stage.remove("i0").await;
    let seen = stage.seen("i0").await.unwrap();
    assert_eq!((seen.state, seen.in_flight), (MemberState::Draining, Some(1)));
    // The same name at another address: what the old one has under way is still seen.
    let other = Upstream::named("other").await;
    stage.apply([put_member("p", "i0", other.address)]).await;
    let seen = stage.seen("i0").await.unwrap();
    assert_eq!((seen.state, seen.in_flight), (MemberState::Active, Some(1)));
    assert_eq!(stage.get("a", "/").await.text(), "other");
    gate.add_permits(1);
    assert_eq!(clients[0].answer().await.text(), "ok");
    until("it is idle", async || stage.seen("i0").await.unwrap().in_flight == Some(0)).await;
}

#[tokio::test]
async fn watchers_hear_that_it_is_served_and_that_it_is_idle() {
    let (upstream, gate) = holding().await;
    let stage = Stage::with(config(), &[upstream.address]).await;
    let mut clients = hold(&stage, 1).await;
    let mut events = stage.gateway.watch().await.unwrap();
    let drains = stage.apply([put_state("i0", MemberState::Draining)]).await;
    gate.add_permits(1);
    clients[0].answer().await;
    let mut heard = Vec::new();
    let all = async {
        while let Some(Notice::Event(event)) = events.next().await {
            let is_last = matches!(event, BalancerEvent::Idle { .. });
            heard.push(match event {
                BalancerEvent::Applied { generation, .. } => ("applied", generation),
                // That the generation before is served may be told only now.
                BalancerEvent::Serving { generation, .. } if generation < drains => continue,
                BalancerEvent::Serving { generation, .. } => ("serving", generation),
                BalancerEvent::Idle { .. } => ("idle", drains),
                _ => ("other", 0),
            });
            if is_last {
                break;
            }
        }
    };
    tokio::time::timeout(stage::PATIENCE, all).await.unwrap();
    assert_eq!(heard, [("applied", drains), ("serving", drains), ("idle", drains)]);
}

#[tokio::test]
async fn a_generation_is_served_when_every_thread_serves_it() {
    let upstream = Upstream::named("up").await;
    let stage = Stage::with(config().with_threads(4), &[upstream.address]).await;
    // More connections than threads, so that each has some.
    let mut clients = Vec::new();
    for _ in 0..32 {
        clients.push(stage.client().await);
    }
    for _ in 0..20 {
        stage.state("i0", MemberState::Draining).await;
        for client in &mut clients {
            assert_eq!(client.get("/").await.status, 503);
        }
        stage.state("i0", MemberState::Active).await;
        for client in &mut clients {
            assert_eq!(client.get("/").await.status, 200);
        }
    }
}

/// Endpoints come, drain and go while requests never stop; none of them fails, and the counts are exact.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_is_lost_while_endpoints_come_and_go() {
    const ROUNDS: usize = 30;
    let stage = Arc::new(Stage::new(config()).await);
    let first = Upstream::named("up").await;
    stage.apply([put_member("p", "e0", first.address)]).await;
    let (ends, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut load = Vec::new();
    for number in 0..8 {
        let (stage, ends, served) = (stage.clone(), ends.clone(), served.clone());
        load.push(tokio::spawn(async move {
            let mut client = stage.client().await;
            while !ends.load(Ordering::Relaxed) {
                if number % 2 == 0 {
                    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi").await;
                } else {
                    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
                }
                let answer = client.answer().await;
                assert_eq!((answer.status, answer.text().as_str()), (200, "up"));
                served.fetch_add(1, Ordering::Relaxed);
            }
        }));
    }
    let mut old = ("e0".to_owned(), first);
    let mut seen_by_endpoints = 0;
    for round in 1..=ROUNDS {
        let (name, new) = (format!("e{round}"), Upstream::named("up").await);
        stage.apply([put_member("p", &name, new.address)]).await;
        let before = served.load(Ordering::Relaxed);
        until("some traffic", async || served.load(Ordering::Relaxed) > before + 100).await;
        assert_eq!(stage.drain(&old.0, Duration::from_secs(30)).await, Drained::Drained, "round {round}");
        let seen = stage.seen(&old.0).await.unwrap();
        assert_eq!((seen.errors, seen.forced), (Some(0), Some(0)), "round {round}");
        // Proved: what it has received by now is all that it will ever receive.
        let received = old.1.received().len();
        assert_eq!(seen.requests, Some(received as u64), "round {round}");
        seen_by_endpoints += received;
        old.1.kill();
        stage.remove(&old.0).await;
        old = (name, new);
    }
    ends.store(true, Ordering::Relaxed);
    for task in load {
        task.await.unwrap();
    }
    let served = served.load(Ordering::Relaxed);
    assert!(served > 3_000, "{served}");
    assert_eq!(served, seen_by_endpoints + old.1.received().len());
}

#[tokio::test]
async fn a_gateway_ends_when_what_is_under_way_has_ended() {
    let (upstream, gate) = holding().await;
    let stage = Stage::with(config(), &[upstream.address]).await;
    let mut clients = hold(&stage, 2).await;
    let mut idle = stage.client().await;
    assert_eq!(idle.get("/").await.status, 200);
    let gateway = stage.gateway.clone();
    let shutdown = tokio::spawn(async move { gateway.shutdown(Duration::from_secs(60)).await });
    // Who waits for nothing is let go, and nobody new is let in.
    assert!(idle.is_closed().await);
    until("nobody listens", async || tokio::net::TcpStream::connect(stage.address).await.is_err()).await;
    gate.add_permits(2);
    for client in &mut clients {
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
    }
    assert_eq!(shutdown.await.unwrap(), 0);
}

#[tokio::test]
async fn a_gateway_that_can_not_wait_closes_what_is_left() {
    let (upstream, _gate) = holding().await;
    let stage = Stage::with(config(), &[upstream.address]).await;
    let mut clients = hold(&stage, 2).await;
    assert_eq!(stage.gateway.shutdown(Duration::from_millis(100)).await, 2);
    for client in &mut clients {
        assert!(client.is_closed().await);
    }
    // The one that is dropped ends as well.
    let (upstream, _gate) = holding().await;
    let stage = Stage::with(config(), &[upstream.address]).await;
    let mut clients = hold(&stage, 1).await;
    drop(stage);
    assert!(clients[0].is_closed().await);
}

#[tokio::test]
async fn listeners_may_be_given_and_connections_dealt() {
    let upstream = Upstream::named("up").await;
    for accept in [Accept::Auto, Accept::Deal] {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let given = listener.local_addr().unwrap();
        let builder = Gateway::builder(config().with_accept(accept)).with_listener(listener);
        let stage = Stage::of(builder.start().await.unwrap()).await;
        assert_eq!(stage.gateway.addresses(), [stage.address, given]);
        let endpoint = member("p", "i0", upstream.address);
        stage.apply([ews_core::balancer::Op::Put(ews_core::balancer::Object::Endpoint(endpoint))]).await;
        for address in [stage.address, given] {
            for _ in 0..8 {
                assert_eq!(Client::connect(address).await.get("/").await.text(), "up");
            }
        }
    }
}

#[tokio::test]
async fn what_can_not_be_started_says_why() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let error = Gateway::start(GatewayConfig::default().with_listen([address])).await.unwrap_err();
    assert_eq!(error.kind(), ews_core::ErrorKind::PortInUse);
    assert!(error.message().contains(&address.to_string()), "{error}");
    // Another gateway's address is taken too, though its threads share it among themselves.
    let first = Gateway::start(config()).await.unwrap();
    let twice = config().with_name("second").with_listen([first.addresses()[0]]);
    let error = Gateway::start(twice.clone()).await.unwrap_err();
    assert_eq!(error.kind(), ews_core::ErrorKind::PortInUse, "{error}");
    first.shutdown(Duration::from_secs(5)).await;
    Gateway::start(twice).await.unwrap();
    for wrong in [
        GatewayConfig::default().with_threads(0),
        GatewayConfig::default().with_name("not a name!"),
        stage::with_timeouts(|timeouts| timeouts.head = Duration::ZERO),
    ] {
        let error = Gateway::start(wrong).await.unwrap_err();
        assert_eq!(error.kind(), ews_core::ErrorKind::Invalid, "{error}");
    }
    let views = Gateway::start(GatewayConfig::default()).await.unwrap();
    let shown = format!("{views:?}");
    assert_eq!(shown, r#"Gateway { id: GatewayId(gateway), addresses: [], connections: 0, .. }"#);
    assert_eq!(views.observe(&ObserveQuery::default()).await.unwrap()[0].generation, Some(0));
}
