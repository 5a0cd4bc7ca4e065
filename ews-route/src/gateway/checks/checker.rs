//! One try of one endpoint.
//!
//! An endpoint at a name is well where one of its addresses is: they are tried in turn within the check's time, which they
//! share, and one that fails comes last for connections too.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use ews_core::id::InstanceId;
use ews_core::probe::{Checker, Outcome, StandardChecker, Target, Verdict};
use ews_core::spec::probe::Probe;

use crate::gateway::endpoint::EndpointState;
use crate::gateway::thread::Shared;

/// Tries endpoints as the prober asks for it.
pub(super) struct Tries {
    standard: StandardChecker,
    shared: Arc<Shared>,
    known: Mutex<HashMap<InstanceId, Arc<EndpointState>>>,
}

impl Tries {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { standard: StandardChecker::network(), shared, known: Mutex::default() }
    }

    fn known(&self) -> MutexGuard<'_, HashMap<InstanceId, Arc<EndpointState>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on it may be tried.
    pub(super) fn add(&self, id: InstanceId, endpoint: Arc<EndpointState>) {
        self.known().insert(id, endpoint);
    }

    /// It is not tried any more.
    pub(super) fn remove(&self, id: &InstanceId) {
        self.known().remove(id);
    }
}

#[async_trait]
impl Checker for Tries {
    async fn check(&self, target: &Target, probe: &Probe) -> Outcome {
        let endpoint = self.known().get(&target.instance.id).cloned();
        let Some(endpoint) = endpoint else { return Outcome::unknown("the endpoint is gone") };
        let Some(named) = &endpoint.named else { return self.standard.check(target, probe).await };
        let tries = named.tries(self.shared.now());
        let mut outcome = Outcome::fail("nobody knows its address");
        let (mut target, mut probe) = (target.clone(), probe.clone());
        probe.timeout /= u32::try_from(tries.len()).unwrap_or(1).max(1);
        for one in tries {
            target.instance.endpoints.iter_mut().for_each(|endpoint| endpoint.address = one.address);
            outcome = self.standard.check(&target, &probe).await;
            if outcome.verdict == Verdict::Pass {
                one.reached();
                break;
            }
            one.failed(self.shared.now());
        }
        outcome
    }
}
