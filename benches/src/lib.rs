//! What the benches share: a table for people, `--json FILE`, `--quick`, and interleaved timing.
//!
//! A bench states a target as a ratio to a peer, or a limit, and takes both sides in one run on one machine: [`interleave`]
//! gives each side its turn in every round, so that a disk or a neighbour that is slow for a while slows both. The figure
//! is the median of the rounds' ratios.
//!
//! ```no_run
//! use ews_benches::{Bench, interleave};
//!
//! let mut bench = Bench::from_args("sums");
//! let rounds = bench.scale(30, 5);
//! let pair = interleave(rounds, || (0..1_000_000_u64).sum::<u64>(), || (0..1_000_000_u64).rev().sum::<u64>());
//! bench.ratio("sum forwards", "sum backwards", &pair, Some(1.2));
//! std::process::exit(bench.finish());
//! ```

mod measure;
mod table;

pub use measure::{Pair, interleave, median, resident_bytes};
pub use table::{Bench, Line};
