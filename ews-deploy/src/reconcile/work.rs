//! The work on slots that a leader lets be done: when it may begin, and what follows from how it ended.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use ews_core::{InstanceId, Result};
use tokio::sync::watch;
use tokio::time::Instant;

use super::leader::{Again, Busy, Leader, Spot};
use super::patch::Files;
use super::unit::{End, Spare, Unit, journal_key};
use crate::decide::{Act, Cause};
use crate::event::{EventKind, Step};
use crate::hotfix::{self, Overlay};
use crate::plan;
use crate::record::{RevisionRecord, ServiceState, UnitJournal};
use crate::restarts::{May, Told};
use crate::rollout::{GateLimits, Phase};
use crate::strategy::Strategy;

/// The first and the longest pause before work that could not be done is tried again.
const AGAIN: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

impl Leader {
    /// Forgets what an earlier controller was about to do where nothing is left to be done about it.
    pub(super) async fn tidy_journal(&mut self) -> Result<()> {
        let rolling =
            self.rollout.as_ref().filter(|rollout| rollout.phase == Phase::Forward).map(|r| r.number);
        // A unit of the rollout under way is taken up in its turn, and then wants to know.
        let done = |entry: &&UnitJournal| {
            !self.is_taken(entry.slot) && (entry.rollout.is_none() || entry.rollout != rolling)
        };
        let slots: Vec<u32> = self.journal.values().filter(done).map(|entry| entry.slot).take(100).collect();
        if slots.is_empty() {
            return Ok(());
        }
        let mut draft = self.draft()?;
        for slot in &slots {
            draft = draft.delete(&journal_key(*slot))?;
        }
        draft.commit().await?;
        self.journal.retain(|slot, _| !slots.contains(slot));
        Ok(())
    }

    /// Whether work that supervision or a rollout wants may begin now.
    pub(super) fn may(&mut self, act: &Act, now: Instant) -> bool {
        let spot = act.spot();
        let slot = act.slot();
        if self.again.get(&spot).is_some_and(|again| again.until > now) {
            return false;
        }
        let (number, reason) = match act {
            Act::Fill { revision, cause: Cause::Ended(how) | Cause::Replaced(how), .. } => {
                (*revision, how.clone())
            }
            Act::Bounce { revision, why, .. } => (*revision, why.clone()),
            _ => return true,
        };
        let Some(revision) = self.revisions.get(&number) else { return false };
        match self.restarts.lost(spot, now, &revision.spec().restart) {
            May::Now => true,
            May::Later(_, told) => {
                let instance =
                    self.observed.split(slot, revision.key()).0.map(|instance| instance.id.clone());
                match told {
                    None => {}
                    Some(Told::Pause(pause)) => {
                        let reason = format!("{reason}; started again in {pause:?}");
                        self.tools.narrator.tell(EventKind::InstanceLost { slot, instance, reason });
                    }
                    Some(Told::GivenUp(restarts)) => {
                        self.tools.narrator.tell(EventKind::InstanceLost { slot, instance, reason });
                        self.tools.narrator.tell(EventKind::GivenUp { slot, restarts });
                    }
                }
                false
            }
        }
    }

    pub(super) fn begin(&mut self, act: Act) {
        let slot = act.slot();
        let strategy = self.strategy().clone();
        let (_, beside) = act.spot();
        let spare = self.spare(&act);
        let restarts = self.rollout.as_ref().is_some_and(|rollout| rollout.restarted.is_some());
        let fresh = match &act {
            Act::Fill { cause: Cause::Replaced(_), .. } => true,
            Act::Fill { cause: Cause::Rollout, .. } => restarts,
            _ => false,
        };
        let moved = matches!(act, Act::Fill { cause: Cause::Moved, .. });
        let ill = |cause: &Cause| {
            matches!(cause, Cause::Replaced(_) | Cause::Moved | Cause::Ended(_) | Cause::Empty)
        };
        let remedy = match &act {
            Act::Bounce { .. } => true,
            Act::Fill { cause, .. } => ill(cause),
            Act::Clear { .. } => false,
        };
        let (number, unit_of) = match &act {
            Act::Fill { revision, cause: Cause::Rollout, .. } => {
                (Some(*revision), self.rollout.as_ref().map(|rollout| rollout.number))
            }
            Act::Fill { revision, .. } | Act::Bounce { revision, .. } => (Some(*revision), None),
            Act::Clear { .. } => (None, None),
        };
        let revision = number.and_then(|number| Some((number, self.revisions.get(&number)?.clone())));
        let capabilities = self.tools.runtime.capabilities();
        let files = revision.as_ref().and_then(|(_, record)| self.files(slot, record));
        let order = revision.as_ref().map_or(plan::UnitOrder::StartFirst, |(_, revision)| {
            plan::order_of(strategy.order, revision.spec(), self.scale.desired, &capabilities).0
        });
        let min_healthy = if unit_of.is_some() { strategy.min_healthy } else { Duration::ZERO };
        let before =
            self.journal.remove(&slot).filter(|entry| entry.revision == number && entry.rollout == unit_of);
        let (interrupt, interrupted) = watch::channel(false);
        let unit = Unit {
            tools: Arc::clone(&self.tools),
            slot,
            revision,
            order,
            spare,
            fresh,
            moved,
            files,
            rollout: unit_of,
            limits: GateLimits { min_healthy, deadline: strategy.healthy_deadline, flaps: strategy.flaps },
            drain: strategy.drain,
            before,
            interrupted,
            way: Mutex::default(),
        };
        self.busy.insert(slot, Busy { interrupt, rollout: unit_of, revision: number, beside, remedy });
        self.units.spawn(async move {
            let end = match act {
                Act::Fill { .. } => unit.fill().await,
                Act::Bounce { .. } => unit.bounce().await,
                Act::Clear { .. } => unit.clear().await,
            };
            (slot, end)
        });
    }

    /// The files that the slot's instance shall have, where any hotfix is about them.
    fn files(&self, slot: u32, record: &RevisionRecord) -> Option<Files> {
        let overlays: Vec<(u64, &Overlay)> = self
            .revisions
            .iter()
            .filter_map(|(number, other)| Some((*number, other.overlay.as_ref()?)))
            .filter(|(_, overlay)| overlay.base_id == *record.key())
            .collect();
        let (_, last) = overlays.last()?;
        // Going back is told as the hotfix was.
        let reload = record.overlay.as_ref().unwrap_or(last).reload.clone();
        let mut blobs = BTreeMap::new();
        for (number, overlay) in &overlays {
            for file in overlay.files.values() {
                blobs.insert(file.content.digest, *number);
                blobs.extend(file.original.map(|original| (original.digest, *number)));
            }
        }
        let targets = hotfix::targets(overlays.iter().map(|(_, overlay)| *overlay), record.overlay.as_ref());
        let mine = self.observed.split(slot, record.key()).0;
        let known = mine.is_some_and(|mine| self.state.has_files_of(&mine.key, record));
        let unsure =
            self.state.patched.get(&slot).is_some_and(|(_, number)| *number == ServiceState::UNKNOWN);
        let forward = self.rollout.as_ref().filter(|rollout| rollout.phase == Phase::Forward);
        let back = forward.is_none_or(|rollout| rollout.to != record.revision.number);
        Some(Files { targets, blobs, reload, known, back, unsure })
    }

    /// Writes down which files the slot's instance has: those of the revision, or, where work on it did not end well, nobody knows.
    fn note_files(&mut self, slot: u32, number: Option<u64>, filled: Option<u32>) {
        let Some(record) = number.and_then(|number| self.revisions.get(&number)) else { return };
        let of_it =
            |other: &RevisionRecord| other.overlay.as_ref().is_some_and(|o| o.base_id == *record.key());
        if !self.revisions.values().any(of_it) {
            // Work for it that failed says nothing of the instance that is still there.
            if filled.is_some() {
                self.state.patched.remove(&slot);
            }
            return;
        }
        match filled {
            Some(_) if record.overlay.is_none() => self.state.patched.remove(&slot),
            Some(generation) => self.state.patched.insert(slot, (generation, record.revision.number)),
            None => self.state.patched.insert(slot, (0, ServiceState::UNKNOWN)),
        };
    }

    /// Which instances of the slot the work leaves alone.
    fn spare(&self, act: &Act) -> Spare {
        match act {
            Act::Fill { beside: true, .. } | Act::Bounce { beside: true, .. } => Spare::Others,
            Act::Fill { slot, revision, .. } | Act::Bounce { slot, revision, .. } => {
                let rollout = self.rollout.as_ref();
                let beside = rollout.filter(|r| r.to != *revision && r.beside().contains(slot));
                let new = beside.and_then(|rollout| self.revisions.get(&rollout.to));
                new.map_or(Spare::Nothing, |new| Spare::Beside(new.key().clone()))
            }
            Act::Clear { .. } => Spare::Nothing,
        }
    }

    pub(super) fn strategy(&self) -> &Strategy {
        static DEFAULT: OnceLock<Strategy> = OnceLock::new();
        let active = self.rollout.as_ref().map(|rollout| &rollout.strategy);
        active.or(self.state.strategy.as_ref()).unwrap_or_else(|| DEFAULT.get_or_init(Strategy::default))
    }

    /// Asks all units of the rollout to end at their next step.
    pub(super) fn interrupt_rollout(&self) {
        self.interrupt_job();
        for busy in self.busy.values().filter(|busy| busy.rollout.is_some()) {
            busy.interrupt.send_replace(true);
        }
    }

    /// The same for the units of one rollout.
    pub(super) fn interrupt_units_of(&self, number: u64) {
        for busy in self.busy.values().filter(|busy| busy.rollout == Some(number)) {
            busy.interrupt.send_replace(true);
        }
    }

    /// Work on slots ended.
    pub(super) async fn ended(&mut self, ends: Vec<(u32, End)>) -> Result<()> {
        let (mut journal, mut filled, mut failed) = (Vec::new(), Vec::new(), Vec::new());
        for (slot, end) in ends {
            let Some(busy) = self.busy.remove(&slot) else { continue };
            journal.push(journal_key(slot));
            self.unseen.insert(slot, (self.looked_for + 1, busy.remedy));
            let spot: Spot = (slot, busy.beside);
            match end {
                End::Filled(instance, generation) => {
                    filled.extend(self.filled(slot, &busy, instance, generation));
                }
                End::Cleared => {
                    self.again.remove(&(slot, false));
                    self.again.remove(&(slot, true));
                    self.restarts.forget(slot);
                    self.state.patched.remove(&slot);
                }
                End::Interrupted => self.note_files(slot, busy.revision, None),
                End::Failed(failure) => {
                    self.tools.narrator.tell(EventKind::UnitFailed((*failure).clone()));
                    self.postpone(spot, None);
                    self.note_files(slot, busy.revision, None);
                    failed.extend(busy.rollout.map(|number| (number, busy.revision, *failure)));
                }
                End::Again { error, at, healthy } => {
                    // Clearing away what was there is not what the progress deadline is about: once for each slot, it counts
                    // as progress that the new instance is healthy.
                    if healthy && busy.rollout.is_some() && self.healthy.insert(slot) {
                        self.progressed();
                    }
                    self.postpone(spot, at);
                    self.note_files(slot, busy.revision, None);
                    self.tools.narrator.tell(EventKind::Retrying { slot, reason: error.to_string() });
                }
            }
        }
        if let Some(done) = self.rollout.as_ref().map(|rollout| self.done(rollout))
            && let Some(rollout) = &mut self.rollout
        {
            rollout.done = done;
        }
        for (number, revision, failure) in failed {
            if self.rollout.as_ref().is_some_and(|rollout| rollout.number == number) {
                self.failed(revision, failure).await?;
            }
        }
        let mut draft = self.draft()?;
        for key in &journal {
            draft = draft.delete(key)?;
        }
        draft.commit().await?;
        // Told when it is written: a successor knows of it too.
        for filled in filled {
            self.tools.narrator.tell(filled);
        }
        Ok(())
    }

    /// A slot is filled: what is known of it, and what is to be told.
    fn filled(&mut self, slot: u32, busy: &Busy, instance: InstanceId, generation: u32) -> Option<EventKind> {
        if !busy.beside {
            self.note_files(slot, busy.revision, Some(generation));
        }
        self.again.remove(&(slot, busy.beside));
        if busy.revision.is_some() && busy.revision == self.rollout.as_ref().map(|rollout| rollout.to) {
            // One that stood beside has been watched since then.
            let since = self.watched.get(&slot).copied().flatten().filter(|_| !busy.beside);
            self.watched.insert(slot, Some(since.unwrap_or_else(Instant::now)));
        }
        let rolling = self.rollout.as_mut().filter(|rollout| Some(rollout.number) == busy.rollout);
        if let (Some(rollout), Some(number)) = (rolling, busy.revision)
            && rollout.slots.contains(&slot)
        {
            match &mut rollout.canary {
                Some(canary) if busy.beside => {
                    canary.up.insert(slot);
                }
                _ => {
                    self.state.slots.insert(slot, number);
                }
            }
            if self.healthy.insert(slot) {
                rollout.spent = Duration::ZERO;
                self.counted = Instant::now();
            }
            if let Some(restarted) = &mut rollout.restarted {
                restarted.insert(slot);
            }
        }
        let revision = busy.revision.and_then(|number| self.revisions.get(&number))?;
        Some(EventKind::Filled { slot, instance, revision: revision.revision.id.clone() })
    }

    /// The pause doubles while it is the same step that fails.
    pub(super) fn postpone(&mut self, spot: Spot, at: Option<(Step, Option<InstanceId>)>) {
        let count = match self.again.get(&spot) {
            Some(before) if before.at == at => before.count + 1,
            _ => 0,
        };
        let pause = AGAIN.0.saturating_mul(2_u32.saturating_pow(count)).min(AGAIN.1);
        self.again.insert(spot, Again { until: Instant::now() + pause, count, at });
    }

    pub(super) fn progressed(&mut self) {
        self.counted = Instant::now();
        if let Some(rollout) = &mut self.rollout {
            rollout.spent = Duration::ZERO;
        }
    }
}
