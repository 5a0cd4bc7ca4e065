//! Tells what happens: events on the bus, and the same to the log.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ews_core::clock::Clock;
use ews_core::{Bus, ServiceName};

use crate::event::{DeployEvent, EventKind};
use crate::rollout::RolloutId;

/// Tells what happens to one service.
#[derive(Clone)]
pub(crate) struct Narrator {
    service: ServiceName,
    clock: Arc<dyn Clock>,
    bus: Bus<DeployEvent>,
    /// The number of the rollout under way; 0 for none.
    rollout: Arc<AtomicU64>,
}

impl Narrator {
    pub(crate) fn new(service: ServiceName, clock: Arc<dyn Clock>, bus: Bus<DeployEvent>) -> Self {
        Self { service, clock, bus, rollout: Arc::default() }
    }

    /// The rollout that events belong to from now on.
    pub(crate) fn set_rollout(&self, number: Option<u64>) {
        self.rollout.store(number.unwrap_or(0), Ordering::Relaxed);
    }

    pub(crate) fn tell(&self, kind: EventKind) {
        let number = self.rollout.load(Ordering::Relaxed);
        let rollout = (number > 0).then(|| RolloutId { service: self.service.clone(), number });
        tracing::info!(service = %self.service, rollout = number, event = ?Brief(&kind), "deploy");
        self.bus.publish(DeployEvent { service: self.service.clone(), rollout, at: self.clock.now(), kind });
    }
}

/// An event without a program's own words, which may hold what a log must not.
struct Brief<'a>(&'a EventKind);

impl std::fmt::Debug for Brief<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            EventKind::UnitFailed(failure) => write!(f, "UnitFailed({failure})"),
            kind => kind.fmt(f),
        }
    }
}
