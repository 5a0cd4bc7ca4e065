//! Hooks: code of the embedder at the joints of a rollout.

use async_trait::async_trait;
use ews_core::Result;

use crate::rollout::RolloutReport;

/// Is asked before a rollout begins and before it is promoted, and told when it has ended.
///
/// Calls are made by whoever leads the service and may be made again by a successor, so they must bear that. A call that takes
/// longer than [`DeployConfig::hook_limit`](crate::DeployConfig::hook_limit) has failed. With several hooks all are asked, in
/// order; the first no counts. What is added to this trait later does nothing by default.
///
/// ```
/// use async_trait::async_trait;
/// use ews_core::{Error, ErrorKind, Result};
/// use ews_deploy::{Hook, RolloutReport};
///
/// /// Nothing is deployed while somebody has said so.
/// struct Freeze;
///
/// #[async_trait]
/// impl Hook for Freeze {
///     fn name(&self) -> &str {
///         "freeze"
///     }
///
///     async fn before(&self, rollout: &RolloutReport) -> Result<()> {
///         match rollout.id.service.as_str() {
///             "billing" => Err(Error::new(ErrorKind::Busy, "no changes to billing before the first")),
///             _ => Ok(()),
///         }
///     }
/// }
/// ```
#[async_trait]
pub trait Hook: Send + Sync + 'static {
    /// Its name, for reports.
    fn name(&self) -> &str;

    /// Before anything of the rollout is done. An error ends it as failed, with nothing changed.
    async fn before(&self, rollout: &RolloutReport) -> Result<()> {
        let _ = rollout;
        Ok(())
    }

    /// After the steps of a canary or of blue/green, before anything is replaced; without steps right after
    /// [`before`](Self::before). An error is a failure, about which the strategy says what is done.
    async fn before_promotion(&self, rollout: &RolloutReport) -> Result<()> {
        let _ = rollout;
        Ok(())
    }

    /// When the rollout has ended, at least once. An error is logged, and the call made again a few times.
    async fn after(&self, rollout: &RolloutReport) -> Result<()> {
        let _ = rollout;
        Ok(())
    }
}
