//! Deployment for EWS: from a spec to a revision, a plan, a rollout and supervision.
//!
//! This crate decides *what runs*, through [`ews_core`]'s contracts only, and never moves a byte of traffic itself. Every service
//! has one reconciler, which whoever holds its fenced lease runs: rollouts, rollback, scaling and supervision are inputs to
//! it, not rivals. It writes down what it is about to do before it does it, so that a controller that is killed anywhere loses
//! nothing that it acknowledged, and its successor goes on or goes back.
//!
//! ```text
//! DeployRequest ─▶ Revision ─▶ Plan ─▶ rollout: batches of slots ─┐
//!        scale ──────────────▶ slots ─────────────────────────────┼─▶ fill a slot: create ▸ start ▸ gate ▸ attach
//! events, probes ───────────▶ supervision ────────────────────────┘                 drain ▸ stop ▸ remove
//! ```
//!
//! # Where to start
//! - **You embed EWS**: [`Deployer`], [`DeployRequest`], [`Strategy`]; [`DeployEvent`] for progress;
//!   [`release`] for several services and jobs at once, in order, that find each other.
//! - **You have a tag, a zip or a source tree, not a digest**: the module `source`, a feature of the same name in the plural.
//! - **Your CI or your forge asks for deployments**: the module `intake`, a feature of the same name: webhooks and an API for curl.
//! - **You work on EWS itself**: `record` (what is written, and by whom), `decide` (the pure core), `reconcile` (the loop, and the
//!   work on one slot), `traffic` (the balancer's side).
//!
//! What is not here yet and refused: images that are not pinned (the module `source` pins them), placement on chosen nodes (a runtime
//! of several chooses).

mod analysis;
mod audit;
mod canary;
mod config;
mod decide;
mod deployer;
mod discovery;
mod event;
mod failure;
mod fleet;
mod gate;
mod hook;
mod hotfix;
#[cfg(feature = "intake")]
pub mod intake;
mod job;
mod plan;
mod preflight;
mod reconcile;
mod record;
pub mod release;
mod remedy;
mod report;
mod request;
mod restarts;
mod rollout;
mod scale_target;
mod slots;
#[cfg(feature = "sources")]
pub mod source;
mod strategy;
mod traffic;

pub use analysis::{Analysis, Condition, Measurement, MetricCheck, Missing, OnInconclusive, Verdict};
pub use audit::{AuditAction, AuditEntry};
pub use canary::{BlueGreen, Canary, CanaryStep};
pub use config::DeployConfig;
pub use deployer::{DeployParts, Deployer, ServiceStatus};
pub use event::{DeployEvent, EventKind, Step};
pub use failure::{FailureClass, FailureRule, FailureRules, FailureSeen};
pub use fleet::{Fleet, Ran};
pub use hook::Hook;
pub use hotfix::{Drift, FileFact, Hotfix, HotfixFile, Overlaid, OverlaidFile, Overlay, OverlayFile, Reload};
pub use job::JobReport;
pub use plan::{Plan, PlannedUnit, SpecChange, UnitAction, UnitOrder};
pub use preflight::{Finding, FindingAbout, ImageThere, NodeReport, Preflight};
pub use remedy::{Ailment, Remedy, RemedyPolicy, RemedyRule, RemedyRules, RemedySeen, Treatment};
pub use request::{Bounds, Concurrency, DeployRequest, Traffic};
pub use rollout::{JobReports, Outcome, Phase, Progress, RolloutId, RolloutReport, StepReport, UnitFailure};
pub use strategy::{Approval, Batch, OnFailure, Order, RolloutJob, Strategy};
