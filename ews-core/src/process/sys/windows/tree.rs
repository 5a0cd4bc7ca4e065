//! Ending a tree of processes, and holding it to its limits: both are what job objects are for.
//!
//! All of an instance is in one job, and each of its programs (its own, and every command run inside) with what that started in
//! a job within. No process leaves a job, daemons included, and the jobs end with the shim, whose handles are the only ones.
//! So a dead shim leaves nothing, and no mark is needed to find it.

use std::io;

use super::programs;
use super::raw::Job;
use crate::capability::Enforcement;
use crate::process::cgroup::{Limits, Paths};
use crate::process::sys::patience::until_gone;

/// Kills everything that the calling shim has started.
pub(in crate::process) async fn kill_all(_: &Paths) -> bool {
    until_gone(programs::kill_all).await
}

/// Kills what a command run inside has started.
pub(in crate::process) async fn kill_command(_: &Paths, _: &str, pid: u32, _: &str) -> bool {
    until_gone(|| programs::kill_tree(pid)).await
}

/// The variable that tells a command's processes from the program's, where that is needed.
pub(in crate::process) const COMMAND_MARK: &str = "EWS_COMMAND_MARK";

/// A dead shim has left nothing.
pub(in crate::process) async fn kill_left(_: &Paths, _: &str) -> bool {
    std::future::ready(true).await
}

/// Makes the job of the calling shim's instance, with its limits, before anything is started.
///
/// # Errors
/// What the system says of a job, or of a limit that it holds and does not take.
pub(in crate::process) fn hold(limits: &Limits) -> io::Result<()> {
    let job = Job::new()?;
    let [cpu, memory, pids] = enforcement();
    // A limit that the capabilities call best effort is tried, and its failure passed over.
    let required = |enforcement: Enforcement, set: io::Result<()>| match enforcement {
        Enforcement::Hard => set,
        _ => Ok(()),
    };
    let both = if memory == Enforcement::Hard { memory } else { pids };
    required(both, job.limit_memory_and_processes(limits))?;
    if let Some(millis) = limits.cpu_millis {
        required(cpu, job.limit_cpu(rate(millis, processors())))?;
    }
    programs::hold_all(job)
}

/// How limits on CPU, memory and processes are held: those that a job on trial takes and says when it is asked. A system that
/// takes them and forgets them, as Wine does, holds none.
pub(in crate::process) fn enforcement() -> [Enforcement; 3] {
    const MEMORY: u64 = 64 << 20;
    const PROCESSES: u32 = 100;
    let trial = || {
        let job = Job::new()?;
        let wanted = Limits { memory: Some(MEMORY), cpu_millis: None, pids: Some(PROCESSES) };
        job.limit_memory_and_processes(&wanted)?;
        let (memory, processes) = job.limits()?;
        let share = rate(500, processors());
        let cpu = job.limit_cpu(share).and_then(|()| job.cpu_limit());
        Ok::<_, io::Error>([
            cpu.is_ok_and(|held| held == share),
            memory as u64 == MEMORY,
            processes == PROCESSES,
        ])
    };
    let held = trial().unwrap_or([false; 3]);
    held.map(|held| if held { Enforcement::Hard } else { Enforcement::BestEffort })
}

fn processors() -> u32 {
    std::thread::available_parallelism().map_or(1, |count| u32::try_from(count.get()).unwrap_or(u32::MAX))
}

/// Thousandths of one processor as ten-thousandths of all, which are 1 to 10,000.
fn rate(millis: u32, processors: u32) -> u32 {
    let share = u64::from(millis) * 10 / u64::from(processors.max(1));
    u32::try_from(share).unwrap_or(u32::MAX).clamp(1, 10_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_of_all_processors() {
        assert_eq!(rate(1000, 1), 10_000);
        assert_eq!(rate(500, 4), 1250);
        assert_eq!(rate(8000, 4), 10_000, "more than there is");
        assert_eq!(rate(1, 64), 1, "nothing at all is not to be had");
        assert_eq!(rate(u32::MAX, 0), 10_000);
    }
}
