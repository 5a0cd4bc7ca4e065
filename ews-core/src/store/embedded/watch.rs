//! Watches: the tail of the change log in memory, shared by all, and who waits for what.
//!
//! Each watcher has a place, the next revision that it has not seen. Near the end of the log it reads the tail, whose
//! changes are shared and never copied for it; further behind it reads the log in steps of at most 64 KiB; behind the log it
//! gets [`ErrorKind::Compacted`] and ends. So a slow watcher holds nothing but its place, and a writer never waits for one.
//!
//! A watcher that has seen everything waits under its prefix. Prefixes are whole segments, so a changed key names exactly the
//! prefixes that cover it (`a/b/c`: ``, `a/`, `a/b/`), and a commit wakes the watchers it concerns without looking at the
//! others. One that wakes goes on at the commit that woke it: what lay between did not concern it.

use std::collections::{HashMap, VecDeque};
use std::ops::{Bound, ControlFlow};
use std::pin::Pin;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
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

/// What a watcher that reads the log takes at once: at most so many bytes, besides one transaction.
const STEP_BYTES: usize = 64 * 1024;
/// And it looks at no more than so many transactions.
const STEP_ENTRIES: u64 = 512;

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
    /// History up to here is gone.
    compacted: u64,
    waiting: HashMap<Arc<str>, Vec<Arc<Slot>>>,
    watchers: usize,
    closed: bool,
}

/// A watcher that waits.
#[derive(Default)]
struct Slot {
    waker: AtomicWaker,
    /// The commit that woke it; 0 while it waits. Written and read under the hub's lock.
    resume: AtomicU64,
}

impl Hub {
    pub(crate) fn new(config: &EmbeddedConfig, revision: u64, compacted: u64) -> Self {
        Self {
            state: Mutex::new(State {
                tail: VecDeque::new(),
                tail_bytes: 0,
                revision,
                compacted,
                waiting: HashMap::new(),
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

    /// Shows transactions that became durable, in order, and wakes whom they concern.
    pub(crate) fn publish(&self, written: Vec<Written>, compacted: u64) {
        let mut woken = Vec::new();
        let mut state = self.lock();
        for batch in written {
            if !state.waiting.is_empty() {
                for change in batch.changes.iter() {
                    wake_covering(&mut state.waiting, change.key().as_str(), batch.revision, &mut woken);
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
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        for slot in waiting.into_values().flatten() {
            slot.waker.wake();
        }
    }

    /// Admits a watcher.
    fn enter(&self, after: u64) -> Result<()> {
        let mut state = self.lock();
        if after > state.revision {
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
        Ok(())
    }
}

/// Wakes the watchers of every prefix that covers `key`.
fn wake_covering(
    waiting: &mut HashMap<Arc<str>, Vec<Arc<Slot>>>,
    key: &str,
    revision: u64,
    woken: &mut Vec<Arc<Slot>>,
) {
    let ends = std::iter::once(0).chain(key.match_indices('/').map(|(at, _)| at + 1));
    for end in ends {
        if let Some(slots) = key.get(..end).and_then(|prefix| waiting.remove(prefix)) {
            for slot in &slots {
                slot.resume.store(revision, Relaxed);
            }
            if woken.is_empty() { *woken = slots } else { woken.extend(slots) }
        }
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
    next: u64,
    slot: Arc<Slot>,
    waiting: bool,
    read: VecDeque<WatchBatch>,
    reading: Option<BoxFuture<'static, Result<Step>>>,
    ended: bool,
}

impl<S: LogReader> Watcher<S> {
    pub(crate) fn new(store: Arc<S>, prefix: Prefix, after: u64) -> Result<Self> {
        store.hub().enter(after)?;
        Ok(Self {
            store,
            prefix,
            next: after + 1,
            slot: Arc::new(Slot::default()),
            waiting: false,
            read: VecDeque::new(),
            reading: None,
            ended: false,
        })
    }

    /// The next batch from the tail, or what to do for it.
    fn look(&mut self, cx: &mut Context<'_>) -> Look {
        let mut state = self.store.hub().lock();
        if state.closed {
            return Look::Closed;
        }
        if self.waiting {
            match self.slot.resume.swap(0, Relaxed) {
                0 => {
                    self.slot.waker.register(cx.waker());
                    return Look::Wait;
                }
                revision => {
                    self.next = revision;
                    self.waiting = false;
                }
            }
        }
        let first = state.revision + 1 - state.tail.len() as u64;
        if self.next < first {
            let behind = self.next <= state.compacted;
            return if behind { Look::Gone(state.compacted) } else { Look::Read };
        }
        let skip = usize::try_from(self.next - first).unwrap_or(usize::MAX);
        for batch in state.tail.iter().skip(skip) {
            if let Some(changes) = under(&self.prefix, &batch.changes) {
                self.next = batch.revision + 1;
                return Look::Batch(WatchBatch { revision: StoreRevision(batch.revision), changes });
            }
        }
        self.next = state.revision + 1;
        self.waiting = true;
        self.slot.waker.register(cx.waker());
        match state.waiting.get_mut(self.prefix.as_str()) {
            Some(slots) => slots.push(self.slot.clone()),
            None => {
                state.waiting.insert(Arc::from(self.prefix.as_str()), vec![self.slot.clone()]);
            }
        }
        Look::Wait
    }
}

enum Look {
    Batch(WatchBatch),
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
                Look::Batch(batch) => return Poll::Ready(Some(Ok(batch))),
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
        if self.waiting
            && let Some(slots) = state.waiting.get_mut(self.prefix.as_str())
        {
            slots.retain(|slot| !Arc::ptr_eq(slot, &self.slot));
            if slots.is_empty() {
                state.waiting.remove(self.prefix.as_str());
            }
        }
    }
}
