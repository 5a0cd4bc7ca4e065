//! What a conformance suite found, and the one way to run a case.
//!
//! [`run_case`] turns whatever a case does (pass, fail, skip, panic, hang) into an [`Outcome`], so that one bad case never
//! hides the others. [`Report::assert_passed`] is strict in both directions: a skip nobody allowed fails, and so does an
//! allowed skip that did not happen, so that a list of known gaps can't outlive the gaps.

use std::any::Any;
use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt as _;
use serde::Serialize;

/// Why a case ended early.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stop {
    /// The behaviour was not as the contract says; what was seen and what was expected.
    Fail(String),
    /// The case does not apply; the reason.
    Skip(String),
}

impl Stop {
    /// The behaviour was not as the contract says.
    pub fn fail(text: impl Into<String>) -> Self {
        Self::Fail(text.into())
    }

    /// The case does not apply to what is under test.
    pub fn skip(reason: impl Into<String>) -> Self {
        Self::Skip(reason.into())
    }
}

impl<E: std::error::Error> From<E> for Stop {
    /// An unexpected error is a failure; sources are written out, since the report keeps text only.
    fn from(error: E) -> Self {
        let mut text = format!("unexpected error: {error}");
        let mut source = error.source();
        while let Some(inner) = source {
            text.push_str(": ");
            text.push_str(&inner.to_string());
            source = inner.source();
        }
        Self::Fail(text)
    }
}

/// What a case returns; `?` on any error is a failure.
pub type CaseResult = Result<(), Stop>;

/// How a case ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The behaviour is as the contract says.
    Passed,
    /// It is not, or the case panicked or hung; what was seen.
    Failed(String),
    /// The case did not apply; the reason.
    Skipped(String),
}

/// One case and how it ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Outcome {
    /// The number of the behaviour in the list that the suite stands on, where it has one.
    pub number: Option<u16>,
    /// The case's name, unique in its suite.
    pub name: Cow<'static, str>,
    /// How it ended.
    pub verdict: Verdict,
}

/// What a suite found. Its [`Display`](fmt::Display) is a table with one line per case and a line of counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// Which suite, and on what, such as `store (redb)`.
    pub suite: Cow<'static, str>,
    /// Every case of the suite, in the order they ran.
    pub outcomes: Vec<Outcome>,
}

impl Report {
    /// A report without outcomes.
    pub fn new(suite: impl Into<Cow<'static, str>>) -> Self {
        Self { suite: suite.into(), outcomes: Vec::new() }
    }

    /// How many cases passed, failed and were skipped.
    pub fn counts(&self) -> (usize, usize, usize) {
        let mut counts = (0, 0, 0);
        for outcome in &self.outcomes {
            match outcome.verdict {
                Verdict::Passed => counts.0 += 1,
                Verdict::Failed(_) => counts.1 += 1,
                Verdict::Skipped(_) => counts.2 += 1,
            }
        }
        counts
    }

    /// Everything that keeps this report from being a pass, one line each; empty for a pass.
    ///
    /// These are: no case at all, a name that two cases share, a failed case, a skipped case whose name is not in
    /// `allowed_skips`, and a name in `allowed_skips` whose case was not skipped or does not exist.
    pub fn problems(&self, allowed_skips: &[&str]) -> Vec<String> {
        let mut problems = Vec::new();
        if self.outcomes.is_empty() {
            problems.push("the suite ran no case".to_owned());
        }
        let mut names = BTreeSet::new();
        let mut skipped = BTreeSet::new();
        for outcome in &self.outcomes {
            let name = &*outcome.name;
            if !names.insert(name) {
                problems.push(format!("two cases are called `{name}`"));
            }
            match &outcome.verdict {
                Verdict::Passed => {}
                Verdict::Failed(text) => problems.push(format!("`{name}` failed: {text}")),
                Verdict::Skipped(reason) => {
                    skipped.insert(name);
                    if !allowed_skips.contains(&name) {
                        problems.push(format!("`{name}` was skipped, which is not allowed here: {reason}"));
                    }
                }
            }
        }
        for allowed in allowed_skips {
            if !names.contains(allowed) {
                problems.push(format!("the allowed skip `{allowed}` names no case of the suite"));
            } else if !skipped.contains(allowed) {
                problems.push(format!("`{allowed}` ran although its skip is allowed; take it off the list"));
            }
        }
        problems
    }

    /// Fails the test unless every case passed, except exactly the cases named here, which must have been skipped.
    ///
    /// # Panics
    /// With the whole table and every one of the [`problems`](Self::problems).
    #[track_caller]
    #[allow(clippy::panic, reason = "an assertion for tests: to panic is its purpose")]
    pub fn assert_passed(&self, allowed_skips: &[&str]) {
        let problems = self.problems(allowed_skips);
        if !problems.is_empty() {
            panic!("{self}\n{}", problems.join("\n"));
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.suite)?;
        let width = self.outcomes.iter().map(|outcome| outcome.name.chars().count()).max().unwrap_or(0);
        for Outcome { number, name, verdict } in &self.outcomes {
            let number = number.map(|number| number.to_string()).unwrap_or_default();
            match verdict {
                Verdict::Passed => writeln!(f, "{number:>4}  {name:width$}  passed")?,
                Verdict::Failed(text) => {
                    writeln!(f, "{number:>4}  {name:width$}  FAILED   {}", one_line(text))?
                }
                Verdict::Skipped(text) => {
                    writeln!(f, "{number:>4}  {name:width$}  skipped  {}", one_line(text))?
                }
            }
        }
        let (passed, failed, skipped) = self.counts();
        write!(f, "{passed} passed, {failed} failed, {skipped} skipped")
    }
}

/// A table has one line per case, whatever a panic message holds.
fn one_line(text: &str) -> String {
    text.split(['\n', '\r']).map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ")
}

/// Runs one case to its end or its deadline, on the calling task.
///
/// A panic inside becomes [`Verdict::Failed`] with the panic's message. So does a case that is still waiting after
/// `deadline` (of tokio's clock, which a test may pause); one that blocks its thread can't be interrupted.
pub async fn run_case(
    number: Option<u16>,
    name: impl Into<Cow<'static, str>>,
    deadline: Duration,
    case: impl Future<Output = CaseResult>,
) -> Outcome {
    // Boxed, since cases are large and every suite awaits dozens of them.
    let case = AssertUnwindSafe(Box::pin(case)).catch_unwind();
    let verdict = match tokio::time::timeout(deadline, case).await {
        Ok(Ok(Ok(()))) => Verdict::Passed,
        Ok(Ok(Err(Stop::Fail(text)))) => Verdict::Failed(text),
        Ok(Ok(Err(Stop::Skip(reason)))) => Verdict::Skipped(reason),
        Ok(Err(panic)) => Verdict::Failed(format!("panicked: {}", panic_text(&*panic))),
        Err(_) => Verdict::Failed(format!("did not end within {}", humantime::format_duration(deadline))),
    };
    Outcome { number, name: name.into(), verdict }
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    if let Some(text) = panic.downcast_ref::<&'static str>() {
        text
    } else if let Some(text) = panic.downcast_ref::<String>() {
        text
    } else {
        "with a value that is not text"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(outcomes: &[(&'static str, Verdict)]) -> Report {
        let outcomes = outcomes
            .iter()
            .map(|(name, verdict)| Outcome { number: None, name: (*name).into(), verdict: verdict.clone() })
            .collect();
        Report { suite: "test".into(), outcomes }
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_a_hang_and_an_error_are_failures_and_a_skip_is_none() {
        let second = Duration::from_secs(1);
        let panicked = run_case(Some(1), "panic", second, async { panic!("line one\nline {}", 2) }).await;
        let hung = run_case(None, "hang", second, std::future::pending()).await;
        let erred = run_case(None, "error", second, async { Ok("x".parse::<u8>().map(drop)?) }).await;
        let skipped = run_case(None, "skip", second, async { Err(Stop::skip("no")) }).await;
        let passed = run_case(None, "pass", second, async { Ok(()) }).await;
        assert_eq!(panicked.verdict, Verdict::Failed("panicked: line one\nline 2".into()));
        assert_eq!(hung.verdict, Verdict::Failed("did not end within 1s".into()));
        assert!(matches!(&erred.verdict, Verdict::Failed(text) if text.contains("invalid digit")));
        assert_eq!(skipped.verdict, Verdict::Skipped("no".into()));
        assert_eq!(passed.verdict, Verdict::Passed);
        let report = Report { suite: "five".into(), outcomes: vec![panicked, hung, erred, skipped, passed] };
        assert_eq!(report.counts(), (1, 3, 1));
        assert_eq!(report.to_string().lines().count(), 7, "{report}");
    }

    #[test]
    fn a_skip_must_be_allowed_and_an_allowed_skip_must_happen() {
        let skipped = || Verdict::Skipped("because".into());
        assert_eq!(report(&[("a", Verdict::Passed)]).problems(&[]), Vec::<String>::new());
        assert_eq!(report(&[("a", skipped())]).problems(&["a"]), Vec::<String>::new());
        assert_eq!(report(&[("a", skipped())]).problems(&[]).len(), 1);
        assert_eq!(report(&[("a", Verdict::Passed)]).problems(&["a"]).len(), 1);
        assert_eq!(report(&[("a", Verdict::Passed)]).problems(&["b"]).len(), 1);
        assert_eq!(report(&[("a", Verdict::Failed("x".into()))]).problems(&["a"]).len(), 2);
        assert_eq!(report(&[("a", Verdict::Passed), ("a", Verdict::Passed)]).problems(&[]).len(), 1);
        assert_eq!(report(&[]).problems(&[]).len(), 1);
    }

    #[test]
    #[should_panic(expected = "`a` failed: broken")]
    fn a_failed_report_fails_the_test() {
        report(&[("a", Verdict::Failed("broken".into()))]).assert_passed(&[]);
    }
}
