//! What differs between operating systems: processes, their trees, users, terminals and local connections.
//!
//! Each system has the same names, so that everything above is written once.

mod patience;
mod program;

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "linux")]
pub(super) use linux::*;
#[cfg(windows)]
mod windows;
#[cfg(windows)]
pub(super) use windows::*;
