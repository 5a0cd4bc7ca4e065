//! The one writer: transactions wait in a bounded queue, and all that wait go into one durable commit.
//!
//! Whoever finds nobody writing becomes the writer (on a blocking thread where rows live on a disk) and goes on until the
//! queue is empty. Each transaction is decided in its turn, sees those before it and gets its own revision; it is
//! acknowledged after the commit that holds it is durable, and shown to watches before that. A caller who leaves does
//! not take its transaction back.
//!
//! # When the storage fails
//! The transactions under way fail together. Where the storage can't say whether they happened, the callers get
//! `maybe_applied`, and before anything else is written the rows are read again to find out: a commit is one step on
//! disk, so either all of them happened or none.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::task::spawn_blocking;
use tokio::time::Instant;

use super::apply::{Applier, Ledger, Written};
use super::rows::{Backend, Ending};
use super::{Inner, load_leases, lock};
use crate::error::{Error, ErrorKind, Result};
use crate::store::{LeaseId, Transaction};

/// What the writer is asked to do.
pub(super) enum Work {
    Commit(Transaction),
    Grant(Duration),
    Revoke(LeaseId),
    /// End what is due, which each commit does first.
    Sweep,
}

/// What it answers.
#[derive(Debug, Clone, Copy)]
pub(super) enum Answer {
    Revision(u64),
    Lease(LeaseId),
    Done,
}

struct Request {
    work: Work,
    reply: oneshot::Sender<Result<Answer>>,
    /// The request's share of the queue's bound.
    bytes: OwnedSemaphorePermit,
}

/// What waits to be written.
pub(super) struct Queue {
    state: Mutex<QueueState>,
    /// In KiB.
    room: Arc<Semaphore>,
    size: u32,
}

#[derive(Default)]
struct QueueState {
    requests: VecDeque<Request>,
    writing: bool,
    /// What an earlier commit wrote that may or may not have happened.
    doubtful: Option<Vec<Written>>,
}

/// The most requests in one commit on disk, and the most KiB of them besides one: it bounds what a caller waits for
/// behind others, and the memory of the storage's transaction.
const GROUP_REQUESTS: usize = 256;
const GROUP_KIB: usize = 4 * 1024;

impl Queue {
    pub(super) fn new(bytes: usize) -> Self {
        let size = u32::try_from(bytes / 1024).unwrap_or(u32::MAX).clamp(1, 1 << 24);
        Self { state: Mutex::default(), room: Arc::new(Semaphore::new(size as usize)), size }
    }

    #[cfg(feature = "redb")]
    /// Waits until all requests were answered: each holds some of the room until then.
    pub(super) async fn drained(&self) {
        let _ = self.room.acquire_many(self.size).await;
    }

    /// The next requests to write together; none ends the writer's turn.
    fn take(&self) -> Vec<Request> {
        let mut state = lock(&self.state);
        let (mut group, mut kib) = (Vec::new(), 0);
        while group.len() < GROUP_REQUESTS
            && let Some(request) = state.requests.front()
        {
            kib += request.bytes.num_permits();
            if kib > GROUP_KIB && !group.is_empty() {
                break;
            }
            group.extend(state.requests.pop_front());
        }
        if group.is_empty() {
            state.writing = false;
        }
        group
    }
}

/// The writer's turn. A runtime that shuts down does not end it, and after a panic somebody else can have the next.
struct Turn<B: Backend> {
    inner: Arc<Inner<B>>,
    /// The queue was found empty and the turn given back under the queue's lock; it may be somebody else's by now.
    over: bool,
    /// It runs on a thread of its own; there is no further place to go on.
    last: bool,
}

impl<B: Backend> Turn<B> {
    fn run(mut self) {
        loop {
            let group = self.inner.queue.take();
            if group.is_empty() {
                self.over = true;
                return;
            }
            self.inner.write_group(group);
        }
    }
}

impl<B: Backend> Drop for Turn<B> {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        // The runtime went away before the turn began, or it panicked. Others wait, perhaps on another runtime.
        let turn = Self { inner: self.inner.clone(), over: self.last, last: true };
        let thread = std::thread::Builder::new().name("ews-store-writer".to_owned());
        if self.last || thread.spawn(move || turn.run()).is_err() {
            let mut state = lock(&self.inner.queue.state);
            // Their callers learn that nobody will answer.
            state.requests.clear();
            state.writing = false;
        }
    }
}

impl<B: Backend> Inner<B> {
    /// Queues work and waits for its answer.
    pub(super) async fn submit(this: &Arc<Self>, work: Work, bytes: usize) -> Result<Answer> {
        let kib = u32::try_from(bytes / 1024 + 1).unwrap_or(u32::MAX).min(this.queue.size);
        let room = this.queue.room.clone().acquire_many_owned(kib).await;
        let bytes = room.map_err(|_| Error::new(ErrorKind::Unavailable, "the store was closed"))?;
        let (reply, answer) = oneshot::channel();
        let write_now = {
            let mut state = lock(&this.queue.state);
            state.requests.push_back(Request { work, reply, bytes });
            !std::mem::replace(&mut state.writing, true)
        };
        if write_now {
            let turn = Turn { inner: this.clone(), over: false, last: false };
            if B::BLOCKS {
                drop(spawn_blocking(move || turn.run()));
            } else {
                turn.run();
            }
        }
        answer.await.unwrap_or_else(|_| {
            Err(Error::new(ErrorKind::Cancelled, "the store's writer ended before it answered")
                .with_maybe_applied())
        })
    }

    fn write_group(&self, group: Vec<Request>) {
        let mut requests = Vec::with_capacity(group.len());
        let mut replies = Vec::with_capacity(group.len());
        for Request { work, reply, bytes } in group {
            requests.push(work);
            replies.push((reply, bytes));
        }
        match self.write(&requests) {
            Ok(answers) => {
                for ((reply, _), answer) in replies.into_iter().zip(answers) {
                    // A caller that left does not want it.
                    let _ = reply.send(answer);
                }
            }
            Err(error) => {
                for (reply, _) in replies {
                    let _ = reply.send(Err(same(&error)));
                }
            }
        }
    }

    /// Decides and commits requests together; an error is the storage's and everyone's.
    fn write(&self, requests: &[Work]) -> Result<Vec<Result<Answer>>> {
        self.resolve_doubt()?;
        let now = Instant::now();
        let before = *lock(&self.ledger);
        let (due, live) = {
            let mut leases = lock(&self.leases);
            (leases.take_due(now), leases.len())
        };
        let mut group = Group::default();
        let outcome = self.backend.write(&mut |rows| {
            group = Group::default();
            let mut applier = Applier::new(rows, before, &self.config);
            for id in &due {
                applier.end_lease(*id)?;
                group.ended.push(*id);
            }
            for request in requests {
                let answer = group.decide(&mut applier, request, live)?;
                group.answers.push(answer);
            }
            applier.trim()?;
            group.ledger = Some(applier.ledger);
            group.written = std::mem::take(&mut applier.written);
            // Before they are durable, so that no reader sees a state that history does not lead back from.
            let mut history = lock(&self.history);
            for (written, before) in group.written.iter().zip(applier.replaced) {
                history.push(written.revision, before);
            }
            let nothing = group.written.is_empty() && group.ended.is_empty() && group.granted.is_empty();
            Ok(if nothing { Ending::Abandon } else { Ending::Commit })
        });
        let error = match (outcome, group.ledger) {
            (Ok(()), Some(ledger)) => {
                self.settle(ledger, group.written, |leases| {
                    leases.ended(&group.ended);
                    // From here on, since the time it took to become durable is not the holder's.
                    let now = Instant::now();
                    for (id, ttl) in &group.granted {
                        leases.start(*id, *ttl, now);
                    }
                });
                return Ok(group.answers);
            }
            (Ok(()), None) => Error::internal("the storage did not run the transaction"),
            (Err(error), _) => error,
        };
        if error.maybe_applied() {
            lock(&self.queue.state).doubtful = Some(group.written);
            // Often the storage can tell at once.
            if self.resolve_doubt().is_ok() {
                let now = *lock(&self.ledger);
                if now.revision != before.revision || now.next_lease != before.next_lease {
                    return Ok(group.answers);
                }
                // The end of a lease without records leaves no mark in the ledger, so that it stays in doubt.
                let marked = group.ledger.is_some_and(|ledger| ledger != before);
                return Err(if marked { definite(&error) } else { error });
            }
        } else {
            lock(&self.history).truncate(before.revision);
            lock(&self.leases).not_ended(now);
        }
        Err(error)
    }

    /// Takes over a state that is durable.
    fn settle(&self, ledger: Ledger, written: Vec<Written>, leases: impl FnOnce(&mut super::LeaseClocks)) {
        *lock(&self.ledger) = ledger;
        leases(&mut lock(&self.leases));
        self.hub.publish(written, ledger.compacted());
    }

    /// Finds out whether the transactions in doubt happened.
    fn resolve_doubt(&self) -> Result<()> {
        let Some(written) = lock(&self.queue.state).doubtful.clone() else { return Ok(()) };
        let now = Instant::now();
        let (found, leases) = self.read_now(|_, rows| Ok((Ledger::load(rows)?, load_leases(rows, now)?)))?;
        let before = *lock(&self.ledger);
        let happened = written.last().is_some_and(|last| last.revision == found.revision);
        if !happened && found.revision != before.revision {
            return Err(super::codec::corrupt(format!(
                "after a failure the store is at revision {}, neither before nor after what was under way ({})",
                found.revision, before.revision
            )));
        }
        if !happened {
            lock(&self.history).truncate(before.revision);
        }
        // Which leases there are is what the rows say.
        self.settle(found, if happened { written } else { Vec::new() }, |clocks| {
            clocks.reconcile(leases, now)
        });
        lock(&self.queue.state).doubtful = None;
        self.lease_began.notify_one();
        Ok(())
    }
}

/// What a group of requests came to.
#[derive(Default)]
struct Group {
    ledger: Option<Ledger>,
    answers: Vec<Result<Answer>>,
    written: Vec<Written>,
    granted: Vec<(LeaseId, Duration)>,
    ended: Vec<LeaseId>,
}

impl Group {
    fn decide(&mut self, applier: &mut Applier<'_>, request: &Work, live: usize) -> Result<Result<Answer>> {
        match request {
            Work::Commit(transaction) => Ok(applier.commit(transaction)?.map(Answer::Revision)),
            Work::Grant(ttl) => {
                let max = applier.config.leases;
                if live + self.granted.len() >= max + self.ended.len() {
                    let error =
                        Error::new(ErrorKind::OutOfResources, format!("at most {max} leases at a time"));
                    return Ok(Err(error));
                }
                let id = applier.grant(*ttl)?;
                self.granted.push((id, *ttl));
                Ok(Ok(Answer::Lease(id)))
            }
            Work::Revoke(id) => {
                if applier.end_lease(*id)? {
                    self.ended.push(*id);
                }
                Ok(Ok(Answer::Done))
            }
            Work::Sweep => Ok(Ok(Answer::Done)),
        }
    }
}

/// The same error for another caller.
fn same(error: &Error) -> Error {
    let copy = definite(error).with_retry(error.retry());
    if error.maybe_applied() { copy.with_maybe_applied() } else { copy }
}

/// The same error, where it turned out that nothing was applied.
fn definite(error: &Error) -> Error {
    let mut copy = Error::new(error.kind(), error.message().to_owned());
    for (name, value) in error.context() {
        copy = copy.with_context(name, value);
    }
    match error.detail() {
        Some(detail) => copy.with_detail(detail),
        None => copy,
    }
}
