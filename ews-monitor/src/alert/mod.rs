//! Alerts: a threshold on a query, held for a while, and what becomes of it.
//!
//! ```text
//! inactive ──true──▶ pending ──true for `for`──▶ firing ──clear for `keep_firing_for`──▶ resolved (inactive)
//!     ▲─────false──────┘
//! ```
//! A rule has one alert per group of its query, as far as [`AlertRule::MAX_ALERTS`] go. [`evaluate`] is the pure core; [`Alerts`] is the
//! loop around it, which keeps every rule's state in a store where it has one, so that a restart loses nothing: neither how long
//! an alert has been pending, nor that it fires, nor a notification that was not delivered yet.
//!
//! No data is neither true nor false. What it means is said by the rule ([`NoData`]), and it has to last as long as the condition
//! would. A query that fails is not even that: the state stays as it is, and the failure is counted.

mod event;
mod machine;
mod notifier;
mod rule;
mod watch;

pub use event::{AlertEvent, AlertReason, Transition};
pub use machine::{Alert, AlertPhase, AlertState, evaluate};
pub use notifier::{LogNotifier, Notifier};
pub use rule::{AlertCondition, AlertRule, NoData};
pub use watch::{Alerts, RuleStatus};
