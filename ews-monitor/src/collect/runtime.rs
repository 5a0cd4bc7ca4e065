//! A runtime's instances as a source of samples.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use ews_core::metrics::{MetricInfo, MetricKind};
use ews_core::runtime::Usage;
use ews_core::{Incarnation, Instance, InstanceId, Result, Runtime, Selector, Timestamp};

use super::Collector;
use crate::live::LiveStore;

/// Measures what a runtime's instances use, and how many there are.
///
/// | Metric | Kind, unit | Labels |
/// |---|---|---|
/// | `container.cpu.time` | counter, `s` | instance's |
/// | `container.memory.usage`, `ews.instance.memory.limit` | gauge, `By` | instance's |
/// | `container.disk.io` | counter, `By` | instance's, `disk.io.direction`: `read`, `write` |
/// | `container.network.io` | counter, `By` | instance's, `network.io.direction`: `receive`, `transmit` |
/// | `ews.instance.tasks` | gauge, `{task}` | instance's |
/// | `ews.instances` | gauge, `{instance}` | `service`, `state` |
///
/// An instance's labels are `service`, `revision`, `slot` and `node`. Its id is none of them, and neither are generation and
/// incarnation: a series stands for a place in a service, whoever fills it, so that restarts make no new series. While two
/// generations fill one slot side by side, the newer one is measured.
///
/// The engine's counters begin anew with each incarnation. Here they go on: what a new incarnation has used is added to what the
/// one before had when it was last measured. So nothing is lost where it used more in between than the one before ever did,
/// which a reader could not tell from growth. A collector that is started anew begins at the engine's value, and readers see a
/// reset as they always do.
pub struct RuntimeCollector {
    runtime: Arc<dyn Runtime>,
    matching: Selector,
    name: String,
    known: Mutex<Known>,
}

/// What is remembered from one collection to the next, for as long as the store's retention.
#[derive(Default)]
struct Known {
    counters: HashMap<CounterKey, Counter>,
    /// Services and states that were counted, and when last.
    states: HashMap<(String, &'static str), Timestamp>,
}

type CounterKey = (&'static str, &'static str, [String; 4]);

/// A counter that goes on over restarts.
struct Counter {
    instance: InstanceId,
    incarnation: Incarnation,
    /// What all before used.
    base: f64,
    last: f64,
    seen: Timestamp,
}

impl Counter {
    /// The counter's value with this reading of the engine's.
    fn advance(&mut self, usage: &Usage, value: f64) -> f64 {
        let restarted = self.instance != usage.instance || self.incarnation != usage.incarnation;
        if restarted || value < self.last {
            self.base += self.last;
            self.instance = usage.instance.clone();
            self.incarnation = usage.incarnation;
        }
        (self.last, self.seen) = (value, usage.at);
        self.base + value
    }
}

impl RuntimeCollector {
    /// The instances of this runtime that match: their own, by `ews/owner`, where several installations share an engine.
    pub fn new(runtime: Arc<dyn Runtime>, matching: Selector) -> Self {
        Self { runtime, matching, name: "runtime".to_owned(), known: Mutex::default() }
    }

    /// Under this name in logs and status, where there are several.
    #[must_use]
    pub fn with_name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    fn count(&self, instances: &[Instance], into: &LiveStore) -> Result<()> {
        let info = MetricInfo::new("ews.instances", MetricKind::Gauge, "{instance}");
        let now = into.now();
        let mut counts: HashMap<(String, &'static str), u64> = HashMap::new();
        for instance in instances {
            *counts.entry((instance.key.service.to_string(), instance.state.as_str())).or_default() += 1;
        }
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.states.extend(counts.keys().map(|key| (key.clone(), now)));
        known.states.retain(|_, seen| now.since(*seen) <= into.config().retention);
        // A state that nobody is in any more is counted as zero for a while: it was listed, so this is known.
        for (service, state) in known.states.keys() {
            let count = counts.get(&(service.clone(), *state)).copied().unwrap_or(0);
            #[expect(clippy::cast_precision_loss, reason = "a count of instances is far below 2^53")]
            into.record(&info, [("service", service.as_str()), ("state", state)], now, count as f64)?;
        }
        Ok(())
    }

    fn record(&self, instance: &Instance, usage: &Usage, into: &LiveStore) -> Result<()> {
        let key = &instance.key;
        let labels = [
            key.service.to_string(),
            key.revision.to_string(),
            key.slot.to_string(),
            instance.node.to_string(),
        ];
        let pairs =
            || ["service", "revision", "slot", "node"].into_iter().zip(labels.iter().map(String::as_str));
        for (name, unit, value) in [
            ("container.memory.usage", "By", usage.memory),
            ("ews.instance.memory.limit", "By", usage.memory_limit),
            ("ews.instance.tasks", "{task}", usage.pids),
        ] {
            if let Some(value) = value {
                into.record(
                    &MetricInfo::new(name, MetricKind::Gauge, unit),
                    pairs(),
                    usage.at,
                    float(value),
                )?;
            }
        }
        let cpu = usage.cpu_nanos.map(|nanos| Duration::from_nanos(nanos).as_secs_f64());
        for (name, unit, direction, value) in [
            ("container.cpu.time", "s", ("", ""), cpu),
            ("container.disk.io", "By", ("disk.io.direction", "read"), usage.io_read.map(float)),
            ("container.disk.io", "By", ("disk.io.direction", "write"), usage.io_written.map(float)),
            (
                "container.network.io",
                "By",
                ("network.io.direction", "receive"),
                usage.net_received.map(float),
            ),
            ("container.network.io", "By", ("network.io.direction", "transmit"), usage.net_sent.map(float)),
        ] {
            let Some(value) = value else { continue };
            let value = {
                let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
                let counter = known.counters.entry((name, direction.1, labels.clone()));
                counter.or_insert_with(|| Counter::new(usage)).advance(usage, value)
            };
            let direction = Some(direction).filter(|(key, _)| !key.is_empty());
            let info = MetricInfo::new(name, MetricKind::Counter, unit);
            into.record(&info, pairs().chain(direction), usage.at, value)?;
        }
        Ok(())
    }
}

impl Counter {
    fn new(usage: &Usage) -> Self {
        let Usage { instance, incarnation, at, .. } = usage;
        Self { instance: instance.clone(), incarnation: *incarnation, base: 0.0, last: 0.0, seen: *at }
    }
}

#[expect(clippy::cast_precision_loss, reason = "bytes beyond 2^53 need no exactness")]
fn float(value: u64) -> f64 {
    value as f64
}

impl std::fmt::Debug for RuntimeCollector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RuntimeCollector")
            .field("name", &self.name)
            .field("matching", &self.matching)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Collector for RuntimeCollector {
    fn name(&self) -> &str {
        &self.name
    }

    async fn collect(&self, into: &LiveStore) -> Result<()> {
        let instances = self.runtime.list(&self.matching).await?;
        self.count(&instances, into)?;
        // Of several in one place the newest generation.
        let mut places: HashMap<_, &Instance> = HashMap::new();
        for instance in instances.iter().filter(|instance| instance.state.is_running()) {
            let key = &instance.key;
            let place = (&key.service, &key.revision, key.slot, &instance.node);
            let newest = places.entry(place).or_insert(instance);
            if newest.key.generation < key.generation {
                *newest = instance;
            }
        }
        let by_id: HashMap<&InstanceId, &Instance> =
            places.into_values().map(|found| (&found.id, found)).collect();
        let mut ids: Vec<InstanceId> = by_id.keys().map(|id| (*id).clone()).collect();
        ids.sort();
        if !ids.is_empty() {
            for usage in self.runtime.usage(&ids).await? {
                if let Some(instance) = by_id.get(&usage.instance) {
                    self.record(instance, &usage, into)?;
                }
            }
        }
        let now = into.now();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.counters.retain(|_, counter| now.since(counter.seen) <= into.config().retention);
        Ok(())
    }
}
