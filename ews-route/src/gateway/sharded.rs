//! A map that is cheap to copy when little of it changes.
//!
//! It is cut into shards, each behind a pointer: a copy shares all of them, and a change of a copy copies one. So a change
//! among a million names costs a few thousand entries, and readers keep what they have.

use std::collections::HashMap;
use std::sync::Arc;

const SHARDS: usize = 256;

/// A map from text, shared shard by shard.
#[derive(Debug, Clone)]
pub(crate) struct Sharded<V> {
    shards: Arc<Vec<Shard<V>>>,
    length: usize,
}

type Shard<V> = Arc<HashMap<Box<str>, V>>;

impl<V: Clone> Sharded<V> {
    pub(crate) fn new() -> Self {
        let empty = Arc::new(HashMap::new());
        Self { shards: Arc::new(vec![empty; SHARDS]), length: 0 }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.length == 0
    }

    pub(crate) fn get(&self, key: &str) -> Option<&V> {
        self.shards.get(place(key))?.get(key)
    }

    pub(crate) fn set(&mut self, key: &str, value: Option<V>) {
        let Some(shard) = Arc::make_mut(&mut self.shards).get_mut(place(key)) else { return };
        let shard = Arc::make_mut(shard);
        let before = shard.len();
        match value {
            Some(value) => {
                shard.insert(key.into(), value);
            }
            None => {
                shard.remove(key);
            }
        }
        self.length = self.length + shard.len() - before;
    }
}

/// FNV-1a. Names come from whoever configures the gateway, so nobody gains by crowding a shard.
fn place(key: &str) -> usize {
    let hash = key
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    usize::try_from((hash >> 32) % SHARDS as u64).unwrap_or(0)
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
}
