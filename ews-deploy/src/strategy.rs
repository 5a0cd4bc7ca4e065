//! How a rollout proceeds: batches, order, gate, deadlines, and what happens on failure.
//!
//! Defaults are those that the peers' users ended up with; each field says where its own comes from.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use ews_core::spec::probe::Probe;
use ews_core::time::duration;
use ews_core::{Error, Result, ServiceSpec};
use serde::{Deserialize, Serialize};

use crate::canary::{BlueGreen, Canary, CanaryStep, check_steps};
use crate::failure::FailureRule;

/// How a rollout proceeds.
///
/// ```
/// use std::time::Duration;
/// use ews_deploy::{Batch, OnFailure, Strategy};
///
/// let careful = Strategy::default()
///     .with_batches(Batch::Count(1), Batch::Percent(10))
///     .with_min_healthy(Duration::from_secs(60))
///     .with_on_failure(OnFailure::Pause);
/// careful.check()?;
/// # Ok::<(), ews_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Strategy {
    /// Whether the new instance starts before or after the old one stops. Default: start-first where both can live side by
    /// side, which the plan says.
    pub order: Order,
    /// How many instances the first batch replaces. Default 1: what is broken breaks one.
    pub first_batch: Batch,
    /// How many each further batch replaces. Default 25 %, rounded up (Kubernetes' surge).
    pub batch: Batch,
    /// The pause between two batches; at most a day. Default none.
    #[serde(with = "duration")]
    pub interval: Duration,
    /// How long a new instance must have been ready without a break before it counts. Default 10 s (Nomad's).
    #[serde(with = "duration")]
    pub min_healthy: Duration,
    /// How long a new instance may take to get there. Above `min_healthy`. Default 5 min (Nomad's).
    #[serde(with = "duration")]
    pub healthy_deadline: Duration,
    /// How often a new instance may lose its readiness before it counts as failed though it is ready again. Default 3, a choice of ours.
    pub flaps: u32,
    /// How long a rollout may go without another instance getting healthy before it has failed. At least
    /// `healthy_deadline`. Time while paused does not count. Default 10 min (Nomad's and Kubernetes').
    #[serde(with = "duration")]
    pub progress_deadline: Duration,
    /// How long requests under way at an old instance may take before they are closed; at most a day. Default 30 s
    /// (Kamal's).
    #[serde(with = "duration")]
    pub drain: Duration,
    /// For how long each new instance is watched after it was found healthy: if it ends, or is found not to live, within this
    /// time, that is a failure of the rollout, and a rollout ends no sooner. As long as a liveness probe takes to say no in any
    /// case, at most half of `progress_deadline`; zero: not at all. Below `progress_deadline`. Default 30 s; Swarm's 5 s miss
    /// what a probe finds (moby#35498). A rollback is not watched.
    #[serde(with = "duration")]
    pub monitor: Duration,
    /// How many failures of new instances are taken before `on_failure` is done: each is undone and tried again. A share is of all
    /// instances, rounded down. Default none (Swarm's ratio of 0).
    pub max_failures: Option<Batch>,
    /// Whether somebody has to let the next batch begin, by [`resume`](crate::Deployer::resume). Default: nobody.
    pub approval: Approval,
    /// What is done about certain failures; the first rule that applies decides, then `on_failure`. At most 50. Default none.
    pub rules: Vec<FailureRule>,
    /// What happens when a new instance fails. Default: everything goes back to the last stable revision.
    pub on_failure: OnFailure,
    /// What is run once, as an instance of the new revision, before anything of the rollout is done, such as a migration. Default:
    /// nothing. A rollback runs no jobs.
    pub before: Option<RolloutJob>,
    /// What is run once when every slot runs the new revision; its failure is one of the rollout. Default: nothing.
    pub after: Option<RolloutJob>,
    /// What is done before anything is replaced. Default: nothing.
    pub canary: Option<Canary>,
    /// All new instances beside all old ones, and one switch; `first_batch` and `batch` are not looked at. Not beside `canary`.
    /// Default: no.
    pub blue_green: Option<BlueGreen>,
}

impl Default for Strategy {
    fn default() -> Self {
        Self {
            order: Order::Auto,
            first_batch: Batch::Count(1),
            batch: Batch::Percent(25),
            interval: Duration::ZERO,
            min_healthy: Duration::from_secs(10),
            healthy_deadline: Duration::from_secs(300),
            flaps: 3,
            progress_deadline: Duration::from_secs(600),
            drain: Duration::from_secs(30),
            monitor: Duration::from_secs(30),
            max_failures: None,
            approval: Approval::Automatic,
            rules: Vec::new(),
            on_failure: OnFailure::Rollback,
            before: None,
            after: None,
            canary: None,
            blue_green: None,
        }
    }
}

impl Strategy {
    /// In this order.
    #[must_use]
    pub fn with_order(mut self, order: Order) -> Self {
        self.order = order;
        self
    }

    /// In batches of these sizes.
    #[must_use]
    pub fn with_batches(mut self, first: Batch, further: Batch) -> Self {
        (self.first_batch, self.batch) = (first, further);
        self
    }

    /// With this pause between batches.
    #[must_use]
    pub fn with_interval(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }

    /// Healthy after so long.
    #[must_use]
    pub fn with_min_healthy(mut self, min_healthy: Duration) -> Self {
        self.min_healthy = min_healthy;
        self
    }

    /// Losing readiness at most so often.
    #[must_use]
    pub fn with_flaps(mut self, flaps: u32) -> Self {
        self.flaps = flaps;
        self
    }

    /// With these deadlines, for one instance and for progress of the whole.
    #[must_use]
    pub fn with_deadlines(mut self, healthy: Duration, progress: Duration) -> Self {
        (self.healthy_deadline, self.progress_deadline) = (healthy, progress);
        self
    }

    /// With so much time for requests under way.
    #[must_use]
    pub fn with_drain(mut self, drain: Duration) -> Self {
        self.drain = drain;
        self
    }

    /// Watching each new instance for so long.
    #[must_use]
    pub fn with_monitor(mut self, monitor: Duration) -> Self {
        self.monitor = monitor;
        self
    }

    /// Taking so many failures.
    #[must_use]
    pub fn with_max_failures(mut self, most: Batch) -> Self {
        self.max_failures = Some(most);
        self
    }

    /// With this approval of batches.
    #[must_use]
    pub fn with_approval(mut self, approval: Approval) -> Self {
        self.approval = approval;
        self
    }

    /// With this answer to failure.
    #[must_use]
    pub fn with_on_failure(mut self, on_failure: OnFailure) -> Self {
        self.on_failure = on_failure;
        self
    }

    /// With these rules about failures.
    #[must_use]
    pub fn with_rules(mut self, rules: impl IntoIterator<Item = FailureRule>) -> Self {
        self.rules = rules.into_iter().collect();
        self
    }

    /// With these jobs.
    #[must_use]
    pub fn with_jobs(mut self, before: Option<RolloutJob>, after: Option<RolloutJob>) -> Self {
        (self.before, self.after) = (before, after);
        self
    }

    /// After this canary.
    #[must_use]
    pub fn with_canary(mut self, canary: Canary) -> Self {
        self.canary = Some(canary);
        self
    }

    /// By blue/green.
    #[must_use]
    pub fn with_blue_green(mut self, blue_green: BlueGreen) -> Self {
        self.blue_green = Some(blue_green);
        self
    }

    /// Refuses what can't work: Nomad's rule that min_healthy < healthy_deadline ≤ progress_deadline, and empty batches.
    ///
    /// # Errors
    /// `Invalid`, naming the field and what is accepted.
    pub fn check(&self) -> Result<()> {
        const DAY: Duration = Duration::from_secs(24 * 3600);
        let wrong = |field: &'static str, accepted: String| {
            Err(Error::invalid(format!("`{field}` of the strategy is refused; accepted: {accepted}"))
                .with_context("field", field))
        };
        let counts = [("first_batch", Some(self.first_batch)), ("batch", Some(self.batch))];
        for (field, batch) in counts.into_iter().chain([("max_failures", self.max_failures)]) {
            if batch.is_some_and(|batch| !batch.is_valid()) {
                return wrong(field, "a count from 1, or `1%` to `100%`".to_owned());
            }
        }
        if self.healthy_deadline <= self.min_healthy {
            return wrong("healthy_deadline", format!("more than `min_healthy` ({:?})", self.min_healthy));
        }
        if self.progress_deadline < self.healthy_deadline || self.progress_deadline > 7 * DAY {
            return wrong(
                "progress_deadline",
                format!("from `healthy_deadline` ({:?}) to 7 days", self.healthy_deadline),
            );
        }
        if self.monitor >= self.progress_deadline {
            return wrong("monitor", format!("less than `progress_deadline` ({:?})", self.progress_deadline));
        }
        for (field, time) in [("interval", self.interval), ("drain", self.drain)] {
            if time > DAY {
                return wrong(field, "at most a day".to_owned());
            }
        }
        for (field, job) in [("before", &self.before), ("after", &self.after)] {
            let Some(job) = job else { continue };
            if job.command.first().is_none_or(String::is_empty) {
                return wrong(field, "a command of one word or more".to_owned());
            }
            if job.deadline.is_zero() || job.deadline > 7 * DAY || job.retries > 100 {
                return wrong(
                    field,
                    "a deadline above zero, at most 7 days, and at most 100 retries".to_owned(),
                );
            }
        }
        if self.rules.len() > 50 {
            return wrong("rules", "at most 50".to_owned());
        }
        match (&self.canary, &self.blue_green) {
            (Some(_), Some(_)) => {
                return wrong("blue_green", "none beside `canary`: one of the two".to_owned());
            }
            (Some(canary), None) => {
                canary.analysis.as_ref().map_or(Ok(()), crate::analysis::Analysis::check)?;
            }
            (None, Some(blue_green)) if blue_green.retire > 7 * DAY => {
                return wrong("blue_green.retire", "at most 7 days".to_owned());
            }
            (None, Some(blue_green)) if blue_green.preview.len() > BlueGreen::PREVIEWS => {
                return wrong("blue_green.preview", format!("at most {} domains", BlueGreen::PREVIEWS));
            }
            _ => {}
        }
        if self.canary.is_some() || self.blue_green.is_some() { check_steps(&self.steps()) } else { Ok(()) }
    }

    /// What is done before anything is replaced.
    pub(crate) fn steps(&self) -> Vec<CanaryStep> {
        match (&self.canary, &self.blue_green) {
            (Some(canary), _) => canary.steps.clone(),
            (None, Some(blue_green)) => blue_green.steps(),
            (None, None) => Vec::new(),
        }
    }

    /// Whether metrics are asked for.
    pub(crate) fn analyses(&self) -> bool {
        self.canary.as_ref().is_some_and(|canary| canary.analysis.is_some())
            || self.steps().iter().any(|step| matches!(step, CanaryStep::Analysis(_)))
    }

    /// For how long a new instance of this spec is watched: long enough for its liveness probe to say no, within the progress
    /// deadline.
    pub(crate) fn watch(&self, spec: &ServiceSpec) -> Duration {
        if self.monitor.is_zero() {
            return Duration::ZERO;
        }
        let says_no = |probe: &Probe| probe.interval.saturating_mul(probe.failure) + probe.timeout;
        let probed = spec.instance.probes.liveness.as_ref().map(says_no).unwrap_or_default();
        probed.min(self.progress_deadline / 2).max(self.monitor)
    }

    /// How many failures are taken where there are so many slots.
    pub(crate) fn tolerates(&self, slots: usize) -> usize {
        match self.max_failures {
            None => 0,
            Some(Batch::Count(count)) => count as usize,
            Some(Batch::Percent(percent)) => slots * usize::from(percent) / 100,
        }
    }

    /// The sizes of the batches for so many slots, of at least one each; their sum is `slots`.
    pub fn batches(&self, slots: usize) -> Vec<usize> {
        let mut sizes = Vec::new();
        let mut left = slots;
        while left > 0 {
            // What is switched as one is cleared away as one.
            if self.blue_green.is_some() {
                return vec![slots];
            }
            let wanted = if sizes.is_empty() { self.first_batch } else { self.batch };
            let size = wanted.of(slots).clamp(1, left);
            sizes.push(size);
            left -= size;
        }
        sizes
    }
}

/// A job of a rollout: a command that is run once, in an instance of the new revision without its ports and probes.
///
/// ```
/// use ews_deploy::{RolloutJob, Strategy};
///
/// let strategy = Strategy::default().with_jobs(Some(RolloutJob::new(["bin/migrate", "--yes"])), None);
/// strategy.check()?;
/// # Ok::<(), ews_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct RolloutJob {
    /// What is run, in place of the spec's command; its environment is the spec's.
    pub command: Vec<String>,
    /// Its arguments, in place of the spec's.
    #[serde(default)]
    pub args: Vec<String>,
    /// How long one attempt may take; above zero, at most 7 days. Default 1 h, a choice of ours.
    #[serde(default = "RolloutJob::hour", with = "duration")]
    pub deadline: Duration,
    /// How many further attempts follow a failed one; at most 100. Default 0.
    #[serde(default)]
    pub retries: u32,
}

impl RolloutJob {
    /// What the name ends with under which an engine knows the instances of a service's jobs. No service may be named so.
    pub const SUFFIX: &str = "-ews-job";

    const fn hour() -> Duration {
        Duration::from_secs(3600)
    }

    /// This command.
    pub fn new(command: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            command: command.into_iter().map(Into::into).collect(),
            args: Vec::new(),
            deadline: Self::hour(),
            retries: 0,
        }
    }

    /// With so much time for each of so many attempts besides the first.
    #[must_use]
    pub fn with_limits(mut self, deadline: Duration, retries: u32) -> Self {
        (self.deadline, self.retries) = (deadline, retries);
        self
    }
}

/// Whether the new instance starts before or after the old one stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Order {
    /// Start-first, unless a fixed port or a volume of a single instance would clash.
    #[default]
    Auto,
    /// The new one is healthy before the old one is touched.
    StartFirst,
    /// The old one has stopped before the new one starts. What is served is less by a batch meanwhile.
    StopFirst,
}

/// Whether somebody has to let the next batch begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Approval {
    /// Nobody: a batch follows the one before.
    #[default]
    Automatic,
    /// After the first batch the rollout waits; what follows follows by itself.
    FirstBatch,
    /// After every batch but the last the rollout waits.
    EveryBatch,
}

/// What happens when a new instance fails, or a deadline passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum OnFailure {
    /// Everything goes back to the last stable revision.
    #[default]
    Rollback,
    /// The failed instance is undone and the rollout waits for whoever resumes, aborts or cancels it.
    Pause,
    /// The failed instance is undone and the rollout ends there: what was replaced stays new.
    Freeze,
    /// The failed instance is undone and tried again, so many times at most for each slot; then the next rule counts.
    Retry(u32),
    /// The failed instance is undone, its slot keeps what it had, and the rollout goes on with the others. It ends as failed.
    Skip,
}

impl fmt::Display for OnFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rollback => f.write_str("rollback"),
            Self::Pause => f.write_str("pause"),
            Self::Freeze => f.write_str("freeze"),
            Self::Retry(times) => write!(f, "retry up to {times} times"),
            Self::Skip => f.write_str("skip"),
        }
    }
}

/// The size of a batch: `3` or `25%`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Batch {
    /// So many instances.
    Count(u32),
    /// So many hundredths of all, rounded up.
    Percent(u8),
}

impl Batch {
    pub(crate) fn is_valid(self) -> bool {
        match self {
            Self::Count(count) => count > 0,
            Self::Percent(percent) => (1..=100).contains(&percent),
        }
    }

    pub(crate) fn of(self, slots: usize) -> usize {
        match self {
            Self::Count(count) => count as usize,
            Self::Percent(percent) => (slots * usize::from(percent)).div_ceil(100),
        }
    }
}

impl fmt::Display for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => write!(f, "{count}"),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

impl FromStr for Batch {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let batch = match text.strip_suffix('%') {
            Some(percent) => percent.parse().ok().map(Self::Percent),
            None => text.parse().ok().map(Self::Count),
        };
        batch.filter(|batch| batch.is_valid()).ok_or_else(|| {
            let shown: String = text.chars().take(40).flat_map(char::escape_default).collect();
            Error::invalid(format!(
                "`{shown}` is not the size of a batch; accepted: a count from 1, or `1%` to `100%`"
            ))
        })
    }
}

impl Serialize for Batch {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Batch {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_any(WrittenBatch)
    }
}

/// Reads a number or a text, and says what is accepted where something else is found.
struct WrittenBatch;

impl serde::de::Visitor<'_> for WrittenBatch {
    type Value = Batch;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the size of a batch: a count from 1, or a text from \"1%\" to \"100%\"")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> std::result::Result<Batch, E> {
        text.parse().map_err(|error: Error| E::custom(error.message()))
    }

    fn visit_u64<E: serde::de::Error>(self, count: u64) -> std::result::Result<Batch, E> {
        self.visit_str(&count.to_string())
    }

    fn visit_i64<E: serde::de::Error>(self, count: i64) -> std::result::Result<Batch, E> {
        self.visit_str(&count.to_string())
    }
}

#[cfg(test)]
mod tests {
    use proptest::{prop_assert, prop_assert_eq, proptest};

    use super::*;

    #[test]
    fn the_default_replaces_one_and_then_a_quarter_each() {
        let strategy = Strategy::default();
        strategy.check().unwrap();
        assert_eq!(strategy.batches(10), [1, 3, 3, 3]);
        assert_eq!(strategy.batches(1), [1]);
        assert!(strategy.batches(0).is_empty());
    }

    #[test]
    fn a_share_of_failures_is_rounded_down() {
        let strategy = |most| Strategy::default().with_max_failures(most);
        assert_eq!(Strategy::default().tolerates(10), 0);
        assert_eq!(strategy(Batch::Count(2)).tolerates(1), 2);
        assert_eq!([1, 3, 4, 10].map(|slots| strategy(Batch::Percent(25)).tolerates(slots)), [0, 0, 1, 2]);
    }

    #[test]
    fn a_strategy_reads_as_a_document_and_refuses_what_it_does_not_know() {
        let text =
            r#"{"first_batch":2,"batch":"50%","min_healthy":"1s","on_failure":"pause","order":"stop-first"}"#;
        let strategy: Strategy = serde_json::from_str(text).unwrap();
        assert_eq!((strategy.first_batch, strategy.batch), (Batch::Count(2), Batch::Percent(50)));
        assert_eq!((strategy.order, strategy.on_failure), (Order::StopFirst, OnFailure::Pause));
        for wrong in [r#"{"batch":"0%"}"#, r#"{"batch":"101%"}"#, r#"{"batch":0}"#, r#"{"batches":1}"#] {
            assert!(serde_json::from_str::<Strategy>(wrong).is_err(), "{wrong}");
        }
        for wrong in ["0", "-1", "1.5", "true", "[1]", "\"half\"", "\"\"", "4294967296"] {
            let message = serde_json::from_str::<Batch>(wrong).unwrap_err().to_string();
            assert!(message.contains("a count from 1, or") && message.contains("100%"), "{wrong}: {message}");
        }
        let hasty = Strategy::default().with_monitor(Duration::from_secs(600));
        assert!(hasty.check().unwrap_err().message().contains("`monitor`"));
        let impatient = Strategy::default().with_deadlines(Duration::from_secs(10), Duration::from_secs(600));
        assert!(impatient.check().unwrap_err().message().contains("`healthy_deadline`"));
    }

    proptest! {
        #[test]
        fn batches_cover_every_slot_once(slots in 0_usize..500, first in 1_u32..50, percent in 1_u8..=100) {
            let strategy = Strategy::default().with_batches(Batch::Count(first), Batch::Percent(percent));
            let sizes = strategy.batches(slots);
            prop_assert_eq!(sizes.iter().sum::<usize>(), slots);
            prop_assert!(sizes.iter().all(|size| *size > 0));
        }
    }
}
