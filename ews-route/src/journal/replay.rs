//! Reading everything back when a gateway starts.
//!
//! Objects come page by page and go into the table one by one, so that no second copy of all of them is ever in memory. What a
//! crash left half done is brought to its end or removed on the way; what can't be understood starts no gateway.

use std::collections::{BTreeSet, HashSet};

use ews_core::balancer::{Limits, ObjectRef, Remembered, Stored, Table, TableLoader};
use ews_core::store::{Key, ListRequest, Record, Transaction, Write};
use ews_core::{CapabilitySet, Error, ErrorKind, Result, Timestamp};

use super::batch::Batch;
use super::record::{Current, FORMAT, Kept, Keys, corrupt, decode, encode, read};
use super::{Journal, Large, Writer};

impl Journal {
    /// The table as it was when the last change was acknowledged, without the blackholes that have ended by now.
    ///
    /// # Errors
    /// Those of the store; `Corrupt` for what can't be understood, and for what a newer gateway wrote.
    pub(crate) async fn replay(
        &self,
        capabilities: CapabilitySet,
        limits: Limits,
        now: Timestamp,
    ) -> Result<Table> {
        let base = self.begin().await?;
        self.finish_pending().await?;
        let changes = self.changes(base).await?;
        let generation = changes.last().map_or(base, |last| last.generation);
        let mut loader = TableLoader::new(capabilities, limits);
        let (mut large, mut text) = (Vec::new(), String::new());
        self.each("object", |record| {
            let Kept { version, object, parts } = decode(&record)?;
            match (object, parts) {
                (Some(object), None) => {
                    if !self.keys.is_object(&record.key, &object.reference(), &mut text) {
                        return Err(misplaced(&record.key));
                    }
                    loader.add(Stored::new(version, object));
                }
                (None, Some(parts)) => large.push((record.key, Large { version, parts })),
                _ => return Err(corrupt("a record is no object").with_context("key", &record.key)),
            }
            Ok(())
        })
        .await?;
        self.join_large(&mut loader, large).await?;
        let mut table = loader.finish(generation, changes)?;
        self.forget(&table.expire(now)).await?;
        Ok(table)
    }

    /// Makes sure that what is there is in the present format, and says at which generation it begins.
    async fn begin(&self) -> Result<u64> {
        let current = self.store.get(&self.keys.current()?).await?;
        let current: Option<Current> = current.as_ref().map(decode).transpose()?;
        let base = match current {
            Some(Current { generation, format: FORMAT }) => generation,
            Some(Current { generation, format: 1 }) => self.migrate(Some(generation)).await?,
            Some(Current { format, .. }) => {
                return Err(Error::new(
                    ErrorKind::Corrupt,
                    format!(
                        "the journal has the format {format}, of a newer gateway; this one reads up to {FORMAT}"
                    ),
                ));
            }
            None if self.has("log").await? => self.migrate(None).await?,
            None if self.has("object").await? => {
                return Err(corrupt("the journal holds objects and does not say of which format"));
            }
            None => {
                let current = encode(&Current { generation: 0, format: FORMAT })?;
                self.store.commit(&Transaction::new().put(&self.keys.current()?, current)).await?;
                0
            }
        };
        for left in ["log", "image"] {
            self.clear(left).await?;
        }
        Ok(base)
    }

    async fn has(&self, path: &str) -> Result<bool> {
        let page = self.store.list(&ListRequest::new(self.keys.prefix(path)?).limit(1)).await?;
        Ok(!page.records.is_empty())
    }

    /// Writes what a change that was acknowledged had still to write.
    async fn finish_pending(&self) -> Result<()> {
        let mut generations = BTreeSet::new();
        let prefix = self.keys.prefix("pending")?;
        self.each("pending", |record| {
            let rest = record.key.as_str().strip_prefix(prefix.as_str()).unwrap_or_default();
            let (generation, part) = rest.split_once('/').unwrap_or_default();
            // Without its first part a change did not happen.
            if part.parse() == Ok(0_usize) {
                generations.extend(generation.parse::<u64>());
            }
            Ok(())
        })
        .await?;
        for generation in generations {
            let Some(pending) = self.pending(generation).await? else { continue };
            if pending.change.generation != generation {
                return Err(corrupt("a pending change is not of its generation"));
            }
            // What was in parts before is not known yet; it is removed with what nobody names.
            let batch = Batch::new(&self.keys, &Default::default(), &pending.change, pending.touched())?;
            self.state().unfolded = Some(batch.into());
            self.fold().await?;
        }
        self.clear("pending").await
    }

    /// The changes that are remembered, the oldest first.
    async fn changes(&self, base: u64) -> Result<Vec<Remembered>> {
        let mut changes: Vec<Remembered> = Vec::new();
        self.each("change", |record| {
            let change: Remembered = decode(&record)?;
            if self.keys.change(&change)? != record.key {
                return Err(misplaced(&record.key));
            }
            changes.push(change);
            Ok(())
        })
        .await?;
        changes.sort_unstable_by_key(|change| change.generation);
        let is_next = |pair: &[Remembered]| match pair {
            [before, after] => before.generation.checked_add(1) == Some(after.generation),
            _ => true,
        };
        let last = changes.last().map_or(base, |last| last.generation);
        if !changes.windows(2).all(is_next) || last < base {
            return Err(corrupt("the journal lacks a change"));
        }
        Ok(changes)
    }

    /// Takes in the objects that are in parts, and removes parts that belong to none.
    async fn join_large(&self, loader: &mut TableLoader, large: Vec<(Key, Large)>) -> Result<()> {
        let mut named = HashSet::new();
        for (key, Large { version, parts }) in large {
            let object = key.as_str().strip_prefix(self.keys.key("object")?.as_str());
            let path = format!("part{}/{version:020}", object.unwrap_or_default());
            let bytes = self.join_parts(&path, parts).await?;
            let kept: Kept = read(&bytes).map_err(|error| error.with_context("key", &key))?;
            let Some(object) = kept.object.filter(|_| kept.version == version) else {
                return Err(corrupt("an object in parts is no object").with_context("key", &key));
            };
            let reference = object.reference();
            if self.keys.object(&reference)? != key {
                return Err(misplaced(&key));
            }
            for number in 1..=parts {
                named.insert(self.keys.part(&Keys::parts(&reference, version), number)?);
            }
            self.state().large.insert(reference, Large { version, parts });
            loader.add(Stored::new(version, object));
        }
        let mut left = Vec::new();
        self.each("part", |record| {
            if !named.contains(&record.key) {
                left.push(record.key);
            }
            Ok(())
        })
        .await?;
        self.remove(left.iter()).await
    }

    /// Removes the records of objects that are not there any more.
    async fn forget(&self, ended: &[ObjectRef]) -> Result<()> {
        let mut writer = Writer::new(self);
        for reference in ended {
            writer.add(Write::Delete { key: self.keys.object(reference)? }).await?;
        }
        writer.flush().await
    }

    /// Looks at every record below, in the order of keys. While one page is looked at, the next one is read.
    async fn each(&self, path: &str, mut look: impl FnMut(Record) -> Result<()>) -> Result<()> {
        let prefix = self.keys.prefix(path)?;
        let read = |after: Option<Key>| {
            let (store, mut request) = (self.store.clone(), ListRequest::new(prefix.clone()));
            request.after = after;
            tokio::spawn(async move { store.list(&request).await })
        };
        let mut next = Some(read(None));
        while let Some(reading) = next.take() {
            let page = reading.await.map_err(|error| {
                Error::new(ErrorKind::Cancelled, "the runtime that read the journal is shutting down")
                    .with_source(error)
            })??;
            if page.more {
                next = page.records.last().map(|last| read(Some(last.key.clone())));
            }
            page.records.into_iter().try_for_each(&mut look)?;
        }
        Ok(())
    }
}

fn misplaced(key: &Key) -> Error {
    corrupt("a record is not where what it holds belongs").with_context("key", key)
}

/// No bounds: what was accepted once stays.
pub(super) fn unlimited() -> Limits {
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
