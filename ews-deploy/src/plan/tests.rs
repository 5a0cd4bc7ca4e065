//! Golden plans.

use std::sync::Arc;

use ews_core::spec::network::Port;
use ews_core::spec::source::{ArtifactSource, Source};
use ews_core::{CapabilitySet, Instance, InstanceKey, InstanceState, NodeId, PortName, Revision, Timestamp};

use super::*;

fn revision(number: u64, mark: &str) -> RevisionRecord {
    let mut spec =
        ServiceSpec::new(ServiceName::new("web").unwrap(), Source::Artifact(ArtifactSource::new("/srv/web")));
    spec.instance.args = vec![mark.to_owned()];
    let revision = Revision::new(number, Arc::new(spec), Timestamp::EPOCH).unwrap();
    RevisionRecord { revision, overlay: None }
}

fn running(record: &RevisionRecord, slot: u32) -> Instance {
    let key = InstanceKey {
        owner: "acme".parse().unwrap(),
        service: "web".parse().unwrap(),
        revision: record.revision.id.clone(),
        slot,
        generation: 0,
    };
    let mut instance = Instance::new(
        key.to_id().unwrap(),
        key,
        NodeId::new("n1").unwrap(),
        record.revision.spec_hash(),
        Timestamp::EPOCH,
    );
    instance.state = InstanceState::Running;
    instance
}

fn question<'a>(
    to: &'a RevisionRecord,
    state: &'a ServiceState,
    observed: &'a Slots,
    strategy: &'a Strategy,
    capabilities: &'a RuntimeCapabilities,
) -> Question<'a> {
    Question {
        to,
        from: None,
        state,
        desired: 4,
        observed,
        strategy,
        rollback: false,
        served: true,
        capabilities,
        base: Base::default(),
    }
}

#[test]
fn a_plan_reads_like_this() {
    let (old, new) = (revision(1, "v1"), revision(2, "v2"));
    let state = ServiceState { slots: [(0, 1), (1, 1), (2, 1)].into(), ..ServiceState::default() };
    let observed = Slots::new([running(&old, 0), running(&old, 1), running(&new, 2)]);
    let (strategy, capabilities) = (Strategy::default(), RuntimeCapabilities::new(CapabilitySet::all()));
    let plan =
        make(&Question { from: Some(&old), ..question(&new, &state, &observed, &strategy, &capabilities) });
    let (old, new) = (&old.revision.id, &new.revision.id);
    let expected = format!(
        "web: {old} -> {new}\n\
         order: start-first, old and new can run side by side\n\
         warning: the service has neither a startup nor a readiness probe: an instance counts as ready when it runs\n\
         change: args: [\"v1\"] -> [\"v2\"]\n\
         batch 1:\n  ~ slot 0: replace ews_acme_web_{old}_0_0\n\
         batch 2:\n  ~ slot 1: replace ews_acme_web_{old}_1_0\n\
         batch 3:\n  = slot 2: keep ews_acme_web_{new}_2_0\n\
         batch 4:\n  + slot 3: create\n\
         takes at least 70s"
    );
    assert_eq!(plan.to_string(), expected);
    assert_eq!(plan.creates(), 3);
}

#[test]
fn a_fixed_port_makes_it_stop_first_and_the_plan_says_so() {
    let mut spec = revision(1, "v1").spec().clone();
    spec.instance.ports = vec![Port::new(PortName::new("http").unwrap(), Some(8080))];
    let revision = Revision::new(2, Arc::new(spec), Timestamp::EPOCH).unwrap();
    let to = RevisionRecord { revision, overlay: None };
    let (state, observed, strategy) = (ServiceState::default(), Slots::default(), Strategy::default());
    let bare = RuntimeCapabilities::new(CapabilitySet::all());
    let plan = make(&question(&to, &state, &observed, &strategy, &bare));
    assert_eq!(plan.order, UnitOrder::StopFirst);
    assert!(plan.order_reason.contains("`http` is fixed to 8080"), "{}", plan.order_reason);

    let mut isolated = bare;
    isolated.isolation = vec![Isolation::Process];
    let plan = make(&question(&to, &state, &observed, &strategy, &isolated));
    assert_eq!(plan.order, UnitOrder::StartFirst, "each instance has ports of its own there");

    let insisted = strategy.clone().with_order(Order::StopFirst);
    assert_eq!(make(&question(&to, &state, &observed, &insisted, &isolated)).order, UnitOrder::StopFirst);
}

#[test]
fn a_rollback_has_no_careful_first_batch() {
    let to = revision(1, "v1");
    let slots = (0..8).map(|slot| (slot, 2)).collect();
    let state = ServiceState { slots, ..ServiceState::default() };
    let (observed, strategy) = (Slots::default(), Strategy::default());
    let capabilities = RuntimeCapabilities::new(CapabilitySet::all());
    let mut question = Question { desired: 8, ..question(&to, &state, &observed, &strategy, &capabilities) };
    let sizes = |plan: Plan| plan.batches.iter().map(Vec::len).collect::<Vec<_>>();
    assert_eq!(sizes(make(&question)), [1, 2, 2, 2, 1]);
    question.rollback = true;
    assert_eq!(sizes(make(&question)), [2, 2, 2, 2]);
}
