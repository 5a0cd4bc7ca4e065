//! A map that is cheap to copy when little of it changes.
//!
//! It is cut into 4,096 shards in groups of 64, each behind a pointer: a copy shares all of them, and a change of a copy copies
//! one group's pointers and one shard, at a million keys some 250 of them. Readers keep what they have. (Domains, of which a
//! byte counts, are kept by the table itself.)

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

/// The shards of a group, and the groups.
const WIDTH: usize = 64;

/// A map from text, shared shard by shard.
#[derive(Debug, Clone)]
pub(crate) struct Sharded<V> {
    groups: Arc<[Group<V>; WIDTH]>,
    length: usize,
}

type Group<V> = Arc<[Shard<V>; WIDTH]>;
type Shard<V> = Option<Arc<HashMap<Arc<str>, V, Quick>>>;

/// Hashes keys that no client chooses: names of the configuration, numbers of this gateway. Nobody gains by making them
/// collide, so they need no seed, and a look-up on every request's way is several times as cheap.
pub(crate) type Quick = BuildHasherDefault<Fnv>;

/// FNV-1a over bytes, a multiplication for numbers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Hasher for Fnv {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
        }
    }

    fn write_u64(&mut self, number: u64) {
        // Fibonacci hashing: the high bits depend on all of them.
        self.0 = (self.0 ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn finish(&self) -> u64 {
        // Maps look at the lowest bits and at the highest ones.
        self.0 ^ (self.0 >> 32)
    }
}

impl<V: Clone> Sharded<V> {
    pub(crate) fn new() -> Self {
        let empty: Group<V> = Arc::new(std::array::from_fn(|_| None));
        Self { groups: Arc::new(std::array::from_fn(|_| empty.clone())), length: 0 }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.length == 0
    }

    pub(crate) fn get(&self, key: &str) -> Option<&V> {
        let (group, shard) = place(key);
        self.groups.get(group)?.get(shard)?.as_ref()?.get(key)
    }

    pub(crate) fn set(&mut self, key: &str, value: Option<V>) {
        let (group, shard) = place(key);
        let Some(group) = Arc::make_mut(&mut self.groups).get_mut(group) else { return };
        let Some(place) = Arc::make_mut(group).get_mut(shard) else { return };
        let shard = Arc::make_mut(place.get_or_insert_default());
        let before = shard.len();
        match value {
            Some(value) => drop(shard.insert(key.into(), value)),
            None => drop(shard.remove(key)),
        }
        self.length = self.length + shard.len() - before;
        if shard.is_empty() {
            *place = None;
        }
    }
}

fn place(key: &str) -> (usize, usize) {
    let mut fnv = Fnv::default();
    fnv.write(key.as_bytes());
    let hash = fnv.0;
    let bits = |shift: u32| usize::try_from((hash >> shift) % WIDTH as u64).unwrap_or(0);
    (bits(32), bits(40))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_does_not_see_later_changes() {
        let mut map = Sharded::new();
        (0..1000).for_each(|number| map.set(&number.to_string(), Some(number)));
        let copy = map.clone();
        map.set("7", None);
        map.set("8", Some(80));
        assert_eq!((map.get("7"), map.get("8"), map.length), (None, Some(&80), 999));
        assert_eq!((copy.get("7"), copy.get("8"), copy.length), (Some(&7), Some(&8), 1000));
        assert!(Sharded::<u8>::new().is_empty());
    }

    #[test]
    fn numbers_in_a_row_spread() {
        use std::hash::BuildHasher as _;
        let (mut low, mut high) = (std::collections::HashSet::new(), std::collections::HashSet::new());
        for number in 0..1024_u64 {
            let hash = Quick::default().hash_one(number);
            low.insert(hash % 1024);
            high.insert(hash >> 57);
        }
        assert!(low.len() > 512 && high.len() == 128, "{} {}", low.len(), high.len());
    }
}
