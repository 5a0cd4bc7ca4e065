//! One gateway of the [fake balancer](super::fake_balancer): what it serves, what it sees, and how it lags behind.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::balancer::{
    BalancerEvent, EndpointView, GatewayView, Member, MemberState, Object, ObjectRef, ObserveQuery,
};
use crate::endpoint::EndpointKey;
use crate::id::{GatewayId, PoolId};

/// How a gateway hears of changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Link {
    /// At once.
    #[default]
    Up,
    /// So long after, by tokio's clock.
    Slow(Duration),
    /// It answers, and hears of nothing new.
    Behind,
    /// It does not answer and hears of nothing new. It goes on serving what it has.
    Cut,
}

/// What one generation changed about endpoints.
#[derive(Debug, Clone)]
pub(super) struct Delta {
    pub(super) generation: u64,
    endpoints: Vec<(Name, Option<(MemberState, u32)>)>,
}

/// An endpoint of a pool.
type Name = (PoolId, EndpointKey);

impl Delta {
    pub(super) fn of<'a>(
        generation: u64,
        touched: impl Iterator<Item = (&'a ObjectRef, Option<&'a Object>)>,
    ) -> Self {
        let endpoint = |(reference, object): (&ObjectRef, Option<&Object>)| {
            let ObjectRef::Endpoint(pool, key) = reference else { return None };
            let member = match object {
                Some(Object::Endpoint(Member { state, weight, .. })) => Some((*state, *weight)),
                _ => None,
            };
            Some(((pool.clone(), key.clone()), member))
        };
        Self { generation, endpoints: touched.filter_map(endpoint).collect() }
    }
}

#[derive(Debug)]
struct Seen {
    state: MemberState,
    weight: u32,
    removed: bool,
    /// The tickets of the requests under way.
    tickets: Vec<u64>,
    requests: u64,
    errors: u64,
    forced: u64,
    healthy: bool,
}

#[derive(Debug)]
pub(super) struct FakeGateway {
    pub(super) link: Link,
    id: GatewayId,
    pub(super) generation: u64,
    /// What it has not heard of yet, the oldest first.
    waiting: VecDeque<Delta>,
    endpoints: BTreeMap<Name, Seen>,
}

impl FakeGateway {
    pub(super) fn new(id: GatewayId, generation: u64) -> Self {
        Self { link: Link::Up, id, generation, waiting: VecDeque::new(), endpoints: BTreeMap::new() }
    }

    pub(super) fn tell(&mut self, delta: Delta) {
        self.waiting.push_back(delta);
    }

    /// Hears of everything up to this generation, in order.
    pub(super) fn catch_up(&mut self, to: u64) -> Vec<BalancerEvent> {
        let mut events = Vec::new();
        while self.waiting.front().is_some_and(|delta| delta.generation <= to) {
            let Some(Delta { generation, endpoints }) = self.waiting.pop_front() else { break };
            for (name, member) in endpoints {
                events.extend(self.learn(name, member));
            }
            self.generation = generation;
            events.push(BalancerEvent::Serving { gateway: self.id.clone(), generation });
        }
        events
    }

    fn learn(&mut self, name: Name, member: Option<(MemberState, u32)>) -> Option<BalancerEvent> {
        let Some((state, weight)) = member else {
            let seen = self.endpoints.get_mut(&name)?;
            (seen.removed, seen.state) = (true, MemberState::Draining);
            if seen.tickets.is_empty() {
                self.endpoints.remove(&name);
            }
            return None;
        };
        let seen = self.endpoints.entry(name.clone()).or_insert_with(|| Seen {
            state,
            weight,
            removed: false,
            tickets: Vec::new(),
            requests: 0,
            errors: 0,
            forced: 0,
            healthy: true,
        });
        (seen.state, seen.weight, seen.removed) = (state, weight, false);
        if state == MemberState::Closed {
            seen.forced += seen.tickets.len() as u64;
            seen.errors += seen.tickets.len() as u64;
            seen.tickets.clear();
        }
        (state != MemberState::Active && seen.tickets.is_empty()).then(|| self.idle(name))
    }

    fn idle(&self, (pool, endpoint): Name) -> BalancerEvent {
        BalancerEvent::Idle { gateway: self.id.clone(), pool, endpoint }
    }

    /// Sends a request to this endpoint; false where it gets none from this gateway.
    pub(super) fn begin(&mut self, pool: &PoolId, endpoint: &EndpointKey, ticket: u64) -> bool {
        match self.endpoints.get_mut(&(pool.clone(), endpoint.clone())) {
            Some(seen) if seen.state == MemberState::Active && seen.weight > 0 => {
                seen.tickets.push(ticket);
                seen.requests += 1;
                true
            }
            _ => false,
        }
    }

    /// Ends a request; nothing happens where it is not this gateway's, or was closed.
    pub(super) fn end(&mut self, ticket: u64, failed: bool) -> Option<BalancerEvent> {
        let (name, seen) = self.endpoints.iter_mut().find(|(_, seen)| seen.tickets.contains(&ticket))?;
        seen.tickets.retain(|other| *other != ticket);
        seen.errors += u64::from(failed);
        let (idle, removed, name) =
            (seen.tickets.is_empty() && seen.state != MemberState::Active, seen.removed, name.clone());
        if idle && removed {
            self.endpoints.remove(&name);
        }
        idle.then(|| self.idle(name))
    }

    pub(super) fn set_health(
        &mut self,
        pool: &PoolId,
        endpoint: &EndpointKey,
        healthy: bool,
    ) -> Option<BalancerEvent> {
        let seen = self.endpoints.get_mut(&(pool.clone(), endpoint.clone()))?;
        seen.healthy = healthy;
        let (gateway, pool, endpoint) = (self.id.clone(), pool.clone(), endpoint.clone());
        Some(BalancerEvent::EndpointHealth { gateway, pool, endpoint, healthy })
    }

    /// Starts anew: what it saw is gone, what it serves is what it had.
    pub(super) fn restart(&mut self) {
        self.endpoints.retain(|_, seen| !seen.removed);
        for seen in self.endpoints.values_mut() {
            seen.tickets.clear();
            (seen.requests, seen.errors, seen.forced, seen.healthy) = (0, 0, 0, true);
        }
    }

    pub(super) fn view(&self, query: &ObserveQuery, counts: bool, health: bool) -> GatewayView {
        if self.link == Link::Cut {
            return GatewayView::new(self.id.clone(), None, Vec::new());
        }
        let wanted = |((pool, key), _): &(&Name, &Seen)| {
            query.pool.as_ref().is_none_or(|asked| asked == pool)
                && (query.endpoints.is_empty() || query.endpoints.contains(key))
        };
        let endpoint = |((pool, key), seen): (&Name, &Seen)| {
            let mut view = EndpointView::new(pool.clone(), key.clone(), seen.state, seen.weight);
            if counts {
                view.in_flight = Some(seen.tickets.len() as u64);
                view.requests = Some(seen.requests);
                view.errors = Some(seen.errors);
                view.forced = Some(seen.forced);
            }
            view.healthy = health.then_some(seen.healthy);
            view
        };
        let endpoints = self.endpoints.iter().filter(wanted).map(endpoint).collect();
        GatewayView::new(self.id.clone(), Some(self.generation), endpoints)
    }
}
