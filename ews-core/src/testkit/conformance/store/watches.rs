//! Watches: order, completeness, and what happens to those who fall behind.

use futures_util::FutureExt as _;

use super::*;
use crate::store::{ListRequest, Transaction};

pub(super) async fn run<H: StoreHarness>(suite: &mut Suite<'_, H>) {
    cases! { suite:
        "a watch sees every transaction in order" => in_order,
        "a watch begins after the revision it names" => begins_after,
        "a watch waits for what comes" => waits,
        "a batch holds a transaction's changes in the order written" => batch_order,
        "a watch shows its prefix only" => prefix_only,
        "a put shows the whole record" => whole_record,
        "a transaction without effect is not shown" => no_effect,
        "a refused transaction is not shown" => refused_tx,
        "a watch from a list misses nothing" => from_list,
        "a watch of the future is refused" => future,
        "many watches see the same" => many,
        "a dropped watch disturbs nobody" => dropped,
        "a watch shows concurrent commits in the order of their revisions" => concurrent,
        "a watcher that falls behind gets Compacted as its last item" => falls_behind,
        "a watch after compacted history is refused at once" => compacted,
        "a watcher that keeps up is not disturbed by compaction" => keeps_up,
        "a watch across a reopen misses nothing or is told so" => across_reopen,
    }
}

async fn in_order<H: StoreHarness>(harness: &H) -> CaseResult {
    let store = harness.fresh().await?;
    let start = tick(&store).await;
    for n in 0..100 {
        put(&store, &format!("a/{}", n % 7), &n.to_string()).await;
    }
    let mut watch = store.watch(&Prefix::all(), start).await?;
    for n in 0..100 {
        let batch = next(&mut watch).await;
        assert_eq!(batch.revision, StoreRevision(start.0 + 1 + n));
        assert_eq!(shown(&batch), [format!("put a/{}={n}", n % 7)]);
    }
    Ok(())
}

async fn begins_after<H: StoreHarness>(harness: &H) -> CaseResult {
    let store = harness.fresh().await?;
    let mut revisions = Vec::new();
    for n in 0..5 {
        revisions.push(put(&store, "a", &n.to_string()).await);
    }
    let mut watch = store.watch(&Prefix::all(), revisions[2]).await?;
    assert_eq!(next(&mut watch).await.revision, revisions[3]);
    assert_eq!(next(&mut watch).await.revision, revisions[4]);
    Ok(())
}

async fn waits<H: StoreHarness>(harness: &H) -> CaseResult {
    let store = harness.fresh().await?;
    let start = tick(&store).await;
    let mut watch = store.watch(&prefix("a/"), start).await?;
    assert!(watch.next().now_or_never().is_none(), "nothing happened yet");
    let (batch, revision) = futures_util::future::join(next(&mut watch), put(&store, "a/1", "x")).await;
    assert_eq!((batch.revision, shown(&batch)), (revision, vec!["put a/1=x".to_owned()]));
    Ok(())
}

async fn batch_order<H: StoreHarness>(harness: &H) -> CaseResult {
    let store = harness.fresh().await?;
    let start = put(&store, "b", "old").await;
    let transaction = Transaction::new().put(&key("z"), "1").delete(&key("b")).put(&key("a"), "2");
    let revision = store.commit(&transaction).await?;
    let mut watch = store.watch(&Prefix::all(), start).await?;
    let batch = next(&mut watch).await;
    assert_eq!(batch.revision, revision);
    assert_eq!(shown(&batch), ["put z=1", "deleted b", "put a=2"]);
    Ok(())
}

async fn prefix_only<H: StoreHarness>(harness: &H) -> CaseResult {
    let store = harness.fresh().await?;
    let start = tick(&store).await;
    let mut waiting = store.watch(&prefix("a/b/"), start).await?;
    assert!(waiting.next().now_or_never().is_none());
    for text in ["a", "a/b", "a/b2/x", "a/c", "b/a/b/x"] {
        put(&store, text, "not this").await;
    }
    let both = Transaction::new().put(&key("a/x"), "not this").put(&key("a/b/1"), "this");
    let first = store.commit(&both).await?;
    let second = put(&store, "a/b/c/d", "this too").await;
    for watch in [&mut waiting, &mut store.watch(&prefix("a/b/"), start).await?] {
        let batch = next(watch).await;
        assert_eq!((batch.revision, shown(&batch)), (first, vec!["put a/b/1=this".to_owned()]));
        let batch = next(watch).await;
        assert_eq!((batch.revision, shown(&batch)), (second, vec!["put a/b/c/d=this too".to_owned()]));
    }
    Ok(())
}

async fn whole_record<H: StoreHarness>(harness: &H) -> CaseResult {
    let store = harness.fresh().await?;
    let start = put(&store, "a", "one").await;
    put(&store, "a", "two").await;
    let batch = next(&mut store.watch(&Prefix::all(), start).await?).await;
    assert_eq!(&*batch.changes, &[Change::Put(get(&store, "a").await)]);
    Ok(())
}

async fn no_effect<H: StoreHarness>(harness: &H) -> CaseResult {
    let store = harness.fresh().await?;
    let start = tick(&store).await;
    store.delete(&key("none"), Expect::Any).await?;
    let half = store.commit(&Transaction::new().delete(&key("none")).put(&key("a"), "x")).await?;
    let batch = next(&mut store.watch(&Prefix::all(), start).await?).await;
    assert_eq!((batch.revision, shown(&batch)), (half, vec!["put a=x".to_owned()]));
    Ok(())
}

async fn refused_tx<H: StoreHarness>(harness: &H) -> CaseResult {
    let store = harness.fresh().await?;
    let start = tick(&store).await;
    refused(store.put(&key("a"), "x".into(), Expect::Present).await, ErrorKind::Stale);
    let revision = put(&store, "b", "y").await;
    let batch = next(&mut store.watch(&Prefix::all(), start).await?).await;
    assert_eq!((batch.revision, shown(&batch)), (revision, vec!["put b=y".to_owned()]));
    Ok(())
}

async fn from_list<H: StoreHarness>(harness: &H) -> CaseResult {
    let store = harness.fresh().await?;
    put(&store, "a/1", "x").await;
    let writes = async {
        for n in 0..60 {
            put(&store, &format!("a/{}", n % 5), &n.to_string()).await;
        }
        put(&store, "a/end", "x").await
    };
    let follow = async {
        let page = store.list(&ListRequest::new(prefix("a/"))).await.unwrap();
        let mut state: std::collections::BTreeMap<Key, Record> =
            page.records.into_iter().map(|record| (record.key.clone(), record)).collect();
        let mut watch = store.watch(&prefix("a/"), page.revision).await.unwrap();
        while !state.contains_key(&key("a/end")) {
            for change in next(&mut watch).await.changes.iter() {
                match change {
                    Change::Put(record) => state.insert(record.key.clone(), record.clone()),
                    Change::Deleted(key) => state.remove(key),
                };
            }
        }
        state.into_values().collect::<Vec<_>>()
    };
    let (_, followed) = futures_util::future::join(writes, follow).await;
    assert_eq!(followed, store.list(&ListRequest::new(prefix("a/"))).await?.records);
    Ok(())
}

async fn future<H: StoreHarness>(harness: &H) -> CaseResult {
    let store = harness.fresh().await?;
    let now = tick(&store).await;
    let watch = store.watch(&Prefix::all(), StoreRevision(now.0 + 1)).await;
    refused(watch.map(|_| "a watch"), ErrorKind::Compacted);
    Ok(())
}

async fn many<H: StoreHarness>(harness: &H) -> CaseResult {
    let store = harness.fresh().await?;
    let start = tick(&store).await;
    let mut watches = Vec::new();
    for n in 0..200 {
        let prefix = if n % 2 == 0 { Prefix::all() } else { prefix("a/") };
        let mut watch = store.watch(&prefix, start).await?;
        assert!(watch.next().now_or_never().is_none());
        watches.push(watch);
    }
    let first = put(&store, "a/1", "x").await;
    let second = put(&store, "a/2", "y").await;
    for watch in &mut watches {
        assert_eq!((next(watch).await.revision, next(watch).await.revision), (first, second));
    }
    Ok(())
}

async fn dropped<H: StoreHarness>(harness: &H) -> CaseResult {
    let store = harness.fresh().await?;
    let start = tick(&store).await;
    let mut stays = store.watch(&Prefix::all(), start).await?;
    for _ in 0..3 {
        let mut goes = store.watch(&Prefix::all(), start).await?;
        assert!(goes.next().now_or_never().is_none());
        assert!(stays.next().now_or_never().is_none());
    }
    let revision = put(&store, "a", "x").await;
    assert_eq!(next(&mut stays).await.revision, revision);
    Ok(())
}

async fn concurrent<H: StoreHarness>(harness: &H) -> CaseResult {
    let store = harness.fresh().await?;
    let start = tick(&store).await;
    let mut watch = store.watch(&Prefix::all(), start).await?;
    let commits = (0..50).map(|n| {
        let store = &store;
        async move { (put(store, &format!("a/{n}"), "x").await, format!("put a/{n}=x")) }
    });
    let mut commits = futures_util::future::join_all(commits).await;
    commits.sort_unstable();
    for (revision, change) in commits {
        let batch = next(&mut watch).await;
        assert_eq!((batch.revision, shown(&batch)), (revision, vec![change]));
    }
    Ok(())
}

async fn falls_behind<H: StoreHarness>(harness: &H) -> CaseResult {
    let store = skip_without(harness.with_history(10).await, "with_history")?;
    let start = tick(&store).await;
    let mut watch = store.watch(&Prefix::all(), start).await?;
    let mut last = start;
    for n in 0..200 {
        last = put(&store, "a", &n.to_string()).await;
    }
    // It may be given what it did not miss; then it is told, once, and the stream ends.
    let mut seen = start;
    loop {
        match watch.next().await {
            Some(Ok(batch)) => {
                assert_eq!(batch.revision, StoreRevision(seen.0 + 1), "nothing is left out silently");
                seen = batch.revision;
                assert!(seen < last, "it fell behind and was not told");
            }
            Some(Err(error)) => {
                assert_eq!(error.kind(), ErrorKind::Compacted, "{error}");
                break;
            }
            None => panic!("the watch ended without saying why"),
        }
    }
    assert!(watch.next().await.is_none(), "the stream ends after an error");
    Ok(())
}

async fn compacted<H: StoreHarness>(harness: &H) -> CaseResult {
    let store = skip_without(harness.with_history(10).await, "with_history")?;
    let start = tick(&store).await;
    let mut last = start;
    for n in 0..200 {
        last = put(&store, "a", &n.to_string()).await;
    }
    refused(store.watch(&Prefix::all(), start).await.map(|_| "a watch"), ErrorKind::Compacted);
    // What is kept is still to be had.
    let mut watch = store.watch(&Prefix::all(), StoreRevision(last.0 - 5)).await?;
    for n in (0..5).rev() {
        assert_eq!(next(&mut watch).await.revision, StoreRevision(last.0 - n));
    }
    Ok(())
}

async fn keeps_up<H: StoreHarness>(harness: &H) -> CaseResult {
    let store = skip_without(harness.with_history(10).await, "with_history")?;
    let start = tick(&store).await;
    let mut watch = store.watch(&prefix("a/"), start).await?;
    // Of a prefix where nothing happens for long: it does not count as behind.
    let mut quiet = store.watch(&prefix("quiet/"), start).await?;
    for n in 0..200 {
        assert!(quiet.next().now_or_never().is_none());
        let revision = put(&store, "a/1", &n.to_string()).await;
        assert_eq!(next(&mut watch).await.revision, revision);
    }
    let revision = put(&store, "quiet/1", "x").await;
    assert_eq!(next(&mut quiet).await.revision, revision);
    Ok(())
}

async fn across_reopen<H: StoreHarness>(harness: &H) -> CaseResult {
    let store = harness.fresh().await?;
    let start = tick(&store).await;
    let missed = put(&store, "a", "x").await;
    let store = skip_without(harness.reopen(store).await, "reopen")?;
    match store.watch(&Prefix::all(), start).await {
        Ok(mut watch) => {
            assert_eq!(next(&mut watch).await.revision, missed);
            let live = put(&store, "a", "y").await;
            assert_eq!(next(&mut watch).await.revision, live);
        }
        Err(error) => assert_eq!(error.kind(), ErrorKind::Compacted, "{error}"),
    }
    Ok(())
}
