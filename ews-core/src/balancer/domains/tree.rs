//! Leaves under branches of sixteen, found by four bits of the hash at a time.
//!
//! A copy shares everything. A change of a copy copies the branches on its way and one leaf, at most five times sixteen
//! pointers and some kilobytes, however many names there are.

use std::sync::Arc;

use super::Site;
use super::leaf::{Entry, Leaf};

/// A leaf with more names becomes a branch: at a million names there are 4,096 leaves of about 244.
const SPLIT: usize = 512;
/// How many bits of a hash a branch looks at.
const BITS: u32 = 4;
/// Where the hash ends; leaves below may grow as they like.
const DEEPEST: u32 = 28;

#[derive(Debug, Clone)]
pub(super) enum Tree {
    Leaf(Arc<Leaf>),
    Branch(Arc<[Self; 16]>),
}

impl Default for Tree {
    fn default() -> Self {
        Self::Leaf(Arc::default())
    }
}

fn part(hash: u32, shift: u32) -> usize {
    usize::try_from((hash >> shift) & 15).unwrap_or(0)
}

#[allow(clippy::indexing_slicing, reason = "four bits lead to one of sixteen")]
impl Tree {
    fn leaf(&self, hash: u32) -> &Leaf {
        let (mut node, mut shift) = (self, 0);
        loop {
            match node {
                Self::Leaf(leaf) => return leaf,
                Self::Branch(parts) => node = &parts[part(hash, shift)],
            }
            shift += BITS;
        }
    }

    pub(super) fn get(&self, hash: u32, name: &str) -> Option<&Entry> {
        self.leaf(hash).get(hash, name.as_bytes())
    }

    pub(super) fn put(&mut self, hash: u32, name: &str, version: u64, site: Arc<Site>) -> Option<Arc<Site>> {
        let (mut node, mut shift) = (self, 0);
        loop {
            match node {
                Self::Branch(parts) => node = &mut Arc::make_mut(parts)[part(hash, shift)],
                Self::Leaf(leaf) => {
                    let before = Arc::make_mut(leaf).put(hash, name.as_bytes(), version, site);
                    if leaf.len() > SPLIT && shift < DEEPEST {
                        *node = Self::Branch(Arc::new(leaf.split(shift).map(|leaf| Self::Leaf(leaf.into()))));
                    }
                    return before;
                }
            }
            shift += BITS;
        }
    }

    pub(super) fn remove(&mut self, hash: u32, name: &str) -> Option<Arc<Site>> {
        self.get(hash, name)?;
        let (mut node, mut shift) = (self, 0);
        loop {
            match node {
                Self::Branch(parts) => node = &mut Arc::make_mut(parts)[part(hash, shift)],
                Self::Leaf(leaf) => return Arc::make_mut(leaf).remove(hash, name.as_bytes()),
            }
            shift += BITS;
        }
    }
}
