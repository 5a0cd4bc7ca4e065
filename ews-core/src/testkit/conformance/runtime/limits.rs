//! Behaviour 18: a limit is held, or the spec is refused (see `what_is_not_declared_is_refused`), never dropped in silence.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::cx::Cx;
use super::{CaseResult, Workload, cases, ensure};
use crate::capability::{Capability, Enforcement};
use crate::instance::{ExitStatus, InstanceState};
use crate::runtime::{LogOptions, WaitOptions};
use crate::spec::resources::{ByteSize, Cpu};
use crate::testkit::conformance::Stop;

cases! {
    18 a_memory_limit_holds,
    18 a_cpu_limit_holds,
    18 a_process_limit_holds,
}

fn hard(what: &str, enforcement: Enforcement) -> CaseResult {
    match enforcement {
        Enforcement::Hard => Ok(()),
        other => Err(Stop::skip(format!("limits on {what} are declared as {other:?}, not Hard"))),
    }
}

async fn a_memory_limit_holds(cx: &Cx<'_>) -> CaseResult {
    hard("memory", cx.capabilities().await?.memory)?;
    let status = killed_for_memory(cx, 0).await?;
    ensure!(!status.is_success(), "a program that took 256 MiB under a limit of 64 MiB ended well");
    if cx.has(Capability::OomDetection).await? {
        ensure!(status.oom_killed, "it ended with `{status}`, and that it was for memory is not said");
    }
    Ok(())
}

/// How a program ends that takes more than its limit, where that was said in as many tries as the harness gives the engine.
pub(super) async fn killed_for_memory(cx: &Cx<'_>, slot: u32) -> Result<ExitStatus, Stop> {
    let mut spec = cx.spec(&Workload::EatMemory { mib: 256 })?;
    spec.resources.memory = Some(ByteSize::from_mib(64));
    let id = cx.start(&spec, slot).await?.id;
    let (runtime, mut tries) = (cx.rt().await?, 1);
    loop {
        let wait = WaitOptions::default();
        let ended = tokio::time::timeout(cx.limits.patience, runtime.wait(&id, &wait)).await;
        let Ok(status) = ended else {
            return Err(Stop::fail("a program that takes 256 MiB lives with a limit of 64 MiB"));
        };
        let status = status?;
        if status.oom_killed || tries >= cx.harness.tries_for_memory() {
            return Ok(status);
        }
        tries += 1;
        runtime.start(&id).await?;
    }
}

async fn a_cpu_limit_holds(cx: &Cx<'_>) -> CaseResult {
    hard("CPU", cx.capabilities().await?.cpu)?;
    cx.need(Capability::Usage).await?;
    let runtime = cx.rt().await?;
    let mut spec = cx.spec(&Workload::Burn)?;
    spec.resources.cpu = Some(Cpu::from_millis(250));
    let id = cx.start(&spec, 0).await?.id;
    let cpu = async || {
        let usage = runtime.usage(std::slice::from_ref(&id)).await?;
        let nanos = usage.first().and_then(|usage| usage.cpu_nanos);
        nanos.ok_or_else(|| Stop::fail("the CPU time of a running program is not known"))
    };
    // The time is taken before the first measurement and after the last, so a slow answer can only excuse the driver. What
    // lies between lasts long beside a slow first one, so that it does not excuse much.
    let began = Instant::now();
    let before = cpu().await?;
    sleep(Duration::from_secs(4).max(began.elapsed() * 4)).await;
    let (used, passed) = (cpu().await?.saturating_sub(before), began.elapsed());
    let share = used as f64 / passed.as_nanos() as f64;
    let held = share < 0.40;
    ensure!(held, "limited to 0.25 CPU, it used {share:.2}");
    Ok(())
}

async fn a_process_limit_holds(cx: &Cx<'_>) -> CaseResult {
    hard("processes", cx.capabilities().await?.pids)?;
    cx.need(Capability::Logs).await?;
    let free = cx.start_workload(&Workload::Fork { children: 40 }, 0).await?;
    cx.line(&free.id, "started").await?;
    let mut spec = cx.spec(&Workload::Fork { children: 40 })?;
    spec.resources.pids = Some(16);
    let held = cx.start(&spec, 1).await?;
    // The same program without a limit was done before this one began, so this is time enough.
    sleep(Duration::from_secs(2)).await;
    let lines = cx.lines(&held.id, &LogOptions::default()).await?;
    ensure!(
        lines.iter().all(|line| line.bytes != "started"),
        "limited to 16 processes, it started 40 children"
    );
    let state = cx.rt().await?.get(&held.id).await?.state;
    ensure!(!matches!(state, InstanceState::Unknown { .. }), "it is {}", state.as_str());
    Ok(())
}
