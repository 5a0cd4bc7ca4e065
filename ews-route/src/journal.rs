//! How a gateway remembers what was applied: a log of changes in a store, and now and then an image of everything.
//!
//! Under `gateway/<name>/` there are `log/<generation>/<part>` and `image/<generation>/<part>`, and `current`, which names the
//! image that counts. A change that fits is one transaction. A larger one is written part by part with the first part last,
//! and without its first part it is not there: so a crash leaves all of it or nothing.
//!
//! A write whose fate is not known makes the journal doubtful: before the next change it is looked up, and made true where
//! it did happen.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use ews_core::balancer::{Change, Limits, Outcome, Table, TableImage};
use ews_core::id::GatewayId;
use ews_core::store::{Key, ListRequest, Prefix, Store, Transaction};
use ews_core::{CapabilitySet, Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

/// The size of a part, within every store's limit of 1 MiB for a value.
const PART: usize = 512 * 1024;
/// The most parts of one change or image: 32 GiB.
const MAX_PARTS: usize = 65_536;
/// After so many changes an image is written and the log before it removed.
const COMPACT_EVERY: u64 = 1_024;

/// The first part's begin: how many there are.
#[derive(Debug, Serialize, Deserialize)]
struct Start {
    parts: usize,
}

/// The image that counts.
#[derive(Debug, Serialize, Deserialize)]
struct Current {
    generation: u64,
}

/// A gateway's journal in a store.
pub(crate) struct Journal {
    store: Arc<dyn Store>,
    root: String,
    is_doubtful: AtomicBool,
}

impl std::fmt::Debug for Journal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Journal").field("root", &self.root).finish_non_exhaustive()
    }
}

impl Journal {
    pub(crate) fn new(store: Arc<dyn Store>, gateway: &GatewayId) -> Self {
        Self { store, root: format!("gateway/{gateway}"), is_doubtful: AtomicBool::new(false) }
    }

    /// The table as it was when the last change was acknowledged.
    pub(crate) async fn replay(&self, capabilities: CapabilitySet, limits: Limits) -> Result<Table> {
        let current: Option<Current> = match self.store.get(&self.key("current")?).await? {
            Some(record) => Some(decode(&record.value)?),
            None => None,
        };
        // What was accepted once stays, whatever this version accepts: so the log is replayed without bounds.
        let everything = CapabilitySet::all;
        let unlimited = unlimited();
        let mut table = Table::new(everything(), unlimited);
        if let Some(Current { generation }) = current {
            let Some(image) = self.read(&format!("image/{generation:020}")).await? else {
                return Err(Error::new(ErrorKind::Corrupt, "the journal's current image is not there"));
            };
            table = Table::restore(decode::<TableImage>(&image)?, everything(), unlimited)?;
        }
        while let Some(text) = self.read(&format!("log/{:020}", table.generation() + 1)).await? {
            let before = table.generation();
            let mut change: Change = decode(&text)?;
            // They held when it was applied.
            change.preconditions.clear();
            if table.apply(&change)?.generation != before + 1 {
                return Err(Error::new(ErrorKind::Corrupt, "the journal holds a change twice"));
            }
        }
        Table::restore(table.image(), capabilities, limits)
    }

    /// Makes a change durable that leads to this generation.
    pub(crate) async fn append(&self, change: &Change, generation: u64) -> Result<()> {
        let result = self.write(&format!("log/{generation:020}"), &encode(change)?).await;
        if let Err(error) = &result
            && error.maybe_applied()
        {
            self.is_doubtful.store(true, Ordering::Release);
        }
        result
    }

    /// Whether the fate of a write is not known.
    pub(crate) fn is_doubtful(&self) -> bool {
        self.is_doubtful.load(Ordering::Acquire)
    }

    /// The change that leads to this generation, where it is not known whether it was written and it was.
    pub(crate) async fn settle(&self, table: &Table) -> Result<Option<(Change, Outcome)>> {
        if !self.is_doubtful() {
            return Ok(None);
        }
        let found = self.read(&format!("log/{:020}", table.generation() + 1)).await?;
        let settled = match found {
            Some(text) => {
                let mut change: Change = decode(&text)?;
                change.preconditions.clear();
                let outcome = table.prepare(&change)?;
                Some((change, outcome))
            }
            None => None,
        };
        self.is_doubtful.store(false, Ordering::Release);
        Ok(settled)
    }

    /// Whether it is time for an image.
    pub(crate) fn is_due(generation: u64) -> bool {
        generation.is_multiple_of(COMPACT_EVERY)
    }

    /// Writes an image and removes what it makes superfluous. A failure costs space, nothing else.
    pub(crate) async fn compact(&self, image: &TableImage) -> Result<()> {
        let generation = image.generation;
        self.write(&format!("image/{generation:020}"), &encode(image)?).await?;
        let current = Transaction::new().put(&self.key("current")?, encode(&Current { generation })?);
        self.store.commit(&current).await?;
        for (folder, is_kept) in [("log", false), ("image", true)] {
            self.remove(folder, generation, is_kept).await?;
        }
        Ok(())
    }

    /// Removes what is at or before this generation; with `is_kept`, only what is before.
    async fn remove(&self, folder: &str, generation: u64, is_kept: bool) -> Result<()> {
        let prefix = Prefix::new(format!("{}/{folder}/", self.root))?;
        let most = self.store.limits().operations;
        loop {
            let page = self.store.list(&ListRequest::new(prefix.clone()).limit(most)).await?;
            let old: Vec<&Key> = page
                .records
                .iter()
                .map(|record| &record.key)
                .filter(|key| {
                    let rest = key.as_str().strip_prefix(prefix.as_str()).unwrap_or_default();
                    let number = rest.split('/').next().and_then(|text| text.parse::<u64>().ok());
                    number.is_some_and(|number| number < generation || (!is_kept && number == generation))
                })
                .collect();
            if old.is_empty() {
                return Ok(());
            }
            // The last part first, so that what is cut off in between is not there rather than broken.
            let transaction = old.iter().rev().fold(Transaction::new(), |all, key| all.delete(key));
            self.store.commit(&transaction).await?;
        }
    }

    async fn write(&self, path: &str, bytes: &[u8]) -> Result<()> {
        let parts: Vec<&[u8]> = bytes.chunks(PART).collect();
        if parts.len() > MAX_PARTS {
            return Err(Error::new(ErrorKind::OutOfResources, "the change is too large for the journal"));
        }
        let key_of = |number: usize| self.key(&format!("{path}/{number:05}"));
        let start = encode(&Start { parts: parts.len() })?;
        if let [only] = parts.as_slice() {
            let transaction = Transaction::new().put(&key_of(1)?, only.to_vec()).put(&key_of(0)?, start);
            return self.store.commit(&transaction).await.map(drop);
        }
        for (number, part) in parts.iter().enumerate() {
            let key = key_of(number + 1)?;
            self.store.commit(&Transaction::new().put(&key, part.to_vec())).await?;
        }
        self.store.commit(&Transaction::new().put(&key_of(0)?, start)).await.map(drop)
    }

    async fn read(&self, path: &str) -> Result<Option<Vec<u8>>> {
        let Some(start) = self.store.get(&self.key(&format!("{path}/00000"))?).await? else {
            return Ok(None);
        };
        let Start { parts } = decode(&start.value)?;
        let mut bytes = Vec::new();
        for number in 1..=parts.min(MAX_PARTS) {
            let key = self.key(&format!("{path}/{number:05}"))?;
            let Some(part) = self.store.get(&key).await? else {
                return Err(
                    Error::new(ErrorKind::Corrupt, "the journal lacks a part").with_context("key", &key)
                );
            };
            bytes.extend_from_slice(&part.value);
        }
        Ok(Some(bytes))
    }

    fn key(&self, path: &str) -> Result<Key> {
        Key::new(format!("{}/{path}", self.root))
    }
}

fn unlimited() -> Limits {
    let mut limits = Limits::default();
    for limit in [
        &mut limits.domains,
        &mut limits.route_sets,
        &mut limits.rules,
        &mut limits.pools,
        &mut limits.endpoints,
        &mut limits.traffic_policies,
        &mut limits.certificates,
        &mut limits.blackholes,
    ] {
        *limit = usize::MAX;
    }
    limits
}

fn encode<T: Serialize>(value: &T) -> Result<Bytes> {
    serde_json::to_vec(value)
        .map(Bytes::from)
        .map_err(|error| Error::internal("a record can't be written as JSON").with_source(error))
}

fn decode<T: for<'de> Deserialize<'de>>(bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes)
        .map_err(|error| Error::new(ErrorKind::Corrupt, "the journal can't be read").with_source(error))
}
