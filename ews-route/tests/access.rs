//! The access log, through a real gateway: one line for each request, whatever becomes of it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that can't go on fails"
)]

mod stage;

use std::io::Write;
use std::sync::{Arc, Mutex};

use ews_core::balancer::{PathMatch, RouteAction, RouteRule};
use ews_route::{AccessFormat, AccessLog, Gateway};
use serde_json::Value;
use stage::upstream::{Deed, ok};
use stage::{Stage, Upstream, config, forward, nowhere, put_member, put_pool, put_rules, until};

#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Vec<u8>>>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Sink {
    fn lines(&self) -> Vec<Value> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The line of this target, once it is there.
    async fn line(&self, target: &str) -> Value {
        until(&format!("a line for {target}"), async || {
            self.lines().iter().any(|line| line["target"] == target)
        })
        .await;
        let lines = self.lines();
        let mut found = lines.into_iter().filter(|line| line["target"] == target);
        let line = found.next().unwrap();
        assert!(found.next().is_none(), "two lines for {target}");
        line
    }
}

#[tokio::test]
async fn each_request_has_its_line_with_how_it_ended() {
    let upstream = Upstream::new(|received| async move {
        match received.path() {
            "/cut" => Deed::SendAndClose(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf".to_vec()),
            "/never" => std::future::pending().await,
            _ => ok("twelve bytes"),
        }
    })
    .await;
    let sink = Sink::default();
    let log = AccessLog::new(AccessFormat::Json, sink.clone());
    let gateway = Gateway::builder(config()).with_access_log(log).start().await.unwrap();
    let stage = Stage::of(gateway).await;
    let tea = RouteAction::Respond { status: 418, body: "tea".to_owned() };
    stage
        .apply([
            put_pool("dead"),
            put_member("dead", "d", nowhere().await),
            put_member("p", "i0", upstream.address),
            put_rules(
                "r",
                vec![
                    forward("/", "p"),
                    forward("/dead", "dead"),
                    RouteRule::new(PathMatch::Exact("/tea".to_owned()), tea),
                ],
            ),
        ])
        .await;
    let mut client = stage.client().await;
    client
        .send("GET /fine?q HTTP/1.1\r\nHost: Shop.example\r\nUser-Agent: \"a\\b\"\r\nReferer: r\r\nX-Request-Id: mine\r\n\r\n")
        .await;
    assert_eq!(client.answer().await.status, 200);
    let line = sink.line("/fine?q").await;
    for (field, wanted) in [
        ("client", "127.0.0.1"),
        ("scheme", "http"),
        ("method", "GET"),
        ("host", "Shop.example"),
        ("protocol", "HTTP/1.1"),
        ("pool", "p"),
        ("request_id", "mine"),
        ("user_agent", "\"a\\b\""),
        ("referer", "r"),
    ] {
        assert_eq!(line[field], wanted, "{field} of {line}");
    }
    assert_eq!(line["endpoint"], upstream.address.to_string());
    assert_eq!((&line["status"], &line["bytes"]), (&200.into(), &12.into()));
    assert!(line["duration_ms"].as_f64().is_some_and(|millis| millis > 0.0) && line.get("failure").is_none());
    client.get("/tea").await;
    let line = sink.line("/tea").await;
    assert_eq!((&line["status"], &line["bytes"], line.get("pool")), (&418.into(), &3.into(), None));
    client.get("/dead").await;
    let line = sink.line("/dead").await;
    assert_eq!(
        (&line["status"], &line["failure"], &line["pool"]),
        (&502.into(), &"connect".into(), &"dead".into())
    );
    assert!(line["request_id"].as_str().is_some_and(|id| id.len() == 32), "{line}");
    client.send("GET /cut HTTP/1.1\r\nHost: a\r\n\r\n").await;
    client.answer_to("GET").await;
    let line = sink.line("/cut").await;
    assert_eq!(
        (&line["status"], &line["bytes"], &line["failure"]),
        (&200.into(), &4.into(), &"upstream".into())
    );
    // A client that goes away before there is an answer.
    let mut gone = stage.client().await;
    gone.send("GET /never HTTP/1.1\r\nHost: a\r\n\r\n").await;
    until("it has arrived", async || upstream.received().iter().any(|one| one.path() == "/never")).await;
    drop(gone);
    let line = sink.line("/never").await;
    assert_eq!((line.get("status"), &line["failure"]), (None, &"client".into()));
    // What is collected is written when the gateway ends.
    stage.get("a", "/last").await;
    stage.gateway.shutdown(std::time::Duration::from_secs(10)).await;
    sink.line("/last").await;
}
