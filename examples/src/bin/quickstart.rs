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
    let (on, engine) = (taken(&mut words, "--runtime"), taken(&mut words, "--engine"));
    match words[..] {
        [] => match on {
            None | Some("process") => runtime.block_on(ews_examples::quickstart::tour(keep)),
            #[cfg(feature = "docker")]
            Some("docker") => runtime.block_on(ews_examples::quickstart::tour_on_docker(keep)),
            #[cfg(not(feature = "docker"))]
            Some("docker") => no_docker(),
            Some(_) => usage(),
        },
        ["gateway", root] => runtime.block_on(ews_examples::quickstart::gateway(root.as_ref())),
        ["controller", root] => runtime.block_on(ews_examples::quickstart::controller(root.as_ref())),
        ["kills"] => runtime.block_on(ews_examples::quickstart::kills(1)),
        ["kills", stride] => match stride.parse() {
            Ok(stride) => runtime.block_on(ews_examples::quickstart::kills(stride)),
            Err(_) => usage(),
        },
        ["soak", minutes, ref seed @ ..] if seed.len() < 2 => {
            let seed =
                seed.first().map_or(Ok(u64::from(std::process::id())), |seed: &&str| seed.parse::<u64>());
            let (Ok(minutes), Ok(seed)) = (minutes.parse::<f64>(), seed) else { return usage() };
            match (on, engine) {
                (None | Some("process"), None) => {
                    runtime.block_on(ews_examples::quickstart::soak(minutes, seed))
                }
                #[cfg(feature = "docker")]
                (Some("docker"), engine) => {
                    let engine = engine.map(std::path::PathBuf::from);
                    runtime.block_on(ews_examples::quickstart::soak_on_docker(minutes, seed, engine))
                }
                #[cfg(not(feature = "docker"))]
                (Some("docker"), _) => no_docker(),
                _ => usage(),
            }
        }
        ["serve"] => runtime.block_on(ews_examples::quickstart::serve()),
        _ => usage(),
    }
}

/// Takes an option and its value away.
#[cfg(target_os = "linux")]
fn taken<'a>(words: &mut Vec<&'a str>, option: &str) -> Option<&'a str> {
    let at = words.iter().position(|word| *word == option).filter(|at| at + 1 < words.len())?;
    words.drain(at..at + 2).nth(1)
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
         Ctrl-C)\n       quickstart kills [N]   kill the controller at every N-th step of a rollout (default: at every one)\n       quickstart soak MINUTES [SEED] [--runtime process|docker] [--engine PIDFILE]   random deeds and kills for so long (PIDFILE: of the Docker \
         Engine, which may be killed too, since somebody starts it again)"
    );
    ExitCode::from(2)
}

#[cfg(not(target_os = "linux"))]
#[allow(clippy::print_stdout, reason = "it is a program")]
fn main() -> ExitCode {
    println!("the quickstart runs on Linux");
    ExitCode::FAILURE
}
