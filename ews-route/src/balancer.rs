//! The gateway as a balancer: what it is told, what it serves, what it says of it.

use std::sync::Arc;

use async_trait::async_trait;
use ews_core::balancer::{
    Applied, Balancer, BalancerEvent, Change, EndpointView, GatewayView, ObjectQuery, ObjectRef,
    ObserveQuery, Outcome, Prepared, Stored,
};
use ews_core::event::{Gap, Notice};
use ews_core::{Capability, CapabilitySet, Clock as _, Error, ErrorKind, Result, SystemClock, detach};
use futures_core::stream::BoxStream;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use crate::gateway::{Core, Gateway, snapshot};
use crate::journal::Journal;

/// How many events wait for a slow watcher. What is missed beyond shows as a gap.
pub(crate) const EVENT_QUEUE: usize = 1_024;

/// What the gateway can do. Whatever is missing here is refused.
pub(crate) fn capabilities() -> CapabilitySet {
    [
        Capability::RouteHost,
        Capability::RouteWildcard,
        Capability::RoutePath,
        #[cfg(feature = "regex")]
        Capability::RouteRegex,
        Capability::RouteAttributes,
        Capability::RouteFilters,
        Capability::TrafficPolicies,
        Capability::Blackhole,
        #[cfg(feature = "tls")]
        Capability::Tls,
        #[cfg(feature = "tls")]
        Capability::UpstreamTls,
        #[cfg(feature = "http2")]
        Capability::Http2,
        Capability::TcpRoutes,
        Capability::Weights,
        Capability::BalancePeakEwma,
        Capability::BalanceLeastRequest,
        Capability::BalanceHash,
        Capability::Sticky,
        Capability::SlowStart,
        Capability::ActiveChecks,
        Capability::ForwardAuth,
        Capability::InFlight,
        Capability::ForceClose,
        Capability::EndpointHealth,
    ]
    .into_iter()
    .collect()
}

impl Core {
    pub(crate) async fn apply(self: &Arc<Self>, change: &Change) -> Result<Applied> {
        // One after the other; what is checked here is committed before anybody else looks.
        let _turn = self.turn.lock().await;
        self.settle().await?;
        let prepared = match self.state().table.prepare(change)? {
            Outcome::Replay(applied) => return Ok(applied),
            Outcome::New(prepared) => prepared,
        };
        let objects = prepared.touched().filter_map(|(_, object)| object);
        objects
            .into_iter()
            .try_for_each(snapshot::check)
            .map_err(|error| error.with_operation("balancer.apply").with_context("change", &change.id))?;
        if let Some(journal) = &self.journal {
            let generation = prepared.applied().generation;
            journal.append(change, generation).await.map_err(|error| {
                let kind = match error.kind() {
                    ErrorKind::OutOfResources => ErrorKind::OutOfResources,
                    _ => ErrorKind::Unavailable,
                };
                let maybe = error.maybe_applied();
                let error = Error::new(kind, "the change could not be made durable")
                    .with_operation("balancer.apply")
                    .with_source(error);
                if maybe { error.with_maybe_applied() } else { error }
            })?;
        }
        let applied = self.commit(change, prepared)?;
        self.compact(applied.generation).await;
        Ok(applied)
    }

    /// Makes true what an earlier write left open.
    async fn settle(&self) -> Result<()> {
        let Some(journal) = self.journal.as_ref().filter(|journal| journal.is_doubtful()) else {
            return Ok(());
        };
        let table = self.state().table.clone();
        if let Some((change, Outcome::New(prepared))) = journal.settle(&table).await? {
            self.commit(&change, prepared)?;
        }
        Ok(())
    }

    fn commit(&self, change: &Change, prepared: Prepared) -> Result<Applied> {
        let touched: Vec<ObjectRef> = prepared.touched().map(|(reference, _)| reference.clone()).collect();
        let mut state = self.state();
        let applied = state.table.commit(prepared)?;
        let state = &mut *state;
        let snapshot = state.routing.update(&state.table, &touched);
        self.send(BalancerEvent::Applied { change: change.id.clone(), generation: applied.generation });
        // Within the lock, so that snapshots are handed over in order.
        self.snapshots.send_replace(Arc::new(snapshot));
        Ok(applied)
    }

    /// Forgets blackholes that have ended. That is no change, and threads need not hurry: they look at the time themselves.
    pub(crate) fn expire(&self) {
        let mut state = self.state();
        let state = &mut *state;
        let ended = state.table.expire(SystemClock.now());
        if !ended.is_empty() {
            let snapshot = state.routing.update(&state.table, &ended);
            self.snapshots.send_replace(Arc::new(snapshot));
        }
    }

    async fn compact(&self, generation: u64) {
        let Some(journal) = self.journal.as_ref().filter(|_| Journal::is_due(generation)) else { return };
        let image = self.state().table.image();
        if let Err(error) = journal.compact(&image).await {
            tracing::warn!(%error, "the journal could not be compacted; it is tried again later");
        }
    }

    pub(crate) fn send(&self, event: BalancerEvent) {
        // Nobody listening is no fault.
        let _ = self.events.send(Notice::Event(event));
    }

    fn observe(&self, query: &ObserveQuery) -> GatewayView {
        // Before the counters: what a thread began before it acknowledged is counted by then.
        let generation = self.shared.served();
        let now = self.shared.now();
        let state = self.state();
        let wanted = |endpoint: &ews_core::EndpointKey| {
            query.endpoints.is_empty() || query.endpoints.contains(endpoint)
        };
        let endpoints = state.routing.endpoints();
        let mut views: Vec<EndpointView> = Vec::new();
        for ((pool, key), known) in endpoints {
            if query.pool.as_ref().is_some_and(|asked| asked != pool) || !wanted(key) {
                continue;
            }
            let listed = known.iter().filter(|one| !one.is_removed() || one.in_flight() > 0);
            let view = listed.map(|one| one.view(now)).reduce(|before, mut last| {
                last.in_flight = sum(before.in_flight, last.in_flight);
                last.requests = sum(before.requests, last.requests);
                last.errors = sum(before.errors, last.errors);
                last.forced = sum(before.forced, last.forced);
                last
            });
            views.extend(view);
        }
        GatewayView::new(self.id.clone(), Some(generation), views)
    }
}

fn sum(a: Option<u64>, b: Option<u64>) -> Option<u64> {
    Some(a?.saturating_add(b?))
}

#[async_trait]
impl Balancer for Gateway {
    fn capabilities(&self) -> CapabilitySet {
        capabilities()
    }

    async fn apply(&self, change: &Change) -> Result<Applied> {
        let (core, change) = (self.core().clone(), change.clone());
        detach(async move { core.apply(&change).await }).await
    }

    async fn objects(&self, query: &ObjectQuery) -> Result<Vec<Stored>> {
        self.core().expire();
        self.core().state().table.objects(query)
    }

    async fn observe(&self, query: &ObserveQuery) -> Result<Vec<GatewayView>> {
        Ok(vec![self.core().observe(query)])
    }

    async fn watch(&self) -> Result<BoxStream<'static, Notice<BalancerEvent>>> {
        Ok(Box::pin(Watch::new(self.core().events.subscribe())))
    }
}

type Next =
    (std::result::Result<Notice<BalancerEvent>, RecvError>, broadcast::Receiver<Notice<BalancerEvent>>);

/// A watcher's stream. The receiver moves into the wait for the next event and comes back with it.
struct Watch(std::pin::Pin<Box<dyn Future<Output = Next> + Send>>);

impl Watch {
    fn new(mut receiver: broadcast::Receiver<Notice<BalancerEvent>>) -> Self {
        Self(Box::pin(async move { (receiver.recv().await, receiver) }))
    }
}

impl futures_core::Stream for Watch {
    type Item = Notice<BalancerEvent>;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        let (received, receiver) = std::task::ready!(self.0.as_mut().poll(cx));
        let notice = match received {
            Ok(notice) => notice,
            Err(RecvError::Lagged(_)) => Notice::Gap(Gap::Lagged),
            Err(RecvError::Closed) => return std::task::Poll::Ready(None),
        };
        *self = Self::new(receiver);
        std::task::Poll::Ready(Some(notice))
    }
}
