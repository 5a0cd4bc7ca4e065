//! How a release is asked for.

use ews_core::{Error, Result};
use serde::{Deserialize, Serialize};

use super::plan::{ReleaseBase, ReleasePlan};
use super::spec::ReleaseSpec;

/// What happens when a release of the same name is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Meeting {
    /// The new one is refused.
    #[default]
    Reject,
    /// The new one follows when those before it have ended; at most 10 wait.
    Queue,
    /// The one under way and those that wait end as cancelled, and the new one goes on from where they stood. One that is going back
    /// gets there first.
    Supersede,
}

/// A release that is asked for.
///
/// ```
/// use ews_core::spec::source::{ArtifactSource, Source};
/// use ews_core::ServiceSpec;
/// use ews_deploy::release::{Meeting, MemberSpec, ReleaseRequest, ReleaseSpec};
///
/// let web = ServiceSpec::new("web".parse()?, Source::Artifact(ArtifactSource::new("/srv/web")));
/// let release = ReleaseSpec::new("shop".parse()?).with_member(MemberSpec::new(web));
/// let request = ReleaseRequest::new(release)
///     .with_key("build-4711")
///     .with_meeting(Meeting::Supersede)
///     .with_initiator("ci")
///     .with_reason("the spring collection");
/// request.check()?;
/// # Ok::<(), ews_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct ReleaseRequest {
    /// What is released.
    pub spec: ReleaseSpec,
    /// Makes the request repeatable: a second one with the key of one of the last 100 gives that release and changes nothing.
    /// At most 255 bytes.
    pub key: Option<String>,
    /// What happens when a release of the name is under way.
    pub meeting: Meeting,
    /// Who asks, for people; at most 255 bytes.
    pub initiator: String,
    /// Why, for people; at most 1 KiB.
    pub reason: String,
    /// Only if nothing has changed since this plan was made.
    pub(crate) base: Option<ReleaseBase>,
}

impl ReleaseRequest {
    /// Releases this.
    pub fn new(spec: ReleaseSpec) -> Self {
        Self {
            spec,
            key: None,
            meeting: Meeting::default(),
            initiator: String::new(),
            reason: String::new(),
            base: None,
        }
    }

    /// Repeatable under this key.
    #[must_use]
    pub fn with_key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// With this answer to a release that is under way.
    #[must_use]
    pub fn with_meeting(mut self, meeting: Meeting) -> Self {
        self.meeting = meeting;
        self
    }

    /// Asked for by this one.
    #[must_use]
    pub fn with_initiator(mut self, initiator: impl Into<String>) -> Self {
        self.initiator = initiator.into();
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

    /// Refuses what is wrong in itself.
    ///
    /// # Errors
    /// `Invalid`, saying what is wrong and what is accepted.
    pub fn check(&self) -> Result<()> {
        self.spec.check()?;
        if self.key.as_ref().is_some_and(|key| key.is_empty() || key.len() > 255) {
            return Err(Error::invalid("a key of no or more than 255 bytes; accepted: 1 to 255")
                .with_context("field", "key"));
        }
        if self.initiator.len() > 255 {
            return Err(
                Error::invalid("an initiator of more than 255 bytes").with_context("field", "initiator")
            );
        }
        if self.reason.len() > 1024 {
            return Err(Error::invalid("a reason of more than 1 KiB").with_context("field", "reason"));
        }
        Ok(())
    }
}
