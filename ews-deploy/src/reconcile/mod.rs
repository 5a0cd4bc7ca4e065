//! One reconciler per service: whoever holds its lease looks, decides and acts.
//!
//! `lead` is the lease, `leader` the loop; `look` is what it sees, `work` what it lets be done, `rollouts` and `history` what it does
//! about rollouts and their past, `steps` about canaries; `unit` is the work on one slot, `patch` that
//! on the files of its instance, `narrate` the events.

mod history;
mod hooks;
mod jobs;
mod lead;
mod leader;
mod look;
mod narrate;
mod patch;
mod remedies;
mod rollouts;
mod steps;
mod unit;
mod work;

use std::sync::Arc;
use std::time::Duration;

use ews_core::balancer::Balancer;
use ews_core::clock::Clock;
use ews_core::image::ImageStore;
use ews_core::metrics::Metrics;
use ews_core::policy::Policy;
use ews_core::probe::Prober;
use ews_core::{Bus, Result, Runtime, ServiceName, Store};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

pub(crate) use lead::{Lead, anonymous};
pub(crate) use unit::{Tools, asked, exit_of, is_the_revisions, service_selector, tail};

use crate::config::DeployConfig;
use crate::discovery::book::Book;
use crate::discovery::dress::Dresser;
use crate::discovery::spread::spread;
use crate::event::{DeployEvent, EventKind};
use crate::failure::FailureSeen;
use crate::hook::Hook;
use crate::record::Repository;
use crate::release::ReleaseEvent;
use crate::remedy::{RemedySeen, Treatment};
use crate::strategy::OnFailure;
use crate::traffic::Director;
use leader::{Leader, Over};
use narrate::Narrator;

/// What every reconciler of a controller works with.
pub(crate) struct Workshop {
    pub(crate) config: DeployConfig,
    pub(crate) holder: Arc<str>,
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) balancer: Option<Arc<dyn Balancer>>,
    pub(crate) metrics: Option<Arc<dyn Metrics>>,
    pub(crate) images: Option<Arc<dyn ImageStore>>,
    pub(crate) hooks: Vec<Arc<dyn Hook>>,
    pub(crate) failures: Option<Arc<dyn Policy<FailureSeen, OnFailure>>>,
    pub(crate) remedies: Option<Arc<dyn Policy<RemedySeen, Treatment>>>,
    pub(crate) prober: Prober,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) bus: Bus<DeployEvent>,
    pub(crate) releases: Bus<ReleaseEvent>,
}

impl Workshop {
    /// What dresses the instances of this installation.
    pub(crate) fn dresser(&self) -> Dresser {
        Dresser::new(self.config.owner.clone(), Arc::clone(&self.store), Arc::clone(&self.runtime))
    }
}

/// Leads a service whenever nobody else does, until it is removed or `leave` says to give the lead back.
pub(crate) async fn reconcile(
    workshop: Arc<Workshop>,
    service: ServiceName,
    mut leave: watch::Receiver<bool>,
) {
    let config = &workshop.config;
    let repository = Repository::new(Arc::clone(&workshop.store), &config.owner, &service);
    loop {
        if *leave.borrow() {
            return;
        }
        let lead = match lead(&workshop, &repository).await {
            Ok(Some(lead)) => lead,
            Ok(None) | Err(_) => {
                tokio::select! {
                    () = sleep((config.lease / 6).min(Duration::from_secs(5))) => continue,
                    _ = leave.wait_for(|leave| *leave) => return,
                }
            }
        };
        let narrator = Narrator::new(service.clone(), Arc::clone(&workshop.clock), workshop.bus.clone());
        let token = lead.fence().token.0;
        let director = workshop
            .balancer
            .clone()
            .map(|balancer| Director::new(balancer, service.clone(), token, config.call_limit));
        let tools = Arc::new(Tools {
            owner: config.owner.clone(),
            service: service.clone(),
            runtime: Arc::clone(&workshop.runtime),
            director,
            metrics: workshop.metrics.clone(),
            images: workshop.images.clone(),
            hooks: workshop.hooks.clone(),
            failures: workshop.failures.clone(),
            remedies: workshop.remedies.clone(),
            book: Book::new(Arc::clone(&workshop.store), config.owner.clone(), service.clone()),
            dresser: workshop.dresser(),
            prober: workshop.prober.clone(),
            repository: repository.clone(),
            lead,
            clock: Arc::clone(&workshop.clock),
            narrator: narrator.clone(),
            call_limit: config.call_limit,
            tick: config.lease / 3,
        });
        let over = match Leader::load(Arc::clone(&tools), config.clone()).await {
            Ok(Some(mut leader)) => {
                // It ends with this lead, however that ends.
                let mut beside = JoinSet::new();
                beside.spawn(spread(Arc::clone(&tools), config.relist));
                leader.lead(&mut leave).await
            }
            Ok(None) => Over::Removed,
            Err(error) => Over::Lost(error.to_string()),
        };
        tools.lead.resign().await;
        match over {
            Over::Removed => return,
            Over::Lost(reason) => narrator.tell(EventKind::LeadLost { reason }),
        }
        // Whoever waits for the lead goes first.
        sleep(Duration::from_millis(100)).await;
    }
}

/// Takes the lead of what these are the records of, or says that another has it.
pub(crate) async fn lead(workshop: &Workshop, repository: &Repository) -> Result<Option<Lead>> {
    Lead::take(&workshop.store, repository.key("lock")?, &workshop.config, &workshop.holder).await
}
