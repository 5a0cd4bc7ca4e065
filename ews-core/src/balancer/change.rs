//! Changes: what is asked of a balancer, and what it says was done.
//!
//! A change names the versions it was made from, so that unrelated changes never collide, and an id, so that a replay is
//! harmless. A replay is recognised by its operations alone: a successor that repeats a change may have read other versions
//! than its predecessor, and must not be refused for that.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::balancer::{BlackholeTarget, DomainName, MemberState, Object, WeightedPool};
use crate::endpoint::EndpointKey;
use crate::id::{CertificateId, ChangeId, PoolId, RouteSetId, TrafficPolicyId};

/// Operations that happen together.
///
/// The operations are done in order, and references are checked on what they leave: within one change, a route may be put
/// before the pool that it refers to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Change {
    /// Its id; choose it from what causes the change, so that a successor that repeats it says the same.
    pub id: ChangeId,
    /// What must hold before the first operation. Objects that are not named may be at any version. At most
    /// [`Change::MAX_OPS`]. They are no part of a change's identity.
    #[serde(default)]
    pub preconditions: Vec<Precondition>,
    /// What is done, in order. At least one, at most [`Change::MAX_OPS`].
    pub ops: Vec<Op>,
}

impl Op {
    /// The object that it names.
    pub fn reference(&self) -> ObjectRef {
        match self {
            Self::Put(object) => object.reference(),
            Self::Delete(reference) => reference.clone(),
            Self::Shares { set, .. } => ObjectRef::RouteSet(set.clone()),
            Self::Weight { pool, endpoint, .. } | Self::State { pool, endpoint, .. } => {
                ObjectRef::Endpoint(pool.clone(), endpoint.clone())
            }
        }
    }
}

impl Change {
    /// The most operations of one change.
    pub const MAX_OPS: usize = 1_000;

    /// These operations under this id, without preconditions.
    pub fn new(id: ChangeId, ops: impl IntoIterator<Item = Op>) -> Self {
        Self { id, preconditions: Vec::new(), ops: ops.into_iter().collect() }
    }

    /// Only where this object is at this version; `None`: only where it does not exist.
    #[must_use]
    pub fn expect(mut self, object: ObjectRef, version: Option<u64>) -> Self {
        self.preconditions.push(Precondition { object, version });
        self
    }
}

/// What must hold before a change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Precondition {
    /// Which object.
    pub object: ObjectRef,
    /// Its version; `None`: it must not exist.
    pub version: Option<u64>,
}

/// Names an object of a balancer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ObjectRef {
    /// A host name.
    Domain(DomainName),
    /// A set of routes.
    RouteSet(RouteSetId),
    /// A pool.
    Pool(PoolId),
    /// An endpoint of a pool.
    Endpoint(PoolId, EndpointKey),
    /// A traffic policy.
    TrafficPolicy(TrafficPolicyId),
    /// A certificate.
    Certificate(CertificateId),
    /// A blackhole.
    Blackhole(BlackholeTarget),
}

/// One step of a change.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Op {
    /// Creates or replaces an object, whole. Replacing a pool keeps its endpoints.
    Put(Object),
    /// Removes an object; nothing happens where there is none. Removing a pool removes its endpoints. Removing an endpoint
    /// gives it no new traffic; what it has under way goes on, and gateways list it until that has ended.
    Delete(ObjectRef),
    /// Sets only the shares of these pools in every rule of a route set that forwards to them, so that who shifts traffic
    /// and who edits routes never collide.
    Shares {
        /// The route set, which must be there.
        set: RouteSetId,
        /// The pools, each forwarded to by one rule at least, and their new shares.
        weights: Vec<WeightedPool>,
    },
    /// Sets only the weight of an endpoint that is there.
    Weight {
        /// Its pool.
        pool: PoolId,
        /// Which endpoint.
        endpoint: EndpointKey,
        /// The new weight, 0 to [`Member::MAX_WEIGHT`](crate::balancer::Member::MAX_WEIGHT).
        weight: u32,
    },
    /// Sets only the state of an endpoint that is there.
    State {
        /// Its pool.
        pool: PoolId,
        /// Which endpoint.
        endpoint: EndpointKey,
        /// The new state.
        state: MemberState,
    },
}

/// That a change was applied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Applied {
    /// The generation that the balancer reached with it. Each change raises it, a replay does not.
    pub generation: u64,
    /// The versions of the objects that its operations named and left behind, by their text form; a deleted one is not
    /// listed.
    pub versions: BTreeMap<String, u64>,
}

impl Precondition {
    /// Only where this object is at this version; `None`: only where it does not exist.
    pub fn new(object: ObjectRef, version: Option<u64>) -> Self {
        Self { object, version }
    }
}

impl Applied {
    /// A change that led to this generation and left these versions; for drivers that keep no [`Table`](crate::balancer::Table).
    pub fn new(generation: u64, versions: BTreeMap<String, u64>) -> Self {
        Self { generation, versions }
    }

    /// The version that the change gave this object; `None` where it named it not, or removed it.
    pub fn version(&self, object: &ObjectRef) -> Option<u64> {
        self.versions.get(&object.to_string()).copied()
    }
}

/// An object as applied.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Stored {
    /// Its version. Each change that names the object raises it, even where it leaves the object equal; nothing else
    /// does. It goes on growing when the object is removed and made anew, so that a precondition never meets a namesake. (A
    /// balancer gets this without remembering what was removed by using the change's generation.)
    pub version: u64,
    /// The object.
    pub object: Object,
}

impl Stored {
    /// This object at this version; for drivers.
    pub fn new(version: u64, object: Object) -> Self {
        Self { version, object }
    }
}

/// Which objects. All conditions must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ObjectQuery {
    /// Of which kinds. Empty: all.
    pub kinds: Vec<ObjectKind>,
    /// Of endpoints, only those of this pool; other kinds are not touched by it.
    pub pool: Option<PoolId>,
    /// Only these, at most [`ObjectQuery::MAX_ONLY`]. Empty: all.
    pub only: Vec<ObjectRef>,
    /// Only after this one, which need not be there any more.
    pub after: Option<ObjectRef>,
    /// At most so many, at least 1; a balancer may return fewer, at least one where there is one.
    pub limit: usize,
}

impl ObjectQuery {
    /// The most objects that one query names.
    pub const MAX_ONLY: usize = 1_000;

    /// The most objects of one answer of a [`Table`](crate::balancer::Table), whatever the query's limit: what comes after them
    /// is asked for with [`after`](Self::after).
    pub const MAX_PAGE: usize = 1_000;

    /// All of these kinds.
    pub fn kinds(kinds: impl IntoIterator<Item = ObjectKind>) -> Self {
        Self { kinds: kinds.into_iter().collect(), pool: None, only: Vec::new(), after: None, limit: 1_000 }
    }

    /// These objects, as far as they are there.
    pub fn only(objects: impl IntoIterator<Item = ObjectRef>) -> Self {
        Self { only: objects.into_iter().collect(), ..Self::kinds([]) }
    }

    /// The endpoints of this pool.
    pub fn pool(pool: PoolId) -> Self {
        Self { pool: Some(pool), ..Self::kinds([ObjectKind::Endpoint]) }
    }

    /// At most so many.
    #[must_use]
    pub fn limit(mut self, limit: usize) -> Self {
        self.limit = limit;
        self
    }

    /// Goes on after this one.
    #[must_use]
    pub fn after(mut self, after: ObjectRef) -> Self {
        self.after = Some(after);
        self
    }
}

/// The kinds of objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ObjectKind {
    /// Host names.
    Domain,
    /// Sets of routes.
    RouteSet,
    /// Pools.
    Pool,
    /// Endpoints of pools.
    Endpoint,
    /// Traffic policies.
    TrafficPolicy,
    /// Certificates.
    Certificate,
    /// Blackholes.
    Blackhole,
}

impl ObjectKind {
    /// Every kind, in the order in which objects are listed.
    pub const ALL: &'static [Self] = &[
        Self::Domain,
        Self::RouteSet,
        Self::Pool,
        Self::Endpoint,
        Self::TrafficPolicy,
        Self::Certificate,
        Self::Blackhole,
    ];
}

impl ObjectRef {
    /// Of which kind it is.
    pub const fn kind(&self) -> ObjectKind {
        match self {
            Self::Domain(_) => ObjectKind::Domain,
            Self::RouteSet(_) => ObjectKind::RouteSet,
            Self::Pool(_) => ObjectKind::Pool,
            Self::Endpoint(..) => ObjectKind::Endpoint,
            Self::TrafficPolicy(_) => ObjectKind::TrafficPolicy,
            Self::Certificate(_) => ObjectKind::Certificate,
            Self::Blackhole(_) => ObjectKind::Blackhole,
        }
    }
}

impl std::fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Domain(name) => write!(f, "domain/{name}"),
            Self::RouteSet(id) => write!(f, "route_set/{id}"),
            Self::Pool(id) => write!(f, "pool/{id}"),
            Self::Endpoint(pool, key) => write!(f, "endpoint/{pool}/{key}"),
            Self::TrafficPolicy(id) => write!(f, "traffic_policy/{id}"),
            Self::Certificate(id) => write!(f, "certificate/{id}"),
            Self::Blackhole(BlackholeTarget::Source { network, bits }) => {
                write!(f, "blackhole/{network}/{bits}")
            }
            Self::Blackhole(BlackholeTarget::Domain(name)) => write!(f, "blackhole/{name}"),
        }
    }
}
