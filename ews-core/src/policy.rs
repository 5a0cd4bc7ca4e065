//! The `Policy` contract: pure decisions that explain themselves.
//!
//! Scaling, remedies and rollout gates are one contract with three observation types: `decide(observation, state, now)`
//! gives a decision and the next state, and reads no clock, no random number and no network. So the live loop, a dry run, a
//! replay of the record and a test run the same code. What a policy remembers is a versioned serde value that the caller
//! stores; what it decided is recorded with all that led to it.

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};
use crate::metrics::Unavailable;
use crate::time::Timestamp;

/// A pure decision.
///
/// Two calls with equal arguments give equal results. A policy that finds its state written by a newer version of itself
/// starts from none and says so in the explanation.
pub trait Policy<O, D>: Send + Sync + 'static {
    /// Its name and version, for the record: `target-tracking/1`.
    fn name(&self) -> &str;

    /// Decides.
    fn decide(&self, observation: &O, state: &PolicyState, now: Timestamp) -> (Explained<D>, PolicyState);
}

/// What a policy remembers between decisions.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PolicyState {
    /// The version of the value's form; 0 with a null value is "nothing yet".
    pub version: u32,
    /// The policy's own value.
    pub value: serde_json::Value,
}

impl PolicyState {
    /// A value of this version.
    ///
    /// # Errors
    /// `Internal` where the value can't be written as JSON.
    pub fn new(version: u32, value: &impl Serialize) -> Result<Self> {
        let value = serde_json::to_value(value).map_err(|error| {
            Error::internal("a policy's state can't be written as JSON").with_source(error)
        })?;
        Ok(Self { version, value })
    }

    /// The value, if it has this version; `None` where there is nothing yet.
    ///
    /// # Errors
    /// `Stale` for another version, `Decode` for a value of another form.
    pub fn read<T: serde::de::DeserializeOwned>(&self, version: u32) -> Result<Option<T>> {
        if self.version == 0 && self.value.is_null() {
            return Ok(None);
        }
        if self.version != version {
            return Err(Error::new(
                ErrorKind::Stale,
                format!("the policy's state has version {}, this policy reads {version}", self.version),
            ));
        }
        serde_json::from_value(self.value.clone()).map(Some).map_err(|error| {
            Error::new(ErrorKind::Decode, "the policy's state can't be read").with_source(error)
        })
    }
}

/// A decision with everything that led to it: an append-only record that reads as a sentence and replays.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Explained<D> {
    /// What was decided.
    pub decision: D,
    /// Which policy, by [`Policy::name`].
    pub policy: String,
    /// When, by the `now` it was given.
    pub at: Timestamp,
    /// What it looked at.
    pub inputs: Vec<Input>,
    /// What spoke for which outcome, in the order it was weighed.
    pub proposals: Vec<Proposal>,
    /// What bound the outcome, in the order it was applied.
    pub constraints: Vec<Constraint>,
    /// The outcome in one sentence.
    pub outcome: String,
}

impl<D> Explained<D> {
    /// A decision that nothing led to yet.
    pub fn new(policy: impl Into<String>, at: Timestamp, decision: D, outcome: impl Into<String>) -> Self {
        Self {
            decision,
            policy: policy.into(),
            at,
            inputs: Vec::new(),
            proposals: Vec::new(),
            constraints: Vec::new(),
            outcome: outcome.into(),
        }
    }

    /// Adds what it looked at.
    #[must_use]
    pub fn with_input(mut self, input: Input) -> Self {
        self.inputs.push(input);
        self
    }

    /// The same explanation of another decision.
    pub fn map<E>(self, f: impl FnOnce(D) -> E) -> Explained<E> {
        let Self { decision, policy, at, inputs, proposals, constraints, outcome } = self;
        Explained { decision: f(decision), policy, at, inputs, proposals, constraints, outcome }
    }
}

impl<D> std::fmt::Display for Explained<D> {
    /// Reads as sentences: the outcome, then the inputs and what bound it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.policy, self.outcome)?;
        for input in &self.inputs {
            match &input.reading {
                Ok(value) => write!(f, "; {} = {value}", input.name)?,
                Err(missing) => write!(f, "; {} is unavailable: {missing}", input.name)?,
            }
            if let Some(age) = input.age {
                write!(f, " ({} old)", humantime::format_duration(age))?;
            }
        }
        for proposal in &self.proposals {
            write!(f, "; {} proposes {}: {}", proposal.by, proposal.value, proposal.reason)?;
        }
        for bound in &self.constraints {
            write!(f, "; {} changes {} to {}", bound.name, bound.before, bound.after)?;
        }
        Ok(())
    }
}

/// Something a policy looked at.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Input {
    /// Its name: `requests_in_flight`.
    pub name: String,
    /// Its value, or why there is none.
    pub reading: std::result::Result<f64, Unavailable>,
    /// How old it was.
    #[serde(default, with = "crate::time::duration::option")]
    pub age: Option<std::time::Duration>,
}

/// What one part of a policy spoke for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Proposal {
    /// Which part.
    pub by: String,
    /// For what: a count, a weight, an action's name.
    pub value: String,
    /// Why.
    pub reason: String,
}

/// What bound an outcome.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Constraint {
    /// Which bound: `max_replicas`.
    pub name: String,
    /// The outcome before it.
    pub before: String,
    /// The outcome after it.
    pub after: String,
}

impl Input {
    /// A value of this name, or why there is none; its age is not known.
    pub fn new(name: impl Into<String>, reading: std::result::Result<f64, Unavailable>) -> Self {
        Self { name: name.into(), reading, age: None }
    }

    /// So old, where that is known.
    #[must_use]
    pub fn with_age(mut self, age: impl Into<Option<std::time::Duration>>) -> Self {
        self.age = age.into();
        self
    }
}

impl Proposal {
    /// This part speaks for this value, for this reason.
    pub fn new(by: impl Into<String>, value: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { by: by.into(), value: value.into(), reason: reason.into() }
    }
}

impl Constraint {
    /// This bound made that of it.
    pub fn new(name: impl Into<String>, before: impl Into<String>, after: impl Into<String>) -> Self {
        Self { name: name.into(), before: before.into(), after: after.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_of_another_version_is_refused_not_misread() {
        let state = PolicyState::new(2, &7_u32).unwrap();
        assert_eq!(state.read::<u32>(2).unwrap(), Some(7));
        assert_eq!(state.read::<u32>(1).unwrap_err().kind(), ErrorKind::Stale);
        assert_eq!(state.read::<String>(2).unwrap_err().kind(), ErrorKind::Decode);
        assert_eq!(PolicyState::default().read::<u32>(1).unwrap(), None);
    }
}
