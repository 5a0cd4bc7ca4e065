//! Every layer, for tests that run a contract's suite on a driver behind each of them.

/// The layers, and the stack of them all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Over {
    /// No layer.
    Nothing,
    /// The check of capabilities.
    Check,
    /// The deadline.
    Deadline,
    /// The retry.
    Retry,
    /// The limit of concurrency.
    Limit,
    /// The trace.
    Trace,
    /// All of them.
    Stack,
}

impl Over {
    /// What suites are run behind.
    pub(crate) const ALL: [Self; 6] =
        [Self::Check, Self::Deadline, Self::Retry, Self::Limit, Self::Trace, Self::Stack];
}

/// Puts a layer in front of an `Arc` of a driver.
#[macro_export]
macro_rules! behind {
    ($over:expr, $driver:expr) => {{
        use ews_core::layer::{
            CapabilityCheck, ConcurrencyLimit, Deadline, Layered, RetryLayer, Trace, stack,
        };
        match $over {
            $crate::layered::Over::Nothing => $driver,
            $crate::layered::Over::Check => std::sync::Arc::new(Layered::new($driver, CapabilityCheck)),
            $crate::layered::Over::Deadline => {
                std::sync::Arc::new(Layered::new($driver, Deadline::default()))
            }
            $crate::layered::Over::Retry => std::sync::Arc::new(Layered::new($driver, RetryLayer::default())),
            $crate::layered::Over::Limit => {
                std::sync::Arc::new(Layered::new($driver, ConcurrencyLimit::default()))
            }
            $crate::layered::Over::Trace => std::sync::Arc::new(Layered::new($driver, Trace)),
            $crate::layered::Over::Stack => std::sync::Arc::new(stack($driver)),
        }
    }};
}
