//! What the data threads route by: everything at one generation, never changed once it is handed over.
//!
//! [`Routing`] belongs to whoever applies changes: it turns what a change touched into the next [`Snapshot`], sharing all that
//! was not touched. Pools are found by name at each request, so that a change of a pool touches no domain and no route.

use std::collections::BTreeMap;
use std::sync::Arc;

use ews_core::balancer::{Domains, MemberState, Object, ObjectRef, Site, Table};
use ews_core::endpoint::{EndpointAddress, EndpointKey};
use ews_core::id::{CertificateId, PoolId, TrafficPolicyId};
use ews_core::{Error, Result, SecretRef};

use super::blackhole::Blackholes;
use super::endpoint::EndpointState;
use super::names::Registry;
use super::policy::Policy;
use super::pool::{Identities, PoolIdentity, PoolView};
use super::route::Routes;
use super::sharded::Sharded;

/// Everything at one generation.
#[derive(Debug, Clone)]
pub(crate) struct Snapshot {
    pub(crate) generation: u64,
    /// The table's own, shared with it: a domain is in memory once.
    domains: Domains,
    sets: Sharded<Arc<Routes>>,
    pools: Sharded<Arc<PoolView>>,
    policies: Sharded<Arc<Policy>>,
    certificates: Sharded<Arc<CertificateView>>,
    pub(crate) blackholes: Blackholes,
}

/// A certificate by reference, in one of its forms.
#[derive(Debug)]
#[cfg_attr(not(feature = "tls"), expect(dead_code, reason = "nothing is loaded without TLS"))]
pub(crate) struct CertificateView {
    pub(crate) uid: u64,
    pub(crate) id: CertificateId,
    pub(crate) chain: SecretRef,
    pub(crate) key: SecretRef,
    pub(crate) client_ca: Option<SecretRef>,
}

impl Snapshot {
    /// What a host name in lower case points to.
    pub(crate) fn site(&self, host: &str) -> Option<&Site> {
        self.domains.site(host)
    }

    pub(crate) fn routes(&self, site: &Site) -> Option<&Arc<Routes>> {
        self.sets.get(site.routes.as_str())
    }

    pub(crate) fn policy(&self, id: &TrafficPolicyId) -> Option<&Arc<Policy>> {
        self.policies.get(id.as_str())
    }

    pub(crate) fn certificate(&self, id: &CertificateId) -> Option<&Arc<CertificateView>> {
        self.certificates.get(id.as_str())
    }

    pub(crate) fn pool(&self, id: &PoolId) -> Option<&Arc<PoolView>> {
        self.pools.get(id.as_str())
    }
}

/// Whether this gateway can serve an object that the table accepts.
///
/// # Errors
/// `Invalid` or `Unsupported`, naming the object.
pub(crate) fn check(object: &Object) -> Result<()> {
    match object {
        Object::RouteSet(set) => Routes::new(set).map(drop),
        Object::TrafficPolicy(policy) => {
            policy.auth.as_ref().map_or(Ok(()), |auth| super::auth::Auth::new(auth).map(drop))
        }
        _ => Ok(()),
    }
    .map_err(|error: Error| error.with_context("object", object.reference()))
}

/// Makes snapshots from a table, change by change.
#[derive(Debug)]
pub(crate) struct Routing {
    snapshot: Snapshot,
    pools: Identities,
    endpoints: Endpoints,
    names: Registry,
    next_uid: u64,
}

/// Every endpoint that is there or still busy. Of one name there are several where its address was changed; the last is the
/// one that is there.
pub(crate) type Endpoints = BTreeMap<(PoolId, EndpointKey), Vec<Arc<EndpointState>>>;

impl Routing {
    pub(crate) fn new() -> Self {
        let snapshot = Snapshot {
            generation: 0,
            domains: Domains::default(),
            sets: Sharded::new(),
            pools: Sharded::new(),
            policies: Sharded::new(),
            certificates: Sharded::new(),
            blackholes: Blackholes::new(),
        };
        Self {
            snapshot,
            pools: Identities::new(),
            endpoints: Endpoints::new(),
            names: Registry::default(),
            next_uid: 1,
        }
    }

    /// Every pool as it is counted.
    pub(crate) fn pools(&self) -> impl Iterator<Item = &Arc<PoolIdentity>> {
        self.pools.iter()
    }

    pub(crate) fn pool(&self, id: &PoolId) -> Option<&Arc<PoolIdentity>> {
        self.pools.get(id)
    }

    /// A pool as it is newest.
    pub(crate) fn view(&self, id: &PoolId) -> Option<&Arc<PoolView>> {
        self.snapshot.pool(id)
    }

    pub(crate) fn endpoints(&self) -> &Endpoints {
        &self.endpoints
    }

    pub(crate) fn endpoints_mut(&mut self) -> &mut Endpoints {
        &mut self.endpoints
    }

    pub(crate) fn names(&self) -> &Registry {
        &self.names
    }

    pub(crate) fn names_mut(&mut self) -> &mut Registry {
        &mut self.names
    }

    /// The snapshot after a change that touched these objects, which the table holds already.
    pub(crate) fn update(&mut self, table: &Table, touched: &[ObjectRef]) -> Snapshot {
        let mut pools: Vec<&PoolId> = Vec::new();
        for reference in touched {
            let object = table.other(reference).map(|stored| &stored.object);
            match (reference, object) {
                // The table has it, and the snapshot below has the table's.
                (ObjectRef::Domain(_), _) => {}
                (ObjectRef::RouteSet(id), object) => {
                    let routes = match object {
                        // It was checked before it was applied.
                        Some(Object::RouteSet(set)) => Some(Arc::new(Routes::new(set).unwrap_or_default())),
                        _ => None,
                    };
                    self.snapshot.sets.set(id.as_str(), routes);
                }
                (ObjectRef::TrafficPolicy(id), object) => {
                    let policy = match object {
                        Some(Object::TrafficPolicy(policy)) => {
                            let before = self.snapshot.policy(id).map(Arc::as_ref);
                            let policy = Policy::new(self.next_uid, policy, before);
                            self.next_uid += 1;
                            Some(Arc::new(policy))
                        }
                        _ => None,
                    };
                    self.snapshot.policies.set(id.as_str(), policy);
                }
                (ObjectRef::Certificate(id), object) => {
                    let view = match object {
                        Some(Object::Certificate(certificate)) => {
                            self.next_uid += 1;
                            Some(Arc::new(CertificateView {
                                uid: self.next_uid - 1,
                                id: id.clone(),
                                chain: certificate.chain.clone(),
                                key: certificate.key.clone(),
                                client_ca: certificate.client_ca.clone(),
                            }))
                        }
                        _ => None,
                    };
                    self.snapshot.certificates.set(id.as_str(), view);
                }
                (ObjectRef::Blackhole(target), object) => {
                    let blackhole = match object {
                        Some(Object::Blackhole(blackhole)) => Some(blackhole),
                        _ => None,
                    };
                    self.snapshot.blackholes.set(target, blackhole);
                }
                (ObjectRef::Pool(id), _) => pools.push(id),
                (ObjectRef::Endpoint(pool, key), object) => {
                    pools.push(pool);
                    let member = match object {
                        Some(Object::Endpoint(member)) => Some(member),
                        _ => None,
                    };
                    let address = member.map(|member| &member.endpoint.address);
                    self.learn(pool, key, address, member.map(|member| (member.state, member.weight)));
                }
                _ => {}
            }
        }
        pools.sort_unstable();
        pools.dedup();
        for id in pools {
            let view = self.pool_view(table, id);
            if view.is_none() {
                self.pools.remove(id);
            }
            self.snapshot.pools.set(id.as_str(), view);
        }
        self.snapshot.domains = table.domains().clone();
        self.snapshot.generation = table.generation();
        self.snapshot.clone()
    }

    fn learn(
        &mut self,
        pool: &PoolId,
        key: &EndpointKey,
        address: Option<&EndpointAddress>,
        member: Option<(MemberState, u32)>,
    ) {
        let uid = self.next_uid;
        let known = self.endpoints.entry((pool.clone(), key.clone())).or_default();
        let current = known.last().filter(|last| !last.is_removed());
        match (address, current) {
            (Some(address), Some(current)) if current.address == *address => current.set(member),
            // It is there anew, or somewhere else: what it was goes like one that is removed.
            (Some(address), current) => {
                if let Some(current) = current {
                    current.set(None);
                }
                let named = self.names.named(address);
                let state = EndpointState::new(uid, pool.clone(), key.clone(), address.clone(), named);
                state.set(member);
                known.push(Arc::new(state));
                self.next_uid += 1;
            }
            (None, Some(current)) => current.set(None),
            (None, None) => {}
        }
        if known.is_empty() {
            self.endpoints.remove(&(pool.clone(), key.clone()));
        }
    }

    fn pool_view(&mut self, table: &Table, id: &PoolId) -> Option<Arc<PoolView>> {
        let Object::Pool(pool) = &table.other(&ObjectRef::Pool(id.clone()))?.object else { return None };
        let members = table.members(id).filter_map(|member| {
            let name = (id.clone(), member.endpoint.key.clone());
            let endpoint = self.endpoints.get(&name)?.last()?.clone();
            Some((endpoint, member.state, member.weight))
        });
        let members: Vec<_> = members.collect();
        let identity = self.pools.of(id, &pool.labels, self.next_uid);
        self.next_uid += 1;
        #[cfg_attr(not(feature = "tls"), expect(unused_mut, reason = "nothing is added without TLS"))]
        let mut view = PoolView::new(identity, pool, members);
        #[cfg(feature = "tls")]
        {
            let before = self.snapshot.pool(id).and_then(|before| before.tls.as_ref());
            view.tls = super::tls::Upstream::of(pool, before, self.next_uid);
            self.next_uid += 1;
        }
        Some(Arc::new(view))
    }
}
