//! The planner: from what shall be and what is observed to what would be done. It is pure.
//!
//! The same function makes the plan that a dry run shows and the one that a rollout follows. A plan remembers what it was made
//! from, so that a stale one is refused.

mod changes;

use std::fmt;
use std::time::Duration;

use ews_core::spec::platform::Isolation;
use ews_core::spec::storage::MountKind;
use ews_core::store::StoreRevision;
use ews_core::time::duration;
use ews_core::{InstanceId, RevisionId, RuntimeCapabilities, ServiceName, ServiceSpec};
use serde::{Deserialize, Serialize};

pub use changes::SpecChange;

use crate::canary::CanaryStep;
use crate::preflight::Preflight;
use crate::record::{RevisionRecord, ServiceState};
use crate::slots::Slots;
use crate::strategy::{Order, Strategy};

/// What a rollout would do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Plan {
    /// Of which service.
    pub service: ServiceName,
    /// Where it goes.
    pub to: RevisionId,
    /// Where it comes from; `None` for a service that does not run.
    pub from: Option<RevisionId>,
    /// Whether new instances start before or after old ones stop.
    pub order: UnitOrder,
    /// Why in this order.
    pub order_reason: String,
    /// What is done before anything is replaced.
    pub steps: Vec<CanaryStep>,
    /// What is done to which slots, batch by batch.
    pub batches: Vec<Vec<PlannedUnit>>,
    /// What somebody should know before.
    pub warnings: Vec<String>,
    /// What the spec changes, field by field. Empty for a first deployment.
    #[serde(default)]
    pub changes: Vec<SpecChange>,
    /// What was found of every node. What stands in the way of some is a warning too; what stands in the way of all is refused.
    #[serde(default)]
    pub preflight: Preflight,
    /// The least time that it takes: each batch has to be healthy for its time.
    #[serde(with = "duration")]
    pub at_least: Duration,
    pub(crate) base: Base,
}

/// What a plan was made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Base {
    pub(crate) input: StoreRevision,
    pub(crate) scale: StoreRevision,
    pub(crate) state: StoreRevision,
}

/// Whether a new instance starts before or after the old one stops: what [`Order`] came to for this service on this runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum UnitOrder {
    /// Before.
    StartFirst,
    /// After.
    StopFirst,
}

impl fmt::Display for UnitOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::StartFirst => "start-first",
            Self::StopFirst => "stop-first",
        })
    }
}

/// What is done to one slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PlannedUnit {
    /// Which slot.
    pub slot: u32,
    /// What.
    pub action: UnitAction,
}

/// What is done to a slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum UnitAction {
    /// It is empty and gets an instance.
    Create,
    /// Files are laid over its instance.
    Patch {
        /// Which.
        instance: InstanceId,
    },
    /// Its instances give way to a new one.
    Replace {
        /// Which.
        instances: Vec<InstanceId>,
    },
    /// It runs the revision already; it is only looked at.
    Keep {
        /// The instance.
        instance: InstanceId,
    },
}

impl Plan {
    /// How many instances it would create.
    pub fn creates(&self) -> usize {
        let is_new =
            |unit: &&PlannedUnit| matches!(unit.action, UnitAction::Create | UnitAction::Replace { .. });
        self.units().filter(is_new).count()
    }

    /// Every unit, in order.
    pub fn units(&self) -> impl Iterator<Item = &PlannedUnit> {
        self.batches.iter().flatten()
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.from {
            Some(from) => writeln!(f, "{}: {from} -> {}", self.service, self.to)?,
            None => writeln!(f, "{}: (nothing) -> {}", self.service, self.to)?,
        }
        writeln!(f, "order: {}, {}", self.order, self.order_reason)?;
        for warning in &self.warnings {
            writeln!(f, "warning: {warning}")?;
        }
        for change in &self.changes {
            writeln!(f, "change: {change}")?;
        }
        for (number, step) in (1..).zip(&self.steps) {
            writeln!(f, "step {number}: {step}")?;
        }
        for (number, batch) in (1..).zip(&self.batches) {
            writeln!(f, "batch {number}:")?;
            for unit in batch {
                match &unit.action {
                    UnitAction::Create => writeln!(f, "  + slot {}: create", unit.slot)?,
                    UnitAction::Replace { instances } => {
                        let names: Vec<_> = instances.iter().map(InstanceId::as_str).collect();
                        writeln!(f, "  ~ slot {}: replace {}", unit.slot, names.join(", "))?;
                    }
                    UnitAction::Patch { instance } => {
                        writeln!(f, "  ~ slot {}: patch {instance}", unit.slot)?
                    }
                    UnitAction::Keep { instance } => writeln!(f, "  = slot {}: keep {instance}", unit.slot)?,
                }
            }
        }
        if self.batches.is_empty() {
            writeln!(f, "nothing is running and nothing shall run")?;
        }
        write!(f, "takes at least {:?}", self.at_least)
    }
}

/// What a plan is made from.
pub(crate) struct Question<'a> {
    pub(crate) to: &'a RevisionRecord,
    pub(crate) from: Option<&'a RevisionRecord>,
    /// What each slot shall run now.
    pub(crate) state: &'a ServiceState,
    pub(crate) desired: u32,
    pub(crate) observed: &'a Slots,
    pub(crate) strategy: &'a Strategy,
    /// A rollback skips the careful first batch.
    pub(crate) rollback: bool,
    /// Whether it gets traffic from a balancer.
    pub(crate) served: bool,
    pub(crate) capabilities: &'a RuntimeCapabilities,
    pub(crate) base: Base,
}

/// Makes a plan.
pub(crate) fn make(question: &Question<'_>) -> Plan {
    let Question { to, from, state, desired, observed, strategy, rollback, served, capabilities, base } =
        *question;
    let (order, order_reason) = order_of(strategy.order, to.spec(), desired, capabilities);
    let slots = &state.slots;
    let mut chosen: Vec<u32> = slots.keys().copied().collect();
    // What shall run and has no slot yet gets the lowest free ones.
    let missing = (desired as usize).saturating_sub(chosen.len());
    chosen.extend((0..).filter(|slot| !slots.contains_key(slot)).take(missing));
    chosen.truncate(desired as usize);

    let sizes = if rollback {
        let whole = Strategy { first_batch: strategy.batch, ..strategy.clone() };
        whole.batches(chosen.len())
    } else {
        strategy.batches(chosen.len())
    };
    let mut rest = chosen.iter();
    let unit = |slot: u32| {
        let (mine, left) = observed.split(slot, to.key());
        let action = match (mine, left.is_empty()) {
            (Some(mine), true) if mine.state.is_running() && !state.has_files_of(&mine.key, to) => {
                UnitAction::Patch { instance: mine.id.clone() }
            }
            (Some(mine), true) => UnitAction::Keep { instance: mine.id.clone() },
            (None, true) => UnitAction::Create,
            (_, false) => UnitAction::Replace {
                instances: left.into_iter().map(|instance| instance.id.clone()).collect(),
            },
        };
        PlannedUnit { slot, action }
    };
    let batches: Vec<Vec<_>> =
        sizes.iter().map(|size| rest.by_ref().take(*size).map(|slot| unit(*slot)).collect()).collect();

    let mut warnings = Vec::new();
    let overlay =
        from.filter(|from| from.revision.id != to.revision.id).and_then(|from| from.overlay.as_ref());
    let dropped = overlay.filter(|overlay| to.overlay.as_ref().is_none_or(|to| to.base != overlay.base));
    if let (Some(overlay), Some(from)) = (dropped, from) {
        let files: Vec<&str> = overlay.files.keys().map(String::as_str).take(10).collect();
        warnings.push(format!(
            "the hotfix {} is not carried over; what it changed must be in the new revision: {}{}",
            from.revision.id,
            files.join(", "),
            if overlay.files.len() > files.len() { ", …" } else { "" }
        ));
    }
    if desired == 0 {
        warnings.push(
            "the service shall have no instances: the revision is recorded and nothing is started".to_owned(),
        );
    }
    if order == UnitOrder::StopFirst && desired == 1 && from.is_some() {
        warnings.push(
            "the only instance stops before the new one starts: the service is down meanwhile".to_owned(),
        );
    }
    if to.spec().instance.probes.readiness.is_none() && to.spec().instance.probes.startup.is_none() {
        warnings.push("the service has neither a startup nor a readiness probe: an instance counts as ready when it runs".to_owned());
    }
    // A first deployment has nothing to compare with, and what is there already needs no care.
    let changes = slots.values().any(|number| *number != to.revision.number);
    let steps = if from.is_some() && changes && !rollback { strategy.steps() } else { Vec::new() };
    let weighs = |step: &CanaryStep| matches!(step, CanaryStep::Weight(_));
    if !served && steps.iter().any(weighs) {
        warnings.push(
            "the service gets no traffic from the balancer: weights only say how many instances there are"
                .to_owned(),
        );
    }
    let waits = |step: &CanaryStep| match step {
        CanaryStep::Pause(time) => *time,
        CanaryStep::Analysis(analysis) => analysis.takes(),
        _ => Duration::ZERO,
    };
    let count = u32::try_from(batches.len()).unwrap_or(u32::MAX);
    let at_least = steps.iter().map(waits).sum::<Duration>()
        + strategy.min_healthy.saturating_mul(count)
        + strategy.interval.saturating_mul(count.saturating_sub(1))
        + if rollback || count == 0 { Duration::ZERO } else { strategy.watch(to.spec()) };
    Plan {
        service: to.spec().name.clone(),
        to: to.revision.id.clone(),
        from: from.map(|from| from.revision.id.clone()),
        order,
        order_reason,
        steps,
        batches,
        warnings,
        changes: from.map(|from| changes::between(from.spec(), to.spec())).unwrap_or_default(),
        preflight: Preflight::default(),
        at_least,
        base,
    }
}

/// In which order, and why.
pub(crate) fn order_of(
    wanted: Order,
    spec: &ServiceSpec,
    desired: u32,
    capabilities: &RuntimeCapabilities,
) -> (UnitOrder, String) {
    match wanted {
        Order::StartFirst => (UnitOrder::StartFirst, "as asked for".to_owned()),
        Order::StopFirst => (UnitOrder::StopFirst, "as asked for".to_owned()),
        Order::Auto => match clash(spec, desired, capabilities) {
            Some(clash) => (UnitOrder::StopFirst, clash),
            None => (UnitOrder::StartFirst, "old and new can run side by side".to_owned()),
        },
    }
}

/// Why two instances of one slot can't run side by side.
fn clash(spec: &ServiceSpec, desired: u32, capabilities: &RuntimeCapabilities) -> Option<String> {
    let instance = &spec.instance;
    // Without isolation a program's own port is a port of the machine.
    let shared = capabilities.isolation.iter().all(|isolation| *isolation == Isolation::None);
    for port in &instance.ports {
        let published = port.publish.as_ref().and_then(|publish| publish.port);
        if let Some(number) = published.or(port.number.filter(|_| shared)) {
            return Some(format!(
                "the port `{}` is fixed to {number}, which only one instance of a node can have",
                port.name
            ));
        }
    }
    let volume = instance.mounts.iter().find_map(|mount| match &mount.kind {
        MountKind::Volume(name) if !mount.read_only => Some(name),
        _ => None,
    })?;
    // Several instances share it anyway.
    (desired == 1).then(|| format!("the only instance writes to the volume `{volume}`"))
}

#[cfg(test)]
mod tests;
