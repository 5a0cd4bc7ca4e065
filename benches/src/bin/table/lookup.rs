//! A look-up by a host's name, without a gateway around it.

use std::collections::HashMap;
use std::hint::black_box;

use ews_benches::{Bench, interleave};
use ews_core::CapabilitySet;
use ews_core::balancer::{Domains, Limits, Object, RouteSet, Stored, TableLoader};

use crate::names::{self, SETS};

/// How many look-ups a turn is.
const TURN: usize = 20_000;

pub(crate) fn measure(bench: &mut Bench, count: usize) {
    let mut loader = TableLoader::new(CapabilitySet::all(), Limits::default());
    for number in 0..SETS {
        let set = RouteSet::new(names::set(number), []);
        loader.add(Stored::new(1, Object::RouteSet(set)));
    }
    let mut plain = HashMap::new();
    for number in 0..count {
        loader.add(Stored::new(1, Object::Domain(names::domain(number, number))));
        plain.insert(names::name(number), u32::try_from(number).unwrap());
    }
    let table = loader.finish(1, []).unwrap();
    let domains = table.domains();
    let chosen = |at: usize| names::mixed(at * 31 + 7) % count;
    let exact: Vec<String> = (0..TURN * 8)
        .map(|at| chosen(at) / 100 * 100 + at % 99)
        .filter(|number| *number < count)
        .map(names::host)
        .collect();
    let wild: Vec<String> = (0..TURN * 8).map(|at| names::host(chosen(at) / 100 * 100 + 99)).collect();
    let missing: Vec<String> = (0..TURN * 8).map(|at| format!("no-{}.nowhere.example", chosen(at))).collect();
    let rounds = bench.scale(60, 8);
    for (what, hosts, is_there) in
        [("hit", &exact, true), ("miss", &missing, false), ("wildcard", &wild, true)]
    {
        // What a plain map can't find it is not asked for: a wildcard is held against a hit.
        let other = if what == "wildcard" { &exact } else { hosts };
        let (mut ours_at, mut theirs_at) = (0, 0);
        let pair = interleave(
            rounds,
            || assert_eq!(find(domains, turn(hosts, &mut ours_at)), is_there),
            || {
                let mut found = 0;
                for host in turn(other, &mut theirs_at) {
                    found += usize::from(black_box(plain.get(host.as_str())).is_some());
                }
                assert_eq!(found > 0, what != "miss");
            },
        );
        let each = |time: std::time::Duration| time.as_secs_f64() * 1e9 / TURN as f64;
        let note = format!("{:.0} ns to {:.0} ns, random names", each(pair.ours()), each(pair.theirs()));
        bench.line(
            format!("{count} domains: look-up, {what} / a plain map's"),
            pair.ratio(),
            "x",
            None,
            note,
        );
    }
}

/// The next names; others than in the turn before, so that they are not in the processor's caches.
fn turn<'a>(hosts: &'a [String], at: &mut usize) -> &'a [String] {
    let begin = if *at + TURN > hosts.len() { 0 } else { *at };
    *at = begin + TURN;
    &hosts[begin..begin + TURN]
}

fn find(domains: &Domains, hosts: &[String]) -> bool {
    let mut found = 0;
    for host in hosts {
        found += usize::from(black_box(domains.site(host)).is_some());
    }
    assert!(found == 0 || found == hosts.len());
    found > 0
}
