//! Watches: the tail of the change log in memory, shared by all, and who waits for what.
//!
//! Each watcher has a place, the next revision that it has not seen. Near the end of the log it takes from the tail, whose
//! changes are shared; further behind it reads the log; behind the log it gets [`ErrorKind::Compacted`] and ends. Either way
//! it takes at most 64 KiB and one transaction ahead. So a slow watcher holds little, and a writer never waits for one.
//!
//! A watcher that has seen everything waits under its prefix. Prefixes are whole segments, so a changed key names exactly the
//! prefixes that cover it (`a/b/c`: ``, `a/`, `a/b/`), and a commit wakes the watchers it concerns without looking at the
//! others. One that wakes goes on at the commit that woke it: what lay between did not concern it.

use std::collections::{HashMap, VecDeque};
use std::ops::{Bound, ControlFlow};
use std::pin::Pin;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use futures_core::Stream;
use futures_core::future::BoxFuture;
use futures_util::task::AtomicWaker;

use super::apply::Written;
use super::codec;
use super::config::EmbeddedConfig;
use super::rows::{Rows, Table};
use crate::error::{Error, ErrorKind, Result};
use crate::store::{Change, Prefix, StoreRevision, WatchBatch};

/// What a watcher takes at once: at most so many bytes, besides one transaction.
const STEP_BYTES: usize = 64 * 1024;
/// A watcher that reads the log looks at no more than so many transactions at once.
const STEP_ENTRIES: u64 = 512;

/// What a watcher takes from the tail at once: so many transactions, and at most [`STEP_BYTES`] besides one.
const TAKE: usize = 16;

/// The tail of the log, and the watchers.
pub(crate) struct Hub {
    state: Mutex<State>,
    max_entries: usize,
    max_bytes: usize,
    max_watchers: usize,
}

struct State {
    tail: VecDeque<Written>,
    tail_bytes: usize,
    /// The latest transaction; the tail ends with it.
    revision: u64,
    /// The latest transaction known to be durable; a moment long it may not be in the tail yet.
    durable: u64,
    /// History up to here is gone.
    compacted: u64,
    topics: Topics,
    watchers: usize,
    closed: bool,
}

/// The watched prefixes.
#[derive(Default)]
struct Topics {
    by_prefix: HashMap<Arc<str>, usize>,
    /// A watcher knows its topic's place here, so that it looks its prefix up once in its life.
    places: Vec<Topic>,
    free: Vec<usize>,
}

#[derive(Default)]
struct Topic {
    waiting: Vec<Arc<Slot>>,
    watchers: usize,
}

/// A watcher that waits.
#[derive(Default)]
struct Slot {
    waker: AtomicWaker,
    /// The commit that woke it, [`CLOSED`], or 0 while it waits.
    resume: AtomicU64,
}

const CLOSED: u64 = u64::MAX;

impl Slot {
    /// Notes why the watcher goes on. It is woken later, outside of the hub's lock.
    fn set(&self, resume: u64) {
        self.resume.store(resume, Release);
    }
}

impl Topics {
    fn enter(&mut self, prefix: &str) -> usize {
        let place = match self.by_prefix.get(prefix) {
            Some(place) => *place,
            None => {
                let place = self.free.pop().unwrap_or_else(|| {
                    self.places.push(Topic::default());
                    self.places.len() - 1
                });
                self.by_prefix.insert(Arc::from(prefix), place);
                place
            }
        };
        if let Some(topic) = self.places.get_mut(place) {
            topic.watchers += 1;
        }
        place
    }

    fn leave(&mut self, prefix: &str, place: usize, slot: Option<&Arc<Slot>>) {
        let Some(topic) = self.places.get_mut(place) else { return };
        if let Some(slot) = slot {
            topic.waiting.retain(|other| !Arc::ptr_eq(other, slot));
        }
        topic.watchers -= 1;
        if topic.watchers == 0 {
            *topic = Topic::default();
            self.by_prefix.remove(prefix);
            self.free.push(place);
        }
    }

    fn wait(&mut self, place: usize, slot: &Arc<Slot>) {
        if let Some(topic) = self.places.get_mut(place) {
            topic.waiting.push(slot.clone());
        }
    }

    /// Lets the watchers of every prefix that covers `key` go on at `revision`.
    fn resume(&mut self, key: &str, revision: u64, woken: &mut Vec<Arc<Slot>>) {
        let ends = std::iter::once(0).chain(key.match_indices('/').map(|(at, _)| at + 1));
        for end in ends {
            let place = key.get(..end).and_then(|prefix| self.by_prefix.get(prefix));
            if let Some(topic) = place.and_then(|place| self.places.get_mut(*place)) {
                topic.waiting.iter().for_each(|slot| slot.set(revision));
                woken.append(&mut topic.waiting);
            }
        }
    }
}

impl Hub {
    pub(crate) fn new(config: &EmbeddedConfig, revision: u64, compacted: u64) -> Self {
        Self {
            state: Mutex::new(State {
                tail: VecDeque::new(),
                tail_bytes: 0,
                revision,
                durable: revision,
                compacted,
                topics: Topics::default(),
                watchers: 0,
                closed: false,
            }),
            max_entries: config.tail_entries,
            max_bytes: config.tail_bytes,
            max_watchers: config.watchers,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics under this lock; and if it did, each step leaves a usable state.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The latest transaction that watchers may see.
    pub(crate) fn revision(&self) -> u64 {
        self.lock().revision
    }

    /// Notes that a transaction is durable, so that a watch may begin after it before it is published.
    pub(crate) fn durable(&self, revision: u64) {
        let mut state = self.lock();
        state.durable = state.durable.max(revision);
    }

    /// Shows transactions that became durable, in order, and wakes whom they concern.
    pub(crate) fn publish(&self, written: Vec<Written>, compacted: u64) {
        let mut woken = Vec::new();
        let mut state = self.lock();
        for batch in written {
            if state.watchers > 0 {
                for change in batch.changes.iter() {
                    state.topics.resume(change.key().as_str(), batch.revision, &mut woken);
                }
            }
            state.revision = batch.revision;
            state.tail_bytes += batch.bytes;
            state.tail.push_back(batch);
            while state.tail.len() > self.max_entries.max(1)
                || state.tail_bytes > self.max_bytes && state.tail.len() > 1
            {
                let Some(gone) = state.tail.pop_front() else { break };
                state.tail_bytes -= gone.bytes;
            }
        }
        state.compacted = compacted;
        drop(state);
        for slot in woken {
            slot.waker.wake();
        }
    }

    /// Ends all watches: each gets an error that says so.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        let mut woken = Vec::new();
        for topic in &mut state.topics.places {
            topic.waiting.iter().for_each(|slot| slot.set(CLOSED));
            woken.append(&mut topic.waiting);
        }
        drop(state);
        for slot in woken {
            slot.waker.wake();
        }
    }

    /// Admits a watcher and returns the place of its topic.
    fn enter(&self, prefix: &Prefix, after: u64) -> Result<usize> {
        let mut state = self.lock();
        if after > state.revision.max(state.durable) {
            let revision = state.revision;
            return Err(compacted(format!("revision {after} is in the future; the store is at {revision}")));
        }
        if after < state.compacted {
            return Err(gone(after, state.compacted));
        }
        if state.watchers >= self.max_watchers {
            let max = self.max_watchers;
            return Err(Error::new(ErrorKind::OutOfResources, format!("at most {max} watches at a time")));
        }
        state.watchers += 1;
        Ok(state.topics.enter(prefix.as_str()))
    }
}

fn compacted(message: String) -> Error {
    Error::new(ErrorKind::Compacted, message)
}

fn gone(after: u64, compacted_up_to: u64) -> Error {
    compacted(format!(
        "history after revision {after} is gone, it is kept after {compacted_up_to}; list again and watch from there"
    ))
}

/// Transactions read from the log, for one prefix.
pub(crate) struct Step {
    pub(crate) batches: VecDeque<WatchBatch>,
    /// Where to go on.
    pub(crate) next: u64,
}

/// Reads the log from revision `from` on.
pub(crate) fn read_step(rows: &mut dyn Rows, prefix: &Prefix, from: u64) -> Result<Step> {
    let mut step = Step { batches: VecDeque::new(), next: from };
    let mut bytes = 0;
    rows.scan(Table::Log, Bound::Included(&codec::log_key(from)), &mut |key, row| {
        let revision = codec::read_log_key(key)?;
        if revision != step.next {
            return Err(gone(from - 1, revision - 1));
        }
        step.next = revision + 1;
        let changes = codec::read_log_row(revision, row)?;
        if let Some(changes) = under(prefix, &changes) {
            bytes += changes.iter().map(codec::change_bytes).sum::<usize>();
            step.batches.push_back(WatchBatch { revision: StoreRevision(revision), changes });
        }
        let full = bytes >= STEP_BYTES || revision - from >= STEP_ENTRIES;
        Ok(if full { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    })?;
    // The caller is behind the latest revision, so that its row can only be missing because it was compacted.
    if step.next == from { Err(gone(from - 1, from)) } else { Ok(step) }
}

/// The changes under a prefix; all of them without a copy where it covers them all.
fn under(prefix: &Prefix, changes: &Arc<[Change]>) -> Option<Arc<[Change]>> {
    let covered = changes.iter().filter(|change| prefix.covers(change.key())).count();
    match covered {
        0 => None,
        all if all == changes.len() => Some(changes.clone()),
        _ => Some(changes.iter().filter(|change| prefix.covers(change.key())).cloned().collect()),
    }
}

/// Reads the log on behalf of a watcher: the store knows which threads may wait for a disk.
pub(crate) trait LogReader: Send + Sync + 'static {
    fn hub(&self) -> &Hub;
    fn step(self: Arc<Self>, prefix: Prefix, from: u64) -> BoxFuture<'static, Result<Step>>;
}

/// One watch.
pub(crate) struct Watcher<S: LogReader> {
    store: Arc<S>,
    prefix: Prefix,
    topic: usize,
    next: u64,
    slot: Arc<Slot>,
    /// It is among those who wait, or was and may have been woken since.
    waiting: bool,
    read: VecDeque<WatchBatch>,
    reading: Option<BoxFuture<'static, Result<Step>>>,
    ended: bool,
}

impl<S: LogReader> Watcher<S> {
    pub(crate) fn new(store: Arc<S>, prefix: Prefix, after: u64) -> Result<Self> {
        let topic = store.hub().enter(&prefix, after)?;
        Ok(Self {
            store,
            prefix,
            topic,
            next: after + 1,
            slot: Arc::new(Slot::default()),
            waiting: false,
            read: VecDeque::new(),
            reading: None,
            ended: false,
        })
    }

    /// Takes what is next in the tail, or says what to do for it.
    fn look(&mut self, cx: &mut Context<'_>) -> Look {
        if self.waiting {
            // Registered before it looks, so that no wake falls in between.
            self.slot.waker.register(cx.waker());
            match self.slot.resume.swap(0, Acquire) {
                0 => return Look::Wait,
                CLOSED => return Look::Closed,
                revision => {
                    self.next = self.next.max(revision);
                    self.waiting = false;
                }
            }
        }
        let mut state = self.store.hub().lock();
        if state.closed {
            return Look::Closed;
        }
        let first = state.revision + 1 - state.tail.len() as u64;
        if self.next < first && self.next <= state.revision {
            let behind = self.next <= state.compacted;
            return if behind { Look::Gone(state.compacted) } else { Look::Read };
        }
        let skip = usize::try_from(self.next - first).unwrap_or(usize::MAX);
        let mut bytes = 0;
        for batch in state.tail.range(skip.min(state.tail.len())..) {
            if self.read.len() >= TAKE || bytes >= STEP_BYTES {
                return Look::Again;
            }
            self.next = batch.revision + 1;
            if let Some(changes) = under(&self.prefix, &batch.changes) {
                bytes += batch.bytes;
                self.read.push_back(WatchBatch { revision: StoreRevision(batch.revision), changes });
            }
        }
        // It waits at once, also where it has something to give first: that saves the hub's lock at the next look.
        // The log may have shown it what is durable and not published yet, so that its place never moves back.
        self.next = self.next.max(state.revision + 1);
        self.waiting = true;
        self.slot.waker.register(cx.waker());
        state.topics.wait(self.topic, &self.slot);
        if self.read.is_empty() { Look::Wait } else { Look::Again }
    }
}

enum Look {
    /// There is something to give.
    Again,
    Wait,
    Read,
    Gone(u64),
    Closed,
}

impl<S: LogReader> Stream for Watcher<S> {
    type Item = Result<WatchBatch>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            if this.ended {
                return Poll::Ready(None);
            }
            if let Some(batch) = this.read.pop_front() {
                return Poll::Ready(Some(Ok(batch)));
            }
            if let Some(reading) = &mut this.reading {
                let step = std::task::ready!(reading.as_mut().poll(cx));
                this.reading = None;
                match step {
                    Ok(step) => {
                        this.read = step.batches;
                        this.next = step.next;
                    }
                    Err(error) => {
                        this.ended = true;
                        return Poll::Ready(Some(Err(error.with_operation("store.watch"))));
                    }
                }
                continue;
            }
            match this.look(cx) {
                Look::Again => {}
                Look::Wait => return Poll::Pending,
                Look::Read => this.reading = Some(this.store.clone().step(this.prefix.clone(), this.next)),
                Look::Gone(compacted_up_to) => {
                    this.ended = true;
                    let error = gone(this.next - 1, compacted_up_to).with_operation("store.watch");
                    return Poll::Ready(Some(Err(error)));
                }
                Look::Closed => {
                    this.ended = true;
                    let error = Error::new(ErrorKind::Unavailable, "the store was closed");
                    return Poll::Ready(Some(Err(error.with_operation("store.watch"))));
                }
            }
        }
    }
}

impl<S: LogReader> Drop for Watcher<S> {
    fn drop(&mut self) {
        let mut state = self.store.hub().lock();
        state.watchers -= 1;
        let waiting = self.waiting.then_some(&self.slot);
        state.topics.leave(self.prefix.as_str(), self.topic, waiting);
    }
}
