//! How good a node is for the next instance, in points that add up.

use std::fmt;
use std::sync::Arc;

use super::ledger::Account;
use super::request::Request;
use crate::spec::placement::PlacementStrategy;

/// One part of a score.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Part {
    /// The preferences that match the node, their weights added up.
    Preferences(i64),
    /// The service's instances in the same domain.
    Domain {
        /// The label key.
        key: Arc<str>,
        /// How many instances the domain had.
        present: u32,
        /// The points.
        points: i64,
    },
    /// The service's instances on the node.
    SameService {
        /// How many there were.
        present: u32,
        /// The points.
        points: i64,
    },
    /// How full the node would be.
    Load {
        /// The larger share of CPU and memory set aside, in thousandths.
        permille: u32,
        /// The points.
        points: i64,
    },
    /// The image is on the node already.
    ImageThere(i64),
}

impl Part {
    /// What an instance on the same node costs.
    pub(super) const SAME_SERVICE: i64 = -20;
    /// What an image on the node is worth.
    pub(super) const IMAGE_THERE: i64 = 15;
    /// What an instance in the same domain of the first key costs; each further key half.
    pub(super) const DOMAIN: i64 = -100;

    /// Its points.
    pub const fn points(&self) -> i64 {
        match self {
            Self::Preferences(points)
            | Self::Domain { points, .. }
            | Self::SameService { points, .. }
            | Self::Load { points, .. }
            | Self::ImageThere(points) => *points,
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Preferences(points) => write!(f, "{points:+} by preferences"),
            Self::Domain { key, present, points } => {
                write!(f, "{points:+} for {present} of the service in the same {key}")
            }
            Self::SameService { present, points } => {
                write!(f, "{points:+} for {present} of the service on the node")
            }
            Self::Load { permille, points } => {
                write!(f, "{points:+} for being {}.{}% full", permille / 10, permille % 10)
            }
            Self::ImageThere(points) => write!(f, "{points:+} for having the image"),
        }
    }
}

/// What an instance in the same domain of the key at this place in `spread_by` costs.
pub(super) fn domain_weight(place: usize) -> i64 {
    (Part::DOMAIN / (1 << place.min(6))).min(-1)
}

/// A node's standing: larger is better. Compared field by field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Standing {
    pub(super) points: i64,
    tie: (i64, i64),
}

impl Standing {
    pub(super) fn plus(mut self, points: i64) -> Self {
        self.points = self.points.saturating_add(points);
        self
    }
}

/// The part of a node's score that changes only with what is on the node itself.
pub(super) struct Own {
    pub(super) fixed: i64,
    pub(super) image_there: bool,
}

impl Own {
    pub(super) fn standing(&self, request: &Request, account: &Account) -> Standing {
        let permille = i64::from(account.permille_with(request));
        let total = i64::from(account.instances());
        let points = self.parts(request, account).iter().map(Part::points).sum();
        let tie = match request.placement.strategy {
            PlacementStrategy::Pack => (permille, total),
            PlacementStrategy::Spread => (-permille, -total),
        };
        Standing { points, tie }
    }

    pub(super) fn parts(&self, request: &Request, account: &Account) -> Vec<Part> {
        let mut parts = Vec::with_capacity(4);
        if self.fixed != 0 {
            parts.push(Part::Preferences(self.fixed));
        }
        let permille = account.permille_with(request);
        match request.placement.strategy {
            PlacementStrategy::Pack => {
                parts.push(Part::Load { permille, points: i64::from(permille) / 10 });
            }
            PlacementStrategy::Spread => {
                let present = account.of_service(&request.service);
                if present > 0 {
                    let points = i64::from(present) * Part::SAME_SERVICE;
                    parts.push(Part::SameService { present, points });
                }
                parts.push(Part::Load { permille, points: -(i64::from(permille) / 100) });
            }
        }
        if self.image_there {
            parts.push(Part::ImageThere(Part::IMAGE_THERE));
        }
        parts
    }
}
