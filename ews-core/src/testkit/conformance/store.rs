//! The suite of the [`Store`] contract.
//!
//! Implement [`StoreHarness`] for your store and assert on what [`run`] reports. Each case gets a store of its own, waits
//! for events and never for a fixed time, so that the suite runs on a paused clock as well as against a real server.
//!
//! ```
//! use ews_core::store::MemoryStore;
//! use ews_core::testkit::conformance::store::{self, StoreHarness};
//!
//! struct Memory;
//!
//! #[async_trait::async_trait]
//! impl StoreHarness for Memory {
//!     type Store = MemoryStore;
//!     async fn fresh(&self) -> ews_core::Result<MemoryStore> {
//!         Ok(MemoryStore::new())
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() {
//! let report = store::run("memory", &Memory).await;
//! report.assert_passed(&store::REOPEN_CASES.iter().chain(store::HISTORY_CASES).copied().collect::<Vec<_>>());
//! # }
//! ```

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a case that panics has failed"
)]

mod leases;
mod reads;
mod transactions;
mod watches;

use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt as _;

use super::{CaseResult, Report, Stop, run_case};
use crate::error::{ErrorKind, Result};
use crate::store::{
    Change, Expect, Key, Prefix, Record, Store, StoreExt as _, StoreRevision, WatchBatch, WatchStream,
};

/// How the suite gets the stores that it tries.
#[async_trait]
pub trait StoreHarness: Send + Sync {
    /// The store under test.
    type Store: Store;

    /// An empty store that nobody else writes to.
    async fn fresh(&self) -> Result<Self::Store>;

    /// Closes a store as its process would and opens it again. `None`, the default, for a store that does not outlive its
    /// process: [`REOPEN_CASES`] are skipped.
    async fn reopen(&self, store: Self::Store) -> Option<Result<Self::Store>> {
        drop(store);
        None
    }

    /// An empty store that keeps the history of about this many transactions, and of no more than ten times as many.
    /// `None`, the default, where that can't be set: [`HISTORY_CASES`] are skipped.
    async fn with_history(&self, transactions: usize) -> Option<Result<Self::Store>> {
        let _ = transactions;
        None
    }

    /// How long one case may take. Default 60 seconds, which is more than any takes.
    fn deadline(&self) -> Duration {
        Duration::from_secs(60)
    }
}

/// The cases that are skipped without [`StoreHarness::reopen`].
pub const REOPEN_CASES: &[&str] = &[
    "a reopened store has its records, marks and revision",
    "a reopened store goes on with its revisions",
    "a watch across a reopen misses nothing or is told so",
    "a lease that lived at a reopen begins anew and ends",
    "a fence holds across a reopen",
];

/// The cases that are skipped without [`StoreHarness::with_history`].
pub const HISTORY_CASES: &[&str] = &[
    "a watcher that falls behind gets Compacted as its last item",
    "a watch after compacted history is refused at once",
    "a list at a compacted revision is refused",
    "a watcher that keeps up is not disturbed by compaction",
];

/// Runs every case, one after the other.
pub async fn run<H: StoreHarness>(name: &str, harness: &H) -> Report {
    let mut suite = Suite { report: Report::new(format!("store ({name})")), harness };
    transactions::run(&mut suite).await;
    reads::run(&mut suite).await;
    watches::run(&mut suite).await;
    leases::run(&mut suite).await;
    suite.report
}

struct Suite<'h, H> {
    report: Report,
    harness: &'h H,
}

impl<H: StoreHarness> Suite<'_, H> {
    async fn case(&mut self, name: &'static str, case: impl Future<Output = CaseResult> + Send) {
        let number = u16::try_from(self.report.outcomes.len() + 1).ok();
        let outcome = run_case(number, name, self.harness.deadline(), case).await;
        self.report.outcomes.push(outcome);
    }
}

/// Runs cases that are async functions of the harness.
macro_rules! cases {
    ($suite:ident: $($name:literal => $case:ident,)+) => {$(
        $suite.case($name, $case($suite.harness)).await;
    )+};
}
use cases;

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

fn prefix(text: &str) -> Prefix {
    Prefix::new(text).unwrap()
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T>, kind: ErrorKind) {
    let error = result.unwrap_err();
    assert_eq!(error.kind(), kind, "{error}");
    assert!(!error.maybe_applied(), "a refusal is certain: {error}");
}

async fn put(store: &dyn Store, at: &str, value: &str) -> StoreRevision {
    store.put(&key(at), value.to_owned().into(), Expect::Any).await.unwrap()
}

/// The record that must be there.
async fn get(store: &dyn Store, at: &str) -> Record {
    match store.get(&key(at)).await.unwrap() {
        Some(record) => record,
        None => panic!("there is no record at {at}"),
    }
}

async fn absent(store: &dyn Store, at: &str) {
    assert_eq!(store.get(&key(at)).await.unwrap(), None, "{at}");
}

/// The store's revision, found out by a transaction of its own.
async fn tick(store: &dyn Store) -> StoreRevision {
    put(store, "suite/tick", "").await
}

async fn next(watch: &mut WatchStream) -> WatchBatch {
    match watch.next().await {
        Some(batch) => batch.unwrap(),
        None => panic!("the watch ended"),
    }
}

/// What changed, as short text: `put a/b`, `deleted a/b`.
fn shown(batch: &WatchBatch) -> Vec<String> {
    let changes = batch.changes.iter();
    changes
        .map(|change| match change {
            Change::Put(record) => format!("put {}={}", record.key, String::from_utf8_lossy(&record.value)),
            Change::Deleted(key) => format!("deleted {key}"),
        })
        .collect()
}

fn skip_without<T>(given: Option<Result<T>>, what: &str) -> Result<T, Stop> {
    match given {
        Some(given) => Ok(given?),
        None => Err(Stop::skip(format!("the harness has no `{what}`"))),
    }
}
