//! The decision core: a pure function from what was observed to how many instances there should be.
//!
//! In this order, and each step is in the record:
//!
//! 1. every signal is checked and turned into a proposal (`demand`); the largest wins;
//! 2. a signal that is missing for longer than the grace adds the fallback, where the policy has one;
//! 3. scale-in is vetoed while a signal is missing, a rollout runs, instances warm up, or somebody else has just raised the count;
//! 4. the stabilisation windows: on the way in the largest proposal counts, on the way out the smallest;
//! 5. scale-out is vetoed where somebody else has just lowered the count;
//! 6. `max`, then the rate limits, then `min`, which nothing holds back.
//!
//! Bounds hold whatever the signals say: an order to have at most so many is no conclusion from data. A count that was not looked
//! at, because the state is new or nobody decided for a while, enters the scale-in window as a proposal to stay, so that a
//! restart never scales in before it has seen a whole window.

use ews_core::policy::{Constraint, Input, Proposal};
use ews_core::{Explained, Policy, PolicyState, Result, Timestamp};

use crate::demand::{Demand, demand, validate};
use crate::observation::{ScaleDecision, ScaleObservation, Sight};
use crate::policy::{Direction, OnMissing, ScalePolicy, Select};
use crate::rate;
use crate::state::{State, VERSION};
use crate::window::{Extreme, extreme_of};

/// Target tracking: the largest proposal of all signals, within the policy's bounds and rates.
///
/// ```
/// use ews_core::metrics::MetricQuery;
/// use ews_core::{Policy, PolicyState, Scale, Selector, Timestamp};
/// use ews_scale::{ScaleObservation, ScalePolicy, Signal, SignalReading, Target, TargetTracking};
///
/// let query = MetricQuery::new("requests", Selector::everything());
/// let policy = ScalePolicy::new(2, 20, [Signal::new("requests", Target::PerInstance(50.0), query)]);
/// let policy = TargetTracking::new(policy)?;
///
/// let now: Timestamp = "2026-11-23T08:00:00Z".parse()?;
/// let seen = ScaleObservation::new(Scale::at_rest(3, 1), [SignalReading::measured("requests", 290.0, now)]);
/// let (decided, _state) = policy.decide(&seen, &PolicyState::default(), now);
/// assert_eq!(decided.decision.desired, 6);
/// println!("{decided}");
/// # Ok::<(), ews_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct TargetTracking {
    policy: ScalePolicy,
}

impl TargetTracking {
    /// Its name in records.
    pub const NAME: &'static str = "target-tracking/1";

    /// A policy that was checked.
    ///
    /// # Errors
    /// Those of [`ScalePolicy::check`].
    pub fn new(policy: ScalePolicy) -> Result<Self> {
        policy.check().map_err(|error| error.with_operation("scale.policy"))?;
        Ok(Self { policy })
    }

    /// The policy.
    pub fn policy(&self) -> &ScalePolicy {
        &self.policy
    }
}

impl Policy<ScaleObservation, ScaleDecision> for TargetTracking {
    fn name(&self) -> &str {
        Self::NAME
    }

    fn decide(
        &self,
        observation: &ScaleObservation,
        state: &PolicyState,
        now: Timestamp,
    ) -> (Explained<ScaleDecision>, PolicyState) {
        let mut notes = Vec::new();
        let known = state.read::<State>(VERSION).unwrap_or_else(|error| {
            notes.push(format!("it started anew, since its state could not be read: {}", error.message()));
            None
        });
        let mut run = Run::new(&self.policy, observation, known, now);
        let desired = run.decide();
        let Run { mut state, mut record, current, sight, .. } = run;
        state.decided(current, desired, now);
        record.decision = ScaleDecision { desired, from: current, sight };
        record.outcome = outcome(&record, &notes);
        // What can't be written is forgotten, which is as careful as a restart.
        let next = PolicyState::new(VERSION, &state).unwrap_or_default();
        (record, next)
    }
}

fn outcome(record: &Explained<ScaleDecision>, notes: &[String]) -> String {
    let ScaleDecision { desired, from, sight } = record.decision;
    let mut text = match desired.cmp(&from) {
        std::cmp::Ordering::Equal => format!("stays at {from}"),
        std::cmp::Ordering::Greater => format!("out from {from} to {desired}"),
        std::cmp::Ordering::Less => format!("in from {from} to {desired}"),
    };
    match sight {
        Sight::Full => {}
        Sight::Partial => text.push_str(", with signals missing"),
        Sight::Blind => text.push_str(", without any signal"),
        Sight::Failed => {
            text.push_str(", which is a failure by its policy: a signal is missing for too long")
        }
    }
    for note in notes {
        text.push_str("; ");
        text.push_str(note);
    }
    text
}

/// One decision as it is made.
struct Run<'a> {
    policy: &'a ScalePolicy,
    observation: &'a ScaleObservation,
    now: Timestamp,
    /// The count that is set.
    current: u32,
    state: State,
    /// Whether nobody looked before, or not for a while.
    unseen: bool,
    sight: Sight,
    record: Explained<ScaleDecision>,
}

impl<'a> Run<'a> {
    fn new(
        policy: &'a ScalePolicy,
        observation: &'a ScaleObservation,
        known: Option<State>,
        now: Timestamp,
    ) -> Self {
        let scale = &observation.scale;
        let unseen = known.as_ref().is_none_or(|state| state.paused(policy, now));
        let mut state = known.unwrap_or_else(|| State::new(scale, now));
        state.catch_up(scale, policy, now);
        let current = scale.desired;
        let nothing = ScaleDecision { desired: current, from: current, sight: Sight::Full };
        let record = Explained::new(TargetTracking::NAME, now, nothing, String::new());
        Self { policy, observation, now, current, state, unseen, sight: Sight::Full, record }
    }

    fn decide(&mut self) -> u32 {
        self.write_down_inputs();
        let wanted = self.proposals();
        let wanted = self.fallback(wanted);
        let wanted = self.veto_scale_in(wanted);
        let wanted = self.stabilise(wanted);
        let wanted = self.respect_lowering(wanted);
        self.bound(wanted)
    }

    fn write_down_inputs(&mut self) {
        let scale = &self.observation.scale;
        for (name, count) in [("desired", scale.desired), ("present", scale.present), ("ready", scale.ready)]
        {
            let input = Input::new(name, Ok(f64::from(count)));
            self.record.inputs.push(input);
        }
        for signal in &self.policy.signals {
            let reading = self.observation.signals.iter().find(|reading| reading.name == signal.name);
            let value = validate(signal, reading, self.policy, self.now).map_err(|(reason, _)| reason);
            let age = reading.and_then(|reading| reading.at).map(|at| self.now.since(at));
            self.record.inputs.push(Input::new(signal.name.clone(), value).with_age(age));
        }
    }

    fn proposals(&mut self) -> u32 {
        let mut largest: Option<u32> = None;
        let mut missing = 0;
        for signal in &self.policy.signals {
            let reading = self.observation.signals.iter().find(|reading| reading.name == signal.name);
            let (value, reason) =
                match demand(signal, reading, &self.observation.scale, self.policy, self.now) {
                    Demand::Count(count, why) => {
                        self.state.missing.remove(&signal.name);
                        largest = largest.max(Some(count));
                        (count.to_string(), why)
                    }
                    Demand::Unavailable(_, why) => {
                        missing += 1;
                        self.state.missing.entry(signal.name.clone()).or_insert(self.now);
                        ("no scale-in".to_owned(), why)
                    }
                };
            self.record.proposals.push(Proposal::new(signal.name.clone(), value, reason));
        }
        self.sight = match (missing, largest) {
            (0, _) => Sight::Full,
            (_, Some(_)) => Sight::Partial,
            (_, None) => Sight::Blind,
        };
        largest.unwrap_or(self.current)
    }

    fn fallback(&mut self, wanted: u32) -> u32 {
        let signals = self.policy.signals.iter();
        let late = signals.map(|signal| self.state.missing_for(&signal.name, self.now)).max();
        if self.sight == Sight::Full || late.is_none_or(|late| late < self.policy.grace) {
            return wanted;
        }
        match self.policy.on_missing {
            OnMissing::Hold => wanted,
            OnMissing::Fail => {
                self.sight = Sight::Failed;
                wanted
            }
            OnMissing::AtLeast(count) => self.bind("on_missing", wanted, wanted.max(count)),
        }
    }

    fn veto_scale_in(&mut self, wanted: u32) -> u32 {
        if wanted >= self.current {
            return wanted;
        }
        let warming = self.state.incomplete_since.map(|since| self.now.since(since));
        let reason = if self.sight != Sight::Full {
            "a signal is missing: no scale-in"
        } else if self.observation.scale.rolling_out {
            "a rollout runs: no scale-in"
        } else if warming.is_some_and(|time| time < self.policy.warm_up) {
            "instances warm up: no scale-in"
        } else if self.state.manual.is_some_and(|manual| manual.up) {
            "somebody else raised the count: no scale-in"
        } else {
            return wanted;
        };
        self.bind(reason, wanted, self.current)
    }

    fn stabilise(&mut self, wanted: u32) -> u32 {
        let Self { policy, now, current, .. } = *self;
        let caution = self.state.caution(policy);
        let (window_in, longest) = (policy.scale_in.window * caution, policy.scale_in.window * 8);
        if self.unseen {
            let kept = &mut self.state.largest;
            extreme_of(kept, Extreme::Largest, current, now, window_in, longest);
        }
        let kept = &mut self.state.largest;
        let highest = extreme_of(kept, Extreme::Largest, wanted, now, window_in, longest);
        let (kept, window_out) = (&mut self.state.smallest, policy.scale_out.window);
        let lowest = extreme_of(kept, Extreme::Smallest, wanted, now, window_out, window_out);
        let stable = current.max(lowest).min(highest);
        let name = match (wanted < current, caution) {
            (false, _) => "scale_out.window".to_owned(),
            (true, 1) => "scale_in.window".to_owned(),
            (true, times) => format!("scale_in.window, {times} times as long since the count flaps"),
        };
        self.bind(&name, wanted, stable)
    }

    fn respect_lowering(&mut self, wanted: u32) -> u32 {
        if wanted > self.current && self.state.manual.is_some_and(|manual| !manual.up) {
            return self.bind("somebody else lowered the count: no scale-out", wanted, self.current);
        }
        wanted
    }

    fn bound(&mut self, wanted: u32) -> u32 {
        let Self { policy, now, current, .. } = *self;
        let wanted = self.bind("max", wanted, wanted.min(policy.max));
        let changes = &self.state.changes;
        let wanted = if wanted > current {
            let most = rate::most(&policy.scale_out, current, changes, now);
            self.bind("scale_out.limits", wanted, wanted.min(most))
        } else if wanted < current {
            // What is switched off is scale-in by signals; a bound is an order.
            let select = match policy.scale_in.select {
                Select::Disabled if current > policy.max => Select::Most,
                select => select,
            };
            let rules = Direction { select, ..policy.scale_in.clone() };
            let least = rate::least(&rules, current, changes, now);
            self.bind("scale_in.limits", wanted, wanted.max(least))
        } else {
            wanted
        };
        self.bind("min", wanted, wanted.max(policy.min))
    }

    /// Writes down what bound the count, where something did.
    fn bind(&mut self, name: &str, before: u32, after: u32) -> u32 {
        if before != after {
            let (before, after) = (before.to_string(), after.to_string());
            self.record.constraints.push(Constraint::new(name, before, after));
        }
        after
    }
}
