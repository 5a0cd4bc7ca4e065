//! Behaviours 30 and 31: what an instance uses, as true as it can be checked.

use std::time::Duration;

use tokio::time::sleep;

use super::cx::Cx;
use super::{CaseResult, Workload, cases, ensure};
use crate::capability::Capability;
use crate::runtime::{LogOptions, StopOptions, Usage};
use crate::testkit::conformance::Stop;

cases! {
    30 usage_grows_and_knows_a_burner,
    31 usage_leaves_out_what_does_not_run,
}

/// What the burner says that it has used, in seconds: the largest `0m1.230s 0m0.010s` of its output.
async fn told(cx: &Cx<'_>, id: &crate::InstanceId) -> Result<f64, Stop> {
    let lines = cx.lines(id, &LogOptions::tail(20)).await?;
    let seconds = |word: &str| {
        let (minutes, seconds) = word.strip_suffix('s')?.split_once('m')?;
        Some(minutes.parse::<f64>().ok()? * 60.0 + seconds.parse::<f64>().ok()?)
    };
    let both = |line: &str| line.split_whitespace().map(seconds).sum::<Option<f64>>();
    let all = lines.iter().filter_map(|line| both(std::str::from_utf8(&line.bytes).ok()?));
    Ok(all.fold(0.0, f64::max))
}

async fn usage_grows_and_knows_a_burner(cx: &Cx<'_>) -> CaseResult {
    cx.need(Capability::Usage).await?;
    let runtime = cx.rt().await?;
    let started = cx.start_workload(&Workload::Burn, 0).await?;
    let id = started.id;
    let measure = async || {
        let usage = runtime.usage(std::slice::from_ref(&id)).await?;
        usage.into_iter().next().ok_or_else(|| Stop::fail("a running instance has no usage"))
    };
    let mut last: Option<Usage> = None;
    let logs = cx.has(Capability::Logs).await?;
    for _ in 0..6 {
        sleep(Duration::from_millis(500)).await;
        // The program's own count is read on both sides of the measurement, so that a slow machine harms nothing.
        let least = if logs { told(cx, &id).await? } else { 0.0 };
        let usage = measure().await?;
        ensure!(usage.instance == id, "the usage is of {}", usage.instance);
        ensure!(usage.incarnation == started.incarnation, "the usage is of start {}", usage.incarnation);
        if let Some(last) = &last {
            ensure!(usage.at >= last.at, "time goes back from {} to {}", last.at, usage.at);
            ensure!(
                usage.cpu_nanos >= last.cpu_nanos,
                "CPU time shrinks from {:?} to {:?}",
                last.cpu_nanos,
                usage.cpu_nanos
            );
        }
        if let (Some(nanos), true) = (usage.cpu_nanos, logs) {
            // It speaks several times a second; what it has used since it spoke last is seen after the next time.
            sleep(Duration::from_millis(500)).await;
            let most = told(cx, &id).await?;
            let used = nanos as f64 / 1e9;
            ensure!(
                used >= least * 0.8 - 0.2 && used <= most * 1.2 + 0.3,
                "the program counts {least:.2} s to {most:.2} s of CPU time, the driver {used:.2} s"
            );
        }
        ensure!(
            usage.memory != Some(0),
            "a running program is said to use no memory at all; unknown is `None`"
        );
        ensure!(usage.pids != Some(0), "a running program is said to have no process; unknown is `None`");
        last = Some(usage);
    }
    ensure!(
        last.as_ref().is_some_and(|usage| usage.cpu_nanos.is_none_or(|nanos| nanos > 0)),
        "a burner has used no CPU time; unknown is `None`"
    );
    Ok(())
}

async fn usage_leaves_out_what_does_not_run(cx: &Cx<'_>) -> CaseResult {
    cx.need(Capability::Usage).await?;
    let runtime = cx.rt().await?;
    let running = cx.start_workload(&Workload::Sleep, 0).await?.id;
    let stopped = cx.start_workload(&Workload::Sleep, 1).await?.id;
    let created = cx.create(&cx.spec(&Workload::Sleep)?, 2).await?.id;
    let missing = cx.key(99)?.to_id()?;
    runtime.stop(&stopped, &StopOptions::grace(Duration::ZERO)).await?;
    let usage = runtime.usage(&[stopped.clone(), missing.clone(), running.clone(), created]).await?;
    let of: Vec<_> = usage.iter().map(|usage| &usage.instance).collect();
    ensure!(of == [&running], "one of four runs ({running}); usage came of {of:?}");
    let none = runtime.usage(&[stopped, missing]).await?;
    ensure!(none.is_empty(), "none of two runs; usage came: {none:?}");
    let nobody = runtime.usage(&[]).await?;
    ensure!(nobody.is_empty(), "asked of nobody, usage came: {nobody:?}");
    Ok(())
}
