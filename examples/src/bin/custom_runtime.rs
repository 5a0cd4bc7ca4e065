//! Runs the conformance suite on the example driver and prints the report; exits with 0 only where it passed.

use std::process::ExitCode;

#[cfg(unix)]
#[tokio::main(flavor = "current_thread")]
#[allow(clippy::print_stdout, reason = "the report is this program's output")]
async fn main() -> ExitCode {
    use ews_core::testkit::conformance::runtime;
    use ews_examples::custom_runtime::Harness;

    let harness = match Harness::new() {
        Ok(harness) => harness,
        Err(error) => {
            println!("{error}");
            return ExitCode::FAILURE;
        }
    };
    let report = runtime::run(&harness).await;
    println!("{report}");
    let problems = report.problems(Harness::SKIPS);
    for problem in &problems {
        println!("{problem}");
    }
    if problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[cfg(not(unix))]
#[allow(clippy::print_stdout, reason = "the report is this program's output")]
fn main() -> ExitCode {
    println!("this example runs POSIX processes; it needs a Unix");
    ExitCode::FAILURE
}
