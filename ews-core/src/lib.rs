//! The vocabulary, contracts, layers and embedded defaults of EWS.
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
//! # Where to start
//! - **You embed EWS**: [`spec`] for what a service is, then the engines' crates.
//! - **You write a driver**: the contract's module ([`runtime`], [`balancer`], [`store`], …), whose header has the rules; then
//!   prove it with `testkit::conformance` (feature `testkit`).
//! - **You work on EWS itself**: `ARCHITECTURE.md` in the repository.
//!
//! # Modules, in reading order
//! Words: [`error`], [`id`], [`time`], [`label`], [`selector`], [`overlay`], [`spec`] and [`document`] (reading it), [`revision`], [`node`],
//! [`instance`], [`endpoint`], [`event`], [`capability`], [`histogram`].
//! Contracts: [`runtime`], [`image`], [`registry`], [`balancer`], [`metrics`], [`policy`], [`store`], [`secrets`], [`clock`],
//! [`scale`].
//! In front of contracts: [`layer`]. Shared by engines: [`backoff`], [`bus`], [`place`](mod@place), `archive`, `probe` and `http` (features of
//! the same names).
//!
//! No crate of EWS installs a signal handler, a global subscriber, a global allocator or an async runtime.

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
