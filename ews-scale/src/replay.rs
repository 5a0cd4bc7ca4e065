//! Backtests: the same decision core over a recorded load, with a simple service that follows.
//!
//! The service takes up to its capacity per ready instance; an instance that is asked for is ready after the start delay, one
//! that is no longer wanted is gone at once. What arrives above the ready capacity in a second counts as under-provisioned: there
//! is no queue, so a backtest says how much of the load met too few instances, not how long it waited.

use std::collections::VecDeque;
use std::time::Duration;

use ews_core::policy::PolicyState;
use ews_core::{Error, Policy, Result, Scale, Timestamp};
use serde::{Deserialize, Serialize};

use crate::decide::TargetTracking;
use crate::observation::{ScaleDecision, ScaleObservation, SignalReading};
use crate::policy::{ScalePolicy, Target};

/// The longest trace: a year of seconds.
const MOST_SECONDS: usize = 366 * 24 * 3600;

/// The service that a backtest pretends to have.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Plant {
    /// How many requests per second one ready instance takes; above zero.
    pub capacity: f64,
    /// How long an instance takes until it is ready. Default 30 s.
    #[serde(with = "ews_core::time::duration")]
    pub start_delay: Duration,
    /// Over how long the signals are averaged. Default 15 s, one interval.
    #[serde(with = "ews_core::time::duration")]
    pub signal_window: Duration,
    /// How many instances run at the start, all ready. Default: what the trace's first minute needs, within the bounds.
    pub start: Option<u32>,
}

impl Plant {
    /// Instances of this capacity, in requests per second.
    pub fn new(capacity: f64) -> Self {
        let (start_delay, signal_window) = (Duration::from_secs(30), Duration::from_secs(15));
        Self { capacity, start_delay, signal_window, start: None }
    }

    /// Instances that are ready after so long.
    #[must_use]
    pub fn with_start_delay(mut self, start_delay: Duration) -> Self {
        self.start_delay = start_delay;
        self
    }

    /// Signals that are averaged over so long.
    #[must_use]
    pub fn with_signal_window(mut self, signal_window: Duration) -> Self {
        self.signal_window = signal_window;
        self
    }

    /// With so many instances at the start.
    #[must_use]
    pub fn with_start(mut self, start: u32) -> Self {
        self.start = Some(start);
        self
    }
}

/// What a backtest found.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ReplayReport {
    /// Requests of the trace.
    pub requests: f64,
    /// Of them, those that came in a second whose ready instances could not take them.
    pub under_provisioned: f64,
    /// How often the count changed.
    pub changes: u32,
    /// How often it changed in the direction opposite to the change before.
    pub reversals: u32,
    /// Seconds of all instances that were wanted, ready or not: the cost.
    pub instance_seconds: f64,
    /// The same of an oracle that has exactly enough in every second and knows the future, within the same bounds.
    pub oracle_seconds: f64,
    /// The largest count.
    pub most: u32,
    /// The smallest count.
    pub fewest: u32,
}

impl ReplayReport {
    /// The share of requests that were under-provisioned, 0 to 1.
    pub fn share_under_provisioned(&self) -> f64 {
        if self.requests > 0.0 { self.under_provisioned / self.requests } else { 0.0 }
    }

    /// The cost as a multiple of the oracle's.
    pub fn cost(&self) -> f64 {
        if self.oracle_seconds > 0.0 { self.instance_seconds / self.oracle_seconds } else { 1.0 }
    }
}

/// Runs a policy over a trace of requests per second, one value per second. A signal with a target per instance is the rate;
/// one with a ratio is the share of the ready instances' capacity that is used, at most 1, as a share of CPU would be.
///
/// ```
/// use ews_core::Selector;
/// use ews_core::metrics::MetricQuery;
/// use ews_scale::{Plant, ScalePolicy, Signal, Target, TargetTracking, replay};
///
/// let query = MetricQuery::new("requests", Selector::everything());
/// let policy = ScalePolicy::new(1, 50, [Signal::new("requests", Target::PerInstance(7.0), query)]);
/// let trace: Vec<f64> = (0..600).map(|second| 50.0 + f64::from(second) / 10.0).collect();
/// let report = replay(&TargetTracking::new(policy)?, &trace, &Plant::new(10.0))?;
/// assert!(report.share_under_provisioned() < 0.01);
/// # Ok::<(), ews_core::Error>(())
/// ```
///
/// # Errors
/// `Invalid` for a trace that is empty, longer than a year or holds what is no rate, and for a capacity or a window of zero.
pub fn replay(policy: &TargetTracking, trace: &[f64], plant: &Plant) -> Result<ReplayReport> {
    replay_with(policy, policy.policy(), trace, plant)
}

/// Runs a policy of one's own over a trace, as [`replay`] does. Of the document only `min`, `max`, `interval` and the signals'
/// names and targets count: they say what the policy is shown, how often, and what the oracle is held to.
///
/// # Errors
/// Those of [`replay`] and of [`ScalePolicy::check`].
pub fn replay_with(
    policy: &dyn Policy<ScaleObservation, ScaleDecision>,
    doc: &ScalePolicy,
    trace: &[f64],
    plant: &Plant,
) -> Result<ReplayReport> {
    check(trace, plant)?;
    doc.check()?;
    let needed = |rate: f64| up(rate / plant.capacity).clamp(doc.min, doc.max);
    let minute = trace.get(..trace.len().min(60)).unwrap_or(trace);
    let start = plant.start.unwrap_or_else(|| needed(minute.iter().copied().fold(0.0, f64::max)));
    let mut service = Service { desired: start, ready: start, starting: VecDeque::new(), version: 1 };
    let mut report = ReplayReport {
        requests: 0.0,
        under_provisioned: 0.0,
        changes: 0,
        reversals: 0,
        instance_seconds: 0.0,
        oracle_seconds: 0.0,
        most: start,
        fewest: start,
    };
    let (mut state, mut last_up) = (PolicyState::default(), None);
    let window = usize::try_from(plant.signal_window.as_secs()).unwrap_or(usize::MAX).max(1);
    let mut shares = VecDeque::with_capacity(window.min(trace.len()));
    let mut next = Duration::ZERO;
    for (second, rate) in trace.iter().copied().enumerate() {
        let at = Duration::from_secs(second as u64);
        service.get_ready(at);
        let capacity = f64::from(service.ready) * plant.capacity;
        report.requests += rate;
        report.under_provisioned += (rate - capacity).max(0.0);
        report.instance_seconds += f64::from(service.desired);
        report.oracle_seconds += f64::from(needed(rate));
        if shares.len() == window {
            shares.pop_front();
        }
        shares.push_back((rate, if capacity > 0.0 { (rate / capacity).min(1.0) } else { 1.0 }));
        if at < next {
            continue;
        }
        next = at + doc.interval;

        // A fixed day, so that two runs record equal moments.
        let now = Timestamp::from_micros(1_767_225_600_000_000) + at;
        let signals = doc.signals.iter().map(|signal| {
            let value = match signal.target {
                Target::PerInstance(_) => mean(shares.iter().map(|(rate, _)| *rate)),
                Target::Ratio(_) => mean(shares.iter().map(|(_, share)| *share)),
            };
            SignalReading::measured(&signal.name, value, now)
        });
        let seen = ScaleObservation::new(service.scale(), signals);
        let (decided, after) = policy.decide(&seen, &state, now);
        state = after;
        let (from, desired) = (service.desired, decided.decision.desired);
        if desired != from {
            let up = desired > from;
            report.changes += 1;
            report.reversals += u32::from(last_up.is_some_and(|last| last != up));
            last_up = Some(up);
            service.set(desired, at + plant.start_delay);
        }
        report.most = report.most.max(desired);
        report.fewest = report.fewest.min(desired);
    }
    Ok(report)
}

fn check(trace: &[f64], plant: &Plant) -> Result<()> {
    if trace.is_empty() || trace.len() > MOST_SECONDS {
        return Err(Error::invalid(format!(
            "a trace of {} seconds; accepted: 1 to {MOST_SECONDS}",
            trace.len()
        )));
    }
    if let Some(second) = trace.iter().position(|rate| !rate.is_finite() || *rate < 0.0) {
        return Err(Error::invalid(format!(
            "second {second} of the trace is {}; accepted: a rate, finite and 0 or more",
            trace.get(second).copied().unwrap_or_default()
        )));
    }
    if !plant.capacity.is_finite() || plant.capacity <= 0.0 {
        return Err(Error::invalid(format!(
            "`capacity` of a plant is {}; accepted: finite and above zero",
            plant.capacity
        )));
    }
    if plant.signal_window.is_zero() {
        return Err(Error::invalid("`signal_window` of a plant is zero; accepted: above zero"));
    }
    Ok(())
}

/// The service that follows.
struct Service {
    desired: u32,
    ready: u32,
    /// When each of those that start is ready, the soonest first.
    starting: VecDeque<Duration>,
    version: u64,
}

impl Service {
    fn get_ready(&mut self, at: Duration) {
        while self.starting.front().is_some_and(|ready_at| *ready_at <= at) {
            self.starting.pop_front();
            self.ready += 1;
        }
    }

    fn set(&mut self, desired: u32, ready_at: Duration) {
        self.starting.extend((self.desired..desired).map(|_| ready_at));
        // Those that are not ready go first.
        for _ in desired..self.desired {
            if self.starting.pop_back().is_none() {
                self.ready = self.ready.saturating_sub(1);
            }
        }
        (self.desired, self.version) = (desired, self.version + 1);
    }

    fn scale(&self) -> Scale {
        let mut scale = Scale::at_rest(self.desired, self.version);
        scale.ready = self.ready;
        scale
    }
}

fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a count of seconds is far below 2^53")]
    let count = values.len() as f64;
    values.sum::<f64>() / count
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a cast saturates; a rate is not negative"
)]
fn up(work: f64) -> u32 {
    work.ceil() as u32
}
