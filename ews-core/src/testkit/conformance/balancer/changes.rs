//! Changes: replays, preconditions, versions, concurrency, and all or nothing.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::FutureExt as _;

use super::Bench;
use crate::balancer::{Change, Member, MemberState, Object, ObjectRef, Op};
use crate::error::ErrorKind;
use crate::testkit::conformance::expect::{ensure, refused, same};
use crate::testkit::conformance::{CaseResult, Stop};

pub(super) async fn a_replay_gives_the_same_result_and_changes_nothing(bench: Bench<'_>) -> CaseResult {
    let pool = bench.pool_ref("a")?;
    let first = bench.apply("1", [bench.put_pool("a")?]).await?;
    let second = bench.apply("2", [bench.put_pool("a")?]).await?;
    ensure!(
        second.generation > first.generation,
        "a change must raise the generation: {first:?}, {second:?}"
    );
    ensure!(first.version(&pool).is_some(), "the result must name the version of {pool}: {first:?}");
    let before = bench.get(&pool).await?;
    let again = bench.apply("1", [bench.put_pool("a")?]).await?;
    same("the replay's result", &again, &first)?;
    same("the object after the replay", &bench.get(&pool).await?, &before)?;
    let third = bench.apply("3", [Op::Delete(pool)]).await?;
    ensure!(
        third.generation > second.generation,
        "generation {} after {}",
        third.generation,
        second.generation
    );
    Ok(())
}

pub(super) async fn a_replay_survives_a_reconnect(bench: Bench<'_>) -> CaseResult {
    let pool = bench.pool_ref("a")?;
    let first = bench.apply("1", [bench.put_pool("a")?]).await?;
    let before = bench.get(&pool).await?;
    let again = Bench { balancer: bench.harness.reconnect().await?, ..bench };
    same("the object after the reconnect", &again.get(&pool).await?, &before)?;
    same("the replay's result", &again.apply("1", [again.put_pool("a")?]).await?, &first)?;
    same("the object after the replay", &again.get(&pool).await?, &before)?;
    again.clean([pool]).await;
    Ok(())
}

pub(super) async fn a_change_is_remembered_over_999_others(bench: Bench<'_>) -> CaseResult {
    let first = bench.apply("first", [bench.put_pool("a")?]).await?;
    for number in 0..999 {
        bench.apply(&format!("other-{number}"), [bench.put_pool("b")?]).await?;
    }
    same("the replay's result", &bench.apply("first", [bench.put_pool("a")?]).await?, &first)?;
    bench.clean([bench.pool_ref("a")?, bench.pool_ref("b")?]).await;
    Ok(())
}

pub(super) async fn an_id_with_other_operations_is_refused(bench: Bench<'_>) -> CaseResult {
    bench.apply("1", [bench.put_pool("a")?]).await?;
    let other = bench.apply("1", [bench.put_pool("b")?]).await;
    refused("the id of another change", other, &[ErrorKind::AlreadyExists])?;
    same("the object of the refused change", &bench.get(&bench.pool_ref("b")?).await?, &None)?;
    bench.clean([bench.pool_ref("a")?]).await;
    Ok(())
}

pub(super) async fn a_replay_may_have_other_preconditions(bench: Bench<'_>) -> CaseResult {
    let pool = bench.pool_ref("a")?;
    let change = Change::new(bench.id("1")?, [bench.put_pool("a")?]).expect(pool.clone(), None);
    let first = bench.balancer.apply(&change).await?;
    // Once with what no longer holds, once with what a successor reads now.
    same("the replay's result", &bench.balancer.apply(&change).await?, &first)?;
    let version = first.version(&pool);
    let change = Change::new(bench.id("1")?, [bench.put_pool("a")?]).expect(pool.clone(), version);
    same("the result of a successor's replay", &bench.balancer.apply(&change).await?, &first)?;
    bench.clean([pool]).await;
    Ok(())
}

pub(super) async fn a_refused_change_is_not_remembered(bench: Bench<'_>) -> CaseResult {
    refused(
        "an endpoint without its pool",
        bench.apply("1", [bench.put_member("a", 1)?]).await,
        &[ErrorKind::Invalid],
    )?;
    bench.apply("1", [bench.put_pool("a")?]).await?;
    ensure!(
        bench.get(&bench.pool_ref("a")?).await?.is_some(),
        "the second change with the id did not happen"
    );
    bench.clean([bench.pool_ref("a")?]).await;
    Ok(())
}

pub(super) async fn a_precondition_holds_or_nothing_happens(bench: Bench<'_>) -> CaseResult {
    let (a, b) = (bench.pool_ref("a")?, bench.pool_ref("b")?);
    let version = bench.apply("1", [bench.put_pool("a")?]).await?.version(&a);
    let newer = version.map(|version| version + 1);
    for (step, object, wanted) in [("2", &a, None), ("3", &a, newer), ("4", &b, Some(1))] {
        let change = Change::new(bench.id(step)?, [bench.put_pool("b")?]).expect(object.clone(), wanted);
        let what = format!("{object} expected at {wanted:?} while it is at {version:?}");
        refused(&what, bench.balancer.apply(&change).await, &[ErrorKind::Stale])?;
        ensure!(bench.get(&b).await?.is_none(), "{what}: the change happened");
    }
    // One that holds does not save one that does not.
    let both = Change::new(bench.id("5")?, [bench.put_pool("b")?])
        .expect(a.clone(), version)
        .expect(a.clone(), None);
    refused("two preconditions, the second wrong", bench.balancer.apply(&both).await, &[ErrorKind::Stale])?;
    let good = Change::new(bench.id("6")?, [bench.put_pool("b")?])
        .expect(a.clone(), version)
        .expect(b.clone(), None);
    bench.balancer.apply(&good).await?;
    bench.clean([a, b]).await;
    Ok(())
}

pub(super) async fn versions_grow_and_never_come_back(bench: Bench<'_>) -> CaseResult {
    let a = bench.pool_ref("a")?;
    let mut last = 0;
    for round in 0..3 {
        for put in 0..2 {
            let version = bench.apply(&format!("{round}-{put}"), [bench.put_pool("a")?]).await?.version(&a);
            let version = version.ok_or_else(|| Stop::fail("a change must tell the version that it gave"))?;
            same("the stored version", &bench.get(&a).await?.map(|stored| stored.version), &Some(version))?;
            ensure!(version > last, "version {version} after {last}: it must grow, over a removal too");
            last = version;
        }
        let removed = bench.apply(&format!("{round}-remove"), [Op::Delete(a.clone())]).await?;
        same("the version of what was removed", &removed.version(&a), &None)?;
        same("the removed object", &bench.get(&a).await?, &None)?;
    }
    Ok(())
}

pub(super) async fn only_what_is_named_gets_a_new_version(bench: Bench<'_>) -> CaseResult {
    let ops =
        [bench.put_pool("a")?, bench.put_pool("b")?, bench.put_member("a", 1)?, bench.put_member("a", 2)?];
    bench.apply("1", ops).await?;
    let pool = bench.pool("a")?;
    let one = ObjectRef::Endpoint(pool.clone(), bench.key(1, 1)?);
    let others =
        [bench.pool_ref("a")?, bench.pool_ref("b")?, ObjectRef::Endpoint(pool.clone(), bench.key(2, 1)?)];
    let mut before = Vec::new();
    for other in &others {
        before.push(bench.get(other).await?);
    }
    let old = bench.get(&one).await?.map(|stored| stored.version);
    let state = Op::State { pool, endpoint: bench.key(1, 1)?, state: MemberState::Draining };
    let applied = bench.apply("2", [state]).await?;
    ensure!(
        applied.version(&one) > old,
        "{one} was changed and has version {:?} after {old:?}",
        applied.version(&one)
    );
    for (other, before) in others.iter().zip(before) {
        same(&format!("{other}, which was not named"), &bench.get(other).await?, &before)?;
        same(&format!("the result for {other}, which was not named"), &applied.version(other), &None)?;
    }
    bench.clean([bench.pool_ref("a")?, bench.pool_ref("b")?]).await;
    Ok(())
}

pub(super) async fn unrelated_changes_never_collide(bench: Bench<'_>) -> CaseResult {
    const CONTROLLERS: u16 = 32;
    bench.apply("pool", [bench.put_pool("a")?]).await?;
    let controller = async |number: u16| -> CaseResult {
        let endpoint = ObjectRef::Endpoint(bench.pool("a")?, bench.key(number, 1)?);
        let mut version = None;
        for step in 0..4 {
            let change =
                Change::new(bench.id(&format!("{number}-{step}"))?, [bench.put_member("a", number)?]);
            version =
                bench.balancer.apply(&change.expect(endpoint.clone(), version)).await?.version(&endpoint);
        }
        Ok(())
    };
    let all = (1..=CONTROLLERS).map(controller);
    futures_util::future::try_join_all(all).await?;
    let found = bench.balancer.objects(&crate::balancer::ObjectQuery::pool(bench.pool("a")?)).await?;
    same("endpoints", &found.len(), &usize::from(CONTROLLERS))?;
    let versions: BTreeSet<u64> = found.iter().map(|stored| stored.version).collect();
    ensure!(!versions.contains(&0), "a version of 0 can't be told from none");
    bench.clean([bench.pool_ref("a")?]).await;
    Ok(())
}

pub(super) async fn of_competing_changes_one_wins(bench: Bench<'_>) -> CaseResult {
    let a = bench.pool_ref("a")?;
    bench.apply("pool", [bench.put_pool("a")?]).await?;
    for round in 0..5 {
        let version = bench.get(&a).await?.map(|stored| stored.version);
        let competitor = async |number: u16| {
            let change = Change::new(bench.id(&format!("{round}-{number}"))?, [bench.put_pool("a")?]);
            bench.balancer.apply(&change.expect(a.clone(), version)).await
        };
        let results = futures_util::future::join_all((0..16).map(competitor)).await;
        let won = results.iter().filter(|result| result.is_ok()).count();
        same("changes that won", &won, &1)?;
        for result in results.into_iter().filter(|result| result.is_err()) {
            refused("a change that lost", result, &[ErrorKind::Stale])?;
        }
    }
    bench.clean([a]).await;
    Ok(())
}

pub(super) async fn a_change_is_all_or_nothing(bench: Bench<'_>) -> CaseResult {
    let a = bench.pool_ref("a")?;
    bench.apply("1", [bench.put_pool("a")?, bench.put_member("a", 1)?]).await?;
    let endpoint = ObjectRef::Endpoint(bench.pool("a")?, bench.key(1, 1)?);
    let before = (bench.get(&a).await?, bench.get(&endpoint).await?);
    // What is wrong stands first, in the middle and last.
    for wrong_at in 0..3 {
        let mut ops = vec![Op::Delete(endpoint.clone()), bench.put_pool("b")?];
        let heavy = bench.member("a", 2, 1)?.weight(Member::MAX_WEIGHT + 1);
        ops.insert(wrong_at, Op::Put(Object::Endpoint(heavy)));
        refused("a change with one wrong operation", bench.apply("2", ops).await, &[ErrorKind::Invalid])?;
        same("what was there", &(bench.get(&a).await?, bench.get(&endpoint).await?), &before)?;
        same("what would have been made", &bench.get(&bench.pool_ref("b")?).await?, &None)?;
    }
    bench.clean([a]).await;
    Ok(())
}

pub(super) async fn a_dropped_future_still_applies(bench: Bench<'_>) -> CaseResult {
    let change = Change::new(bench.id("1")?, [bench.put_pool("a")?]);
    {
        let mut wait = bench.balancer.apply(&change);
        // One poll begins it; then nobody waits any more.
        let _ = (&mut wait).now_or_never();
    }
    let ends = tokio::time::Instant::now() + bench.harness.settle();
    while bench.get(&bench.pool_ref("a")?).await?.is_none() {
        ensure!(tokio::time::Instant::now() < ends, "the change did not happen although its call had begun");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    bench.balancer.apply(&change).await?;
    bench.clean([bench.pool_ref("a")?]).await;
    Ok(())
}

pub(super) async fn empty_and_oversized_changes_are_refused(bench: Bench<'_>) -> CaseResult {
    refused("a change without operations", bench.apply("1", []).await, &[ErrorKind::Invalid])?;
    let many = (0..=Change::MAX_OPS).map(|_| bench.put_pool("a")).collect::<crate::Result<Vec<_>>>()?;
    refused("too many operations", bench.apply("2", many).await, &[ErrorKind::OutOfResources])?;
    same("the object of the refused change", &bench.get(&bench.pool_ref("a")?).await?, &None)
}
