//! What one client may take up: connections, handshakes, time.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that can't go on fails"
)]

mod stage;

use std::time::Duration;

use ews_route::{Forwarding, GatewayConfig, RequestLimits};
use stage::{Client, Stage, Upstream, config, until};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket};

fn with_limits(change: impl FnOnce(&mut RequestLimits)) -> GatewayConfig {
    let mut limits = RequestLimits::default();
    change(&mut limits);
    config().with_limits(limits)
}

/// A client of another address of this machine.
async fn from(stage: &Stage, address: &str) -> Client {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(format!("{address}:0").parse().unwrap()).unwrap();
    Client::of(socket.connect(stage.address).await.unwrap())
}

/// Whether a request on a new connection from there is served.
async fn is_served(stage: &Stage, address: &str) -> bool {
    let mut client = from(stage, address).await;
    client.try_send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    client.answer_to("GET").await.is_some_and(|answer| answer.status == 200)
}

#[tokio::test]
async fn a_client_has_no_more_connections_than_it_may() {
    let upstream = Upstream::named("up").await;
    let trusted = Forwarding::default().with_trusted(["127.0.0.9".parse().unwrap()]);
    let config = with_limits(|limits| limits.connections_per_client = Some(2)).with_forwarding(trusted);
    let stage = Stage::with(config, &[upstream.address]).await;
    let mut held = [from(&stage, "127.0.0.2").await, from(&stage, "127.0.0.2").await];
    for client in &mut held {
        assert_eq!(client.get("/").await.status, 200);
    }
    assert!(!is_served(&stage, "127.0.0.2").await);
    assert!(is_served(&stage, "127.0.0.3").await, "another client has its own");
    // A proxy that is believed stands for many.
    let mut of_proxy = Vec::new();
    for _ in 0..5 {
        let mut client = from(&stage, "127.0.0.9").await;
        assert_eq!(client.get("/").await.status, 200);
        of_proxy.push(client);
    }
    drop(held);
    until("there is room again", async || is_served(&stage, "127.0.0.2").await).await;
}

#[tokio::test]
async fn a_body_that_comes_too_slowly_is_cut_off_and_a_slow_one_is_not() {
    let upstream = Upstream::named("up").await;
    let stage = Stage::with(with_limits(|limits| limits.body_rate = 500), &[upstream.address]).await;
    let upload = async |bytes: usize, times: usize| {
        let mut client = stage.client().await;
        client
            .send(&format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", bytes * times))
            .await;
        for _ in 0..times {
            client.try_send(&vec![b'x'; bytes]).await;
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
        client.answer_to("POST").await.map(|answer| answer.status)
    };
    // 40 bytes a second and 2,000.
    let (dripping, slow) = tokio::join!(upload(10, 60), upload(500, 60));
    assert_eq!((dripping, slow), (None, Some(200)));
    until("nothing is under way", async || stage.seen("i0").await.unwrap().in_flight == Some(0)).await;
}

/// Who is kept from sending is not slow.
#[tokio::test]
async fn a_body_that_waits_for_its_endpoint_is_not_cut_off() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    const BODY: usize = 8_000_000;
    let endpoint = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        // Longer than a body's pace is watched for.
        tokio::time::sleep(Duration::from_secs(12)).await;
        let mut body = vec![0; BODY];
        stream.read_exact(&mut body).await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
    });
    let stage = Stage::with(with_limits(|limits| limits.body_rate = 1_000_000), &[address]).await;
    let mut client = stage.client().await;
    let head = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {BODY}\r\n\r\n");
    client.send_bytes(&[head.as_bytes(), &vec![b'x'; BODY]].concat()).await;
    assert_eq!(client.answer_to("POST").await.map(|answer| answer.status), Some(200));
    endpoint.await.unwrap();
}
