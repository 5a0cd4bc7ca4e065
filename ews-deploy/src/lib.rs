//! Deployment for EWS: a service is planned, rolled out, gated, rolled back and kept alive.
//!
//! A [`Deployer`] stands on a runtime, a store and, where there is traffic, a balancer, all of them contracts of [`ews_core`]. A request
//! is acknowledged when it is written down; whoever leads the service, this controller or its successor, brings it about.
//!
//! ```text
//! DeployRequest ─▶ Revision ─▶ Plan ─▶ rollout: batches of slots ─┐
//!        scale ──────────────▶ slots ─────────────────────────────┼─▶ fill a slot: create ▸ start ▸ gate ▸ attach
//! events, probes ───────────▶ supervision ────────────────────────┘                 drain ▸ stop ▸ remove
//! ```
//!
//! The fakes stand for a `ProcessRuntime` or a `DockerRuntime` here, and for a `RedbStore`:
//!
//! ```
//! use std::sync::Arc;
//!
//! use ews_core::ServiceSpec;
//! use ews_core::store::MemoryStore;
//! use ews_core::testkit::fake::{FakeConfig, FakeEngine, FakeRuntime};
//! use ews_deploy::{Batch, DeployConfig, DeployParts, DeployRequest, Deployer, Outcome, Strategy};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let runtime = Arc::new(FakeRuntime::connect(&FakeEngine::new(FakeConfig::default())));
//! let parts = DeployParts::new(runtime, Arc::new(MemoryStore::new())); // `.with_balancer(…)` moves traffic.
//! let deployer = Deployer::start(parts, DeployConfig::new("shop".parse()?)).await?;
//!
//! let web = |version: &str| {
//!     let document = format!("name = 'web'\nreplicas = 3\nartifact = '/srv/web-{version}'");
//!     ServiceSpec::from_toml(&document)
//! };
//! let first = deployer.deploy(&DeployRequest::new(web("1")?)).await?;
//! assert_eq!(deployer.wait(&first).await?.outcome, Some(Outcome::Succeeded));
//!
//! // The next version: one instance, then two at a time. What fails takes all of them back.
//! let strategy = Strategy::default().with_batches(Batch::Count(1), Batch::Count(2));
//! let update = DeployRequest::new(web("2")?).with_strategy(strategy).with_key("build-4711");
//! println!("{}", deployer.plan(&update).await?); // A dry run, which changes nothing.
//! let second = deployer.by("ann").deploy(&update).await?;
//! let report = deployer.wait(&second).await?;
//! assert!(report.outcome.is_some_and(Outcome::is_success), "{}", report.cause);
//!
//! // And by hand back to what ran before.
//! let back = deployer.by("ann").rollback(&"web".parse()?, None).await?;
//! assert_eq!(deployer.wait(&back).await?.to, report.from.ok_or("it came from somewhere")?);
//! assert_eq!(deployer.status(&"web".parse()?).await?.instances.len(), 3);
//! deployer.leave().await;
//! # Ok(())
//! # }
//! ```
//!
//! # Where to start
//! | You want to | Look at |
//! |---|---|
//! | say how a rollout proceeds | [`Strategy`]: batches, gates, deadlines, jobs; [`Canary`], [`BlueGreen`], [`Analysis`] |
//! | give a service traffic | [`Traffic`], and a balancer in [`DeployParts`] |
//! | steer and watch it | [`Deployer`]: `pause`, `resume`, `abort`, `cancel`, `rollback`, `restart`, `events`, `status`, `history`, `audit` |
//! | say what is done about failures and ailing instances | [`FailureRule`], [`RemedyPolicy`]; in Rust [`FailureSeen`], [`RemedySeen`], [`Hook`] |
//! | bring several services and jobs about as one, in order | [`release`] |
//! | scale | the [`ScaleTarget`](ews_core::ScaleTarget) that a [`Deployer`] is |
//! | mend a file in running instances | [`Hotfix`], [`Deployer::drift`] |
//! | act on many instances by their labels | [`Deployer::fleet`], [`Fleet`] |
//! | deploy a tag, a zip, a source tree or a Dockerfile | the module `source` (feature `sources`) |
//! | let your forge or CI ask for deployments | the module `intake` (feature `intake`): webhooks, and an API for curl |
//! | work on EWS itself | `record` (what is written, and by whom), `decide` (the pure core), `reconcile` (the loop, and the work on one slot), `traffic` (the balancer's side) |
//!
//! # How it works
//! This crate decides *what runs*, through contracts only, and never moves a byte of traffic itself. Every service has one reconciler,
//! which whoever holds its fenced lease runs: rollouts, rollback, scaling and supervision are inputs to it, not rivals. It writes down
//! what it is about to do before it does it, so that a controller that is killed anywhere loses nothing that it acknowledged, and its
//! successor goes on or goes back. It needs a tokio runtime with time, and installs no global of any kind.
//!
//! # Features
//! None is on by default.
//!
//! | Feature | What it brings |
//! |---|---|
//! | `sources` | `source`: images and artifacts that are pinned, made of what a team has |
//! | `intake` | `intake`: an axum router for webhooks and a deploy API with uploads, which listens nowhere; `sources` too |
//!
//! # What may change
//! Until 1.0 anything may, and the changelog says so. What may grow is non-exhaustive: it is made by `new` and `with_*`, and matched with a
//! last arm for the rest. The traits that you implement ([`Hook`], `intake::Fetch`, `intake::StatusSink`) grow by methods with a default.
//! Errors are [`ews_core::Error`], told apart by [`kind`](ews_core::Error::kind). Types of other crates that are part of this API:
//! [`bytes::Bytes`], [`futures_util::stream::BoxStream`], `serde`'s traits on documents; with `intake`, `axum::Router` (0.8) and
//! `serde_json::Value`.
//!
//! # What is not here
//! Images that are not pinned (the module `source` pins them) and placement on chosen nodes (a runtime of several chooses) are refused. One
//! deployer has one runtime: who has several engines runs a controller for each.

#![warn(missing_debug_implementations)]

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
