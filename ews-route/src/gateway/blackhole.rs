//! Who and what is dropped without an answer.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use ews_core::Timestamp;
use ews_core::balancer::{Blackhole, BlackholeTarget};

use super::networks::{leading, number};
use super::sharded::Sharded;

/// All blackholes at one generation. A copy shares what is not changed.
#[derive(Debug, Clone)]
pub(crate) struct Blackholes {
    /// For each length of networks, its leading bits and until when.
    sources: BTreeMap<(bool, u8), Arc<HashMap<u128, Timestamp>>>,
    domains: Sharded<Timestamp>,
    /// Raised with each change of the sources.
    pub(crate) sources_version: u64,
}

impl Blackholes {
    pub(crate) fn new() -> Self {
        Self { sources: BTreeMap::new(), domains: Sharded::new(), sources_version: 0 }
    }

    /// Puts or lifts one.
    pub(crate) fn set(&mut self, target: &BlackholeTarget, blackhole: Option<&Blackhole>) {
        let until = blackhole.map(|blackhole| blackhole.until);
        match target {
            BlackholeTarget::Source { network, bits } => {
                self.sources_version += 1;
                let (is_four, value, width) = number(*network);
                let key = (is_four, *bits);
                let known = Arc::make_mut(self.sources.entry(key).or_default());
                match until {
                    Some(until) => drop(known.insert(leading(value, width, *bits), until)),
                    None => drop(known.remove(&leading(value, width, *bits))),
                }
                if known.is_empty() {
                    self.sources.remove(&key);
                }
            }
            BlackholeTarget::Domain(name) => self.domains.set(name.as_str(), until),
            _ => {}
        }
    }

    /// Whether what this client sends is dropped. `now` is asked for only where anything is.
    pub(crate) fn drops(&self, client: IpAddr, now: impl FnOnce() -> Timestamp) -> bool {
        if self.sources.is_empty() {
            return false;
        }
        let (is_four, value, width) = number(client.to_canonical());
        let of_kind = self.sources.iter().filter(|((four, _), _)| *four == is_four);
        let until = of_kind.filter_map(|((_, bits), known)| known.get(&leading(value, width, *bits))).max();
        until.is_some_and(|until| *until > now())
    }

    /// Whether requests for this host are dropped.
    pub(crate) fn drops_host(&self, host: &str, now: impl FnOnce() -> Timestamp) -> bool {
        !self.domains.is_empty() && self.domains.get(host).is_some_and(|until| *until > now())
    }
}
