//! What makes a process a shim: it takes what it was given, keeps it from what it starts, and waits for what has ended.

use std::io;
use std::os::windows::io::{AsHandle as _, OwnedHandle};
use std::sync::atomic::Ordering;

use tokio::signal::windows::{CtrlBreak, CtrlC, ctrl_break, ctrl_c};
use tokio::sync::oneshot;

use super::ipc::Connection;
use super::programs::{self, KILLED};
use super::raw::{self, Standard};
use crate::instance::ExitStatus;
use crate::spec::lifecycle::Signal;
use crate::time::Timestamp;

/// What a new shim was given by its controller.
pub(in crate::process) struct Given {
    pub(in crate::process) connection: Connection,
    pub(in crate::process) keep: Keep,
}

/// What is held until the shim ends.
pub(in crate::process) struct Keep {
    _lock: OwnedHandle,
    _deaf: (CtrlC, CtrlBreak),
}

/// Takes the process over. Called within the shim's runtime, before anything else.
///
/// Everything that was inherited could be inherited further: a program that held the lock would make its shim immortal.
pub(in crate::process) fn take_over() -> io::Result<Given> {
    let connection = raw::take_standard(Standard::Input)?;
    let lock = raw::take_standard(Standard::Output)?;
    raw::keep_from_children(connection.as_handle())?;
    raw::keep_from_children(lock.as_handle())?;
    raw::keep_from_children(io::stderr().as_handle())?;
    // A program may send its events to everybody on its console, and the shim is there too.
    let deaf = (ctrl_c()?, ctrl_break()?);
    let connection = Connection::Client(raw::adopt_pipe(connection)?);
    Ok(Given { connection, keep: Keep { _lock: lock, _deaf: deaf } })
}

/// Waits for the programs of this shim, and tells who asked.
#[derive(Clone, Default)]
pub(in crate::process) struct Reaper;

impl Reaper {
    /// There is nothing to start: each end is waited for by itself.
    pub(in crate::process) fn start() -> io::Result<Self> {
        Ok(Self)
    }

    /// The end of a program that was just started. One thread waits for each, of those that the async runtime has for it.
    pub(in crate::process) fn end_of(&self, pid: u32) -> oneshot::Receiver<ExitStatus> {
        let (tell, told) = oneshot::channel();
        if let Ok((process, killed)) = programs::process(pid) {
            tokio::task::spawn_blocking(move || {
                let code = raw::wait_for(process.as_handle());
                // Who asked may have lost interest.
                let _ = tell.send(exit_status(code.ok(), killed.load(Ordering::Relaxed)));
            });
        }
        told
    }

    /// Whether a program has not ended.
    pub(in crate::process) fn lives(&self, pid: u32) -> bool {
        programs::lives(pid)
    }
}

/// Windows knows codes only, so who has killed must remember it. A program that ends by itself meanwhile has its own code.
fn exit_status(code: Option<u32>, killed: bool) -> ExitStatus {
    let at = Timestamp::from(std::time::SystemTime::now());
    match code {
        Some(KILLED) if killed => ExitStatus::signal(Signal::KILL, at),
        Some(code) => ExitStatus::code(code.cast_signed(), at),
        None => ExitStatus::unknown(at),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kill_is_told_from_a_code() {
        let ends = |code, killed| {
            let status = exit_status(code, killed);
            (status.code, status.signal)
        };
        assert_eq!(ends(Some(KILLED), true), (None, Some(Signal::KILL)));
        assert_eq!(ends(Some(KILLED), false), (Some(137), None), "nobody here has killed it");
        assert_eq!(ends(Some(7), true), (Some(7), None), "it was faster");
        // STATUS_CONTROL_C_EXIT, the end of a program that does nothing about CTRL_BREAK.
        assert_eq!(ends(Some(0xc000_013a), false), (Some(-1_073_741_510), None));
        assert_eq!(ends(None, true), (None, None));
    }
}
