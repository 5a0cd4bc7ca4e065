//! What follows from a canary's steps: how many new instances stand beside old ones, in which slots.

use crate::canary::CanaryStep;
use crate::record::RolloutState;
use crate::rollout::Phase;
use crate::strategy::Batch;

impl RolloutState {
    /// The step under way; `None` where there is none, or all are made.
    pub(crate) fn step(&self) -> Option<CanaryStep> {
        if self.phase != Phase::Forward || self.outcome.is_some() {
            return None;
        }
        self.strategy.steps().into_iter().nth(self.canary.as_ref()?.made)
    }

    /// The slots in which a new instance stands beside the old one, for as long as the old one is there.
    pub(crate) fn beside(&self) -> &[u32] {
        let Some(canary) = self.canary.as_ref().filter(|_| self.phase == Phase::Forward) else { return &[] };
        let step = self.step();
        // Instances come before the traffic that they are for, and go after it.
        let (weight, replicas, matches) = match &step {
            Some(CanaryStep::Weight(to)) => {
                (canary.weight.unwrap_or_default().max(*to), canary.replicas, false)
            }
            Some(CanaryStep::Replicas(count)) => (canary.weight.unwrap_or_default(), Some(*count), false),
            Some(CanaryStep::Match(attributes)) => {
                (canary.weight.unwrap_or_default(), canary.replicas, !attributes.is_empty())
            }
            _ => (canary.weight.unwrap_or_default(), canary.replicas, false),
        };
        let count = replicas.unwrap_or(Batch::Percent(weight)).of(self.slots.len());
        let least = usize::from(matches || !canary.matching.is_empty());
        self.slots.get(..count.max(least).min(self.slots.len())).unwrap_or_default()
    }
}
