//! The fake engine: what a test scripts and what it sees behind the contract.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::config::FakeConfig;
use super::faults::{Faults, Operation};
use super::process::{End, Process};
use super::state::{EventFaults, State};
use crate::capability::Capability;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Gap, RuntimeEvent};
use crate::id::{InstanceId, NodeId};
use crate::instance::Health;
use crate::node::NodeState;
use crate::runtime::OutputStream;
use crate::spec::lifecycle::Signal;
use crate::spec::network::Protocol;
use crate::spec::source::ImageRef;
use crate::time::Timestamp;

/// An engine in memory; clones are the same engine.
///
/// What a program does is chosen by its command (`["fake", "exit", "3", "after", "2s"]`): the words are those of the table in
/// `program.rs`, among them `serve`, `sleep`, `exit`, `on-term`, `ignore-term`, `print`, `echo-env`, `burn`, `eat`, `fork`,
/// `tree`, `cat`. Any other command is a server that runs until it is stopped.
#[derive(Clone)]
pub struct FakeEngine {
    pub(super) shared: Arc<Shared>,
}

pub(super) struct Shared {
    pub(super) config: FakeConfig,
    pub(super) faults: Faults,
    /// One call at a time creates or starts an instance.
    pub(super) gates: Mutex<BTreeMap<InstanceId, Arc<tokio::sync::Mutex<()>>>>,
    state: Mutex<State>,
}

/// A call that reached the engine.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Call {
    /// Which method.
    pub operation: Operation,
    /// About which instance.
    pub instance: Option<InstanceId>,
    /// When, by the engine's clock.
    pub at: Timestamp,
}

/// Whether an engine can get an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ImageState {
    /// It is there.
    Present,
    /// Nobody has it.
    Missing,
    /// The registry refuses it.
    Denied,
    /// It does not run on these nodes.
    Incompatible,
}

impl FakeEngine {
    /// How many calls are kept; the oldest go first.
    pub const MAX_CALLS: usize = 10_000;

    /// An engine without instances. Every image is there, except from the registry `missing.invalid`.
    pub fn new(config: FakeConfig) -> Self {
        let state = State {
            nodes: config.nodes.iter().map(|node| (node.id.clone(), node.clone())).collect(),
            full_disks: Default::default(),
            records: BTreeMap::new(),
            foreign: Default::default(),
            images: BTreeMap::new(),
            shared: BTreeMap::new(),
            ports: BTreeMap::new(),
            processes: BTreeMap::new(),
            subscriptions: Vec::new(),
            event_faults: EventFaults::default(),
            severed: None,
            next_number: 0,
            calls: VecDeque::new(),
            counts: BTreeMap::new(),
            in_flight: 0,
            peak: 0,
        };
        let faults = Faults::new(config.seed);
        let gates = Mutex::default();
        Self { shared: Arc::new(Shared { config, faults, gates, state: Mutex::new(state) }) }
    }

    /// The rules by which calls go wrong.
    pub fn faults(&self) -> &Faults {
        &self.shared.faults
    }

    /// Now, by the engine's clock.
    pub fn now(&self) -> Timestamp {
        self.shared.config.clock.now()
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn has(&self, capability: Capability) -> bool {
        self.shared.config.capabilities.features.has(capability)
    }

    // Scripts.

    /// Ends the program of an instance with this code, as if it had exited by itself.
    pub fn exit(&self, id: &InstanceId, code: i32) {
        self.force(id, End::Code(code));
    }

    /// Ends the program of an instance by a signal from nowhere.
    pub fn kill(&self, id: &InstanceId, signal: Signal) {
        self.force(id, End::Signal(signal));
    }

    /// Ends the program of an instance as the kernel does when memory is short.
    pub fn kill_for_memory(&self, id: &InstanceId) {
        self.force(id, End::Oom);
    }

    fn force(&self, id: &InstanceId, end: End) {
        if let Some(main) = self.state().records.get(id).and_then(|record| record.main.clone()) {
            main.force(end);
        }
    }

    /// Lets the engine's own health check say this.
    pub fn set_health(&self, id: &InstanceId, health: Health) {
        let at = self.now();
        let mut state = self.state();
        let Some(record) = state.records.get_mut(id) else { return };
        record.instance.health = health;
        let instance = record.instance.clone();
        let incarnation = instance.incarnation;
        state.publish(&instance, RuntimeEvent::Health { id: id.clone(), incarnation, health, at });
    }

    /// Lets a node be in this state. What runs on an `Unknown` node goes on unseen; what ran on one that is `Gone` is dead.
    pub fn set_node_state(&self, id: &NodeId, to: NodeState) {
        let at = self.now();
        let mut state = self.state();
        let Some(node) = state.nodes.get_mut(id) else { return };
        if std::mem::replace(&mut node.state, to) == to {
            return;
        }
        if to == NodeState::Gone {
            let ids: Vec<_> = state
                .records
                .values()
                .filter(|r| r.instance.node == *id)
                .map(|r| r.instance.id.clone())
                .collect();
            for process in state.processes.values().filter(|process| ids.contains(&process.instance)) {
                process.force(End::Unknown);
            }
        }
        state.deliver(RuntimeEvent::Node { node: id.clone(), state: to, at }, |_| true);
    }

    /// Lets an image be there or not.
    pub fn set_image(&self, image: ImageRef, to: ImageState) {
        self.state().images.insert(image, to);
    }

    /// Lets the disk of a node be full: creates fail there.
    pub fn set_disk_full(&self, node: &NodeId, full: bool) {
        let mut state = self.state();
        if full {
            state.full_disks.insert(node.clone());
        } else {
            state.full_disks.remove(node);
        }
    }

    /// Somebody outside takes a port of a node.
    pub fn occupy_port(&self, node: &NodeId, protocol: Protocol, port: u16) {
        self.state().ports.insert((node.clone(), protocol, port), None);
    }

    /// Somebody else makes an object of this name.
    pub fn plant_foreign(&self, name: &str) {
        self.state().foreign.insert(name.to_owned());
    }

    /// Somebody else removes their object.
    pub fn remove_foreign(&self, name: &str) {
        self.state().foreign.remove(name);
    }

    /// Whether the object of somebody else is still there.
    pub fn has_foreign(&self, name: &str) -> bool {
        self.state().foreign.contains(name)
    }

    /// Restarts the engine: streams of events break, and programs end unless `survives_engine` is declared.
    pub fn restart(&self) {
        let survive = self.has(Capability::SurvivesEngine);
        let mut state = self.state();
        if !survive {
            state.processes.values().for_each(|process| process.force(End::Signal(Signal::KILL)));
        }
        state.gap(Gap::EngineLost);
    }

    /// Cuts the connection of every driver: calls fail with `Unavailable`, nodes are `Unknown`, events are lost.
    pub fn sever(&self) {
        let at = self.now();
        self.state().severed.get_or_insert(at);
    }

    /// Ends [`sever`](Self::sever); streams of events see a gap.
    pub fn restore(&self) {
        let mut state = self.state();
        if state.severed.take().is_some() {
            state.gap(Gap::Reconnected);
        }
    }

    /// Breaks every stream of events for a moment.
    pub fn break_events(&self) {
        self.state().gap(Gap::Reconnected);
    }

    /// Loses the next so many events; streams see a gap in their place.
    pub fn lose_events(&self, count: u64) {
        self.state().event_faults.lose = count;
    }

    /// Sends each of the next so many events twice.
    pub fn duplicate_events(&self, count: u64) {
        self.state().event_faults.duplicate = count;
    }

    /// Events come this much late from now on.
    pub fn delay_events(&self, by: Duration) {
        self.state().event_faults.delay = by;
    }

    // Behind the contract.

    /// The last calls, the oldest first; at most [`Self::MAX_CALLS`].
    pub fn calls(&self) -> Vec<Call> {
        self.state().calls.iter().cloned().collect()
    }

    /// How often a method was called.
    pub fn count(&self, operation: Operation) -> u64 {
        self.state().counts.get(&operation).copied().unwrap_or_default()
    }

    /// The most calls that were in the engine at one time.
    pub fn peak_concurrency(&self) -> usize {
        self.state().peak
    }

    /// How many instances there are, whoever owns them and whether or not their node answers.
    pub fn objects(&self) -> usize {
        self.state().records.len()
    }

    /// How many processes run.
    pub fn processes(&self) -> usize {
        self.state().processes.len()
    }

    /// How many processes run that belong to no running instance: each is a leak.
    pub fn orphans(&self) -> usize {
        let state = self.state();
        let belongs = |process: &Process| {
            state.records.get(&process.instance).is_some_and(|record| {
                record.main.is_some() && record.instance.incarnation == process.incarnation
            })
        };
        state.processes.values().filter(|process| !belongs(process)).count()
    }

    /// How many processes carry this value of `EWS_MARK`.
    pub fn marked(&self, mark: &str) -> usize {
        self.state().processes.values().filter(|process| process.mark.as_deref() == Some(mark)).count()
    }

    /// What a client gets that connects to this address: the id of the instance that answers.
    ///
    /// # Errors
    /// `Unavailable` where nothing listens.
    pub fn dial(&self, address: SocketAddr) -> Result<InstanceId> {
        self.state().listener(address).map(|record| record.instance.id.clone()).ok_or_else(|| {
            Error::new(ErrorKind::Unavailable, "connection refused").with_context("address", address)
        })
    }

    // What programs ask of the engine.

    pub(super) fn write_log(&self, id: &InstanceId, stream: OutputStream, bytes: &[u8]) {
        let at = self.now();
        if let Some(record) = self.state().records.get_mut(id) {
            record.log.write(stream, bytes, at);
        }
    }

    pub(super) fn listen(&self, process: &Process) {
        if let Some(record) = self.state().records.get_mut(&process.instance) {
            record.listening = true;
        }
    }

    pub(super) fn check_memory(&self, process: &Process) {
        let state = self.state();
        let limit = state.records.get(&process.instance).and_then(|record| record.spec.resources.memory);
        let used: u64 = state.processes_of(&process.instance).map(|process| process.memory()).sum();
        if limit.is_some_and(|limit| used > limit.bytes()) {
            process.force(End::Oom);
        }
    }

    pub(super) fn touch(&self, id: &InstanceId, path: &str) -> (Option<Vec<u8>>, bool) {
        let mut state = self.state();
        let Some(record) = state.records.get(id) else { return (None, false) };
        let mount = record
            .spec
            .mounts
            .iter()
            .find(|mount| path.strip_prefix(&mount.target).is_some_and(|rest| rest.starts_with('/')));
        let (place, read_only) = match mount {
            Some(mount) => (super::life::shared_name(&mount.kind), mount.read_only),
            None => (None, record.spec.security.read_only_root),
        };
        // A path in a mount is counted from there.
        let inside = mount.map_or(path, |mount| path.strip_prefix(&mount.target).unwrap_or(path)).to_owned();
        let files = match place {
            Some(name) => Some(state.shared.entry(name).or_default()),
            None => state.records.get_mut(id).map(|record| &mut record.files),
        };
        let Some(files) = files else { return (None, false) };
        let before = files.read(&inside).map(<[u8]>::to_vec);
        if !read_only {
            files.write(&inside, b"mark\n".to_vec());
        }
        (before, !read_only)
    }
}

impl std::fmt::Debug for FakeEngine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FakeEngine").field("objects", &self.objects()).finish_non_exhaustive()
    }
}
