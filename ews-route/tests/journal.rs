//! What a gateway remembers over restarts: large changes, writes whose fate was not known, crashes between any two writes,
//! and the journal of the format before.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that can't go on fails"
)]

#[path = "journal/crash.rs"]
mod crash;
#[path = "journal/formats.rs"]
mod formats;
mod stage;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU8, AtomicUsize, Ordering};
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
use stage::{Client, config, put_member, put_pool, put_rules};
use tokio::sync::watch;

async fn start(store: &Arc<MemoryStore>) -> Gateway {
    Gateway::builder(config()).with_store(store.clone()).start().await.unwrap()
}

async fn everything(gateway: &Gateway) -> (Option<u64>, Vec<ews_core::balancer::Stored>) {
    let generation = gateway.observe(&ObserveQuery::default()).await.unwrap()[0].generation;
    let (mut query, mut all) = (ObjectQuery::kinds([]).limit(100_000), Vec::new());
    loop {
        let page = gateway.objects(&query).await.unwrap();
        let Some(last) = page.last() else { return (generation, all) };
        assert!(page.len() <= ObjectQuery::MAX_PAGE);
        query = query.after(last.object.reference());
        all.extend(page);
    }
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
    // More than are remembered.
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

    // A record for each object and for each change that is remembered, and the parts of the large one.
    let count = async |folder: &str| {
        let prefix = Prefix::new(format!("gateway/gateway/{folder}/")).unwrap();
        store.list(&ListRequest::new(prefix)).await.unwrap().records.len()
    };
    assert_eq!((count("object").await, count("change").await), (52, 1_000));
    assert!(count("part").await > 2);
    assert_eq!(count("pending").await, 0);
    let gateway = start(&store).await;
    let (generation, after) = everything(&gateway).await;
    assert_eq!((generation, after), (Some(1_101), before));
    let again =
        gateway.apply(&change("c1099", [put_member("p", "i49", "127.0.0.1:2099".parse().unwrap())])).await;
    assert_eq!(again.unwrap(), last.unwrap());
    // The first is no longer among the last thousand: with its id, something else is another change.
    assert!(gateway.apply(&change("large", [put_pool("q")])).await.unwrap().generation > applied.generation);
}

/// A store whose next commit goes wrong: 1 before it is done, 2 after, 3 before and with a word. And one that is gone after
/// some commits, the last of which nobody hears of.
struct Shaky {
    inner: Arc<MemoryStore>,
    fault: AtomicU8,
    left: AtomicI64,
    /// Closed, it lists nothing until it is opened.
    is_open: watch::Sender<bool>,
    lists: AtomicUsize,
}

impl Shaky {
    fn new(inner: Arc<MemoryStore>) -> Arc<Self> {
        let (fault, left, lists) = (AtomicU8::new(0), AtomicI64::new(i64::MAX), AtomicUsize::new(0));
        Arc::new(Self { inner, fault, left, is_open: watch::channel(true).0, lists })
    }
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
        self.lists.fetch_add(1, Ordering::Relaxed);
        let _ = self.is_open.subscribe().wait_for(|is_open| *is_open).await;
        self.inner.list(request).await
    }

    async fn commit(&self, transaction: &Transaction) -> Result<StoreRevision> {
        let left = self.left.fetch_sub(1, Ordering::Relaxed);
        let fault = if left <= 0 { 2 + u8::from(left < 0) } else { self.fault.swap(0, Ordering::Relaxed) };
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
        let store = Shaky::new(Arc::new(MemoryStore::new()));
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_connection_is_taken_before_everything_is_known_again() {
    let inner = Arc::new(MemoryStore::new());
    let gateway = start(&inner).await;
    let rule = RouteRule::new(
        PathMatch::Prefix("/".to_owned()),
        RouteAction::Respond { status: 200, body: "known".to_owned() },
    );
    gateway.apply(&change("1", [put_rules("r", vec![rule]), stage::put_domain("*", "r")])).await.unwrap();
    let address = gateway.addresses()[0];
    gateway.shutdown(Duration::from_secs(5)).await;
    drop(gateway);
    let store = Shaky::new(inner);
    store.is_open.send_replace(false);
    let starting = {
        let store = store.clone();
        let config = config().with_listen([address]);
        tokio::spawn(async move { Gateway::builder(config).with_store(store).start().await })
    };
    let ends = tokio::time::Instant::now() + stage::PATIENCE;
    while store.lists.load(Ordering::Relaxed) == 0 {
        assert!(tokio::time::Instant::now() < ends, "the journal is not read");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
    store.is_open.send_replace(true);
    let gateway = starting.await.unwrap().unwrap();
    let mut client = Client::connect(gateway.addresses()[0]).await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(client.answer_to("GET").await.unwrap().text(), "known");
}
