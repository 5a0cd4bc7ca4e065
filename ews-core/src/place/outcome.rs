//! Where instances go, and why the others go nowhere.

use std::fmt;

use super::filter::Obstacle;
use super::score::Part;
use crate::id::{NodeId, ServiceName};
use crate::spec::platform::Isolation;

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Placed {
    /// One entry per instance that has a node, in the order they were placed.
    pub chosen: Vec<Chosen>,
    /// Why the others have none; `None` where all have one.
    pub no_room: Option<NoRoom>,
}

/// A node for one instance.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Chosen {
    /// The node.
    pub node: NodeId,
    /// Its points; [`parts`](Self::parts) added up.
    pub score: i64,
    /// What they came from.
    pub parts: Vec<Part>,
    /// The isolation to ask for; `None` leaves it to the engine.
    pub isolation: Option<Isolation>,
}

impl fmt::Display for Chosen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} with {} points", self.node, self.score)?;
        let mut separator = ": ";
        for part in &self.parts {
            write!(f, "{separator}{part}")?;
            separator = ", ";
        }
        Ok(())
    }
}

/// Why instances have no node.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct NoRoom {
    /// The service.
    pub service: ServiceName,
    /// How many instances were asked for.
    pub asked: u32,
    /// How many of them have no node.
    pub missing: u32,
    /// What was in the way, with the number of nodes, the most frequent first. Empty where there are no nodes at all.
    pub obstacles: Vec<(Obstacle, u32)>,
}

impl NoRoom {
    pub(super) fn new(
        service: ServiceName,
        asked: u32,
        missing: u32,
        found: impl Iterator<Item = Obstacle>,
    ) -> Self {
        let mut obstacles: Vec<(Obstacle, u32)> = Vec::new();
        for obstacle in found {
            match obstacles.iter_mut().find(|(known, _)| known.alike(&obstacle)) {
                Some((known, count)) => {
                    *known = known.clone().nearer(obstacle);
                    *count += 1;
                }
                None => obstacles.push((obstacle, 1)),
            }
        }
        obstacles.sort_by_key(|(obstacle, count)| (std::cmp::Reverse(*count), obstacle.order()));
        Self { service, asked, missing, obstacles }
    }
}

impl fmt::Display for NoRoom {
    /// Reads as a sentence, with at most eight kinds of obstacles.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 8;
        write!(f, "no room for {} of {} instances of {}: ", self.missing, self.asked, self.service)?;
        if self.obstacles.is_empty() {
            return f.write_str("there are no nodes");
        }
        for (index, (obstacle, count)) in self.obstacles.iter().take(SHOWN).enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            let nodes = if *count == 1 { "node" } else { "nodes" };
            write!(f, "{separator}{count} {nodes}: {obstacle}")?;
        }
        match self.obstacles.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => write!(f, "; and {more} other reasons"),
        }
    }
}
