//! Drivers with one behaviour broken each: the fake runtime behind a wrapper that spoils what passes through.

#![allow(clippy::unwrap_used, reason = "a test's own tool, outside of its test functions")]

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use ews_core::capability::{Capability, RuntimeCapabilities};
use ews_core::instance::{ExitStatus, Incarnation, Instance, InstanceKey, InstanceState};
use ews_core::runtime::*;
use ews_core::spec::content::EnvValue;
use ews_core::spec::lifecycle::{LogLimits, Signal};
use ews_core::spec::platform::PlatformSpec;
use ews_core::testkit::conformance::runtime::{Disturbance, LogCapture, RuntimeHarness, Workload};
use ews_core::testkit::fake::{FakeConfig, FakeEngine, FakeHarness, FakeRuntime};
use ews_core::{
    Error, ErrorKind, EventStream, Gap, InstanceId, InstanceSpec, Node, Notice, OwnerId, Result, RevisionId,
    RuntimeEvent, SecretRef, Selector, Timestamp,
};
use futures_util::{StreamExt, future, stream};
use tokio::io::AsyncWrite;
use tokio::time::sleep;

/// What is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flaw {
    None,
    NoNodes,
    ExitedFromSilence,
    ClaimsToSurviveTheEngine,
    WaveringCapabilities,
    DropsHostNames,
    ClaimsUsage,
    CreateStarts,
    CreatesTwice,
    AdoptsAnySpec,
    TakesForeignObjects,
    RacyCreate,
    MissingImageIsInternal,
    IgnoresPlatform,
    IgnoresNode,
    FailureIsExit,
    StartRestarts,
    ForgetsIncarnations,
    StopsWhatIsMissing,
    WrongEndpoint,
    PortClashIsBusy,
    LaunchLeftovers,
    PortZero,
    SplitsArguments,
    IgnoresReadOnly,
    IgnoresMemory,
    IgnoresCpu,
    IgnoresPids,
    KillsAtOnce,
    NeverKills,
    StopForgetsTheEnd,
    ClaimsTreeKill,
    ExitCodesAreZero,
    ForgetsOom,
    AlwaysForces,
    RemoveMissingIsNotFound,
    WaitBeforeStartEnds,
    WaitIgnoresIncarnation,
    WaitOfRemovedIsUnknown,
    ForgetsExitsOfOthers,
    ListsAHundred,
    DropsStderr,
    DropsPartialLines,
    PartialIsWhole,
    LossyText,
    IgnoresTail,
    IgnoresSince,
    IgnoresLogLimits,
    FollowEndsAtOnce,
    FollowNeverEnds,
    CpuInMicros,
    ZeroUsageOfStopped,
    LosesExits,
    HidesLag,
    EndsAtGap,
    ExecExitsWithZero,
    ExecStartsTheInstance,
    ExecInputStaysOpen,
    GuessesFrames,
    IgnoresResize,
    TerminateDoesNothing,
    LeaksSessions,
    BuffersExec,
    PutArchiveDoesNothing,
    AcceptsHostileArchives,
    MissingFileIsEmpty,
    HangsWithTheEngine,
    NotDetached,
    HalfMadeCreate,
    CutsRevisions,
    DropsEmptyLabels,
    MendsSpecs,
    LogsTheEnvironment,
}
use Flaw as F;

pub(crate) struct BrokenHarness {
    fake: FakeHarness,
    flaw: Flaw,
}

impl BrokenHarness {
    pub(crate) fn new(flaw: Flaw, log: LogCapture) -> Self {
        let mut config = FakeConfig::default();
        let lacking = match flaw {
            F::ClaimsToSurviveTheEngine => Some(Capability::SurvivesEngine),
            F::DropsHostNames => Some(Capability::Hostname),
            F::ClaimsUsage => Some(Capability::Usage),
            F::ClaimsTreeKill => Some(Capability::TreeKill),
            _ => None,
        };
        if let Some(capability) = lacking {
            config.capabilities.features = config.capabilities.features.without(capability);
        }
        if flaw == F::HangsWithTheEngine {
            config.call_limit = Duration::from_secs(100_000);
        }
        Self { fake: FakeHarness::new(config, log), flaw }
    }
}

#[async_trait]
impl RuntimeHarness for BrokenHarness {
    async fn connect(&self) -> Result<Arc<dyn Runtime>> {
        Ok(Arc::new(Broken {
            inner: self.fake.connect_fake(),
            flaw: self.flaw,
            count: AtomicU32::new(0),
            seen: Mutex::new(None),
            started: Mutex::default(),
            kept: Arc::default(),
        }))
    }
    fn workload(&self, workload: &Workload) -> Option<InstanceSpec> {
        self.fake.workload(workload)
    }
    fn command(&self, workload: &Workload) -> Option<Vec<String>> {
        self.fake.command(workload)
    }
    fn run_id(&self) -> String {
        self.fake.run_id()
    }
    async fn disturb(&self, disturbance: Disturbance) -> bool {
        self.fake.disturb(disturbance).await
    }
    async fn heal(&self) {
        self.fake.heal().await;
    }
    async fn kill_controller(&self) -> bool {
        self.fake.kill_controller().await
    }
    async fn plant_foreign(&self, key: &InstanceKey) -> bool {
        self.fake.plant_foreign(key).await
    }
    async fn foreign_is_intact(&self, key: &InstanceKey) -> bool {
        self.fake.foreign_is_intact(key).await
    }
    async fn leftovers(&self, owner: &OwnerId) -> Option<usize> {
        self.fake.leftovers(owner).await
    }
    async fn marked_processes(&self, mark: &str) -> Option<usize> {
        self.fake.marked_processes(mark).await
    }
    async fn dial(&self, address: SocketAddr) -> Result<()> {
        self.fake.dial(address).await
    }
    fn free_port(&self) -> Option<u16> {
        self.fake.free_port()
    }
    fn secret(&self) -> Option<(SecretRef, String)> {
        self.fake.secret()
    }
    fn captured_log(&self) -> Option<String> {
        self.fake.captured_log()
    }
    fn bind_directory(&self) -> Option<String> {
        self.fake.bind_directory()
    }
}

type Kept = Arc<Mutex<Vec<Box<dyn std::any::Any + Send>>>>;

pub(crate) struct Broken {
    inner: Arc<FakeRuntime>,
    flaw: Flaw,
    count: AtomicU32,
    /// The instance seen last, for flaws that answer from memory.
    seen: Mutex<Option<Instance>>,
    started: Mutex<BTreeSet<InstanceId>>,
    /// What is kept open for ever.
    kept: Kept,
}

impl Broken {
    fn engine(&self) -> &FakeEngine {
        self.inner.engine()
    }

    fn next(&self) -> u32 {
        self.count.fetch_add(1, Ordering::Relaxed)
    }

    fn spoil(&self, mut instance: Instance) -> Instance {
        match self.flaw {
            F::ForgetsIncarnations => {
                instance.incarnation = instance.incarnation.min(Incarnation(1));
            }
            F::WrongEndpoint => {
                for endpoint in &mut instance.endpoints {
                    endpoint.address.set_port(endpoint.address.port() ^ 1);
                }
            }
            F::PortZero => instance.endpoints.iter_mut().for_each(|e| e.address.set_port(0)),
            F::FailureIsExit => {
                if let InstanceState::Failed(failure) = &instance.state {
                    instance.state = InstanceState::Exited(ExitStatus::code(127, failure.at));
                }
            }
            _ => {}
        }
        *self.seen.lock().unwrap() = Some(instance.clone());
        instance
    }

    fn remembered(&self) -> Option<Instance> {
        let mut instance = self.seen.lock().unwrap().clone()?;
        instance.state = InstanceState::Exited(ExitStatus::unknown(Timestamp::EPOCH));
        Some(instance)
    }

    fn spoil_status(&self, mut status: ExitStatus) -> ExitStatus {
        match self.flaw {
            F::ExitCodesAreZero => status.code = status.code.map(|_| 0),
            F::ForgetsOom => status.oom_killed = false,
            _ => {}
        }
        status
    }

    async fn late(&self) {
        if self.flaw == F::NotDetached {
            sleep(Duration::from_millis(20)).await;
        }
    }

    fn spoil_spec(&self, spec: &mut InstanceSpec) {
        match self.flaw {
            F::DropsHostNames => spec.hostname = None,
            F::IgnoresPlatform => spec.platform = PlatformSpec::default(),
            F::SplitsArguments => {
                spec.args = spec.args.join(" ").split_whitespace().map(str::to_owned).collect();
            }
            F::IgnoresReadOnly => spec.mounts.iter_mut().for_each(|mount| mount.read_only = false),
            F::IgnoresMemory => spec.resources.memory = None,
            F::IgnoresCpu => spec.resources.cpu = None,
            F::IgnoresPids => spec.resources.pids = None,
            F::IgnoresLogLimits => spec.log = LogLimits::default(),
            F::DropsEmptyLabels => {
                let labels = spec.labels.clone();
                spec.labels = labels.without(|key| labels.get(key) == Some(""));
            }
            F::MendsSpecs => {
                let good = |text: &str| !text.contains('\0');
                spec.args.retain(|arg| good(arg));
                spec.env.retain(|name, value| {
                    let value = !matches!(value, EnvValue::Plain(text) if !good(text));
                    value && good(name) && !name.is_empty() && !name.contains('=')
                });
            }
            _ => {}
        }
    }
}

#[async_trait]
impl Runtime for Broken {
    fn capabilities(&self) -> Arc<RuntimeCapabilities> {
        let mut capabilities = RuntimeCapabilities::clone(&self.inner.capabilities());
        let claimed = match self.flaw {
            F::ClaimsToSurviveTheEngine => Some(Capability::SurvivesEngine),
            F::ClaimsUsage => Some(Capability::Usage),
            F::ClaimsTreeKill => Some(Capability::TreeKill),
            _ => None,
        };
        if let Some(capability) = claimed {
            capabilities.features = capabilities.features.with(capability);
        }
        if self.flaw == F::WaveringCapabilities && self.next() % 2 == 1 {
            capabilities.features = capabilities.features.without(Capability::Udp);
        }
        Arc::new(capabilities)
    }

    async fn nodes(&self) -> Result<Vec<Node>> {
        let nodes = self.inner.nodes().await?;
        Ok(if self.flaw == F::NoNodes { Vec::new() } else { nodes })
    }

    async fn create(
        &self,
        spec: &InstanceSpec,
        key: &InstanceKey,
        options: &CreateOptions,
    ) -> Result<Instance> {
        let (mut spec, mut inner_key, mut options) = (spec.clone(), key.clone(), options.clone());
        self.late().await;
        self.spoil_spec(&mut spec);
        match self.flaw {
            // `Debug` of the spec hides the values; a careless driver writes them out.
            F::LogsTheEnvironment => tracing::info!(env = %env_text(&spec), "creating"),
            F::IgnoresNode => options.node = None,
            F::CreatesTwice => inner_key.generation = self.next(),
            F::RacyCreate => {
                let known = self.inner.list(&Selector::everything()).await?;
                let found =
                    known.into_iter().find(|i| i.key.service == key.service && i.key.slot == key.slot);
                if let Some(found) = found {
                    return Ok(found);
                }
                sleep(Duration::from_millis(1)).await;
                inner_key.generation = self.next();
            }
            F::CutsRevisions => {
                let cut: String = key.revision.as_str().chars().take(20).collect();
                inner_key.revision = RevisionId::new(cut)?;
            }
            F::HalfMadeCreate => {
                if self.engine().has_foreign(&key.name()) {
                    return Err(Error::new(ErrorKind::AlreadyExists, "the name is taken"));
                }
                self.engine().plant_foreign(&key.name());
                sleep(Duration::from_millis(5)).await;
                self.engine().remove_foreign(&key.name());
            }
            _ => {}
        }
        let result = self.inner.create(&spec, &inner_key, &options).await;
        let mut created = match result {
            Err(error) if self.flaw == F::AdoptsAnySpec && error.kind() == ErrorKind::AlreadyExists => {
                self.inner.get(&key.to_id()?).await?
            }
            Err(error) if self.flaw == F::TakesForeignObjects && error.kind() == ErrorKind::AlreadyExists => {
                self.engine().remove_foreign(&key.name());
                self.inner.create(&spec, key, &options).await?
            }
            Err(error)
                if self.flaw == F::MissingImageIsInternal && error.kind() == ErrorKind::ImageMissing =>
            {
                return Err(Error::internal("no such image"));
            }
            other => other?,
        };
        if self.flaw == F::CreateStarts {
            created = self.inner.start(&created.id).await?;
        }
        created.key = key.clone();
        Ok(self.spoil(created))
    }

    async fn start(&self, id: &InstanceId) -> Result<Instance> {
        self.late().await;
        if self.flaw == F::StartRestarts {
            self.inner.stop(id, &StopOptions::grace(Duration::ZERO)).await?;
        }
        self.started.lock().unwrap().insert(id.clone());
        match self.inner.start(id).await {
            Err(error) if self.flaw == F::PortClashIsBusy && error.kind() == ErrorKind::PortInUse => {
                Err(Error::new(ErrorKind::Busy, "the port is taken"))
            }
            Err(error) if self.flaw == F::LaunchLeftovers && error.kind() == ErrorKind::PortInUse => {
                Err(error.with_maybe_applied())
            }
            other => Ok(self.spoil(other?)),
        }
    }

    async fn stop(&self, id: &InstanceId, options: &StopOptions) -> Result<ExitStatus> {
        self.late().await;
        let mut options = options.clone();
        match self.flaw {
            F::KillsAtOnce => options.grace = Some(Duration::ZERO),
            F::NeverKills => options.grace = Some(Duration::from_secs(100_000)),
            F::StopForgetsTheEnd if self.inner.get(id).await?.state.is_ended() => {
                return Ok(ExitStatus::code(0, Timestamp::EPOCH));
            }
            F::StopsWhatIsMissing => match self.inner.stop(id, &options).await {
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    return Ok(ExitStatus::unknown(Timestamp::EPOCH));
                }
                other => return other,
            },
            _ => {}
        }
        self.inner.stop(id, &options).await.map(|status| self.spoil_status(status))
    }

    async fn wait(&self, id: &InstanceId, options: &WaitOptions) -> Result<ExitStatus> {
        let unknown = Ok(ExitStatus::unknown(Timestamp::EPOCH));
        let mut options = options.clone();
        match self.flaw {
            F::WaitBeforeStartEnds if self.inner.get(id).await?.incarnation.0 == 0 => return unknown,
            F::WaitIgnoresIncarnation => options.incarnation = None,
            F::ForgetsExitsOfOthers if !self.started.lock().unwrap().contains(id) => return unknown,
            F::WaitOfRemovedIsUnknown => match self.inner.wait(id, &options).await {
                Err(error) if error.kind() == ErrorKind::NotFound => return unknown,
                other => return other,
            },
            _ => {}
        }
        self.inner.wait(id, &options).await.map(|status| self.spoil_status(status))
    }

    async fn remove(&self, id: &InstanceId, options: &RemoveOptions) -> Result<()> {
        self.late().await;
        if self.flaw == F::RemoveMissingIsNotFound {
            self.inner.get(id).await?;
        }
        if self.flaw == F::AlwaysForces {
            return self.inner.remove(id, &RemoveOptions::force()).await;
        }
        self.inner.remove(id, options).await
    }

    async fn get(&self, id: &InstanceId) -> Result<Instance> {
        match self.inner.get(id).await {
            Err(error) if self.flaw == F::ExitedFromSilence && error.kind() == ErrorKind::Unavailable => {
                self.remembered().ok_or(error)
            }
            other => Ok(self.spoil(other?)),
        }
    }

    async fn list(&self, selector: &Selector) -> Result<Vec<Instance>> {
        let mut list = self.inner.list(selector).await?;
        if self.flaw == F::ListsAHundred {
            list.truncate(100);
        }
        Ok(list.into_iter().map(|instance| self.spoil(instance)).collect())
    }

    async fn events(&self, selector: &Selector) -> Result<EventStream> {
        let events = self.inner.events(selector).await?;
        let flaw = self.flaw;
        let kept = events.filter(move |notice| {
            let exit = |state: &InstanceState| matches!(state, InstanceState::Exited(_));
            let lost = match notice {
                Notice::Event(RuntimeEvent::Instance { state, .. }) => flaw == F::LosesExits && exit(state),
                Notice::Gap(Gap::Lagged) => flaw == F::HidesLag,
                _ => false,
            };
            future::ready(!lost)
        });
        if flaw == F::EndsAtGap {
            return Ok(kept.take_while(|notice| future::ready(!matches!(notice, Notice::Gap(_)))).boxed());
        }
        Ok(kept.boxed())
    }

    async fn signal(&self, id: &InstanceId, signal: Signal) -> Result<()> {
        self.inner.signal(id, signal).await
    }

    async fn logs(&self, id: &InstanceId, options: &LogOptions) -> Result<LogStream> {
        let mut options = options.clone();
        match self.flaw {
            F::IgnoresTail => options.tail = None,
            F::IgnoresSince => options.since = None,
            F::FollowEndsAtOnce => options.follow = false,
            _ => {}
        }
        let flaw = self.flaw;
        let lines = self.inner.logs(id, &options).await?;
        let lines = lines.filter_map(move |line| {
            let line = line.map(|mut line| {
                match flaw {
                    F::PartialIsWhole => line.partial = false,
                    F::LossyText => {
                        let text: String = line.bytes.iter().map(|byte| char::from(*byte)).collect();
                        line.bytes = Bytes::from(text);
                    }
                    _ => {}
                }
                line
            });
            let lost = match &line {
                Ok(line) => {
                    (flaw == F::DropsStderr && line.stream == OutputStream::Stderr)
                        || (flaw == F::DropsPartialLines && line.partial)
                }
                Err(_) => false,
            };
            future::ready((!lost).then_some(line))
        });
        if flaw == F::FollowNeverEnds && options.follow {
            return Ok(lines.chain(stream::pending()).boxed());
        }
        Ok(lines.boxed())
    }

    async fn usage(&self, ids: &[InstanceId]) -> Result<Vec<Usage>> {
        let mut usage = self.inner.usage(ids).await?;
        if self.flaw == F::CpuInMicros {
            usage.iter_mut().for_each(|usage| usage.cpu_nanos = usage.cpu_nanos.map(|nanos| nanos / 1000));
        }
        if self.flaw == F::ZeroUsageOfStopped {
            let missing: Vec<_> = ids.iter().filter(|id| !usage.iter().any(|u| u.instance == **id)).collect();
            usage.extend(missing.into_iter().map(|id| {
                let mut zero = Usage::new(id.clone(), Incarnation(1), Timestamp::EPOCH);
                zero.cpu_nanos = Some(0);
                zero
            }));
        }
        Ok(usage)
    }

    async fn exec(&self, id: &InstanceId, spec: &ExecSpec) -> Result<ExecSession> {
        if self.flaw == F::ExecStartsTheInstance {
            self.inner.start(id).await?;
        }
        let mut session = self.inner.exec(id, spec).await?;
        match self.flaw {
            F::ExecInputStaysOpen => {
                session.stdin = session.stdin.map(|stdin| {
                    let open = NeverEnding { stdin: Some(stdin), kept: self.kept.clone() };
                    Box::pin(open) as Pin<Box<dyn AsyncWrite + Send>>
                });
            }
            F::GuessesFrames if spec.tty.is_some() => {
                let guess = |piece: Result<ExecOutput>| {
                    piece.map(|mut piece| {
                        if piece.bytes.first().is_some_and(|byte| *byte <= 2) && piece.bytes.len() > 8 {
                            piece.bytes = piece.bytes.slice(8..);
                        }
                        piece
                    })
                };
                session.output = session.output.map(guess).boxed();
            }
            F::BuffersExec => {
                let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
                let mut output = session.output;
                tokio::spawn(async move {
                    while let Some(piece) = output.next().await {
                        let _ = sender.send(piece);
                    }
                });
                session.output =
                    stream::unfold(receiver, |mut r| async move { r.recv().await.map(|p| (p, r)) }).boxed();
            }
            _ => {}
        }
        let control = Some(session.control);
        session.control = Box::new(BrokenControl { control, flaw: self.flaw, kept: self.kept.clone() });
        Ok(session)
    }

    async fn put_archive(&self, id: &InstanceId, path: &str, archive: ByteStream) -> Result<()> {
        if self.flaw == F::PutArchiveDoesNothing {
            return Ok(());
        }
        match self.inner.put_archive(id, path, archive).await {
            Err(error) if self.flaw == F::AcceptsHostileArchives && error.kind() == ErrorKind::Invalid => {
                Ok(())
            }
            other => other,
        }
    }

    async fn get_archive(&self, id: &InstanceId, path: &str) -> Result<ByteStream> {
        match self.inner.get_archive(id, path).await {
            Err(error) if self.flaw == F::MissingFileIsEmpty && error.kind() == ErrorKind::NotFound => {
                Ok(stream::empty().boxed())
            }
            other => other,
        }
    }
}

/// An input whose end never reaches the program.
struct NeverEnding {
    stdin: Option<Pin<Box<dyn AsyncWrite + Send>>>,
    kept: Kept,
}

impl AsyncWrite for NeverEnding {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        self.stdin.as_mut().unwrap().as_mut().poll_write(cx, bytes)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        self.stdin.as_mut().unwrap().as_mut().poll_flush(cx)
    }
    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Drop for NeverEnding {
    fn drop(&mut self) {
        self.kept.lock().unwrap().push(Box::new(self.stdin.take()));
    }
}

struct BrokenControl {
    control: Option<Box<dyn ExecControl>>,
    flaw: Flaw,
    kept: Kept,
}

#[async_trait]
impl ExecControl for BrokenControl {
    async fn resize(&self, size: TtySize) -> Result<()> {
        if self.flaw == F::IgnoresResize {
            return Ok(());
        }
        self.control.as_ref().unwrap().resize(size).await
    }
    async fn terminate(&self) -> Result<()> {
        if self.flaw == F::TerminateDoesNothing {
            return Ok(());
        }
        self.control.as_ref().unwrap().terminate().await
    }
    async fn wait(&self) -> Result<ExitStatus> {
        let mut status = self.control.as_ref().unwrap().wait().await?;
        if self.flaw == F::ExecExitsWithZero {
            status.code = Some(0);
        }
        Ok(status)
    }
}

impl Drop for BrokenControl {
    fn drop(&mut self) {
        if self.flaw == F::LeaksSessions {
            self.kept.lock().unwrap().push(Box::new(self.control.take()));
        }
    }
}

fn env_text(spec: &InstanceSpec) -> String {
    let pairs = spec.env.iter().filter_map(|(name, value)| match value {
        EnvValue::Plain(text) => Some(format!("{name}={text}")),
        _ => None,
    });
    pairs.collect::<Vec<_>>().join(" ")
}
