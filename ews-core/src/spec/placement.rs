//! Where instances may run and how they spread; `crate::place` decides by it.

use serde::{Deserialize, Serialize};

use crate::selector::Selector;

/// Where instances of a service may run.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
#[non_exhaustive]
pub struct Placement {
    /// Node labels that must match. Default: every node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub require: Option<Selector>,
    /// Node labels that are preferred, each with a weight.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub prefer: Vec<Preference>,
    /// Whether instances are spread over nodes or packed onto few. Default: spread.
    #[serde(skip_serializing_if = "super::is_default")]
    pub strategy: PlacementStrategy,
    /// Node label keys, the most important first, over whose values instances are spread evenly: `zone`, `rack`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub spread_by: Vec<String>,
    /// The most instances of this service on one node. Default: unlimited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_per_node: Option<u32>,
}

/// A preference for some nodes.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Preference {
    /// Which nodes.
    pub selector: Selector,
    /// How much, from -100 (avoid) to 100.
    pub weight: i32,
}

impl Preference {
    /// Prefers these nodes by this weight.
    pub fn new(selector: Selector, weight: i32) -> Self {
        Self { selector, weight }
    }
}

/// How instances share nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum PlacementStrategy {
    /// Over as many nodes as there are.
    #[default]
    Spread,
    /// Onto as few nodes as they fit.
    Pack,
}
