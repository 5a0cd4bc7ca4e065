//! HTTP/2 from clients and to endpoints: streams beside each other, trailers, what is refused, and how it all ends.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that can't go on fails"
)]

mod stage;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ews_core::balancer::{Drained, Object, Op, Pool, PoolProtocol};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use hyper::{HeaderMap, Request};
use stage::http2::{Body, Endpoint, client, empty};
use stage::upstream::{Deed, ok};
use stage::{Stage, Upstream, config, pool, put_member, until, with_timeouts};
use tokio::sync::Semaphore;

fn get(path: &str) -> Request<Body> {
    Request::get(format!("http://shop.example{path}")).body(empty()).unwrap()
}

fn put_h2c_pool() -> Op {
    let mut pool = Pool::new(pool("p"));
    pool.protocol = PoolProtocol::H2c;
    Op::Put(Object::Pool(pool))
}

#[tokio::test]
async fn streams_of_one_connection_do_not_wait_for_each_other() {
    let gate = Arc::new(Semaphore::new(0));
    let upstream = Upstream::new({
        let gate = gate.clone();
        move |received| {
            let gate = gate.clone();
            async move {
                if received.path() == "/slow" {
                    gate.acquire().await.unwrap().forget();
                }
                ok("here")
            }
        }
    })
    .await;
    let stage = Stage::with(config(), &[upstream.address]).await;
    let client = client(stage.address).await;
    let slow = tokio::spawn({
        let mut client = client.clone();
        async move { client.send_request(get("/slow")).await.unwrap().status() }
    });
    until("the slow one is under way", async || upstream.received().len() == 1).await;
    let quick = (0..50).map(|_| {
        let mut client = client.clone();
        async move {
            client.send_request(get("/quick")).await.unwrap().into_body().collect().await.unwrap().to_bytes()
        }
    });
    for body in futures_util::future::join_all(quick).await {
        assert_eq!(body, "here");
    }
    assert_eq!(stage.gateway.connections(), 1);
    assert!(!slow.is_finished());
    gate.add_permits(1);
    assert_eq!(slow.await.unwrap(), 200);
}

#[tokio::test]
async fn an_endpoint_that_speaks_http1_gets_what_it_understands() {
    let upstream = Upstream::named("here").await;
    let stage = Stage::with(config(), &[upstream.address]).await;
    let mut client = client(stage.address).await;
    let request = Request::post("http://shop.example/a?b=c")
        .header("cookie", "a=1")
        .header("cookie", "b=2")
        .header("te", "trailers")
        .header("x-request-id", "mine")
        .body(Body::new(StreamBody::new(futures_util::stream::iter([
            Ok::<_, std::convert::Infallible>(Frame::data(Bytes::from_static(b"one "))),
            Ok(Frame::data(Bytes::from_static(b"two"))),
        ]))))
        .unwrap();
    let response = client.send_request(request).await.unwrap();
    assert_eq!(response.status(), 200);
    assert!(!response.headers().contains_key("connection"));
    let seen = upstream.received().pop().unwrap();
    assert!(seen.head.starts_with("POST /a?b=c HTTP/1.1\r\n"), "{}", seen.head);
    assert_eq!(seen.header("host"), ["shop.example"]);
    assert_eq!(seen.header("cookie"), ["a=1; b=2"]);
    assert_eq!(seen.header("transfer-encoding"), ["chunked"]);
    assert_eq!(seen.body, b"one two");
    assert_eq!(seen.header("x-request-id"), ["mine"]);
}

#[tokio::test]
async fn what_an_older_reader_could_take_otherwise_is_refused_and_the_connection_goes_on() {
    let upstream = Upstream::named("here").await;
    let stage = Stage::with(config(), &[upstream.address]).await;
    let mut client = client(stage.address).await;
    let ask = |name: &str, value: &str| {
        Request::get("http://shop.example/").header(name, value).body(empty()).unwrap()
    };
    for (name, value) in
        [("host", "other.example"), ("content_length", "5"), ("transfer_encoding", "chunked")]
    {
        assert_eq!(client.send_request(ask(name, value)).await.unwrap().status(), 400, "{name}");
    }
    let mut many = get("/");
    for number in 0..100 {
        many.headers_mut().append("x-many", number.into());
    }
    many.headers_mut().append("x-more", 1.into());
    assert_eq!(client.send_request(many).await.unwrap().status(), 431);
    assert_eq!(client.send_request(get("/")).await.unwrap().status(), 200);
    assert_eq!(upstream.received().len(), 1);
}

#[tokio::test]
async fn grpc_passes_with_its_trailers_on_few_connections() {
    let endpoint = Endpoint::new().await;
    let stage = Stage::new(config().with_threads(1)).await;
    stage.apply([put_h2c_pool(), put_member("p", "i0", endpoint.address)]).await;
    let client = client(stage.address).await;
    let calls = (0..60).map(|number| {
        let mut client = client.clone();
        async move {
            let request = Request::post("http://shop.example/greet.Greeter/Hello")
                .header("content-type", "application/grpc")
                .header("te", "trailers")
                .body(Body::new(http_body_util::Full::new(Bytes::from(format!("hello {number}")))))
                .unwrap();
            let response = client.send_request(request).await.unwrap();
            assert_eq!(response.status(), 200);
            assert_eq!(response.headers()["x-protocol"], "HTTP/2.0");
            assert_eq!(response.headers()["x-authority"], "shop.example");
            assert_eq!(response.headers()["x-te"], "trailers");
            let body = response.into_body().collect().await.unwrap();
            let trailers: HeaderMap = body.trailers().unwrap().clone();
            assert_eq!(trailers["grpc-status"], "0");
            (number, body.to_bytes())
        }
    });
    for (number, body) in futures_util::future::join_all(calls).await {
        assert_eq!(body, format!("hello {number}"));
    }
    assert!(endpoint.connections() <= 60);
    let before = endpoint.connections();
    let mut one = client.clone();
    one.send_request(get("/x")).await.unwrap().into_body().collect().await.unwrap();
    assert_eq!(endpoint.connections(), before, "an open connection is used again");
    // An HTTP/1.1 client gets there as well, and its upgrade does not.
    let mut old = stage.client().await;
    old.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n").await;
    let answer = old.answer().await;
    assert_eq!((answer.status, answer.header("x-authority")), (200, Some("a")));
    until("nothing is under way", async || stage.seen("i0").await.unwrap().in_flight == Some(0)).await;
}

#[tokio::test]
async fn a_drain_cuts_off_streams_and_leaves_their_connection() {
    let upstream = Upstream::new(|received| async move {
        if received.path() == "/slow" {
            return Deed::Send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf".to_vec());
        }
        ok("here")
    })
    .await;
    let stage = Stage::with(config(), &[upstream.address]).await;
    let mut client = client(stage.address).await;
    let response = client.send_request(get("/slow")).await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(stage.drain("i0", Duration::from_millis(100)).await, Drained::Forced(1));
    assert!(response.into_body().collect().await.is_err());
    stage.apply([put_member("p", "i1", upstream.address)]).await;
    assert_eq!(client.send_request(get("/quick")).await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_stream_that_takes_too_long_ends_alone() {
    let upstream = Upstream::new(|received| async move {
        match received.path() {
            "/never" => std::future::pending().await,
            "/half" => Deed::Send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf".to_vec()),
            _ => ok("here"),
        }
    })
    .await;
    // Each bound by itself, so that who is well is not held to the others.
    let short = Duration::from_secs(1);
    let stage = Stage::with(with_timeouts(|times| times.response = short), &[upstream.address]).await;
    let mut asking = client(stage.address).await;
    assert_eq!(asking.send_request(get("/never")).await.unwrap().status(), 504);
    until("its connection goes on", async || asking.send_request(get("/")).await.unwrap().status() == 200)
        .await;

    let stage = Stage::with(with_timeouts(|times| times.stall = short), &[upstream.address]).await;
    let mut asking = client(stage.address).await;
    let half = asking.send_request(get("/half")).await.unwrap();
    assert!(half.into_body().collect().await.is_err());
    assert_eq!(asking.send_request(get("/")).await.unwrap().status(), 200);

    // And a connection without any is closed after a while.
    let stage = Stage::with(with_timeouts(|times| times.idle = short), &[upstream.address]).await;
    let mut kept = None;
    until("one is served before its time is over", async || {
        let asking = kept.insert(client(stage.address).await);
        asking.send_request(get("/")).await.is_ok_and(|response| response.status() == 200)
    })
    .await;
    until("it is closed", async || stage.gateway.connections() == 0).await;
    let kept = kept.unwrap();
    until("and its client sees it", async || kept.is_closed()).await;
}

#[tokio::test]
async fn a_reader_that_takes_nothing_holds_its_connection_only_so_long() {
    let upstream = Upstream::new(|_| async {
        let mut bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 8000000\r\n\r\n".to_vec();
        bytes.resize(bytes.len() + 8_000_000, b'x');
        Deed::Send(bytes)
    })
    .await;
    let stage =
        Stage::with(with_timeouts(|times| times.stall = Duration::from_secs(1)), &[upstream.address]).await;
    let mut client = client(stage.address).await;
    let response = client.send_request(get("/")).await.unwrap();
    // Its window fills up, and nobody opens it again.
    until("it is closed", async || stage.gateway.connections() == 0).await;
    assert!(response.into_body().collect().await.is_err());
}

#[tokio::test]
async fn a_gateway_that_ends_finishes_its_streams() {
    let gate = Arc::new(Semaphore::new(0));
    let upstream = Upstream::new({
        let gate = gate.clone();
        move |_| {
            let gate = gate.clone();
            async move {
                gate.acquire().await.unwrap().forget();
                ok("here")
            }
        }
    })
    .await;
    let stage = Stage::with(config(), &[upstream.address]).await;
    let mut client = client(stage.address).await;
    let waiting = tokio::spawn(async move {
        client.send_request(get("/")).await.unwrap().into_body().collect().await.unwrap().to_bytes()
    });
    until("it is under way", async || upstream.received().len() == 1).await;
    let gateway = stage.gateway.clone();
    let ending = tokio::spawn(async move { gateway.shutdown(Duration::from_secs(30)).await });
    tokio::time::sleep(Duration::from_millis(50)).await;
    gate.add_permits(1);
    assert_eq!(waiting.await.unwrap(), "here");
    assert_eq!(ending.await.unwrap(), 0);
}

#[tokio::test]
async fn who_stops_in_the_midst_of_the_preface_is_refused_in_time() {
    let upstream = Upstream::named("here").await;
    let stage =
        Stage::with(with_timeouts(|times| times.head = Duration::from_secs(1)), &[upstream.address]).await;
    let mut client = stage.client().await;
    client.send("PRI * HTT").await;
    assert_eq!(client.answer().await.status, 408);
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn bytes_that_begin_like_http2_and_are_not_are_judged_as_before() {
    let upstream = Upstream::named("here").await;
    let stage = Stage::with(config(), &[upstream.address]).await;
    for (bytes, status) in
        [("PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", 505), ("PRI / HTTP/1.1\r\nHost: a\r\n\r\n", 200), ("P", 0)]
    {
        let mut client = stage.client().await;
        // Byte by byte, so that the first look is never enough.
        for byte in bytes.bytes() {
            // It may be refused before the last one.
            client.try_send(&[byte]).await;
            tokio::task::yield_now().await;
        }
        if status == 0 {
            client.send("OST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n").await;
            assert_eq!(client.answer().await.status, 200);
        } else {
            assert_eq!(client.answer().await.status, status, "{bytes:?}");
        }
    }
}
