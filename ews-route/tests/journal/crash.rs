//! Crashes between any two writes of a change, and of the start after them.

use super::*;
use ews_core::balancer::{Blackhole, BlackholeTarget, DomainName, Object, ObjectKind, ObjectRef, Op};
use ews_core::store::EmbeddedConfig;
use ews_core::{Clock as _, SystemClock};
use stage::put_domain;

/// A store that takes few writes at once, so that most changes are more than one transaction.
fn small() -> Arc<MemoryStore> {
    let limits = StoreLimits::default().with_operations(7).with_page(5);
    Arc::new(MemoryStore::with_config(EmbeddedConfig::default().with_limits(limits)))
}

async fn copy(store: &MemoryStore) -> Arc<MemoryStore> {
    let copy = small();
    let mut after = None;
    loop {
        let mut request = ListRequest::new(Prefix::all());
        request.after = after;
        let page = store.list(&request).await.unwrap();
        for record in &page.records {
            copy.commit(&Transaction::new().put(&record.key, record.value.clone())).await.unwrap();
        }
        after = page.records.last().map(|last| last.key.clone());
        if !page.more {
            return copy;
        }
    }
}

/// Every key that is there, but for those of what is remembered.
async fn keys(store: &MemoryStore) -> Vec<String> {
    let (mut keys, mut after) = (Vec::new(), None);
    loop {
        let mut request = ListRequest::new(Prefix::all());
        request.after = after;
        let page = store.list(&request).await.unwrap();
        keys.extend(page.records.iter().map(|record| record.key.as_str().to_owned()));
        after = page.records.last().map(|last| last.key.clone());
        if !page.more {
            return keys;
        }
    }
}

fn routes(name: &str, halves: usize) -> Op {
    let body = "x".repeat(60_000);
    let rule = |number: usize| {
        let action = RouteAction::Respond { status: 200, body: body.clone() };
        RouteRule::new(PathMatch::Exact(format!("/{number}")), action)
    };
    put_rules(name, (0..halves * 9).map(rule).collect())
}

#[tokio::test]
async fn a_crash_between_any_two_writes_leaves_all_of_a_change_or_nothing() {
    let store = small();
    let gateway = start(&store).await;
    let domains = (0..9).map(|number| put_domain(&format!("d{number}.example"), "large"));
    let endpoints =
        (0..9).map(|number| put_member("p", &format!("i{number}"), "127.0.0.1:1".parse().unwrap()));
    let first =
        [put_pool("p"), put_pool("q"), routes("large", 2)].into_iter().chain(domains).chain(endpoints);
    gateway.apply(&change("first", first)).await.unwrap();
    let (_, before) = everything(&gateway).await;
    drop(gateway);
    // Something of each kind: what is in parts comes, goes and stays; many objects go at once; a domain moves.
    let gone = (0..5)
        .map(|number| Op::Delete(ObjectRef::Domain(DomainName::new(&format!("d{number}.example")).unwrap())));
    let ops: Vec<Op> = [routes("large", 1), routes("other", 1), put_domain("d7.example", "other")]
        .into_iter()
        .chain(gone)
        .chain([Op::Delete(ObjectRef::Pool(stage::pool("p")))])
        .collect();
    let whole = copy(&store).await;
    let gateway = start(&whole).await;
    gateway.apply(&change("second", ops.clone())).await.unwrap();
    let (_, after) = everything(&gateway).await;
    drop(gateway);
    let wanted = keys(&whole).await;

    let (mut crashes, mut undone, mut starts) = (0, 0, 0);
    for left in 0.. {
        let inner = copy(&store).await;
        let shaky = Shaky::new(inner.clone());
        let gateway = Gateway::builder(config()).with_store(shaky.clone()).start().await.unwrap();
        shaky.left.store(left, Ordering::Relaxed);
        let applied = gateway.apply(&change("second", ops.clone())).await;
        let is_over = shaky.left.load(Ordering::Relaxed) > 0;
        drop(gateway);
        // The start after it crashes too, wherever it writes.
        for left in 0.. {
            let again = Shaky::new(inner.clone());
            again.left.store(left, Ordering::Relaxed);
            let started = Gateway::builder(config()).with_store(again.clone()).start().await;
            starts += usize::from(started.is_err());
            if again.left.load(Ordering::Relaxed) >= 0 {
                started.unwrap();
                break;
            }
        }
        let gateway = start(&inner).await;
        let (generation, found) = everything(&gateway).await;
        if applied.is_ok() || found == after {
            assert_eq!((generation, &found), (Some(2), &after), "{left}");
            assert_eq!(keys(&inner).await, wanted, "{left}");
        } else {
            assert_eq!((generation, &found), (Some(1), &before), "{left}");
            undone += 1;
        }
        // The cure is the same again, and gives the same.
        assert_eq!(gateway.apply(&change("second", ops.clone())).await.unwrap().generation, 2);
        assert_eq!(everything(&gateway).await.1, after);
        if is_over {
            break;
        }
        crashes += 1;
    }
    assert!(
        undone > 2 && crashes > undone + 4 && starts > 4,
        "{crashes} crashes, {undone} undone, {starts} starts"
    );
}

#[tokio::test]
async fn a_large_change_that_could_not_be_written_in_full_holds_and_is_finished_before_the_next() {
    let store = small();
    let shaky = Shaky::new(store.clone());
    let gateway = Gateway::builder(config()).with_store(shaky.clone()).start().await.unwrap();
    let pools = |from: usize| (from..from + 20).map(|number| put_pool(&format!("p{number}")));
    // It is durable after the first commit; the next two do not happen.
    shaky.left.store(2, Ordering::Relaxed);
    assert_eq!(gateway.apply(&change("1", pools(0))).await.unwrap().generation, 1);
    assert_eq!(everything(&gateway).await.1.len(), 20);
    let error = gateway.apply(&change("2", [put_pool("more")])).await.unwrap_err();
    assert_eq!((error.kind(), error.maybe_applied()), (ErrorKind::Unavailable, false));
    shaky.left.store(i64::MAX, Ordering::Relaxed);
    assert_eq!(gateway.apply(&change("2", [put_pool("more")])).await.unwrap().generation, 2);
    let (_, before) = everything(&gateway).await;
    drop(gateway);
    assert_eq!(everything(&start(&store).await).await, (Some(2), before));
}

#[tokio::test]
async fn a_large_change_whose_fate_is_not_known_is_looked_up() {
    for left in 0..4 {
        let store = small();
        let shaky = Shaky::new(store.clone());
        let gateway = Gateway::builder(config()).with_store(shaky.clone()).start().await.unwrap();
        let pools = || (0..20).map(|number| put_pool(&format!("p{number}")));
        shaky.left.store(left, Ordering::Relaxed);
        let _ = gateway.apply(&change("1", pools())).await;
        shaky.left.store(i64::MAX, Ordering::Relaxed);
        assert_eq!(gateway.apply(&change("1", pools())).await.unwrap().generation, 1, "{left}");
        assert_eq!(gateway.apply(&change("2", [put_pool("more")])).await.unwrap().generation, 2, "{left}");
        let (_, before) = everything(&gateway).await;
        drop(gateway);
        assert_eq!(everything(&start(&store).await).await, (Some(2), before), "{left}");
    }
}

#[tokio::test]
async fn the_record_of_a_blackhole_that_has_ended_goes_with_a_later_change_or_start() {
    let store = Arc::new(MemoryStore::new());
    let gateway = start(&store).await;
    let hole = |host: &str, after: Duration| {
        let target = BlackholeTarget::Domain(DomainName::new(host).unwrap());
        let until = SystemClock.now() + after;
        Op::Put(Object::Blackhole(Blackhole::new(target, until)))
    };
    let soon = Duration::from_millis(1);
    let holes = async || {
        let query = ObjectQuery::kinds([ObjectKind::Blackhole]);
        gateway.objects(&query).await.unwrap().len()
    };
    let records = async || {
        let prefix = Prefix::new("gateway/gateway/object/blackhole/").unwrap();
        store.list(&ListRequest::new(prefix)).await.unwrap().records.len()
    };
    gateway
        .apply(&change("1", [hole("a", soon), hole("b", soon), hole("c", stage::PATIENCE * 10)]))
        .await
        .unwrap();
    let ends = tokio::time::Instant::now() + stage::PATIENCE;
    while holes().await > 1 {
        assert!(tokio::time::Instant::now() < ends, "no blackhole has ended");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert_eq!(records().await, 3);
    // One of them is put anew: it stays.
    gateway.apply(&change("2", [hole("b", stage::PATIENCE * 10)])).await.unwrap();
    assert_eq!((holes().await, records().await), (2, 2));
    gateway.apply(&change("3", [hole("d", soon)])).await.unwrap();
    gateway.shutdown(Duration::from_secs(5)).await;
    drop(gateway);
    let ends = tokio::time::Instant::now() + stage::PATIENCE;
    while records().await > 2 {
        assert!(tokio::time::Instant::now() < ends, "a start keeps the record of a blackhole that has ended");
        drop(start(&store).await);
    }
}
