//! A scale policy by thresholds: from so many requests per second on, so many instances.
//!
//! It goes up at once and down only after the load has been lower for a while, which is what it remembers. Without data the count stays, and the
//! while begins anew: nobody looked. A moment before the one that it remembers counts as that moment, since clocks step.

use std::time::Duration;

use ews_core::policy::{Explained, Input, Policy, PolicyState, Proposal};
use ews_core::{Error, Result, Timestamp, Unavailable};
use ews_scale::{ScaleDecision, ScaleObservation, Sight};
use serde::{Deserialize, Serialize};

/// Counts by thresholds. See the [module](self).
#[derive(Debug, Clone)]
pub struct Staircase {
    signal: String,
    /// From which value on how many, both growing.
    steps: Vec<(f64, u32)>,
    /// For how long the load must have been lower before the count is.
    hold: Duration,
}

/// The version of what it remembers. Raise it where the form changes.
const VERSION: u32 = 1;

/// What it remembers.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
struct Memory {
    /// Since when the load asks for less than there is.
    lower_since: Option<Timestamp>,
}

impl Staircase {
    /// Of this signal: from each value on, so many instances; going down after so long.
    ///
    /// # Errors
    /// `Invalid` for steps that do not begin at 0 or do not grow.
    pub fn new(
        signal: impl Into<String>,
        steps: impl IntoIterator<Item = (f64, u32)>,
        hold: Duration,
    ) -> Result<Self> {
        let steps: Vec<(f64, u32)> = steps.into_iter().collect();
        let begins = steps.first().is_some_and(|(from, count)| *from == 0.0 && *count > 0);
        let grows = steps.array_windows().all(|[(from, few), (to, many)]| from < to && few < many);
        if !begins || !grows {
            return Err(Error::invalid(
                "the steps of a staircase; accepted: at least one, the first from 0 on with 1 instance or more, values and \
                 counts growing",
            ));
        }
        Ok(Self { signal: signal.into(), steps, hold })
    }

    fn count(&self, value: f64) -> u32 {
        let reached = self.steps.iter().rev().find(|(from, _)| value >= *from);
        reached.map_or(1, |(_, count)| *count)
    }

    fn reading(&self, seen: &ScaleObservation) -> std::result::Result<f64, Unavailable> {
        let reading = seen.signals.iter().find(|reading| reading.name == self.signal);
        match reading.map(|reading| reading.value) {
            Some(Ok(value)) if value.is_finite() && value >= 0.0 => Ok(value),
            Some(Ok(_)) => Err(Unavailable::NotANumber),
            Some(Err(reason)) => Err(reason),
            None => Err(Unavailable::Missing),
        }
    }
}

impl Policy<ScaleObservation, ScaleDecision> for Staircase {
    fn name(&self) -> &'static str {
        "staircase/1"
    }

    fn decide(
        &self,
        seen: &ScaleObservation,
        state: &PolicyState,
        now: Timestamp,
    ) -> (Explained<ScaleDecision>, PolicyState) {
        // What it can't read, it starts without, and says so.
        let (memory, unread) = match state.read::<Memory>(VERSION) {
            Ok(memory) => (memory.unwrap_or_default(), String::new()),
            Err(error) => (Memory::default(), format!(" (its memory was left unread: {})", error.message())),
        };
        let present = seen.scale.desired;
        let reading = self.reading(seen);
        let mut next = Memory::default();
        let (desired, sight, why) = match &reading {
            Err(_) => (present, Sight::Blind, "nothing is known, so nothing changes".to_owned()),
            Ok(value) => {
                let wanted = self.count(*value);
                let since = memory.lower_since.filter(|since| *since <= now).unwrap_or(now);
                if wanted >= present {
                    (wanted, Sight::Full, format!("{value} asks for {wanted}"))
                } else if since + self.hold <= now {
                    (wanted, Sight::Full, format!("{value} has asked for {wanted} since {since}"))
                } else {
                    next.lower_since = Some(since);
                    (present, Sight::Full, format!("{value} asks for {wanted}, and not for long enough"))
                }
            }
        };
        let outcome = format!("{present} to {desired}: {why}{unread}");
        let mut explained = Explained::new(
            Policy::<ScaleObservation, ScaleDecision>::name(self),
            now,
            ScaleDecision::new(desired, present, sight),
            outcome,
        );
        if let Ok(value) = reading {
            let value = Proposal::new(self.signal.clone(), self.count(value).to_string(), why);
            explained.proposals.push(value);
        }
        let count = Input::new("desired", Ok(f64::from(present)));
        let input = Input::new(self.signal.clone(), reading);
        let state = PolicyState::new(VERSION, &next).unwrap_or_default();
        (explained.with_input(input).with_input(count), state)
    }
}
