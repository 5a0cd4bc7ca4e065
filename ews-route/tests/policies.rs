//! Rules with conditions and filters, and traffic policies, through a real gateway.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that can't go on fails"
)]

mod stage;

use std::sync::Arc;
use std::time::{Duration, Instant};

use ews_core::ErrorKind;
use ews_core::balancer::{
    AttributeMatch, AttributePlace, Balancer as _, Change, HeaderEdits, Hold, Object, ObjectRef, Op, Page,
    PathMatch, PathRewrite, Pool, Queue, RedirectTo, Rewrite, RouteAction, RouteFilter, RouteRule,
    TrafficPolicy,
};
use ews_core::id::{ChangeId, TrafficPolicyId};
use futures_util::future::select_all;
use stage::upstream::{Deed, ok};
use stage::{Answer, Client, Stage, Upstream, config, forward, pool, put_member, put_pool, put_rules, until};
use tokio::sync::Semaphore;

fn policy(change: impl FnOnce(&mut TrafficPolicy)) -> Op {
    let mut policy = TrafficPolicy::new(TrafficPolicyId::new("t").unwrap());
    change(&mut policy);
    Op::Put(Object::TrafficPolicy(policy))
}

fn under(rule: RouteRule) -> RouteRule {
    rule.policy(TrafficPolicyId::new("t").unwrap())
}

/// The pool `p` behind every path, under this policy.
async fn stage(upstream: &Upstream, change: impl FnOnce(&mut TrafficPolicy)) -> Stage {
    let stage = Stage::with(config(), &[upstream.address]).await;
    stage.apply([policy(change), put_rules("r", vec![under(forward("/", "p"))])]).await;
    stage
}

/// The answer that comes first; whoever got it has gone.
async fn first_answer(clients: &mut Vec<Client>) -> Answer {
    let answers = clients.iter_mut().map(|client| Box::pin(client.answer()));
    let (answer, whose, _) = select_all(answers).await;
    clients.remove(whose);
    answer
}

#[tokio::test]
async fn a_header_a_cookie_or_a_method_leads_to_the_canary() {
    let stage = Stage::new(config()).await;
    let (old, new) = (Upstream::named("old").await, Upstream::named("new").await);
    let attribute = |place, name: &str, value: &str| AttributeMatch::new(place, name).with_value(value);
    let rules = vec![
        forward("/", "p"),
        forward("/", "new").attribute(attribute(AttributePlace::Header, "x-canary", "yes")),
        forward("/", "new").attribute(attribute(AttributePlace::Cookie, "canary", "1")),
        forward("/api", "new").methods(["DELETE"]),
    ];
    let ops = [put_pool("new"), put_member("new", "n", new.address), put_member("p", "o", old.address)];
    stage.apply(ops.into_iter().chain([put_rules("r", rules)])).await;
    let mut client = stage.client().await;
    for (request, wanted) in [
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", "old"),
        ("GET / HTTP/1.1\r\nHost: a\r\nX-Canary: yes\r\n\r\n", "new"),
        ("GET / HTTP/1.1\r\nHost: a\r\nX-Canary: no\r\nCookie: a=b; canary=1\r\n\r\n", "new"),
        ("GET /api HTTP/1.1\r\nHost: a\r\n\r\n", "old"),
        ("DELETE /api/x HTTP/1.1\r\nHost: a\r\n\r\n", "new"),
    ] {
        client.send(request).await;
        assert_eq!(client.answer().await.text(), wanted, "{request}");
    }
}

#[tokio::test]
async fn filters_change_what_each_side_sees() {
    let upstream = Upstream::new(|_| async {
        Deed::Send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nServer: secret/1.0\r\nX-Old: 1\r\n\r\n".to_vec())
    })
    .await;
    let stage = Stage::with(config(), &[upstream.address]).await;
    let request = HeaderEdits::new()
        .with_set("X-Tenant", "shop")
        .with_set("x-forwarded-for", "hidden")
        .with_added("accept", "b/c")
        .with_removed("Cookie");
    let response =
        HeaderEdits::new().with_set("strict-transport-security", "max-age=1").with_removed("server");
    let rewrite =
        Rewrite::default().with_host("inner.example:81").with_path(PathRewrite::Prefix("/v2".to_owned()));
    let rule = forward("/api", "p")
        .filter(RouteFilter::RequestHeaders(request))
        .filter(RouteFilter::ResponseHeaders(response))
        .filter(RouteFilter::Rewrite(rewrite));
    stage.apply([put_rules("r", vec![rule])]).await;
    let mut client = stage.client().await;
    client
        .send("GET /api/x?q=1 HTTP/1.1\r\nHost: a.example\r\nX-Tenant: evil\r\nX-Tenant: worse\r\nCookie: a=b\r\nAccept: a\r\n\r\n")
        .await;
    let answer = client.answer().await;
    assert_eq!(answer.header("strict-transport-security"), Some("max-age=1"));
    assert_eq!((answer.header("server"), answer.header("x-old")), (None, Some("1")));
    let seen = upstream.received().pop().unwrap();
    assert_eq!(seen.path(), "/v2/x?q=1");
    assert_eq!(seen.header("host"), ["inner.example:81"]);
    assert_eq!(seen.header("x-forwarded-host"), ["a.example"]);
    assert_eq!(seen.header("x-forwarded-for"), ["hidden"]);
    assert_eq!(seen.header("x-tenant"), ["shop"]);
    assert_eq!(seen.header("accept"), ["a", "b/c"]);
    assert!(seen.header("cookie").is_empty());
}

#[tokio::test]
async fn a_redirect_keeps_what_it_does_not_name() {
    let stage = Stage::new(config()).await;
    let https =
        RouteRule::new(PathMatch::Prefix("/".to_owned()), RouteAction::RedirectTo(RedirectTo::https()));
    stage.apply([put_rules("r", vec![https])]).await;
    let answer = stage.get("shop.example:8080", "/a/b?c=%20d").await;
    assert_eq!((answer.status, answer.header("location")), (308, Some("https://shop.example/a/b?c=%20d")));
}

#[tokio::test]
async fn what_can_not_be_served_is_refused_before_it_is_applied() {
    let stage = Stage::new(config()).await;
    let answer = || RouteAction::Respond { status: 200, body: String::new() };
    let rule = |path| RouteRule::new(path, answer());
    let edits = |name: &str| HeaderEdits::new().with_removed(name);
    let all = || PathMatch::Prefix("/".to_owned());
    let to = |path: &str| PathRewrite::Prefix(path.to_owned());
    let mut wrong = vec![
        rule(all()).filter(RouteFilter::RequestHeaders(edits("content-length"))),
        rule(all()).filter(RouteFilter::ResponseHeaders(edits("Transfer-Encoding"))),
        rule(all()).filter(RouteFilter::ResponseHeaders(edits("a b"))),
        rule(PathMatch::Exact("/x".to_owned()))
            .filter(RouteFilter::Rewrite(Rewrite::default().with_path(to("/y")))),
        rule(all()).filter(RouteFilter::Rewrite(Rewrite::default().with_host("a/b"))),
        RouteRule::new(all(), RouteAction::RedirectTo(RedirectTo::new(308))),
        RouteRule::new(all(), RouteAction::RedirectTo(RedirectTo::new(200).with_scheme("https"))),
    ];
    if cfg!(feature = "regex") {
        wrong.push(rule(PathMatch::Regex("/(".to_owned())));
    }
    for (number, rule) in wrong.into_iter().enumerate() {
        let change = Change::new(
            ChangeId::new(format!("wrong-{number}")).unwrap(),
            [put_rules("r", vec![rule.clone()])],
        );
        let error = stage.gateway.apply(&change).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{rule:?}: {error}");
    }
    // What was there still serves.
    assert_eq!(stage.get("a", "/").await.status, 503);
}

#[tokio::test]
async fn a_clients_rate_and_who_is_not_welcome() {
    let upstream = Upstream::named("here").await;
    let limited = |burst| {
        move |policy: &mut TrafficPolicy| {
            (policy.rate_per_client, policy.burst_per_client) = (Some(1), Some(burst));
            policy.error_pages = vec![Page::html(429, "slow down")];
        }
    };
    let stage = stage(&upstream, limited(3)).await;
    let began = Instant::now();
    let mut client = stage.client().await;
    let mut statuses = Vec::new();
    for _ in 0..5 {
        let answer = client.get("/").await;
        if answer.status == 429 {
            assert_eq!((answer.header("retry-after"), answer.text().as_str()), (Some("1"), "slow down"));
        }
        statuses.push(answer.status);
    }
    let mut served = statuses.iter().filter(|status| **status == 200).count() as u64;
    // Each second makes room for one more.
    assert!((3..=3 + began.elapsed().as_secs()).contains(&served), "{statuses:?}");
    // So many that a fresh start shows, however slow the machine is.
    stage.apply([policy(limited(50))]).await;
    let used_up = loop {
        let now = Instant::now();
        let answer = client.get("/").await;
        if answer.status == 429 {
            assert_eq!((answer.header("retry-after"), answer.text().as_str()), (Some("1"), "slow down"));
            break now;
        }
        assert_eq!(answer.status, 200);
        served += 1;
        assert!(served <= 50 + began.elapsed().as_secs(), "{served}");
    };
    // Another connection of the same client is the same client, and a changed policy does not give it a fresh start.
    stage
        .apply([policy(|policy| (policy.rate_per_client, policy.burst_per_client) = (Some(1), Some(50)))])
        .await;
    let mut more = 0;
    loop {
        match stage.get("a", "/").await.status {
            429 => break,
            status => assert_eq!(status, 200),
        }
        more += 1;
        assert!(more <= 1 + used_up.elapsed().as_secs(), "{more}");
    }
    served += more;
    stage.apply([policy(|policy| policy.deny = vec!["127.0.0.0/8".parse().unwrap()])]).await;
    assert_eq!(client.get("/").await.status, 403);
    stage.apply([policy(|policy| policy.allow = vec!["10.0.0.0/8".parse().unwrap()])]).await;
    assert_eq!(client.get("/").await.status, 403);
    stage.apply([policy(|policy| policy.maintenance = Some(Page::html(503, "<h1>back soon</h1>")))]).await;
    let answer = client.get("/").await;
    assert_eq!((answer.status, answer.text().as_str()), (503, "<h1>back soon</h1>"));
    assert_eq!(upstream.received().len() as u64, served);
}

#[tokio::test]
async fn limits_of_a_policy_hold_in_place_of_the_gateways() {
    let upstream = Upstream::new(|received| async move {
        if received.path() == "/slow" {
            std::future::pending::<()>().await;
        }
        ok("here")
    })
    .await;
    let limits = |request_timeout| {
        move |policy: &mut TrafficPolicy| {
            policy.request_timeout = request_timeout;
            policy.max_body = Some(4);
            policy.error_pages = vec![Page::html(504, "too slow"), Page::html(413, "too large")];
        }
    };
    let stage = stage(&upstream, limits(Some(Duration::from_secs(1)))).await;
    let answer = stage.get("a", "/slow").await;
    assert_eq!((answer.status, answer.text().as_str()), (504, "too slow"));
    // Those that are well have all the time they need.
    stage.apply([policy(limits(None))]).await;
    let mut client = stage.client().await;
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nfour").await;
    assert_eq!(client.answer().await.status, 200);
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n").await;
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.text().as_str()), (413, "too large"));
    let mut client = stage.client().await;
    client
        .send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfifth\r\n0\r\n\r\n")
        .await;
    assert_eq!(client.answer().await.status, 413);
}

#[tokio::test]
async fn beyond_so_many_at_once_the_next_wait_in_a_bounded_queue() {
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
    let stage = stage(&upstream, |policy| {
        policy.max_in_flight = Some(2);
        policy.queue = Some(Queue::new(1, Duration::from_secs(20)));
    })
    .await;
    let mut clients = Vec::new();
    for under_way in [1, 2] {
        let mut client = stage.client().await;
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        clients.push(client);
        until("it has arrived", async || upstream.received().len() == under_way).await;
    }
    // One more waits, and whoever comes after it is turned away; which of them is first is the threads' affair.
    for _ in 0..2 {
        let mut client = stage.client().await;
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        clients.push(client);
    }
    assert_eq!(first_answer(&mut clients).await.status, 503);
    assert_eq!(upstream.received().len(), 2);
    gate.add_permits(3);
    let mut served = 0;
    for client in &mut clients {
        served += usize::from(client.answer().await.status == 200);
    }
    assert_eq!((served, upstream.received().len()), (3, 3));
}

#[tokio::test]
async fn while_the_only_instance_is_replaced_requests_wait() {
    let stage = Stage::new(config()).await;
    let held = |requests, wait| {
        let mut pool = Pool::new(pool("p"));
        pool.hold = Some(Hold::new(requests, wait));
        Op::Put(Object::Pool(pool))
    };
    stage.apply([held(2, Duration::from_secs(20))]).await;
    // Whoever comes while two wait is turned away; the order is the threads'.
    let mut waiting = Vec::new();
    for _ in 0..3 {
        let mut client = stage.client().await;
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        waiting.push(client);
    }
    assert_eq!(first_answer(&mut waiting).await.status, 503);
    let upstream = Upstream::named("new").await;
    // An unrelated change lets nobody go.
    stage.apply([put_pool("other")]).await;
    stage.apply([put_member("p", "new", upstream.address)]).await;
    let mut served = 0;
    for client in &mut waiting {
        let answer = client.answer().await;
        assert!(answer.status == 503 || answer.text() == "new", "{answer:?}");
        served += usize::from(answer.status == 200);
    }
    assert_eq!(served, 2);
    stage
        .apply([
            Op::Delete(ObjectRef::Endpoint(pool("p"), stage::key("new"))),
            held(2, Duration::from_millis(50)),
        ])
        .await;
    assert_eq!(stage.get("a", "/").await.status, 503);
}
