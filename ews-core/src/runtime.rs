//! The `Runtime` contract: runs instances on nodes.
//!
//! One value stands for one engine, a pool of engines or a Swarm; callers never learn which. Ten methods every driver has;
//! the others it may leave at their default, which refuses with
//! [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) and matches the capability that it then does not declare.
//!
//! # Rules for every method
//! - **Cancellation.** Dropping a future abandons the wait, not the operation: from its first poll on, a mutating call runs to
//!   its end in a task of the driver ([`crate::detach()`]), though nobody calls again. Whoever called twice finds one result,
//!   by the rules of idempotence below.
//! - **Silence.** An engine that can't be reached gives [`ErrorKind::Unavailable`](crate::ErrorKind::Unavailable) from a
//!   call, and `Unknown` as the state in a list that other engines answered.
//! - **Deadlines.** A driver ends every call to an engine that hangs, with `Timeout` or `Unavailable`, by limits of its own;
//!   only [`wait`](Runtime::wait) and followed [`logs`](Runtime::logs) may take for ever. Callers put
//!   [`Deadline`](crate::layer::Deadline) in front for limits of theirs.
//! - **Ownership.** A driver touches only instances that carry an owner label of EWS; `list` finds no others.
//! - **Common errors.** `Unavailable`, `Timeout`, `Decode`, `Internal` and `Unauthorized` may come from every call and are not
//!   repeated below. An error carries `maybe_applied` where the operation may have happened.
//!
//! A driver proves itself with `ews_core::testkit::conformance::runtime`.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_core::stream::BoxStream;
use serde::{Deserialize, Serialize};

use crate::capability::{Capability, RuntimeCapabilities};
use crate::error::{Error, Result};
use crate::event::EventStream;
use crate::id::{InstanceId, NodeId};
use crate::image::ImageStore;
use crate::instance::{ExitStatus, Incarnation, Instance, InstanceKey};
use crate::node::Node;
use crate::selector::Selector;
use crate::spec::InstanceSpec;
use crate::spec::lifecycle::Signal;
use crate::time::Timestamp;

/// Bytes as they come.
pub type ByteStream = BoxStream<'static, Result<Bytes>>;

/// Runs instances on nodes. See the [module](self) for the rules that hold for every method.
#[async_trait]
pub trait Runtime: Send + Sync + 'static {
    /// What this driver can do. It answers at once, from what it learned when it connected.
    fn capabilities(&self) -> Arc<RuntimeCapabilities>;

    /// The nodes, with their state. A node that does not answer is listed as `Unknown`, not left out; so are all of them where
    /// the engine itself can't be reached, unless the driver does not know them and says `Unavailable`.
    ///
    /// # Errors
    /// The common ones.
    async fn nodes(&self) -> Result<Vec<Node>>;

    /// Creates an instance without starting it.
    ///
    /// Idempotent by `key`: where an instance of this key and the same [spec hash](InstanceSpec::hash) exists, it is
    /// returned as it is. Whatever the call made before it failed is removed again.
    ///
    /// # Errors
    /// `AlreadyExists` where the key exists with another spec, or the name belongs to somebody else, which is not touched;
    /// `Invalid`, `Unsupported` for the spec; `ImageMissing`, `ImageDenied`, `ImageIncompatible`; `PortInUse`,
    /// `OutOfResources`; `NotFound` for a node that does not exist.
    async fn create(
        &self,
        spec: &InstanceSpec,
        key: &InstanceKey,
        options: &CreateOptions,
    ) -> Result<Instance>;

    /// Starts an instance that was created or has ended, and returns it in the state the start has led to. Each start that
    /// took place raises the incarnation; one that ended in `Failed` did not take place. Nothing happens where it runs
    /// already.
    ///
    /// Where a port is published, it is reachable once `Running` is reported and the program listens.
    ///
    /// # Errors
    /// `NotFound`; `Busy` while it is being removed; `PortInUse`. A program that can't be started is no error of the call:
    /// the instance comes back `Failed`, with the engine's words and the exit code.
    async fn start(&self, id: &InstanceId) -> Result<Instance>;

    /// Asks the program to end with the spec's signal and kills the whole tree of processes after the grace. Returns
    /// when it has ended, with how. Nothing happens where it has ended before; an instance never started is `Created` still
    /// and gives [`ExitStatus::unknown`].
    ///
    /// # Errors
    /// `NotFound`.
    async fn stop(&self, id: &InstanceId, options: &StopOptions) -> Result<ExitStatus>;

    /// Waits until the program has ended, for as long as it takes, and says how. An instance that was not started yet is
    /// waited for until it was started and has ended; a start that ended in `Failed` counts as an end, with the failure's
    /// code. Dropping the future ends the wait and nothing else.
    ///
    /// # Errors
    /// `NotFound` where it does not exist or is removed meanwhile; `Stale` where the asked incarnation is over and how it
    /// ended is no longer known, which may be as soon as a later one has begun. A later one's end is never given for it.
    async fn wait(&self, id: &InstanceId, options: &WaitOptions) -> Result<ExitStatus>;

    /// Removes an instance with all that belongs to it alone; volumes stay. Nothing happens where it is gone before.
    /// Returns when it is gone.
    ///
    /// # Errors
    /// `Busy` where it runs and the options don't force it.
    async fn remove(&self, id: &InstanceId, options: &RemoveOptions) -> Result<()>;

    /// The instance as it is now.
    ///
    /// # Errors
    /// `NotFound`.
    async fn get(&self, id: &InstanceId) -> Result<Instance>;

    /// All instances whose labels match, those that EWS derives included, ordered by id. Every owner's: callers that act
    /// select their own by `ews/owner`.
    ///
    /// Instances of an engine that can't be reached are listed as `Unknown` where the driver remembers them.
    ///
    /// # Errors
    /// `Unavailable` where no engine can be reached.
    async fn list(&self, selector: &Selector) -> Result<Vec<Instance>>;

    /// Events of instances that match and of all nodes, from now on: at least when an instance is created, runs, has ended and
    /// is gone. The stream's queue is bounded: a slow consumer gets a
    /// [`Gap`](crate::event::Gap), as does every consumer after a reconnect.
    ///
    /// # Errors
    /// The common ones.
    async fn events(&self, selector: &Selector) -> Result<EventStream>;

    /// Sends a signal to the program.
    ///
    /// # Errors
    /// `NotFound`; `Busy` where it does not run; `Unsupported` for a signal that is not declared.
    async fn signal(&self, id: &InstanceId, signal: Signal) -> Result<()> {
        let _ = (id, signal);
        Err(Error::unsupported(Capability::Signals))
    }

    /// What the program has written. Without `follow` the stream ends with what there is; with it, when the program has
    /// ended and all was given.
    ///
    /// # Errors
    /// `NotFound`.
    async fn logs(&self, id: &InstanceId, options: &LogOptions) -> Result<LogStream> {
        let _ = (id, options);
        Err(Error::unsupported(Capability::Logs))
    }

    /// One measurement of each of these instances. What does not run or does not exist is left out; what the engine does
    /// not know of an instance is `None`, never zero.
    ///
    /// # Errors
    /// The common ones, where no instance could be asked.
    async fn usage(&self, ids: &[InstanceId]) -> Result<Vec<Usage>> {
        let _ = ids;
        Err(Error::unsupported(Capability::Usage))
    }

    /// Runs a command inside a running instance. Dropping the session ends it and what it started.
    ///
    /// # Errors
    /// `NotFound`; `Busy` where it does not run. A program that is not there is no error of the call: the session ends with
    /// exit code 127 (126 from Docker).
    async fn exec(&self, id: &InstanceId, spec: &ExecSpec) -> Result<ExecSession> {
        let _ = (id, spec);
        Err(Error::unsupported(Capability::Exec))
    }

    /// Unpacks a tar archive into a directory of the instance. Names that lead out of it, absolute names, links that lead
    /// out and devices are refused.
    ///
    /// # Errors
    /// `NotFound` for the instance or the directory; `Invalid` for an archive with such names, of which nothing may have
    /// been unpacked or, with `maybe_applied`, what stood before the bad entry; `OutOfResources`.
    async fn put_archive(&self, id: &InstanceId, path: &str, archive: ByteStream) -> Result<()> {
        let _ = (id, path, archive);
        Err(Error::unsupported(Capability::PutArchive))
    }

    /// Packs a file or a directory of the instance into a tar archive.
    ///
    /// # Errors
    /// `NotFound` for the instance or the path.
    async fn get_archive(&self, id: &InstanceId, path: &str) -> Result<ByteStream> {
        let _ = (id, path);
        Err(Error::unsupported(Capability::GetArchive))
    }

    /// The images of this runtime, where it has any.
    fn images(&self) -> Option<Arc<dyn ImageStore>> {
        None
    }
}

/// How an instance is created.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct CreateOptions {
    /// On which node. `None` leaves it to a runtime of one node, or to the engine.
    pub node: Option<NodeId>,
}

impl CreateOptions {
    /// On this node.
    pub fn on(node: NodeId) -> Self {
        Self { node: Some(node) }
    }
}

/// How an instance is stopped.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct StopOptions {
    /// How long it may take before it is killed. Default: the spec's. Zero kills at once.
    pub grace: Option<Duration>,
}

impl StopOptions {
    /// Kills after this long.
    pub fn grace(grace: Duration) -> Self {
        Self { grace: Some(grace) }
    }
}

/// What is waited for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct WaitOptions {
    /// Which start's end. Default: the present one's, or the first one's of an instance never started.
    pub incarnation: Option<Incarnation>,
}

impl WaitOptions {
    /// The end of this start.
    pub fn incarnation(incarnation: Incarnation) -> Self {
        Self { incarnation: Some(incarnation) }
    }
}

/// How an instance is removed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct RemoveOptions {
    /// Kills it first where it runs. Default false.
    pub force: bool,
}

impl RemoveOptions {
    /// Kills it first where it runs.
    pub fn force() -> Self {
        Self { force: true }
    }
}

/// Which of the output is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogOptions {
    /// Goes on with what is written from now on. Default false.
    pub follow: bool,
    /// Only what was written at or after this moment, by the engine's clock.
    pub since: Option<Timestamp>,
    /// Only the last so many lines, both streams counted together.
    pub tail: Option<usize>,
    /// Standard output. Default true.
    pub stdout: bool,
    /// Standard error. Default true.
    pub stderr: bool,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self { follow: false, since: None, tail: None, stdout: true, stderr: true }
    }
}

impl LogOptions {
    /// The last so many lines.
    pub fn tail(lines: usize) -> Self {
        Self { tail: Some(lines), ..Self::default() }
    }

    /// All there is, and what comes.
    pub fn follow() -> Self {
        Self { follow: true, ..Self::default() }
    }

    /// Only what was written at or after this moment, by the engine's clock.
    #[must_use]
    pub fn with_since(mut self, since: Timestamp) -> Self {
        self.since = Some(since);
        self
    }

    /// Only the last so many lines.
    #[must_use]
    pub fn with_tail(mut self, lines: usize) -> Self {
        self.tail = Some(lines);
        self
    }
}

/// What a program has written, in order per stream.
pub type LogStream = BoxStream<'static, Result<LogLine>>;

/// One line of output.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogLine {
    /// When it was written, by the engine's clock.
    pub at: Timestamp,
    /// Where to.
    pub stream: OutputStream,
    /// The bytes without the line's end; not always UTF-8. At most 64 KiB: a longer line comes in pieces.
    pub bytes: Bytes,
    /// Whether the line's end is missing: the program ended without one, or more of the line follows.
    pub partial: bool,
}

impl LogLine {
    /// A whole line; for drivers.
    pub fn new(at: Timestamp, stream: OutputStream, bytes: impl Into<Bytes>) -> Self {
        Self { at, stream, bytes: bytes.into(), partial: false }
    }

    /// With or without its end; see [`partial`](Self::partial).
    #[must_use]
    pub fn with_partial(mut self, partial: bool) -> Self {
        self.partial = partial;
        self
    }
}

/// One of a program's two outputs. With a terminal there is only the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutputStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// What an instance has used. Counters start at zero with each incarnation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Usage {
    /// Which instance.
    pub instance: InstanceId,
    /// Which of its starts.
    pub incarnation: Incarnation,
    /// When it was measured, by this program's clock.
    pub at: Timestamp,
    /// CPU time since the start, in nanoseconds.
    pub cpu_nanos: Option<u64>,
    /// Memory in use without what the kernel can drop at will, in bytes.
    pub memory: Option<u64>,
    /// The limit on memory, in bytes, where there is one.
    pub memory_limit: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u64>,
    /// Read from block devices since the start, in bytes.
    pub io_read: Option<u64>,
    /// Written to block devices since the start, in bytes.
    pub io_written: Option<u64>,
    /// Received from networks since the start, in bytes.
    pub net_received: Option<u64>,
    /// Sent to networks since the start, in bytes.
    pub net_sent: Option<u64>,
}

impl Usage {
    /// A measurement that knows nothing yet; for drivers.
    pub fn new(instance: InstanceId, incarnation: Incarnation, at: Timestamp) -> Self {
        Self {
            instance,
            incarnation,
            at,
            cpu_nanos: None,
            memory: None,
            memory_limit: None,
            pids: None,
            io_read: None,
            io_written: None,
            net_received: None,
            net_sent: None,
        }
    }
}

/// A command to run inside an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExecSpec {
    /// The program and its arguments, without a shell.
    pub command: Vec<String>,
    /// Added to the instance's environment.
    pub env: BTreeMap<String, String>,
    /// The working directory. Default: the instance's.
    pub workdir: Option<String>,
    /// Who runs it. Default: the instance's user.
    pub user: Option<String>,
    /// A terminal of this size. Default: none, output and error apart.
    pub tty: Option<TtySize>,
    /// Whether standard input is connected. Default false: the program sees its end at once.
    pub stdin: bool,
}

impl ExecSpec {
    /// Runs this without input or terminal.
    pub fn new(command: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            command: command.into_iter().map(Into::into).collect(),
            env: BTreeMap::new(),
            workdir: None,
            user: None,
            tty: None,
            stdin: false,
        }
    }

    /// Connects standard input.
    #[must_use]
    pub fn with_stdin(mut self) -> Self {
        self.stdin = true;
        self
    }

    /// With this variable added to the instance's environment.
    #[must_use]
    pub fn with_env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.insert(name.into(), value.into());
        self
    }

    /// In this working directory.
    #[must_use]
    pub fn with_workdir(mut self, workdir: impl Into<String>) -> Self {
        self.workdir = Some(workdir.into());
        self
    }

    /// As this user.
    #[must_use]
    pub fn with_user(mut self, user: impl Into<String>) -> Self {
        self.user = Some(user.into());
        self
    }

    /// On a terminal of this size, with standard input.
    #[must_use]
    pub fn with_tty(mut self, size: TtySize) -> Self {
        self.tty = Some(size);
        self.stdin = true;
        self
    }
}

/// The size of a terminal, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TtySize {
    /// Characters in a line.
    pub columns: u16,
    /// Lines.
    pub rows: u16,
}

/// A running command: three parts that can be used from three tasks.
///
/// Every part is bounded: who does not read stops the program from writing, not this process from living.
#[non_exhaustive]
pub struct ExecSession {
    /// Standard input, where it was asked for. `shutdown` ends it (half-close); dropping it does too.
    pub stdin: Option<Pin<Box<dyn tokio::io::AsyncWrite + Send>>>,
    /// What the command writes, raw and unharmed. It ends when the command has ended and all was given.
    pub output: BoxStream<'static, Result<ExecOutput>>,
    /// Its size and its end. Dropping it ends the session.
    pub control: Box<dyn ExecControl>,
}

impl ExecSession {
    /// A session of these parts; for drivers.
    pub fn new(
        stdin: Option<Pin<Box<dyn tokio::io::AsyncWrite + Send>>>,
        output: BoxStream<'static, Result<ExecOutput>>,
        control: Box<dyn ExecControl>,
    ) -> Self {
        Self { stdin, output, control }
    }
}

impl std::fmt::Debug for ExecSession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ExecSession").field("stdin", &self.stdin.is_some()).finish_non_exhaustive()
    }
}

/// A piece of what a command writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecOutput {
    /// Where to.
    pub stream: OutputStream,
    /// The bytes.
    pub bytes: Bytes,
}

/// Steers a running command.
#[async_trait]
pub trait ExecControl: Send + Sync {
    /// Tells the terminal its new size. Before the command has started, the size is taken when it does.
    ///
    /// # Errors
    /// `Unsupported` without a terminal or the capability; nothing happens where the command has ended.
    async fn resize(&self, size: TtySize) -> Result<()>;

    /// Ends the command and everything that it started. Nothing happens where it has ended.
    ///
    /// # Errors
    /// `Unsupported` where the driver can't reach what the command started.
    async fn terminate(&self) -> Result<()>;

    /// Waits until the command has ended and says how. It may be asked again. Output that nobody reads may keep the command
    /// from ending.
    ///
    /// # Errors
    /// `NotFound` where the instance has gone with it.
    async fn wait(&self) -> Result<ExitStatus>;
}
