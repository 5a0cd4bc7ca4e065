//! A driver of one's own: plain child processes of this program, in about three hundred lines.
//!
//! It is small because it declares little: no exec, no usage, no limits, no published ports. What it does not declare it
//! refuses, and the suite holds it to that. It remembers everything in memory, so its instances do not survive the
//! controller, which it does not declare either. `harness` is the other half: how it proves itself.

mod harness;
mod output;

pub use harness::Harness;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::ExitStatusExt as _;
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use ews_core::capability::{Capability, CapabilitySet, RuntimeCapabilities};
use ews_core::runtime::{
    CreateOptions, LogOptions, LogStream, RemoveOptions, Runtime, StopOptions, WaitOptions,
};
use ews_core::spec::content::EnvValue;
use ews_core::spec::lifecycle::Signal;
use ews_core::{
    Clock as _, Endpoint, EndpointKey, Error, ErrorKind, EventStream, ExitStatus, Failure, Gap, Incarnation,
    Instance, InstanceId, InstanceKey, InstanceSpec, InstanceState, Isolation, Node, NodeId, Notice,
    Platform, Result, RuntimeEvent, Scope, Selector, Source, SystemClock, Timestamp, detach,
};
use futures_util::{StreamExt as _, stream};
use output::Output;
use tokio::process::{Child, Command};
use tokio::sync::{broadcast, watch};

/// How many events wait for a slow consumer before it is told of a gap.
const EVENTS: usize = 256;

/// How long output is waited for after a program's end: a daemon may keep it open for ever.
const LAST_OUTPUT: Duration = Duration::from_millis(500);

/// The driver. Dropping it leaves its programs running, unseen.
pub struct ProcessRuntime {
    shared: Arc<Shared>,
    capabilities: Arc<RuntimeCapabilities>,
}

struct Shared {
    node: NodeId,
    entries: Mutex<BTreeMap<InstanceId, Entry>>,
    /// Creates, starts and removes happen one after the other, so that none sees another half done.
    turn: tokio::sync::Mutex<()>,
    events: broadcast::Sender<(Option<Instance>, RuntimeEvent)>,
}

struct Entry {
    instance: Instance,
    spec: InstanceSpec,
    output: Output,
    /// The process group of the running program.
    group: Option<u32>,
    last_end: Option<(Incarnation, ExitStatus)>,
    /// Counts changes; its end says that the instance is gone.
    changed: watch::Sender<u64>,
}

fn now() -> Timestamp {
    SystemClock.now()
}

impl ProcessRuntime {
    /// A driver without instances.
    ///
    /// # Errors
    /// `Internal` on a platform that EWS has no word for.
    pub fn new() -> Result<Self> {
        let features = [
            Capability::ArtifactSource,
            Capability::Logs,
            Capability::LogsSplit,
            Capability::LogsSince,
            Capability::Workdir,
        ];
        let mut capabilities = RuntimeCapabilities::new(features.into_iter().collect::<CapabilitySet>());
        capabilities.isolation = vec![Isolation::None];
        Platform::host().ok_or_else(|| Error::internal("this platform is not known"))?;
        let shared = Shared {
            node: NodeId::new("local")?,
            entries: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
            events: broadcast::Sender::new(EVENTS),
        };
        Ok(Self { shared: Arc::new(shared), capabilities: Arc::new(capabilities) })
    }
}

impl Shared {
    fn entries(&self) -> MutexGuard<'_, BTreeMap<InstanceId, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T>(&self, id: &InstanceId, look: impl FnOnce(&mut Entry) -> T) -> Result<T> {
        self.entries().get_mut(id).map(look).ok_or_else(|| Error::not_found("instance", id))
    }

    fn get(&self, id: &InstanceId) -> Result<Instance> {
        self.with(id, |entry| entry.instance.clone())
    }

    fn set_state(&self, id: &InstanceId, state: InstanceState) -> Result<Instance> {
        let instance = self.with(id, |entry| {
            entry.instance.state = state.clone();
            entry.changed.send_modify(|version| *version += 1);
            entry.instance.clone()
        })?;
        let (key, incarnation) = (instance.key.clone(), instance.incarnation);
        let event = RuntimeEvent::Instance { id: id.clone(), key, incarnation, state, at: now() };
        // Nobody listens: events are hints.
        let _ = self.events.send((Some(instance.clone()), event));
        Ok(instance)
    }

    async fn create(self: Arc<Self>, spec: InstanceSpec, key: InstanceKey) -> Result<Instance> {
        let _turn = self.turn.lock().await;
        let id = key.to_id()?;
        if let Ok(existing) = self.get(&id) {
            if existing.spec_hash != spec.hash() {
                return Err(Error::new(ErrorKind::AlreadyExists, "the instance exists with another spec")
                    .with_context("instance", id));
            }
            return Ok(existing);
        }
        let mut instance = Instance::new(id.clone(), key, self.node.clone(), spec.hash(), now());
        instance.labels = spec.labels.clone();
        let output = Output::new(&spec.log);
        let changed = watch::Sender::new(0);
        let entry = Entry { instance, spec, output, group: None, last_end: None, changed };
        self.entries().insert(id.clone(), entry);
        self.set_state(&id, InstanceState::Created)
    }

    async fn start(self: Arc<Self>, id: InstanceId) -> Result<Instance> {
        let _turn = self.turn.lock().await;
        let (found, spec) = self.with(&id, |entry| (entry.instance.clone(), entry.spec.clone()))?;
        if found.state.is_running() {
            return Ok(found);
        }
        for port in spec.ports.iter().filter_map(|port| port.number) {
            // Somebody may take it before the program does; then the program says so in its output.
            if TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_err() {
                return Err(Error::new(ErrorKind::PortInUse, "the port is taken").with_context("port", port));
            }
        }
        let child = match command(&spec).spawn() {
            Ok(child) => child,
            Err(error) => {
                let code = if error.kind() == std::io::ErrorKind::NotFound { 127 } else { 126 };
                let failure = Failure::new(error.to_string(), Some(code), now());
                return self.set_state(&id, InstanceState::Failed(failure));
            }
        };
        self.with(&id, |entry| {
            let instance = &mut entry.instance;
            instance.incarnation.0 += 1;
            instance.started_at = Some(now());
            instance.endpoints = endpoints(&spec, instance);
            entry.group = child.id();
        })?;
        let running = self.set_state(&id, InstanceState::Running)?;
        let shared = self.clone();
        tokio::spawn(async move { shared.watch(running.id, running.incarnation, child).await });
        self.get(&id)
    }

    /// Follows a program to its end.
    async fn watch(self: Arc<Self>, id: InstanceId, incarnation: Incarnation, mut child: Child) {
        let Ok(output) = self.with(&id, |entry| entry.output.clone()) else { return };
        let reading = output.read(child.stdout.take(), child.stderr.take());
        let status = child.wait().await;
        // What the program has written is there; a daemon of its may hold the pipes open, and is not waited for.
        let _ = tokio::time::timeout(LAST_OUTPUT, reading.end()).await;
        output.end();
        let at = now();
        let status =
            status.map_or(ExitStatus::unknown(at), |status| match (status.code(), status.signal()) {
                (Some(code), _) => ExitStatus::code(code, at),
                (None, signal) => match signal.and_then(|number| Signal::from_number(number).ok()) {
                    Some(signal) => ExitStatus::signal(signal, at),
                    None => ExitStatus::unknown(at),
                },
            });
        // Where it is gone there is nobody to tell.
        let _ = self.with(&id, |entry| {
            entry.group = None;
            entry.instance.endpoints.clear();
            entry.last_end = Some((incarnation, status.clone()));
        });
        let _ = self.set_state(&id, InstanceState::Exited(status));
    }

    /// The end of what runs, or how it ended before; `None` where it never ran.
    async fn ended(&self, id: &InstanceId) -> Result<Option<ExitStatus>> {
        let mut changed = self.with(id, |entry| entry.changed.subscribe())?;
        loop {
            let (state, end) =
                self.with(id, |entry| (entry.instance.state.clone(), entry.last_end.clone()))?;
            if !state.is_running() {
                return Ok(match state {
                    InstanceState::Failed(failure) => Some(failed(&failure)),
                    _ => end.map(|(_, status)| status),
                });
            }
            changed.changed().await.map_err(|_| Error::not_found("instance", id))?;
        }
    }

    async fn stop(self: Arc<Self>, id: InstanceId, options: StopOptions) -> Result<ExitStatus> {
        drop(self.turn.lock().await);
        let (group, asked) = self.with(&id, |entry| (entry.group, entry.spec.stop.clone()))?;
        if let Some(group) = group {
            self.set_state(&id, InstanceState::Stopping)?;
            let grace = options.grace.unwrap_or(asked.grace);
            if !grace.is_zero() {
                signal(group, asked.signal).await?;
            }
            if tokio::time::timeout(grace, self.ended(&id)).await.is_err() {
                signal(group, Signal::KILL).await?;
            }
        }
        Ok(self.ended(&id).await?.unwrap_or_else(|| ExitStatus::unknown(now())))
    }

    async fn remove(self: Arc<Self>, id: InstanceId, options: RemoveOptions) -> Result<()> {
        let _turn = self.turn.lock().await;
        let Ok(group) = self.with(&id, |entry| entry.group) else { return Ok(()) };
        if let Some(group) = group {
            if !options.force {
                return Err(Error::new(ErrorKind::Busy, "the instance runs").with_context("instance", id));
            }
            signal(group, Signal::KILL).await?;
            self.ended(&id).await?;
        }
        let removed = self.entries().remove(&id);
        if let Some(Entry { instance, .. }) = removed {
            let event = RuntimeEvent::Removed { id, key: instance.key.clone(), at: now() };
            let _ = self.events.send((Some(instance), event));
        }
        Ok(())
    }
}

fn failed(failure: &Failure) -> ExitStatus {
    let mut status = ExitStatus::unknown(failure.at);
    status.code = failure.code;
    status
}

fn endpoints(spec: &InstanceSpec, instance: &Instance) -> Vec<Endpoint> {
    let endpoint = |port: &ews_core::spec::network::Port| {
        Some(Endpoint {
            key: EndpointKey {
                instance: instance.id.clone(),
                incarnation: instance.incarnation,
                port: port.name.clone(),
            },
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, port.number?)),
            protocol: port.protocol,
            scope: Scope::Loopback,
        })
    };
    spec.ports.iter().filter_map(endpoint).collect()
}

/// The program in a process group of its own, with nothing of this program's environment but the path.
fn command(spec: &InstanceSpec) -> Command {
    let artifact = match &spec.source {
        Source::Artifact(artifact) => artifact.location.clone(),
        _ => String::new(),
    };
    let mut words = spec.command.iter().chain(&spec.args);
    let mut command = Command::new(words.next().unwrap_or(&artifact));
    command.args(words).env_clear().process_group(0);
    command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
    for (name, value) in &spec.env {
        if let EnvValue::Plain(value) = value {
            command.env(name, value);
        }
    }
    if let Some(directory) = &spec.workdir {
        command.current_dir(directory);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A library that forbids unsafe code has no `kill`; every shell has.
async fn signal(group: u32, signal: Signal) -> Result<()> {
    let script = format!("kill -{} -{group}", signal.number());
    let mut kill = Command::new("/bin/sh");
    kill.args(["-c", &script]).stdin(Stdio::null()).stderr(Stdio::null());
    // A group that is gone already is what was wanted.
    kill.status()
        .await
        .map(drop)
        .map_err(|error| Error::internal("no shell to send a signal").with_source(error))
}

/// What this driver refuses before it looks further.
fn check(spec: &InstanceSpec) -> Result<()> {
    let nul = |text: &String| text.contains('\0');
    for (name, value) in &spec.env {
        let EnvValue::Plain(value) = value else {
            return Err(Error::new(ErrorKind::Unsupported, "this driver resolves no secrets")
                .with_context("field", "env"));
        };
        if name.is_empty() || name.contains('=') || nul(name) || nul(value) {
            return Err(Error::invalid("a variable's name is empty or holds `=`, or NUL is in it"));
        }
    }
    if spec.command.iter().chain(&spec.args).any(nul) {
        return Err(Error::invalid("an argument holds NUL").with_context("field", "command"));
    }
    match &spec.source {
        Source::Artifact(artifact) if artifact.digest.is_none() && artifact.location.starts_with('/') => {
            Ok(())
        }
        _ => Err(Error::invalid("accepted: an absolute path of a program, without a digest")
            .with_context("field", "artifact")),
    }
}

#[async_trait]
impl Runtime for ProcessRuntime {
    fn capabilities(&self) -> Arc<RuntimeCapabilities> {
        self.capabilities.clone()
    }

    async fn nodes(&self) -> Result<Vec<Node>> {
        let platform = Platform::host().ok_or_else(|| Error::internal("this platform is not known"))?;
        let mut node = Node::new(self.shared.node.clone(), platform);
        node.isolation = vec![Isolation::None];
        Ok(vec![node])
    }

    async fn create(
        &self,
        spec: &InstanceSpec,
        key: &InstanceKey,
        options: &CreateOptions,
    ) -> Result<Instance> {
        self.capabilities.check(spec)?;
        check(spec)?;
        if let Some(node) = options.node.as_ref().filter(|node| **node != self.shared.node) {
            return Err(Error::not_found("node", node));
        }
        detach(self.shared.clone().create(spec.clone(), key.clone())).await
    }

    async fn start(&self, id: &InstanceId) -> Result<Instance> {
        detach(self.shared.clone().start(id.clone())).await
    }

    async fn stop(&self, id: &InstanceId, options: &StopOptions) -> Result<ExitStatus> {
        detach(self.shared.clone().stop(id.clone(), options.clone())).await
    }

    async fn wait(&self, id: &InstanceId, options: &WaitOptions) -> Result<ExitStatus> {
        let mut changed = self.shared.with(id, |entry| entry.changed.subscribe())?;
        let now = self.shared.get(id)?.incarnation;
        let wanted = options.incarnation.unwrap_or(Incarnation(now.0.max(1)));
        loop {
            let (instance, end) =
                self.shared.with(id, |entry| (entry.instance.clone(), entry.last_end.clone()))?;
            match (end, &instance.state) {
                (Some((of, status)), _) if of == wanted => return Ok(status),
                (_, InstanceState::Failed(failure)) if wanted > instance.incarnation => {
                    return Ok(failed(failure));
                }
                _ if wanted < instance.incarnation => {
                    return Err(Error::new(ErrorKind::Stale, "how that start ended is no longer known"));
                }
                _ => {}
            }
            changed.changed().await.map_err(|_| Error::not_found("instance", id))?;
        }
    }

    async fn remove(&self, id: &InstanceId, options: &RemoveOptions) -> Result<()> {
        detach(self.shared.clone().remove(id.clone(), options.clone())).await
    }

    async fn get(&self, id: &InstanceId) -> Result<Instance> {
        self.shared.get(id)
    }

    async fn list(&self, selector: &Selector) -> Result<Vec<Instance>> {
        let entries = self.shared.entries();
        let instances = entries.values().map(|entry| &entry.instance);
        Ok(instances.filter(|instance| selector.matches(*instance)).cloned().collect())
    }

    async fn events(&self, selector: &Selector) -> Result<EventStream> {
        let state = (self.shared.events.subscribe(), selector.clone());
        let events = stream::unfold(state, |(mut receiver, selector)| async move {
            loop {
                match receiver.recv().await {
                    Ok((Some(instance), _)) if !selector.matches(&instance) => {}
                    Ok((_, event)) => return Some((Notice::Event(event), (receiver, selector))),
                    Err(broadcast::error::RecvError::Lagged(_)) => {
                        return Some((Notice::Gap(Gap::Lagged), (receiver, selector)));
                    }
                    Err(broadcast::error::RecvError::Closed) => return None,
                }
            }
        });
        Ok(events.boxed())
    }

    async fn logs(&self, id: &InstanceId, options: &LogOptions) -> Result<LogStream> {
        self.shared.with(id, |entry| entry.output.stream(options.clone(), entry.group.is_some()))
    }
}
