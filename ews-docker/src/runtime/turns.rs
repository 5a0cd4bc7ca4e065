//! One mutating call at a time for each instance, so that two of ours never race for one container.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use ews_core::InstanceId;
use tokio::sync::OwnedMutexGuard;

/// Who is at work on which instance.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    // What nobody holds is forgotten at the next question, so that it holds no more entries than there are calls.
    locks: Mutex<HashMap<InstanceId, Arc<tokio::sync::Mutex<()>>>>,
}

impl Turns {
    /// Waits for the instance's turn and keeps it until the guard is dropped.
    pub(crate) async fn take(&self, id: &InstanceId) -> OwnedMutexGuard<()> {
        let lock = {
            let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
            locks.retain(|_, lock| Arc::strong_count(lock) > 1);
            Arc::clone(locks.entry(id.clone()).or_default())
        };
        lock.lock_owned().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn turns_are_taken_one_after_the_other_and_forgotten() {
        let turns = Turns::default();
        let (a, b) = (InstanceId::new("a").unwrap(), InstanceId::new("b").unwrap());
        let first = turns.take(&a).await;
        let second = turns.take(&a);
        tokio::pin!(second);
        assert!(futures_util::poll!(&mut second).is_pending());
        drop(turns.take(&b).await);
        drop(first);
        drop(second.await);
        drop(turns.take(&b).await);
        assert_eq!(turns.locks.lock().unwrap().len(), 1);
    }
}
