//! Integrated deployment: webhooks, and a deploy API with uploads for which a CI job needs nothing but curl.
//!
//! An [`Intake`] is a router that the embedding service mounts, and a background part that it runs. What is answered with 202 is
//! written down in the store before; whoever runs next brings it about after any crash. Nothing here listens.
//!
//! | Path | What |
//! |---|---|
//! | `POST /hooks/{provider}/{rule}` | a webhook, believed by its signature: see [`Rule`] and [`Provider`] |
//! | `POST /v1/uploads`, `HEAD`, `GET`, `PATCH`, `PUT`, `DELETE /v1/uploads/{id}` | a resumable upload: begun, looked at, added to, completed, deleted |
//! | `PUT /v1/artifacts?digest=sha256:…` | an upload in one request, for `curl -T` |
//! | `POST /v1/services/{name}/deploy`, `/plan` | a deployment of an image, an upload or a spec; what it would do |
//! | `GET /v1/services/{name}/rollouts/{n}?wait=30s` | a rollout, when it has ended or that time is over |
//! | `GET /v1/services/{name}/status`, `/history`, `/events` | how it stands, what there was, what happens (server-sent events) |
//! | `POST /v1/services/{name}/rollback`, `/restart`, `/pause`, `/resume`, `/abort`, `/cancel`, `/scale`, `/hotfix` | as the deployer's methods |
//! | `GET /v1/audit?service=…` | who asked for what |
//! | `GET /v1/openapi.json` | the API as OpenAPI 3.1: [`OPENAPI`] |
//!
//! ```no_run
//! use std::sync::Arc;
//!
//! use ews_core::Secrets;
//! use ews_deploy::Deployer;
//! use ews_deploy::intake::{Intake, IntakeConfig, IntakeParts};
//!
//! # async fn serve(deployer: Deployer, secrets: Arc<dyn Secrets>, config: IntakeConfig) -> Result<(), Box<dyn std::error::Error>> {
//! let intake = Intake::start(IntakeParts::new(deployer, secrets), config)?;
//! let background = tokio::spawn({
//!     let intake = intake.clone();
//!     async move { intake.run().await }
//! });
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:7080").await?;
//! axum::serve(listener, intake.router()?).await?;
//! background.abort();
//! # Ok(())
//! # }
//! ```
//!
//! # From a CI job
//! The whole of it, with a token in `$TOKEN`, the router at `$EWS` and what was built in `$FILE`:
//!
//! ```sh
#![doc = include_str!("deploy.sh")]
//! ```
//!
//! # Reading order
//! `rule` and `heard` (what a webhook says and means), `hooks` (believing and reading it), `record` (what is written down), `work`
//! (bringing it about); `uploads`; `api`.

mod answer;
mod api;
mod config;
#[cfg(fuzzing)]
pub mod fuzzing;
mod glob;
mod heard;
mod hooks;
mod make;
mod record;
mod rule;
mod status;
mod template;
mod uploads;
mod vault;
mod work;

use std::sync::Arc;

use axum::Router;
use ews_core::{Error, Result, Secrets, ServiceName};
use tokio::sync::{Notify, Semaphore};

pub use api::OPENAPI;
pub use config::{IntakeConfig, IntakeLimits, TokenScope, Verb};
pub use glob::Glob;
pub use heard::{Heard, HeardKind};
pub use make::Fetch;
pub use rule::{MadeBy, MadeKind, Pointed, Provider, Rule, RuleSource};
pub use status::{PostStatus, Status, StatusSink, StatusState};
pub use template::Template;

use crate::deployer::Deployer;
use crate::source::Sources;
use record::Records;
use uploads::Uploads;
use vault::Vault;

/// Where the link of a status leads.
type Link = Arc<dyn Fn(&ServiceName, Option<u64>) -> Option<String> + Send + Sync>;

/// What an intake stands on.
#[derive(Clone)]
#[non_exhaustive]
pub struct IntakeParts {
    /// Who deploys. Its store keeps what was accepted.
    pub deployer: Deployer,
    /// Where the values of secrets and tokens are.
    pub secrets: Arc<dyn Secrets>,
    /// What makes pinned sources. Default: nothing; then only images with a digest can be deployed.
    pub sources: Option<Sources>,
    /// Who turns commits into files. Default: nobody; then a rule about commits fails.
    pub fetch: Option<Arc<dyn Fetch>>,
    /// Who is told how deployments of webhooks go. Default: nobody.
    pub status: Option<Arc<dyn StatusSink>>,
    link: Option<Link>,
}

impl IntakeParts {
    /// This deployer, and these secrets.
    pub fn new(deployer: Deployer, secrets: Arc<dyn Secrets>) -> Self {
        Self { deployer, secrets, sources: None, fetch: None, status: None, link: None }
    }

    /// Sources are made by this.
    #[must_use]
    pub fn with_sources(mut self, sources: Sources) -> Self {
        self.sources = Some(sources);
        self
    }

    /// Commits are fetched by this.
    #[must_use]
    pub fn with_fetch(mut self, fetch: Arc<dyn Fetch>) -> Self {
        self.fetch = Some(fetch);
        self
    }

    /// This is told how deployments go.
    #[must_use]
    pub fn with_status(mut self, status: Arc<dyn StatusSink>) -> Self {
        self.status = Some(status);
        self
    }

    /// Statuses link to this page of a service and its rollout. Default: nowhere.
    #[must_use]
    pub fn with_link(
        mut self,
        link: impl Fn(&ServiceName, Option<u64>) -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        self.link = Some(Arc::new(link));
        self
    }
}

impl std::fmt::Debug for IntakeParts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IntakeParts").field("deployer", &self.deployer).finish_non_exhaustive()
    }
}

/// Webhooks and the deploy API. Clones are the same. See the [module](self).
#[derive(Clone)]
pub struct Intake {
    inner: Arc<Inner>,
}

struct Inner {
    deployer: Deployer,
    sources: Option<Sources>,
    fetch: Option<Arc<dyn Fetch>>,
    sink: Option<Arc<dyn StatusSink>>,
    link: Option<Link>,
    vault: Vault,
    config: IntakeConfig,
    records: Records,
    uploads: Uploads,
    /// There is something new to do.
    wake: Notify,
    making: Semaphore,
    streams: Arc<Semaphore>,
}

impl Intake {
    /// Takes up what an earlier intake left in the directory of uploads; what it left in the store is brought about by
    /// [`run`](Self::run). It reads the directory once, blocking.
    ///
    /// # Errors
    /// `Invalid` for the configuration; those of the file system.
    pub fn start(parts: IntakeParts, config: IntakeConfig) -> Result<Self> {
        config.check()?;
        let IntakeParts { deployer, secrets, sources, fetch, status, link } = parts;
        let workshop = deployer.workshop();
        let (store, owner) = (Arc::clone(&workshop.store), workshop.config.owner.clone());
        let clock = Arc::clone(&workshop.clock);
        let inner = Inner {
            sources,
            fetch,
            sink: status,
            link,
            vault: Vault::new(secrets),
            records: Records::new(store, &owner, uploads::id()),
            uploads: Uploads::open(config.uploads.clone(), config.limits, clock)?,
            wake: Notify::new(),
            making: Semaphore::new(config.limits.making),
            streams: Arc::new(Semaphore::new(config.limits.streams)),
            deployer,
            config,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The router, for the embedding service to mount. It listens nowhere. Webhooks and the API want TLS in front of them.
    ///
    /// # Errors
    /// `Invalid` for limits that can't be kept.
    pub fn router(&self) -> Result<Router> {
        // In this order, so that what is nowhere is behind the token too.
        Ok(hooks::router(&self.inner)?.merge(api::router(&self.inner)?))
    }

    /// Brings about what was accepted, follows it and tells it, until it is dropped; then what is under way ends where it stands,
    /// and whoever runs next goes on. One at a time in a process; several on one store share the work.
    pub async fn run(&self) {
        Box::pin(Arc::clone(&self.inner).run()).await;
    }
}

impl std::fmt::Debug for Intake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Intake").field("config", &self.inner.config).finish_non_exhaustive()
    }
}

/// What a name on the wire is, refused with the field where it is none.
fn service_name(text: &str) -> Result<ServiceName> {
    ServiceName::new(text).map_err(|error: Error| error.with_context("field", "service"))
}
