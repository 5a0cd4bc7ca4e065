//! What a layer is told of a call: enough to decide, nothing that could be secret.

use std::fmt;
use std::time::Duration;

use crate::error::Result;
use crate::id::{InstanceId, NodeId, RevisionId, ServiceName};

/// A call to a driver, as its layers see it.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub struct Call<'a> {
    /// Which contract.
    pub contract: Contract,
    /// Which operation of it, with the contract in front: `runtime.create`.
    pub operation: &'static str,
    /// What happens where it is made twice.
    pub kind: CallKind,
    /// How long it may take by its nature.
    pub pace: Pace,
    /// What the caller allowed on top, such as the grace of a stop.
    pub extra: Duration,
    /// What it is about.
    pub subject: Subject<'a>,
    check: &'a (dyn Fn() -> Result<()> + Sync),
}

impl<'a> Call<'a> {
    /// A short call about nothing in particular that every driver can do. The operation's contract is the part before the
    /// dot.
    pub(crate) const fn new(contract: Contract, operation: &'static str, kind: CallKind) -> Self {
        let pace = if matches!(kind, CallKind::Wait) { Pace::Unbounded } else { Pace::Short };
        Self {
            contract,
            operation,
            kind,
            pace,
            extra: Duration::ZERO,
            subject: Subject::NONE,
            check: &always,
        }
    }

    pub(crate) const fn long(mut self) -> Self {
        self.pace = Pace::Long;
        self
    }

    pub(crate) const fn transfer(mut self) -> Self {
        self.pace = Pace::Transfer;
        self
    }

    pub(crate) const fn about(mut self, subject: Subject<'a>) -> Self {
        self.subject = subject;
        self
    }

    pub(crate) const fn checked(mut self, check: &'a (dyn Fn() -> Result<()> + Sync)) -> Self {
        self.check = check;
        self
    }

    /// Whether the driver says that it can do this, judged by its capabilities and the call's arguments alone. The driver's
    /// engine is not asked.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported), naming the capability.
    pub fn check_capabilities(&self) -> Result<()> {
        (self.check)()
    }
}

fn always() -> Result<()> {
    Ok(())
}

impl fmt::Debug for Call<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call")
            .field("operation", &self.operation)
            .field("kind", &self.kind)
            .field("pace", &self.pace)
            .field("extra", &self.extra)
            .finish_non_exhaustive()
    }
}

/// The contracts that layers stand in front of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Contract {
    /// [`Runtime`](crate::Runtime), with the sessions that its exec opens.
    Runtime,
    /// [`ImageStore`](crate::ImageStore).
    ImageStore,
    /// [`Registry`](crate::Registry).
    Registry,
    /// [`Balancer`](crate::Balancer).
    Balancer,
    /// [`Metrics`](crate::Metrics).
    Metrics,
    /// [`Store`](crate::Store).
    Store,
    /// [`Secrets`](crate::Secrets).
    Secrets,
    /// [`ScaleTarget`](crate::ScaleTarget).
    ScaleTarget,
}

impl Contract {
    /// The name used in logs and metrics: `runtime`, `image_store`, ….
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Runtime => "runtime",
            Self::ImageStore => "image_store",
            Self::Registry => "registry",
            Self::Balancer => "balancer",
            Self::Metrics => "metrics",
            Self::Store => "store",
            Self::Secrets => "secrets",
            Self::ScaleTarget => "scale_target",
        }
    }
}

/// What happens where a call is made twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CallKind {
    /// It changes nothing. A stream counts as what opens it: what it yields after is the caller's.
    Read,
    /// It changes something, and by the contract a second one changes nothing more: a start, a create with its key, a change
    /// with its id.
    Idempotent,
    /// It changes something each time, or consumes a stream that can't be read twice: it is never repeated.
    Once,
    /// It waits for something that has no bound of its own, such as the end of a program. It changes nothing.
    Wait,
}

impl CallKind {
    /// Whether it may have changed something although it failed.
    pub const fn is_mutating(self) -> bool {
        matches!(self, Self::Idempotent | Self::Once)
    }
}

/// How long a call may take by its nature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Pace {
    /// A question or a command that an engine answers at once.
    Short,
    /// A command that an engine works on: the creation of an instance, a removal that kills first, an image made from an
    /// instance, a stop whose grace only the engine knows.
    Long,
    /// It lasts as long as its stream: an archive that is unpacked, a blob that is pushed.
    Transfer,
    /// As long as it takes.
    Unbounded,
}

/// What a call is about, for spans: names only, never a value that may be secret.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub struct Subject<'a> {
    /// The service.
    pub service: Option<&'a ServiceName>,
    /// The revision.
    pub revision: Option<&'a RevisionId>,
    /// The instance.
    pub instance: Option<&'a InstanceId>,
    /// The node.
    pub node: Option<&'a NodeId>,
    /// Whatever else names it: an instance's key, an image, a change, a record's key, a secret's reference.
    pub object: Option<&'a (dyn fmt::Display + Sync)>,
}

impl fmt::Debug for Subject<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subject")
            .field("service", &self.service)
            .field("revision", &self.revision)
            .field("instance", &self.instance)
            .field("node", &self.node)
            .field("object", &self.object.map(|object| object.to_string()))
            .finish()
    }
}

impl<'a> Subject<'a> {
    pub(crate) const NONE: Self =
        Self { service: None, revision: None, instance: None, node: None, object: None };

    pub(crate) const fn instance(instance: &'a InstanceId) -> Self {
        Self { instance: Some(instance), ..Self::NONE }
    }

    pub(crate) const fn object(object: &'a (dyn fmt::Display + Sync)) -> Self {
        Self { object: Some(object), ..Self::NONE }
    }
}
