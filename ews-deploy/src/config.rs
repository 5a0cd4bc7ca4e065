//! What a controller is: its installation, its lease, its limits.

use std::time::Duration;

use ews_core::time::duration;
use ews_core::{Error, OwnerId, Result};
use serde::{Deserialize, Serialize};

/// What a [`Deployer`](crate::Deployer) is.
///
/// ```
/// use std::time::Duration;
/// use ews_deploy::DeployConfig;
///
/// let config = DeployConfig::new("shop".parse()?).with_controller("c1").with_lease(Duration::from_secs(30));
/// config.check()?;
/// assert_eq!(config.longest_grace(), Duration::from_secs(5));
/// # Ok::<(), ews_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct DeployConfig {
    /// The installation. Every controller of it says the same, so that a successor adopts; instances of others are never
    /// touched.
    pub owner: OwnerId,
    /// A name that no two living controllers share. With it, a controller that was restarted takes its own locks back at once;
    /// without it, it waits until the leases of its former life have ended. With an embedded store any fixed name will do,
    /// since only one process can have the store open. Default: none.
    #[serde(default)]
    pub controller: Option<String>,
    /// How long a silent controller keeps a service before another may take it over. From 3 s to a day. Default 60 s, renewed
    /// every third of it: a choice of ours, four times Kubernetes' 15 s for its leaders, so that Docker's usual stop grace of 10 s and
    /// one slow call fit under it. A service's stop grace and [`call_limit`](Self::call_limit) must fit into two thirds of it, so that
    /// no engine call outlives the lease under which it was begun.
    #[serde(default = "lease", with = "duration")]
    pub lease: Duration,
    /// How long one call of a runtime or a balancer may take, beyond a stop's grace. Above zero, at most two thirds of
    /// [`lease`](Self::lease). Default 15 s, a choice of ours: an engine under load takes seconds to create an instance.
    #[serde(default = "call_limit", with = "duration")]
    pub call_limit: Duration,
    /// How often instances are listed though no event says that it is worth it: how late a lost event is made up for. Above zero. Default
    /// 10 s, a choice of ours.
    #[serde(default = "relist", with = "duration")]
    pub relist: Duration,
    /// How many slots of one service are worked on at once, so how many calls of the runtime one service has under way. From 1. Default
    /// 64, a choice of ours; less where one engine does all the work and suffers by it.
    #[serde(default = "parallel")]
    pub parallel: usize,
    /// How many events are kept for slow readers; who is slower gets a gap. From 1. Default 4,096, a choice of ours.
    /// One that tells of a failed instance holds its last words, at most 100 KiB.
    #[serde(default = "events")]
    pub events: usize,
    /// How long one call of a [`Hook`](crate::Hook) may take. Above zero. Default 60 s, a choice of ours.
    #[serde(default = "hook_limit", with = "duration")]
    pub hook_limit: Duration,
    /// How many revisions and how many ended rollouts are kept of each service, beyond those in use. From 1. Default 10
    /// (Kubernetes' and Argo's history).
    #[serde(default = "history")]
    pub history: usize,
}

fn lease() -> Duration {
    Duration::from_secs(60)
}
fn call_limit() -> Duration {
    Duration::from_secs(15)
}
fn relist() -> Duration {
    Duration::from_secs(10)
}
fn parallel() -> usize {
    64
}
fn events() -> usize {
    4_096
}
fn hook_limit() -> Duration {
    Duration::from_secs(60)
}
fn history() -> usize {
    10
}

impl DeployConfig {
    /// A controller of this installation, everything else at its default.
    pub fn new(owner: OwnerId) -> Self {
        Self {
            owner,
            controller: None,
            lease: lease(),
            call_limit: call_limit(),
            relist: relist(),
            parallel: parallel(),
            events: events(),
            hook_limit: hook_limit(),
            history: history(),
        }
    }

    /// With this name of its own.
    #[must_use]
    pub fn with_controller(mut self, name: impl Into<String>) -> Self {
        self.controller = Some(name.into());
        self
    }

    /// With this lease.
    #[must_use]
    pub fn with_lease(mut self, lease: Duration) -> Self {
        self.lease = lease;
        self
    }

    /// With this limit for one call.
    #[must_use]
    pub fn with_call_limit(mut self, call_limit: Duration) -> Self {
        self.call_limit = call_limit;
        self
    }

    /// Listing this often.
    #[must_use]
    pub fn with_relist(mut self, relist: Duration) -> Self {
        self.relist = relist;
        self
    }

    /// With so many slots of one service worked on at once.
    #[must_use]
    pub fn with_parallel(mut self, parallel: usize) -> Self {
        self.parallel = parallel;
        self
    }

    /// Keeping so many events for slow readers.
    #[must_use]
    pub fn with_events(mut self, events: usize) -> Self {
        self.events = events;
        self
    }

    /// With this limit for one call of a hook.
    #[must_use]
    pub fn with_hook_limit(mut self, hook_limit: Duration) -> Self {
        self.hook_limit = hook_limit;
        self
    }

    /// Keeping so many revisions and ended rollouts of each service.
    #[must_use]
    pub fn with_history(mut self, history: usize) -> Self {
        self.history = history;
        self
    }

    /// Refuses what can't work.
    ///
    /// # Errors
    /// `Invalid`, naming the field and what is accepted.
    pub fn check(&self) -> Result<()> {
        let wrong = |field: &'static str, accepted: &str| {
            Err(Error::invalid(format!(
                "`{field}` of the deploy configuration is out of range; accepted: {accepted}"
            ))
            .with_context("field", field))
        };
        if !(Duration::from_secs(3)..=Duration::from_secs(24 * 3600)).contains(&self.lease) {
            return wrong("lease", "3 s to 24 h");
        }
        if self.call_limit.is_zero() || self.call_limit > self.lease * 2 / 3 {
            return wrong("call_limit", "above zero, at most two thirds of `lease`");
        }
        if self.hook_limit.is_zero() {
            return wrong("hook_limit", "above zero");
        }
        if self.relist.is_zero() {
            return wrong("relist", "above zero");
        }
        for (field, value) in
            [("parallel", self.parallel), ("events", self.events), ("history", self.history)]
        {
            if value == 0 {
                return wrong(field, "from 1");
            }
        }
        match &self.controller {
            Some(name) if name.is_empty() || name.len() > 255 || name.chars().any(char::is_control) => {
                wrong("controller", "1 to 255 bytes without control characters")
            }
            _ => Ok(()),
        }
    }

    /// The longest stop grace that a service may have.
    pub fn longest_grace(&self) -> Duration {
        (self.lease * 2 / 3).saturating_sub(self.call_limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_not_work_is_refused_by_name() {
        let config = DeployConfig::new(OwnerId::new("acme").unwrap());
        config.check().unwrap();
        assert_eq!(config.longest_grace(), Duration::from_secs(25));
        for (config, field) in [
            (config.clone().with_lease(Duration::from_secs(1)), "lease"),
            (config.clone().with_call_limit(Duration::from_secs(41)), "call_limit"),
            (config.clone().with_relist(Duration::ZERO), "relist"),
            (config.clone().with_parallel(0), "parallel"),
            (config.clone().with_events(0), "events"),
            (config.clone().with_history(0), "history"),
            (config.clone().with_hook_limit(Duration::ZERO), "hook_limit"),
            (config.clone().with_controller("a\nb"), "controller"),
        ] {
            let error = config.check().unwrap_err();
            assert!(error.message().contains(&format!("`{field}`")), "{error}");
        }
        let text = r#"{"owner":"acme","leese":"5s"}"#;
        assert!(serde_json::from_str::<DeployConfig>(text).is_err());
    }
}
