//! What is asked of a deployment: a spec, how to bring it about, and which traffic it gets.

use std::ops::RangeInclusive;

use ews_core::balancer::{DomainName, Object, PathMatch, PoolProtocol, RouteAction, RouteRule, RouteSet};
use ews_core::spec::network::Protocol;
use ews_core::spec::placement::Placement;
use ews_core::{Error, ErrorKind, PortName, Result, RouteSetId, ServiceSpec};
use serde::{Deserialize, Serialize};

use crate::plan::Plan;
use crate::remedy::RemedyPolicy;
use crate::strategy::{RolloutJob, Strategy};

/// Which traffic a service gets from the balancer.
///
/// ews-deploy owns what this stands for: a route set of the service's name, the domains, and a pool for each revision with
/// the labels `service` and `revision`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Traffic {
    /// The host names; at least one. `*` takes every host that no other domain takes.
    pub domains: Vec<DomainName>,
    /// The port of the instances that gets it.
    pub port: PortName,
    /// The path and what lies below it. Default `/`; TCP knows no other.
    #[serde(default = "root")]
    pub path: String,
    /// What the instances speak. Default HTTP/1.1. With TCP the domains are those that the balancer's TCP listeners name; it needs the
    /// balancer's capability `tcp_routes`.
    #[serde(default = "http1", skip_serializing_if = "is_http1")]
    pub protocol: PoolProtocol,
}

fn root() -> String {
    "/".to_owned()
}

fn http1() -> PoolProtocol {
    PoolProtocol::Http1
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_http1(protocol: &PoolProtocol) -> bool {
    *protocol == PoolProtocol::Http1
}

impl Traffic {
    /// Everything for these hosts goes to this port.
    pub fn new(domains: impl IntoIterator<Item = DomainName>, port: PortName) -> Self {
        Self { domains: domains.into_iter().collect(), port, path: root(), protocol: http1() }
    }

    /// Of requests, only those for this path and what lies below it.
    #[must_use]
    pub fn with_path(mut self, path: impl Into<String>) -> Self {
        self.path = path.into();
        self
    }

    /// To instances that speak this.
    #[must_use]
    pub fn with_protocol(mut self, protocol: PoolProtocol) -> Self {
        self.protocol = protocol;
        self
    }

    /// By the rules of routes, so that no balancer refuses later what was acknowledged.
    fn check_path(&self) -> Result<()> {
        let nothing = RouteAction::Respond { status: 200, body: String::new() };
        let rules = vec![RouteRule::new(PathMatch::Prefix(self.path.clone()), nothing)];
        let routes = Object::RouteSet(RouteSet::new(RouteSetId::new("path")?, rules));
        let checked = routes.check();
        checked
            .map_err(|error| Error::invalid(error.message().to_owned()).with_context("field", "traffic.path"))
    }
}

/// The least and the most instances that scaling may set: `{ least = 1, most = 10 }` in a document, `1..=10` in Rust.
///
/// ```
/// use ews_deploy::Bounds;
///
/// assert_eq!(Bounds::from(1..=10), Bounds::new(1, 10));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Bounds {
    /// The least.
    pub least: u32,
    /// The most, at least as many, at most [`DeployRequest::MAX_REPLICAS`].
    pub most: u32,
}

impl Bounds {
    /// Between these, both included.
    pub const fn new(least: u32, most: u32) -> Self {
        Self { least, most }
    }

    /// As records have them.
    pub(crate) const fn pair(self) -> (u32, u32) {
        (self.least, self.most)
    }
}

impl From<RangeInclusive<u32>> for Bounds {
    fn from(range: RangeInclusive<u32>) -> Self {
        Self::new(*range.start(), *range.end())
    }
}

/// What happens when a rollout of the same service is under way, or a release of the same name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Concurrency {
    /// The new one is refused.
    #[default]
    Reject,
    /// The one under way and those that wait end as cancelled, and the new one goes on from where it stood.
    Supersede,
    /// The new one waits until those before it have ended; at most [`DeployRequest::QUEUE`] rollouts and
    /// [`ReleaseRequest::QUEUE`](crate::release::ReleaseRequest::QUEUE) releases do.
    Queue,
}

/// A deployment that is asked for.
///
/// ```
/// use ews_core::spec::source::{ArtifactSource, Source};
/// use ews_core::ServiceSpec;
/// use ews_deploy::{DeployRequest, Strategy};
///
/// let spec = ServiceSpec::new("web".parse()?, Source::Artifact(ArtifactSource::new("/srv/web")));
/// let request = DeployRequest::new(spec).with_strategy(Strategy::default()).with_key("build-4711");
/// # let _ = request;
/// # Ok::<(), ews_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct DeployRequest {
    /// What shall run. Images must be pinned.
    pub spec: ServiceSpec,
    /// How to get there. Default [`Strategy::default`].
    pub strategy: Strategy,
    /// Which traffic it gets. Default: as before; none at first.
    pub traffic: Option<Traffic>,
    /// The least and the most instances that scaling may set. Default: as before; 0 to [`DeployRequest::MAX_REPLICAS`] at first.
    pub bounds: Option<Bounds>,
    /// How instances are treated that are not well. Default: as before; [`RemedyPolicy::default`] at first. It holds at once, also
    /// where the request waits for others.
    pub remedy: Option<RemedyPolicy>,
    /// Makes the request repeatable: a second one with the key of one of the last 100 keyed requests of the service gives that
    /// rollout and changes nothing. 1 to 255 bytes. Default: none, and each request is another rollout.
    pub key: Option<String>,
    /// What happens when a rollout of the service is under way. Default: this one is refused.
    pub concurrency: Concurrency,
    /// Why, for people; at most 1 KiB. Default empty.
    pub reason: String,
    /// Only if nothing has changed since this plan was made.
    pub(crate) base: Option<crate::plan::Base>,
    /// A rollback to this many instances: it goes in whole batches and is never itself rolled back.
    pub(crate) back: Option<u32>,
}

impl DeployRequest {
    /// The most instances of one service that ews-deploy takes.
    pub const MAX_REPLICAS: u32 = 50_000;
    /// The most requests for one service that wait for those before them.
    pub const QUEUE: usize = 10;

    /// Deploys this spec by the default strategy.
    pub fn new(spec: ServiceSpec) -> Self {
        Self {
            spec,
            strategy: Strategy::default(),
            traffic: None,
            bounds: None,
            remedy: None,
            key: None,
            concurrency: Concurrency::default(),
            reason: String::new(),
            base: None,
            back: None,
        }
    }

    /// Proceeding like this.
    #[must_use]
    pub fn with_strategy(mut self, strategy: Strategy) -> Self {
        self.strategy = strategy;
        self
    }

    /// Getting this traffic.
    #[must_use]
    pub fn with_traffic(mut self, traffic: Traffic) -> Self {
        self.traffic = Some(traffic);
        self
    }

    /// Scaled within these bounds.
    #[must_use]
    pub fn with_bounds(mut self, bounds: impl Into<Bounds>) -> Self {
        self.bounds = Some(bounds.into());
        self
    }

    /// Treating instances so that are not well.
    #[must_use]
    pub fn with_remedy(mut self, remedy: RemedyPolicy) -> Self {
        self.remedy = Some(remedy);
        self
    }

    /// Repeatable under this key.
    #[must_use]
    pub fn with_key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// With this answer to a rollout that is under way.
    #[must_use]
    pub fn with_concurrency(mut self, concurrency: Concurrency) -> Self {
        self.concurrency = concurrency;
        self
    }

    /// For this reason.
    #[must_use]
    pub fn with_reason(mut self, reason: impl Into<String>) -> Self {
        self.reason = reason.into();
        self
    }

    /// Only if nothing has changed since this plan was made.
    #[must_use]
    pub fn expecting(mut self, plan: &Plan) -> Self {
        self.base = Some(plan.base);
        self
    }

    /// Refuses what is wrong in itself, without asking anybody. [`Deployer::plan`](crate::Deployer::plan) finds the rest.
    ///
    /// # Errors
    /// `Invalid`, naming the field and what is accepted; `Unsupported` for a run-once job and for `placement`.
    pub fn check(&self) -> Result<()> {
        self.strategy.check()?;
        if self.spec.name.as_str().ends_with(RolloutJob::SUFFIX) {
            return Err(Error::invalid(format!(
                "a service whose name ends with `{0}`; accepted: any other, `{0}` is what jobs of rollouts are known by",
                RolloutJob::SUFFIX
            ))
            .with_context("field", "name"));
        }
        self.remedy.as_ref().map_or(Ok(()), RemedyPolicy::check)?;
        if self.spec.job.is_some() {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "a run-once job is not deployed as a service; run it with `RuntimeExt::run_to_completion`",
            )
            .with_context("field", "job"));
        }
        check_spec(&self.spec)?;
        if self.spec.replicas > Self::MAX_REPLICAS {
            return Err(Error::invalid(format!(
                "{} replicas; accepted: at most {}",
                self.spec.replicas,
                Self::MAX_REPLICAS
            ))
            .with_context("field", "replicas"));
        }
        if let Some(bounds) = &self.bounds
            && (bounds.least > bounds.most || bounds.most > Self::MAX_REPLICAS)
        {
            return Err(Error::invalid(format!(
                "bounds of {} to {} instances; accepted: the least not above the most, at most {}",
                bounds.least,
                bounds.most,
                Self::MAX_REPLICAS
            ))
            .with_context("field", "bounds"));
        }
        if let Some(traffic) = &self.traffic {
            if traffic.domains.is_empty() {
                return Err(Error::invalid(
                    "traffic without a domain; accepted: at least one, `*` for every host",
                )
                .with_context("field", "traffic.domains"));
            }
            if traffic.protocol == PoolProtocol::Tcp && traffic.path != root() {
                return Err(Error::invalid("traffic by TCP for a path; accepted: `/`, TCP knows no paths")
                    .with_context("field", "traffic.path"));
            }
            let all = &self.spec.instance.ports;
            let tcp = all.iter().filter(|port| port.protocol == Protocol::Tcp);
            let ports: Vec<_> = tcp.map(|port| port.name.as_str()).collect();
            if !ports.contains(&traffic.port.as_str()) {
                let is_there = all.iter().any(|port| port.name == traffic.port);
                return Err(Error::invalid(format!(
                    "traffic for the port `{}`, which {}; accepted: {}",
                    traffic.port,
                    if is_there { "is for UDP" } else { "the service does not have" },
                    if ports.is_empty() {
                        format!(
                            "one of TCP, and the spec has none, so add `ports = {{ {} = 8080 }}` with the right number",
                            traffic.port
                        )
                    } else {
                        ports.join(", ")
                    }
                ))
                .with_context("field", "traffic.port"));
            }
            traffic.check_path()?;
        }
        if self.key.as_ref().is_some_and(|key| key.is_empty() || key.len() > 255) {
            return Err(Error::invalid("a key of no or more than 255 bytes; accepted: 1 to 255")
                .with_context("field", "key"));
        }
        if self.reason.len() > 1024 {
            return Err(Error::invalid("a reason of more than 1 KiB; accepted: at most 1,024 bytes")
                .with_context("field", "reason"));
        }
        Ok(())
    }
}

/// Refuses a spec that can't be brought about as it stands.
pub(crate) fn check_spec(spec: &ServiceSpec) -> Result<()> {
    // One that a program built was looked at by nobody yet, and what is stored is read back by these rules.
    spec.check()?;
    if spec.placement != Placement::default() {
        return Err(Error::new(
            ErrorKind::Unsupported,
            "the runtime chooses where instances run, and the deployer does not tell it; accepted: no `placement`",
        )
        .with_context("field", "placement"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use ews_core::spec::network::Port;
    use ews_core::spec::source::{ArtifactSource, Source};

    use super::*;

    fn spec() -> ServiceSpec {
        let mut spec =
            ServiceSpec::new("web".parse().unwrap(), Source::Artifact(ArtifactSource::new("/srv/web")));
        spec.instance.ports = vec![Port::new("http".parse().unwrap(), None)];
        spec
    }

    fn refused(request: &DeployRequest) -> String {
        request.check().unwrap_err().to_string()
    }

    #[test]
    fn a_spec_that_a_program_built_goes_through_the_rules_of_documents() {
        DeployRequest::new(spec()).check().unwrap();
        let mut wrong = spec();
        wrong.instance.source = Source::Artifact(ArtifactSource::new("web.tar.gz"));
        wrong.instance.command = vec![String::new()];
        let message = refused(&DeployRequest::new(wrong));
        assert!(message.contains("artifact.location") && message.contains("command[0]"), "{message}");
    }

    #[test]
    fn what_nobody_would_heed_is_refused() {
        let mut placed = spec();
        placed.placement.max_per_node = Some(1);
        let error = DeployRequest::new(placed).check().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("field=placement"), "{error}");
    }

    #[test]
    fn traffic_needs_a_tcp_port_and_a_path() {
        let traffic = || Traffic::new([DomainName::new("web.test").unwrap()], "http".parse().unwrap());
        DeployRequest::new(spec()).with_traffic(traffic()).check().unwrap();
        let mut none = spec();
        none.instance.ports.clear();
        let message = refused(&DeployRequest::new(none).with_traffic(traffic()));
        assert!(message.contains("does not have; accepted: one of TCP"), "{message}");
        let mut udp = spec();
        udp.instance.ports[0].protocol = Protocol::Udp;
        let message = refused(&DeployRequest::new(udp).with_traffic(traffic()));
        assert!(message.contains("is for UDP"), "{message}");
        let mut nowhere = traffic();
        nowhere.path = "shop".to_owned();
        let message = refused(&DeployRequest::new(spec()).with_traffic(nowhere));
        assert!(message.contains("starts with `/`") && message.contains("field=traffic.path"), "{message}");
    }
}
