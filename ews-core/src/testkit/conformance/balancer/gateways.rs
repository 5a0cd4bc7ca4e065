//! What gateways serve and see, and what watchers hear.

use std::time::Duration;

use futures_util::StreamExt as _;

use super::Bench;
use crate::balancer::{BalancerEvent, MemberState, Object, ObjectRef, ObserveQuery, Op};
use crate::capability::Capability;
use crate::event::Notice;
use crate::testkit::conformance::expect::{ensure, same};
use crate::testkit::conformance::{CaseResult, Stop};

pub(super) async fn every_gateway_reaches_the_generation(bench: Bench<'_>) -> CaseResult {
    bench.apply("1", [bench.put_pool("a")?, bench.put_member("a", 1)?]).await?;
    let applied = bench.apply("2", [bench.put_member("a", 2)?]).await?;
    for view in bench.settled(applied.generation, "a").await? {
        let mut keys: Vec<_> = view.endpoints.iter().map(|seen| seen.endpoint.clone()).collect();
        keys.sort();
        same("the endpoints at a gateway", &keys, &vec![bench.key(1, 1)?, bench.key(2, 1)?])?;
    }
    bench.clean([bench.pool_ref("a")?]).await;
    Ok(())
}

pub(super) async fn weights_and_states_reach_every_gateway(bench: Bench<'_>) -> CaseResult {
    let mut member = bench.member("a", 1, 1)?;
    bench.apply("1", [bench.put_pool("a")?, Op::Put(Object::Endpoint(member.clone()))]).await?;
    let mut ops =
        vec![Op::State { pool: bench.pool("a")?, endpoint: bench.key(1, 1)?, state: MemberState::Draining }];
    member.state = MemberState::Draining;
    if bench.balancer.capabilities().has(Capability::Weights) {
        ops.push(Op::Weight { pool: bench.pool("a")?, endpoint: bench.key(1, 1)?, weight: 37 });
        member.weight = 37;
    }
    let applied = bench.apply("2", ops).await?;
    for view in bench.settled(applied.generation, "a").await? {
        // A gateway may leave a draining endpoint out only where the contract allows it, which it does not here.
        let seen: Vec<_> = view.endpoints.iter().map(|seen| (seen.state, seen.weight)).collect();
        same("state and weight at a gateway", &seen, &vec![(member.state, member.weight)])?;
    }
    bench.clean([bench.pool_ref("a")?]).await;
    Ok(())
}

pub(super) async fn only_what_was_asked_for_is_observed(bench: Bench<'_>) -> CaseResult {
    let ops = [
        bench.put_pool("a")?,
        bench.put_pool("b")?,
        bench.put_member("a", 1)?,
        bench.put_member("a", 2)?,
        bench.put_member("b", 1)?,
    ];
    let applied = bench.apply("1", ops).await?;
    bench.settled(applied.generation, "a").await?;
    let query = ObserveQuery::endpoint(bench.pool("a")?, bench.key(2, 1)?);
    for view in bench.balancer.observe(&query).await? {
        let seen: Vec<_> =
            view.endpoints.iter().map(|seen| (seen.pool.clone(), seen.endpoint.clone())).collect();
        same("one endpoint", &seen, &vec![(bench.pool("a")?, bench.key(2, 1)?)])?;
    }
    for nothing in [
        ObserveQuery::endpoint(bench.pool("none")?, bench.key(2, 1)?),
        ObserveQuery::endpoint(bench.pool("b")?, bench.key(2, 1)?),
        ObserveQuery::endpoint(bench.pool("a")?, bench.key(2, 9)?),
    ] {
        let views = bench.balancer.observe(&nothing).await?;
        ensure!(!views.is_empty(), "gateways are listed whatever is asked for");
        ensure!(views.iter().all(|view| view.endpoints.is_empty()), "{nothing:?} is not there: {views:?}");
    }
    bench.clean([bench.pool_ref("a")?, bench.pool_ref("b")?]).await;
    Ok(())
}

pub(super) async fn a_reused_address_inherits_nothing(bench: Bench<'_>) -> CaseResult {
    let old = ObjectRef::Endpoint(bench.pool("a")?, bench.key(1, 1)?);
    bench.apply("1", [bench.put_pool("a")?, bench.put_member("a", 1)?]).await?;
    let state = MemberState::Draining;
    bench.apply("2", [Op::State { pool: bench.pool("a")?, endpoint: bench.key(1, 1)?, state }]).await?;
    // For a moment both are there, at one address.
    let new = bench.member("a", 1, 2)?;
    let applied = bench.apply("3", [Op::Put(Object::Endpoint(new.clone()))]).await?;
    for view in bench.settled(applied.generation, "a").await? {
        let fresh = view.endpoints.iter().find(|seen| seen.endpoint == new.endpoint.key);
        let fresh = fresh.ok_or_else(|| Stop::fail("the new incarnation is not seen beside the old one"))?;
        same("state and weight", &(fresh.state, fresh.weight), &(MemberState::Active, new.weight))?;
        for (what, count) in [
            ("requests", fresh.requests),
            ("errors", fresh.errors),
            ("in flight", fresh.in_flight),
            ("forced", fresh.forced),
        ] {
            ensure!(count.unwrap_or(0) == 0, "the new incarnation starts with {count:?} {what}");
        }
    }
    let applied = bench.apply("4", [Op::Delete(old)]).await?;
    for view in bench.settled(applied.generation, "a").await? {
        let keys: Vec<_> = view.endpoints.iter().map(|seen| seen.endpoint.clone()).collect();
        same("endpoints after the old incarnation went", &keys, &vec![new.endpoint.key.clone()])?;
    }
    bench.clean([bench.pool_ref("a")?]).await;
    Ok(())
}

pub(super) async fn a_cut_gateway_is_listed_without_a_generation(bench: Bench<'_>) -> CaseResult {
    let applied = bench.apply("1", [bench.put_pool("a")?, bench.put_member("a", 1)?]).await?;
    let before = bench.settled(applied.generation, "a").await?;
    let cut = bench.harness.cut_gateway().await?;
    let later = bench.apply("2", [bench.put_member("a", 2)?]).await?;
    let checked = async {
        let views = bench.balancer.observe(&ObserveQuery::default()).await?;
        same("gateways", &views.len(), &before.len())?;
        let view = views.iter().find(|view| view.gateway == cut);
        let view =
            view.ok_or_else(|| Stop::fail(format!("the gateway {cut} does not answer and is left out")))?;
        same("the generation of a gateway that does not answer", &view.generation, &None)?;
        ensure!(
            view.endpoints.is_empty(),
            "what a silent gateway saw before is no news: {:?}",
            view.endpoints
        );
        Ok(())
    };
    let checked: CaseResult = checked.await;
    bench.harness.heal_gateway().await?;
    checked?;
    bench.settled(later.generation, "a").await?;
    bench.clean([bench.pool_ref("a")?]).await;
    Ok(())
}

pub(super) async fn a_watcher_hears_of_changes_from_the_call_on(bench: Bench<'_>) -> CaseResult {
    // The change comes before the stream is looked at for the first time.
    let mut events = bench.balancer.watch().await?;
    let applied = bench.apply("1", [bench.put_pool("a")?]).await?;
    let wanted = BalancerEvent::Applied { change: bench.id("1")?, generation: applied.generation };
    let heard = async {
        while let Some(notice) = events.next().await {
            if matches!(notice, Notice::Gap(_)) || notice == Notice::Event(wanted.clone()) {
                return true;
            }
        }
        false
    };
    let heard = tokio::time::timeout(bench.harness.settle(), heard).await;
    ensure!(heard == Ok(true), "neither {wanted:?} nor a gap came: {heard:?}");
    bench.clean([bench.pool_ref("a")?]).await;
    Ok(())
}

pub(super) async fn a_slow_watcher_gets_a_gap(bench: Bench<'_>) -> CaseResult {
    let mut events = bench.balancer.watch().await?;
    let burst = bench.harness.burst();
    for number in 0..burst {
        bench.apply(&format!("burst-{number}"), [bench.put_pool("a")?]).await?;
    }
    let last = bench.apply("last", [bench.put_pool("a")?]).await?;
    let (mut heard, mut gap) = (0, false);
    let listen = async {
        while let Some(notice) = events.next().await {
            match notice {
                Notice::Gap(_) => gap = true,
                Notice::Event(BalancerEvent::Applied { generation, .. }) => {
                    heard += 1;
                    if generation == last.generation {
                        return true;
                    }
                }
                Notice::Event(_) => {}
            }
        }
        false
    };
    let ended = tokio::time::timeout(bench.harness.settle() + Duration::from_secs(1), listen).await;
    ensure!(ended == Ok(true) || gap, "the newest change was neither heard of nor covered by a gap");
    ensure!(gap || heard > burst, "{heard} of {} changes were heard of, without a gap", burst + 1);
    bench.clean([bench.pool_ref("a")?]).await;
    Ok(())
}
