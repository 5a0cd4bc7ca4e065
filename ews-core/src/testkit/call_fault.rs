//! Faults that a test puts in front of the calls of a fake.
//!
//! A fault waits for the next call of its kind and is used up by it. That an operation may happen although its caller gets
//! an error or nothing at all is the case that drivers and engines get wrong, so it has a fault of its own.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};

/// What goes wrong with one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum CallFault {
    /// It fails and nothing happened.
    Fail(ErrorKind),
    /// It fails with `maybe_applied`, and it did happen.
    ApplyThenFail(ErrorKind),
    /// It never answers and nothing happened.
    Hang,
    /// It never answers, and it did happen.
    ApplyThenHang,
    /// It takes so long, by tokio's clock, and then happens.
    Slow(Duration),
}

/// The faults that wait, the oldest first. Cloning a fake shares them.
#[derive(Debug)]
pub(crate) struct FaultQueue<C>(Mutex<VecDeque<(C, CallFault)>>);

impl<C> Default for FaultQueue<C> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<C: PartialEq> FaultQueue<C> {
    pub(crate) fn push(&self, call: C, fault: CallFault) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push_back((call, fault));
    }

    fn take(&self, call: &C) -> Option<CallFault> {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = waiting.iter().position(|(of, _)| of == call)?;
        waiting.remove(at).map(|(_, fault)| fault)
    }

    /// Does the operation as the next fault of this call wants it.
    pub(crate) async fn run<T>(&self, call: C, operation: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let fault = self.take(&call);
        let error = |kind| Error::new(kind, "a fault that the test asked for");
        match fault {
            None => operation(),
            Some(CallFault::Fail(kind)) => Err(error(kind)),
            Some(CallFault::ApplyThenFail(kind)) => {
                operation()?;
                Err(error(kind).with_maybe_applied())
            }
            Some(CallFault::Hang) => std::future::pending().await,
            Some(CallFault::ApplyThenHang) => {
                operation()?;
                std::future::pending().await
            }
            Some(CallFault::Slow(time)) => {
                tokio::time::sleep(time).await;
                operation()
            }
        }
    }
}
