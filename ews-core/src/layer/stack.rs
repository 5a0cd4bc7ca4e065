//! The recommended layers in the recommended order, in front of a driver of any contract.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::layer::{
    Both, CapabilityCheck, ConcurrencyLimit, Deadline, DeadlineConfig, Layered, LimitConfig, RetryConfig,
    RetryLayer, Trace,
};

/// All layers, the outermost first: trace, capability check, retry, limit, deadline.
pub type Stack = Both<Trace, Both<CapabilityCheck, Both<RetryLayer, Both<ConcurrencyLimit, Deadline>>>>;

/// The settings of all layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct StackConfig {
    /// What is tried again.
    pub retry: RetryConfig,
    /// How many calls at once.
    pub limit: LimitConfig,
    /// How long calls may take.
    pub deadline: DeadlineConfig,
}

impl StackConfig {
    /// With these retries.
    #[must_use]
    pub fn with_retry(mut self, retry: RetryConfig) -> Self {
        self.retry = retry;
        self
    }

    /// With this limit.
    #[must_use]
    pub fn with_limit(mut self, limit: LimitConfig) -> Self {
        self.limit = limit;
        self
    }

    /// With these deadlines.
    #[must_use]
    pub fn with_deadline(mut self, deadline: DeadlineConfig) -> Self {
        self.deadline = deadline;
        self
    }

    /// The layers with these settings.
    ///
    /// # Errors
    /// Those of the layers' constructors.
    pub fn build(self) -> Result<Stack> {
        Ok(assembled(
            RetryLayer::new(self.retry)?,
            ConcurrencyLimit::new(self.limit)?,
            Deadline::new(self.deadline)?,
        ))
    }
}

fn assembled(retry: RetryLayer, limit: ConcurrencyLimit, deadline: Deadline) -> Stack {
    Both::new(Trace, Both::new(CapabilityCheck, Both::new(retry, Both::new(limit, deadline))))
}

/// A driver with all layers in front, at their defaults.
///
/// ```
/// use std::sync::Arc;
/// use ews_core::{Runtime, Store, layer};
///
/// fn production(runtime: Arc<dyn Runtime>, store: Arc<dyn Store>) -> (Arc<dyn Runtime>, Arc<dyn Store>) {
///     (Arc::new(layer::stack(runtime)), Arc::new(layer::stack(store)))
/// }
/// ```
pub fn stack<C: ?Sized>(driver: Arc<C>) -> Layered<C, Stack> {
    Layered::new(driver, assembled(RetryLayer::default(), ConcurrencyLimit::default(), Deadline::default()))
}

/// A driver with all layers in front.
///
/// # Errors
/// Those of [`StackConfig::build`].
pub fn stack_with<C: ?Sized>(driver: Arc<C>, config: StackConfig) -> Result<Layered<C, Stack>> {
    Ok(Layered::new(driver, config.build()?))
}
