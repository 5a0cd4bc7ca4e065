//! Behaviours 34, 35, 37 and 38: commands inside an instance.

use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::time::{sleep, timeout};

use super::cx::{Cx, refused, within};
use super::{CaseResult, Workload, cases, ensure};
use crate::capability::Capability;
use crate::error::ErrorKind;
use crate::id::InstanceId;
use crate::runtime::{ExecSession, ExecSpec, StopOptions};
use crate::testkit::conformance::Stop;

cases! {
    34 exec_gives_exit_codes_and_both_outputs,
    34 exec_of_a_missing_program_ends_with_126_or_127,
    34 exec_in_what_does_not_run_is_busy,
    35 exec_input_ends,
    37 terminate_ends_the_sessions_tree,
    37 dropping_a_session_ends_it,
    38 much_goes_through_exec_in_bounded_memory,
}

async fn host(cx: &Cx<'_>) -> Result<InstanceId, Stop> {
    cx.need(Capability::Exec).await?;
    Ok(cx.start_workload(&Workload::Sleep, 0).await?.id)
}

async fn exec_gives_exit_codes_and_both_outputs(cx: &Cx<'_>) -> CaseResult {
    let id = host(cx).await?;
    for code in [0, 7, 255] {
        let command = cx.command(&Workload::Exit { code, after: Duration::ZERO })?;
        let ran = cx.exec(&id, &ExecSpec::new(command), b"").await?;
        ensure!(ran.status.code == Some(i32::from(code)), "it exits with {code}; exec says `{}`", ran.status);
        ensure!(
            ran.out == b"out\n" && ran.err == b"err\n",
            "`out` and `err` came as {:?} and {:?}",
            String::from_utf8_lossy(&ran.out),
            String::from_utf8_lossy(&ran.err)
        );
    }
    let mut spec = ExecSpec::new(cx.command(&Workload::Describe)?);
    spec.command.extend(["two words".to_owned(), "$HOME \"'".to_owned(), String::new()]);
    spec.env.insert("EWS_T_PLAIN".to_owned(), "of exec".to_owned());
    spec.workdir = cx.has(Capability::Workdir).await?.then(|| cx.harness.scratch_directory());
    let out = String::from_utf8_lossy(&cx.exec(&id, &spec, b"").await?.out).into_owned();
    let mut wanted =
        vec!["arg=74776f20776f726473", "arg=24484f4d45202227", "arg=", "env EWS_T_PLAIN=6f662065786563"];
    let workdir = spec.workdir.map(|path| path.bytes().map(|b| format!("{b:02x}")).collect::<String>());
    let workdir = workdir.map(|hex| format!("cwd={hex}"));
    wanted.extend(workdir.as_deref());
    for line in wanted {
        ensure!(
            out.lines().any(|seen| seen == line),
            "`{line}` is missing in what exec gave the program: {out}"
        );
    }
    Ok(())
}

async fn exec_of_a_missing_program_ends_with_126_or_127(cx: &Cx<'_>) -> CaseResult {
    let id = host(cx).await?;
    let command = cx.command(&Workload::MissingProgram)?;
    let ran = cx.exec(&id, &ExecSpec::new(command), b"").await?;
    ensure!(matches!(ran.status.code, Some(126 | 127)), "a missing program ends with `{}`", ran.status);
    Ok(())
}

async fn exec_in_what_does_not_run_is_busy(cx: &Cx<'_>) -> CaseResult {
    cx.need(Capability::Exec).await?;
    let runtime = cx.rt().await?;
    let spec = ExecSpec::new(cx.command(&Workload::Exit { code: 0, after: Duration::ZERO })?);
    let id = cx.create(&cx.spec(&Workload::Sleep)?, 0).await?.id;
    refused("exec in what was never started", runtime.exec(&id, &spec).await, &[ErrorKind::Busy])?;
    runtime.start(&id).await?;
    runtime.stop(&id, &StopOptions::grace(Duration::ZERO)).await?;
    refused("exec in what has ended", runtime.exec(&id, &spec).await, &[ErrorKind::Busy])?;
    Ok(())
}

async fn exec_input_ends(cx: &Cx<'_>) -> CaseResult {
    let id = host(cx).await?;
    let spec = ExecSpec::new(cx.command(&Workload::Cat)?);
    let ran = within("cat without input", cx.limits.patience, cx.exec(&id, &spec, b"")).await??;
    ensure!(ran.out.is_empty() && ran.status.is_success(), "without input, cat ends with `{}`", ran.status);
    if !cx.has(Capability::ExecHalfClose).await? {
        return Ok(());
    }
    let input: Vec<u8> = (0..300_000_u32).map(|i| (i % 251) as u8).collect();
    let spec = spec.with_stdin();
    let ran =
        within("cat with an input that ends", cx.limits.patience, cx.exec(&id, &spec, &input)).await??;
    ensure!(ran.status.is_success(), "after the end of its input, cat ends with `{}`", ran.status);
    ensure!(ran.out == input, "{} bytes went in and {} came back, or others", input.len(), ran.out.len());
    Ok(())
}

/// How many processes that an instance sees carry this mark.
async fn marked(cx: &Cx<'_>, id: &InstanceId, mark: &str) -> Result<usize, Stop> {
    if let Some(count) = cx.harness.marked_processes(mark).await {
        return Ok(count);
    }
    let command = cx.command(&Workload::CountMarked { mark: mark.to_owned() })?;
    let ran = cx.exec(id, &ExecSpec::new(command), b"").await?;
    let text = String::from_utf8_lossy(&ran.out).into_owned();
    text.trim()
        .parse()
        .map_err(|_| Stop::skip(format!("processes can't be counted inside an instance: {text}")))
}

/// A session whose program has started a daemon, both of which can be seen.
async fn tree(cx: &Cx<'_>, id: &InstanceId, mark: &str) -> Result<ExecSession, Stop> {
    let mut spec = ExecSpec::new(cx.command(&Workload::Tree)?);
    spec.env.insert("EWS_MARK".to_owned(), mark.to_owned());
    let mut session = cx.rt().await?.exec(id, &spec).await?;
    let first = within("the first output", cx.limits.patience, session.output.next()).await?;
    ensure_ready(first)?;
    let seen = cx.until("the daemon", async || {
        let count = marked(cx, id, mark).await?;
        Ok((count >= 2).then_some(count))
    });
    match seen.await {
        Ok(_) => Ok(session),
        Err(Stop::Skip(reason)) => Err(Stop::skip(reason)),
        Err(Stop::Fail(_)) => {
            Err(Stop::skip("nobody here can count processes; the hook `marked_processes` is missing"))
        }
    }
}

fn ensure_ready(first: Option<crate::Result<crate::runtime::ExecOutput>>) -> CaseResult {
    match first {
        Some(Ok(piece)) if piece.bytes.starts_with(b"ready") => Ok(()),
        other => Err(Stop::fail(format!("the program writes `ready`; what came is {other:?}"))),
    }
}

async fn gone(cx: &Cx<'_>, id: &InstanceId, mark: &str) -> CaseResult {
    cx.until("the session's processes to end", async || Ok((marked(cx, id, mark).await? == 0).then_some(())))
        .await
}

async fn terminate_ends_the_sessions_tree(cx: &Cx<'_>) -> CaseResult {
    let id = host(cx).await?;
    cx.need(Capability::ExecTerminate).await?;
    let mark = format!("exec-{}", cx.owner);
    let session = tree(cx, &id, &mark).await?;
    session.control.terminate().await?;
    let status = within("wait after terminate", cx.limits.patience, session.control.wait()).await??;
    ensure!(status.code != Some(0), "a terminated program is said to have ended well");
    gone(cx, &id, &mark).await?;
    session.control.terminate().await?;
    let state = cx.rt().await?.get(&id).await?.state;
    ensure!(
        state == crate::InstanceState::Running,
        "terminating a session left its instance {}",
        state.as_str()
    );
    Ok(())
}

async fn dropping_a_session_ends_it(cx: &Cx<'_>) -> CaseResult {
    let id = host(cx).await?;
    cx.need(Capability::ExecTerminate).await?;
    let mark = format!("drop-{}", cx.owner);
    drop(tree(cx, &id, &mark).await?);
    gone(cx, &id, &mark).await
}

async fn much_goes_through_exec_in_bounded_memory(cx: &Cx<'_>) -> CaseResult {
    let id = host(cx).await?;
    let bytes = cx.limits.volume;
    let spec = ExecSpec::new(cx.command(&Workload::Zeros { bytes })?);
    let mut session = cx.rt().await?.exec(&id, &spec).await?;
    // Nobody reads. A program that can end now was read into memory by the driver.
    let unread = timeout(Duration::from_secs(3), session.control.wait()).await;
    ensure!(
        unread.is_err(),
        "a program has written {bytes} bytes that nobody has read, and ended: {unread:?}"
    );
    let mut count = 0;
    let mut pieces: u32 = 0;
    while let Some(piece) = session.output.next().await {
        let piece = piece?;
        ensure!(piece.bytes.iter().all(|byte| *byte == 0), "other bytes came than were written");
        count += piece.bytes.len() as u64;
        pieces += 1;
        if pieces.is_multiple_of(512) {
            // A reader that is slow now and then.
            sleep(Duration::from_millis(10)).await;
        }
    }
    ensure!(count == bytes, "{bytes} bytes were written, {count} came");
    let status = session.control.wait().await?;
    ensure!(status.is_success(), "it ended with `{status}`");
    Ok(())
}
