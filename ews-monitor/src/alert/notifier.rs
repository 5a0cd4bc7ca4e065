//! Whoever is told about alerts.

use async_trait::async_trait;
use ews_core::Result;

use super::event::{AlertEvent, Transition};

/// Tells somebody. It is called for alerts that fire and that are resolved, in order, and again after an error or a restart: an
/// event may come twice, and is then the same to the letter.
#[async_trait]
pub trait Notifier: Send + Sync + 'static {
    /// Tells about one event. Dropping the future may leave it told.
    ///
    /// # Errors
    /// Whatever keeps it from being told; it is tried again at the next evaluation.
    async fn notify(&self, event: &AlertEvent) -> Result<()>;
}

/// Writes events to the log, by `tracing`: firing as a warning, the others as information.
#[derive(Debug, Clone, Copy, Default)]
pub struct LogNotifier;

#[async_trait]
impl Notifier for LogNotifier {
    async fn notify(&self, event: &AlertEvent) -> Result<()> {
        if event.transition == Transition::Firing {
            tracing::warn!(rule = event.rule.as_str(), severity = event.severity.as_str(), "{event}");
        } else {
            tracing::info!(rule = event.rule.as_str(), severity = event.severity.as_str(), "{event}");
        }
        Ok(())
    }
}
