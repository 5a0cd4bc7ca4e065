//! The shell around thresholds and checks: tries in time for thousands of instances.
//!
//! One task holds a queue of due times and runs at most [`concurrent`](ProberConfig::concurrent) tries at once. The next try
//! of a probe is due an interval after the last one *ended*, so a slow check or a stalled process leads to late tries, never
//! to a burst of them. What was started together does not stay in step: the first try is spread over up to a second, the
//! second comes after anything from a tenth to the whole of the interval, each further one after nine to eleven tenths. The
//! numbers are drawn from the instance's id and incarnation, so that a replay has the same times.
//!
//! Transitions go to a [`Bus`]: a reader that is too slow gets a gap and looks at [`Prober::states`]. Dropping the last
//! handle ends the task and every try under way.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use super::check::{Checker, Outcome, Target};
use super::thresholds::{ProbeKind, Startup, Status, Thresholds, Transition};
use crate::backoff::{Random as _, SplitMix64};
use crate::bus::{Bus, Subscription};
use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};
use crate::id::InstanceId;
use crate::instance::Incarnation;

/// The bounds of a prober.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct ProberConfig {
    /// Tries under way at once. From 1. Default 256; 10,000 instances with an interval of 10 s and answers in 10 ms need 10.
    pub concurrent: usize,
    /// The most instances. From 1. Default 100,000.
    pub targets: usize,
    /// How many transitions are kept for slow readers. From 1. Default 16,384.
    pub transitions: usize,
}

impl Default for ProberConfig {
    fn default() -> Self {
        Self { concurrent: 256, targets: 100_000, transitions: 16_384 }
    }
}

impl ProberConfig {
    /// With so many tries at once.
    #[must_use]
    pub fn with_concurrent(mut self, concurrent: usize) -> Self {
        self.concurrent = concurrent;
        self
    }

    /// With at most so many instances.
    #[must_use]
    pub fn with_targets(mut self, targets: usize) -> Self {
        self.targets = targets;
        self
    }

    /// With so many transitions kept for slow readers.
    #[must_use]
    pub fn with_transitions(mut self, transitions: usize) -> Self {
        self.transitions = transitions;
        self
    }
}

/// What is known of one instance.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct State {
    /// Of which start.
    pub incarnation: Incarnation,
    /// What follows from the outcomes.
    pub status: Status,
    /// The last outcome of each probe that was tried.
    pub last: Vec<(ProbeKind, Outcome)>,
}

impl State {
    /// Whether it is known if the instance is ready: it is, or a probe that decides about it was tried. One that has started and waits
    /// for its readiness probe's first try is not.
    pub fn is_known(&self) -> bool {
        let decides = |kind: &ProbeKind| match kind {
            ProbeKind::Readiness => true,
            ProbeKind::Startup => self.status.startup != Startup::Passed,
            ProbeKind::Liveness => false,
        };
        self.status.ready || self.last.iter().any(|(kind, _)| decides(kind))
    }
}

/// A transition of an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Probed {
    /// Which instance.
    pub instance: InstanceId,
    /// What changed.
    pub transition: Transition,
    /// The reason of the try that tipped it; empty for a new incarnation, and for what a predecessor knew.
    pub reason: std::borrow::Cow<'static, str>,
}

/// Probes instances until they are removed. Clones are handles to the same one.
#[derive(Clone)]
pub struct Prober {
    shared: Arc<Shared>,
    _alive: Arc<Alive>,
}

/// Ends the task when the last handle goes.
struct Alive(AbortHandle);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.abort();
    }
}

struct Shared {
    config: ProberConfig,
    clock: Arc<dyn Clock>,
    bus: Bus<Probed>,
    changed: Notify,
    book: Mutex<Book>,
}

#[derive(Default)]
struct Book {
    entries: HashMap<InstanceId, Entry>,
    due: BinaryHeap<Reverse<Ticket>>,
    /// Tells tickets of one life of an entry from those of another.
    lives: u64,
}

struct Entry {
    target: Arc<Target>,
    thresholds: Thresholds,
    life: u64,
    started: Instant,
    random: SplitMix64,
    last: [Option<Outcome>; 3],
    running: [Option<AbortHandle>; 3],
}

impl Drop for Entry {
    fn drop(&mut self) {
        for handle in self.running.iter().flatten() {
            handle.abort();
        }
    }
}

/// A try that is due.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Ticket {
    due: Instant,
    life: u64,
    kind: ProbeKind,
    instance: InstanceId,
}

impl Prober {
    /// Starts a prober.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for a bound of zero or above what a [`Bus`] may keep.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn new(checker: Arc<dyn Checker>, clock: Arc<dyn Clock>, config: ProberConfig) -> Result<Self> {
        for (name, count) in [("concurrent", config.concurrent), ("targets", config.targets)] {
            if count == 0 {
                return Err(Error::invalid(format!("`{name}` of a prober is 0; accepted: 1 or more")));
            }
        }
        let bus = Bus::new(config.transitions)?;
        let shared = Arc::new(Shared { config, clock, bus, changed: Notify::new(), book: Mutex::default() });
        let task = tokio::spawn(run(Arc::clone(&shared), checker)).abort_handle();
        Ok(Self { shared, _alive: Arc::new(Alive(task)) })
    }

    /// Probes this instance from now on, or goes on with what was seen of it last. A later incarnation begins anew; so do
    /// other probes. The same incarnation with the same probes only takes the new endpoints.
    ///
    /// # Errors
    /// [`ErrorKind::Stale`] for an incarnation that is over; [`ErrorKind::OutOfResources`] for too many instances.
    pub fn set(&self, target: Target) -> Result<()> {
        let mut book = self.shared.lock();
        let (id, incarnation) = (target.instance.id.clone(), target.instance.incarnation);
        let full = book.entries.len() >= self.shared.config.targets;
        let mut change = None;
        let thresholds = match book.entries.get_mut(&id) {
            Some(entry) if incarnation < entry.thresholds.incarnation() => {
                return Err(Error::new(ErrorKind::Stale, "a later start of this instance is probed already")
                    .with_operation("prober.set")
                    .with_context("instance", &id)
                    .with_context("incarnation", entry.thresholds.incarnation()));
            }
            Some(entry)
                if incarnation == entry.thresholds.incarnation() && entry.target.probes == target.probes =>
            {
                entry.target = Arc::new(target);
                return Ok(());
            }
            Some(entry) if entry.target.probes == target.probes => {
                let mut thresholds = entry.thresholds.clone();
                change = thresholds.restarted(incarnation, self.shared.clock.now());
                thresholds
            }
            Some(_) => Thresholds::new(&target.probes, incarnation),
            None if full => {
                return Err(Error::new(
                    ErrorKind::OutOfResources,
                    format!(
                        "{} instances are probed already, which is the limit",
                        self.shared.config.targets
                    ),
                )
                .with_operation("prober.set"));
            }
            None => Thresholds::new(&target.probes, incarnation),
        };
        book.lives += 1;
        let entry = Entry {
            started: Instant::now().checked_sub(target.started_ago).unwrap_or_else(Instant::now),
            random: SplitMix64::new(seed(id.as_str(), incarnation.0)),
            life: book.lives,
            target: Arc::new(target),
            thresholds,
            last: [None, None, None],
            running: [None, None, None],
        };
        book.entries.insert(id.clone(), entry);
        for kind in ProbeKind::ALL {
            book.schedule(&id, kind, Try::First);
        }
        book.tidy();
        if let Some(transition) = change {
            self.shared.bus.publish(Probed { instance: id, transition, reason: "".into() });
        }
        drop(book);
        self.shared.changed.notify_one();
        Ok(())
    }

    /// Takes over that this start of an instance was ready when a predecessor looked last. It counts as ready until its probe fails
    /// as often as it would have had to before; nothing happens for one that is not probed, or of which another start is.
    pub fn was_ready(&self, instance: &InstanceId, incarnation: Incarnation) {
        let mut book = self.shared.lock();
        let Some(entry) = book.entries.get_mut(instance) else { return };
        let Some(transition) = entry.thresholds.was_ready(incarnation, self.shared.clock.now()) else {
            return;
        };
        if transition.from.startup != transition.to.startup {
            for kind in ProbeKind::ALL {
                book.schedule(instance, kind, Try::First);
            }
        }
        self.shared.bus.publish(Probed { instance: instance.clone(), transition, reason: "".into() });
        drop(book);
        self.shared.changed.notify_one();
    }

    /// Probes this instance no longer; nothing happens where it was not. Tries under way are ended.
    pub fn remove(&self, instance: &InstanceId) {
        let mut book = self.shared.lock();
        book.entries.remove(instance);
        book.tidy();
    }

    /// What is known of an instance; `None` where it is not probed.
    pub fn state(&self, instance: &InstanceId) -> Option<State> {
        self.shared.lock().entries.get(instance).map(Entry::state)
    }

    /// Whether this start of an instance is probed.
    pub fn probes(&self, instance: &InstanceId, incarnation: Incarnation) -> bool {
        let book = self.shared.lock();
        book.entries.get(instance).is_some_and(|entry| entry.thresholds.incarnation() == incarnation)
    }

    /// What is known of all instances, by id: the way back after a gap.
    pub fn states(&self) -> std::collections::BTreeMap<InstanceId, State> {
        self.shared.lock().entries.iter().map(|(id, entry)| (id.clone(), entry.state())).collect()
    }

    /// What changes from now on.
    pub fn transitions(&self) -> Subscription<Probed> {
        self.shared.bus.subscribe()
    }
}

impl std::fmt::Debug for Prober {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Prober").field("config", &self.shared.config).finish_non_exhaustive()
    }
}

/// FNV-1a (Fowler, Noll, Vo), so that the numbers are the same in every process and release.
fn seed(instance: &str, incarnation: u64) -> u64 {
    let bytes = instance.bytes().chain(incarnation.to_le_bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Which try of a probe comes next.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Try {
    First,
    Second,
    Further,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    fn state(&self) -> State {
        let last = ProbeKind::ALL.into_iter().zip(&self.last);
        State {
            incarnation: self.thresholds.incarnation(),
            status: self.thresholds.status(),
            last: last.filter_map(|(kind, outcome)| Some((kind, outcome.clone()?))).collect(),
        }
    }
}

impl Book {
    /// Makes this probe's next try due, if it is to be tried.
    fn schedule(&mut self, id: &InstanceId, kind: ProbeKind, which: Try) {
        let Some(entry) = self.entries.get_mut(id) else { return };
        let Some(probe) = kind.of(&entry.target.probes).filter(|_| entry.thresholds.wants(kind)) else {
            return;
        };
        let now = Instant::now();
        let drawn = u32::try_from(entry.random.next_u64() % 1000).unwrap_or(0);
        let pause = match which {
            // The spread comes after the delay, so that no try comes before it.
            Try::First => {
                let spread = probe.interval.min(Duration::from_secs(1)) * drawn / 1000;
                let earliest = entry.started.checked_add(probe.initial_delay).unwrap_or(now);
                earliest.saturating_duration_since(now).saturating_add(spread)
            }
            Try::Second => probe.interval.saturating_mul(100 + drawn * 9 / 10) / 1000,
            Try::Further => probe.interval.saturating_mul(900 + drawn / 5) / 1000,
        };
        // An interval of zero would keep the scheduler from everything else; a day stands for never.
        let least = if which == Try::First { Duration::ZERO } else { Duration::from_millis(1) };
        let pause = pause.clamp(least, DAY);
        let ticket = Ticket { due: now + pause, life: entry.life, kind, instance: id.clone() };
        self.due.push(Reverse(ticket));
    }

    /// Tickets of lives that are over are dropped when they come due; when they are the most of the queue, at once.
    fn tidy(&mut self) {
        if self.due.len() > 1024 + 6 * self.entries.len() {
            let entries = &self.entries;
            self.due.retain(|Reverse(ticket)| {
                entries.get(&ticket.instance).is_some_and(|entry| entry.life == ticket.life)
            });
        }
    }
}

const DAY: Duration = Duration::from_secs(24 * 3600);

struct Tried {
    instance: InstanceId,
    life: u64,
    kind: ProbeKind,
    outcome: Outcome,
}

async fn run(shared: Arc<Shared>, checker: Arc<dyn Checker>) {
    let mut running: JoinSet<Tried> = JoinSet::new();
    loop {
        let next = launch(&shared, &checker, &mut running);
        let full = running.len() >= shared.config.concurrent;
        let wake = next.unwrap_or_else(|| Instant::now() + DAY);
        tokio::select! {
            () = shared.changed.notified() => {}
            Some(tried) = running.join_next() => {
                // A try that was ended with its entry has nothing to say.
                if let Ok(tried) = tried {
                    take_in(&shared, tried);
                }
            }
            () = tokio::time::sleep_until(wake), if !full => {}
        }
    }
}

/// Starts what is due while there is room, and says when the next is due.
fn launch(shared: &Shared, checker: &Arc<dyn Checker>, running: &mut JoinSet<Tried>) -> Option<Instant> {
    let mut book = shared.lock();
    let now = Instant::now();
    loop {
        let Reverse(ticket) = book.due.peek()?;
        if ticket.due > now || running.len() >= shared.config.concurrent {
            return Some(ticket.due);
        }
        let Reverse(Ticket { life, kind, instance, .. }) = book.due.pop()?;
        let Some(entry) = book.entries.get_mut(&instance).filter(|entry| entry.life == life) else {
            continue;
        };
        let Some(probe) = kind.of(&entry.target.probes).filter(|_| entry.thresholds.wants(kind)) else {
            continue;
        };
        let (target, probe, checker) = (Arc::clone(&entry.target), probe.clone(), Arc::clone(checker));
        let handle = running.spawn(async move {
            // The checker keeps to the timeout by itself; this is for one that does not.
            let guard = probe.timeout.saturating_mul(2).saturating_add(Duration::from_secs(1)).min(DAY);
            let attempt = AssertUnwindSafe(checker.check(&target, &probe)).catch_unwind();
            let outcome = match tokio::time::timeout(guard, attempt).await {
                Ok(Ok(outcome)) => outcome,
                Ok(Err(_)) => Outcome::unknown("the check panicked"),
                Err(_) => Outcome::unknown("the check did not keep to its timeout"),
            };
            Tried { instance, life, kind, outcome }
        });
        if let Some(slot) = entry.running.get_mut(kind as usize) {
            *slot = Some(handle);
        }
    }
}

fn take_in(shared: &Shared, tried: Tried) {
    let Tried { instance, life, kind, outcome } = tried;
    let mut book = shared.lock();
    let Some(entry) = book.entries.get_mut(&instance).filter(|entry| entry.life == life) else { return };
    let incarnation = entry.thresholds.incarnation();
    let change = entry.thresholds.observe(incarnation, kind, outcome.verdict, shared.clock.now());
    let reason = outcome.reason.clone();
    let mut next = Try::Further;
    if let Some(slot) = entry.last.get_mut(kind as usize)
        && slot.replace(outcome).is_none()
    {
        next = Try::Second;
    }
    if let Some(slot) = entry.running.get_mut(kind as usize) {
        *slot = None;
    }
    let started = change.as_ref().is_some_and(|change| change.from.startup != change.to.startup);
    if started {
        for kind in ProbeKind::ALL {
            book.schedule(&instance, kind, Try::First);
        }
    } else {
        book.schedule(&instance, kind, next);
    }
    if let Some(transition) = change {
        // Under the lock, so that readers see transitions of one instance in the order in which its state took them.
        shared.bus.publish(Probed { instance, transition, reason });
    }
}

#[cfg(test)]
#[path = "prober_tests.rs"]
mod tests;
