//! Monitoring for EWS: live series, collectors, exposition and alerts.
//!
//! This crate answers [`ews_core`]'s `Metrics` queries about the last minutes and raises alerts; it never decides what to do about
//! them.
//!
//! ```text
//! Runtime ─▶ RuntimeCollector ─┐
//!                              ├─▶ LiveStore ─▶ Metrics ─▶ Alerts ─▶ Notifier, events
//! Metrics ─▶ Relay ────────────┘       └─▶ prometheus::text ─▶ GET /metrics
//! ```
//!
//! # Where to start
//! - **You embed EWS**: [`LiveStore`], [`Collection`] to feed it, [`Alerts`] to watch it.
//! - **You measure something of your own**: implement [`Collector`], or call [`LiveStore::record`].
//! - **You work on EWS itself**: `live` has the bounds, `alert::machine` the pure core of alerts.
//!
//! # Modules, in reading order
//! [`live`] (the store), [`collect`] (what feeds it), [`prometheus`] and `http` (feature of the same name) (what others read),
//! [`alert`].
//!
//! # What is not here yet
//! History beyond the live window, OTLP intake, traces and critical paths, logs, SLO burn rates, silences and grouping of
//! notifications.

pub mod alert;
pub mod collect;
#[cfg(feature = "http")]
pub mod http;
pub mod live;
pub mod prometheus;

pub use alert::{
    AlertEvent, AlertReason, AlertRule, Alerts, Condition, LogNotifier, NoData, Notifier, RuleStatus,
    Transition,
};
pub use collect::{Collection, Collector, CollectorStatus, Relay, RuntimeCollector};
pub use live::{LiveConfig, LiveStats, LiveStore};
