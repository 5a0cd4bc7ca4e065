//! Which endpoint a request gets, through a real gateway: hashes, cookies, endpoints that fail, and who is dropped.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that can't go on fails"
)]

mod stage;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ews_core::balancer::{
    Algorithm, Balancer as _, Blackhole, BlackholeTarget, DomainName, HashOn, MemberState, Object,
    ObjectKind, ObjectQuery, Op, Outlier, Pool, Sticky,
};
use ews_core::{Clock as _, SystemClock, Timestamp};
use stage::upstream::{Deed, ok};
use stage::{Stage, Upstream, config, pool, put_member, until};

fn put(change: impl FnOnce(&mut Pool)) -> Op {
    let mut pool = Pool::new(pool("p"));
    change(&mut pool);
    Op::Put(Object::Pool(pool))
}

const NAMES: [&str; 4] = ["one", "two", "three", "four"];

/// Four endpoints that answer with their names.
async fn four(change: impl FnOnce(&mut Pool)) -> (Stage, Vec<Upstream>) {
    let stage = Stage::new(config()).await;
    let mut upstreams = Vec::new();
    let mut ops = vec![put(change)];
    for name in NAMES {
        let upstream = Upstream::named(name).await;
        ops.push(put_member("p", name, upstream.address));
        upstreams.push(upstream);
    }
    stage.apply(ops).await;
    (stage, upstreams)
}

#[tokio::test]
async fn equal_requests_go_to_one_endpoint_and_others_elsewhere() {
    for algorithm in [Algorithm::Rendezvous, Algorithm::Maglev] {
        let (stage, _upstreams) = four(|pool| {
            pool.algorithm = algorithm;
            pool.hash_on = HashOn::Header("x-user".to_owned());
        })
        .await;
        let mut client = stage.client().await;
        let mut asked = BTreeSet::new();
        for user in 0..40 {
            let mut answers = BTreeSet::new();
            for _ in 0..3 {
                client.send(&format!("GET / HTTP/1.1\r\nHost: a\r\nX-User: user-{user}\r\n\r\n")).await;
                answers.insert(client.answer().await.text());
            }
            assert_eq!(answers.len(), 1, "{algorithm:?}, user {user}: {answers:?}");
            asked.extend(answers);
        }
        assert_eq!(asked.len(), 4, "{algorithm:?}: {asked:?}");
        // Without the header it is the client's address, which is one.
        let mut answers = BTreeSet::new();
        for _ in 0..5 {
            answers.insert(stage.get("a", "/").await.text());
        }
        assert_eq!(answers.len(), 1);
    }
}

#[tokio::test]
async fn a_cookie_brings_a_client_back_until_its_endpoint_drains() {
    let (stage, _upstreams) = four(|pool| {
        pool.sticky = Some(Sticky::new("where").with_max_age(Duration::from_secs(60)));
    })
    .await;
    let mut client = stage.client().await;
    let first = client.get("/").await;
    let cookie = first.header("set-cookie").unwrap().to_owned();
    assert!(cookie.ends_with("; Path=/; HttpOnly; SameSite=Lax; Max-Age=60"), "{cookie}");
    let pair = cookie.split(';').next().unwrap();
    for _ in 0..20 {
        client.send(&format!("GET / HTTP/1.1\r\nHost: a\r\nCookie: a=b; {pair}\r\n\r\n")).await;
        let answer = client.answer().await;
        assert_eq!((answer.text(), answer.header("set-cookie")), (first.text(), None));
    }
    stage.state(&first.text(), MemberState::Draining).await;
    client.send(&format!("GET / HTTP/1.1\r\nHost: a\r\nCookie: {pair}\r\n\r\n")).await;
    let moved = client.answer().await;
    assert_ne!(moved.text(), first.text());
    assert!(moved.header("set-cookie").is_some_and(|cookie| !cookie.starts_with(pair)));
    // What is no cookie of ours is no error.
    client.send("GET / HTTP/1.1\r\nHost: a\r\nCookie: where=nonsense\r\n\r\n").await;
    assert_eq!(client.answer().await.status, 200);
}

#[tokio::test]
async fn an_endpoint_that_answers_with_errors_is_passed_over_and_comes_back() {
    let is_broken = Arc::new(AtomicBool::new(true));
    let broken = Upstream::new({
        let is_broken = is_broken.clone();
        move |_| {
            let is_broken = is_broken.load(Ordering::Relaxed);
            async move {
                if is_broken {
                    return Deed::Send(b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n".to_vec());
                }
                ok("mended")
            }
        }
    })
    .await;
    let well = Upstream::named("well").await;
    let stage = Stage::new(config()).await;
    let outlier = |eject| {
        let outlier = Outlier::default().with_errors(3).with_eject(eject).with_max_percent(50);
        put(|pool| pool.outlier = Some(outlier))
    };
    let members = || [put_member("p", "broken", broken.address), put_member("p", "well", well.address)];
    stage.apply(members()).await;
    stage.apply([outlier(Duration::from_secs(600))]).await;
    let mut client = stage.client().await;
    let mut errors = 0;
    for _ in 0..200 {
        errors += u32::from(client.get("/").await.status == 500);
    }
    assert_eq!(errors, 3);
    assert_eq!(stage.seen("broken").await.unwrap().healthy, Some(false));
    // Another gateway, since this one has said for how long.
    let stage = Stage::new(config()).await;
    stage.apply(members()).await;
    stage.apply([outlier(Duration::from_secs(1))]).await;
    until("it is passed over", async || {
        let _ = stage.get("a", "/").await;
        stage.seen("broken").await.unwrap().healthy == Some(false)
    })
    .await;
    is_broken.store(false, Ordering::Relaxed);
    until("it is asked again", async || stage.get("a", "/").await.text() == "mended").await;
    assert_eq!(stage.seen("broken").await.unwrap().healthy, Some(true));
}

fn blackhole(target: BlackholeTarget, until: Timestamp) -> Op {
    Op::Put(Object::Blackhole(Blackhole::new(target, until)))
}

#[tokio::test]
async fn who_is_dropped_gets_nothing_and_only_for_so_long() {
    let upstream = Upstream::new(|received| async move {
        if received.path() == "/never" {
            std::future::pending::<()>().await;
        }
        ok("here")
    })
    .await;
    let stage = Stage::with(config(), &[upstream.address]).await;
    let domain = |name: &str| BlackholeTarget::Domain(DomainName::new(name).unwrap());
    let later = SystemClock.now() + Duration::from_secs(3600);
    stage.apply([blackhole(domain("attacked.example"), later)]).await;
    let mut client = stage.client().await;
    client.send("GET / HTTP/1.1\r\nHost: attacked.example\r\n\r\n").await;
    assert!(client.is_closed().await);
    assert_eq!(stage.get("neighbour.example", "/").await.status, 200);
    // A source: what is open is closed, what comes is dropped; others are not touched.
    let mut open = stage.client().await;
    assert_eq!(open.get("/").await.status, 200);
    let elsewhere = BlackholeTarget::Source { network: "10.0.0.0".parse().unwrap(), bits: 8 };
    stage.apply([blackhole(elsewhere, later)]).await;
    assert_eq!(open.get("/").await.status, 200);
    let mut busy = stage.client().await;
    busy.send("GET /never HTTP/1.1\r\nHost: a\r\n\r\n").await;
    until("it is under way", async || stage.seen("i0").await.unwrap().in_flight == Some(1)).await;
    let here = || BlackholeTarget::Source { network: "127.0.0.0".parse().unwrap(), bits: 8 };
    stage.apply([blackhole(here(), later)]).await;
    assert!(open.is_closed().await && busy.is_closed().await);
    // What it had under way is not counted for ever, or no drain would ever be proven.
    until("nothing is under way", async || stage.seen("i0").await.unwrap().in_flight == Some(0)).await;
    let mut refused = stage.client().await;
    refused.try_send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(refused.answer_to("GET").await.is_none());
    // It ends by itself, and is forgotten.
    let soon = SystemClock.now() + Duration::from_secs(1);
    stage.apply([blackhole(here(), soon)]).await;
    until("the source is let in again", async || {
        let mut client = stage.client().await;
        client.try_send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        client.answer_to("GET").await.is_some_and(|answer| answer.status == 200)
    })
    .await;
    let left = stage.gateway.objects(&ObjectQuery::kinds([ObjectKind::Blackhole])).await.unwrap();
    assert_eq!(left.len(), 2);
}
