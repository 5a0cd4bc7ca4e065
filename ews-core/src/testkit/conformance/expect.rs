//! How cases say what they expected.

use std::fmt::Debug;

use super::Stop;
use crate::error::{ErrorKind, Result};

/// Fails the case with this text unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $($text:tt)+) => {
        // Bound first, so that a comparison with NaN is simply false.
        let holds: bool = $condition;
        if !holds {
            return Err($crate::testkit::conformance::Stop::fail(format!($($text)+)));
        }
    };
}

/// Runs the wanted ones of these functions, each on a bench of its own, and adds what they found to a report.
macro_rules! run_cases {
    ($report:expr, $deadline:expr, $harness:expr, $bench:expr; $($number:literal $module:ident :: $name:ident;)+) => {$(
        if $harness.wants(stringify!($name)) {
            let case = async { $module::$name($bench($number).await?).await };
            let outcome =
                $crate::testkit::conformance::run_case(Some($number), stringify!($name), $deadline, case);
            $report.outcomes.push(outcome.await);
        }
    )+};
}

pub(super) use {ensure, run_cases};

/// The call must fail in one of these ways.
pub(super) fn refused<T: Debug>(what: &str, result: Result<T>, kinds: &[ErrorKind]) -> Result<(), Stop> {
    match result {
        Err(error) if kinds.contains(&error.kind()) && !error.message().is_empty() => Ok(()),
        Err(error) => Err(Stop::fail(format!("{what}: expected one of {kinds:?}, got the error {error}"))),
        Ok(value) => Err(Stop::fail(format!("{what}: expected one of {kinds:?}, got {value:?}"))),
    }
}

/// Both must be equal.
pub(super) fn same<T: PartialEq + Debug>(what: &str, found: &T, wanted: &T) -> Result<(), Stop> {
    ensure!(found == wanted, "{what}: expected {wanted:?}, found {found:?}");
    Ok(())
}
