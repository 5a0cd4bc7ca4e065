//! What the fake engine knows, and how a change of it is told to those who watch.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::watch;

use super::engine::{Call, ImageState};
use super::events::Subscription;
use super::faults::Operation;
use super::files::Files;
use super::output::OutputLog;
use super::process::Process;
use crate::event::{Gap, RuntimeEvent};
use crate::id::{InstanceId, NodeId};
use crate::instance::{ExitStatus, Incarnation, Instance, InstanceState};
use crate::node::{Node, NodeState};
use crate::runtime::Usage;
use crate::spec::InstanceSpec;
use crate::spec::network::Protocol;
use crate::spec::source::ImageRef;
use crate::time::Timestamp;

/// How many ends of an instance are remembered.
const ENDS: usize = 8;

/// Everything the engine knows.
pub(super) struct State {
    pub(super) nodes: BTreeMap<NodeId, Node>,
    pub(super) full_disks: BTreeSet<NodeId>,
    pub(super) records: BTreeMap<InstanceId, Record>,
    pub(super) foreign: BTreeSet<String>,
    pub(super) images: BTreeMap<ImageRef, ImageState>,
    /// Volumes and the nodes' directories.
    pub(super) shared: BTreeMap<String, Files>,
    /// Who holds a port of a node; `None` is somebody outside.
    pub(super) ports: BTreeMap<(NodeId, Protocol, u16), Option<InstanceId>>,
    pub(super) processes: BTreeMap<u64, Arc<Process>>,
    pub(super) subscriptions: Vec<Weak<Subscription>>,
    pub(super) event_faults: EventFaults,
    /// Since when the engine can't be reached.
    pub(super) severed: Option<Timestamp>,
    pub(super) next_number: u64,
    pub(super) calls: VecDeque<Call>,
    pub(super) counts: BTreeMap<Operation, u64>,
    pub(super) in_flight: usize,
    pub(super) peak: usize,
}

/// What happens to the next events.
#[derive(Default)]
pub(super) struct EventFaults {
    pub(super) lose: u64,
    pub(super) duplicate: u64,
    pub(super) delay: Duration,
}

/// An instance as the engine has it.
pub(super) struct Record {
    pub(super) instance: Instance,
    pub(super) spec: InstanceSpec,
    /// Secrets resolved.
    pub(super) env: BTreeMap<String, String>,
    pub(super) files: Files,
    pub(super) log: OutputLog,
    pub(super) main: Option<Arc<Process>>,
    /// CPU time of processes that have ended.
    pub(super) cpu: Duration,
    pub(super) ends: VecDeque<(Incarnation, ExitStatus)>,
    /// It was asked to stop, so the engine itself does not restart it.
    pub(super) stop_asked: bool,
    pub(super) listening: bool,
    /// Counts changes; waiters follow it, and see its end when the record is removed.
    pub(super) changed: watch::Sender<u64>,
}

impl Record {
    pub(super) fn new(instance: Instance, spec: InstanceSpec, env: BTreeMap<String, String>) -> Self {
        let log = OutputLog::new(&spec.log);
        Self {
            instance,
            spec,
            env,
            files: Files::of_an_image(),
            log,
            main: None,
            cpu: Duration::ZERO,
            ends: VecDeque::new(),
            stop_asked: false,
            listening: false,
            changed: watch::Sender::new(0),
        }
    }

    pub(super) fn end_of(&self, incarnation: Incarnation) -> Option<ExitStatus> {
        self.ends.iter().find(|(of, _)| *of == incarnation).map(|(_, status)| status.clone())
    }

    pub(super) fn ended(&mut self, incarnation: Incarnation, status: ExitStatus) {
        self.ends.retain(|(of, _)| *of != incarnation);
        self.ends.push_back((incarnation, status));
        while self.ends.len() > ENDS {
            self.ends.pop_front();
        }
    }
}

impl State {
    pub(super) fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    /// The instance as the driver sees it: nobody knows what runs on a node that does not answer.
    pub(super) fn view(&self, record: &Record) -> Instance {
        let mut instance = record.instance.clone();
        if let Some(NodeState::Unknown { since }) = self.nodes.get(&instance.node).map(|node| node.state) {
            instance.state = InstanceState::Unknown { since };
        }
        instance
    }

    /// Changes the state of an instance and tells everybody.
    pub(super) fn set_state(&mut self, id: &InstanceId, state: InstanceState, at: Timestamp) {
        let Some(record) = self.records.get_mut(id) else { return };
        if record.instance.state == state {
            return;
        }
        record.instance.state = state.clone();
        record.changed.send_modify(|version| *version += 1);
        let event = RuntimeEvent::Instance {
            id: id.clone(),
            key: record.instance.key.clone(),
            incarnation: record.instance.incarnation,
            state,
            at,
        };
        let instance = record.instance.clone();
        self.publish(&instance, event);
    }

    /// Tells an event of this instance to whoever selects it.
    pub(super) fn publish(&mut self, instance: &Instance, event: RuntimeEvent) {
        let silent = self
            .nodes
            .get(&instance.node)
            .is_some_and(|node| matches!(node.state, NodeState::Unknown { .. }));
        if !silent && self.severed.is_none() {
            self.deliver(event, |subscription| subscription.selector.matches(instance));
        }
    }

    pub(super) fn deliver(&mut self, event: RuntimeEvent, wanted: impl Fn(&Subscription) -> bool) {
        let subscriptions = self.live_subscriptions();
        let lost = self.event_faults.lose > 0;
        if lost {
            self.event_faults.lose -= 1;
        }
        let copies = if self.event_faults.duplicate > 0 {
            self.event_faults.duplicate -= 1;
            2
        } else {
            1
        };
        let delay = self.event_faults.delay;
        for subscription in subscriptions.into_iter().filter(|subscription| wanted(subscription)) {
            if lost {
                subscription.gap(Gap::EngineLost);
                continue;
            }
            for _ in 0..copies {
                if delay.is_zero() {
                    subscription.push(event.clone());
                } else {
                    let (subscription, event) = (subscription.clone(), event.clone());
                    tokio::spawn(async move {
                        tokio::time::sleep(delay).await;
                        subscription.push(event);
                    });
                }
            }
        }
    }

    pub(super) fn live_subscriptions(&mut self) -> Vec<Arc<Subscription>> {
        self.subscriptions.retain(|subscription| subscription.strong_count() > 0);
        self.subscriptions.iter().filter_map(Weak::upgrade).collect()
    }

    pub(super) fn gap(&mut self, gap: Gap) {
        for subscription in self.live_subscriptions() {
            subscription.gap(gap);
        }
    }

    pub(super) fn processes_of(&self, id: &InstanceId) -> impl Iterator<Item = &Arc<Process>> {
        self.processes.values().filter(move |process| process.instance == *id)
    }

    pub(super) fn usage(&self, id: &InstanceId, at: Timestamp) -> Option<Usage> {
        let record = self.records.get(id)?;
        if !record.instance.state.is_running() {
            return None;
        }
        let mut usage = Usage::new(id.clone(), record.instance.incarnation, at);
        let (mut cpu, mut memory, mut pids) = (record.cpu, 0, 0);
        for process in self.processes_of(id) {
            cpu += process.cpu();
            memory += process.memory();
            pids += 1;
        }
        usage.cpu_nanos = u64::try_from(cpu.as_nanos()).ok();
        usage.memory = Some(memory);
        usage.memory_limit = record.spec.resources.memory.map(|limit| limit.bytes());
        usage.pids = Some(pids);
        Some(usage)
    }

    /// The instance that listens on this address.
    pub(super) fn listener(&self, address: SocketAddr) -> Option<&Record> {
        self.records.values().find(|record| {
            record.listening
                && record.instance.state.is_running()
                && record.instance.endpoints.iter().any(|endpoint| endpoint.address == address)
        })
    }
}
