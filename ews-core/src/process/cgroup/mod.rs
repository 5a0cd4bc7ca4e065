//! Control groups: what holds an instance to its limits, counts what it uses and ends all of it at once.
//!
//! Three kinds of machine are known. *Unified* (v2): one hierarchy with controllers. *Hybrid*: a v2 hierarchy without
//! controllers, which still knows who belongs together and kills at one word, beside v1 hierarchies for the limits. *Legacy*
//! (v1) alone. Where none may be written to, nothing is enforced and the capabilities say so.
//!
//! An instance's group in the unified hierarchy has a child for its program (`main`) and one for each command run inside, since
//! v2 wants processes in leaves only, and so that a command's tree can be ended alone. In v1 all of them share one group.
//!
//! Windows has none; what a job object does there the shim sees to, and [`Groups`] only says how far limits are held.

#[cfg(windows)]
mod absent;
#[cfg(target_os = "linux")]
mod detect;
#[cfg(target_os = "linux")]
mod files;

#[cfg(windows)]
pub(super) use absent::{Groups, oom_killed};
#[cfg(target_os = "linux")]
pub(super) use detect::Groups;
#[cfg(target_os = "linux")]
pub(super) use files::{kill, oom_killed};

#[cfg(target_os = "linux")]
use std::path::Path;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// What a group is held to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Limits {
    /// Bytes.
    pub(super) memory: Option<u64>,
    /// Thousandths of a CPU.
    pub(super) cpu_millis: Option<u32>,
    /// Processes and threads.
    pub(super) pids: Option<u32>,
}

/// What a group has used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counted {
    pub(super) cpu_nanos: Option<u64>,
    pub(super) memory: Option<u64>,
    pub(super) memory_limit: Option<u64>,
    pub(super) pids: Option<u64>,
    pub(super) io_read: Option<u64>,
    pub(super) io_written: Option<u64>,
}

/// The directories of one instance's group; empty where there are none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Paths {
    /// In the unified hierarchy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) unified: Option<PathBuf>,
    /// In the v1 hierarchies, by controller.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) legacy: Vec<(String, PathBuf)>,
}

/// The child of a unified group that the instance's own program is in.
pub(super) const MAIN: &str = "main";

impl Paths {
    pub(super) fn is_empty(&self) -> bool {
        self.unified.is_none() && self.legacy.is_empty()
    }

    /// The v1 directory of a controller.
    #[cfg(target_os = "linux")]
    fn legacy(&self, controller: &str) -> Option<&Path> {
        self.legacy.iter().find(|(name, _)| name == controller).map(|(_, path)| path.as_path())
    }

    /// The files that a process of one thread writes `0` into to join, as the program or as a command (`child`).
    ///
    /// In v1 the file for threads: a thread that moves itself needs none of the kernel's lock that keeps all processes from forking,
    /// which takes up to some milliseconds. The unified hierarchy takes threads into groups of their own kind only.
    pub(super) fn joins(&self, child: &str) -> Vec<PathBuf> {
        let unified = self.unified.iter().map(|path| path.join(child).join("cgroup.procs"));
        unified.chain(self.legacy.iter().map(|(_, path)| path.join("tasks"))).collect()
    }
}
