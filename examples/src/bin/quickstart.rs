//! The tour: a real service on the process runtime behind the gateway, under load all the time: an update, a broken version, a killed
//! instance, a killed controller, a rollback, canaries, a hotfix, a release of three services, a rush, to a clean end.
//!
//! `cargo run --release --bin quickstart` needs nothing but Rust. It prints what it does and what it saw, and exits with 0 only
//! if everything held.

use std::process::ExitCode;

#[cfg(target_os = "linux")]
fn main() -> ExitCode {
    // This program is its own shim, gateway, controller and service.
    ews_core::process::shim_entry();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let Ok(runtime) = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()
    else {
        return ExitCode::FAILURE;
    };
    let keep = words.contains(&"--keep");
    words.retain(|word| *word != "--keep");
    match words[..] {
        [] | ["--runtime", "process"] => runtime.block_on(ews_examples::quickstart::tour(keep)),
        #[cfg(feature = "docker")]
        ["--runtime", "docker"] => runtime.block_on(ews_examples::quickstart::tour_on_docker(keep)),
        #[cfg(not(feature = "docker"))]
        ["--runtime", "docker"] => no_docker(),
        ["gateway", root] => runtime.block_on(ews_examples::quickstart::gateway(root.as_ref())),
        ["controller", root] => runtime.block_on(ews_examples::quickstart::controller(root.as_ref())),
        ["kills"] => runtime.block_on(ews_examples::quickstart::kills(1)),
        ["kills", stride] => match stride.parse() {
            Ok(stride) => runtime.block_on(ews_examples::quickstart::kills(stride)),
            Err(_) => usage(),
        },
        ["soak", minutes] => match minutes.parse() {
            Ok(minutes) => {
                runtime.block_on(ews_examples::quickstart::soak(minutes, u64::from(std::process::id())))
            }
            Err(_) => usage(),
        },
        ["soak", minutes, seed] => match (minutes.parse(), seed.parse()) {
            (Ok(minutes), Ok(seed)) => runtime.block_on(ews_examples::quickstart::soak(minutes, seed)),
            _ => usage(),
        },
        ["serve"] => runtime.block_on(ews_examples::quickstart::serve()),
        _ => usage(),
    }
}

#[cfg(all(target_os = "linux", not(feature = "docker")))]
fn no_docker() -> ExitCode {
    use std::io::Write as _;
    let _ = writeln!(
        std::io::stderr(),
        "this program was built without Docker: cargo run --release --bin quickstart --features docker -- --runtime docker"
    );
    ExitCode::from(2)
}

#[cfg(target_os = "linux")]
fn usage() -> ExitCode {
    use std::io::Write as _;
    let _ = writeln!(
        std::io::stderr(),
        "usage: quickstart [--runtime process|docker] [--keep]   the tour (docker: built with `--features docker`; keep: all stays up until \
         Ctrl-C)\n       quickstart kills [N]   kill the controller at every N-th step of a rollout (default: at every one)\n       quickstart soak MINUTES [SEED]   random deeds and kills for so long"
    );
    ExitCode::from(2)
}

#[cfg(not(target_os = "linux"))]
#[allow(clippy::print_stdout, reason = "it is a program")]
fn main() -> ExitCode {
    println!("the quickstart runs on Linux");
    ExitCode::FAILURE
}
