//! A balancer that watches how much capacity is left after every change.

use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use ews_core::balancer::{
    Applied, Balancer, BalancerEvent, Change, GatewayView, MemberState, Object, ObjectKind, ObjectQuery,
    ObserveQuery, RouteAction, Stored,
};
use ews_core::event::Notice;
use ews_core::testkit::FakeBalancer;
use ews_core::testkit::fake::FakeEngine;
use ews_core::{CapabilitySet, PoolId, Result};
use futures_util::stream::BoxStream;

pub(crate) struct Guard {
    inner: FakeBalancer,
    engine: FakeEngine,
    /// The least capacity that there must be; 0 watches nothing.
    budget: AtomicUsize,
    least: AtomicUsize,
}

impl Guard {
    pub(crate) fn new(inner: FakeBalancer, engine: FakeEngine) -> Self {
        Self { inner, engine, budget: AtomicUsize::new(0), least: AtomicUsize::new(usize::MAX) }
    }

    /// From now on there must be so much.
    pub(crate) fn watch(&self, budget: usize) {
        self.budget.store(budget, Ordering::SeqCst);
        self.least.store(usize::MAX, Ordering::SeqCst);
    }

    /// The least that was seen.
    pub(crate) fn least(&self) -> usize {
        self.least.load(Ordering::SeqCst)
    }

    /// How many endpoints get traffic and answer.
    pub(crate) async fn capacity(&self) -> usize {
        let kinds = [ObjectKind::Endpoint, ObjectKind::RouteSet];
        let stored = self.inner.objects(&ObjectQuery::kinds(kinds)).await.unwrap();
        let mut shares: Vec<PoolId> = Vec::new();
        for found in &stored {
            if let Object::RouteSet(set) = &found.object {
                for rule in &set.rules {
                    if let RouteAction::Forward(pools) = &rule.action {
                        shares.extend(
                            pools.iter().filter(|pool| pool.weight > 0).map(|pool| pool.pool.clone()),
                        );
                    }
                }
            }
        }
        // A share for a pool without an active endpoint would be an error to whoever is sent there.
        for pool in &shares {
            let active = |found: &Stored| matches!(&found.object, Object::Endpoint(m) if m.pool == *pool && m.state == MemberState::Active);
            assert!(stored.iter().any(active), "{pool} has a share and nobody to serve it");
        }
        let serves = |found: &&Stored| match &found.object {
            Object::Endpoint(member)
                if member.state == MemberState::Active && shares.contains(&member.pool) =>
            {
                let answers = member.endpoint.address.socket().map(|address| self.engine.dial(address));
                answers.is_some_and(|answers| answers.is_ok_and(|id| id == member.endpoint.key.instance))
            }
            _ => false,
        };
        stored.iter().filter(serves).count()
    }

    pub(crate) async fn look(&self) {
        let budget = self.budget.load(Ordering::SeqCst);
        let capacity = self.capacity().await;
        self.least.fetch_min(capacity, Ordering::SeqCst);
        assert!(capacity >= budget, "capacity {capacity} is below the budget of {budget}");
    }
}

#[async_trait]
impl Balancer for Guard {
    fn capabilities(&self) -> CapabilitySet {
        self.inner.capabilities()
    }

    async fn apply(&self, change: &Change) -> Result<Applied> {
        self.look().await;
        let applied = self.inner.apply(change).await;
        self.look().await;
        applied
    }

    async fn objects(&self, query: &ObjectQuery) -> Result<Vec<Stored>> {
        self.inner.objects(query).await
    }

    async fn observe(&self, query: &ObserveQuery) -> Result<Vec<GatewayView>> {
        self.look().await;
        self.inner.observe(query).await
    }

    async fn watch(&self) -> Result<BoxStream<'static, Notice<BalancerEvent>>> {
        self.inner.watch().await
    }
}
