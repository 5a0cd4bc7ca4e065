//! Every series in Prometheus' text format 0.0.4.
//!
//! Names follow OpenTelemetry's mapping: dots become underscores, units are spelled out, counters end in `_total`.
//! Distributions are shown with fixed bounds, since that is what the format has; the exact ones are on the query side.

use std::fmt::Write as _;

use ews_core::Histogram;
use ews_core::metrics::{MetricInfo, MetricKind};

use crate::metrics::series::{SeriesLabels, Value};

/// OpenTelemetry's advice for the duration of HTTP requests, in seconds.
const BOUNDS: [f64; 14] = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];

pub(super) fn text(metrics: &[(MetricInfo, Vec<(SeriesLabels, Value)>)]) -> String {
    let mut text = String::new();
    for (info, series) in metrics.iter().filter(|(_, series)| !series.is_empty()) {
        let name = name(info);
        let kind = match info.kind {
            MetricKind::Counter => "counter",
            MetricKind::Histogram => "histogram",
            _ => "gauge",
        };
        let _ = writeln!(text, "# HELP {name} {}\n# TYPE {name} {kind}", info.description);
        for (labels, value) in series {
            match value {
                Value::Number(number) => {
                    let _ = writeln!(text, "{name}{} {number}", braces(labels, None));
                }
                Value::Histogram(histogram) => buckets(&mut text, &name, labels, histogram),
            }
        }
    }
    text
}

fn name(info: &MetricInfo) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    let mut name: String = info.name.chars().map(plain).collect();
    if info.unit == "s" {
        name.push_str("_seconds");
    }
    if info.kind == MetricKind::Counter {
        name.push_str("_total");
    }
    name
}

fn buckets(text: &mut String, name: &str, labels: &SeriesLabels, histogram: &Histogram) {
    let count = histogram.count();
    for bound in BOUNDS {
        let below = histogram.count_at_most(bound);
        let _ = writeln!(text, "{name}_bucket{} {below}", braces(labels, Some(&bound.to_string())));
    }
    let _ = writeln!(text, "{name}_bucket{} {count}", braces(labels, Some("+Inf")));
    let _ = writeln!(text, "{name}_sum{} {}", braces(labels, None), histogram.sum());
    let _ = writeln!(text, "{name}_count{} {count}", braces(labels, None));
}

fn braces(labels: &SeriesLabels, bound: Option<&str>) -> String {
    let mut text = String::from("{");
    let bound = bound.map(|bound| ("le".to_owned(), bound.to_owned()));
    let pairs = labels.iter().map(|(key, value)| (key.clone(), value.clone())).chain(bound);
    for (at, (key, value)) in pairs.enumerate() {
        if at > 0 {
            text.push(',');
        }
        // Keys like `ews/service` are no names there; a first digit is none either.
        let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
        let key: String = key.chars().map(plain).collect();
        let lead = if key.starts_with(|c: char| c.is_ascii_digit()) { "_" } else { "" };
        let _ = write!(text, "{lead}{key}=\"");
        for c in value.chars() {
            match c {
                '\\' => text.push_str("\\\\"),
                '"' => text.push_str("\\\""),
                '\n' => text.push_str("\\n"),
                other => text.push(other),
            }
        }
        text.push('"');
    }
    text.push('}');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_labels_and_buckets_are_as_prometheus_reads_them() {
        let labels: SeriesLabels = [("ews/service", "a\"b\\c\nd"), ("pool", "p"), ("9x", "y")]
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        let mut histogram = Histogram::new();
        [0.004, 0.03, 20.0].into_iter().for_each(|value| histogram.record(value));
        let infos = crate::metrics::infos();
        let text = text(&[
            (infos[0].clone(), vec![(labels.clone(), Value::Histogram(histogram))]),
            (infos[1].clone(), vec![(labels, Value::Number(3.0))]),
            (infos[2].clone(), vec![]),
        ]);
        for line in [
            "# TYPE http_server_request_duration_seconds histogram",
            r#"http_server_request_duration_seconds_bucket{_9x="y",ews_service="a\"b\\c\nd",pool="p",le="0.005"} 1"#,
            r#"http_server_request_duration_seconds_bucket{_9x="y",ews_service="a\"b\\c\nd",pool="p",le="10"} 2"#,
            r#"http_server_request_duration_seconds_bucket{_9x="y",ews_service="a\"b\\c\nd",pool="p",le="+Inf"} 3"#,
            r#"ews_route_requests_total{_9x="y",ews_service="a\"b\\c\nd",pool="p"} 3"#,
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        assert!(!text.contains("active_requests"));
    }
}
