//! What this shim has started: each program's handle and job, by its number, and the job that holds all of them.
//!
//! The rest of the runtime knows processes by number, and here a number is given again as soon as the last handle to its
//! process is closed. So a handle is kept from the start until the program and all it started have ended. There are as many
//! entries as commands at a time, which the shim bounds, and one for the instance's own program.

use std::collections::BTreeMap;
use std::io;
use std::os::windows::io::{AsHandle as _, OwnedHandle};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use super::raw::{self, Job};

/// The exit code of what was killed: a shell's word for a program that a KILL has ended.
pub(super) const KILLED: u32 = 137;

/// A program and all that it has started.
#[derive(Debug)]
struct Program {
    process: OwnedHandle,
    job: Job,
    killed: Arc<AtomicBool>,
}

static PROGRAMS: Mutex<BTreeMap<u32, Program>> = Mutex::new(BTreeMap::new());

/// The job of the instance.
static WHOLE: OnceLock<Job> = OnceLock::new();

fn programs() -> MutexGuard<'static, BTreeMap<u32, Program>> {
    // Nothing in here panics halfway.
    PROGRAMS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn unknown() -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, "the program has ended")
}

/// Makes this the job that everything is in which is started from now on.
pub(super) fn hold_all(job: Job) -> io::Result<()> {
    WHOLE.set(job).map_err(|_| io::Error::other("the instance has its job already"))
}

/// Takes a program that does not run yet into the instance's job and into one of its own.
pub(super) fn add(pid: u32, process: OwnedHandle) -> io::Result<()> {
    if let Some(whole) = WHOLE.get() {
        whole.assign(process.as_handle())?;
    }
    let job = Job::new()?;
    job.assign(process.as_handle())?;
    programs().insert(pid, Program { process, job, killed: Arc::default() });
    Ok(())
}

/// A handle of one's own to a program, and what will say that it was killed.
pub(super) fn process(pid: u32) -> io::Result<(OwnedHandle, Arc<AtomicBool>)> {
    let programs = programs();
    let program = programs.get(&pid).ok_or_else(unknown)?;
    Ok((program.process.try_clone()?, Arc::clone(&program.killed)))
}

/// Whether a program has not ended.
pub(super) fn lives(pid: u32) -> bool {
    programs().get(&pid).is_some_and(|program| !raw::has_ended(program.process.as_handle()).unwrap_or(true))
}

/// Kills a program alone.
pub(super) fn kill(pid: u32) -> io::Result<()> {
    let programs = programs();
    let program = programs.get(&pid).ok_or_else(unknown)?;
    program.killed.store(true, Ordering::Relaxed);
    raw::terminate(program.process.as_handle(), KILLED)
}

/// Kills a program and all that it has started; `true` when nothing of it lives any more, and it is forgotten then.
pub(super) fn kill_tree(pid: u32) -> bool {
    let mut programs = programs();
    let Some(program) = programs.get(&pid) else { return true };
    let gone = program.kill_tree();
    if gone {
        programs.remove(&pid);
    }
    gone
}

/// Kills everything; `true` when nothing lives any more.
pub(super) fn kill_all() -> bool {
    let programs = programs();
    let gone = programs.values().map(Program::kill_tree).fold(true, |all, gone| all && gone);
    gone && WHOLE.get().is_none_or(|job| is_empty(job) || job.terminate(KILLED).is_err())
}

impl Program {
    fn kill_tree(&self) -> bool {
        if is_empty(&self.job) {
            return true;
        }
        self.killed.store(true, Ordering::Relaxed);
        // A job that can't be ended would be found as empty next time, or be tried again.
        let _ = self.job.terminate(KILLED);
        false
    }
}

/// A job that does not say how many live in it is held for one in which some do.
fn is_empty(job: &Job) -> bool {
    job.active().is_ok_and(|active| active == 0)
}
