//! Endpoints by name: what a name stands for, as the data threads see it.
//!
//! Names are looked up by the control thread ([`lookup`]), never by a request. What was found stands in a [`Named`] that the
//! endpoint holds: threads read it when they open a connection, and otherwise look at one number that grows with each change.
//! An endpoint at an address has none of this.
//!
//! The last good answer stays until there is another one: a resolver that fails, hangs or says nothing takes no endpoint
//! away. Before the first answer the endpoint is as one that can't be connected to. (Envoy's `STRICT_DNS` and HAProxy's
//! `resolvers` do the same, but that HAProxy lets go of an answer after `hold`.)

pub(super) mod lookup;
mod resolver;

use std::cell::Cell;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock, Weak};

use ews_core::endpoint::{EndpointAddress, HostName};
use ews_core::{Error, ErrorKind, Result};

pub use resolver::{Resolver, SystemResolver};

/// The most addresses of a name that are used. Of more, those that sort first, so that it is the same ones each time.
pub(crate) const MAX_ADDRESSES: usize = 64;
/// How many addresses one connection tries.
const TRIES: usize = 4;
/// How long an address that could not be connected to comes after all others, in milliseconds.
const REST: u64 = 10_000;

/// What an endpoint's name stands for.
#[derive(Debug)]
pub(crate) struct Named {
    port: u16,
    /// Grows with each change; 0: nothing is known yet.
    version: AtomicU64,
    known: RwLock<Vec<Arc<Address>>>,
    /// Whose turn it is.
    turn: AtomicUsize,
}

/// One of the addresses of a name.
#[derive(Debug)]
pub(crate) struct Address {
    pub(crate) address: SocketAddr,
    /// Until when the others come first, in the gateway's milliseconds.
    rests: AtomicU64,
}

impl Named {
    pub(crate) fn new(port: u16) -> Self {
        // Several gateways must not all begin with the same address.
        let turn = std::hash::BuildHasher::hash_one(&std::collections::hash_map::RandomState::new(), port);
        Self {
            port,
            version: AtomicU64::new(0),
            known: RwLock::default(),
            turn: AtomicUsize::new(usize::try_from(turn >> 1).unwrap_or(0)),
        }
    }

    /// Whether it was ever found out.
    pub(crate) fn is_known(&self) -> bool {
        self.version.load(Ordering::Acquire) != 0
    }

    /// What was found out. True where that is a change.
    pub(crate) fn set(&self, found: &[IpAddr]) -> bool {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if known.iter().map(|one| one.address.ip()).eq(found.iter().copied()) {
            return false;
        }
        let kept = |ip: &IpAddr| known.iter().find(|one| one.address.ip() == *ip).cloned();
        let new = |ip: &IpAddr| {
            Arc::new(Address { address: SocketAddr::new(*ip, self.port), rests: AtomicU64::new(0) })
        };
        let next = found.iter().map(|ip| kept(ip).unwrap_or_else(|| new(ip))).collect();
        *known = next;
        self.version.fetch_add(1, Ordering::Release);
        true
    }

    #[cfg(all(unix, feature = "handover"))]
    fn addresses(&self) -> Vec<IpAddr> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.iter().map(|one| one.address.ip()).collect()
    }

    fn holds(&self, address: SocketAddr) -> bool {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.iter().any(|one| one.address == address)
    }

    /// The addresses that a new connection tries, in order: the turn goes round, and those that failed lately come last.
    pub(crate) fn tries(&self, now: u64) -> Vec<Arc<Address>> {
        let mut tries = self.known.read().unwrap_or_else(PoisonError::into_inner).clone();
        if !tries.is_empty() {
            let at = self.turn.fetch_add(1, Ordering::Relaxed) % tries.len();
            tries.rotate_left(at);
        }
        // Stable, so that the turn holds among equals.
        tries.sort_by_key(|one| one.rests.load(Ordering::Relaxed) > now);
        tries.truncate(TRIES);
        tries
    }
}

impl Address {
    /// It could not be connected to.
    pub(crate) fn failed(&self, now: u64) {
        self.rests.store(now.saturating_add(REST), Ordering::Relaxed);
    }

    /// It was connected to.
    pub(crate) fn reached(&self) {
        if self.rests.load(Ordering::Relaxed) != 0 {
            self.rests.store(0, Ordering::Relaxed);
        }
    }
}

/// Where a kept connection to a named endpoint leads.
#[derive(Debug)]
pub(crate) struct Remote {
    address: SocketAddr,
    /// The answer that it was last found in.
    seen: Cell<u64>,
}

impl Remote {
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self { address, seen: Cell::new(0) }
    }

    /// Whether the name still stands for it.
    pub(crate) fn is_current(&self, named: &Named) -> bool {
        let version = named.version.load(Ordering::Acquire);
        if self.seen.get() == version {
            return true;
        }
        let holds = named.holds(self.address);
        if holds {
            self.seen.set(version);
        }
        holds
    }
}

/// The names of all endpoints that are there or busy. Endpoints of one name and port share what is known.
#[derive(Debug, Default)]
pub(crate) struct Registry(HashMap<(HostName, u16), Weak<Named>>);

impl Registry {
    /// What is known of an endpoint's name, where it has one.
    pub(crate) fn named(&mut self, address: &EndpointAddress) -> Option<Arc<Named>> {
        let (host, port) = (address.host()?, address.port());
        let place = self.0.entry((host.clone(), port)).or_default();
        Some(place.upgrade().unwrap_or_else(|| {
            let named = Arc::new(Named::new(port));
            *place = Arc::downgrade(&named);
            named
        }))
    }

    /// All that are in use.
    fn all(&mut self) -> impl Iterator<Item = (&HostName, Arc<Named>)> {
        self.0.retain(|_, named| named.strong_count() > 0);
        self.0.iter().filter_map(|((host, _), named)| Some((host, named.upgrade()?)))
    }

    /// What is known by now.
    #[cfg(all(unix, feature = "handover"))]
    pub(crate) fn known(&mut self) -> Vec<(EndpointAddress, Vec<IpAddr>)> {
        let known = |(host, named): (&HostName, Arc<Named>)| {
            let address = EndpointAddress::Name { host: host.clone(), port: named.port };
            named.is_known().then(|| (address, named.addresses()))
        };
        self.all().filter_map(known).collect()
    }

    /// Takes over what another gateway has found out, until it is found out here.
    #[cfg(all(unix, feature = "handover"))]
    pub(crate) fn learn(&mut self, address: &EndpointAddress, found: &[IpAddr]) {
        let Some(host) = address.host() else { return };
        if let Some(named) = self.0.get(&(host.clone(), address.port())).and_then(Weak::upgrade) {
            named.set(found.get(..MAX_ADDRESSES).unwrap_or(found));
        }
    }

    /// Whether there is room for these besides.
    ///
    /// # Errors
    /// `OutOfResources`, with the bound.
    pub(crate) fn check<'a>(
        &self,
        new: impl Iterator<Item = &'a EndpointAddress>,
        most: usize,
    ) -> Result<()> {
        let is_used = |key: &(HostName, u16)| self.0.get(key).is_some_and(|named| named.strong_count() > 0);
        let new = new.filter_map(|address| Some((address.host()?.clone(), address.port())));
        let new: std::collections::HashSet<_> = new.filter(|key| !is_used(key)).collect();
        if new.is_empty() {
            return Ok(());
        }
        let used = self.0.values().filter(|named| named.strong_count() > 0).count();
        if used + new.len() > most {
            return Err(Error::new(
                ErrorKind::OutOfResources,
                format!("{} names of endpoints; accepted: {most} (`names.most`)", used + new.len()),
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ips(last: &[u8]) -> Vec<IpAddr> {
        last.iter().map(|last| IpAddr::from([10, 0, 0, *last])).collect()
    }

    #[test]
    fn the_turn_goes_round_and_failed_ones_come_last() {
        let named = Named::new(80);
        assert!(!named.is_known() && named.tries(0).is_empty());
        assert!(named.set(&ips(&[1, 2, 3])) && !named.set(&ips(&[1, 2, 3])));
        let first = |now| named.tries(now).first().unwrap().address;
        let (a, b, c) = (first(0), first(0), first(0));
        assert!(a != b && b != c && a != c);
        let bad = named.tries(0).remove(0);
        bad.failed(0);
        assert!((0..6).all(|_| first(REST - 1) != bad.address));
        assert!((0..6).any(|_| first(REST) == bad.address));
        bad.failed(REST);
        bad.reached();
        assert!((0..3).any(|_| first(REST) == bad.address));
        // What is known of an address outlives an answer that still has it.
        bad.failed(REST);
        let IpAddr::V4(ip) = bad.address.ip() else { panic!("it is none of ours") };
        assert!(named.set(&ips(&[ip.octets()[3], 9])));
        assert!((0..6).all(|_| first(REST) == SocketAddr::from(([10, 0, 0, 9], 80))));
    }

    #[test]
    fn a_connection_is_current_while_its_address_is_in_the_answer() {
        let named = Named::new(80);
        named.set(&ips(&[1, 2]));
        let remote = Remote::new(SocketAddr::from(([10, 0, 0, 1], 80)));
        assert!(remote.is_current(&named));
        named.set(&ips(&[1, 3]));
        assert!(remote.is_current(&named) && remote.is_current(&named));
        named.set(&ips(&[3]));
        assert!(!remote.is_current(&named) && !remote.is_current(&named));
    }

    #[test]
    fn names_are_shared_and_bounded() {
        let mut registry = Registry::default();
        let address = |text: &str| text.parse::<EndpointAddress>().unwrap();
        assert!(registry.named(&address("10.0.0.1:80")).is_none());
        let a = registry.named(&address("a.example:80")).unwrap();
        let again = registry.named(&address("a.example:80")).unwrap();
        let other = registry.named(&address("a.example:81")).unwrap();
        assert!(Arc::ptr_eq(&a, &again) && !Arc::ptr_eq(&a, &other));
        let check = |registry: &Registry, names: &[&str], most| {
            let names: Vec<_> = names.iter().map(|name| address(name)).collect();
            registry.check(names.iter(), most).is_ok()
        };
        assert!(check(&registry, &["a.example:80", "a.example:81", "10.0.0.1:80"], 2));
        assert!(!check(&registry, &["b.example:80"], 2) && check(&registry, &["b.example:80"; 3], 3));
        drop((a, again));
        assert!(check(&registry, &["b.example:80"], 2));
        assert_eq!(registry.all().count(), 1);
    }
}
