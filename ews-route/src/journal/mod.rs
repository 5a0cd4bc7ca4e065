//! How a gateway remembers what was applied: a record for each object, in a store.
//!
//! ```text
//! gateway/<name>/current                          the format, and where the changes begin
//!                object/<kind>/<name>             an object and its version
//!                part/<kind>/<name>/<version>/<n> an object that is too large for one record
//!                change/<slot>                    what is remembered of the last changes
//!                pending/<generation>/<n>         a change that is too large for one transaction
//! ```
//!
//! A change writes the records of what it touched and its own, nothing else: so it costs as much among a million domains as
//! among ten, and nothing is ever compacted. What fits into one transaction is one. What does not is written down as a whole
//! first, under `pending`, its first part last; then its records are written, and the last of those transactions takes
//! `pending` away. Wherever a crash falls, the next start finds all of a change or nothing.
//!
//! - [`record`] says what the records hold, [`batch`] makes a change into writes, [`parts`] keeps what is longer than a value
//!   may be.
//! - [`replay`] reads everything back, page by page.
//! - [`legacy`] reads the format before: a log of changes and an image of everything.
//!
//! # When a write's fate is not known
//! The change stays in doubt, and before the next one the journal is asked whether it holds it ([`Journal::holds`]).

mod batch;
mod legacy;
mod parts;
mod record;
mod replay;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ews_core::balancer::{ObjectRef, Prepared, Remembered};
use ews_core::id::GatewayId;
use ews_core::store::{Store, Transaction, Write};
use ews_core::{Error, ErrorKind, Result};

use self::batch::{Batch, weight};
use self::record::{Keys, Pending, PendingRef, decode, encode};

/// The most bytes of one transaction and of one value, within every store's limit of 1 MiB.
const PART: usize = 512 * 1024;

/// A journal whose store is closed.
#[cfg(all(unix, feature = "handover"))]
#[derive(Debug)]
pub(crate) struct Paused {
    keys: Keys,
    state: State,
}

/// A gateway's journal in a store.
pub(crate) struct Journal {
    store: Arc<dyn Store>,
    keys: Keys,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The objects that are kept in parts: of which version, and how many.
    large: BTreeMap<ObjectRef, Large>,
    /// A change that is durable under `pending` and not yet in its records.
    unfolded: Option<Arc<Batch>>,
    /// Blackholes that have ended, whose records go with the next change.
    ended: BTreeSet<ObjectRef>,
}

/// An object in parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Large {
    version: u64,
    parts: usize,
}

impl std::fmt::Debug for Journal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Journal").field("keys", &self.keys).finish_non_exhaustive()
    }
}

impl Journal {
    pub(crate) fn new(store: Arc<dyn Store>, gateway: &GatewayId) -> Self {
        Self { store, keys: Keys::new(gateway), state: Mutex::default() }
    }

    /// What is known beside the store, for [`resume`](Self::resume); this journal is of no use after it.
    #[cfg(all(unix, feature = "handover"))]
    pub(crate) fn pause(&self) -> Paused {
        Paused { keys: self.keys.clone(), state: std::mem::take(&mut self.state()) }
    }

    /// Goes on where another left off, with the same store, opened anew.
    #[cfg(all(unix, feature = "handover"))]
    pub(crate) fn resume(store: Arc<dyn Store>, paused: Paused) -> Self {
        Self { store, keys: paused.keys, state: Mutex::new(paused.state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many writes one transaction takes.
    fn operations(&self) -> usize {
        self.store.limits().operations.max(2)
    }

    /// Makes a change durable. One at a time.
    ///
    /// # Errors
    /// Those of the store; one that says `maybe_applied` leaves the change in doubt.
    pub(crate) async fn append(&self, prepared: &Prepared) -> Result<()> {
        self.fold().await.map_err(|error| {
            Error::new(ErrorKind::Unavailable, "an earlier change could not be written in full yet")
                .with_source(error)
        })?;
        let change = prepared.remembered();
        let batch = {
            let mut state = self.state();
            // What is put anew has not ended.
            for (reference, _) in prepared.touched() {
                state.ended.remove(reference);
            }
            Batch::new(&self.keys, &state.large, &change, prepared.touched())?
        };
        // Besides its writes, what is remembered of the change.
        let room = self.operations().saturating_sub(batch.writes.all.len() + 1);
        if batch.writes.all.len() < self.operations() && batch.writes.bytes <= PART {
            let ended: Vec<ObjectRef> = {
                let mut state = self.state();
                std::iter::from_fn(|| state.ended.pop_first()).take(room).collect()
            };
            let mut transaction = Transaction::new().put(&self.keys.change(&change)?, encode(&change)?);
            transaction.writes.extend(batch.writes.all.iter().cloned());
            for reference in &ended {
                transaction = transaction.delete(&self.keys.object(reference)?);
            }
            if let Err(error) = self.store.commit(&transaction).await {
                self.state().ended.extend(ended);
                return Err(error);
            }
            self.state().took(&batch);
            return Ok(());
        }
        let pending = encode(&PendingRef::new(&change, prepared.touched()))?;
        self.write_parts(&self.keys.pending(change.generation), &pending).await?;
        self.state().unfolded = Some(Arc::new(batch));
        if let Err(error) = self.fold().await {
            // It is durable as it is: the next change, or the next start, goes on with it.
            tracing::warn!(%error, "a large change could not be written in full; it is tried again before the next one");
        }
        Ok(())
    }

    /// Whether a change that is in doubt is durable.
    ///
    /// # Errors
    /// Those of the store, and `Corrupt`.
    pub(crate) async fn holds(&self, change: &Remembered) -> Result<bool> {
        if let Some(record) = self.store.get(&self.keys.change(change)?).await? {
            let found: Remembered = decode(&record)?;
            if found == *change {
                return Ok(true);
            }
        }
        let Some(pending) = self.pending(change.generation).await?.filter(|found| found.change == *change)
        else {
            return Ok(false);
        };
        let batch = Batch::new(&self.keys, &self.state().large, change, pending.touched())?;
        self.state().unfolded = Some(Arc::new(batch));
        Ok(true)
    }

    /// These blackholes have ended; their records go with the next change, or at the next start.
    pub(crate) fn ended(&self, blackholes: &[ObjectRef]) {
        self.state().ended.extend(blackholes.iter().cloned());
    }

    /// The change that is kept whole for this generation, where there is one.
    async fn pending(&self, generation: u64) -> Result<Option<Pending>> {
        let path = self.keys.pending(generation);
        match self.read_parts(&path).await? {
            Some(bytes) => {
                record::read(&bytes).map(Some).map_err(|error| error.with_context("generation", generation))
            }
            None => Ok(None),
        }
    }

    /// Writes the records of a change that is pending. Doing that again gives the same, so that it may be cut off anywhere.
    async fn fold(&self) -> Result<()> {
        let Some(batch) = self.state().unfolded.clone() else { return Ok(()) };
        let mut writer = Writer::new(self);
        for write in &batch.writes.all {
            writer.add(write.clone()).await?;
        }
        writer.flush().await?;
        let path = self.keys.pending(batch.change.generation);
        let done = Transaction::new()
            .put(&self.keys.change(&batch.change)?, encode(&batch.change)?)
            .delete(&self.keys.part(&path, 0)?);
        self.store.commit(&done).await?;
        {
            let mut state = self.state();
            state.unfolded = None;
            state.took(&batch);
        }
        // Without their first part the others are nothing; if they can't be removed now, the next start does it.
        if let Err(error) = self.clear(&path).await {
            tracing::warn!(%error, "what is left of a large change could not be removed yet");
        }
        Ok(())
    }
}

impl State {
    /// A change is in its records.
    fn took(&mut self, batch: &Batch) {
        for (reference, large) in &batch.large {
            match large {
                Some(large) => drop(self.large.insert(reference.clone(), *large)),
                None => drop(self.large.remove(reference)),
            }
        }
    }
}

/// Puts writes together into transactions that a store takes.
struct Writer<'a> {
    journal: &'a Journal,
    transaction: Transaction,
    bytes: usize,
}

impl<'a> Writer<'a> {
    fn new(journal: &'a Journal) -> Self {
        Self { journal, transaction: Transaction::new(), bytes: 0 }
    }

    async fn add(&mut self, write: Write) -> Result<()> {
        let bytes = weight(&write);
        if self.transaction.writes.len() >= self.journal.operations() || self.bytes + bytes > PART {
            self.flush().await?;
        }
        self.bytes += bytes;
        self.transaction.writes.push(write);
        Ok(())
    }

    async fn flush(&mut self) -> Result<()> {
        let transaction = std::mem::take(&mut self.transaction);
        self.bytes = 0;
        if !transaction.writes.is_empty() {
            self.journal.store.commit(&transaction).await?;
        }
        Ok(())
    }
}
