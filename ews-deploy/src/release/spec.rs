//! What a release is: its members, the conditions between them, and what happens when one fails.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use ews_core::time::duration;
use ews_core::{Error, ReleaseName, Result, ServiceName, ServiceSpec};
use serde::{Deserialize, Serialize};

use super::graph::Graph;
use crate::discovery::Discovery;
use crate::request::{Bounds, DeployRequest, Traffic, check_spec};
use crate::strategy::Strategy;

/// Several services and run-once jobs that are brought about as one.
///
/// Members without a path between them go at once; the others go when the conditions of their [`after`](MemberSpec::after)
/// hold. A member whose spec is what its service runs already is not touched.
///
/// ```
/// use ews_core::spec::lifecycle::Job;
/// use ews_core::spec::source::{ArtifactSource, Source};
/// use ews_core::ServiceSpec;
/// use ews_deploy::release::{MemberCondition, MemberSpec, ReleaseRequest, ReleaseSpec};
///
/// let artifact = |path: &str| Source::Artifact(ArtifactSource::new(path));
/// let database = ServiceSpec::new("db".parse()?, artifact("/srv/db"));
/// let migration = ServiceSpec::job("migrate".parse()?, artifact("/srv/migrate"), Job::default());
/// let shop = ServiceSpec::new("shop".parse()?, artifact("/srv/shop"));
///
/// let release = ReleaseSpec::new("shop".parse()?)
///     .with_member(MemberSpec::new(database))
///     .with_member(MemberSpec::new(migration).after("db".parse()?, MemberCondition::Healthy))
///     .with_member(MemberSpec::new(shop).after("migrate".parse()?, MemberCondition::Completed));
/// release.check()?;
/// // `deployer.release(&request).await?` brings it about, `deployer.wait_release(&id).await?` waits for the end.
/// let request = ReleaseRequest::new(release).with_key("build-4711");
/// # let _ = request;
///
/// // The same as a document, in which a service is written as everywhere else.
/// let document = r#"{
///     "name": "shop",
///     "members": [
///         { "service": { "name": "db", "artifact": { "location": "/srv/db" } } },
///         { "service": { "name": "shop", "artifact": { "location": "/srv/shop" } },
///           "after": [{ "member": "db", "condition": "healthy" }] }
///     ]
/// }"#;
/// let read: ReleaseSpec = serde_json::from_str(document).expect("a document");
/// read.check()?;
/// # Ok::<(), ews_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct ReleaseSpec {
    /// Its name: releases of one name follow each other.
    pub name: ReleaseName,
    /// Its members; 1 to [`ReleaseSpec::MAX_MEMBERS`], each name once.
    pub members: Vec<MemberSpec>,
    /// What happens when a member fails. Default: every member goes back.
    #[serde(default)]
    pub on_failure: OnMemberFailure,
    /// How many members are under way at once. From 1 to [`ReleaseSpec::MAX_MEMBERS`]. Default 10.
    #[serde(default = "parallel")]
    pub parallel: usize,
    /// How long it may take in all, without the time in which it is paused or waits for somebody's approval; going back has
    /// the same time once more, then the release has failed to go back. Above zero, at most 7 days. Default 2 h: a member's
    /// rollout and a job's hour fit into it.
    #[serde(default = "deadline", with = "duration")]
    pub deadline: Duration,
    /// Whether services that an earlier release of this name brought and this one no longer has are removed at the end, in
    /// reverse order. Default: they stay as they are.
    #[serde(default)]
    pub prune: bool,
    /// For how long the instance of a job that failed is kept, so that somebody can look at it. Zero: not at all. At most 7
    /// days. Default 1 h.
    #[serde(default = "keep_failed", with = "duration")]
    pub keep_failed: Duration,
    /// How members find each other.
    #[serde(default)]
    pub discovery: Discovery,
}

fn parallel() -> usize {
    10
}
fn deadline() -> Duration {
    Duration::from_secs(2 * 3600)
}
fn keep_failed() -> Duration {
    Duration::from_secs(3600)
}

const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);

impl ReleaseSpec {
    /// The most members of one release.
    pub const MAX_MEMBERS: usize = 100;

    /// A release without members yet, everything else at its default.
    pub fn new(name: ReleaseName) -> Self {
        Self {
            name,
            members: Vec::new(),
            on_failure: OnMemberFailure::default(),
            parallel: parallel(),
            deadline: deadline(),
            prune: false,
            keep_failed: keep_failed(),
            discovery: Discovery::default(),
        }
    }

    /// With one more member.
    #[must_use]
    pub fn with_member(mut self, member: MemberSpec) -> Self {
        self.members.push(member);
        self
    }

    /// With this answer to a member's failure.
    #[must_use]
    pub fn with_on_failure(mut self, on_failure: OnMemberFailure) -> Self {
        self.on_failure = on_failure;
        self
    }

    /// With so many members under way at once.
    #[must_use]
    pub fn with_parallel(mut self, parallel: usize) -> Self {
        self.parallel = parallel;
        self
    }

    /// Within this time.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Removing what is no longer a member.
    #[must_use]
    pub fn with_prune(mut self, prune: bool) -> Self {
        self.prune = prune;
        self
    }

    /// Keeping the instance of a failed job for so long.
    #[must_use]
    pub fn with_keep_failed(mut self, keep_failed: Duration) -> Self {
        self.keep_failed = keep_failed;
        self
    }

    /// With members finding each other like this.
    #[must_use]
    pub fn with_discovery(mut self, discovery: Discovery) -> Self {
        self.discovery = discovery;
        self
    }

    /// Refuses what can't work: names that occur twice, conditions on what is no member, circles, values out of range.
    ///
    /// # Errors
    /// `Invalid`, saying what is wrong, where, and what is accepted; a circle is printed.
    pub fn check(&self) -> Result<()> {
        let wrong = |field: &'static str, message: String| {
            Err(Error::invalid(message).with_context("release", &self.name).with_context("field", field))
        };
        if self.members.is_empty() || self.members.len() > Self::MAX_MEMBERS {
            let message =
                format!("a release of {} members; accepted: 1 to {}", self.members.len(), Self::MAX_MEMBERS);
            return wrong("members", message);
        }
        let mut names = BTreeSet::new();
        for member in &self.members {
            if !names.insert(member.name()) {
                return wrong(
                    "members",
                    format!("the member `{}` is there twice; accepted: each name once", member.name()),
                );
            }
        }
        for member in &self.members {
            member.check(self)?;
        }
        if !(1..=Self::MAX_MEMBERS).contains(&self.parallel) {
            return wrong(
                "parallel",
                format!("{} members at once; accepted: 1 to {}", self.parallel, Self::MAX_MEMBERS),
            );
        }
        if self.deadline.is_zero() || self.deadline > WEEK {
            return wrong(
                "deadline",
                format!("a deadline of {:?}; accepted: above zero, at most 7 days", self.deadline),
            );
        }
        if self.keep_failed > WEEK {
            return wrong(
                "keep_failed",
                format!("{:?} is too long; accepted: at most 7 days", self.keep_failed),
            );
        }
        self.discovery.check()?;
        Graph::new(self).map(|_| ())
    }

    pub(crate) fn member(&self, name: &ServiceName) -> Option<&MemberSpec> {
        self.members.iter().find(|member| member.name() == name)
    }
}

/// One service or run-once job of a release.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct MemberSpec {
    /// What shall run; its name is the member's. With `job` it is run once and does not become a service. Images must be
    /// pinned.
    pub service: ServiceSpec,
    /// How its rollout proceeds; it says nothing to a job.
    #[serde(default)]
    pub strategy: Strategy,
    /// Which traffic it gets from the balancer. Default: as before; none at first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic: Option<Traffic>,
    /// The least and the most instances that scaling may set. Default: as before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bounds: Option<Bounds>,
    /// What must hold of which members before it begins.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<After>,
}

impl After {
    /// This of that member.
    pub fn new(member: ServiceName, condition: MemberCondition) -> Self {
        Self { member, condition }
    }
}

impl MemberSpec {
    /// A member that begins at once, with the default strategy.
    pub fn new(service: ServiceSpec) -> Self {
        Self { service, strategy: Strategy::default(), traffic: None, bounds: None, after: Vec::new() }
    }

    /// Begun only when this holds of that member.
    #[must_use]
    pub fn after(mut self, member: ServiceName, condition: MemberCondition) -> Self {
        self.after.push(After { member, condition });
        self
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

    /// Its name.
    pub fn name(&self) -> &ServiceName {
        &self.service.name
    }

    /// Whether it is a run-once job.
    pub fn is_job(&self) -> bool {
        self.service.job.is_some()
    }

    /// What its service is asked for.
    pub(crate) fn request(&self) -> DeployRequest {
        let mut request = DeployRequest::new(self.service.clone()).with_strategy(self.strategy.clone());
        request.traffic.clone_from(&self.traffic);
        request.bounds = self.bounds;
        request
    }

    fn check(&self, release: &ReleaseSpec) -> Result<()> {
        let name = self.name();
        let wrong = |message: String| Err(Error::invalid(message).with_context("member", name));
        let mut seen = BTreeSet::new();
        for After { member, condition } in &self.after {
            let Some(other) = release.member(member) else {
                let names: Vec<_> = release.members.iter().map(|member| member.name().as_str()).collect();
                return wrong(format!(
                    "it comes after `{member}`, which is no member of the release; accepted: {}",
                    names.join(", ")
                ));
            };
            if !seen.insert(member) {
                return wrong(format!(
                    "it comes after `{member}` twice; accepted: one condition for each member"
                ));
            }
            if *condition == MemberCondition::Completed && !other.is_job() {
                return wrong(format!(
                    "it waits until `{member}` is completed, which only a run-once job ever is; accepted: started, healthy, \
                     promoted"
                ));
            }
        }
        if !self.is_job() {
            return self.request().check().map_err(|error| error.with_context("member", name));
        }
        check_spec(&self.service).map_err(|error| error.with_context("member", name))?;
        if self.traffic.is_some() || self.bounds.is_some() {
            return wrong("a run-once job has neither traffic nor bounds".to_owned());
        }
        Ok(())
    }
}

/// What must hold of another member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct After {
    /// Which member.
    pub member: ServiceName,
    /// What must hold of it. Default: it is healthy.
    #[serde(default)]
    pub condition: MemberCondition,
}

/// What may be waited for. Each holds of a member that is not touched, since it runs what it should already, and stays held
/// until the member fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum MemberCondition {
    /// An instance of its new revision runs, healthy or not; a job: its instance was started.
    Started,
    /// Every one of its instances has passed its gate, though the rollout may still watch them; a job: it ended with 0.
    #[default]
    Healthy,
    /// A job: it ended with 0.
    Completed,
    /// Its rollout ended with success: batches, approvals and the time of watching included; a job: it ended with 0.
    Promoted,
}

impl fmt::Display for MemberCondition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Started => "started",
            Self::Healthy => "healthy",
            Self::Completed => "completed",
            Self::Promoted => "promoted",
        })
    }
}

/// What happens when a member fails, or the deadline passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum OnMemberFailure {
    /// Every member that was changed goes back to what it was, in reverse order.
    #[default]
    Rollback,
    /// No further member begins, what is under way goes on to its end, and the release ends as failed. What was changed stays.
    Freeze,
    /// Only what waits for the failed member is left out; everything else goes on, and the release ends as failed.
    Keep,
}
