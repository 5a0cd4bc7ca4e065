//! The life of an instance in the fake engine: create, start, stop, wait, remove, and what its end sets off.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::DuplexStream;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::engine::{FakeEngine, ImageState};
use super::ports::{bind, name_ports, release};
use super::process::{Context, End, Process, Session, Sink};
use super::program;
use super::state::{Record, State};
use crate::capability::Capability;
use crate::error::{Error, ErrorKind, Result};
use crate::event::RuntimeEvent;
use crate::id::{InstanceId, NodeId};
use crate::instance::{ExitStatus, Failure, Incarnation, Instance, InstanceKey, InstanceState};
use crate::node::NodeState;
use crate::runtime::{CreateOptions, RemoveOptions, StopOptions, TtySize, WaitOptions};
use crate::spec::InstanceSpec;
use crate::spec::content::EnvValue;
use crate::spec::lifecycle::{EngineRestart, Signal};
use crate::spec::source::Source;
use crate::spec::storage::MountKind;

/// How long the engine waits before it restarts a program by itself.
const RESTART_PAUSE: Duration = Duration::from_millis(100);

/// The name of what outlives an instance.
pub(super) fn shared_name(kind: &MountKind) -> Option<String> {
    match kind {
        MountKind::Volume(name) => Some(format!("volume {name}")),
        MountKind::Bind(path) => Some(format!("path {path}")),
        _ => None,
    }
}

/// What is started: an instance's own program or a command inside it.
pub(super) struct Launch {
    pub(super) instance: InstanceId,
    pub(super) incarnation: Incarnation,
    pub(super) session: Session,
    pub(super) command: Vec<String>,
    pub(super) env: BTreeMap<String, String>,
    pub(super) workdir: String,
    pub(super) user: Option<String>,
    pub(super) cpu_limit: u32,
    pub(super) stdin: Option<DuplexStream>,
    pub(super) tty: Option<watch::Receiver<TtySize>>,
    pub(super) sink: Sink,
}

impl FakeEngine {
    pub(super) async fn create(
        &self,
        spec: InstanceSpec,
        key: InstanceKey,
        options: CreateOptions,
    ) -> Result<Instance> {
        check(&spec)?;
        self.shared.config.capabilities.check(&spec)?;
        let id = key.to_id()?;
        let gate = self.gate(&id);
        let _turn = gate.lock().await;
        if let Some(existing) = self.existing(&id, &key, &spec)? {
            return Ok(existing);
        }
        self.check_image(&spec)?;
        let env = self.resolve(&spec).await?;
        let node = self.reserve(&id, &key, &spec, options.node, env)?;
        sleep(self.shared.config.create_time).await;
        let at = self.now();
        let mut state = self.state();
        if state.full_disks.contains(&node) {
            state.records.remove(&id);
            return Err(Error::new(ErrorKind::OutOfResources, "no space left on the node's disk")
                .with_context("node", node));
        }
        state.set_state(&id, InstanceState::Created, at);
        let record = state.records.get(&id).ok_or_else(|| Error::not_found("instance", &id))?;
        Ok(state.view(record))
    }

    fn existing(&self, id: &InstanceId, key: &InstanceKey, spec: &InstanceSpec) -> Result<Option<Instance>> {
        let state = self.state();
        if state.foreign.contains(id.as_str()) {
            return Err(Error::new(
                ErrorKind::AlreadyExists,
                "an object of that name belongs to somebody else",
            )
            .with_context("name", id));
        }
        let Some(record) = state.records.get(id) else { return Ok(None) };
        if record.instance.spec_hash != spec.hash() || record.instance.key != *key {
            return Err(Error::new(ErrorKind::AlreadyExists, "the instance exists with another spec")
                .with_context("instance", id));
        }
        Ok(Some(state.view(record)))
    }

    fn check_image(&self, spec: &InstanceSpec) -> Result<()> {
        let Source::Image(image) = &spec.source else { return Ok(()) };
        let state = self.state();
        let known = state.images.get(&image.reference).copied();
        let platforms = || state.nodes.values().map(|node| &node.platform);
        let suits = |os, arch| platforms().any(|p| Some(p.os) == os || os.is_none() && Some(p.arch) == arch);
        let wanted = &spec.platform;
        let foreign = (wanted.os.is_some() && !suits(wanted.os, None))
            || (wanted.arch.is_some() && !suits(None, wanted.arch));
        let kind = match known {
            _ if foreign => ErrorKind::ImageIncompatible,
            None if image.reference.registry() == "missing.invalid" => ErrorKind::ImageMissing,
            None | Some(ImageState::Present) => return Ok(()),
            Some(ImageState::Missing) => ErrorKind::ImageMissing,
            Some(ImageState::Denied) => ErrorKind::ImageDenied,
            Some(ImageState::Incompatible) => ErrorKind::ImageIncompatible,
        };
        Err(Error::new(kind, "the nodes can't run this image").with_context("image", &image.reference))
    }

    /// The environment with secrets in place.
    async fn resolve(&self, spec: &InstanceSpec) -> Result<BTreeMap<String, String>> {
        let mut env = BTreeMap::new();
        for (name, value) in &spec.env {
            let value = match value {
                EnvValue::Plain(text) => text.clone(),
                EnvValue::Secret { secret } => match &self.shared.config.secrets {
                    Some(secrets) => secrets.resolve(secret).await?.expose_str()?.to_owned(),
                    None => return Err(Error::not_found("secret", secret)),
                },
            };
            env.insert(name.clone(), value);
        }
        Ok(env)
    }

    fn reserve(
        &self,
        id: &InstanceId,
        key: &InstanceKey,
        spec: &InstanceSpec,
        node: Option<NodeId>,
        env: BTreeMap<String, String>,
    ) -> Result<NodeId> {
        let at = self.now();
        let mut state = self.state();
        let node = match node {
            Some(node) => node,
            None => emptiest(&state)?,
        };
        let found = state.nodes.get(&node).ok_or_else(|| Error::not_found("node", &node))?;
        if found.state != NodeState::Ready {
            return Err(Error::new(ErrorKind::Unavailable, "the node takes no instances now")
                .with_context("node", &node));
        }
        let capacity = found.capacity;
        let on_node = || state.records.values().filter(|record| record.instance.node == node);
        let cpu: u64 = on_node().map(|r| u64::from(r.spec.resources.reserved_cpu().millis())).sum();
        let memory: u64 = on_node().map(|r| r.spec.resources.reserved_memory().bytes()).sum();
        let short = |what: &'static str| {
            Err(Error::new(ErrorKind::OutOfResources, format!("the node has not enough {what} left"))
                .with_context("node", &node))
        };
        if cpu + u64::from(spec.resources.reserved_cpu().millis()) > u64::from(capacity.cpu.millis()) {
            return short("CPU");
        }
        if memory + spec.resources.reserved_memory().bytes() > capacity.memory.bytes() {
            return short("memory");
        }
        let mut instance = Instance::new(id.clone(), key.clone(), node.clone(), spec.hash(), at);
        instance.labels = spec.labels.clone();
        instance.state = InstanceState::Creating;
        state.records.insert(id.clone(), Record::new(instance, spec.clone(), env));
        Ok(node)
    }

    pub(super) async fn start(&self, id: InstanceId) -> Result<Instance> {
        let gate = self.gate(&id);
        let _turn = gate.lock().await;
        {
            let mut state = self.state();
            let record = reachable(&state, &id)?;
            match &record.instance.state {
                InstanceState::Removing => {
                    return Err(Error::new(ErrorKind::Busy, "the instance is being removed"));
                }
                found if found.is_running() => return Ok(record.instance.clone()),
                _ => {}
            }
            bind(&mut state, &id)?;
            state.set_state(&id, InstanceState::Starting, self.now());
        }
        sleep(self.shared.config.start_time).await;
        let mut state = self.state();
        let at = self.now();
        let session = Session(state.number());
        let record = state.records.get_mut(&id).ok_or_else(|| Error::not_found("instance", &id))?;
        if record.instance.state == InstanceState::Removing {
            return Err(Error::new(ErrorKind::Busy, "the instance is being removed"));
        }
        let command: Vec<String> = record.spec.command.iter().chain(&record.spec.args).cloned().collect();
        if let Some((message, code)) = program::missing(&command) {
            release(&mut state, &id);
            state.set_state(&id, InstanceState::Failed(Failure::new(message, Some(code), at)), at);
        } else {
            record.instance.incarnation.0 += 1;
            record.instance.started_at = Some(at);
            record
                .instance
                .endpoints
                .iter_mut()
                .for_each(|e| e.key.incarnation = record.instance.incarnation);
            record.cpu = Duration::ZERO;
            record.stop_asked = false;
            record.listening = false;
            let mut env = record.env.clone();
            name_ports(&mut env, &record.spec.ports, &record.instance.endpoints);
            let launch = Launch {
                instance: id.clone(),
                incarnation: record.instance.incarnation,
                session,
                command,
                env,
                workdir: record.spec.workdir.clone().unwrap_or_else(|| "/".to_owned()),
                user: record.spec.user.clone(),
                cpu_limit: cpu_limit(&record.spec),
                stdin: None,
                tty: None,
                sink: Sink::Log,
            };
            let main = self.spawn(&mut state, launch);
            if let Some(record) = state.records.get_mut(&id) {
                record.main = Some(main);
            }
            state.set_state(&id, InstanceState::Running, at);
        }
        let record = state.records.get(&id).ok_or_else(|| Error::not_found("instance", &id))?;
        Ok(state.view(record))
    }

    /// Starts a process and sees to it that its end is taken note of.
    pub(super) fn spawn(&self, state: &mut State, launch: Launch) -> Arc<Process> {
        let Launch {
            instance,
            incarnation,
            session,
            command,
            env,
            workdir,
            user,
            cpu_limit,
            stdin,
            tty,
            sink,
        } = launch;
        let mark = env.get("EWS_MARK").cloned();
        let pid = state.number();
        let (process, signals) = Process::new(pid, instance, incarnation, session, mark, cpu_limit);
        let process = Arc::new(process);
        state.processes.insert(pid, process.clone());
        let uid = user.as_deref().and_then(|user| user.split(':').next()).unwrap_or("0").to_owned();
        let mut cx = Context {
            engine: self.clone(),
            process: process.clone(),
            env,
            workdir,
            uid,
            stdin,
            tty,
            signals,
            sink,
        };
        let engine = self.clone();
        let running = process.clone();
        tokio::spawn(async move {
            let end = tokio::select! {
                biased;
                end = running.forced() => end,
                end = program::run(&command, &mut cx) => end,
            };
            // Its output ends before its end is known.
            drop(cx);
            engine.process_ended(&running, end);
        });
        process
    }

    /// A child of a process that outlives the call; `false` where the limit is reached.
    pub(super) fn fork(&self, parent: &Process, env: &BTreeMap<String, String>) -> bool {
        let mut state = self.state();
        let limit = state.records.get(&parent.instance).and_then(|record| record.spec.resources.pids);
        let count = state.processes_of(&parent.instance).count();
        if limit.is_some_and(|limit| count >= limit as usize) {
            return false;
        }
        let launch = Launch {
            instance: parent.instance.clone(),
            incarnation: parent.incarnation,
            session: parent.session,
            command: vec!["fake".to_owned(), "sleep".to_owned()],
            env: env.clone(),
            workdir: "/".to_owned(),
            user: None,
            cpu_limit: parent.cpu_limit,
            stdin: None,
            tty: None,
            sink: Sink::Nowhere,
        };
        self.spawn(&mut state, launch);
        true
    }

    fn process_ended(&self, process: &Arc<Process>, end: End) {
        let at = self.now();
        let mut state = self.state();
        process.rest();
        state.processes.remove(&process.pid);
        let Some(record) = state.records.get_mut(&process.instance) else {
            process.ended.send_replace(Some(end));
            return;
        };
        if record.instance.incarnation == process.incarnation {
            record.cpu += process.cpu();
        }
        if record.main.as_ref().is_some_and(|main| main.pid == process.pid) {
            let id = process.instance.clone();
            let status = end.status(at);
            record.main = None;
            record.listening = false;
            record.log.end(at);
            record.ended(process.incarnation, status.clone());
            let asked = record.stop_asked;
            let again = match record.spec.engine_restart {
                EngineRestart::Never => false,
                EngineRestart::OnFailure => !status.is_success(),
                EngineRestart::UnlessStopped => true,
            };
            let removing = record.instance.state == InstanceState::Removing;
            if self.has(Capability::TreeKill) {
                state.processes_of(&id).for_each(|process| process.force(End::Signal(Signal::KILL)));
            }
            release(&mut state, &id);
            if !removing {
                state.set_state(&id, InstanceState::Exited(status), at);
                if again && !asked {
                    let engine = self.clone();
                    tokio::spawn(async move {
                        sleep(RESTART_PAUSE).await;
                        // It may be gone or started by then; either is fine.
                        let _ = engine.start(id).await;
                    });
                }
            }
        }
        process.ended.send_replace(Some(end));
    }

    pub(super) async fn stop(&self, id: InstanceId, options: StopOptions) -> Result<ExitStatus> {
        // A start that is under way comes first.
        drop(self.gate(&id).lock_owned().await);
        let (main, signal, grace, incarnation) = {
            let at = self.now();
            let mut state = self.state();
            reachable(&state, &id)?;
            let Some(record) = state.records.get_mut(&id) else {
                return Err(Error::not_found("instance", &id));
            };
            record.stop_asked = true;
            let incarnation = record.instance.incarnation;
            let grace = options.grace.unwrap_or(record.spec.stop.grace);
            let signal = record.spec.stop.signal;
            let Some(main) = record.main.clone() else {
                return Ok(ended(record).unwrap_or_else(|| ExitStatus::unknown(at)));
            };
            if record.instance.state.is_running() {
                state.set_state(&id, InstanceState::Stopping, at);
            }
            (main, signal, grace, incarnation)
        };
        main.signal(if grace.is_zero() { Signal::KILL } else { signal });
        if timeout(grace, main.wait()).await.is_err() {
            main.force(End::Signal(Signal::KILL));
        }
        let end = main.wait().await;
        let state = self.state();
        let status = state.records.get(&id).and_then(|record| record.end_of(incarnation));
        Ok(status.unwrap_or_else(|| end.status(self.now())))
    }

    pub(super) async fn wait(&self, id: InstanceId, options: WaitOptions) -> Result<ExitStatus> {
        let (mut changed, wanted) = {
            let state = self.state();
            let record = state.records.get(&id).ok_or_else(|| Error::not_found("instance", &id))?;
            let now = record.instance.incarnation;
            (record.changed.subscribe(), options.incarnation.unwrap_or(Incarnation(now.0.max(1))))
        };
        loop {
            {
                let state = self.state();
                let record = state.records.get(&id).ok_or_else(|| Error::not_found("instance", &id))?;
                if let Some(status) = record.end_of(wanted) {
                    return Ok(status);
                }
                match &record.instance.state {
                    // A start that failed is an end too, of the start that was waited for.
                    InstanceState::Failed(failure) if wanted > record.instance.incarnation => {
                        let mut status = ExitStatus::unknown(failure.at);
                        status.code = failure.code;
                        return Ok(status);
                    }
                    _ if wanted < record.instance.incarnation => {
                        return Err(Error::new(ErrorKind::Stale, "how that start ended is no longer known")
                            .with_context("incarnation", wanted));
                    }
                    _ => {}
                }
            }
            if changed.changed().await.is_err() {
                return Err(Error::not_found("instance", &id));
            }
        }
    }

    pub(super) async fn remove(&self, id: InstanceId, options: RemoveOptions) -> Result<()> {
        let gate = self.gate(&id);
        let turn = gate.lock().await;
        let at = self.now();
        let main = {
            let mut state = self.state();
            if !state.records.contains_key(&id) {
                return Ok(());
            }
            let record = reachable(&state, &id)?;
            if record.instance.state.is_running() && !options.force {
                return Err(Error::new(ErrorKind::Busy, "the instance runs; stop it first or use force")
                    .with_context("instance", &id));
            }
            let main = record.main.clone();
            state.set_state(&id, InstanceState::Removing, at);
            state.processes_of(&id).for_each(|process| process.force(End::Signal(Signal::KILL)));
            main
        };
        if let Some(main) = main {
            main.wait().await;
        }
        drop(turn);
        let mut state = self.state();
        release(&mut state, &id);
        if let Some(record) = state.records.remove(&id) {
            let event =
                RuntimeEvent::Removed { id: id.clone(), key: record.instance.key.clone(), at: self.now() };
            state.publish(&record.instance, event);
        }
        drop(state);
        let mut gates = self.shared.gates.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        gates.retain(|_, gate| Arc::strong_count(gate) > 1);
        Ok(())
    }

    fn gate(&self, id: &InstanceId) -> Arc<tokio::sync::Mutex<()>> {
        let mut gates = self.shared.gates.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        gates.entry(id.clone()).or_default().clone()
    }
}

/// The record of an instance whose node answers.
pub(super) fn reachable<'a>(state: &'a State, id: &InstanceId) -> Result<&'a Record> {
    let record = state.records.get(id).ok_or_else(|| Error::not_found("instance", id))?;
    match state.nodes.get(&record.instance.node).map(|node| node.state) {
        Some(NodeState::Unknown { .. } | NodeState::Gone) => {
            Err(Error::new(ErrorKind::Unavailable, "the node does not answer")
                .with_context("node", &record.instance.node))
        }
        _ => Ok(record),
    }
}

fn ended(record: &Record) -> Option<ExitStatus> {
    match &record.instance.state {
        InstanceState::Exited(status) => Some(status.clone()),
        InstanceState::Failed(failure) => {
            let mut status = ExitStatus::unknown(failure.at);
            status.code = failure.code;
            Some(status)
        }
        _ => None,
    }
}

/// The ready node with the fewest instances; the first by id among equals.
fn emptiest(state: &State) -> Result<NodeId> {
    let count = |node: &NodeId| state.records.values().filter(|r| r.instance.node == *node).count();
    let ready = state.nodes.values().filter(|node| node.state == NodeState::Ready);
    ready
        .min_by_key(|node| count(&node.id))
        .map(|node| node.id.clone())
        .ok_or_else(|| Error::new(ErrorKind::Unavailable, "no node takes instances now"))
}

pub(super) fn cpu_limit(spec: &InstanceSpec) -> u32 {
    spec.resources.cpu.map_or(1000, |cpu| cpu.millis())
}

/// What every engine refuses before it looks further.
fn check(spec: &InstanceSpec) -> Result<()> {
    let nul = |text: &str| text.contains('\0');
    for name in spec.env.keys() {
        if name.is_empty() || name.contains('=') || nul(name) {
            return Err(Error::invalid("an environment variable's name is empty or holds `=` or NUL")
                .with_context("field", "env"));
        }
    }
    let values = spec.env.values().filter_map(|value| match value {
        EnvValue::Plain(text) => Some(text),
        EnvValue::Secret { .. } => None,
    });
    if spec.command.iter().chain(&spec.args).chain(values).any(|text| nul(text)) {
        return Err(Error::invalid("an argument or a variable holds NUL").with_context("field", "command"));
    }
    Ok(())
}
