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

impl Placement {
    /// Only on nodes with these labels.
    #[must_use]
    pub fn with_require(mut self, require: Selector) -> Self {
        self.require = Some(require);
        self
    }

    /// Preferring these nodes too.
    #[must_use]
    pub fn with_preference(mut self, preference: Preference) -> Self {
        self.prefer.push(preference);
        self
    }

    /// Spread or packed in this way.
    #[must_use]
    pub fn with_strategy(mut self, strategy: PlacementStrategy) -> Self {
        self.strategy = strategy;
        self
    }

    /// Spread evenly over the values of these node labels, the most important first.
    #[must_use]
    pub fn with_spread_by(mut self, keys: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.spread_by = keys.into_iter().map(Into::into).collect();
        self
    }

    /// With at most so many instances of the service on one node.
    #[must_use]
    pub fn with_max_per_node(mut self, max_per_node: u32) -> Self {
        self.max_per_node = Some(max_per_node);
        self
    }
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
