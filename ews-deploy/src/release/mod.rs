//! Releases: several services and run-once jobs brought about as one, in the order of their dependencies, and back again.
//!
//! A release stands on services as an embedder does: it asks for rollouts and waits for them, and every service keeps its own
//! lead, gates and rollback. What it adds is the order, the conditions between members, one answer to a failure for all of them, and
//! that members find each other. Whoever holds the fenced lease of the release's name leads it; it writes down what it is about to ask
//! before it asks, and asks under a key, so a successor goes on where it stood.
//!
//! [`ReleaseSpec`] is what is asked for, [`ReleaseReport`] how it stands; the calls are [`Deployer::release`](crate::Deployer::release)
//! and its neighbours. Within: `graph` and `decide` are the pure core, `record` what is written and by whom, `leader` the loop, `starting` how it begins, `members`
//! the way forward, `back` the way back, `ending` the end, `runner` the jobs.

mod ask;
mod back;
mod decide;
mod ending;
mod graph;
mod leader;
mod members;
mod plan;
mod record;
mod report;
mod request;
mod runner;
mod spec;
mod starting;
mod tell;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ews_core::store::{Change, ListRequest, StoreRevision};
use ews_core::{ReleaseName, Result};
use futures_util::StreamExt as _;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::sleep;

pub use crate::discovery::Discovery;
pub use plan::{MemberAction, PlannedMember, ReleasePlan};
pub use report::{
    MemberReport, MemberStage, ReleaseEvent, ReleaseEventKind, ReleaseId, ReleasePhase, ReleaseReport,
};
pub use request::ReleaseRequest;
pub use spec::{After, MemberCondition, MemberSpec, OnMemberFailure, ReleaseSpec};

use crate::deployer::Deployer;
use crate::reconcile::{self, Workshop};
use leader::{Desk, Leader};
use record::Records;

/// Leads every release of the installation that nobody else leads, until `leave` says to go.
pub(crate) async fn run(workshop: Arc<Workshop>, mut leave: watch::Receiver<bool>) {
    let mut leading = Leading { workshop, leave: leave.clone(), names: BTreeMap::new(), set: JoinSet::new() };
    tokio::select! {
        () = leading.follow() => {}
        _ = leave.wait_for(|leave| *leave) => {}
    }
    while leading.set.join_next().await.is_some() {}
}

struct Leading {
    workshop: Arc<Workshop>,
    leave: watch::Receiver<bool>,
    names: BTreeMap<ReleaseName, AbortHandle>,
    set: JoinSet<()>,
}

impl Leading {
    /// Finds releases, now and as they come.
    async fn follow(&mut self) {
        let mut after = None;
        loop {
            let from = match after {
                Some(after) => after,
                None => match self.scan().await {
                    Ok(revision) => revision,
                    Err(_) => {
                        sleep(Duration::from_secs(1)).await;
                        continue;
                    }
                },
            };
            after = None;
            let owner = self.workshop.config.owner.clone();
            let Ok(prefix) = Records::releases(&owner) else { return };
            let Ok(mut changes) = self.workshop.store.watch(&prefix, from).await else {
                // Too far behind, or the store is away: everything is looked at again.
                sleep(Duration::from_secs(1)).await;
                continue;
            };
            while let Some(Ok(batch)) = changes.next().await {
                after = Some(batch.revision);
                for change in &*batch.changes {
                    let Change::Put(record) = change else { continue };
                    if let Some(name) = Records::release_of(&owner, &record.key) {
                        self.adopt(name);
                    }
                }
            }
        }
    }

    async fn scan(&mut self) -> Result<StoreRevision> {
        let owner = self.workshop.config.owner.clone();
        let mut request = ListRequest::new(Records::releases(&owner)?);
        let mut revision = None;
        loop {
            let page = self.workshop.store.list(&request).await?;
            for record in &page.records {
                if let Some(name) = Records::release_of(&owner, &record.key) {
                    self.adopt(name);
                }
            }
            // The first page's: what changes while the others are read is seen by the watch.
            let first = *revision.get_or_insert(page.revision);
            match page.records.last() {
                Some(last) if page.more => request = request.after(last.key.clone()),
                _ => return Ok(first),
            }
        }
    }

    fn adopt(&mut self, name: ReleaseName) {
        if self.names.get(&name).is_some_and(|handle| !handle.is_finished()) {
            return;
        }
        let task = reconcile(Arc::clone(&self.workshop), name.clone(), self.leave.clone());
        self.names.insert(name, self.set.spawn(task));
    }
}

/// Leads the releases of one name whenever nobody else does, until `leave` says to give the lead back.
async fn reconcile(workshop: Arc<Workshop>, name: ReleaseName, mut leave: watch::Receiver<bool>) {
    let config = &workshop.config;
    let records = Records::new(Arc::clone(&workshop.store), &config.owner, &name);
    loop {
        if *leave.borrow() {
            return;
        }
        let lead = match reconcile::lead(&workshop, records.repository()).await {
            Ok(Some(lead)) => lead,
            Ok(None) | Err(_) => {
                tokio::select! {
                    () = sleep((config.lease / 6).min(Duration::from_secs(5))) => continue,
                    _ = leave.wait_for(|leave| *leave) => return,
                }
            }
        };
        let desk = Arc::new(Desk {
            name: name.clone(),
            asker: Deployer::asking(Arc::clone(&workshop)),
            workshop: Arc::clone(&workshop),
            records: records.clone(),
            lead,
        });
        let reason = match Leader::load(Arc::clone(&desk)).await {
            Ok(mut leader) => leader.lead(&mut leave).await,
            Err(error) => error.to_string(),
        };
        tracing::info!(release = %name, reason, "the lead of the release is over");
        desk.lead.resign().await;
        // Whoever waits for the lead goes first.
        sleep(Duration::from_millis(100)).await;
    }
}
