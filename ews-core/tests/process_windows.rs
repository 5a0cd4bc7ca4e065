//! The process runtime passes the suite of runtimes under Wine: this program is its own shim, and the programs that the suite
//! runs. It runs by `scripts/windows-tests`.

#[cfg(windows)]
#[allow(unreachable_pub, reason = "written for tests with a harness, where the lint is silent")]
#[path = "process/hosted.rs"]
mod hosted;
#[cfg(windows)]
#[path = "process/windows/mod.rs"]
mod windows;

#[cfg(windows)]
fn main() -> std::process::ExitCode {
    ews_core::process::shim_entry();
    windows::main()
}

#[cfg(not(windows))]
#[allow(clippy::print_stdout, reason = "a test program speaks to who runs it")]
fn main() {
    println!(
        "this is for Windows: scripts/windows-tests -p ews-core --features process,testkit --test process_windows"
    );
}
