//! Behaviour 36: terminals carry every byte unharmed, and their size.

use futures_util::StreamExt as _;
use tokio::io::AsyncWriteExt as _;

use super::cx::{Cx, within};
use super::{CaseResult, Workload, cases, ensure};
use crate::capability::Capability;
use crate::runtime::{ExecSession, ExecSpec, OutputStream, TtySize};
use crate::testkit::conformance::Stop;

cases! {
    36 a_terminal_carries_every_byte,
    36 a_terminal_tells_its_size,
}

const SIZE: TtySize = TtySize { columns: 81, rows: 23 };

async fn session(cx: &Cx<'_>, workload: &Workload) -> Result<ExecSession, Stop> {
    cx.need(Capability::Exec).await?;
    cx.need(Capability::ExecTty).await?;
    let spec = ExecSpec::new(cx.command(workload)?).with_tty(SIZE);
    let id = cx.start_workload(&Workload::Sleep, 0).await?.id;
    Ok(cx.rt().await?.exec(&id, &spec).await?)
}

/// Reads on until what came satisfies.
async fn read(
    cx: &Cx<'_>,
    session: &mut ExecSession,
    seen: &mut Vec<u8>,
    what: &str,
    enough: impl Fn(&[u8]) -> bool,
) -> CaseResult {
    let reading = async {
        while !enough(seen) {
            let piece = session.output.next().await;
            let piece = piece.ok_or_else(|| {
                Stop::fail(format!("the output ended before {what}, after {} bytes", seen.len()))
            })??;
            ensure!(
                piece.stream == OutputStream::Stdout,
                "a terminal has one output, not {:?}",
                piece.stream
            );
            seen.extend_from_slice(&piece.bytes);
        }
        Ok(())
    };
    within(what, cx.limits.patience, reading).await?
}

async fn a_terminal_carries_every_byte(cx: &Cx<'_>) -> CaseResult {
    // 0x01 first: who guesses frames takes it for a header.
    let sent: Vec<u8> = (0..2048_u32).map(|i| (i + 1) as u8).collect();
    let mut session = session(cx, &Workload::RawTty { bytes: sent.len() }).await?;
    let mut seen = Vec::new();
    read(cx, &mut session, &mut seen, "the terminal to be raw", |seen| seen == b"R").await?;
    seen.clear();
    let mut stdin = session.stdin.take().ok_or_else(|| Stop::fail("a terminal has no input"))?;
    for piece in sent.chunks(256) {
        // Each piece by itself, so that many chunks start with each kind of byte.
        stdin.write_all(piece).await?;
        stdin.flush().await?;
        let wanted = seen.len() + piece.len();
        read(cx, &mut session, &mut seen, "the bytes to come back", |seen| seen.len() >= wanted).await?;
    }
    let differ = sent.iter().zip(&seen).position(|(sent, seen)| sent != seen);
    ensure!(seen.len() == sent.len(), "{} bytes went in and {} came back", sent.len(), seen.len());
    ensure!(differ.is_none(), "the bytes differ from number {differ:?} on");
    let status = within("wait", cx.limits.patience, session.control.wait()).await??;
    ensure!(status.is_success(), "it ended with `{status}`");
    Ok(())
}

async fn a_terminal_tells_its_size(cx: &Cx<'_>) -> CaseResult {
    let mut session = session(cx, &Workload::TermSize).await?;
    let mut seen = Vec::new();
    let has = |text: &'static str| move |seen: &[u8]| String::from_utf8_lossy(seen).contains(text);
    read(cx, &mut session, &mut seen, "the size 23 81", has("23 81")).await?;
    if cx.has(Capability::ExecResize).await? {
        session.control.resize(TtySize { columns: 132, rows: 43 }).await?;
        seen.clear();
        read(cx, &mut session, &mut seen, "the size 43 132", has("43 132")).await?;
    }
    Ok(())
}
