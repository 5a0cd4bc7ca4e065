//! What goes wrong: dead endpoints, broken answers, slow clients, hostile bytes.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that can't go on fails"
)]

mod stage;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ews_route::{RequestLimits, UpstreamConfig};
use stage::upstream::{Deed, ok};
use stage::{Stage, Upstream, config, nowhere, until, with_timeouts};
use tokio::io::AsyncWriteExt as _;

#[tokio::test]
async fn a_dead_endpoint_costs_no_request_and_gets_none_for_a_while() {
    let alive = Upstream::named("alive").await;
    let stage = Stage::with(config(), &[nowhere().await, alive.address]).await;
    let mut client = stage.client().await;
    for _ in 0..100 {
        assert_eq!(client.get("/").await.text(), "alive");
    }
    // Bodies that nobody has touched are no obstacle.
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi").await;
    assert_eq!(client.answer().await.text(), "alive");
    let dead = stage.seen("i0").await.unwrap();
    assert!(dead.requests < Some(20), "{dead:?}");
    assert_eq!(dead.requests, dead.errors);
    assert_eq!((dead.in_flight, stage.seen("i1").await.unwrap().errors), (Some(0), Some(0)));
}

#[tokio::test]
async fn the_last_endpoint_is_tried_although_it_was_dead() {
    let address = nowhere().await;
    // Out for long, so that it still is when that is looked at.
    let upstream = UpstreamConfig::default().with_eject(Duration::from_secs(30));
    let stage = Stage::with(config().with_upstream(upstream), &[address]).await;
    let mut client = stage.client().await;
    assert_eq!(client.get("/").await.status, 502);
    assert_eq!(stage.seen("i0").await.unwrap().healthy, Some(false));
    let listener = tokio::net::TcpListener::bind(address).await.unwrap();
    let _upstream = Upstream::at(listener, |_| async { ok("back") });
    assert_eq!(client.get("/").await.text(), "back");
    assert_eq!(stage.seen("i0").await.unwrap().healthy, Some(true));
}

#[tokio::test]
async fn a_killed_endpoint_loses_no_request_that_can_be_sent_again() {
    let (one, two) = (Upstream::named("one").await, Upstream::named("two").await);
    let stage = Stage::with(config(), &[one.address, two.address]).await;
    let mut clients = Vec::new();
    for _ in 0..8 {
        clients.push(stage.client().await);
    }
    for round in 0..40 {
        if round == 20 {
            one.kill();
        }
        for client in &mut clients {
            assert_eq!(client.get("/").await.status, 200, "round {round}");
        }
    }
}

#[tokio::test]
async fn a_kept_connection_that_the_upstream_closes_costs_nothing() {
    // It closes after each answer, without saying so: each kept connection is dead when it is used.
    let upstream = Upstream::new(|_| async {
        Deed::SendAndClose(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_vec())
    })
    .await;
    let stage = Stage::with(config(), &[upstream.address]).await;
    let mut client = stage.client().await;
    for _ in 0..50 {
        assert_eq!(client.get("/").await.text(), "ok");
    }
    assert_eq!(upstream.received().len(), 50);
}

/// Resets the first so many requests after having read them, and answers those after them.
async fn resetting(first: usize) -> (Upstream, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    let upstream = Upstream::new(move |_| {
        let number = counted.fetch_add(1, Ordering::Relaxed);
        async move { if number < first { Deed::SendAndReset(Vec::new()) } else { ok("ok") } }
    })
    .await;
    (upstream, count)
}

#[tokio::test]
async fn what_may_have_been_done_is_done_again_only_where_that_is_harmless() {
    for (request, is_repeated) in [
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", true),
        ("DELETE / HTTP/1.1\r\nHost: a\r\n\r\n", true),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", false),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi", false),
        ("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi", false),
        ("PATCH / HTTP/1.1\r\nHost: a\r\n\r\n", false),
    ] {
        let (upstream, count) = resetting(1).await;
        let other = Upstream::named("ok").await;
        let stage = Stage::with(config(), &[upstream.address]).await;
        // The second comes only once the first has been chosen for sure.
        let mut client = stage.client().await;
        if is_repeated {
            stage.apply([stage::put_member("p", "i1", other.address)]).await;
            // Until the resetting one has had its turn.
            until("a reset", async || {
                client.send(request).await;
                assert_eq!(client.answer().await.status, 200, "{request:?}");
                count.load(Ordering::Relaxed) > 0
            })
            .await;
        } else {
            client.send(request).await;
            let answer = client.answer().await;
            assert_eq!((answer.status, count.load(Ordering::Relaxed)), (502, 1), "{request:?}");
        }
        assert_eq!(stage.seen("i0").await.unwrap().in_flight, Some(0));
    }
}

#[tokio::test]
async fn repetitions_have_a_budget() {
    let (one, count) = resetting(usize::MAX).await;
    let (two, other) = resetting(usize::MAX).await;
    let (three, third) = resetting(usize::MAX).await;
    let stage = Stage::with(config().with_threads(1), &[one.address, two.address, three.address]).await;
    let mut client = stage.client().await;
    for _ in 0..300 {
        assert_eq!(client.get("/").await.status, 502);
    }
    let sent = [count, other, third].iter().map(|count| count.load(Ordering::Relaxed)).sum::<usize>();
    // Three times as many without one; ten each second come on top.
    assert!((300..600).contains(&sent), "{sent}");
}

#[tokio::test]
async fn an_answer_that_breaks_off_breaks_off_at_the_client() {
    for text in [
        "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
    ] {
        for resets in [false, true] {
            let upstream = Upstream::new(move |_| async move {
                let bytes = text.as_bytes().to_vec();
                if resets { Deed::SendAndReset(bytes) } else { Deed::SendAndClose(bytes) }
            })
            .await;
            let stage = Stage::with(config(), &[upstream.address]).await;
            let mut client = stage.client().await;
            client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
            // A reset may overtake the head, and then there is nothing to break off.
            if let Some(answer) = client.answer_to("GET").await
                && answer.status != 502
            {
                assert_eq!((answer.status, answer.is_cut), (200, true), "{text:?}");
            }
            until("it is counted", async || {
                let seen = stage.seen("i0").await.unwrap();
                seen.in_flight == Some(0) && seen.errors >= Some(1)
            })
            .await;
        }
    }
}

#[tokio::test]
async fn what_is_no_http_is_a_bad_gateway() {
    for bytes in ["SSH-2.0-x\r\n", "HTTP/1.1 abc\r\n\r\n", "HTTP/1.1 101 Switching Protocols\r\n\r\n"] {
        let upstream =
            Upstream::new(move |_| async move { Deed::SendAndClose(bytes.as_bytes().to_vec()) }).await;
        let stage = Stage::with(config(), &[upstream.address]).await;
        assert_eq!(stage.get("a", "/").await.status, 502, "{bytes:?}");
    }
}

#[tokio::test]
async fn a_client_that_goes_away_ends_the_request_behind_it() {
    let upstream = Upstream::new(|_| std::future::pending::<Deed>()).await;
    let stage = Stage::with(config(), &[upstream.address]).await;
    let mut client = stage.client().await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    until("it is under way", async || stage.seen("i0").await.unwrap().in_flight == Some(1)).await;
    until("it came through", async || upstream.received().len() == 1).await;
    drop(client);
    until("it has ended", async || stage.seen("i0").await.unwrap().in_flight == Some(0)).await;
    until("the upstream has noticed", async || upstream.connections() == (1, 0)).await;
}

#[tokio::test]
async fn a_client_that_breaks_off_its_body_is_no_fault_of_the_endpoint() {
    let upstream = Upstream::named("up").await;
    let stage = Stage::with(config(), &[upstream.address]).await;
    for bytes in [
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nhalf",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\nbad\r\n",
    ] {
        let mut client = stage.client().await;
        client.send(bytes).await;
        client.stream.shutdown().await.unwrap();
        let answer = client.answer_to("POST").await;
        assert!(answer.as_ref().is_none_or(|answer| answer.status == 400), "{answer:?}");
        until("it has ended", async || stage.seen("i0").await.unwrap().in_flight == Some(0)).await;
    }
    assert!(upstream.received().is_empty());
    let seen = stage.seen("i0").await.unwrap();
    assert_eq!((seen.errors, seen.healthy), (Some(0), Some(true)));
}

#[tokio::test]
async fn slow_ones_are_not_waited_for() {
    // A head that does not end.
    // Long for who is well, however busy the machine is.
    let short = Duration::from_secs(1);
    let upstream = Upstream::new(|received| async move {
        match received.path() {
            "/hang" => std::future::pending().await,
            "/stall" => Deed::Send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf".to_vec()),
            _ => ok("ok"),
        }
    })
    .await;
    let stage = Stage::with(with_timeouts(|timeouts| timeouts.head = short), &[upstream.address]).await;
    let mut client = stage.client().await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /x HTT").await;
    assert_eq!(client.answer().await.text(), "ok");
    assert_eq!(client.answer().await.status, 408);
    assert!(client.is_closed().await);

    // A connection that nobody uses.
    let stage = Stage::with(with_timeouts(|timeouts| timeouts.idle = short), &[upstream.address]).await;
    let mut served = None;
    until("one is served before its time is over", async || {
        let client = served.insert(stage.client().await);
        client.try_send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        client.answer_to("GET").await.is_some_and(|answer| answer.text() == "ok")
    })
    .await;
    assert!(served.unwrap().is_closed().await);
    until("it is gone", async || stage.gateway.connections() == 0).await;

    // An endpoint that does not answer.
    let stage = Stage::with(with_timeouts(|timeouts| timeouts.response = short), &[upstream.address]).await;
    let mut client = stage.client().await;
    assert_eq!(client.get("/hang").await.status, 504);
    let seen = stage.seen("i0").await.unwrap();
    assert_eq!((seen.in_flight, seen.errors), (Some(0), Some(1)));
    until("its connection goes on", async || client.get("/").await.text() == "ok").await;

    // An answer that makes no progress.
    let stage = Stage::with(with_timeouts(|timeouts| timeouts.stall = short), &[upstream.address]).await;
    assert!(stage.get("a", "/stall").await.is_cut);
    until("it has ended", async || stage.seen("i0").await.unwrap().in_flight == Some(0)).await;
}

#[tokio::test]
async fn a_head_that_comes_byte_by_byte_is_a_head() {
    let upstream = Upstream::named("up").await;
    let stage = Stage::with(config(), &[upstream.address]).await;
    let mut client = stage.client().await;
    for byte in b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" {
        client.send_bytes(&[*byte]).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(client.answer().await.text(), "up");
}

#[tokio::test]
async fn bounds_are_bounds() {
    let upstream = Upstream::named("up").await;
    let mut limits = RequestLimits::default();
    (limits.head_bytes, limits.headers, limits.body_bytes) = (4096, 10, Some(1000));
    let stage = Stage::with(config().with_limits(limits), &[upstream.address]).await;
    let head = |more: &str| format!("POST / HTTP/1.1\r\nHost: a\r\n{more}\r\n");
    let pad = "x".repeat(4096 - head("X: \r\n").len());
    assert_eq!(head(&format!("X: {pad}\r\n")).len(), 4096);
    for (text, status) in [
        (head(&format!("X: {pad}\r\n")), 200),
        (head(&format!("X: {pad}x\r\n")), 431),
        (head(&"X: y\r\n".repeat(9)), 200),
        (head(&"X: y\r\n".repeat(10)), 431),
        (format!("{}{}", head("Content-Length: 1000\r\n"), "x".repeat(1000)), 200),
        (format!("{}{}", head("Content-Length: 1001\r\n"), "x".repeat(1001)), 413),
        (format!("{}3e8\r\n{}\r\n0\r\n\r\n", head("Transfer-Encoding: chunked\r\n"), "x".repeat(1000)), 200),
        (format!("{}3e9\r\n{}\r\n0\r\n\r\n", head("Transfer-Encoding: chunked\r\n"), "x".repeat(1001)), 413),
        (format!("{}f4240\r\n{}", head("Transfer-Encoding: chunked\r\n"), "x".repeat(1_000_000)), 413),
        (format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}", "x".repeat(1_000_000)), 431),
    ] {
        let mut client = stage.client().await;
        client.try_send(text.as_bytes()).await;
        let shown = &text[..text.len().min(80)];
        assert_eq!(client.answer().await.status, status, "{shown:?}");
    }
    // A connection above the limit waits, and is served when there is room.
    limits.connections = 1;
    let stage = Stage::with(config().with_threads(1).with_limits(limits), &[upstream.address]).await;
    let mut first = stage.client().await;
    assert_eq!(first.get("/").await.text(), "up");
    let mut second = stage.client().await;
    second.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let early = tokio::time::timeout(Duration::from_millis(200), second.stream.readable()).await;
    assert!(early.is_err());
    drop(first);
    assert_eq!(second.answer().await.text(), "up");
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_up_the_endpoint_not_the_memory() {
    let sent = Arc::new(AtomicUsize::new(0));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let counted = sent.clone();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", 1_u64 << 40);
        stream.write_all(head.as_bytes()).await.unwrap();
        let chunk = vec![b'x'; 64 * 1024];
        while stream.write_all(&chunk).await.is_ok() {
            counted.fetch_add(chunk.len(), Ordering::Relaxed);
        }
    });
    let stage = Stage::with(config(), &[address]).await;
    let mut client = stage.client().await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    // What the sockets of the kernel hold is not ours; it stands still once they are full.
    let mut last = 0;
    until("nothing moves any more", async || {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let now = sent.load(Ordering::Relaxed);
        now > 0 && std::mem::replace(&mut last, now) == now
    })
    .await;
    assert!(sent.load(Ordering::Relaxed) < 64 << 20);
    drop(client);
    until("it has ended", async || stage.seen("i0").await.unwrap().in_flight == Some(0)).await;
}
