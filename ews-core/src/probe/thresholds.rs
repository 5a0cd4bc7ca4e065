//! From single outcomes to a status: the pure part.
//!
//! | Probe | At first | Turns | After |
//! |---|---|---|---|
//! | startup | pending | passed, for good | `success` passes in a row |
//! | startup | pending | failed, for good | `failure` failures in a row |
//! | readiness | not ready | ready | `success` passes in a row |
//! | readiness | ready | not ready | `failure` failures in a row |
//! | liveness | live | not live | `failure` failures in a row |
//! | liveness | not live | live | `success` passes in a row |
//!
//! Readiness and liveness are tried once startup has passed; without a startup probe it has. Without a readiness probe an
//! instance is ready as soon as startup has passed, without a liveness probe it is live. A failed startup is the end:
//! nothing more is tried until the instance is started again, which raises its incarnation and begins everything anew.
//! Outcomes of an incarnation that is over are ignored.

use serde::{Deserialize, Serialize};

use super::check::Verdict;
use crate::instance::Incarnation;
use crate::spec::probe::{Probe, Probes};
use crate::time::Timestamp;

/// Which of an instance's probes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProbeKind {
    /// Holds the others back.
    Startup,
    /// Decides about traffic.
    Readiness,
    /// Decides about restarts.
    Liveness,
}

impl ProbeKind {
    /// All three.
    pub const ALL: [Self; 3] = [Self::Startup, Self::Readiness, Self::Liveness];

    /// This probe of an instance, where it has it.
    pub const fn of(self, probes: &Probes) -> Option<&Probe> {
        match self {
            Self::Startup => probes.startup.as_ref(),
            Self::Readiness => probes.readiness.as_ref(),
            Self::Liveness => probes.liveness.as_ref(),
        }
    }
}

/// How far a start is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Startup {
    /// Not known yet.
    Pending,
    /// It has started.
    Passed,
    /// It failed to start.
    Failed,
}

/// What is known of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Status {
    /// How far its start is.
    pub startup: Startup,
    /// Whether traffic may come.
    pub ready: bool,
    /// Whether it should go on running. True until proven otherwise.
    pub live: bool,
    /// How often it stopped being ready in this incarnation. A number that grows says "flapping" whatever it is now.
    pub flaps: u32,
}

/// A status that changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Transition {
    /// Of which start.
    pub incarnation: Incarnation,
    /// The probe that tipped it; `None` for a new incarnation, and for what a predecessor knew.
    pub by: Option<ProbeKind>,
    /// Before.
    pub from: Status,
    /// After.
    pub to: Status,
    /// When.
    pub at: Timestamp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Streak {
    passes: u32,
    failures: u32,
}

/// The state machine of one instance. It reads no clock: `now` goes into the record and decides nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Thresholds {
    incarnation: Incarnation,
    status: Status,
    /// Passes and failures wanted, per kind; `None` without the probe.
    wanted: [Option<(u32, u32)>; 3],
    streaks: [Streak; 3],
}

impl Thresholds {
    /// Nothing is known yet of this start. A threshold of zero is taken for one.
    pub fn new(probes: &Probes, incarnation: Incarnation) -> Self {
        let wanted = ProbeKind::ALL
            .map(|kind| kind.of(probes).map(|probe| (probe.success.max(1), probe.failure.max(1))));
        let [startup, readiness, _] = wanted;
        let started = if startup.is_some() { Startup::Pending } else { Startup::Passed };
        let status = Status {
            startup: started,
            ready: started == Startup::Passed && readiness.is_none(),
            live: true,
            flaps: 0,
        };
        Self { incarnation, status, wanted, streaks: [Streak::default(); 3] }
    }

    /// Which start this is about.
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// What is known.
    pub fn status(&self) -> Status {
        self.status
    }

    /// Whether this probe is to be tried now.
    pub fn wants(&self, kind: ProbeKind) -> bool {
        let allowed = match self.status.startup {
            Startup::Pending => kind == ProbeKind::Startup,
            Startup::Passed => kind != ProbeKind::Startup,
            Startup::Failed => false,
        };
        allowed && self.wanted(kind).is_some()
    }

    fn wanted(&self, kind: ProbeKind) -> Option<(u32, u32)> {
        let [startup, readiness, liveness] = self.wanted;
        match kind {
            ProbeKind::Startup => startup,
            ProbeKind::Readiness => readiness,
            ProbeKind::Liveness => liveness,
        }
    }

    fn streak(&mut self, kind: ProbeKind) -> &mut Streak {
        let [startup, readiness, liveness] = &mut self.streaks;
        match kind {
            ProbeKind::Startup => startup,
            ProbeKind::Readiness => readiness,
            ProbeKind::Liveness => liveness,
        }
    }

    /// Takes in the outcome of one try, and says what it changed.
    pub fn observe(
        &mut self,
        incarnation: Incarnation,
        kind: ProbeKind,
        verdict: Verdict,
        now: Timestamp,
    ) -> Option<Transition> {
        if incarnation != self.incarnation || !self.wants(kind) {
            return None;
        }
        let (success, failure) = self.wanted(kind)?;
        let streak = self.streak(kind);
        match verdict {
            Verdict::Pass => *streak = Streak { passes: streak.passes.saturating_add(1), failures: 0 },
            Verdict::Fail => *streak = Streak { passes: 0, failures: streak.failures.saturating_add(1) },
            Verdict::Unknown => return None,
        }
        let (passed, failed) = (streak.passes >= success, streak.failures >= failure);
        let from = self.status;
        match kind {
            ProbeKind::Startup if passed => {
                self.status.startup = Startup::Passed;
                self.status.ready = self.wanted(ProbeKind::Readiness).is_none();
            }
            ProbeKind::Startup if failed => self.status.startup = Startup::Failed,
            ProbeKind::Startup => {}
            ProbeKind::Readiness => {
                self.status.ready = passed || (from.ready && !failed);
                if from.ready && !self.status.ready {
                    self.status.flaps = from.flaps.saturating_add(1);
                }
            }
            ProbeKind::Liveness => self.status.live = passed || (from.live && !failed),
        }
        self.changed(from, Some(kind), now)
    }

    /// The instance was started again: nothing is known any more. Nothing happens for an incarnation that is not later.
    pub fn restarted(&mut self, incarnation: Incarnation, now: Timestamp) -> Option<Transition> {
        if incarnation <= self.incarnation {
            return None;
        }
        let from = self.status;
        let started =
            if self.wanted(ProbeKind::Startup).is_some() { Startup::Pending } else { Startup::Passed };
        self.status = Status {
            startup: started,
            ready: started == Startup::Passed && self.wanted(ProbeKind::Readiness).is_none(),
            live: true,
            flaps: 0,
        };
        self.streaks = [Streak::default(); 3];
        self.incarnation = incarnation;
        self.changed(from, None, now)
    }

    /// Takes over what a predecessor knew of this start: it was ready. So it stays, until `failure` failures in a row say otherwise,
    /// as they would have said to the predecessor. Nothing happens for another start, for one that failed, and for one that is ready.
    pub fn was_ready(&mut self, incarnation: Incarnation, now: Timestamp) -> Option<Transition> {
        if incarnation != self.incarnation || self.status.startup == Startup::Failed {
            return None;
        }
        let from = self.status;
        self.status.startup = Startup::Passed;
        self.status.ready = true;
        self.changed(from, None, now)
    }

    fn changed(&self, from: Status, by: Option<ProbeKind>, at: Timestamp) -> Option<Transition> {
        let (incarnation, to) = (self.incarnation, self.status);
        (from != to).then_some(Transition { incarnation, by, from, to, at })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::spec::probe::{Check, TcpCheck};

    const NOW: Timestamp = Timestamp::EPOCH;
    const FIRST: Incarnation = Incarnation(1);

    fn probe(success: u32, failure: u32) -> Option<Probe> {
        let mut probe = Probe::new(Check::Tcp(TcpCheck::default()));
        (probe.success, probe.failure) = (success, failure);
        Some(probe)
    }

    fn probes(startup: Option<Probe>, readiness: Option<Probe>, liveness: Option<Probe>) -> Probes {
        Probes { startup, readiness, liveness }
    }

    /// `+` passes, `-` fails, `?` says nothing; the answer is one character per outcome, `.` where nothing changed.
    fn run(machine: &mut Thresholds, kind: ProbeKind, outcomes: &str, see: fn(Status) -> char) -> String {
        let verdict = |c| match c {
            '+' => Verdict::Pass,
            '-' => Verdict::Fail,
            _ => Verdict::Unknown,
        };
        outcomes
            .chars()
            .map(|c| machine.observe(FIRST, kind, verdict(c), NOW).map_or('.', |change| see(change.to)))
            .collect()
    }

    fn ready(status: Status) -> char {
        if status.ready { 'R' } else { 'n' }
    }

    #[test]
    fn readiness_turns_only_after_enough_in_a_row_and_unknown_breaks_no_row() {
        let mut machine = Thresholds::new(&probes(None, probe(2, 3), None), FIRST);
        assert!(!machine.status().ready);
        let seen = run(&mut machine, ProbeKind::Readiness, "+-++--+--?-+?+", ready);
        assert_eq!(seen, "...R......n..R");
        assert_eq!(machine.status().flaps, 1);
    }

    #[test]
    fn startup_holds_the_others_back_and_its_end_is_final() {
        let mut machine = Thresholds::new(&probes(probe(1, 2), probe(1, 1), probe(1, 1)), FIRST);
        assert!(machine.wants(ProbeKind::Startup) && !machine.wants(ProbeKind::Readiness));
        assert_eq!(machine.observe(FIRST, ProbeKind::Liveness, Verdict::Fail, NOW), None);
        let passed = machine.observe(FIRST, ProbeKind::Startup, Verdict::Pass, NOW).unwrap();
        assert_eq!((passed.to.startup, passed.to.ready), (Startup::Passed, false));
        assert!(!machine.wants(ProbeKind::Startup) && machine.wants(ProbeKind::Liveness));
        assert_eq!(machine.observe(FIRST, ProbeKind::Startup, Verdict::Fail, NOW), None);

        let mut machine = Thresholds::new(&probes(probe(1, 2), None, None), FIRST);
        assert_eq!(machine.observe(FIRST, ProbeKind::Startup, Verdict::Fail, NOW), None);
        let failed = machine.observe(FIRST, ProbeKind::Startup, Verdict::Fail, NOW).unwrap();
        assert_eq!((failed.to.startup, failed.to.ready), (Startup::Failed, false));
        assert!(ProbeKind::ALL.iter().all(|kind| !machine.wants(*kind)));
    }

    #[test]
    fn what_a_predecessor_knew_holds_until_failures_say_otherwise() {
        let mut machine = Thresholds::new(&probes(probe(1, 1), probe(3, 2), None), FIRST);
        assert_eq!(machine.was_ready(Incarnation(2), NOW), None);
        let known = machine.was_ready(FIRST, NOW).unwrap();
        assert_eq!((known.by, known.to.startup, known.to.ready), (None, Startup::Passed, true));
        assert!(!machine.wants(ProbeKind::Startup) && machine.wants(ProbeKind::Readiness));
        assert_eq!(machine.was_ready(FIRST, NOW), None);
        // One pass of three and one failure of two change nothing.
        let seen = run(&mut machine, ProbeKind::Readiness, "+-+--+++", ready);
        assert_eq!(seen, "....n..R");
        assert_eq!(machine.status().flaps, 1);

        let mut failed = Thresholds::new(&probes(probe(1, 1), None, None), FIRST);
        failed.observe(FIRST, ProbeKind::Startup, Verdict::Fail, NOW);
        assert_eq!(failed.was_ready(FIRST, NOW), None);
    }

    #[test]
    fn what_has_no_probe_is_ready_once_it_started_and_live() {
        let none = Thresholds::new(&Probes::default(), FIRST).status();
        assert!(none.ready && none.live && none.startup == Startup::Passed);
        let mut machine = Thresholds::new(&probes(probe(1, 1), None, None), FIRST);
        assert!(!machine.status().ready);
        assert!(machine.observe(FIRST, ProbeKind::Startup, Verdict::Pass, NOW).unwrap().to.ready);
    }

    #[test]
    fn a_restart_forgets_everything_and_what_comes_late_from_before_is_ignored() {
        let mut machine = Thresholds::new(&probes(None, probe(1, 1), probe(1, 2)), FIRST);
        run(&mut machine, ProbeKind::Readiness, "+-+", ready);
        machine.observe(FIRST, ProbeKind::Liveness, Verdict::Fail, NOW);
        let change = machine.restarted(Incarnation(2), NOW).unwrap();
        assert_eq!((change.by, change.from.flaps, change.to.flaps, change.to.ready), (None, 1, 0, false));
        assert_eq!(machine.observe(FIRST, ProbeKind::Readiness, Verdict::Pass, NOW), None);
        assert_eq!(machine.restarted(FIRST, NOW), None);
        // One failure of the start before does not count for this one.
        assert_eq!(machine.observe(Incarnation(2), ProbeKind::Liveness, Verdict::Fail, NOW), None);
        assert!(!machine.observe(Incarnation(2), ProbeKind::Liveness, Verdict::Fail, NOW).unwrap().to.live);
        assert!(machine.observe(Incarnation(2), ProbeKind::Liveness, Verdict::Pass, NOW).unwrap().to.live);
    }

    proptest! {
        /// Against the words of the contract: ready exactly if, of the last full row of passes and the last full row of
        /// failures, the passes came later.
        #[test]
        fn readiness_is_the_later_of_the_two_rows(
            success in 0_u32..4, failure in 0_u32..4, outcomes in prop::collection::vec(0_u8..3, 0..60),
        ) {
            let mut machine = Thresholds::new(&probes(None, probe(success, failure), None), FIRST);
            let row = |word: &[u8], wanted: u32, of: u8| {
                word.windows(wanted.max(1) as usize).rposition(|w| w.iter().all(|o| *o == of)).map(|at| at + wanted.max(1) as usize)
            };
            let mut heard = Vec::new();
            for outcome in outcomes {
                let verdict = [Verdict::Pass, Verdict::Fail, Verdict::Unknown][usize::from(outcome)];
                let before = machine.status();
                let change = machine.observe(FIRST, ProbeKind::Readiness, verdict, NOW);
                if outcome < 2 {
                    heard.push(outcome);
                }
                let expected = row(&heard, success, 0) > row(&heard, failure, 1);
                prop_assert_eq!(machine.status().ready, expected);
                prop_assert_eq!(change.is_some(), before.ready != expected);
            }
        }
    }
}
