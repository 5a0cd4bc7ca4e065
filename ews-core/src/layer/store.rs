//! [`Store`] behind a layer.
#![deny(clippy::missing_trait_methods)]

use std::time::Duration;

use async_trait::async_trait;

use crate::error::Result;
use crate::layer::{Around, Call, CallKind, Contract, Layered, Subject};
use crate::store::{
    Key, Lease, LeaseId, ListPage, ListRequest, Prefix, Record, Store, StoreLimits, StoreRevision,
    Transaction, WatchStream,
};

const fn call<'a>(operation: &'static str, kind: CallKind) -> Call<'a> {
    Call::new(Contract::Store, operation, kind)
}

#[async_trait]
impl<C: Store + ?Sized, A: Around> Store for Layered<C, A> {
    fn limits(&self) -> StoreLimits {
        self.inner.limits()
    }

    async fn get(&self, key: &Key) -> Result<Option<Record>> {
        let call = call("store.get", CallKind::Read).about(Subject::object(key));
        self.around.around(call, || self.inner.get(key)).await
    }

    async fn list(&self, request: &ListRequest) -> Result<ListPage> {
        let call = call("store.list", CallKind::Read).about(Subject::object(&request.prefix));
        self.around.around(call, || self.inner.list(request)).await
    }

    async fn commit(&self, transaction: &Transaction) -> Result<StoreRevision> {
        // A second commit of what the first wrote fails its own conditions, or writes once more.
        self.around.around(call("store.commit", CallKind::Once), || self.inner.commit(transaction)).await
    }

    async fn watch(&self, prefix: &Prefix, after: StoreRevision) -> Result<WatchStream> {
        let call = call("store.watch", CallKind::Read).about(Subject::object(prefix));
        self.around.around(call, || self.inner.watch(prefix, after)).await
    }

    async fn grant(&self, ttl: Duration) -> Result<Lease> {
        self.around.around(call("store.grant", CallKind::Once), || self.inner.grant(ttl)).await
    }

    async fn renew(&self, lease: LeaseId) -> Result<()> {
        self.around.around(call("store.renew", CallKind::Idempotent), || self.inner.renew(lease)).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<()> {
        self.around.around(call("store.revoke", CallKind::Idempotent), || self.inner.revoke(lease)).await
    }
}
