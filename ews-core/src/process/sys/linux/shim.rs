//! What makes a process a shim: the reaper of everything below it, deaf to what is meant for its controller.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use rustix::process::{WaitOptions, WaitStatus};
use tokio::net::UnixStream;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

use super::ipc::Connection;
use crate::instance::ExitStatus;
use crate::spec::lifecycle;
use crate::time::Timestamp;

/// What a new shim was given by its controller.
pub(in crate::process) struct Given {
    pub(in crate::process) connection: Connection,
    pub(in crate::process) keep: Keep,
}

/// What is held until the shim ends.
pub(in crate::process) struct Keep {
    _lock: OwnedFd,
    _deaf: Vec<Signal>,
}

/// Takes the process over. Called within the shim's runtime, before anything else.
pub(in crate::process) fn take_over() -> io::Result<Given> {
    // So that no terminal's signal, meant for the controller, reaches it. Who leads a group already, started by hand, can't.
    let _ = rustix::process::setsid();
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    // Out of the way of what the program gets as its standard streams.
    let connection = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
    let lock = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdout(), 3)?;
    let null = File::options().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    let connection = std::os::unix::net::UnixStream::from(connection);
    connection.set_nonblocking(true)?;
    // A shim ends when its program has: who wants that sooner stops the instance.
    let kinds = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup(), SignalKind::quit()];
    let deaf = kinds.into_iter().map(signal).collect::<io::Result<Vec<_>>>()?;
    Ok(Given { connection: UnixStream::from_std(connection)?, keep: Keep { _lock: lock, _deaf: deaf } })
}

/// Waits for every process that ends below the shim, and tells who asked.
#[derive(Clone, Default)]
pub(in crate::process) struct Reaper(Rc<RefCell<HashMap<u32, oneshot::Sender<ExitStatus>>>>);

impl Reaper {
    /// Starts reaping; on the shim's own thread.
    pub(in crate::process) fn start() -> io::Result<Self> {
        let reaper = Self::default();
        let mut ends = signal(SignalKind::child())?;
        let own = reaper.clone();
        tokio::task::spawn_local(async move {
            loop {
                own.reap();
                if ends.recv().await.is_none() {
                    return;
                }
            }
        });
        Ok(reaper)
    }

    /// The end of a process that was just started: nothing may have been awaited since.
    pub(in crate::process) fn end_of(&self, pid: u32) -> oneshot::Receiver<ExitStatus> {
        let (tell, told) = oneshot::channel();
        self.0.borrow_mut().insert(pid, tell);
        told
    }

    /// Whether a process was not waited for yet, so that its number is still its own.
    pub(in crate::process) fn lives(&self, pid: u32) -> bool {
        self.0.borrow().contains_key(&pid)
    }

    fn reap(&self) {
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            let pid = pid.as_raw_nonzero().get().unsigned_abs();
            if let Some(tell) = self.0.borrow_mut().remove(&pid) {
                // Who asked may have lost interest.
                let _ = tell.send(exit_status(status));
            }
        }
    }
}

fn exit_status(status: WaitStatus) -> ExitStatus {
    let at = Timestamp::from(std::time::SystemTime::now());
    let signal = status.terminating_signal().and_then(|number| lifecycle::Signal::from_number(number).ok());
    match (status.exit_status(), signal) {
        (Some(code), _) => ExitStatus::code(code, at),
        (None, Some(signal)) => ExitStatus::signal(signal, at),
        (None, None) => ExitStatus::unknown(at),
    }
}
