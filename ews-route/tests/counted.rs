//! What real traffic is counted as, exactly.

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

use ews_core::balancer::{Object, Op, Pool};
use ews_core::metrics::{
    Aggregate, Aggregation, Function, MetricQuery, Metrics as _, MetricsExt as _, Reading, Window,
};
use ews_core::{Labels, Selector};
use ews_route::SampleConfig;
use ews_route::metrics as names;
use stage::upstream::{Deed, ok};
use stage::{Stage, Upstream, config, pool, until};
use tokio::sync::Semaphore;

fn selector(text: &str) -> Selector {
    text.parse().unwrap()
}

/// The newest value of the one series that matches; 0 where there is none.
async fn value(stage: &Stage, metric: &str, matching: &str) -> f64 {
    let query = MetricQuery::new(metric, selector(matching)).aggregate(Aggregate::all(Aggregation::Sum));
    stage.gateway.number(&query).await.unwrap().map_or(0.0, |measured| measured.value)
}

async fn until_value(stage: &Stage, metric: &str, matching: &str, wanted: f64) {
    let mut last = f64::NAN;
    let found = tokio::time::timeout(stage::PATIENCE, async {
        loop {
            last = value(stage, metric, matching).await;
            if last == wanted {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    assert!(found.await.is_ok(), "{metric}{{{matching}}} is {last}, not {wanted}");
}

async fn labelled(stage: &Stage, revision: &str) {
    let mut changed = Pool::new(pool("p"));
    changed.labels = Labels::new([("service", "shop"), ("revision", revision), ("pool", "a lie")]).unwrap();
    stage.apply([Op::Put(Object::Pool(changed))]).await;
}

#[tokio::test]
async fn every_request_is_counted_once_under_what_it_was() {
    let upstream = Upstream::new(|received| async move {
        match received.path() {
            "/broken" => {
                Deed::SendAndClose(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n".to_vec())
            }
            "/missing" => Deed::Send(b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno".to_vec()),
            "/half" => Deed::SendAndClose(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf".to_vec()),
            "/lost" => Deed::SendAndReset(Vec::new()),
            _ => ok("ok"),
        }
    })
    .await;
    let stage = Stage::with(config(), &[upstream.address]).await;
    labelled(&stage, "r1").await;
    // A pool that nobody has asked for has had no requests, and says so.
    until_value(&stage, names::REQUESTS, "revision=r1,status_class=5xx", 0.0).await;
    let mut client = stage.client().await;
    for path in ["/", "/", "/", "/missing", "/broken", "/broken"] {
        client.get(path).await;
    }
    stage.get("a", "/half").await;
    let mut post = stage.client().await;
    post.send("POST /lost HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!(post.answer().await.status, 502);
    for bad in
        ["GET / HTTP/1.1\r\n\r\n", "GET / HTTP/1.1\n\n", "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n"]
    {
        let mut client = stage.client().await;
        client.send(bad).await;
        assert_eq!(client.answer().await.status, 400);
    }
    let ours = "gateway=gateway,pool=p,service=shop,revision=r1";
    for (metric, more, wanted) in [
        (names::REQUESTS, "status_class=2xx", 4.0),
        (names::REQUESTS, "status_class=4xx", 1.0),
        (names::REQUESTS, "status_class=5xx", 3.0),
        (names::FAILURES, "reason=upstream", 2.0),
        (names::ENDPOINT_REQUESTS, "instance=i0,incarnation=1", 8.0),
        (names::ENDPOINT_FAILURES, "instance=i0,incarnation=1", 4.0),
        (names::ENDPOINT_ACTIVE, "instance=i0", 0.0),
        (names::ACTIVE, "service", 0.0),
    ] {
        until_value(&stage, metric, &format!("{ours},{more}"), wanted).await;
    }
    until_value(&stage, names::REFUSED, "reason=host", 2.0).await;
    until_value(&stage, names::REFUSED, "reason=bare_line_end", 1.0).await;

    // The growth within a window is exact too, from the first request on, and so is how many were timed.
    let window = Window(Duration::from_secs(60));
    let query = MetricQuery::new(names::REQUESTS, selector(ours))
        .function(Function::Increase(window))
        .aggregate(Aggregate::all(Aggregation::Sum));
    assert_eq!(stage.gateway.number(&query).await.unwrap().unwrap().value, 8.0);
    let query = MetricQuery::new(names::DURATION, selector(ours))
        .function(Function::Increase(window))
        .aggregate(Aggregate::all(Aggregation::Sum));
    until("durations are sampled", async || {
        let answer = stage.gateway.instant(&query, None).await.unwrap();
        matches!(&answer.series[..], [one] if matches!(&one.value, Reading::Histogram { histogram, .. }
            if histogram.count() == 8))
    })
    .await;

    // With another revision it is another series; the old one's end is its last value.
    labelled(&stage, "r2").await;
    client.get("/").await;
    until_value(&stage, names::REQUESTS, "revision=r2,status_class=2xx", 1.0).await;
    assert_eq!(value(&stage, names::REQUESTS, "revision=r1,status_class=2xx").await, 4.0);
    // An endpoint goes on counting, and what it did before is no growth of the new series.
    until_value(&stage, names::ENDPOINT_REQUESTS, "revision=r2", 9.0).await;
    let query = MetricQuery::new(names::ENDPOINT_REQUESTS, selector("revision=r2"))
        .function(Function::Increase(window))
        .aggregate(Aggregate::all(Aggregation::Sum));
    until("its growth is known", async || {
        stage.gateway.number(&query).await.unwrap().is_ok_and(|growth| growth.value <= 1.0)
    })
    .await;
}

/// As a rollback does it, while something from before the release still goes on.
#[tokio::test]
async fn a_pool_that_has_its_labels_again_goes_on_counting_in_one_series() {
    let gate = Arc::new(Semaphore::new(0));
    let upstream = Upstream::new({
        let gate = gate.clone();
        move |received| {
            let gate = gate.clone();
            async move {
                if received.path() == "/slow" {
                    gate.acquire().await.unwrap().forget();
                }
                ok("ok")
            }
        }
    })
    .await;
    let mut metrics = SampleConfig::default().with_interval(Duration::from_millis(20));
    metrics.samples = 20_000;
    let stage = Stage::with(config().with_metrics(metrics), &[upstream.address]).await;
    labelled(&stage, "r1").await;
    let mut slow = stage.client().await;
    slow.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n").await;
    until("it is under way", async || stage.seen("i0").await.unwrap().in_flight == Some(1)).await;
    let mut clients = Vec::new();
    for _ in 0..8 {
        let mut client = stage.client().await;
        client.get("/").await;
        clients.push(client);
    }
    until_value(&stage, names::REQUESTS, "revision=r1,status_class=2xx", 8.0).await;
    labelled(&stage, "r2").await;
    clients[0].get("/").await;
    until_value(&stage, names::REQUESTS, "revision=r2,status_class=2xx", 1.0).await;
    labelled(&stage, "r1").await;
    for client in &mut clients {
        client.get("/").await;
    }
    until_value(&stage, names::REQUESTS, "revision=r1,status_class=2xx", 16.0).await;
    gate.add_permits(1);
    slow.answer().await;
    until_value(&stage, names::REQUESTS, "revision=r1,status_class=2xx", 17.0).await;
    let query = MetricQuery::new(names::REQUESTS, selector("revision=r1"))
        .function(Function::Increase(Window(Duration::from_secs(300))))
        .aggregate(Aggregate::all(Aggregation::Sum));
    assert_eq!(
        stage.gateway.number(&query).await.unwrap().unwrap().value,
        17.0,
        "it never seemed to begin anew"
    );
}

#[tokio::test]
async fn what_is_under_way_and_what_leads_nowhere_is_counted() {
    let upstream = Upstream::new(|_| std::future::pending::<Deed>()).await;
    let stage = Stage::with(config(), &[upstream.address]).await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut client = stage.client().await;
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        clients.push(client);
    }
    until_value(&stage, names::ACTIVE, "pool=p", 3.0).await;
    until_value(&stage, names::ENDPOINT_ACTIVE, "instance=i0", 3.0).await;
    drop(clients);
    until_value(&stage, names::ACTIVE, "pool=p", 0.0).await;
    until_value(&stage, names::FAILURES, "reason=client", 3.0).await;
    stage.remove("i0").await;
    assert_eq!(stage.get("a", "/").await.status, 503);
    until_value(&stage, names::FAILURES, "reason=no_endpoint", 1.0).await;
    stage
        .apply([Op::Delete(ews_core::balancer::ObjectRef::Domain(
            ews_core::balancer::DomainName::new("*").unwrap(),
        ))])
        .await;
    assert_eq!(stage.get("a", "/").await.status, 404);
    until_value(&stage, names::FAILURES, "reason=no_route", 1.0).await;
    until_value(&stage, names::REQUESTS, "!pool,status_class=4xx", 1.0).await;
}
