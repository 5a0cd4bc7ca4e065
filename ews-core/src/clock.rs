//! The `Clock` contract: wall time for records and schedules.
//!
//! Waits never use it. They use `tokio::time`, which tests can pause.

use std::time::SystemTime;

use crate::time::Timestamp;

/// Tells wall time.
pub trait Clock: Send + Sync + 'static {
    /// Now. It may jump in both directions.
    fn now(&self) -> Timestamp;
}

/// The operating system's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        SystemTime::now().into()
    }
}
