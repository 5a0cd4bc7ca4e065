//! The policy document: what a service's count follows, within which bounds and how fast.
//!
//! It is a serde document with unknown fields refused. What it says is checked once, by
//! [`TargetTracking::new`](crate::TargetTracking::new); every message names the field and what is accepted. Defaults are those of
//! Kubernetes' horizontal pod autoscaler (HPA v2) where it has one; each field names its source. What a document leaves out of
//! `scale_out` or `scale_in` keeps that direction's default, field by field, as in HPA's `behavior`.

use std::time::Duration;

use ews_core::metrics::MetricQuery;
use ews_core::{Error, Result};
use serde::{Deserialize, Deserializer, Serialize};

/// How a service's count is decided.
///
/// ```
/// use ews_scale::{ScalePolicy, TargetTracking};
///
/// let policy: ScalePolicy = toml::from_str(r#"
///     min = 2
///     max = 20
///
///     [[signals]]
///     name = "requests"
///     target = { per_instance = 50.0 }
///     query = { metric = "http.server.request.count", matching = "service=web", function = { rate = "1m" }, aggregate = { by = "sum", group = [] } }
///
///     [scale_in]
///     window = "10m"
///     limits = [{ amount = { percent = 10 }, period = "1m" }]
/// "#)?;
/// TargetTracking::new(policy)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct ScalePolicy {
    /// The fewest instances, at least 1: scaling to zero needs a router that holds requests back, and is refused until there is
    /// one. A count below it is raised at once, whatever the signals say or don't say. Default 1 (HPA).
    #[serde(default = "one")]
    pub min: u32,
    /// The most instances. A count above it is lowered at the rate of [`scale_in`](Self::scale_in), whatever the signals say.
    /// No default.
    pub max: u32,
    /// What the count follows, 1 to [`Self::MAX_SIGNALS`]; the largest proposal wins (HPA, Nomad autoscaler).
    pub signals: Vec<Signal>,
    /// From one evaluation to the next; above zero. Default 15 s (HPA's sync period). A pause of more than three of them is
    /// a restart for the scale-in window: nobody looked meanwhile.
    #[serde(default = "fifteen_seconds", with = "ews_core::time::duration")]
    pub interval: Duration,
    /// How it grows. Default [`Direction::scale_out`], and so is each of its fields that a document leaves out.
    #[serde(default = "Direction::scale_out", deserialize_with = "scale_out")]
    pub scale_out: Direction,
    /// How it shrinks. Default [`Direction::scale_in`], and so is each of its fields that a document leaves out.
    #[serde(default = "Direction::scale_in", deserialize_with = "scale_in")]
    pub scale_in: Direction,
    /// For how long instances that are not ready hold scale-in back, counted from when the service was last complete; after
    /// it they only count as fully used. Default 5 min (HPA's CPU initialization period).
    #[serde(default = "five_minutes", with = "ews_core::time::duration")]
    pub warm_up: Duration,
    /// How long a signal may be missing before [`on_missing`](Self::on_missing) applies. Default 90 s: three polls of KEDA,
    /// whose `failureThreshold` has no default of its own.
    #[serde(default = "ninety_seconds", with = "ews_core::time::duration")]
    pub grace: Duration,
    /// What happens then. Default: hold (KPA, AWS).
    #[serde(default)]
    pub on_missing: OnMissing,
    /// For how long a change of the count by somebody else is not undone. Default 5 min, the scale-in window; a choice of
    /// this house, since HPA overrides at once.
    #[serde(default = "five_minutes", with = "ews_core::time::duration")]
    pub respect: Duration,
    /// What tames a count that goes to and fro. Default [`Flapping::default`].
    #[serde(default)]
    pub flapping: Flapping,
}

impl ScalePolicy {
    /// The most signals of a policy.
    pub const MAX_SIGNALS: usize = 32;
    /// The largest count that is accepted as a bound.
    pub const MAX_COUNT: u32 = 1_000_000;
    /// The longest window, period or interval.
    pub const MAX_TIME: Duration = Duration::from_secs(24 * 3600);

    /// These bounds and signals, all else at its default. [`TargetTracking::new`](crate::TargetTracking::new) checks it.
    pub fn new(min: u32, max: u32, signals: impl IntoIterator<Item = Signal>) -> Self {
        Self {
            min,
            max,
            signals: signals.into_iter().collect(),
            interval: fifteen_seconds(),
            scale_out: Direction::scale_out(),
            scale_in: Direction::scale_in(),
            warm_up: five_minutes(),
            grace: ninety_seconds(),
            on_missing: OnMissing::default(),
            respect: five_minutes(),
            flapping: Flapping::default(),
        }
    }

    /// Evaluated so often.
    #[must_use]
    pub fn with_interval(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }

    /// Growing so.
    #[must_use]
    pub fn with_scale_out(mut self, scale_out: Direction) -> Self {
        self.scale_out = scale_out;
        self
    }

    /// Shrinking so.
    #[must_use]
    pub fn with_scale_in(mut self, scale_in: Direction) -> Self {
        self.scale_in = scale_in;
        self
    }

    /// With instances that may be so long in becoming ready.
    #[must_use]
    pub fn with_warm_up(mut self, warm_up: Duration) -> Self {
        self.warm_up = warm_up;
        self
    }

    /// Doing this where a signal is missing for so long.
    #[must_use]
    pub fn with_on_missing(mut self, grace: Duration, on_missing: OnMissing) -> Self {
        (self.grace, self.on_missing) = (grace, on_missing);
        self
    }

    /// Leaving what others set for so long.
    #[must_use]
    pub fn with_respect(mut self, respect: Duration) -> Self {
        self.respect = respect;
        self
    }

    /// Taming what goes to and fro like this.
    #[must_use]
    pub fn with_flapping(mut self, flapping: Flapping) -> Self {
        self.flapping = flapping;
        self
    }

    /// Refuses what can't be meant.
    ///
    /// # Errors
    /// `Invalid`, naming the field and what is accepted.
    pub fn check(&self) -> Result<()> {
        if self.min == 0 {
            return Err(Error::invalid(
                "`min` is 0; accepted: 1 or more. Scaling to zero needs a router that holds requests back, which is not there yet",
            ));
        }
        if self.max < self.min || self.max > Self::MAX_COUNT {
            return Err(Error::invalid(format!(
                "`max` is {}; accepted: from `min` ({}) to {}",
                self.max,
                self.min,
                Self::MAX_COUNT
            )));
        }
        if !(1..=Self::MAX_SIGNALS).contains(&self.signals.len()) {
            return Err(Error::invalid(format!(
                "`signals` has {} entries; accepted: 1 to {}",
                self.signals.len(),
                Self::MAX_SIGNALS
            )));
        }
        for (index, signal) in self.signals.iter().enumerate() {
            signal.check().map_err(|error| error.with_context("signal", index))?;
            if self.signals.iter().take(index).any(|earlier| earlier.name == signal.name) {
                return Err(Error::invalid(format!(
                    "two signals are named `{}`; accepted: each name once",
                    signal.name
                )));
            }
        }
        for (name, time) in [("interval", self.interval), ("flapping.window", self.flapping.window)] {
            above_zero(name, time)?;
        }
        for (name, time) in [("warm_up", self.warm_up), ("grace", self.grace), ("respect", self.respect)] {
            at_most_a_day(name, time)?;
        }
        self.scale_out.check("scale_out")?;
        self.scale_in.check("scale_in")?;
        if self.scale_in.tolerance >= 1.0 {
            return Err(Error::invalid(format!(
                "`scale_in.tolerance` is {}, which nothing falls below; accepted: 0 to below 1",
                self.scale_in.tolerance
            )));
        }
        if let OnMissing::AtLeast(count) = self.on_missing
            && !(self.min..=self.max).contains(&count)
        {
            return Err(Error::invalid(format!(
                "`on_missing.at_least` is {count}; accepted: from `min` ({}) to `max` ({})",
                self.min, self.max
            )));
        }
        if self.flapping.reversals < 2 {
            return Err(Error::invalid(format!(
                "`flapping.reversals` is {}; accepted: 2 or more",
                self.flapping.reversals
            )));
        }
        Ok(())
    }
}

/// One thing that the count follows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Signal {
    /// Its name in records; unique in the policy.
    pub name: String,
    /// What it should be.
    pub target: Target,
    /// The question whose answer it is; it must give one number. Its `max_age` is the age from which it counts as missing.
    pub query: MetricQuery,
    /// Where the service's instances report the signal one series each, `query` joins them: how many have data is then how
    /// many instances report, and the silent ones are treated as HPA does. Default false.
    #[serde(default)]
    pub series_are_instances: bool,
}

impl Signal {
    /// A signal of this name, its target and the query that reads it.
    pub fn new(name: impl Into<String>, target: Target, query: MetricQuery) -> Self {
        Self { name: name.into(), target, query, series_are_instances: false }
    }

    /// Each series of the query is one instance of the service.
    #[must_use]
    pub fn with_series_as_instances(mut self) -> Self {
        self.series_are_instances = true;
        self
    }

    fn check(&self) -> Result<()> {
        if self.name.trim().is_empty() || self.name.len() > 128 || self.name.chars().any(char::is_control) {
            return Err(Error::invalid(
                "`name` of a signal is empty, longer than 128 bytes or holds control characters; accepted: 1 to 128 bytes without",
            ));
        }
        let (Target::PerInstance(value) | Target::Ratio(value)) = self.target;
        if !value.is_finite() || value <= 0.0 {
            return Err(Error::invalid(format!(
                "the target of the signal `{}` is {value}; accepted: finite and above zero",
                self.name
            )));
        }
        if self.query.metric.is_empty() {
            return Err(Error::invalid(format!(
                "the query of the signal `{}` names no metric; accepted: the name of one",
                self.name
            )));
        }
        above_zero("query.max_age", self.query.max_age)
    }
}

/// What a signal should be.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Target {
    /// The signal is a total, such as requests per second or a queue's length; so much of it is one instance's work.
    /// HPA calls it an average value: `⌈total / target⌉`.
    PerInstance(f64),
    /// The signal is a mean over the instances that are ready, such as a share of CPU or requests in flight each; this is
    /// what it should be. HPA's formula: `⌈ready · value / target⌉`.
    Ratio(f64),
}

/// How the count moves in one direction. It is read as a part of a [`ScalePolicy`], which knows the direction's defaults.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Direction {
    /// How far the work may be from what the present count does without a change, as a share of it. Default 0.1 (HPA).
    pub tolerance: f64,
    /// For scale-in the largest proposal of so long counts, for scale-out the smallest. Defaults 300 s and 0 s (HPA).
    #[serde(with = "ews_core::time::duration")]
    pub window: Duration,
    /// How much it may change per period. An empty list: as much as it wants. Defaults: out 100 % and 4 per 15 s, in 100 % per 15 s
    /// (HPA). At most [`Self::MAX_LIMITS`].
    pub limits: Vec<RateLimit>,
    /// Which of several limits holds. Default: the one that allows most (HPA).
    pub select: Select,
}

/// A direction as a document has it: what is left out keeps its default.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Given {
    tolerance: Option<f64>,
    #[serde(with = "ews_core::time::duration::option")]
    window: Option<Duration>,
    limits: Option<Vec<RateLimit>>,
    select: Option<Select>,
}

impl Given {
    fn over(self, default: Direction) -> Direction {
        Direction {
            tolerance: self.tolerance.unwrap_or(default.tolerance),
            window: self.window.unwrap_or(default.window),
            limits: self.limits.unwrap_or(default.limits),
            select: self.select.unwrap_or(default.select),
        }
    }
}

fn scale_out<'de, D: Deserializer<'de>>(from: D) -> Result<Direction, D::Error> {
    Ok(Given::deserialize(from)?.over(Direction::scale_out()))
}

fn scale_in<'de, D: Deserializer<'de>>(from: D) -> Result<Direction, D::Error> {
    Ok(Given::deserialize(from)?.over(Direction::scale_in()))
}

impl Direction {
    /// The most limits of a direction.
    pub const MAX_LIMITS: usize = 8;

    /// HPA's defaults for scale-out.
    pub fn scale_out() -> Self {
        Self {
            tolerance: tenth(),
            window: Duration::ZERO,
            limits: vec![
                RateLimit { amount: Amount::Percent(100), period: fifteen_seconds() },
                RateLimit { amount: Amount::Instances(4), period: fifteen_seconds() },
            ],
            select: Select::Most,
        }
    }

    /// HPA's defaults for scale-in.
    pub fn scale_in() -> Self {
        Self {
            tolerance: tenth(),
            window: five_minutes(),
            limits: vec![RateLimit { amount: Amount::Percent(100), period: fifteen_seconds() }],
            select: Select::Most,
        }
    }

    /// Never in this direction, except for the bounds.
    #[must_use]
    pub fn disabled(mut self) -> Self {
        self.select = Select::Disabled;
        self
    }

    /// With this window.
    #[must_use]
    pub fn with_window(mut self, window: Duration) -> Self {
        self.window = window;
        self
    }

    /// With this tolerance.
    #[must_use]
    pub fn with_tolerance(mut self, tolerance: f64) -> Self {
        self.tolerance = tolerance;
        self
    }

    /// With these limits in place of the present ones; none at all: as much as it wants.
    #[must_use]
    pub fn with_limits(mut self, limits: impl IntoIterator<Item = RateLimit>) -> Self {
        self.limits = limits.into_iter().collect();
        self
    }

    /// With this one of several limits holding.
    #[must_use]
    pub fn with_select(mut self, select: Select) -> Self {
        self.select = select;
        self
    }

    fn check(&self, name: &str) -> Result<()> {
        if !self.tolerance.is_finite() || self.tolerance < 0.0 {
            return Err(Error::invalid(format!(
                "`{name}.tolerance` is {}; accepted: finite, 0 or more",
                self.tolerance
            )));
        }
        at_most_a_day(&format!("{name}.window"), self.window)?;
        if self.limits.len() > Self::MAX_LIMITS {
            return Err(Error::invalid(format!(
                "`{name}.limits` has {} entries; accepted: at most {}",
                self.limits.len(),
                Self::MAX_LIMITS
            )));
        }
        for limit in &self.limits {
            above_zero(&format!("{name}.limits.period"), limit.period)?;
            if matches!(limit.amount, Amount::Percent(0) | Amount::Instances(0)) {
                return Err(Error::invalid(format!(
                    "`{name}.limits.amount` is 0; accepted: 1 or more, or `select = \"disabled\"` for no change at all"
                )));
            }
        }
        Ok(())
    }
}

/// So much per period.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct RateLimit {
    /// How much.
    pub amount: Amount,
    /// Per how long; above zero.
    #[serde(with = "ews_core::time::duration")]
    pub period: Duration,
}

impl RateLimit {
    /// So many instances per period.
    pub const fn instances(count: u32, period: Duration) -> Self {
        Self { amount: Amount::Instances(count), period }
    }

    /// This share, in percent of the count at the period's start, per period.
    pub const fn percent(share: u32, period: Duration) -> Self {
        Self { amount: Amount::Percent(share), period }
    }
}

/// How much a count may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Amount {
    /// So many instances.
    Instances(u32),
    /// So many percent of the count at the period's start, rounded so that one instance at least may change.
    Percent(u32),
}

/// Which of several limits holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Select {
    /// The one that allows most.
    #[default]
    Most,
    /// The one that allows least.
    Least,
    /// No change at all in this direction.
    Disabled,
}

/// What happens where a signal is missing for longer than the grace. Nothing of it ever lowers a count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum OnMissing {
    /// The count stays; other signals may still raise it.
    #[default]
    Hold,
    /// At least so many instances (KEDA's fallback in its mode `currentReplicasIfHigher`).
    AtLeast(u32),
    /// The count stays and the decision says that it failed, so that whoever reads records raises an alert.
    Fail,
}

/// What tames a count that goes to and fro: with so many reversals in the window the scale-in window is doubled, with twice as
/// many doubled again, up to eight times as long; it gets shorter as the reversals grow old.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Flapping {
    /// How many reversals, at least 2. Default 3; with the window a choice of this house.
    pub reversals: u32,
    /// Within how long. Default 30 min: six scale-in windows.
    #[serde(with = "ews_core::time::duration")]
    pub window: Duration,
}

impl Flapping {
    /// So many reversals within so long.
    pub const fn new(reversals: u32, window: Duration) -> Self {
        Self { reversals, window }
    }
}

impl Default for Flapping {
    fn default() -> Self {
        Self { reversals: 3, window: Duration::from_secs(1_800) }
    }
}

fn above_zero(name: &str, time: Duration) -> Result<()> {
    if time.is_zero() {
        return Err(Error::invalid(format!("`{name}` is zero; accepted: above zero, at most a day")));
    }
    at_most_a_day(name, time)
}

fn at_most_a_day(name: &str, time: Duration) -> Result<()> {
    if time > ScalePolicy::MAX_TIME {
        return Err(Error::invalid(format!("`{name}` is {time:?}; accepted: at most a day")));
    }
    Ok(())
}

const fn one() -> u32 {
    1
}

const fn tenth() -> f64 {
    0.1
}

const fn fifteen_seconds() -> Duration {
    Duration::from_secs(15)
}

const fn ninety_seconds() -> Duration {
    Duration::from_secs(90)
}

const fn five_minutes() -> Duration {
    Duration::from_secs(300)
}

#[cfg(test)]
mod tests {
    use ews_core::Selector;

    use super::*;

    fn good() -> ScalePolicy {
        let query = MetricQuery::new("requests", Selector::everything());
        ScalePolicy::new(2, 10, [Signal::new("requests", Target::PerInstance(50.0), query)])
    }

    #[test]
    fn what_can_not_be_meant_is_refused_with_the_field() {
        good().check().unwrap();
        let second = Duration::from_secs(1);
        type Change = Box<dyn Fn(&mut ScalePolicy)>;
        let cases: Vec<(&str, Change)> = vec![
            ("`min` is 0", Box::new(|p| p.min = 0)),
            ("`max` is 1; accepted: from `min` (2)", Box::new(|p| p.max = 1)),
            ("`max` is", Box::new(|p| p.max = u32::MAX)),
            ("`signals` has 0 entries", Box::new(|p| p.signals.clear())),
            ("two signals are named `requests`", Box::new(|p| p.signals.push(p.signals[0].clone()))),
            ("is 0; accepted: finite and above zero", Box::new(|p| p.signals[0].target = Target::Ratio(0.0))),
            ("is -1;", Box::new(|p| p.signals[0].target = Target::PerInstance(-1.0))),
            ("is NaN;", Box::new(|p| p.signals[0].target = Target::PerInstance(f64::NAN))),
            ("`name` of a signal", Box::new(|p| p.signals[0].name.clear())),
            ("names no metric", Box::new(|p| p.signals[0].query.metric.clear())),
            ("`query.max_age` is zero", Box::new(|p| p.signals[0].query.max_age = Duration::ZERO)),
            ("`interval` is zero", Box::new(|p| p.interval = Duration::ZERO)),
            ("`flapping.window` is zero", Box::new(|p| p.flapping.window = Duration::ZERO)),
            ("`flapping.reversals` is 1", Box::new(|p| p.flapping.reversals = 1)),
            ("`scale_in.tolerance` is -0.1", Box::new(|p| p.scale_in.tolerance = -0.1)),
            ("`scale_in.tolerance` is 1,", Box::new(|p| p.scale_in.tolerance = 1.0)),
            ("`scale_in.window` is", Box::new(|p| p.scale_in.window = Duration::MAX)),
            (
                "`scale_out.limits.period` is zero",
                Box::new(|p| p.scale_out.limits[0].period = Duration::ZERO),
            ),
            (
                "`scale_in.limits.amount` is 0",
                Box::new(move |p| p.scale_in.limits = vec![RateLimit::percent(0, second)]),
            ),
            (
                "`scale_in.limits` has 9 entries",
                Box::new(move |p| p.scale_in.limits = vec![RateLimit::percent(1, second); 9]),
            ),
            ("`on_missing.at_least` is 11", Box::new(|p| p.on_missing = OnMissing::AtLeast(11))),
            ("`grace` is", Box::new(|p| p.grace = Duration::MAX)),
        ];
        for (wanted, change) in cases {
            let mut policy = good();
            change(&mut policy);
            let error = policy.check().expect_err(wanted);
            assert!(error.message().contains(wanted), "{wanted}: {error}");
        }
    }

    #[test]
    fn a_document_reads_back_and_refuses_what_it_does_not_know() {
        let text = serde_json::to_string(&good()).unwrap();
        assert_eq!(serde_json::from_str::<ScalePolicy>(&text).unwrap(), good());
        for (text, wanted) in [
            ("max = 3\nsignals = []\nmaximum = 4", "maximum"),
            ("signals = []", "max"),
            ("max = 3\nsignals = []\nscale_in = { window = \"5m\", windows = \"5m\" }", "windows"),
            ("max = 3\nsignals = []\ninterval = 15", "a number and a unit"),
            (
                "max = 3\n[[signals]]\nname = \"x\"\ntarget = { ratio = 1 }\nquery = { metric = \"m\", matching = \"*\", fresh = 1 }",
                "fresh",
            ),
        ] {
            let error = toml::from_str::<ScalePolicy>(text).expect_err(text).to_string();
            assert!(error.contains(wanted), "{text}: {error}");
        }
        let short: ScalePolicy = toml::from_str("max = 3\nsignals = []").unwrap();
        assert_eq!(short, ScalePolicy::new(1, 3, []));
    }

    #[test]
    fn what_a_direction_leaves_out_keeps_that_directions_default() {
        let read =
            |text: &str| toml::from_str::<ScalePolicy>(&format!("max = 3\nsignals = []\n{text}")).unwrap();
        let (hpa_out, hpa_in) = (Direction::scale_out(), Direction::scale_in());
        let ten = Duration::from_secs(600);

        let policy = read("scale_in = { window = \"10m\" }\nscale_out = { tolerance = 0.2 }");
        assert_eq!(policy.scale_in, hpa_in.clone().with_window(ten));
        assert!(!policy.scale_in.limits.is_empty(), "a window alone takes no limit away");
        assert_eq!(policy.scale_out, hpa_out.clone().with_tolerance(0.2));

        let one = [RateLimit::percent(10, Duration::from_secs(60))];
        let policy =
            read("scale_in = { limits = [{ amount = { percent = 10 }, period = \"1m\" }] }\nscale_out = {}");
        assert_eq!((policy.scale_in, policy.scale_out), (hpa_in.clone().with_limits(one), hpa_out));
        let policy = read("scale_in = { limits = [], select = \"disabled\" }");
        assert_eq!(policy.scale_in, hpa_in.with_limits([]).disabled(), "an empty list says what it is");
    }
}
