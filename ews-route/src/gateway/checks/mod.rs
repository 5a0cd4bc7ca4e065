//! Active checks: endpoints of pools that ask for it are tried at regular times by the prober that gates use too.
//!
//! The control thread runs it, so that no check waits for traffic and no request for a check.

mod checker;

use std::collections::HashMap;
use std::future::pending;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use ews_core::balancer::{HealthCheck, Object, ObjectRef};
use ews_core::bus::Subscription;
use ews_core::endpoint::{Endpoint, Scope};
use ews_core::event::Notice;
use ews_core::id::{InstanceId, NodeId, OwnerId, PoolId, RevisionId, ServiceName};
use ews_core::instance::{Instance, InstanceKey};
use ews_core::probe::{Probed, Prober, ProberConfig, Target};
use ews_core::spec::network::Protocol;
use ews_core::spec::probe::{Check, HttpCheck, Probe, Probes, TcpCheck};
use ews_core::{Clock as _, Digest, Result, SystemClock};

use super::Core;
use super::endpoint::EndpointState;
use super::pool::PoolView;
use checker::Tries;

/// The endpoints that are tried. Nothing is started before there is one.
#[derive(Default)]
pub(super) struct Checks {
    prober: Option<(Prober, Subscription<Probed>, Arc<Tries>)>,
    known: HashMap<InstanceId, Known>,
    /// Which generation they are of.
    generation: Option<u64>,
}

struct Known {
    endpoint: Arc<EndpointState>,
    pool: Arc<PoolView>,
    check: HealthCheck,
}

impl Checks {
    /// Waits until a check has changed its mind.
    pub(super) async fn changed(&mut self) {
        let Some((prober, changes, _)) = &mut self.prober else { return pending().await };
        match changes.next().await {
            Some(Notice::Event(changed)) => {
                let Probed { instance, transition, .. } = changed.event;
                if let Some(known) = self.known.get(&instance) {
                    known.endpoint.set_well(transition.to.ready);
                }
            }
            Some(_) => {
                for (instance, state) in prober.states() {
                    if let Some(known) = self.known.get(&instance) {
                        known.endpoint.set_well(state.status.ready);
                    }
                }
            }
            None => pending().await,
        }
    }

    /// Tries what is to be tried by the newest change.
    pub(super) fn follow(&mut self, core: &Core) {
        let state = core.state();
        let generation = state.table.generation();
        self.mark(&state.routing);
        if self.generation == Some(generation) {
            return;
        }
        self.generation = Some(generation);
        let mut pools: HashMap<&PoolId, Option<(HealthCheck, Arc<PoolView>)>> = HashMap::new();
        let mut wanted = HashMap::new();
        for ((pool, _), known) in state.routing.endpoints() {
            let Some(endpoint) = known.last().filter(|endpoint| !endpoint.is_removed()) else { continue };
            let check = pools.entry(pool).or_insert_with(|| {
                match &state.table.get(&ObjectRef::Pool(pool.clone()))?.object {
                    Object::Pool(spec) => {
                        Some((spec.check.as_deref()?.clone(), state.routing.view(pool)?.clone()))
                    }
                    _ => None,
                }
            });
            let (Some((check, pool)), Ok(id)) =
                (check, InstanceId::new(format!("endpoint-{}", endpoint.uid)))
            else {
                continue;
            };
            let known = Known { endpoint: endpoint.clone(), pool: pool.clone(), check: check.clone() };
            wanted.insert(id, known);
        }
        drop(state);
        let before = std::mem::replace(&mut self.known, wanted);
        let gone = before.keys().filter(|id| !self.known.contains_key(*id));
        if let Some((prober, _, tries)) = &self.prober {
            gone.for_each(|id| prober.remove(id));
            tries.set(self.known.iter().map(|(id, known)| (id, &known.endpoint, &known.pool)));
        }
        let new = self.known.iter();
        let new: Vec<_> = new
            .filter(|(id, known)| before.get(*id).is_none_or(|before| before.check != known.check))
            .collect();
        if new.is_empty() {
            return;
        }
        let (prober, ..) = match &mut self.prober {
            Some(prober) => prober,
            none => {
                let tries = Arc::new(Tries::new(core.shared.clone()));
                match Prober::new(tries.clone(), Arc::new(SystemClock), ProberConfig::default()) {
                    Ok(prober) => {
                        let changes = prober.transitions();
                        tries.set(self.known.iter().map(|(id, known)| (id, &known.endpoint, &known.pool)));
                        none.insert((prober, changes, tries))
                    }
                    Err(error) => {
                        tracing::error!(%error, "checks could not be started");
                        return;
                    }
                }
            }
        };
        for (id, known) in new {
            if let Err(error) = target(id, known).and_then(|target| prober.set(target)) {
                // It gets nothing then, unless all others fail.
                tracing::warn!(%error, endpoint = %known.endpoint.address, "an endpoint can't be checked");
            }
        }
    }

    /// Lets threads look twice at pools of which an endpoint is unwell.
    fn mark(&self, routing: &super::snapshot::Routing) {
        for known in self.known.values().filter(|known| known.endpoint.is_out(u64::MAX)) {
            if let Some(pool) = routing.pool(&known.endpoint.pool) {
                pool.has_ejected.store(true, Ordering::Relaxed);
            }
        }
    }
}

/// An endpoint as the prober knows instances.
fn target(id: &InstanceId, known: &Known) -> Result<Target> {
    let Known { endpoint, check, .. } = known;
    let key = InstanceKey {
        owner: OwnerId::new("gateway")?,
        service: ServiceName::new("pool")?,
        revision: RevisionId::new("r")?,
        slot: 0,
        generation: 0,
    };
    let digest = Digest::of(endpoint.address.to_string().as_bytes());
    let mut instance = Instance::new(id.clone(), key, NodeId::new("gateway")?, digest, SystemClock.now());
    let mut key = endpoint.key.clone();
    (instance.incarnation, key.instance) = (key.incarnation, id.clone());
    // For a name, each try puts in what that stands for.
    let unknown = || SocketAddr::from((Ipv4Addr::UNSPECIFIED, endpoint.address.port()));
    let (address, scope) = (endpoint.address.socket().unwrap_or_else(unknown), Scope::Host);
    instance.endpoints = vec![Endpoint { key, address, protocol: Protocol::Tcp, scope }];
    let mut probe = Probe::new(match &check.path {
        Some(path) => {
            let mut http = HttpCheck::new(path);
            let name =
                endpoint.address.host().map(|host| format!("{}:{}", host.bare(), endpoint.address.port()));
            (http.host, http.status) = (check.host.clone().or(name), check.status);
            Check::Http(http)
        }
        None => Check::Tcp(TcpCheck::default()),
    });
    (probe.interval, probe.timeout) = (check.interval, check.timeout);
    (probe.success, probe.failure) = (check.success, check.failure);
    let mut probes = Probes::default();
    probes.readiness = Some(probe);
    Ok(Target::new(instance, probes))
}
