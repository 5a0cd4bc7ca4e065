//! Journals that were not written by this version, or not by a gateway at all.

use super::*;
use ews_core::balancer::{Applied, ObjectKind, Stored};
use ews_core::spec::source::Digest;

fn key(path: &str) -> Key {
    Key::new(format!("gateway/gateway/{path}")).unwrap()
}

async fn put(store: &MemoryStore, path: &str, value: impl Into<Vec<u8>>) {
    store.commit(&Transaction::new().put(&key(path), value.into())).await.unwrap();
}

/// As the format before wrote something: part 0 says how many parts there are.
async fn put_parts(store: &MemoryStore, path: &str, parts: &[&str]) {
    for (number, part) in parts.iter().enumerate() {
        put(store, &format!("{path}/{:05}", number + 1), *part).await;
    }
    put(store, &format!("{path}/00000"), format!(r#"{{"parts":{}}}"#, parts.len())).await;
}

async fn refused(store: &Arc<MemoryStore>) -> String {
    let error = Gateway::builder(config()).with_store(store.clone()).start().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    format!("{error:?}")
}

/// What the format before kept of three changes, the first two of them in an image.
async fn before() -> Arc<MemoryStore> {
    let store = Arc::new(MemoryStore::new());
    let changes = [
        change("1", [put_pool("a"), put_rules("r", vec![stage::forward("/", "a")])]),
        change("2", [stage::put_domain("*.example", "r"), stage::put_domain("b.example", "r")]),
        change("3", [put_pool("c"), stage::put_domain("b.example", "r")]),
    ];
    let digest = |change: &Change| Digest::of(&serde_json::to_vec(&change.ops).unwrap());
    let applied = |change: &Change, generation: u64| {
        Applied::new(
            generation,
            change.ops.iter().map(|op| (op.reference().to_string(), generation)).collect(),
        )
    };
    let mut objects: Vec<Stored> = Vec::new();
    for (change, version) in changes.iter().zip(1..3) {
        objects.extend(change.ops.iter().map(|op| match op {
            ews_core::balancer::Op::Put(object) => Stored::new(version, object.clone()),
            other => panic!("{other:?}"),
        }));
    }
    objects.sort_by_key(|stored| stored.object.reference());
    let image = serde_json::json!({
        "generation": 2,
        "objects": objects,
        "changes": [
            ("1", digest(&changes[0]), applied(&changes[0], 1)),
            ("2", digest(&changes[1]), applied(&changes[1], 2)),
        ],
    });
    let image = image.to_string();
    let (begin, end) = image.split_at(image.len() / 2);
    put_parts(&store, &format!("image/{:020}", 2), &[begin, end]).await;
    put(&store, "current", r#"{"generation":2}"#).await;
    put_parts(&store, &format!("log/{:020}", 3), &[&serde_json::to_string(&changes[2]).unwrap()]).await;
    // A change that was not written in full, and so never acknowledged.
    put(&store, &format!("log/{:020}/00001", 4), "{").await;
    store
}

async fn is_as_before(gateway: &Gateway) {
    let found = gateway.objects(&ObjectQuery::kinds([])).await.unwrap();
    let named: Vec<(String, u64)> =
        found.iter().map(|stored| (stored.object.reference().to_string(), stored.version)).collect();
    let wanted =
        [("domain/*.example", 2), ("domain/b.example", 3), ("route_set/r", 1), ("pool/a", 1), ("pool/c", 3)];
    assert_eq!(named, wanted.map(|(name, version)| (name.to_owned(), version)));
    // All three are known again, with what they gave.
    let again =
        gateway.apply(&change("1", [put_pool("a"), put_rules("r", vec![stage::forward("/", "a")])])).await;
    let again = again.unwrap();
    assert_eq!(again.generation, 1);
    assert_eq!(again.versions.keys().collect::<Vec<_>>(), ["pool/a", "route_set/r"]);
    let again = gateway.apply(&change("3", [put_pool("c"), stage::put_domain("b.example", "r")])).await;
    assert_eq!(again.unwrap().generation, 3);
}

#[tokio::test]
async fn the_format_before_is_read_once_and_moved_whatever_cuts_that_off() {
    let mut crashes = 0;
    for left in 0.. {
        let inner = before().await;
        let shaky = Shaky::new(inner.clone());
        shaky.left.store(left, Ordering::Relaxed);
        let started = Gateway::builder(config()).with_store(shaky.clone()).start().await;
        let is_over = shaky.left.load(Ordering::Relaxed) >= 0 && started.is_ok();
        crashes += usize::from(started.is_err());
        drop(started);
        is_as_before(&start(&inner).await).await;
        for gone in ["log", "image"] {
            let page =
                inner.list(&ListRequest::new(Prefix::new(format!("gateway/gateway/{gone}/")).unwrap())).await;
            assert_eq!(page.unwrap().records, [], "{gone}");
        }
        // A gateway of that time finds no image where this points to, and starts with nothing less than everything.
        let current = inner.get(&key("current")).await.unwrap().unwrap().value;
        let current: serde_json::Value = serde_json::from_slice(&current).unwrap();
        assert_eq!(current["generation"], 3);
        is_as_before(&start(&inner).await).await;
        if is_over {
            break;
        }
    }
    assert!(crashes > 2, "{crashes}");
}

#[tokio::test]
async fn a_log_without_an_image_is_moved_too() {
    let store = Arc::new(MemoryStore::new());
    let first = serde_json::to_string(&change("1", [put_pool("a")])).unwrap();
    put_parts(&store, &format!("log/{:020}", 1), &[&first]).await;
    let gateway = start(&store).await;
    assert_eq!(everything(&gateway).await.0, Some(1));
    assert_eq!(gateway.apply(&change("1", [put_pool("a")])).await.unwrap().generation, 1);
}

#[tokio::test]
async fn a_torn_journal_of_the_format_before_starts_no_gateway() {
    for (path, value) in [
        (format!("image/{:020}/00001", 2), None),
        (format!("image/{:020}/00000", 2), None),
        (format!("image/{:020}/00002", 2), Some("}")),
        (format!("log/{:020}/00001", 3), None),
        (format!("log/{:020}/00001", 3), Some("{")),
        ("current".to_owned(), Some("{")),
    ] {
        let store = before().await;
        match value {
            Some(value) => put(&store, &path, value).await,
            None => drop(store.commit(&Transaction::new().delete(&key(&path))).await.unwrap()),
        }
        refused(&store).await;
        // And what is there stays as it is, for whoever mends it.
        assert!(store.get(&key(&format!("log/{:020}/00000", 3))).await.unwrap().is_some(), "{path}");
    }
}

#[tokio::test]
async fn what_no_gateway_of_this_version_wrote_starts_none() {
    let pool = r#"{"version":1,"object":{"pool":{"id":"a","protocol":"http1"}}}"#;
    for (path, value, word) in [
        ("object/pool/b", pool, "not where"),
        (
            "object/pool/a",
            r#"{"version":9,"object":{"pool":{"id":"a","protocol":"http1"}}}"#,
            "newer than the table",
        ),
        (
            "object/pool/a",
            r#"{"version":1,"object":{"pool":{"id":"a","protocol":"http1"}},"more":1}"#,
            "more",
        ),
        ("object/pool/a", r#"{"version":1}"#, "no object"),
        ("object/pool/a", "hello", "object/pool/a"),
        ("object/orbit/a", r#"{"version":1,"object":{"orbit":{"id":"a"}}}"#, "orbit"),
        ("object/route_set/r", r#"{"version":1,"parts":2}"#, "lacks a part"),
        (
            "object/domain/a.example",
            r#"{"version":1,"object":{"domain":{"name":"a.example","routes":"r"}}}"#,
            "route_set/r",
        ),
        ("change/0007", r#"{"id":"x","digest":"","generation":7}"#, "change/0007"),
        ("current", r#"{"generation":0,"format":3}"#, "newer gateway"),
    ] {
        let store = Arc::new(MemoryStore::new());
        let gateway = start(&store).await;
        gateway.apply(&change("1", [put_pool("a")])).await.unwrap();
        drop(gateway);
        put(&store, path, value).await;
        let text = refused(&store).await;
        assert!(text.contains(word), "{path} {value}: {text}");
    }
    // A change that is missing among those that are remembered.
    let store = Arc::new(MemoryStore::new());
    let gateway = start(&store).await;
    for number in 1..=3 {
        gateway.apply(&change(&number.to_string(), [put_pool("a")])).await.unwrap();
    }
    drop(gateway);
    store.commit(&Transaction::new().delete(&key("change/0002"))).await.unwrap();
    assert!(refused(&store).await.contains("lacks a change"));
    // Objects without a word on their format.
    let store = Arc::new(MemoryStore::new());
    put(&store, "object/pool/a", pool).await;
    assert!(refused(&store).await.contains("format"));
}

#[tokio::test]
async fn domains_come_back_in_pages_with_their_versions() {
    let store = Arc::new(MemoryStore::new());
    let gateway = start(&store).await;
    gateway
        .apply(&change("r", [put_pool("a"), put_rules("r", vec![stage::forward("/", "a")])]))
        .await
        .unwrap();
    for batch in 0..3 {
        let domains = (0..1_000).map(|number| stage::put_domain(&format!("d{number}-{batch}.example"), "r"));
        gateway.apply(&change(&format!("b{batch}"), domains)).await.unwrap();
    }
    let (_, before) = everything(&gateway).await;
    drop(gateway);
    let gateway = start(&store).await;
    assert_eq!(everything(&gateway).await, (Some(4), before.clone()));
    // A page ends where it is asked to, and the next one goes on.
    let (mut query, mut found) = (ObjectQuery::kinds([ObjectKind::Domain]).limit(700), Vec::new());
    loop {
        let page = gateway.objects(&query).await.unwrap();
        let Some(last) = page.last() else { break };
        query = query.after(last.object.reference());
        found.extend(page);
    }
    assert_eq!(found, before[..3_000]);
}
