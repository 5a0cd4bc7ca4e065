//! What an object may hold, what it refers to, and which capabilities an operation needs.
//!
//! Texts of routes end up in configuration files and header lines of engines that escape nothing, so what no engine could
//! mean is refused here, once: control characters, paths that do not start with `/`, methods that are no token. What is
//! left may still hold quotes, braces and semicolons: rendering those is each driver's own duty.

mod rules;

use std::time::Duration;

pub(super) use rules::check_edited;

use crate::balancer::policy::check_wait;
use crate::balancer::{
    Algorithm, BlackholeTarget, DomainName, HealthCheck, Member, MemberState, Network, Object, ObjectRef, Op,
    Outlier, PathMatch, Pool, PoolProtocol, RouteAction, RouteSet,
};
use crate::capability::Capability;
use crate::error::{Error, Result};
use crate::spec::network::Protocol;

impl Object {
    /// Whether the object is well formed in itself, without regard to what it refers to.
    ///
    /// Regular expressions are checked for length only: whether one compiles is for the balancer to say, with `Invalid`.
    ///
    /// # Errors
    /// `Invalid`, naming the object, what is wrong and what is accepted; `OutOfResources` for a text above its limit.
    pub fn check(&self) -> Result<()> {
        let checked = match self {
            Self::RouteSet(RouteSet { rules, .. }) => rules.iter().try_for_each(rules::check_rule),
            Self::Endpoint(member) => check_member(member),
            Self::Blackhole(blackhole) => check_target(&blackhole.target),
            Self::TrafficPolicy(policy) => policy.check(),
            Self::Pool(pool) => check_pool(pool),
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
                    references.extend(rule.policy.clone().map(ObjectRef::TrafficPolicy));
                    if let RouteAction::Forward(pools) = &rule.action {
                        references.extend(pools.iter().map(|share| ObjectRef::Pool(share.pool.clone())));
                    }
                }
                // A pool that ten rules forward to is one reference.
                references.sort();
                references.dedup();
            }
            Self::TrafficPolicy(policy) => {
                references.extend(policy.auth.as_ref().map(|auth| ObjectRef::Pool(auth.pool.clone())));
            }
            Self::Endpoint(member) => references.push(ObjectRef::Pool(member.pool.clone())),
            Self::Pool(_) | Self::Certificate(_) | Self::Blackhole(_) => {}
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
            Self::Shares { weights, .. } => rules::check_shares(weights),
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
                let redirects = matches!(rule.action, RouteAction::RedirectTo(_));
                need(redirects || !rule.filters.is_empty(), Capability::RouteFilters);
                need(rule.policy.is_some(), Capability::TrafficPolicies);
                need(rule.split_by.is_some(), Capability::BalanceHash);
                if let RouteAction::Forward(pools) = &rule.action {
                    need(pools.len() > 1, Capability::Weights);
                }
            }
        }
        Object::Pool(pool) => {
            need(pool.protocol == PoolProtocol::Tcp, Capability::TcpRoutes);
            need(pool.protocol == PoolProtocol::H2c, Capability::Http2);
            let hashes = matches!(pool.algorithm, Algorithm::Rendezvous | Algorithm::Maglev);
            need(hashes, Capability::BalanceHash);
            need(pool.sticky.is_some(), Capability::Sticky);
            need(pool.slow_start.is_some(), Capability::SlowStart);
            need(pool.outlier.is_some(), Capability::EndpointHealth);
            need(pool.hold.is_some(), Capability::TrafficPolicies);
            need(pool.check.is_some(), Capability::ActiveChecks);
            need(pool.tls.is_some(), Capability::UpstreamTls);
            need(pool.max_in_flight.is_some(), Capability::InFlight);
            need(pool.algorithm == Algorithm::PeakEwma, Capability::BalancePeakEwma);
            need(pool.algorithm == Algorithm::LeastRequest, Capability::BalanceLeastRequest);
        }
        Object::Endpoint(member) => {
            need(member.weight != Member::WEIGHT, Capability::Weights);
            need(member.state == MemberState::Closed, Capability::ForceClose);
            need(member.endpoint.address.host().is_some(), Capability::EndpointNames);
        }
        Object::TrafficPolicy(policy) => {
            need(true, Capability::TrafficPolicies);
            need(policy.auth.is_some(), Capability::ForwardAuth);
        }
        Object::Certificate(_) => need(true, Capability::Tls),
        Object::Blackhole(_) => need(true, Capability::Blackhole),
    }
    needs
}

fn check_pool(pool: &Pool) -> Result<()> {
    if let Some(hold) = pool.hold {
        check_wait("a hold", hold.requests, hold.wait)?;
    }
    rules::check_hash_on(&pool.hash_on)?;
    pool.sticky.as_ref().map_or(Ok(()), |sticky| rules::check_name(&sticky.cookie))?;
    pool.check.as_ref().map_or(Ok(()), |check| check_health(check))?;
    if let Some(tls) = &pool.tls {
        if tls.server_name.as_ref().is_some_and(|name| DomainName::new(name).is_err() || name.contains('*')) {
            return Err(Error::invalid(
                "the name of endpoints within TLS; accepted: a host name without `*`",
            ));
        }
        let asks = pool.check.as_ref().is_some_and(|check| check.path.is_some());
        if asks && pool.protocol != PoolProtocol::Http1 {
            return Err(Error::invalid(
                "a check by HTTP of endpoints that speak something else than HTTP/1.1 within TLS; accepted: one without a \
                 path, which is a connection",
            ));
        }
    }
    if pool.proxy_protocol.is_some() && pool.protocol != PoolProtocol::Tcp {
        return Err(Error::invalid(
            "the PROXY protocol before HTTP, where one connection serves many clients; accepted: for pools that speak `tcp`",
        ));
    }
    if pool.max_in_flight.is_some_and(|most| !(1..=1_000_000).contains(&most)) {
        return Err(Error::invalid("a bound of requests in flight; accepted: 1 to 1,000,000, or none"));
    }
    for (what, time) in [
        ("a sticky cookie's age", pool.sticky.as_ref().and_then(|sticky| sticky.max_age)),
        ("a slow start", pool.slow_start),
    ] {
        if time.is_some_and(|time| time.is_zero()) {
            return Err(Error::invalid(format!("{what} of zero; accepted: more than zero, or none")));
        }
    }
    if let Some(Outlier { errors, eject, max_percent }) = pool.outlier
        && (!(1..=1_000).contains(&errors) || eject.is_zero() || max_percent > 100)
    {
        return Err(Error::invalid(
            "an outlier rule; accepted: 1 to 1,000 errors, a time above zero, and a share of at most 100 percent",
        ));
    }
    Ok(())
}

fn check_health(check: &HealthCheck) -> Result<()> {
    const DAY: Duration = Duration::from_secs(24 * 3600);
    if let Some(path) = &check.path {
        rules::check_path(path)?;
    }
    if let Some(host) = &check.host
        && (host.is_empty() || host.len() > 253 || !host.bytes().all(|byte| byte.is_ascii_graphic()))
    {
        return Err(Error::invalid("a check's host; accepted: 1 to 253 printable characters of ASCII"));
    }
    for (what, time, least) in [
        ("interval", check.interval, Duration::from_millis(100)),
        ("timeout", check.timeout, Duration::from_millis(10)),
    ] {
        if !(least..=DAY).contains(&time) {
            return Err(Error::invalid(format!(
                "a check's {what} of {time:?}; accepted: {least:?} to a day"
            )));
        }
    }
    if !(1..=1_000).contains(&check.success) || !(1..=1_000).contains(&check.failure) {
        return Err(Error::invalid("how many tries in a row count; accepted: 1 to 1,000"));
    }
    Ok(())
}

fn check_member(member: &Member) -> Result<()> {
    check_weight(member.weight)?;
    let address = &member.endpoint.address;
    if address.port() == 0 || address.socket().is_some_and(|address| address.ip().is_unspecified()) {
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
    match target {
        // One network has one name, or a blackhole could not be found again to lift it.
        BlackholeTarget::Source { network, bits } => Network::new(*network, *bits).map(drop),
        BlackholeTarget::Domain(_) => Ok(()),
    }
}

fn check_weight(weight: u32) -> Result<()> {
    if weight > Member::MAX_WEIGHT {
        return Err(Error::invalid(format!("a weight of {weight}; accepted: 0 to {}", Member::MAX_WEIGHT)));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balancer::UpstreamTls;
    use crate::id::PoolId;

    #[test]
    fn a_check_by_http_within_tls_speaks_http1() {
        let pool = |protocol, path: Option<&str>| {
            let mut pool = Pool::new(PoolId::new("p").unwrap());
            let check = HealthCheck { path: path.map(str::to_owned), ..HealthCheck::default() };
            (pool.protocol, pool.check, pool.tls) =
                (protocol, Some(Box::new(check)), Some(Box::new(UpstreamTls::public())));
            Object::Pool(pool).check()
        };
        assert!(pool(PoolProtocol::Http1, Some("/healthz")).is_ok());
        for protocol in [PoolProtocol::H2c, PoolProtocol::Tcp] {
            assert!(pool(protocol, None).is_ok());
            let error = pool(protocol, Some("/healthz")).unwrap_err();
            assert!(error.message().contains("accepted"), "{error}");
        }
    }
}
