//! What goes wrong, by rule: which call, which instance, how often, and how.
//!
//! Rules are asked in the order they were added; the first that applies decides. A rule with a probability draws from a
//! generator with a fixed seed, so that two runs fail alike.

use std::fmt;
use std::sync::Mutex;
use std::time::Duration;

use tokio::sync::watch;

use crate::error::{Error, ErrorKind};
use crate::id::InstanceId;

/// A method of the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "each is the method of the contract of that name")]
#[non_exhaustive]
pub enum Operation {
    Nodes,
    Create,
    Start,
    Stop,
    Wait,
    Remove,
    Get,
    List,
    Events,
    Signal,
    Logs,
    Usage,
    Exec,
    PutArchive,
    GetArchive,
}

impl Operation {
    /// The name used in errors: `runtime.create`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Nodes => "runtime.nodes",
            Self::Create => "runtime.create",
            Self::Start => "runtime.start",
            Self::Stop => "runtime.stop",
            Self::Wait => "runtime.wait",
            Self::Remove => "runtime.remove",
            Self::Get => "runtime.get",
            Self::List => "runtime.list",
            Self::Events => "runtime.events",
            Self::Signal => "runtime.signal",
            Self::Logs => "runtime.logs",
            Self::Usage => "runtime.usage",
            Self::Exec => "runtime.exec",
            Self::PutArchive => "runtime.put_archive",
            Self::GetArchive => "runtime.get_archive",
        }
    }
}

impl Operation {
    /// Whether it changes something, so that it runs to its end whoever waits for it.
    pub(super) const fn mutates(self) -> bool {
        matches!(
            self,
            Self::Create | Self::Start | Self::Stop | Self::Remove | Self::Signal | Self::PutArchive
        )
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How a call goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// It fails with this kind and nothing has happened.
    Fail(ErrorKind),
    /// It happens, and then fails with this kind; the error says `maybe_applied`.
    FailApplied(ErrorKind),
    /// The engine does not take it up until [`Faults::release`]. The driver's own limit may end the wait before.
    Hang,
    /// The engine does it and keeps its answer back until [`Faults::release`].
    HangApplied,
    /// It takes this much longer.
    Slow(Duration),
}

/// Which calls a [`Fault`] befalls. By default every call, without end.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct FaultRule {
    /// What happens.
    pub fault: Fault,
    /// Only this method. Default: every one.
    pub operation: Option<Operation>,
    /// Only calls about this instance. Default: all.
    pub instance: Option<InstanceId>,
    /// How many fitting calls pass before the first fails. Default 0.
    pub skip: u64,
    /// How many calls fail before the rule is spent. Default: no end.
    pub times: u64,
    /// How likely each fitting call fails, 0 to 1. Default 1.
    pub probability: f64,
}

impl FaultRule {
    /// Befalls every call.
    pub const fn new(fault: Fault) -> Self {
        Self { fault, operation: None, instance: None, skip: 0, times: u64::MAX, probability: 1.0 }
    }

    /// Only this method.
    #[must_use]
    pub const fn on(mut self, operation: Operation) -> Self {
        self.operation = Some(operation);
        self
    }

    /// Only this instance.
    #[must_use]
    pub fn of(mut self, instance: InstanceId) -> Self {
        self.instance = Some(instance);
        self
    }

    /// Lets the first so many pass.
    #[must_use]
    pub const fn after(mut self, calls: u64) -> Self {
        self.skip = calls;
        self
    }

    /// At most so many calls fail.
    #[must_use]
    pub const fn times(mut self, times: u64) -> Self {
        self.times = times;
        self
    }

    /// Each fitting call fails with this probability.
    #[must_use]
    pub const fn with_probability(mut self, probability: f64) -> Self {
        self.probability = probability;
        self
    }
}

/// The rules of one engine.
pub struct Faults {
    inner: Mutex<Inner>,
    released: watch::Sender<u64>,
}

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Faults").finish_non_exhaustive()
    }
}

struct Inner {
    rules: Vec<FaultRule>,
    random: u64,
    struck: u64,
}

impl Faults {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            inner: Mutex::new(Inner { rules: Vec::new(), random: seed, struck: 0 }),
            released: watch::Sender::new(0),
        }
    }

    /// Adds a rule behind the others.
    pub fn add(&self, rule: FaultRule) {
        self.lock().rules.push(rule);
    }

    /// Takes every rule away and lets go of every call that hangs.
    pub fn clear(&self) {
        self.lock().rules.clear();
        self.release();
    }

    /// Lets go of every call that hangs now; rules stay.
    pub fn release(&self) {
        self.released.send_modify(|count| *count += 1);
    }

    /// How many calls have met a fault.
    pub fn struck(&self) -> u64 {
        self.lock().struck
    }

    /// What befalls this call.
    pub(super) fn next(&self, operation: Operation, instance: Option<&InstanceId>) -> Option<Fault> {
        let mut inner = self.lock();
        let Inner { rules, random, struck } = &mut *inner;
        for rule in rules {
            let fits = rule.operation.is_none_or(|wanted| wanted == operation)
                && rule.instance.as_ref().is_none_or(|wanted| Some(wanted) == instance)
                && rule.times > 0;
            if !fits {
                continue;
            }
            if rule.skip > 0 {
                rule.skip -= 1;
                continue;
            }
            if rule.probability < 1.0 && draw(random) >= rule.probability {
                continue;
            }
            rule.times -= 1;
            *struck += 1;
            return Some(rule.fault);
        }
        None
    }

    /// Ends at the next release.
    pub(super) async fn hang(&self) {
        let mut released = self.released.subscribe();
        // The sender lives as long as the engine; without it nothing would ever release the call either.
        if released.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// SplitMix64, scaled to 0 up to 1. (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014.)
fn draw(state: &mut u64) -> f64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
}

/// The error of a fault.
pub(super) fn error(operation: Operation, kind: ErrorKind, applied: bool) -> Error {
    let error = Error::new(kind, "a fault that the test asked for").with_operation(operation.as_str());
    if applied { error.with_maybe_applied() } else { error }
}
