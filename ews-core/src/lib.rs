//! What EWS is made of: the words for services, the contracts of drivers, layers around them, and embedded defaults.
//!
//! EWS is an SDK for building an operations system: deploy, scale, route, monitor. This crate is what its engines and drivers
//! have in common. A service is described ([`ServiceSpec`]), pinned ([`Revision`]), run by a driver ([`Runtime`]), reached
//! through another ([`Balancer`]), watched through a third ([`Metrics`]), decided upon by pure functions ([`Policy`]) and
//! remembered in a fourth ([`Store`]).
//!
//! ```text
//! ServiceSpec ─▶ Revision ─▶ Runtime ─▶ Instance ─▶ Endpoint ─▶ Balancer
//!                               │            ▲                     │
//!                             Events ──▶  engines  ◀── Metrics ◀───┘
//!                                            │
//!                                          Store
//! ```
//!
//! A document becomes a checked spec, and a runtime runs it. The runtime here is the fake that tests use (feature `testkit`);
//! `process::ProcessRuntime` (feature `process`) and `ews_docker::DockerRuntime` take its place unchanged:
//!
//! ```
//! use std::sync::Arc;
//!
//! use ews_core::testkit::fake::{FakeConfig, FakeEngine, FakeRuntime};
//! use ews_core::{InstanceKey, Runtime, RuntimeExt, Selector, ServiceSpec, layer};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let spec = ServiceSpec::from_toml(
//!     r#"
//!     name = "web"
//!     image = "registry.example/shop/web:1.2"
//!     ports = { http = 8080 }
//!     "#,
//! )?; // or every problem of the document at once, each with line, column and what is accepted
//!
//! let driver: Arc<dyn Runtime> = Arc::new(FakeRuntime::connect(&FakeEngine::new(FakeConfig::default())));
//! let runtime = layer::stack(driver); // traced, checked, retried, limited, never hanging
//! let key = InstanceKey {
//!     owner: "shop".parse()?,
//!     service: spec.name.clone(),
//!     revision: "r1".parse()?,
//!     slot: 0,
//!     generation: 0,
//! };
//! let web = runtime.launch(&spec.instance, &key, &Default::default()).await?;
//! assert!(web.state.is_running());
//! assert_eq!(runtime.list(&Selector::equal("ews/service", "web")?).await?.len(), 1);
//! # Ok(())
//! # }
//! ```
//!
//! # Where to start
//! - **You embed EWS**: [`spec`] for what a service is, then the engines' crates: `ews-deploy` (start there), `ews-route`, `ews-scale`,
//!   `ews-monitor`, and `ews-docker` for Docker.
//! - **You write a driver**: the contract's module ([`runtime`], [`balancer`], [`store`], …), whose header has the rules; then
//!   prove it with `testkit::conformance` (feature `testkit`).
//! - **You handle errors**: [`Error`] says by [`ErrorKind`] what went wrong, by [`Retry`] whether to try again, and whether the operation
//!   [may have happened](Error::maybe_applied) all the same.
//! - **You work on EWS itself**: `ARCHITECTURE.md` in the repository.
//!
//! # Modules, in reading order
//! Words: [`error`], [`id`], [`time`], [`label`], [`selector`], [`overlay`], [`spec`] and [`document`] (reading it), [`revision`], [`node`],
//! [`instance`], [`endpoint`], [`event`], [`capability`], [`histogram`].
//! Contracts: [`runtime`], [`image`], [`registry`], [`balancer`], [`metrics`], [`policy`], [`store`], [`secrets`], [`clock`],
//! [`scale`].
//! In front of contracts: [`layer`]. Shared by engines: [`backoff`], [`bus`], [`detach`](mod@detach), [`place`](mod@place), and the modules
//! that are features.
//!
//! # Features
//!
//! | Feature | What it brings |
//! |---|---|
//! | `redb` (default) | `store::RedbStore`: the embedded store on disk |
//! | `process` | `process::ProcessRuntime`: services as processes of this machine (Linux; Windows, tried under Wine), and the program `ews-shim` |
//! | `probe` | `probe::Prober`: HTTP, TCP, exec and engine health checks with thresholds |
//! | `http` | `http::control`: problems, tokens, bounded bodies and timeouts around an axum router. It listens nowhere |
//! | `archive` | `archive::Entries`: the tar format with bounded memory |
//! | `testkit` | fakes of every contract and the conformance suites; for tests only |
//! | `mock` | mockall mocks of every contract; for tests only |
//!
//! # What may change
//! Structs and enums that may grow are `#[non_exhaustive]`: they have a constructor, `with_…` setters or open fields. What is whole by its
//! nature stays open to literals and whole matches: keys and pairs such as [`InstanceKey`], [`EndpointKey`] and
//! [`Retry`]. A contract gets a new method only with a default that refuses with [`ErrorKind::Unsupported`] and matches a capability
//! that no driver of before declares; one without such a default is a breaking change. New kinds of errors, capabilities and events come in any release.
//!
//! Types of these crates are part of this one's API, and a new major version of one of them is a breaking change here: `bytes`
//! (`Bytes`), `futures-core` (`Stream`, in boxed streams), `serde` (the derived traits), `serde_json` (`Value`, in [`PolicyState`] and
//! [`store::Schema`]), `tokio` (`AsyncRead` and `AsyncWrite`, in [`runtime::ExecSession`] and backups), and with features `axum`
//! (`http`), `tracing` and `mockall` (`testkit`, `mock`). Traits with async methods are written with `async-trait`.
//!
//! # What is not here
//! Anything that decides (the engines' crates do) and anything of Docker (`ews-docker`). No crate of EWS installs a signal handler, a
//! global subscriber, a global allocator or an async runtime.

#![warn(missing_debug_implementations)]

#[cfg(feature = "archive")]
pub mod archive;
pub mod backoff;
pub mod balancer;
pub mod bus;
pub mod capability;
pub mod clock;
pub mod detach;
pub mod document;
pub mod endpoint;
pub mod error;
pub mod event;
pub mod histogram;
#[cfg(feature = "http")]
pub mod http;
pub mod id;
pub mod image;
pub mod instance;
pub mod label;
pub mod layer;
pub mod metrics;
pub mod node;
pub mod overlay;
pub mod place;
pub mod policy;
#[cfg(feature = "probe")]
pub mod probe;
#[cfg(all(feature = "process", any(target_os = "linux", windows)))]
pub mod process;
pub mod registry;
pub mod revision;
pub mod runtime;
pub mod runtime_ext;
pub mod scale;
pub mod secrets;
pub mod selector;
pub mod spec;
pub mod store;
#[cfg(feature = "testkit")]
pub mod testkit;
pub mod time;

pub use backoff::{Backoff, BackoffConfig};
pub use balancer::{Balancer, BalancerExt};
pub use bus::Bus;
pub use capability::{Capability, CapabilitySet, Enforcement, RuntimeCapabilities};
pub use clock::{Clock, SystemClock};
pub use detach::detach;
pub use endpoint::{Endpoint, EndpointAddress, EndpointKey, HostName, Scope};
pub use error::{Error, ErrorKind, Result, Retry};
pub use event::{EventStream, Gap, Notice, RuntimeEvent};
pub use histogram::Histogram;
pub use id::{
    CertificateId, ChangeId, GatewayId, InstanceId, NetworkName, NodeId, OwnerId, PoolId, PortName,
    ReleaseName, RevisionId, RouteSetId, ServiceName, TrafficPolicyId, VolumeName,
};
pub use image::ImageStore;
pub use instance::{ExitStatus, Failure, Health, Incarnation, Instance, InstanceKey, InstanceState};
pub use label::{Labels, Lookup};
pub use layer::{Around, Layered};
pub use metrics::{Metrics, MetricsExt, Unavailable};
pub use node::{Capacity, Node, NodeState};
pub use overlay::LabelOverlay;
pub use policy::{Explained, Policy, PolicyState};
pub use registry::Registry;
pub use revision::Revision;
pub use runtime::Runtime;
pub use runtime_ext::RuntimeExt;
pub use scale::{Scale, ScaleChange, ScaleTarget};
pub use secrets::{SecretValue, Secrets};
pub use selector::{Requirement, Selector};
pub use spec::content::SecretRef;
pub use spec::platform::{Arch, Isolation, Os, Platform};
pub use spec::source::{Digest, ImageRef, Source};
pub use spec::{InstanceSpec, ServiceSpec};
pub use store::{Store, StoreExt};
pub use time::Timestamp;
