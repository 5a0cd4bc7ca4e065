//! Scaling for EWS: signals to decisions to a new count.
//!
//! This crate decides *how many* instances of a service run, as a pure function over what [`ews_core`]'s `Metrics` say, and acts
//! through its `ScaleTarget`. It never starts or stops anything by itself.
//!
//! ```text
//! Metrics ─▶ SignalReading ─┐
//!                           ├─▶ TargetTracking::decide ─▶ Explained<ScaleDecision> ─▶ ScaleTarget
//! ScaleTarget ─▶ Scale ─────┘        ▲      │
//!                                  PolicyState ◀─▶ Store
//! ```
//!
//! A policy is a document, or built with the same names. Here 300 requests per second meet two instances that should have 50 each; the
//! fakes stand for `ews_deploy::Deployer` and for `ews_monitor::LiveStore` or a gateway:
//!
//! ```
//! use std::sync::Arc;
//!
//! use ews_core::metrics::{MetricInfo, MetricKind, MetricQuery};
//! use ews_core::testkit::{FakeMetrics, FakeScaleTarget};
//! use ews_core::{Clock, ScaleTarget, Selector, ServiceName, SystemClock};
//! use ews_scale::{Autoscaler, Direction, ScalePolicy, Signal, Target};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> ews_core::Result<()> {
//! let web = ServiceName::new("web")?;
//! let (metrics, target) = (FakeMetrics::new(), FakeScaleTarget::new());
//! metrics.record(&MetricInfo::new("requests", MetricKind::Gauge, "1/s"), [("service", "web")], SystemClock.now(), 300.0);
//! target.add(&web, 2, 1..=100);
//!
//! let query = MetricQuery::new("requests", Selector::equal("service", "web")?);
//! let policy = ScalePolicy::new(2, 20, [Signal::new("requests", Target::PerInstance(50.0), query)])
//!     .with_scale_in(Direction::scale_in().with_window(std::time::Duration::from_secs(600)));
//! let autoscaler = Autoscaler::new(Arc::new(metrics), Arc::new(target.clone())).with_service(web.clone(), policy)?;
//!
//! let record = autoscaler.evaluate(&web).await?; // `autoscaler.run(stop)` does this at the policy's interval
//! println!("{}", record.decision); // every input, proposal and bound that led to it
//! assert_eq!(target.current(&web).await?.desired, 6);
//! # Ok(())
//! # }
//! ```
//!
//! # Where to start
//! - **You embed EWS**: [`ScalePolicy`] for what a service's count follows, [`Autoscaler`] for the loop (with
//!   [`with_store`](Autoscaler::with_store) where there are several controllers), [`replay()`] to try a policy on a recorded load before
//!   it goes live.
//! - **You write a policy of your own**: implement [`ews_core::Policy`] for [`ScaleObservation`] and [`ScaleDecision`], and prove it with
//!   `ews_core::testkit::conformance::policy`; [`replay_with`] tries it on a recorded load, [`Autoscaler::with_policy`] lets it act.
//! - **You work on EWS itself**: [`decide`] has the order of the steps, `demand` the arithmetic.
//!
//! # Modules, in reading order
//! [`policy`] (the document), [`observation`] (what is looked at and decided), `demand`, `window`, `rate` and `state` (the parts of
//! a decision), [`decide`] (the core); around it [`autoscaler`] with `record` and `tenure` (the live loop), and [`mod@replay`].
//!
//! # Features
//! None. The crate needs tokio's clock and spawns nothing.
//!
//! # What is not here
//! Scaling to zero, schedules, forecasts, measured capacity, host pools, placement of moves and choice of victims. What a document
//! could ask for of these is refused, never passed over.

#![warn(missing_debug_implementations)]

pub mod autoscaler;
pub mod decide;
mod demand;
pub mod observation;
pub mod policy;
mod rate;
mod record;
pub mod replay;
mod state;
mod tenure;
mod window;

pub use autoscaler::{Autoscaler, DynScalePolicy, ScaleStatus};
pub use decide::TargetTracking;
pub use observation::{ScaleDecision, ScaleObservation, Sight, SignalReading};
pub use policy::{Amount, Direction, Flapping, OnMissing, RateLimit, ScalePolicy, Select, Signal, Target};
pub use record::{Action, ScaleRecord};
pub use replay::{Plant, ReplayReport, replay, replay_with};
