//! Options and rounds.

#![allow(clippy::exit, reason = "a program")]

mod cases;
mod configs;
mod load;
mod peers;
mod report;
mod roles;

use std::path::PathBuf;
use std::time::Duration;

use ews_benches::median;

use cases::Case;
use peers::{Process, Proxies, cpu, resident_mb, start_all};
use report::{CaseReport, Figures, Held, Report};

const USAGE: &str = "usage: proxy [--quick] [--json FILE] [--case NAME]";

#[derive(Default)]
struct Options {
    quick: bool,
    json: Option<PathBuf>,
    case: Option<String>,
}

pub(crate) fn main() {
    let mut args = std::env::args().skip(1);
    let mut options = Options::default();
    while let Some(arg) = args.next() {
        let mut value = || args.next().unwrap_or_else(|| refuse("a value is missing"));
        match arg.as_str() {
            "--quick" => options.quick = true,
            "--json" => options.json = Some(value().into()),
            "--case" => options.case = Some(value()),
            // The parts that are processes of their own.
            "upstream" => return roles::upstream(),
            "gateway" => return roles::gateway(&value(), value().parse().unwrap(), &value()),
            other => refuse(&format!("`{other}` is not an option")),
        }
    }
    let mut cases = cases::all();
    if let Some(wanted) = &options.case {
        let names = cases.iter().map(|case| case.name).collect::<Vec<_>>().join(", ");
        cases.retain(|case| case.name == wanted);
        if cases.is_empty() {
            refuse(&format!("`{wanted}` is not a case; there are {names}"));
        }
    }
    let report = measure(options.quick, &cases);
    report.show();
    if let Some(path) = &options.json {
        std::fs::write(path, serde_json::to_vec_pretty(&report).unwrap()).unwrap();
    }
    // So few rounds on a busy machine prove nothing.
    std::process::exit(i32::from(!report.is_met() && !options.quick));
}

fn refuse(why: &str) -> ! {
    eprintln!("{why}\n{USAGE}");
    std::process::exit(2);
}

/// What each proxy took in each round, by the places of the proxies.
#[derive(Default, Clone)]
struct Taken {
    cpu: Vec<f64>,
    rps: Vec<f64>,
    p99: Vec<f64>,
}

fn measure(quick: bool, cases: &[Case]) -> Report {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let domains = if quick { 5_000 } else { 100_000 };
    let Proxies { all, missing, upstream } = runtime.block_on(start_all(folder.path(), domains));
    let (rounds, turn) =
        if quick { (2, Duration::from_millis(150)) } else { (15, Duration::from_millis(800)) };
    let before = resident_mb(all[0].pid);
    let cases = cases.iter().map(|case| measure_case(case, &all, rounds, turn, &runtime)).collect();
    let after = resident_mb(all[0].pid);
    drop(upstream);
    Report {
        quick,
        domains,
        rounds,
        seconds_per_turn: turn.as_secs_f64(),
        missing,
        resident_mb: [before, after],
        cases,
    }
}

fn measure_case(
    case: &Case,
    all: &[Process],
    rounds: usize,
    turn: Duration,
    runtime: &tokio::runtime::Runtime,
) -> CaseReport {
    let proxies: Vec<&Process> =
        all.iter().filter(|proxy| case.has_floor || !proxy.name.contains("tcp")).collect();
    let mut taken = vec![Taken::default(); proxies.len()];
    for round in 0..=rounds {
        // Each begins in every third round or so, so that none always comes after the same one.
        for at in 0..proxies.len() {
            let at = (at + round) % proxies.len();
            let Process { pid, addresses, .. } = *proxies[at];
            let before = cpu(pid);
            let run = runtime.block_on(case.load.run(addresses, turn));
            let used = cpu(pid) - before;
            assert!(run.requests > 0, "no request was answered");
            // The first round fills caches and opens connections.
            if round == 0 {
                continue;
            }
            #[expect(clippy::cast_precision_loss, reason = "counts far below 2^53")]
            let requests = run.requests as f64;
            taken[at].cpu.push(used.as_secs_f64() * 1e6 / requests);
            taken[at].rps.push(requests / run.elapsed.as_secs_f64());
            taken[at].p99.push(run.p99.as_secs_f64() * 1e3);
        }
    }
    let middle = |values: &[f64]| median(values.iter().copied());
    let least = |values: &[f64]| values.iter().copied().fold(f64::INFINITY, f64::min);
    let figures = proxies.iter().zip(&taken).map(|(proxy, own)| Figures {
        proxy: proxy.name,
        cpu_us_per_request: middle(&own.cpu),
        rps: middle(&own.rps),
        p99_ms: middle(&own.p99),
        // What slows a round slows both sides of it.
        ratio: median(taken[0].cpu.iter().zip(&own.cpu).map(|(ours, theirs)| ours / theirs)),
        ratio_at_best: least(&taken[0].cpu) / least(&own.cpu),
    });
    let proxies: Vec<Figures> = figures.collect();
    let held = case.bounds.iter().filter_map(|bound| {
        let figures = proxies.iter().find(|figures| figures.proxy == bound.peer)?;
        Some(Held::new(*bound, figures.ratio))
    });
    CaseReport { name: case.name, held: held.collect(), proxies }
}
