//! Transactions: conditions and writes that happen all or not at all, and the limits that hold for them.

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};
use crate::store::{Key, Lease, LeaseId, StoreRevision};

/// Proof that a lock is held: it is the revision at which the holder created the lock's record.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Fence {
    /// The lock's key.
    pub lock: Key,
    /// The revision that created the lock's record. A later holder always has a larger one.
    pub token: StoreRevision,
}

/// What a key must be for a transaction to commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Expect {
    /// Anything, absent included.
    Any,
    /// There is no such record.
    Absent,
    /// There is such a record, whatever its value.
    Present,
    /// The record was last put by this revision.
    Revision(StoreRevision),
}

/// What must hold for a transaction to commit.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Condition {
    /// The key is as expected.
    Key(Key, Expect),
    /// The lock is held by the one who got this fence.
    Fence(Fence),
}

/// One write.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Write {
    /// Creates or replaces a record.
    Put {
        /// Where.
        key: Key,
        /// What.
        value: Bytes,
        /// The lease that the record shall live by.
        lease: Option<LeaseId>,
    },
    /// Removes a record; nothing happens where there is none.
    Delete {
        /// Which.
        key: Key,
    },
}

impl Write {
    /// The key that is written.
    pub fn key(&self) -> &Key {
        match self {
            Self::Put { key, .. } | Self::Delete { key } => key,
        }
    }
}

/// Conditions and writes that happen all or not at all.
///
/// A key may be written at most once. Conditions are all checked before the first write.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Transaction {
    /// What must hold.
    pub conditions: Vec<Condition>,
    /// What is written.
    pub writes: Vec<Write>,
}

impl Transaction {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a condition on a key.
    #[must_use]
    pub fn expect(mut self, key: &Key, expect: Expect) -> Self {
        self.conditions.push(Condition::Key(key.clone(), expect));
        self
    }

    /// Commits only while this lock is held.
    #[must_use]
    pub fn fence(mut self, fence: Fence) -> Self {
        self.conditions.push(Condition::Fence(fence));
        self
    }

    /// Adds a put.
    #[must_use]
    pub fn put(mut self, key: &Key, value: impl Into<Bytes>) -> Self {
        self.writes.push(Write::Put { key: key.clone(), value: value.into(), lease: None });
        self
    }

    /// Adds a put of a record that lives by a lease.
    #[must_use]
    pub fn put_leased(mut self, key: &Key, value: impl Into<Bytes>, lease: &Lease) -> Self {
        self.writes.push(Write::Put { key: key.clone(), value: value.into(), lease: Some(lease.id) });
        self
    }

    /// Adds a delete.
    #[must_use]
    pub fn delete(mut self, key: &Key) -> Self {
        self.writes.push(Write::Delete { key: key.clone() });
        self
    }

    /// Checks this transaction against a store's limits; drivers call it first.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for a key written twice or no write at all, [`ErrorKind::OutOfResources`] for what exceeds a
    /// limit.
    pub fn check(&self, limits: &StoreLimits) -> Result<()> {
        let operations = self.conditions.len() + self.writes.len();
        if operations > limits.operations {
            return Err(Error::new(
                ErrorKind::OutOfResources,
                format!(
                    "{operations} conditions and writes in one transaction; accepted: at most {}",
                    limits.operations
                ),
            ));
        }
        if self.writes.is_empty() {
            return Err(Error::invalid("the transaction writes nothing; give it at least one put or delete"));
        }
        let mut keys = std::collections::BTreeSet::new();
        for write in &self.writes {
            if !keys.insert(write.key()) {
                return Err(Error::invalid("the transaction writes a key twice; accepted: each key once")
                    .with_context("key", write.key()));
            }
            if let Write::Put { key, value, .. } = write
                && value.len() > limits.value_bytes
            {
                return Err(Error::new(
                    ErrorKind::OutOfResources,
                    format!("a value of {} bytes; accepted: at most {}", value.len(), limits.value_bytes),
                )
                .with_context("key", key));
            }
        }
        Ok(())
    }
}

/// The limits of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoreLimits {
    /// The largest value, in bytes. Default 1 MiB (etcd's request limit is 1.5 MiB).
    pub value_bytes: usize,
    /// The most conditions and writes in one transaction. Default 128 (etcd's `--max-txn-ops`).
    pub operations: usize,
    /// The most records that one page of a list holds. Default 1,000.
    pub page: usize,
    /// The shortest and the longest lease. Default 1 s and a day.
    pub lease: (Duration, Duration),
}

impl StoreLimits {
    /// With this largest value, in bytes.
    #[must_use]
    pub fn with_value_bytes(mut self, value_bytes: usize) -> Self {
        self.value_bytes = value_bytes;
        self
    }

    /// With so many conditions and writes in one transaction.
    #[must_use]
    pub fn with_operations(mut self, operations: usize) -> Self {
        self.operations = operations;
        self
    }

    /// With so many records on a page.
    #[must_use]
    pub fn with_page(mut self, page: usize) -> Self {
        self.page = page;
        self
    }

    /// With this shortest and longest lease.
    #[must_use]
    pub fn with_lease(mut self, shortest: Duration, longest: Duration) -> Self {
        self.lease = (shortest, longest);
        self
    }
}

impl Default for StoreLimits {
    fn default() -> Self {
        Self {
            value_bytes: 1024 * 1024,
            operations: 128,
            page: 1000,
            lease: (Duration::from_secs(1), Duration::from_secs(24 * 3600)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_is_checked_against_the_limits() {
        let key = Key::new("a").unwrap();
        let limits = StoreLimits::default();
        assert!(Transaction::new().check(&limits).is_err());
        assert!(Transaction::new().put(&key, "1").delete(&key).check(&limits).is_err());
        let big = Transaction::new().put(&key, vec![0; limits.value_bytes + 1]);
        assert_eq!(big.check(&limits).unwrap_err().kind(), ErrorKind::OutOfResources);
        let mut many = Transaction::new().put(&key, "1");
        many.conditions = vec![Condition::Key(key.clone(), Expect::Any); limits.operations];
        assert_eq!(many.check(&limits).unwrap_err().kind(), ErrorKind::OutOfResources);
    }
}
