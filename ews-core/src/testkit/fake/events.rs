//! The event streams of the fake engine: bounded queues that say when they lost something.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::StreamExt as _;
use futures_util::stream;
use tokio::sync::{Notify, watch};

use crate::event::{EventStream, Gap, Notice, RuntimeEvent};
use crate::selector::Selector;

/// One consumer's queue.
pub(super) struct Subscription {
    pub(super) selector: Selector,
    capacity: usize,
    queue: Mutex<Queue>,
    arrived: Notify,
}

#[derive(Default)]
struct Queue {
    notices: VecDeque<Notice<RuntimeEvent>>,
    /// Nothing is taken until the consumer has seen this.
    lagged: bool,
}

impl Subscription {
    pub(super) fn new(selector: Selector, capacity: usize) -> Arc<Self> {
        let queue = Mutex::new(Queue::default());
        Arc::new(Self { selector, capacity: capacity.max(1), queue, arrived: Notify::new() })
    }

    pub(super) fn push(&self, event: RuntimeEvent) {
        self.offer(Notice::Event(event));
    }

    pub(super) fn gap(&self, gap: Gap) {
        self.offer(Notice::Gap(gap));
    }

    fn offer(&self, notice: Notice<RuntimeEvent>) {
        let mut queue = self.lock();
        if queue.lagged || queue.notices.len() >= self.capacity {
            queue.lagged = true;
        } else {
            queue.notices.push_back(notice);
        }
        drop(queue);
        self.arrived.notify_one();
    }

    fn take(&self) -> Option<Notice<RuntimeEvent>> {
        let mut queue = self.lock();
        match queue.notices.pop_front() {
            None if queue.lagged => {
                queue.lagged = false;
                Some(Notice::Gap(Gap::Lagged))
            }
            notice => notice,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The consumer's end; it ends when the driver is closed.
pub(super) fn stream(subscription: Arc<Subscription>, closed: watch::Receiver<bool>) -> EventStream {
    stream::unfold((subscription, closed), |(subscription, mut closed)| async move {
        loop {
            if *closed.borrow() {
                return None;
            }
            if let Some(notice) = subscription.take() {
                return Some((notice, (subscription, closed)));
            }
            tokio::select! {
                biased;
                _ = closed.wait_for(|closed| *closed) => return None,
                () = subscription.arrived.notified() => {}
            }
        }
    })
    .boxed()
}
