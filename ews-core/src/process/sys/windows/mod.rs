//! Windows.
//!
//! A shim holds what it starts in job objects, which end a tree at one word and end with the shim. Connections are named pipes.
//! `raw` has the system calls that neither std nor tokio has, `programs` what a shim has started.

pub(in crate::process) mod ipc;
pub(in crate::process) mod proc;
mod programs;
mod raw;
pub(in crate::process) mod shim;
pub(in crate::process) mod spawn;
pub(in crate::process) mod tree;
pub(in crate::process) mod user;
