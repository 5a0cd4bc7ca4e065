//! The conformance suite of [`Runtime`]: forty-four behaviours that every driver must show, each honouring what the driver
//! declares.
//!
//! A driver's author writes a [`RuntimeHarness`]: how to connect, and how to get the suite's [`Workload`]s. Everything else is
//! a hook that makes more cases possible; a case without its hook, or without the capability it is about, is skipped by name
//! with the reason. The suite looks at the runtime through the contract only, polls instead of timing, and works on a paused
//! clock as on real processes.
//!
//! ```
//! use ews_core::testkit::conformance::runtime;
//! use ews_core::testkit::fake::{FakeConfig, FakeHarness};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() {
//! let harness = FakeHarness::new(FakeConfig::default(), Default::default());
//! let report = runtime::run_only(&harness, &["create_twice_is_one"]).await;
//! report.assert_passed(&[]);
//! # }
//! ```

mod archives;
mod capture;
mod create;
mod cx;
mod events;
mod exec;
mod facts;
mod harness;
mod hostile;
mod limits;
mod logs;
mod program;
mod recovery;
mod start;
mod stop;
mod tty;
mod usage;
mod wait;
mod workload;

use std::time::Duration;

use futures_core::future::LocalBoxFuture;

pub use capture::LogCapture;
pub use harness::{Disturbance, RuntimeHarness, SuiteLimits, processes_with};
pub use workload::Workload;

use super::{CaseResult, Outcome, Report, Verdict, run_case};
use crate::runtime::Runtime;
use cx::Cx;

/// How long cleaning up after a case may take.
const CLEANUP: Duration = Duration::from_secs(60);

/// One behaviour. Its future stays on the task that runs the suite: cases poll with async closures, which can't be shown
/// to be `Send` yet.
struct Case {
    number: Option<u16>,
    name: &'static str,
    run: for<'a> fn(&'a Cx<'a>) -> LocalBoxFuture<'a, CaseResult>,
}

/// The cases of a file: each with the number of its behaviour, 0 for one beyond the forty-four.
macro_rules! cases {
    ($($number:literal $name:ident),+ $(,)?) => {
        pub(super) fn cases() -> Vec<super::Case> {
            vec![$(super::Case {
                number: ($number != 0).then_some($number),
                name: stringify!($name),
                run: |cx| Box::pin($name(cx)),
            }),+]
        }
    };
}
use cases;

/// Ends the case as failed unless this holds.
macro_rules! ensure {
    ($condition:expr, $($text:tt)+) => {
        if !$condition {
            return Err($crate::testkit::conformance::Stop::fail(format!($($text)+)));
        }
    };
}
use ensure;

fn every_case() -> Vec<Case> {
    let files = [
        facts::cases(),
        create::cases(),
        start::cases(),
        program::cases(),
        limits::cases(),
        stop::cases(),
        wait::cases(),
        logs::cases(),
        usage::cases(),
        events::cases(),
        exec::cases(),
        tty::cases(),
        archives::cases(),
        recovery::cases(),
        hostile::cases(),
    ];
    files.into_iter().flatten().collect()
}

/// The names of all cases, each with the number of its behaviour; `None` for one beyond the forty-four.
pub fn names() -> Vec<(Option<u16>, &'static str)> {
    every_case().iter().map(|case| (case.number, case.name)).collect()
}

/// Runs every case, one after the other.
pub async fn run(harness: &dyn RuntimeHarness) -> Report {
    run_cases(harness, every_case()).await
}

/// Runs the cases of these names. A name that no case has is reported as a failure.
pub async fn run_only(harness: &dyn RuntimeHarness, names: &[&str]) -> Report {
    let (wanted, _): (Vec<Case>, Vec<Case>) =
        every_case().into_iter().partition(|case| names.contains(&case.name));
    let unknown: Vec<String> = names
        .iter()
        .filter(|name| !wanted.iter().any(|case| case.name == **name))
        .map(|name| (*name).to_owned())
        .collect();
    let mut report = run_cases(harness, wanted).await;
    for name in unknown {
        let verdict = Verdict::Failed("the suite has no case of this name".to_owned());
        report.outcomes.push(Outcome { number: None, name: name.into(), verdict });
    }
    report
}

async fn run_cases(harness: &dyn RuntimeHarness, cases: Vec<Case>) -> Report {
    let mut report = Report::new(format!("runtime ({})", harness.name()));
    let deadline = harness.limits().case;
    for (index, case) in cases.into_iter().enumerate() {
        let cx = match Cx::new(harness, case.name, index) {
            Ok(cx) => cx,
            Err(error) => {
                let verdict = Verdict::Failed(format!("the harness's run id is no name: {error}"));
                report.outcomes.push(Outcome { number: case.number, name: case.name.into(), verdict });
                continue;
            }
        };
        let mut outcome = run_case(case.number, case.name, deadline, (case.run)(&cx)).await;
        let clean = run_case(None, "cleanup", CLEANUP, cx.clean_up()).await;
        if let Verdict::Failed(text) = clean.verdict
            && !matches!(outcome.verdict, Verdict::Failed(_))
        {
            outcome.verdict = Verdict::Failed(format!("cleaning up after it: {text}"));
        }
        report.outcomes.push(outcome);
    }
    report
}
