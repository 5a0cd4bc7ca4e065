//! Registries: where images live, over the OCI distribution API (1.1; what it leaves open, as Docker's `distribution` does it).
//!
//! [`OciRegistry`] is the `Registry` contract of ews-core: one value serves every registry that an image's name can name.
//! [`select()`] chooses a platform's entry of an index, [`retention`] decides by digest what may be deleted.
//!
//! ```no_run
//! use std::sync::Arc;
//!
//! use ews_core::registry::Registry;
//! use ews_core::secrets::FileSecrets;
//! use ews_docker::registry::{OciRegistry, OciRegistryConfig};
//! use ews_docker::{Credentials, DockerLogins, ExplicitCredentials};
//!
//! # async fn example() -> ews_core::Result<()> {
//! let secrets = Arc::new(FileSecrets::new("/run/secrets")?);
//! let explicit = ExplicitCredentials::new(secrets).with_password("registry.example", "deploy", "registry-password".parse()?);
//! let credentials = Credentials::anonymous().or(explicit).or(DockerLogins::from_env());
//! let config = OciRegistryConfig::default().with_plain_http("127.0.0.1:5000");
//! let registry = OciRegistry::new(config, credentials)?;
//!
//! let image = "registry.example/shop/web:1.2".parse()?;
//! let found = registry.resolve(&image).await?;
//! let manifest = registry.manifest(&image.with_digest(found.digest)).await?;
//! # let _ = manifest; Ok(()) }
//! ```
//!
//! # What oci-client does here, and what it does not
//! Its documents ([`oci_client::manifest`]) and error codes ([`oci_client::errors`]) are used, and its HTTP client
//! (reqwest). Its own `Client` makes none of our calls, because every one of them (0.18.0) goes through code that
//!
//! - reads answers of any length into memory: manifests, tag lists, tokens, and the body of every error;
//! - drops the headers of what failed, and with them `Retry-After`;
//! - panics on a token that is no header value, on an upload's location that is no address, and on a manifest pushed by digest
//!   where the registry tells no location;
//! - sends a password to whatever address the registry names as its token service, plain HTTP included, and follows redirects
//!   without a look at where they lead;
//! - goes on without credentials where the token service failed, so that an outage looks like a refusal;
//! - keeps credentials for as long as the client lives, and knows no identity tokens;
//! - logs the locations of uploads, which are capabilities.
//!
//! # Reading order
//! `config`; then one call from the bottom up: `wire` (one HTTP exchange and its redirects), `challenge` and `token` (who
//! we are), `pace` (trying again), `session` (one operation: wire + credentials + pace), `read`, `pull`, `push` (the operations),
//! `oci` (the contract), `fault` (what failed, mapped to the one error in one place). Pure: `document`, `select`, `retention::plan`.

mod challenge;
mod config;
mod document;
mod fault;
mod oci;
mod origin;
mod pace;
mod pull;
mod push;
mod read;
pub mod retention;
mod select;
mod session;
mod token;
mod wire;

pub use config::OciRegistryConfig;
pub use document::{index_entries, is_index};
pub use oci::OciRegistry;
pub use select::{Wanted, select};
