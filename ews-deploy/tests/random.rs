//! Random services, strategies, failures and interruptions: whatever happens, every rollout ends, capacity holds, nothing is left.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::print_stdout, reason = "tests")]

mod rig;

use std::time::Duration;

use ews_core::testkit::fake::{FakeRuntime, Fault, FaultRule, Operation};
use ews_core::{ErrorKind, Runtime as _, ScaleChange, ScaleTarget as _, Selector, ServiceSpec};
use ews_deploy::{
    Approval, Batch, BlueGreen, Canary, CanaryStep, Concurrency, Hotfix, OnFailure, Reload, RolloutId,
    Strategy,
};
use proptest::prelude::{Just, ProptestConfig, Strategy as Any, any};
use proptest::{collection, prop_oneof, proptest};
use rig::*;

/// How the next rollout goes.
#[derive(Debug, Clone)]
enum Way {
    Batches(u32, u8),
    Canary(u8, u32),
    BlueGreen(u32),
}

/// What is done, and what happens.
#[derive(Debug, Clone)]
enum Deed {
    Deploy {
        version: u8,
        sick: bool,
        way: Way,
        on_failure: u8,
        supersede: bool,
        approval: bool,
    },
    Hotfix {
        content: u8,
        restart: bool,
    },
    Restart,
    Rollback,
    Scale(u32),
    Pause,
    Resume,
    Abort,
    Cancel,
    /// The controller is killed, and another one takes over.
    Kill,
    /// Calls of the engine fail for a while, some of which took effect.
    Trouble {
        operation: u8,
        applied: bool,
        times: u8,
    },
    /// An instance dies.
    Crash(u8),
    Wait(u16),
}

fn ways() -> impl Any<Value = Way> {
    prop_oneof![
        (1_u32..4, 1_u8..=100).prop_map(|(first, percent)| Way::Batches(first, percent)),
        (0_u8..=100, 0_u32..20).prop_map(|(weight, pause)| Way::Canary(weight, pause)),
        (0_u32..20).prop_map(Way::BlueGreen),
    ]
}

fn deeds(crashes: bool) -> impl Any<Value = Vec<Deed>> {
    let deploy = (
        0_u8..6,
        proptest::bool::weighted(0.3),
        ways(),
        0_u8..4,
        any::<bool>(),
        proptest::bool::weighted(0.2),
    )
        .prop_map(|(version, sick, way, on_failure, supersede, approval)| Deed::Deploy {
            version,
            sick,
            way,
            on_failure,
            supersede,
            approval,
        });
    let trouble = (0_u8..8, any::<bool>(), 1_u8..4).prop_map(|(operation, applied, times)| Deed::Trouble {
        operation,
        applied,
        times,
    });
    let crash: proptest::strategy::BoxedStrategy<Deed> = if crashes {
        (0_u8..8).prop_map(Deed::Crash).boxed()
    } else {
        (1_u16..5).prop_map(Deed::Wait).boxed()
    };
    let deed = prop_oneof![
        4 => deploy,
        1 => (0_u8..3, any::<bool>()).prop_map(|(content, restart)| Deed::Hotfix { content, restart }),
        1 => Just(Deed::Restart),
        1 => Just(Deed::Rollback),
        1 => (1_u32..6).prop_map(Deed::Scale),
        1 => Just(Deed::Pause),
        1 => Just(Deed::Resume),
        1 => Just(Deed::Abort),
        1 => Just(Deed::Cancel),
        2 => Just(Deed::Kill),
        2 => trouble,
        2 => crash,
        4 => (1_u16..40).prop_map(Deed::Wait),
    ];
    collection::vec(deed, 1..12)
}

fn asked(way: &Way, on_failure: u8, approval: bool) -> Strategy {
    let base = strategy().with_on_failure(match on_failure {
        0 => OnFailure::Rollback,
        1 => OnFailure::Freeze,
        2 => OnFailure::Skip,
        _ => OnFailure::Retry(1),
    });
    let base = if approval { base.with_approval(Approval::FirstBatch) } else { base };
    match way {
        Way::Batches(first, percent) => base.with_batches(Batch::Count(*first), Batch::Percent(*percent)),
        Way::Canary(weight, pause) => {
            let pause = Duration::from_secs(u64::from(*pause) + 1);
            base.with_canary(Canary::new([CanaryStep::Weight(*weight), CanaryStep::Pause(pause)]))
        }
        Way::BlueGreen(retire) => {
            base.with_blue_green(BlueGreen::default().with_retire(Duration::from_secs(u64::from(*retire))))
        }
    }
}

fn version(number: u8, is_sick: bool) -> ServiceSpec {
    let name = format!("v{}", number + 1);
    if is_sick { sick(&format!("{name}-sick")) } else { spec(&name) }
}

async fn done(
    deed: &Deed,
    world: &World,
    controller: &mut Controller,
    life: usize,
    known: &mut Vec<RolloutId>,
) {
    let deployer = controller.deployer.clone();
    match deed {
        Deed::Deploy { version: number, sick, way, on_failure, supersede, approval } => {
            let concurrency = if *supersede { Concurrency::Supersede } else { Concurrency::Queue };
            let request = request(version(*number, *sick))
                .with_strategy(asked(way, *on_failure, *approval))
                .with_concurrency(concurrency);
            known.extend(deployer.deploy(&request).await.ok());
        }
        Deed::Hotfix { content, restart } => {
            let reload = if *restart { Reload::Restart } else { Reload::None };
            let fix = Hotfix::new(web())
                .with_file("/etc/passwd", format!("fixed {content}"))
                .with_reload(reload)
                .with_strategy(strategy());
            known.extend(deployer.hotfix(&fix).await.ok());
        }
        Deed::Restart => known.extend(deployer.restart(&web(), &strategy()).await.ok()),
        Deed::Rollback => known.extend(deployer.rollback(&web(), None).await.ok()),
        Deed::Scale(count) => {
            let _ = deployer.set(&web(), &ScaleChange::to(*count, "random")).await;
        }
        Deed::Pause => drop(deployer.pause(&web()).await),
        Deed::Resume => drop(deployer.resume(&web()).await),
        Deed::Abort => drop(deployer.abort(&web()).await),
        Deed::Cancel => drop(deployer.cancel(&web()).await),
        Deed::Kill => {
            let next = world.controller(&format!("life {life}")).await;
            std::mem::replace(controller, next).kill();
        }
        Deed::Trouble { operation, applied, times } => {
            let operations = [
                Operation::Create,
                Operation::Start,
                Operation::Stop,
                Operation::Remove,
                Operation::List,
                Operation::PutArchive,
                Operation::GetArchive,
                Operation::Events,
            ];
            let fault = match applied {
                true => Fault::FailApplied(ErrorKind::Timeout),
                false => Fault::Fail(ErrorKind::Unavailable),
            };
            let on = operations[usize::from(*operation)];
            world.engine.faults().add(FaultRule::new(fault).on(on).times(u32::from(*times).into()));
        }
        Deed::Crash(which) => {
            // The engine may be in trouble: then nobody dies.
            let engine = FakeRuntime::connect(&world.engine);
            let instances = engine.list(&Selector::everything()).await.unwrap_or_default();
            if let Some(victim) = instances.get(usize::from(*which) % instances.len().max(1)) {
                world.engine.exit(&victim.id, 1);
            }
        }
        Deed::Wait(seconds) => tokio::time::sleep(Duration::from_secs(u64::from(*seconds))).await,
    }
}

fn run(deeds: Vec<Deed>, crashes: bool) {
    if std::env::var_os("EWS_RANDOM_SHOW").is_some() {
        println!("{deeds:?}");
    }
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(Box::pin(async move {
        let (world, mut controller) = running().await;
        // What an operator scales down to, what is restarted in place and what dies is less by intent: then only that no share
        // goes to nobody is watched.
        let shrinks = deeds
            .iter()
            .any(|deed| matches!(deed, Deed::Scale(_) | Deed::Crash(_) | Deed::Hotfix { restart: true, .. }));
        if !crashes && !shrinks {
            world.guard.watch(3);
        }
        let mut known = Vec::new();
        for (life, deed) in deeds.iter().enumerate() {
            done(deed, &world, &mut controller, life, &mut known).await;
        }
        world.engine.faults().clear();
        // Whoever waits for somebody hears of somebody.
        for _ in 0..200 {
            let _ = controller.deployer.resume(&web()).await;
            tokio::time::sleep(Duration::from_secs(30)).await;
            let mut open = false;
            for id in &known {
                // Not begun, or no longer kept: `wait` below tells which.
                let report = controller.deployer.rollout(id).await;
                open |= report.map_or_else(|_| id.number + 5 > known.len() as u64, |r| r.outcome.is_none());
            }
            if !open {
                break;
            }
        }
        for id in &known {
            // One that is no longer kept has ended.
            match tokio::time::timeout(Duration::from_secs(3600), controller.deployer.wait(id)).await {
                Ok(Ok(report)) => assert!(report.outcome.is_some()),
                Ok(Err(error)) => assert_eq!(error.kind(), ErrorKind::NotFound, "{error}"),
                Err(_) => unreachable!("{id} never ends"),
            }
        }
        let desired = controller.deployer.status(&web()).await.unwrap().desired as usize;
        let whole = || async {
            let instances = world.instances().await;
            let running = instances.iter().filter(|instance| instance.state.is_running()).count();
            running == desired && instances.len() == desired && world.engine.objects() == desired
        };
        eventually(&format!("{desired} run and nothing else"), whole).await;
        assert_eq!(world.engine.orphans(), 0);
        eventually("the journal is empty", || async { world.keys("deploy/acme/web/unit/").await == 0 }).await;
        // A mix that was frozen may hold sick ones; what is well serves, and what serves runs.
        let serving = world.serving().await;
        let instances = world.instances().await;
        for instance in &instances {
            let is_well = instance.labels.get("healthy") == Some("yes");
            let serves = serving.contains(&instance.id.to_string());
            assert!(serves || !is_well, "{instance:?} does not serve");
        }
        let right = || async { controller.deployer.drift(&web()).await.is_ok_and(|drift| drift.is_empty()) };
        eventually("every file is as it should be", right).await;
        controller.deployer.leave().await;
    }));
}

/// What random cases found.
#[test]
fn a_hotfix_that_is_superseded_leaves_no_file_behind() {
    let deploy = |sick, supersede| Deed::Deploy {
        version: 0,
        sick,
        way: Way::Batches(1, 1),
        on_failure: 0,
        supersede,
        approval: false,
    };
    let fix = || Deed::Hotfix { content: 0, restart: false };
    run(vec![fix(), Deed::Scale(1), deploy(true, true), Deed::Kill], false);
    run(vec![fix(), deploy(false, false), Deed::Wait(1), deploy(true, true), fix()], true);
    // Its instance was about to be started again when the controller died; the deployment that came then left it alone.
    let restarting = Deed::Hotfix { content: 1, restart: true };
    let beside = Deed::Deploy {
        version: 0,
        sick: true,
        way: Way::BlueGreen(8),
        on_failure: 1,
        supersede: true,
        approval: false,
    };
    run(vec![restarting, Deed::Scale(4), Deed::Kill, beside], true);
}

/// How many cases are tried; more by hand.
fn cases() -> u32 {
    std::env::var("EWS_RANDOM_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(48)
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: cases(),
        max_shrink_iters: 200,
        max_shrink_time: 60_000,
        ..ProptestConfig::default()
    })]

    #[test]
    fn what_is_asked_for_in_any_order(deeds in deeds(false)) {
        run(deeds, false);
    }

    #[test]
    fn what_is_asked_for_while_instances_die(deeds in deeds(true)) {
        run(deeds, true);
    }
}
