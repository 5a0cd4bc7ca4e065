//! What is done about a failure: rules that are a part of the strategy, and a policy in Rust before them.

use ews_core::policy::{Explained, Policy, PolicyState};
use ews_core::{ServiceName, Timestamp};
use serde::{Deserialize, Serialize};

use crate::rollout::UnitFailure;
use crate::strategy::{OnFailure, Strategy};

/// What kind of failure it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FailureClass {
    /// A new instance's program ended, or could not be started.
    Exited,
    /// A new instance took more memory than it may.
    OutOfMemory,
    /// A new instance did not get healthy in time, or a probe said no.
    Unhealthy,
    /// A new instance was healthy and did not stay so while it was watched.
    Relapsed,
    /// The engine refuses the revision: no such image, not enough of something, a port that is taken.
    Refused,
    /// A program could not be told that its files have changed, or files did not hold what was written.
    Reload,
    /// Nothing got healthy for as long as the progress deadline allows.
    Deadline,
    /// Metrics say that the new revision does badly.
    Analysis,
    /// A hook said no.
    Hook,
    /// A job of the rollout failed.
    Job,
    /// Something else.
    #[default]
    Other,
}

impl FailureClass {
    /// Whether it is about one instance, so that it can be tried again or skipped.
    pub const fn is_of_a_unit(self) -> bool {
        !matches!(self, Self::Deadline | Self::Analysis | Self::Hook | Self::Job)
    }
}

impl std::fmt::Display for FailureClass {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Exited => "exited",
            Self::OutOfMemory => "out of memory",
            Self::Unhealthy => "unhealthy",
            Self::Relapsed => "relapsed",
            Self::Refused => "refused",
            Self::Reload => "reload",
            Self::Deadline => "deadline",
            Self::Analysis => "analysis",
            Self::Hook => "hook",
            Self::Job => "job",
            Self::Other => "other",
        })
    }
}

/// A rule about failures: what it applies to, and what is done then. The first that applies decides.
///
/// ```
/// use ews_deploy::{FailureClass, FailureRule, OnFailure, Strategy};
///
/// // An image that a registry does not give just now is asked for again; a program that ends stops everything.
/// let strategy = Strategy::default().with_rules([
///     FailureRule::new(OnFailure::Retry(3)).for_classes([FailureClass::Refused]),
///     FailureRule::new(OnFailure::Freeze).for_classes([FailureClass::Exited]).with_exit_codes([78]),
/// ]);
/// strategy.check()?;
/// # Ok::<(), ews_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct FailureRule {
    /// Which classes. Empty: all.
    #[serde(default)]
    pub classes: Vec<FailureClass>,
    /// Which exit codes of a program. Empty: all, and where there is none.
    #[serde(default)]
    pub exit_codes: Vec<i64>,
    /// From which failure of the rollout on, counted from 1. Default 1.
    #[serde(default = "one")]
    pub from: usize,
    /// What is done.
    pub then: OnFailure,
}

fn one() -> usize {
    1
}

impl FailureRule {
    /// This is done about every failure.
    pub fn new(then: OnFailure) -> Self {
        Self { classes: Vec::new(), exit_codes: Vec::new(), from: 1, then }
    }

    /// Only about these classes.
    #[must_use]
    pub fn for_classes(mut self, classes: impl IntoIterator<Item = FailureClass>) -> Self {
        self.classes = classes.into_iter().collect();
        self
    }

    /// Only where the program ended with one of these.
    #[must_use]
    pub fn with_exit_codes(mut self, codes: impl IntoIterator<Item = i64>) -> Self {
        self.exit_codes = codes.into_iter().collect();
        self
    }

    /// Only from this failure of the rollout on.
    #[must_use]
    pub fn from_failure(mut self, from: usize) -> Self {
        self.from = from;
        self
    }

    fn applies(&self, seen: &FailureSeen) -> bool {
        let code = seen.failure.as_ref().and_then(|failure| failure.exit.as_ref()?.code).map(i64::from);
        (self.classes.is_empty() || self.classes.contains(&seen.class))
            && (self.exit_codes.is_empty() || code.is_some_and(|code| self.exit_codes.contains(&code)))
            && seen.failed >= self.from
    }
}

/// A failure, and where the rollout stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct FailureSeen {
    /// Of which service.
    pub service: ServiceName,
    /// Of which rollout.
    pub rollout: u64,
    /// What kind.
    pub class: FailureClass,
    /// In a sentence.
    pub reason: String,
    /// The new instance's, where it is about one.
    pub failure: Option<UnitFailure>,
    /// How many failures of new instances there were, this one included.
    pub failed: usize,
    /// How often this slot failed, this time included; 0 where it is about none.
    pub tries: u32,
    /// How many slots run the new revision, and out of how many, in this order.
    pub done: (usize, usize),
    /// What the strategy has by default.
    pub strategy: Strategy,
}

impl FailureSeen {
    /// The first failure of the first rollout of a service, of one slot that is not known further. Whoever writes a policy tries it with
    /// this, and sets the fields that it looks at.
    ///
    /// ```
    /// use ews_core::policy::{Policy as _, PolicyState};
    /// use ews_core::Timestamp;
    /// use ews_deploy::{FailureClass, FailureRules, FailureSeen, OnFailure, Strategy};
    ///
    /// let strategy = Strategy::default().with_on_failure(OnFailure::Pause);
    /// let mut seen = FailureSeen::new("web".parse()?, FailureClass::Unhealthy, "it is not ready", strategy);
    /// seen.tries = 2;
    /// let (decision, _) = FailureRules::default().decide(&seen, &PolicyState::default(), Timestamp::EPOCH);
    /// assert_eq!(decision.decision, OnFailure::Pause);
    /// # Ok::<(), ews_core::Error>(())
    /// ```
    pub fn new(
        service: ServiceName,
        class: FailureClass,
        reason: impl Into<String>,
        strategy: Strategy,
    ) -> Self {
        Self {
            service,
            rollout: 1,
            class,
            reason: reason.into(),
            failure: None,
            failed: 1,
            tries: u32::from(class.is_of_a_unit()),
            done: (0, 1),
            strategy,
        }
    }
}

/// The rules of the strategy as a policy: the first that applies, then `on_failure`. A rule whose retries are used up is passed
/// over, and so is one about an instance where none is concerned.
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub struct FailureRules;

impl Policy<FailureSeen, OnFailure> for FailureRules {
    fn name(&self) -> &str {
        "failure-rules/1"
    }

    fn decide(
        &self,
        seen: &FailureSeen,
        state: &PolicyState,
        now: Timestamp,
    ) -> (Explained<OnFailure>, PolicyState) {
        let usable = |then: OnFailure| match then {
            OnFailure::Retry(times) => seen.class.is_of_a_unit() && seen.tries <= times,
            OnFailure::Skip => seen.class.is_of_a_unit(),
            _ => true,
        };
        let rules = (1..).zip(&seen.strategy.rules);
        let found = rules.into_iter().find(|(_, rule)| rule.applies(seen) && usable(rule.then));
        let fallback =
            if usable(seen.strategy.on_failure) { seen.strategy.on_failure } else { OnFailure::Rollback };
        let (decision, why) = match found {
            Some((number, rule)) => (rule.then, format!("rule {number}")),
            None => (fallback, "no rule applies".to_owned()),
        };
        let outcome = format!("{decision} after {} ({}): {why}", seen.class, seen.reason);
        (Explained::new(Policy::name(self), now, decision, outcome), state.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(class: FailureClass, tries: u32, strategy: Strategy) -> FailureSeen {
        FailureSeen {
            service: "web".parse().unwrap(),
            rollout: 1,
            class,
            reason: "it failed".to_owned(),
            failure: None,
            failed: 1,
            tries,
            done: (0, 3),
            strategy,
        }
    }

    fn decision(seen: &FailureSeen) -> OnFailure {
        FailureRules.decide(seen, &PolicyState::default(), Timestamp::EPOCH).0.decision
    }

    #[test]
    fn the_first_rule_that_applies_and_can_still_be_followed_decides() {
        let rules = [
            FailureRule::new(OnFailure::Retry(2))
                .for_classes([FailureClass::Refused, FailureClass::Deadline]),
            FailureRule::new(OnFailure::Pause).for_classes([FailureClass::Refused]),
        ];
        let strategy = Strategy::default().with_rules(rules).with_on_failure(OnFailure::Freeze);
        let of = |class, tries| decision(&seen(class, tries, strategy.clone()));
        assert_eq!(of(FailureClass::Refused, 2), OnFailure::Retry(2));
        assert_eq!(of(FailureClass::Refused, 3), OnFailure::Pause, "its retries are used up");
        assert_eq!(of(FailureClass::Deadline, 0), OnFailure::Freeze, "a deadline can't be tried again");
        assert_eq!(of(FailureClass::Unhealthy, 1), OnFailure::Freeze);
        let skip = Strategy::default().with_on_failure(OnFailure::Skip);
        assert_eq!(decision(&seen(FailureClass::Analysis, 0, skip)), OnFailure::Rollback);
    }

    #[test]
    fn by_exit_code_and_by_number() {
        let rule = FailureRule::new(OnFailure::Pause).with_exit_codes([78]).from_failure(2);
        let mut seen = seen(FailureClass::Exited, 1, Strategy::default().with_rules([rule]));
        seen.failed = 2;
        assert_eq!(decision(&seen), OnFailure::Rollback, "no code is known");
        seen.failure = Some(UnitFailure {
            slot: 0,
            instance: None,
            revision: "r1".parse().unwrap(),
            class: FailureClass::Exited,
            reason: String::new(),
            exit: Some(ews_core::ExitStatus::code(78, Timestamp::EPOCH)),
            log: Vec::new(),
            at: Timestamp::EPOCH,
        });
        assert_eq!(decision(&seen), OnFailure::Pause);
        seen.failed = 1;
        assert_eq!(decision(&seen), OnFailure::Rollback);
    }
}
