//! Placement: on which node the next instances go, and why, or why nowhere.
//!
//! [`place`] is pure: nodes, what is on them and a [`Request`] in; a [`Placed`] out. First every node is filtered
//! ([`Obstacle`]): its state, platform (with the Windows build rule, [`windows_fit`]), isolation, required labels, instances
//! of the service it may have, host ports, and CPU and memory set aside. Then what is left is scored in points
//! ([`Part`]) and the best node gets the next instance:
//!
//! | Part | Points |
//! |---|---|
//! | each matching [`Preference`](crate::spec::placement::Preference) | its weight, -100 to 100 |
//! | each instance of the service in the same domain of `spread_by`'s first key | -100; of the second key within it -50, then -25, … |
//! | spread: each instance of the service on the node | -20 |
//! | spread: how full the node would be | 0 to -10 |
//! | pack: how full the node would be | 0 to 100 |
//! | the image is on the node already | 15 |
//!
//! So a preference of weight 100 outweighs an imbalance of one instance between zones, and is outweighed by two. How full a
//! node would be is the larger share of CPU and memory set aside. Equal points go to the emptier node (pack: to the fuller
//! one), then to the one with fewer (more) instances, then to the smaller id: equal input gives equal output, in whatever
//! order the nodes come.
//!
//! Instances of one request are alike, so how many fit does not depend on the order in which they are placed: a request that
//! can be placed is placed, and one more node never makes it unplaceable.
//!
//! A [`Ledger`] keeps the accounts between requests: an instance placed updates one node's account, and the next one costs
//! a look at one node per domain.
//!
//! What is not known is not held against a node: a capacity of zero means that the runtime does not know, and such a node
//! takes what it is given. It bounds only what it was told: programs without reservations are placed without regard to what
//! they use.

mod filter;
mod ledger;
mod outcome;
mod request;
mod score;
mod windows;

#[cfg(test)]
mod tests;

pub use filter::Obstacle;
pub use ledger::Ledger;
pub use outcome::{Chosen, NoRoom, Placed};
pub use request::{HostPort, Occupant, Request};
pub use score::Part;
pub use windows::{WindowsFit, windows_fit};

use crate::node::Node;

/// Places `count` instances on these nodes, beside what is on them. See the [module](self) for the rules.
///
/// ```
/// use ews_core::place::{Request, place};
/// use ews_core::spec::placement::Placement;
/// use ews_core::{Arch, Node, NodeId, Os, Platform, ServiceName};
///
/// let node = |id| Ok::<_, ews_core::Error>(Node::new(NodeId::new(id)?, Platform::new(Os::Linux, Arch::Amd64)));
/// let nodes = [node("n1")?, node("n2")?];
/// let request = Request::new(ServiceName::new("web")?);
/// let placed = place(&request, 2, &nodes, &[]);
/// let on: Vec<_> = placed.chosen.iter().map(|chosen| chosen.node.as_str()).collect();
/// assert_eq!(on, ["n1", "n2"]);
///
/// let once = Request::new(ServiceName::new("web")?).with_placement(Placement::default().with_max_per_node(1));
/// let placed = place(&once, 3, &nodes, &[]);
/// assert_eq!(placed.chosen.len(), 2);
/// assert_eq!(
///     placed.no_room.unwrap().to_string(),
///     "no room for 1 of 3 instances of web: 2 nodes: have the most instances of the service that one node may have (1)"
/// );
/// # Ok::<(), ews_core::Error>(())
/// ```
pub fn place(request: &Request, count: u32, nodes: &[Node], existing: &[Occupant]) -> Placed {
    Ledger::new(nodes, existing).place(request, count)
}
