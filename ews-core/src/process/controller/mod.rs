//! The controller: what it knows of its instances, in memory, kept true by the shims and by the records on disk.
//!
//! Two things hold it together. A *turn* for each instance: creates, starts and removes of one instance happen one after the
//! other, each to its end whoever waits for it. And a *watch* for each one that runs: a task that hears from the shim how it
//! ended, or finds out that the shim is gone.

mod create;
mod ready;
mod recover;
mod start;
mod stop;
mod watch;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Semaphore, watch as signal};

use super::cgroup::{Groups, Paths};
use super::config::ProcessConfig;
use super::ports::Ports;
use super::record::InstanceRecord;
use super::root::Root;
use crate::bus::Bus;
use crate::capability::RuntimeCapabilities;
use crate::error::{Error, Result};
use crate::event::RuntimeEvent;
use crate::id::{InstanceId, NodeId};
use crate::instance::{ExitStatus, Incarnation, Instance, InstanceState};
use crate::time::Timestamp;

pub(super) use recover::survey;
pub(super) use stop::not_running;
pub(super) use watch::Orphans;

/// What all parts share.
pub(super) struct Controller {
    parts: Parts,
    entries: Mutex<BTreeMap<InstanceId, Entry>>,
    turns: Mutex<HashMap<InstanceId, Arc<tokio::sync::Mutex<()>>>>,
    /// Places for shims that wait for what they are to start.
    waiting: Arc<Semaphore>,
}

impl std::ops::Deref for Controller {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.parts
    }
}

/// What a controller is made of.
pub(super) struct Parts {
    pub(super) config: ProcessConfig,
    pub(super) node: NodeId,
    pub(super) root: Root,
    pub(super) ports: Ports,
    pub(super) groups: Groups,
    pub(super) boot: String,
    pub(super) shim: PathBuf,
    pub(super) capabilities: Arc<RuntimeCapabilities>,
    pub(super) bus: Bus<Told>,
    /// Its end says that the handle was dropped.
    pub(super) alive: signal::Receiver<()>,
}

/// An event, with the instance as it was then: a selector looks at its labels.
#[derive(Debug, Clone)]
pub(super) struct Told {
    pub(super) instance: Arc<Instance>,
    pub(super) event: RuntimeEvent,
}

/// What is known of an instance.
pub(super) struct Entry {
    pub(super) record: Arc<InstanceRecord>,
    pub(super) instance: Instance,
    pub(super) last_end: Option<(Incarnation, ExitStatus)>,
    /// While it runs: what there is to count.
    pub(super) run: Option<Run>,
    /// Between its creation and its first start: the shim that waits for that.
    ready: Option<ready::Ready>,
    /// Counts changes; its end says that the instance is gone.
    pub(super) changed: signal::Sender<u64>,
}

/// Where a running instance is found.
#[derive(Debug, Clone)]
pub(super) struct Run {
    pub(super) shim: u32,
    pub(super) cgroups: Paths,
}

pub(super) fn now() -> Timestamp {
    std::time::SystemTime::now().into()
}

impl Drop for Controller {
    fn drop(&mut self) {
        // Groups that still have members stay. The root's lock is let go after this, so no successor is disturbed.
        self.parts.groups.remove();
    }
}

impl Controller {
    pub(super) fn new(parts: Parts) -> Self {
        let waiting = Arc::new(Semaphore::new(ready::MOST));
        Self { parts, entries: Mutex::default(), turns: Mutex::default(), waiting }
    }

    pub(super) fn entries(&self) -> MutexGuard<'_, BTreeMap<InstanceId, Entry>> {
        // Nothing in here panics halfway.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn with<T>(&self, id: &InstanceId, look: impl FnOnce(&mut Entry) -> T) -> Result<T> {
        self.entries().get_mut(id).map(look).ok_or_else(|| Error::not_found("instance", id))
    }

    pub(super) fn get(&self, id: &InstanceId) -> Result<Instance> {
        self.with(id, |entry| entry.instance.clone())
    }

    /// Changes an instance and tells of it.
    pub(super) fn change(&self, id: &InstanceId, change: impl FnOnce(&mut Entry)) -> Result<Instance> {
        let mut entries = self.entries();
        let entry = entries.get_mut(id).ok_or_else(|| Error::not_found("instance", id))?;
        change(entry);
        let instance = entry.instance.clone();
        let event = RuntimeEvent::Instance {
            id: id.clone(),
            key: instance.key.clone(),
            incarnation: instance.incarnation,
            state: instance.state.clone(),
            at: now(),
        };
        // Under the lock, so that events come in the order of the changes.
        self.bus.publish(Told { instance: Arc::new(instance.clone()), event });
        entry.changed.send_modify(|version| *version += 1);
        Ok(instance)
    }

    pub(super) fn set_state(&self, id: &InstanceId, state: InstanceState) -> Result<Instance> {
        self.change(id, |entry| entry.instance.state = state)
    }

    /// Puts an instance in, and tells of it.
    fn insert(&self, id: &InstanceId, entry: Entry) -> Result<Instance> {
        self.entries().insert(id.clone(), entry);
        self.change(id, |_| {})
    }

    /// Waits for this instance's turn.
    async fn turn(&self, id: &InstanceId) -> Turn {
        let lock = {
            let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
            // Those that nobody holds or waits for are forgotten now and then, so that names of the past do not add up.
            if turns.len() >= 1024 && turns.len().is_power_of_two() {
                turns.retain(|_, lock| Arc::strong_count(lock) > 1);
            }
            Arc::clone(turns.entry(id.clone()).or_default())
        };
        Turn { _guard: lock.lock_owned().await }
    }

    /// By what processes of an instance are found that nothing else leads to.
    fn mark(&self, id: &InstanceId) -> String {
        format!("{}.{id}", self.root.tag())
    }
}

/// While it lives, nobody else creates, starts or removes the instance.
struct Turn {
    _guard: tokio::sync::OwnedMutexGuard<()>,
}
