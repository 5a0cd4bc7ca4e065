//! The gateway as a balancer: what it is told, what it serves, what it says of it.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use ews_core::balancer::{
    Applied, Balancer, BalancerEvent, Change, EndpointView, GatewayView, Object, ObjectQuery, ObjectRef,
    ObserveQuery, Outcome, Prepared, Stored,
};
use ews_core::event::{Gap, Notice};
use ews_core::{Capability, CapabilitySet, Clock as _, Error, ErrorKind, Result, SystemClock, detach};
use futures_core::stream::BoxStream;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use crate::gateway::{Core, Gateway, snapshot};

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
        Capability::EndpointNames,
    ]
    .into_iter()
    .collect()
}

impl Core {
    pub(crate) async fn apply(self: &Arc<Self>, change: &Change) -> Result<Applied> {
        #[cfg(all(unix, feature = "handover"))]
        self.relay.changeable().await?;
        // One after the other; what is checked here is committed before anybody else looks.
        let mut turn = self.turn.lock().await;
        // It may have been handed over while we waited.
        #[cfg(all(unix, feature = "handover"))]
        self.relay.changeable().await?;
        self.decide(&mut turn, change).await
    }

    async fn decide(self: &Arc<Self>, turn: &mut Option<Prepared>, change: &Change) -> Result<Applied> {
        self.settle(turn).await?;
        let prepared = match self.state().table.prepare(change)? {
            Outcome::Replay(applied) => return Ok(applied),
            Outcome::New(prepared) => prepared,
        };
        let objects = prepared.touched().filter_map(|(_, object)| object);
        objects
            .into_iter()
            .try_for_each(snapshot::check)
            .and_then(|()| {
                let addresses = prepared.touched().filter_map(|(_, object)| match object? {
                    Object::Endpoint(member) => Some(&member.endpoint.address),
                    _ => None,
                });
                self.state().routing.names().check(addresses, self.shared.config.names.most)
            })
            .map_err(|error| error.with_operation("balancer.apply").with_context("change", &change.id))?;
        let Some(journal) = self.journal() else { return self.commit_new(prepared, change) };
        // Until the store has answered, and for good where this future is dropped meanwhile.
        let doubtful = turn.insert(prepared);
        if let Err(error) = journal.append(doubtful).await {
            let maybe = error.maybe_applied();
            if !maybe {
                *turn = None;
            }
            let kind = match error.kind() {
                ErrorKind::OutOfResources => ErrorKind::OutOfResources,
                _ => ErrorKind::Unavailable,
            };
            let error = Error::new(kind, "the change could not be made durable")
                .with_operation("balancer.apply")
                .with_source(error);
            return Err(if maybe { error.with_maybe_applied() } else { error });
        }
        match turn.take() {
            Some(prepared) => self.commit_new(prepared, change),
            None => Err(Error::internal("a change was lost on its way into the journal")),
        }
    }

    /// Makes true what an earlier write left open.
    pub(crate) async fn settle(&self, turn: &mut Option<Prepared>) -> Result<()> {
        let (Some(journal), Some(doubtful)) = (self.journal(), turn.as_ref()) else { return Ok(()) };
        let is_durable = journal.holds(&doubtful.remembered()).await?;
        if let Some(prepared) = turn.take().filter(|_| is_durable) {
            self.commit(prepared)?;
            #[cfg(all(unix, feature = "handover"))]
            self.relay.pass_over();
        }
        Ok(())
    }

    /// Commits, and lets whoever was before this gateway know.
    fn commit_new(&self, prepared: Prepared, change: &Change) -> Result<Applied> {
        let applied = self.commit(prepared)?;
        #[cfg(all(unix, feature = "handover"))]
        self.relay.pass_on(applied.generation, change);
        #[cfg(not(all(unix, feature = "handover")))]
        let _ = change;
        Ok(applied)
    }

    pub(crate) fn commit(&self, prepared: Prepared) -> Result<Applied> {
        let touched: Vec<ObjectRef> = prepared.touched().map(|(reference, _)| reference.clone()).collect();
        let change = prepared.remembered().id;
        let mut state = self.state();
        let applied = state.table.commit(prepared)?;
        let state = &mut *state;
        let snapshot = state.routing.update(&state.table, &touched);
        self.send(BalancerEvent::Applied { change, generation: applied.generation });
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
            if let Some(journal) = self.journal() {
                journal.ended(&ended);
            }
        }
    }

    pub(crate) fn send(&self, event: BalancerEvent) {
        // Nobody listening is no fault.
        let _ = self.events.send(Notice::Event(event));
    }

    /// What this gateway sees, and those before it that have something under way.
    pub(crate) fn views(&self, query: &ObserveQuery) -> Vec<GatewayView> {
        #[cfg(all(unix, feature = "handover"))]
        let views = self.relay.views(query, || self.observe(query));
        #[cfg(not(all(unix, feature = "handover")))]
        let views = vec![self.observe(query)];
        views
    }

    fn observe(&self, query: &ObserveQuery) -> GatewayView {
        // Before the counters: what a thread began before it acknowledged is counted by then.
        let served = self.shared.served();
        let now = self.shared.now();
        let state = self.state();
        let generation = served.min(state.table.generation());
        let wanted = |endpoint: &ews_core::EndpointKey| {
            query.endpoints.is_empty() || query.endpoints.contains(endpoint)
        };
        let endpoints = state.routing.endpoints();
        let mut views: Vec<EndpointView> = Vec::new();
        // Whoever waits for a drain asks for one endpoint again and again: that must not look at all of them.
        let named = query.pool.iter().flat_map(|pool| {
            let keys: BTreeSet<&ews_core::EndpointKey> = query.endpoints.iter().collect();
            keys.into_iter().filter_map(|key| endpoints.get_key_value(&(pool.clone(), key.clone())))
        });
        let any = endpoints
            .iter()
            .filter(|((pool, key), _)| query.pool.as_ref().is_none_or(|asked| asked == pool) && wanted(key));
        let is_named = query.pool.is_some() && !query.endpoints.is_empty();
        for (_, known) in named.chain(any.take(if is_named { 0 } else { usize::MAX })) {
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
        Ok(self.core().views(query))
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
