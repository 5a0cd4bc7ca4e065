//! The instances of a service by slot: what is observed, as opposed to what shall be.

use std::collections::BTreeMap;

use ews_core::{Instance, InstanceId, InstanceState, RevisionId};

/// The instances of one service by slot, those of one slot by generation.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Slots {
    by_slot: BTreeMap<u32, Vec<Instance>>,
}

impl Slots {
    pub(crate) fn new(instances: impl IntoIterator<Item = Instance>) -> Self {
        let mut by_slot: BTreeMap<u32, Vec<Instance>> = BTreeMap::new();
        for instance in instances {
            by_slot.entry(instance.key.slot).or_default().push(instance);
        }
        for instances in by_slot.values_mut() {
            instances.sort_by_key(|instance| instance.key.generation);
        }
        Self { by_slot }
    }

    pub(crate) fn of(&self, slot: u32) -> &[Instance] {
        self.by_slot.get(&slot).map_or(&[], Vec::as_slice)
    }

    pub(crate) fn slots(&self) -> impl Iterator<Item = u32> {
        self.by_slot.keys().copied()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Instance> {
        self.by_slot.values().flatten()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.by_slot.is_empty()
    }

    /// How many slots have any.
    pub(crate) fn len(&self) -> usize {
        self.by_slot.len()
    }

    pub(crate) fn slot_of(&self, id: &InstanceId) -> Option<u32> {
        self.iter().find(|instance| instance.id == *id).map(|instance| instance.key.slot)
    }

    /// The instance that fills a slot with this revision, and those that are left over beside it.
    pub(crate) fn split(&self, slot: u32, revision: &RevisionId) -> (Option<&Instance>, Vec<&Instance>) {
        split(self.of(slot), revision)
    }
}

/// Of the instances in one slot, the one that fills it with this revision, and those that are left over beside it. One that runs
/// goes before one that does not, a later generation before an earlier one.
pub(crate) fn split<'a>(
    instances: &'a [Instance],
    revision: &RevisionId,
) -> (Option<&'a Instance>, Vec<&'a Instance>) {
    let fills = |instance: &&Instance| {
        instance.key.revision == *revision && !matches!(instance.state, InstanceState::Removing)
    };
    let chosen = instances
        .iter()
        .filter(fills)
        .max_by_key(|instance| (instance.state.is_running(), instance.key.generation));
    let left = instances.iter().filter(|instance| chosen.is_none_or(|chosen| chosen.id != instance.id));
    (chosen, left.collect())
}
