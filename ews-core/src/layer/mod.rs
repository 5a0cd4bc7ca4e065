//! Layers: one idea each, in front of any driver of any contract.
//!
//! An idea is an [`Around`]: it gets a [`Call`], which says what is about to happen, and the operation, which it may refuse,
//! bound in time, repeat, delay or watch. [`Layered`] puts it in front of a driver; each contract is implemented for
//! `Layered` once, every method of it, so no layer ever skips one (`clippy::missing_trait_methods` holds that).
//!
//! | Idea | What it does |
//! |---|---|
//! | [`Trace`] | one span per call |
//! | [`CapabilityCheck`] | `Unsupported` before the driver is touched |
//! | [`RetryLayer`] | tries again what is safe to try again |
//! | [`ConcurrencyLimit`] | bounds the calls under way and those that wait |
//! | [`Deadline`] | `Timeout` instead of hanging |
//!
//! [`stack`] puts all five on, in that order. The order matters. A retry stands outside of the deadline, retry(timeout(call)),
//! so that a call that hangs is bounded and the next one gets its own time. A permit is held for one attempt, never during
//! a back-off. The deadline runs from when the driver is asked, not while the call waits for its turn, so that a timeout that
//! says `maybe_applied` means it.
//!
//! # A layer of your own
//! It works in front of every contract:
//!
//! ```
//! use std::sync::Arc;
//! use std::sync::atomic::{AtomicU64, Ordering};
//! use ews_core::layer::{Around, Call, Layered};
//! use ews_core::{Result, Secrets, Store};
//!
//! /// Counts the calls that change something.
//! #[derive(Default)]
//! struct CountChanges(AtomicU64);
//!
//! impl Around for CountChanges {
//!     async fn around<T, F, Fut>(&self, call: Call<'_>, operation: F) -> Result<T>
//!     where
//!         T: Send,
//!         F: Fn() -> Fut + Send + Sync,
//!         Fut: Future<Output = Result<T>> + Send,
//!     {
//!         if call.kind.is_mutating() {
//!             self.0.fetch_add(1, Ordering::Relaxed);
//!         }
//!         operation().await
//!     }
//! }
//!
//! fn in_front_of_both(store: Arc<dyn Store>, secrets: Arc<dyn Secrets>) -> (Arc<dyn Store>, Arc<dyn Secrets>) {
//!     let counted = Arc::new(CountChanges::default());
//!     (Arc::new(Layered::sharing(store, counted.clone())), Arc::new(Layered::sharing(secrets, counted)))
//! }
//! ```

mod around;
mod call;
mod capability;
mod deadline;
mod limit;
mod retry;
mod stack;
mod trace;

mod balancer;
mod exec;
mod image;
mod metrics;
mod registry;
mod runtime;
mod scale;
mod secrets;
mod store;

#[cfg(test)]
mod tests;

pub use around::{Around, Both, Layered};
pub use call::{Call, CallKind, Contract, Pace, Subject};
pub use capability::CapabilityCheck;
pub use deadline::{Deadline, DeadlineConfig};
pub use limit::{ConcurrencyLimit, LimitConfig};
pub use retry::{RetryConfig, RetryLayer};
pub use stack::{Stack, StackConfig, stack, stack_with};
pub use trace::Trace;
