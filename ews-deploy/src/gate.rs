//! The gate: whether a new instance is healthy, as a pure state machine.
//!
//! An instance passes when it has been ready for `min_healthy` without a break. It fails for good when its start failed, its
//! liveness probe says no, its readiness came and went too often, or the deadline is over. That it ended is the caller's to see.
//! Time is what the caller says has passed: the time in which the runtime could not be asked is not counted.

use std::time::Duration;

use ews_core::probe::{Startup, Status};

use crate::rollout::GateLimits;

/// Where a gate stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Not yet; look again at the latest after so long.
    Wait(Duration),
    /// It is healthy.
    Pass,
    /// It is not, for good.
    Fail(String),
}

/// A gate in front of one start of one instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Gate {
    limits: GateLimits,
    /// How long it has been waited in all.
    spent: Duration,
    /// How long it has been ready without a break.
    ready: Option<Duration>,
    flaps: u32,
}

impl Gate {
    /// A gate of which so much of the deadline is used up already.
    pub(crate) fn new(limits: GateLimits, spent: Duration) -> Self {
        Self { limits, spent, ready: None, flaps: 0 }
    }

    /// How much of the deadline is used up.
    pub(crate) fn spent(&self) -> Duration {
        self.spent
    }

    /// `passed` since the last look, and what is known now; `None` where nothing is.
    pub(crate) fn look(&mut self, passed: Duration, status: Option<Status>) -> Verdict {
        self.spent += passed;
        let Some(status) = status else {
            self.ready = None;
            return self.wait("nothing is known of it");
        };
        if status.startup == Startup::Failed {
            return Verdict::Fail("its startup probe failed".to_owned());
        }
        if !status.live {
            return Verdict::Fail("its liveness probe failed".to_owned());
        }
        if status.flaps > self.limits.flaps {
            return Verdict::Fail(format!("it lost its readiness {} times", status.flaps));
        }
        if !status.ready {
            self.ready = None;
            self.flaps = status.flaps;
            return self.wait("it is not ready");
        }
        // Between two looks it may have been lost and come back: then the time begins anew.
        let unbroken = self.flaps == status.flaps;
        self.flaps = status.flaps;
        let ready = match self.ready {
            Some(ready) if unbroken => ready + passed,
            _ => Duration::ZERO,
        };
        self.ready = Some(ready);
        if ready >= self.limits.min_healthy {
            return Verdict::Pass;
        }
        let left = self.limits.min_healthy - ready;
        match self.wait("it was not ready for long enough") {
            Verdict::Wait(until) => Verdict::Wait(until.min(left)),
            verdict => verdict,
        }
    }

    fn wait(&self, why: &str) -> Verdict {
        match self.limits.deadline.checked_sub(self.spent) {
            Some(left) if !left.is_zero() => Verdict::Wait(left),
            _ => Verdict::Fail(format!("{why} within {:?}", self.limits.deadline)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ews_core::probe::Thresholds;
    use ews_core::spec::probe::{Check, HttpCheck, Probe, Probes};
    use ews_core::{Incarnation, Timestamp};

    const S: Duration = Duration::from_secs(1);

    fn gate() -> Gate {
        Gate::new(GateLimits { min_healthy: 10 * S, deadline: 60 * S, flaps: 1 }, Duration::ZERO)
    }

    /// Statuses as the real thresholds make them.
    struct Probed(Thresholds);

    impl Probed {
        fn new() -> Self {
            let mut probes = Probes::default();
            let mut probe = Probe::new(Check::Http(HttpCheck::new("/")));
            probe.failure = 1;
            probes.readiness = Some(probe);
            Self(Thresholds::new(&probes, Incarnation(1)))
        }

        fn ready(&mut self, ready: bool) -> Option<Status> {
            use ews_core::probe::{ProbeKind, Verdict};
            let verdict = if ready { Verdict::Pass } else { Verdict::Fail };
            self.0.observe(Incarnation(1), ProbeKind::Readiness, verdict, Timestamp::EPOCH);
            Some(self.0.status())
        }
    }

    #[test]
    fn it_passes_after_being_ready_without_a_break() {
        let (mut gate, mut probed) = (gate(), Probed::new());
        assert_eq!(gate.look(S, probed.ready(false)), Verdict::Wait(59 * S));
        assert_eq!(gate.look(S, probed.ready(true)), Verdict::Wait(10 * S));
        assert_eq!(gate.look(6 * S, probed.ready(true)), Verdict::Wait(4 * S));
        assert_eq!(gate.look(4 * S, probed.ready(true)), Verdict::Pass);
    }

    #[test]
    fn a_break_begins_the_time_anew_even_one_between_two_looks() {
        let (mut gate, mut probed) = (gate(), Probed::new());
        gate.look(S, probed.ready(true));
        gate.look(9 * S, probed.ready(true));
        probed.ready(false);
        assert_eq!(gate.look(S, probed.ready(true)), Verdict::Wait(10 * S));
        assert_eq!(gate.look(10 * S, probed.ready(true)), Verdict::Pass);
    }

    #[test]
    fn what_flaps_too_often_fails_though_it_is_ready() {
        let (mut gate, mut probed) = (gate(), Probed::new());
        for _ in 0..2 {
            probed.ready(true);
            probed.ready(false);
        }
        assert!(matches!(gate.look(S, probed.ready(true)), Verdict::Fail(why) if why.contains("2 times")));
    }

    #[test]
    fn silence_never_passes_and_the_deadline_counts_what_was_spent_before() {
        let limits = GateLimits { min_healthy: Duration::ZERO, deadline: 60 * S, flaps: 1 };
        let mut gate = Gate::new(limits, 50 * S);
        assert_eq!(gate.look(9 * S, None), Verdict::Wait(S));
        assert!(matches!(gate.look(S, None), Verdict::Fail(why) if why.contains("60s")));
    }
}
