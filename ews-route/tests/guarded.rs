//! What stands between a request and an endpoint: active checks, a bound per endpoint, an authorizer; and canaries by user.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that can't go on fails"
)]

mod stage;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use ews_core::balancer::{
    ForwardAuth, HashOn, HealthCheck, Hold, Object, Op, PathMatch, Pool, RouteAction, RouteRule,
    TrafficPolicy, WeightedPool,
};
use ews_core::id::TrafficPolicyId;
use stage::upstream::{Deed, ok};
use stage::{Stage, Upstream, config, forward, pool, put_member, put_pool, put_rules, until};

fn put(change: impl FnOnce(&mut Pool)) -> Op {
    let mut pool = Pool::new(pool("p"));
    change(&mut pool);
    Op::Put(Object::Pool(pool))
}

/// An endpoint that answers `/healthz` as it is told, and all else with its name.
async fn checked(name: &'static str, is_well: &Arc<AtomicBool>) -> (Upstream, Arc<AtomicU32>) {
    let (is_well, asked) = (is_well.clone(), Arc::new(AtomicU32::new(0)));
    let counter = asked.clone();
    let upstream = Upstream::new(move |received| {
        let (is_well, counter) = (is_well.clone(), counter.clone());
        async move {
            if received.path() != "/healthz" {
                return ok(name);
            }
            counter.fetch_add(1, Ordering::SeqCst);
            if is_well.load(Ordering::SeqCst) {
                return ok("fine");
            }
            Deed::Send(b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n".to_vec())
        }
    })
    .await;
    (upstream, asked)
}

async fn served(stage: &Stage) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut client = stage.client().await;
    for _ in 0..30 {
        names.insert(client.get("/").await.text());
    }
    names
}

fn quickly() -> HealthCheck {
    HealthCheck::http("/healthz").with_interval(Duration::from_millis(100)).with_thresholds(1, 2)
}

#[tokio::test]
async fn who_fails_its_checks_gets_nothing_until_it_passes() {
    let well = [true; 3].map(|well| Arc::new(AtomicBool::new(well)));
    let stage = Stage::new(config()).await;
    let mut upstreams = Vec::new();
    stage.apply([put(|pool| pool.check = Some(Box::new(quickly())))]).await;
    for (name, well) in ["one", "two", "three"].into_iter().zip(&well) {
        let (upstream, asked) = checked(name, well).await;
        stage.apply([put_member("p", name, upstream.address)]).await;
        upstreams.push((upstream, asked));
    }
    let all = BTreeSet::from(["one", "two", "three"].map(str::to_owned));
    // Asked for, and not seen by who is served: while none of them has passed, all are.
    for name in &all {
        until("it has passed", async || stage.seen(name).await.unwrap().healthy == Some(true)).await;
    }
    until("all are served", async || served(&stage).await == all).await;
    well[1].store(false, Ordering::SeqCst);
    let without = BTreeSet::from(["one", "three"].map(str::to_owned));
    until("it has failed", async || stage.seen("two").await.unwrap().healthy == Some(false)).await;
    assert_eq!(served(&stage).await, without, "the one that fails gets nothing");
    // One that is new and fails from the beginning never gets anything.
    let (fourth, _) = checked("four", &Arc::new(AtomicBool::new(false))).await;
    stage.apply([put_member("p", "four", fourth.address)]).await;
    for _ in 0..5 {
        assert_eq!(served(&stage).await, without);
    }
    well[1].store(true, Ordering::SeqCst);
    until("it is back", async || served(&stage).await == all).await;
    // Without the check all get traffic, and nobody is asked any more.
    stage.apply([put(|_| {})]).await;
    until("the fourth is served too", async || served(&stage).await.contains("four")).await;
    until("nobody is asked any more", async || {
        let before = upstreams[0].1.load(Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(400)).await;
        upstreams[0].1.load(Ordering::SeqCst) == before
    })
    .await;
}

#[tokio::test]
async fn where_all_are_unwell_all_are_tried() {
    let stage = Stage::new(config()).await;
    stage.apply([put(|pool| pool.check = Some(Box::new(quickly())))]).await;
    let never = Arc::new(AtomicBool::new(false));
    let (one, first) = checked("one", &never).await;
    let (two, second) = checked("two", &never).await;
    stage.apply([put_member("p", "one", one.address), put_member("p", "two", two.address)]).await;
    until("both have failed", async || first.load(Ordering::SeqCst) > 3 && second.load(Ordering::SeqCst) > 3)
        .await;
    assert_eq!(served(&stage).await.len(), 2);
}

#[tokio::test]
async fn an_endpoint_gets_no_more_at_once_than_it_may() {
    let (gate, most) =
        (Arc::new(tokio::sync::Semaphore::new(0)), Arc::new((AtomicU32::new(0), AtomicU32::new(0))));
    let upstream = {
        let (gate, most) = (gate.clone(), most.clone());
        Upstream::new(move |_| {
            let (gate, most) = (gate.clone(), most.clone());
            async move {
                let now = most.0.fetch_add(1, Ordering::SeqCst) + 1;
                most.1.fetch_max(now, Ordering::SeqCst);
                gate.acquire().await.unwrap().forget();
                most.0.fetch_sub(1, Ordering::SeqCst);
                ok("done")
            }
        })
        .await
    };
    // One thread, so that the bound is exact.
    let stage = Stage::with(config().with_threads(1), &[upstream.address]).await;
    stage.apply([put(|pool| pool.max_in_flight = Some(2))]).await;
    let mut waiting = Vec::new();
    for _ in 0..2 {
        let mut client = stage.client().await;
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        waiting.push(client);
    }
    until("both are there", async || most.0.load(Ordering::SeqCst) == 2).await;
    assert_eq!(stage.get("a", "/").await.status, 503, "there is no queue");
    let hold = Hold::new(10, Duration::from_secs(30));
    stage.apply([put(|pool| (pool.max_in_flight, pool.hold) = (Some(2), Some(hold)))]).await;
    for _ in 0..3 {
        let mut client = stage.client().await;
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        waiting.push(client);
    }
    gate.add_permits(5);
    for client in &mut waiting {
        assert_eq!(client.answer().await.status, 200);
    }
    assert_eq!(most.1.load(Ordering::SeqCst), 2);
}

/// Of which pool each of so many users gets answers, where `canary` has this share of 100.
async fn shares(stage: &Stage, canary: u32) -> BTreeMap<u32, String> {
    let shares = [("stable", 100 - canary), ("canary", canary)];
    let shares = shares.map(|(name, weight)| WeightedPool::new(pool(name), weight));
    let rule = RouteRule::new(PathMatch::Prefix("/".to_owned()), RouteAction::Forward(shares.to_vec()));
    stage.apply([put_rules("r", vec![rule.split_by(HashOn::Cookie("user".to_owned()))])]).await;
    let mut client = stage.client().await;
    let mut seen = BTreeMap::new();
    for round in 0..2 {
        for user in 0..300 {
            client.send(&format!("GET / HTTP/1.1\r\nHost: a\r\nCookie: user=u{user}\r\n\r\n")).await;
            let before = seen.insert(user, client.answer().await.text());
            assert!(round == 0 || before.as_ref() == seen.get(&user), "user {user} sees one revision");
        }
    }
    seen
}

#[tokio::test]
async fn a_canary_by_user_keeps_its_users_while_it_grows() {
    let (stable, canary) = (Upstream::named("stable").await, Upstream::named("canary").await);
    let stage = Stage::new(config()).await;
    stage.apply([put_pool("stable"), put_pool("canary")]).await;
    stage.apply([put_member("stable", "s", stable.address), put_member("canary", "c", canary.address)]).await;
    let mut before = BTreeSet::new();
    for share in [0, 10, 50, 100] {
        let seen = shares(&stage, share).await;
        let on_canary: BTreeSet<u32> =
            seen.into_iter().filter(|(_, pool)| pool == "canary").map(|(user, _)| user).collect();
        assert!(before.is_subset(&on_canary), "a growing canary loses nobody");
        let (least, most) = match share {
            0 => (0, 0),
            10 => (10, 60),
            50 => (110, 190),
            _ => (300, 300),
        };
        assert!((least..=most).contains(&on_canary.len()), "{share} %: {} of 300", on_canary.len());
        before = on_canary;
    }
}

/// The stage under an authorizer.
fn under(auth: ForwardAuth) -> Vec<Op> {
    let id = TrafficPolicyId::new("t").unwrap();
    let mut policy = TrafficPolicy::new(id.clone());
    policy.auth = Some(Box::new(auth));
    vec![
        put_pool("auth"),
        Op::Put(Object::TrafficPolicy(policy)),
        put_rules("r", vec![forward("/", "p").policy(id)]),
    ]
}

#[tokio::test]
async fn an_authorizer_decides_and_says_who_it_is() {
    let upstream = Upstream::named("up").await;
    let auth = Upstream::new(|received| async move {
        match received.header("authorization").first().map(String::as_str) {
            Some("good") => Deed::Send(
                b"HTTP/1.1 200 OK\r\nX-User: anna\r\nX-Role: admin\r\nContent-Length: 2\r\n\r\nok".to_vec(),
            ),
            Some("login") => Deed::Send(
                b"HTTP/1.1 302 Found\r\nLocation: /login\r\nSet-Cookie: s=1\r\nContent-Length: 0\r\n\r\n"
                    .to_vec(),
            ),
            Some("odd") => Deed::Send(b"HTTP/1.1 304 Not Modified\r\n\r\n".to_vec()),
            Some("cut") => Deed::SendAndReset(Vec::new()),
            _ => Deed::Send(
                b"HTTP/1.1 401 No\r\nWWW-Authenticate: Basic\r\nContent-Length: 5\r\n\r\nwho?\n".to_vec(),
            ),
        }
    })
    .await;
    let stage = Stage::with(config(), &[upstream.address]).await;
    stage
        .apply(under(
            ForwardAuth::new(pool("auth"), "/check?a=1").with_response_headers(["X-User", "X-Role"]),
        ))
        .await;
    let post = |authorization: &str| {
        format!(
            "POST /shop?item=1 HTTP/1.1\r\nHost: shop.example\r\nAuthorization: {authorization}\r\nX-User: root\r\nX-Role: root\r\n\
             Connection: keep-alive, x-ROLE\r\nConnection: X-User\r\n\
             Content-Length: 4\r\nIf-None-Match: \"x\"\r\n\r\nbody"
        )
    };
    // Nobody is there to ask: nobody passes.
    let mut client = stage.client().await;
    client.send(&post("good")).await;
    assert_eq!(client.answer().await.status, 503);
    stage.apply([put_member("auth", "a", auth.address)]).await;

    let mut client = stage.client().await;
    client.send(&post("good")).await;
    assert_eq!(client.answer().await.status, 200);
    let received = &upstream.received()[0];
    assert_eq!(
        (received.header("x-user"), received.header("x-role")),
        (vec!["anna".into()], vec!["admin".into()])
    );
    assert_eq!((received.method(), received.body.as_slice()), ("POST", &b"body"[..]));
    let asked = &auth.received()[0];
    assert_eq!((asked.method(), asked.path(), asked.body.len()), ("GET", "/check?a=1", 0));
    for (name, wanted) in [
        ("x-forwarded-method", "POST"),
        ("x-forwarded-uri", "/shop?item=1"),
        ("x-forwarded-host", "shop.example"),
        ("x-forwarded-for", "127.0.0.1"),
        ("host", "shop.example"),
    ] {
        assert_eq!(asked.header(name), [wanted], "{name}");
    }
    assert!(asked.header("if-none-match").is_empty() && asked.header("x-user").is_empty());

    for (authorization, status) in [("bad", 401), ("login", 302), ("odd", 503), ("cut", 503)] {
        let mut client = stage.client().await;
        client.send(&post(authorization)).await;
        let answer = client.answer().await;
        assert_eq!(answer.status, status, "{authorization}");
        match status {
            401 => assert_eq!(
                (answer.header("www-authenticate"), answer.text().as_str()),
                (Some("Basic"), "who?\n")
            ),
            302 => assert_eq!(
                (answer.header("location"), answer.header("set-cookie")),
                (Some("/login"), Some("s=1"))
            ),
            _ => {}
        }
    }
    assert_eq!(upstream.received().len(), 1, "who was refused got no further");
}

#[tokio::test]
async fn an_authorizer_that_hangs_is_a_refusal() {
    let upstream = Upstream::named("up").await;
    let auth = Upstream::new(|_| std::future::pending()).await;
    let stage = Stage::with(config(), &[upstream.address]).await;
    let asking = ForwardAuth::new(pool("auth"), "/check").with_timeout(Duration::from_millis(100));
    stage.apply(under(asking)).await;
    stage.apply([put_member("auth", "a", auth.address)]).await;
    assert_eq!(stage.get("a", "/").await.status, 503);
    assert!(upstream.received().is_empty());
}
