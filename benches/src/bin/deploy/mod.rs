//! The measurements, on Linux.

mod fakes;
mod rollouts;

use ews_benches::Bench;

pub(crate) fn main() {
    let mut bench = Bench::from_args("deploy");
    fakes::plans_and_supervision(&mut bench);
    rollouts::rollouts(&mut bench);
    std::process::exit(bench.finish());
}
