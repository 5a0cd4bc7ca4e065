//! What supervision does about an instance that is not well: rules of the service, and a policy in Rust before them.
//!
//! Whatever is decided, restarts keep their back-off (the spec's `restart`), and never more than a share of a service is treated
//! at once (`brake`): when everything looks ill, it is mostly something else that is.

use std::time::Duration;

use ews_core::metrics::MetricQuery;
use ews_core::policy::{Explained, Input, Policy, PolicyState};
use ews_core::time::duration;
use ews_core::{Error, ExitStatus, InstanceId, Result, ServiceName, Timestamp};
use serde::{Deserialize, Serialize};

use crate::strategy::Batch;

/// How a service's instances are treated when they are not well.
///
/// ```
/// use std::time::Duration;
/// use ews_deploy::{Ailment, Remedy, RemedyPolicy, RemedyRule};
///
/// let policy = RemedyPolicy::default().with_rules([
///     // One that keeps ending is made anew, where nothing of its past can be the reason.
///     RemedyRule::new(Remedy::Replace).for_ailments([Ailment::Ended]).from_restarts(3).with_alert(),
///     // One that is not ready for ten minutes is started again.
///     RemedyRule::new(Remedy::Restart).for_ailments([Ailment::NotReady]).after(Duration::from_secs(600)),
/// ]);
/// policy.check()?;
/// # Ok::<(), ews_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct RemedyPolicy {
    /// The rules; the first that applies decides. At most 50. Where none does: what ended, is gone or does not live is started
    /// again, what is not ready is left alone, what ran on a node that is lost is moved after `fencing`.
    pub rules: Vec<RemedyRule>,
    /// How many slots are treated at once at most, of all. Default 25 %, rounded up.
    pub brake: Batch,
    /// How long a node must not be heard of before anything that ran there is moved; 10 s to 7 days. Default 5 min (Kubernetes'
    /// toleration of nodes that can't be reached).
    #[serde(with = "duration")]
    pub fencing: Duration,
    /// What says how much of the service's error budget is left, as a part of one, asked each minute. Default: nothing, and rules
    /// about it do not apply.
    pub error_budget: Option<MetricQuery>,
}

impl Default for RemedyPolicy {
    fn default() -> Self {
        Self {
            rules: Vec::new(),
            brake: Batch::Percent(25),
            fencing: Duration::from_secs(300),
            error_budget: None,
        }
    }
}

impl RemedyPolicy {
    /// With these rules.
    #[must_use]
    pub fn with_rules(mut self, rules: impl IntoIterator<Item = RemedyRule>) -> Self {
        self.rules = rules.into_iter().collect();
        self
    }

    /// Treating so many at once.
    #[must_use]
    pub fn with_brake(mut self, brake: Batch) -> Self {
        self.brake = brake;
        self
    }

    /// Moving after so long.
    #[must_use]
    pub fn with_fencing(mut self, fencing: Duration) -> Self {
        self.fencing = fencing;
        self
    }

    /// With this saying how much of the error budget is left.
    #[must_use]
    pub fn with_error_budget(mut self, query: MetricQuery) -> Self {
        self.error_budget = Some(query);
        self
    }

    /// Refuses what can't work.
    ///
    /// # Errors
    /// `Invalid`, naming the field and what is accepted.
    pub fn check(&self) -> Result<()> {
        let wrong = |field: &'static str, accepted: &str| {
            Err(Error::invalid(format!("`{field}` of the remedies is refused; accepted: {accepted}"))
                .with_context("field", field))
        };
        if self.rules.len() > 50 {
            return wrong("rules", "at most 50");
        }
        if !self.brake.is_valid() {
            return wrong("brake", "a count from 1, or `1%` to `100%`");
        }
        if !(Duration::from_secs(10)..=Duration::from_secs(7 * 24 * 3600)).contains(&self.fencing) {
            return wrong("fencing", "10 s to 7 days");
        }
        if self.rules.iter().any(|rule| rule.budget_below.is_some()) && self.error_budget.is_none() {
            return wrong("rules.budget_below", "only beside `error_budget`");
        }
        Ok(())
    }
}

/// A rule: what it applies to, and what is done then.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct RemedyRule {
    /// Which ailments. Empty: all.
    #[serde(default)]
    pub ailments: Vec<Ailment>,
    /// Which exit codes of a program that ended. Empty: all.
    #[serde(default)]
    pub exit_codes: Vec<i64>,
    /// Only when it has lasted so long. Default: at once.
    #[serde(default, with = "duration")]
    pub after: Duration,
    /// Only from so many restarts of the slot within the window of the spec's `restart` on. Default 0.
    #[serde(default)]
    pub from_restarts: u32,
    /// Only while less of the error budget is left, as a part of one; not where that is not known. Default: whatever is left.
    #[serde(default)]
    pub budget_below: Option<f64>,
    /// Whether an event tells of it besides.
    #[serde(default)]
    pub alert: bool,
    /// What is done.
    pub then: Remedy,
}

impl RemedyRule {
    /// This is done about everything.
    pub fn new(then: Remedy) -> Self {
        Self {
            ailments: Vec::new(),
            exit_codes: Vec::new(),
            after: Duration::ZERO,
            from_restarts: 0,
            budget_below: None,
            alert: false,
            then,
        }
    }

    /// Only about these.
    #[must_use]
    pub fn for_ailments(mut self, ailments: impl IntoIterator<Item = Ailment>) -> Self {
        self.ailments = ailments.into_iter().collect();
        self
    }

    /// Only where the program ended with one of these.
    #[must_use]
    pub fn with_exit_codes(mut self, codes: impl IntoIterator<Item = i64>) -> Self {
        self.exit_codes = codes.into_iter().collect();
        self
    }

    /// Only when it has lasted so long.
    #[must_use]
    pub fn after(mut self, after: Duration) -> Self {
        self.after = after;
        self
    }

    /// Only from so many restarts on.
    #[must_use]
    pub fn from_restarts(mut self, restarts: u32) -> Self {
        self.from_restarts = restarts;
        self
    }

    /// Only while less of the error budget is left.
    #[must_use]
    pub fn budget_below(mut self, part: f64) -> Self {
        self.budget_below = Some(part);
        self
    }

    /// And an event tells of it.
    #[must_use]
    pub fn with_alert(mut self) -> Self {
        self.alert = true;
        self
    }

    fn applies(&self, seen: &RemedySeen) -> bool {
        let code = seen.exit.as_ref().and_then(|exit| exit.code).map(i64::from);
        (self.ailments.is_empty() || self.ailments.contains(&seen.ailment))
            && (self.exit_codes.is_empty() || code.is_some_and(|code| self.exit_codes.contains(&code)))
            && seen.lasted >= self.after
            && seen.restarts >= self.from_restarts
            && self.budget_below.is_none_or(|below| seen.budget.is_some_and(|left| left < below))
    }
}

/// What an instance suffers from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Ailment {
    /// Its program ended.
    Ended,
    /// It took more memory than it may.
    OutOfMemory,
    /// It is not there any more.
    Gone,
    /// Its liveness or its startup probe says no.
    NotLive,
    /// It is not ready.
    NotReady,
    /// Its node is not heard of.
    NodeLost,
}

impl std::fmt::Display for Ailment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Ended => "its program ended",
            Self::OutOfMemory => "it took too much memory",
            Self::Gone => "it is gone",
            Self::NotLive => "it does not live",
            Self::NotReady => "it is not ready",
            Self::NodeLost => "its node is not heard of",
        })
    }
}

/// What is done about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Remedy {
    /// The same instance is started again; one that is gone is made anew.
    Restart,
    /// A new instance takes its place, and it is removed.
    Replace,
    /// A new instance takes its place where the runtime sees fit, though it can't be asked or removed; it goes when its node is back.
    Move,
    /// It gets no traffic, and is left as it is for whoever looks.
    Eject,
    /// Nothing.
    Hold,
}

impl std::fmt::Display for Remedy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Restart => "restart",
            Self::Replace => "replace",
            Self::Move => "move",
            Self::Eject => "eject",
            Self::Hold => "hold",
        })
    }
}

/// An instance that is not well, and what is known around it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RemedySeen {
    /// Of which service.
    pub service: ServiceName,
    /// In which slot.
    pub slot: u32,
    /// Which; `None` for one that is gone.
    pub instance: Option<InstanceId>,
    /// What it suffers from.
    pub ailment: Ailment,
    /// In a sentence.
    pub reason: String,
    /// How its program ended, where it did.
    pub exit: Option<ExitStatus>,
    /// For how long, as far as this controller has seen it.
    #[serde(with = "duration")]
    pub lasted: Duration,
    /// How often the slot was restarted within the window of the spec's `restart`.
    pub restarts: u32,
    /// How much of the error budget is left, as a part of one; `None` where nobody knows.
    pub budget: Option<f64>,
    /// How many instances serve, and of how many, in this order.
    pub serving: (usize, usize),
    /// Whether another instance may not run beside it, since both would write to one volume.
    pub exclusive: bool,
    /// The service's own remedies.
    pub policy: RemedyPolicy,
}

impl RemedySeen {
    /// The only instance of a service, which has just begun to suffer from this. Whoever writes a policy tries it with this, and sets the
    /// fields that it looks at.
    ///
    /// ```
    /// use ews_core::policy::{Policy as _, PolicyState};
    /// use ews_core::Timestamp;
    /// use ews_deploy::{Ailment, Remedy, RemedyPolicy, RemedyRules, RemedySeen, Treatment};
    ///
    /// let seen = RemedySeen::new("web".parse()?, Ailment::Ended, "its program ended", RemedyPolicy::default());
    /// let (decision, _) = RemedyRules::default().decide(&seen, &PolicyState::default(), Timestamp::EPOCH);
    /// assert_eq!(decision.decision, Treatment::new(Remedy::Restart));
    /// # Ok::<(), ews_core::Error>(())
    /// ```
    pub fn new(
        service: ServiceName,
        ailment: Ailment,
        reason: impl Into<String>,
        policy: RemedyPolicy,
    ) -> Self {
        Self {
            service,
            slot: 0,
            instance: None,
            ailment,
            reason: reason.into(),
            exit: None,
            lasted: Duration::ZERO,
            restarts: 0,
            budget: None,
            serving: (0, 1),
            exclusive: false,
            policy,
        }
    }
}

/// The rules of the service as a policy: the first that applies, then what [`RemedyPolicy::rules`] says of the rest.
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub struct RemedyRules;

/// What is done, and whether an event tells of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Treatment {
    /// What.
    pub remedy: Remedy,
    /// Whether an event tells of it.
    pub alert: bool,
}

impl Treatment {
    /// This, and nobody is told.
    pub const fn new(remedy: Remedy) -> Self {
        Self { remedy, alert: false }
    }

    /// And an event tells of it.
    #[must_use]
    pub const fn with_alert(mut self) -> Self {
        self.alert = true;
        self
    }
}

impl Policy<RemedySeen, Treatment> for RemedyRules {
    fn name(&self) -> &str {
        "remedy-rules/1"
    }

    fn decide(
        &self,
        seen: &RemedySeen,
        state: &PolicyState,
        now: Timestamp,
    ) -> (Explained<Treatment>, PolicyState) {
        let found = (1..).zip(&seen.policy.rules).find(|(_, rule)| rule.applies(seen));
        let (treatment, why) = match found {
            Some((number, rule)) => {
                (Treatment { remedy: rule.then, alert: rule.alert }, format!("rule {number}"))
            }
            None => {
                let remedy = match seen.ailment {
                    Ailment::Ended | Ailment::OutOfMemory | Ailment::Gone | Ailment::NotLive => {
                        Remedy::Restart
                    }
                    Ailment::NotReady => Remedy::Hold,
                    // Two that write to one volume are worse than none.
                    Ailment::NodeLost if seen.exclusive || seen.lasted < seen.policy.fencing => Remedy::Hold,
                    Ailment::NodeLost => Remedy::Move,
                };
                (Treatment::new(remedy), "no rule applies".to_owned())
            }
        };
        let outcome = format!("{} in slot {}: {} ({why})", treatment.remedy, seen.slot, seen.reason);
        let count = |name: &str, value: f64| Input::new(name, Ok(value));
        let mut explained = Explained::new(Policy::name(self), now, treatment, outcome)
            .with_input(count("restarts", f64::from(seen.restarts)))
            .with_input(count("lasted_seconds", seen.lasted.as_secs_f64()));
        if let Some(budget) = seen.budget {
            explained = explained.with_input(count("error_budget", budget));
        }
        (explained, state.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(ailment: Ailment, policy: RemedyPolicy) -> RemedySeen {
        RemedySeen {
            service: "web".parse().unwrap(),
            slot: 0,
            instance: None,
            ailment,
            reason: ailment.to_string(),
            exit: None,
            lasted: Duration::ZERO,
            restarts: 0,
            budget: None,
            serving: (2, 3),
            exclusive: false,
            policy,
        }
    }

    fn remedy(seen: &RemedySeen) -> Remedy {
        RemedyRules.decide(seen, &PolicyState::default(), Timestamp::EPOCH).0.decision.remedy
    }

    #[test]
    fn without_rules() {
        let of = |ailment| seen(ailment, RemedyPolicy::default());
        assert_eq!(remedy(&of(Ailment::Ended)), Remedy::Restart);
        assert_eq!(remedy(&of(Ailment::NotReady)), Remedy::Hold);
        let mut lost = of(Ailment::NodeLost);
        lost.lasted = Duration::from_secs(299);
        assert_eq!(remedy(&lost), Remedy::Hold);
        lost.lasted = Duration::from_secs(300);
        assert_eq!(remedy(&lost), Remedy::Move);
        lost.exclusive = true;
        assert_eq!(remedy(&lost), Remedy::Hold, "never two writers");
    }

    #[test]
    fn conditions() {
        let rule = RemedyRule::new(Remedy::Replace)
            .for_ailments([Ailment::Ended])
            .with_exit_codes([3])
            .from_restarts(2)
            .after(Duration::from_secs(5))
            .budget_below(0.5);
        let policy = RemedyPolicy::default()
            .with_rules([rule])
            .with_error_budget(MetricQuery::new("budget", ews_core::Selector::everything()));
        policy.check().unwrap();
        let mut ill = seen(Ailment::Ended, policy);
        ill.exit = Some(ExitStatus::code(3, Timestamp::EPOCH));
        (ill.restarts, ill.lasted, ill.budget) = (2, Duration::from_secs(5), Some(0.4));
        assert_eq!(remedy(&ill), Remedy::Replace);
        let but = |change: fn(&mut RemedySeen)| {
            let mut other = ill.clone();
            change(&mut other);
            remedy(&other)
        };
        assert_eq!(but(|s| s.ailment = Ailment::Gone), Remedy::Restart);
        assert_eq!(but(|s| s.exit = Some(ExitStatus::code(4, Timestamp::EPOCH))), Remedy::Restart);
        assert_eq!(but(|s| s.restarts = 1), Remedy::Restart);
        assert_eq!(but(|s| s.lasted = Duration::from_secs(4)), Remedy::Restart);
        assert_eq!(but(|s| s.budget = Some(0.5)), Remedy::Restart);
        assert_eq!(but(|s| s.budget = None), Remedy::Restart, "what is not known moves nothing");
    }

    #[test]
    fn what_can_not_work_is_refused() {
        for (policy, field) in [
            (RemedyPolicy::default().with_fencing(Duration::from_secs(1)), "fencing"),
            (RemedyPolicy::default().with_brake(Batch::Percent(0)), "brake"),
            (
                RemedyPolicy::default().with_rules([RemedyRule::new(Remedy::Hold).budget_below(0.1)]),
                "budget_below",
            ),
        ] {
            assert!(policy.check().unwrap_err().message().contains(field));
        }
        let text = r#"{"rules": [{"ailments": ["not_ready"], "after": "10m", "then": "replace", "alert": true}], "brake": "2"}"#;
        let policy: RemedyPolicy = serde_json::from_str(text).unwrap();
        assert_eq!((policy.rules[0].then, policy.brake), (Remedy::Replace, Batch::Count(2)));
        assert!(serde_json::from_str::<RemedyPolicy>(r#"{"breake": "2"}"#).is_err());
    }
}
