//! Clients that send or read too slowly are closed and counted; those that are kept from it are not.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that can't go on fails"
)]

mod stage;

use std::time::Duration;

use ews_core::metrics::{Aggregate, Aggregation, MetricQuery, MetricsExt as _};
use ews_route::{GatewayConfig, RequestLimits, metrics};
use stage::upstream::ok;
use stage::{Client, PATIENCE, Stage, Upstream, config, until};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpSocket;

fn with_limits(change: impl FnOnce(&mut RequestLimits)) -> GatewayConfig {
    let mut limits = RequestLimits::default();
    change(&mut limits);
    config().with_limits(limits)
}

async fn until_refused(stage: &Stage, reason: &str, wanted: f64) {
    until(&format!("{wanted} are counted as {reason}"), async || {
        let query = MetricQuery::new(metrics::REFUSED, format!("reason = {reason}").parse().unwrap())
            .aggregate(Aggregate::all(Aggregation::Sum));
        stage.gateway.number(&query).await.unwrap().map_or(0.0, |measured| measured.value) == wanted
    })
    .await;
}

const BODY: usize = 24_000_000;

/// Reads an answer so many bytes at a time, four times a second, with a small buffer of its own; whether all of it came.
async fn read(stage: &Stage, bytes: usize) -> bool {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(16 * 1024).unwrap();
    let mut client = Client::of(socket.connect(stage.address).await.unwrap());
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let (mut all, mut buffer) = (0, vec![0; bytes]);
    let reading = async {
        while all < BODY {
            match client.stream.read_exact(&mut buffer).await {
                Ok(read) => all += read,
                Err(_) => return,
            }
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    };
    // Longer than any of them takes.
    tokio::time::timeout(PATIENCE * 2, reading).await.expect("an end in time");
    all >= BODY
}

#[tokio::test]
async fn an_answer_that_is_taken_too_slowly_is_cut_off_and_a_slow_one_is_not() {
    let body = "x".repeat(BODY);
    let upstream = Upstream::new(move |_| {
        let body = body.clone();
        async move { ok(&body) }
    })
    .await;
    let stage = Stage::with(with_limits(|limits| limits.response_rate = 500_000), &[upstream.address]).await;
    // 20 kB a second, and 2 MB.
    let (dripping, slow) = tokio::join!(read(&stage, 5_000), read(&stage, 500_000));
    assert_eq!((dripping, slow), (false, true));
    until_refused(&stage, "slow_read", 1.0).await;
    until("nothing is under way", async || stage.seen("i0").await.unwrap().in_flight == Some(0)).await;
}

#[tokio::test]
async fn an_endpoint_that_says_nothing_for_long_makes_no_client_slow() {
    let upstream = Upstream::new(|_| async {
        tokio::time::sleep(Duration::from_secs(13)).await;
        ok("late")
    })
    .await;
    let config = with_limits(|limits| (limits.response_rate, limits.body_rate) = (1_000_000, 1_000_000));
    let stage = Stage::with(config, &[upstream.address]).await;
    assert_eq!(stage.get("a", "/").await.text(), "late");
    #[cfg(feature = "http2")]
    {
        use stage::http2;
        let mut client = http2::client(stage.address).await;
        let request = hyper::Request::get("http://a/").body(http2::empty()).unwrap();
        assert_eq!(client.send_request(request).await.unwrap().status(), 200);
    }
}

#[cfg(feature = "http2")]
mod http2 {
    use bytes::Bytes;
    use futures_util::StreamExt as _;
    use http_body_util::{BodyExt, StreamBody};
    use hyper::Request;
    use hyper::body::Frame;

    use super::stage::http2::{Body, client, empty};
    use super::*;

    /// A body of so many bytes, so many times, four times a second.
    fn dripping(bytes: usize, times: usize) -> Body {
        let drips = futures_util::stream::iter(0..times).then(move |_| async move {
            tokio::time::sleep(Duration::from_millis(250)).await;
            Ok(Frame::data(Bytes::from(vec![b'x'; bytes])))
        });
        BodyExt::boxed(StreamBody::new(drips))
    }

    async fn upload(stage: &Stage, kind: &str, bytes: usize) -> Option<u16> {
        let mut client = client(stage.address).await;
        let request =
            Request::post("http://a/").header("content-type", kind).body(dripping(bytes, 60)).unwrap();
        client.send_request(request).await.ok().map(|response| response.status().as_u16())
    }

    #[tokio::test]
    async fn a_body_that_comes_too_slowly_ends_its_connection_but_for_grpc() {
        let upstream = Upstream::named("up").await;
        let stage = Stage::with(with_limits(|limits| limits.body_rate = 500), &[upstream.address]).await;
        let (dripping, slow, grpc) = tokio::join!(
            upload(&stage, "text/plain", 10),
            upload(&stage, "text/plain", 500),
            upload(&stage, "application/grpc+proto", 10)
        );
        assert_eq!((dripping, slow, grpc), (None, Some(200), Some(200)));
        until_refused(&stage, "slow_body", 1.0).await;
    }

    #[tokio::test]
    async fn a_window_that_stays_closed_ends_its_connection() {
        let body = "x".repeat(4_000_000);
        let upstream = Upstream::new(move |_| {
            let body = body.clone();
            async move { ok(&body) }
        })
        .await;
        let stage =
            Stage::with(with_limits(|limits| limits.response_rate = 500_000), &[upstream.address]).await;
        let mut never = client(stage.address).await;
        let request = || Request::get("http://a/").body(empty()).unwrap();
        let unread = never.send_request(request()).await.unwrap();
        // Another one that is read is not harmed.
        let mut other = client(stage.address).await;
        let whole = other.send_request(request()).await.unwrap().into_body().collect().await.unwrap();
        assert_eq!(whole.to_bytes().len(), 4_000_000);
        until_refused(&stage, "slow_read", 1.0).await;
        until("its connection ends", async || never.is_closed()).await;
        assert!(unread.into_body().collect().await.is_err(), "it was cut off");
        assert_eq!(other.send_request(request()).await.unwrap().status(), 200);
    }
}
