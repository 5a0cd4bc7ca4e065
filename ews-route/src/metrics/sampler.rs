//! Takes a sample of everything that was counted, on the control thread.

use std::time::Duration;

use ews_core::metrics::{MetricInfo, MetricKind};
use ews_core::{Labels, Timestamp};

use super::recorder::{CLASSES, Failure, PoolTotals};
use super::series::{SeriesLabels, Value};
use super::{
    ACCESS_DROPPED, ACTIVE, DURATION, ENDPOINT_ACTIVE, ENDPOINT_FAILURES, ENDPOINT_REQUESTS, FAILURES,
    REFUSED, REQUESTS,
};
use crate::gateway::Core;
use crate::gateway::guard::Refusal;

/// Samples one gateway.
#[derive(Debug)]
pub(crate) struct Sampler {
    infos: Vec<MetricInfo>,
    round: usize,
    kept: Duration,
    /// The last round, and the last one with histograms.
    last: Option<Timestamp>,
    last_times: Option<Timestamp>,
}

impl Sampler {
    pub(crate) fn new(core: &Core) -> Self {
        let config = core.shared.config.metrics;
        let samples = u32::try_from(config.samples).unwrap_or(u32::MAX);
        Self {
            infos: super::infos(),
            round: 0,
            kept: config.interval.saturating_mul(samples),
            last: Some(core.shared.started_at),
            last_times: Some(core.shared.started_at),
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "counts beyond 2^53 need no exactness")]
    pub(crate) fn sample(&mut self, core: &Core, at: Timestamp) {
        let with_times = self.round.is_multiple_of(core.shared.config.metrics.histogram_every);
        self.round += 1;
        let gateway = [("gateway".to_owned(), core.id.to_string())];
        let begin = |name: &str, labels: &SeriesLabels, more: &[(&str, &str)], value: Value, is_new: bool| {
            let Some(info) = self.infos.iter().find(|info| info.name == name) else { return };
            let mut labels = labels.clone();
            labels.extend(more.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
            // What is counted for the first time was zero a round ago: without that sample its first growth would not show.
            let before = match &value {
                _ if !is_new => None,
                Value::Number(_) if info.kind == MetricKind::Counter => self.last,
                Value::Number(_) => None,
                Value::Histogram(_) => self.last_times,
            };
            core.series.record(info, labels, at, value, before);
        };
        let record = |name: &str, labels: &SeriesLabels, more: &[(&str, &str)], value| {
            begin(name, labels, more, value, true)
        };
        let count = |number: u64| Value::Number(number as f64);
        let own: SeriesLabels = gateway.iter().cloned().collect();
        for (refusal, number) in Refusal::ALL.into_iter().zip(core.shared.registry.refused()) {
            if number > 0 {
                record(REFUSED, &own, &[("reason", refusal.as_str())], count(number));
            }
        }
        if let Some(log) = &core.shared.access {
            record(ACCESS_DROPPED, &own, &[], count(log.dropped()));
        }
        let mut totals = core.shared.registry.totals(with_times);
        // A pool that nobody has asked for has had no requests, which is a number and not a gap.
        for pool in core.pools_now() {
            totals.entry(pool.uid).or_insert_with(|| (Some(pool), PoolTotals::default()));
        }
        for (identity, totals) in totals.into_values() {
            let labels = match &identity {
                Some(identity) => labelled(&identity.labels, &gateway, identity.id.as_str()),
                None => own.clone(),
            };
            for ((class, requests), times) in CLASSES.iter().zip(totals.requests).zip(totals.times) {
                if requests > 0 || (identity.is_some() && *class != CLASSES[0]) {
                    record(REQUESTS, &labels, &[("status_class", class)], count(requests));
                }
                if let Some(times) = times {
                    record(DURATION, &labels, &[("status_class", class)], Value::Histogram(times));
                }
            }
            for (failure, number) in Failure::ALL.into_iter().zip(totals.failures) {
                if number > 0 {
                    record(FAILURES, &labels, &[("reason", failure.as_str())], count(number));
                }
            }
            if identity.is_some() {
                record(ACTIVE, &labels, &[], count(totals.active));
            }
        }
        for (pool, endpoint) in core.endpoints_now() {
            let labels = labelled(&pool.labels, &gateway, pool.id.as_str());
            let incarnation = endpoint.key.incarnation.to_string();
            let more = [("instance", endpoint.key.instance.as_str()), ("incarnation", incarnation.as_str())];
            // What it did under its pool's labels before is no growth under those that it has now.
            let is_new = endpoint.is_first_sample();
            begin(ENDPOINT_REQUESTS, &labels, &more, count(endpoint.requests()), is_new);
            begin(ENDPOINT_FAILURES, &labels, &more, count(endpoint.errors()), is_new);
            record(ENDPOINT_ACTIVE, &labels, &more, count(endpoint.in_flight()));
        }
        core.series.turn(at - self.kept);
        self.last = Some(at);
        if with_times {
            self.last_times = Some(at);
        }
    }
}

/// The pool's labels, and the gateway's own, which hold where names collide.
fn labelled(labels: &Labels, gateway: &[(String, String)], pool: &str) -> SeriesLabels {
    let theirs = labels.iter().map(|(key, value)| (key.to_owned(), value.to_owned()));
    theirs.chain(gateway.iter().cloned()).chain([("pool".to_owned(), pool.to_owned())]).collect()
}
