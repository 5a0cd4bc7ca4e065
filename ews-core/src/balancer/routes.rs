//! Routes: which requests a rule takes, what it changes on the way, and where they go.
//!
//! The words are those of Kubernetes' Gateway API where it has one, since whoever writes rules has read it.

use serde::{Deserialize, Serialize};

use crate::balancer::HashOn;
use crate::id::{PoolId, RouteSetId, TrafficPolicyId};

/// Routes, tried in order of precision: exact path, regular expressions in the order written, longest prefix; among equals,
/// the one with more attributes, then the one that names methods, then the first one written. A rule whose conditions do not
/// hold is passed over for the next one, a shorter prefix included.
///
/// Expressions come before prefixes, as in nginx and Envoy Gateway: a set that ends with `/` would reach none otherwise.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct RouteSet {
    /// Its id.
    pub id: RouteSetId,
    /// The rules.
    pub rules: Vec<RouteRule>,
}

impl RouteSet {
    /// These rules under this id.
    pub fn new(id: RouteSetId, rules: impl IntoIterator<Item = RouteRule>) -> Self {
        Self { id, rules: rules.into_iter().collect() }
    }
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
    /// What is changed on the way, in this order. At most 16. They need the capability `route_filters`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub filters: Vec<RouteFilter>,
    /// What holds for its requests, in place of the domain's policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<TrafficPolicyId>,
    /// What decides which of several pools gets a request. Default: chance, by weight. With a hash, equal requests go to the
    /// same pool as long as the weights stay: a user sees one revision. Where the weight of the last pool grows, it gains
    /// users and loses none. Needs the capability `balance_hash`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split_by: Option<HashOn>,
    /// Where it goes.
    pub action: RouteAction,
}

impl RouteRule {
    /// Every method of this path goes there.
    pub fn new(path: PathMatch, action: RouteAction) -> Self {
        Self {
            path,
            methods: Vec::new(),
            attributes: Vec::new(),
            filters: Vec::new(),
            policy: None,
            split_by: None,
            action,
        }
    }

    /// With this of a request deciding which of several pools gets it.
    #[must_use]
    pub fn split_by(mut self, what: HashOn) -> Self {
        self.split_by = Some(what);
        self
    }

    /// Only these methods.
    #[must_use]
    pub fn methods<T: Into<String>>(mut self, methods: impl IntoIterator<Item = T>) -> Self {
        self.methods = methods.into_iter().map(Into::into).collect();
        self
    }

    /// Only where this matches, too.
    #[must_use]
    pub fn attribute(mut self, attribute: AttributeMatch) -> Self {
        self.attributes.push(attribute);
        self
    }

    /// With this change on the way, after those that are there.
    #[must_use]
    pub fn filter(mut self, filter: RouteFilter) -> Self {
        self.filters.push(filter);
        self
    }

    /// Under this policy.
    #[must_use]
    pub fn policy(mut self, policy: TrafficPolicyId) -> Self {
        self.policy = Some(policy);
        self
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
    /// What this regular expression, in the syntax of the crate `regex`, matches from its start to its end.
    Regex(String),
}

/// What is changed on the way. The names are those of Kubernetes' Gateway API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum RouteFilter {
    /// Headers of the request as the endpoint gets it.
    RequestHeaders(HeaderEdits),
    /// Headers of the response as the client gets it.
    ResponseHeaders(HeaderEdits),
    /// Host and path of the request as the endpoint gets it.
    Rewrite(Rewrite),
}

/// Changes of headers: first those that go, then those that are set, then those that are added.
///
/// What frames a message or belongs to one connection can't be edited: `Host` (see [`Rewrite`]), `Content-Length`,
/// `Transfer-Encoding`, `Connection`, `Upgrade`, `TE`, `Trailer`, `Keep-Alive` and the `Proxy-` headers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct HeaderEdits {
    /// These have this value and no other.
    pub set: Vec<HeaderField>,
    /// These get this value beside what they have.
    pub add: Vec<HeaderField>,
    /// These go.
    pub remove: Vec<String>,
}

impl HeaderEdits {
    /// No changes yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// This header has this value and no other.
    #[must_use]
    pub fn with_set(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.set.push(HeaderField::new(name, value));
        self
    }

    /// This header gets this value beside what it has.
    #[must_use]
    pub fn with_added(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.add.push(HeaderField::new(name, value));
        self
    }

    /// This header goes.
    #[must_use]
    pub fn with_removed(mut self, name: impl Into<String>) -> Self {
        self.remove.push(name.into());
        self
    }
}

/// A header's name and value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeaderField {
    /// The name, in any case.
    pub name: String,
    /// The value.
    pub value: String,
}

impl HeaderField {
    /// This header.
    pub fn new(name: impl Into<String>, value: impl Into<String>) -> Self {
        Self { name: name.into(), value: value.into() }
    }
}

/// Another host or path than the client asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Rewrite {
    /// The host, with a port or without.
    pub host: Option<String>,
    /// The path; the query stays.
    pub path: Option<PathRewrite>,
}

impl Rewrite {
    /// This host in place of the client's.
    #[must_use]
    pub fn with_host(mut self, host: impl Into<String>) -> Self {
        self.host = Some(host.into());
        self
    }

    /// This path in place of the client's.
    #[must_use]
    pub fn with_path(mut self, path: PathRewrite) -> Self {
        self.path = Some(path);
        self
    }
}

/// Another path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum PathRewrite {
    /// This one, whole.
    Full(String),
    /// This in place of the prefix that the rule matches, which must be a prefix then: `/api` to `/` makes `/api/x` to `/x`.
    Prefix(String),
}

/// Something of a request, other than its host, path and method.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct AttributeMatch {
    /// Where to look.
    pub place: AttributePlace,
    /// The name there.
    pub name: String,
    /// The value; `None`: any.
    pub value: Option<String>,
}

impl AttributeMatch {
    /// What has this name there, whatever its value.
    pub fn new(place: AttributePlace, name: impl Into<String>) -> Self {
        Self { place, name: name.into(), value: None }
    }

    /// Only with this value.
    #[must_use]
    pub fn with_value(mut self, value: impl Into<String>) -> Self {
        self.value = Some(value.into());
        self
    }
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
    /// To these pools, each once and at least one, in proportion to their weights. All zero: nobody gets it, 503.
    Forward(Vec<WeightedPool>),
    /// To another address, with status 301, 302, 303, 307 or 308.
    Redirect {
        /// The address.
        to: String,
        /// The status.
        status: u16,
    },
    /// To what the client asked for with some of it changed, such as `https` in place of `http`. Needs the capability
    /// `route_filters`.
    RedirectTo(RedirectTo),
    /// It is answered by the balancer itself.
    Respond {
        /// The status.
        status: u16,
        /// The body; at most 64 KiB.
        body: String,
    },
}

/// Where a client is sent: what it asked for, but for what is said here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct RedirectTo {
    /// The scheme, `http` or `https`. Default: the client's.
    #[serde(default)]
    pub scheme: Option<String>,
    /// The host, without a port. Default: the client's.
    #[serde(default)]
    pub host: Option<String>,
    /// The port. Default: that of the scheme where one is given, else the client's.
    #[serde(default)]
    pub port: Option<u16>,
    /// The path; the query stays. Default: the client's.
    #[serde(default)]
    pub path: Option<PathRewrite>,
    /// The status: 301, 302, 303, 307 or 308.
    pub status: u16,
}

impl RedirectTo {
    /// To what the client asked for, with this status: 301, 302, 303, 307 or 308.
    pub fn new(status: u16) -> Self {
        Self { scheme: None, host: None, port: None, path: None, status }
    }

    /// To this scheme, `http` or `https`.
    #[must_use]
    pub fn with_scheme(mut self, scheme: impl Into<String>) -> Self {
        self.scheme = Some(scheme.into());
        self
    }

    /// To this host.
    #[must_use]
    pub fn with_host(mut self, host: impl Into<String>) -> Self {
        self.host = Some(host.into());
        self
    }

    /// To this port.
    #[must_use]
    pub fn with_port(mut self, port: u16) -> Self {
        self.port = Some(port);
        self
    }

    /// To this path.
    #[must_use]
    pub fn with_path(mut self, path: PathRewrite) -> Self {
        self.path = Some(path);
        self
    }

    /// To the same over TLS, for good: 308, which keeps the method.
    pub fn https() -> Self {
        Self { scheme: Some("https".to_owned()), host: None, port: None, path: None, status: 308 }
    }
}

/// A pool and its share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct WeightedPool {
    /// The pool.
    pub pool: PoolId,
    /// Its share, 0 to [`Member::MAX_WEIGHT`](crate::balancer::Member::MAX_WEIGHT).
    pub weight: u32,
}

impl WeightedPool {
    /// This pool with this share.
    pub const fn new(pool: PoolId, weight: u32) -> Self {
        Self { pool, weight }
    }
}
