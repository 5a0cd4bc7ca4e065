//! What a program has written, in memory and bounded by its spec's limits.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use ews_core::runtime::{LogLine, LogOptions, LogStream, OutputStream};
use ews_core::spec::lifecycle::LogLimits;
use futures_util::{StreamExt as _, stream};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::{ChildStderr, ChildStdout};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// The longest piece of a line: the contract's.
const PIECE: usize = 64 * 1024;

/// The output of an instance; clones are the same.
#[derive(Clone)]
pub(super) struct Output(Arc<(Mutex<Kept>, watch::Sender<u64>)>);

struct Kept {
    lines: VecDeque<LogLine>,
    /// The number of the first line kept.
    first: usize,
    bytes: u64,
    limit: u64,
    running: bool,
}

/// The two tasks that read a program's output.
pub(super) struct Reading([Option<JoinHandle<()>>; 2]);

impl Reading {
    pub(super) async fn end(self) {
        for task in self.0.into_iter().flatten() {
            // A reader that panicked has nothing more to give.
            let _ = task.await;
        }
    }
}

impl Output {
    pub(super) fn new(limits: &LogLimits) -> Self {
        let limit = limits.max_size.bytes().saturating_mul(u64::from(limits.max_files));
        let kept = Kept { lines: VecDeque::new(), first: 0, bytes: 0, limit, running: false };
        Self(Arc::new((Mutex::new(kept), watch::Sender::new(0))))
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Kept)) {
        change(&mut self.kept());
        self.0.1.send_modify(|version| *version += 1);
    }

    pub(super) fn read(&self, stdout: Option<ChildStdout>, stderr: Option<ChildStderr>) -> Reading {
        self.change(|kept| kept.running = true);
        Reading([
            stdout.map(|pipe| tokio::spawn(self.clone().take(pipe, OutputStream::Stdout))),
            stderr.map(|pipe| tokio::spawn(self.clone().take(pipe, OutputStream::Stderr))),
        ])
    }

    pub(super) fn end(&self) {
        self.change(|kept| kept.running = false);
    }

    async fn take(self, mut pipe: impl AsyncRead + Unpin, stream: OutputStream) {
        let mut pending = BytesMut::new();
        loop {
            let read = pipe.read_buf(&mut pending).await;
            while let Some(end) = pending.iter().take(PIECE).position(|byte| *byte == b'\n') {
                let line = pending.split_to(end).freeze();
                let _ = pending.split_to(1);
                self.push(stream, line, false);
            }
            while pending.len() >= PIECE {
                let piece = pending.split_to(PIECE).freeze();
                self.push(stream, piece, true);
            }
            if !matches!(read, Ok(count) if count > 0) {
                break;
            }
        }
        if !pending.is_empty() {
            self.push(stream, pending.freeze(), true);
        }
    }

    fn push(&self, stream: OutputStream, bytes: Bytes, partial: bool) {
        self.change(|kept| {
            kept.bytes += bytes.len() as u64 + 1;
            kept.lines.push_back(LogLine::new(super::now(), stream, bytes).with_partial(partial));
            while kept.bytes > kept.limit {
                let Some(dropped) = kept.lines.pop_front() else { break };
                kept.bytes -= dropped.bytes.len() as u64 + 1;
                kept.first += 1;
            }
        });
    }

    /// The lines from number `from` on that are wanted, and the number of the next.
    fn since(&self, from: usize, options: &LogOptions) -> (Vec<LogLine>, usize, bool) {
        let kept = self.kept();
        let wanted = |line: &&LogLine| {
            let stream = if line.stream == OutputStream::Stdout { options.stdout } else { options.stderr };
            stream && options.since.is_none_or(|since| line.at >= since)
        };
        let lines = kept.lines.iter().skip(from.saturating_sub(kept.first)).filter(wanted).cloned().collect();
        (lines, kept.first + kept.lines.len(), kept.running)
    }

    pub(super) fn stream(&self, options: LogOptions, runs: bool) -> LogStream {
        let changed = self.0.1.subscribe();
        let (mut lines, next, _) = self.since(0, &options);
        if let Some(tail) = options.tail {
            lines.drain(..lines.len().saturating_sub(tail));
        }
        let there = stream::iter(lines.into_iter().map(Ok));
        if !options.follow || (!runs && !self.kept().running) {
            return there.boxed();
        }
        let state = (self.clone(), options, next, changed);
        let coming = stream::unfold(state, |(output, options, from, mut changed)| async move {
            loop {
                changed.mark_unchanged();
                let (lines, next, running) = output.since(from, &options);
                if next > from {
                    return Some((stream::iter(lines.into_iter().map(Ok)), (output, options, next, changed)));
                }
                if !running || changed.changed().await.is_err() {
                    return None;
                }
            }
        });
        there.chain(coming.flatten()).boxed()
    }
}
