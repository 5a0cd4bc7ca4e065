//! The prober on paused time, with checks that say what the test wants.

use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use tokio::time::{advance, sleep};

use super::*;
use crate::clock::SystemClock;
use crate::event::{Gap, Notice};
use crate::instance::{Instance, InstanceKey};
use crate::probe::{Startup, Verdict};
use crate::spec::probe::{Check, Probe, Probes, TcpCheck};
use crate::spec::source::Digest;
use crate::{NodeId, OwnerId, RevisionId, ServiceName, Timestamp};

type Says = Box<dyn Fn(&Target, usize) -> Verdict + Send + Sync>;

/// Answers by its function after its time, and keeps a diary.
struct Scripted {
    takes: Duration,
    says: Says,
    tries: Mutex<Vec<(Instant, InstanceId)>>,
    under_way: AtomicUsize,
    most: AtomicUsize,
}

impl Scripted {
    fn new(takes: Duration, says: impl Fn(&Target, usize) -> Verdict + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self {
            takes,
            says: Box::new(says),
            tries: Mutex::default(),
            under_way: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
        })
    }

    fn tries(&self) -> usize {
        self.tries.lock().unwrap().len()
    }
}

struct UnderWay<'a>(&'a AtomicUsize);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[async_trait]
impl Checker for Scripted {
    async fn check(&self, target: &Target, _: &Probe) -> Outcome {
        let number = {
            let mut tries = self.tries.lock().unwrap();
            tries.push((Instant::now(), target.instance.id.clone()));
            tries.len()
        };
        self.most.fetch_max(self.under_way.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        let _under_way = UnderWay(&self.under_way);
        sleep(self.takes).await;
        Outcome { verdict: (self.says)(target, number), latency: self.takes, reason: "scripted".into() }
    }
}

fn probe(interval: u64) -> Probe {
    let mut probe = Probe::new(Check::Tcp(TcpCheck::default()));
    probe.interval = Duration::from_secs(interval);
    probe.timeout = Duration::from_secs(60);
    probe.failure = 1;
    probe
}

fn readiness(interval: u64) -> Probes {
    Probes { readiness: Some(probe(interval)), ..Probes::default() }
}

fn target(number: usize, incarnation: u64, probes: Probes) -> Target {
    let key = InstanceKey {
        owner: OwnerId::new("o").unwrap(),
        service: ServiceName::new("web").unwrap(),
        revision: RevisionId::new("r1").unwrap(),
        slot: number as u32,
        generation: 0,
    };
    let node = NodeId::new("n").unwrap();
    let mut instance = Instance::new(id(number), key, node, Digest::of(b"x"), Timestamp::EPOCH);
    instance.incarnation = Incarnation(incarnation);
    Target::new(instance, probes)
}

fn id(number: usize) -> InstanceId {
    InstanceId::new(format!("i{number}")).unwrap()
}

fn prober(checker: &Arc<Scripted>, config: ProberConfig) -> Prober {
    Prober::new(Arc::clone(checker) as Arc<dyn Checker>, Arc::new(SystemClock), config).unwrap()
}

async fn seconds(seconds: u64) {
    sleep(Duration::from_secs(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_instances_are_tried_in_time_and_not_in_step() {
    let checker = Scripted::new(Duration::from_millis(10), |_, _| Verdict::Pass);
    let prober = prober(&checker, ProberConfig::default().with_concurrent(64));
    for number in 0..10_000 {
        prober.set(target(number, 1, readiness(10))).unwrap();
    }
    seconds(62).await;
    assert!(checker.most.load(Ordering::SeqCst) <= 64);
    let started = Instant::now() - Duration::from_secs(62);
    let mut per_instance: HashMap<InstanceId, usize> = HashMap::new();
    let mut per_tenth = vec![0; 621];
    for (at, instance) in checker.tries.lock().unwrap().iter() {
        *per_instance.entry(instance.clone()).or_default() += 1;
        per_tenth[(at.duration_since(started).as_millis() / 100) as usize] += 1;
    }
    assert_eq!(per_instance.len(), 10_000);
    // The first within 2 s, the second 1 to 10 s later, then every 9 to 11 s.
    assert!(per_instance.values().all(|tries| (6..=8).contains(tries)));
    // 100 per tenth of a second on average, 10 being a standard deviation; only the first second is crowded.
    let late = per_tenth.iter().skip(150).take(450).max().unwrap();
    assert!(*late < 160, "{late}");
    assert!(prober.states().values().all(|state| state.status.ready));
}

#[tokio::test(start_paused = true)]
async fn a_missed_tick_never_bursts_and_a_slow_check_never_overlaps_itself() {
    let checker = Scripted::new(Duration::ZERO, |_, _| Verdict::Pass);
    let prober = prober(&checker, ProberConfig::default());
    prober.set(target(1, 1, readiness(10))).unwrap();
    seconds(5).await;
    let before = checker.tries();
    // The process is suspended for an hour: one try is due, not 360.
    advance(Duration::from_secs(3600)).await;
    sleep(Duration::from_secs(5)).await;
    assert_eq!(checker.tries(), before + 1);

    let slow = Scripted::new(Duration::from_secs(35), |_, _| Verdict::Pass);
    let prober = Prober::new(slow.clone(), Arc::new(SystemClock), ProberConfig::default()).unwrap();
    prober.set(target(1, 1, readiness(10))).unwrap();
    seconds(140).await;
    // 35 s and then 9 to 11 s of rest.
    assert_eq!((slow.tries(), slow.most.load(Ordering::SeqCst)), (4, 1));
}

#[tokio::test(start_paused = true)]
async fn a_new_incarnation_begins_anew_and_the_try_of_the_old_one_is_ended() {
    let checker = Scripted::new(Duration::from_secs(2), |target, _| {
        if target.instance.incarnation.0 == 1 { Verdict::Pass } else { Verdict::Fail }
    });
    let prober = prober(&checker, ProberConfig::default());
    let mut transitions = prober.transitions();
    prober.set(target(1, 1, readiness(10))).unwrap();
    seconds(4).await;
    assert!(prober.state(&id(1)).unwrap().status.ready);
    // Another try of the first incarnation is under way when the second begins.
    while checker.under_way.load(Ordering::SeqCst) == 0 {
        sleep(Duration::from_millis(100)).await;
    }
    prober.set(target(1, 2, readiness(10))).unwrap();
    let state = prober.state(&id(1)).unwrap();
    assert_eq!((state.incarnation, state.status.ready, state.last.len()), (Incarnation(2), false, 0));
    tokio::task::yield_now().await;
    assert_eq!(checker.under_way.load(Ordering::SeqCst), 0, "ended, not waited for");
    assert_eq!(prober.set(target(1, 1, readiness(10))).unwrap_err().kind(), ErrorKind::Stale);
    seconds(60).await;
    assert!(!prober.state(&id(1)).unwrap().status.ready);
    let seen: Vec<_> = std::iter::from_fn(|| transitions.try_next())
        .map(|notice| match notice {
            Notice::Event(numbered) => {
                let Probed { transition, .. } = numbered.event;
                (transition.incarnation.0, transition.by, transition.to.ready)
            }
            Notice::Gap(gap) => panic!("{gap:?}"),
        })
        .collect();
    assert_eq!(seen, [(1, Some(ProbeKind::Readiness), true), (2, None, false)]);
}

#[tokio::test(start_paused = true)]
async fn new_endpoints_of_the_same_start_forget_nothing() {
    let checker = Scripted::new(Duration::ZERO, |_, _| Verdict::Pass);
    let prober = prober(&checker, ProberConfig::default());
    prober.set(target(1, 1, readiness(3600))).unwrap();
    seconds(2).await;
    let tries = checker.tries();
    for _ in 0..10_000 {
        prober.set(target(1, 1, readiness(3600))).unwrap();
    }
    seconds(2).await;
    assert!(prober.state(&id(1)).unwrap().status.ready);
    assert_eq!(checker.tries(), tries, "no try more for being told again");
}

#[tokio::test(start_paused = true)]
async fn changing_targets_again_and_again_keeps_the_queue_bounded() {
    let checker = Scripted::new(Duration::ZERO, |_, _| Verdict::Pass);
    let prober = prober(&checker, ProberConfig::default().with_targets(10));
    for round in 0..20_000 {
        prober.set(target(round % 10, round as u64 + 1, readiness(3600))).unwrap();
    }
    assert!(prober.shared.lock().due.len() <= 1024 + 60 + 3);
    assert_eq!(prober.set(target(11, 1, readiness(10))).unwrap_err().kind(), ErrorKind::OutOfResources);
    prober.remove(&id(3));
    prober.set(target(11, 1, readiness(10))).unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_removed_instance_is_left_alone_at_once() {
    let checker = Scripted::new(Duration::from_secs(30), |_, _| Verdict::Pass);
    let prober = prober(&checker, ProberConfig::default());
    prober.set(target(1, 1, readiness(10))).unwrap();
    seconds(3).await;
    assert_eq!(checker.under_way.load(Ordering::SeqCst), 1);
    prober.remove(&id(1));
    tokio::task::yield_now().await;
    assert_eq!(checker.under_way.load(Ordering::SeqCst), 0);
    seconds(100).await;
    assert_eq!((checker.tries(), prober.state(&id(1))), (1, None));
}

#[tokio::test(start_paused = true)]
async fn startup_comes_first_and_initial_delays_count_from_the_start() {
    let checker =
        Scripted::new(Duration::ZERO, |_, number| if number < 3 { Verdict::Fail } else { Verdict::Pass });
    let mut startup = probe(5);
    startup.failure = 10;
    startup.initial_delay = Duration::from_secs(60);
    let probes = Probes { startup: Some(startup), readiness: Some(probe(10)), liveness: Some(probe(10)) };
    let prober = prober(&checker, ProberConfig::default());
    // 50 of the 60 s have passed before the prober was told.
    prober.set(target(1, 1, probes).with_started_ago(Duration::from_secs(50))).unwrap();
    seconds(9).await;
    assert_eq!(checker.tries(), 0);
    seconds(3).await;
    assert!(checker.tries() >= 1);
    seconds(30).await;
    let state = prober.state(&id(1)).unwrap();
    assert_eq!((state.status.startup, state.status.ready, state.status.live), (Startup::Passed, true, true));
    assert_eq!(state.last.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_check_that_panics_says_nothing_and_the_prober_lives() {
    let checker = Scripted::new(Duration::ZERO, |_, number| {
        assert!(number != 1, "the first try panics");
        Verdict::Pass
    });
    let prober = prober(&checker, ProberConfig::default());
    prober.set(target(1, 1, readiness(10))).unwrap();
    seconds(2).await;
    let state = prober.state(&id(1)).unwrap();
    assert_eq!(state.last[0].1.verdict, Verdict::Unknown);
    assert!(!state.status.ready);
    seconds(12).await;
    assert!(prober.state(&id(1)).unwrap().status.ready);
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_gets_a_gap_and_the_states_say_how_it_is() {
    let checker = Scripted::new(Duration::ZERO, |_, _| Verdict::Pass);
    let config = ProberConfig { transitions: 2, ..ProberConfig::default() };
    let prober = prober(&checker, config);
    let mut transitions = prober.transitions();
    for number in 0..5 {
        prober.set(target(number, 1, readiness(10))).unwrap();
    }
    seconds(3).await;
    assert_eq!(transitions.try_next(), Some(Notice::Gap(Gap::Lagged)));
    assert!(prober.states().values().all(|state| state.status.ready));
    assert!(transitions.try_next().is_some() && transitions.try_next().is_some());
    drop(prober);
    assert_eq!(transitions.next().await, None, "the bus ends with the prober");
    let tries = checker.tries();
    seconds(100).await;
    assert_eq!(checker.tries(), tries);
}

#[tokio::test]
async fn bounds_of_nothing_are_refused() {
    let checker = Scripted::new(Duration::ZERO, |_, _| Verdict::Pass);
    for config in [
        ProberConfig::default().with_concurrent(0),
        ProberConfig::default().with_targets(0),
        ProberConfig { transitions: 0, ..ProberConfig::default() },
    ] {
        let refused = Prober::new(checker.clone(), Arc::new(SystemClock), config);
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::Invalid);
    }
}
