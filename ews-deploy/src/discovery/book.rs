//! The book of a service: which of its endpoints others are told of, kept in memory and brought to the store.
//!
//! A service that belongs to no release keeps its book all the same and writes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ews_core::store::{Fence, Key, Transaction, TypedExt as _, encode_typed};
use ews_core::{
    Incarnation, Instance, InstanceId, OwnerId, ReleaseName, Result, ServiceName, ServiceSpec, Store,
};
use tokio::sync::Notify;

use super::render::{self, Addresses, Told};
use super::{MemberOf, record_key};
use crate::record::Repository;
use crate::request::Traffic;

/// The book of one service, while this controller leads it.
pub(crate) struct Book {
    store: Arc<dyn Store>,
    owner: OwnerId,
    service: ServiceName,
    pages: Mutex<Pages>,
    /// One write at a time, so that an older one never comes after a newer one.
    writing: tokio::sync::Mutex<()>,
    changed: Notify,
}

#[derive(Default)]
struct Pages {
    member: Option<MemberOf>,
    /// A release that it belonged to, whose record of it is to go.
    former: Option<ReleaseName>,
    domain: Option<String>,
    told: BTreeMap<InstanceId, Vec<Told>>,
    dirty: bool,
    /// The service is gone, and nothing is written of it any more.
    closed: bool,
}

impl Book {
    pub(crate) fn new(store: Arc<dyn Store>, owner: OwnerId, service: ServiceName) -> Self {
        Self {
            store,
            owner,
            service,
            pages: Mutex::default(),
            writing: tokio::sync::Mutex::new(()),
            changed: Notify::new(),
        }
    }

    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn member(&self) -> Option<MemberOf> {
        self.pages().member.clone()
    }

    /// Reads which release the service belongs to. What an earlier controller told of stays told until something is known of it.
    pub(crate) async fn refresh(&self, repository: &Repository, traffic: Option<&Traffic>) -> Result<()> {
        let member = repository.get::<MemberOf>(MemberOf::KEY).await?.map(|found| found.value);
        let known = {
            let pages = self.pages();
            pages.member.as_ref().map(|member| &member.release)
                == member.as_ref().map(|member| &member.release)
        };
        let mut before = None;
        if let Some(member) = member.as_ref().filter(|_| !known) {
            before = self
                .store
                .get_typed::<Addresses>(&self.key(&member.release)?)
                .await?
                .map(|typed| typed.value);
        }
        let domain = traffic.and_then(|traffic| {
            traffic.domains.iter().map(|domain| domain.to_string()).find(|domain| !domain.contains('*'))
        });
        let mut pages = self.pages();
        for told in before.into_iter().flat_map(|addresses| addresses.endpoints) {
            pages.told.entry(told.instance.clone()).or_default().push(told);
        }
        let is_changed = pages.member != member || pages.domain != domain;
        if !known {
            pages.former = pages.member.take().map(|member| member.release);
        }
        (pages.member, pages.domain) = (member, domain);
        pages.dirty |= is_changed;
        drop(pages);
        if is_changed {
            self.changed.notify_one();
        }
        Ok(())
    }

    /// Others are told of an instance that has passed its gate.
    pub(crate) fn announce(&self, instance: &Instance, spec: &ServiceSpec) {
        let told = render::endpoints(instance, spec);
        let mut pages = self.pages();
        if pages.told.get(&instance.id) == Some(&told) {
            return;
        }
        pages.told.insert(instance.id.clone(), told);
        pages.dirty = true;
        drop(pages);
        self.changed.notify_one();
    }

    /// Others are told of it no longer. True where they were, so that they need time to hear of it.
    pub(crate) fn withdraw(&self, instance: &InstanceId) -> bool {
        let mut pages = self.pages();
        let was = pages.told.remove(instance).is_some_and(|told| !told.is_empty());
        pages.dirty |= was;
        let matters = was && pages.member.as_ref().is_some_and(|member| member.discovery.is_on());
        drop(pages);
        if was {
            self.changed.notify_one();
        }
        matters
    }

    /// The slots whose instances others are told of, and which start of which instance that is.
    pub(crate) fn instances(&self) -> BTreeSet<(u32, InstanceId, Incarnation)> {
        let pages = self.pages();
        let told = pages.told.values().flatten();
        told.map(|told| (told.slot, told.instance.clone(), told.incarnation)).collect()
    }

    /// For how long an instance that was taken out runs on.
    pub(crate) fn settle(&self) -> Duration {
        self.pages().member.as_ref().map(|member| member.discovery.settle).unwrap_or_default()
    }

    /// Waits for a change of the book.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Brings the store to what the book says.
    pub(crate) async fn sync(&self, fence: &Fence) -> Result<()> {
        let _turn = self.writing.lock().await;
        let (member, former, addresses) = {
            let mut pages = self.pages();
            if !pages.dirty || pages.closed {
                return Ok(());
            }
            pages.dirty = false;
            let mut endpoints: Vec<Told> = pages.told.values().flatten().cloned().collect();
            // Stable, so that an instance's ports keep the order of its spec.
            endpoints.sort_by(|a, b| (a.slot, &a.instance).cmp(&(b.slot, &b.instance)));
            endpoints.truncate(Addresses::MOST);
            let addresses =
                Addresses { service: self.service.clone(), domain: pages.domain.clone(), endpoints };
            (pages.member.clone(), pages.former.clone(), addresses)
        };
        let written = async {
            let mut transaction = Transaction::new().fence(fence.clone());
            if let Some(former) = &former {
                transaction = transaction.delete(&self.key(former)?);
            }
            match &member {
                Some(member) => {
                    transaction = transaction.put(&self.key(&member.release)?, encode_typed(&addresses)?);
                }
                None if former.is_none() => return Ok(()),
                None => {}
            }
            self.store.commit(&transaction).await.map(|_| ())
        };
        let result = written.await;
        let mut pages = self.pages();
        match &result {
            Ok(()) if pages.former == former => pages.former = None,
            Ok(()) => {}
            Err(_) => pages.dirty = true,
        }
        result
    }

    /// Takes the service out of what is told, for good.
    pub(crate) async fn erase(&self, fence: &Fence) -> Result<()> {
        let _turn = self.writing.lock().await;
        self.pages().closed = true;
        let Some(member) = self.member() else { return Ok(()) };
        let transaction = Transaction::new().fence(fence.clone()).delete(&self.key(&member.release)?);
        self.store.commit(&transaction).await.map(|_| ())
    }

    fn key(&self, release: &ReleaseName) -> Result<Key> {
        Key::new(record_key(&self.owner, release, &self.service))
    }
}
