//! A release on real processes: three services in the order of their dependencies, which call each other at the addresses that they
//! were given, while one of them is replaced and another one fails.
//!
//! The program is its own shim and its own services, so it has no harness: it runs the test and ends with its outcome.

#[cfg(target_os = "linux")]
#[path = "release/linux.rs"]
mod linux;

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    ews_core::process::shim_entry();
    linux::main()
}

#[cfg(not(target_os = "linux"))]
fn main() {}
