//! How much a balancer holds.

use crate::balancer::ObjectKind;

/// How much a balancer holds. Beyond it a change is refused with `OutOfResources`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Domains. Default 1,000,000.
    pub domains: usize,
    /// Route sets. Default 100,000.
    pub route_sets: usize,
    /// Rules of one route set. Default 1,000.
    pub rules: usize,
    /// Pools. Default 100,000.
    pub pools: usize,
    /// Endpoints of all pools together. Default 1,000,000.
    pub endpoints: usize,
    /// Traffic policies. Default 100,000.
    pub traffic_policies: usize,
    /// Certificates. Default 1,000,000.
    pub certificates: usize,
    /// Blackholes. Default 100,000.
    pub blackholes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            domains: 1_000_000,
            route_sets: 100_000,
            rules: 1_000,
            pools: 100_000,
            endpoints: 1_000_000,
            traffic_policies: 100_000,
            certificates: 1_000_000,
            blackholes: 100_000,
        }
    }
}

impl Limits {
    pub(super) const fn of(&self, kind: ObjectKind) -> usize {
        match kind {
            ObjectKind::Domain => self.domains,
            ObjectKind::RouteSet => self.route_sets,
            ObjectKind::Pool => self.pools,
            ObjectKind::Endpoint => self.endpoints,
            ObjectKind::TrafficPolicy => self.traffic_policies,
            ObjectKind::Certificate => self.certificates,
            ObjectKind::Blackhole => self.blackholes,
        }
    }
}
