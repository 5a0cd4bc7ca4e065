//! The processes of the fake engine: pids, signals, memory and CPU time, without a kernel.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::DuplexStream;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::engine::FakeEngine;
use crate::id::InstanceId;
use crate::instance::{ExitStatus, Incarnation};
use crate::runtime::{ExecOutput, OutputStream, TtySize};
use crate::spec::lifecycle::Signal;
use crate::time::Timestamp;

/// How a process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Code(i32),
    Signal(Signal),
    Oom,
    Unknown,
}

impl End {
    pub(super) fn status(self, at: Timestamp) -> ExitStatus {
        match self {
            Self::Code(code) => ExitStatus::code(code, at),
            Self::Signal(signal) => ExitStatus::signal(signal, at),
            Self::Oom => ExitStatus::oom(at),
            Self::Unknown => ExitStatus::unknown(at),
        }
    }
}

/// What belongs together: an instance's own program, or one exec session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Session(pub(super) u64);

/// A process as others see it.
pub(super) struct Process {
    pub(super) pid: u64,
    pub(super) instance: InstanceId,
    pub(super) incarnation: Incarnation,
    pub(super) session: Session,
    /// The value of `EWS_MARK` in its environment.
    pub(super) mark: Option<String>,
    /// Thousandths of one CPU that it can use.
    pub(super) cpu_limit: u32,
    forced: watch::Sender<Option<End>>,
    signals: mpsc::Sender<Signal>,
    pub(super) ended: watch::Sender<Option<End>>,
    gauges: Mutex<Gauges>,
}

struct Gauges {
    burning_since: Option<Instant>,
    burned: Duration,
    memory: u64,
}

/// Memory that a process has before it asks for any.
const BASE_MEMORY: u64 = 1 << 20;

/// Signals that wait for one process; the rest is lost, as a kernel loses repeated ones.
const SIGNALS: usize = 64;

impl Process {
    pub(super) fn new(
        pid: u64,
        instance: InstanceId,
        incarnation: Incarnation,
        session: Session,
        mark: Option<String>,
        cpu_limit: u32,
    ) -> (Self, mpsc::Receiver<Signal>) {
        let (signals, received) = mpsc::channel(SIGNALS);
        let process = Self {
            pid,
            instance,
            incarnation,
            session,
            mark,
            cpu_limit: cpu_limit.min(1000),
            forced: watch::Sender::new(None),
            signals,
            ended: watch::Sender::new(None),
            gauges: Mutex::new(Gauges { burning_since: None, burned: Duration::ZERO, memory: BASE_MEMORY }),
        };
        (process, received)
    }

    /// Ends it, whatever it does. The first end stays.
    pub(super) fn force(&self, end: End) {
        self.forced.send_if_modified(|forced| {
            let first = forced.is_none();
            forced.get_or_insert(end);
            first
        });
    }

    pub(super) async fn forced(&self) -> End {
        let mut forced = self.forced.subscribe();
        match forced.wait_for(Option::is_some).await {
            Ok(end) => end.unwrap_or(End::Unknown),
            // The sender lives in this very value.
            Err(_) => End::Unknown,
        }
    }

    pub(super) fn signal(&self, signal: Signal) {
        if signal == Signal::KILL {
            self.force(End::Signal(Signal::KILL));
        } else {
            let _ = self.signals.try_send(signal);
        }
    }

    pub(super) async fn wait(&self) -> End {
        let mut ended = self.ended.subscribe();
        match ended.wait_for(Option::is_some).await {
            Ok(end) => end.unwrap_or(End::Unknown),
            Err(_) => End::Unknown,
        }
    }

    pub(super) fn burn(&self) {
        self.gauges().burning_since.get_or_insert_with(Instant::now);
    }

    /// CPU time used so far.
    pub(super) fn cpu(&self) -> Duration {
        let gauges = self.gauges();
        let running = gauges.burning_since.map_or(Duration::ZERO, |since| since.elapsed());
        gauges.burned + running * self.cpu_limit / 1000
    }

    /// Stops the count of CPU time.
    pub(super) fn rest(&self) {
        let cpu = self.cpu();
        let mut gauges = self.gauges();
        gauges.burned = cpu;
        gauges.burning_since = None;
    }

    pub(super) fn memory(&self) -> u64 {
        self.gauges().memory
    }

    pub(super) fn allocate(&self, bytes: u64) {
        self.gauges().memory += bytes;
    }

    fn gauges(&self) -> MutexGuard<'_, Gauges> {
        self.gauges.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where a program's output goes.
pub(super) enum Sink {
    /// Into the instance's log.
    Log,
    /// To whoever reads the exec session; it waits while nobody does.
    Session(mpsc::Sender<ExecOutput>),
    /// Nowhere: a daemon.
    Nowhere,
}

/// What a program has at hand.
pub(super) struct Context {
    pub(super) engine: FakeEngine,
    pub(super) process: std::sync::Arc<Process>,
    pub(super) env: BTreeMap<String, String>,
    pub(super) workdir: String,
    pub(super) uid: String,
    pub(super) stdin: Option<DuplexStream>,
    pub(super) tty: Option<watch::Receiver<TtySize>>,
    pub(super) signals: mpsc::Receiver<Signal>,
    pub(super) sink: Sink,
}

impl Context {
    pub(super) async fn out(&self, bytes: impl Into<Bytes>) {
        self.write(OutputStream::Stdout, bytes.into()).await;
    }

    pub(super) async fn err(&self, bytes: impl Into<Bytes>) {
        // A terminal has one output.
        let stream = if self.tty.is_some() { OutputStream::Stdout } else { OutputStream::Stderr };
        self.write(stream, bytes.into()).await;
    }

    async fn write(&self, stream: OutputStream, bytes: Bytes) {
        match &self.sink {
            Sink::Log => self.engine.write_log(&self.process.instance, stream, &bytes),
            Sink::Session(sender) => {
                // Nobody reads any more: the session's end kills this process soon.
                let _ = sender.send(ExecOutput { stream, bytes }).await;
            }
            Sink::Nowhere => {}
        }
    }
}
