//! What is longer than a value may be: parts from 1 on, and part 0 that says how many. Without part 0 nothing is there.

use ews_core::store::{Key, ListRequest, Transaction};
use ews_core::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

use super::record::{corrupt, decode, encode};
use super::{Journal, PART};

/// The most parts of one thing: 32 GiB.
pub(super) const MAX_PARTS: usize = 65_536;

/// Part 0.
#[derive(Debug, Serialize, Deserialize)]
struct Start {
    parts: usize,
}

impl Journal {
    /// Writes bytes as parts, part 0 last.
    pub(super) async fn write_parts(&self, path: &str, bytes: &[u8]) -> Result<()> {
        let parts: Vec<&[u8]> = bytes.chunks(PART).collect();
        check(parts.len())?;
        let start = encode(&Start { parts: parts.len() })?;
        let mut last = Transaction::new();
        for (number, part) in parts.iter().enumerate() {
            let key = self.keys.part(path, number + 1)?;
            if parts.len() == 1 {
                last = last.put(&key, part.to_vec());
            } else {
                self.store.commit(&Transaction::new().put(&key, part.to_vec())).await?;
            }
        }
        self.store.commit(&last.put(&self.keys.part(path, 0)?, start)).await.map(drop)
    }

    /// What is there, whole.
    pub(super) async fn read_parts(&self, path: &str) -> Result<Option<Vec<u8>>> {
        let Some(start) = self.store.get(&self.keys.part(path, 0)?).await? else { return Ok(None) };
        let Start { parts } = decode(&start)?;
        self.join_parts(path, parts).await.map(Some)
    }

    /// So many parts, put together.
    pub(super) async fn join_parts(&self, path: &str, parts: usize) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        check(parts)?;
        for number in 1..=parts {
            let key = self.keys.part(path, number)?;
            let Some(part) = self.store.get(&key).await? else {
                return Err(corrupt("the journal lacks a part").with_context("key", &key));
            };
            bytes.extend_from_slice(&part.value);
        }
        Ok(bytes)
    }

    /// Removes everything below.
    pub(super) async fn clear(&self, path: &str) -> Result<()> {
        let prefix = self.keys.prefix(path)?;
        loop {
            let page = self.store.list(&ListRequest::new(prefix.clone()).limit(self.operations())).await?;
            if page.records.is_empty() {
                return Ok(());
            }
            self.remove(page.records.iter().map(|record| &record.key)).await?;
        }
    }

    pub(super) async fn remove(&self, keys: impl Iterator<Item = &Key>) -> Result<()> {
        let mut writer = super::Writer::new(self);
        for key in keys {
            writer.add(ews_core::store::Write::Delete { key: key.clone() }).await?;
        }
        writer.flush().await
    }
}

fn check(parts: usize) -> Result<()> {
    if parts > MAX_PARTS {
        return Err(Error::new(
            ErrorKind::OutOfResources,
            "a change or an object is too large for the journal",
        ));
    }
    Ok(())
}
