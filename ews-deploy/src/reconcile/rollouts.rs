//! What a leader does about rollouts: beginning, turning round, ending; and about scaling and removal.

use std::time::Duration;

use ews_core::policy::{Policy as _, PolicyState};
use ews_core::{InstanceState, Result};
use tokio::time::Instant;

use super::leader::Leader;
use crate::analysis::Run;
use crate::audit::{AuditAction, AuditEntry};
use crate::decide::{self, Act, Cause, Health};
use crate::event::EventKind;
use crate::failure::{FailureClass, FailureRules, FailureSeen};
use crate::plan::{self, Question, UnitOrder};
use crate::record::{CanaryState, End, RolloutRequest, RolloutState, ScaleInput, Versioned, numbered};
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
        self.ending = self.busy.values().any(|busy| busy.rollout.is_some()) || self.job.is_some();
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
            state: &self.state,
            desired: self.scale.desired,
            observed: &self.observed,
            strategy: &asked.strategy,
            rollback: asked.rollback,
            served: self.input.value.traffic.is_some(),
            capabilities: &capabilities,
            base: plan::Base::default(),
        });
        let steps = !plan.steps.is_empty();
        let (chosen, batches) = match &asked.restart {
            Some(only) => {
                let slots: Vec<u32> =
                    self.state.slots.keys().copied().filter(|slot| only.contains(slot)).collect();
                let batches = asked.strategy.batches(slots.len());
                (slots, batches)
            }
            None => {
                (plan.units().map(|unit| unit.slot).collect(), plan.batches.iter().map(Vec::len).collect())
            }
        };
        let (count, in_batches) = (chosen.len(), batches.len());
        let now = self.tools.clock.now();
        let rollout = RolloutState {
            order: plan.order,
            slots: chosen,
            batches,
            canary: steps.then(CanaryState::default),
            outcome: None,
            ended_at: None,
            ..RolloutState::never_begun(asked, from, String::new(), now)
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
            slots: count,
            batches: in_batches,
        });
        self.told_step = None;
        if steps && plan.order == UnitOrder::StopFirst {
            // Whoever asked was told so, but the count may have changed since.
            self.cause(format!("new instances can't stand beside old ones: {}", plan.order_reason));
            return self.concluded(Outcome::Failed).await;
        }
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
            let mut is_good = false;
            if let Some(canary) = &mut rollout.canary {
                is_good = canary.asks;
                // What is measured is measured anew.
                (canary.run, canary.along) = (Run::default(), Run::default());
            }
            if is_good {
                self.next_step();
            }
            self.draft()?.commit().await?;
            self.begin_batches();
            self.tools.narrator.tell(EventKind::Resumed);
        }
        let Some(rollout) = &self.rollout else { return Ok(()) };
        match self.control.end {
            Some(End::Abort) if rollout.phase == Phase::Forward && rollout.restarted.is_none() => {
                self.roll_back("somebody aborted it".to_owned()).await
            }
            Some(End::Cancel | End::Abort)
                if rollout.restarted.is_some() || self.control.end == Some(End::Cancel) =>
            {
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
        let slot = failure.slot;
        if let Some(rollout) = &mut self.rollout {
            if rollout.failures.len() < RolloutReport::FAILURES {
                rollout.failures.push(failure.clone());
            }
            *rollout.tries.entry(slot).or_default() += 1;
            if rollout.phase == Phase::Forward && !rollout.rollback {
                rollout.failed += 1;
                is_taken = rollout.failed <= rollout.strategy.tolerates(rollout.slots.len());
            }
        }
        if late || is_taken {
            return Ok(());
        }
        self.decided(reason, failure.class, Some(failure)).await
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
            let instance = self.observed.split(slot, revision.key()).0;
            let exit = instance.and_then(|instance| match &instance.state {
                InstanceState::Exited(status) => Some(status.clone()),
                _ => None,
            });
            let (id, to) = (instance.map(|instance| instance.id.clone()), rollout.to);
            let mut failure = UnitFailure {
                slot,
                instance: id.clone(),
                revision: revision.revision.id.clone(),
                class: FailureClass::Relapsed,
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
        let monitor = rollout.strategy.watch(self.revisions.get(&rollout.to)?.spec());
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
        let monitor = rollout.strategy.watch(self.revisions.get(&rollout.to)?.spec());
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
    pub(super) async fn turned(&mut self, reason: String, class: FailureClass) -> Result<()> {
        self.decided(reason, class, None).await
    }

    /// What is to be done about a failure, by the policy or the strategy's rules.
    fn answer(&self, reason: &str, class: FailureClass, failure: Option<UnitFailure>) -> Option<OnFailure> {
        let rollout = self.rollout.as_ref()?;
        let tries = failure.as_ref().and_then(|failure| rollout.tries.get(&failure.slot).copied());
        let seen = FailureSeen {
            service: self.tools.service.clone(),
            rollout: rollout.number,
            class,
            reason: reason.to_owned(),
            failure,
            failed: rollout.failed,
            tries: tries.unwrap_or_default(),
            done: (self.done(rollout), rollout.slots.len()),
            strategy: rollout.strategy.clone(),
        };
        let (now, none) = (self.tools.clock.now(), PolicyState::default());
        let (explained, _) = match &self.tools.failures {
            Some(policy) => policy.decide(&seen, &none, now),
            None => FailureRules.decide(&seen, &none, now),
        };
        let about_none = seen.failure.is_none();
        let answer = match explained.decision {
            // A policy's own mistake must not leave it without an answer.
            OnFailure::Retry(_) | OnFailure::Skip if about_none => OnFailure::Rollback,
            answer => answer,
        };
        self.tools.narrator.tell(EventKind::Decided { decision: answer, explained: explained.to_string() });
        // A rollback is never rolled back, and a restart has nothing to go back to.
        let stays = rollout.rollback || rollout.restarted.is_some();
        Some(if stays && answer == OnFailure::Rollback { OnFailure::Freeze } else { answer })
    }

    async fn decided(
        &mut self,
        reason: String,
        class: FailureClass,
        failure: Option<UnitFailure>,
    ) -> Result<()> {
        let slot = failure.as_ref().map(|failure| failure.slot);
        let Some(rollout) = &mut self.rollout else { return Ok(()) };
        if rollout.phase == Phase::RollingBack {
            // No rollback of a rollback: somebody has to look.
            self.interrupt_rollout();
            self.cause(reason);
            return self.concluded(Outcome::RollbackFailed).await;
        }
        let Some(answer) = self.answer(&reason, class, failure) else { return Ok(()) };
        let Some(rollout) = &mut self.rollout else { return Ok(()) };
        match answer {
            OnFailure::Retry(_) => Ok(()),
            OnFailure::Skip => {
                rollout.skipped.extend(slot);
                // That it is decided is progress: it is not waited for any more.
                self.progressed();
                self.draft()?.commit().await.map(|_| ())
            }
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
        let skipped = rollout.skipped.len();
        let outcome = if outcome == Outcome::Succeeded && skipped > 0 { Outcome::Failed } else { outcome };
        if skipped > 0 && rollout.cause.is_empty() {
            rollout.cause = format!("{skipped} of {} slots keep what they had", rollout.slots.len());
        }
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
        let entry = AuditEntry {
            at: self.tools.clock.now(),
            by: String::new(),
            action: AuditAction::Ended { rollout: number, outcome },
            why: cause.clone(),
        };
        let draft = self.draft()?.put(&numbered("rollout", number), &rollout)?.note(&entry)?;
        draft.commit().await?;
        self.tell_end(rollout);
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
            let mut draft = self.draft()?;
            if !value.queue.is_empty() && !value.removing {
                // Whoever waits is next, with what it changes besides.
                let next = value.queue.remove(0);
                let scale = self.tools.repository.scale().await?;
                let desired = next.desired.unwrap_or_default();
                if let Err(error) = value.admit(next.traffic.as_ref(), next.bounds, desired) {
                    tracing::warn!(service = %self.tools.service, %error, "what waited is taken as far as it can be");
                }
                if let Some(scale) =
                    scale.filter(|scale| next.desired.is_some_and(|n| n != scale.value.desired))
                {
                    let input = ScaleInput {
                        desired,
                        version: scale.value.version + 1,
                        victims: Vec::new(),
                        reason: "deployed with this count".to_owned(),
                    };
                    draft = draft.expect("in/scale", Some(scale.modified))?.put("in/scale", &input)?;
                }
                value.active = Some(next.request);
            }
            let draft = draft.expect("in/service", Some(self.input.modified))?.put("in/service", &value)?;
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
        let busy = self.taken();
        let desired = if self.input.value.removing { 0 } else { self.scale.desired };
        let scaled = decide::scale(&self.looked(&busy, false, health), desired, &self.scale.victims);
        let Some(scaled) = scaled else { return Ok(()) };
        let before = self.state.scaled.0;
        self.state.slots = scaled.slots;
        self.state.scaled = (desired, self.scale.version);
        if let (Some(rollout), Some(slots)) = (&mut self.rollout, scaled.rollout) {
            // What is added runs what it shall: it is not made anew.
            let is_old = |slot: &u32| rollout.restarted.is_none() || rollout.slots.contains(slot);
            rollout.slots = slots.into_iter().filter(is_old).collect();
        }
        self.draft()?.commit().await?;
        if before != desired {
            let reason = self.scale.reason.clone();
            self.tools.narrator.tell(EventKind::Scaled { from: before, to: desired, reason });
            self.trim_audit().await?;
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
        if !self.observed.is_empty() || !self.taken().is_empty() {
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
