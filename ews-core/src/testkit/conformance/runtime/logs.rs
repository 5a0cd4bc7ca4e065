//! Behaviours 28 and 29: a program's output, as it was written and to its end.

use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::time::sleep;

use super::cx::{Cx, within};
use super::{CaseResult, Workload, cases, ensure};
use crate::capability::Capability;
use crate::runtime::{LogLine, LogOptions, OutputStream, WaitOptions};
use crate::spec::resources::ByteSize;
use crate::testkit::conformance::Stop;

cases! {
    28 logs_keep_order_and_both_outputs,
    28 logs_keep_a_partial_last_line,
    28 logs_keep_a_split_character,
    28 logs_cut_a_long_line_into_pieces,
    28 logs_tail_the_last_lines,
    28 logs_since_a_moment,
    28 logs_are_rotated,
    29 followed_logs_end_at_exit,
}

fn lines(count: u32, every_ms: u64) -> Workload {
    Workload::Lines { count, every: Duration::from_millis(every_ms) }
}

/// The texts of one output.
fn of(lines: &[LogLine], stream: OutputStream) -> Vec<String> {
    let chosen = lines.iter().filter(|line| line.stream == stream);
    chosen.map(|line| String::from_utf8_lossy(&line.bytes).into_owned()).collect()
}

fn expected(prefix: &str, range: std::ops::RangeInclusive<u32>) -> Vec<String> {
    range.map(|i| format!("{prefix} {i}")).collect()
}

async fn logs_keep_order_and_both_outputs(cx: &Cx<'_>) -> CaseResult {
    cx.need(Capability::Logs).await?;
    let (_, all) = cx.run(&cx.spec(&lines(50, 0))?, 0).await?;
    ensure!(all.iter().all(|line| !line.partial), "whole lines are said to be partial");
    if !cx.has(Capability::LogsSplit).await? {
        let text = of(&all, OutputStream::Stdout);
        let pick = |prefix: &str| -> Vec<String> {
            text.iter().filter(|line| line.starts_with(prefix)).cloned().collect()
        };
        ensure!(
            pick("out") == expected("out", 1..=50) && pick("err") == expected("err", 1..=50),
            "the lines came as {text:?}"
        );
        return Ok(());
    }
    let (out, err) = (of(&all, OutputStream::Stdout), of(&all, OutputStream::Stderr));
    ensure!(out == expected("out", 1..=50), "standard output came as {out:?}");
    ensure!(err == expected("err", 1..=50), "standard error came as {err:?}");
    let id = cx.key(0)?.to_id();
    let id = cx.list().await?.into_iter().next().map(|instance| instance.id).map_or(id, Ok)?;
    let only = LogOptions { stdout: false, ..LogOptions::default() };
    let err = cx.lines(&id, &only).await?;
    ensure!(
        of(&err, OutputStream::Stdout).is_empty() && err.len() == 50,
        "asked for standard error only, {} lines came",
        err.len()
    );
    Ok(())
}

async fn logs_keep_a_partial_last_line(cx: &Cx<'_>) -> CaseResult {
    cx.need(Capability::Logs).await?;
    let (_, all) = cx.run(&cx.spec(&Workload::PartialLine)?, 0).await?;
    let seen: Vec<(&[u8], bool)> = all.iter().map(|line| (&*line.bytes, line.partial)).collect();
    ensure!(
        seen == [(&b"whole"[..], false), (&b"part"[..], true)],
        "`whole`, end of line, `part` came as {all:?}"
    );
    Ok(())
}

async fn logs_keep_a_split_character(cx: &Cx<'_>) -> CaseResult {
    cx.need(Capability::Logs).await?;
    let (_, all) = cx.run(&cx.spec(&Workload::SplitUtf8)?, 0).await?;
    let joined: Vec<u8> = all.iter().flat_map(|line| line.bytes.to_vec()).collect();
    ensure!(joined == "中".as_bytes(), "a character in two writes came as {all:?}");
    Ok(())
}

async fn logs_cut_a_long_line_into_pieces(cx: &Cx<'_>) -> CaseResult {
    cx.need(Capability::Logs).await?;
    let bytes = 200_000;
    let (_, all) = cx.run(&cx.spec(&Workload::LongLine { bytes })?, 0).await?;
    let total: usize = all.iter().map(|line| line.bytes.len()).sum();
    ensure!(total == bytes, "a line of {bytes} bytes came as {total}");
    ensure!(
        all.iter().all(|line| line.bytes.iter().all(|byte| *byte == b'x')),
        "other bytes came than were written"
    );
    ensure!(all.iter().all(|line| line.bytes.len() <= 64 * 1024), "a piece is longer than 64 KiB");
    let partial: Vec<bool> = all.iter().map(|line| line.partial).collect();
    let (last, before) = partial.split_last().ok_or_else(|| Stop::fail("nothing came"))?;
    ensure!(
        !last && before.iter().all(|partial| *partial),
        "of the pieces only the last is whole, not {partial:?}"
    );
    Ok(())
}

async fn logs_tail_the_last_lines(cx: &Cx<'_>) -> CaseResult {
    cx.need(Capability::Logs).await?;
    let id = cx.start_workload(&Workload::Flood { lines: 100 }, 0).await?.id;
    cx.rt().await?.wait(&id, &WaitOptions::default()).await?;
    let all = cx.lines(&id, &LogOptions::default()).await?;
    ensure!(all.len() == 100, "100 lines came as {}", all.len());
    for tail in [0, 1, 7, 100, 1000, usize::MAX] {
        let some = cx.lines(&id, &LogOptions::tail(tail)).await?;
        let wanted = all.get(100_usize.saturating_sub(tail)..).unwrap_or_default();
        let same = some.iter().map(|line| &line.bytes).eq(wanted.iter().map(|line| &line.bytes));
        ensure!(same, "a tail of {tail} gave {} lines, or others than the last", some.len());
    }
    Ok(())
}

async fn logs_since_a_moment(cx: &Cx<'_>) -> CaseResult {
    cx.need(Capability::Logs).await?;
    cx.need(Capability::LogsSince).await?;
    let id = cx.start_workload(&lines(3, 1100), 0).await?.id;
    cx.rt().await?.wait(&id, &WaitOptions::default()).await?;
    let all = cx.lines(&id, &LogOptions::default()).await?;
    let of_second = all.iter().find(|line| line.bytes == "out 2");
    let since = of_second.ok_or_else(|| Stop::fail(format!("`out 2` is missing in {all:?}")))?.at;
    let mut options = LogOptions { since: Some(since), ..LogOptions::default() };
    let later = of(&cx.lines(&id, &options).await?, OutputStream::Stdout);
    // Engines keep whole seconds at worst, and lines are more than a second apart.
    let missing = ["out 2", "out 3"].iter().any(|wanted| !later.iter().any(|line| line == wanted));
    ensure!(
        !missing && !later.iter().any(|line| line == "out 1"),
        "since the time of `out 2` came {later:?}"
    );
    options.since = Some(crate::Timestamp::MAX);
    let none = cx.lines(&id, &options).await?;
    ensure!(none.is_empty(), "since the year 9999 came {none:?}");
    Ok(())
}

async fn logs_are_rotated(cx: &Cx<'_>) -> CaseResult {
    cx.need(Capability::Logs).await?;
    let count = 20_000;
    let mut spec = cx.spec(&Workload::Flood { lines: count })?;
    spec.log.max_size = ByteSize::from_bytes(100 * 1024);
    spec.log.max_files = 2;
    let (_, kept) = cx.run(&spec, 0).await?;
    let bytes: usize = kept.iter().map(|line| line.bytes.len()).sum();
    // Twice the limit leaves room for an engine that counts its own framing or rotates late.
    ensure!(bytes <= 2 * 2 * 100 * 1024, "with two files of 100 KiB, {bytes} bytes are kept");
    let numbers: Vec<u32> =
        kept.iter().filter_map(|line| std::str::from_utf8(&line.bytes).ok()?.parse().ok()).collect();
    ensure!(numbers.last() == Some(&count), "the last line kept is {:?} of {count}", numbers.last());
    let whole =
        numbers.len() == kept.len() && numbers.windows(2).all(|pair| matches!(pair, [a, b] if a + 1 == *b));
    ensure!(whole, "what is kept has holes");
    ensure!(numbers.len() >= 500, "only {} lines are kept of 200 KiB", numbers.len());
    Ok(())
}

async fn followed_logs_end_at_exit(cx: &Cx<'_>) -> CaseResult {
    cx.need(Capability::Logs).await?;
    let runtime = cx.rt().await?;
    // Its first line must be read while it runs, however busy the machine is.
    let id = cx.start_workload(&lines(4, 3000), 0).await?.id;
    let mut stream = runtime.logs(&id, &LogOptions::follow()).await?;
    let (mut seen, mut early) = (Vec::new(), false);
    let all = async {
        while let Some(line) = stream.next().await {
            seen.push(line?);
            if seen.len() == 1 {
                early = !runtime.get(&id).await?.state.is_ended();
            }
        }
        Ok::<_, Stop>(())
    };
    let limit = Duration::from_secs(12) + cx.limits.patience;
    within("a followed log of a program of 12 s", limit, all).await??;
    let out: Vec<String> =
        of(&seen, OutputStream::Stdout).into_iter().filter(|l| l.starts_with("out")).collect();
    ensure!(out == expected("out", 1..=4), "followed, standard output came as {out:?}");
    ensure!(early, "nothing came before the program had ended");
    let ended = runtime.wait(&id, &WaitOptions::default()).await?;
    ensure!(ended.is_success(), "it ended with `{ended}`");
    // Followed after the end, it ends too.
    let again = within("following what has ended", cx.limits.patience, cx.lines(&id, &LogOptions::follow()))
        .await??;
    ensure!(
        again.len() == seen.len(),
        "followed after the end, {} lines came instead of {}",
        again.len(),
        seen.len()
    );
    let quiet = cx.start_workload(&Workload::Sleep, 1).await?.id;
    let mut stream = runtime.logs(&quiet, &LogOptions::follow()).await?;
    let premature = tokio::select! {
        item = stream.next() => Some(item),
        () = sleep(Duration::from_millis(500)) => None,
    };
    ensure!(premature.is_none(), "a followed log gave {premature:?} while its silent program runs");
    Ok(())
}
