//! What became of an alert.

use std::collections::BTreeMap;
use std::fmt;

use ews_core::Timestamp;
use serde::{Deserialize, Serialize};

use super::rule::AlertCondition;

/// An alert that changed, with all that whoever is notified wants to know.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct AlertEvent {
    /// Which rule.
    pub rule: String,
    /// Which group of its query.
    pub labels: BTreeMap<String, String>,
    /// What it became.
    pub transition: Transition,
    /// Why.
    pub reason: AlertReason,
    /// The last value that was there.
    pub value: Option<f64>,
    /// What it is held against.
    pub condition: AlertCondition,
    /// Since when the condition has held, or had held.
    pub since: Timestamp,
    /// When it changed.
    pub at: Timestamp,
    /// The rule's severity.
    pub severity: String,
    /// The rule's summary.
    pub summary: String,
}

/// What an alert became.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Transition {
    /// The condition is true, not yet for long enough.
    Pending,
    /// There is an alert.
    Firing,
    /// It is over.
    Resolved,
}

/// Why an alert changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum AlertReason {
    /// By its value.
    Value,
    /// For want of data.
    NoData,
}

impl fmt::Display for AlertEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let became = match self.transition {
            Transition::Pending => "pending",
            Transition::Firing => "firing",
            Transition::Resolved => "resolved",
        };
        write!(f, "{} {became}", self.rule)?;
        for (index, (key, value)) in self.labels.iter().enumerate() {
            write!(f, "{}{key}={value}", if index == 0 { " " } else { "," })?;
        }
        match (self.reason, self.value) {
            (AlertReason::NoData, _) => f.write_str(": no data")?,
            (_, Some(value)) => write!(f, ": {}", Brief(value))?,
            _ => {}
        }
        let (word, threshold) = match self.condition {
            AlertCondition::Above(threshold) => ("above", threshold),
            AlertCondition::Below(threshold) => ("below", threshold),
        };
        write!(f, " ({word} {}), since {}", Brief(threshold), self.since)?;
        if !self.summary.is_empty() {
            write!(f, ": {}", self.summary)?;
        }
        Ok(())
    }
}

/// A number for people: at most three digits after the point.
struct Brief(f64);

impl fmt::Display for Brief {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{:.3}", self.0);
        f.write_str(if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text })
    }
}
