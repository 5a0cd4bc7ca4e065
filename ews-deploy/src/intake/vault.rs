//! Values of secrets, asked for when they are needed and kept for a moment, so that a flood of requests is none of a vault's.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ews_core::{Result, SecretRef, SecretValue, Secrets};
use tokio::time::Instant;

/// How long a value is kept: a secret that was replaced holds that much longer.
const KEPT: Duration = Duration::from_secs(30);

pub(super) struct Vault {
    secrets: Arc<dyn Secrets>,
    /// No more than there are references in the configuration.
    kept: Mutex<BTreeMap<SecretRef, (Instant, SecretValue)>>,
}

impl Vault {
    pub(super) fn new(secrets: Arc<dyn Secrets>) -> Self {
        Self { secrets, kept: Mutex::default() }
    }

    async fn value(&self, reference: &SecretRef) -> Result<SecretValue> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner).get(reference).cloned();
        if let Some((_, value)) = kept.filter(|(at, _)| at.elapsed() < KEPT) {
            return Ok(value);
        }
        let value = self.secrets.resolve(reference).await?;
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.insert(reference.clone(), (Instant::now(), value.clone()));
        Ok(value)
    }

    /// Those of these that there are.
    ///
    /// # Errors
    /// The last one's, where there is none at all.
    pub(super) async fn values(&self, references: &[SecretRef]) -> Result<Vec<SecretValue>> {
        let (mut values, mut last) = (Vec::new(), None);
        for reference in references {
            match self.value(reference).await {
                Ok(value) => values.push(value),
                Err(error) => {
                    tracing::warn!(%reference, %error, "a secret of the intake can't be had");
                    last = Some(error);
                }
            }
        }
        match last {
            Some(error) if values.is_empty() => Err(error),
            _ => Ok(values),
        }
    }
}
