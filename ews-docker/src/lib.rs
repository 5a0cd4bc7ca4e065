//! Docker for EWS: engines that run instances, the images on them, and registries.
//!
//! This crate implements three contracts of [`ews_core`]: [`Runtime`](ews_core::Runtime) and [`ImageStore`](ews_core::ImageStore) over
//! Docker Engine's API (20.10 and newer), [`Registry`](ews_core::Registry) over the OCI distribution API. It decides nothing: give it to
//! `ews_deploy::Deployer`, or call it yourself.
//!
//! ```no_run
//! use ews_core::runtime::CreateOptions;
//! use ews_core::{InstanceKey, InstanceSpec, Runtime as _, RuntimeExt as _};
//! use ews_core::spec::source::{ImageSource, Source};
//! use ews_docker::{DockerConfig, DockerRuntime};
//!
//! # async fn run() -> ews_core::Result<()> {
//! // The engine that the `docker` command would talk to.
//! let runtime = DockerRuntime::connect(DockerConfig::from_env()?).await?;
//! let spec = InstanceSpec::new(Source::Image(ImageSource::new("nginx:1.27".parse()?)));
//! let key = InstanceKey {
//!     owner: "shop".parse()?,
//!     service: "web".parse()?,
//!     revision: "r1".parse()?,
//!     slot: 0,
//!     generation: 0,
//! };
//! let web = runtime.launch(&spec, &key, &CreateOptions::default()).await?;
//! println!("{} runs on {}", web.id, web.node);
//! runtime.stop(&web.id, &Default::default()).await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Where to start
//! - **You run services**: [`DockerRuntime::builder`], with [`Credentials`] for private registries and a source of secrets; [`DockerConfig`]
//!   has every bound and time limit, [`EngineAddress`] the ways to an engine.
//! - **You build, push or prune images**: [`DockerImages`], and [`images::context`] for a directory with a `.dockerignore`. A runtime gives
//!   its own store by [`Runtime::images`](ews_core::Runtime::images).
//! - **You talk to registries without an engine**: `registry::OciRegistry`, and `registry::retention` for what may be deleted.
//! - **You work on EWS itself**: the headers of `client`, `connect`, `runtime` and [`images`].
//!
//! # Features
//! None is on by default.
//!
//! | Feature | What it brings |
//! |---|---|
//! | `tls` | engines behind TCP and TLS, with client certificates and private authorities |
//! | `buildkit` | builds with BuildKit where the engine has it: secrets that leave no trace, credentials for every base's registry |
//! | `registry` | the module `registry`, and `DockerLogins`, which reads what `docker login` left |
//!
//! # What is not here
//! Swarm, pools of engines, and engines over `ssh://`. It has run on Docker 20.10; newer APIs (1.44 to 1.52) and podman were tried against
//! a stand-in only, and Windows containers are mapped and have run nowhere. A file of a running container is replaced in one step only where the
//! engine is on this machine, Linux, and its processes can be looked into (root): elsewhere engines take the old file away a moment before.
//!
//! No type of bollard, hyper, oci-client or reqwest is in a public signature: those may change without a breaking release of this crate.

#![warn(missing_debug_implementations)]

mod client;
mod config;
mod connect;
pub mod credentials;
pub mod images;
mod runtime;

#[cfg(feature = "registry")]
pub mod registry;

pub use config::DockerConfig;
pub use connect::{EngineAddress, TlsFiles};
#[cfg(feature = "registry")]
pub use credentials::DockerLogins;
pub use credentials::{Credential, CredentialSource, Credentials, ExplicitCredentials};
pub use images::DockerImages;
pub use runtime::{DockerRuntime, DockerRuntimeBuilder, Kept, Pruned};
