//! A store that stops answering its controller at a chosen commit: the moment at which the controller is killed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use ews_core::store::{
    Key, Lease, LeaseId, ListPage, ListRequest, Prefix, Record, StoreLimits, StoreRevision, Transaction,
    WatchStream,
};
use ews_core::{Result, Store};
use tokio::sync::Notify;

/// Whether the chosen commit still happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kill {
    Before,
    After,
}

pub(crate) struct KillingStore {
    inner: Arc<dyn Store>,
    /// How many commits are left.
    left: AtomicU64,
    kill: Kill,
    killed: Notify,
}

impl KillingStore {
    /// The `at`-th commit from now on, from 1, is the last.
    pub(crate) fn new(inner: Arc<dyn Store>, at: u64, kill: Kill) -> Self {
        Self { inner, left: AtomicU64::new(at), kill, killed: Notify::new() }
    }

    /// Waits until the moment has come.
    pub(crate) async fn killed(&self) {
        self.killed.notified().await;
    }
}

#[async_trait]
impl Store for KillingStore {
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
        match self.left.load(Ordering::SeqCst) {
            0 => std::future::pending().await,
            1 => {
                self.left.store(0, Ordering::SeqCst);
                if self.kill == Kill::After {
                    let _ = self.inner.commit(transaction).await;
                }
                self.killed.notify_one();
                std::future::pending().await
            }
            left => {
                self.left.store(left - 1, Ordering::SeqCst);
                self.inner.commit(transaction).await
            }
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
