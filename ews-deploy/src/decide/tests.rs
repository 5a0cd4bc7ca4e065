//! The core against worlds that proptest makes up.

use std::sync::Arc;

use ews_core::spec::source::{ArtifactSource, Source};
use ews_core::{ExitStatus, InstanceKey, NodeId, Revision, ServiceSpec, Timestamp};
use proptest::prelude::{Just, Strategy as Any, any};
use proptest::{collection, prop_assert, prop_assert_eq, prop_oneof, proptest};

use super::*;
use crate::plan::UnitOrder;

fn revision(number: u64) -> RevisionRecord {
    let mut spec =
        ServiceSpec::new("web".parse().unwrap(), Source::Artifact(ArtifactSource::new("/srv/web")));
    spec.instance.args = vec![format!("v{number}")];
    let revision = Revision::new(number, Arc::new(spec), Timestamp::EPOCH).unwrap();
    RevisionRecord { revision, overlay: None }
}

fn instance(record: &RevisionRecord, slot: u32, generation: u32, state: InstanceState) -> Instance {
    let key = InstanceKey {
        owner: "acme".parse().unwrap(),
        service: "web".parse().unwrap(),
        revision: record.revision.id.clone(),
        slot,
        generation,
    };
    let node = NodeId::new("n1").unwrap();
    let mut instance =
        Instance::new(key.to_id().unwrap(), key, node, record.revision.spec_hash(), Timestamp::EPOCH);
    instance.state = state;
    instance
}

fn rollout(slots: Vec<u32>, batches: Vec<usize>, phase: Phase, from: Option<u64>) -> RolloutState {
    RolloutState {
        number: 1,
        to: 2,
        from,
        strategy: Strategy::default(),
        rollback: false,
        order: UnitOrder::StartFirst,
        slots,
        batches,
        phase,
        held: None,
        waits: None,
        approved: 0,
        canary: None,
        cause: String::new(),
        failures: Vec::new(),
        by: String::new(),
        reason: String::new(),
        restarted: None,
        skipped: BTreeSet::new(),
        tries: BTreeMap::new(),
        jobs: crate::record::Jobs::default(),
        hooks: crate::record::Hooked::default(),
        failed: 0,
        spent: std::time::Duration::ZERO,
        done: 0,
        outcome: None,
        started_at: Timestamp::EPOCH,
        ended_at: None,
    }
}

#[derive(Debug, Clone)]
struct Made {
    slots: BTreeMap<u32, u64>,
    observed: Slots,
    busy: BTreeSet<u32>,
    rollout: Option<RolloutState>,
    halted: bool,
    desired: u32,
}

fn states() -> impl Any<Value = InstanceState> {
    prop_oneof![
        4 => Just(InstanceState::Running),
        1 => Just(InstanceState::Created),
        1 => Just(InstanceState::Starting),
        1 => Just(InstanceState::Exited(ExitStatus::code(1, Timestamp::EPOCH))),
        1 => Just(InstanceState::Unknown { since: Timestamp::EPOCH }),
        1 => Just(InstanceState::Removing),
    ]
}

fn worlds() -> impl Any<Value = Made> {
    let slots = collection::btree_map(0_u32..8, 1_u64..=2, 0..8);
    let seen = collection::vec((0_u32..10, 1_u64..=2, 0_u32..3, states()), 0..12);
    let busy = collection::btree_set(0_u32..10, 0..3);
    let rolling = proptest::option::of((
        collection::btree_set(0_u32..10, 0..8),
        collection::vec(1_usize..4, 0..4),
        any::<bool>(),
        proptest::option::of(Just(1_u64)),
    ));
    (slots, seen, busy, rolling, any::<bool>(), 0_u32..12).prop_map(
        |(slots, seen, busy, rolling, halted, desired)| {
            let mut instances = BTreeMap::new();
            for (slot, number, generation, state) in seen {
                let made = instance(&revision(number), slot, generation, state);
                instances.insert(made.id.clone(), made);
            }
            let rollout = rolling.map(|(rolled, batches, back, from)| {
                let phase = if back { Phase::RollingBack } else { Phase::Forward };
                rollout(rolled.into_iter().collect(), batches, phase, from)
            });
            Made { slots, observed: Slots::new(instances.into_values()), busy, rollout, halted, desired }
        },
    )
}

fn with<T>(made: &Made, look: impl FnOnce(&Looked<'_>) -> T) -> T {
    let state = ServiceState { slots: made.slots.clone(), current: Some(1), ..ServiceState::default() };
    let revisions = BTreeMap::from([(1, revision(1)), (2, revision(2))]);
    look(&Looked {
        state: &state,
        observed: &made.observed,
        busy: &made.busy,
        rollout: made.rollout.as_ref(),
        halted: made.halted,
        watches: false,
        revisions: &revisions,
        health: &|_| None,
    })
}

proptest! {
    /// Nobody is given a slot that somebody works on, and no slot is given twice.
    #[test]
    fn work_is_given_once(made in worlds()) {
        let mut acts = Vec::new();
        with(&made, |looked| {
            if let Some(rollout) = looked.rollout
                && let Turn::Work { acts: units, .. } = turn(looked, rollout)
            {
                acts.extend(units);
            }
            let taken = acts.iter().map(Act::slot).collect();
            acts.extend(supervise(looked, &taken));
        });
        let slots: BTreeSet<u32> = acts.iter().map(Act::slot).collect();
        prop_assert_eq!(slots.len(), acts.len());
        prop_assert!(slots.is_disjoint(&made.busy));
    }

    /// What can't be asked is left alone, whatever else is known.
    #[test]
    fn an_unknown_instance_that_fills_its_slot_is_left_alone(made in worlds()) {
        with(&made, |looked| {
            for act in supervise(looked, &BTreeSet::new()) {
                let Act::Fill { slot, revision: number, .. } = act else { continue };
                let (mine, _) = looked.observed.split(slot, &revision(number).revision.id);
                let unknown = mine.is_some_and(|mine| matches!(mine.state, InstanceState::Unknown { .. }));
                prop_assert!(!unknown, "slot {slot}");
            }
            Ok(())
        })?;
    }

    /// A rollout works on its own slots only, on one batch at a time, and not at all while it is halted.
    #[test]
    fn a_rollout_keeps_to_its_batch(made in worlds()) {
        with(&made, |looked| {
            let Some(rollout) = looked.rollout else { return Ok(()) };
            let Turn::Work { batch, acts } = turn(looked, rollout) else { return Ok(()) };
            prop_assert!(!made.halted);
            let slots: Vec<u32> = acts.iter().map(Act::slot).collect();
            match rollout.phase {
                Phase::Forward => {
                    let all = batches(rollout);
                    prop_assert!(slots.iter().all(|slot| all[batch - 1].contains(slot)));
                    for before in &all[..batch - 1] {
                        prop_assert!(before.iter().all(|slot| made.slots.get(slot) == Some(&2)));
                    }
                }
                Phase::RollingBack => {
                    prop_assert!(slots.iter().all(|slot| made.slots.get(slot) == Some(&2)));
                }
            }
            Ok(())
        })?;
    }

    /// It succeeds only when every slot runs the new revision and nobody works on one.
    #[test]
    fn a_rollout_succeeds_only_when_it_is_done(made in worlds()) {
        with(&made, |looked| {
            let Some(rollout) = looked.rollout else { return Ok(()) };
            if turn(looked, rollout) == Turn::Finish(Outcome::Succeeded) {
                prop_assert!(rollout.slots.iter().all(|slot| made.slots.get(slot) == Some(&2)));
                prop_assert!(rollout.slots.iter().all(|slot| !made.busy.contains(slot)));
            }
            Ok(())
        })?;
    }

    /// After scaling there are as many slots as asked for, those that stay run what they ran, and once more changes nothing.
    #[test]
    fn scaling_comes_to_the_count(made in worlds()) {
        with(&made, |looked| {
            let forward = looked.rollout.is_some_and(|rollout| rollout.phase == Phase::Forward);
            let Some(scaled) = scale(looked, made.desired, &[]) else { return Ok(()) };
            let mut all: BTreeSet<u32> = scaled.slots.keys().copied().collect();
            all.extend(scaled.rollout.iter().flatten().copied());
            prop_assert_eq!(all.len(), made.desired as usize);
            prop_assert_eq!(scaled.rollout.is_some(), forward);
            for (slot, number) in &scaled.slots {
                prop_assert!(made.slots.get(slot).is_none_or(|before| before == number));
            }
            let mut again = made.clone();
            again.slots = scaled.slots;
            if let (Some(rollout), Some(slots)) = (&mut again.rollout, scaled.rollout) {
                rollout.slots = slots;
            }
            prop_assert_eq!(with(&again, |looked| scale(looked, made.desired, &[])), None);
            Ok(())
        })?;
    }

    #[test]
    fn batches_hold_every_slot_once(slots in collection::btree_set(0_u32..100, 0..40), sizes in collection::vec(1_usize..9, 0..6)) {
        let slots: Vec<u32> = slots.into_iter().collect();
        let rollout = rollout(slots.clone(), sizes, Phase::Forward, None);
        prop_assert_eq!(batches(&rollout).concat(), slots);
    }
}
