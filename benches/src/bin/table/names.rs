//! Names of domains, and what they point to.

use ews_core::balancer::{Domain, DomainName};
use ews_core::id::RouteSetId;

/// How many route sets the domains share.
pub(crate) const SETS: usize = 100;

/// The nth domain. Every hundredth is a wildcard.
pub(crate) fn name(number: usize) -> String {
    if number % 100 == 99 {
        format!("*.{}", parent(number))
    } else {
        format!("shop-{}.{}", mixed(number), parent(number))
    }
}

/// A host that the nth domain serves.
pub(crate) fn host(number: usize) -> String {
    name(number).replacen('*', "www", 1)
}

/// A hundred domains belong to each customer.
fn parent(number: usize) -> String {
    format!("customer-{}.example", mixed(number / 100))
}

/// Neighbours in number are none in order.
pub(crate) fn mixed(number: usize) -> usize {
    number.wrapping_mul(2_654_435_761) % 4_294_967_296
}

pub(crate) fn set(number: usize) -> RouteSetId {
    RouteSetId::new(format!("routes-of-app-{:03}", number % SETS)).unwrap()
}

pub(crate) fn domain(number: usize, set_number: usize) -> Domain {
    let name = DomainName::new(&name(number)).unwrap();
    Domain::new(name, set(set_number))
}
