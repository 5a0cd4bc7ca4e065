//! Whether the new revision does well, by metrics.
//!
//! [`Analysis`] is the document; `run` is the pure core that takes measurements and comes to a verdict; the leader asks the
//! metrics. What can't be measured never passes: it is inconclusive or an error, by which a rollout waits for somebody.

mod run;

use std::fmt;
use std::time::Duration;

use ews_core::metrics::MetricQuery;
use ews_core::time::duration;
use ews_core::{Error, Result};
use serde::{Deserialize, Serialize};

pub use run::{Measurement, Verdict};
pub(crate) use run::{Numbers, Run};

/// What is measured, how often, and what has to hold.
///
/// ```
/// use ews_core::Selector;
/// use ews_core::metrics::{Aggregate, Aggregation, Function, MetricQuery, Window};
/// use ews_deploy::{Analysis, Condition, MetricCheck};
/// use std::time::Duration;
///
/// let minute = Window(Duration::from_secs(60));
/// let requests = MetricQuery::new("http.server.request.duration", Selector::everything())
///     .function(Function::Quantile(0.99, minute))
///     .aggregate(Aggregate::all(Aggregation::Sum));
/// // The 99th percentile is at most a fifth above that of the old revision, or 20 ms.
/// let slow = MetricCheck::new("p99", requests, Condition::AtMostBaseline { times: 1.2, plus: 0.02 });
/// let analysis = Analysis::new([slow]);
/// analysis.check()?;
/// # Ok::<(), ews_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Analysis {
    /// What is measured; 1 to [`Analysis::CHECKS`], by different names.
    pub checks: Vec<MetricCheck>,
    /// From one measurement to the next, and before the first one; 1 s to a day. Default 60 s (Flagger's).
    #[serde(default = "Analysis::minute", with = "duration")]
    pub interval: Duration,
    /// After how many measurements it has passed; 1 to 10,000. Default 5.
    #[serde(default = "Analysis::five")]
    pub count: u32,
    /// What happens where it can't be said: too few observations, values between `pass` and `fail`, metrics that don't answer.
    /// Default: the rollout waits for somebody.
    #[serde(default)]
    pub on_inconclusive: OnInconclusive,
}

impl Analysis {
    /// The most checks.
    pub const CHECKS: usize = 20;

    const fn minute() -> Duration {
        Duration::from_secs(60)
    }

    const fn five() -> u32 {
        5
    }

    /// These checks, five times, a minute apart.
    pub fn new(checks: impl IntoIterator<Item = MetricCheck>) -> Self {
        Self {
            checks: checks.into_iter().collect(),
            interval: Self::minute(),
            count: Self::five(),
            on_inconclusive: OnInconclusive::default(),
        }
    }

    /// So often, so far apart.
    #[must_use]
    pub fn with_schedule(mut self, count: u32, interval: Duration) -> Self {
        (self.count, self.interval) = (count, interval);
        self
    }

    /// With this answer to what can't be said.
    #[must_use]
    pub fn with_on_inconclusive(mut self, answer: OnInconclusive) -> Self {
        self.on_inconclusive = answer;
        self
    }

    /// Refuses what can't be measured.
    ///
    /// # Errors
    /// `Invalid`, naming the field and what is accepted.
    pub fn check(&self) -> Result<()> {
        let wrong = |field: &str, accepted: &str| {
            Err(Error::invalid(format!("`{field}` of an analysis is refused; accepted: {accepted}"))
                .with_context("field", field))
        };
        if self.checks.is_empty() || self.checks.len() > Self::CHECKS {
            return wrong("checks", &format!("1 to {}", Self::CHECKS));
        }
        if !(Duration::from_secs(1)..=Duration::from_secs(24 * 3600)).contains(&self.interval) {
            return wrong("interval", "1 s to a day");
        }
        if !(1..=10_000).contains(&self.count) {
            return wrong("count", "1 to 10,000");
        }
        for (index, check) in self.checks.iter().enumerate() {
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            if !(1..=63).contains(&check.name.len()) || !check.name.chars().all(plain) {
                return wrong("checks.name", "1 to 63 letters, digits, `-`, `_` and `.`");
            }
            if self.checks.iter().take(index).any(|other| other.name == check.name) {
                return wrong("checks.name", "each name once");
            }
            for (field, condition) in [("checks.pass", Some(check.pass)), ("checks.fail", check.fail)] {
                if condition.is_some_and(|condition| !condition.is_finite()) {
                    return wrong(field, "finite numbers, factors from 0");
                }
            }
            if check.missing == Missing::Zero && check.per.is_none() {
                return wrong(
                    "checks.missing",
                    "`zero` only beside `per`, which says that there was something to count",
                );
            }
        }
        Ok(())
    }

    /// The time that it takes where it passes.
    pub(crate) fn takes(&self) -> Duration {
        self.interval.saturating_mul(self.count)
    }
}

impl fmt::Display for Analysis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, check) in self.checks.iter().enumerate() {
            write!(f, "{}{}", if index == 0 { "" } else { ", " }, check.name)?;
        }
        write!(f, " ({} x {:?})", self.count, self.interval)
    }
}

/// One thing that is measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct MetricCheck {
    /// Its name, for people.
    pub name: String,
    /// What is measured. It must give one number: aggregate it.
    pub query: MetricQuery,
    /// What `query` is divided by, such as all requests where `query` counts the failed ones. Default: nothing.
    #[serde(default)]
    pub per: Option<MetricQuery>,
    /// Whether the labels `service` and `revision` are matched too: the new revision's, for the baseline the old one's. A baseline
    /// needs it. Default yes.
    #[serde(default = "MetricCheck::yes")]
    pub scoped: bool,
    /// What counts the observations behind `query`; fewer than `min_samples`, and the measurement is inconclusive. Default: `per`,
    /// where there is one.
    #[serde(default)]
    pub volume: Option<MetricQuery>,
    /// See `volume`. Default 20.
    #[serde(default = "MetricCheck::twenty")]
    pub min_samples: u64,
    /// What a `query` without any series means: metrics like a count of errors have none until there is one. Default: not known.
    #[serde(default)]
    pub missing: Missing,
    /// When a measurement is good.
    pub pass: Condition,
    /// When it is bad; between the two it is inconclusive. Default: whenever it is not good.
    #[serde(default)]
    pub fail: Option<Condition>,
    /// How many bad measurements are taken; one more fails the analysis. Default 1 (Flagger's threshold; Argo 0).
    #[serde(default = "MetricCheck::one")]
    pub failure_limit: u32,
    /// How many measurements in a row may come to nothing because the metrics can't be asked. Default 4 (Argo's).
    #[serde(default = "MetricCheck::four")]
    pub error_limit: u32,
    /// How many inconclusive measurements are taken. Default 0 (Argo's).
    #[serde(default)]
    pub inconclusive_limit: u32,
}

impl MetricCheck {
    const fn yes() -> bool {
        true
    }
    const fn one() -> u32 {
        1
    }
    const fn four() -> u32 {
        4
    }
    const fn twenty() -> u64 {
        20
    }

    /// This is good where the condition holds.
    pub fn new(name: impl Into<String>, query: MetricQuery, pass: Condition) -> Self {
        Self {
            name: name.into(),
            query,
            per: None,
            scoped: true,
            volume: None,
            min_samples: Self::twenty(),
            missing: Missing::default(),
            pass,
            fail: None,
            failure_limit: Self::one(),
            error_limit: Self::four(),
            inconclusive_limit: 0,
        }
    }

    /// Divided by this.
    #[must_use]
    pub fn with_per(mut self, per: MetricQuery) -> Self {
        self.per = Some(per);
        self
    }

    /// With this counting the observations, of which there must be so many.
    #[must_use]
    pub fn with_volume(mut self, volume: MetricQuery, min_samples: u64) -> Self {
        (self.volume, self.min_samples) = (Some(volume), min_samples);
        self
    }

    /// No series at all means this.
    #[must_use]
    pub fn with_missing(mut self, missing: Missing) -> Self {
        self.missing = missing;
        self
    }

    /// Bad only where this holds.
    #[must_use]
    pub fn with_fail(mut self, fail: Condition) -> Self {
        self.fail = Some(fail);
        self
    }

    /// Taking so many bad, failed and inconclusive measurements.
    #[must_use]
    pub fn with_limits(mut self, failure: u32, error: u32, inconclusive: u32) -> Self {
        (self.failure_limit, self.error_limit, self.inconclusive_limit) = (failure, error, inconclusive);
        self
    }

    /// Whether the old revision is measured too.
    pub(crate) fn needs_baseline(&self) -> bool {
        self.pass.is_relative() || self.fail.is_some_and(Condition::is_relative)
    }
}

/// What no series at all means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Missing {
    /// Nothing is known: inconclusive.
    #[default]
    Unknown,
    /// Nothing was counted: zero. Only beside `per`, which must be there.
    Zero,
}

/// When a value counts.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Condition {
    /// At or below this.
    AtMost(f64),
    /// At or above this.
    AtLeast(f64),
    /// At or below so many times the old revision's value, and this more.
    AtMostBaseline {
        /// The factor, from 0.
        times: f64,
        /// What is added.
        #[serde(default)]
        plus: f64,
    },
    /// At or above so many times the old revision's value, and this less.
    AtLeastBaseline {
        /// The factor, from 0.
        times: f64,
        /// What is taken off.
        #[serde(default)]
        minus: f64,
    },
}

impl Condition {
    pub(crate) const fn is_relative(self) -> bool {
        matches!(self, Self::AtMostBaseline { .. } | Self::AtLeastBaseline { .. })
    }

    fn is_finite(self) -> bool {
        match self {
            Self::AtMost(bound) | Self::AtLeast(bound) => bound.is_finite(),
            Self::AtMostBaseline { times, plus: by } | Self::AtLeastBaseline { times, minus: by } => {
                times.is_finite() && times >= 0.0 && by.is_finite()
            }
        }
    }

    /// `None` where it takes a baseline and there is none.
    pub(crate) fn holds(self, value: f64, baseline: Option<f64>) -> Option<bool> {
        Some(match self {
            Self::AtMost(bound) => value <= bound,
            Self::AtLeast(bound) => value >= bound,
            Self::AtMostBaseline { times, plus } => value <= baseline? * times + plus,
            Self::AtLeastBaseline { times, minus } => value >= baseline? * times - minus,
        })
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost(bound) => write!(f, "at most {bound}"),
            Self::AtLeast(bound) => write!(f, "at least {bound}"),
            Self::AtMostBaseline { times, plus } => write!(f, "at most {times} x the old one + {plus}"),
            Self::AtLeastBaseline { times, minus } => write!(f, "at least {times} x the old one - {minus}"),
        }
    }
}

/// What happens where an analysis can't be decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum OnInconclusive {
    /// The rollout waits: `resume` says that it is good, `abort` that it is not.
    #[default]
    Pause,
    /// It counts as failed.
    Fail,
}
