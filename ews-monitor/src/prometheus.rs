//! Prometheus text (format 0.0.4) from the live store.
//!
//! Names follow OpenTelemetry's mapping ("Prometheus and OpenMetrics Compatibility"): what is no letter, digit or `_` becomes `_`,
//! the unit becomes a suffix, counters end in `_total`. Two metrics that would have one name are never mixed: the later one is left
//! out, and a comment says so. Histograms come with fixed bounds, those of OpenTelemetry's HTTP metrics for seconds and powers of
//! ten for other units, since bounds that followed the values would be new series each time; a count at a bound inside one of our
//! buckets is interpolated.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::Duration;

use ews_core::Histogram;
use ews_core::metrics::{MetricInfo, MetricKind};

use crate::live::{Latest, LiveStore, pairs};

/// The media type of the text.
pub const MEDIA_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// How old a series' newest sample may be to be shown. A minute: six collections at the 10 s that suit most; after it the series is
/// over for whoever scrapes, as it should be for one whose instance is gone.
pub const MAX_AGE: Duration = Duration::from_secs(60);

/// OpenTelemetry's `http.server.request.duration`.
const SECONDS: &[f64] = &[0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];
const OTHERS: &[f64] = &[1.0, 10.0, 100.0, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9];

/// Everything that the store has and that is fresh, and what it says of itself.
///
/// ```
/// use ews_core::metrics::{MetricInfo, MetricKind};
/// use ews_core::{Clock, SystemClock};
/// use ews_monitor::{LiveConfig, LiveStore, prometheus};
///
/// let store = LiveStore::new(LiveConfig::default())?;
/// let cpu = MetricInfo::new("container.cpu.time", MetricKind::Counter, "s");
/// store.record(&cpu, [("service", "web")], SystemClock.now(), 1.5)?;
/// let text = prometheus::text(&store);
/// assert!(text.contains("# TYPE container_cpu_time_seconds_total counter\n"));
/// assert!(text.contains("container_cpu_time_seconds_total{service=\"web\"} 1.5\n"));
/// # Ok::<(), ews_core::Error>(())
/// ```
pub fn text(store: &LiveStore) -> String {
    let mut out = String::new();
    let mut names = BTreeSet::new();
    store.latest(MAX_AGE, |info, series| {
        let name = name_of(info);
        let taken = [name.clone(), format!("{name}_bucket"), format!("{name}_sum"), format!("{name}_count")];
        let used = if info.kind == MetricKind::Histogram { &taken[..] } else { &taken[..1] };
        if used.iter().any(|name| names.contains(name)) {
            let _ =
                writeln!(out, "# {} is left out: another metric has the name {name}", one_line(&info.name));
            return;
        }
        names.extend(used.iter().cloned());
        family(&mut out, &name, info, series);
    });
    own(&mut out, store, &names);
    out
}

fn family(out: &mut String, name: &str, info: &MetricInfo, series: &[(&str, Latest<'_>)]) {
    let kind = match info.kind {
        MetricKind::Counter => "counter",
        MetricKind::Histogram => "histogram",
        _ => "gauge",
    };
    let description = if info.description.is_empty() { &info.name } else { &info.description };
    let _ = writeln!(out, "# HELP {name} {}", help(description));
    let _ = writeln!(out, "# TYPE {name} {kind}");
    let mut seen = BTreeSet::new();
    for (key, latest) in series {
        let labels = labels_of(key);
        // Labels that differ only in what a name can't hold would be one series twice.
        if !seen.insert(labels.clone()) {
            continue;
        }
        match latest {
            Latest::Number(value) => {
                let _ = writeln!(out, "{name}{} {}", braced(&labels), float(*value));
            }
            Latest::Histogram(histogram) => distribution(out, name, &labels, histogram, &info.unit),
        }
    }
}

fn distribution(out: &mut String, name: &str, labels: &str, histogram: &Histogram, unit: &str) {
    let comma = if labels.is_empty() { "" } else { "," };
    for bound in if unit == "s" { SECONDS } else { OTHERS } {
        let count = histogram.count_at_most(*bound);
        let _ = writeln!(out, "{name}_bucket{{{labels}{comma}le=\"{}\"}} {count}", float(*bound));
    }
    let count = histogram.count();
    let _ = writeln!(out, "{name}_bucket{{{labels}{comma}le=\"+Inf\"}} {count}");
    let _ = writeln!(out, "{name}_sum{} {}", braced(labels), float(histogram.sum()));
    let _ = writeln!(out, "{name}_count{} {count}", braced(labels));
}

/// What the store says of itself, so that whoever scrapes sees what was lost.
fn own(out: &mut String, store: &LiveStore, names: &BTreeSet<String>) {
    let stats = store.stats();
    let held = [
        ("ews_live_series", "Series in the live store.", stats.series),
        ("ews_live_samples", "Samples in the live store.", stats.samples),
    ];
    for (name, help, value) in held.iter().filter(|(name, ..)| !names.contains(*name)) {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}");
    }
    let name = "ews_live_dropped_total";
    if !names.contains(name) {
        let _ = writeln!(
            out,
            "# HELP {name} Samples that are not in a series of their own.\n# TYPE {name} counter"
        );
        for (reason, value) in [
            ("bound", stats.dropped),
            ("folded", stats.folded),
            ("future", stats.future),
            ("late", stats.late),
        ] {
            let _ = writeln!(out, "{name}{{reason=\"{reason}\"}} {value}");
        }
    }
}

/// `container.cpu.time` in `s` as a counter is `container_cpu_time_seconds_total`.
fn name_of(info: &MetricInfo) -> String {
    let mut name = sanitised(&info.name, true);
    let unit = unit_of(&info.unit, info.kind);
    if !unit.is_empty() && !name.ends_with(&format!("_{unit}")) {
        name.push('_');
        name.push_str(&unit);
    }
    if info.kind == MetricKind::Counter && !name.ends_with("_total") {
        name.push_str("_total");
    }
    name
}

/// UCUM to the words that Prometheus uses; what is in braces says nothing, and `1` is a ratio only where it is a gauge.
fn unit_of(unit: &str, kind: MetricKind) -> String {
    let word = |unit: &str| match unit {
        "s" => "seconds".to_owned(),
        "ms" => "milliseconds".to_owned(),
        "us" => "microseconds".to_owned(),
        "ns" => "nanoseconds".to_owned(),
        "min" => "minutes".to_owned(),
        "h" => "hours".to_owned(),
        "d" => "days".to_owned(),
        "By" => "bytes".to_owned(),
        "KiBy" => "kibibytes".to_owned(),
        "MiBy" => "mebibytes".to_owned(),
        "GiBy" => "gibibytes".to_owned(),
        "Cel" => "celsius".to_owned(),
        "%" => "percent".to_owned(),
        other if other.starts_with('{') => String::new(),
        other => sanitised(other, false).trim_matches('_').to_owned(),
    };
    match unit.split_once('/') {
        _ if unit == "1" => {
            if kind == MetricKind::Gauge {
                "ratio".to_owned()
            } else {
                String::new()
            }
        }
        Some((above, below)) => {
            let below = if below == "s" { "second".to_owned() } else { word(below) };
            let above = word(above);
            let joint = if above.is_empty() { "per_" } else { "_per_" };
            if below.is_empty() { above } else { format!("{above}{joint}{below}") }
        }
        None => word(unit),
    }
}

fn sanitised(name: &str, colons: bool) -> String {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || (colons && c == ':');
    let mut out = String::with_capacity(name.len() + 1);
    if name.starts_with(|c: char| c.is_ascii_digit()) {
        out.push('_');
    }
    for c in name.chars() {
        // Several in a row become one, as in OpenTelemetry's mapping.
        if fits(c) {
            out.push(c);
        } else if !out.ends_with('_') {
            out.push('_');
        }
    }
    out
}

fn labels_of(key: &str) -> String {
    let mut out = String::new();
    let mut names = BTreeSet::new();
    for (key, value) in pairs(key) {
        let mut name = sanitised(key, false);
        if name == "le" {
            name = "exported_le".to_owned();
        }
        if !names.insert(name.clone()) {
            continue;
        }
        let comma = if out.is_empty() { "" } else { "," };
        let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let _ = write!(out, "{comma}{name}=\"{value}\"");
    }
    out
}

fn braced(labels: &str) -> String {
    if labels.is_empty() { String::new() } else { format!("{{{labels}}}") }
}

fn help(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\n', "\\n").replace('\r', " ")
}

fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn float(value: f64) -> String {
    if value.is_nan() {
        "NaN".to_owned()
    } else if value.is_infinite() {
        if value > 0.0 { "+Inf" } else { "-Inf" }.to_owned()
    } else {
        value.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_mapped_as_opentelemetry_says() {
        for (name, kind, unit, wanted) in [
            ("container.cpu.time", MetricKind::Counter, "s", "container_cpu_time_seconds_total"),
            ("container.memory.usage", MetricKind::Gauge, "By", "container_memory_usage_bytes"),
            (
                "http.server.request.duration",
                MetricKind::Histogram,
                "s",
                "http_server_request_duration_seconds",
            ),
            ("http.server.active_requests", MetricKind::Gauge, "{request}", "http_server_active_requests"),
            ("cpu.utilization", MetricKind::Gauge, "1", "cpu_utilization_ratio"),
            ("events", MetricKind::Counter, "1", "events_total"),
            ("network.speed", MetricKind::Gauge, "By/s", "network_speed_bytes_per_second"),
            ("requests_total", MetricKind::Counter, "{request}", "requests_total"),
            ("uptime_seconds", MetricKind::Gauge, "s", "uptime_seconds"),
            ("9 lives..left", MetricKind::Gauge, "", "_9_lives_left"),
        ] {
            assert_eq!(name_of(&MetricInfo::new(name, kind, unit)), wanted);
        }
    }
}
