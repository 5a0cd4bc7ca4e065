//! The pure core of an analysis: measurements in, a verdict out.

use std::time::Duration;

use ews_core::metrics::Unavailable;
use ews_core::time::duration;
use serde::{Deserialize, Serialize};

use super::{Analysis, MetricCheck, Missing};

/// What a measurement or an analysis comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Verdict {
    /// Good.
    Pass,
    /// Bad.
    Fail,
    /// It can't be said.
    Inconclusive,
    /// It could not be measured.
    Error,
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Pass => "pass",
            Self::Fail => "fail",
            Self::Inconclusive => "inconclusive",
            Self::Error => "error",
        })
    }
}

/// What one check measured once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Measurement {
    /// The check's name.
    pub check: String,
    /// The new revision's value.
    pub value: Option<f64>,
    /// The old revision's.
    pub baseline: Option<f64>,
    /// What it comes to.
    pub verdict: Verdict,
    /// Why, where it is not good.
    pub reason: String,
}

/// What the metrics say to one query: a number, that there is none, or that they can't be asked.
pub(crate) type Told = Result<Result<f64, Unavailable>, String>;

/// What the metrics say to one check.
#[derive(Debug, Clone)]
pub(crate) struct Numbers {
    pub(crate) value: Told,
    pub(crate) per: Option<Told>,
    pub(crate) volume: Option<Told>,
    /// The same of the old revision; `None` where it is not needed.
    pub(crate) baseline: Option<Box<Numbers>>,
}

/// How far an analysis has come. It is a part of the rollout's record.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Run {
    /// How long it has gone on.
    #[serde(with = "duration")]
    pub(crate) spent: Duration,
    /// How many measurements were taken.
    pub(crate) taken: u32,
    /// Of each check, by its place.
    checks: Vec<Tally>,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Tally {
    failed: u32,
    inconclusive: u32,
    /// In a row.
    errors: u32,
}

/// What followed from a measurement.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Taken {
    pub(crate) measurements: Vec<Measurement>,
    /// `None` while more are to be taken.
    pub(crate) verdict: Option<Verdict>,
    /// What decided it.
    pub(crate) reason: String,
}

impl Run {
    /// How long until the next measurement is due.
    pub(crate) fn due_in(&self, analysis: &Analysis) -> Duration {
        analysis.interval.saturating_mul(self.taken.saturating_add(1)).saturating_sub(self.spent)
    }

    /// Takes a measurement: the numbers of each check, in their order. With `endless` it never passes, it only fails.
    pub(crate) fn take(&mut self, analysis: &Analysis, numbers: &[Numbers], endless: bool) -> Taken {
        self.taken = self.taken.saturating_add(1);
        self.checks.resize(analysis.checks.len(), Tally::default());
        let mut measurements = Vec::new();
        let mut verdict = None;
        let mut reason = String::new();
        for ((check, numbers), tally) in analysis.checks.iter().zip(numbers).zip(&mut self.checks) {
            let measurement = judge(check, numbers);
            let beyond = match measurement.verdict {
                Verdict::Pass => {
                    tally.errors = 0;
                    false
                }
                Verdict::Fail => {
                    tally.errors = 0;
                    tally.failed = tally.failed.saturating_add(1);
                    tally.failed > check.failure_limit
                }
                Verdict::Inconclusive => {
                    tally.errors = 0;
                    tally.inconclusive = tally.inconclusive.saturating_add(1);
                    tally.inconclusive > check.inconclusive_limit
                }
                Verdict::Error => {
                    tally.errors = tally.errors.saturating_add(1);
                    tally.errors > check.error_limit
                }
            };
            // A failure outweighs what can't be said, and that outweighs what can't be measured.
            let rank = |verdict: Option<Verdict>| match verdict {
                Some(Verdict::Fail) => 3,
                Some(Verdict::Inconclusive) => 2,
                Some(Verdict::Error) => 1,
                _ => 0,
            };
            if beyond && rank(Some(measurement.verdict)) > rank(verdict) {
                verdict = Some(measurement.verdict);
                reason = format!("{}: {}", check.name, measurement.reason);
            }
            measurements.push(measurement);
        }
        // One that could not be measured, though it may yet be, is not passed by the last of the others.
        let measured = self.checks.iter().all(|tally| tally.errors == 0);
        if verdict.is_none() && !endless && self.taken >= analysis.count && measured {
            verdict = Some(Verdict::Pass);
        }
        Taken { measurements, verdict, reason }
    }
}

/// What the numbers of one check come to.
fn judge(check: &MetricCheck, numbers: &Numbers) -> Measurement {
    let mut measurement = Measurement {
        check: check.name.clone(),
        value: None,
        baseline: None,
        verdict: Verdict::Pass,
        reason: String::new(),
    };
    let (verdict, reason) = match weigh(check, numbers, &mut measurement) {
        Ok(()) => return measurement,
        Err(fault) => fault,
    };
    measurement.verdict = verdict;
    measurement.reason = reason;
    measurement
}

fn weigh(
    check: &MetricCheck,
    numbers: &Numbers,
    measurement: &mut Measurement,
) -> Result<(), (Verdict, String)> {
    let value = value_of(check, numbers)?;
    measurement.value = Some(value);
    let baseline = match &numbers.baseline {
        Some(baseline) => {
            let of_the_old = |(verdict, reason)| (verdict, format!("the old revision: {reason}"));
            Some(value_of(check, baseline).map_err(of_the_old)?)
        }
        None => None,
    };
    measurement.baseline = baseline;
    let beside = baseline.map(|baseline| format!(", the old one {baseline}")).unwrap_or_default();
    let unknown = || (Verdict::Inconclusive, "there is no old revision to compare with".to_owned());
    if check.pass.holds(value, baseline).ok_or_else(unknown)? {
        return Ok(());
    }
    let said = format!("{value}{beside}; good is {}", check.pass);
    match check.fail {
        Some(fail) if !fail.holds(value, baseline).ok_or_else(unknown)? => {
            Err((Verdict::Inconclusive, format!("{said}, bad is {fail}")))
        }
        _ => Err((Verdict::Fail, said)),
    }
}

/// The value of a check for one revision, where there are observations enough.
fn value_of(check: &MetricCheck, numbers: &Numbers) -> Result<f64, (Verdict, String)> {
    let number = |told: &Told, what: &str| match told {
        Ok(Ok(number)) => Ok(*number),
        Ok(Err(missing)) => Err((Verdict::Inconclusive, format!("{what} is {missing}"))),
        Err(error) => Err((Verdict::Error, format!("{what} can't be measured: {error}"))),
    };
    let per = numbers.per.as_ref().map(|told| number(told, "what it is divided by")).transpose()?;
    let volume = match &numbers.volume {
        Some(told) => Some(number(told, "the number of observations")?),
        None => per,
    };
    #[expect(clippy::cast_precision_loss, reason = "a bound far below 2^53 in practice")]
    if let Some(volume) = volume.filter(|volume| *volume < check.min_samples as f64) {
        return Err((
            Verdict::Inconclusive,
            format!("{volume} observations, fewer than {}", check.min_samples),
        ));
    }
    let value = match (&numbers.value, per) {
        (Ok(Err(Unavailable::Missing)), Some(_)) if check.missing == Missing::Zero => 0.0,
        (told, _) => number(told, "it")?,
    };
    let value = match per {
        Some(per) => value / per,
        None => value,
    };
    if value.is_finite() { Ok(value) } else { Err((Verdict::Inconclusive, "it is not a number".to_owned())) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::Condition;
    use ews_core::Selector;
    use ews_core::metrics::MetricQuery;

    fn check(pass: Condition) -> MetricCheck {
        MetricCheck::new("errors", MetricQuery::new("m", Selector::everything()), pass)
    }

    fn number(value: f64) -> Numbers {
        Numbers { value: Ok(Ok(value)), per: None, volume: None, baseline: None }
    }

    fn verdicts(analysis: &Analysis, numbers: &[Numbers]) -> Option<Verdict> {
        let mut run = Run::default();
        numbers.iter().find_map(|n| run.take(analysis, std::slice::from_ref(n), false).verdict)
    }

    #[test]
    fn it_passes_after_as_many_measurements_as_it_takes_and_not_before() {
        let analysis = Analysis::new([check(Condition::AtMost(1.0))]).with_schedule(3, Analysis::minute());
        assert_eq!(verdicts(&analysis, &[number(1.0), number(0.0)]), None);
        assert_eq!(verdicts(&analysis, &[number(1.0), number(0.0), number(1.0)]), Some(Verdict::Pass));
    }

    #[test]
    fn bad_ones_are_taken_up_to_the_limit_and_one_more_fails() {
        let analysis = Analysis::new([check(Condition::AtMost(1.0))]).with_schedule(3, Analysis::minute());
        assert_eq!(verdicts(&analysis, &[number(2.0), number(0.0), number(0.0)]), Some(Verdict::Pass));
        assert_eq!(verdicts(&analysis, &[number(2.0), number(0.0), number(2.0)]), Some(Verdict::Fail));
    }

    #[test]
    fn missing_is_never_good_and_what_can_not_be_asked_is_an_error_after_so_many_in_a_row() {
        let analysis = Analysis::new([check(Condition::AtMost(1.0))]).with_schedule(2, Analysis::minute());
        let missing = Numbers { value: Ok(Err(Unavailable::Missing)), ..number(0.0) };
        let nan = Numbers { value: Ok(Ok(f64::NAN)), ..number(0.0) };
        assert_eq!(verdicts(&analysis, &[missing]), Some(Verdict::Inconclusive));
        assert_eq!(verdicts(&analysis, &[nan]), Some(Verdict::Inconclusive));
        let error = Numbers { value: Err("down".to_owned()), ..number(0.0) };
        assert_eq!(verdicts(&analysis, &vec![error.clone(); 4]), None, "errors never make it pass");
        assert_eq!(verdicts(&analysis, &vec![error.clone(); 5]), Some(Verdict::Error));
        let mixed = [error.clone(), error.clone(), error.clone(), error, number(0.0)];
        assert_eq!(verdicts(&analysis, &mixed), Some(Verdict::Pass));
    }

    #[test]
    fn a_share_needs_observations_and_only_then_may_no_series_mean_zero() {
        let mut errors = check(Condition::AtMost(0.05)).with_missing(Missing::Zero);
        errors.per = Some(errors.query.clone());
        let analysis = Analysis::new([errors.clone()]).with_schedule(1, Analysis::minute());
        let of = |value: Told, per: f64| Numbers { value, per: Some(Ok(Ok(per))), ..number(0.0) };
        let none = || Ok(Err(Unavailable::Missing));
        assert_eq!(verdicts(&analysis, &[of(none(), 100.0)]), Some(Verdict::Pass));
        assert_eq!(verdicts(&analysis, &[of(none(), 19.0)]), Some(Verdict::Inconclusive));
        assert_eq!(verdicts(&analysis, &[of(Ok(Ok(5.0)), 100.0)]), Some(Verdict::Pass));
        let two = [of(Ok(Ok(6.0)), 100.0), of(Ok(Ok(6.0)), 100.0)];
        assert_eq!(verdicts(&Analysis { count: 2, ..analysis }, &two), Some(Verdict::Fail));
        let stale = Ok(Err(Unavailable::Stale { last: ews_core::Timestamp::EPOCH }));
        assert_eq!(judge(&errors, &of(stale, 100.0)).verdict, Verdict::Inconclusive, "stale is not zero");
    }

    #[test]
    fn against_the_old_revision() {
        let relative = check(Condition::AtMostBaseline { times: 1.5, plus: 0.0 });
        let against = |value: f64, old: Option<f64>| {
            let baseline = old.map(|old| Box::new(number(old)));
            judge(&relative, &Numbers { baseline, ..number(value) }).verdict
        };
        assert_eq!(against(1.5, Some(1.0)), Verdict::Pass);
        assert_eq!(against(1.6, Some(1.0)), Verdict::Fail);
        assert_eq!(against(0.0, None), Verdict::Inconclusive);
    }

    #[test]
    fn between_good_and_bad_it_can_not_be_said() {
        let two = check(Condition::AtMost(1.0)).with_fail(Condition::AtLeast(2.0));
        assert_eq!(judge(&two, &number(1.0)).verdict, Verdict::Pass);
        assert_eq!(judge(&two, &number(1.5)).verdict, Verdict::Inconclusive);
        assert_eq!(judge(&two, &number(2.0)).verdict, Verdict::Fail);
    }
}
