//! What an object may hold, what it refers to, and which capabilities an operation needs.
//!
//! Texts of routes end up in configuration files and header lines of engines that escape nothing, so what no engine could
//! mean is refused here, once: control characters, paths that do not start with `/`, methods that are no token. What is
//! left may still hold quotes, braces and semicolons: rendering those is each driver's own duty.

use std::net::IpAddr;

use crate::balancer::{
    Algorithm, BlackholeTarget, Member, MemberState, Object, ObjectRef, Op, PathMatch, PoolProtocol,
    RouteAction, RouteRule, RouteSet, WeightedPool,
};
use crate::capability::Capability;
use crate::error::{Error, ErrorKind, Result};
use crate::spec::network::Protocol;
use crate::time::Shown;

/// The longest text in a route: a path, an expression, an attribute, an address.
const MAX_TEXT: usize = 4 * 1024;
/// The longest body that a balancer answers by itself.
const MAX_BODY: usize = 64 * 1024;
/// The most methods, and the most attributes, of one rule.
const MAX_CONDITIONS: usize = 64;

impl Object {
    /// Whether the object is well formed in itself, without regard to what it refers to.
    ///
    /// Regular expressions are checked for length only: whether one compiles is for the balancer to say, with `Invalid`.
    ///
    /// # Errors
    /// `Invalid`, naming the object, what is wrong and what is accepted; `OutOfResources` for a text above its limit.
    pub fn check(&self) -> Result<()> {
        let checked = match self {
            Self::RouteSet(RouteSet { rules, .. }) => rules.iter().try_for_each(check_rule),
            Self::Endpoint(member) => check_member(member),
            Self::Blackhole(blackhole) => check_target(&blackhole.target),
            Self::TrafficPolicy(policy)
                if policy.request_timeout.is_some_and(|timeout| timeout.is_zero()) =>
            {
                Err(Error::invalid("a request timeout of zero; accepted: more than zero, or none"))
            }
            Self::TrafficPolicy(policy) if policy.rate_per_client == Some(0) => {
                Err(Error::invalid("a rate of zero requests per client; accepted: at least 1, or none"))
            }
            _ => Ok(()),
        };
        checked.map_err(|error| error.with_context("object", self.reference()))
    }

    /// What must be there for this object to be.
    pub fn references(&self) -> Vec<ObjectRef> {
        let mut references = Vec::new();
        match self {
            Self::Domain(domain) => {
                references.push(ObjectRef::RouteSet(domain.routes.clone()));
                references.extend(domain.certificate.clone().map(ObjectRef::Certificate));
                references.extend(domain.policy.clone().map(ObjectRef::TrafficPolicy));
            }
            Self::RouteSet(set) => {
                for rule in &set.rules {
                    if let RouteAction::Forward(pools) = &rule.action {
                        references.extend(pools.iter().map(|share| ObjectRef::Pool(share.pool.clone())));
                    }
                }
                // A pool that ten rules forward to is one reference.
                references.sort();
                references.dedup();
            }
            Self::Endpoint(member) => references.push(ObjectRef::Pool(member.pool.clone())),
            Self::Pool(_) | Self::TrafficPolicy(_) | Self::Certificate(_) | Self::Blackhole(_) => {}
        }
        references
    }
}

impl Op {
    /// Whether the operation is well formed in itself.
    ///
    /// # Errors
    /// Those of [`Object::check`]; `Invalid` for a weight above [`Member::MAX_WEIGHT`].
    pub fn check(&self) -> Result<()> {
        match self {
            Self::Put(object) => object.check(),
            Self::Weight { weight, .. } => check_weight(*weight),
            Self::Shares { weights, .. } => check_shares(weights),
            Self::Delete(_) | Self::State { .. } => Ok(()),
        }
        .map_err(|error| error.with_context("op", self.reference()))
    }

    /// The capabilities that a balancer must have to do it. To remove something needs none.
    pub fn needs(&self) -> Vec<Capability> {
        match self {
            Self::Put(object) => object_needs(object),
            Self::Weight { .. } | Self::Shares { .. } => vec![Capability::Weights],
            Self::State { state: MemberState::Closed, .. } => vec![Capability::ForceClose],
            Self::State { .. } | Self::Delete(_) => Vec::new(),
        }
    }
}

fn object_needs(object: &Object) -> Vec<Capability> {
    let mut needs = Vec::new();
    let mut need = |asked: bool, capability: Capability| {
        if asked {
            needs.push(capability);
        }
    };
    match object {
        Object::Domain(domain) => {
            let every_other = domain.name.as_str() == "*";
            need(!every_other, Capability::RouteHost);
            need(!every_other && domain.name.is_wildcard(), Capability::RouteWildcard);
            need(domain.certificate.is_some(), Capability::Tls);
            need(domain.policy.is_some(), Capability::TrafficPolicies);
        }
        Object::RouteSet(set) => {
            for rule in &set.rules {
                match &rule.path {
                    PathMatch::Prefix(path) => need(path != "/", Capability::RoutePath),
                    PathMatch::Exact(_) => need(true, Capability::RoutePath),
                    PathMatch::Regex(_) => need(true, Capability::RouteRegex),
                }
                let attributes = !rule.attributes.is_empty() || !rule.methods.is_empty();
                need(attributes, Capability::RouteAttributes);
                if let RouteAction::Forward(pools) = &rule.action {
                    need(pools.len() > 1, Capability::Weights);
                }
            }
        }
        Object::Pool(pool) => {
            need(pool.protocol == PoolProtocol::Tcp, Capability::TcpRoutes);
            need(pool.algorithm == Algorithm::PeakEwma, Capability::BalancePeakEwma);
            need(pool.algorithm == Algorithm::LeastRequest, Capability::BalanceLeastRequest);
        }
        Object::Endpoint(member) => {
            need(member.weight != Member::WEIGHT, Capability::Weights);
            need(member.state == MemberState::Closed, Capability::ForceClose);
        }
        Object::TrafficPolicy(_) => need(true, Capability::TrafficPolicies),
        Object::Certificate(_) => need(true, Capability::Tls),
        Object::Blackhole(_) => need(true, Capability::Blackhole),
    }
    needs
}

fn check_rule(rule: &RouteRule) -> Result<()> {
    match &rule.path {
        PathMatch::Exact(path) | PathMatch::Prefix(path) => {
            check_text("path", path)?;
            if !path.starts_with('/') || path.contains(['?', '#', ' ']) {
                return Err(Error::invalid(format!(
                    "the path `{}`; accepted: one that starts with `/` and holds no `?`, `#` or space",
                    Shown(path)
                )));
            }
        }
        PathMatch::Regex(expression) => check_text("regular expression", expression)?,
    }
    if rule.methods.len() > MAX_CONDITIONS || rule.attributes.len() > MAX_CONDITIONS {
        return Err(too_much("conditions of a rule", MAX_CONDITIONS));
    }
    for method in &rule.methods {
        // RFC 9110, section 9.1: a method is a token and is case-sensitive; all that are registered are upper case.
        if method.is_empty()
            || method.len() > 32
            || !method.bytes().all(|b| b.is_ascii_uppercase() || b == b'-')
        {
            return Err(Error::invalid(format!(
                "the method `{}`; accepted: 1 to 32 upper-case letters and `-`",
                Shown(method)
            )));
        }
    }
    for attribute in &rule.attributes {
        check_text("name of an attribute", &attribute.name)?;
        if !attribute.name.bytes().all(is_token) || attribute.name.is_empty() {
            return Err(Error::invalid(format!(
                "the attribute name `{}`; accepted: letters, digits and the punctuation of a header name",
                Shown(&attribute.name)
            )));
        }
        check_text("value of an attribute", attribute.value.as_deref().unwrap_or_default())?;
    }
    match &rule.action {
        RouteAction::Forward(pools) if pools.is_empty() => {
            Err(Error::invalid("a rule that forwards to no pool; accepted: at least one"))
        }
        RouteAction::Forward(pools) => check_shares(pools),
        RouteAction::Redirect { to, status } => {
            check_text("address of a redirect", to)?;
            if to.is_empty() || to.contains(' ') || !matches!(status, 301..=303 | 307 | 308) {
                return Err(Error::invalid(format!(
                    "a redirect to `{}` with status {status}; accepted: an address without spaces, and 301, 302, 303, 307 or 308",
                    Shown(to)
                )));
            }
            Ok(())
        }
        RouteAction::Respond { status, .. } if !matches!(status, 200..=599) => {
            Err(Error::invalid(format!("an answer with status {status}; accepted: 200 to 599")))
        }
        RouteAction::Respond { body, .. } if body.len() > MAX_BODY => {
            Err(too_much("bytes of an answer", MAX_BODY))
        }
        RouteAction::Respond { .. } => Ok(()),
    }
}

fn check_shares(shares: &[WeightedPool]) -> Result<()> {
    for (index, share) in shares.iter().enumerate() {
        check_weight(share.weight)?;
        if shares.iter().take(index).any(|earlier| earlier.pool == share.pool) {
            return Err(Error::invalid(format!("the pool `{}` comes twice", share.pool)));
        }
    }
    Ok(())
}

fn check_member(member: &Member) -> Result<()> {
    check_weight(member.weight)?;
    let address = member.endpoint.address;
    if address.port() == 0 || address.ip().is_unspecified() {
        return Err(Error::invalid(format!("the address {address} can't be connected to")));
    }
    if member.endpoint.protocol != Protocol::Tcp {
        return Err(Error::invalid(
            "an endpoint that speaks UDP; accepted: TCP, which is what pools forward",
        ));
    }
    Ok(())
}

fn check_target(target: &BlackholeTarget) -> Result<()> {
    let BlackholeTarget::Source { network, bits } = target else { return Ok(()) };
    let (value, width) = match network {
        IpAddr::V4(address) => (u128::from(u32::from(*address)), 32_u8),
        IpAddr::V6(address) => (u128::from(*address), 128),
    };
    // One network has one name, or a blackhole could not be found again to lift it.
    let host_bits =
        width.checked_sub(*bits).map(|rest| 1_u128.checked_shl(rest.into()).map_or(u128::MAX, |b| b - 1));
    match host_bits {
        Some(mask) if value & mask == 0 => Ok(()),
        _ => Err(Error::invalid(format!(
            "the network {network}/{bits}; accepted: at most {width} bits, and zeros in all that follow them"
        ))),
    }
}

fn check_weight(weight: u32) -> Result<()> {
    if weight > Member::MAX_WEIGHT {
        return Err(Error::invalid(format!("a weight of {weight}; accepted: 0 to {}", Member::MAX_WEIGHT)));
    }
    Ok(())
}

fn check_text(what: &str, text: &str) -> Result<()> {
    if text.len() > MAX_TEXT {
        return Err(too_much(what, MAX_TEXT));
    }
    if text.chars().any(char::is_control) {
        return Err(Error::invalid(format!("the {what} `{}` holds a control character", Shown(text))));
    }
    Ok(())
}

fn too_much(what: &str, limit: usize) -> Error {
    Error::new(ErrorKind::OutOfResources, format!("too many {what}; at most {limit} are accepted"))
}

/// RFC 9110, section 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}
