//! How a release is asked for.

use super::plan::{ReleaseBase, ReleasePlan};
use super::spec::ReleaseSpec;
use crate::request::Concurrency;
use ews_core::{Error, Result};

/// A release that is asked for.
///
/// ```
/// use ews_core::spec::source::{ArtifactSource, Source};
/// use ews_core::ServiceSpec;
/// use ews_deploy::Concurrency;
/// use ews_deploy::release::{MemberSpec, ReleaseRequest, ReleaseSpec};
///
/// let web = ServiceSpec::new("web".parse()?, Source::Artifact(ArtifactSource::new("/srv/web")));
/// let release = ReleaseSpec::new("shop".parse()?).with_member(MemberSpec::new(web));
/// let request = ReleaseRequest::new(release)
///     .with_key("build-4711")
///     .with_concurrency(Concurrency::Supersede)
///     .with_reason("the spring collection");
/// request.check()?;
/// # Ok::<(), ews_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct ReleaseRequest {
    /// What is released.
    pub spec: ReleaseSpec,
    /// Makes the request repeatable: a second one with the key of one of the last 100 keyed requests of the name gives that release and
    /// changes nothing. 1 to 255 bytes. Default: none, and each request is another release.
    pub key: Option<String>,
    /// What happens when a release of the name is under way; at most [`ReleaseRequest::QUEUE`] wait. One that is going back gets there
    /// first, superseded or not. Default: the new one is refused.
    pub concurrency: Concurrency,
    /// Why, for people; at most 1 KiB. Default empty. Who asks is what [`Deployer::by`](crate::Deployer::by) says.
    pub reason: String,
    /// Only if nothing has changed since this plan was made.
    pub(crate) base: Option<ReleaseBase>,
}

impl ReleaseRequest {
    /// The most releases of one name that wait for those before them.
    pub const QUEUE: usize = 10;

    /// Releases this.
    pub fn new(spec: ReleaseSpec) -> Self {
        Self { spec, key: None, concurrency: Concurrency::default(), reason: String::new(), base: None }
    }

    /// Repeatable under this key.
    #[must_use]
    pub fn with_key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// With this answer to a release that is under way.
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

    /// Only if neither the releases of the name nor a member has changed since this plan was made.
    #[must_use]
    pub fn expecting(mut self, plan: &ReleasePlan) -> Self {
        self.base = Some(plan.base.clone());
        self
    }

    /// Refuses what is wrong in itself, without asking anybody. [`Deployer::plan_release`](crate::Deployer::plan_release) finds the rest.
    ///
    /// # Errors
    /// `Invalid`, saying what is wrong and what is accepted.
    pub fn check(&self) -> Result<()> {
        self.spec.check()?;
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
