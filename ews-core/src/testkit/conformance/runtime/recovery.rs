//! Behaviours 40 to 42: engines that hang, callers that lose interest, controllers that die.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::cx::{Cx, within};
use super::{CaseResult, Disturbance, Runtime, Workload, cases, ensure};
use crate::capability::Capability;
use crate::error::{Error, ErrorKind, Result};
use crate::id::InstanceId;
use crate::instance::{Incarnation, InstanceState};
use crate::runtime::{CreateOptions, LogOptions, RemoveOptions, StopOptions, WaitOptions};
use crate::testkit::conformance::Stop;

cases! {
    40 calls_to_a_hung_engine_end,
    41 a_dropped_call_happens_once,
    42 a_killed_controller_leaves_nothing_it_can_not_find,
}

/// When a call is given up, in milliseconds after its first poll: at once, and at ever later points of its way.
const GIVEN_UP: [u64; 7] = [0, 1, 3, 10, 30, 60, 200];

async fn calls_to_a_hung_engine_end(cx: &Cx<'_>) -> CaseResult {
    let runtime = cx.rt().await?;
    let spec = cx.spec(&Workload::Sleep)?;
    let (key, options) = (cx.key(1)?, CreateOptions::default());
    let id = cx.start(&spec, 0).await?.id;
    if !cx.harness.disturb(Disturbance::Hang).await {
        return Err(Stop::skip("the harness can't make the engine hang"));
    }
    let selector = cx.selector()?;
    let ended = |name: &'static str, result: Result<Result<()>, Stop>| match result? {
        Ok(()) => Err(Stop::fail(format!("{name} succeeded at an engine that hangs"))),
        Err(error) if matches!(error.kind(), ErrorKind::Timeout | ErrorKind::Unavailable) => Ok(()),
        Err(error) => Err(Stop::fail(format!("{name} at an engine that hangs says {error}"))),
    };
    // A node that does not answer may be listed as unknown instead.
    within("nodes", cx.limits.call, runtime.nodes()).await?.map(drop).or_else(silent)?;
    let limit = cx.limits.call;
    let force = RemoveOptions::force();
    let grace = StopOptions::grace(Duration::ZERO);
    let gone = cx.key(2)?.to_id()?;
    let all = tokio::join!(
        within("get", limit, async { runtime.get(&id).await.map(drop) }),
        within("list", limit, async { runtime.list(&selector).await.map(drop) }),
        within("create", limit, async { runtime.create(&spec, &key, &options).await.map(drop) }),
        within("start", limit, async { runtime.start(&id).await.map(drop) }),
        within("stop", limit, async { runtime.stop(&id, &grace).await.map(drop) }),
        within("remove", limit, async { runtime.remove(&gone, &force).await }),
    );
    // What the driver knows by itself it may say; what it must ask for it can't.
    for (name, result) in [("create", all.2), ("start", all.3), ("stop", all.4), ("remove", all.5)] {
        ended(name, result)?;
    }
    all.0?.or_else(silent)?;
    all.1?.or_else(silent)?;
    if cx.has(Capability::Logs).await? {
        let options = LogOptions::default();
        within("logs", limit, async { runtime.logs(&id, &options).await.map(drop) })
            .await?
            .or_else(silent)?;
    }
    cx.harness.heal().await;
    // The engine takes up what it had been asked; the driver says what is true then.
    cx.until("the engine to answer again", async || Ok(runtime.list(&selector).await.ok())).await?;
    sleep(Duration::from_secs(1)).await;
    let created = runtime.create(&spec, &key, &options).await?;
    let list = runtime.list(&selector).await?;
    ensure!(list.len() == 2, "of two keys there are {} instances after the hang", list.len());
    runtime.start(&created.id).await?;
    Ok(())
}

/// An engine that does not answer, said in one of the ways there are.
fn silent(error: Error) -> Result<(), Stop> {
    match error.kind() {
        ErrorKind::Timeout | ErrorKind::Unavailable => Ok(()),
        _ => Err(Stop::fail(format!("an engine that hangs is reported as {error}"))),
    }
}

async fn a_dropped_call_happens_once(cx: &Cx<'_>) -> CaseResult {
    let runtime = cx.rt().await?;
    let spec = cx.spec(&Workload::Sleep)?;
    let options = CreateOptions::default();
    for (slot, millis) in (0..).zip(GIVEN_UP) {
        let (key, patience) = (cx.key(slot)?, Duration::from_millis(millis));
        // `timeout` polls once before it looks at the clock, so that even zero has begun the call.
        drop(timeout(patience, runtime.create(&spec, &key, &options)).await);
        let found = cx
            .until(&format!("a create that was given up after {millis} ms to happen"), async || {
                let list = cx.list().await?.into_iter();
                let mut of_key = list.filter(|i| i.key == key && i.state == InstanceState::Created);
                Ok(of_key.next())
            })
            .await?;
        let again = runtime.create(&spec, &key, &options).await?;
        ensure!(again.id == found.id, "a create that was given up and one after it made two objects");
        let id = again.id;
        drop(timeout(patience, runtime.start(&id)).await);
        let started = runtime.start(&id).await?;
        ensure!(
            started.incarnation > Incarnation(0) && started.state == InstanceState::Running,
            "a start that was given up after {millis} ms and one after it left it {} #{}",
            started.state.as_str(),
            started.incarnation
        );
        drop(timeout(patience, runtime.stop(&id, &StopOptions::grace(Duration::from_secs(5)))).await);
        cx.state(&id, "a stop that was given up to happen", InstanceState::is_ended).await?;
        // A start alone, so that nobody else's call can do its work.
        drop(timeout(patience, runtime.start(&id)).await);
        let running = |state: &InstanceState| *state == InstanceState::Running;
        let second = cx.state(&id, "a start that was given up to happen", running).await?;
        ensure!(
            second.incarnation > started.incarnation,
            "a second start gave incarnation {} after {}",
            second.incarnation,
            started.incarnation
        );
        // One start, not two: nothing starts it once more behind our back.
        sleep(Duration::from_millis(100)).await;
        let later = runtime.get(&id).await?.incarnation;
        ensure!(
            later == second.incarnation,
            "one start gave incarnation {} and then {later}",
            second.incarnation
        );
        drop(timeout(patience, runtime.remove(&id, &RemoveOptions::force())).await);
        gone(cx, runtime.as_ref(), &id).await?;
    }
    ensure!(cx.list().await?.is_empty(), "calls that were given up left instances behind");
    nothing_left(cx).await
}

async fn gone(cx: &Cx<'_>, runtime: &dyn Runtime, id: &InstanceId) -> CaseResult {
    cx.until("a remove that was given up to happen", async || match runtime.get(id).await {
        Ok(_) => Ok(None),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Some(())),
        Err(error) => Err(Stop::from(error)),
    })
    .await
}

async fn nothing_left(cx: &Cx<'_>) -> CaseResult {
    // What was given up may have ended for the contract a moment before its last object is gone.
    let left = Cell::new(0);
    let waited = cx
        .until("what the contract does not show to go", async || {
            let count = cx.harness.leftovers(&cx.owner).await.unwrap_or_default();
            left.set(count);
            Ok((count == 0).then_some(()))
        })
        .await;
    let count = left.get();
    ensure!(waited.is_ok(), "{count} objects are left that the contract does not show");
    Ok(())
}

/// A step of an instance's life.
#[derive(Debug, Clone, Copy)]
enum Step {
    Create,
    Start,
    Stop,
    Remove,
}

async fn a_killed_controller_leaves_nothing_it_can_not_find(cx: &Cx<'_>) -> CaseResult {
    cx.need(Capability::SurvivesController).await?;
    let spec = cx.spec(&Workload::Sleep)?;
    let mut slot = 0;
    for step in [Step::Create, Step::Start, Step::Stop, Step::Remove] {
        for millis in GIVEN_UP {
            slot += 1;
            let key = cx.key(slot)?;
            let first = cx.reconnect().await?;
            let options = CreateOptions::default();
            let id = match step {
                Step::Create => key.to_id()?,
                _ => first.create(&spec, &key, &options).await?.id,
            };
            if matches!(step, Step::Stop | Step::Remove) {
                first.start(&id).await?;
            }
            let call = {
                let (runtime, spec, key, id): (Arc<dyn Runtime>, _, _, _) =
                    (first, spec.clone(), key.clone(), id);
                tokio::spawn(async move {
                    match step {
                        Step::Create => {
                            runtime.create(&spec, &key, &CreateOptions::default()).await.map(drop)
                        }
                        Step::Start => runtime.start(&id).await.map(drop),
                        Step::Stop => runtime.stop(&id, &StopOptions::default()).await.map(drop),
                        Step::Remove => runtime.remove(&id, &RemoveOptions::force()).await,
                    }
                })
            };
            sleep(Duration::from_millis(millis)).await;
            if !cx.harness.kill_controller().await {
                call.abort();
                return Err(Stop::skip("the harness can't kill the controller"));
            }
            call.abort();
            drop(call.await);
            let what = format!("{step:?} when the controller was killed after {millis} ms");
            recover(cx, &what, step, slot).await?;
        }
    }
    ensure!(cx.list().await?.is_empty(), "the successor left instances behind");
    nothing_left(cx).await
}

/// What a successor does: it looks, asks for the same again, and cleans up.
async fn recover(cx: &Cx<'_>, what: &str, step: Step, slot: u32) -> CaseResult {
    let runtime = cx.reconnect().await?;
    let (spec, key) = (cx.spec(&Workload::Sleep)?, cx.key(slot)?);
    if matches!(step, Step::Remove) {
        // An engine goes on with what a dead controller has asked for. What is still there after a while was not asked for.
        for _ in 0..30 {
            if !cx.list().await?.iter().any(|instance| instance.key == key) {
                break;
            }
            sleep(Duration::from_millis(100)).await;
        }
    }
    let list: Vec<_> = cx.list().await?.into_iter().filter(|instance| instance.key == key).collect();
    ensure!(list.len() <= 1, "{what}: the successor sees {} instances of one key", list.len());
    let made = async || {
        let created = runtime.create(&spec, &key, &CreateOptions::default()).await;
        let created =
            created.map_err(|error| Stop::fail(format!("{what}: the successor's create says {error}")))?;
        if let Some(found) = list.first() {
            let still = matches!(step, Step::Remove) || found.id == created.id;
            ensure!(still, "{what}: the successor made a second object");
        }
        match runtime.start(&created.id).await {
            Ok(started) => Ok(Some((created, started))),
            // An engine goes on with a removal whose caller is dead. What it is about is gone soon, and then made anew.
            Err(error)
                if matches!(step, Step::Remove)
                    && matches!(error.kind(), ErrorKind::Busy | ErrorKind::NotFound) =>
            {
                Ok(None)
            }
            Err(error) => Err(Stop::from(error)),
        }
    };
    let (created, started) = cx.until(&format!("{what}: a start by the successor"), made).await?;
    ensure!(
        started.state == InstanceState::Running,
        "{what}: it is {} after a start",
        started.state.as_str()
    );
    // A stop, and a removal that was forced, may have ended it before its controller was killed; then this was another start.
    if let (Some(before), Step::Start) =
        (list.first().filter(|found| found.state == InstanceState::Running), step)
    {
        ensure!(
            started.incarnation == before.incarnation,
            "{what}: it ran as #{}, and a start made it #{}",
            before.incarnation,
            started.incarnation
        );
    }
    let stopped = runtime.stop(&created.id, &StopOptions::default()).await?;
    let waited = runtime.wait(&created.id, &WaitOptions::default()).await?;
    ensure!(stopped == waited, "{what}: stop says `{stopped}`, wait `{waited}`");
    runtime.remove(&created.id, &RemoveOptions::default()).await?;
    Ok(())
}
