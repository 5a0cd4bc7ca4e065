//! Events: hints that something changed.
//!
//! An event is never the truth, only a reason to look: a stream may lose some, and says so with [`Notice::Gap`] where it
//! can. After a gap, after a reconnect, and every now and then without either, a consumer lists again.

use futures_core::stream::BoxStream;
use serde::{Deserialize, Serialize};

use crate::id::{InstanceId, NodeId};
use crate::instance::{Health, Incarnation, InstanceKey, InstanceState};
use crate::node::NodeState;
use crate::time::Timestamp;

/// What an event stream yields. It ends only when the driver is dropped.
pub type EventStream = BoxStream<'static, Notice<RuntimeEvent>>;

/// An event, or the honest word that some are missing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Notice<E> {
    /// Something changed.
    Event(E),
    /// Events may have been lost before this point: list again.
    Gap(Gap),
}

/// Why events may be missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Gap {
    /// The connection to the engine broke and was made anew.
    Reconnected,
    /// This consumer was too slow for the bounded queue.
    Lagged,
    /// The engine dropped some, or was restarted.
    EngineLost,
}

/// Something changed at a runtime.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum RuntimeEvent {
    /// An instance changed its state.
    Instance {
        /// Which.
        id: InstanceId,
        /// What it is for.
        key: InstanceKey,
        /// Which of its starts.
        incarnation: Incarnation,
        /// What it does now.
        state: InstanceState,
        /// When, by the engine's clock.
        at: Timestamp,
    },
    /// The engine's own health check changed its mind.
    Health {
        /// Of which instance.
        id: InstanceId,
        /// Which of its starts.
        incarnation: Incarnation,
        /// What it says now.
        health: Health,
        /// When, by the engine's clock.
        at: Timestamp,
    },
    /// An instance is gone.
    Removed {
        /// Which.
        id: InstanceId,
        /// What it was for.
        key: InstanceKey,
        /// When, by the engine's clock.
        at: Timestamp,
    },
    /// A node changed its state.
    Node {
        /// Which.
        node: NodeId,
        /// How it is now.
        state: NodeState,
        /// When, by this program's clock.
        at: Timestamp,
    },
}
