//! Prometheus text, read back by a strict parser of the format.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test harness")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use ews_core::metrics::{MetricInfo, MetricKind};
use ews_core::testkit::VirtualClock;
use ews_core::{Clock as _, Histogram};
use ews_monitor::{LiveConfig, LiveStore, prometheus};
use proptest::prelude::*;

type Labels = BTreeMap<String, String>;

/// What the text says: the type of each family, and each sample once. It panics at whatever the format does not allow.
#[derive(Default)]
struct Parsed {
    types: BTreeMap<String, String>,
    samples: BTreeMap<(String, Labels), f64>,
}

fn is_name(text: &str, colon: bool) -> bool {
    !text.is_empty()
        && !text.starts_with(|c: char| c.is_ascii_digit())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || (colon && c == ':'))
}

fn parse(text: &str) -> Parsed {
    assert!(text.is_empty() || text.ends_with('\n'));
    let (mut parsed, mut family, mut helped, mut closed) =
        (Parsed::default(), String::new(), BTreeSet::new(), BTreeSet::new());
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, _) = rest.split_once(' ').unwrap();
            assert!(is_name(name, true) && helped.insert(name.to_owned()), "{line}");
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert!(helped.contains(name) && closed.insert(name.to_owned()), "{line}");
            parsed.types.insert(name.to_owned(), kind.to_owned());
            family = name.to_owned();
        } else if !line.starts_with('#') {
            let (name, labels, value) = sample(line);
            let kind = &parsed.types[&family];
            let allowed: &[&str] = if kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
            assert!(allowed.iter().any(|suffix| name == format!("{family}{suffix}")), "{line} in {family}");
            assert!(kind != "counter" || name.ends_with("_total"), "{line}");
            assert!(parsed.samples.insert((name, labels), value).is_none(), "twice: {line}");
        }
    }
    parsed
}

fn sample(line: &str) -> (String, Labels, f64) {
    let end = line.find(['{', ' ']).unwrap();
    let (name, mut rest) = line.split_at(end);
    assert!(is_name(name, true), "{line}");
    let mut labels = Labels::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        loop {
            let (key, after) = rest.split_once("=\"").unwrap();
            assert!(is_name(key, false), "{line}");
            let (mut value, mut characters) = (String::new(), after.char_indices());
            let ended = loop {
                match characters.next().unwrap() {
                    (at, '"') => break at,
                    (_, '\\') => value.push(match characters.next().unwrap().1 {
                        'n' => '\n',
                        c @ ('\\' | '"') => c,
                        c => panic!("the escape \\{c} in {line}"),
                    }),
                    (_, c) => value.push(c),
                }
            };
            assert!(labels.insert(key.to_owned(), value).is_none(), "{line}");
            rest = after.get(ended + 1..).unwrap();
            match rest.strip_prefix(',') {
                Some(more) => rest = more,
                None => break,
            }
        }
        rest = rest.strip_prefix('}').unwrap();
    }
    let value = rest.strip_prefix(' ').unwrap();
    let value = match value {
        "+Inf" => f64::INFINITY,
        "-Inf" => f64::NEG_INFINITY,
        "NaN" => f64::NAN,
        number => number.parse().unwrap(),
    };
    (name.to_owned(), labels, value)
}

fn store() -> (LiveStore, Arc<VirtualClock>) {
    let clock = Arc::new(VirtualClock::default());
    (LiveStore::with_clock(LiveConfig::default(), Arc::clone(&clock) as _).unwrap(), clock)
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

#[tokio::test(start_paused = true)]
async fn every_kind_reads_back() {
    let (store, clock) = store();
    let now = clock.now();
    let cpu = MetricInfo::new("container.cpu.time", MetricKind::Counter, "s");
    store.record(&cpu, [("service", "web"), ("disk.io.direction", "a\"b\\c")], now, 1.5).unwrap();
    let mut memory = MetricInfo::new("container.memory.usage", MetricKind::Gauge, "By");
    memory.description = "Memory in use.\nWithout caches: C:\\".to_owned();
    store.record(&memory, [], now, f64::NAN).unwrap();
    let mut histogram = Histogram::new();
    [0.004, 0.03, 0.03, 0.4, 3.0, 20.0].iter().for_each(|value| histogram.record(*value));
    let latency = MetricInfo::new("http.server.request.duration", MetricKind::Histogram, "s");
    store.record_histogram(&latency, [("service", "web")], now, histogram).unwrap();

    let text = prometheus::text(&store);
    let parsed = parse(&text);
    let of = |name: &str, pairs: &[(&str, &str)]| parsed.samples[&(name.to_owned(), labels(pairs))];
    assert_eq!(
        of("container_cpu_time_seconds_total", &[("service", "web"), ("disk_io_direction", "a\"b\\c")]),
        1.5
    );
    assert!(of("container_memory_usage_bytes", &[]).is_nan());
    assert!(
        text.contains("# HELP container_memory_usage_bytes Memory in use.\\nWithout caches: C:\\\\\n"),
        "{text}"
    );
    let name = "http_server_request_duration_seconds";
    for (le, wanted) in
        [("0.005", 1.0), ("0.025", 1.0), ("0.05", 3.0), ("0.5", 4.0), ("5", 5.0), ("10", 5.0), ("+Inf", 6.0)]
    {
        assert_eq!(of(&format!("{name}_bucket"), &[("service", "web"), ("le", le)]), wanted, "{le}");
    }
    assert_eq!(of(&format!("{name}_count"), &[("service", "web")]), 6.0);
    assert!((of(&format!("{name}_sum"), &[("service", "web")]) - 23.464).abs() < 1e-9);
    assert_eq!(of("ews_live_series", &[]), 3.0);

    // What is stale is over.
    tokio::time::sleep(Duration::from_secs(61)).await;
    assert!(!prometheus::text(&store).contains("container"));
}

#[tokio::test(start_paused = true)]
async fn two_metrics_of_one_name_are_never_mixed() {
    let (store, clock) = store();
    for (name, kind) in [
        ("a.b", MetricKind::Gauge),
        ("a_b", MetricKind::Counter),
        ("a-b", MetricKind::Gauge),
        ("ews.live.series", MetricKind::Gauge),
    ] {
        store
            .record(&MetricInfo::new(name, kind, ""), [("x.y", "1"), ("x_y", "2")], clock.now(), 1.0)
            .unwrap();
    }
    let text = prometheus::text(&store);
    let parsed = parse(&text);
    assert!(text.contains("is left out: another metric has the name a_b"), "{text}");
    assert_eq!(parsed.types.len(), 5, "{:?}", parsed.types);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_was_recorded_is_text_of_the_format(
        metrics in prop::collection::vec(("[ -~é]{1,12}", 0_u8..3, "[ -~]{0,6}", "[ -~é]{0,8}", any::<f64>(), "\\PC{0,20}"), 0..20),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let (store, clock) = store();
            for (name, kind, key, label, value, help) in metrics {
                let kind = [MetricKind::Counter, MetricKind::Gauge, MetricKind::Histogram][usize::from(kind)];
                let mut info = MetricInfo::new(name, kind, label.clone());
                info.description = help;
                let mut histogram = Histogram::new();
                histogram.record(value);
                let labels = [(key.as_str(), label.as_str()), ("le", "x")];
                // What the store refuses is not shown, which is well.
                let _ = match kind {
                    MetricKind::Histogram => store.record_histogram(&info, labels, clock.now(), histogram),
                    _ => store.record(&info, labels, clock.now(), value),
                };
            }
            parse(&prometheus::text(&store));
        });
    }
}

#[cfg(feature = "http")]
#[tokio::test(start_paused = true)]
async fn the_router_serves_it_behind_a_token() {
    use ews_core::SecretValue;
    use ews_core::http::{Access, ControlConfig, Tokens};
    use http_body_util::BodyExt as _;
    use tower::ServiceExt as _;

    let (store, _) = store();
    let token = Tokens::new([SecretValue::new("a-token-of-at-least-sixteen-bytes").unwrap()]).unwrap();
    let router = ews_monitor::http::router(&store, Access::Tokens(token), ControlConfig::default()).unwrap();
    let ask = |token: &str| {
        let request = axum::http::Request::get("/metrics").header("authorization", format!("Bearer {token}"));
        router.clone().oneshot(request.body(axum::body::Body::empty()).unwrap())
    };
    assert_eq!(ask("wrong").await.unwrap().status(), 401);
    let response = ask("a-token-of-at-least-sixteen-bytes").await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], prometheus::MEDIA_TYPE);
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert!(parse(std::str::from_utf8(&body).unwrap()).types.contains_key("ews_live_series"));
}
