//! What endpoints answer, right and wrong, whole and in bits: what a client gets of it, and whether the connection is used again.

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

use stage::upstream::{Deed, ok};
use stage::{PATIENCE, Stage, Upstream, config, until};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

/// Answers everything with the same, and keeps the connection open.
async fn saying(answer: impl Into<Vec<u8>>) -> Upstream {
    let answer: Arc<Vec<u8>> = Arc::new(answer.into());
    Upstream::new(move |_| {
        let answer = answer.clone();
        async move { Deed::Send(answer.to_vec()) }
    })
    .await
}

/// Of two requests: the status and the body of what comes back, and how many connections they took.
async fn asked_twice(method: &str, answer: &str) -> (u16, String, usize) {
    let upstream = saying(answer).await;
    let stage = Stage::with(config().with_threads(1), &[upstream.address]).await;
    let mut last = (0, String::new());
    for _ in 0..2 {
        let mut client = stage.client().await;
        client.send(&format!("{method} / HTTP/1.1\r\nHost: a\r\n\r\n")).await;
        let answer = client.answer_to(method).await.unwrap();
        assert!(!answer.is_cut, "{answer:?}");
        last = (answer.status, answer.text());
        // What came behind an answer comes in its own time.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    (last.0, last.1, upstream.connections().0)
}

#[tokio::test]
async fn a_connection_is_kept_exactly_where_both_ends_agree_on_the_end() {
    for (method, answer, status, body, connections) in [
        ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", 200, "ok", 1),
        ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2 \r\nok\r\n0\r\n\r\n", 200, "ok", 1),
        (
            "GET",
            "HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
            200,
            "ok",
            1,
        ),
        ("GET", "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok", 200, "ok", 1),
        ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", 200, "", 1),
        ("GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", 304, "", 1),
        ("GET", "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", 200, "ok", 2),
        ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok", 200, "ok", 2),
        ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n\r\n", 200, "ok", 2),
        (
            "GET",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 40\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            200,
            "ok",
            2,
        ),
        (
            "GET",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\nmore",
            200,
            "ok",
            2,
        ),
        ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", 200, "", 2),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\nsurprise", 204, "", 2),
        // An answer that nobody asked for yet is not the next one's.
        (
            "GET",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n",
            200,
            "ok",
            2,
        ),
    ] {
        let found = asked_twice(method, answer).await;
        assert_eq!(found, (status, body.to_owned(), connections), "{method} {answer}");
    }
}

#[tokio::test]
async fn what_is_no_clear_answer_is_a_bad_gateway_at_once() {
    for answer in [
        "SSH-2.0-OpenSSH_9.2\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nokk",
        "HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nA: b\r\n folded\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    ] {
        let (status, _, connections) = asked_twice("POST", answer).await;
        assert_eq!((status, connections), (502, 2), "{answer}");
    }
    let many = format!("HTTP/1.1 200 OK\r\n{}Content-Length: 0\r\n\r\n", "A: b\r\n".repeat(128));
    assert_eq!(asked_twice("POST", &many).await.0, 502);
    let large = format!("HTTP/1.1 200 OK\r\nA: {}", "b".repeat(300 * 1024));
    assert_eq!(asked_twice("POST", &large).await.0, 502);
    let interim = "HTTP/1.1 100 Continue\r\n\r\n".repeat(20);
    assert_eq!(asked_twice("POST", &interim).await.0, 502);
}

#[tokio::test]
async fn chunks_that_make_no_sense_break_the_clients_answer_off_too() {
    for chunks in
        ["2\r\nok\r\n5 6\r\nhello", "2\r\nok\r\nx\r\n", "2\r\nokk\r\n", "2\r\nok\r\n0\r\nno colon\r\n\r\n"]
    {
        let upstream = saying(format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}")).await;
        let stage = Stage::with(config(), &[upstream.address]).await;
        let answer = stage.get("a", "/").await;
        assert_eq!((answer.status, answer.text().as_str(), answer.is_cut), (200, "ok", true), "{chunks}");
        until("it is closed", async || upstream.connections().1 == 0).await;
    }
}

#[tokio::test]
async fn an_answer_that_comes_byte_by_byte_is_one() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stage = Stage::with(config(), &[listener.local_addr().unwrap()]).await;
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        let answer = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n\
                      3;x=y\r\nabc\r\n0\r\nX-Sum: 7\r\n\r\n";
        for byte in answer.bytes() {
            stream.write_u8(byte).await.unwrap();
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        std::future::pending::<()>().await;
    });
    let mut client = stage.client().await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\n\r\n").await;
    let answer = client.answer().await;
    assert_eq!((answer.text().as_str(), answer.trailers.trim(), answer.is_cut), ("abc", "x-sum: 7", false));
}

/// An endpoint that answers a head before it reads the body; then it reads so much of it, and sends the rest of its answer.
async fn hasty(first: &'static str, body: usize, then: &'static str) -> (Stage, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stage = Stage::with(config(), &[listener.local_addr().unwrap()]).await;
    let read = Arc::new(AtomicUsize::new(0));
    let counted = read.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            stream.write_all(first.as_bytes()).await.unwrap();
            let mut buffer = vec![0; 64 * 1024];
            while counted.load(Ordering::Relaxed) < body {
                match stream.read(&mut buffer).await {
                    Ok(more @ 1..) => counted.fetch_add(more, Ordering::Relaxed),
                    _ => break,
                };
            }
            let _ = stream.write_all(then.as_bytes()).await;
        }
    });
    (stage, read)
}

#[tokio::test]
async fn an_answer_may_begin_before_the_request_has_ended() {
    const BODY: usize = 8 << 20;
    let (stage, read) = hasty("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n", BODY, "done").await;
    let mut client = stage.client().await;
    client.send(&format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {BODY}\r\n\r\n")).await;
    client.send_bytes(&vec![b'x'; BODY]).await;
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.text().as_str(), answer.is_cut), (200, "done", false));
    assert_eq!(read.load(Ordering::Relaxed), BODY);
    // And the client's connection goes on.
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!(client.answer().await.status, 200);
}

#[tokio::test]
async fn a_whole_answer_before_the_body_takes_nothing_of_the_body_from_the_endpoint() {
    const BODY: usize = 4 << 20;
    let (stage, read) = hasty("HTTP/1.1 202 Accepted\r\nContent-Length: 2\r\n\r\nok", BODY, "").await;
    let mut client = stage.client().await;
    client.send(&format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {BODY}\r\n\r\n")).await;
    assert_eq!(client.answer().await.status, 202);
    client.try_send(&vec![b'x'; BODY]).await;
    until("all of it has come", async || read.load(Ordering::Relaxed) == BODY).await;
}

#[tokio::test]
async fn an_endpoint_that_refuses_a_body_and_closes_is_heard() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stage = Stage::with(config(), &[listener.local_addr().unwrap()]).await;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            stream
                .write_all(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nno!")
                .await
                .unwrap();
            // As servers do that want their answer to be read.
            let _ = stream.shutdown().await;
            let mut rest = Vec::new();
            let _ = stream.take(1 << 20).read_to_end(&mut rest).await;
        }
    });
    for _ in 0..10 {
        let mut client = stage.client().await;
        client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n").await;
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.text().as_str()), (413, "no!"));
    }
}

#[tokio::test]
async fn a_client_that_breaks_off_its_body_takes_the_begun_answer_with_it() {
    let (stage, _) = hasty("HTTP/1.1 200 OK\r\n\r\nbegun", 1 << 20, "whole").await;
    let mut client = stage.client().await;
    client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n").await;
    // The guard finds the next chunk malformed.
    client.send("nonsense\r\n").await;
    let mut all = Vec::new();
    tokio::time::timeout(PATIENCE, client.stream.read_to_end(&mut all)).await.expect("an end").ok();
    let text = String::from_utf8_lossy(&all);
    assert!(!text.contains("whole") && !text.ends_with("0\r\n\r\n"), "{text}");
}

#[tokio::test]
async fn a_kept_connection_that_ends_as_the_request_comes_costs_nothing_that_can_be_repeated() {
    // It reads each second request of a connection, and closes.
    let upstream = Upstream::new(|received| async move {
        if received.number % 2 == 0 { Deed::SendAndClose(Vec::new()) } else { ok("ok") }
    })
    .await;
    let stage = Stage::with(config().with_threads(1), &[upstream.address]).await;
    let mut client = stage.client().await;
    for _ in 0..20 {
        let answer = client.get("/").await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "ok"));
    }
    // What may have had an effect is not sent again.
    let mut statuses = Vec::new();
    for _ in 0..4 {
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n").await;
        statuses.push(client.answer().await.status);
    }
    assert_eq!(statuses.iter().filter(|status| **status == 502).count(), 2, "{statuses:?}");
    let posts = upstream.received().iter().filter(|received| received.method() == "POST").count();
    assert_eq!(posts, 4);
}

#[tokio::test]
async fn requests_are_framed_by_what_is_sent_and_by_nothing_else() {
    let upstream = Upstream::named("ok").await;
    let stage = Stage::with(config(), &[upstream.address]).await;
    let mut client = stage.client().await;
    for request in [
        "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Sneaky: 1\r\nContent-Length: 9\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTrailer: Content-Length, X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-Sum: 1\r\nContent-Length: 9\r\n\r\n",
    ] {
        client.send(request).await;
        assert_eq!(client.answer().await.status, 200, "{request}");
    }
    let received = upstream.received();
    let framed: Vec<_> = received
        .iter()
        .map(|one| {
            (
                one.header("content-length"),
                one.header("transfer-encoding"),
                one.body.len(),
                one.trailers.trim().to_owned(),
            )
        })
        .collect();
    let own = |text: &str| vec![text.to_owned()];
    assert_eq!(
        framed,
        [
            (own("0"), vec![], 0, String::new()),
            (own("5"), vec![], 5, String::new()),
            (vec![], own("chunked"), 5, String::new()),
            (vec![], own("chunked"), 0, "x-sum: 1".to_owned()),
        ]
    );
}
