//! From another source of `Metrics`, such as a gateway, into the live store.

use std::sync::Arc;

use async_trait::async_trait;
use ews_core::metrics::{MetricInfo, MetricQuery, Reading};
use ews_core::{Error, Metrics, Result, Selector};
use futures_util::future::join_all;

use super::Collector;
use crate::live::LiveStore;

/// Asks another source for the newest sample of every series of chosen metrics. What is missing or stale there is recorded
/// nowhere, and every sample keeps the moment at which it was measured.
pub struct Relay {
    name: String,
    source: Arc<dyn Metrics>,
    metrics: Vec<String>,
    matching: Selector,
}

impl Relay {
    /// The most metrics of one relay.
    pub const MAX_METRICS: usize = 256;

    /// These metrics of this source; the name is for logs.
    ///
    /// # Errors
    /// `Invalid` for no metric, or more than [`Self::MAX_METRICS`].
    pub fn new(
        name: impl Into<String>,
        source: Arc<dyn Metrics>,
        metrics: impl IntoIterator<Item = impl Into<String>>,
    ) -> Result<Self> {
        let mut metrics: Vec<String> = metrics.into_iter().map(Into::into).collect();
        metrics.sort();
        metrics.dedup();
        if !(1..=Self::MAX_METRICS).contains(&metrics.len()) {
            return Err(Error::invalid(format!(
                "a relay of {} metrics; accepted: the names of 1 to {}",
                metrics.len(),
                Self::MAX_METRICS
            )));
        }
        Ok(Self { name: name.into(), source, metrics, matching: Selector::everything() })
    }

    /// Only series that match.
    #[must_use]
    pub fn with_matching(mut self, matching: Selector) -> Self {
        self.matching = matching;
        self
    }

    /// What the chosen metrics are; those that the source does not know yet are left out.
    async fn describe(&self) -> Result<Vec<MetricInfo>> {
        /// The most metrics that are looked through.
        const MOST: usize = 100_000;
        let (mut found, mut after, mut seen) = (Vec::new(), None, 0);
        loop {
            let page = self.source.describe(after, 1_000).await?;
            let Some(last) = page.last() else { return Ok(found) };
            after = Some(last.name.clone());
            seen += page.len();
            found.extend(page.into_iter().filter(|info| self.metrics.binary_search(&info.name).is_ok()));
            if found.len() == self.metrics.len() || seen >= MOST {
                return Ok(found);
            }
        }
    }

    async fn pull(&self, info: &MetricInfo, into: &LiveStore) -> Result<()> {
        let query = MetricQuery::new(&info.name, self.matching.clone());
        for series in self.source.instant(&query, None).await?.series {
            let labels = series.labels.iter().map(|(key, value)| (key.as_str(), value.as_str()));
            match series.value {
                Reading::Number(number) => into.record(info, labels, number.at, number.value)?,
                Reading::Histogram { histogram, at } => into.record_histogram(info, labels, at, histogram)?,
                _ => {}
            }
        }
        Ok(())
    }
}

impl std::fmt::Debug for Relay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Relay")
            .field("name", &self.name)
            .field("metrics", &self.metrics)
            .field("matching", &self.matching)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Collector for Relay {
    fn name(&self) -> &str {
        &self.name
    }

    async fn collect(&self, into: &LiveStore) -> Result<()> {
        let infos = self.describe().await?;
        // One metric that fails takes no other with it.
        let results = join_all(infos.iter().map(|info| self.pull(info, into))).await;
        results.into_iter().find(Result::is_err).unwrap_or(Ok(()))
    }
}
