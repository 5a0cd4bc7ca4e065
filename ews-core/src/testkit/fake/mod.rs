//! An engine in memory on virtual time, and a driver for it: what engines of EWS are tested on.
//!
//! There are two layers, as in life. [`FakeEngine`] is what survives: nodes, instances, processes, logs. [`FakeRuntime`] is a
//! controller's handle to it. A controller restart is dropping the handle and connecting anew; a crash is
//! [`FakeRuntime::kill`]. Programs are scripts chosen by a spec's command (see [`FakeEngine`]).
//!
//! Everything waits on `tokio::time` and nothing reads a wall clock or a hash map's order, so on a paused clock and one
//! thread two runs yield equal sequences of events. Tests script the engine from outside ([`FakeEngine::exit`],
//! [`FakeEngine::set_node_state`], …), let calls fail by rule ([`Faults`]) and look behind the contract
//! ([`FakeEngine::calls`], [`FakeEngine::orphans`], …).
//!
//! ```
//! use ews_core::testkit::fake::{FakeConfig, FakeEngine, FakeRuntime};
//! use ews_core::{InstanceKey, InstanceSpec, RuntimeExt, InstanceState};
//! use ews_core::spec::source::{ImageSource, Source};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> ews_core::Result<()> {
//! let engine = FakeEngine::new(FakeConfig::default());
//! let runtime = FakeRuntime::connect(&engine);
//! let spec = InstanceSpec::new(Source::Image(ImageSource::new("shop/web:1".parse()?)));
//! let key = InstanceKey {
//!     owner: "acme".parse()?,
//!     service: "web".parse()?,
//!     revision: "r1".parse()?,
//!     slot: 0,
//!     generation: 0,
//! };
//! let instance = runtime.launch(&spec, &key, &Default::default()).await?;
//! assert_eq!(instance.state, InstanceState::Running);
//! # Ok(())
//! # }
//! ```

mod config;
mod engine;
mod events;
mod faults;
mod files;
mod harness;
mod life;
mod observe;
mod output;
mod ports;
mod process;
mod program;
mod runtime;
mod session;
mod state;
#[cfg(test)]
mod tests;

pub use config::FakeConfig;
pub use engine::{Call, FakeEngine, ImageState};
pub use faults::{Fault, FaultRule, Faults, Operation};
pub use harness::FakeHarness;
pub use runtime::FakeRuntime;
