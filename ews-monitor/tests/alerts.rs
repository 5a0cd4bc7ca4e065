//! Alerts: the pure machine case by case, and the loop on a paused clock with stores and notifiers that fail.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test harness")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use ews_core::event::Notice;
use ews_core::metrics::eval::{Sample, SeriesSamples, instant};
use ews_core::metrics::{Answer, MetricInfo, MetricKind, MetricQuery, Reading};
use ews_core::store::{Expect, Key, MemoryStore, StoreExt as _};
use ews_core::testkit::fake_metrics::{MetricsCall, MetricsLimits};
use ews_core::testkit::{CallFault, FakeMetrics, VirtualClock};
use ews_core::{CapabilitySet, Clock as _, Error, ErrorKind, Result, Selector, Store, Timestamp};
use ews_monitor::alert::{AlertPhase, AlertState, evaluate};
use ews_monitor::{AlertCondition, AlertEvent, AlertReason, AlertRule, Alerts, NoData, Notifier, Transition};
use proptest::prelude::*;
use tokio::time::sleep;

const TICK: Duration = Duration::from_secs(15);

fn query() -> MetricQuery {
    MetricQuery::new("depth", Selector::everything())
}

fn rule() -> AlertRule {
    AlertRule::new("queue", query(), AlertCondition::Above(10.0))
}

/// An answer with one group per value; `None` is a group without data.
fn answer(values: &[(&str, Option<f64>)], now: Timestamp) -> Answer<Reading> {
    let samples: Vec<Vec<Sample<f64>>> = values
        .iter()
        .map(|(_, value)| value.map(|value| Sample::new(now, value)).into_iter().collect())
        .collect();
    let series: Vec<SeriesSamples<'_>> = values
        .iter()
        .zip(&samples)
        .map(|((name, _), samples)| SeriesSamples::numbers([("service", *name)], samples))
        .collect();
    instant(MetricKind::Gauge, &query(), &series, now).unwrap()
}

/// Runs the machine, a tick per value, and writes down what changed: `p`, `F` or `R` per event, `.` for none.
fn run(rule: &AlertRule, values: &[Option<f64>]) -> String {
    let (mut state, mut now, mut seen) =
        (AlertState::default(), Timestamp::from_micros(1_767_268_800_000_000), String::new());
    for value in values {
        let (next, events) = evaluate(rule, &state, &answer(&[("a", *value)], now), now).unwrap();
        // What is stored and read back decides alike.
        let stored: AlertState = serde_json::from_str(&serde_json::to_string(&next).unwrap()).unwrap();
        assert_eq!(stored, next);
        seen.push(events.first().map_or('.', |event| match event.transition {
            Transition::Pending => 'p',
            Transition::Firing => 'F',
            Transition::Resolved => 'R',
            _ => '?',
        }));
        (state, now) = (next, now + TICK);
    }
    seen
}

fn values(text: &str) -> Vec<Option<f64>> {
    text.chars()
        .map(|c| match c {
            '+' => Some(20.0),
            '~' => Some(8.0),
            '-' => Some(1.0),
            _ => None,
        })
        .collect()
}

#[test]
fn the_machine_case_by_case() {
    let held = || rule().with_for(TICK * 2);
    for (rule, given, wanted) in [
        (rule(), "-+-+", ".FRF"),
        (held(), "+++-", "p.FR"),
        (held(), "++-+++-", "p..p.FR"),
        // Between the thresholds nothing changes.
        (rule().with_clear(5.0), "~+~~-~", ".F..R."),
        (rule().with_keep_firing_for(TICK * 2), "+-+--~", "F...R."),
        (rule().with_keep_firing_for(TICK * 2), "+---", "F.R."),
        // Keep: whatever it is, it stays; a pending one fires only on data.
        (rule(), "+????-", "F....R"),
        (held(), "+????+", "p....F"),
        (rule(), "????", "...."),
        // Ok: after `for` of silence it resolves.
        (held().with_no_data(NoData::Ok), "+++????", "p.F..R."),
        (held().with_no_data(NoData::Ok), "+++?+?+", "p.F...."),
        // Alert: after `for` of silence it fires.
        (held().with_no_data(NoData::Alert), "-???-", ".p.FR"),
        (held().with_no_data(NoData::Alert), "-?-?-", ".p.p."),
    ] {
        assert_eq!(run(&rule, &values(given)), wanted, "{given} {rule:?}");
    }
    let below = AlertRule::new("low", query(), AlertCondition::Below(5.0)).with_clear(15.0);
    assert_eq!(run(&below, &values("~-~+")), ".F.R");
}

#[test]
fn the_exact_threshold_is_no_alert() {
    assert_eq!(run(&rule(), &[Some(10.0), Some(10.000_1), Some(10.0)]), ".FR");
}

#[test]
fn a_group_that_vanishes_is_without_data_and_one_without_any_group_too() {
    let now = Timestamp::from_micros(1_767_268_800_000_000);
    let step = |rule: &AlertRule, state: &AlertState, values: &[(&str, Option<f64>)], now| {
        evaluate(rule, state, &answer(values, now), now).unwrap()
    };
    let (state, _) = step(&rule(), &AlertState::default(), &[("a", Some(20.0)), ("b", Some(1.0))], now);
    let (state, events) = step(&rule(), &state, &[("b", Some(1.0))], now + TICK);
    assert!(events.is_empty() && matches!(state.alerts[0].phase, AlertPhase::Firing { .. }), "keep");
    let (state, events) = step(&rule(), &state, &[], now + TICK + Duration::from_secs(86_400));
    assert_eq!(
        (events[0].transition, events[0].reason),
        (Transition::Resolved, AlertReason::NoData),
        "gone for a day"
    );
    assert!(state.alerts.is_empty());

    let silent = rule().with_no_data(NoData::Alert);
    let (state, events) = step(&silent, &AlertState::default(), &[], now);
    assert_eq!(
        (events[0].transition, events[0].reason, events[0].labels.len()),
        (Transition::Firing, AlertReason::NoData, 0)
    );
    let (state, events) = step(&silent, &state, &[("a", Some(1.0))], now + TICK);
    assert_eq!((events.len(), events[0].transition), (1, Transition::Resolved), "there is a group now");
    assert_eq!(state.alerts.len(), 1);
}

#[test]
fn alerts_are_bounded_and_new_groups_take_nobodys_place() {
    let now = Timestamp::from_micros(1_767_268_800_000_000);
    let names: Vec<String> = (0..400).map(|index| format!("s{index:03}")).collect();
    let all: Vec<(&str, Option<f64>)> = names.iter().map(|name| (name.as_str(), Some(20.0))).collect();
    let (late, _) = evaluate(&rule(), &AlertState::default(), &answer(&all[300..], now), now).unwrap();
    let (state, events) = evaluate(&rule(), &late, &answer(&all, now), now).unwrap();
    assert_eq!((state.alerts.len(), state.unwatched, events.len()), (AlertRule::MAX_ALERTS, 144, 156));
    assert!(late.alerts.iter().all(|alert| state.alerts.iter().any(|kept| kept.labels == alert.labels)));
    assert!(state.untold.len() <= 256);
}

proptest! {
    /// Against the words: it fires exactly when the condition has held at every look for as long as `for`.
    #[test]
    fn firing_means_that_the_condition_held(given in "[+-]{1,40}", hold in 0_u32..4) {
        let seen = run(&rule().with_for(TICK * hold), &values(&given));
        let hold = hold as usize;
        let (mut row, mut firing) = (0, false);
        for (value, event) in given.chars().zip(seen.chars()) {
            row = if value == '+' { row + 1 } else { 0 };
            let fires = row > hold;
            prop_assert_eq!(event == 'F', fires && !firing, "{} {}", given, seen);
            prop_assert_eq!(event == 'R', firing && row == 0, "{} {}", given, seen);
            firing = fires;
        }
    }
}

#[derive(Default)]
struct Told {
    events: Mutex<Vec<AlertEvent>>,
    failing: Mutex<bool>,
}

#[async_trait]
impl Notifier for Told {
    async fn notify(&self, event: &AlertEvent) -> Result<()> {
        if *self.failing.lock().unwrap() {
            return Err(Error::new(ErrorKind::Unavailable, "nobody listens"));
        }
        self.events.lock().unwrap().push(event.clone());
        Ok(())
    }
}

impl Told {
    fn transitions(&self) -> Vec<Transition> {
        self.events.lock().unwrap().iter().map(|event| event.transition).collect()
    }
}

struct World {
    clock: Arc<VirtualClock>,
    metrics: FakeMetrics,
    store: Arc<MemoryStore>,
    told: Arc<Told>,
}

impl World {
    fn new() -> Self {
        let clock = Arc::new(VirtualClock::default());
        let metrics =
            FakeMetrics::with(CapabilitySet::all(), MetricsLimits::default(), Arc::clone(&clock) as _);
        Self { clock, metrics, store: Arc::new(MemoryStore::new()), told: Arc::default() }
    }

    fn alerts(&self, rule: AlertRule) -> Alerts {
        Alerts::new(Arc::new(self.metrics.clone()))
            .with_clock(Arc::clone(&self.clock) as _)
            .with_store(Arc::clone(&self.store) as Arc<dyn Store>)
            .with_notifier(Arc::clone(&self.told) as _)
            .with_rule(rule)
            .unwrap()
    }

    fn depth(&self, value: f64) {
        let info = MetricInfo::new("depth", MetricKind::Gauge, "1");
        self.metrics.record(&info, [("service", "a")], self.clock.now(), value);
    }

    async fn during(&self, alerts: &Alerts, ticks: u32, value: f64) {
        let feed = async {
            for _ in 0..ticks * 5 {
                self.depth(value);
                sleep(Duration::from_secs(3)).await;
            }
        };
        alerts.run(feed).await;
    }
}

#[tokio::test(start_paused = true)]
async fn it_fires_and_resolves_and_says_so_to_both() {
    let world = World::new();
    let alerts = world.alerts(rule().with_for(TICK * 2).with_severity("page", "the queue is long"));
    let mut reader = alerts.subscribe();
    world.during(&alerts, 4, 25.0).await;
    assert_eq!(alerts.status("queue").unwrap().active.len(), 1);
    world.during(&alerts, 2, 1.0).await;
    assert_eq!(world.told.transitions(), [Transition::Firing, Transition::Resolved]);
    let mut seen = Vec::new();
    while let Some(Notice::Event(event)) = reader.try_next() {
        seen.push(event.event);
    }
    let transitions: Vec<_> = seen.iter().map(|event| event.transition).collect();
    assert_eq!(transitions, [Transition::Pending, Transition::Firing, Transition::Resolved]);
    let text = seen[1].to_string();
    assert!(text.starts_with("queue firing service=a: 25 (above 10), since 2026-01-01T00:00:00"), "{text}");
    let status = alerts.status("queue").unwrap();
    assert_eq!((status.active.len(), status.untold, status.failures), (0, 0, 0));
    assert_eq!(tokio::runtime::Handle::current().metrics().num_alive_tasks(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_restart_loses_nothing() {
    let world = World::new();
    let held = || rule().with_for(TICK * 4);
    world.depth(25.0);
    world.alerts(held()).evaluate("queue").await.unwrap();
    sleep(TICK * 4).await;
    // Pending since before the restart, so it fires now. The notification fails, and the program dies.
    world.depth(25.0);
    *world.told.failing.lock().unwrap() = true;
    let events = world.alerts(held()).evaluate("queue").await.unwrap();
    assert_eq!(events[0].transition, Transition::Firing);
    *world.told.failing.lock().unwrap() = false;
    // The next one tells what was not told, to the letter, though the query fails; and knows that it fires already.
    world.metrics.inject(MetricsCall::Instant, CallFault::Fail(ErrorKind::Unavailable));
    let third = world.alerts(held());
    assert!(third.evaluate("queue").await.is_err());
    assert_eq!(*world.told.events.lock().unwrap(), events);
    assert!(third.evaluate("queue").await.unwrap().is_empty());
    assert_eq!(world.told.transitions().len(), 1);
    world.depth(1.0);
    assert_eq!(world.alerts(held()).evaluate("queue").await.unwrap()[0].transition, Transition::Resolved);
    assert_eq!(world.told.transitions().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_failing_query_is_neither_data_nor_no_data() {
    let world = World::new();
    let alerts = world.alerts(rule().with_no_data(NoData::Ok));
    world.depth(25.0);
    alerts.evaluate("queue").await.unwrap();
    for fault in [CallFault::Fail(ErrorKind::Unavailable), CallFault::Hang] {
        world.metrics.inject(MetricsCall::Instant, fault);
        assert!(alerts.evaluate("queue").await.is_err());
        let status = alerts.status("queue").unwrap();
        assert!(status.active.len() == 1 && status.last_error.is_some(), "{status:?}");
    }
    assert_eq!(alerts.status("queue").unwrap().failures, 2);
    // Stale is no data, and with `ok` it is over.
    sleep(Duration::from_secs(60)).await;
    assert_eq!(alerts.evaluate("queue").await.unwrap()[0].reason, AlertReason::NoData);
}

#[tokio::test(start_paused = true)]
async fn of_two_evaluators_one_tells() {
    let world = World::new();
    let (one, two) = (world.alerts(rule()), world.alerts(rule()));
    world.depth(1.0);
    one.evaluate("queue").await.unwrap();
    two.evaluate("queue").await.unwrap();
    world.depth(25.0);
    one.evaluate("queue").await.unwrap();
    assert_eq!(two.evaluate("queue").await.unwrap_err().kind(), ErrorKind::Stale);
    assert!(two.evaluate("queue").await.unwrap().is_empty(), "it has read that the alert fires");
    assert_eq!(world.told.transitions(), [Transition::Firing]);
}

#[tokio::test(start_paused = true)]
async fn what_is_damaged_starts_anew_and_what_is_missing_is_said() {
    let world = World::new();
    world.store.put(&Key::new("alert/queue/state").unwrap(), "junk".into(), Expect::Any).await.unwrap();
    let alerts = world.alerts(rule());
    world.depth(25.0);
    assert_eq!(alerts.evaluate("queue").await.unwrap().len(), 1);
    assert_eq!(alerts.evaluate("other").await.unwrap_err().kind(), ErrorKind::NotFound);
    assert!(alerts.status("other").is_none());
}
