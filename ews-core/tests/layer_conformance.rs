//! A store behind a layer still is what its contract says: the suite through each layer and through all. The other
//! contracts' suites run behind each layer in their own tests.

use std::sync::Arc;

use ews_core::layer::{
    Around, CapabilityCheck, ConcurrencyLimit, Deadline, Layered, RetryLayer, Stack, StackConfig, Trace,
};
use ews_core::store::{EmbeddedConfig, MemoryStore};
use ews_core::testkit::conformance::store::{self, StoreHarness};
use ews_core::{Result, Store};

struct Behind<A>(fn() -> A);

#[async_trait::async_trait]
impl<A: Around> StoreHarness for Behind<A> {
    type Store = Layered<dyn Store, A>;

    async fn fresh(&self) -> Result<Self::Store> {
        Ok(Layered::new(Arc::new(MemoryStore::new()), (self.0)()))
    }

    async fn with_history(&self, transactions: usize) -> Option<Result<Self::Store>> {
        let config =
            EmbeddedConfig::default().with_log_entries(transactions).with_tail_entries(transactions / 2);
        Some(Ok(Layered::new(Arc::new(MemoryStore::with_config(config)), (self.0)())))
    }
}

async fn conforms<A: Around>(name: &str, around: fn() -> A) {
    let report = store::run(name, &Behind(around)).await;
    report.assert_passed(store::REOPEN_CASES);
}

#[tokio::test(start_paused = true)]
async fn the_store_conforms_behind_each_layer() {
    conforms("trace", || Trace).await;
    conforms("capability check", || CapabilityCheck).await;
    conforms("retry", RetryLayer::default).await;
    conforms("limit", ConcurrencyLimit::default).await;
    conforms("deadline", Deadline::default).await;
}

#[tokio::test(start_paused = true)]
async fn the_store_conforms_behind_all_layers() {
    fn all() -> Stack {
        StackConfig::default().build().unwrap_or_else(|error| panic!("the defaults are accepted: {error}"))
    }
    conforms("stack", all).await;
}
