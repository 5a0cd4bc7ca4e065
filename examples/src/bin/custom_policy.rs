//! Proves the example policies by the conformance suite, tries one on a day's load, and shows both at work; exits with 0 only where the
//! suite passed.

use std::process::ExitCode;
use std::time::Duration;

use ews_core::Result;
use ews_core::testkit::conformance::policy;
use ews_examples::custom_policy::{
    PatienceHarness, StaircaseHarness, compared, day, followed, retried, staircase_for,
};

#[tokio::main(flavor = "current_thread")]
#[allow(clippy::print_stdout, reason = "the report is this program's output")]
async fn main() -> ExitCode {
    match Box::pin(all()).await {
        Ok(problems) if problems.is_empty() => ExitCode::SUCCESS,
        Ok(problems) => {
            println!("{}", problems.join("\n"));
            ExitCode::FAILURE
        }
        Err(error) => {
            println!("{error}");
            ExitCode::FAILURE
        }
    }
}

#[allow(clippy::print_stdout, reason = "the report is this program's output")]
async fn all() -> Result<Vec<String>> {
    let staircase = policy::run(&StaircaseHarness::new()?).await;
    let patience = policy::run(&PatienceHarness).await;
    println!("{staircase}\n{patience}");
    let mut problems = staircase.problems(StaircaseHarness::SKIPS);
    problems.extend(patience.problems(PatienceHarness::SKIPS));

    println!("over a day of {} seconds:", day().len());
    for (name, report) in compared(&staircase_for(Duration::from_secs(120))?)? {
        println!(
            "  {name}: {:.2} % of requests were too many, {:.2} times the least cost, {} changes, {} reversals",
            report.share_under_provisioned() * 100.0,
            report.cost(),
            report.changes,
            report.reversals
        );
    }
    let (counts, reasons) = followed().await?;
    println!("in the live loop: {counts:?}\n  {}", reasons.join("\n  "));
    for code in [75, 1] {
        let (outcome, retries) = retried(code).await?;
        println!("a version that ends with {code}: {outcome:?} after {retries} retries");
    }
    Ok(problems)
}
