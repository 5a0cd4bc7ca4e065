//! Drain and shift on the fake balancer, driven to each of their ends on a paused clock.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use ews_core::balancer::{
    Applied, Balancer, BalancerEvent, BalancerExt, Change, Domain, DomainName, Drained, GatewayView, Limits,
    Member, MemberState, Object, ObjectQuery, ObjectRef, ObserveQuery, Op, PathMatch, Pool, RouteAction,
    RouteRule, RouteSet, Stored, WeightedPool,
};
use ews_core::event::Notice;
use ews_core::spec::network::Protocol;
use ews_core::testkit::CallFault;
use ews_core::testkit::fake_balancer::{BalancerCall, FakeBalancer, Link, Ticket};
use ews_core::{
    Capability, CapabilitySet, ChangeId, Endpoint, EndpointKey, ErrorKind, GatewayId, Incarnation,
    InstanceId, PoolId, PortName, Result, RouteSetId, Scope, SystemClock,
};
use futures_core::stream::BoxStream;
use tokio::time::Instant;

const MINUTE: Duration = Duration::from_secs(60);

fn id(text: &str) -> ChangeId {
    ChangeId::new(text).unwrap()
}

fn pool() -> PoolId {
    PoolId::new("web").unwrap()
}

fn key() -> EndpointKey {
    EndpointKey {
        instance: InstanceId::new("web-0").unwrap(),
        incarnation: Incarnation(1),
        port: PortName::new("http").unwrap(),
    }
}

fn gateway(number: u32) -> GatewayId {
    GatewayId::new(format!("gw-{number}")).unwrap()
}

fn member() -> Member {
    let address: std::net::SocketAddr = "127.0.0.1:8080".parse().unwrap();
    Member::new(pool(), Endpoint { key: key(), address, protocol: Protocol::Tcp, scope: Scope::Loopback })
}

async fn fill(balancer: &FakeBalancer) {
    let ops = [Op::Put(Object::Pool(Pool::new(pool()))), Op::Put(Object::Endpoint(member()))];
    balancer.apply(&Change::new(id("setup"), ops)).await.unwrap();
}

async fn with_one_endpoint() -> FakeBalancer {
    let balancer = FakeBalancer::new();
    fill(&balancer).await;
    balancer
}

fn request(balancer: &FakeBalancer, through: u32) -> Ticket {
    balancer.begin_request(&gateway(through), &pool(), &key()).expect("the endpoint is active")
}

async fn drain(balancer: &FakeBalancer) -> Result<Drained> {
    balancer.drain(&id("d"), &pool(), &key(), MINUTE).await
}

/// The drain in a task, far enough along to have begun, and when it began.
async fn begun(balancer: &FakeBalancer) -> (tokio::task::JoinHandle<Result<Drained>>, Instant) {
    let (balancer, start) = (balancer.clone(), Instant::now());
    let task = tokio::spawn(async move { drain(&balancer).await });
    tokio::time::sleep(Duration::from_secs(1)).await;
    (task, start)
}

async fn state(balancer: &FakeBalancer) -> MemberState {
    let stored = balancer.objects(&ObjectQuery::pool(pool())).await.unwrap();
    match &stored[0].object {
        Object::Endpoint(member) => member.state,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn an_idle_endpoint_is_drained_at_once() {
    let balancer = with_one_endpoint().await;
    let start = Instant::now();
    assert_eq!(drain(&balancer).await.unwrap(), Drained::Drained);
    assert_eq!(start.elapsed(), Duration::ZERO);
    assert_eq!(state(&balancer).await, MemberState::Draining);
    assert!(balancer.begin_request(&gateway(1), &pool(), &key()).is_none());
}

#[tokio::test(start_paused = true)]
async fn it_waits_for_the_last_request_of_every_gateway() {
    let balancer = with_one_endpoint().await;
    let (one, two) = (request(&balancer, 1), request(&balancer, 2));
    let (task, _) = begun(&balancer).await;
    balancer.end_request(one);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(!task.is_finished(), "a request is under way at the second gateway");
    balancer.end_request(two);
    assert_eq!(task.await.unwrap().unwrap(), Drained::Drained);
}

#[tokio::test(start_paused = true)]
async fn an_event_ends_it_sooner_than_the_poll_and_a_lost_event_not_later_than_it() {
    for (lost, at_most) in [(false, 25), (true, 501)] {
        let balancer = with_one_endpoint().await;
        let ticket = request(&balancer, 1);
        balancer.lose_events(lost);
        let (task, _) = begun(&balancer).await;
        // Off the beat of the polls.
        tokio::time::sleep(Duration::from_millis(110)).await;
        let ended = Instant::now();
        balancer.end_request(ticket);
        assert_eq!(task.await.unwrap().unwrap(), Drained::Drained);
        assert!(ended.elapsed() <= Duration::from_millis(at_most), "{lost}: {:?}", ended.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn what_never_ends_is_closed_at_the_deadline_and_counted() {
    let balancer = with_one_endpoint().await;
    for through in [1, 1, 2] {
        request(&balancer, through);
    }
    let (task, start) = begun(&balancer).await;
    assert_eq!(task.await.unwrap().unwrap(), Drained::Forced(3));
    assert!(start.elapsed() >= MINUTE && start.elapsed() < MINUTE + Duration::from_secs(1));
    assert_eq!(state(&balancer).await, MemberState::Closed);
    // A second life of the same endpoint is not charged for what the first drain closed.
    balancer.apply(&Change::new(id("again"), [Op::Put(Object::Endpoint(member()))])).await.unwrap();
    request(&balancer, 1);
    let second = balancer.drain(&id("e"), &pool(), &key(), MINUTE).await.unwrap();
    assert_eq!(second, Drained::Forced(1));
}

#[tokio::test(start_paused = true)]
async fn a_gateway_that_is_cut_off_proves_nothing_even_when_it_was_idle() {
    let balancer = with_one_endpoint().await;
    balancer.set_link(&gateway(2), Link::Cut);
    let (task, start) = begun(&balancer).await;
    assert_eq!(task.await.unwrap().unwrap(), Drained::Elapsed);
    assert!(start.elapsed() <= MINUTE + Duration::from_secs(15));
    // It still sends traffic: that is what the missing proof is about.
    assert!(balancer.begin_request(&gateway(2), &pool(), &key()).is_some());
}

#[tokio::test(start_paused = true)]
async fn a_gateway_that_comes_back_in_time_gives_its_proof() {
    let balancer = with_one_endpoint().await;
    let ticket = request(&balancer, 2);
    balancer.set_link(&gateway(2), Link::Cut);
    let (task, _) = begun(&balancer).await;
    balancer.end_request(ticket);
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert!(!task.is_finished());
    balancer.set_link(&gateway(2), Link::Up);
    assert_eq!(task.await.unwrap().unwrap(), Drained::Drained);
}

/// The gateway has not even heard that the endpoint is there, so it lists nothing. It will hear of it as active first.
#[tokio::test(start_paused = true)]
async fn a_gateway_that_never_heard_of_the_endpoint_is_no_proof() {
    let balancer = FakeBalancer::new();
    balancer.set_link(&gateway(2), Link::Behind);
    fill(&balancer).await;
    let (task, _) = begun(&balancer).await;
    assert!(!task.is_finished(), "gateway 2 stands at generation 0");
    balancer.set_link(&gateway(2), Link::Up);
    assert_eq!(task.await.unwrap().unwrap(), Drained::Drained);
}

#[tokio::test(start_paused = true)]
async fn a_gateway_that_lags_is_waited_for_when_closing_too() {
    let balancer = with_one_endpoint().await;
    balancer.set_link(&gateway(1), Link::Slow(Duration::from_secs(3)));
    for _ in 0..2 {
        request(&balancer, 1);
    }
    assert_eq!(drain(&balancer).await.unwrap(), Drained::Forced(2));
}

#[tokio::test(start_paused = true)]
async fn no_gateway_at_all_is_no_proof() {
    let balancer = with_one_endpoint().await;
    balancer.gateways().iter().for_each(|gateway| balancer.forget_gateway(gateway));
    assert_eq!(drain(&balancer).await.unwrap(), Drained::Elapsed);
}

#[tokio::test(start_paused = true)]
async fn without_counts_or_without_closing_it_elapses() {
    for missing in [Capability::InFlight, Capability::ForceClose] {
        let capabilities = CapabilitySet::all().without(missing);
        let balancer = FakeBalancer::with(capabilities, Limits::default(), Arc::new(SystemClock));
        fill(&balancer).await;
        request(&balancer, 1);
        let start = Instant::now();
        assert_eq!(drain(&balancer).await.unwrap(), Drained::Elapsed, "{missing}");
        assert!(start.elapsed() >= MINUTE, "{missing}");
        let left = if missing == Capability::InFlight { MemberState::Closed } else { MemberState::Draining };
        assert_eq!(state(&balancer).await, left, "{missing}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_is_gone_is_watched_until_its_requests_are() {
    let balancer = with_one_endpoint().await;
    assert_eq!(
        balancer.drain(&id("x"), &PoolId::new("none").unwrap(), &key(), MINUTE).await.unwrap(),
        Drained::Drained
    );
    let ticket = request(&balancer, 1);
    let remove = Op::Delete(ObjectRef::Endpoint(pool(), key()));
    balancer.apply(&Change::new(id("remove"), [remove])).await.unwrap();
    let (task, _) = begun(&balancer).await;
    assert!(!task.is_finished(), "it was removed with a request under way");
    balancer.end_request(ticket);
    assert_eq!(task.await.unwrap().unwrap(), Drained::Drained);
}

#[tokio::test(start_paused = true)]
async fn removed_in_the_middle() {
    let balancer = with_one_endpoint().await;
    request(&balancer, 1);
    let (task, _) = begun(&balancer).await;
    let remove = Op::Delete(ObjectRef::Endpoint(pool(), key()));
    balancer.apply(&Change::new(id("remove"), [remove])).await.unwrap();
    // Nobody can close what is removed, and nobody saw it end.
    assert_eq!(task.await.unwrap().unwrap(), Drained::Elapsed);
}

#[tokio::test(start_paused = true)]
async fn made_active_again_in_the_middle_it_is_never_drained() {
    let balancer = with_one_endpoint().await;
    let ticket = request(&balancer, 1);
    let (task, _) = begun(&balancer).await;
    let state = Op::State { pool: pool(), endpoint: key(), state: MemberState::Active };
    balancer.apply(&Change::new(id("undo"), [state])).await.unwrap();
    balancer.end_request(ticket);
    tokio::time::sleep(Duration::from_secs(50)).await;
    assert!(!task.is_finished());
    assert_eq!(
        task.await.unwrap().unwrap(),
        Drained::Drained,
        "closed at the deadline with nothing under way"
    );
}

#[tokio::test(start_paused = true)]
async fn passing_errors_in_the_middle_are_tried_again() {
    let balancer = with_one_endpoint().await;
    let ticket = request(&balancer, 1);
    balancer.inject(BalancerCall::Watch, CallFault::Fail(ErrorKind::Unavailable));
    balancer.inject(BalancerCall::Apply, CallFault::Fail(ErrorKind::Unavailable));
    balancer.inject(BalancerCall::Apply, CallFault::ApplyThenFail(ErrorKind::Timeout));
    balancer.inject(BalancerCall::Observe, CallFault::Fail(ErrorKind::Unavailable));
    balancer.inject(BalancerCall::Observe, CallFault::Hang);
    let (task, _) = begun(&balancer).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    balancer.end_request(ticket);
    assert_eq!(task.await.unwrap().unwrap(), Drained::Drained);
}

#[tokio::test(start_paused = true)]
async fn an_error_that_stays_ends_it() {
    let balancer = with_one_endpoint().await;
    request(&balancer, 1);
    balancer.inject(BalancerCall::Observe, CallFault::Fail(ErrorKind::Unauthorized));
    assert_eq!(drain(&balancer).await.unwrap_err().kind(), ErrorKind::Unauthorized);
    assert_eq!(state(&balancer).await, MemberState::Draining);
}

#[tokio::test(start_paused = true)]
async fn a_balancer_that_hangs_in_every_call_can_not_hold_it() {
    for call in [BalancerCall::Watch, BalancerCall::Apply, BalancerCall::Observe] {
        let balancer = with_one_endpoint().await;
        request(&balancer, 1);
        (0..1_000).for_each(|_| balancer.inject(call, CallFault::Hang));
        let start = Instant::now();
        let ended = drain(&balancer).await;
        assert!(start.elapsed() <= MINUTE + Duration::from_secs(15), "{call:?}: {:?}", start.elapsed());
        match (call, ended) {
            (BalancerCall::Watch, Ok(Drained::Forced(1))) | (BalancerCall::Observe, Ok(Drained::Elapsed)) => {
            }
            (BalancerCall::Apply, Err(error)) if error.kind() == ErrorKind::Timeout => {
                assert!(error.maybe_applied());
            }
            (call, other) => panic!("{call:?}: {other:?}"),
        }
    }
}

/// Counts how often the gateways are asked.
struct Counting(FakeBalancer, AtomicUsize);

#[async_trait]
impl Balancer for Counting {
    fn capabilities(&self) -> CapabilitySet {
        self.0.capabilities()
    }
    async fn apply(&self, change: &Change) -> Result<Applied> {
        self.0.apply(change).await
    }
    async fn objects(&self, query: &ObjectQuery) -> Result<Vec<Stored>> {
        self.0.objects(query).await
    }
    async fn observe(&self, query: &ObserveQuery) -> Result<Vec<GatewayView>> {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.observe(query).await
    }
    async fn watch(&self) -> Result<BoxStream<'static, Notice<BalancerEvent>>> {
        self.0.watch().await
    }
}

#[tokio::test(start_paused = true)]
async fn a_storm_of_events_is_no_storm_of_questions() {
    let balancer = with_one_endpoint().await;
    request(&balancer, 1);
    let counting = Counting(balancer.clone(), AtomicUsize::new(0));
    let storm = async {
        // Others change other pools, ten times a millisecond, and each change is served by both gateways.
        for number in 0_u32.. {
            let other = PoolId::new(format!("other-{number}")).unwrap();
            let change =
                Change::new(id(&format!("storm-{number}")), [Op::Put(Object::Pool(Pool::new(other)))]);
            balancer.apply(&change).await.unwrap();
            tokio::time::sleep(Duration::from_micros(100)).await;
        }
    };
    let second = Duration::from_secs(1);
    let (change, pool, key) = (id("d"), pool(), key());
    let ended = tokio::select! {
        ended = counting.drain(&change, &pool, &key, second) => ended.unwrap(),
        () = storm => unreachable!(),
    };
    assert_eq!(ended, Drained::Forced(1));
    let asked = counting.1.load(Ordering::Relaxed);
    assert!((10..=60).contains(&asked), "asked {asked} times in a second");
}

#[tokio::test(start_paused = true)]
async fn extreme_deadlines_neither_panic_nor_skip_the_drain() {
    let balancer = with_one_endpoint().await;
    assert_eq!(balancer.drain(&id("a"), &pool(), &key(), Duration::MAX).await.unwrap(), Drained::Drained);
    let balancer = with_one_endpoint().await;
    request(&balancer, 1);
    assert_eq!(balancer.drain(&id("b"), &pool(), &key(), Duration::ZERO).await.unwrap(), Drained::Forced(1));
    let long = ChangeId::new("c".repeat(ChangeId::MAX_LEN)).unwrap();
    let error = balancer.drain(&long, &pool(), &key(), MINUTE).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
}

#[tokio::test(start_paused = true)]
async fn a_successor_goes_on_where_a_dropped_drain_stopped() {
    let balancer = with_one_endpoint().await;
    request(&balancer, 1);
    let (task, _) = begun(&balancer).await;
    task.abort();
    balancer.restart().unwrap();
    assert_eq!(drain(&balancer).await.unwrap(), Drained::Forced(1));
}

#[tokio::test]
async fn a_shift_changes_shares_only_and_may_be_repeated() {
    let balancer = with_one_endpoint().await;
    let green = PoolId::new("green").unwrap();
    let set = RouteSetId::new("shop").unwrap();
    let share = |pool: &PoolId, weight| WeightedPool::new(pool.clone(), weight);
    let forward = RouteAction::Forward(vec![share(&pool(), 100), share(&green, 0)]);
    let answer = RouteAction::Respond { status: 200, body: "ok".into() };
    let routes = RouteSet::new(
        set.clone(),
        [
            RouteRule::new(PathMatch::Prefix("/".into()), forward.clone()),
            RouteRule::new(PathMatch::Exact("/ping".into()), answer.clone()),
            RouteRule::new(PathMatch::Prefix("/api".into()), forward),
        ],
    );
    let domain = Domain::new(DomainName::new("a.example").unwrap(), set.clone());
    let ops = [
        Op::Put(Object::Domain(domain)),
        Op::Put(Object::RouteSet(routes)),
        Op::Put(Object::Pool(Pool::new(green.clone()))),
    ];
    balancer.apply(&Change::new(id("routes"), ops)).await.unwrap();

    let weights = [share(&pool(), 90), share(&green, 10)];
    let first = balancer.shift(id("s1"), &set, &weights).await.unwrap();
    let query = ObjectQuery::only([ObjectRef::RouteSet(set.clone())]);
    let stored = balancer.objects(&query).await.unwrap();
    let Object::RouteSet(routes) = &stored[0].object else { panic!("{stored:?}") };
    let shifted = RouteAction::Forward(weights.to_vec());
    assert_eq!(
        routes.rules.iter().map(|rule| rule.action.clone()).collect::<Vec<_>>(),
        [shifted.clone(), answer, shifted]
    );
    assert_eq!(first.version(&ObjectRef::RouteSet(set.clone())), Some(stored[0].version));

    // A successor repeats it after somebody else has edited the routes: nothing happens twice, nothing is undone.
    balancer.shift(id("s2"), &set, &[share(&green, 50)]).await.unwrap();
    assert_eq!(balancer.shift(id("s1"), &set, &weights).await.unwrap(), first);
    let stored = balancer.objects(&query).await.unwrap();
    let Object::RouteSet(routes) = &stored[0].object else { panic!("{stored:?}") };
    assert_eq!(routes.rules[0].action, RouteAction::Forward(vec![share(&pool(), 90), share(&green, 50)]));

    let unknown = share(&PoolId::new("none").unwrap(), 1);
    let error = balancer.shift(id("s3"), &set, &[share(&green, 1), unknown]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let error = balancer.shift(id("s4"), &RouteSetId::new("none").unwrap(), &weights).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}
