//! The bounds that the embedded stores promise, and what a slow or vanished party costs the others.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test: what panics has failed, and the lints spare only what is inside test functions"
)]

use std::sync::Arc;
use std::time::Duration;

use ews_core::ErrorKind;
use ews_core::store::{
    EmbeddedConfig, Expect, Key, Lease, ListRequest, MemoryStore, Prefix, Store, StoreExt as _,
    StoreRevision, Transaction,
};
use futures_util::{FutureExt as _, StreamExt as _};

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

async fn put(store: &dyn Store, at: &str, value: impl Into<bytes::Bytes>) -> StoreRevision {
    store.put(&key(at), value.into(), Expect::Any).await.unwrap()
}

#[tokio::test]
async fn watches_are_bounded_and_a_dropped_one_makes_room() {
    let store = MemoryStore::with_config(EmbeddedConfig::default().with_watchers(2));
    let watch = async |prefix: &str| store.watch(&Prefix::new(prefix).unwrap(), StoreRevision::ZERO).await;
    let (first, second) = (watch("").await.unwrap(), watch("a/").await.unwrap());
    assert_eq!(watch("").await.map(drop).unwrap_err().kind(), ErrorKind::OutOfResources);
    drop(first);
    let third = watch("").await.unwrap();
    drop((second, third));
    for _ in 0..5 {
        drop(watch("b/").await.unwrap());
    }
}

#[tokio::test(start_paused = true)]
async fn leases_are_bounded_and_an_ended_one_makes_room() {
    let store = MemoryStore::with_config(EmbeddedConfig::default().with_leases(2).with_lease_records(3));
    let ttl = Duration::from_secs(10);
    let (first, second) = (store.grant(ttl).await.unwrap(), store.grant(ttl).await.unwrap());
    assert_eq!(store.grant(ttl).await.unwrap_err().kind(), ErrorKind::OutOfResources);
    store.revoke(first.id).await.unwrap();
    store.grant(ttl).await.unwrap();
    assert_eq!(store.grant(ttl).await.unwrap_err().kind(), ErrorKind::OutOfResources);
    tokio::time::sleep(ttl * 2).await;
    store.grant(ttl).await.unwrap();
    let third = store.grant(ttl).await.unwrap();

    let leased = |from: u32, to: u32, lease: &Lease| {
        (from..to).fold(Transaction::new(), |transaction, n| {
            transaction.put_leased(&key(&format!("k/{n}")), "x", lease)
        })
    };
    assert_eq!(store.commit(&leased(0, 1, &second)).await.unwrap_err().kind(), ErrorKind::NotFound);
    store.commit(&leased(0, 2, &third)).await.unwrap();
    assert_eq!(store.commit(&leased(2, 4, &third)).await.unwrap_err().kind(), ErrorKind::OutOfResources);
    store.commit(&leased(0, 3, &third)).await.expect("two of the three are its already");
    store.delete(&key("k/0"), Expect::Present).await.unwrap();
    store.commit(&leased(3, 4, &third)).await.expect("a deleted record makes room");
    assert_eq!(store.commit(&leased(4, 5, &third)).await.unwrap_err().kind(), ErrorKind::OutOfResources);
}

#[tokio::test(start_paused = true)]
async fn nothing_commits_under_a_lease_that_ran_out_though_no_sweep_came() {
    // The clock jumps without a turn for the task that sweeps: what a stalled process wakes up to.
    let store = MemoryStore::new();
    let lease = store.grant(Duration::from_secs(10)).await.unwrap();
    let fence = store.lock(&key("lock"), &lease, "me").await.unwrap();
    let write = Transaction::new().fence(fence).put(&key("a"), "x");
    assert!(store.commit(&write).now_or_never().unwrap().is_ok());
    let mut stalled = Box::pin(tokio::time::advance(Duration::from_secs(10)));
    // Polled once, the clock has moved; nothing else has run.
    let _ = stalled.as_mut().now_or_never();
    assert_eq!(
        store.get(&key("lock")).now_or_never().unwrap().unwrap().unwrap().lease,
        Some(lease.id),
        "not swept"
    );
    assert_eq!(store.renew(lease.id).now_or_never().unwrap().unwrap_err().kind(), ErrorKind::NotFound);
    let late = store.commit(&Transaction::new().put_leased(&key("b"), "x", &lease)).now_or_never().unwrap();
    assert_eq!(late.unwrap_err().kind(), ErrorKind::NotFound);
    let fenced = store.commit(&write).now_or_never().unwrap();
    assert_eq!(fenced.unwrap_err().kind(), ErrorKind::Stale);
}

#[tokio::test]
async fn the_log_is_bounded_in_bytes() {
    let config = EmbeddedConfig::default().with_log_bytes(100_000).with_tail_bytes(10_000);
    let store = MemoryStore::with_config(config);
    let start = put(&store, "a", "x").await;
    let mut last = start;
    for _ in 0..50 {
        last = put(&store, "a", vec![0; 10_000]).await;
    }
    let far = store.watch(&Prefix::all(), StoreRevision(last.0 - 12)).await.map(drop);
    assert_eq!(far.unwrap_err().kind(), ErrorKind::Compacted);
    let near = store.watch(&Prefix::all(), StoreRevision(last.0 - 5)).await.unwrap();
    let batches: Vec<_> = near.take(5).collect().await;
    assert!(batches.iter().all(Result::is_ok), "five are kept: {batches:?}");
    // One that is larger than the whole log is shown all the same.
    let mut watch = store.watch(&Prefix::all(), last).await.unwrap();
    let large = put(&store, "a", vec![0; 200_000]).await;
    assert_eq!(watch.next().await.unwrap().unwrap().revision, large);
}

#[tokio::test]
async fn a_slow_watcher_keeps_nothing_alive_and_blocks_nobody() {
    let config = EmbeddedConfig::default().with_log_entries(10).with_tail_entries(5).with_history_bytes(0);
    let store = MemoryStore::with_config(config);
    let mut slow = store.watch(&Prefix::all(), StoreRevision::ZERO).await.unwrap();
    assert!(slow.next().now_or_never().is_none());
    put(&store, "a", vec![1; 100_000]).await;
    let page = store.list(&ListRequest::new(Prefix::all())).await.unwrap();
    let value = page.records[0].value.clone();
    drop(page);
    // It is awake now and does not come; meanwhile the record is replaced and its transaction leaves the log.
    for n in 0..100 {
        put(&store, "a", n.to_string()).await;
    }
    assert!(value.is_unique(), "somebody holds what was compacted");
    assert_eq!(slow.next().await.unwrap().unwrap_err().kind(), ErrorKind::Compacted);
    assert!(slow.next().await.is_none());
}

#[tokio::test]
async fn a_page_is_bounded_in_bytes() {
    let store = MemoryStore::new();
    for n in 0..20 {
        put(&store, &format!("k/{n:02}"), vec![0; 1 << 20]).await;
    }
    let page = store.list(&ListRequest::new(Prefix::all())).await.unwrap();
    assert!(page.more && page.records.len() < 12, "{} records of 1 MiB", page.records.len());
    assert_eq!(store.list_all(&Prefix::all(), 100).await.unwrap().records.len(), 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_thousand_watchers_and_writers_on_threads_see_one_order() {
    let store = Arc::new(MemoryStore::with_config(EmbeddedConfig::default().with_tail_entries(16)));
    let (writers, each, watchers) = (8, 50, 200);
    let followed: Vec<_> = (0..watchers)
        .map(|n| {
            let store = store.clone();
            tokio::spawn(async move {
                let prefix = if n % 2 == 0 { Prefix::all() } else { Prefix::new("k/3/").unwrap() };
                let mut watch = store.watch(&prefix, StoreRevision::ZERO).await.unwrap();
                let mut revisions = Vec::new();
                let count = if n % 2 == 0 { writers * each } else { each };
                while revisions.len() < count {
                    revisions.push(watch.next().await.unwrap().unwrap().revision.0);
                    if n % 7 == 0 {
                        tokio::task::yield_now().await;
                    }
                }
                (n, revisions)
            })
        })
        .collect();
    let written: Vec<_> = (0..writers)
        .map(|writer| {
            let store = store.clone();
            tokio::spawn(async move {
                for n in 0..each {
                    put(&*store, &format!("k/{writer}/{n}"), "x").await;
                }
            })
        })
        .collect();
    for writer in written {
        writer.await.unwrap();
    }
    let everything: Vec<u64> = (1..=(writers * each) as u64).collect();
    for watcher in followed {
        let (n, revisions) = tokio::time::timeout(Duration::from_secs(60), watcher).await.unwrap().unwrap();
        assert!(revisions.is_sorted_by(|one, other| one < other), "watcher {n}");
        assert!(n % 2 == 1 || revisions == everything, "watcher {n}");
    }
}

#[cfg(feature = "redb")]
mod on_disk {
    use ews_core::store::{RedbConfig, RedbStore};

    use super::*;

    #[test]
    fn a_store_outlives_the_runtime_that_used_it() {
        let folder = tempfile::tempdir().unwrap();
        let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let first = runtime();
        let path = folder.path().join("s");
        let store = first.block_on(RedbStore::open(&path, RedbConfig::default())).unwrap();
        // It must outlast what is written before it is used, however slow the disk is.
        let lease = first.block_on(store.grant(Duration::from_secs(5))).unwrap();
        first.block_on(async {
            for n in 0..50 {
                let at = key(&format!("k/{n}"));
                // Abandoned: the runtime goes while the writer works.
                let put = Transaction::new().put(&at, "x");
                let _ = store.commit(&put).now_or_never();
            }
        });
        first.shutdown_background();
        let second = runtime();
        second.block_on(async {
            let revision = put(&store, "after", "x").await;
            assert_eq!(store.get(&key("after")).await.unwrap().unwrap().modified, revision);
            // The task that ended leases went with its runtime; the next grant starts another.
            let held =
                store.commit(&Transaction::new().put_leased(&key("leased"), "x", &lease)).await.unwrap();
            let _ = store.grant(Duration::from_secs(600)).await.unwrap();
            let mut watch = store.watch(&Prefix::all(), held).await.unwrap();
            let ended = watch.next().await.unwrap().unwrap();
            assert_eq!(ended.changes[0].key(), &key("leased"));
            store.close().await.unwrap();
        });
    }

    #[tokio::test]
    async fn values_fill_no_more_than_the_queue_while_a_disk_is_slow() {
        let folder = tempfile::tempdir().unwrap();
        let config = EmbeddedConfig::default().with_queue_bytes(1 << 20);
        let store = RedbStore::open(folder.path().join("s"), RedbConfig::default().with_embedded(config))
            .await
            .unwrap();
        let puts = (0..64).map(|n| {
            let store = &store;
            async move { put(store, &format!("k/{n}"), vec![n; 300_000]).await }
        });
        futures_util::future::join_all(puts).await;
        let largest = vec![1; store.limits().value_bytes];
        tokio::join!(put(&store, "l/1", largest.clone()), put(&store, "l/2", largest));
        assert_eq!(store.list_all(&Prefix::all(), 100).await.unwrap().records.len(), 66);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_watch_may_begin_at_whatever_a_read_showed() {
        let folder = tempfile::tempdir().unwrap();
        let store = RedbStore::open(folder.path().join("s"), RedbConfig::default()).await.unwrap();
        let store = Arc::new(store);
        let writer = {
            let store = store.clone();
            tokio::spawn(async move {
                for n in 0..400 {
                    put(&*store, "a", n.to_string()).await;
                }
            })
        };
        // A read may see what is durable a moment before it is shown to watches.
        while !writer.is_finished() {
            let page = store.list(&ListRequest::new(Prefix::all())).await.unwrap();
            drop(store.watch(&Prefix::all(), page.revision).await.unwrap());
            if let Some(record) = store.get(&key("a")).await.unwrap() {
                drop(store.watch(&Prefix::all(), record.modified).await.unwrap());
            }
        }
        writer.await.unwrap();
    }
}
