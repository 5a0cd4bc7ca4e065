//! Running a mutating call to its end whoever waits for it.
//!
//! An engine does not undo a call because its caller lost interest, so neither do drivers: [`detach`] moves the work into a
//! task of its own, and dropping the returned future abandons only the wait.

use std::future::Future;

use crate::error::{Error, ErrorKind, Result};

/// Runs `operation` in a task of its own and waits for its result.
///
/// Dropping the returned future leaves the task running. A panic of the operation comes out as
/// [`ErrorKind::Internal`], a runtime that shuts down as [`ErrorKind::Cancelled`]; both say `maybe_applied`.
///
/// # Errors
/// What the operation returns.
///
/// # Panics
/// Outside a tokio runtime.
pub async fn detach<T, F>(operation: F) -> Result<T>
where
    T: Send + 'static,
    F: Future<Output = Result<T>> + Send + 'static,
{
    match tokio::spawn(operation).await {
        Ok(result) => result,
        Err(error) if error.is_panic() => {
            Err(Error::internal("the operation panicked").with_maybe_applied().with_source(error))
        }
        Err(error) => {
            Err(Error::new(ErrorKind::Cancelled, "the async runtime shut down during the operation")
                .with_maybe_applied()
                .with_source(error))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_dropped_wait_does_not_stop_the_work() {
        let (started_tx, started) = tokio::sync::oneshot::channel();
        let (release, released) = tokio::sync::oneshot::channel::<()>();
        let (done_tx, done) = tokio::sync::oneshot::channel();
        let mut wait = Box::pin(detach(async move {
            let _ = started_tx.send(());
            let _ = released.await;
            let _ = done_tx.send(());
            Ok(())
        }));
        tokio::select! {
            _ = &mut wait => panic!("it can't be done yet"),
            _ = started => {}
        }
        drop(wait);
        release.send(()).unwrap();
        done.await.unwrap();
    }

    #[tokio::test]
    async fn a_panic_is_an_error_that_may_have_been_applied() {
        let error = detach::<(), _>(async { panic!("boom") }).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Internal);
        assert!(error.maybe_applied());
    }
}
