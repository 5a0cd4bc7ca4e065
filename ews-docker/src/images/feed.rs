//! From the task that works to whoever listens: a queue that never holds the work up.
//!
//! How far it is replaces what was not read yet; lines of a log wait, up to [`MAX_LINES`] of them, then the oldest go and a line says how
//! many. Dropping the stream leaves the task working. A task that ends without a word (the async runtime shut down, or it panicked) ends
//! the stream with `Cancelled`.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ews_core::image::{Progress, ProgressStream};
use ews_core::{Error, ErrorKind, Result};
use tokio::sync::Notify;

/// The most lines of a log that wait.
const MAX_LINES: usize = 4096;

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Progress>,
    lost: u64,
    end: Option<Result<Progress>>,
    /// Whether the end was told, and perhaps read already.
    told: bool,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    news: Notify,
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The side of the task that works.
pub(super) struct Feed {
    shared: Arc<Shared>,
}

/// A feed, and the stream that it feeds.
pub(super) fn feed() -> (Feed, ProgressStream) {
    let shared = Arc::new(Shared::default());
    let stream = futures_util::stream::unfold(Some(shared.clone()), |shared| async {
        let shared = shared?;
        loop {
            let next = {
                let mut queue = shared.queue();
                match std::mem::take(&mut queue.lost) {
                    0 => queue.waiting.pop_front().map(Ok).or_else(|| queue.end.take().map(Err)),
                    lost => {
                        Some(Ok(Progress::Log(format!("… {lost} lines were not read in time and are lost"))))
                    }
                }
            };
            match next {
                Some(Ok(progress)) => return Some((Ok(progress), Some(shared))),
                Some(Err(end)) => return Some((end, None)),
                // A word that came since the look has left a permit.
                None => shared.news.notified().await,
            }
        }
    });
    (Feed { shared }, Box::pin(stream))
}

impl Feed {
    /// Tells how far it is, or a line of the log.
    pub(super) fn tell(&self, progress: Progress) {
        {
            let mut queue = self.shared.queue();
            let moved = matches!(progress, Progress::Transfer { .. });
            if moved && matches!(queue.waiting.back(), Some(Progress::Transfer { .. })) {
                queue.waiting.pop_back();
            }
            if queue.waiting.len() >= MAX_LINES {
                queue.waiting.pop_front();
                queue.lost += 1;
            }
            queue.waiting.push_back(progress);
        }
        self.shared.news.notify_one();
    }

    /// Tells how it ended; nothing follows.
    pub(super) fn end(self, end: Result<Progress>) {
        let mut queue = self.shared.queue();
        queue.end = Some(end);
        queue.told = true;
        // Dropping wakes the listener.
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        {
            let mut queue = self.shared.queue();
            if !queue.told {
                queue.told = true;
                queue.end = Some(Err(
                    Error::new(ErrorKind::Cancelled, "the work was given up midway").with_maybe_applied()
                ));
            }
        }
        self.shared.news.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::StreamExt as _;

    fn moved(done: u64) -> Progress {
        Progress::Transfer { done, total: None }
    }

    #[tokio::test]
    async fn a_slow_listener_gets_the_latest_and_every_line() {
        let (feed, stream) = feed();
        for progress in [moved(1), moved(2), Progress::Log("a".to_owned()), moved(3), moved(4)] {
            feed.tell(progress);
        }
        feed.end(Ok(Progress::Done { image: None, manifest: None }));
        let all: Vec<Progress> = stream.map(Result::unwrap).collect().await;
        let done = Progress::Done { image: None, manifest: None };
        assert_eq!(all, [moved(2), Progress::Log("a".to_owned()), moved(4), done]);
    }

    #[tokio::test]
    async fn nobody_who_does_not_listen_holds_the_work_up() {
        let (feed, mut stream) = feed();
        for line in 0..MAX_LINES + 7 {
            feed.tell(Progress::Log(line.to_string()));
        }
        assert_eq!(feed.shared.queue().waiting.len(), MAX_LINES);
        let first = stream.next().await.unwrap().unwrap();
        assert!(matches!(&first, Progress::Log(line) if line.contains("7 lines")), "{first:?}");
        assert_eq!(stream.next().await.unwrap().unwrap(), Progress::Log("7".to_owned()));
    }

    #[tokio::test]
    async fn work_that_ends_without_a_word_is_cancelled() {
        let (feed, mut stream) = feed();
        let listener = tokio::spawn(async move { (stream.next().await, stream.next().await) });
        tokio::task::yield_now().await;
        drop(feed);
        let (end, after) = listener.await.unwrap();
        assert_eq!(end.unwrap().unwrap_err().kind(), ErrorKind::Cancelled);
        assert!(after.is_none());
    }
}
