//! An answer to failures of a rollout, for programs that say when a failure passes by itself.
//!
//! Exit code 75 (`EX_TEMPFAIL` of BSD's `sysexits.h`) and an engine that refuses are tried again, some times for each slot. What is left goes back,
//! unless most of the service is new already: then it is not clear that going back is better, and somebody has to look.

use ews_core::Timestamp;
use ews_core::policy::{Explained, Input, Policy, PolicyState};
use ews_deploy::{FailureClass, FailureSeen, OnFailure};

/// Tries again what passes. See the [module](self).
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// How often one slot is tried again.
    pub tries: u32,
}

/// "Try again later" in the words of `sysexits.h`.
const TEMPORARY: i32 = 75;

impl Policy<FailureSeen, OnFailure> for Patience {
    fn name(&self) -> &'static str {
        "patience/1"
    }

    fn decide(
        &self,
        seen: &FailureSeen,
        state: &PolicyState,
        now: Timestamp,
    ) -> (Explained<OnFailure>, PolicyState) {
        let code = seen.failure.as_ref().and_then(|failure| failure.exit.as_ref()?.code);
        let passes = seen.class == FailureClass::Refused || code == Some(TEMPORARY);
        let (done, all) = seen.done;
        let (decision, why) = if passes && seen.tries <= self.tries {
            (OnFailure::Retry(self.tries), format!("it passes by itself, and this was try {}", seen.tries))
        } else if done * 2 > all {
            (OnFailure::Pause, format!("{done} of {all} are new already, somebody has to look"))
        } else {
            (OnFailure::Rollback, format!("{done} of {all} are new"))
        };
        let outcome = format!("{decision} after {}: {why}", seen.class);
        let count = |name: &str, value: f64| Input::new(name, Ok(value));
        let share = |count: usize| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
        let explained = Explained::new(Policy::<FailureSeen, OnFailure>::name(self), now, decision, outcome)
            .with_input(count("tries", f64::from(seen.tries)))
            .with_input(count("done", share(done)))
            .with_input(count("all", share(all)));
        // It remembers nothing: what it needs is in what it sees.
        (explained, state.clone())
    }
}
