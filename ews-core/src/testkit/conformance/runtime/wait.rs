//! Behaviours 23 and 24: waiting for an end, before, during and after, by this controller and the next.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::sleep;

use super::cx::{Cx, refused, within};
use super::{CaseResult, Workload, cases, ensure};
use crate::capability::Capability;
use crate::error::ErrorKind;
use crate::runtime::{RemoveOptions, StopOptions, WaitOptions};
use crate::testkit::conformance::Stop;

cases! {
    23 wait_before_during_and_after,
    23 wait_for_an_earlier_start_is_never_the_later_ones_end,
    23 wait_for_what_is_removed_meanwhile_is_not_found,
    24 wait_survives_the_controller,
}

fn exits(code: u8, after: u64) -> Workload {
    Workload::Exit { code, after: Duration::from_millis(after) }
}

async fn wait_before_during_and_after(cx: &Cx<'_>) -> CaseResult {
    let runtime = cx.rt().await?;
    let id = cx.create(&cx.spec(&exits(5, 1500))?, 0).await?.id;
    let options = WaitOptions::default();
    let before = runtime.wait(&id, &options);
    let during = async {
        sleep(Duration::from_millis(200)).await;
        runtime.start(&id).await?;
        let waits = join_all((0..3).map(|_| runtime.wait(&id, &options))).await;
        waits.into_iter().collect::<Result<Vec<_>, _>>()
    };
    let limit = cx.limits.patience;
    let both = futures_util::future::join(before, during);
    let (before, during) = within("waiting for a program of 1.5 s", limit, both).await?;
    let after = within("wait after the end", limit, runtime.wait(&id, &options)).await??;
    let mut all = during?;
    all.extend([before?, after]);
    for status in all {
        ensure!(status.code == Some(5), "it exits with 5; a wait says `{status}`");
    }
    Ok(())
}

async fn wait_for_an_earlier_start_is_never_the_later_ones_end(cx: &Cx<'_>) -> CaseResult {
    let runtime = cx.rt().await?;
    let program = Workload::ExitOnTerm { code: 9, after: Duration::ZERO };
    let begun = cx.start_workload(&program, 0).await?;
    let id = begun.id;
    cx.line(&id, "ready").await?;
    let first = runtime.stop(&id, &StopOptions::default()).await?;
    let again = runtime.start(&id).await?;
    let second = runtime.stop(&id, &StopOptions::grace(Duration::ZERO)).await?;
    ensure!(first.code == Some(9) && second.code != Some(9), "the ends are `{first}` and `{second}`");
    let now = runtime.wait(&id, &WaitOptions::incarnation(again.incarnation)).await?;
    ensure!(now == second, "the second start ended with `{second}`, wait says `{now}`");
    match within(
        "wait for an earlier start",
        cx.limits.patience,
        runtime.wait(&id, &WaitOptions::incarnation(begun.incarnation)),
    )
    .await?
    {
        Ok(status) => ensure!(status == first, "the first start ended with `{first}`, wait says `{status}`"),
        Err(error) => {
            refused::<()>("wait for an earlier start", Err(error), &[ErrorKind::Stale])?;
        }
    }
    Ok(())
}

async fn wait_for_what_is_removed_meanwhile_is_not_found(cx: &Cx<'_>) -> CaseResult {
    let runtime = cx.rt().await?;
    let id = cx.create(&cx.spec(&Workload::Sleep)?, 0).await?.id;
    let options = WaitOptions::default();
    let remove = async {
        sleep(Duration::from_millis(200)).await;
        runtime.remove(&id, &RemoveOptions::default()).await
    };
    let (waited, removed) = within(
        "wait for what is removed",
        cx.limits.patience,
        futures_util::future::join(runtime.wait(&id, &options), remove),
    )
    .await?;
    removed?;
    refused("wait for what is removed meanwhile", waited, &[ErrorKind::NotFound])?;
    Ok(())
}

async fn wait_survives_the_controller(cx: &Cx<'_>) -> CaseResult {
    cx.need(Capability::SurvivesController).await?;
    let running = cx.start_workload(&Workload::Sleep, 2).await?;
    let meanwhile = cx.start_workload(&exits(6, 500), 1).await?;
    let lasts = Duration::from_secs(10);
    let during = cx.start_workload(&Workload::Exit { code: 5, after: lasts }, 0).await?;
    {
        let runtime = cx.rt().await?;
        let options = WaitOptions::default();
        // A wait is under way when its controller goes.
        let wait = runtime.wait(&during.id, &options);
        if tokio::time::timeout(Duration::from_millis(100), wait).await.is_ok() {
            return Err(Stop::fail("a program of 10 s has ended at once"));
        }
    }
    // One ends while no controller is there at all.
    cx.disconnect();
    sleep(Duration::from_millis(1500)).await;
    let runtime = cx.reconnect().await?;
    for (instance, code) in [(&meanwhile, 6), (&during, 5)] {
        let wait = WaitOptions::incarnation(instance.incarnation);
        let limit = lasts + cx.limits.patience;
        let status =
            within("wait by the next controller", limit, runtime.wait(&instance.id, &wait)).await??;
        ensure!(status.code == Some(code), "it exited with {code}; the next controller hears `{status}`");
    }
    let seen = runtime.get(&running.id).await?;
    ensure!(
        seen.incarnation == running.incarnation && seen.started_at == running.started_at,
        "the next controller sees incarnation {} instead of {}",
        seen.incarnation,
        running.incarnation
    );
    Ok(())
}
