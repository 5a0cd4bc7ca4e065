//! A change as writes.

use std::borrow::Borrow;
use std::collections::BTreeMap;

use ews_core::Result;
use ews_core::balancer::{Object, ObjectRef, Remembered};
use ews_core::store::Write;

use super::record::{KeptInParts, KeptRef, Keys, encode};
use super::{Large, PART};

/// What a change writes, but for what is remembered of it.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) change: Remembered,
    pub(super) writes: Writes,
    /// What is kept in parts from then on, and no longer.
    pub(super) large: Vec<(ObjectRef, Option<Large>)>,
}

/// Writes in the order in which they were added.
#[derive(Debug, Default)]
pub(super) struct Writes {
    pub(super) all: Vec<Write>,
    /// About what they take in a transaction.
    pub(super) bytes: usize,
}

/// About what a write takes in a transaction.
pub(super) fn weight(write: &Write) -> usize {
    match write {
        Write::Put { key, value, .. } => key.as_str().len() + value.len(),
        other => other.key().as_str().len(),
    }
}

impl Batch {
    /// What a change writes that touches these objects.
    pub(super) fn new<'a, R: Borrow<ObjectRef>>(
        keys: &Keys,
        large: &BTreeMap<ObjectRef, Large>,
        change: &Remembered,
        touched: impl Iterator<Item = (R, Option<&'a Object>)>,
    ) -> Result<Self> {
        let mut batch = Self { change: change.clone(), writes: Writes::default(), large: Vec::new() };
        for (reference, object) in touched {
            let reference = reference.borrow();
            let now = batch.writes.object(keys, reference, change.generation, object)?;
            let before = large.get(reference).copied();
            if let Some(before) = before.filter(|before| Some(*before) != now) {
                let path = Keys::parts(reference, before.version);
                for number in 1..=before.parts {
                    batch.writes.add(Write::Delete { key: keys.part(&path, number)? });
                }
            }
            if before != now {
                batch.large.push((reference.clone(), now));
            }
        }
        Ok(batch)
    }
}

impl Writes {
    fn add(&mut self, write: Write) {
        self.bytes += weight(&write);
        self.all.push(write);
    }

    /// An object as it is from this version on, or that it is gone. Gives what is kept in parts of it.
    pub(super) fn object(
        &mut self,
        keys: &Keys,
        reference: &ObjectRef,
        version: u64,
        object: Option<&Object>,
    ) -> Result<Option<Large>> {
        let key = keys.object(reference)?;
        let Some(object) = object else {
            self.add(Write::Delete { key });
            return Ok(None);
        };
        let mut value = encode(&KeptRef { version, object })?;
        if value.len() <= PART {
            self.add(Write::Put { key, value, lease: None });
            return Ok(None);
        }
        let (path, mut parts) = (Keys::parts(reference, version), 0);
        while !value.is_empty() {
            parts += 1;
            let part = value.split_to(value.len().min(PART));
            self.add(Write::Put { key: keys.part(&path, parts)?, value: part, lease: None });
        }
        let value = encode(&KeptInParts { version, parts })?;
        self.add(Write::Put { key, value, lease: None });
        Ok(Some(Large { version, parts }))
    }
}
