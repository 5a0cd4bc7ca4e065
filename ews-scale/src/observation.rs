//! What the decision core looks at, and what it decides.

use ews_core::{Scale, Timestamp, Unavailable};
use serde::{Deserialize, Serialize};

/// Everything that a decision depends on besides the policy's state and the moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ScaleObservation {
    /// How many instances the service has and should have.
    pub scale: Scale,
    /// What its signals say. One that the policy knows and that is not here is missing; others are not looked at.
    pub signals: Vec<SignalReading>,
}

impl ScaleObservation {
    /// This count and these signals.
    pub fn new(scale: Scale, signals: impl IntoIterator<Item = SignalReading>) -> Self {
        Self { scale, signals: signals.into_iter().collect() }
    }
}

/// What a signal says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SignalReading {
    /// Which signal, by the name it has in the policy.
    pub name: String,
    /// Its value, or why there is none. What is negative or not finite counts as none.
    pub value: Result<f64, Unavailable>,
    /// When it was measured.
    pub at: Option<Timestamp>,
    /// How many instances it was measured on, where that is known.
    pub reporting: Option<u32>,
}

impl SignalReading {
    /// A value that was measured at this moment.
    pub fn measured(name: impl Into<String>, value: f64, at: Timestamp) -> Self {
        Self { name: name.into(), value: Ok(value), at: Some(at), reporting: None }
    }

    /// No value, for this reason.
    pub fn unavailable(name: impl Into<String>, reason: Unavailable) -> Self {
        let at = match reason {
            Unavailable::Stale { last } => Some(last),
            _ => None,
        };
        Self { name: name.into(), value: Err(reason), at, reporting: None }
    }

    /// Measured on so many instances.
    #[must_use]
    pub fn with_reporting(mut self, reporting: u32) -> Self {
        self.reporting = Some(reporting);
        self
    }
}

/// How many instances a service should have from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ScaleDecision {
    /// How many it should have.
    pub desired: u32,
    /// How many it should have had before.
    pub from: u32,
    /// How much of the data was there.
    pub sight: Sight,
}

impl ScaleDecision {
    /// So many from now on, in place of so many; for policies of one's own.
    pub const fn new(desired: u32, from: u32, sight: Sight) -> Self {
        Self { desired, from, sight }
    }
}

/// How much of the data was there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Sight {
    /// Every signal said something.
    Full,
    /// Some signals said nothing.
    Partial,
    /// No signal said anything.
    Blind,
    /// A signal is missing for longer than the grace, and the policy says that this is a failure.
    Failed,
}
