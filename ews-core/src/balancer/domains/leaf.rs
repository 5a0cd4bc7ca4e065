//! Some hundred domains side by side in memory: names end to end, entries in a row, and slots that a hash leads to.
//!
//! It is copied whole when one of its domains changes while somebody still reads the state before: three runs of memory,
//! and a counter for each entry that is not copied by value. So a change costs some microseconds however many domains
//! there are, and no domain costs an allocation of its own.

use std::sync::Arc;

use super::Site;

/// A domain beside its name.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) site: Arc<Site>,
    pub(super) version: u64,
    pub(super) hash: u32,
    /// Where its name begins among the names.
    at: u32,
}

/// See the [module](self).
#[derive(Debug, Clone, Default)]
pub(super) struct Leaf {
    /// For each name its length in one byte, and the name.
    names: Vec<u8>,
    /// How many bytes of the names belong to nobody any more.
    gone: usize,
    entries: Vec<Entry>,
    /// In the upper half a hash, in the lower half its entry's number, from 1 on; 0: none. There is a power of two of them, of
    /// which at most three quarters are taken; one that is taken by another hash leads to the next.
    slots: Vec<u64>,
}

/// The first slot of a hash among so many, of which there is a power of two.
fn first(hash: u32, slots: usize) -> usize {
    // The tree has used up the low bits: within a leaf they are all the same.
    let mixed = u64::from(hash).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    usize::try_from(mixed).unwrap_or(0) & slots.wrapping_sub(1)
}

/// Room for some more. A leaf grows by an eighth, since the room that it keeps is multiplied by the number of leaves.
fn reserve<T>(list: &mut Vec<T>, more: usize) {
    if list.capacity() - list.len() < more {
        list.reserve_exact(more.max(list.len() / 8));
    }
}

impl Leaf {
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    fn name(&self, entry: &Entry) -> &[u8] {
        let at = usize::try_from(entry.at).unwrap_or(usize::MAX);
        let length = self.names.get(at).map_or(0, |length| usize::from(*length));
        self.names.get(at + 1..at + 1 + length).unwrap_or_default()
    }

    /// The place of a name among the entries.
    fn find(&self, hash: u32, name: &[u8]) -> Option<usize> {
        let mut slot = first(hash, self.slots.len());
        loop {
            let taken = *self.slots.get(slot)?;
            // What another hash takes is not looked at any further: that would be one more wait for memory.
            if taken >> 32 == u64::from(hash) || taken == 0 {
                let place = usize::try_from(taken & u64::from(u32::MAX)).ok()?.checked_sub(1)?;
                if self.name(self.entries.get(place)?) == name {
                    return Some(place);
                }
            }
            slot = (slot + 1) & (self.slots.len() - 1);
        }
    }

    pub(super) fn get(&self, hash: u32, name: &[u8]) -> Option<&Entry> {
        self.entries.get(self.find(hash, name)?)
    }

    /// Puts a domain and gives what it pointed to before.
    pub(super) fn put(&mut self, hash: u32, name: &[u8], version: u64, site: Arc<Site>) -> Option<Arc<Site>> {
        if let Some(entry) = self.find(hash, name).and_then(|place| self.entries.get_mut(place)) {
            entry.version = version;
            return Some(std::mem::replace(&mut entry.site, site));
        }
        let at = u32::try_from(self.names.len()).unwrap_or(u32::MAX);
        reserve(&mut self.names, 1 + name.len());
        // A domain's name has at most 253 bytes.
        self.names.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
        self.names.extend_from_slice(name);
        reserve(&mut self.entries, 1);
        self.entries.push(Entry { site, version, hash, at });
        if self.entries.len() * 4 > self.slots.len() * 3 {
            self.place_all();
        } else {
            self.place(self.entries.len());
        }
        None
    }

    /// Removes a domain and gives what it pointed to.
    pub(super) fn remove(&mut self, hash: u32, name: &[u8]) -> Option<Arc<Site>> {
        let entry = self.entries.swap_remove(self.find(hash, name)?);
        self.gone += 1 + name.len();
        if self.gone * 4 > self.names.len() {
            self.close_gaps();
        }
        self.place_all();
        Some(entry.site)
    }

    /// Sixteen leaves by four bits of the hash.
    pub(super) fn split(&self, shift: u32) -> [Self; 16] {
        let mut parts: [Self; 16] = std::array::from_fn(|_| Self::default());
        for entry in &self.entries {
            let part = usize::try_from((entry.hash >> shift) & 15).unwrap_or(0);
            if let Some(part) = parts.get_mut(part) {
                part.put(entry.hash, self.name(entry), entry.version, entry.site.clone());
            }
        }
        parts
    }

    fn close_gaps(&mut self) {
        let mut names = Vec::with_capacity(self.names.len() - self.gone);
        let mut entries = std::mem::take(&mut self.entries);
        for entry in &mut entries {
            let at = u32::try_from(names.len()).unwrap_or(u32::MAX);
            let name = self.name(entry);
            names.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
            names.extend_from_slice(name);
            entry.at = at;
        }
        (self.names, self.gone, self.entries) = (names, 0, entries);
    }

    /// Gives every entry its slot anew, among so many that some are free.
    fn place_all(&mut self) {
        let slots = (self.entries.len() * 4 / 3 + 1).next_power_of_two();
        if self.slots.len() == slots {
            self.slots.fill(0);
        } else {
            self.slots = vec![0; slots];
        }
        (1..=self.entries.len()).for_each(|number| self.place(number));
    }

    fn place(&mut self, number: usize) {
        let Some(entry) = number.checked_sub(1).and_then(|place| self.entries.get(place)) else { return };
        let mut slot = first(entry.hash, self.slots.len());
        while self.slots.get(slot).is_some_and(|taken| *taken != 0) {
            slot = (slot + 1) & (self.slots.len() - 1);
        }
        if let Some(slot) = self.slots.get_mut(slot) {
            *slot = u64::from(entry.hash) << 32 | u64::try_from(number).unwrap_or(0);
        }
    }
}
