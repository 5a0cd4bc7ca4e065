//! What a case has at hand: its connection, its names, and the few moves that most cases make.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::io::AsyncWrite;
use tokio::time::{Instant, sleep};

use super::harness::{RuntimeHarness, SuiteLimits};
use super::{Runtime, Workload};
use crate::capability::{Capability, RuntimeCapabilities};
use crate::error::{Error, ErrorKind, Result};
use crate::id::{InstanceId, OwnerId, RevisionId, ServiceName};
use crate::instance::{ExitStatus, Instance, InstanceKey, InstanceState};
use crate::runtime::{
    CreateOptions, ExecSession, ExecSpec, LogLine, LogOptions, OutputStream, RemoveOptions, WaitOptions,
};
use crate::selector::Selector;
use crate::spec::InstanceSpec;
use crate::testkit::conformance::Stop;

/// A case's surroundings.
pub(super) struct Cx<'a> {
    pub(super) harness: &'a dyn RuntimeHarness,
    pub(super) limits: SuiteLimits,
    pub(super) owner: OwnerId,
    pub(super) service: ServiceName,
    connection: Mutex<Option<Arc<dyn Runtime>>>,
}

/// What a command inside an instance did.
pub(super) struct Ran {
    pub(super) status: ExitStatus,
    pub(super) out: Vec<u8>,
    pub(super) err: Vec<u8>,
}

impl<'a> Cx<'a> {
    pub(super) fn new(harness: &'a dyn RuntimeHarness, case: &str, index: usize) -> Result<Self> {
        let start: String = case.chars().take(30).map(|c| if c == '_' { '-' } else { c }).collect();
        Ok(Self {
            harness,
            limits: harness.limits(),
            owner: OwnerId::new(format!("conformance-{}", harness.run_id()))?,
            service: ServiceName::new(format!("c{index}-{}", start.trim_end_matches('-')))?,
            connection: Mutex::new(None),
        })
    }

    /// The controller's handle; it connects where there is none.
    pub(super) async fn rt(&self) -> Result<Arc<dyn Runtime>> {
        let connected = self.connection.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match connected {
            Some(runtime) => Ok(runtime),
            None => self.reconnect().await,
        }
    }

    /// Drops the handle and connects anew, as a controller that restarts.
    pub(super) async fn reconnect(&self) -> Result<Arc<dyn Runtime>> {
        self.disconnect();
        let runtime = self.harness.connect().await?;
        *self.connection.lock().unwrap_or_else(PoisonError::into_inner) = Some(runtime.clone());
        Ok(runtime)
    }

    /// Drops the handle: no controller is there.
    pub(super) fn disconnect(&self) {
        drop(self.connection.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    pub(super) async fn capabilities(&self) -> Result<Arc<RuntimeCapabilities>> {
        Ok(self.rt().await?.capabilities())
    }

    pub(super) async fn has(&self, capability: Capability) -> Result<bool> {
        Ok(self.capabilities().await?.features.has(capability))
    }

    /// Skips the case where the driver lacks this.
    pub(super) async fn need(&self, capability: Capability) -> Result<(), Stop> {
        if self.has(capability).await? {
            return Ok(());
        }
        Err(Stop::skip(format!("the driver does not declare `{capability}`")))
    }

    /// Skips the case where the harness has no such program.
    pub(super) fn spec(&self, workload: &Workload) -> Result<InstanceSpec, Stop> {
        self.harness
            .workload(workload)
            .ok_or_else(|| Stop::skip(format!("the harness has no program for {workload:?}")))
    }

    pub(super) fn command(&self, workload: &Workload) -> Result<Vec<String>, Stop> {
        self.harness
            .command(workload)
            .ok_or_else(|| Stop::skip(format!("the harness has no command for {workload:?}")))
    }

    pub(super) fn key(&self, slot: u32) -> Result<InstanceKey> {
        Ok(InstanceKey {
            owner: self.owner.clone(),
            service: self.service.clone(),
            revision: RevisionId::new("r1")?,
            slot,
            generation: 0,
        })
    }

    pub(super) async fn create(&self, spec: &InstanceSpec, slot: u32) -> Result<Instance> {
        self.rt().await?.create(spec, &self.key(slot)?, &CreateOptions::default()).await
    }

    /// Creates and starts; what does not run then fails the case.
    pub(super) async fn start(&self, spec: &InstanceSpec, slot: u32) -> Result<Instance, Stop> {
        let created = self.create(spec, slot).await?;
        let started = self.rt().await?.start(&created.id).await?;
        if let InstanceState::Failed(failure) = &started.state {
            return Err(Stop::fail(format!("the start failed: {}", failure.message)));
        }
        Ok(started)
    }

    pub(super) async fn start_workload(&self, workload: &Workload, slot: u32) -> Result<Instance, Stop> {
        self.start(&self.spec(workload)?, slot).await
    }

    /// Runs a program to its end and gives how it ended and what it wrote.
    pub(super) async fn run(
        &self,
        spec: &InstanceSpec,
        slot: u32,
    ) -> Result<(ExitStatus, Vec<LogLine>), Stop> {
        let started = self.start(spec, slot).await?;
        let status = self.rt().await?.wait(&started.id, &WaitOptions::default()).await?;
        Ok((status, self.lines(&started.id, &LogOptions::default()).await?))
    }

    /// The instances of this case.
    pub(super) async fn list(&self) -> Result<Vec<Instance>> {
        self.rt().await?.list(&self.selector()?).await
    }

    pub(super) fn selector(&self) -> Result<Selector> {
        Ok(Selector::equal("ews/owner", self.owner.as_str())?
            .and(&Selector::equal("ews/service", self.service.as_str())?))
    }

    pub(super) async fn lines(&self, id: &InstanceId, options: &LogOptions) -> Result<Vec<LogLine>> {
        let mut stream = self.rt().await?.logs(id, options).await?;
        let mut lines = Vec::new();
        while let Some(line) = stream.next().await {
            lines.push(line?);
        }
        Ok(lines)
    }

    /// Waits until a program has written this line. Where output is not kept, some time must do.
    pub(super) async fn line(&self, id: &InstanceId, wanted: &str) -> Result<(), Stop> {
        if !self.has(Capability::Logs).await? {
            sleep(Duration::from_secs(2)).await;
            return Ok(());
        }
        self.until(&format!("the line `{wanted}`"), async || {
            let lines = self.lines(id, &LogOptions::default()).await?;
            Ok(lines.iter().any(|line| line.bytes == wanted.as_bytes()).then_some(()))
        })
        .await
    }

    /// Asks again and again until there is an answer or patience ends.
    pub(super) async fn until<T>(
        &self,
        what: &str,
        ask: impl AsyncFn() -> Result<Option<T>, Stop>,
    ) -> Result<T, Stop> {
        let began = Instant::now();
        loop {
            if let Some(answer) = ask().await? {
                return Ok(answer);
            }
            if began.elapsed() > self.limits.patience {
                return Err(Stop::fail(format!("waited {:?} in vain for {what}", self.limits.patience)));
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until an instance is in a state that suits.
    pub(super) async fn state(
        &self,
        id: &InstanceId,
        what: &str,
        suits: impl Fn(&InstanceState) -> bool,
    ) -> Result<Instance, Stop> {
        self.until(what, async || {
            let instance = self.rt().await?.get(id).await?;
            Ok(suits(&instance.state).then_some(instance))
        })
        .await
    }

    /// Runs a command inside an instance, feeds it and collects what it writes.
    pub(super) async fn exec(&self, id: &InstanceId, spec: &ExecSpec, input: &[u8]) -> Result<Ran, Stop> {
        let ExecSession { stdin, mut output, control } = self.rt().await?.exec(id, spec).await?;
        let feed = async {
            if let Some(mut stdin) = stdin {
                feed(&mut stdin, input).await;
            }
        };
        let collect = async {
            let (mut out, mut err) = (Vec::new(), Vec::new());
            while let Some(piece) = output.next().await {
                let piece = piece?;
                let sink = if piece.stream == OutputStream::Stdout { &mut out } else { &mut err };
                sink.extend_from_slice(&piece.bytes);
            }
            Ok::<_, Error>((out, err))
        };
        let (collected, ()) = futures_util::future::join(collect, feed).await;
        let (out, err) = collected?;
        Ok(Ran { status: control.wait().await?, out, err })
    }

    /// Removes what the case has left, whatever its state.
    pub(super) async fn clean_up(&self) -> Result<(), Stop> {
        self.harness.heal().await;
        // A handle of its own, since the case may have left its own dead; but what lives only with its controller must be
        // removed by that one.
        let runtime = if self.has(Capability::SurvivesController).await? {
            self.reconnect().await?
        } else {
            self.rt().await?
        };
        for instance in runtime.list(&self.selector()?).await? {
            runtime.remove(&instance.id, &RemoveOptions::force()).await?;
        }
        let left = runtime.list(&self.selector()?).await?;
        drop(runtime);
        self.disconnect();
        self.harness.cleanup(&self.owner).await;
        match left.first() {
            Some(instance) => Err(Stop::fail(format!("{} can't be removed", instance.id))),
            None => Ok(()),
        }
    }
}

/// Writes all of it and ends the stream. A program that ends before it has read everything is no fault here.
pub(super) async fn feed(stdin: &mut Pin<Box<dyn AsyncWrite + Send>>, input: &[u8]) {
    use tokio::io::AsyncWriteExt as _;
    if stdin.write_all(input).await.is_ok() {
        let _ = stdin.shutdown().await;
    }
}

/// The call must fail with one of these kinds.
pub(super) fn refused<T>(what: &str, result: Result<T>, kinds: &[ErrorKind]) -> Result<Error, Stop> {
    match result {
        Ok(_) => Err(Stop::fail(format!("{what} succeeded; it must fail with {kinds:?}"))),
        Err(error) if kinds.contains(&error.kind()) => Ok(error),
        Err(error) => Err(Stop::fail(format!("{what} must fail with {kinds:?}, not with: {error}"))),
    }
}

/// The call must end within this time, whatever it says.
pub(super) async fn within<T>(what: &str, limit: Duration, call: impl Future<Output = T>) -> Result<T, Stop> {
    tokio::time::timeout(limit, call)
        .await
        .map_err(|_| Stop::fail(format!("{what} did not end within {limit:?}")))
}
