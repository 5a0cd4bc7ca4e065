//! What a leader does about a canary's steps: who gets which share, making a step, measuring.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use ews_core::metrics::{MetricQuery, Metrics, MetricsExt as _};
use ews_core::{Result, RevisionId, Selector, ServiceName};
use tokio::time::{Instant, timeout};

use super::leader::Leader;
use crate::analysis::{Analysis, MetricCheck, Numbers, OnInconclusive, Run, Verdict};
use crate::canary::CanaryStep;
use crate::event::EventKind;
use crate::failure::FailureClass;
use crate::record::{CanaryState, RolloutState};
use crate::rollout::Phase;
use crate::traffic::{Aim, CanaryAim};

/// Which analysis is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Which {
    /// That of a step, by how many were made before.
    Step(usize),
    /// That which goes on all along.
    Along,
}

impl Leader {
    /// Who gets which share of the traffic, as things stand.
    pub(super) fn aim(&self) -> Aim {
        let mut numbers: BTreeSet<u64> = self.state.slots.values().copied().collect();
        let mut canary = None;
        match &self.rollout {
            Some(rollout) if rollout.phase == Phase::RollingBack => numbers.extend(rollout.from),
            Some(rollout) => {
                canary = self.canary_aim(rollout);
                numbers.extend(canary.is_none().then_some(rollout.to));
            }
            None => {}
        }
        let named = numbers.iter().map(|number| self.revisions.get(number).map(|r| r.key().clone()));
        // With a revision that is not known nothing can be said of who may have a share.
        Aim { entitled: named.collect(), canary }
    }

    fn canary_aim(&self, rollout: &RolloutState) -> Option<CanaryAim> {
        let state = rollout.canary.as_ref()?;
        let strategy = &rollout.strategy;
        let is_promoted = rollout.step().is_none();
        // Where another rollout was superseded half way, some slots may run it already: nothing is taken from those.
        let serves_slots = self.state.slots.values().any(|number| *number == rollout.to);
        let preview = strategy.blue_green.as_ref().filter(|_| state.weight.is_none());
        Some(CanaryAim {
            to: self.revisions.get(&rollout.to)?.key().clone(),
            percent: state.weight.unwrap_or_default(),
            at_least: is_promoted || serves_slots,
            matching: state.matching.clone(),
            split_by: strategy.canary.as_ref().and_then(|canary| canary.split_by.clone()),
            preview: preview.map(|blue_green| blue_green.preview.clone()).unwrap_or_default(),
        })
    }

    /// Whether all is there that the step under way takes, and it is only waited for.
    pub(super) fn only_waits(&self, rollout: &RolloutState) -> bool {
        let timed = matches!(rollout.step(), Some(CanaryStep::Pause(_) | CanaryStep::Analysis(_)));
        let up = |canary: &CanaryState| {
            let stands =
                |slot: &u32| canary.up.contains(slot) || self.state.slots.get(slot) == Some(&rollout.to);
            rollout.beside().iter().all(stands)
        };
        timed && rollout.canary.as_ref().is_some_and(up) && !self.is_behind()
    }

    /// Whether the balancer may have other shares than it should.
    fn is_behind(&self) -> bool {
        !self.syncs.is_empty() || self.tools.director.as_ref().is_some_and(crate::traffic::Director::is_dirty)
    }

    /// What is measured all along, once there is something to measure.
    fn along<'a>(&self, rollout: &'a RolloutState) -> Option<&'a Analysis> {
        let state = rollout.canary.as_ref().filter(|_| rollout.step().is_some())?;
        let has_traffic = state.weight.is_some_and(|weight| weight > 0) || !state.matching.is_empty();
        rollout.strategy.canary.as_ref()?.analysis.as_ref().filter(|_| has_traffic)
    }

    /// Counts the time of the step under way. True where that is all that time is spent on.
    pub(super) fn count_step(&mut self, passed: Duration) -> bool {
        let Some(rollout) = &self.rollout else { return false };
        let (along, waits) = (self.along(rollout).is_some(), self.only_waits(rollout));
        let Some(canary) = self.rollout.as_mut().and_then(|rollout| rollout.canary.as_mut()) else {
            return false;
        };
        if along {
            canary.along.spent += passed;
        }
        if waits {
            canary.spent += passed;
            canary.run.spent += passed;
        }
        waits
    }

    /// When the step under way has something to do.
    pub(super) fn step_due(&self) -> Option<Instant> {
        let rollout = self.rollout.as_ref().filter(|rollout| !self.is_halted(rollout))?;
        let canary = rollout.canary.as_ref()?;
        let step = match rollout.step() {
            Some(CanaryStep::Pause(time)) => Some(time.saturating_sub(canary.spent)),
            Some(CanaryStep::Analysis(analysis)) => Some(canary.run.due_in(&analysis)),
            _ => None,
        };
        let along = self.along(rollout).map(|analysis| canary.along.due_in(analysis));
        step.into_iter().chain(along).min().map(|left| self.counted + left)
    }

    /// All that the step takes is there: what it is about is done.
    pub(super) async fn make(&mut self, step: CanaryStep) -> Result<()> {
        let Some(rollout) = &mut self.rollout else { return Ok(()) };
        let of = rollout.strategy.steps().len();
        let Some(canary) = &mut rollout.canary else { return Ok(()) };
        let number = canary.made + 1;
        match step {
            CanaryStep::Weight(percent) => canary.weight = Some(percent),
            CanaryStep::Replicas(count) => canary.replicas = Some(count),
            CanaryStep::Match(attributes) => canary.matching = attributes,
            CanaryStep::Pause(time) if canary.spent < time => return Ok(()),
            CanaryStep::Pause(_) => {}
            CanaryStep::Approval => {
                let reason = format!("step {number} of {of} waits for approval");
                return self.hold(reason, true).await;
            }
            CanaryStep::Analysis(_) => return Ok(()),
        }
        self.next_step();
        self.draft()?.commit().await.map(|_| ())
    }

    /// The step under way is made. What it did is not written yet.
    pub(super) fn next_step(&mut self) {
        let Some(rollout) = &mut self.rollout else { return };
        let Some(canary) = &mut rollout.canary else { return };
        canary.made += 1;
        canary.spent = Duration::ZERO;
        canary.run = Run::default();
        canary.asks = false;
        rollout.spent = Duration::ZERO;
        let beside: BTreeSet<u32> = rollout.beside().iter().copied().collect();
        let is_last = rollout.step().is_none();
        if let Some(canary) = &mut rollout.canary {
            canary.up.retain(|slot| beside.contains(slot));
        }
        self.counted = Instant::now();
        if is_last {
            self.begin_batches();
        }
    }

    /// Tells of the step under way, once.
    pub(super) fn tell_step(&mut self) {
        let Some(rollout) = &self.rollout else { return };
        let Some(canary) = &rollout.canary else { return };
        let Some(step) = rollout.step().filter(|_| self.told_step != Some(canary.made)) else { return };
        self.told_step = Some(canary.made);
        let of = rollout.strategy.steps().len();
        self.tools.narrator.tell(EventKind::StepStarted { number: canary.made + 1, of, step });
    }

    /// The rollout waits for somebody. With `asks` that somebody says that the step is good.
    async fn hold(&mut self, reason: String, asks: bool) -> Result<()> {
        let resumes = self.control.resumes;
        let Some(rollout) = &mut self.rollout else { return Ok(()) };
        rollout.held = Some(if self.control.rollout == rollout.number { resumes } else { 0 });
        rollout.cause.clone_from(&reason);
        if let Some(canary) = &mut rollout.canary {
            canary.asks = asks;
        }
        self.draft()?.commit().await?;
        self.tools.narrator.tell(EventKind::Paused { reason });
        Ok(())
    }

    /// Begins the measurements that are due.
    pub(super) fn measure(&mut self) {
        let Some(rollout) = self.rollout.as_ref().filter(|rollout| !self.is_halted(rollout)) else { return };
        let (Some(canary), Some(metrics)) = (&rollout.canary, &self.tools.metrics) else { return };
        let mut due = Vec::new();
        if let Some(CanaryStep::Analysis(analysis)) = rollout.step()
            && self.only_waits(rollout)
            && canary.run.due_in(&analysis).is_zero()
        {
            due.push((Which::Step(canary.made), analysis));
        }
        if let Some(analysis) = self.along(rollout)
            && canary.along.due_in(analysis).is_zero()
        {
            due.push((Which::Along, analysis.clone()));
        }
        let name = |number: Option<u64>| Some(self.revisions.get(&number?)?.key().clone());
        let Some(to) = name(Some(rollout.to)) else { return };
        let (from, number) = (name(rollout.from), rollout.number);
        for (which, analysis) in due {
            if !self.measuring.insert(which) {
                continue;
            }
            let asked = Asked {
                metrics: Arc::clone(metrics),
                service: self.tools.service.clone(),
                to: to.clone(),
                from: from.clone(),
                limit: self.config.call_limit,
            };
            self.measures.spawn(async move {
                let mut numbers = Vec::new();
                for check in &analysis.checks {
                    numbers.push(asked.numbers(check).await);
                }
                (number, which, numbers)
            });
        }
    }

    /// Metrics were measured.
    pub(super) async fn measured(&mut self, number: u64, which: Which, numbers: Vec<Numbers>) -> Result<()> {
        self.measuring.remove(&which);
        let Some(rollout) = self.rollout.as_mut().filter(|rollout| rollout.number == number) else {
            return Ok(());
        };
        let step = rollout.step();
        let along = rollout.strategy.canary.as_ref().and_then(|canary| canary.analysis.clone());
        let Some(canary) = &mut rollout.canary else { return Ok(()) };
        let (analysis, run) = match (which, step) {
            (Which::Step(made), Some(CanaryStep::Analysis(analysis))) if made == canary.made => {
                (analysis, &mut canary.run)
            }
            (Which::Along, Some(_)) => match along {
                Some(analysis) => (analysis, &mut canary.along),
                None => return Ok(()),
            },
            // It came too late to matter.
            _ => return Ok(()),
        };
        let taken = run.take(&analysis, &numbers, which == Which::Along);
        let (measurements, verdict) = (taken.measurements, taken.verdict);
        match verdict {
            None => {
                self.draft()?.commit().await?;
            }
            Some(Verdict::Pass) => {
                self.next_step();
                self.draft()?.commit().await?;
            }
            Some(_) => {}
        }
        self.tools.narrator.tell(EventKind::Measured { measurements, verdict });
        let reason = taken.reason;
        match verdict {
            None | Some(Verdict::Pass) => Ok(()),
            Some(Verdict::Fail) => {
                self.turned(format!("the analysis failed: {reason}"), FailureClass::Analysis).await
            }
            Some(verdict) if analysis.on_inconclusive == OnInconclusive::Fail => {
                self.turned(format!("the analysis is {verdict}: {reason}"), FailureClass::Analysis).await
            }
            Some(verdict) => {
                self.hold(format!("the analysis is {verdict}: {reason}"), which != Which::Along).await
            }
        }
    }
}

/// What it takes to ask the metrics about two revisions.
struct Asked {
    metrics: Arc<dyn Metrics>,
    service: ServiceName,
    to: RevisionId,
    from: Option<RevisionId>,
    limit: Duration,
}

impl Asked {
    async fn numbers(&self, check: &MetricCheck) -> Numbers {
        let mut numbers = self.of(check, &self.to).await;
        if let Some(from) = self.from.as_ref().filter(|_| check.needs_baseline()) {
            numbers.baseline = Some(Box::new(self.of(check, from).await));
        }
        numbers
    }

    async fn of(&self, check: &MetricCheck, revision: &RevisionId) -> Numbers {
        let value = self.number(&check.query, check, revision).await;
        let mut numbers = Numbers { value, per: None, volume: None, baseline: None };
        if let Some(per) = &check.per {
            numbers.per = Some(self.number(per, check, revision).await);
        }
        if let Some(volume) = &check.volume {
            numbers.volume = Some(self.number(volume, check, revision).await);
        }
        numbers
    }

    async fn number(
        &self,
        query: &MetricQuery,
        check: &MetricCheck,
        revision: &RevisionId,
    ) -> Result<Result<f64, ews_core::metrics::Unavailable>, String> {
        let mut query = query.clone();
        if check.scoped {
            let equal = |key: &str, value: &str| {
                Selector::equal(key, value).map_err(|error| error.message().to_owned())
            };
            query.matching = query
                .matching
                .and(&equal("service", self.service.as_str())?)
                .and(&equal("revision", revision.as_str())?);
        }
        match timeout(self.limit, self.metrics.number(&query)).await {
            Ok(Ok(told)) => Ok(told.map(|measured| measured.value)),
            Ok(Err(error)) => Err(error.message().to_owned()),
            Err(_) => Err(format!("no answer within {:?}", self.limit)),
        }
    }
}
