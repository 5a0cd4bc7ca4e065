//! Compare-and-set, transactions and their limits.

use futures_util::FutureExt as _;
use futures_util::future::join_all;

use super::*;
use crate::store::Transaction;

pub(super) async fn run<H: StoreHarness>(suite: &mut Suite<'_, H>) {
    cases! { suite:
        "a put record has its value and marks" => put_marks,
        "a second put keeps created and raises version" => second_put,
        "a record put after a delete is a new one" => recreated,
        "each transaction raises the revision by one" => revisions,
        "a delete of nothing is a transaction" => delete_nothing,
        "Absent holds for no record only" => absent_only,
        "Present holds for a record only" => present_only,
        "Revision holds for the record it put only" => revision_only,
        "Any holds always" => any_holds,
        "all conditions must hold" => all_conditions,
        "conditions see the state before the writes" => before_writes,
        "a refused transaction leaves no trace" => no_trace,
        "all writes of a transaction have one revision" => one_revision,
        "a key written twice is invalid" => written_twice,
        "a transaction without writes is invalid" => no_writes,
        "the most operations are accepted and one more is not" => most_operations,
        "the largest value is accepted and a larger is not" => largest_value,
        "values are bytes, empty ones too" => any_bytes,
        "the longest key and keys of any script are kept" => any_key,
        "of concurrent creations one wins" => one_creation,
        "concurrent increments lose nothing" => increments,
        "a dropped commit happens whole or not at all" => dropped_commit,
        "an acknowledged write is seen by the next read" => read_your_writes,
        "a reopened store has its records, marks and revision" => reopened,
        "a reopened store goes on with its revisions" => goes_on,
    }
}

async fn put_marks<H: StoreHarness>(harness: &H) -> CaseResult {
    let store = harness.fresh().await?;
    absent(&store, "a/b").await;
    let revision = put(&store, "a/b", "one").await;
    let record = get(&store, "a/b").await;
    assert_eq!((&record.key, &record.value[..]), (&key("a/b"), &b"one"[..]));
    assert_eq!((record.created, record.modified, record.version), (revision, revision, 1));
    assert_eq!(record.lease, None);
    Ok(())
}

async fn second_put<H: StoreHarness>(harness: &H) -> CaseResult {
    let store = harness.fresh().await?;
    let first = put(&store, "a", "one").await;
    let second = put(&store, "a", "one").await;
    let record = get(&store, "a").await;
    assert_eq!((record.created, record.modified, record.version), (first, second, 2));
    Ok(())
}

async fn recreated<H: StoreHarness>(harness: &H) -> CaseResult {
    let store = harness.fresh().await?;
    put(&store, "a", "one").await;
    store.delete(&key("a"), Expect::Present).await?;
    absent(&store, "a").await;
    let revision = put(&store, "a", "two").await;
    let record = get(&store, "a").await;
    assert_eq!((record.created, record.version), (revision, 1));
    Ok(())
}

async fn revisions<H: StoreHarness>(harness: &H) -> CaseResult {
    let store = harness.fresh().await?;
    let first = tick(&store).await;
    for more in 1..=5 {
        assert_eq!(put(&store, "a", "x").await, StoreRevision(first.0 + more));
    }
    Ok(())
}

async fn delete_nothing<H: StoreHarness>(harness: &H) -> CaseResult {
    let store = harness.fresh().await?;
    let first = tick(&store).await;
    assert_eq!(store.delete(&key("none"), Expect::Any).await?, StoreRevision(first.0 + 1));
    assert_eq!(store.delete(&key("none"), Expect::Absent).await?, StoreRevision(first.0 + 2));
    Ok(())
}

async fn absent_only<H: StoreHarness>(harness: &H) -> CaseResult {
    let store = harness.fresh().await?;
    store.put(&key("a"), "one".into(), Expect::Absent).await?;
    refused(store.put(&key("a"), "two".into(), Expect::Absent).await, ErrorKind::AlreadyExists);
    assert_eq!(get(&store, "a").await.value, "one");
    Ok(())
}

async fn present_only<H: StoreHarness>(harness: &H) -> CaseResult {
    let store = harness.fresh().await?;
    refused(store.put(&key("a"), "one".into(), Expect::Present).await, ErrorKind::Stale);
    absent(&store, "a").await;
    put(&store, "a", "one").await;
    store.put(&key("a"), "two".into(), Expect::Present).await?;
    assert_eq!(get(&store, "a").await.value, "two");
    Ok(())
}

async fn revision_only<H: StoreHarness>(harness: &H) -> CaseResult {
    let store = harness.fresh().await?;
    let first = put(&store, "a", "one").await;
    let second = store.put(&key("a"), "two".into(), Expect::Revision(first)).await?;
    let other = put(&store, "b", "x").await;
    for wrong in [first, other, StoreRevision(other.0 + 1), StoreRevision::ZERO] {
        refused(store.put(&key("a"), "three".into(), Expect::Revision(wrong)).await, ErrorKind::Stale);
    }
    store.delete(&key("a"), Expect::Revision(second)).await?;
    refused(store.put(&key("a"), "four".into(), Expect::Revision(second)).await, ErrorKind::Stale);
    Ok(())
}

async fn any_holds<H: StoreHarness>(harness: &H) -> CaseResult {
    let store = harness.fresh().await?;
    for value in ["one", "two"] {
        store.put(&key("a"), value.into(), Expect::Any).await?;
    }
    Ok(())
}

async fn all_conditions<H: StoreHarness>(harness: &H) -> CaseResult {
    let store = harness.fresh().await?;
    let revision = put(&store, "a", "one").await;
    let holding = || {
        Transaction::new()
            .expect(&key("a"), Expect::Revision(revision))
            .expect(&key("b"), Expect::Absent)
            .expect(&key("c"), Expect::Any)
            .put(&key("d"), "x")
    };
    refused(store.commit(&holding().expect(&key("e"), Expect::Present)).await, ErrorKind::Stale);
    refused(store.commit(&holding().expect(&key("a"), Expect::Absent)).await, ErrorKind::AlreadyExists);
    absent(&store, "d").await;
    store.commit(&holding()).await?;
    assert_eq!(get(&store, "d").await.value, "x");
    Ok(())
}

async fn before_writes<H: StoreHarness>(harness: &H) -> CaseResult {
    let store = harness.fresh().await?;
    put(&store, "b", "one").await;
    let swap = Transaction::new()
        .put(&key("a"), "new")
        .delete(&key("b"))
        .expect(&key("a"), Expect::Absent)
        .expect(&key("b"), Expect::Present);
    store.commit(&swap).await?;
    absent(&store, "b").await;
    assert_eq!(get(&store, "a").await.value, "new");
    Ok(())
}

async fn no_trace<H: StoreHarness>(harness: &H) -> CaseResult {
    let store = harness.fresh().await?;
    let revision = put(&store, "a", "one").await;
    let before = get(&store, "a").await;
    let refusal =
        Transaction::new().put(&key("a"), "two").put(&key("b"), "x").expect(&key("c"), Expect::Present);
    refused(store.commit(&refusal).await, ErrorKind::Stale);
    assert_eq!(get(&store, "a").await, before);
    absent(&store, "b").await;
    assert_eq!(tick(&store).await, StoreRevision(revision.0 + 1));
    Ok(())
}

async fn one_revision<H: StoreHarness>(harness: &H) -> CaseResult {
    let store = harness.fresh().await?;
    put(&store, "gone", "x").await;
    let revision = store
        .commit(&Transaction::new().put(&key("a"), "1").put(&key("b"), "2").delete(&key("gone")))
        .await?;
    assert_eq!((get(&store, "a").await.modified, get(&store, "b").await.modified), (revision, revision));
    absent(&store, "gone").await;
    Ok(())
}

async fn written_twice<H: StoreHarness>(harness: &H) -> CaseResult {
    let store = harness.fresh().await?;
    refused(
        store.commit(&Transaction::new().put(&key("a"), "1").delete(&key("a"))).await,
        ErrorKind::Invalid,
    );
    absent(&store, "a").await;
    Ok(())
}

async fn no_writes<H: StoreHarness>(harness: &H) -> CaseResult {
    let store = harness.fresh().await?;
    refused(store.commit(&Transaction::new()).await, ErrorKind::Invalid);
    refused(store.commit(&Transaction::new().expect(&key("a"), Expect::Absent)).await, ErrorKind::Invalid);
    Ok(())
}

async fn most_operations<H: StoreHarness>(harness: &H) -> CaseResult {
    let store = harness.fresh().await?;
    let most = store.limits().operations;
    let mut transaction = Transaction::new().expect(&key("n/0"), Expect::Absent);
    for n in 1..most {
        transaction = transaction.put(&key(&format!("n/{n}")), "x");
    }
    store.commit(&transaction).await?;
    let beyond = transaction.expect(&key("n/1"), Expect::Any);
    refused(store.commit(&beyond).await, ErrorKind::OutOfResources);
    Ok(())
}

async fn largest_value<H: StoreHarness>(harness: &H) -> CaseResult {
    let store = harness.fresh().await?;
    let largest = store.limits().value_bytes;
    store.put(&key("a"), vec![7; largest].into(), Expect::Any).await?;
    refused(store.put(&key("a"), vec![8; largest + 1].into(), Expect::Any).await, ErrorKind::OutOfResources);
    let value = get(&store, "a").await.value;
    assert!(value.len() == largest && value.iter().all(|byte| *byte == 7));
    Ok(())
}

async fn any_bytes<H: StoreHarness>(harness: &H) -> CaseResult {
    let store = harness.fresh().await?;
    let bytes: Vec<u8> = (0..=255).collect();
    store.put(&key("all"), bytes.clone().into(), Expect::Any).await?;
    put(&store, "empty", "").await;
    assert_eq!(get(&store, "all").await.value, bytes);
    assert_eq!(get(&store, "empty").await.value, "");
    Ok(())
}

async fn any_key<H: StoreHarness>(harness: &H) -> CaseResult {
    let store = harness.fresh().await?;
    let longest = "k".repeat(Key::MAX_LEN);
    for text in [longest.as_str(), "服务/网页", "with space/and \"quotes\"", "%2F/+?#", "~"] {
        put(&store, text, text).await;
        assert_eq!(get(&store, text).await.value, text);
    }
    Ok(())
}

async fn one_creation<H: StoreHarness>(harness: &H) -> CaseResult {
    let store = harness.fresh().await?;
    let results = join_all((0..32).map(|n| {
        let store = &store;
        async move { store.put(&key("a"), n.to_string().into(), Expect::Absent).await }
    }))
    .await;
    let winners: Vec<usize> = (0..32).filter(|n| results[*n].is_ok()).collect();
    assert_eq!(winners.len(), 1, "{results:?}");
    assert_eq!(get(&store, "a").await.value, winners[0].to_string());
    for result in results.into_iter().filter(|result| result.is_err()) {
        refused(result, ErrorKind::AlreadyExists);
    }
    Ok(())
}

async fn increments<H: StoreHarness>(harness: &H) -> CaseResult {
    let store = harness.fresh().await?;
    put(&store, "count", "0").await;
    let increment = async |store: &H::Store| {
        loop {
            let record = get(store, "count").await;
            let count: u64 = std::str::from_utf8(&record.value).unwrap().parse().unwrap();
            let value = (count + 1).to_string();
            match store.put(&key("count"), value.into(), Expect::Revision(record.modified)).await {
                Ok(_) => return,
                Err(error) => assert_eq!(error.kind(), ErrorKind::Stale, "{error}"),
            }
        }
    };
    join_all((0..16).map(|_| increment(&store))).await;
    assert_eq!(get(&store, "count").await.value, "16");
    Ok(())
}

async fn dropped_commit<H: StoreHarness>(harness: &H) -> CaseResult {
    let store = harness.fresh().await?;
    for n in 0..20 {
        let (a, b) = (key(&format!("a/{n}")), key(&format!("b/{n}")));
        let transaction = Transaction::new().put(&a, "x").put(&b, "y");
        // Polled once, so that it has begun, and dropped.
        drop(store.commit(&transaction).now_or_never());
    }
    tick(&store).await;
    for n in 0..20 {
        let a = store.get(&key(&format!("a/{n}"))).await?;
        let b = store.get(&key(&format!("b/{n}"))).await?;
        assert_eq!(a.map(|record| record.modified), b.map(|record| record.modified), "transaction {n}");
    }
    Ok(())
}

async fn read_your_writes<H: StoreHarness>(harness: &H) -> CaseResult {
    let store = harness.fresh().await?;
    for n in 0..50 {
        let revision = put(&store, "a/b", &n.to_string()).await;
        assert_eq!(get(&store, "a/b").await.modified, revision);
        let page = store.list(&crate::store::ListRequest::new(prefix("a/"))).await?;
        assert!(page.revision >= revision && page.records[0].modified == revision);
    }
    Ok(())
}

async fn reopened<H: StoreHarness>(harness: &H) -> CaseResult {
    let store = harness.fresh().await?;
    put(&store, "a", "one").await;
    put(&store, "gone", "x").await;
    store.delete(&key("gone"), Expect::Present).await?;
    let last = put(&store, "a", "two").await;
    let before = get(&store, "a").await;
    let store = skip_without(harness.reopen(store).await, "reopen")?;
    assert_eq!(get(&store, "a").await, before);
    absent(&store, "gone").await;
    let page = store.list(&crate::store::ListRequest::new(Prefix::all())).await?;
    assert_eq!((page.revision, page.records.len()), (last, 1));
    Ok(())
}

async fn goes_on<H: StoreHarness>(harness: &H) -> CaseResult {
    let mut store = harness.fresh().await?;
    let mut last = put(&store, "a", "0").await;
    for n in 1..4 {
        store = skip_without(harness.reopen(store).await, "reopen")?;
        let revision = put(&store, "a", &n.to_string()).await;
        assert_eq!(revision, StoreRevision(last.0 + 1));
        last = revision;
    }
    Ok(())
}
