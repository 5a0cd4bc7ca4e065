//! Runs the conformance suite of balancers on the example driver, over a real nginx; exits with 0 only where it passed.

use std::process::ExitCode;

#[cfg(target_os = "linux")]
#[tokio::main]
#[allow(clippy::print_stdout, reason = "the report is this program's output")]
async fn main() -> ExitCode {
    use ews_core::testkit::conformance::balancer;
    use ews_examples::custom_balancer::Harness;

    let listen = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:18080".to_owned());
    let Ok(listen) = listen.parse() else {
        println!(
            "usage: custom_balancer [ADDRESS:PORT]   where nginx shall listen (default: 127.0.0.1:18080)"
        );
        return ExitCode::from(2);
    };
    let root = std::env::temp_dir().join(format!("ews-nginx-{}", std::process::id()));
    let harness = match Harness::new(&root, listen).await {
        Ok(harness) => harness,
        Err(error) => {
            println!("{error}: {}", error.detail().unwrap_or_default());
            return ExitCode::FAILURE;
        }
    };
    let report = balancer::run(&harness).await;
    println!("{report}");
    let mut problems = report.problems(Harness::SKIPS);
    if let Err(error) = harness.driver().await.stop().await {
        problems.push(error.to_string());
    }
    let _ = std::fs::remove_dir_all(&root);
    for problem in &problems {
        println!("{problem}");
    }
    if problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[cfg(not(target_os = "linux"))]
#[allow(clippy::print_stdout, reason = "the report is this program's output")]
fn main() -> ExitCode {
    println!("this example looks at nginx's workers in /proc; it needs Linux");
    ExitCode::FAILURE
}
