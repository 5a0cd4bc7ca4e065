//! The shim of the process runtime, for embedders that can't call `shim_entry` in their own `main`.

#[allow(clippy::print_stderr, reason = "a program speaks to who started it by hand")]
fn main() -> std::process::ExitCode {
    ews_core::process::shim_entry();
    eprintln!("ews-shim is started by the process runtime of ews-core, which names it in its configuration");
    std::process::ExitCode::FAILURE
}
