//! How many requests are under way at once, and the bounded queue before that.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use ews_core::balancer::Queue;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Places for requests, shared by all threads. Who waits is served in the order of coming.
#[derive(Debug)]
pub(crate) struct Slots {
    places: Arc<Semaphore>,
    most: u32,
    queue: Option<Queue>,
    waiting: AtomicU32,
}

/// A place, kept until it is dropped.
pub(crate) type Slot = OwnedSemaphorePermit;

impl Slots {
    pub(super) fn new(most: u32, queue: Option<Queue>) -> Self {
        let places = usize::try_from(most).unwrap_or(Semaphore::MAX_PERMITS).min(Semaphore::MAX_PERMITS);
        Self { places: Arc::new(Semaphore::new(places)), most, queue, waiting: AtomicU32::new(0) }
    }

    pub(super) fn is_for(&self, most: u32, queue: Option<Queue>) -> bool {
        self.most == most && self.queue == queue
    }

    /// A place, after a wait where that is allowed; `None` where there is none.
    pub(crate) async fn take(&self) -> Option<Slot> {
        if let Ok(slot) = self.places.clone().try_acquire_owned() {
            return Some(slot);
        }
        let queue = self.queue?;
        let _waiting = Waiting::join(&self.waiting, queue.requests)?;
        tokio::time::timeout(queue.wait, self.places.clone().acquire_owned()).await.ok()?.ok()
    }
}

/// One that waits, counted until it is dropped.
#[derive(Debug)]
pub(crate) struct Waiting<'a>(&'a AtomicU32);

impl<'a> Waiting<'a> {
    /// Joins those that wait, of whom there may be so many.
    pub(crate) fn join(waiting: &'a AtomicU32, most: u32) -> Option<Self> {
        let one_more = |count: u32| (count < most).then_some(count + 1);
        waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).ok()?;
        Some(Self(waiting))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_finds_no_place_waits_a_bounded_time_in_a_bounded_queue() {
        let queue = Queue::new(1, Duration::from_secs(2));
        let slots = Arc::new(Slots::new(1, Some(queue)));
        let first = slots.take().await.unwrap();
        let waits = tokio::spawn({
            let slots = slots.clone();
            async move { slots.take().await }
        });
        tokio::time::sleep(Duration::from_millis(1)).await;
        // The queue is full.
        assert!(slots.take().await.is_none());
        drop(first);
        let second = waits.await.unwrap();
        assert!(second.is_some());
        let begun = tokio::time::Instant::now();
        assert!(slots.take().await.is_none());
        assert_eq!(begun.elapsed(), queue.wait);
        // Who gave up is not counted among those that wait.
        drop(second);
        assert!(slots.take().await.is_some());
        assert!(Slots::new(1, None).take().await.is_some());
    }
}
