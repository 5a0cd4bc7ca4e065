//! How many connections each client has open: nothing is kept of who has none, so memory is bounded by connections.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::rate::subject;

/// Into how many parts clients are divided, so that threads seldom wait for each other.
const PARTS: usize = 64;

type Part = Mutex<HashMap<(bool, u64), u32>>;

/// The connections of all clients, where they are bounded.
#[derive(Debug)]
pub(crate) struct Presence {
    most: u32,
    parts: Vec<Part>,
    hasher: RandomState,
}

/// One connection, until it is dropped.
#[derive(Debug)]
pub(crate) struct Present {
    presence: Arc<Presence>,
    client: IpAddr,
}

impl Presence {
    /// At most so many of each.
    pub(crate) fn new(most: u32) -> Self {
        Self { most, parts: (0..PARTS).map(|_| Mutex::default()).collect(), hasher: RandomState::new() }
    }

    /// One more of this client; `None` where it has as many as it may.
    pub(crate) fn join(self: &Arc<Self>, client: IpAddr) -> Option<Present> {
        let mut part = self.part(client)?;
        let count = part.entry(subject(client)).or_insert(0);
        if *count >= self.most {
            return None;
        }
        *count += 1;
        Some(Present { presence: self.clone(), client })
    }

    fn part(&self, client: IpAddr) -> Option<MutexGuard<'_, HashMap<(bool, u64), u32>>> {
        let at = self.hasher.hash_one(subject(client)) % PARTS as u64;
        let part = self.parts.get(usize::try_from(at).ok()?)?;
        Some(part.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        let Some(mut part) = self.presence.part(self.client) else { return };
        if let Entry::Occupied(mut count) = part.entry(subject(self.client)) {
            if *count.get() <= 1 {
                count.remove();
            } else {
                *count.get_mut() -= 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_client_has_its_own_and_nothing_is_kept_of_who_has_gone() {
        let presence = Arc::new(Presence::new(2));
        let join = |client: &str| presence.join(client.parse().unwrap());
        let held = [join("10.0.0.1"), join("::ffff:10.0.0.1"), join("10.0.0.2")];
        assert!(held.iter().all(Option::is_some) && join("10.0.0.1").is_none());
        // One client has all of such a network.
        let six = [join("2001:db8::1"), join("2001:db8::ffff:2")];
        assert!(six.iter().all(Option::is_some) && join("2001:db8::3").is_none());
        assert!(join("2001:db8:0:1::1").is_some());
        drop((held, six));
        assert!(presence.parts.iter().all(|part| part.lock().unwrap().is_empty()));
        assert!(join("10.0.0.1").is_some());
    }

    #[test]
    fn threads_lose_no_count() {
        let presence = Arc::new(Presence::new(4));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..10_000 {
                        assert!(presence.join(IpAddr::from([10, 0, 0, 1])).is_some());
                    }
                });
            }
        });
        assert!(presence.parts.iter().all(|part| part.lock().unwrap().is_empty()));
    }
}
