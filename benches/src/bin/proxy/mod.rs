//! Cases, rounds and figures.

#![allow(clippy::exit, reason = "a program")]

mod load;
mod peers;
mod roles;

use std::path::PathBuf;
use std::time::Duration;

use ews_benches::median;
use serde::Serialize;

use load::Load;
use peers::{Process, start_all};

/// At most so many times what nginx takes.
const TARGET: f64 = 1.3;

#[derive(Serialize, Default, Clone, Copy)]
struct Figures {
    ews: f64,
    nginx: f64,
    haproxy: f64,
}

#[derive(Serialize)]
struct Case {
    name: &'static str,
    cpu_us_per_request: Figures,
    rps: Figures,
    p99_ms: Figures,
    ratio_vs_nginx: f64,
    ratio_vs_haproxy: f64,
}

#[derive(Serialize)]
struct Report {
    rounds: usize,
    seconds_per_turn: f64,
    missing: Vec<String>,
    cases: Vec<Case>,
}

struct Options {
    quick: bool,
    json: Option<PathBuf>,
}

pub(crate) fn main() {
    let mut args = std::env::args().skip(1);
    let mut options = Options { quick: false, json: None };
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--quick" => options.quick = true,
            "--json" => options.json = Some(args.next().expect_file().into()),
            // The parts that are processes of their own.
            "upstream" => return roles::upstream(),
            "gateway" => return roles::gateway(&args.next().expect_file()),
            other => {
                eprintln!("`{other}` is not an option\nusage: proxy [--quick] [--json FILE]");
                std::process::exit(2);
            }
        }
    }
    let report = measure(options.quick);
    show(&report);
    if let Some(path) = &options.json {
        std::fs::write(path, serde_json::to_vec_pretty(&report).unwrap()).unwrap();
    }
    let missed = report.cases.iter().any(|case| case.name == "small" && case.ratio_vs_nginx > TARGET);
    std::process::exit(i32::from(missed && !options.quick));
}

trait ExpectFile {
    fn expect_file(self) -> String;
}

impl ExpectFile for Option<String> {
    fn expect_file(self) -> String {
        self.unwrap_or_else(|| {
            eprintln!("a value is missing");
            std::process::exit(2);
        })
    }
}

fn measure(quick: bool) -> Report {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (proxies, missing) = runtime.block_on(start_all(folder.path()));
    let (rounds, turn) =
        if quick { (3, Duration::from_millis(500)) } else { (9, Duration::from_millis(1500)) };
    let mut cases = Vec::new();
    for (name, load) in [
        ("small", Load { path: "/small", connections: 32, keeps: true }),
        ("body_16k", Load { path: "/16k", connections: 32, keeps: true }),
        ("connection_per_request", Load { path: "/small", connections: 16, keeps: false }),
    ] {
        let mut taken: Vec<[Vec<f64>; 3]> = proxies.iter().map(|_| Default::default()).collect();
        for round in 0..=rounds {
            // Each begins in every third round, so that none always comes after the same one.
            for at in 0..proxies.len() {
                let at = (at + round) % proxies.len();
                let Process { pid, address, .. } = proxies[at];
                let before = peers::cpu(pid);
                let run = runtime.block_on(load.run(address, turn));
                let cpu = peers::cpu(pid) - before;
                assert!(run.requests > 0, "no request was answered");
                if round == 0 {
                    continue;
                }
                #[expect(clippy::cast_precision_loss, reason = "counts far below 2^53")]
                let requests = run.requests as f64;
                taken[at][0].push(cpu.as_secs_f64() * 1e6 / requests);
                taken[at][1].push(requests / run.elapsed.as_secs_f64());
                taken[at][2].push(run.p99.as_secs_f64() * 1e3);
            }
        }
        let figures = |which: usize| {
            let of = |name: &str| {
                let at = proxies.iter().position(|proxy| proxy.name == name);
                at.map_or(0.0, |at| median(taken[at][which].iter().copied()))
            };
            Figures { ews: of("ews"), nginx: of("nginx"), haproxy: of("haproxy") }
        };
        // The median of the rounds' ratios: what slows a round slows both sides of it.
        let ratio = |peer: &str| {
            let at = proxies.iter().position(|proxy| proxy.name == peer);
            let ratios = |at: usize| taken[0][0].iter().zip(&taken[at][0]).map(|(a, b)| a / b);
            at.map_or(0.0, |at| median(ratios(at)))
        };
        cases.push(Case {
            name,
            cpu_us_per_request: figures(0),
            rps: figures(1),
            p99_ms: figures(2),
            ratio_vs_nginx: ratio("nginx"),
            ratio_vs_haproxy: ratio("haproxy"),
        });
    }
    Report { rounds, seconds_per_turn: turn.as_secs_f64(), missing, cases }
}

fn show(report: &Report) {
    for name in &report.missing {
        println!("{name} is not there: install it with `apt-get install nginx-light haproxy`");
    }
    println!("{:24} {:>22} {:>22} {:>22}  ratios", "processor µs per request", "ews", "nginx", "haproxy");
    for case in &report.cases {
        let Figures { ews, nginx, haproxy } = case.cpu_us_per_request;
        let cell = |cpu: f64, rps: f64, p99: f64| format!("{cpu:.2} ({:.0}k/s {p99:.1}ms)", rps / 1e3);
        println!(
            "{:24} {:>22} {:>22} {:>22}  {:.2} × nginx, {:.2} × haproxy{}",
            case.name,
            cell(ews, case.rps.ews, case.p99_ms.ews),
            cell(nginx, case.rps.nginx, case.p99_ms.nginx),
            cell(haproxy, case.rps.haproxy, case.p99_ms.haproxy),
            case.ratio_vs_nginx,
            case.ratio_vs_haproxy,
            match case.name {
                "small" if case.ratio_vs_nginx <= TARGET => " (target met)",
                "small" => " (target MISSED)",
                _ => "",
            }
        );
    }
}
