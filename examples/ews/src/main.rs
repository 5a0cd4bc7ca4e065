//! The program `ews`: the host, and the operator's command line.

use std::process::ExitCode;

#[cfg(target_os = "linux")]
fn main() -> ExitCode {
    // This program is the shim of the instances that it runs.
    ews_core::process::shim_entry();
    ews_host::run(std::env::args_os())
}

#[cfg(not(target_os = "linux"))]
fn main() -> ExitCode {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "ews runs on Linux");
    ExitCode::FAILURE
}
