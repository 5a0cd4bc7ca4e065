//! Ports: allotted from a range, tried before they are given, and not given again soon.
//!
//! A port belongs to its instance until that is removed, running or not, so its endpoint stays. What is free is asked of the
//! system: a port whose socket somebody still holds is never given, whoever it is. Allotting goes on behind the last one given,
//! over restarts of the controller too, so that a client with an old address finds nobody rather than a stranger. Each root begins
//! somewhere else: between the moment that a port is allotted and the one in which its program listens, nobody can see that it is
//! taken, and two runtimes on one machine that began at the same port would give it to two programs.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::record::{self, Durable};
use crate::error::{Error, ErrorKind, Result};
use crate::spec::network::Protocol;

/// The ports of a root.
#[derive(Debug)]
pub(super) struct Ports {
    range: RangeInclusive<u16>,
    file: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Which belong to instances.
    taken: BTreeSet<u16>,
    next: u16,
}

impl Ports {
    /// The ports of this range; `taken` belong to instances already. A position that can't be read is no reason to fail.
    pub(super) fn new(range: RangeInclusive<u16>, file: PathBuf, taken: BTreeSet<u16>) -> Self {
        let next = record::read::<u16>(&file).ok().flatten().unwrap_or_else(|| first(&range, &file));
        Self { range, file, state: Mutex::new(State { taken, next }) }
    }

    /// One that is free, for an instance; it is given back with [`release`](Self::release).
    pub(super) fn allot(&self, protocol: Protocol) -> Result<u16> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (start, end) = (*self.range.start(), *self.range.end());
        let from = if self.range.contains(&state.next) { state.next } else { start };
        for port in (from..=end).chain(start..from) {
            if !state.taken.contains(&port) && is_free(port, protocol) {
                state.taken.insert(port);
                state.next = if port == end { start } else { port + 1 };
                // The place where it goes on is a courtesy: without it nothing is given twice.
                let _ = record::write(&self.file, &state.next, Durable::Process);
                return Ok(port);
            }
        }
        Err(Error::new(
            ErrorKind::OutOfResources,
            format!("no port is free from {start} to {end}; {} belong to instances", state.taken.len()),
        ))
    }

    /// Gives ports back.
    pub(super) fn release(&self, ports: impl IntoIterator<Item = u16>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        for port in ports {
            state.taken.remove(&port);
        }
    }
}

/// Where a root begins that has allotted nothing: anywhere in the range, always the same for one path.
fn first(range: &RangeInclusive<u16>, file: &Path) -> u16 {
    let mut hasher = DefaultHasher::new();
    file.hash(&mut hasher);
    let length = u64::from(range.end().saturating_sub(*range.start())) + 1;
    range.start().saturating_add(u16::try_from(hasher.finish() % length).unwrap_or_default())
}

/// Whether nobody listens on this port, on any address.
pub(super) fn is_free(port: u16, protocol: Protocol) -> bool {
    let bind = |address: SocketAddr| match protocol {
        Protocol::Udp => UdpSocket::bind(address).map(drop),
        _ => TcpListener::bind(address).map(drop),
    };
    // Where one of the two families does not exist, it is the other that counts.
    let absent = |error: &io::Error| {
        matches!(error.kind(), io::ErrorKind::AddrNotAvailable | io::ErrorKind::Unsupported)
            || error.raw_os_error() == Some(if cfg!(windows) { 10047 } else { 97 })
    };
    let free = |address: SocketAddr| bind(address).map_or_else(|error| absent(&error), |()| true);
    free((Ipv4Addr::UNSPECIFIED, port).into()) && free((Ipv6Addr::UNSPECIFIED, port).into())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU16, Ordering};

    use super::*;

    /// A range of ports, none of which is used by others at this moment; the tests of this program have their own.
    fn range(count: u16) -> RangeInclusive<u16> {
        static CALLS: AtomicU16 = AtomicU16::new(0);
        let free = |start: &u16| (*start..start + count).all(|port| is_free(port, Protocol::Tcp));
        let turn = CALLS.fetch_add(1, Ordering::Relaxed) % 2;
        let offset = (std::process::id() % 500) as u16 * 20 + turn * 12_000;
        let start = (34_000 + offset..60_000).step_by(usize::from(count)).find(free).unwrap();
        start..=start + count - 1
    }

    #[test]
    fn each_is_given_once_goes_on_behind_the_last_and_a_listener_is_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ports");
        let range = range(4);
        let (a, b, c, d) = (*range.start(), range.start() + 1, range.start() + 2, *range.end());
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, b)).unwrap();
        std::fs::write(&file, a.to_string()).unwrap();
        let ports = Ports::new(range.clone(), file.clone(), BTreeSet::new());
        assert_eq!(ports.allot(Protocol::Tcp).unwrap(), a);
        assert_eq!(
            ports.allot(Protocol::Tcp).unwrap(),
            c,
            "somebody listens on the second, on loopback only"
        );
        ports.release([a, c]);
        assert_eq!(ports.allot(Protocol::Tcp).unwrap(), d, "those given back come last");
        // The next controller goes on where this one was.
        let ports = Ports::new(range.clone(), file.clone(), BTreeSet::from([d]));
        assert_eq!(ports.allot(Protocol::Tcp).unwrap(), a);
        assert_eq!(ports.allot(Protocol::Tcp).unwrap(), c);
        let error = ports.allot(Protocol::Tcp).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::OutOfResources);
        drop(listener);
        assert_eq!(ports.allot(Protocol::Tcp).unwrap(), b, "its socket is gone");
    }

    #[test]
    fn roots_begin_at_ports_of_their_own_within_the_range() {
        let range = 20_000..=32_000;
        let begins: BTreeSet<u16> =
            (0..100).map(|root| first(&range, Path::new(&format!("/srv/{root}/ports")))).collect();
        assert!(begins.len() > 90 && begins.iter().all(|port| range.contains(port)), "{begins:?}");
        let one = Path::new("/srv/ports");
        assert_eq!(first(&range, one), first(&range, one), "a root that is opened again");
        assert_eq!([first(&(1024..=1024), one), first(&(65_535..=65_535), one)], [1024, 65_535]);
    }

    #[test]
    fn a_damaged_position_costs_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ports");
        let range = range(2);
        for text in ["", "70000", "x", "1"] {
            std::fs::write(&file, text).unwrap();
            let ports = Ports::new(range.clone(), file.clone(), BTreeSet::new());
            assert!(range.contains(&ports.allot(Protocol::Tcp).unwrap()), "{text}");
        }
    }
}
