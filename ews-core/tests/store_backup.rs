//! Backups: the same stream from both embedded stores, whole or refused.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test: what panics has failed, and the lints spare only what is inside test functions"
)]

use std::time::Duration;

use ews_core::ErrorKind;
use ews_core::store::{
    EmbeddedConfig, Expect, Fence, Key, ListRequest, MemoryStore, Prefix, Record, Store, StoreExt as _,
    StoreRevision, Transaction,
};

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

async fn fill(store: &dyn Store) -> (Vec<Record>, Fence) {
    for n in 0..300_usize {
        let at = key(&format!("k/{:03}", n % 250));
        store.put(&at, vec![n as u8; (n * 37) % 4000].into(), Expect::Any).await.unwrap();
    }
    store.put(&key("large"), vec![9; store.limits().value_bytes].into(), Expect::Any).await.unwrap();
    let lease = store.grant(Duration::from_secs(3600)).await.unwrap();
    let fence = store.lock(&key("lock"), &lease, "holder").await.unwrap();
    let all = store.list_all(&Prefix::all(), 10_000).await.unwrap().records;
    (all.into_iter().filter(|record| record.lease.is_none()).collect(), fence)
}

async fn backup_of(store: &MemoryStore) -> Vec<u8> {
    let mut bytes = Vec::new();
    let summary = store.backup(&mut bytes).await.unwrap();
    assert_eq!(summary.bytes, bytes.len() as u64);
    bytes
}

async fn check_restored(store: &dyn Store, records: &[Record], old: StoreRevision, fence: &Fence) {
    let all = store.list_all(&Prefix::all(), 10_000).await.unwrap();
    assert_eq!(all.records, records, "records keep their marks, and those of leases are gone");
    assert!(all.revision.0 > old.0 + (1 << 30), "{} is far from {old}", all.revision);
    for position in [StoreRevision::ZERO, old, StoreRevision(old.0 + 1000)] {
        let error = store.watch(&Prefix::all(), position).await.map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Compacted);
        let at = store.list(&ListRequest::new(Prefix::all()).at(position)).await;
        assert_eq!(at.unwrap_err().kind(), ErrorKind::Compacted);
    }
    let write = Transaction::new().put(&key("k/000"), "late").fence(fence.clone());
    assert_eq!(store.commit(&write).await.unwrap_err().kind(), ErrorKind::Stale);
    let lease = store.grant(Duration::from_secs(3600)).await.unwrap();
    let taken = store.lock(&key("lock"), &lease, "next").await.unwrap();
    assert!(taken.token > all.revision && taken.token.0 == all.revision.0 + 1);
    assert_eq!(store.commit(&write).await.unwrap_err().kind(), ErrorKind::Stale);
    // A record's own marks still serve compare-and-set.
    let first = &records[0];
    store.put(&first.key, "new".into(), Expect::Revision(first.modified)).await.unwrap();
    assert_eq!(store.get(&first.key).await.unwrap().unwrap().version, first.version + 1);
}

#[tokio::test]
async fn a_backup_restores_the_records_and_no_fence() {
    let store = MemoryStore::new();
    let (records, fence) = fill(&store).await;
    let bytes = backup_of(&store).await;
    let (restored, summary) = MemoryStore::restore(&mut &bytes[..], EmbeddedConfig::default()).await.unwrap();
    assert_eq!((summary.records, summary.revision), (records.len() as u64, store.revision()));
    check_restored(&restored, &records, store.revision(), &fence).await;
}

#[tokio::test]
async fn an_empty_store_has_a_backup() {
    let bytes = backup_of(&MemoryStore::new()).await;
    let (restored, summary) = MemoryStore::restore(&mut &bytes[..], EmbeddedConfig::default()).await.unwrap();
    assert_eq!(summary.records, 0);
    restored.put(&key("a"), "x".into(), Expect::Absent).await.unwrap();
}

#[tokio::test]
async fn a_damaged_backup_is_refused() {
    let store = MemoryStore::new();
    for n in 0..40 {
        store.put(&key(&format!("k/{n}")), vec![n; 50].into(), Expect::Any).await.unwrap();
    }
    let whole = backup_of(&store).await;
    let refused = async |bytes: &[u8], what: String| {
        let error = MemoryStore::restore(&mut &bytes[..], EmbeddedConfig::default()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{what}: {error}");
    };
    for length in 0..whole.len() {
        refused(&whole[..length], format!("cut at {length}")).await;
    }
    for bit in 0..whole.len() * 8 {
        let mut damaged = whole.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        refused(&damaged, format!("bit {bit}")).await;
    }
    refused(&[&whole[..], b"x"].concat(), "longer".into()).await;
    refused(&[&whole[..], &whole[..]].concat(), "twice".into()).await;
    refused(b"", "empty".into()).await;
}

#[tokio::test]
async fn a_value_beyond_the_limits_is_refused() {
    let store = MemoryStore::new();
    store.put(&key("a"), vec![1; 2000].into(), Expect::Any).await.unwrap();
    let bytes = backup_of(&store).await;
    let mut limits = store.limits();
    limits.value_bytes = 1000;
    let config = EmbeddedConfig::default().with_limits(limits);
    let error = MemoryStore::restore(&mut &bytes[..], config).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfResources, "{error}");
}

/// A reader that gives one byte at a time, and an error after some.
struct Slow<'a>(&'a [u8], usize);

impl tokio::io::AsyncRead for Slow<'_> {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
        out: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        if self.1 == 0 {
            return std::task::Poll::Ready(Err(std::io::Error::other("the line broke")));
        }
        self.1 -= 1;
        let (now, later) = self.0.split_at(1.min(self.0.len()));
        out.put_slice(now);
        self.0 = later;
        std::task::Poll::Ready(Ok(()))
    }
}

#[tokio::test]
async fn damage_is_found_where_it_is_and_not_at_the_end() {
    let store = MemoryStore::new();
    for n in 0..8 {
        store.put(&key(&format!("k/{n}")), vec![n; 200_000].into(), Expect::Any).await.unwrap();
    }
    let mut bytes = backup_of(&store).await;
    bytes[1000] ^= 1;
    // The reader breaks after half of the stream, which is never asked for.
    let error = MemoryStore::restore(&mut Slow(&bytes, bytes.len() / 2), EmbeddedConfig::default())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error:?}");
}

#[tokio::test]
async fn a_slow_reader_is_read_whole_and_a_broken_one_is_said() {
    let store = MemoryStore::new();
    store.put(&key("a"), vec![1; 2000].into(), Expect::Any).await.unwrap();
    let bytes = backup_of(&store).await;
    MemoryStore::restore(&mut Slow(&bytes, usize::MAX), EmbeddedConfig::default()).await.unwrap();
    let error = MemoryStore::restore(&mut Slow(&bytes, 500), EmbeddedConfig::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.detail().unwrap().contains("the line broke"));
}

#[cfg(feature = "redb")]
mod on_disk {
    use ews_core::store::{RedbConfig, RedbStore};

    use super::*;

    fn files(folder: &tempfile::TempDir) -> Vec<String> {
        let entries = std::fs::read_dir(folder.path()).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[tokio::test]
    async fn the_stream_is_the_same_whichever_store_wrote_it() {
        let folder = tempfile::tempdir().unwrap();
        let store = MemoryStore::new();
        let (records, fence) = fill(&store).await;
        let bytes = backup_of(&store).await;
        let path = folder.path().join("s");
        let (disk, _) = RedbStore::restore(&path, &mut &bytes[..], RedbConfig::default()).await.unwrap();
        check_restored(&disk, &records, store.revision(), &fence).await;
        let after = disk.list_all(&Prefix::all(), 10_000).await.unwrap().records;

        let backup = folder.path().join("backup");
        let summary = disk.backup_to_file(&backup).await.unwrap();
        let error = disk.backup_to_file(&backup).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
        let mut file = tokio::fs::File::open(&backup).await.unwrap();
        let (memory, read) = MemoryStore::restore(&mut file, EmbeddedConfig::default()).await.unwrap();
        assert_eq!(read, summary);
        let free: Vec<Record> = after.into_iter().filter(|record| record.lease.is_none()).collect();
        assert_eq!(memory.list_all(&Prefix::all(), 10_000).await.unwrap().records, free);
        // Restored on disk means durable, too.
        let revision = disk.revision();
        disk.close().await.unwrap();
        assert_eq!(RedbStore::open(&path, RedbConfig::default()).await.unwrap().revision(), revision);
        assert_eq!(files(&folder), ["backup", "s"], "nothing else is left");
    }

    #[tokio::test]
    async fn a_refused_restore_leaves_nothing_and_replaces_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let store = MemoryStore::new();
        fill(&store).await;
        let bytes = backup_of(&store).await;
        let path = folder.path().join("s");
        let mut flipped = bytes.clone();
        flipped[bytes.len() - 40] ^= 4;
        for damaged in [&bytes[..bytes.len() - 1], &bytes[..bytes.len() / 2], &flipped, b"hello"] {
            let error =
                RedbStore::restore(&path, &mut &damaged[..], RedbConfig::default()).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
            assert!(error.to_string().contains(&*path.to_string_lossy()), "{error}");
            assert_eq!(files(&folder), [""; 0]);
        }
        let existing = RedbStore::open(&path, RedbConfig::default()).await.unwrap();
        existing.put(&key("mine"), "x".into(), Expect::Absent).await.unwrap();
        existing.close().await.unwrap();
        let error = RedbStore::restore(&path, &mut &bytes[..], RedbConfig::default()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
        let existing = RedbStore::open(&path, RedbConfig::default()).await.unwrap();
        assert_eq!(existing.get(&key("mine")).await.unwrap().unwrap().value, "x");
        assert_eq!(files(&folder), ["s"]);
    }

    /// Every transaction writes the same number to both ends of the key space.
    async fn write_pairs(store: &dyn Store, from: u64, count: u64) {
        for n in from..from + count {
            let value = n.to_string();
            let both = Transaction::new()
                .put(&key("a"), value.clone())
                .put(&key("z"), value)
                .put(&key(&format!("m/{:03}", n % 300)), vec![n as u8; 9000]);
            store.commit(&both).await.unwrap();
        }
    }

    async fn one_state_while_writing(store: &dyn Store, backup: impl Future<Output = Vec<u8>>) {
        let (bytes, ()) = futures_util::future::join(backup, write_pairs(store, 1000, 60)).await;
        let (restored, summary) =
            MemoryStore::restore(&mut &bytes[..], EmbeddedConfig::default()).await.unwrap();
        let all = restored.list_all(&Prefix::all(), 10_000).await.unwrap().records;
        assert_eq!(all[0].value, all[all.len() - 1].value, "both ends are of one transaction");
        assert!(all.iter().all(|record| record.modified <= summary.revision));
        assert_eq!(all[0].modified, summary.revision, "each transaction writes it");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_backup_is_one_state_while_writes_go_on() {
        let folder = tempfile::tempdir().unwrap();
        let memory = MemoryStore::new();
        write_pairs(&memory, 0, 400).await;
        one_state_while_writing(&memory, backup_of(&memory)).await;
        let disk = RedbStore::open(folder.path().join("s"), RedbConfig::default()).await.unwrap();
        write_pairs(&disk, 0, 320).await;
        one_state_while_writing(&disk, async {
            // A small pipe, so that the backup takes its time.
            let (to, mut from) = tokio::io::duplex(4096);
            let read = async {
                let mut bytes = Vec::new();
                tokio::io::AsyncReadExt::read_to_end(&mut from, &mut bytes).await.unwrap();
                bytes
            };
            let write = async { disk_backup(&disk, to).await };
            futures_util::future::join(read, write).await.0
        })
        .await;
    }

    async fn disk_backup(disk: &RedbStore, mut to: tokio::io::DuplexStream) {
        disk.backup(&mut to).await.unwrap();
    }

    #[tokio::test]
    async fn a_backup_that_nobody_takes_ends() {
        let store = MemoryStore::new();
        fill(&store).await;
        let (mut to, from) = tokio::io::duplex(1024);
        drop(from);
        let error = store.backup(&mut to).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
    }
}
