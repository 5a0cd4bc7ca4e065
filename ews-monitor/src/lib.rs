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
//! A fake engine runs one instance here; `DockerRuntime` and `ProcessRuntime` do as well:
//!
//! ```
//! use std::sync::Arc;
//! use std::time::Duration;
//!
//! use ews_core::metrics::MetricQuery;
//! use ews_core::spec::source::{ImageSource, Source};
//! use ews_core::testkit::fake::{FakeConfig, FakeEngine, FakeRuntime};
//! use ews_core::{InstanceKey, InstanceSpec, RuntimeExt, Selector, SystemClock};
//! use ews_monitor::{
//!     AlertCondition, AlertRule, Alerts, Collection, LiveConfig, LiveStore, RuntimeCollector, Transition, prometheus,
//! };
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> ews_core::Result<()> {
//! # let mut config = FakeConfig::default();
//! # config.clock = Arc::new(SystemClock);
//! let runtime = Arc::new(FakeRuntime::connect(&FakeEngine::new(config)));
//! # let spec = InstanceSpec::new(Source::Image(ImageSource::new("shop/web:1".parse()?)));
//! # let (owner, service, revision) = ("shop".parse()?, "web".parse()?, "r1".parse()?);
//! # let key = InstanceKey { owner, service, revision, slot: 0, generation: 0 };
//! # runtime.launch(&spec, &key, &Default::default()).await?;
//! let store = LiveStore::new(LiveConfig::default())?;
//! let ours = Selector::equal("ews/owner", "shop")?;
//! let collection = Collection::new(store.clone()).with(RuntimeCollector::new(runtime, ours), Duration::from_secs(10))?;
//! collection.collect().await; // `collection.run(stop)` does this at each collector's interval
//! assert!(prometheus::text(&store).contains("ews_instances{service=\"web\",state=\"running\"} 1\n"));
//!
//! let running = MetricQuery::new("ews.instances", "service=web,state=running".parse()?);
//! let rule = AlertRule::new("web-is-short", running, AlertCondition::Below(2.0)).with_severity("page", "web has lost instances");
//! let alerts = Alerts::new(Arc::new(store)).with_rule(rule)?; // tells the log; see `with_notifier`
//! let events = alerts.evaluate("web-is-short").await?; // `alerts.run(stop)` does this at each rule's interval
//! assert_eq!(events[0].transition, Transition::Firing);
//! # Ok(())
//! # }
//! ```
//!
//! # Where to start
//! - **You embed EWS**: [`LiveStore`], [`Collection`] to feed it, [`Alerts`] to watch it (with [`with_store`](Alerts::with_store), so
//!   that a restart loses nothing), [`Notifier`] to tell somebody.
//! - **You measure something of your own**: implement [`Collector`], or call [`LiveStore::record`].
//! - **You work on EWS itself**: [`live`] has the bounds, `alert::machine` the pure core of alerts.
//!
//! # Modules, in reading order
//! [`live`] (the store), [`collect`] (what feeds it), [`prometheus`] and `http` (what others read), [`alert`].
//!
//! # Features
//! None is on by default.
//!
//! | Feature | What it brings |
//! |---|---|
//! | `http` | `http::router`: the exposition as an `axum::Router`, which listens nowhere. axum 0.8 is part of this crate's API then |
//!
//! # What is not here
//! History beyond the live window, OTLP intake, traces and critical paths, logs, SLO burn rates, silences and grouping of
//! notifications.

#![warn(missing_debug_implementations)]

pub mod alert;
pub mod collect;
#[cfg(feature = "http")]
pub mod http;
pub mod live;
pub mod prometheus;

pub use alert::{
    Alert, AlertCondition, AlertEvent, AlertPhase, AlertReason, AlertRule, Alerts, LogNotifier, NoData,
    Notifier, RuleStatus, Transition,
};
pub use collect::{Collection, Collector, CollectorStatus, Relay, RuntimeCollector};
pub use live::{LiveConfig, LiveStats, LiveStore};
