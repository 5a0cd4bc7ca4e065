//! A scale target in memory: services with a count, bounds and instances that come and go at once or when the test says.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use super::call_fault::{CallFault, FaultQueue};
use crate::capability::{Capability, CapabilitySet};
use crate::detach::detach;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{InstanceId, ServiceName};
use crate::scale::{Scale, ScaleChange, ScaleTarget};

/// The calls that a [`CallFault`] can hit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ScaleCall {
    /// [`ScaleTarget::current`].
    Current,
    /// [`ScaleTarget::set`].
    Set,
}

/// A scale target in memory. See the [module](self). Clones are the same target.
#[derive(Clone)]
pub struct FakeScaleTarget {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for FakeScaleTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FakeScaleTarget").finish_non_exhaustive()
    }
}

struct Shared {
    services: Mutex<BTreeMap<ServiceName, Service>>,
    faults: FaultQueue<ScaleCall>,
    capabilities: CapabilitySet,
}

struct Service {
    desired: u32,
    version: u64,
    bounds: RangeInclusive<u32>,
    instances: Vec<InstanceId>,
    next: u32,
    ready: Option<u32>,
    busy: bool,
    rolling_out: bool,
    held: bool,
    reasons: Vec<String>,
}

impl FakeScaleTarget {
    /// How many reasons a service keeps.
    pub const REASONS: usize = 1_000;

    /// A target without services that can choose victims.
    pub fn new() -> Self {
        Self::with(CapabilitySet::all())
    }

    /// A target with these capabilities.
    pub fn with(capabilities: CapabilitySet) -> Self {
        let (services, faults) = (Mutex::default(), FaultQueue::default());
        Self { shared: Arc::new(Shared { services, faults, capabilities }) }
    }

    /// A service with so many instances, all ready, that takes counts within these bounds.
    pub fn add(&self, service: &ServiceName, count: u32, bounds: RangeInclusive<u32>) {
        let mut added = Service {
            desired: count,
            version: 1,
            bounds,
            instances: Vec::new(),
            next: 0,
            ready: None,
            busy: false,
            rolling_out: false,
            held: false,
            reasons: Vec::new(),
        };
        added.reconcile(service, &[]);
        self.shared.services().insert(service.clone(), added);
    }

    /// The instances of a service, the oldest first.
    pub fn instances(&self, service: &ServiceName) -> Vec<InstanceId> {
        self.shared.services().get(service).map(|found| found.instances.clone()).unwrap_or_default()
    }

    /// Why a service's count was changed, the oldest first.
    pub fn reasons(&self, service: &ServiceName) -> Vec<String> {
        self.shared.services().get(service).map(|found| found.reasons.clone()).unwrap_or_default()
    }

    /// Whether a service refuses new counts as busy.
    pub fn set_busy(&self, service: &ServiceName, busy: bool) {
        self.change(service, |found| found.busy = busy);
    }

    /// Whether a rollout is said to change the service.
    pub fn set_rolling_out(&self, service: &ServiceName, rolling_out: bool) {
        self.change(service, |found| found.rolling_out = rolling_out);
    }

    /// How many instances are said to be ready; `None`: all.
    pub fn set_ready(&self, service: &ServiceName, ready: Option<u32>) {
        self.change(service, |found| found.ready = ready);
    }

    /// Whether instances stay as they are whatever the count says, as while images are pulled.
    pub fn hold(&self, service: &ServiceName, held: bool) {
        let mut services = self.shared.services();
        if let Some(found) = services.get_mut(service) {
            found.held = held;
            found.reconcile(service, &[]);
        }
    }

    /// Lets the next such call go wrong.
    pub fn inject(&self, call: ScaleCall, fault: CallFault) {
        self.shared.faults.push(call, fault);
    }

    fn change(&self, service: &ServiceName, change: impl FnOnce(&mut Service)) {
        if let Some(found) = self.shared.services().get_mut(service) {
            change(found);
        }
    }
}

impl Default for FakeScaleTarget {
    fn default() -> Self {
        Self::new()
    }
}

impl Service {
    fn reconcile(&mut self, name: &ServiceName, victims: &[InstanceId]) {
        let wanted = usize::try_from(self.desired).unwrap_or(usize::MAX);
        if self.held {
            return;
        }
        while self.instances.len() < wanted {
            if let Ok(id) = InstanceId::new(format!("{name}-{}", self.next)) {
                self.instances.push(id);
            }
            self.next += 1;
        }
        let mut chosen = victims.iter();
        while self.instances.len() > wanted {
            match chosen.next() {
                Some(victim) => self.instances.retain(|id| id != victim),
                None => drop(self.instances.pop()),
            }
        }
    }

    fn scale(&self) -> Scale {
        let present = u32::try_from(self.instances.len()).unwrap_or(u32::MAX);
        Scale {
            desired: self.desired,
            present,
            ready: self.ready.unwrap_or(present).min(present),
            version: self.version,
            rolling_out: self.rolling_out,
        }
    }
}

impl Shared {
    fn services(&self) -> MutexGuard<'_, BTreeMap<ServiceName, Service>> {
        self.services.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, service: &ServiceName, change: &ScaleChange) -> Result<Scale> {
        let mut services = self.services();
        let found = services.get_mut(service).ok_or_else(|| Error::not_found("service", service))?;
        if !change.victims.is_empty() {
            self.capabilities.require(Capability::ChooseVictims)?;
        }
        if let Some(stranger) = change.victims.iter().find(|victim| !found.instances.contains(victim)) {
            return Err(Error::invalid(format!("the victim {stranger} is no instance of the service")));
        }
        if !found.bounds.contains(&change.desired) {
            return Err(Error::invalid(format!(
                "a count of {}; accepted: {} to {}",
                change.desired,
                found.bounds.start(),
                found.bounds.end()
            )));
        }
        if change.version.is_some_and(|version| version != found.version) {
            return Err(Error::new(
                ErrorKind::Stale,
                format!("the service is at version {}, the change is for another", found.version),
            ));
        }
        if found.busy {
            return Err(Error::new(ErrorKind::Busy, "the service takes no new count now"));
        }
        if found.desired != change.desired {
            found.desired = change.desired;
            found.version += 1;
            found.reasons.push(change.reason.clone());
            if found.reasons.len() > FakeScaleTarget::REASONS {
                found.reasons.remove(0);
            }
            found.reconcile(service, &change.victims);
        }
        Ok(found.scale())
    }
}

#[async_trait]
impl ScaleTarget for FakeScaleTarget {
    fn capabilities(&self) -> CapabilitySet {
        self.shared.capabilities.clone()
    }

    async fn current(&self, service: &ServiceName) -> Result<Scale> {
        let read = || {
            let services = self.shared.services();
            services.get(service).map(Service::scale).ok_or_else(|| Error::not_found("service", service))
        };
        let current = self.shared.faults.run(ScaleCall::Current, read).await;
        current.map_err(|error| error.with_operation("scale.current").with_context("service", service))
    }

    async fn set(&self, service: &ServiceName, change: &ScaleChange) -> Result<Scale> {
        let (shared, name, change) = (self.shared.clone(), service.clone(), change.clone());
        let set = async move { shared.faults.run(ScaleCall::Set, || shared.set(&name, &change)).await };
        let set = detach(set).await;
        set.map_err(|error| error.with_operation("scale.set").with_context("service", service))
    }
}
