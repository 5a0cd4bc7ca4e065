//! What a leader does about rollouts: beginning, turning round, ending; and about scaling and removal.

use std::time::Duration;

use ews_core::{InstanceState, Result};
use tokio::time::Instant;

use super::leader::Leader;
use crate::decide::{self, Act, Cause, Health};
use crate::event::EventKind;
use crate::plan::{self, Question};
use crate::record::{End, RolloutRequest, RolloutState, Versioned, numbered};
use crate::rollout::{Outcome, Phase, RolloutReport, UnitFailure};
use crate::strategy::OnFailure;

impl Leader {
    /// Takes up what is asked for. True when the service was to go and has gone.
    pub(super) async fn take_up(&mut self) -> Result<bool> {
        if self.input.value.removing {
            return self.removing().await;
        }
        self.ending = false;
        let asked = self.input.value.active.clone();
        match (&self.rollout, asked) {
            (Some(rollout), Some(asked)) if rollout.number != asked.number => {
                // Superseded: its units end first, then the next one starts from where it stood.
                if !self.wound_up() {
                    return Ok(false);
                }
                self.cause(format!("superseded by rollout {}", asked.number));
                self.concluded(Outcome::Cancelled).await?;
                self.start(&asked).await?;
            }
            (None, Some(asked)) => self.start(&asked).await?,
            _ => {}
        }
        self.controlled().await?;
        Ok(false)
    }

    /// Lets the rollout's units end and none begin; true when none is left.
    fn wound_up(&mut self) -> bool {
        self.interrupt_rollout();
        self.ending = self.busy.values().any(|busy| busy.rollout.is_some());
        !self.ending
    }

    fn cause(&mut self, cause: String) {
        if let Some(rollout) = &mut self.rollout
            && rollout.cause.is_empty()
        {
            rollout.cause = cause;
        }
    }

    async fn start(&mut self, asked: &RolloutRequest) -> Result<()> {
        // It may have ended just before this leader's predecessor died.
        if let Some(Versioned { value, .. }) = self.tools.repository.rollout(asked.number).await?
            && value.outcome.is_some()
        {
            return self.deactivate(asked.number).await;
        }
        let Some(to) = self.revisions.get(&asked.revision) else { return Ok(()) };
        let from = self.state.current.filter(|number| self.revisions.contains_key(number));
        let capabilities = self.tools.runtime.capabilities();
        let plan = plan::make(&Question {
            to,
            from: from.and_then(|number| self.revisions.get(&number)),
            slots: &self.state.slots,
            desired: self.scale.desired,
            observed: &self.observed,
            strategy: &asked.strategy,
            rollback: asked.rollback,
            capabilities: &capabilities,
            base: plan::Base::default(),
        });
        let rollout = RolloutState {
            number: asked.number,
            to: asked.revision,
            from,
            strategy: asked.strategy.clone(),
            rollback: asked.rollback,
            order: plan.order,
            slots: plan.units().map(|unit| unit.slot).collect(),
            batches: plan.batches.iter().map(Vec::len).collect(),
            phase: Phase::Forward,
            held: None,
            waits: None,
            approved: 0,
            cause: String::new(),
            failures: Vec::new(),
            failed: 0,
            spent: Duration::ZERO,
            done: 0,
            outcome: None,
            started_at: self.tools.clock.now(),
            ended_at: None,
        };
        self.state.rollout = Some(asked.number);
        // The slots of this rollout are what is asked for now; from here on scaling tells of changes.
        self.state.scaled = (self.scale.desired, self.scale.version);
        self.state.strategy = Some(asked.strategy.clone());
        self.rollout = Some(rollout);
        self.draft()?.commit().await?;
        self.begin_batches();
        self.watched.clear();
        self.tools.narrator.set_rollout(Some(asked.number));
        self.tools.narrator.tell(EventKind::RolloutStarted {
            to: plan.to.clone(),
            from: plan.from.clone(),
            slots: plan.units().count(),
            batches: plan.batches.len(),
        });
        Ok(())
    }

    /// Pause, resume, abort and cancel, as they are asked for now.
    async fn controlled(&mut self) -> Result<()> {
        let Some(rollout) = &mut self.rollout else { return Ok(()) };
        if self.control.rollout != rollout.number {
            return Ok(());
        }
        if rollout.held.is_some_and(|resumes| resumes < self.control.resumes) {
            rollout.held = None;
            rollout.cause.clear();
            if let Some(batch) = rollout.waits.take() {
                rollout.approved = batch;
            }
            self.draft()?.commit().await?;
            self.begin_batches();
            self.tools.narrator.tell(EventKind::Resumed);
        }
        let Some(rollout) = &self.rollout else { return Ok(()) };
        match self.control.end {
            Some(End::Abort) if rollout.phase == Phase::Forward => {
                self.roll_back("somebody aborted it".to_owned()).await
            }
            Some(End::Cancel) => {
                if !self.wound_up() {
                    return Ok(());
                }
                self.cause("somebody cancelled it".to_owned());
                self.concluded(Outcome::Cancelled).await
            }
            _ => Ok(()),
        }
    }

    /// A unit that was to bring this revision failed.
    pub(super) async fn failed(&mut self, revision: Option<u64>, failure: UnitFailure) -> Result<()> {
        let reason = failure.to_string();
        // Of several that fail at once the first turns the rollout round; the others are no failures of the way back.
        let late = self
            .rollout
            .as_ref()
            .is_some_and(|rollout| rollout.phase == Phase::RollingBack && revision == Some(rollout.to));
        let mut is_taken = false;
        if let Some(rollout) = &mut self.rollout {
            if rollout.failures.len() < RolloutReport::FAILURES {
                rollout.failures.push(failure);
            }
            if rollout.phase == Phase::Forward && !rollout.rollback {
                rollout.failed += 1;
                is_taken = rollout.failed <= rollout.strategy.tolerates(rollout.slots.len());
            }
        }
        if late || is_taken {
            return Ok(());
        }
        self.turned(reason).await
    }

    /// A batch may not begin before somebody says so.
    pub(super) async fn wait_for_approval(&mut self, batch: usize) -> Result<()> {
        let resumes = self.control.resumes;
        let Some(rollout) = &mut self.rollout else { return Ok(()) };
        rollout.held = Some(if self.control.rollout == rollout.number { resumes } else { 0 });
        rollout.waits = Some(batch);
        let of = decide::batches(rollout).len();
        rollout.cause = format!("batch {batch} of {of} waits for approval");
        self.draft()?.commit().await?;
        self.tools.narrator.tell(EventKind::AwaitingApproval { batch, of });
        Ok(())
    }

    /// New instances that were healthy, and did not stay so for as long as they are watched.
    pub(super) async fn watch_over(&mut self, acts: &mut Vec<Act>) -> Result<()> {
        let relapses: Vec<(u32, String)> =
            acts.iter().filter_map(|act| Some((act.slot(), self.relapse(act)?))).collect();
        for (slot, reason) in relapses {
            self.watched.insert(slot, None);
            let Some(rollout) = &self.rollout else { return Ok(()) };
            let Some(revision) = self.revisions.get(&rollout.to) else { return Ok(()) };
            let instance = self.observed.split(slot, &revision.id).0;
            let exit = instance.and_then(|instance| match &instance.state {
                InstanceState::Exited(status) => Some(status.clone()),
                _ => None,
            });
            let (id, to) = (instance.map(|instance| instance.id.clone()), rollout.to);
            let mut failure = UnitFailure {
                slot,
                instance: id.clone(),
                revision: revision.id.clone(),
                reason,
                exit,
                log: Vec::new(),
                at: self.tools.clock.now(),
            };
            if let Some(id) = &id {
                failure.log = self.tools.tail(id).await;
            }
            self.tools.narrator.tell(EventKind::UnitFailed(failure.clone()));
            self.failed(Some(to), failure).await?;
            // One that goes back is not started once more before.
            if self.rollout.as_ref().is_none_or(|rollout| rollout.phase != Phase::Forward) {
                acts.retain(|act| act.slot() != slot);
            }
        }
        Ok(())
    }

    /// Why what supervision is about to do is a failure of the rollout, where it is one.
    fn relapse(&self, act: &Act) -> Option<String> {
        let rollout = self.rollout.as_ref().filter(|rollout| rollout.phase == Phase::Forward)?;
        let monitor = rollout.strategy.watch(&self.revisions.get(&rollout.to)?.spec);
        let since = (*self.watched.get(&act.slot())?)?;
        if rollout.rollback || since.elapsed() >= monitor || !rollout.slots.contains(&act.slot()) {
            return None;
        }
        let how = match act {
            Act::Fill { revision, .. } | Act::Bounce { revision, .. } if *revision != rollout.to => {
                return None;
            }
            Act::Fill { cause: Cause::Ended(_), .. } => "its program ended",
            Act::Fill { cause: Cause::Empty, .. } => "it was gone",
            Act::Bounce { why, .. } => why,
            _ => return None,
        };
        Some(format!("{how} within {monitor:?} of being healthy"))
    }

    /// Until when new instances are watched; `None` where none is, or the last is healthy for long enough.
    pub(super) fn watched_until(&self) -> Option<Instant> {
        let rollout = self.rollout.as_ref().filter(|rollout| rollout.phase == Phase::Forward)?;
        let monitor = rollout.strategy.watch(&self.revisions.get(&rollout.to)?.spec);
        if rollout.rollback || monitor.is_zero() {
            return None;
        }
        let now = Instant::now();
        // One that is being started again is watched when it is healthy again; the progress deadline bounds that. What ran
        // before the rollout began is not watched.
        let far = now + rollout.strategy.progress_deadline;
        let watched = rollout.slots.iter().filter_map(|slot| self.watched.get(slot));
        watched.map(|since| since.map_or(far, |since| since + monitor)).max().filter(|until| *until > now)
    }

    /// Something went wrong: what the strategy says is done about it.
    pub(super) async fn turned(&mut self, reason: String) -> Result<()> {
        let Some(rollout) = &mut self.rollout else { return Ok(()) };
        if rollout.phase == Phase::RollingBack {
            // No rollback of a rollback: somebody has to look.
            self.interrupt_rollout();
            self.cause(reason);
            return self.concluded(Outcome::RollbackFailed).await;
        }
        let answer = if rollout.rollback { OnFailure::Freeze } else { rollout.strategy.on_failure };
        match answer {
            OnFailure::Rollback => self.roll_back(reason).await,
            OnFailure::Pause => {
                rollout.held =
                    Some(if self.control.rollout == rollout.number { self.control.resumes } else { 0 });
                // Approval of what comes next is asked for anew.
                rollout.waits = None;
                rollout.cause.clone_from(&reason);
                self.interrupt_rollout();
                self.draft()?.commit().await?;
                self.tools.narrator.tell(EventKind::Paused { reason });
                Ok(())
            }
            OnFailure::Freeze => {
                self.interrupt_rollout();
                self.cause(reason);
                self.concluded(Outcome::Failed).await
            }
        }
    }

    async fn roll_back(&mut self, reason: String) -> Result<()> {
        let Some(rollout) = &mut self.rollout else { return Ok(()) };
        rollout.phase = Phase::RollingBack;
        rollout.held = None;
        rollout.spent = Duration::ZERO;
        if rollout.cause.is_empty() {
            rollout.cause.clone_from(&reason);
        }
        if rollout.from.is_none() {
            // There is nothing to go back to: what was begun goes.
            for slot in &rollout.slots {
                self.state.slots.remove(slot);
            }
        }
        self.interrupt_rollout();
        self.draft()?.commit().await?;
        self.begin_batches();
        self.tools.narrator.tell(EventKind::RollingBack { reason });
        Ok(())
    }

    /// Writes down that the rollout is over.
    pub(super) async fn concluded(&mut self, outcome: Outcome) -> Result<()> {
        let Some(mut rollout) = self.rollout.take() else { return Ok(()) };
        self.interrupt_units_of(rollout.number);
        rollout.outcome = Some(outcome);
        rollout.done = self.done(&rollout);
        rollout.ended_at = Some(self.tools.clock.now());
        self.state.rollout = None;
        if outcome == Outcome::Succeeded {
            self.state.current = Some(rollout.to);
            self.state.stable.retain(|number| *number != rollout.to);
            self.state.stable.push(rollout.to);
            let surplus = self.state.stable.len().saturating_sub(self.history());
            self.state.stable.drain(..surplus);
        }
        let number = rollout.number;
        let (cause, event_outcome) = (rollout.cause.clone(), outcome);
        // Written before anything is told: whoever hears of the end finds it.
        let draft = self.draft()?.put(&numbered("rollout", number), &rollout)?;
        draft.commit().await?;
        self.deactivate(number).await?;
        self.tools.narrator.tell(EventKind::Ended { outcome: event_outcome, cause });
        self.begin_batches();
        self.prune().await
    }

    /// Nothing is asked for any more, unless something else has been meanwhile.
    async fn deactivate(&mut self, number: u64) -> Result<()> {
        loop {
            if self.input.value.active.as_ref().is_none_or(|active| active.number != number) {
                return Ok(());
            }
            let mut value = self.input.value.clone();
            value.active = None;
            let draft =
                self.draft()?.expect("in/service", Some(self.input.modified))?.put("in/service", &value)?;
            match draft.commit().await {
                Ok(modified) => {
                    self.input = Versioned { value, modified };
                    return Ok(());
                }
                Err(error) if error.kind() == ews_core::ErrorKind::Stale => {
                    // The fence or the record: reading tells which.
                    let before = self.input.modified;
                    self.refresh().await?;
                    if self.input.modified == before {
                        return Err(error);
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Brings the number of slots to what is asked for.
    pub(super) async fn rescale(&mut self, health: Health<'_>) -> Result<()> {
        let busy = self.busy.keys().copied().collect();
        let desired = if self.input.value.removing { 0 } else { self.scale.desired };
        let scaled = decide::scale(&self.looked(&busy, false, health), desired, &self.scale.victims);
        let Some(scaled) = scaled else { return Ok(()) };
        let before = self.state.scaled.0;
        self.state.slots = scaled.slots;
        self.state.scaled = (desired, self.scale.version);
        if let (Some(rollout), Some(slots)) = (&mut self.rollout, scaled.rollout) {
            rollout.slots = slots;
        }
        self.draft()?.commit().await?;
        if before != desired {
            let reason = self.scale.reason.clone();
            self.tools.narrator.tell(EventKind::Scaled { from: before, to: desired, reason });
        }
        Ok(())
    }

    /// Takes the service away. True when nothing is left of it.
    async fn removing(&mut self) -> Result<bool> {
        if self.rollout.is_some() {
            if !self.wound_up() {
                return Ok(false);
            }
            self.cause("the service is being removed".to_owned());
            self.concluded(Outcome::Cancelled).await?;
        }
        if !self.state.slots.is_empty() {
            self.state.slots.clear();
            self.draft()?.commit().await?;
        }
        if !self.observed.is_empty() || !self.busy.is_empty() {
            return Ok(false);
        }
        if let Some(director) = &self.tools.director {
            director.set_traffic(None, &self.input.value.former);
            director.sync().await?;
        }
        self.tools.book.erase(self.tools.lead.fence()).await?;
        self.tools.repository.erase(self.tools.lead.fence()).await?;
        self.tools.narrator.tell(EventKind::Removed);
        Ok(true)
    }
}
