//! Monitoring for EWS: live series, collectors, exposition and alerts.

pub mod live;

pub use live::{LiveConfig, LiveStats, LiveStore};
