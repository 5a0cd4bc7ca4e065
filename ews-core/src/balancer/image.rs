//! A table as it is stored, and how it comes back: whole, or object by object.

use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};

use serde::{Deserialize, Serialize};

use crate::balancer::{Limits, ObjectKind, ObjectRef, Stored, Table};
use crate::capability::CapabilitySet;
use crate::error::{Error, ErrorKind, Result};
use crate::id::ChangeId;
use crate::spec::source::Digest;

/// Everything in a [`Table`], in a form that can be stored. Of a large table it is large: whoever stores objects one by one
/// reads them with [`Table::stored`] and brings them back with a [`TableLoader`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct TableImage {
    /// The generation.
    pub generation: u64,
    /// The objects, ordered by reference.
    pub objects: Vec<Stored>,
    /// The remembered changes, the oldest first.
    pub changes: Vec<Remembered>,
}

/// What is remembered of a change, so that a replay of it is known. What the change gave follows from the replay's own
/// operations, which are the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Remembered {
    /// Its id.
    pub id: ChangeId,
    /// The digest of its operations.
    pub digest: Digest,
    /// The generation that it led to.
    pub generation: u64,
}

impl TableImage {
    /// These objects at this generation, ordered by reference, and these changes, the oldest first.
    pub fn new(generation: u64, objects: Vec<Stored>, changes: Vec<Remembered>) -> Self {
        Self { generation, objects, changes }
    }
}

impl Remembered {
    /// A change of this id and operations, which led to this generation.
    pub fn new(id: ChangeId, digest: Digest, generation: u64) -> Self {
        Self { id, digest, generation }
    }
}

/// The changes that a table remembers: the last [`Table::MEMORY`].
#[derive(Debug, Clone, Default)]
pub(super) struct Memory {
    known: HashMap<ChangeId, (Digest, u64)>,
    /// The oldest first.
    order: VecDeque<ChangeId>,
}

impl Memory {
    pub(super) fn get(&self, id: &ChangeId) -> Option<(Digest, u64)> {
        self.known.get(id).copied()
    }

    pub(super) fn remember(&mut self, Remembered { id, digest, generation }: Remembered) {
        while self.order.len() >= Table::MEMORY {
            if let Some(oldest) = self.order.pop_front() {
                self.known.remove(&oldest);
            }
        }
        if self.known.insert(id.clone(), (digest, generation)).is_none() {
            self.order.push_back(id);
        }
    }

    pub(super) fn all(&self) -> impl Iterator<Item = Remembered> {
        self.order.iter().filter_map(|id| {
            let (digest, generation) = self.get(id)?;
            Some(Remembered { id: id.clone(), digest, generation })
        })
    }
}

/// A table that is being read, object by object in any order.
#[derive(Debug)]
pub struct TableLoader {
    table: Table,
    newest: Option<(u64, ObjectRef)>,
}

impl TableLoader {
    /// Nothing yet.
    pub fn new(capabilities: CapabilitySet, limits: Limits) -> Self {
        Self { table: Table::new(capabilities, limits), newest: None }
    }

    /// Takes an object in. Limits and capabilities that shrank since it was applied do not keep it out.
    pub fn add(&mut self, stored: Stored) {
        if self.newest.as_ref().is_none_or(|(newest, _)| stored.version > *newest) {
            self.newest = Some((stored.version, stored.object.reference()));
        }
        self.table.insert(stored);
    }

    /// The table, at the generation of its last change, remembering these, the oldest first.
    ///
    /// # Errors
    /// `Corrupt` where an object refers to one that is not there or is newer than the table.
    pub fn finish(self, generation: u64, changes: impl IntoIterator<Item = Remembered>) -> Result<Table> {
        let Self { mut table, newest } = self;
        let corrupt = |text: String| Error::new(ErrorKind::Corrupt, text);
        if let Some((_, newest)) = newest.filter(|(version, _)| *version > generation) {
            return Err(corrupt(format!("the stored object {newest} is newer than the table")));
        }
        if let Some((from, to)) = table.dangling() {
            return Err(corrupt(format!("the stored object {from} refers to {to}, which is not there")));
        }
        table.begin(generation, changes);
        Ok(table)
    }
}

impl Table {
    /// The table that this image was taken from. Limits and capabilities that shrank meanwhile do not remove anything.
    ///
    /// # Errors
    /// `Corrupt` where an object refers to one that is not there or is newer than the table.
    pub fn restore(image: TableImage, capabilities: CapabilitySet, limits: Limits) -> Result<Self> {
        let mut loader = TableLoader::new(capabilities, limits);
        image.objects.into_iter().for_each(|stored| loader.add(stored));
        loader.finish(image.generation, image.changes)
    }

    /// Everything in it, for storage: a copy, large where the table is.
    pub fn image(&self) -> TableImage {
        let objects = ObjectKind::ALL.iter().flat_map(|kind| self.stored(*kind, None));
        TableImage {
            generation: self.generation(),
            objects: objects.map(Cow::into_owned).collect(),
            changes: self.remembered().collect(),
        }
    }
}
