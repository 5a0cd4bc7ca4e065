//! What a driver's author gives the suite.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;

use super::{Runtime, Workload};
use crate::error::{Error, ErrorKind, Result};
use crate::id::OwnerId;
use crate::instance::InstanceKey;
use crate::spec::InstanceSpec;
use crate::spec::content::SecretRef;

/// How the suite reaches the runtime under test.
///
/// Two methods are required. Every other is a hook whose default says "can't be done here"; the cases that need it are then
/// skipped by name.
#[async_trait]
pub trait RuntimeHarness: Send + Sync {
    /// A handle as a controller gets it when it starts. The engine behind it stays the same, and so do its instances where
    /// the driver declares `survives_controller`. The suite drops the handle before before it asks for another, and asks for
    /// one per case.
    ///
    /// # Errors
    /// What keeps a controller from connecting.
    async fn connect(&self) -> Result<Arc<dyn Runtime>>;

    /// The spec that runs this program; `None` where this runtime has no such program. Nearly always
    /// `workload.over(InstanceSpec::new(…))`.
    fn workload(&self, workload: &Workload) -> Option<InstanceSpec>;

    /// The command that runs this program inside an instance of [`Workload::Sleep`]. Default: a POSIX shell's.
    fn command(&self, workload: &Workload) -> Option<Vec<String>> {
        workload.shell_command()
    }

    /// What is tested, for the report. Default: `unnamed`.
    fn name(&self) -> String {
        "unnamed".to_owned()
    }

    /// How long things may take and how much is done. Default: [`SuiteLimits::default`].
    fn limits(&self) -> SuiteLimits {
        SuiteLimits::default()
    }

    /// How often a program is killed for memory until that must have been said, for an engine that now and then loses the news. Default
    /// 1: it is always said.
    fn tries_for_memory(&self) -> u32 {
        1
    }

    /// What tells this run's objects from an earlier run's: at most 20 lower-case letters and digits. Default: drawn from
    /// the process id and the clock.
    fn run_id(&self) -> String {
        let micros = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_micros());
        format!("{:x}x{:x}", std::process::id(), micros & 0xff_ffff_ffff)
    }

    /// Does this to the engine; `false` where it can't be done. [`heal`](Self::heal) follows.
    async fn disturb(&self, disturbance: Disturbance) -> bool {
        let _ = disturbance;
        false
    }

    /// Undoes what [`disturb`](Self::disturb) did; called after every case too.
    async fn heal(&self) {}

    /// Ends the controller that connected last as SIGKILL does: nothing it had under way goes on, except what had reached
    /// the engine. `false` where it can't be done.
    async fn kill_controller(&self) -> bool {
        false
    }

    /// Makes an object in the engine under the name that the driver would give to this key, without the driver's labels.
    async fn plant_foreign(&self, key: &InstanceKey) -> bool {
        let _ = key;
        false
    }

    /// Whether that object is as it was.
    async fn foreign_is_intact(&self, key: &InstanceKey) -> bool {
        let _ = key;
        false
    }

    /// How much is left in the engine that the contract does not show: processes without an instance, half-made objects,
    /// directories. `None` where nobody can tell.
    async fn leftovers(&self, owner: &OwnerId) -> Option<usize> {
        let _ = owner;
        None
    }

    /// How many processes on the nodes have `EWS_MARK` set to this. `None` where nobody can tell; see [`processes_with`].
    async fn marked_processes(&self, mark: &str) -> Option<usize> {
        let _ = mark;
        None
    }

    /// Connects to an endpoint and gets some bytes in answer to an HTTP request. Default: over this machine's network.
    ///
    /// # Errors
    /// `Unavailable` where nobody answers.
    async fn dial(&self, address: SocketAddr) -> Result<()> {
        // A blocking thread keeps a paused clock from running ahead meanwhile.
        let dialled = tokio::task::spawn_blocking(move || dial(address)).await;
        let refused = |error: std::io::Error| {
            Error::new(ErrorKind::Unavailable, "nobody answers")
                .with_context("address", address)
                .with_source(error)
        };
        dialled
            .map_err(|error| Error::internal("the dialling thread failed").with_source(error))?
            .map_err(refused)
    }

    /// A port of the node that is free now. Default: one that this machine finds free on loopback.
    fn free_port(&self) -> Option<u16> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).ok()?;
        Some(listener.local_addr().ok()?.port())
    }

    /// A secret that the driver under test can resolve, and its value.
    fn secret(&self) -> Option<(SecretRef, String)> {
        None
    }

    /// Everything that was logged since the run began, as [`LogCapture`](super::LogCapture) has it.
    fn captured_log(&self) -> Option<String> {
        None
    }

    /// An empty directory of the node that instances may mount.
    fn bind_directory(&self) -> Option<String> {
        None
    }

    /// A directory inside an instance that exists and may be written. Default: `/tmp`.
    fn scratch_directory(&self) -> String {
        "/tmp".to_owned()
    }

    /// Removes what this owner's cases left beside instances: volumes, directories.
    async fn cleanup(&self, owner: &OwnerId) {
        let _ = owner;
    }
}

/// What the suite does to an engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Disturbance {
    /// The driver can't reach it.
    Sever,
    /// It takes calls and never answers.
    Hang,
    /// Streams of events break and are made anew.
    BreakEvents,
    /// It restarts.
    RestartEngine,
}

/// How long things may take and how much is done. The defaults suit a slow machine with real containers.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SuiteLimits {
    /// The longest that one case may run. Default 180 s.
    pub case: Duration,
    /// The longest that the driver may take for one call to an engine that hangs. Default 60 s.
    pub call: Duration,
    /// How long something is waited for that must come. Default 30 s.
    pub patience: Duration,
    /// How many instances are created to test lists and events. Default 500.
    pub many: u32,
    /// How many bytes go through exec. Default 100 MB.
    pub volume: u64,
}

impl Default for SuiteLimits {
    fn default() -> Self {
        Self {
            case: Duration::from_secs(180),
            call: Duration::from_secs(60),
            patience: Duration::from_secs(30),
            many: 500,
            volume: 100_000_000,
        }
    }
}

fn dial(address: SocketAddr) -> std::io::Result<()> {
    let patience = Duration::from_secs(2);
    let mut stream = TcpStream::connect_timeout(&address, patience)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut first = [0];
    stream.read_exact(&mut first)
}

/// How many processes of this machine have `EWS_MARK` set to `mark`, for harnesses on Linux: it reads `/proc`, containers
/// included where it may. `None` elsewhere.
pub fn processes_with(mark: &str) -> Option<usize> {
    let wanted = format!("EWS_MARK={mark}");
    let processes = std::fs::read_dir("/proc").ok()?;
    let marked = |entry: std::io::Result<std::fs::DirEntry>| {
        let environment = std::fs::read(entry.ok()?.path().join("environ")).ok()?;
        environment.split(|byte| *byte == 0).any(|variable| variable == wanted.as_bytes()).then_some(())
    };
    Some(processes.filter_map(marked).count())
}
