//! The figures, for people and for machines.

use serde::Serialize;

use super::cases::Bound;

/// What one proxy took in a case; medians of the rounds.
#[derive(Serialize, Clone)]
pub(crate) struct Figures {
    pub(crate) proxy: &'static str,
    pub(crate) cpu_us_per_request: f64,
    pub(crate) rps: f64,
    pub(crate) p99_ms: f64,
    /// How many times as much ours takes: the median of the rounds' ratios.
    pub(crate) ratio: f64,
    /// The same of each side's cheapest round: neighbours on the machine add to a round and never take from it.
    pub(crate) ratio_at_best: f64,
}

/// What must hold, and whether it does.
#[derive(Serialize)]
pub(crate) struct Held {
    peer: &'static str,
    ratio: f64,
    must: f64,
    goal: Option<f64>,
    is_met: bool,
}

impl Held {
    pub(crate) fn new(bound: Bound, ratio: f64) -> Self {
        let Bound { peer, must, goal } = bound;
        Self { peer, ratio, must, goal, is_met: ratio <= must }
    }
}

#[derive(Serialize)]
pub(crate) struct CaseReport {
    pub(crate) name: &'static str,
    /// Ours first.
    pub(crate) proxies: Vec<Figures>,
    pub(crate) held: Vec<Held>,
}

#[derive(Serialize)]
pub(crate) struct Report {
    pub(crate) quick: bool,
    pub(crate) domains: usize,
    pub(crate) rounds: usize,
    pub(crate) seconds_per_turn: f64,
    pub(crate) missing: Vec<String>,
    /// Of our process, before and after all.
    pub(crate) resident_mb: [f64; 2],
    pub(crate) cases: Vec<CaseReport>,
}

impl Report {
    /// Whether all that must hold does.
    pub(crate) fn is_met(&self) -> bool {
        self.cases.iter().flat_map(|case| &case.held).all(|held| held.is_met)
    }

    pub(crate) fn show(&self) {
        for name in &self.missing {
            println!("{name} is not there: install it with `apt-get install nginx-light haproxy`");
        }
        println!(
            "processor µs per request (requests per second, 99th of a hundred), {} rounds of {} s each, {} domains",
            self.rounds, self.seconds_per_turn, self.domains
        );
        for case in &self.cases {
            let cells = case.proxies.iter().map(|figures| {
                let Figures { proxy, cpu_us_per_request: cpu, rps, p99_ms, .. } = figures;
                format!("{proxy} {cpu:.2} ({:.1}k/s {p99_ms:.1} ms)", rps / 1e3)
            });
            println!("{:24} {}", case.name, cells.collect::<Vec<_>>().join("  "));
            let ratios = case.proxies.iter().skip(1).map(|figures| {
                let held = case.held.iter().find(|held| held.peer == figures.proxy);
                let verdict = held.map_or(String::new(), |held| {
                    let goal = held.goal.map_or(String::new(), |goal| {
                        format!(", wanted ≤ {goal:.2} {}", if held.ratio <= goal { "met" } else { "not met" })
                    });
                    format!(" (≤ {:.2} {}{goal})", held.must, if held.is_met { "met" } else { "MISSED" })
                });
                let Figures { proxy, ratio, ratio_at_best, .. } = figures;
                format!("{ratio:.2} × {proxy}{verdict}, at best {ratio_at_best:.2}")
            });
            println!("{:24} {}", "", ratios.collect::<Vec<_>>().join("; "));
        }
        let [before, after] = self.resident_mb;
        println!("our process holds {before:.0} MB before and {after:.0} MB after all of it");
    }
}
