//! The pure core: from an answer and the state before to the state after and what changed.

use std::collections::BTreeMap;
use std::time::Duration;

use ews_core::metrics::{Answer, Reading};
use ews_core::store::Schema;
use ews_core::{Error, Result, Timestamp};
use serde::{Deserialize, Serialize};

use super::event::{AlertEvent, AlertReason, Transition};
use super::rule::{AlertRule, NoData};

/// After how long without data an alert that keeps its state is over: its instance will not come back.
const GONE: Duration = Duration::from_secs(24 * 3600);

/// The most notifications that wait for one rule; the oldest is dropped and counted.
const MOST_WAITING: usize = 256;

/// What a rule remembers.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct AlertState {
    /// Its alerts, ordered by labels; at most [`AlertRule::MAX_ALERTS`].
    pub alerts: Vec<Alert>,
    /// What was not told yet, the oldest first.
    pub untold: Vec<AlertEvent>,
    /// How many notifications were dropped because too many waited.
    pub dropped: u64,
    /// How many groups found no room at the last evaluation.
    pub unwatched: u64,
}

impl Schema for AlertState {
    const NAME: &'static str = "alert-state";
    const VERSION: u32 = 1;
}

/// One alert of a rule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Alert {
    /// Which group of the rule's query.
    pub labels: BTreeMap<String, String>,
    /// How it is.
    pub phase: AlertPhase,
    /// The last value that was there.
    pub value: Option<f64>,
    /// Since when there is no data; `None` while there is.
    pub no_data_since: Option<Timestamp>,
    /// Whether it stands for a query that has no group at all.
    pub nothing: bool,
}

/// How an alert is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum AlertPhase {
    /// The condition is false.
    Inactive,
    /// It is true, not yet for long enough.
    Pending {
        /// Since when.
        since: Timestamp,
    },
    /// There is an alert.
    Firing {
        /// Since when the condition has held.
        since: Timestamp,
        /// When it held last.
        last_true: Timestamp,
    },
}

/// What an evaluation finds of one alert.
#[derive(Clone, Copy)]
enum Found {
    Value(f64),
    NoData,
    /// What it stood for is there now.
    Over,
}

/// Evaluates a rule. Equal arguments give equal results.
///
/// # Errors
/// `Invalid` where the query gives distributions; the state is then as it was.
pub fn evaluate(
    rule: &AlertRule,
    state: &AlertState,
    answer: &Answer<Reading>,
    now: Timestamp,
) -> Result<(AlertState, Vec<AlertEvent>)> {
    let mut found: BTreeMap<&BTreeMap<String, String>, Found> = BTreeMap::new();
    for series in &answer.series {
        let value = match &series.value {
            Reading::Number(number) => Found::Value(number.value),
            Reading::Unavailable(_) => Found::NoData,
            _ => {
                return Err(Error::invalid(
                    "the rule's query gives a distribution; ask for a quantile of it",
                )
                .with_context("rule", &rule.name));
            }
        };
        found.insert(&series.labels, value);
    }
    let mut next = AlertState { alerts: Vec::new(), unwatched: 0, ..state.clone() };
    let mut events = Vec::new();
    let some = !found.is_empty();
    // Those that are known come first: a new group never takes the place of an alert.
    for alert in &state.alerts {
        let seen = match found.remove(&alert.labels) {
            Some(seen) => seen,
            None if alert.nothing && some => Found::Over,
            None => Found::NoData,
        };
        next.alerts.extend(step(rule, alert.clone(), seen, now, &mut events));
    }
    let nobody = BTreeMap::new();
    if !some && next.alerts.is_empty() && rule.no_data == NoData::Alert {
        found.insert(&nobody, Found::NoData);
    }
    for (labels, seen) in found {
        if next.alerts.len() == AlertRule::MAX_ALERTS {
            next.unwatched += 1;
            continue;
        }
        let alert = Alert {
            labels: labels.clone(),
            phase: AlertPhase::Inactive,
            value: None,
            no_data_since: None,
            nothing: !some,
        };
        next.alerts.extend(step(rule, alert, seen, now, &mut events));
    }
    next.alerts.sort_by(|a, b| a.labels.cmp(&b.labels));
    next.untold.extend(events.iter().filter(|event| event.transition != Transition::Pending).cloned());
    let excess = next.untold.len().saturating_sub(MOST_WAITING);
    next.untold.drain(..excess);
    next.dropped += excess as u64;
    Ok((next, events))
}

/// One alert's next state; `None` where nothing needs to be remembered of it.
fn step(
    rule: &AlertRule,
    mut alert: Alert,
    found: Found,
    now: Timestamp,
    events: &mut Vec<AlertEvent>,
) -> Option<Alert> {
    let firing = matches!(alert.phase, AlertPhase::Firing { .. });
    let mut reason = AlertReason::Value;
    let holds = match found {
        Found::Value(value) => {
            alert.no_data_since = None;
            alert.value = Some(value);
            let threshold = rule.condition.threshold();
            let limit = if firing { rule.clear.unwrap_or(threshold) } else { threshold };
            Some(rule.condition.beyond(value, limit))
        }
        Found::Over => Some(false),
        Found::NoData => {
            reason = AlertReason::NoData;
            let since = alert.no_data_since.map_or(now, |since| since.min(now));
            alert.no_data_since = Some(since);
            let missing = now.since(since);
            match rule.no_data {
                // `for` is counted in the pending phase.
                NoData::Alert => Some(true),
                NoData::Ok if missing >= rule.hold => Some(false),
                NoData::Keep if missing >= GONE => Some(false),
                NoData::Ok | NoData::Keep => None,
            }
        }
    };
    let mut tell = |alert: &Alert, transition, since| {
        events.push(AlertEvent {
            rule: rule.name.clone(),
            labels: alert.labels.clone(),
            transition,
            reason,
            value: alert.value,
            condition: rule.condition,
            since,
            at: now,
            severity: rule.severity.clone(),
            summary: rule.summary.clone(),
        });
    };
    // A clock that stepped back makes an alert wait longer, not shorter.
    alert.phase = match alert.phase {
        AlertPhase::Inactive => AlertPhase::Inactive,
        AlertPhase::Pending { since } => AlertPhase::Pending { since: since.min(now) },
        AlertPhase::Firing { since, last_true } => {
            AlertPhase::Firing { since: since.min(now), last_true: last_true.min(now) }
        }
    };
    match (alert.phase, holds) {
        (AlertPhase::Inactive, Some(true)) if rule.hold.is_zero() => {
            alert.phase = AlertPhase::Firing { since: now, last_true: now };
            tell(&alert, Transition::Firing, now);
        }
        (AlertPhase::Inactive, Some(true)) => {
            alert.phase = AlertPhase::Pending { since: now };
            tell(&alert, Transition::Pending, now);
        }
        (AlertPhase::Pending { since }, Some(true)) if now.since(since) >= rule.hold => {
            alert.phase = AlertPhase::Firing { since, last_true: now };
            tell(&alert, Transition::Firing, since);
        }
        (AlertPhase::Pending { .. }, Some(false)) => alert.phase = AlertPhase::Inactive,
        (AlertPhase::Firing { since, .. }, Some(true)) => {
            alert.phase = AlertPhase::Firing { since, last_true: now }
        }
        (AlertPhase::Firing { since, last_true }, Some(false))
            if now.since(last_true) >= rule.keep_firing_for =>
        {
            alert.phase = AlertPhase::Inactive;
            tell(&alert, Transition::Resolved, since);
        }
        _ => {}
    }
    let over =
        matches!(found, Found::Over) || alert.no_data_since.is_some_and(|since| now.since(since) >= GONE);
    let idle = alert.phase == AlertPhase::Inactive && (over || rule.no_data != NoData::Alert);
    (!idle).then_some(alert)
}
