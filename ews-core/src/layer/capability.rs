//! Refuses what the driver does not declare, before the driver is touched.

use std::future::Future;

use crate::error::Result;
use crate::layer::{Around, Call};

/// `Unsupported` for what the driver does not declare.
///
/// A driver may then be written as if every call were within its capabilities, and a call beyond them is refused in the same
/// words whichever driver it is. It fails never by itself: the check reads the declared capabilities and the arguments.
#[derive(Debug, Clone, Copy, Default)]
pub struct CapabilityCheck;

impl Around for CapabilityCheck {
    async fn around<T, F, Fut>(&self, call: Call<'_>, operation: F) -> Result<T>
    where
        T: Send,
        F: Fn() -> Fut + Send + Sync,
        Fut: Future<Output = Result<T>> + Send,
    {
        call.check_capabilities().map_err(|error| error.with_operation(call.operation))?;
        operation().await
    }
}
