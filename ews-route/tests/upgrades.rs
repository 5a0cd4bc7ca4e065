//! Upgrades: bytes both ways, their ends, and what happens to them when an endpoint or the gateway goes.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that can't go on fails"
)]

mod stage;

use std::net::SocketAddr;
use std::time::Duration;

use ews_core::balancer::{Drained, HeaderEdits, MemberState, RouteFilter};
use stage::{Client, PATIENCE, Stage, Upstream, config, put_member, until, with_timeouts};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

const ASK: &str = "GET /ws HTTP/1.1\r\nHost: a.example\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// An endpoint that switches protocols, says the first words, and echoes what it gets until that ends.
async fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await.unwrap());
                }
                let text = String::from_utf8(head).unwrap().to_ascii_lowercase();
                assert!(
                    text.contains("\r\nconnection: upgrade\r\n")
                        && text.contains("\r\nupgrade: websocket\r\n"),
                    "{text}"
                );
                assert!(text.contains("\r\nsec-websocket-key: "), "{text}");
                let answer = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                              Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\nhello";
                stream.write_all(answer.as_bytes()).await.unwrap();
                let (mut reader, mut writer) = stream.split();
                let _ = tokio::io::copy(&mut reader, &mut writer).await;
                let _ = writer.write_all(b"bye").await;
            });
        }
    });
    address
}

/// A client whose upgrade was answered, and that has read the first words.
async fn upgraded(stage: &Stage) -> Client {
    let mut client = stage.client().await;
    client.send(ASK).await;
    let answer = client.answer_to("HEAD").await.unwrap();
    assert_eq!(answer.status, 101);
    assert_eq!(answer.header("upgrade"), Some("websocket"));
    assert_eq!(answer.header("connection"), Some("upgrade"));
    assert_eq!(answer.header("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    assert_eq!(client.exactly(5).await.unwrap(), b"hello");
    client
}

#[tokio::test]
async fn bytes_pass_as_they_are_and_each_side_ends_for_itself() {
    let stage = Stage::with(config(), &[echo().await]).await;
    let mut client = upgraded(&stage).await;
    // What no head guard would let through.
    let every_byte: Vec<u8> = (0..=255).chain(*b"GET / HTTP/1.1\r\nContent-Length: 1\nx\0\r\n\r\n").collect();
    client.send_bytes(&every_byte).await;
    assert_eq!(client.exactly(every_byte.len()).await.unwrap(), every_byte);
    assert_eq!(stage.seen("i0").await.unwrap().in_flight, Some(1));
    // More than all buffers on the way hold, while nobody reads.
    let much: Vec<u8> =
        (0..16 * 1024 * 1024_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let Client { stream, .. } = client;
    let (mut reader, mut writer) = stream.into_split();
    let sent = much.clone();
    let writing = tokio::spawn(async move {
        writer.write_all(&sent).await.unwrap();
        // The end of what the client says is passed on, and the answer still comes.
        writer.shutdown().await.unwrap();
    });
    let mut read = Vec::new();
    tokio::time::timeout(PATIENCE, reader.read_to_end(&mut read)).await.unwrap().unwrap();
    writing.await.unwrap();
    let (echoed, last) = read.split_at(much.len());
    assert!(echoed == much, "the bytes differ");
    assert_eq!(last, b"bye");
    until("it is not under way any more", async || stage.seen("i0").await.unwrap().in_flight == Some(0))
        .await;
    assert_eq!(stage.seen("i0").await.unwrap().errors, Some(0));
}

#[tokio::test]
async fn an_endpoint_that_says_no_is_answered_as_any() {
    let upstream = Upstream::named("no").await;
    let stage = Stage::with(config(), &[upstream.address]).await;
    let mut client = stage.client().await;
    client.send(ASK).await;
    assert_eq!(client.answer().await.text(), "no");
    assert_eq!(client.get("/").await.text(), "no");
    // Not asked for: no connection header, with a body, or another HTTP.
    for head in [
        "Upgrade: websocket\r\n",
        "Connection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 2\r\n",
        "Connection: upgrade\r\nUpgrade: websocket, h2c\r\n",
        "Connection: upgrade\r\nUpgrade: HTTP/2.0\r\n",
        "Connection: upgrade\r\nUpgrade: TLS/1.2\r\n",
    ] {
        let body = if head.contains("Content-Length") { "hi" } else { "" };
        client.send(&format!("POST / HTTP/1.1\r\nHost: a.example\r\n{head}\r\n{body}")).await;
        assert_eq!(client.answer().await.text(), "no");
        let last = upstream.received().pop().unwrap();
        assert!(last.header("upgrade").is_empty() && last.header("connection").is_empty(), "{}", last.head);
    }
}

#[tokio::test]
async fn an_endpoint_that_switches_unasked_is_a_bad_gateway() {
    let upstream = Upstream::new(|_| async {
        stage::upstream::Deed::Send(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n".to_vec(),
        )
    })
    .await;
    let stage = Stage::with(config(), &[upstream.address]).await;
    assert_eq!(stage.get("a", "/").await.status, 502);
}

#[tokio::test]
async fn a_drain_waits_for_it_and_then_cuts_it_off() {
    let stage = Stage::with(config(), &[echo().await]).await;
    let mut client = upgraded(&stage).await;
    assert_eq!(stage.drain("i0", Duration::from_millis(100)).await, Drained::Forced(1));
    assert!(client.is_closed().await);
    let view = stage.seen("i0").await.unwrap();
    assert_eq!((view.state, view.in_flight, view.forced), (MemberState::Closed, Some(0), Some(1)));
}

#[tokio::test]
async fn a_gateway_that_ends_waits_for_it_too() {
    let stage = Stage::with(config(), &[echo().await]).await;
    let mut client = upgraded(&stage).await;
    let gateway = stage.gateway.clone();
    let ending = tokio::spawn(async move { gateway.shutdown(Duration::from_secs(30)).await });
    client.send("still here").await;
    assert_eq!(client.exactly(10).await.unwrap(), b"still here");
    client.stream.shutdown().await.unwrap();
    assert_eq!(client.exactly(3).await.unwrap(), b"bye");
    assert_eq!(ending.await.unwrap(), 0);
}

#[tokio::test]
async fn one_that_is_silent_for_too_long_is_closed() {
    let stage =
        Stage::with(with_timeouts(|times| times.tunnel = Duration::from_millis(300)), &[echo().await]).await;
    let mut client = upgraded(&stage).await;
    assert!(client.is_closed().await);
    until("it is not under way any more", async || stage.seen("i0").await.unwrap().in_flight == Some(0))
        .await;
}

#[tokio::test]
async fn a_rules_filters_hold_for_its_answer() {
    let stage = Stage::new(config()).await;
    let edits = HeaderEdits::new().with_set("x-by", "ews");
    let rule = stage::forward("/", "p").filter(RouteFilter::ResponseHeaders(edits));
    stage.apply([stage::put_rules("r", vec![rule]), put_member("p", "i0", echo().await)]).await;
    let mut client = stage.client().await;
    client.send(ASK).await;
    let answer = client.answer_to("HEAD").await.unwrap();
    assert_eq!((answer.status, answer.header("x-by")), (101, Some("ews")));
}
