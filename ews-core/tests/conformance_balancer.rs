//! The balancer suite on the fake, and proof that its cases can fail: each mutation of the fake is caught by the case named
//! beside it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test"
)]

#[macro_use]
mod layered;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use ews_core::balancer::{
    Applied, Balancer, BalancerEvent, Change, GatewayView, Limits, MemberState, Object, ObjectQuery,
    ObjectRef, ObserveQuery, Op, Stored,
};
use ews_core::endpoint::EndpointAddress;
use ews_core::event::Notice;
use ews_core::testkit::conformance::balancer::{BalancerHarness, Target, run};
use ews_core::testkit::conformance::{Stop, Verdict};
use ews_core::testkit::fake_balancer::{FakeBalancer, Link, Ticket};
use ews_core::{Capability, CapabilitySet, ChangeId, Error, ErrorKind, GatewayId, Result, SystemClock};
use futures_core::stream::BoxStream;
use futures_util::StreamExt as _;
use layered::Over;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mutation {
    None,
    ReplayApplies,
    ForgetsOnReconnect,
    RemembersFewer,
    IdTakenTwice,
    ReplayComparesPreconditions,
    RemembersRefused,
    IgnoresPreconditions,
    VersionsRestart,
    RaisesThePoolToo,
    GlobalPrecondition,
    StaleIsInvalid,
    AppliesWhatItCan,
    DropCancels,
    TakesEmpty,
    ChecksEachOpAlone,
    TakesDangling,
    DeletesWhatIsUsed,
    DeleteNeedsObject,
    PoolDeleteFirst,
    PoolPutEmpties,
    MissingEndpointIsFine,
    SharesDropRules,
    DropsUnsupported,
    TakesAnyPath,
    StripsQuotes,
    ResolvesNames,
    Unordered,
    StopsAtAPage,
    KeepsEndedBlackholes,
    OneGatewayStaysBehind,
    WeightsDoNotReach,
    ObserveIgnoresQuery,
    KeyWithoutIncarnation,
    LeavesOutCutGateways,
    WatchBeginsLate,
    SwallowsGaps,
    CountsNothing,
    CountsWithoutCapability,
    CloseLeavesRequests,
    CutGatewayLooksIdle,
    ForgetsRemoved,
}

use Mutation as M;

/// Which case catches which mutation.
const TABLE: &[(Mutation, &str)] = &[
    (M::ReplayApplies, "a_replay_gives_the_same_result_and_changes_nothing"),
    (M::ForgetsOnReconnect, "a_replay_survives_a_reconnect"),
    (M::RemembersFewer, "a_change_is_remembered_over_999_others"),
    (M::IdTakenTwice, "an_id_with_other_operations_is_refused"),
    (M::ReplayComparesPreconditions, "a_replay_may_have_other_preconditions"),
    (M::RemembersRefused, "a_refused_change_is_not_remembered"),
    (M::IgnoresPreconditions, "a_precondition_holds_or_nothing_happens"),
    (M::VersionsRestart, "versions_grow_and_never_come_back"),
    (M::RaisesThePoolToo, "only_what_is_named_gets_a_new_version"),
    (M::GlobalPrecondition, "unrelated_changes_never_collide"),
    (M::StaleIsInvalid, "of_competing_changes_one_wins"),
    (M::AppliesWhatItCan, "a_change_is_all_or_nothing"),
    (M::DropCancels, "a_dropped_future_still_applies"),
    (M::TakesEmpty, "empty_and_oversized_changes_are_refused"),
    (M::ChecksEachOpAlone, "references_are_checked_on_the_result"),
    (M::TakesDangling, "dangling_references_are_refused"),
    (M::DeletesWhatIsUsed, "what_is_referred_to_is_not_removed"),
    (M::DeleteNeedsObject, "removing_what_is_not_there_is_harmless"),
    (M::PoolDeleteFirst, "removing_a_pool_removes_its_endpoints"),
    (M::PoolPutEmpties, "replacing_a_pool_keeps_its_endpoints"),
    (M::MissingEndpointIsFine, "weight_and_state_need_an_endpoint"),
    (M::SharesDropRules, "shares_change_nothing_else"),
    (M::DropsUnsupported, "what_it_can_not_do_is_refused"),
    (M::TakesAnyPath, "wrong_objects_are_refused"),
    (M::StripsQuotes, "hostile_texts_come_back_unharmed"),
    (M::ResolvesNames, "a_name_stays_a_name"),
    (M::Unordered, "objects_come_in_pages_and_in_order"),
    (M::StopsAtAPage, "ten_thousand_endpoints"),
    (M::KeepsEndedBlackholes, "a_blackhole_that_has_ended_is_forgotten"),
    (M::OneGatewayStaysBehind, "every_gateway_reaches_the_generation"),
    (M::WeightsDoNotReach, "weights_and_states_reach_every_gateway"),
    (M::ObserveIgnoresQuery, "only_what_was_asked_for_is_observed"),
    (M::KeyWithoutIncarnation, "a_reused_address_inherits_nothing"),
    (M::LeavesOutCutGateways, "a_cut_gateway_is_listed_without_a_generation"),
    (M::WatchBeginsLate, "a_watcher_hears_of_changes_from_the_call_on"),
    (M::SwallowsGaps, "a_slow_watcher_gets_a_gap"),
    (M::CountsNothing, "an_idle_endpoint_drains"),
    (M::CountsNothing, "a_drain_waits_for_requests"),
    (M::CountsWithoutCapability, "without_counts_a_drain_elapses"),
    (M::CloseLeavesRequests, "a_drain_closes_what_is_left"),
    (M::CutGatewayLooksIdle, "a_cut_gateway_is_no_proof"),
    (M::ForgetsRemoved, "a_removed_endpoint_is_listed_while_it_is_busy"),
];

/// The fake with one thing broken.
struct Broken {
    inner: FakeBalancer,
    mutation: Mutation,
    state: Mutex<BrokenState>,
    counter: AtomicU64,
}

#[derive(Default)]
struct BrokenState {
    refused: BTreeSet<ChangeId>,
    seen: BTreeMap<ChangeId, Change>,
    base: BTreeMap<String, u64>,
}

impl Broken {
    fn fresh(&self) -> ChangeId {
        ChangeId::new(format!("broken-{}", self.counter.fetch_add(1, Ordering::Relaxed))).unwrap()
    }

    async fn as_other(&self, change: &Change, ops: Vec<Op>) -> Result<Applied> {
        let mut other = Change::new(self.fresh(), ops);
        other.preconditions.clone_from(&change.preconditions);
        self.inner.apply(&other).await
    }

    fn unquoted(object: &mut Object) {
        if let Object::Pool(pool) = object {
            let kept: Vec<(String, String)> =
                pool.labels.iter().map(|(k, v)| (k.to_owned(), v.replace('"', ""))).collect();
            pool.labels = ews_core::Labels::new(kept).unwrap();
        }
    }
}

#[async_trait]
impl Balancer for Broken {
    fn capabilities(&self) -> CapabilitySet {
        self.inner.capabilities()
    }

    async fn apply(&self, change: &Change) -> Result<Applied> {
        let mut change = change.clone();
        let named_pool = |op: &Op| match op {
            Op::State { pool, .. } => Some(ObjectRef::Pool(pool.clone())),
            _ => None,
        };
        match self.mutation {
            M::ReplayApplies => return self.as_other(&change, change.ops.clone()).await,
            M::ForgetsOnReconnect if self.counter.load(Ordering::Relaxed) > 0 => {
                return self.as_other(&change, change.ops.clone()).await;
            }
            M::RemembersFewer if self.state.lock().unwrap().seen.len() > 900 => {
                return self.as_other(&change, change.ops.clone()).await;
            }
            M::RemembersFewer => {
                self.state.lock().unwrap().seen.insert(change.id.clone(), change.clone());
            }
            M::IdTakenTwice => match self.inner.apply(&change).await {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                    return self.as_other(&change, change.ops.clone()).await;
                }
                other => return other,
            },
            M::ReplayComparesPreconditions => {
                let before = self.state.lock().unwrap().seen.insert(change.id.clone(), change.clone());
                if before.is_some_and(|before| before != change) {
                    return Err(Error::new(ErrorKind::AlreadyExists, "another change"));
                }
            }
            M::RemembersRefused => {
                if self.state.lock().unwrap().refused.contains(&change.id) {
                    return Err(Error::new(ErrorKind::AlreadyExists, "refused before"));
                }
                let result = self.inner.apply(&change).await;
                if result.is_err() {
                    self.state.lock().unwrap().refused.insert(change.id);
                }
                return result;
            }
            M::IgnoresPreconditions => change.preconditions.clear(),
            M::VersionsRestart => {
                let mut applied = self.inner.apply(&change).await?;
                let mut state = self.state.lock().unwrap();
                for op in &change.ops {
                    if let Op::Delete(reference) = op {
                        state.base.insert(reference.to_string(), applied.generation);
                    }
                }
                for (name, version) in &mut applied.versions {
                    *version -= state.base.get(name).copied().unwrap_or(0);
                }
                return Ok(applied);
            }
            M::RaisesThePoolToo => {
                let pools: BTreeSet<ObjectRef> = change.ops.iter().filter_map(named_pool).collect();
                let stored = self.inner.objects(&ObjectQuery::only(pools.clone())).await?;
                if !pools.is_empty() {
                    change.ops.extend(stored.into_iter().map(|stored| Op::Put(stored.object)));
                }
            }
            M::GlobalPrecondition => {
                let generation = self.inner.observe(&ObserveQuery::default()).await?[0].generation;
                if change
                    .preconditions
                    .iter()
                    .any(|wanted| wanted.version.is_some_and(|v| Some(v) < generation))
                {
                    return Err(Error::new(ErrorKind::Stale, "something changed"));
                }
            }
            M::StaleIsInvalid => {
                return self.inner.apply(&change).await.map_err(|error| match error.kind() {
                    ErrorKind::Stale => Error::invalid("stale"),
                    _ => error,
                });
            }
            M::AppliesWhatItCan if change.ops.len() > 1 => {
                if let Err(error) = self.inner.apply(&change).await {
                    for op in change.ops.clone() {
                        let _ = self.as_other(&change, vec![op]).await;
                    }
                    return Err(error);
                }
            }
            M::DropCancels => tokio::time::sleep(Duration::from_millis(1)).await,
            M::TakesEmpty if change.ops.is_empty() => {
                return Ok(Applied::new(0, BTreeMap::new()));
            }
            M::ChecksEachOpAlone => {
                if let Some(op) = change.ops.first() {
                    self.as_other(&change, vec![op.clone()]).await?;
                }
            }
            M::TakesDangling => match self.inner.apply(&change).await {
                Err(error) if error.message().contains("refers to") => {
                    return Ok(Applied::new(0, BTreeMap::new()));
                }
                other => return other,
            },
            M::DeletesWhatIsUsed => match self.inner.apply(&change).await {
                Err(error) if error.message().contains("can't be removed") => {
                    return Ok(Applied::new(0, BTreeMap::new()));
                }
                other => return other,
            },
            M::DeleteNeedsObject => {
                for op in &change.ops {
                    if let Op::Delete(reference) = op
                        && self.inner.objects(&ObjectQuery::only([reference.clone()])).await?.is_empty()
                    {
                        return Err(Error::not_found("object", reference));
                    }
                }
            }
            M::PoolDeleteFirst => {
                if let [Op::Delete(ObjectRef::Pool(pool))] = change.ops.as_slice() {
                    let left = self.inner.objects(&ObjectQuery::pool(pool.clone())).await?;
                    if !left.is_empty() {
                        return Err(Error::new(ErrorKind::Busy, "the pool is not empty"));
                    }
                }
            }
            M::PoolPutEmpties => {
                if let [Op::Put(Object::Pool(pool))] = change.ops.as_slice() {
                    change.ops.insert(0, Op::Delete(ObjectRef::Pool(pool.id.clone())));
                }
            }
            M::MissingEndpointIsFine => match self.inner.apply(&change).await {
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    return Ok(Applied::new(0, BTreeMap::new()));
                }
                other => return other,
            },
            M::SharesDropRules => {
                if let [Op::Shares { set, .. }] = change.ops.as_slice() {
                    let applied = self.inner.apply(&change).await?;
                    let query = ObjectQuery::only([ObjectRef::RouteSet(set.clone())]);
                    let mut object = self.inner.objects(&query).await?.remove(0).object;
                    if let Object::RouteSet(routes) = &mut object {
                        routes.rules.truncate(1);
                    }
                    self.as_other(&change, vec![Op::Put(object)]).await?;
                    return Ok(applied);
                }
            }
            M::DropsUnsupported => match self.inner.apply(&change).await {
                Err(error) if error.kind() == ErrorKind::Unsupported => {
                    return Ok(Applied::new(0, BTreeMap::new()));
                }
                other => return other,
            },
            M::TakesAnyPath => match self.inner.apply(&change).await {
                Err(error) if error.message().contains("path") => {
                    return Ok(Applied::new(0, BTreeMap::new()));
                }
                other => return other,
            },
            M::StripsQuotes => {
                for op in &mut change.ops {
                    if let Op::Put(object) = op {
                        Self::unquoted(object);
                    }
                }
            }
            M::ResolvesNames => {
                for op in &mut change.ops {
                    if let Op::Put(Object::Endpoint(member)) = op
                        && member.endpoint.address.host().is_some()
                    {
                        member.endpoint.address = EndpointAddress::Ip(([127, 0, 0, 1], 80).into());
                    }
                }
            }
            M::WeightsDoNotReach => change.ops.retain(|op| !matches!(op, Op::Weight { .. })),
            M::CloseLeavesRequests => {
                change.ops.retain(|op| !matches!(op, Op::State { state: MemberState::Closed, .. }));
                if change.ops.is_empty() {
                    return Ok(Applied::new(0, BTreeMap::new()));
                }
            }
            _ => {}
        }
        self.inner.apply(&change).await
    }

    async fn objects(&self, query: &ObjectQuery) -> Result<Vec<Stored>> {
        let mut found = self.inner.objects(query).await?;
        match self.mutation {
            M::Unordered => found.reverse(),
            M::StopsAtAPage if query.after.is_some() && query.limit > 100 => found.clear(),
            M::KeepsEndedBlackholes => {
                if let Some(ObjectRef::Blackhole(target)) = query.only.first()
                    && found.is_empty()
                {
                    let until = ews_core::Timestamp::EPOCH;
                    let object = Object::Blackhole(ews_core::balancer::Blackhole::new(target.clone(), until));
                    found.push(Stored::new(1, object));
                }
            }
            M::VersionsRestart => {
                let state = self.state.lock().unwrap();
                for stored in &mut found {
                    let name = stored.object.reference().to_string();
                    stored.version -= state.base.get(&name).copied().unwrap_or(0);
                }
            }
            _ => {}
        }
        Ok(found)
    }

    async fn observe(&self, query: &ObserveQuery) -> Result<Vec<GatewayView>> {
        if self.mutation == M::ObserveIgnoresQuery {
            return self.inner.observe(&ObserveQuery::default()).await;
        }
        let mut views = self.inner.observe(query).await?;
        match self.mutation {
            M::OneGatewayStaysBehind => views[1].generation = Some(0),
            M::KeyWithoutIncarnation => {
                for view in &mut views {
                    view.endpoints.dedup_by(|a, b| a.endpoint.instance == b.endpoint.instance);
                }
            }
            M::LeavesOutCutGateways => views.retain(|view| view.generation.is_some()),
            M::CountsNothing => {
                views.iter_mut().flat_map(|v| &mut v.endpoints).for_each(|e| e.in_flight = None)
            }
            M::CountsWithoutCapability => {
                views.iter_mut().flat_map(|v| &mut v.endpoints).for_each(|e| e.in_flight = Some(0));
            }
            M::CutGatewayLooksIdle => {
                let newest = views.iter().filter_map(|view| view.generation).max();
                views.iter_mut().for_each(|view| view.generation = newest);
            }
            M::ForgetsRemoved => {
                for view in &mut views {
                    let mut kept = Vec::new();
                    for seen in std::mem::take(&mut view.endpoints) {
                        let endpoint = ObjectRef::Endpoint(seen.pool.clone(), seen.endpoint.clone());
                        if !self.inner.objects(&ObjectQuery::only([endpoint])).await?.is_empty() {
                            kept.push(seen);
                        }
                    }
                    view.endpoints = kept;
                }
            }
            _ => {}
        }
        Ok(views)
    }

    async fn watch(&self) -> Result<BoxStream<'static, Notice<BalancerEvent>>> {
        match self.mutation {
            M::SwallowsGaps => {
                let events = self.inner.watch().await?;
                Ok(Box::pin(events.filter(|notice| {
                    let event = matches!(notice, Notice::Event(_));
                    async move { event }
                })))
            }
            M::WatchBeginsLate => {
                let inner = self.inner.clone();
                Ok(Box::pin(
                    futures_util::stream::once(async move { inner.watch().await.unwrap() }).flatten(),
                ))
            }
            _ => self.inner.watch().await,
        }
    }
}

struct Harness {
    mutation: Mutation,
    over: Over,
    without: Option<Capability>,
    only: Option<&'static str>,
    fake: Mutex<FakeBalancer>,
    tickets: Mutex<Vec<Ticket>>,
    begun: AtomicU64,
}

impl Harness {
    fn new(mutation: Mutation, without: Option<Capability>) -> Self {
        let fake = Mutex::new(FakeBalancer::new());
        Self {
            mutation,
            over: Over::Nothing,
            without,
            only: None,
            fake,
            tickets: Mutex::default(),
            begun: AtomicU64::new(0),
        }
    }

    fn fake(&self) -> FakeBalancer {
        self.fake.lock().unwrap().clone()
    }
}

#[async_trait]
impl BalancerHarness for Harness {
    async fn balancer(&self) -> Result<Arc<dyn Balancer>, Stop> {
        let mut capabilities = CapabilitySet::all();
        if let Some(missing) = self.without {
            capabilities = capabilities.without(missing);
        }
        let inner = FakeBalancer::with(capabilities, Limits::default(), Arc::new(SystemClock));
        // One gateway lags, as gateways do.
        inner.set_link(&inner.gateways()[1], Link::Slow(Duration::from_millis(30)));
        *self.fake.lock().unwrap() = inner.clone();
        let (state, counter) = (Mutex::default(), AtomicU64::new(0));
        let driver: Arc<dyn Balancer> = Arc::new(Broken { inner, mutation: self.mutation, state, counter });
        Ok(behind!(self.over, driver))
    }

    fn name(&self) -> String {
        format!("fake, {:?}, without {:?}", self.mutation, self.without)
    }

    fn wants(&self, case: &str) -> bool {
        self.only.is_none_or(|only| only == case)
    }

    async fn reconnect(&self) -> Result<Arc<dyn Balancer>, Stop> {
        self.fake().restart()?;
        let (inner, state, counter) = (self.fake(), Mutex::default(), AtomicU64::new(1));
        let driver: Arc<dyn Balancer> = Arc::new(Broken { inner, mutation: self.mutation, state, counter });
        Ok(behind!(self.over, driver))
    }

    async fn begin_request(&self, target: &Target) -> Result<(), Stop> {
        let fake = self.fake();
        let gateways = fake.gateways();
        let number = self.begun.fetch_add(1, Ordering::Relaxed) as usize;
        let ticket = fake.begin_request(&gateways[number % 2], &target.pool, &target.endpoint.key);
        self.tickets.lock().unwrap().push(ticket.ok_or_else(|| Stop::fail("the gateway sends it nothing"))?);
        Ok(())
    }

    async fn end_requests(&self) -> Result<(), Stop> {
        let fake = self.fake();
        self.tickets.lock().unwrap().drain(..).for_each(|ticket| fake.end_request(ticket));
        Ok(())
    }

    async fn cut_gateway(&self) -> Result<GatewayId, Stop> {
        let (fake, gateway) = (self.fake(), self.fake().gateways()[1].clone());
        fake.set_link(&gateway, Link::Cut);
        Ok(gateway)
    }

    async fn heal_gateway(&self) -> Result<(), Stop> {
        let fake = self.fake();
        fake.set_link(&fake.gateways()[1], Link::Up);
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn the_fake_passes() {
    let report = run(&Harness::new(M::None, None)).await;
    report.assert_passed(&["without_counts_a_drain_elapses"]);
}

#[tokio::test(start_paused = true)]
async fn the_fake_passes_whatever_it_lacks() {
    for missing in Capability::ALL {
        let skips: &[&str] = match missing {
            Capability::InFlight => &[
                "an_idle_endpoint_drains",
                "a_drain_waits_for_requests",
                "a_drain_closes_what_is_left",
                "a_removed_endpoint_is_listed_while_it_is_busy",
            ],
            Capability::ForceClose => &["a_drain_closes_what_is_left", "without_counts_a_drain_elapses"],
            Capability::Weights => &["shares_change_nothing_else", "without_counts_a_drain_elapses"],
            Capability::RoutePath => &["hostile_texts_come_back_unharmed", "without_counts_a_drain_elapses"],
            Capability::Blackhole => {
                &["a_blackhole_that_has_ended_is_forgotten", "without_counts_a_drain_elapses"]
            }
            Capability::RouteHost
            | Capability::RouteWildcard
            | Capability::RouteRegex
            | Capability::RouteAttributes
            | Capability::BalancePeakEwma
            | Capability::BalanceLeastRequest
            | Capability::RouteFilters
            | Capability::Http2
            | Capability::BalanceHash
            | Capability::Sticky
            | Capability::SlowStart
            | Capability::TcpRoutes
            | Capability::Tls
            | Capability::TrafficPolicies => &["without_counts_a_drain_elapses"],
            _ => continue,
        };
        run(&Harness::new(M::None, Some(*missing))).await.assert_passed(skips);
    }
}

#[tokio::test(start_paused = true)]
async fn every_mutation_is_caught_by_its_case() {
    let mut survived = Vec::new();
    let mut covered = BTreeSet::new();
    for (mutation, case) in TABLE {
        let missing = match mutation {
            M::CountsWithoutCapability => Some(Capability::InFlight),
            M::DropsUnsupported => Some(Capability::Tls),
            _ => None,
        };
        let report = run(&Harness { only: Some(case), ..Harness::new(*mutation, missing) }).await;
        let outcome = report.outcomes.iter().find(|outcome| outcome.name == *case);
        let outcome = outcome.unwrap_or_else(|| panic!("no case `{case}`"));
        if !matches!(outcome.verdict, Verdict::Failed(_)) {
            survived.push(format!("{mutation:?} passes {case}"));
        }
        covered.insert(outcome.name.clone());
    }
    assert_eq!(survived, Vec::<String>::new());
    let all = run(&Harness::new(M::None, None)).await;
    let bare: Vec<_> =
        all.outcomes.iter().map(|outcome| &*outcome.name).filter(|name| !covered.contains(*name)).collect();
    assert_eq!(bare, Vec::<&str>::new(), "cases without a mutation");
}

#[tokio::test(start_paused = true)]
async fn the_fake_passes_behind_each_layer() {
    for over in Over::ALL {
        let harness = Harness { over, ..Harness::new(M::None, None) };
        let report = run(&harness).await;
        // The fake counts what is under way, so the case for balancers that can't has nothing to try.
        let problems = report.problems(&["without_counts_a_drain_elapses"]);
        assert_eq!(problems, Vec::<String>::new(), "behind {over:?}");
    }
}
