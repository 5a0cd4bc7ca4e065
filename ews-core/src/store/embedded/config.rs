//! The bounds of an embedded store.

use crate::store::StoreLimits;

/// What bounds an embedded store's memory, disk and history. Nothing in it is unbounded.
///
/// ```
/// use ews_core::store::EmbeddedConfig;
///
/// let config = EmbeddedConfig::default().with_log_entries(100_000).with_log_bytes(256 * 1024 * 1024);
/// assert_eq!(config.watchers, 10_000);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct EmbeddedConfig {
    /// The limits of the contract: value size, operations in a transaction, page, lease.
    pub limits: StoreLimits,
    /// The most transactions that the change log keeps, at least 1. A watcher that is further behind gets
    /// [`Compacted`](crate::ErrorKind::Compacted). Default 10,000: at ten transactions a second a watcher may be away for
    /// a quarter of an hour. The newest transaction is always kept.
    pub log_entries: usize,
    /// The most bytes of keys and values that the change log keeps, besides its newest transaction. Default 64 MiB.
    pub log_bytes: u64,
    /// The most transactions at the end of the change log that are kept in memory as well, shared by all watchers.
    /// Default 1,024. Watchers who are further behind read the log.
    pub tail_entries: usize,
    /// The most bytes of the tail in memory, besides its newest transaction. Default 8 MiB.
    pub tail_bytes: usize,
    /// The most bytes of replaced records kept in memory for a list [`at`](crate::store::ListRequest::at) an earlier
    /// revision; of transactions no more than [`log_entries`](Self::log_entries). Default 16 MiB.
    pub history_bytes: usize,
    /// The most watches at a time. Default 10,000; one takes less than 1 KiB, and besides holds what it took and its owner has
    /// not asked for yet: at most 64 KiB and one transaction.
    pub watchers: usize,
    /// The most leases at a time. Default 10,000.
    pub leases: usize,
    /// The most records that live by one lease; they are deleted in one transaction. Default 10,000.
    pub lease_records: usize,
    /// The most bytes of transactions that wait to be committed, besides one; callers beyond it wait. Each counts as at
    /// least 1 KiB. Default 64 MiB.
    pub queue_bytes: usize,
}

impl Default for EmbeddedConfig {
    fn default() -> Self {
        Self {
            limits: StoreLimits::default(),
            log_entries: 10_000,
            log_bytes: 64 << 20,
            tail_entries: 1024,
            tail_bytes: 8 << 20,
            history_bytes: 16 << 20,
            watchers: 10_000,
            leases: 10_000,
            lease_records: 10_000,
            queue_bytes: 64 << 20,
        }
    }
}

macro_rules! setters {
    ($($with:ident $field:ident: $kind:ty;)+) => {
        impl EmbeddedConfig {
            $(
                #[doc = concat!("Sets [`", stringify!($field), "`](Self::", stringify!($field), ").")]
                #[must_use]
                pub fn $with(mut self, $field: $kind) -> Self {
                    self.$field = $field;
                    self
                }
            )+
        }
    };
}
setters! {
    with_limits limits: StoreLimits;
    with_log_entries log_entries: usize;
    with_log_bytes log_bytes: u64;
    with_tail_entries tail_entries: usize;
    with_tail_bytes tail_bytes: usize;
    with_history_bytes history_bytes: usize;
    with_watchers watchers: usize;
    with_leases leases: usize;
    with_lease_records lease_records: usize;
    with_queue_bytes queue_bytes: usize;
}
