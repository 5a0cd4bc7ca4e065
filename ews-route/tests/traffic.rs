//! Requests through a real gateway over real sockets: routes, headers, bodies, connections.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that can't go on fails"
)]

mod stage;

use ews_core::balancer::{PathMatch, RouteAction, RouteRule, WeightedPool};
use stage::upstream::{Deed, ok};
use stage::{Stage, Upstream, config, pool, put_domain, put_member, put_pool, put_routes, put_rules, until};

#[tokio::test]
async fn hosts_and_paths_lead_to_their_pools() {
    let stage = Stage::new(config()).await;
    let mut upstreams = Vec::new();
    let mut ops = Vec::new();
    for name in ["exact", "wild", "deep", "api", "v1"] {
        let upstream = Upstream::named(name).await;
        ops.extend([put_pool(name), put_member(name, name, upstream.address)]);
        upstreams.push(upstream);
    }
    let answered = RouteAction::Respond { status: 418, body: "tea".to_owned() };
    let moved = RouteAction::Redirect { to: "https://new.example/x".to_owned(), status: 308 };
    let to = |name: &str| RouteAction::Forward(vec![WeightedPool::new(pool(name), 1)]);
    let rule = |path: &str, action| RouteRule::new(PathMatch::Prefix(path.to_owned()), action);
    ops.extend([
        put_rules(
            "shop",
            vec![
                rule("/api", to("api")),
                rule("/api/v1", to("v1")),
                RouteRule::new(PathMatch::Exact("/tea".to_owned()), answered),
                rule("/old", moved),
                rule("/exact", to("exact")),
            ],
        ),
        put_routes("wild", &[("/", "wild")]),
        put_routes("deep", &[("/", "deep")]),
        put_domain("shop.example", "shop"),
        put_domain("*.shop.example", "wild"),
        put_domain("*.deep.shop.example", "deep"),
    ]);
    stage.apply(ops).await;
    for (host, path, wanted) in [
        ("shop.example", "/api", "api"),
        ("SHOP.example:8080", "/api/x?y=/api/v1", "api"),
        ("shop.example.", "/api/v1/x", "v1"),
        ("shop.example", "/exact", "exact"),
        ("a.shop.example", "/", "wild"),
        ("a.b.shop.example", "/api", "wild"),
        ("a.deep.shop.example", "/", "deep"),
    ] {
        let answer = stage.get(host, path).await;
        assert_eq!((answer.status, answer.text().as_str()), (200, wanted), "{host}{path}");
    }
    let tea = stage.get("shop.example", "/tea").await;
    assert_eq!((tea.status, tea.text().as_str()), (418, "tea"));
    let moved = stage.get("shop.example", "/old/x").await;
    assert_eq!((moved.status, moved.header("location")), (308, Some("https://new.example/x")));
    let missing = stage.get("shop.example", "/").await;
    assert_eq!((missing.status, missing.text().as_str()), (404, "404 Not Found\n"));
    // `*` leads to a pool without endpoints.
    assert_eq!(stage.get("other.example", "/").await.status, 503);
    assert_eq!(stage.get("deep.shop.example", "/").await.text(), "wild");
}

#[tokio::test]
async fn a_connection_serves_many_requests_and_so_does_the_one_behind_it() {
    let upstream = Upstream::named("up").await;
    let stage = Stage::with(config(), &[upstream.address]).await;
    let mut client = stage.client().await;
    for _ in 0..50 {
        let answer = client.get("/").await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "up"));
    }
    assert_eq!(upstream.connections(), (1, 1));
    let seen = stage.seen("i0").await.unwrap();
    assert_eq!((seen.requests, seen.errors, seen.in_flight), (Some(50), Some(0), Some(0)));
}

#[tokio::test]
async fn what_belongs_to_a_connection_stays_and_what_is_known_of_the_client_is_added() {
    let upstream = Upstream::new(|_| async {
        let text = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\n\
                    Keep-Alive: timeout=5\r\nX-End: 2\r\n\r\nok";
        Deed::Send(text.as_bytes().to_vec())
    })
    .await;
    let stage = Stage::with(config(), &[upstream.address]).await;
    let mut client = stage.client().await;
    client
        .send(
            "GET /x?y HTTP/1.1\r\nHost: A.example:80\r\nConnection: keep-alive, X-Mine, Host\r\nX-Mine: 1\r\n\
             X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: https\r\nForwarded: for=6.6.6.6\r\nX-Request-Id: abc\r\n\
             TE: gzip\r\nAccept: a\r\nAccept: b\r\n\r\n",
        )
        .await;
    let answer = client.answer().await;
    assert_eq!(
        (answer.header("x-end"), answer.header("x-hop"), answer.header("keep-alive")),
        (Some("2"), None, None)
    );
    assert!(answer.header("date").is_some());
    let received = &upstream.received()[0];
    assert!(received.head.starts_with("GET /x?y HTTP/1.1\r\n"), "{}", received.head);
    for (name, wanted) in [
        ("host", vec!["A.example:80"]),
        ("connection", vec![]),
        ("x-mine", vec![]),
        ("te", vec![]),
        ("forwarded", vec![]),
        ("x-forwarded-for", vec!["127.0.0.1"]),
        ("x-forwarded-proto", vec!["http"]),
        ("x-forwarded-host", vec!["A.example:80"]),
        ("x-request-id", vec!["abc"]),
        ("accept", vec!["a", "b"]),
    ] {
        assert_eq!(received.header(name), wanted, "{name}");
    }
    client.get("/").await;
    assert_eq!(upstream.received()[1].header("x-request-id")[0].len(), 32);
}

#[tokio::test]
async fn bodies_pass_both_ways_however_they_are_framed() {
    let upstream = Upstream::new(|received| async move {
        let body = String::from_utf8_lossy(&received.body).into_owned();
        if received.path() == "/chunked" {
            let text = format!(
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n3\r\nabc\r\n{:x}\r\n{body}\r\n0\r\n\
                 X-Sum: 7\r\n\r\n",
                body.len()
            );
            return Deed::Send(text.into_bytes());
        }
        ok(&body)
    })
    .await;
    let stage = Stage::with(config(), &[upstream.address]).await;
    let mut client = stage.client().await;
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello").await;
    assert_eq!(client.answer().await.text(), "hello");
    client
        .send(
            "POST /chunked HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nTrailer: X-Up\r\nTransfer-Encoding: chunked\r\n\r\n\
             5\r\nhello\r\n6;ext=1\r\n world\r\n0\r\nX-Up: 1\r\n\r\n",
        )
        .await;
    let answer = client.answer().await;
    assert_eq!((answer.text().as_str(), answer.trailers.trim()), ("abchello world", "x-sum: 7"));
    let received = upstream.received();
    assert_eq!(
        (received[1].body.as_slice(), received[1].trailers.trim()),
        (b"hello world".as_slice(), "x-up: 1")
    );
    assert_eq!(received[0].header("content-length"), ["5"]);
    assert_eq!(received[1].header("te"), ["trailers"]);
    // A megabyte, so that neither side can hold it in a buffer.
    let large = "x".repeat(1 << 20);
    client
        .send(&format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{large}", large.len()))
        .await;
    assert_eq!(client.answer().await.body.len(), large.len());
    let numbers: Vec<_> = upstream.received().iter().map(|received| received.number).collect();
    assert_eq!(numbers, [1, 2, 3]);
}

#[tokio::test]
async fn answers_without_a_body_keep_the_connection() {
    let upstream = Upstream::new(|received| async move {
        Deed::Send(
            match received.path() {
                "/204" => "HTTP/1.1 204 No Content\r\n\r\n",
                "/304" => "HTTP/1.1 304 Not Modified\r\nContent-Length: 100\r\n\r\n",
                "/empty" => "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
                _ => "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n",
            }
            .as_bytes()
            .to_vec(),
        )
    })
    .await;
    let stage = Stage::with(config(), &[upstream.address]).await;
    let mut client = stage.client().await;
    for (method, path, status, length) in [
        ("GET", "/204", 204, None),
        // hyper leaves the length out, which RFC 9110, section 15.4.5 allows.
        ("GET", "/304", 304, None),
        ("HEAD", "/", 200, Some("1000")),
        ("GET", "/empty", 200, Some("0")),
    ] {
        client.send(&format!("{method} {path} HTTP/1.1\r\nHost: a\r\n\r\n")).await;
        let answer = client.answer_to(method).await.unwrap();
        assert_eq!((answer.status, answer.header("content-length")), (status, length), "{path}");
    }
    assert_eq!(upstream.connections(), (1, 1));
}

#[tokio::test]
async fn an_old_client_gets_an_old_answer() {
    let upstream = Upstream::new(|_| async {
        Deed::Send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n".to_vec())
    })
    .await;
    let stage = Stage::with(config(), &[upstream.address]).await;
    let mut client = stage.client().await;
    client.send("GET / HTTP/1.0\r\n\r\n").await;
    let answer = client.answer().await;
    assert_eq!((answer.text().as_str(), answer.header("transfer-encoding")), ("ok", None));
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn an_old_upstream_that_ends_its_body_by_closing_is_understood() {
    let upstream =
        Upstream::new(|_| async { Deed::SendAndClose(b"HTTP/1.0 200 OK\r\n\r\nto the end".to_vec()) }).await;
    let stage = Stage::with(config(), &[upstream.address]).await;
    let mut client = stage.client().await;
    for _ in 0..3 {
        assert_eq!(client.get("/").await.text(), "to the end");
    }
    until("all ended", async || stage.seen("i0").await.unwrap().in_flight == Some(0)).await;
}

#[tokio::test]
async fn a_client_that_waits_to_be_asked_for_its_body_is_asked() {
    let upstream =
        Upstream::new(|received| async move { ok(&String::from_utf8_lossy(&received.body)) }).await;
    let stage = Stage::with(config(), &[upstream.address]).await;
    let mut client = stage.client().await;
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n").await;
    let asked = tokio::time::timeout(stage::PATIENCE, client.exactly(25)).await.unwrap().unwrap();
    assert_eq!(asked, b"HTTP/1.1 100 Continue\r\n\r\n");
    client.send("hello").await;
    assert_eq!(client.answer().await.text(), "hello");
    assert!(upstream.received()[0].header("expect").is_empty());
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let upstream = Upstream::new(|received| async move { ok(received.path()) }).await;
    let stage = Stage::with(config(), &[upstream.address]).await;
    let mut client = stage.client().await;
    let all: String = (0..30).map(|n| format!("GET /{n} HTTP/1.1\r\nHost: a\r\n\r\n")).collect();
    client.send(&all).await;
    for number in 0..30 {
        assert_eq!(client.answer().await.text(), format!("/{number}"));
    }
    // What is refused is answered in its place, and nothing after it.
    client
        .send("GET /a HTTP/1.1\r\nHost: a\r\n\r\nGET /b HTTP/1.1\r\n\r\nGET /c HTTP/1.1\r\nHost: a\r\n\r\n")
        .await;
    assert_eq!(client.answer().await.text(), "/a");
    let refused = client.answer().await;
    assert_eq!((refused.status, refused.header("connection")), (400, Some("close")));
    assert!(client.is_closed().await);
    assert!(upstream.received().iter().all(|received| received.path() != "/c"));
}

#[tokio::test]
async fn foreign_protocols_are_refused_clearly() {
    let upstream = Upstream::named("up").await;
    let stage = Stage::with(config(), &[upstream.address]).await;
    let mut client = stage.client().await;
    client
        .send("GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: A\r\n\r\n")
        .await;
    assert_eq!(client.answer().await.text(), "up");
    assert!(upstream.received()[0].header("upgrade").is_empty());
    for (bytes, status) in
        [("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505), ("CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", 501)]
    {
        // With the feature it is no foreign protocol.
        if cfg!(feature = "http2") && status == 505 {
            continue;
        }
        let mut client = stage.client().await;
        client.send(bytes).await;
        assert_eq!(client.answer().await.status, status, "{bytes:?}");
        assert!(client.is_closed().await);
    }
}

#[tokio::test]
async fn shares_of_pools_are_kept_exactly() {
    let (one, two) = (Upstream::named("one").await, Upstream::named("two").await);
    let stage = Stage::new(config()).await;
    let shares = [("one", 9), ("two", 1)].map(|(name, weight)| WeightedPool::new(pool(name), weight));
    let rule = RouteRule::new(PathMatch::Prefix("/".to_owned()), RouteAction::Forward(shares.to_vec()));
    let ops = [
        put_pool("one"),
        put_pool("two"),
        put_member("one", "one", one.address),
        put_member("two", "two", two.address),
        put_rules("r", vec![rule]),
    ];
    stage.apply(ops).await;
    let mut client = stage.client().await;
    let mut twos = 0;
    for _ in 0..200 {
        twos += usize::from(client.get("/").await.text() == "two");
    }
    assert_eq!(twos, 20);
}

#[tokio::test]
async fn after_a_body_where_none_is_expected_both_connections_end() {
    let upstream = Upstream::named("up").await;
    let stage = Stage::with(config(), &[upstream.address]).await;
    for method in ["GET", "HEAD"] {
        let mut client = stage.client().await;
        client.send(&format!("{method} / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi")).await;
        let answer = client.answer_to(method).await.unwrap();
        assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
        assert!(client.is_closed().await);
        until("the upstream's has ended", async || upstream.connections().1 == 0).await;
        let mut client = stage.client().await;
        client
            .send(&format!(
                "{method} / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"
            ))
            .await;
        assert_eq!(client.answer_to(method).await.unwrap().status, 200);
        assert!(client.is_closed().await);
        until("the upstream's has ended", async || upstream.connections().1 == 0).await;
    }
    assert_eq!(upstream.received().len(), 4);
    assert!(upstream.received().iter().all(|received| received.body == b"hi"));
}
