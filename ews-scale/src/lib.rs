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
//! # Where to start
//! - **You embed EWS**: [`ScalePolicy`] for what a service's count follows, [`Autoscaler`] for the loop, [`replay()`] to try a policy
//!   on a recorded load before it goes live.
//! - **You write a policy of your own**: implement [`ews_core::Policy`] for [`ScaleObservation`] and [`ScaleDecision`], and prove it with
//!   `ews_core::testkit::conformance::policy`; [`replay_with`] tries it on a recorded load, [`Autoscaler::with_policy`] lets it act.
//! - **You work on EWS itself**: `decide` has the order of the steps, `demand` the arithmetic.
//!
//! # Modules, in reading order
//! [`policy`] (the document), [`observation`] (what is looked at and decided), `demand`, `window`, `rate` and `state` (the parts of
//! a decision), [`decide`] (the core); around it [`autoscaler`] with `record` and `tenure` (the live loop), and [`mod@replay`].
//!
//! # What is not here yet
//! Scaling to zero, schedules, forecasts, measured capacity, host pools, placement of moves and choice of victims. What a document
//! could ask for of these is refused, never passed over.

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

pub use autoscaler::{Autoscaler, ScaleStatus};
pub use decide::TargetTracking;
pub use observation::{ScaleDecision, ScaleObservation, Sight, SignalReading};
pub use policy::{Amount, Direction, Flapping, OnMissing, RateLimit, ScalePolicy, Select, Signal, Target};
pub use record::{Action, ScaleRecord};
pub use replay::{Plant, ReplayReport, replay, replay_with};
