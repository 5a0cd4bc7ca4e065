//! What a release does next: the pure core of its leader.
//!
//! It looks at the graph and at how every member stands, and names the acts. Forward, a member begins when every condition in front of
//! it holds; back, when everything behind it that was touched has gone back.

use ews_core::ServiceName;

use super::graph::Graph;
use super::record::{Back, MemberState, ReleaseState, Stage};
use super::report::ReleasePhase;
use super::spec::{MemberCondition, OnMemberFailure};
use crate::rollout::Outcome;

/// What a release does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Act {
    /// This member begins.
    Begin(ServiceName),
    /// This member can never begin.
    Skip(ServiceName),
    /// A member failed: all go back.
    TurnRound,
    /// This member goes back.
    GoBack(ServiceName),
    /// All is brought about: what is no longer a member goes.
    Prune,
    /// It is over.
    Finish(Outcome),
}

/// What the core looks at beside the state.
pub(crate) struct Rules<'a> {
    pub(crate) graph: &'a Graph,
    pub(crate) on_failure: OnMemberFailure,
    /// How many members are under way at once.
    pub(crate) parallel: usize,
    /// Whether no further member may begin now.
    pub(crate) held: bool,
    /// Whether services wait to be removed.
    pub(crate) prunes: bool,
}

/// Whether a condition holds of a member.
pub(crate) fn holds(member: &MemberState, condition: MemberCondition) -> bool {
    match member.stage {
        Stage::Unchanged | Stage::Succeeded => true,
        Stage::Failed | Stage::Skipped | Stage::Waiting => false,
        Stage::Asking | Stage::UnderWay => match condition {
            MemberCondition::Started => member.started,
            MemberCondition::Healthy => member.healthy,
            MemberCondition::Completed | MemberCondition::Promoted => false,
        },
    }
}

/// What is to be done now.
pub(crate) fn next(state: &ReleaseState, rules: &Rules<'_>) -> Vec<Act> {
    if let Some(outcome) = state.winding {
        let busy = state.members.values().any(MemberState::is_under_way) || under_way_back(state);
        return if busy { Vec::new() } else { vec![Act::Finish(outcome)] };
    }
    match state.phase {
        ReleasePhase::Forward => forward(state, rules),
        ReleasePhase::RollingBack => backward(state, rules.graph),
        ReleasePhase::Pruning if state.prune.is_empty() => vec![Act::Finish(Outcome::Succeeded)],
        ReleasePhase::Pruning | ReleasePhase::Queued => Vec::new(),
    }
}

fn under_way_back(state: &ReleaseState) -> bool {
    state.members.values().any(|member| matches!(member.back, Back::Aborted | Back::Rolling | Back::Removing))
}

fn forward(state: &ReleaseState, rules: &Rules<'_>) -> Vec<Act> {
    let member = |name: &ServiceName| state.members.get(name);
    let failed = state.members.values().any(|member| member.stage == Stage::Failed);
    let busy = state.members.values().filter(|member| member.is_under_way()).count();
    if failed && rules.on_failure == OnMemberFailure::Rollback {
        return vec![Act::TurnRound];
    }
    if failed && rules.on_failure == OnMemberFailure::Freeze {
        return if busy == 0 { vec![Act::Finish(Outcome::Failed)] } else { Vec::new() };
    }
    let waiting = || {
        let order = rules.graph.order().iter();
        order.filter(|name| member(name).is_some_and(|member| member.stage == Stage::Waiting))
    };
    let lost = |name: &&ServiceName| {
        rules.graph.after(name).iter().any(|edge| {
            member(&edge.member).is_none_or(|m| matches!(m.stage, Stage::Failed | Stage::Skipped))
        })
    };
    // What follows from one that is left out is seen at the next look.
    let skipped: Vec<Act> = waiting().filter(lost).map(|name| Act::Skip(name.clone())).collect();
    if !skipped.is_empty() {
        return skipped;
    }
    let ready = |name: &&ServiceName| {
        let mut edges = rules.graph.after(name).iter();
        edges.all(|edge| member(&edge.member).is_some_and(|m| holds(m, edge.condition)))
    };
    let room = if rules.held { 0 } else { rules.parallel.saturating_sub(busy) };
    let begins: Vec<Act> = waiting().filter(ready).take(room).map(|name| Act::Begin(name.clone())).collect();
    if !begins.is_empty() || busy > 0 || waiting().next().is_some() {
        return begins;
    }
    match (failed, rules.prunes) {
        (true, _) => vec![Act::Finish(Outcome::Failed)],
        (false, true) => vec![Act::Prune],
        (false, false) => vec![Act::Finish(Outcome::Succeeded)],
    }
}

fn backward(state: &ReleaseState, graph: &Graph) -> Vec<Act> {
    let member = |name: &ServiceName| state.members.get(name);
    if state.members.values().any(|member| member.back == Back::Failed) {
        return vec![Act::Finish(Outcome::RollbackFailed)];
    }
    let to_go = |name: &&ServiceName| member(name).is_some_and(|m| m.is_touched() && !m.back.is_settled());
    let mut left = graph.order().iter().rev().filter(to_go).peekable();
    if left.peek().is_none() {
        return vec![Act::Finish(Outcome::RolledBack)];
    }
    let free = |name: &&ServiceName| graph.behind(name).all(|behind| !to_go(&behind));
    left.filter(free).map(|name| Act::GoBack(name.clone())).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ews_core::spec::source::{ArtifactSource, Source};
    use ews_core::{ServiceSpec, Timestamp};

    use super::super::spec::{MemberSpec, ReleaseSpec};
    use super::*;

    fn name(text: &str) -> ServiceName {
        ServiceName::new(text).unwrap()
    }

    /// a, then b and c, then d.
    fn diamond() -> (Graph, ReleaseState) {
        let member = |text: &str| {
            MemberSpec::new(ServiceSpec::new(name(text), Source::Artifact(ArtifactSource::new("/srv/x"))))
        };
        let spec = ReleaseSpec::new("shop".parse().unwrap())
            .with_member(member("a"))
            .with_member(member("b").after(name("a"), MemberCondition::Healthy))
            .with_member(member("c").after(name("a"), MemberCondition::Started))
            .with_member(
                member("d")
                    .after(name("b"), MemberCondition::Promoted)
                    .after(name("c"), MemberCondition::Promoted),
            );
        let members = spec.members.iter().map(|m| (m.name().clone(), MemberState::default())).collect();
        let state = ReleaseState {
            number: 1,
            phase: ReleasePhase::Forward,
            members,
            prune: Vec::new(),
            winding: None,
            cause: String::new(),
            spent: Duration::ZERO,
            outcome: None,
            started_at: Timestamp::EPOCH,
            ended_at: None,
        };
        (Graph::new(&spec).unwrap(), state)
    }

    fn rules(graph: &Graph, on_failure: OnMemberFailure) -> Rules<'_> {
        Rules { graph, on_failure, parallel: 10, held: false, prunes: false }
    }

    fn set(state: &mut ReleaseState, of: &str, change: impl Fn(&mut MemberState)) {
        change(state.members.get_mut(&name(of)).unwrap());
    }

    fn begin(names: &[&str]) -> Vec<Act> {
        names.iter().map(|text| Act::Begin(name(text))).collect()
    }

    #[test]
    fn each_condition_opens_the_way_of_its_edge_alone() {
        let (graph, mut state) = diamond();
        let rules = rules(&graph, OnMemberFailure::Rollback);
        assert_eq!(next(&state, &rules), begin(&["a"]));
        set(&mut state, "a", |m| m.stage = Stage::UnderWay);
        assert_eq!(next(&state, &rules), []);
        set(&mut state, "a", |m| m.started = true);
        assert_eq!(next(&state, &rules), begin(&["c"]));
        set(&mut state, "a", |m| m.healthy = true);
        assert_eq!(next(&state, &rules), begin(&["b", "c"]));
        assert_eq!(next(&state, &Rules { parallel: 2, ..rules }), begin(&["b"]));
        assert_eq!(next(&state, &Rules { held: true, ..rules }), []);
        for each in ["a", "b"] {
            set(&mut state, each, |m| m.stage = Stage::Succeeded);
        }
        set(&mut state, "c", |m| (m.stage, m.started, m.healthy) = (Stage::UnderWay, true, true));
        assert_eq!(next(&state, &rules), [], "healthy is not promoted");
        set(&mut state, "c", |m| m.stage = Stage::Unchanged);
        assert_eq!(next(&state, &rules), begin(&["d"]));
        set(&mut state, "d", |m| m.stage = Stage::Succeeded);
        assert_eq!(next(&state, &rules), [Act::Finish(Outcome::Succeeded)]);
        assert_eq!(next(&state, &Rules { prunes: true, ..rules }), [Act::Prune]);
    }

    #[test]
    fn each_policy_answers_a_failure_in_its_own_way() {
        let (graph, mut state) = diamond();
        set(&mut state, "a", |m| m.stage = Stage::Succeeded);
        set(&mut state, "b", |m| m.stage = Stage::Failed);
        set(&mut state, "c", |m| m.stage = Stage::UnderWay);
        assert_eq!(next(&state, &rules(&graph, OnMemberFailure::Rollback)), [Act::TurnRound]);
        assert_eq!(next(&state, &rules(&graph, OnMemberFailure::Freeze)), []);
        assert_eq!(next(&state, &rules(&graph, OnMemberFailure::Keep)), [Act::Skip(name("d"))]);
        set(&mut state, "c", |m| m.stage = Stage::Succeeded);
        assert_eq!(next(&state, &rules(&graph, OnMemberFailure::Freeze)), [Act::Finish(Outcome::Failed)]);
        set(&mut state, "d", |m| m.stage = Stage::Skipped);
        assert_eq!(next(&state, &rules(&graph, OnMemberFailure::Keep)), [Act::Finish(Outcome::Failed)]);
    }

    #[test]
    fn back_goes_whoever_has_nobody_behind_it_that_still_has_to() {
        let (graph, mut state) = diamond();
        let rules = rules(&graph, OnMemberFailure::Rollback);
        state.phase = ReleasePhase::RollingBack;
        set(&mut state, "a", |m| m.stage = Stage::Succeeded);
        set(&mut state, "b", |m| m.stage = Stage::Unchanged);
        set(&mut state, "c", |m| m.stage = Stage::UnderWay);
        set(&mut state, "d", |m| m.stage = Stage::Failed);
        let back = |text: &str| vec![Act::GoBack(name(text))];
        assert_eq!(next(&state, &rules), back("d"));
        set(&mut state, "d", |m| m.back = Back::Rolling);
        assert_eq!(next(&state, &rules), back("d"));
        set(&mut state, "d", |m| m.back = Back::Done);
        assert_eq!(next(&state, &rules), back("c"));
        set(&mut state, "c", |m| m.back = Back::Left);
        assert_eq!(next(&state, &rules), back("a"));
        set(&mut state, "a", |m| m.back = Back::Failed);
        assert_eq!(next(&state, &rules), [Act::Finish(Outcome::RollbackFailed)]);
        set(&mut state, "a", |m| m.back = Back::Done);
        assert_eq!(next(&state, &rules), [Act::Finish(Outcome::RolledBack)]);
    }
}
