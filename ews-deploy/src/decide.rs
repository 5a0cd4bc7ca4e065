//! What is to be done next: the pure core of the reconciler.
//!
//! It looks at what each slot shall run and what is observed in it, and names the work. Filling a slot is one procedure whoever
//! asks for it (a rollout, a rollback, supervision, scaling), so there are only three kinds of work. A rollout is nothing but
//! the order in which slots come to be filled with another revision; a slot that failed or was interrupted is put right by the
//! same rule as one whose instance died.

mod canary;

use std::collections::{BTreeMap, BTreeSet};

use ews_core::probe::{Startup, Status};
use ews_core::spec::lifecycle::RestartCondition;
use ews_core::{Instance, InstanceId, InstanceState};

use crate::canary::CanaryStep;
use crate::record::{RevisionRecord, RolloutState, ServiceState};
use crate::rollout::{Outcome, Phase};
use crate::slots::Slots;
use crate::strategy::{Approval, Strategy};

/// What the core looks at.
pub(crate) struct Looked<'a> {
    pub(crate) state: &'a ServiceState,
    pub(crate) observed: &'a Slots,
    /// Slots that are being worked on.
    pub(crate) busy: &'a BTreeSet<u32>,
    pub(crate) rollout: Option<&'a RolloutState>,
    /// Whether no further unit of the rollout may begin now: paused, held, or between two batches.
    pub(crate) halted: bool,
    /// Whether a new instance is still watched.
    pub(crate) watches: bool,
    pub(crate) revisions: &'a BTreeMap<u64, RevisionRecord>,
    pub(crate) health: Health<'a>,
}

/// What the probes know of an instance.
pub(crate) type Health<'a> = &'a (dyn Fn(&InstanceId) -> Option<Status> + Send + Sync);

/// Work on a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Act {
    /// Bring the slot to this revision and remove what is left over in it; or, `beside`, bring up one of this revision and touch
    /// no other.
    Fill { slot: u32, revision: u64, cause: Cause, beside: bool },
    /// Stop what of this revision runs in the slot, then fill it.
    Bounce { slot: u32, revision: u64, why: String, beside: bool },
    /// Remove all that is in the slot.
    Clear { slot: u32 },
}

impl Act {
    pub(crate) fn slot(&self) -> u32 {
        match self {
            Self::Fill { slot, .. } | Self::Bounce { slot, .. } | Self::Clear { slot } => *slot,
        }
    }

    /// The slot, and whether it is about the instance that stands beside the one that fills it.
    pub(crate) fn spot(&self) -> (u32, bool) {
        let beside = matches!(self, Self::Fill { beside: true, .. } | Self::Bounce { beside: true, .. });
        (self.slot(), beside)
    }
}

/// Why a slot is filled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Cause {
    /// It is a unit of the rollout.
    Rollout,
    /// There is nothing in it.
    Empty,
    /// Its instance ended.
    Ended(String),
    /// Something is left over beside its instance, or it was never started.
    Unfinished,
    /// Its instance is not well, for this reason, and a new one takes its place.
    Replaced(String),
    /// Its instance can't be asked, and a new one takes its place.
    Moved,
}

/// What the rollout does next.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Turn {
    /// These units of this batch, numbered from 1.
    Work { batch: usize, acts: Vec<Act> },
    /// Nothing before somebody approves of this batch.
    Approve { batch: usize },
    /// All that this step takes is there.
    Step(CanaryStep),
    /// Nothing for now.
    Wait,
    /// It is over.
    Finish(Outcome),
}

/// The rollout's next units.
pub(crate) fn turn(looked: &Looked<'_>, rollout: &RolloutState) -> Turn {
    let fill = |slot: u32, revision| Act::Fill { slot, revision, cause: Cause::Rollout, beside: false };
    let is_at = |slot: &u32, revision| looked.state.slots.get(slot) == Some(&revision);
    let free = |slot: &u32| !looked.busy.contains(slot);
    match rollout.phase {
        Phase::Forward => {
            if let (Some(step), Some(canary)) = (rollout.step(), &rollout.canary) {
                let stands = |slot: &u32| {
                    canary.up.contains(slot) || is_at(slot, rollout.to) || rollout.skipped.contains(slot)
                };
                let pending: Vec<u32> =
                    rollout.beside().iter().copied().filter(|slot| !stands(slot)).collect();
                if looked.halted {
                    return Turn::Wait;
                }
                if pending.is_empty() {
                    return Turn::Step(step);
                }
                let beside =
                    |slot| Act::Fill { slot, revision: rollout.to, cause: Cause::Rollout, beside: true };
                let acts = pending.into_iter().filter(|slot| free(slot)).map(beside).collect();
                return Turn::Work { batch: 0, acts };
            }
            for (number, batch) in (1..).zip(batches(rollout)) {
                let is_done = |slot: &u32| rollout.is_done(*slot, &looked.state.slots);
                let wanted = |slot: &u32| !is_done(slot) && !rollout.skipped.contains(slot);
                let pending: Vec<u32> = batch.iter().copied().filter(wanted).collect();
                if pending.is_empty() {
                    continue;
                }
                if looked.halted {
                    return Turn::Wait;
                }
                if number > approved(rollout) {
                    return Turn::Approve { batch: number };
                }
                let acts =
                    pending.iter().filter(|slot| free(slot)).map(|slot| fill(*slot, rollout.to)).collect();
                return Turn::Work { batch: number, acts };
            }
            let is_over = rollout.slots.iter().all(free) && !looked.watches;
            if is_over { Turn::Finish(Outcome::Succeeded) } else { Turn::Wait }
        }
        Phase::RollingBack if looked.halted => Turn::Wait,
        Phase::RollingBack => {
            let working = rollout.slots.iter().filter(|slot| !free(slot)).count();
            let Some(from) = rollout.from else {
                let gone = rollout.slots.iter().all(|slot| looked.observed.of(*slot).is_empty());
                return if gone && working == 0 { Turn::Finish(Outcome::RolledBack) } else { Turn::Wait };
            };
            // Where it came from is where it goes: nothing is to be brought back.
            if from == rollout.to {
                return if working == 0 { Turn::Finish(Outcome::RolledBack) } else { Turn::Wait };
            }
            let back: Vec<u32> =
                rollout.slots.iter().copied().filter(|slot| is_at(slot, rollout.to)).collect();
            if back.is_empty() {
                let new = looked.revisions.get(&rollout.to).map(RevisionRecord::key);
                let old = looked.revisions.get(&from);
                let is_back = |instance: &Instance| {
                    old.is_some_and(|old| {
                        instance.key.revision == *old.key() && looked.state.has_files_of(&instance.key, old)
                    })
                };
                let left = rollout.slots.iter().any(|slot| {
                    let mut all = looked.observed.of(*slot).iter();
                    all.any(|instance| Some(&instance.key.revision) == new && !is_back(instance))
                });
                return if left || working > 0 { Turn::Wait } else { Turn::Finish(Outcome::RolledBack) };
            }
            let strategy = Strategy { first_batch: rollout.strategy.batch, ..rollout.strategy.clone() };
            let size = strategy.batches(rollout.slots.len()).first().copied().unwrap_or(1);
            let room = size.saturating_sub(working);
            let acts =
                back.iter().filter(|slot| free(slot)).take(room).map(|slot| fill(*slot, from)).collect();
            Turn::Work { batch: 0, acts }
        }
    }
}

/// The last batch that may begin.
fn approved(rollout: &RolloutState) -> usize {
    match rollout.strategy.approval {
        _ if rollout.rollback => usize::MAX,
        Approval::EveryBatch => rollout.approved.max(1),
        Approval::FirstBatch if rollout.approved == 0 => 1,
        _ => usize::MAX,
    }
}

/// The slots of a rollout by batch. Slots that scaling added come in batches of the last size.
pub(crate) fn batches(rollout: &RolloutState) -> Vec<&[u32]> {
    let mut rest = rollout.slots.as_slice();
    let mut batches = Vec::new();
    let mut sizes = rollout.batches.iter().copied();
    let mut size = 1;
    while !rest.is_empty() {
        size = sizes.next().unwrap_or(size).clamp(1, rest.len().max(1));
        let (batch, after) = rest.split_at(size.min(rest.len()));
        batches.push(batch);
        rest = after;
    }
    batches
}

/// What supervision does: for every slot that nobody works on and that the rollout does not want now.
pub(crate) fn supervise(looked: &Looked<'_>, taken: &BTreeSet<u32>) -> Vec<Act> {
    let mut acts = Vec::new();
    let is_free = |slot: &u32| !looked.busy.contains(slot) && !taken.contains(slot);
    let beside: BTreeSet<u32> =
        looked.rollout.map(|r| r.beside().iter().copied().collect()).unwrap_or_default();
    for (slot, number) in looked.state.slots.iter().filter(|(slot, _)| is_free(slot)) {
        let Some(revision) = looked.revisions.get(number) else { continue };
        let other = looked.rollout.filter(|rollout| beside.contains(slot) && rollout.to != *number);
        let new = other.and_then(|rollout| Some((rollout, looked.revisions.get(&rollout.to)?)));
        let act = look_after(looked, *slot, *number, revision, new.map(|(_, revision)| revision));
        acts.extend(act.or_else(|| {
            // One that was not found healthy yet is the rollout's to bring up.
            let (rollout, revision) =
                new.filter(|(r, _)| r.canary.as_ref().is_some_and(|c| c.up.contains(slot)))?;
            look_beside(looked, *slot, rollout.to, revision)
        }));
    }
    // A slot that is being filled for the first time is not in the state until it is.
    let forward = looked.rollout.filter(|rollout| rollout.phase == Phase::Forward);
    let first: BTreeSet<u32> =
        forward.map(|rollout| rollout.slots.iter().copied().collect()).unwrap_or_default();
    let orphaned =
        |slot: &u32| is_free(slot) && !looked.state.slots.contains_key(slot) && !first.contains(slot);
    acts.extend(looked.observed.slots().filter(orphaned).map(|slot| Act::Clear { slot }));
    acts
}

/// The instance that fills a slot; what is left over beside it goes, but for those of the revision that stands `beside` it.
fn look_after(
    looked: &Looked<'_>,
    slot: u32,
    number: u64,
    revision: &RevisionRecord,
    beside: Option<&RevisionRecord>,
) -> Option<Act> {
    let fill = |cause| Some(Act::Fill { slot, revision: number, cause, beside: false });
    let (mine, mut left) = looked.observed.split(slot, revision.key());
    // What can't be asked can't be removed either: it goes when it can.
    left.retain(|instance| {
        beside.is_none_or(|beside| instance.key.revision != *beside.key())
            && (mine.is_none() || !matches!(instance.state, InstanceState::Unknown { .. }))
    });
    let Some(instance) = mine else {
        return fill(if left.is_empty() { Cause::Empty } else { Cause::Unfinished });
    };
    match &instance.state {
        InstanceState::Running => {
            if !left.is_empty() {
                return fill(Cause::Unfinished);
            }
            if let Some(why) = why_not_live(looked, instance) {
                return Some(Act::Bounce { slot, revision: number, why, beside: false });
            }
            if looked.state.has_files_of(&instance.key, revision) { None } else { fill(Cause::Unfinished) }
        }
        InstanceState::Created => fill(Cause::Unfinished),
        state => fill(Cause::Ended(how_it_ended(state, revision)?)),
    }
}

/// The new instance that stands beside the one that fills a slot.
fn look_beside(looked: &Looked<'_>, slot: u32, number: u64, revision: &RevisionRecord) -> Option<Act> {
    let fill = |cause| Some(Act::Fill { slot, revision: number, cause, beside: true });
    let (mine, left) = looked.observed.split(slot, revision.key());
    let old = left.iter().any(|instance| instance.key.revision == *revision.key());
    let Some(instance) = mine else { return fill(if old { Cause::Unfinished } else { Cause::Empty }) };
    match &instance.state {
        InstanceState::Running if old => fill(Cause::Unfinished),
        InstanceState::Running => {
            let why = why_not_live(looked, instance)?;
            Some(Act::Bounce { slot, revision: number, why, beside: true })
        }
        InstanceState::Created => fill(Cause::Unfinished),
        state => fill(Cause::Ended(how_it_ended(state, revision)?)),
    }
}

fn why_not_live(looked: &Looked<'_>, instance: &Instance) -> Option<String> {
    let status = (looked.health)(&instance.id)?;
    match (status.startup, status.live) {
        (Startup::Failed, _) => Some("its startup probe failed".to_owned()),
        (_, false) => Some("its liveness probe failed".to_owned()),
        _ => None,
    }
}

/// How an instance that is to be started again ended; `None` where it is not, or nobody knows, or the runtime is at it.
fn how_it_ended(state: &InstanceState, revision: &RevisionRecord) -> Option<String> {
    let condition = revision.spec().restart.condition;
    match state {
        InstanceState::Exited(status) => match condition {
            RestartCondition::Never => None,
            RestartCondition::OnFailure if status.is_success() => None,
            _ => Some(status.to_string()),
        },
        InstanceState::Failed(failure) if condition != RestartCondition::Never => {
            Some(failure.message.clone())
        }
        _ => None,
    }
}

/// The slots after scaling, and those of the rollout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Scaled {
    pub(crate) slots: BTreeMap<u32, u64>,
    pub(crate) rollout: Option<Vec<u32>>,
}

/// Brings the number of slots to `desired`; `None` where nothing changes or nothing is known to fill slots with.
///
/// New slots get the lowest free numbers and the revision that ran before the rollout under way, which then replaces them in
/// their turn. Slots go in this order: the victims that were named, those whose instance does not serve, the highest numbers.
pub(crate) fn scale(looked: &Looked<'_>, desired: u32, victims: &[InstanceId]) -> Option<Scaled> {
    let desired = desired as usize;
    let mut slots = looked.state.slots.clone();
    let forward = looked.rollout.filter(|rollout| rollout.phase == Phase::Forward);
    let mut rolling = forward.map(|rollout| rollout.slots.clone());
    let mut all: BTreeSet<u32> = slots.keys().copied().chain(rolling.iter().flatten().copied()).collect();
    if all.len() < desired {
        let missing = desired - all.len();
        let free = |slot: &u32| {
            !all.contains(slot) && looked.observed.of(*slot).is_empty() && !looked.busy.contains(slot)
        };
        let added: Vec<u32> = (0..).filter(free).take(missing).collect();
        match (looked.state.current, rolling.as_mut()) {
            (Some(current), rolling) => {
                slots.extend(added.iter().map(|slot| (*slot, current)));
                if let Some(rolling) = rolling {
                    rolling.extend(added);
                }
            }
            (None, Some(rolling)) => rolling.extend(added),
            (None, None) => return None,
        }
    } else if all.len() > desired {
        let mut going: Vec<u32> = Vec::new();
        let known: Vec<u32> = all.iter().copied().collect();
        let mut take = |slot: u32| {
            if all.len() > desired && all.remove(&slot) {
                going.push(slot);
            }
        };
        victims.iter().filter_map(|id| looked.observed.slot_of(id)).for_each(&mut take);
        let serves = |slot: u32| looked.observed.of(slot).iter().any(|instance| serves(looked, instance));
        known.iter().rev().copied().filter(|slot| !serves(*slot)).for_each(&mut take);
        known.iter().rev().copied().for_each(&mut take);
        slots.retain(|slot, _| !going.contains(slot));
        if let Some(rolling) = rolling.as_mut() {
            rolling.retain(|slot| !going.contains(slot));
        }
    } else {
        return None;
    }
    Some(Scaled { slots, rollout: rolling })
}

fn serves(looked: &Looked<'_>, instance: &Instance) -> bool {
    instance.state == InstanceState::Running
        && (looked.health)(&instance.id).is_some_and(|status| status.ready)
}

#[cfg(test)]
mod tests;
