//! Instances: one run of a revision in a slot of a service.
//!
//! Three numbers tell instances apart. The *slot* is the place in the service, 0 to replicas - 1, that an instance fills;
//! it survives replacement. The *generation* is raised by ews-deploy each time it replaces what fills the slot, so that two
//! can live side by side while the new one takes over. The *incarnation* is raised by the runtime at each start of the
//! same instance, whoever started it, so that nobody takes what runs now for what was checked before.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::endpoint::Endpoint;
use crate::error::Result;
use crate::id::{InstanceId, NodeId, OwnerId, RevisionId, ServiceName};
use crate::label::{Labels, Lookup};
use crate::spec::lifecycle::Signal;
use crate::spec::source::Digest;
use crate::time::Timestamp;

/// What an instance is for: the idempotency key of its creation. One key, one instance.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct InstanceKey {
    /// The installation that it belongs to.
    pub owner: OwnerId,
    /// The service.
    pub service: ServiceName,
    /// The revision.
    pub revision: RevisionId,
    /// The place in the service that it fills.
    pub slot: u32,
    /// How often what fills the slot was replaced.
    pub generation: u32,
}

impl InstanceKey {
    /// The deterministic name under which a driver creates it: `ews-<owner>-<service>-<revision>-<slot>-<generation>`, or
    /// with a digest in place of the first three where that would be longer than 200 characters. Names are for people and
    /// for refusing a second creation; which instance is whose is said by labels.
    pub fn name(&self) -> String {
        let Self { owner, service, revision, slot, generation } = self;
        // `--` can't be told from `-` inside the parts, so the parts are joined by a character that none of them holds.
        let name = format!("ews_{owner}_{service}_{revision}_{slot}_{generation}");
        if name.len() <= 200 {
            return name;
        }
        let digest = Digest::of(name.as_bytes()).short();
        format!("ews_{service}_{digest}_{slot}_{generation}")
    }

    /// The same as an [`InstanceId`].
    ///
    /// # Errors
    /// None in practice: every part is a checked name and the length is bounded.
    pub fn to_id(&self) -> Result<InstanceId> {
        InstanceId::new(self.name())
    }
}

impl fmt::Display for InstanceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}.{}", self.service, self.revision, self.slot, self.generation)
    }
}

/// What tells an instance's starts apart: 0 before the first start, and raised by every start that took place, whoever started it.
///
/// A runtime that owns its instances counts (1, 2, 3). One whose engine keeps no count uses what the engine does keep: Docker's is
/// the moment of the start in microseconds. So compare it, and never compute with it. An engine's clock that is set back may make a
/// later start's number smaller; it is another one all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Incarnation(pub u64);

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An instance as its runtime sees it at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Instance {
    /// Its name at the runtime.
    pub id: InstanceId,
    /// What it is for.
    pub key: InstanceKey,
    /// Which of its starts it is in.
    pub incarnation: Incarnation,
    /// Where it is.
    pub node: NodeId,
    /// What it is doing.
    pub state: InstanceState,
    /// What the engine's own health check says.
    pub health: Health,
    /// Where its ports are reached; complete when it runs.
    pub endpoints: Vec<Endpoint>,
    /// The labels of its spec.
    pub labels: Labels,
    /// [`InstanceSpec::hash`](crate::InstanceSpec::hash) of what it was created from.
    pub spec_hash: Digest,
    /// When it was created, by the engine's clock.
    pub created_at: Timestamp,
    /// When it was last started, by the engine's clock.
    pub started_at: Option<Timestamp>,
}

impl Instance {
    /// An instance that was created just now and never started; for drivers.
    pub fn new(
        id: InstanceId,
        key: InstanceKey,
        node: NodeId,
        spec_hash: Digest,
        created_at: Timestamp,
    ) -> Self {
        Self {
            id,
            key,
            incarnation: Incarnation::default(),
            node,
            state: InstanceState::Created,
            health: Health::None,
            endpoints: Vec::new(),
            labels: Labels::default(),
            spec_hash,
            created_at,
            started_at: None,
        }
    }
}

impl Lookup for Instance {
    /// The spec's labels, and those that EWS derives: `ews/owner`, `ews/service`, `ews/revision`, `ews/slot`,
    /// `ews/generation`, `ews/node`, `ews/instance`.
    fn lookup(&self, key: &str) -> Option<Cow<'_, str>> {
        match key.strip_prefix(crate::label::RESERVED_PREFIX) {
            None => self.labels.lookup(key),
            Some("owner") => Some(self.key.owner.as_str().into()),
            Some("service") => Some(self.key.service.as_str().into()),
            Some("revision") => Some(self.key.revision.as_str().into()),
            Some("slot") => Some(self.key.slot.to_string().into()),
            Some("generation") => Some(self.key.generation.to_string().into()),
            Some("node") => Some(self.node.as_str().into()),
            Some("instance") => Some(self.id.as_str().into()),
            Some(_) => None,
        }
    }

    fn first_byte(&self) -> u8 {
        self.labels.first_byte()
    }
}

/// What an instance is doing.
///
/// ```text
/// Creating → Created → Starting → Running → Stopping → Exited → Removing → (gone)
///     └────────┴─────────┴──→ Failed              any state ⇄ Unknown
/// ```
/// A start leads from `Created` or `Exited` to `Starting`. An engine that can't be asked gives `Unknown`, never `Exited`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum InstanceState {
    /// Its image is fetched, its files are laid out.
    Creating,
    /// It is ready to start.
    Created,
    /// It was asked to start.
    Starting,
    /// Its program runs.
    Running,
    /// Its program runs but gets no CPU time.
    Paused,
    /// It was asked to stop.
    Stopping,
    /// Its program has ended.
    Exited(ExitStatus),
    /// It is being removed.
    Removing,
    /// It never came to run.
    Failed(Failure),
    /// Its runtime can't be asked. It may run or not.
    Unknown {
        /// Since when.
        since: Timestamp,
    },
}

impl InstanceState {
    /// The name used in logs and metrics: `running`, `exited`, ….
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopping => "stopping",
            Self::Exited(_) => "exited",
            Self::Removing => "removing",
            Self::Failed(_) => "failed",
            Self::Unknown { .. } => "unknown",
        }
    }

    /// Whether its program runs for sure.
    pub const fn is_running(&self) -> bool {
        matches!(self, Self::Running | Self::Paused | Self::Stopping)
    }

    /// Whether its program does not run for sure, and will not unless it is started.
    pub const fn is_ended(&self) -> bool {
        matches!(self, Self::Exited(_) | Self::Failed(_))
    }
}

/// How a program ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ExitStatus {
    /// The exit code; `None` where a signal ended it or nobody knows. An engine that reports 128 + number for a signal is
    /// passed on as it is; see [`ended_by`](Self::ended_by).
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<Signal>,
    /// Whether the kernel killed it for memory.
    pub oom_killed: bool,
    /// When, by the engine's clock.
    pub at: Timestamp,
}

impl ExitStatus {
    /// Ended with this code.
    pub const fn code(code: i32, at: Timestamp) -> Self {
        Self { code: Some(code), signal: None, oom_killed: false, at }
    }

    /// Ended by this signal.
    pub const fn signal(signal: Signal, at: Timestamp) -> Self {
        Self { code: None, signal: Some(signal), oom_killed: false, at }
    }

    /// Killed by the kernel for memory.
    pub const fn oom(at: Timestamp) -> Self {
        Self { code: None, signal: Some(Signal::KILL), oom_killed: true, at }
    }

    /// It ended, and nobody knows how: the one who knew is gone.
    pub const fn unknown(at: Timestamp) -> Self {
        Self { code: None, signal: None, oom_killed: false, at }
    }

    /// The signal that ended it, also where the peer says it in the shell's way, as the exit code 128 + number: Docker has
    /// no other word for it.
    pub fn ended_by(&self) -> Option<Signal> {
        self.signal.or_else(|| Signal::from_number(self.code?.checked_sub(128)?).ok())
    }

    /// Whether it ended with exit code 0.
    pub fn is_success(&self) -> bool {
        self.code == Some(0)
    }
}

impl fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.code, self.signal) {
            _ if self.oom_killed => f.write_str("killed for memory"),
            (Some(code), _) => write!(f, "exit code {code}"),
            (None, Some(signal)) => write!(f, "{signal}"),
            (None, None) => f.write_str("unknown end"),
        }
    }
}

/// Why an instance never came to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Failure {
    /// The engine's own words.
    pub message: String,
    /// The exit code that the engine gave it, such as 127 for a missing program.
    pub code: Option<i32>,
    /// When, by the engine's clock.
    pub at: Timestamp,
}

impl Failure {
    /// It failed for this reason.
    pub fn new(message: impl Into<String>, code: Option<i32>, at: Timestamp) -> Self {
        Self { message: message.into(), code, at }
    }
}

/// What an engine's own health check says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Health {
    /// It has none.
    #[default]
    None,
    /// It has not made up its mind since the start.
    Starting,
    /// It passes.
    Healthy,
    /// It fails.
    Unhealthy,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(owner: &str, service: &str) -> InstanceKey {
        InstanceKey {
            owner: OwnerId::new(owner).unwrap(),
            service: ServiceName::new(service).unwrap(),
            revision: RevisionId::new("r1").unwrap(),
            slot: 3,
            generation: 1,
        }
    }

    #[test]
    fn different_keys_have_different_names_that_are_ids() {
        // With `-` as the joint these two would share a name.
        assert_ne!(key("a-b", "c").name(), key("a", "b-c").name());
        let long = key(&"o".repeat(63), &"s".repeat(63));
        let longer = InstanceKey { revision: RevisionId::new("r".repeat(63)).unwrap(), ..long };
        assert!(longer.to_id().unwrap().as_str().len() <= 200);
    }
}
