//! Reads and writes the records of one service.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use ews_core::store::{
    Expect, Fence, Key, ListRequest, Prefix, Schema, StoreRevision, Transaction, TypedExt as _, decode_typed,
    encode_typed,
};
use ews_core::{Digest, Error, ErrorKind, OwnerId, Result, RevisionId, ServiceName, Store, StoreExt as _};

use crate::audit::{self, AuditEntry};

use super::{
    ControlInput, RevisionName, RevisionRecord, RolloutState, ScaleInput, ServiceInput, ServiceState,
    UnitJournal,
};

/// A record and the store's revision that wrote it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Versioned<T> {
    pub(crate) value: T,
    pub(crate) modified: StoreRevision,
}

/// The records of one service.
#[derive(Clone)]
pub(crate) struct Repository {
    store: Arc<dyn Store>,
    base: String,
}

impl Repository {
    /// Every key of every service of this owner.
    pub(crate) fn services(owner: &OwnerId) -> Result<Prefix> {
        Prefix::new(format!("deploy/{owner}/"))
    }

    /// The service that a key of an owner's belongs to.
    pub(crate) fn service_of(owner: &OwnerId, key: &Key) -> Option<ServiceName> {
        let rest = key.as_str().strip_prefix(&format!("deploy/{owner}/"))?;
        let (name, rest) = rest.split_once('/')?;
        if rest == "in/service" { ServiceName::new(name).ok() } else { None }
    }

    pub(crate) fn new(store: Arc<dyn Store>, owner: &OwnerId, service: &ServiceName) -> Self {
        Self { store, base: format!("deploy/{owner}/{service}") }
    }

    /// Records below another key than a service's.
    pub(crate) fn at(store: Arc<dyn Store>, base: String) -> Self {
        Self { store, base }
    }

    pub(crate) fn store(&self) -> &dyn Store {
        &*self.store
    }

    pub(crate) fn key(&self, rest: &str) -> Result<Key> {
        Key::new(format!("{}/{rest}", self.base))
    }

    pub(crate) fn inputs(&self) -> Result<Prefix> {
        Prefix::new(format!("{}/in/", self.base))
    }

    pub(crate) fn all(&self) -> Result<Prefix> {
        Prefix::new(format!("{}/", self.base))
    }

    pub(crate) fn prefix(&self, rest: &str) -> Result<Prefix> {
        Prefix::new(format!("{}/{rest}/", self.base))
    }

    pub(crate) async fn get<T: Schema>(&self, rest: &str) -> Result<Option<Versioned<T>>> {
        let found = self.store.get_typed::<T>(&self.key(rest)?).await?;
        Ok(found.map(|typed| Versioned { value: typed.value, modified: typed.record.modified }))
    }

    pub(crate) async fn input(&self) -> Result<Option<Versioned<ServiceInput>>> {
        self.get("in/service").await
    }

    pub(crate) async fn scale(&self) -> Result<Option<Versioned<ScaleInput>>> {
        self.get("in/scale").await
    }

    pub(crate) async fn control(&self) -> Result<Option<Versioned<ControlInput>>> {
        self.get("in/control").await
    }

    pub(crate) async fn state(&self) -> Result<Option<Versioned<ServiceState>>> {
        self.get("state").await
    }

    pub(crate) async fn rollout(&self, number: u64) -> Result<Option<Versioned<RolloutState>>> {
        self.get(&numbered("rollout", number)).await
    }

    pub(crate) async fn revision(&self, number: u64) -> Result<Option<RevisionRecord>> {
        Ok(self.get::<RevisionRecord>(&numbered("revision", number)).await?.map(|found| found.value))
    }

    /// The id of a revision.
    pub(crate) async fn revision_id(&self, number: u64) -> Result<RevisionId> {
        match self.get::<RevisionName>(&numbered("revision", number)).await? {
            Some(found) => Ok(found.value.revision.id),
            // It is no longer kept; its number is.
            None => RevisionId::new(format!("r{number}")),
        }
    }

    pub(crate) async fn revisions(&self) -> Result<Vec<RevisionRecord>> {
        self.list("revision", 10_000).await
    }

    pub(crate) async fn audit(&self) -> Result<Vec<AuditEntry>> {
        self.list("audit", 100_000).await
    }

    /// The keys of the entries beyond those that are kept.
    pub(crate) async fn old_audit(&self) -> Result<Vec<Key>> {
        let page = self.store.list_all(&self.prefix("audit")?, 100_000).await?;
        let surplus = page.records.len().saturating_sub(AuditEntry::KEPT);
        Ok(page.records.into_iter().take(surplus).map(|record| record.key).collect())
    }

    pub(crate) async fn rollouts(&self) -> Result<Vec<RolloutState>> {
        self.list("rollout", 10_000).await
    }

    pub(crate) async fn units(&self) -> Result<Vec<UnitJournal>> {
        self.list("unit", 100_000).await
    }

    /// Keeps a file of a hotfix.
    pub(crate) async fn put_blob(&self, number: u64, digest: &Digest, content: &Bytes) -> Result<()> {
        let piece = PIECE.min(self.store.limits().value_bytes);
        let pieces = content.len().div_ceil(piece).max(1);
        for index in 0..pieces {
            let from = index * piece;
            let part = content.slice(from..content.len().min(from + piece));
            let key = self.key(&blob(number, digest, index))?;
            self.store.commit(&Transaction::new().put(&key, part)).await?;
        }
        Ok(())
    }

    /// A file of a hotfix.
    pub(crate) async fn blob(&self, number: u64, digest: &Digest, size: u64) -> Result<Bytes> {
        let mut content = BytesMut::new();
        for index in 0.. {
            let Some(record) = self.store.get(&self.key(&blob(number, digest, index))?).await? else { break };
            content.extend_from_slice(&record.value);
            if content.len() as u64 >= size {
                break;
            }
        }
        if Digest::of(&content) != *digest {
            let message = format!("a file of hotfix {number} is not in the store as it was written");
            return Err(Error::new(ErrorKind::Decode, message).with_context("digest", digest));
        }
        Ok(content.freeze())
    }

    /// The keys of the blobs of revisions that are not among these and not newer than the newest of them, at most so many.
    pub(crate) async fn stale_blobs(&self, kept: &BTreeSet<u64>, max: usize) -> Result<Vec<Key>> {
        let Some(newest) = kept.last() else { return Ok(Vec::new()) };
        let prefix = self.prefix("blob")?;
        let mut stale = Vec::new();
        let mut request = ListRequest::new(prefix.clone()).limit(100);
        loop {
            let page = self.store.list(&request).await?;
            for record in &page.records {
                let rest = record.key.as_str().strip_prefix(prefix.as_str());
                let number = rest.and_then(|rest| rest.split('/').next()?.parse::<u64>().ok());
                if number.is_some_and(|number| number < *newest && !kept.contains(&number)) {
                    stale.push(record.key.clone());
                }
            }
            match page.records.last() {
                Some(last) if page.more && stale.len() < max => {
                    request = ListRequest::new(prefix.clone()).limit(100).after(last.key.clone());
                }
                _ => return Ok(stale),
            }
        }
    }

    pub(crate) async fn list<T: Schema>(&self, rest: &str, max: usize) -> Result<Vec<T>> {
        let page = self.store.list_all(&self.prefix(rest)?, max).await?;
        page.records.into_iter().map(|record| Ok(decode_typed::<T>(record)?.value)).collect()
    }

    /// Deletes everything of the service but its lock, in as many transactions as it takes.
    pub(crate) async fn erase(&self, fence: &Fence) -> Result<()> {
        let lock = self.key("lock")?;
        // What makes the service known goes last: a successor that finds it goes on erasing.
        let last = self.key("in/service")?;
        loop {
            let page = self.store.list(&ListRequest::new(self.all()?).limit(100)).await?;
            let keys: Vec<Key> = page.records.into_iter().map(|record| record.key).collect();
            let mut transaction = Transaction::new().fence(fence.clone());
            let mut others = 0;
            for key in keys.iter().filter(|key| **key != lock && **key != last) {
                transaction = transaction.delete(key);
                others += 1;
            }
            if others == 0 {
                transaction = transaction.delete(&last);
            }
            self.store.commit(&transaction).await?;
            if others == 0 {
                return Ok(());
            }
        }
    }
}

/// The most bytes of one piece of a file.
const PIECE: usize = 256 << 10;

fn blob(number: u64, digest: &Digest, index: usize) -> String {
    let digest = digest.to_string();
    let hex = digest.strip_prefix("sha256:").unwrap_or(&digest);
    format!("{}/{hex}/{index:06}", numbered("blob", number))
}

/// `kind/0000000042`: listed in the order of the numbers.
pub(crate) fn numbered(kind: &str, number: u64) -> String {
    format!("{kind}/{number:010}")
}

/// Writes that happen together.
pub(crate) struct Draft<'a> {
    repository: &'a Repository,
    transaction: Transaction,
}

impl<'a> Draft<'a> {
    pub(crate) fn new(repository: &'a Repository) -> Self {
        Self { repository, transaction: Transaction::new() }
    }

    pub(crate) fn fenced(repository: &'a Repository, fence: &Fence) -> Self {
        Self { repository, transaction: Transaction::new().fence(fence.clone()) }
    }

    pub(crate) fn put<T: Schema>(mut self, rest: &str, value: &T) -> Result<Self> {
        let key = self.repository.key(rest)?;
        self.transaction = self.transaction.put(&key, encode_typed(value)?);
        Ok(self)
    }

    /// With this entry of the audit trail.
    pub(crate) fn note(self, entry: &AuditEntry) -> Result<Self> {
        self.put(&audit::key(entry.at), entry)
    }

    pub(crate) fn delete(mut self, rest: &str) -> Result<Self> {
        self.transaction = self.transaction.delete(&self.repository.key(rest)?);
        Ok(self)
    }

    pub(crate) fn expect(mut self, rest: &str, modified: Option<StoreRevision>) -> Result<Self> {
        let expect = modified.map_or(Expect::Absent, Expect::Revision);
        self.transaction = self.transaction.expect(&self.repository.key(rest)?, expect);
        Ok(self)
    }

    pub(crate) async fn commit(self) -> Result<StoreRevision> {
        self.repository.store.commit(&self.transaction).await
    }
}
