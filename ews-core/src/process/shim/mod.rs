//! The shim: one small process for each instance that runs, which stays with it when controllers come and go.
//!
//! It starts the program, reads its output into the log, answers controllers at a socket, and when the program has ended it
//! ends the rest of its tree, writes down how it ended, says so to whoever watches, and ends itself. It is this crate's code
//! in another process: [`shim_entry`] makes it one. It runs on one thread and waits for events only.
//!
//! # How it fails and recovers
//! - Its controller dies: it goes on, and the next controller connects.
//! - It is killed: the kernel kills its program with it (on Windows the job does so with the whole tree), and the controller,
//!   or the next one, kills what else is in the instance's control group or carries its mark and records an unknown end.
//! - The disk is full: output is counted as lost, and the end is told to those that watch, though it can't be written.

mod exec;
mod output;
mod serve;

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::LocalSet;

use super::cgroup;
use super::protocol::{Ask, Frame, FrameReader, Hello, Plan, Tell, VERSIONS, say, shared_version};
use super::record::{self, Durable, End, EndRecord, RunRecord};
use super::sys::ipc::{self, Connection, Listener};
use super::sys::shim::{Given, Reaper, take_over};
use super::sys::spawn::{Input, NotStarted, Program, Spawned, spawn};
use super::sys::{proc, tree};
use crate::instance::{ExitStatus, Failure, Incarnation};
use crate::time::Timestamp;
use output::Log;

/// The first argument of a shim.
pub(super) const MARKER: &str = "ews-shim-1";

/// How long a new shim waits for what it is to start.
const LAUNCH: Duration = Duration::from_secs(10);

/// How long output is read after everything that could write it was killed.
const LAST_OUTPUT: Duration = Duration::from_secs(2);

/// How long those that watch may take to hear of the end.
const LAST_WORDS: Duration = Duration::from_secs(2);

static ENTERED: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);

/// Makes this process a shim where it was started as one, and does not return then; otherwise it returns at once.
///
/// A program that opens a [`ProcessRuntime`](super::ProcessRuntime) with [`ShimProgram::Current`](super::ShimProgram) calls it as
/// the first line of its `main`, before it starts threads or reads its arguments:
///
/// ```no_run
/// ews_core::process::shim_entry();
/// // … and now the program's own work.
/// ```
pub fn shim_entry() {
    ENTERED.store(true, std::sync::atomic::Ordering::Relaxed);
    if std::env::args_os().nth(1).as_deref() == Some(OsStr::new(MARKER)) {
        let code = match run() {
            Ok(()) => 0,
            Err(error) => {
                // Standard error is a file beside the instance.
                use std::io::Write as _;
                let _ = writeln!(io::stderr(), "the shim failed: {error}");
                1
            }
        };
        #[allow(clippy::exit, reason = "a shim is a program of its own: its embedder's main must not go on")]
        std::process::exit(code);
    }
}

/// Whether this program would become a shim when it is started as one.
pub(super) fn was_entered() -> bool {
    ENTERED.load(std::sync::atomic::Ordering::Relaxed)
}

fn run() -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = LocalSet::new().block_on(&runtime, shim());
    // What still waits for a peer does not keep the process.
    runtime.shutdown_background();
    result
}

/// What the parts of a shim share.
struct Shim {
    plan: Plan,
    pid: u32,
    log: Log,
    reaper: Reaper,
    /// How the program ended, once all is written.
    ended: watch::Receiver<Option<ExitStatus>>,
    /// When it is killed, once it was asked to stop.
    stop: watch::Sender<Option<tokio::time::Instant>>,
    /// How many controllers are yet to hear of the end.
    watchers: std::cell::Cell<usize>,
    commands: std::cell::Cell<u64>,
}

impl Shim {
    fn directory(&self) -> &Path {
        Path::new(&self.plan.directory)
    }
}

async fn shim() -> io::Result<()> {
    let Given { connection, keep: _keep } = take_over()?;
    let (mut reader, mut write) = halves(connection);
    let plan = tokio::time::timeout(LAUNCH, plan(&mut reader, &mut write)).await??;
    let Some(plan) = plan else { return Ok(()) };
    let directory = PathBuf::from(&plan.directory);
    let socket = PathBuf::from(&plan.socket);

    let launched = launch(&plan, &directory, &socket);
    let (spawned, listener, log, reaper, run) = match launched {
        Ok(launched) => launched,
        Err(refused) => {
            let failure = Failure::new(refused.message, Some(refused.code), now());
            let before = Incarnation(plan.incarnation.0.saturating_sub(1));
            let end = EndRecord { incarnation: before, end: End::Failed(failure.clone()) };
            let _ = record::write_file(&directory.join("end.json"), &end, Durable::Process);
            ipc::remove(&socket);
            return say(&mut write, &Tell::Failed(failure)).await;
        }
    };
    let (tell_end, ended) = watch::channel(None);
    let (pid, cgroups) = (spawned.pid, plan.cgroups.clone());
    let status = reaper.end_of(pid);
    let shim = Rc::new(Shim {
        pid,
        log,
        reaper,
        ended,
        stop: watch::Sender::new(None),
        watchers: std::cell::Cell::new(0),
        commands: std::cell::Cell::new(0),
        plan,
    });
    let outputs = [
        spawned.stdout.map(|pipe| output::keep(&shim, pipe, crate::runtime::OutputStream::Stdout)),
        spawned.stderr.map(|pipe| output::keep(&shim, pipe, crate::runtime::OutputStream::Stderr)),
    ];
    // From here on the controller may die at any moment: the answer is a courtesy.
    let _ = say(&mut write, &Tell::Started { at: run.started_at, program: run.program }).await;
    // Whoever waits for it may be next on this processor; the rest has time.
    std::thread::yield_now();
    let first = Rc::clone(&shim);
    tokio::task::spawn_local(async move {
        let _ = serve::watch(&first, &mut reader, &mut write).await;
    });
    let accepting = tokio::task::spawn_local(serve::accept(Rc::clone(&shim), listener));
    let stopping = tokio::task::spawn_local(serve::stop_at_deadline(Rc::clone(&shim)));

    let status = status.await.unwrap_or_else(|_| ExitStatus::unknown(now()));
    let status = finish(&shim, status, &cgroups, outputs).await;
    stopping.abort();
    // Nobody new gets in: who comes now waits for the lock and reads the record. Those that are here are told.
    ipc::remove(&socket);
    let _ = tell_end.send(Some(status));
    let told = async {
        while shim.watchers.get() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let _ = tokio::time::timeout(LAST_WORDS, told).await;
    accepting.abort();
    Ok(())
}

/// The first words: what to start. `None` where the controller thought better of it.
async fn plan<R, W>(reader: &mut FrameReader<R>, write: &mut W) -> io::Result<Option<Plan>>
where
    R: tokio::io::AsyncRead + Unpin,
    W: tokio::io::AsyncWrite + Unpin,
{
    let Some(Frame::Words(hello)) = reader.next::<Hello>().await? else { return Ok(None) };
    let Some(version) = shared_version(hello.versions) else {
        say(write, &Tell::Strange { versions: VERSIONS }).await?;
        return Ok(None);
    };
    say(write, &Tell::Welcome { version, incarnation: Incarnation(0), stopping: false }).await?;
    match reader.next::<Ask>().await? {
        Some(Frame::Words(Ask::Launch(plan))) => Ok(Some(*plan)),
        _ => Ok(None),
    }
}

type Launched = (Spawned, Listener, Log, Reaper, RunRecord);

fn launch(plan: &Plan, directory: &Path, socket: &Path) -> Result<Launched, NotStarted> {
    let failed = |what: &str| {
        let what = what.to_owned();
        move |error: io::Error| NotStarted::new(126, format!("{what}: {error}"))
    };
    // Everything that may fail comes before the program.
    let log = Log::open(&directory.join("log"), &plan.log()).map_err(failed("the log can't be written"))?;
    let listener = Listener::bind(socket).map_err(failed("the shim can't be reached"))?;
    let reaper = Reaper::start().map_err(failed("ends can't be seen"))?;
    tree::hold(&plan.limits()).map_err(failed("the limits can't be held"))?;
    let spawned = spawn(Program {
        command: &plan.command,
        env: &plan.env,
        workdir: Path::new(&plan.workdir),
        user: plan.user.as_ref(),
        ulimits: &plan.ulimits,
        no_new_privileges: plan.no_new_privileges,
        joins: plan.cgroups.joins(cgroup::MAIN),
        input: Input::Closed,
    })?;
    let identify = |pid| proc::identify(pid).unwrap_or(record::ProcessId { pid, start: 0 });
    let run = RunRecord {
        incarnation: plan.incarnation,
        started_at: now(),
        boot: plan.boot.clone(),
        shim: identify(std::process::id()),
        program: identify(spawned.pid),
    };
    // A full disk is no reason to kill what runs: a successor learns the same from the socket.
    let _ = record::write_file(&directory.join("run.json"), &run, Durable::Process);
    Ok((spawned, listener, log, reaper, run))
}

/// Ends the tree, reads the last output and writes the end down.
async fn finish(
    shim: &Rc<Shim>,
    mut status: ExitStatus,
    cgroups: &cgroup::Paths,
    outputs: [Option<tokio::task::JoinHandle<()>>; 2],
) -> ExitStatus {
    status.oom_killed = cgroup::oom_killed(cgroups);
    tree::kill_all(cgroups).await;
    for output in outputs.into_iter().flatten() {
        // Nobody is left who could write; a process that was given the pipe by other ways is not waited for.
        let _ = tokio::time::timeout(LAST_OUTPUT, output).await;
    }
    shim.log.end();
    let end = EndRecord { incarnation: shim.plan.incarnation, end: End::Exited(status.clone()) };
    let _ = record::write_file(&shim.directory().join("end.json"), &end, Durable::Synced);
    status
}

fn now() -> Timestamp {
    std::time::SystemTime::now().into()
}

/// A connection's two halves.
fn halves(
    connection: Connection,
) -> (FrameReader<tokio::io::ReadHalf<Connection>>, tokio::io::WriteHalf<Connection>) {
    let (read, write) = tokio::io::split(connection);
    (FrameReader::new(read), write)
}
