//! What records were before the latest transactions, so that several pages of a list are one picture.
//!
//! It is kept in memory only and bounded in transactions and bytes. A list at a revision that it no longer reaches back to
//! is refused as compacted; after a reopen that is every earlier revision.

use std::collections::{BTreeMap, VecDeque};

use crate::store::{Key, Prefix, Record};

/// What one transaction replaced: each key with the record that was there before.
pub(crate) type Before = Vec<(Key, Option<Record>)>;

struct Entry {
    revision: u64,
    /// `None` where it would have exceeded the bound by itself.
    before: Option<Before>,
    bytes: usize,
}

/// The replaced records of the latest transactions.
pub(crate) struct History {
    entries: VecDeque<Entry>,
    bytes: usize,
    max_entries: usize,
    max_bytes: usize,
}

fn bytes_of(before: &Before) -> usize {
    // 128 bytes stand for the entry's own structures.
    before
        .iter()
        .map(|(key, record)| 128 + key.as_str().len() + record.as_ref().map_or(0, |r| r.value.len()))
        .sum()
}

impl History {
    pub(crate) fn new(max_entries: usize, max_bytes: usize) -> Self {
        Self { entries: VecDeque::new(), bytes: 0, max_entries, max_bytes }
    }

    /// Adds a transaction, the next after those added before.
    pub(crate) fn push(&mut self, revision: u64, before: Before) {
        let bytes = bytes_of(&before);
        let before = (bytes <= self.max_bytes).then_some(before);
        let bytes = if before.is_some() { bytes } else { 0 };
        self.bytes += bytes;
        self.entries.push_back(Entry { revision, before, bytes });
        while self.entries.len() > self.max_entries || self.bytes > self.max_bytes {
            let Some(gone) = self.entries.pop_front() else { break };
            self.bytes -= gone.bytes;
        }
    }

    /// Takes back the transactions after `revision`, which did not happen after all.
    pub(crate) fn truncate(&mut self, revision: u64) {
        while self.entries.back().is_some_and(|entry| entry.revision > revision) {
            let Some(gone) = self.entries.pop_back() else { break };
            self.bytes -= gone.bytes;
        }
    }

    /// What differs under `prefix` between the state at `now` and the earlier state at `at`: each changed key with its record
    /// at `at`. `None` where history does not reach back that far.
    pub(crate) fn between(
        &self,
        at: u64,
        now: u64,
        prefix: &Prefix,
    ) -> Option<BTreeMap<Key, Option<Record>>> {
        let mut difference = BTreeMap::new();
        let mut expected = now;
        for entry in self.entries.iter().rev().skip_while(|entry| entry.revision > now) {
            if expected == at {
                break;
            }
            if entry.revision != expected {
                return None;
            }
            // From the newest to the oldest, so that what was there before the first change stays.
            for (key, record) in entry.before.as_ref()? {
                if prefix.covers(key) {
                    difference.insert(key.clone(), record.clone());
                }
            }
            expected -= 1;
        }
        (expected == at).then_some(difference)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_answers_within_its_bounds_and_refuses_beyond() {
        let key = Key::new("a").unwrap();
        let mut history = History::new(3, 10_000);
        for revision in 11..=14 {
            history.push(revision, vec![(key.clone(), None)]);
        }
        let all = Prefix::all();
        assert!(history.between(10, 14, &all).is_none(), "the oldest was dropped");
        assert_eq!(history.between(11, 14, &all).unwrap().len(), 1);
        assert_eq!(history.between(14, 14, &all).unwrap().len(), 0);
        assert_eq!(history.between(12, 13, &all).unwrap().len(), 1);
        assert!(history.between(13, 15, &all).is_none(), "it does not know 15");
        history.truncate(12);
        assert!(history.between(12, 13, &all).is_none());
        let mut small = History::new(3, 200);
        small.push(1, vec![(key.clone(), None)]);
        small.push(2, vec![(key.clone(), None), (Key::new("b").unwrap(), None)]);
        small.push(3, vec![(key, None)]);
        assert!(small.between(1, 3, &all).is_none(), "2 was too large to keep");
        assert_eq!(small.between(2, 3, &all).unwrap().len(), 1);
    }
}
