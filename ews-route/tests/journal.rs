//! What a gateway remembers over restarts: large changes, images, writes whose fate was not known.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that can't go on fails"
)]

mod stage;

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use ews_core::balancer::{
    Balancer as _, Change, ObjectQuery, ObserveQuery, PathMatch, RouteAction, RouteRule,
};
use ews_core::id::ChangeId;
use ews_core::store::{
    Key, Lease, LeaseId, ListPage, ListRequest, MemoryStore, Prefix, Record, Store, StoreLimits,
    StoreRevision, Transaction, WatchStream,
};
use ews_core::{Error, ErrorKind, Result};
use ews_route::Gateway;
use stage::{config, put_member, put_pool, put_rules};

async fn start(store: &Arc<MemoryStore>) -> Gateway {
    Gateway::builder(config()).with_store(store.clone()).start().await.unwrap()
}

async fn everything(gateway: &Gateway) -> (Option<u64>, Vec<ews_core::balancer::Stored>) {
    let query = ObjectQuery::kinds([]).limit(100_000);
    let generation = gateway.observe(&ObserveQuery::default()).await.unwrap()[0].generation;
    (generation, gateway.objects(&query).await.unwrap())
}

fn change(id: &str, ops: impl IntoIterator<Item = ews_core::balancer::Op>) -> Change {
    Change::new(ChangeId::new(id).unwrap(), ops)
}

#[tokio::test]
async fn large_changes_and_many_changes_come_back_as_they_were() {
    let store = Arc::new(MemoryStore::new());
    let gateway = start(&store).await;
    // Some megabytes in one change: several parts, each below the store's limit.
    let body = "x".repeat(60_000);
    let rule = |number: usize| {
        let action = RouteAction::Respond { status: 200, body: body.clone() };
        RouteRule::new(PathMatch::Exact(format!("/{number}")), action)
    };
    let large = change("large", [put_pool("p"), put_rules("large", (0..60).map(rule).collect())]);
    let applied = gateway.apply(&large).await.unwrap();
    // More than one image's worth, with what is remembered of them.
    for number in 0..1_100 {
        let address = format!("127.0.0.1:{}", 1_000 + number).parse().unwrap();
        gateway
            .apply(&change(&format!("c{number}"), [put_member("p", &format!("i{}", number % 50), address)]))
            .await
            .unwrap();
    }
    let last =
        gateway.apply(&change("c1099", [put_member("p", "i49", "127.0.0.1:2099".parse().unwrap())])).await;
    let (_, before) = everything(&gateway).await;
    gateway.shutdown(Duration::from_secs(5)).await;
    drop(gateway);

    let page = store.list(&ListRequest::new(Prefix::new("gateway/gateway/log/").unwrap())).await.unwrap();
    assert!(page.records.len() < 2 * 200, "the log is as long as ever: {}", page.records.len());
    let gateway = start(&store).await;
    let (generation, after) = everything(&gateway).await;
    assert_eq!((generation, after), (Some(1_101), before));
    let again =
        gateway.apply(&change("c1099", [put_member("p", "i49", "127.0.0.1:2099".parse().unwrap())])).await;
    assert_eq!(again.unwrap(), last.unwrap());
    // The first is no longer among the last thousand: with its id, something else is another change.
    assert!(gateway.apply(&change("large", [put_pool("q")])).await.unwrap().generation > applied.generation);
}

/// A store whose next commit goes wrong: 1 before it is done, 2 after.
struct Shaky {
    inner: MemoryStore,
    fault: AtomicU8,
}

#[async_trait]
impl Store for Shaky {
    fn limits(&self) -> StoreLimits {
        self.inner.limits()
    }

    async fn get(&self, key: &Key) -> Result<Option<Record>> {
        self.inner.get(key).await
    }

    async fn list(&self, request: &ListRequest) -> Result<ListPage> {
        self.inner.list(request).await
    }

    async fn commit(&self, transaction: &Transaction) -> Result<StoreRevision> {
        let fault = self.fault.swap(0, Ordering::Relaxed);
        let error = Error::new(ErrorKind::Timeout, "no answer").with_maybe_applied();
        match fault {
            1 => Err(error),
            2 => {
                self.inner.commit(transaction).await?;
                Err(error)
            }
            3 => Err(Error::new(ErrorKind::Unavailable, "away")),
            _ => self.inner.commit(transaction).await,
        }
    }

    async fn watch(&self, prefix: &Prefix, after: StoreRevision) -> Result<WatchStream> {
        self.inner.watch(prefix, after).await
    }

    async fn grant(&self, ttl: Duration) -> Result<Lease> {
        self.inner.grant(ttl).await
    }

    async fn renew(&self, lease: LeaseId) -> Result<()> {
        self.inner.renew(lease).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<()> {
        self.inner.revoke(lease).await
    }
}

#[tokio::test]
async fn a_write_whose_fate_is_not_known_is_looked_up() {
    for (fault, maybe) in [(1, true), (2, true), (3, false)] {
        let store = Arc::new(Shaky { inner: MemoryStore::new(), fault: AtomicU8::new(0) });
        let gateway = Gateway::builder(config()).with_store(store.clone()).start().await.unwrap();
        gateway.apply(&change("1", [put_pool("a")])).await.unwrap();
        store.fault.store(fault, Ordering::Relaxed);
        let error = gateway.apply(&change("2", [put_pool("b")])).await.unwrap_err();
        assert_eq!((error.kind(), error.maybe_applied()), (ErrorKind::Unavailable, maybe), "{fault}");
        // The same again is the cure, and gives the same generation, whether it had happened or not.
        assert_eq!(gateway.apply(&change("2", [put_pool("b")])).await.unwrap().generation, 2, "{fault}");
        assert_eq!(gateway.apply(&change("3", [put_pool("c")])).await.unwrap().generation, 3, "{fault}");
        let before = gateway.objects(&ObjectQuery::kinds([])).await.unwrap();
        let again = Gateway::builder(config()).with_store(store.clone()).start().await.unwrap();
        assert_eq!(again.objects(&ObjectQuery::kinds([])).await.unwrap(), before, "{fault}");
    }
}

#[tokio::test]
async fn a_journal_that_can_not_be_read_starts_no_gateway() {
    let store = Arc::new(MemoryStore::new());
    let gateway = start(&store).await;
    gateway.apply(&change("1", [put_pool("a")])).await.unwrap();
    drop(gateway);
    let key = Key::new(format!("gateway/gateway/log/{:020}/00001", 1)).unwrap();
    store.commit(&Transaction::new().put(&key, "{")).await.unwrap();
    let error = Gateway::builder(config()).with_store(store.clone()).start().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    store.commit(&Transaction::new().delete(&key)).await.unwrap();
    let error = Gateway::builder(config()).with_store(store).start().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
}
