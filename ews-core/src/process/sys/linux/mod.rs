//! Linux.

pub(in crate::process) mod ipc;
pub(in crate::process) mod proc;
pub(in crate::process) mod shim;
pub(in crate::process) mod spawn;
pub(in crate::process) mod tree;
pub(in crate::process) mod user;
mod vfork;
