//! The Store suite on both embedded stores.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test: what panics has failed, and the lints spare only what is inside test functions"
)]

use ews_core::Result;
use ews_core::store::{EmbeddedConfig, MemoryStore};
use ews_core::testkit::conformance::store::{self, StoreHarness};

fn small(transactions: usize) -> EmbeddedConfig {
    // The tail is shorter still, so that those who are behind read the log.
    EmbeddedConfig::default().with_log_entries(transactions).with_tail_entries(transactions / 2)
}

struct Memory;

#[async_trait::async_trait]
impl StoreHarness for Memory {
    type Store = MemoryStore;

    async fn fresh(&self) -> Result<MemoryStore> {
        Ok(MemoryStore::new())
    }

    async fn with_history(&self, transactions: usize) -> Option<Result<MemoryStore>> {
        Some(Ok(MemoryStore::with_config(small(transactions))))
    }
}

#[tokio::test(start_paused = true)]
async fn the_store_in_memory_conforms() {
    let report = store::run("memory", &Memory).await;
    println!("{report}");
    report.assert_passed(store::REOPEN_CASES);
}

#[cfg(feature = "redb")]
mod on_disk {
    use std::path::PathBuf;
    use std::sync::atomic::{AtomicU32, Ordering};

    use ews_core::store::{RedbConfig, RedbStore};

    use super::*;

    struct Redb {
        folder: tempfile::TempDir,
        next: AtomicU32,
        embedded: EmbeddedConfig,
    }

    impl Redb {
        fn new(embedded: EmbeddedConfig) -> Self {
            Self { folder: tempfile::tempdir().unwrap(), next: AtomicU32::new(0), embedded }
        }

        fn path(&self) -> PathBuf {
            self.folder.path().join(format!("{}.redb", self.next.fetch_add(1, Ordering::Relaxed)))
        }
    }

    #[async_trait::async_trait]
    impl StoreHarness for Redb {
        type Store = RedbStore;

        async fn fresh(&self) -> Result<RedbStore> {
            RedbStore::open(self.path(), RedbConfig::default().with_embedded(self.embedded.clone())).await
        }

        async fn reopen(&self, store: RedbStore) -> Option<Result<RedbStore>> {
            let path = store.path().to_owned();
            if let Err(error) = store.close().await {
                return Some(Err(error));
            }
            Some(RedbStore::open(path, RedbConfig::default().with_embedded(self.embedded.clone())).await)
        }

        async fn with_history(&self, transactions: usize) -> Option<Result<RedbStore>> {
            Some(RedbStore::open(self.path(), RedbConfig::default().with_embedded(small(transactions))).await)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_store_on_disk_conforms() {
        let report = store::run("redb", &Redb::new(EmbeddedConfig::default())).await;
        println!("{report}");
        report.assert_passed(&[]);
    }

    #[tokio::test(start_paused = true)]
    async fn it_conforms_when_every_watch_reads_the_log() {
        let without_tail = EmbeddedConfig::default().with_tail_entries(1);
        store::run("redb, no tail", &Redb::new(without_tail)).await.assert_passed(&[]);
    }
}
