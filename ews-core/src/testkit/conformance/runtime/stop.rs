//! Behaviours 19 to 22, 25 and 26: stopping, how a program ended, removing.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, sleep};

use super::cx::{Cx, refused, within};
use super::limits::killed_for_memory;
use super::{CaseResult, Workload, cases, ensure};
use crate::capability::{Capability, Enforcement};
use crate::error::ErrorKind;
use crate::instance::{ExitStatus, InstanceState};
use crate::runtime::{ExecSpec, RemoveOptions, StopOptions, WaitOptions};
use crate::spec::content::EnvValue;
use crate::spec::lifecycle::Signal;
use crate::testkit::conformance::Stop;

cases! {
    19 stop_honours_the_grace_then_kills,
    19 stop_lets_a_program_end_by_itself,
    20 stop_of_what_has_ended_is_harmless,
    21 stop_ends_the_whole_tree,
    22 exit_code_signal_and_memory_are_told_apart,
    25 removing_what_runs_needs_force,
    26 removing_what_is_gone_is_harmless,
}

async fn stop_honours_the_grace_then_kills(cx: &Cx<'_>) -> CaseResult {
    let runtime = cx.rt().await?;
    let id = cx.start_workload(&Workload::IgnoreTerm, 0).await?.id;
    cx.line(&id, "ready").await?;
    let grace = Duration::from_secs(2);
    let began = Instant::now();
    let status =
        within("stop", grace + cx.limits.patience, runtime.stop(&id, &StopOptions::grace(grace))).await??;
    // Whole milliseconds are what engines count in.
    ensure!(
        began.elapsed() + Duration::from_millis(20) >= grace,
        "it was killed after {:?}, before its grace of {grace:?} was over",
        began.elapsed()
    );
    ensure!(status.ended_by() == Some(Signal::KILL), "it was killed, and the status says `{status}`");
    let state = runtime.get(&id).await?.state;
    ensure!(state == InstanceState::Exited(status), "after stop it is {state:?}");
    // The spec's own grace counts where the call names none.
    let mut spec = cx.spec(&Workload::IgnoreTerm)?;
    spec.stop.grace = Duration::from_secs(1);
    let id = cx.start(&spec, 1).await?.id;
    cx.line(&id, "ready").await?;
    within("stop", spec.stop.grace + cx.limits.patience, runtime.stop(&id, &StopOptions::default()))
        .await??;
    let id = cx.start_workload(&Workload::IgnoreTerm, 2).await?.id;
    cx.line(&id, "ready").await?;
    within("stop without grace", cx.limits.patience, runtime.stop(&id, &StopOptions::grace(Duration::ZERO)))
        .await??;
    Ok(())
}

async fn stop_lets_a_program_end_by_itself(cx: &Cx<'_>) -> CaseResult {
    let runtime = cx.rt().await?;
    let program = Workload::ExitOnTerm { code: 7, after: Duration::from_millis(300) };
    let id = cx.start_workload(&program, 0).await?.id;
    cx.line(&id, "ready").await?;
    let grace = Duration::from_secs(60);
    let limit = cx.limits.patience.min(Duration::from_secs(30));
    let status =
        within("stop of a program that ends soon", limit, runtime.stop(&id, &StopOptions::grace(grace)))
            .await??;
    ensure!(status.code == Some(7), "it exits with 7 at SIGTERM; the status says `{status}`");
    Ok(())
}

async fn stop_of_what_has_ended_is_harmless(cx: &Cx<'_>) -> CaseResult {
    let runtime = cx.rt().await?;
    let (status, id) = {
        let id = cx.start_workload(&Workload::Exit { code: 3, after: Duration::ZERO }, 0).await?.id;
        (runtime.wait(&id, &WaitOptions::default()).await?, id)
    };
    let stopped = runtime.stop(&id, &StopOptions::default()).await?;
    ensure!(stopped == status, "it had ended with `{status}`; stop says `{stopped}`");
    let again = runtime.stop(&id, &StopOptions::grace(Duration::ZERO)).await?;
    ensure!(again == status, "it had ended with `{status}`; a second stop says `{again}`");
    let created = cx.create(&cx.spec(&Workload::Sleep)?, 1).await?;
    let never = runtime.stop(&created.id, &StopOptions::default()).await?;
    ensure!((never.code, never.signal) == (None, None), "it never ran, and stop says `{never}`");
    let state = runtime.get(&created.id).await?.state;
    ensure!(state == InstanceState::Created, "it never ran, and after stop it is {}", state.as_str());
    Ok(())
}

/// How many processes carry this mark: by the harness's hook, else by a neighbour that can see them.
async fn marked(cx: &Cx<'_>, mark: &str) -> Result<Option<usize>, Stop> {
    if let Some(count) = cx.harness.marked_processes(mark).await {
        return Ok(Some(count));
    }
    if !cx.has(Capability::Exec).await? {
        return Ok(None);
    }
    let neighbour = cx.start_workload(&Workload::Sleep, 1000).await?;
    let command = cx.command(&Workload::CountMarked { mark: mark.to_owned() })?;
    let ran = cx.exec(&neighbour.id, &ExecSpec::new(command), b"").await?;
    Ok(std::str::from_utf8(&ran.out).ok().and_then(|text| text.trim().parse().ok()))
}

async fn stop_ends_the_whole_tree(cx: &Cx<'_>) -> CaseResult {
    cx.need(Capability::TreeKill).await?;
    let runtime = cx.rt().await?;
    for (slot, by_remove) in [(0, false), (1, true)] {
        let mark = format!("tree-{}-{}-{slot}", cx.owner, cx.service);
        let mut spec = cx.spec(&Workload::Tree)?;
        spec.env.insert("EWS_MARK".to_owned(), EnvValue::Plain(mark.clone()));
        let id = cx.start(&spec, slot).await?.id;
        cx.line(&id, "ready").await?;
        // The daemon may be seen later than the line.
        let began = Instant::now();
        let before = cx
            .until("the daemon to be seen", async || {
                let count = marked(cx, &mark).await?;
                let known = count.is_none_or(|count| count >= 2);
                Ok((known || began.elapsed() >= cx.limits.patience / 2).then_some(count.unwrap_or_default()))
            })
            .await?;
        if before < 2 {
            return Err(Stop::skip(format!(
                "nobody here can count processes: of a program and its daemon {before} are seen; the hook \
                 `marked_processes` is missing"
            )));
        }
        if by_remove {
            runtime.remove(&id, &RemoveOptions::force()).await?;
        } else {
            runtime.stop(&id, &StopOptions::default()).await?;
        }
        cx.until("the daemon to end with its instance", async || {
            Ok((marked(cx, &mark).await? == Some(0)).then_some(()))
        })
        .await?;
    }
    Ok(())
}

async fn exit_code_signal_and_memory_are_told_apart(cx: &Cx<'_>) -> CaseResult {
    let runtime = cx.rt().await?;
    for (slot, code) in [(0, 0), (1, 3), (2, 255)] {
        let id = cx.start_workload(&Workload::Exit { code, after: Duration::ZERO }, slot).await?.id;
        let status = runtime.wait(&id, &WaitOptions::default()).await?;
        let plain = (status.code, status.signal, status.oom_killed);
        ensure!(plain == (Some(i32::from(code)), None, false), "exit code {code} is reported as `{status}`");
        ensure!(status.is_success() == (code == 0), "exit code {code} is a success: {}", status.is_success());
    }
    let killed = |status: &ExitStatus| status.ended_by() == Some(Signal::KILL) && !status.oom_killed;
    let id = cx.start_workload(&Workload::IgnoreTerm, 3).await?.id;
    let status = if cx.capabilities().await?.check_signal(Signal::KILL).is_ok() {
        runtime.signal(&id, Signal::KILL).await?;
        runtime.wait(&id, &WaitOptions::default()).await?
    } else {
        runtime.stop(&id, &StopOptions::grace(Duration::ZERO)).await?
    };
    ensure!(killed(&status), "a kill is reported as `{status}`, for memory: {}", status.oom_killed);
    if cx.has(Capability::OomDetection).await? && cx.capabilities().await?.memory == Enforcement::Hard {
        let status = killed_for_memory(cx, 4).await?;
        ensure!(status.oom_killed, "a kill for memory is reported as `{status}`");
    }
    Ok(())
}

async fn removing_what_runs_needs_force(cx: &Cx<'_>) -> CaseResult {
    let runtime = cx.rt().await?;
    let before = cx.start_workload(&Workload::Sleep, 0).await?;
    let result = runtime.remove(&before.id, &RemoveOptions::default()).await;
    refused("removing what runs", result, &[ErrorKind::Busy])?;
    sleep(Duration::from_millis(200)).await;
    let after = runtime.get(&before.id).await?;
    ensure!(
        after.state == InstanceState::Running && after.incarnation == before.incarnation,
        "the refused removal left it {} #{}",
        after.state.as_str(),
        after.incarnation
    );
    runtime.remove(&before.id, &RemoveOptions::force()).await?;
    refused("get after remove", runtime.get(&before.id).await, &[ErrorKind::NotFound])?;
    ensure!(cx.list().await?.is_empty(), "it is removed and listed");
    Ok(())
}

async fn removing_what_is_gone_is_harmless(cx: &Cx<'_>) -> CaseResult {
    let runtime = cx.rt().await?;
    let (plain, force) = (RemoveOptions::default(), RemoveOptions::force());
    runtime.remove(&cx.key(77)?.to_id()?, &plain).await?;
    let id = cx.start_workload(&Workload::IgnoreTerm, 0).await?.id;
    for removed in join_all((0..5).map(|_| runtime.remove(&id, &force))).await {
        removed?;
    }
    refused("get after five removes", runtime.get(&id).await, &[ErrorKind::NotFound])?;
    runtime.remove(&id, &force).await?;
    // Its key is free again.
    let created = cx.create(&cx.spec(&Workload::Sleep)?, 0).await?;
    runtime.remove(&created.id, &plain).await?;
    Ok(())
}
