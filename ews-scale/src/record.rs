//! What is kept of each evaluation: the decision with all that led to it, and what came of it.

use ews_core::policy::PolicyState;
use ews_core::store::Schema;
use ews_core::{Error, ErrorKind, Explained, ServiceName};
use serde::{Deserialize, Serialize};

use crate::observation::ScaleDecision;

/// One evaluation of a service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ScaleRecord {
    /// Which service.
    pub service: ServiceName,
    /// What was decided, with all that led to it.
    pub decision: Explained<ScaleDecision>,
    /// What came of it.
    pub action: Action,
}

impl ScaleRecord {
    pub(crate) fn new(service: &ServiceName, decision: Explained<ScaleDecision>) -> Self {
        Self { service: service.clone(), decision, action: Action::Unchanged }
    }
}

/// What came of a decision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Action {
    /// The count stays.
    Unchanged,
    /// It is about to be set; where this is read after a restart, nobody knows whether it was.
    Intended,
    /// It was set.
    Applied {
        /// The version of the count from then on.
        version: u64,
    },
    /// It would have been set, were this not a dry run.
    DryRun,
    /// It could not be set, or nobody knows; the next evaluation looks again.
    Failed {
        /// What went wrong.
        kind: ErrorKind,
        /// In words.
        message: String,
        /// Whether it may have been set all the same.
        maybe_applied: bool,
    },
}

impl Action {
    pub(crate) fn failed(error: &Error) -> Self {
        Self::Failed { kind: error.kind(), message: error.to_string(), maybe_applied: error.maybe_applied() }
    }
}

/// What survives a restart of the controller.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Kept {
    /// Whose state it is.
    pub(crate) policy: String,
    pub(crate) state: PolicyState,
    /// The last few, the oldest first.
    pub(crate) records: Vec<ScaleRecord>,
}

impl Schema for Kept {
    const NAME: &'static str = "scale-state";
    const VERSION: u32 = 1;
}
