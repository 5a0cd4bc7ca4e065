//! The event bus: one ring of numbered events, any number of readers.
//!
//! A publisher never waits. The ring keeps the last `capacity` events and forgets the oldest; a reader is only a position in
//! it, so a slow one costs no memory: when what it would read next has been forgotten, it gets [`Notice::Gap`] once and goes
//! on with the oldest that is kept. Its owner then lists anew ([`event`](crate::event)).
//!
//! A reader that comes back, over the network say, resumes after the [`Cursor`] of the last event it saw. The cursor names
//! the bus it came from: after a restart of the process, when numbers begin anew, it leads to a gap rather than to silence.
//!
//! The bound is in events, not in bytes: keep events small, or put an `Arc` around them. When the last [`Bus`] is dropped,
//! readers get what is left and then the end; when the last reader is gone too, the ring is freed.

use std::collections::VecDeque;
use std::hash::{BuildHasher as _, Hasher as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::Stream;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::error::{Error, Result};
use crate::event::{Gap, Notice};

/// An event's place: which bus, and which of its events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cursor {
    /// The bus, by a number drawn at its creation.
    pub bus: u64,
    /// The event's number on it, from 1; 0 is before the first.
    pub sequence: u64,
}

/// An event with its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Numbered<E> {
    /// Where it stands: resume after it.
    pub cursor: Cursor,
    /// The event.
    pub event: E,
}

struct Ring<E> {
    bus: u64,
    capacity: usize,
    kept: Mutex<Kept<E>>,
}

struct Kept<E> {
    events: VecDeque<E>,
    /// The number of the newest event; the ring holds the `events.len()` numbers up to it.
    head: u64,
}

impl<E> Kept<E> {
    /// The number of the oldest event that is kept, or of the next one where none is.
    fn oldest(&self) -> u64 {
        self.head + 1 - self.events.len() as u64
    }
}

impl<E> Ring<E> {
    fn lock(&self) -> MutexGuard<'_, Kept<E>> {
        // Nothing inside can panic halfway: a poisoned ring is still whole.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The publishing side. Clones publish to the same readers.
///
/// ```
/// use ews_core::bus::Bus;
/// use ews_core::event::Notice;
///
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let bus = Bus::new(1024)?;
/// let mut reader = bus.subscribe();
/// bus.publish("rollout started");
/// let Some(Notice::Event(first)) = reader.next().await else { panic!("one was published") };
/// assert_eq!((first.cursor.sequence, first.event), (1, "rollout started"));
///
/// bus.publish("rollout done");
/// let mut resumed = bus.resume(first.cursor);
/// assert!(matches!(resumed.next().await, Some(Notice::Event(e)) if e.event == "rollout done"));
/// # Ok::<(), ews_core::Error>(()) }).unwrap();
/// ```
#[derive(Debug)]
pub struct Bus<E> {
    ring: Arc<Ring<E>>,
    head: Arc<watch::Sender<u64>>,
}

impl<E> std::fmt::Debug for Ring<E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring")
            .field("bus", &self.bus)
            .field("capacity", &self.capacity)
            .finish_non_exhaustive()
    }
}

impl<E> Clone for Bus<E> {
    fn clone(&self) -> Self {
        Self { ring: Arc::clone(&self.ring), head: Arc::clone(&self.head) }
    }
}

impl<E: Clone> Bus<E> {
    /// The largest accepted capacity.
    pub const MAX_CAPACITY: usize = 1 << 20;

    /// A bus that keeps the last `capacity` events. Choose it so that it holds what is published while the slowest reader
    /// that matters is away; 1,024 suits most.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for zero or more than [`Self::MAX_CAPACITY`].
    pub fn new(capacity: usize) -> Result<Self> {
        if !(1..=Self::MAX_CAPACITY).contains(&capacity) {
            return Err(Error::invalid(format!(
                "a bus of {capacity} events; accepted: 1 to {}",
                Self::MAX_CAPACITY
            )));
        }
        let kept = Kept { events: VecDeque::new(), head: 0 };
        let bus = std::hash::RandomState::new().build_hasher().finish();
        let ring = Arc::new(Ring { bus, capacity, kept: Mutex::new(kept) });
        Ok(Self { ring, head: Arc::new(watch::Sender::new(0)) })
    }

    /// Publishes an event and says where it stands. It never waits, and without readers it costs one push.
    pub fn publish(&self, event: E) -> Cursor {
        let mut kept = self.ring.lock();
        let forgotten = if kept.events.len() == self.ring.capacity { kept.events.pop_front() } else { None };
        kept.events.push_back(event);
        kept.head += 1;
        let sequence = kept.head;
        // Told under the lock, so that the told head never goes back; dropped after it, since an event may own much.
        self.head.send_replace(sequence);
        drop(kept);
        drop(forgotten);
        Cursor { bus: self.ring.bus, sequence }
    }

    /// Where the newest event stands: what [`resume`](Self::resume) needs to get all that follows.
    pub fn cursor(&self) -> Cursor {
        Cursor { bus: self.ring.bus, sequence: self.ring.lock().head }
    }

    /// Reads from now on.
    pub fn subscribe(&self) -> Subscription<E> {
        self.reader(self.ring.lock().head + 1, None)
    }

    /// Reads on after an event that was seen before. Where events after it are forgotten, or it came from another bus, the
    /// first notice is a gap and then comes all that is kept.
    pub fn resume(&self, after: Cursor) -> Subscription<E> {
        let kept = self.ring.lock();
        let (next, gap) = if after.bus != self.ring.bus || after.sequence > kept.head {
            (kept.oldest(), Some(Gap::EngineLost))
        } else {
            (after.sequence + 1, None)
        };
        drop(kept);
        self.reader(next, gap)
    }

    fn reader(&self, next: u64, gap: Option<Gap>) -> Subscription<E> {
        Subscription { ring: Arc::clone(&self.ring), head: self.head.subscribe(), next, gap }
    }
}

/// A reader of a [`Bus`].
#[derive(Debug)]
pub struct Subscription<E> {
    ring: Arc<Ring<E>>,
    head: watch::Receiver<u64>,
    next: u64,
    gap: Option<Gap>,
}

impl<E: Clone> Subscription<E> {
    /// The next event or gap; `None` when the bus is gone and all was read. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Notice<Numbered<E>>> {
        loop {
            if let Some(notice) = self.try_next() {
                return Some(notice);
            }
            // Whatever is published between the look above and this wait has moved the head past `next`.
            let next = self.next;
            if self.head.wait_for(|head| *head >= next).await.is_err() {
                return self.try_next();
            }
        }
    }

    /// The next event or gap, if there is one now.
    pub fn try_next(&mut self) -> Option<Notice<Numbered<E>>> {
        if let Some(gap) = self.gap.take() {
            return Some(Notice::Gap(gap));
        }
        let kept = self.ring.lock();
        let oldest = kept.oldest();
        if self.next < oldest {
            self.next = oldest;
            return Some(Notice::Gap(Gap::Lagged));
        }
        let index = usize::try_from(self.next - oldest).ok()?;
        let event = kept.events.get(index)?.clone();
        let cursor = Cursor { bus: self.ring.bus, sequence: self.next };
        self.next += 1;
        Some(Notice::Event(Numbered { cursor, event }))
    }

    /// How many events are waiting to be read, forgotten ones included.
    pub fn behind(&self) -> u64 {
        (self.ring.lock().head + 1).saturating_sub(self.next)
    }

    /// As a stream, which ends with the bus.
    pub fn into_stream(self) -> impl Stream<Item = Notice<Numbered<E>>> + Send + 'static
    where
        E: Send + Sync + 'static,
    {
        futures_util::stream::unfold(self, |mut reader| async move {
            let notice = reader.next().await?;
            Some((notice, reader))
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn drain<E: Clone>(reader: &mut Subscription<E>) -> Vec<std::result::Result<E, Gap>> {
        std::iter::from_fn(|| reader.try_next())
            .map(|notice| match notice {
                Notice::Event(numbered) => Ok(numbered.event),
                Notice::Gap(gap) => Err(gap),
            })
            .collect()
    }

    #[test]
    fn a_slow_reader_gets_one_gap_and_then_what_is_kept() {
        let bus = Bus::new(3).unwrap();
        let mut slow = bus.subscribe();
        for event in 1..=10 {
            bus.publish(event);
        }
        assert_eq!(slow.behind(), 10);
        assert_eq!(drain(&mut slow), [Err(Gap::Lagged), Ok(8), Ok(9), Ok(10)]);
        bus.publish(11);
        assert_eq!(drain(&mut slow), [Ok(11)]);
    }

    #[test]
    fn a_cursor_resumes_without_loss_within_the_ring_and_with_a_gap_beyond_it() {
        let bus = Bus::new(4).unwrap();
        let cursors: Vec<_> = (1..=6).map(|event| bus.publish(event)).collect();
        assert_eq!(drain(&mut bus.resume(cursors[3])), [Ok(5), Ok(6)]);
        assert_eq!(drain(&mut bus.resume(cursors[1])), [Ok(3), Ok(4), Ok(5), Ok(6)]);
        assert_eq!(drain(&mut bus.resume(cursors[0])), [Err(Gap::Lagged), Ok(3), Ok(4), Ok(5), Ok(6)]);
        assert_eq!(drain(&mut bus.resume(bus.cursor())), []);
    }

    #[test]
    fn a_cursor_of_another_life_is_a_gap_even_where_its_number_exists() {
        let before = Bus::new(8).unwrap();
        let cursor = before.publish("a");
        let after = Bus::new(8).unwrap();
        after.publish("b");
        after.publish("c");
        assert_eq!(drain(&mut after.resume(cursor)), [Err(Gap::EngineLost), Ok("b"), Ok("c")]);
        let future = Cursor { sequence: 99, ..after.cursor() };
        assert_eq!(drain(&mut after.resume(future)), [Err(Gap::EngineLost), Ok("b"), Ok("c")]);
        let last = Cursor { sequence: u64::MAX, ..after.cursor() };
        assert_eq!(drain(&mut after.resume(last)).len(), 3);
    }

    #[tokio::test]
    async fn a_waiting_reader_wakes_and_the_end_comes_after_what_is_left() {
        let bus = Bus::new(8).unwrap();
        let other = bus.clone();
        let mut reader = bus.subscribe();
        let task = tokio::spawn(async move {
            let mut seen = Vec::new();
            while let Some(Notice::Event(numbered)) = reader.next().await {
                seen.push(numbered.event);
            }
            seen
        });
        tokio::task::yield_now().await;
        bus.publish(1);
        tokio::task::yield_now().await;
        drop(bus);
        other.publish(2);
        drop(other);
        assert_eq!(task.await.unwrap(), [1, 2]);
    }

    #[test]
    fn what_is_forgotten_is_freed_and_so_is_the_ring() {
        let bus = Bus::new(2).unwrap();
        let event = Arc::new(());
        let reader = bus.subscribe();
        for _ in 0..10 {
            bus.publish(Arc::clone(&event));
        }
        assert_eq!(Arc::strong_count(&event), 3);
        drop(bus);
        assert_eq!(Arc::strong_count(&event), 3);
        drop(reader);
        assert_eq!(Arc::strong_count(&event), 1);
    }

    #[test]
    fn an_unbounded_bus_is_refused() {
        assert!(Bus::<()>::new(0).is_err());
        assert!(Bus::<()>::new(usize::MAX).is_err());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn readers_of_concurrent_publishers_see_every_number_once_in_order() {
        let bus = Bus::new(100_000).unwrap();
        let mut readers: Vec<_> = (0..3).map(|_| bus.subscribe()).collect();
        let publishers: Vec<_> = (0..4)
            .map(|p| {
                let bus = bus.clone();
                tokio::spawn(async move {
                    for n in 0..1_000 {
                        bus.publish((p, n));
                        if n % 50 == 0 {
                            tokio::task::yield_now().await;
                        }
                    }
                })
            })
            .collect();
        drop(bus);
        for reader in &mut readers {
            let mut last = [-1; 4];
            let mut count = 0;
            while let Some(notice) = reader.next().await {
                let Notice::Event(numbered) = notice else { panic!("nothing is forgotten here") };
                count += 1;
                assert_eq!(numbered.cursor.sequence, count);
                let (p, n): (usize, i32) = numbered.event;
                assert_eq!(last[p] + 1, n);
                last[p] = n;
            }
            assert_eq!(count, 4_000);
        }
        for publisher in publishers {
            publisher.await.unwrap();
        }
    }

    proptest! {
        /// Whatever the interleaving, a reader sees increasing numbers, and a gap wherever one is missing.
        #[test]
        fn a_missing_number_is_always_announced(capacity in 1_usize..6, steps in prop::collection::vec(0_u8..3, 1..60)) {
            let bus = Bus::new(capacity).unwrap();
            let mut reader = bus.subscribe();
            let (mut last, mut gap) = (0, false);
            for step in steps {
                if step > 0 {
                    bus.publish(());
                    continue;
                }
                match reader.try_next() {
                    Some(Notice::Gap(_)) => gap = true,
                    Some(Notice::Event(numbered)) => {
                        prop_assert!(numbered.cursor.sequence > last);
                        prop_assert_eq!(numbered.cursor.sequence > last + 1, gap);
                        last = numbered.cursor.sequence;
                        gap = false;
                    }
                    None => prop_assert_eq!(reader.behind(), 0),
                }
            }
        }
    }
}
