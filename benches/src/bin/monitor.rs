//! Ingest into the live store and the memory of a sample, against pushing the same into a plain map of vectors.

#![allow(clippy::unwrap_used, reason = "a bench that can't run says so by its panic")]

use std::collections::HashMap;

use ews_benches::{Bench, interleave, resident_bytes};
use ews_core::metrics::{MetricInfo, MetricKind};
use ews_core::{Clock as _, SystemClock};
use ews_monitor::{LiveConfig, LiveStore};

const SERIES: usize = 2_000;
const SAMPLES: usize = 500;

fn main() {
    let mut bench = Bench::from_args("monitor");
    let slots: Vec<String> = (0..SERIES).map(|slot| slot.to_string()).collect();
    let before = resident_bytes();
    let store = ours(&slots);
    let after = resident_bytes();
    let total = (SERIES * SAMPLES) as f64;
    assert_eq!(store.stats().samples, (SERIES * SAMPLES) as u64);
    if let (Some(before), Some(after)) = (before, after) {
        let each = after.saturating_sub(before) as f64 / total;
        bench.line(
            "memory of a sample",
            each,
            "bytes",
            Some(34.0),
            format!("{SERIES} series of {SAMPLES} samples"),
        );
    }
    drop(store);
    let rounds = bench.scale(10, 3);
    let pair = interleave(rounds, || ours(&slots), || theirs(&slots));
    let rate = total / pair.ours().as_secs_f64() / 1e6;
    bench.line(
        "a million samples",
        1.0 / rate,
        "s",
        Some(1.0),
        format!("{rate:.2} million samples per second on one core"),
    );
    bench.ratio("live store", "HashMap<String, Vec<(i64, f64)>>", &pair, None);
    std::process::exit(bench.finish());
}

fn ours(slots: &[String]) -> LiveStore {
    let store = LiveStore::new(LiveConfig::default()).unwrap();
    let info = MetricInfo::new("container.cpu.time", MetricKind::Counter, "s");
    let start = SystemClock.now() - std::time::Duration::from_secs(SAMPLES as u64);
    for sample in 0..SAMPLES {
        let at = start + std::time::Duration::from_secs(sample as u64);
        for slot in slots {
            let labels = [
                ("service", "web"),
                ("revision", "r7-0123456789ab"),
                ("slot", slot.as_str()),
                ("node", "node-1"),
            ];
            store.record(&info, labels, at, sample as f64).unwrap();
        }
    }
    store
}

/// The least that anybody could do: the series' name is written out, looked up and pushed to, without bounds.
fn theirs(slots: &[String]) -> HashMap<String, Vec<(i64, f64)>> {
    let mut map: HashMap<String, Vec<(i64, f64)>> = HashMap::new();
    for sample in 0..SAMPLES {
        for slot in slots {
            let key =
                format!("container.cpu.time{{service=web,revision=r7-0123456789ab,slot={slot},node=node-1}}");
            map.entry(key).or_default().push((sample as i64, sample as f64));
        }
    }
    map
}
