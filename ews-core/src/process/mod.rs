//! The process runtime: real processes of this machine behind the [`Runtime`](crate::Runtime) contract, with nothing to
//! install.
//!
//! ```text
//!  controller (the embedder's process)          one shim per running instance
//!  ┌──────────────────────────────┐   socket   ┌──────────────────────┐  pipes   ┌─────────┐
//!  │ ProcessRuntime ─ Controller  │◀──────────▶│ starts, reads, ends  │◀────────▶│ program │
//!  └──────────────┬───────────────┘            └──────────┬───────────┘          └─────────┘
//!                 │      instance.json  work/             │      run.json  end.json  log/
//!                 └──────────────▶  the root directory  ◀─┘
//! ```
//!
//! - [`config`](ProcessConfig) is what it is told; `root` is the directory, `record` the files in it.
//! - `controller` holds what is known of each instance, one file for each part of its life.
//! - `shim` is the other process ([`shim_entry`]), `protocol` what the two say to each other.
//! - `cgroup` holds limits and counts, `sys` what differs between systems, `log` and `archive` what their names say.
//!
//! # What an instance is here
//! - **Its program** is the artifact where that is a file that can be run, or `command`. A directory is copied and an archive
//!   (`.tar`, `.tar.gz`; its digest is checked over what is unpacked) unpacked into the work directory; a relative command such as
//!   `bin/server` is looked for there. Addresses are not fetched: ews-deploy brings an artifact to the node.
//! - **Its work directory** is its own, and the current directory unless the spec names another. The paths of `files` and of
//!   archives lie in it, whatever they begin with; `workdir` is a path of the machine, since there is no other root. It is removed
//!   with the instance.
//! - **Its environment** holds what the spec says, `PORT` and `PORT_<NAME>`, `HOME`, `TMPDIR`, a few `EWS_…`, and of this program's
//!   own environment the names in [`ProcessConfig::inherit`] only.
//! - **Its user** is this program's, or the spec's where this program is root.
//! - **There is no isolation.** Programs see the machine, its network and, where users do not keep them apart, each other.
//! - **Its shim** is begun when the instance is created, and waits for the start. Where none comes within five seconds it ends, and
//!   the start begins another. At most sixteen wait at a time; on Windows none does.
//!
//! # What survives what
//! Instances outlive the controller; the next one to open the root finds them. They do not outlive the machine: after another
//! boot there are none, and whoever keeps the desired count creates them anew. Under systemd, the unit that runs the controller
//! needs `KillMode=process`, or stopping it ends the shims and what they run; with `Delegate=yes` (and, from systemd 254 on,
//! `DelegateSubgroup=controller` with [`Cgroups::Parent`]) limits are enforced.
//!
//! # On Windows
//! - **Signals** are three: TERM and INT send CTRL_BREAK to the program's process group, KILL ends it. A program that does nothing
//!   about CTRL_BREAK ends with the code `0xC000013A`; one without a console does not hear it and is killed after its grace.
//! - **Trees and limits** are held by job objects, which end with the shim. A limit on processes counts no threads. What a job
//!   does not take is declared as best effort.
//! - **There are no** terminals, other users or limits per process, and what goes to disks is not counted.
//! - **After a restart of the machine** what ran is found as ended, nobody knows how, and its instance is still there.
//!
//! It runs on Linux; the Windows code runs under Wine. Wine 8 has no CTRL_BREAK for a group (CTRL_C is sent in its place), holds
//! no limits and does not tell one process the CPU time of another: these three have been tried nowhere. On other systems the
//! feature adds nothing.

mod archive;
mod cgroup;
mod client;
mod config;
mod controller;
mod environment;
mod log;
mod ports;
mod protocol;
mod record;
mod root;
mod runtime;
mod session;
mod shim;
mod sys;

pub use config::{Cgroups, ProcessConfig, ShimProgram};
pub use runtime::ProcessRuntime;
pub use shim::shim_entry;
