//! What the controller and the presenter say to each other: lines on the controller's input and output.
//!
//! It is the tour's own way, so that the tour needs no endpoint; an operations system has its API.

use serde::{Deserialize, Serialize};

/// What the presenter asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Ask {
    /// Deploys this version.
    Deploy(String),
    /// Deploys this version as a canary that the gateway's own figures judge.
    Canary(String),
    /// Lays this text over the running instances.
    Hotfix(String),
    /// Brings about the shop, its API in this version.
    Release(String),
    /// Goes back to the stable one before.
    Rollback,
    /// How the service stands.
    Status,
    /// The metrics as Prometheus reads them.
    Metrics,
    /// Takes every service away.
    Remove,
    /// Ends in order.
    Leave,
}

/// What the controller says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) enum Said {
    /// It leads, and may be asked.
    Ready,
    /// Something happened.
    Event(String),
    /// A step of the work on a slot begins.
    Step(String),
    /// Requests under way at an old instance ended: whether by themselves.
    Drained(bool),
    /// An instance ended by itself.
    Lost(String),
    /// A slot is filled.
    Filled(String),
    /// A rollout is asked for.
    Asked(u64),
    /// A rollout ended.
    Ended {
        /// Which.
        number: u64,
        /// How.
        outcome: String,
        /// Why, where it did not succeed.
        cause: String,
        /// The last lines that a failed instance wrote.
        log: Vec<String>,
    },
    /// A release ended.
    Released {
        /// How.
        outcome: String,
        /// Why, where it did not succeed.
        cause: String,
        /// Its members in the order in which they were done.
        order: Vec<String>,
    },
    /// The count was changed.
    Scaled {
        /// To this.
        to: u32,
        /// Why.
        why: String,
    },
    /// An alert is pending, fires, or has resolved.
    Alert {
        /// Whether it fires; `None` while it is pending.
        fires: Option<bool>,
        /// In words.
        text: String,
    },
    /// How the service stands.
    Status {
        /// How many instances run.
        running: u32,
        /// In which versions.
        versions: Vec<String>,
        /// Whether a rollout is under way.
        rolling: bool,
        /// Which they are, and which of their starts.
        instances: Vec<String>,
    },
    /// The metrics.
    Metrics(Vec<String>),
    /// The services are gone.
    Removed,
    /// Something went wrong.
    Failed(String),
}
