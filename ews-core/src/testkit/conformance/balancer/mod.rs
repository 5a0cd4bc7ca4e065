//! The suite of the [`Balancer`] contract.
//!
//! A harness makes the balancer under test. What the contract says of changes and objects is tested with the contract
//! alone; what it says of gateways and requests needs hooks, and a hook that a harness lacks skips its cases by name.
//!
//! Every case uses names of its own, so that one balancer may serve the whole suite and even one that is in use: nothing
//! but the suite's own objects is touched. They are removed at the end of each case, as far as the case came.
//!
//! ```no_run
//! use std::sync::Arc;
//! use ews_core::testkit::conformance::balancer::{BalancerHarness, run};
//! use ews_core::{Balancer, testkit::{FakeBalancer, conformance::Stop}};
//!
//! struct Mine;
//! #[async_trait::async_trait]
//! impl BalancerHarness for Mine {
//!     async fn balancer(&self) -> Result<Arc<dyn Balancer>, Stop> {
//!         Ok(Arc::new(FakeBalancer::new()))
//!     }
//! }
//! # async fn all() {
//! run(&Mine).await.assert_passed(&["replay_survives_a_reconnect"]);
//! # }
//! ```

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;

use super::expect::run_cases;
use super::{Report, Stop};
use crate::balancer::{
    Applied, Balancer, Change, Domain, DomainName, GatewayView, Member, Object, ObjectQuery, ObjectRef,
    ObserveQuery, Op, PathMatch, Pool, RouteAction, RouteRule, RouteSet, Stored, WeightedPool,
};
use crate::capability::Capability;
use crate::endpoint::{Endpoint, EndpointAddress, EndpointKey, Scope};
use crate::error::Result as EwsResult;
use crate::id::{ChangeId, GatewayId, InstanceId, PoolId, PortName, RouteSetId};
use crate::instance::Incarnation;
use crate::spec::network::Protocol;

mod changes;
mod content;
mod gateways;
mod traffic;

/// Makes the balancer under test, and does what the contract itself can't.
#[async_trait]
pub trait BalancerHarness: Send + Sync {
    /// The balancer under test: for each case a new one, or always the same.
    async fn balancer(&self) -> Result<Arc<dyn Balancer>, Stop>;

    /// What is under test, for the report.
    fn name(&self) -> String {
        "balancer".to_owned()
    }

    /// Whether this case is to run; for work on a single one. Default: yes.
    fn wants(&self, case: &str) -> bool {
        let _ = case;
        true
    }

    /// What tells this run's names from those of an earlier run on the same balancer. Default: the time of day.
    fn run_id(&self) -> String {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        format!("{:x}", since.as_millis() & 0xffff_ffff)
    }

    /// How long a change may take to reach every gateway. Default 10 s.
    fn settle(&self) -> Duration {
        Duration::from_secs(10)
    }

    /// How many changes a slow watcher is made to miss; more than the balancer's queue holds. Default 2,000.
    fn burst(&self) -> usize {
        2_000
    }

    /// The address of the nth endpoint. Default: 127.0.0.1 and a port from 20,001 on, where nobody answers.
    fn address(&self, number: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 20_000_u16.saturating_add(number)))
    }

    /// The same balancer as a new process of its caller would reach it, after a restart of the balancer where that can be.
    async fn reconnect(&self) -> Result<Arc<dyn Balancer>, Stop> {
        Err(Stop::skip("the harness can't reconnect"))
    }

    /// Begins one more request at the only active endpoint of the target and keeps it under way until
    /// [`end_requests`](Self::end_requests).
    async fn begin_request(&self, target: &Target) -> Result<(), Stop> {
        let _ = target;
        Err(Stop::skip("the harness can't make traffic"))
    }

    /// Lets every request under way end.
    async fn end_requests(&self) -> Result<(), Stop> {
        Err(Stop::skip("the harness can't make traffic"))
    }

    /// Cuts one gateway off from the balancer, and says which; it goes on serving.
    async fn cut_gateway(&self) -> Result<GatewayId, Stop> {
        Err(Stop::skip("the harness can't cut a gateway off"))
    }

    /// Undoes [`cut_gateway`](Self::cut_gateway).
    async fn heal_gateway(&self) -> Result<(), Stop> {
        Ok(())
    }
}

/// Where a request goes.
#[derive(Debug, Clone)]
pub struct Target {
    /// The host name that leads to the pool.
    pub host: DomainName,
    /// The pool.
    pub pool: PoolId,
    /// Its only active endpoint.
    pub endpoint: Endpoint<EndpointAddress>,
}

/// Runs every case.
pub async fn run(harness: &dyn BalancerHarness) -> Report {
    let mut report = Report::new(format!("balancer ({})", harness.name()));
    let run_id = harness.run_id();
    let deadline = Duration::from_secs(60) + harness.settle() * 6;
    let bench = async |number: u16| -> Result<Bench<'_>, Stop> {
        let balancer = harness.balancer().await?;
        Ok(Bench { harness, balancer, prefix: format!("c{number}-{run_id}") })
    };
    run_cases! { report, deadline, harness, bench;
        1 changes::a_replay_gives_the_same_result_and_changes_nothing;
        2 changes::a_replay_survives_a_reconnect;
        3 changes::a_change_is_remembered_over_999_others;
        4 changes::an_id_with_other_operations_is_refused;
        5 changes::a_replay_may_have_other_preconditions;
        6 changes::a_refused_change_is_not_remembered;
        7 changes::a_precondition_holds_or_nothing_happens;
        8 changes::versions_grow_and_never_come_back;
        9 changes::only_what_is_named_gets_a_new_version;
        10 changes::unrelated_changes_never_collide;
        11 changes::of_competing_changes_one_wins;
        12 changes::a_change_is_all_or_nothing;
        13 changes::a_dropped_future_still_applies;
        14 changes::empty_and_oversized_changes_are_refused;
        20 content::references_are_checked_on_the_result;
        21 content::dangling_references_are_refused;
        22 content::what_is_referred_to_is_not_removed;
        23 content::removing_a_pool_removes_its_endpoints;
        24 content::removing_what_is_not_there_is_harmless;
        25 content::replacing_a_pool_keeps_its_endpoints;
        26 content::weight_and_state_need_an_endpoint;
        27 content::shares_change_nothing_else;
        28 content::what_it_can_not_do_is_refused;
        29 content::wrong_objects_are_refused;
        30 content::hostile_texts_come_back_unharmed;
        31 content::objects_come_in_pages_and_in_order;
        32 content::ten_thousand_endpoints;
        33 content::a_blackhole_that_has_ended_is_forgotten;
        34 content::a_name_stays_a_name;
        40 gateways::every_gateway_reaches_the_generation;
        41 gateways::weights_and_states_reach_every_gateway;
        42 gateways::only_what_was_asked_for_is_observed;
        43 gateways::a_reused_address_inherits_nothing;
        44 gateways::a_cut_gateway_is_listed_without_a_generation;
        45 gateways::a_watcher_hears_of_changes_from_the_call_on;
        46 gateways::a_slow_watcher_gets_a_gap;
        50 traffic::an_idle_endpoint_drains;
        51 traffic::a_drain_waits_for_requests;
        52 traffic::a_drain_closes_what_is_left;
        53 traffic::without_counts_a_drain_elapses;
        54 traffic::a_cut_gateway_is_no_proof;
        55 traffic::a_removed_endpoint_is_listed_while_it_is_busy;
    }
    report
}

/// What a case works with.
struct Bench<'a> {
    harness: &'a dyn BalancerHarness,
    balancer: Arc<dyn Balancer>,
    /// What the names of this case begin with.
    prefix: String,
}

impl Bench<'_> {
    fn id(&self, step: &str) -> EwsResult<ChangeId> {
        ChangeId::new(format!("{}-{step}", self.prefix))
    }

    fn pool(&self, name: &str) -> EwsResult<PoolId> {
        PoolId::new(format!("{}-{name}", self.prefix))
    }

    fn pool_ref(&self, name: &str) -> EwsResult<ObjectRef> {
        Ok(ObjectRef::Pool(self.pool(name)?))
    }

    fn put_pool(&self, name: &str) -> EwsResult<Op> {
        Ok(Op::Put(Object::Pool(Pool::new(self.pool(name)?))))
    }

    fn key(&self, number: u16, incarnation: u64) -> EwsResult<EndpointKey> {
        Ok(EndpointKey {
            instance: InstanceId::new(format!("{}-i{number}", self.prefix))?,
            incarnation: Incarnation(incarnation),
            port: PortName::new("http")?,
        })
    }

    fn member(&self, pool: &str, number: u16, incarnation: u64) -> EwsResult<Member> {
        let (address, protocol) = (self.harness.address(number), Protocol::Tcp);
        let key = self.key(number, incarnation)?;
        Ok(Member::new(self.pool(pool)?, Endpoint { key, address, protocol, scope: Scope::Loopback }))
    }

    fn put_member(&self, pool: &str, number: u16) -> EwsResult<Op> {
        Ok(Op::Put(Object::Endpoint(self.member(pool, number, 1)?)))
    }

    fn set(&self, name: &str) -> EwsResult<RouteSetId> {
        RouteSetId::new(format!("{}-{name}", self.prefix))
    }

    /// A route set that sends everything to these pools.
    fn routes(&self, name: &str, pools: &[(&str, u32)]) -> EwsResult<RouteSet> {
        let share =
            |(pool, weight): &(&str, u32)| Ok(WeightedPool { pool: self.pool(pool)?, weight: *weight });
        let shares = pools.iter().map(share).collect::<EwsResult<_>>()?;
        let rule = RouteRule::new(PathMatch::Prefix("/".to_owned()), RouteAction::Forward(shares));
        Ok(RouteSet { id: self.set(name)?, rules: vec![rule] })
    }

    fn put_routes(&self, name: &str, pools: &[(&str, u32)]) -> EwsResult<Op> {
        Ok(Op::Put(Object::RouteSet(self.routes(name, pools)?)))
    }

    fn host(&self) -> EwsResult<DomainName> {
        DomainName::new(&format!("{}.conformance.example", self.prefix))
    }

    fn domain(&self, routes: &str) -> EwsResult<Domain> {
        Ok(Domain { name: self.host()?, routes: self.set(routes)?, certificate: None, policy: None })
    }

    async fn apply(&self, step: &str, ops: impl IntoIterator<Item = Op>) -> EwsResult<Applied> {
        self.balancer.apply(&Change::new(self.id(step)?, ops)).await
    }

    async fn get(&self, reference: &ObjectRef) -> EwsResult<Option<Stored>> {
        Ok(self.balancer.objects(&ObjectQuery::only([reference.clone()])).await?.pop())
    }

    fn needs(&self, capability: Capability) -> Result<(), Stop> {
        if self.balancer.capabilities().has(capability) {
            return Ok(());
        }
        Err(Stop::skip(format!("the balancer lacks the capability `{capability}`")))
    }

    /// What all gateways see of a pool once each serves this generation.
    async fn settled(&self, generation: u64, pool: &str) -> Result<Vec<GatewayView>, Stop> {
        let query = ObserveQuery { pool: Some(self.pool(pool)?), ..ObserveQuery::default() };
        let ends = tokio::time::Instant::now() + self.harness.settle();
        loop {
            let views = self.balancer.observe(&query).await?;
            if !views.is_empty() && views.iter().all(|view| view.generation >= Some(generation)) {
                return Ok(views);
            }
            if tokio::time::Instant::now() >= ends {
                let all: Vec<_> = views.iter().map(|view| (view.gateway.clone(), view.generation)).collect();
                return Err(Stop::fail(format!(
                    "not every gateway serves generation {generation} within {:?}: {all:?}",
                    self.harness.settle()
                )));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Removes what a case made; what it could not is left to the next run's other names.
    async fn clean(&self, objects: impl IntoIterator<Item = ObjectRef>) {
        if let Ok(id) = self.id("clean") {
            let _ = self.balancer.apply(&Change::new(id, objects.into_iter().map(Op::Delete))).await;
        }
    }
}
