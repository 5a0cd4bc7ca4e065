//! A balancer in memory: the real [`Table`] behind several gateways that may lag, be slow, be cut off or restart.
//!
//! No traffic flows. A test says which requests are under way ([`FakeBalancer::begin_request`]), so that drains can be
//! driven to each of their ends. Changes run in a task of their own, as the contract wants it: dropping the caller's future
//! abandons only the wait.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use futures_core::stream::BoxStream;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use super::call_fault::{CallFault, FaultQueue};
use super::fake_gateway::{Delta, FakeGateway};
use crate::balancer::{
    Applied, Balancer, BalancerEvent, Change, GatewayView, Limits, ObjectQuery, ObserveQuery, Outcome,
    Stored, Table,
};
use crate::capability::{Capability, CapabilitySet};
use crate::clock::{Clock, SystemClock};
use crate::detach::detach;
use crate::endpoint::EndpointKey;
use crate::error::{Error, Result};
use crate::event::{Gap, Notice};
use crate::id::{GatewayId, PoolId};

pub use super::fake_gateway::Link;

/// The calls that a [`CallFault`] can hit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum BalancerCall {
    /// [`Balancer::apply`].
    Apply,
    /// [`Balancer::objects`].
    Objects,
    /// [`Balancer::observe`].
    Observe,
    /// [`Balancer::watch`].
    Watch,
}

/// A balancer in memory. See the [module](self). Clones are the same balancer.
#[derive(Clone)]
pub struct FakeBalancer {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for FakeBalancer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FakeBalancer").finish_non_exhaustive()
    }
}

struct Shared {
    state: Mutex<State>,
    faults: FaultQueue<BalancerCall>,
    clock: Arc<dyn Clock>,
}

struct State {
    table: Table,
    gateways: BTreeMap<GatewayId, FakeGateway>,
    events: broadcast::Sender<Notice<BalancerEvent>>,
    silent: bool,
    next_ticket: u64,
}

/// A request that is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket(u64);

impl FakeBalancer {
    /// How many events wait for a slow consumer.
    pub const QUEUE: usize = 1_024;

    /// A balancer that can do everything, with the gateways `gw-1` and `gw-2`.
    pub fn new() -> Self {
        Self::with(CapabilitySet::all(), Limits::default(), Arc::new(SystemClock))
    }

    /// A balancer with these capabilities, limits and clock, and the gateways `gw-1` and `gw-2`.
    pub fn with(capabilities: CapabilitySet, limits: Limits, clock: Arc<dyn Clock>) -> Self {
        let names = ["gw-1", "gw-2"].into_iter().filter_map(|name| GatewayId::new(name).ok());
        let state = State {
            table: Table::new(capabilities, limits),
            gateways: names.map(|id| (id.clone(), FakeGateway::new(id, 0))).collect(),
            events: broadcast::channel(Self::QUEUE).0,
            silent: false,
            next_ticket: 1,
        };
        Self { shared: Arc::new(Shared { state: Mutex::new(state), faults: FaultQueue::default(), clock }) }
    }

    /// The gateways' names.
    pub fn gateways(&self) -> Vec<GatewayId> {
        self.shared.state().gateways.keys().cloned().collect()
    }

    /// Lets a gateway go for good.
    pub fn forget_gateway(&self, gateway: &GatewayId) {
        self.shared.state().gateways.remove(gateway);
    }

    /// Sets how a gateway hears of changes. One that comes up again catches up at once.
    pub fn set_link(&self, gateway: &GatewayId, link: Link) {
        let mut state = self.shared.state();
        let generation = state.table.generation();
        let Some(found) = state.gateways.get_mut(gateway) else { return };
        found.link = link;
        let events = if link == Link::Up { found.catch_up(generation) } else { Vec::new() };
        state.send(events);
    }

    /// A gateway's process starts anew: its requests and counters are gone.
    pub fn restart_gateway(&self, gateway: &GatewayId) {
        if let Some(gateway) = self.shared.state().gateways.get_mut(gateway) {
            gateway.restart();
        }
    }

    /// The balancer's process starts anew from what it stored; watchers see a gap.
    ///
    /// # Errors
    /// `Corrupt` where what was stored can't be read again, which is a defect.
    pub fn restart(&self) -> Result<()> {
        let mut state = self.shared.state();
        let image = serde_json::to_string(&state.table.image())
            .and_then(|text| serde_json::from_str(&text))
            .map_err(|error| Error::internal("the table can't be stored").with_source(error))?;
        state.table = Table::restore(image, state.table.capabilities().clone(), *state.table.limits())?;
        let _ = state.events.send(Notice::Gap(Gap::EngineLost));
        Ok(())
    }

    /// From now on, events are lost without a word (true) or delivered (false).
    pub fn lose_events(&self, lost: bool) {
        self.shared.state().silent = lost;
    }

    /// Lets the next such call go wrong.
    pub fn inject(&self, call: BalancerCall, fault: CallFault) {
        self.shared.faults.push(call, fault);
    }

    /// Begins a request at an endpoint through a gateway; `None` where that gateway sends it nothing (it does not know it, or
    /// it is not active, or its weight is 0).
    pub fn begin_request(
        &self,
        gateway: &GatewayId,
        pool: &PoolId,
        endpoint: &EndpointKey,
    ) -> Option<Ticket> {
        let mut state = self.shared.state();
        let ticket = state.next_ticket;
        state.next_ticket += 1;
        state.gateways.get_mut(gateway)?.begin(pool, endpoint, ticket).then_some(Ticket(ticket))
    }

    /// Ends a request. Nothing happens where it was closed by force.
    pub fn end_request(&self, ticket: Ticket) {
        self.finish(ticket, false);
    }

    /// Ends a request with an error.
    pub fn fail_request(&self, ticket: Ticket) {
        self.finish(ticket, true);
    }

    fn finish(&self, Ticket(ticket): Ticket, failed: bool) {
        let mut state = self.shared.state();
        let events: Vec<BalancerEvent> =
            state.gateways.values_mut().filter_map(|gateway| gateway.end(ticket, failed)).collect();
        state.send(events);
    }

    /// A gateway's own checks change their mind about an endpoint.
    pub fn set_health(&self, gateway: &GatewayId, pool: &PoolId, endpoint: &EndpointKey, healthy: bool) {
        let mut state = self.shared.state();
        let event =
            state.gateways.get_mut(gateway).and_then(|found| found.set_health(pool, endpoint, healthy));
        state.send(event);
    }
}

impl Default for FakeBalancer {
    fn default() -> Self {
        Self::new()
    }
}

impl State {
    fn send(&self, events: impl IntoIterator<Item = BalancerEvent>) {
        if self.silent {
            return;
        }
        for event in events {
            // Nobody listening is no fault.
            let _ = self.events.send(Notice::Event(event));
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn apply(self: &Arc<Self>, change: &Change) -> Result<Applied> {
        let mut guard = self.state();
        let state = &mut *guard;
        state.table.expire(self.clock.now());
        let prepared = match state.table.prepare(change)? {
            Outcome::Replay(applied) => return Ok(applied),
            Outcome::New(prepared) => prepared,
        };
        let generation = prepared.applied().generation;
        let delta = Delta::of(generation, prepared.touched());
        let applied = state.table.commit(prepared)?;
        state.send([BalancerEvent::Applied { change: change.id.clone(), generation }]);
        let mut events = Vec::new();
        for (id, gateway) in &mut state.gateways {
            gateway.tell(delta.clone());
            match gateway.link {
                Link::Up => events.extend(gateway.catch_up(generation)),
                Link::Slow(delay) => {
                    let (shared, id) = (self.clone(), id.clone());
                    tokio::spawn(async move {
                        tokio::time::sleep(delay).await;
                        shared.catch_up(&id, generation);
                    });
                }
                Link::Behind | Link::Cut => {}
            }
        }
        state.send(events);
        Ok(applied)
    }

    fn catch_up(&self, gateway: &GatewayId, generation: u64) {
        let mut state = self.state();
        let Some(found) = state.gateways.get_mut(gateway) else { return };
        // It may have been cut off while the news was on its way.
        let events = if matches!(found.link, Link::Up | Link::Slow(_)) {
            found.catch_up(generation)
        } else {
            Vec::new()
        };
        state.send(events);
    }
}

#[async_trait]
impl Balancer for FakeBalancer {
    fn capabilities(&self) -> CapabilitySet {
        self.shared.state().table.capabilities().clone()
    }

    async fn apply(&self, change: &Change) -> Result<Applied> {
        let (shared, change) = (self.shared.clone(), change.clone());
        detach(async move { shared.faults.run(BalancerCall::Apply, || shared.apply(&change)).await }).await
    }

    async fn objects(&self, query: &ObjectQuery) -> Result<Vec<Stored>> {
        let read = || {
            let mut state = self.shared.state();
            state.table.expire(self.shared.clock.now());
            state.table.objects(query)
        };
        self.shared.faults.run(BalancerCall::Objects, read).await
    }

    async fn observe(&self, query: &ObserveQuery) -> Result<Vec<GatewayView>> {
        let look = || {
            let state = self.shared.state();
            let capabilities = state.table.capabilities();
            let (counts, health) =
                (capabilities.has(Capability::InFlight), capabilities.has(Capability::EndpointHealth));
            Ok(state.gateways.values().map(|gateway| gateway.view(query, counts, health)).collect())
        };
        self.shared.faults.run(BalancerCall::Observe, look).await
    }

    async fn watch(&self) -> Result<BoxStream<'static, Notice<BalancerEvent>>> {
        let subscribe = || Ok(self.shared.state().events.subscribe());
        let receiver = self.shared.faults.run(BalancerCall::Watch, subscribe).await?;
        Ok(Box::pin(futures_util::stream::unfold(receiver, |mut receiver| async move {
            match receiver.recv().await {
                Ok(notice) => Some((notice, receiver)),
                Err(RecvError::Lagged(_)) => Some((Notice::Gap(Gap::Lagged), receiver)),
                Err(RecvError::Closed) => None,
            }
        })))
    }
}
