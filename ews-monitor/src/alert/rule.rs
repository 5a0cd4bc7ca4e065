//! A rule as a document.

use std::time::Duration;

use ews_core::metrics::MetricQuery;
use ews_core::{Error, Result};
use serde::{Deserialize, Serialize};

/// When there is an alert.
///
/// ```
/// use ews_monitor::AlertRule;
///
/// let rule: AlertRule = toml::from_str(r#"
///     name = "queue-too-long"
///     condition = { above = 100.0 }
///     clear = 50.0
///     for = "2m"
///     severity = "page"
///     query = { metric = "queue.depth", matching = "service=web" }
/// "#)?;
/// rule.check()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct AlertRule {
    /// Its name, unique among the rules: 1 to 128 letters, digits and `-_.`.
    pub name: String,
    /// What is looked at: each group of its answer is an alert of its own.
    pub query: MetricQuery,
    /// When it is true.
    pub condition: AlertCondition,
    /// Where a firing alert clears, between the condition's threshold and what is good: without it a value that trembles around the
    /// threshold would fire and resolve all the time. Default: the threshold itself.
    #[serde(default)]
    pub clear: Option<f64>,
    /// How long the condition must hold; `for` in a document. At most a day. Default zero: at once (Prometheus).
    #[serde(rename = "for", default, with = "ews_core::time::duration")]
    pub hold: Duration,
    /// How long it goes on firing after the value has cleared. At most a day. Default zero (Prometheus).
    #[serde(default, with = "ews_core::time::duration")]
    pub keep_firing_for: Duration,
    /// What no data means. Default: the alert stays as it is ([`NoData::Keep`]), as Grafana's "Keep Last State".
    #[serde(default)]
    pub no_data: NoData,
    /// How often it is evaluated; above zero, at most a day. Default 15 s, a choice of this house: Prometheus has 1 min.
    #[serde(default = "fifteen_seconds", with = "ews_core::time::duration")]
    pub interval: Duration,
    /// For whoever is notified: `page`, `ticket`. At most 128 bytes. Default empty.
    #[serde(default)]
    pub severity: String,
    /// What is wrong, in one sentence, for whoever is notified. At most 4,096 bytes. Default empty.
    #[serde(default)]
    pub summary: String,
}

/// When a rule is true.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum AlertCondition {
    /// The value is above this.
    Above(f64),
    /// The value is below this.
    Below(f64),
}

/// What no data means, once it has lasted as long as the rule's `for`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum NoData {
    /// The alert stays as it is; one without data for a day is over.
    #[default]
    Keep,
    /// It is well: what fires resolves.
    Ok,
    /// It is an alert.
    Alert,
}

impl AlertCondition {
    /// The threshold.
    pub const fn threshold(self) -> f64 {
        match self {
            Self::Above(threshold) | Self::Below(threshold) => threshold,
        }
    }

    /// Whether a value is beyond this threshold.
    pub(crate) fn beyond(self, value: f64, threshold: f64) -> bool {
        match self {
            Self::Above(_) => value > threshold,
            Self::Below(_) => value < threshold,
        }
    }
}

impl AlertRule {
    /// The most alerts of one rule; groups beyond it are counted and not watched.
    pub const MAX_ALERTS: usize = 256;

    /// An alert of this name while the query's answer meets the condition.
    pub fn new(name: impl Into<String>, query: MetricQuery, condition: AlertCondition) -> Self {
        Self {
            name: name.into(),
            query,
            condition,
            clear: None,
            hold: Duration::ZERO,
            keep_firing_for: Duration::ZERO,
            no_data: NoData::default(),
            interval: fifteen_seconds(),
            severity: String::new(),
            summary: String::new(),
        }
    }

    /// Clearing here only.
    #[must_use]
    pub fn with_clear(mut self, clear: f64) -> Self {
        self.clear = Some(clear);
        self
    }

    /// Once the condition has held for so long.
    #[must_use]
    pub fn with_for(mut self, hold: Duration) -> Self {
        self.hold = hold;
        self
    }

    /// Firing on for so long after it has cleared.
    #[must_use]
    pub fn with_keep_firing_for(mut self, keep: Duration) -> Self {
        self.keep_firing_for = keep;
        self
    }

    /// Taking no data for this.
    #[must_use]
    pub fn with_no_data(mut self, no_data: NoData) -> Self {
        self.no_data = no_data;
        self
    }

    /// Evaluated so often.
    #[must_use]
    pub fn with_interval(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }

    /// With this for whoever is notified.
    #[must_use]
    pub fn with_severity(mut self, severity: impl Into<String>, summary: impl Into<String>) -> Self {
        (self.severity, self.summary) = (severity.into(), summary.into());
        self
    }

    /// Refuses what can't be meant.
    ///
    /// # Errors
    /// `Invalid`, naming the field and what is accepted.
    pub fn check(&self) -> Result<()> {
        let fits = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if self.name.is_empty()
            || self.name.len() > 128
            || !self.name.chars().all(fits)
            || self.name.starts_with('.')
        {
            let shown: String = self.name.chars().take(64).flat_map(char::escape_debug).collect();
            return Err(Error::invalid(format!(
                "`{shown}` can't be the `name` of an alert rule; accepted: 1 to 128 letters, digits and `-_.`, not starting with `.`"
            )));
        }
        let refuse = |message: String| Err(Error::invalid(message).with_context("rule", &self.name));
        if self.query.metric.is_empty() {
            return refuse("`query.metric` is empty; accepted: the name of a metric".to_owned());
        }
        let threshold = self.condition.threshold();
        if !threshold.is_finite() {
            return refuse(format!("the threshold of `condition` is {threshold}; accepted: a finite number"));
        }
        if let Some(clear) = self.clear
            && (!clear.is_finite() || self.condition.beyond(clear, threshold))
        {
            let side =
                if matches!(self.condition, AlertCondition::Above(_)) { "at most" } else { "at least" };
            return refuse(format!("`clear` is {clear}; accepted: {side} the threshold, {threshold}"));
        }
        let day = Duration::from_secs(24 * 3600);
        for (name, time) in
            [("for", self.hold), ("keep_firing_for", self.keep_firing_for), ("interval", self.interval)]
        {
            if time > day {
                return refuse(format!("`{name}` is {time:?}; accepted: at most a day"));
            }
        }
        if self.interval.is_zero() {
            return refuse("`interval` is zero; accepted: above zero, at most a day".to_owned());
        }
        for (name, text, most) in [("severity", &self.severity, 128), ("summary", &self.summary, 4_096)] {
            if text.len() > most {
                return refuse(format!("`{name}` has {} bytes; accepted: at most {most}", text.len()));
            }
        }
        Ok(())
    }
}

const fn fifteen_seconds() -> Duration {
    Duration::from_secs(15)
}

#[cfg(test)]
mod tests {
    use ews_core::Selector;

    use super::*;

    #[test]
    fn what_can_not_be_meant_is_refused() {
        let good = || {
            AlertRule::new("a", MetricQuery::new("m", Selector::everything()), AlertCondition::Above(10.0))
        };
        good().check().unwrap();
        good().with_clear(10.0).check().unwrap();
        let mut below = good().with_clear(9.0);
        below.condition = AlertCondition::Below(10.0);
        let named = |name: &str| AlertRule { name: name.to_owned(), ..good() };
        for (rule, wanted) in [
            (good().with_clear(11.0), "`clear` is 11; accepted: at most the threshold, 10"),
            (below, "`clear` is 9; accepted: at least the threshold, 10"),
            (good().with_clear(f64::NAN), "`clear` is NaN"),
            (
                AlertRule { condition: AlertCondition::Above(f64::INFINITY), ..good() },
                "the threshold of `condition` is inf",
            ),
            (good().with_for(Duration::MAX), "`for` is"),
            (good().with_interval(Duration::ZERO), "`interval` is zero"),
            (named(""), "`` can't be the `name` of an alert rule"),
            (named("a/b"), "`a/b` can't be the `name`"),
            (named(".."), "`..` can't be the `name`"),
            (good().with_severity("x".repeat(129), ""), "`severity` has 129 bytes; accepted: at most 128"),
            (good().with_severity("", "x".repeat(4_097)), "`summary` has 4097 bytes"),
            (
                AlertRule { query: MetricQuery::new("", Selector::everything()), ..good() },
                "`query.metric` is empty",
            ),
        ] {
            let error = rule.check().expect_err(wanted);
            assert!(error.message().contains(wanted), "{wanted}: {error}");
        }
        let text = serde_json::to_string(&good()).unwrap();
        assert_eq!(serde_json::from_str::<AlertRule>(&text).unwrap(), good());
        assert!(serde_json::from_str::<AlertRule>(&text.replace("\"severity\"", "\"priority\"")).is_err());
    }
}
