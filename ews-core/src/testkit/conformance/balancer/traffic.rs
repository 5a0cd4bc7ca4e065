//! Drains, with requests under way.

use std::time::Duration;

use super::{Bench, Target};
use crate::balancer::{BalancerExt as _, Drained, MemberState, Object, ObjectRef, ObserveQuery, Op};
use crate::capability::Capability;
use crate::testkit::conformance::expect::{ensure, same};
use crate::testkit::conformance::{CaseResult, Stop};

/// One endpoint that a host name leads to, at every gateway.
async fn target(bench: &Bench<'_>) -> Result<Target, Stop> {
    let mut ops = vec![bench.put_pool("a")?, bench.put_member("a", 1)?, bench.put_routes("s", &[("a", 1)])?];
    if bench.balancer.capabilities().has(Capability::RouteHost) {
        ops.push(Op::Put(Object::Domain(bench.domain("s")?)));
    }
    let applied = bench.apply("make", ops).await?;
    bench.settled(applied.generation, "a").await?;
    Ok(Target { host: bench.host()?, pool: bench.pool("a")?, endpoint: bench.member("a", 1, 1)?.endpoint })
}

async fn drain(bench: &Bench<'_>, deadline: Duration) -> crate::Result<Drained> {
    bench.balancer.drain(&bench.id("d")?, &bench.pool("a")?, &bench.key(1, 1)?, deadline).await
}

async fn clean(bench: &Bench<'_>) -> CaseResult {
    let (host, set) = (ObjectRef::Domain(bench.host()?), ObjectRef::RouteSet(bench.set("s")?));
    bench.clean([host, set, bench.pool_ref("a")?]).await;
    Ok(())
}

pub(super) async fn an_idle_endpoint_drains(bench: Bench<'_>) -> CaseResult {
    bench.needs(Capability::InFlight)?;
    target(&bench).await?;
    same("the drain", &drain(&bench, bench.harness.settle()).await?, &Drained::Drained)?;
    let stored = bench.get(&ObjectRef::Endpoint(bench.pool("a")?, bench.key(1, 1)?)).await?;
    let state = stored.and_then(|stored| match stored.object {
        Object::Endpoint(member) => Some(member.state),
        _ => None,
    });
    same("the endpoint's state", &state, &Some(MemberState::Draining))?;
    clean(&bench).await
}

pub(super) async fn a_drain_waits_for_requests(bench: Bench<'_>) -> CaseResult {
    bench.needs(Capability::InFlight)?;
    let target = target(&bench).await?;
    bench.harness.begin_request(&target).await?;
    bench.harness.begin_request(&target).await?;
    let query = ObserveQuery::endpoint(target.pool.clone(), target.endpoint.key.clone());
    let views = bench.balancer.observe(&query).await?;
    let under_way: u64 =
        views.iter().flat_map(|view| &view.endpoints).filter_map(|seen| seen.in_flight).sum();
    same("requests under way", &under_way, &2)?;
    let mut waiting = Box::pin(drain(&bench, Duration::from_secs(3600)));
    let early = tokio::time::timeout(Duration::from_secs(3), &mut waiting).await;
    ensure!(early.is_err(), "the drain ended with {early:?} while requests were under way");
    bench.harness.end_requests().await?;
    same("the drain", &waiting.await?, &Drained::Drained)?;
    clean(&bench).await
}

pub(super) async fn a_drain_closes_what_is_left(bench: Bench<'_>) -> CaseResult {
    bench.needs(Capability::InFlight)?;
    bench.needs(Capability::ForceClose)?;
    let target = target(&bench).await?;
    for _ in 0..3 {
        bench.harness.begin_request(&target).await?;
    }
    same("the drain", &drain(&bench, Duration::from_secs(2)).await?, &Drained::Forced(3))?;
    let query = ObserveQuery::endpoint(target.pool, target.endpoint.key);
    for view in bench.balancer.observe(&query).await? {
        for seen in &view.endpoints {
            same("what is under way after closing", &seen.in_flight, &Some(0))?;
        }
    }
    clean(&bench).await
}

pub(super) async fn without_counts_a_drain_elapses(bench: Bench<'_>) -> CaseResult {
    if bench.balancer.capabilities().has(Capability::InFlight) {
        return Err(Stop::skip("the balancer counts what is under way"));
    }
    target(&bench).await?;
    same("the drain", &drain(&bench, Duration::from_secs(1)).await?, &Drained::Elapsed)?;
    for view in bench.balancer.observe(&ObserveQuery::default()).await? {
        for seen in &view.endpoints {
            same("a count of what can't be counted", &seen.in_flight, &None)?;
        }
    }
    clean(&bench).await
}

pub(super) async fn a_cut_gateway_is_no_proof(bench: Bench<'_>) -> CaseResult {
    target(&bench).await?;
    bench.harness.cut_gateway().await?;
    let drained = drain(&bench, Duration::from_secs(2)).await;
    bench.harness.heal_gateway().await?;
    same("the drain while a gateway is cut off", &drained?, &Drained::Elapsed)?;
    clean(&bench).await
}

pub(super) async fn a_removed_endpoint_is_listed_while_it_is_busy(bench: Bench<'_>) -> CaseResult {
    bench.needs(Capability::InFlight)?;
    let target = target(&bench).await?;
    bench.harness.begin_request(&target).await?;
    let applied =
        bench.apply("1", [Op::Delete(ObjectRef::Endpoint(target.pool, target.endpoint.key))]).await?;
    let views = bench.settled(applied.generation, "a").await?;
    let seen: Vec<_> =
        views.iter().flat_map(|view| &view.endpoints).map(|seen| (seen.state, seen.in_flight)).collect();
    ensure!(
        seen.contains(&(MemberState::Draining, Some(1))),
        "a removed endpoint with a request under way must be listed as draining: {seen:?}"
    );
    bench.harness.end_requests().await?;
    let ends = tokio::time::Instant::now() + bench.harness.settle();
    while bench.settled(applied.generation, "a").await?.iter().any(|view| !view.endpoints.is_empty()) {
        ensure!(tokio::time::Instant::now() < ends, "the removed endpoint is still listed when it is idle");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    clean(&bench).await
}
