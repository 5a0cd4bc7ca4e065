//! Releases on the fake engine: order and conditions, failure and the way back, jobs, and those who steer.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod release_rig;
mod rig;

use std::time::Duration;

use ews_core::spec::lifecycle::Job;
use ews_core::{ErrorKind, InstanceState, Runtime as _};
use ews_deploy::release::{
    MemberAction, MemberCondition, MemberStage, OnMemberFailure, ReleasePhase, ReleaseRequest,
};
use ews_deploy::{Approval, AuditAction, Batch, Concurrency, DeployRequest, Outcome};
use release_rig::*;
use rig::*;

const S: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn members_go_when_their_conditions_hold_and_others_at_once() {
    let world = World::new();
    let controller = world.controller("first").await;
    let mut events = controller.deployer.release_events();
    let spec = release([
        service("front", "v1")
            .after(name("api"), MemberCondition::Promoted)
            .after(name("mail"), MemberCondition::Started),
        service("api", "v1").after(name("db"), MemberCondition::Healthy),
        service("db", "v1"),
        service("mail", "v1"),
    ]);
    let report = released(&controller, spec).await;
    assert_eq!(report.outcome, Some(Outcome::Succeeded), "{report:?}");
    assert_eq!((report.percent, report.phase), (100, ReleasePhase::Forward));
    let lines = told(&mut events);
    assert!(
        at(&lines, "start mail") < at(&lines, "healthy db"),
        "those without a path go at once: {lines:?}"
    );
    assert!(at(&lines, "healthy db") < at(&lines, "start api"), "{lines:?}");
    assert!(at(&lines, "done api") < at(&lines, "start front"), "{lines:?}");
    runs(&world, &[("api", "v1"), ("db", "v1"), ("front", "v1"), ("mail", "v1")]).await;
    let services = controller.deployer.released_services(&shop()).await.unwrap();
    assert_eq!(services.len(), 4);
}

/// A condition that opens early lets its member go early: started before healthy.
#[tokio::test(start_paused = true)]
async fn a_started_member_lets_others_go_before_it_is_healthy() {
    let world = World::new();
    let controller = world.controller("first").await;
    let mut events = controller.deployer.release_events();
    let slow = service("db", "v1").with_strategy(quick().with_min_healthy(15 * S));
    let spec = release([slow, service("api", "v1").after(name("db"), MemberCondition::Started)]);
    let report = released(&controller, spec).await;
    assert_eq!(report.outcome, Some(Outcome::Succeeded), "{report:?}");
    let lines = told(&mut events);
    assert!(at(&lines, "start api") < at(&lines, "healthy db"), "{lines:?}");
}

/// Healthy opens when all have passed their gate, promoted only when nobody watches any more.
#[tokio::test(start_paused = true)]
async fn healthy_opens_while_the_rollout_still_watches() {
    let world = World::new();
    let controller = world.controller("first").await;
    let mut events = controller.deployer.release_events();
    let watched = service("db", "v1").with_strategy(quick().with_monitor(30 * S));
    let spec = release([
        watched,
        service("early", "v1").after(name("db"), MemberCondition::Healthy),
        service("late", "v1").after(name("db"), MemberCondition::Promoted),
    ]);
    let report = released(&controller, spec).await;
    assert_eq!(report.outcome, Some(Outcome::Succeeded), "{report:?}");
    let lines = told(&mut events);
    assert!(at(&lines, "start early") < at(&lines, "done db"), "{lines:?}");
    assert!(at(&lines, "done db") < at(&lines, "start late"), "{lines:?}");
}

#[tokio::test(start_paused = true)]
async fn a_failure_takes_all_back_in_reverse_order() {
    let world = World::new();
    let controller = world.controller("first").await;
    assert_eq!(released(&controller, chain("v1")).await.outcome, Some(Outcome::Succeeded));
    let mut events = controller.deployer.release_events();
    let mut spec = chain("v2");
    spec.members[2] = ailing("front", "v2").after(name("api"), MemberCondition::Promoted);
    // One that is new with this release and had nothing before.
    spec = spec.with_member(service("extra", "v2").after(name("db"), MemberCondition::Healthy));
    let report = released(&controller, spec).await;
    assert_eq!(report.outcome, Some(Outcome::RolledBack), "{report:?}");
    assert!(report.cause.contains("`front` failed"), "{}", report.cause);
    let lines = told(&mut events);
    for (before, after) in [
        ("failed front", "turn"),
        ("turn", "was front"),
        ("was front", "back api"),
        ("was api", "back db"),
        ("was extra", "back db"),
        ("was db", "end rolled back"),
    ] {
        assert!(at(&lines, before) < at(&lines, after), "`{before}` before `{after}`: {lines:?}");
    }
    runs(&world, &[("api", "v1"), ("db", "v1"), ("front", "v1")]).await;
    assert!(!controller.deployer.services().await.unwrap().contains(&name("extra")), "it was taken away");
    assert_eq!(world.engine.objects(), 6);
    let api = report.member(&name("api")).unwrap();
    assert_eq!(api.stage, MemberStage::WentBack);
    assert!(api.before.is_some() && api.back.is_some(), "{api:?}");
    // The way back is no rollout that could be taken back itself.
    let back = controller.deployer.rollout(api.back.as_ref().unwrap()).await.unwrap();
    assert_eq!(back.outcome, Some(Outcome::Succeeded));
    assert_eq!(world.keys("discover/acme/shop/").await, 3, "and is told of no more");
    assert_eq!(world.keys("deploy/acme/extra/").await, 0, "no record is left of it");
}

#[tokio::test(start_paused = true)]
async fn what_went_back_has_its_count_and_its_traffic_of_before_too() {
    let world = World::new();
    let controller = world.controller("first").await;
    assert_eq!(released(&controller, chain("v1")).await.outcome, Some(Outcome::Succeeded));
    use ews_core::{ScaleChange, ScaleTarget as _};
    let set = ScaleChange::to(5, "busy");
    controller.deployer.set(&name("db"), &set).await.unwrap();
    eventually("five run", || async { versions(&world).await["db"].len() == 5 }).await;
    let mut spec = chain("v2");
    spec.members[0].service.replicas = 3;
    spec.members[0].traffic = request(rig::spec("v2")).traffic;
    spec.members[1] = ailing("api", "v2").after(name("db"), MemberCondition::Healthy);
    let report = released(&controller, spec).await;
    assert_eq!(report.outcome, Some(Outcome::RolledBack), "{report:?}");
    eventually("five of the first run", || async { versions(&world).await["db"] == vec!["v1"; 5] }).await;
    eventually("nothing is left at the balancer", || async { world.objects().await.is_empty() }).await;
}

#[tokio::test(start_paused = true)]
async fn frozen_stops_where_it_stands_and_keep_leaves_out_what_depends() {
    for (policy, extra) in [(OnMemberFailure::Freeze, "v1"), (OnMemberFailure::Keep, "v2")] {
        let world = World::new();
        let controller = world.controller("first").await;
        let first = chain("v1").with_member(service("slow", "v1")).with_member(service("extra", "v1"));
        assert_eq!(released(&controller, first).await.outcome, Some(Outcome::Succeeded));
        let mut events = controller.deployer.release_events();
        let mut spec = chain("v2").with_on_failure(policy);
        spec.members[1] = ailing("api", "v2").after(name("db"), MemberCondition::Healthy);
        let slow = service("slow", "v2")
            .with_strategy(quick().with_deadlines(50 * S, 120 * S).with_min_healthy(40 * S));
        spec = spec
            .with_member(slow)
            .with_member(service("extra", "v2").after(name("slow"), MemberCondition::Promoted));
        let report = released(&controller, spec).await;
        assert_eq!(report.outcome, Some(Outcome::Failed), "{policy:?}: {report:?}");
        assert!(report.cause.contains("`api` failed"), "{}", report.cause);
        let lines = told(&mut events);
        assert!(!lines.iter().any(|line| line == "start front" || line.starts_with("back")), "{lines:?}");
        assert!(at(&lines, "done slow") > at(&lines, "failed api"), "what is under way goes on: {lines:?}");
        let expected = [("api", "v1"), ("db", "v2"), ("extra", extra), ("front", "v1"), ("slow", "v2")];
        runs(&world, &expected).await;
        let front = report.member(&name("front")).unwrap().stage;
        let wanted =
            if policy == OnMemberFailure::Keep { MemberStage::Skipped } else { MemberStage::Waiting };
        assert_eq!(front, wanted);
    }
}

#[tokio::test(start_paused = true)]
async fn what_runs_already_is_not_touched() {
    let world = World::new();
    let controller = world.controller("first").await;
    assert_eq!(released(&controller, chain("v1")).await.outcome, Some(Outcome::Succeeded));
    let before: Vec<_> = world.instances().await.into_iter().map(|instance| instance.id).collect();
    let mut events = controller.deployer.release_events();
    let mut spec = chain("v1");
    spec.members[1] = service("api", "v2").after(name("db"), MemberCondition::Promoted);
    let plan = controller.deployer.plan_release(&ReleaseRequest::new(spec.clone())).await.unwrap();
    let actions: Vec<_> =
        plan.members.iter().map(|member| matches!(member.action, MemberAction::Unchanged)).collect();
    assert_eq!(actions, [true, false, true], "{plan}");
    assert_eq!(released(&controller, spec).await.outcome, Some(Outcome::Succeeded));
    let lines = told(&mut events);
    at(&lines, "keep db");
    at(&lines, "keep front");
    runs(&world, &[("api", "v2"), ("db", "v1"), ("front", "v1")]).await;
    let after: Vec<_> = world.instances().await.into_iter().map(|instance| instance.id).collect();
    assert_eq!(after.iter().filter(|id| before.contains(id)).count(), 4, "db's and front's are the same");
    assert_eq!(controller.deployer.history(&name("db")).await.unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_is_no_member_any_more_goes_only_when_asked_in_reverse_order_at_the_end() {
    let world = World::new();
    let controller = world.controller("first").await;
    assert_eq!(released(&controller, chain("v1")).await.outcome, Some(Outcome::Succeeded));
    let kept = released(&controller, release([service("db", "v2")])).await;
    assert_eq!(kept.outcome, Some(Outcome::Succeeded));
    runs(&world, &[("api", "v1"), ("db", "v2"), ("front", "v1")]).await;
    let mut events = controller.deployer.release_events();
    let spec = release([service("db", "v3")]).with_prune(true);
    let plan = controller.deployer.plan_release(&ReleaseRequest::new(spec.clone())).await.unwrap();
    assert_eq!(plan.removes, [name("front"), name("api")], "{plan}");
    assert_eq!(released(&controller, spec).await.outcome, Some(Outcome::Succeeded));
    let lines = told(&mut events);
    assert!(at(&lines, "done db") < at(&lines, "prune front"), "{lines:?}");
    assert!(at(&lines, "prune front") < at(&lines, "prune api"), "{lines:?}");
    runs(&world, &[("db", "v3")]).await;
    assert_eq!(controller.deployer.services().await.unwrap(), [name("db")]);
    assert_eq!(controller.deployer.released_services(&shop()).await.unwrap(), [name("db")]);
}

#[tokio::test(start_paused = true)]
async fn a_plan_prints_the_order_and_a_stale_one_is_refused() {
    let world = World::new();
    let controller = world.controller("first").await;
    let request = ReleaseRequest::new(chain("v1"));
    let plan = controller.deployer.plan_release(&request).await.unwrap();
    let text = plan.to_string();
    for part in ["1. db", "2. api", "3. front", "front when api is promoted:", "+ slot 0: create"] {
        assert!(text.contains(part), "`{part}` is missing: {text}");
    }
    assert_eq!(world.engine.objects(), 0, "a plan does nothing");
    let id = controller.deployer.release(&request.clone().expecting(&plan)).await.unwrap();
    assert_eq!(ended_release(&controller.deployer, &id).await.outcome, Some(Outcome::Succeeded));
    let error = controller.deployer.release(&request.clone().expecting(&plan)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Stale, "{error}");
    // A member that somebody deployed since makes it stale too.
    let request = ReleaseRequest::new(chain("v2"));
    let plan = controller.deployer.plan_release(&request).await.unwrap();
    let direct = DeployRequest::new(service("db", "v9").service).with_strategy(quick());
    let rollout = controller.deployer.deploy(&direct).await.unwrap();
    ended(&controller, &rollout).await;
    let error = controller.deployer.release(&request.expecting(&plan)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Stale, "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_request_of_one_key_is_one_release() {
    let world = World::new();
    let controller = world.controller("first").await;
    let request = ReleaseRequest::new(chain("v1")).with_key("build-1").with_reason("because");
    let id = controller.deployer.by("ci").release(&request).await.unwrap();
    assert_eq!(controller.deployer.release(&request).await.unwrap(), id);
    let report = ended_release(&controller.deployer, &id).await;
    assert_eq!((report.by.as_str(), report.reason.as_str()), ("ci", "because"));
    // What the release asked of its members was asked for by whoever asked for the release.
    let asked = controller.deployer.audit(&name("db"), 10).await.unwrap();
    let deployed: Vec<_> =
        asked.iter().filter(|entry| matches!(entry.action, AuditAction::Deploy(_))).collect();
    assert_eq!(deployed.len(), 1, "{asked:?}");
    assert_eq!(deployed[0].by, "ci");
    assert_eq!(controller.deployer.release(&request).await.unwrap(), id, "after its end too");
    assert_eq!(controller.deployer.release_history(&shop()).await.unwrap().len(), 1);
    assert_eq!(controller.deployer.releases().await.unwrap(), [shop()]);
    // A service belongs to one release, and a job is not named like a service.
    let mut other = chain("v2");
    other.name = "other".parse().unwrap();
    let error = controller.deployer.release(&ReleaseRequest::new(other)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}");
    let named = release([job("db", &["exit", "0"])]);
    let error = controller.deployer.release(&ReleaseRequest::new(named)).await.unwrap_err();
    assert!(error.message().contains("named like a service"), "{error}");
}

/// Whoever leads the release, its members may be led by another controller.
#[tokio::test(start_paused = true)]
async fn members_may_be_led_by_another_controller() {
    let world = World::new();
    let first = world.controller("first").await;
    assert_eq!(released(&first, release([service("db", "v1")])).await.outcome, Some(Outcome::Succeeded));
    let second = world.controller("second").await;
    // The first leads `db` and the name `shop`; what comes now is led by whoever is there first.
    let id = second.deployer.release(&ReleaseRequest::new(chain("v2"))).await.unwrap();
    assert_eq!(ended_release(&second.deployer, &id).await.outcome, Some(Outcome::Succeeded));
    first.deployer.leave().await;
    let id = second.deployer.release(&ReleaseRequest::new(chain("v3"))).await.unwrap();
    assert_eq!(ended_release(&second.deployer, &id).await.outcome, Some(Outcome::Succeeded));
    runs(&world, &[("api", "v3"), ("db", "v3"), ("front", "v3")]).await;
}

/// As many as there may be, all behind the first: what is written together fits into a transaction.
#[tokio::test(start_paused = true)]
async fn a_hundred_members_fit_into_one_release() {
    let world = World::new();
    let controller = world.controller("first").await;
    let mut spec = release([service("m0", "v1")]).with_parallel(100);
    for number in 1..100 {
        let member = service(&format!("m{number}"), "v1").after(name("m0"), MemberCondition::Started);
        spec = spec.with_member(member);
    }
    for member in &mut spec.members {
        member.service.replicas = 1;
    }
    let report = released(&controller, spec).await;
    assert_eq!(report.outcome, Some(Outcome::Succeeded), "{}", report.cause);
    assert_eq!(world.engine.objects(), 100);
}

/// A job whose runtime can't be asked when its release ends is removed when it can.
#[tokio::test(start_paused = true)]
async fn a_job_that_could_not_be_ended_with_its_release_is_removed_later() {
    let world = World::new();
    let controller = world.controller("first").await;
    let spec = release([job("migrate", &["sleep"])]).with_deadline(100 * S);
    let id = controller.deployer.release(&ReleaseRequest::new(spec)).await.unwrap();
    eventually("it runs", || async { world.engine.processes() == 1 }).await;
    world.engine.sever();
    controller.deployer.cancel_release(&shop()).await.unwrap();
    let report = ended_release(&controller.deployer, &id).await;
    assert_eq!(report.outcome, Some(Outcome::Cancelled), "{report:?}");
    assert_eq!(world.engine.processes(), 1, "nobody could end it");
    world.engine.restore();
    eventually("it is gone", || async { world.engine.objects() == 0 && world.engine.processes() == 0 }).await;
}

#[tokio::test(start_paused = true)]
async fn the_past_is_bounded() {
    let world = World::new();
    let controller = world.controller("first").await;
    for version in 0..14 {
        let spec = release([service("db", &format!("v{version}")), job("migrate", &["exit", "0"])]);
        assert_eq!(released(&controller, spec).await.outcome, Some(Outcome::Succeeded));
    }
    let history = controller.deployer.release_history(&shop()).await.unwrap();
    let numbers: Vec<u64> = history.iter().map(|report| report.id.number).collect();
    assert_eq!(numbers, (5..=14).rev().collect::<Vec<_>>());
    for kind in ["state", "job"] {
        assert_eq!(world.keys(&format!("release/acme/shop/{kind}/")).await, 10, "{kind}");
    }
}

mod steered {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn aborted_it_goes_back_and_cancelled_it_stops_where_it_stands() {
        for abort in [true, false] {
            let world = World::new();
            let controller = world.controller("first").await;
            assert_eq!(released(&controller, chain("v1")).await.outcome, Some(Outcome::Succeeded));
            let mut spec = chain("v2");
            spec.members[1].strategy = quick().with_deadlines(50 * S, 120 * S).with_min_healthy(40 * S);
            let id = controller.deployer.release(&ReleaseRequest::new(spec)).await.unwrap();
            let under_way = |stage| {
                move |report: &ews_deploy::release::ReleaseReport| {
                    report.member(&name("api")).is_some_and(|member| member.stage == stage)
                }
            };
            until(&controller.deployer, &id, under_way(MemberStage::UnderWay)).await;
            if abort {
                controller.deployer.abort_release(&shop()).await.unwrap();
            } else {
                controller.deployer.cancel_release(&shop()).await.unwrap();
            }
            let report = ended_release(&controller.deployer, &id).await;
            let (outcome, cause, db) = if abort {
                (Outcome::RolledBack, "somebody aborted it", "v1")
            } else {
                (Outcome::Cancelled, "somebody cancelled it", "v2")
            };
            assert_eq!((report.outcome, report.cause.as_str()), (Some(outcome), cause), "{report:?}");
            runs(&world, &[("api", "v1"), ("db", db), ("front", "v1")]).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn paused_no_member_begins_and_the_deadline_rests() {
        let world = World::new();
        let controller = world.controller("first").await;
        let id = controller.deployer.release(&ReleaseRequest::new(chain("v1"))).await.unwrap();
        controller.deployer.pause_release(&shop()).await.unwrap();
        // Far beyond the deadline of ten minutes.
        tokio::time::sleep(3_600 * S).await;
        let report = controller.deployer.release_report(&id).await.unwrap();
        assert!(report.paused && report.outcome.is_none(), "{report:?}");
        let front = report.member(&name("front")).unwrap();
        assert_eq!(front.stage, MemberStage::Waiting);
        controller.deployer.resume_release(&shop()).await.unwrap();
        assert_eq!(ended_release(&controller.deployer, &id).await.outcome, Some(Outcome::Succeeded));
        let error = controller.deployer.pause_release(&shop()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_deadline_rests_while_a_member_waits_for_approval() {
        let world = World::new();
        let controller = world.controller("first").await;
        let careful = service("db", "v1").with_strategy(
            quick().with_approval(Approval::EveryBatch).with_batches(Batch::Count(1), Batch::Count(1)),
        );
        let spec = release([careful, service("api", "v1").after(name("db"), MemberCondition::Promoted)]);
        let id = controller.deployer.release(&ReleaseRequest::new(spec)).await.unwrap();
        tokio::time::sleep(3_600 * S).await;
        let report = controller.deployer.release_report(&id).await.unwrap();
        assert_eq!(report.outcome, None, "{report:?}");
        assert_eq!(report.member(&name("db")).unwrap().done, (1, 2));
        assert_eq!(report.percent, 25);
        controller.deployer.resume(&name("db")).await.unwrap();
        assert_eq!(ended_release(&controller.deployer, &id).await.outcome, Some(Outcome::Succeeded));
    }

    #[tokio::test(start_paused = true)]
    async fn past_its_deadline_it_goes_back_or_stops() {
        for policy in [OnMemberFailure::Rollback, OnMemberFailure::Freeze] {
            let world = World::new();
            let controller = world.controller("first").await;
            assert_eq!(released(&controller, chain("v1")).await.outcome, Some(Outcome::Succeeded));
            let mut spec = chain("v2").with_deadline(60 * S).with_on_failure(policy);
            spec.members[1].strategy = quick().with_deadlines(500 * S, 600 * S).with_min_healthy(400 * S);
            let report = released(&controller, spec).await;
            assert!(report.cause.starts_with("it was not through within 60s"), "{report:?}");
            let (outcome, db) = match policy {
                OnMemberFailure::Rollback => (Outcome::RolledBack, "v1"),
                _ => (Outcome::Failed, "v2"),
            };
            assert_eq!(report.outcome, Some(outcome), "{report:?}");
            runs(&world, &[("api", "v1"), ("db", db), ("front", "v1")]).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn of_two_that_meet_the_second_is_refused_queued_or_goes_first() {
        for concurrency in [Concurrency::Reject, Concurrency::Queue, Concurrency::Supersede] {
            let world = World::new();
            let controller = world.controller("first").await;
            let first = controller.deployer.release(&ReleaseRequest::new(chain("v1"))).await.unwrap();
            until(&controller.deployer, &first, |report| {
                report.member(&name("db")).is_some_and(|member| member.stage == MemberStage::UnderWay)
            })
            .await;
            let request = ReleaseRequest::new(chain("v2")).with_concurrency(concurrency);
            let second = controller.deployer.release(&request).await;
            if concurrency == Concurrency::Reject {
                assert_eq!(second.unwrap_err().kind(), ErrorKind::Busy);
                assert_eq!(
                    ended_release(&controller.deployer, &first).await.outcome,
                    Some(Outcome::Succeeded)
                );
                runs(&world, &[("api", "v1"), ("db", "v1"), ("front", "v1")]).await;
                continue;
            }
            let second = second.unwrap();
            let waits = controller.deployer.release_report(&second).await.unwrap();
            assert_eq!(waits.phase, ReleasePhase::Queued);
            let first = ended_release(&controller.deployer, &first).await;
            let expected =
                if concurrency == Concurrency::Queue { Outcome::Succeeded } else { Outcome::Cancelled };
            assert_eq!(first.outcome, Some(expected), "{first:?}");
            assert_eq!(ended_release(&controller.deployer, &second).await.outcome, Some(Outcome::Succeeded));
            runs(&world, &[("api", "v2"), ("db", "v2"), ("front", "v2")]).await;
        }
    }

    /// The latest goes, and those that waited end as cancelled; the queue is bounded.
    #[tokio::test(start_paused = true)]
    async fn what_waited_is_superseded_with_the_one_under_way() {
        let world = World::new();
        let controller = world.controller("first").await;
        let mut ids = Vec::new();
        for number in 1..=11 {
            let request =
                ReleaseRequest::new(chain(&format!("v{number}"))).with_concurrency(Concurrency::Queue);
            ids.push(controller.deployer.release(&request).await.unwrap());
            let began = |report: &ews_deploy::release::ReleaseReport| report.started_at.is_some();
            until(&controller.deployer, &ids[0], began).await;
        }
        let request = ReleaseRequest::new(chain("v12")).with_concurrency(Concurrency::Queue);
        assert_eq!(
            controller.deployer.release(&request).await.unwrap_err().kind(),
            ErrorKind::OutOfResources
        );
        let first = ended_release(&controller.deployer, &ids[0]).await;
        assert_eq!(first.outcome, Some(Outcome::Succeeded));
        let request = ReleaseRequest::new(chain("v13")).with_concurrency(Concurrency::Supersede);
        eventually("there is room", || async {
            controller.deployer.release(&request.clone().with_key("k")).await.is_ok()
        })
        .await;
        let last = controller.deployer.release(&request.with_key("k")).await.unwrap();
        assert_eq!(ended_release(&controller.deployer, &last).await.outcome, Some(Outcome::Succeeded));
        for id in &ids[2..] {
            let report = ended_release(&controller.deployer, id).await;
            assert_eq!(report.outcome, Some(Outcome::Cancelled), "{id}: {report:?}");
            assert!(report.started_at.is_some() && report.cause.contains("superseded"), "{report:?}");
        }
        runs(&world, &[("api", "v13"), ("db", "v13"), ("front", "v13")]).await;
    }

    /// What somebody deployed after the release is not taken back by it.
    #[tokio::test(start_paused = true)]
    async fn what_somebody_else_deployed_since_is_left_alone() {
        let world = World::new();
        let controller = world.controller("first").await;
        assert_eq!(released(&controller, chain("v1")).await.outcome, Some(Outcome::Succeeded));
        let mut spec = chain("v2");
        spec.members[2].strategy = quick().with_deadlines(500 * S, 600 * S).with_min_healthy(100 * S);
        let id = controller.deployer.release(&ReleaseRequest::new(spec)).await.unwrap();
        until(&controller.deployer, &id, |report| {
            report.member(&name("front")).is_some_and(|member| member.stage == MemberStage::UnderWay)
        })
        .await;
        let direct = DeployRequest::new(service("db", "v9").service).with_strategy(quick());
        let rollout = controller.deployer.deploy(&direct).await.unwrap();
        ended(&controller, &rollout).await;
        controller.deployer.abort_release(&shop()).await.unwrap();
        let report = ended_release(&controller.deployer, &id).await;
        assert_eq!(report.outcome, Some(Outcome::RolledBack), "{report:?}");
        assert_eq!(report.member(&name("db")).unwrap().stage, MemberStage::Left);
        runs(&world, &[("api", "v1"), ("db", "v9"), ("front", "v1")]).await;
    }

    /// A member whose way back fails stops the release, and everything stays as it is then.
    #[tokio::test(start_paused = true)]
    async fn a_way_back_that_fails_stops_and_tells() {
        let world = World::new();
        let controller = world.controller("first").await;
        assert_eq!(released(&controller, chain("v1")).await.outcome, Some(Outcome::Succeeded));
        let mut events = controller.deployer.release_events();
        let mut spec = chain("v2");
        spec.members[2].strategy = quick().with_deadlines(500 * S, 600 * S).with_min_healthy(100 * S);
        let id = controller.deployer.release(&ReleaseRequest::new(spec)).await.unwrap();
        until(&controller.deployer, &id, |report| {
            report.member(&name("front")).is_some_and(|member| member.stage == MemberStage::UnderWay)
        })
        .await;
        // From now on nothing that is created for the API comes to run.
        use ews_core::testkit::fake::{Fault, FaultRule, Operation};
        world
            .engine
            .faults()
            .add(FaultRule::new(Fault::Fail(ErrorKind::OutOfResources)).on(Operation::Create));
        controller.deployer.abort_release(&shop()).await.unwrap();
        let report = ended_release(&controller.deployer, &id).await;
        assert_eq!(report.outcome, Some(Outcome::RollbackFailed), "{report:?}");
        assert!(report.cause.contains("`api` could not go back"), "{}", report.cause);
        let lines = told(&mut events);
        at(&lines, "stuck api");
        assert!(!lines.contains(&"back db".to_owned()), "it stops there: {lines:?}");
        runs(&world, &[("api", "v2"), ("db", "v2"), ("front", "v1")]).await;
    }
}

mod jobs {
    use super::*;

    fn with_job(version: &str, words: &[&str]) -> ews_deploy::release::ReleaseSpec {
        release([
            service("db", version),
            job("migrate", words).after(name("db"), MemberCondition::Healthy),
            service("api", version).after(name("migrate"), MemberCondition::Completed),
        ])
    }

    #[tokio::test(start_paused = true)]
    async fn a_job_runs_once_between_its_neighbours_and_leaves_nothing() {
        let world = World::new();
        let controller = world.controller("first").await;
        let mut events = controller.deployer.release_events();
        let report = released(&controller, with_job("v1", &["exit", "0", "after", "20s"])).await;
        assert_eq!(report.outcome, Some(Outcome::Succeeded), "{report:?}");
        let lines = told(&mut events);
        assert!(at(&lines, "healthy db") < at(&lines, "start migrate"), "{lines:?}");
        assert!(at(&lines, "done migrate") < at(&lines, "start api"), "{lines:?}");
        let job = report.member(&name("migrate")).unwrap().job.clone().unwrap();
        assert_eq!((job.succeeded, job.attempt, job.exit.unwrap().code), (Some(true), 1, Some(0)));
        assert_eq!(job.log, ["out", "err"]);
        runs(&world, &[("api", "v1"), ("db", "v1")]).await;
        assert_eq!(world.engine.objects(), 4, "nothing is left of the job");
        // Once for each release, though its spec is the same.
        let again = released(&controller, with_job("v1", &["exit", "0", "after", "20s"])).await;
        assert_eq!(again.outcome, Some(Outcome::Succeeded));
        assert_eq!(again.member(&name("migrate")).unwrap().stage, MemberStage::Succeeded);
    }

    #[tokio::test(start_paused = true)]
    async fn a_job_that_fails_takes_the_release_back_and_is_kept_for_a_while() {
        let world = World::new();
        let controller = world.controller("first").await;
        assert_eq!(
            released(&controller, with_job("v1", &["exit", "0"])).await.outcome,
            Some(Outcome::Succeeded)
        );
        let spec = with_job("v2", &["exit", "7", "after", "1s"]).with_keep_failed(600 * S);
        let report = released(&controller, spec).await;
        assert_eq!(report.outcome, Some(Outcome::RolledBack), "{report:?}");
        assert!(
            report.cause.contains("`migrate` failed: its program ended: exit code 7"),
            "{}",
            report.cause
        );
        let job = report.member(&name("migrate")).unwrap().job.clone().unwrap();
        assert_eq!((job.succeeded, job.exit.unwrap().code), (Some(false), Some(7)));
        assert_eq!(job.log, ["out", "err"]);
        runs(&world, &[("api", "v1"), ("db", "v1")]).await;
        let kept = job.kept.unwrap();
        let instance = controller.runtime.get(&kept).await.unwrap();
        assert!(matches!(instance.state, InstanceState::Exited(_)), "{instance:?}");
        tokio::time::sleep(700 * S).await;
        assert_eq!(controller.runtime.get(&kept).await.unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(world.engine.objects(), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn attempts_and_deadlines_are_the_jobs_own() {
        let world = World::new();
        let controller = world.controller("first").await;
        let mut retried = Job::default();
        retried.retries = 2;
        let spec = release([job_with("migrate", &["exit", "1"], retried)]).with_keep_failed(Duration::ZERO);
        let report = released(&controller, spec).await;
        assert_eq!(report.outcome, Some(Outcome::RolledBack), "{report:?}");
        let failed = report.member(&name("migrate")).unwrap().job.clone().unwrap();
        assert_eq!((failed.attempt, failed.kept), (3, None));
        assert_eq!(world.engine.objects(), 0, "not even the last attempt is kept");
        let mut short = Job::default();
        short.deadline = 30 * S;
        let spec = release([job_with("migrate", &["sleep"], short)]).with_keep_failed(Duration::ZERO);
        let report = released(&controller, spec).await;
        let late = report.member(&name("migrate")).unwrap().job.clone().unwrap();
        assert!(late.cause.contains("had not ended within 30s"), "{late:?}");
        assert_eq!((world.engine.objects(), world.engine.processes()), (0, 0));
        // A program that is not there is told in the engine's words; a kill for memory is told as one.
        let spec = release([job("migrate", &["no-such-word"])]).with_keep_failed(Duration::ZERO);
        let report = released(&controller, spec).await;
        assert!(report.cause.contains("could not be started"), "{}", report.cause);
        let id = controller
            .deployer
            .release(&ReleaseRequest::new(release([job("migrate", &["sleep"])])))
            .await
            .unwrap();
        eventually("it runs", || async { world.engine.processes() == 1 }).await;
        world.engine.kill_for_memory(&world.instances().await[0].id);
        let report = ended_release(&controller.deployer, &id).await;
        let killed = report.member(&name("migrate")).unwrap().job.clone().unwrap();
        assert!(killed.exit.unwrap().oom_killed);
    }

    #[tokio::test(start_paused = true)]
    async fn a_job_under_way_is_stopped_by_an_abort_and_by_a_cancel() {
        for abort in [true, false] {
            let world = World::new();
            let controller = world.controller("first").await;
            let spec = with_job("v1", &["sleep"]);
            let id = controller.deployer.release(&ReleaseRequest::new(spec)).await.unwrap();
            eventually("the job runs", || async { world.engine.processes() == 3 }).await;
            if abort {
                controller.deployer.abort_release(&shop()).await.unwrap();
            } else {
                controller.deployer.cancel_release(&shop()).await.unwrap();
            }
            let report = ended_release(&controller.deployer, &id).await;
            let expected = if abort { Outcome::RolledBack } else { Outcome::Cancelled };
            assert_eq!(report.outcome, Some(expected), "{report:?}");
            let left = if abort { 0 } else { 2 };
            eventually("no job is left", || async { world.engine.objects() == left }).await;
        }
    }

    /// A job whose instance somebody removed is not run again: nobody knows what it did.
    #[tokio::test(start_paused = true)]
    async fn a_job_that_vanished_counts_as_failed() {
        let world = World::new();
        let controller = world.controller("first").await;
        let id = controller
            .deployer
            .release(&ReleaseRequest::new(release([job("migrate", &["sleep"])])))
            .await
            .unwrap();
        eventually("it runs", || async { world.engine.processes() == 1 }).await;
        let instance = world.instances().await[0].id.clone();
        let options = ews_core::runtime::RemoveOptions::force();
        controller.runtime.remove(&instance, &options).await.unwrap();
        let report = ended_release(&controller.deployer, &id).await;
        assert_eq!(report.outcome, Some(Outcome::RolledBack), "{report:?}");
        assert!(report.cause.contains("nobody knows how it ended"), "{}", report.cause);
        assert_eq!(world.engine.count(ews_core::testkit::fake::Operation::Create), 1);
    }
}
