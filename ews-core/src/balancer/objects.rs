//! The objects of a balancer: domains, pools, endpoints, policies, certificates, blackholes; routes are next door.
//!
//! Domains point to route sets, rules of route sets point to pools, pools hold endpoints. Routes and pools are shared, so
//! that changing an app's pool touches none of its thousand domains. What an object may hold is checked in one place, by
//! [`Object::check`](crate::balancer::Object::check).

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::balancer::{ObjectRef, RouteSet, TrafficPolicy};
use crate::endpoint::{Endpoint, EndpointAddress};
use crate::error::{Error, Result};
use crate::id::{CertificateId, PoolId, RouteSetId, TrafficPolicyId};
use crate::spec::content::SecretRef;
use crate::spec::probe::StatusRange;
use crate::time::Timestamp;

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
#[non_exhaustive]
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

fn is_default(hash_on: &HashOn) -> bool {
    *hash_on == HashOn::default()
}

impl Domain {
    /// This name, served by these routes; no certificate, no policy of its own.
    pub fn new(name: DomainName, routes: RouteSetId) -> Self {
        Self { name, routes, certificate: None, policy: None }
    }

    /// With this certificate, or none.
    #[must_use]
    pub fn with_certificate(mut self, certificate: impl Into<Option<CertificateId>>) -> Self {
        self.certificate = certificate.into();
        self
    }

    /// Under this policy, or none.
    #[must_use]
    pub fn with_policy(mut self, policy: impl Into<Option<TrafficPolicyId>>) -> Self {
        self.policy = policy.into();
        self
    }
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
    /// How an endpoint is chosen. Default: as the balancer does it best.
    #[serde(default)]
    pub algorithm: Algorithm,
    /// What algorithms by hash look at.
    #[serde(default, skip_serializing_if = "is_default")]
    pub hash_on: HashOn,
    /// Whether clients are brought back to their endpoint. Needs the capability `sticky`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sticky: Option<Sticky>,
    /// Over how long an endpoint that is new gets from a tenth up to its whole share; for algorithms that draw (`auto`,
    /// `peak_ewma`). Default: at once. Needs the capability `slow_start`.
    #[serde(default, with = "crate::time::duration::option", skip_serializing_if = "Option::is_none")]
    pub slow_start: Option<Duration>,
    /// Whether endpoints that answer with errors are passed over for a while. Default: only those that can't be connected to.
    /// Needs the capability `endpoint_health`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outlier: Option<Outlier>,
    /// What its requests are counted under besides the pool, such as the service and the revision. The keys are the caller's.
    #[serde(default)]
    pub labels: crate::Labels,
    /// What becomes of requests while no endpoint may get any, such as while its only instance is replaced. Default: they are
    /// answered with 503. Needs the capability `traffic_policies`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<Hold>,
    /// How endpoints are tried at regular times. One that is new gets nothing until it has passed, unless there is no other.
    /// Default: not at all. Needs the capability `active_checks`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<Box<HealthCheck>>,
    /// Requests under way at once at one endpoint, from each gateway; 1 to 1,000,000. Where all have as many, requests wait as
    /// `hold` lets them, else: 503. Threads look without a lock, so that a few more may slip in at once. Default: unlimited
    /// (HAProxy's `maxconn` of a server). Needs the capability `in_flight`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_in_flight: Option<u32>,
    /// How endpoints are told whom a connection is from, before its first byte; for pools that speak `tcp`. Default: not at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy_protocol: Option<ProxyProtocol>,
    /// How TLS is spoken to endpoints. Default: not at all. Needs the capability `upstream_tls`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Box<UpstreamTls>>,
}

/// TLS towards endpoints. Their certificates are always verified.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct UpstreamTls {
    /// Certificates, PEM, one of which must have signed an endpoint's own. Default: those that the balancer's system trusts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<SecretRef>,
    /// The name that is asked for, and that the endpoint's certificate must be for. Default: the endpoint's own
    /// name, or its address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
    /// How the balancer proves itself. Default: not at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<ClientCertificate>,
}

/// A certificate that a balancer shows to endpoints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct ClientCertificate {
    /// The chain, PEM, the leaf first.
    pub chain: SecretRef,
    /// The private key, PEM.
    pub key: SecretRef,
}

impl ClientCertificate {
    /// This chain and its key.
    pub fn new(chain: SecretRef, key: SecretRef) -> Self {
        Self { chain, key }
    }
}

impl UpstreamTls {
    /// Endpoints whose certificates one of these has signed, for their names or addresses.
    pub fn new(ca: SecretRef) -> Self {
        Self { ca: Some(ca), server_name: None, client: None }
    }

    /// Endpoints whose certificates are signed by whom the balancer's system trusts, for their names or addresses.
    pub fn public() -> Self {
        Self { ca: None, server_name: None, client: None }
    }

    /// Certificates must be for this name.
    #[must_use]
    pub fn with_server_name(mut self, name: impl Into<String>) -> Self {
        self.server_name = Some(name.into());
        self
    }

    /// Proving itself so.
    #[must_use]
    pub fn with_client(mut self, chain: SecretRef, key: SecretRef) -> Self {
        self.client = Some(ClientCertificate { chain, key });
        self
    }
}

/// The PROXY protocol, by version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProxyProtocol {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

/// How endpoints are tried at regular times: by an HTTP/1.1 request, within TLS where the pool has that, or, without a path, by
/// a TCP connection. One at a name is well where one of its addresses is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct HealthCheck {
    /// What is asked for with `GET`, such as `/healthz`. Default: nothing, and a connection is enough.
    pub path: Option<String>,
    /// The `Host` header. Default: the endpoint's address, which may be a name.
    pub host: Option<String>,
    /// Which statuses pass, such as `200-399`. Default `200-299`.
    pub status: StatusRange,
    /// From the end of one try to the start of the next; 100 ms to a day. Default 5 s (nginx Plus; HAProxy 2 s, Traefik 30 s).
    #[serde(with = "crate::time::duration")]
    pub interval: Duration,
    /// After how long a try without an answer has failed; 10 ms to a day. Default 5 s (Traefik).
    #[serde(with = "crate::time::duration")]
    pub timeout: Duration,
    /// How many passes in a row make an endpoint well; 1 to 1,000. Default 1 (nginx Plus; HAProxy 2).
    pub success: u32,
    /// How many failures in a row make it unwell; 1 to 1,000. Default 3 (HAProxy; nginx Plus 1).
    pub failure: u32,
}

impl Default for HealthCheck {
    fn default() -> Self {
        Self {
            path: None,
            host: None,
            status: StatusRange::default(),
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(5),
            success: 1,
            failure: 3,
        }
    }
}

impl HealthCheck {
    /// `GET` of this path, with the default times.
    pub fn http(path: impl Into<String>) -> Self {
        Self { path: Some(path.into()), ..Self::default() }
    }

    /// With so much time from one try to the next.
    #[must_use]
    pub fn with_interval(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }

    /// With so much time for each try.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// With so many passes and failures in a row that count.
    #[must_use]
    pub fn with_thresholds(mut self, success: u32, failure: u32) -> Self {
        (self.success, self.failure) = (success, failure);
        self
    }

    /// With this `Host` header.
    #[must_use]
    pub fn with_host(mut self, host: impl Into<String>) -> Self {
        self.host = Some(host.into());
        self
    }

    /// With these statuses passing.
    #[must_use]
    pub fn with_status(mut self, status: StatusRange) -> Self {
        self.status = status;
        self
    }
}

/// Requests that wait until an endpoint is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Hold {
    /// How many wait at most; beyond, 503. 1 to 100,000.
    pub requests: u32,
    /// How long each waits at most; then 503. Above zero, at most 10 minutes (kamal-proxy's pause: 30 s).
    #[serde(with = "crate::time::duration")]
    pub wait: Duration,
}

impl Hold {
    /// So many requests, each so long.
    pub const fn new(requests: u32, wait: Duration) -> Self {
        Self { requests, wait }
    }
}

impl Pool {
    /// A pool of HTTP/1.1 endpoints.
    pub fn new(id: PoolId) -> Self {
        Self {
            id,
            protocol: PoolProtocol::Http1,
            algorithm: Algorithm::default(),
            hash_on: HashOn::default(),
            sticky: None,
            slow_start: None,
            outlier: None,
            labels: crate::Labels::default(),
            hold: None,
            check: None,
            max_in_flight: None,
            proxy_protocol: None,
            tls: None,
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
    /// HTTP/2, agreed on within TLS where the pool has that, else with prior knowledge.
    H2c,
    /// Bytes over TCP.
    Tcp,
}

/// How an endpoint is chosen. All take the endpoints' weights into account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Algorithm {
    /// As the balancer does it best; every balancer has this one. EWS's own gateway takes, of two that it draws by weight, the
    /// one with fewer requests in flight for its weight: so shares follow the weights exactly while nobody is busy.
    #[default]
    Auto,
    /// By peak EWMA of latency times requests in flight. Needs the capability `balance_peak_ewma`.
    PeakEwma,
    /// By requests in flight. Needs the capability `balance_least_request`.
    LeastRequest,
    /// In turn, by weight; every balancer has this one.
    RoundRobin,
    /// By the pool's hash, each request asking every endpoint for its score (rendezvous, HRW): an endpoint that goes moves only
    /// its own keys. For pools of at most some hundreds. Needs the capability `balance_hash`.
    Rendezvous,
    /// By the pool's hash and a table (Maglev): one look whatever the size of the pool; an endpoint that goes moves its own keys
    /// and a few others. Needs the capability `balance_hash`.
    Maglev,
}

/// What of a request is hashed, so that equal ones go to the same endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum HashOn {
    /// The client's address.
    #[default]
    ClientAddress,
    /// The path.
    Path,
    /// The first value of this header; without it, the client's address.
    Header(String),
    /// This cookie; without it, the client's address.
    Cookie(String),
}

/// A cookie that brings a client back to the endpoint that it was first given, as long as that may get traffic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Sticky {
    /// The cookie's name. Its value names the endpoint without telling its address.
    pub cookie: String,
    /// How long a browser keeps it. Default: until it is closed.
    #[serde(default, with = "crate::time::duration::option")]
    pub max_age: Option<Duration>,
}

impl Sticky {
    /// A cookie of this name, kept until the browser is closed.
    pub fn new(cookie: impl Into<String>) -> Self {
        Self { cookie: cookie.into(), max_age: None }
    }

    /// Kept for so long.
    #[must_use]
    pub fn with_max_age(mut self, max_age: impl Into<Option<Duration>>) -> Self {
        self.max_age = max_age.into();
        self
    }
}

/// When an endpoint that answers with errors gets nothing for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Outlier {
    /// After so many errors in a row: no answer, or a status of 500 and above. 1 to 1,000. Default 5 (Envoy's
    /// `consecutive_5xx`).
    pub errors: u32,
    /// For how long at first; it doubles each time, up to 5 minutes. Default 30 s (Envoy's `base_ejection_time`).
    #[serde(with = "crate::time::duration")]
    pub eject: Duration,
    /// At most this share of the pool at once, in percent; one endpoint always may be. 0 to 100. Default 10 (Envoy's
    /// `max_ejection_percent`).
    pub max_percent: u32,
}

impl Default for Outlier {
    fn default() -> Self {
        Self { errors: 5, eject: Duration::from_secs(30), max_percent: 10 }
    }
}

impl Outlier {
    /// After so many errors in a row.
    #[must_use]
    pub fn with_errors(mut self, errors: u32) -> Self {
        self.errors = errors;
        self
    }

    /// For so long at first.
    #[must_use]
    pub fn with_eject(mut self, eject: Duration) -> Self {
        self.eject = eject;
        self
    }

    /// At most this share of the pool, in percent.
    #[must_use]
    pub fn with_max_percent(mut self, max_percent: u32) -> Self {
        self.max_percent = max_percent;
        self
    }
}

/// An endpoint in a pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Member {
    /// Its pool.
    pub pool: PoolId,
    /// The endpoint. One at a name needs the capability `endpoint_names`; until the name has been found out, it counts as one
    /// that can't be connected to.
    pub endpoint: Endpoint<EndpointAddress>,
    /// Its share within the pool, 0 to [`Member::MAX_WEIGHT`]. 0 gets no new traffic. Default 100.
    pub weight: u32,
    /// Whether it gets traffic.
    #[serde(default)]
    pub state: MemberState,
}

impl Member {
    /// The weight of an endpoint for which nobody chose one.
    pub const WEIGHT: u32 = 100;

    /// The largest weight (Alibaba's and HAProxy's are 100 and 256; this leaves room for fine canaries).
    pub const MAX_WEIGHT: u32 = 10_000;

    /// An active endpoint of weight 100.
    pub fn new(pool: PoolId, endpoint: impl Into<Endpoint<EndpointAddress>>) -> Self {
        Self { pool, endpoint: endpoint.into(), weight: Self::WEIGHT, state: MemberState::Active }
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
    /// What it has is closed now, and it gets nothing new. Needs the capability `force_close`.
    Closed,
}

/// A certificate and its key, by reference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Certificate {
    /// Its id.
    pub id: CertificateId,
    /// The chain, PEM, the leaf first.
    pub chain: SecretRef,
    /// The private key, PEM.
    pub key: SecretRef,
    /// Certificates, PEM, one of which must have signed a client's own: mutual TLS. Others get no connection, and requests
    /// for the domain on connections that were made for another one get 421. Default: clients prove nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_ca: Option<SecretRef>,
}

impl Certificate {
    /// A chain and its key; clients prove nothing.
    pub fn new(id: CertificateId, chain: SecretRef, key: SecretRef) -> Self {
        Self { id, chain, key, client_ca: None }
    }
}

impl Certificate {
    /// Clients must show a certificate that one of these has signed.
    #[must_use]
    pub fn with_client_ca(mut self, client_ca: impl Into<Option<SecretRef>>) -> Self {
        self.client_ca = client_ca.into();
        self
    }
}

/// What is dropped before it costs anything.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Blackhole {
    /// What is dropped.
    pub target: BlackholeTarget,
    /// Until when; a balancer forgets it by itself, which is no change and raises no generation.
    pub until: Timestamp,
}

impl Blackhole {
    /// This is dropped until then.
    pub fn new(target: BlackholeTarget, until: Timestamp) -> Self {
        Self { target, until }
    }
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
