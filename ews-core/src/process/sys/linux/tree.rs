//! Ending a tree of processes: by control group where there is one, else by ancestry and by mark.
//!
//! A shim is the reaper of everything below it, so whatever its program started, daemons that left their session included, still
//! descends from it. Where the shim itself is gone, the mark in a process's environment leads to it.

use std::collections::HashSet;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::proc;
use crate::process::cgroup::{self, Limits, Paths};
use crate::process::environment::MARK;
use crate::process::sys::patience::until_gone;

/// Holds the calling shim's instance to its limits: its groups do, which the controller has made.
pub(in crate::process) fn hold(_: &Limits) -> std::io::Result<()> {
    Ok(())
}

/// Kills everything below the calling shim.
pub(in crate::process) async fn kill_all(cgroups: &Paths) -> bool {
    let own = std::process::id();
    until_gone(
        || {
            if cgroups.is_empty() { kill(&proc::descendants(own)) } else { cgroup::kill(cgroups, None) }
        },
    )
    .await
}

/// Kills what a command run inside has started: its own child of the unified group, or what descends from it or carries its mark.
pub(in crate::process) async fn kill_command(cgroups: &Paths, child: &str, pid: u32, mark: &str) -> bool {
    let own = std::process::id();
    until_gone(|| {
        if cgroups.unified.is_some() {
            return cgroup::kill(cgroups, Some(child));
        }
        let below: HashSet<u32> = proc::descendants(own).into_iter().collect();
        let mut found = proc::descendants(pid);
        found.push(pid);
        found.extend(proc::marked(COMMAND_MARK, |value| value == mark).into_iter().map(|(pid, _)| pid));
        found.retain(|pid| below.contains(pid));
        kill(&found)
    })
    .await
}

/// The variable that tells a command's processes from the program's.
pub(in crate::process) const COMMAND_MARK: &str = "EWS_COMMAND_MARK";

/// Kills what a dead shim has left: everything in its groups, or everything with the instance's mark.
pub(in crate::process) async fn kill_left(cgroups: &Paths, mark: &str) -> bool {
    if !cgroups.is_empty() {
        return until_gone(|| cgroup::kill(cgroups, None)).await;
    }
    let look = || {
        let marked = proc::marked(MARK, |value| value == mark);
        kill(&marked.into_iter().map(|(pid, _)| pid).collect::<Vec<_>>())
    };
    for _ in 0..LOOKS {
        if !until_gone(look).await {
            return false;
        }
        tokio::time::sleep(EXECUTES).await;
        if look() {
            return true;
        }
    }
    false
}

/// A process that is about to become another program shows no environment, and so no mark, for less than this as a rule: nothing
/// is said to be gone before two looks so far apart have found nothing.
const EXECUTES: Duration = Duration::from_millis(8);

/// How often something may come to light after all before it is given up.
const LOOKS: u32 = 100;

/// `true` where there was nothing to kill.
fn kill(pids: &[u32]) -> bool {
    for pid in pids {
        if let Some(pid) = i32::try_from(*pid).ok().and_then(Pid::from_raw) {
            // Who has ended meanwhile needs no signal.
            let _ = kill_process(pid, Signal::KILL);
        }
    }
    pids.is_empty()
}
