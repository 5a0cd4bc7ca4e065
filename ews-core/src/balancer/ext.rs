//! The two moves of a rollout, built on [`Balancer`]: shift weights, and drain an endpoint with proof.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use futures_core::stream::BoxStream;
use futures_util::StreamExt as _;
use futures_util::future::{Either, select};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use crate::balancer::{
    Applied, Balancer, BalancerEvent, Change, GatewayView, MemberState, ObserveQuery, Op, WeightedPool,
};
use crate::capability::Capability;
use crate::endpoint::EndpointKey;
use crate::error::{Error, ErrorKind, Result, Retry};
use crate::event::Notice;
use crate::id::{ChangeId, GatewayId, PoolId, RouteSetId};

/// How often the gateways are asked when no event says that it is worth it, and the pause before a failed call is made again.
const POLL: Duration = Duration::from_millis(500);
/// The least time between two looks, so that a storm of events is no storm of questions.
const PAUSE: Duration = Duration::from_millis(20);
/// How long one call may take.
const CALL: Duration = Duration::from_secs(5);
/// How long the closing of what is left may take, from the deadline on.
const CLOSING: Duration = Duration::from_secs(10);
/// The longest deadline; it only keeps clock arithmetic from overflowing.
const FOREVER: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// How a drain ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Drained {
    /// Every gateway serves the drain and said that nothing is under way any more.
    Drained,
    /// So many requests or connections were closed at the deadline, and now nothing is under way at any gateway.
    Forced(u64),
    /// The deadline passed without proof: the balancer can't count, can't close, or a gateway did not answer. What is under
    /// way is not known.
    Elapsed,
}

/// The two moves of a rollout, built on [`Balancer`].
///
/// A drain is only worth its proof, so every doubt counts as busy: a gateway that does not answer, one that has not yet
/// heard of the drain (its generation is lower), one that does not count, and a balancer that names no gateway at all.
/// Events only shorten the waits between two looks; without them, or with all of them lost, the look comes every
/// 500 ms. Each call has a time limit of its own and failures that may pass are tried again, which is harmless since the
/// changes carry ids.
#[async_trait]
pub trait BalancerExt: Balancer {
    /// Sets the shares of these pools in every rule of the route set that forwards to them, leaving all else as it is.
    ///
    /// # Errors
    /// `NotFound` for a route set that is not there or a pool that none of its rules forwards to; those of
    /// [`Balancer::apply`].
    async fn shift(&self, change: ChangeId, set: &RouteSetId, weights: &[WeightedPool]) -> Result<Applied> {
        let op = Op::Shares { set: set.clone(), weights: weights.to_vec() };
        let applied = self.apply(&Change::new(change, [op])).await;
        applied.map_err(|error| error.with_operation("balancer.shift").with_context("route_set", set))
    }

    /// Takes an endpoint out of traffic and waits until nothing of it is under way at any gateway, at most for `deadline`;
    /// what is left then is closed where the balancer can.
    ///
    /// `change` is extended by `.drain` and `.close` for the changes that it makes; calling again with the same `change` goes
    /// on where the last call stopped. The endpoint is left there, draining or closed: its removal is the caller's. An
    /// endpoint that is not there any more is watched until no gateway lists it.
    ///
    /// It ends at most 15 s after the deadline, whatever the balancer does: 5 s for a call that is under way, 10 s for
    /// closing. Dropping the future leaves the endpoint draining. Deadlines above 30 days are taken as 30 days.
    ///
    /// # Errors
    /// Those of [`Balancer::apply`] and [`Balancer::observe`] that no retry can cure, and others of `apply` when the time is
    /// over; the endpoint may be draining then. `Invalid` where `change` is too long to be extended.
    async fn drain(
        &self,
        change: &ChangeId,
        pool: &PoolId,
        endpoint: &EndpointKey,
        deadline: Duration,
    ) -> Result<Drained> {
        let step = |name: &str, state| {
            let op = Op::State { pool: pool.clone(), endpoint: endpoint.clone(), state };
            Ok::<_, Error>(Change::new(ChangeId::new(format!("{change}.{name}"))?, [op]))
        };
        let (begin, close) = (step("drain", MemberState::Draining)?, step("close", MemberState::Closed)?);
        let capabilities = self.capabilities();
        let query = ObserveQuery::endpoint(pool.clone(), endpoint.clone());
        let ends = Instant::now() + deadline.min(FOREVER);

        // Before the change, so that no event of it is missed. Without a stream the polls are enough.
        let watch = timeout_at((Instant::now() + CALL).min(ends), self.watch());
        let mut events = watch.await.ok().and_then(Result::ok);
        let mut floor = settle(self, &begin, ends).await?;
        let mut before = BTreeMap::new();
        if capabilities.has(Capability::InFlight) {
            loop {
                if let Some(views) = look(self, &query, ends).await? {
                    if in_flight(&views, &query, floor) == Some(0) {
                        return Ok(Drained::Drained);
                    }
                    before = forced(&views, &query).unwrap_or_default();
                }
                if Instant::now() >= ends {
                    break;
                }
                pause(&mut events, &query, ends).await;
            }
        } else {
            sleep_until(ends).await;
        }

        if !capabilities.has(Capability::ForceClose) {
            return Ok(Drained::Elapsed);
        }
        let ends = Instant::now() + CLOSING;
        floor = settle(self, &close, ends).await?.max(floor);
        loop {
            if let Some(views) = look(self, &query, ends).await?
                && in_flight(&views, &query, floor) == Some(0)
            {
                // What an earlier drain of the same endpoint closed is in the counters too.
                let closed = forced(&views, &query).map(|now| {
                    now.iter()
                        .map(|(gateway, n)| n.saturating_sub(before.get(gateway).copied().unwrap_or(0)))
                        .sum()
                });
                return Ok(match closed {
                    None => Drained::Elapsed,
                    Some(0) => Drained::Drained,
                    Some(count) => Drained::Forced(count),
                });
            }
            if Instant::now() >= ends {
                return Ok(Drained::Elapsed);
            }
            pause(&mut events, &query, ends).await;
        }
    }
}

impl<T: Balancer + ?Sized> BalancerExt for T {}

/// Applies a change, again and again while that may help, and gives the generation from which on a gateway has heard of it;
/// 0 where its endpoint is not there. The last call begins before `ends`.
async fn settle<B: Balancer + ?Sized>(balancer: &B, change: &Change, ends: Instant) -> Result<u64> {
    loop {
        let error = match timeout_at(Instant::now() + CALL, balancer.apply(change)).await {
            Ok(Ok(applied)) => return Ok(applied.generation),
            Ok(Err(error)) if error.kind() == ErrorKind::NotFound => return Ok(0),
            Ok(Err(error)) => error,
            Err(_) => {
                Error::new(ErrorKind::Timeout, "the balancer did not answer within 5s").with_maybe_applied()
            }
        };
        // The change has an id, so that a look is not needed before it is sent again.
        if error.retry() == Retry::Never || Instant::now() + POLL >= ends {
            return Err(error.with_operation("balancer.drain").with_context("change", &change.id));
        }
        sleep(POLL).await;
    }
}

/// Asks the gateways; `None` where the balancer does not answer for now.
async fn look<B: Balancer + ?Sized>(
    balancer: &B,
    query: &ObserveQuery,
    ends: Instant,
) -> Result<Option<Vec<GatewayView>>> {
    // The last look may begin at the very end and still gets a moment.
    let limit = (Instant::now() + CALL).min(ends.max(Instant::now() + POLL));
    match timeout_at(limit, balancer.observe(query)).await {
        Ok(Ok(views)) => Ok(Some(views)),
        Ok(Err(error)) if error.retry() == Retry::Never => Err(error.with_operation("balancer.drain")),
        Ok(Err(_)) | Err(_) => Ok(None),
    }
}

/// Waits until an event says that a look is worth it, or for [`POLL`], or until `ends`.
async fn pause(
    events: &mut Option<BoxStream<'static, Notice<BalancerEvent>>>,
    query: &ObserveQuery,
    ends: Instant,
) {
    let until = (Instant::now() + POLL).min(ends);
    sleep_until((Instant::now() + PAUSE).min(until)).await;
    while let Some(stream) = events {
        let sleep = std::pin::pin!(sleep_until(until));
        match select(stream.next(), sleep).await {
            Either::Left((Some(notice), _)) if is_worth_a_look(&notice, query) => return,
            // A stream that never runs dry must not outrun the clock.
            Either::Left((Some(_), _)) if Instant::now() >= until => return,
            Either::Left((Some(_), _)) => tokio::task::yield_now().await,
            Either::Left((None, _)) => *events = None,
            Either::Right(_) => return,
        }
    }
    sleep_until(until).await;
}

fn is_worth_a_look(notice: &Notice<BalancerEvent>, query: &ObserveQuery) -> bool {
    match notice {
        Notice::Gap(_) | Notice::Event(BalancerEvent::Serving { .. }) => true,
        Notice::Event(BalancerEvent::Idle { pool, endpoint, .. }) => {
            query.pool.as_ref() == Some(pool) && query.endpoints.contains(endpoint)
        }
        Notice::Event(_) => false,
    }
}

/// What is under way at all gateways together; `None` where that is not known for each of them.
fn in_flight(views: &[GatewayView], query: &ObserveQuery, floor: u64) -> Option<u64> {
    if views.is_empty() {
        return None;
    }
    let mut sum = 0_u64;
    for view in views {
        // Below the floor, a gateway that lists nothing may still be about to learn of the endpoint as active.
        if view.generation? < floor {
            return None;
        }
        for endpoint in asked(view, query) {
            if endpoint.state == MemberState::Active {
                return None;
            }
            sum = sum.saturating_add(endpoint.in_flight?);
        }
    }
    Some(sum)
}

/// How much each gateway has closed by force so far; `None` where one does not know.
fn forced(views: &[GatewayView], query: &ObserveQuery) -> Option<BTreeMap<GatewayId, u64>> {
    let of = |view: &GatewayView| {
        let sum: Option<u64> = asked(view, query).map(|endpoint| endpoint.forced).sum();
        Some((view.gateway.clone(), sum?))
    };
    views.iter().map(of).collect()
}

fn asked<'a>(
    view: &'a GatewayView,
    query: &'a ObserveQuery,
) -> impl Iterator<Item = &'a crate::balancer::EndpointView> {
    view.endpoints
        .iter()
        .filter(|seen| query.pool.as_ref() == Some(&seen.pool) && query.endpoints.contains(&seen.endpoint))
}
