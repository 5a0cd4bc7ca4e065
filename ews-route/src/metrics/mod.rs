//! What the gateway sees, as a source of metrics.
//!
//! | Metric | Kind | Labels beside `gateway` |
//! |---|---|---|
//! | `http.server.request.duration` | histogram, s | `pool`, the pool's own, `status_class` |
//! | `ews.route.requests` | counter, {request} | `pool`, the pool's own, `status_class` |
//! | `http.server.active_requests` | gauge, {request} | `pool`, the pool's own |
//! | `ews.route.failures` | counter, {request} | `pool`, the pool's own, `reason` |
//! | `ews.route.refused` | counter, {request} | `reason` |
//! | `ews.route.access.dropped` | counter, {line} | |
//! | `ews.route.endpoint.requests`, `.failures` | counter, {request} | `pool`, the pool's own, `instance`, `incarnation` |
//! | `ews.route.endpoint.active_requests` | gauge, {request} | the same |
//!
//! A request is counted when its answer has ended, and its duration lasts until then. What the gateway answers by itself has
//! no `pool`. Where a pool's own label has the name of one of the gateway's, the gateway's holds. A duration is known within
//! 4 %. Samples are taken every [`interval`](crate::SampleConfig::interval); how many and of how many series is bounded there.

pub(crate) mod recorder;
pub(crate) mod sampler;
pub(crate) mod series;

#[cfg(test)]
mod tests;

use async_trait::async_trait;
use ews_core::metrics::{Answer, MetricInfo, MetricKind, MetricQuery, Metrics, Reading, TimeRange};
use ews_core::{Capability, CapabilitySet, Clock, Result, SystemClock, Timestamp};

use crate::gateway::Gateway;

/// How long requests took.
pub const DURATION: &str = "http.server.request.duration";
/// How many requests were answered.
pub const REQUESTS: &str = "ews.route.requests";
/// How many requests are under way.
pub const ACTIVE: &str = "http.server.active_requests";
/// How many requests the gateway could not serve.
pub const FAILURES: &str = "ews.route.failures";
/// How many requests were refused before they were parsed.
pub const REFUSED: &str = "ews.route.refused";
/// How many lines of the access log were dropped.
pub const ACCESS_DROPPED: &str = "ews.route.access.dropped";
/// How many requests were sent to an endpoint.
pub const ENDPOINT_REQUESTS: &str = "ews.route.endpoint.requests";
/// How many of them are under way.
pub const ENDPOINT_ACTIVE: &str = "ews.route.endpoint.active_requests";
/// How many of them failed: no answer, or a status of 500 and above.
pub const ENDPOINT_FAILURES: &str = "ews.route.endpoint.failures";

/// Every metric of a gateway.
pub(crate) fn infos() -> Vec<MetricInfo> {
    let info = |name: &str, kind, unit: &str, description: &str| {
        let mut info = MetricInfo::new(name, kind, unit);
        description.clone_into(&mut info.description);
        info
    };
    let (counter, gauge) = (MetricKind::Counter, MetricKind::Gauge);
    vec![
        info(DURATION, MetricKind::Histogram, "s", "Time from a request's head to the end of its answer"),
        info(REQUESTS, counter, "{request}", "Answered requests"),
        info(ACTIVE, gauge, "{request}", "Requests under way"),
        info(FAILURES, counter, "{request}", "Requests that the gateway could not serve"),
        info(
            ACCESS_DROPPED,
            counter,
            "{line}",
            "Lines of the access log that were dropped, since it was too slow",
        ),
        info(REFUSED, counter, "{request}", "Requests refused before they were parsed"),
        info(ENDPOINT_REQUESTS, counter, "{request}", "Requests sent to an endpoint"),
        info(ENDPOINT_ACTIVE, gauge, "{request}", "Requests under way at an endpoint"),
        info(
            ENDPOINT_FAILURES,
            counter,
            "{request}",
            "Requests that an endpoint did not answer, or with 5xx",
        ),
    ]
}

/// What the gateway can answer: everything.
pub(crate) fn capabilities() -> CapabilitySet {
    [Capability::MetricWindows, Capability::MetricRanges, Capability::MetricHistograms].into_iter().collect()
}

#[async_trait]
impl Metrics for Gateway {
    fn capabilities(&self) -> CapabilitySet {
        capabilities()
    }

    async fn describe(&self, after: Option<String>, limit: usize) -> Result<Vec<MetricInfo>> {
        self.core().series.describe(after.as_deref(), limit)
    }

    async fn instant(&self, query: &MetricQuery, at: Option<Timestamp>) -> Result<Answer<Reading>> {
        let at = at.unwrap_or_else(|| SystemClock.now());
        let answer = self.core().series.instant(query, at);
        answer.map_err(|error| error.with_operation("metrics.instant").with_context("metric", &query.metric))
    }

    async fn range(&self, query: &MetricQuery, range: &TimeRange) -> Result<Answer<Vec<Reading>>> {
        let answer = self.core().series.range(query, range);
        answer.map_err(|error| error.with_operation("metrics.range").with_context("metric", &query.metric))
    }
}
