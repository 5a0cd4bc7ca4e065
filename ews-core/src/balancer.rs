//! The `Balancer` contract: whatever moves traffic.
//!
//! A balancer holds objects, each with a version: domains point to route sets, rules of route sets point to pools, pools hold
//! endpoints. Routes and pools are shared, so that changing an app's pool touches none of its thousand domains. A
//! [`Change`] names the versions it was made from, so that unrelated changes never collide, and an id, so that a replay is
//! harmless. What was applied is one thing; what each gateway serves is another, and [`observe`](Balancer::observe) says it
//! per gateway.
//!
//! An endpoint is keyed by instance, incarnation and port: whoever gets the same address next inherits nothing.
//!
//! [`BalancerExt`] builds the two moves of a rollout on it: [`shift`](BalancerExt::shift) weights, and
//! [`drain`](BalancerExt::drain) an endpoint with proof.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use futures_core::stream::BoxStream;
use futures_util::StreamExt as _;
use serde::{Deserialize, Serialize};

use crate::capability::{Capability, CapabilitySet};
use crate::endpoint::{Endpoint, EndpointKey};
use crate::error::{Error, ErrorKind, Result};
use crate::event::Notice;
use crate::id::{CertificateId, ChangeId, GatewayId, PoolId, RouteSetId, TrafficPolicyId};
use crate::spec::content::SecretRef;
use crate::spec::network::Protocol;
use crate::time::Timestamp;

/// Whatever moves traffic.
///
/// Dropping a future abandons the wait, not the operation; an error says with `maybe_applied` when it may have happened.
#[async_trait]
pub trait Balancer: Send + Sync + 'static {
    /// What it can do. An operation beyond it is refused, never dropped.
    fn capabilities(&self) -> CapabilitySet;

    /// Applies a change: all of it, or none of it and an error.
    ///
    /// The id of a change that was applied before gives the same result again and changes nothing, for at least the last
    /// 1,000 changes and across restarts.
    ///
    /// # Errors
    /// `Stale` where a precondition does not hold; `AlreadyExists` where an id comes back with another change; `Invalid` for
    /// an object that refers to one that is not there, or for the deletion of one that others refer to; `Unsupported`;
    /// `OutOfResources` beyond the balancer's limits; `Unavailable` with `maybe_applied` where it is not known.
    async fn apply(&self, change: &Change) -> Result<Applied>;

    /// The objects of these kinds as applied, ordered by reference; at most `limit` after `after`.
    async fn objects(&self, query: &ObjectQuery) -> Result<Vec<Stored>>;

    /// What each gateway serves and sees now. A gateway that does not answer is listed so, not left out.
    async fn observe(&self, query: &ObserveQuery) -> Result<Vec<GatewayView>>;

    /// Hints that an object was changed or that what a gateway sees of an endpoint has changed. The queue is bounded: a slow
    /// consumer gets a [`Gap`](crate::event::Gap).
    async fn watch(&self) -> Result<BoxStream<'static, Notice<BalancerEvent>>>;
}

/// Operations that happen together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Change {
    /// Its id; choose it from what causes the change, so that a successor that repeats it says the same.
    pub id: ChangeId,
    /// What must hold before. Objects that are not named may be at any version.
    #[serde(default)]
    pub preconditions: Vec<Precondition>,
    /// What is done, in order. At most [`Change::MAX_OPS`].
    pub ops: Vec<Op>,
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
    /// Creates or replaces an object.
    Put(Object),
    /// Removes an object; nothing happens where there is none. Removing a pool removes its endpoints.
    Delete(ObjectRef),
    /// Sets only the weight of an endpoint that is there.
    Weight {
        /// Its pool.
        pool: PoolId,
        /// Which endpoint.
        endpoint: EndpointKey,
        /// The new weight, 0 to [`Member::MAX_WEIGHT`].
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

/// An object of a balancer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Object {
    /// A host name.
    Domain(Domain),
    /// A set of routes.
    RouteSet(RouteSet),
    /// A pool.
    Pool(Pool),
    /// An endpoint of a pool.
    Endpoint(Member),
    /// A traffic policy.
    TrafficPolicy(TrafficPolicy),
    /// A certificate.
    Certificate(Certificate),
    /// A blackhole.
    Blackhole(Blackhole),
}

impl Object {
    /// Its name.
    pub fn reference(&self) -> ObjectRef {
        match self {
            Self::Domain(domain) => ObjectRef::Domain(domain.name.clone()),
            Self::RouteSet(set) => ObjectRef::RouteSet(set.id.clone()),
            Self::Pool(pool) => ObjectRef::Pool(pool.id.clone()),
            Self::Endpoint(member) => ObjectRef::Endpoint(member.pool.clone(), member.endpoint.key.clone()),
            Self::TrafficPolicy(policy) => ObjectRef::TrafficPolicy(policy.id.clone()),
            Self::Certificate(certificate) => ObjectRef::Certificate(certificate.id.clone()),
            Self::Blackhole(blackhole) => ObjectRef::Blackhole(blackhole.target.clone()),
        }
    }
}

/// A host name that traffic asks for: `shop.example`, `*.shop.example`, or `*` for every other.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct DomainName(String);

impl DomainName {
    /// Checks and takes a host name; upper case becomes lower case.
    ///
    /// # Errors
    /// `Invalid`, saying what is accepted.
    pub fn new(text: &str) -> Result<Self> {
        let lower = text.to_ascii_lowercase();
        let host = lower.strip_prefix("*.").unwrap_or(&lower);
        let label = |part: &str| {
            let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
            (1..=63).contains(&part.len())
                && part.starts_with(plain)
                && part.ends_with(plain)
                && part.chars().all(|c| plain(c) || c == '-' || c == '_')
        };
        if lower == "*" || (lower.len() <= 253 && host.split('.').all(label)) {
            return Ok(Self(lower));
        }
        Err(Error::invalid(format!(
            "`{}` is not a host name; accepted: labels of letters, digits, `-` and `_` joined by `.`, at most 253 characters, \
             optionally with `*.` in front, or `*` alone (an international name in its `xn--` form)",
            crate::time::Shown(text)
        )))
    }

    /// The name in lower case.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it stands for several names.
    pub fn is_wildcard(&self) -> bool {
        self.0.starts_with('*')
    }
}

impl std::fmt::Display for DomainName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for DomainName {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::new(&text).map_err(|error| serde::de::Error::custom(error.message()))
    }
}

/// A host name and what serves it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Domain {
    /// The name.
    pub name: DomainName,
    /// Its routes.
    pub routes: RouteSetId,
    /// The certificate that ends TLS for it.
    #[serde(default)]
    pub certificate: Option<CertificateId>,
    /// What holds for all its requests.
    #[serde(default)]
    pub policy: Option<TrafficPolicyId>,
}

/// Routes, tried in order of precision: exact path, longest prefix, regular expressions in the order written; among equals,
/// the one with more attributes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouteSet {
    /// Its id.
    pub id: RouteSetId,
    /// The rules.
    pub rules: Vec<RouteRule>,
}

/// Which requests, and where they go.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct RouteRule {
    /// The path that is asked for.
    pub path: PathMatch,
    /// The methods. Empty: all.
    #[serde(default)]
    pub methods: Vec<String>,
    /// What else must match, all of it.
    #[serde(default)]
    pub attributes: Vec<AttributeMatch>,
    /// Where it goes.
    pub action: RouteAction,
}

impl RouteRule {
    /// Every method of this path goes there.
    pub fn new(path: PathMatch, action: RouteAction) -> Self {
        Self { path, methods: Vec::new(), attributes: Vec::new(), action }
    }
}

/// Which paths.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum PathMatch {
    /// This one.
    Exact(String),
    /// This one and what lies below it: `/api` takes in `/api` and `/api/x`, not `/apis`.
    Prefix(String),
    /// What this regular expression matches from its start to its end.
    Regex(String),
}

/// Something of a request, other than its host, path and method.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttributeMatch {
    /// Where to look.
    pub place: AttributePlace,
    /// The name there.
    pub name: String,
    /// The value; `None`: any.
    pub value: Option<String>,
}

/// Where an attribute of a request stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum AttributePlace {
    /// A header.
    Header,
    /// A cookie.
    Cookie,
    /// A parameter of the query.
    Query,
}

/// Where a request goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum RouteAction {
    /// To these pools, in proportion to their weights. All zero: nobody gets it, 503.
    Forward(Vec<WeightedPool>),
    /// To another address, with a status from 301 to 308.
    Redirect {
        /// The address.
        to: String,
        /// The status.
        status: u16,
    },
    /// It is answered by the balancer itself.
    Respond {
        /// The status.
        status: u16,
        /// The body; at most 64 KiB.
        body: String,
    },
}

/// A pool and its share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WeightedPool {
    /// The pool.
    pub pool: PoolId,
    /// Its share, 0 to [`Member::MAX_WEIGHT`].
    pub weight: u32,
}

/// A pool of endpoints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Pool {
    /// Its id.
    pub id: PoolId,
    /// What its endpoints speak.
    pub protocol: PoolProtocol,
    /// How an endpoint is chosen. Default: peak EWMA.
    #[serde(default)]
    pub algorithm: Algorithm,
    /// What its requests are counted under besides the pool, such as the service and the revision. The keys are the caller's.
    #[serde(default)]
    pub labels: crate::Labels,
}

impl Pool {
    /// A pool of HTTP/1.1 endpoints.
    pub fn new(id: PoolId) -> Self {
        Self {
            id,
            protocol: PoolProtocol::Http1,
            algorithm: Algorithm::default(),
            labels: crate::Labels::default(),
        }
    }
}

/// What the endpoints of a pool speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum PoolProtocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 without TLS.
    H2c,
    /// Bytes over TCP.
    Tcp,
}

/// How an endpoint is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Algorithm {
    /// The better of two random ones by peak EWMA of latency times requests in flight.
    #[default]
    PeakEwma,
    /// The better of two random ones by requests in flight.
    LeastRequest,
    /// In turn, by weight.
    RoundRobin,
}

/// An endpoint in a pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Member {
    /// Its pool.
    pub pool: PoolId,
    /// The endpoint.
    pub endpoint: Endpoint,
    /// Its share within the pool, 0 to [`Member::MAX_WEIGHT`]. 0 gets no new traffic. Default 100.
    pub weight: u32,
    /// Whether it gets traffic.
    #[serde(default)]
    pub state: MemberState,
}

impl Member {
    /// The largest weight (Alibaba's and HAProxy's are 100 and 256; this leaves room for fine canaries).
    pub const MAX_WEIGHT: u32 = 10_000;

    /// An active endpoint of weight 100.
    pub fn new(pool: PoolId, endpoint: Endpoint) -> Self {
        Self { pool, endpoint, weight: 100, state: MemberState::Active }
    }

    /// With this weight.
    #[must_use]
    pub fn weight(mut self, weight: u32) -> Self {
        self.weight = weight;
        self
    }
}

/// Whether an endpoint gets traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum MemberState {
    /// It gets traffic by its weight.
    #[default]
    Active,
    /// It finishes what it has and gets nothing new, not even from sticky clients.
    Draining,
    /// What it has is closed now.
    Closed,
}

/// What holds for requests whatever serves them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct TrafficPolicy {
    /// Its id.
    pub id: TrafficPolicyId,
    /// How long a request may take until its response begins. Default: the balancer's.
    #[serde(default, with = "crate::time::duration::option")]
    pub request_timeout: Option<Duration>,
    /// How often a request that was not sent, or is idempotent, is tried elsewhere. Default: the balancer's.
    #[serde(default)]
    pub retries: Option<u32>,
    /// The largest request body, in bytes. Default: the balancer's.
    #[serde(default)]
    pub max_body: Option<u64>,
    /// Requests per second that one client address may make. Default: unlimited.
    #[serde(default)]
    pub rate_per_client: Option<u32>,
}

impl TrafficPolicy {
    /// A policy that leaves all to the balancer.
    pub fn new(id: TrafficPolicyId) -> Self {
        Self { id, request_timeout: None, retries: None, max_body: None, rate_per_client: None }
    }
}

/// A certificate and its key, by reference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    /// Its id.
    pub id: CertificateId,
    /// The chain, PEM, the leaf first.
    pub chain: SecretRef,
    /// The private key, PEM.
    pub key: SecretRef,
}

/// What is dropped before it costs anything.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Blackhole {
    /// What is dropped.
    pub target: BlackholeTarget,
    /// Until when; a balancer forgets it by itself.
    pub until: Timestamp,
}

/// What a blackhole drops.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum BlackholeTarget {
    /// Clients of this network.
    Source {
        /// The network's address.
        network: std::net::IpAddr,
        /// How many of its bits count.
        bits: u8,
    },
    /// Requests for this host name.
    Domain(DomainName),
}

/// That a change was applied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// The generation that the balancer reached with it. Each change raises it.
    pub generation: u64,
    /// The versions of the objects that it left behind; a deleted one is not listed.
    pub versions: BTreeMap<String, u64>,
}

/// An object as applied.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stored {
    /// Its version; it starts at 1 and grows, and does not start again when it is deleted and made anew.
    pub version: u64,
    /// The object.
    pub object: Object,
}

/// Which objects.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ObjectQuery {
    /// Of which kinds. Empty: all.
    pub kinds: Vec<ObjectKind>,
    /// Endpoints of this pool only.
    pub pool: Option<PoolId>,
    /// Only after this one.
    pub after: Option<ObjectRef>,
    /// At most so many; a balancer may return fewer, at least one where there is one.
    pub limit: usize,
}

impl ObjectQuery {
    /// All of these kinds.
    pub fn kinds(kinds: impl IntoIterator<Item = ObjectKind>) -> Self {
        Self { kinds: kinds.into_iter().collect(), pool: None, after: None, limit: 1_000 }
    }

    /// The endpoints of this pool.
    pub fn pool(pool: PoolId) -> Self {
        Self { pool: Some(pool), ..Self::kinds([ObjectKind::Endpoint]) }
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

/// What is to be observed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ObserveQuery {
    /// Only this pool. Default: every pool.
    pub pool: Option<PoolId>,
    /// Only these endpoints. Empty: every one.
    pub endpoints: Vec<EndpointKey>,
}

impl ObserveQuery {
    /// This endpoint of this pool.
    pub fn endpoint(pool: PoolId, endpoint: EndpointKey) -> Self {
        Self { pool: Some(pool), endpoints: vec![endpoint] }
    }
}

/// What one gateway serves and sees.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct GatewayView {
    /// Which gateway.
    pub gateway: GatewayId,
    /// The generation that it serves; `None` where it does not answer.
    pub generation: Option<u64>,
    /// What it sees of the endpoints that were asked for. An endpoint it does not know is left out.
    pub endpoints: Vec<EndpointView>,
}

impl GatewayView {
    /// A gateway that serves this generation; for drivers.
    pub fn new(gateway: GatewayId, generation: Option<u64>, endpoints: Vec<EndpointView>) -> Self {
        Self { gateway, generation, endpoints }
    }
}

/// What one gateway sees of one endpoint. Counters start at zero when the gateway learns of the endpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct EndpointView {
    /// Its pool.
    pub pool: PoolId,
    /// Which endpoint.
    pub endpoint: EndpointKey,
    /// What it speaks.
    pub protocol: Protocol,
    /// The state that the gateway acts by.
    pub state: MemberState,
    /// The weight that the gateway acts by.
    pub weight: u32,
    /// Requests or connections under way; `None` where the gateway can't count.
    pub in_flight: Option<u64>,
    /// Requests or connections so far.
    pub requests: Option<u64>,
    /// How many of them failed: no answer, or a status of 500 and above.
    pub errors: Option<u64>,
    /// Whether the gateway's own checks let it get traffic; `None` where it makes none.
    pub healthy: Option<bool>,
    /// How many requests or connections were closed by force since it began to drain.
    pub forced: Option<u64>,
}

impl EndpointView {
    /// An endpoint of which the gateway knows only state and weight; for drivers.
    pub fn new(pool: PoolId, endpoint: EndpointKey, state: MemberState, weight: u32) -> Self {
        Self {
            pool,
            endpoint,
            protocol: Protocol::Tcp,
            state,
            weight,
            in_flight: None,
            requests: None,
            errors: None,
            healthy: None,
            forced: None,
        }
    }
}

/// Something changed at a balancer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum BalancerEvent {
    /// A change was applied.
    Applied {
        /// Which.
        change: ChangeId,
        /// The generation reached.
        generation: u64,
    },
    /// A gateway serves this generation now.
    Serving {
        /// Which gateway.
        gateway: GatewayId,
        /// The generation.
        generation: u64,
    },
    /// A gateway's own checks changed their mind about an endpoint.
    EndpointHealth {
        /// Which gateway.
        gateway: GatewayId,
        /// Its pool.
        pool: PoolId,
        /// Which endpoint.
        endpoint: EndpointKey,
        /// Whether it may get traffic.
        healthy: bool,
    },
    /// A draining endpoint has nothing under way any more at this gateway.
    Idle {
        /// Which gateway.
        gateway: GatewayId,
        /// Its pool.
        pool: PoolId,
        /// Which endpoint.
        endpoint: EndpointKey,
    },
}

/// How a drain ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Drained {
    /// Every gateway said that nothing is under way any more.
    Drained,
    /// So many requests or connections were closed at the deadline.
    Forced(u64),
    /// The deadline passed and the balancer can't count what is under way.
    Elapsed,
}

/// The two moves of a rollout, built on [`Balancer`].
#[async_trait]
pub trait BalancerExt: Balancer {
    /// Sets the shares of a rule's pools, leaving all else of the route set as it is.
    ///
    /// # Errors
    /// `NotFound` for a route set or a pool that the rule does not have; `Stale` where the set changed meanwhile; those of
    /// [`Balancer::apply`].
    async fn shift(&self, change: ChangeId, set: &RouteSetId, weights: &[WeightedPool]) -> Result<Applied> {
        let wanted = ObjectRef::RouteSet(set.clone());
        let mut query = ObjectQuery::kinds([ObjectKind::RouteSet]);
        let (version, mut routes) = 'found: loop {
            let page = self.objects(&query).await?;
            let Some(last) = page.last().map(|stored| stored.object.reference()) else {
                return Err(Error::not_found("route set", set).with_operation("balancer.shift"));
            };
            for stored in page {
                if let Object::RouteSet(routes) = stored.object
                    && routes.id == *set
                {
                    break 'found (stored.version, routes);
                }
            }
            query = query.after(last);
        };
        for WeightedPool { pool, weight } in weights {
            let mut known = false;
            for rule in &mut routes.rules {
                let RouteAction::Forward(pools) = &mut rule.action else { continue };
                for entry in pools.iter_mut().filter(|entry| entry.pool == *pool) {
                    entry.weight = *weight;
                    known = true;
                }
            }
            if !known {
                return Err(Error::not_found("pool in the route set", pool)
                    .with_operation("balancer.shift")
                    .with_context("route_set", set));
            }
        }
        let change = Change::new(change, [Op::Put(Object::RouteSet(routes))]).expect(wanted, Some(version));
        self.apply(&change).await
    }

    /// Takes an endpoint out of traffic and waits until nothing of it is under way at any gateway, at most for `deadline`;
    /// what is left then is closed where the balancer can.
    ///
    /// `change` is extended by `.drain` and `.close` for the changes that it makes. An endpoint that is not there is drained.
    /// A gateway that does not answer is not proof: it counts as busy until the deadline.
    ///
    /// # Errors
    /// Those of [`Balancer::apply`] and [`Balancer::observe`].
    async fn drain(
        &self,
        change: &ChangeId,
        pool: &PoolId,
        endpoint: &EndpointKey,
        deadline: Duration,
    ) -> Result<Drained> {
        /// How often the gateways are asked when no event says that it is worth it.
        const POLL: Duration = Duration::from_millis(500);

        let step = |name: &str| ChangeId::new(format!("{change}.{name}"));
        let set = |state| Op::State { pool: pool.clone(), endpoint: endpoint.clone(), state };
        let counts = self.capabilities().has(Capability::InFlight);
        let mut events = self.watch().await?;
        let started = tokio::time::Instant::now();
        match self.apply(&Change::new(step("drain")?, [set(MemberState::Draining)])).await {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Drained::Drained),
            Err(error) => return Err(error),
        }
        let query = ObserveQuery::endpoint(pool.clone(), endpoint.clone());
        let mut left = None;
        loop {
            if counts {
                let views = self.observe(&query).await?;
                left = in_flight(&views);
                if left == Some(0) {
                    return Ok(Drained::Drained);
                }
            }
            let Some(rest) = deadline.checked_sub(started.elapsed()).filter(|rest| !rest.is_zero()) else {
                break;
            };
            // An event only shortens the pause: after a gap, or when the stream ends, the poll still comes.
            let pause = tokio::time::sleep(rest.min(POLL));
            let pause = std::pin::pin!(pause);
            let next = events.next();
            let next = std::pin::pin!(next);
            if let futures_util::future::Either::Left((None, _)) =
                futures_util::future::select(next, pause).await
            {
                tokio::time::sleep(rest.min(POLL)).await;
            }
        }
        if self.capabilities().has(Capability::ForceClose) {
            self.apply(&Change::new(step("close")?, [set(MemberState::Closed)])).await?;
            let views = self.observe(&query).await?;
            let forced: Option<u64> = views.iter().flat_map(|view| &view.endpoints).map(|e| e.forced).sum();
            return Ok(forced.or(left).map_or(Drained::Elapsed, Drained::Forced));
        }
        Ok(Drained::Elapsed)
    }
}

/// What is under way at all gateways together; `None` where one does not answer or does not know.
fn in_flight(views: &[GatewayView]) -> Option<u64> {
    let mut sum = 0_u64;
    for view in views {
        view.generation?;
        for endpoint in &view.endpoints {
            // An endpoint that still stands as active has not heard of the drain yet.
            if endpoint.state == MemberState::Active {
                return None;
            }
            sum = sum.saturating_add(endpoint.in_flight?);
        }
    }
    Some(sum)
}

impl<T: Balancer + ?Sized> BalancerExt for T {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_names() {
        for good in ["shop.example", "*.shop.example", "*", "a", "xn--fiq228c.example", "SHOP.Example"] {
            assert!(DomainName::new(good).is_ok(), "{good}");
        }
        for bad in
            ["", ".", "a..b", "shop.example.", "*shop", "a.*.b", "shop example", "店.example", "a/b", "-a"]
        {
            assert!(DomainName::new(bad).is_err(), "{bad}");
        }
        assert_eq!(DomainName::new("SHOP.Example").unwrap().as_str(), "shop.example");
    }
}
