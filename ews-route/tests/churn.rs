//! A thousand replacements of an endpoint under load: no request is lost, and what is long-lived goes on until its deadline.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that can't go on fails"
)]

mod stage;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use ews_core::balancer::{Drained, MemberState};
use stage::upstream::{Deed, ok};
use stage::{Client, Stage, Upstream, config, put_member, until};

/// How many replacements there are.
const TIMES: usize = 1_000;

/// Asks until it is told to stop, on one connection as long as that goes on; how many were answered.
async fn asks(address: std::net::SocketAddr, is_over: Arc<AtomicBool>, answered: Arc<AtomicU64>) {
    let mut client = Client::connect(address).await;
    while !is_over.load(Ordering::Relaxed) {
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let answer = client.answer_to("GET").await.expect("a kept connection is not closed in the midst");
        assert_eq!((answer.status, answer.text().as_str()), (200, "up"));
        answered.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_replacements_lose_no_request() {
    let mut upstreams = Vec::new();
    for _ in 0..4 {
        upstreams.push(
            Upstream::new(|received| async move {
                if received.header("upgrade").is_empty() {
                    return ok("up");
                }
                let head =
                    "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nhello";
                Deed::Send(head.as_bytes().to_vec())
            })
            .await,
        );
    }
    let stage = Stage::with(config(), &[]).await;
    let name = |number: usize| format!("e{number}");
    stage.apply([put_member("p", &name(0), upstreams[0].address)]).await;
    let (is_over, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let load: Vec<_> =
        (0..6).map(|_| tokio::spawn(asks(stage.address, is_over.clone(), answered.clone()))).collect();
    // One that lasts, on the first endpoint: it goes on while that one drains.
    let mut lasting = stage.client().await;
    lasting.send("GET /ws HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n").await;
    assert_eq!(lasting.answer_to("HEAD").await.unwrap().status, 101);
    assert_eq!(lasting.exactly(5).await.unwrap(), b"hello");
    let mut forced = 0;
    for number in 1..=TIMES {
        let address = upstreams[number % upstreams.len()].address;
        stage.apply([put_member("p", &name(number), address)]).await;
        let old = name(number - 1);
        let mut deadline = Duration::from_secs(30);
        if number == 1 {
            // The first has something that does not end by itself; all else is waited for.
            stage.state(&old, MemberState::Draining).await;
            until("only that is left", async || stage.seen(&old).await.unwrap().in_flight == Some(1)).await;
            deadline = Duration::from_millis(300);
        }
        match stage.drain(&old, deadline).await {
            Drained::Drained => {}
            Drained::Forced(count) => forced += count,
            other => panic!("no proof for {old}: {other:?}"),
        }
        stage.remove(&old).await;
    }
    is_over.store(true, Ordering::Relaxed);
    for task in load {
        task.await.unwrap();
    }
    assert_eq!(forced, 1, "the one that lasts is closed at its deadline, and nothing else");
    assert!(lasting.is_closed().await);
    let (answered, received) =
        (answered.load(Ordering::Relaxed), upstreams.iter().map(|one| one.received().len()));
    // Each once, and the one that was upgraded.
    assert_eq!(received.sum::<usize>() as u64, answered + 1);
    assert!(answered > TIMES as u64, "{answered} requests under {TIMES} replacements are no load");
}
