//! What a leader does about instances that are not well: what it has seen of them, what the policy says, the brake.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use ews_core::metrics::MetricsExt as _;
use ews_core::policy::{Policy as _, PolicyState};
use ews_core::{ExitStatus, Instance, InstanceState};
use tokio::time::{Instant, timeout};

use super::leader::Leader;
use crate::decide::{Act, Cause, Health};
use crate::event::EventKind;
use crate::plan::{self, UnitOrder};
use crate::remedy::{Ailment, Remedy, RemedyPolicy, RemedyRules, RemedySeen};

/// How often the error budget is asked for, and how long an answer holds.
const BUDGET: Duration = Duration::from_secs(60);

/// What a leader remembers of instances that are not well.
#[derive(Default)]
pub(super) struct Care {
    /// Since when, and what.
    ill: std::collections::BTreeMap<u32, (Ailment, Instant)>,
    /// The slots that had an instance while this leader looked: what is empty there now was lost.
    had: BTreeSet<u32>,
    /// What was told of each slot last, so that it is told once.
    told: std::collections::BTreeMap<u32, (Ailment, Remedy)>,
    /// Slots that get no traffic until they are treated otherwise.
    pub(super) ejected: BTreeSet<u32>,
    /// How much of the error budget is left, and when that was said.
    budget: Option<(f64, Instant)>,
    asked: Option<Instant>,
    /// Whether it was told that the brake is on.
    braked: bool,
}

/// What an instance suffers from, and how many of its service serve.
struct Complaint {
    ailment: Ailment,
    reason: String,
    exit: Option<ExitStatus>,
    serving: usize,
}

impl Leader {
    fn remedies(&self) -> RemedyPolicy {
        self.input.value.remedy.clone().unwrap_or_default()
    }

    /// Puts what supervision wants through the policy, and adds what only the policy knows of.
    pub(super) fn treated(&mut self, acts: Vec<Act>, health: Health<'_>, now: Instant) -> Vec<Act> {
        let policy = self.remedies();
        self.ask_budget(&policy, now);
        self.care.had.extend(self.observed.slots());
        let state = &self.state;
        self.care.had.retain(|slot| state.slots.contains_key(slot));
        let taken: BTreeSet<u32> = acts.iter().map(Act::slot).collect();
        let mut complaints = Vec::new();
        let mut out = Vec::new();
        for act in acts {
            match self.complaint(&act) {
                Some((ailment, reason, exit)) => complaints.push((act, ailment, reason, exit)),
                None if self.may(&act, now) => out.push(act),
                None => {}
            }
        }
        let looks_at = |ailment| {
            let mut rules = policy.rules.iter();
            self.tools.remedies.is_some()
                || rules.any(|rule| rule.ailments.is_empty() || rule.ailments.contains(&ailment))
        };
        let not_ready = looks_at(Ailment::NotReady);
        for (slot, number) in &self.state.slots {
            if taken.contains(slot) || self.is_taken(*slot) {
                continue;
            }
            let Some(record) = self.revisions.get(number) else { continue };
            let (Some(instance), _) = self.observed.split(*slot, record.key()) else { continue };
            let ailment = match instance.state {
                InstanceState::Unknown { .. } => Ailment::NodeLost,
                InstanceState::Running
                    if not_ready && health(&instance.id).is_some_and(|status| !status.ready) =>
                {
                    Ailment::NotReady
                }
                _ => continue,
            };
            let why = ailment.to_string();
            let act = Act::Bounce { slot: *slot, revision: *number, why: why.clone(), beside: false };
            complaints.push((act, ailment, why, None));
        }
        let ill: BTreeSet<u32> = complaints.iter().map(|(act, ..)| act.slot()).collect();
        let busy = self.taken();
        self.care.ill.retain(|slot, _| ill.contains(slot) || busy.contains(slot));
        self.care.told.retain(|slot, _| ill.contains(slot) || busy.contains(slot));
        self.care.ejected.retain(|slot| ill.contains(slot));

        let serving = self.observed.iter().filter(|instance| self.serves(instance)).count();
        let treating = self.busy.values().filter(|busy| busy.remedy).count()
            + self.unseen.values().filter(|(_, remedy)| *remedy).count();
        let mut room = policy.brake.of(self.state.slots.len()).max(1).saturating_sub(treating);
        let mut held_up = 0;
        for (act, ailment, reason, exit) in complaints {
            let complaint = Complaint { ailment, reason, exit, serving };
            let Some(act) = self.treat(act, complaint, &policy, now) else { continue };
            if room == 0 {
                held_up += usize::from(self.restarts.is_due(act.spot(), now));
                continue;
            }
            if !self.may(&act, now) {
                continue;
            }
            room -= 1;
            out.push(act);
        }
        if held_up > 0 && !self.care.braked {
            let at_once = policy.brake.of(self.state.slots.len()).max(1);
            self.tools.narrator.tell(EventKind::Braked { waiting: held_up, at_once });
        }
        self.care.braked = held_up > 0;
        out
    }

    /// What an act of supervision complains of, where it does.
    fn complaint(&self, act: &Act) -> Option<(Ailment, String, Option<ExitStatus>)> {
        let (slot, beside) = act.spot();
        match act {
            Act::Fill { cause: Cause::Ended(how), revision, .. } => {
                let record = self.revisions.get(revision)?;
                let exit = match &self.observed.split(slot, record.key()).0?.state {
                    InstanceState::Exited(status) => Some(status.clone()),
                    _ => None,
                };
                let oom = exit.as_ref().is_some_and(|exit| exit.oom_killed);
                Some((if oom { Ailment::OutOfMemory } else { Ailment::Ended }, how.clone(), exit))
            }
            Act::Fill { cause: Cause::Empty, .. } if beside || self.care.had.contains(&slot) => {
                Some((Ailment::Gone, Ailment::Gone.to_string(), None))
            }
            Act::Bounce { why, .. } => Some((Ailment::NotLive, why.clone(), None)),
            _ => None,
        }
    }

    /// What is done about a complaint; `None` for nothing now.
    fn treat(&mut self, act: Act, complaint: Complaint, policy: &RemedyPolicy, now: Instant) -> Option<Act> {
        let Complaint { ailment, reason, exit, serving } = complaint;
        let (slot, beside) = act.spot();
        let (revision, record) = match &act {
            Act::Fill { revision, .. } | Act::Bounce { revision, .. } => {
                (*revision, self.revisions.get(revision)?.clone())
            }
            Act::Clear { .. } => return Some(act),
        };
        let since = match self.care.ill.get(&slot) {
            Some((before, since)) if *before == ailment => *since,
            _ => {
                self.care.ill.insert(slot, (ailment, now));
                now
            }
        };
        let instance = self.observed.split(slot, record.key()).0.cloned();
        let window = &record.spec().restart;
        let capabilities = self.tools.runtime.capabilities();
        let order = plan::order_of(self.strategy().order, record.spec(), self.scale.desired, &capabilities).0;
        let seen = RemedySeen {
            service: self.tools.service.clone(),
            slot,
            instance: instance.as_ref().map(|instance| instance.id.clone()),
            ailment,
            reason: reason.clone(),
            exit,
            lasted: now - since,
            restarts: self.restarts.count((slot, beside), now, window),
            budget: self.care.budget.filter(|(_, at)| now - *at < 2 * BUDGET).map(|(left, _)| left),
            serving: (serving, self.state.slots.len()),
            exclusive: order == UnitOrder::StopFirst,
            policy: policy.clone(),
        };
        let (at, none) = (self.tools.clock.now(), PolicyState::default());
        let (explained, _) = match &self.tools.remedies {
            Some(policy) => policy.decide(&seen, &none, at),
            None => RemedyRules.decide(&seen, &none, at),
        };
        let treatment = explained.decision;
        let is_usual = !treatment.alert
            && (treatment.remedy == Remedy::Restart
                || (treatment.remedy == Remedy::Hold && ailment == Ailment::NotReady));
        if self.care.told.insert(slot, (ailment, treatment.remedy)) != Some((ailment, treatment.remedy))
            && !is_usual
        {
            let (remedy, explained) = (treatment.remedy, explained.to_string());
            self.tools.narrator.tell(EventKind::Treated {
                slot,
                ailment,
                remedy,
                alert: treatment.alert,
                explained,
            });
        }
        if treatment.remedy != Remedy::Eject {
            self.care.ejected.remove(&slot);
        }
        match treatment.remedy {
            Remedy::Hold => None,
            Remedy::Eject => {
                self.care.ejected.insert(slot);
                None
            }
            // What can't be asked can't be started again either.
            Remedy::Restart | Remedy::Replace | Remedy::Move if ailment == Ailment::NodeLost => {
                let moves = matches!(treatment.remedy, Remedy::Move | Remedy::Replace);
                moves.then_some(Act::Fill { slot, revision, cause: Cause::Moved, beside })
            }
            Remedy::Restart => Some(act),
            Remedy::Replace | Remedy::Move => {
                Some(Act::Fill { slot, revision, cause: Cause::Replaced(reason), beside })
            }
        }
    }

    fn serves(&self, instance: &Instance) -> bool {
        instance.state == InstanceState::Running
            && self.tools.prober.state(&instance.id).is_some_and(|state| state.status.ready)
    }

    /// Asks how much of the error budget is left, now and then.
    fn ask_budget(&mut self, policy: &RemedyPolicy, now: Instant) {
        let (Some(query), Some(metrics)) = (&policy.error_budget, &self.tools.metrics) else { return };
        if self.care.asked.is_some_and(|asked| now - asked < BUDGET) || !self.budgets.is_empty() {
            return;
        }
        self.care.asked = Some(now);
        let (metrics, query, limit) = (Arc::clone(metrics), query.clone(), self.config.call_limit);
        self.budgets.spawn(async move {
            match timeout(limit, metrics.number(&query)).await {
                Ok(Ok(Ok(measured))) => Some(measured.value),
                _ => None,
            }
        });
    }

    /// The metrics have answered how much of the error budget is left.
    pub(super) fn budgeted(&mut self, left: Option<f64>) {
        self.care.budget = left.map(|left| (left, Instant::now()));
    }

    /// When something that is held now may be treated.
    pub(super) fn care_due(&self) -> Option<Instant> {
        if self.care.ill.is_empty() {
            return None;
        }
        let policy = self.input.value.remedy.clone().unwrap_or_default();
        let times: Vec<Duration> =
            policy.rules.iter().map(|rule| rule.after).chain([policy.fencing]).collect();
        let now = Instant::now();
        let due = self.care.ill.values().flat_map(|(_, since)| times.iter().map(|time| *since + *time));
        due.filter(|due| *due > now).min()
    }
}
