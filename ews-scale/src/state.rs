//! What the decision core remembers from one decision to the next.
//!
//! It is stored and comes back after a restart, possibly on a machine with another clock: moments that lie in the future then
//! count as now, which makes every window longer and none shorter. Every list in it is bounded.

use std::collections::BTreeMap;
use std::time::Duration;

use ews_core::{Scale, Timestamp};
use serde::{Deserialize, Serialize};

use crate::policy::ScalePolicy;
use crate::rate::Change;
use crate::window::Proposed;

/// The version of [`State`]'s form.
pub(crate) const VERSION: u32 = 1;

/// The most changes and reversals that are kept.
const MOST: usize = 1_024;
/// How long what was decided may take to happen, in which it is not taken for somebody else's: six times the longest that one call may take, so that
/// a target that answers late and acts later yet is no operator.
const UNDER_WAY: Duration = Duration::from_secs(60);
/// The most decisions of which nothing was seen yet that are kept.
const MOST_UNDER_WAY: usize = 16;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct State {
    /// When the last decision was made.
    pub(crate) last_at: Timestamp,
    /// The count that was set then.
    pub(crate) seen: u32,
    /// The count that was decided then.
    pub(crate) wanted: u32,
    /// For the scale-in window.
    pub(crate) largest: Vec<Proposed>,
    /// For the scale-out window.
    pub(crate) smallest: Vec<Proposed>,
    /// The changes that took place, for the rate limits.
    pub(crate) changes: Vec<Change>,
    /// When the count turned around.
    pub(crate) reversals: Vec<Timestamp>,
    /// Signals that are missing, and since when.
    pub(crate) missing: BTreeMap<String, Timestamp>,
    /// Since when instances are not ready.
    pub(crate) incomplete_since: Option<Timestamp>,
    /// What somebody else did to the count.
    pub(crate) manual: Option<Manual>,
    /// What was decided before the last decision and was not seen to happen yet.
    #[serde(default)]
    pub(crate) under_way: Vec<Asked>,
}

/// A count that was decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Asked {
    pub(crate) at: Timestamp,
    pub(crate) count: u32,
}

/// A change by somebody else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Manual {
    pub(crate) at: Timestamp,
    pub(crate) up: bool,
}

impl State {
    /// Nothing is known yet.
    pub(crate) fn new(scale: &Scale, now: Timestamp) -> Self {
        Self {
            last_at: now,
            seen: scale.desired,
            wanted: scale.desired,
            largest: Vec::new(),
            smallest: Vec::new(),
            changes: Vec::new(),
            reversals: Vec::new(),
            missing: BTreeMap::new(),
            incomplete_since: None,
            manual: None,
            under_way: Vec::new(),
        }
    }

    /// Writes down what was decided for this count.
    pub(crate) fn decided(&mut self, current: u32, wanted: u32, now: Timestamp) {
        (self.seen, self.wanted, self.last_at) = (current, wanted, now);
        if wanted != current {
            self.under_way.retain(|asked| asked.count != wanted);
            self.under_way.push(Asked { at: now, count: wanted });
        }
    }

    /// Whether this count is what was decided, lately or before; if so, it has happened.
    fn is_ours(&mut self, count: u32) -> bool {
        let before = self.under_way.len();
        self.under_way.retain(|asked| asked.count != count);
        count == self.wanted || self.under_way.len() < before
    }

    /// Takes in what became of the count since the last decision, and forgets what no rule looks at any more.
    pub(crate) fn catch_up(&mut self, scale: &Scale, policy: &ScalePolicy, now: Timestamp) {
        self.last_at = self.last_at.min(now);
        let missing = self.missing.values_mut();
        let moments = missing.chain(&mut self.reversals).chain(&mut self.incomplete_since);
        moments.for_each(|at| *at = (*at).min(now));
        self.changes.iter_mut().for_each(|change| change.at = change.at.min(now));
        self.under_way.iter_mut().for_each(|asked| asked.at = asked.at.min(now));
        self.under_way.retain(|asked| now.since(asked.at) < UNDER_WAY);
        let excess = self.under_way.len().saturating_sub(MOST_UNDER_WAY);
        self.under_way.drain(..excess);

        let by = i64::from(scale.desired) - i64::from(self.seen);
        if by != 0 && self.is_ours(scale.desired) {
            if self.changes.last().is_some_and(|last| (last.by > 0) != (by > 0)) {
                self.reversals.push(self.last_at);
            }
            self.changes.push(Change { at: self.last_at, by });
        } else if by != 0 {
            self.manual = Some(Manual { at: now, up: by > 0 });
            // The rates count from what somebody else has set; what was changed before says nothing about it. One change stays,
            // outside every period, for its direction.
            self.changes.drain(..self.changes.len().saturating_sub(1));
            self.changes.iter_mut().for_each(|change| change.at = Timestamp::EPOCH);
        }
        if self.manual.is_some_and(|manual| now.since(manual.at) >= policy.respect) {
            self.manual = None;
        }
        if let Some(manual) = &mut self.manual {
            manual.at = manual.at.min(now);
        }

        let limits = policy.scale_out.limits.iter().chain(&policy.scale_in.limits);
        let longest = limits.map(|limit| limit.period).max().unwrap_or_default();
        // The last one stays whatever its age: it says in which direction the count moved.
        let last = self.changes.len().saturating_sub(1);
        let mut index = 0;
        self.changes.retain(|change| {
            index += 1;
            now.since(change.at) < longest || index > last
        });
        while self.changes.len() > MOST {
            let oldest = self.changes.remove(0);
            if let Some(next) = self.changes.first_mut() {
                next.by += oldest.by;
            }
        }
        self.reversals.retain(|at| now.since(*at) < policy.flapping.window);
        let excess = self.reversals.len().saturating_sub(MOST);
        self.reversals.drain(..excess);
        self.missing.retain(|name, _| policy.signals.iter().any(|signal| signal.name == *name));

        match (scale.ready < scale.desired, self.incomplete_since) {
            (true, None) => self.incomplete_since = Some(now),
            (false, _) => self.incomplete_since = None,
            _ => {}
        }
    }

    /// Whether nobody looked for so long that what happened meanwhile is not known.
    pub(crate) fn paused(&self, policy: &ScalePolicy, now: Timestamp) -> bool {
        now.since(self.last_at) > policy.interval.saturating_mul(3)
    }

    /// How much longer than usual the scale-in window is.
    pub(crate) fn caution(&self, policy: &ScalePolicy) -> u32 {
        let times =
            self.reversals.len() / usize::try_from(policy.flapping.reversals.max(1)).unwrap_or(usize::MAX);
        1 << times.min(3)
    }

    /// For how long a signal has been missing.
    pub(crate) fn missing_for(&self, name: &str, now: Timestamp) -> Duration {
        self.missing.get(name).map_or(Duration::ZERO, |since| now.since(*since))
    }
}
