//! The routing table of a gateway from a thousand to a million domains: what a domain takes in memory, what a look-up and a
//! change cost, and how long a restart takes.
//!
//! What each is held against is taken in the same run: a look-up against one in a plain `HashMap<String, u32>` of the same
//! names; a change against a bare durable commit of a record of the same size in the same store, by turns, while requests
//! run; a restart against reading the same records through the store's own list.
//!
//! Memory and times of the gateway are taken in processes of their own, so that nothing that was freed before is used again
//! unseen.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a bench that can't run says so by its panic"
)]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "its parts talk over their output")]

#[path = "table/gateway.rs"]
mod gateway;
#[path = "table/lookup.rs"]
mod lookup;
#[path = "table/names.rs"]
mod names;
#[path = "table/traffic.rs"]
mod traffic;

use std::path::Path;
use std::process::{Command, Stdio};

use ews_benches::Bench;
use serde::Serialize;
use serde::de::DeserializeOwned;

use gateway::{Loaded, Restarted, Times};

/// The most bytes that a domain may take beside its name.
const BYTES: f64 = 150.0;
/// How much later than a bare commit the slowest change of a hundred may be, in milliseconds.
const LATER: f64 = 1.0;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        // The parts that are processes of their own.
        ["load", folder, count] => tell(&gateway::load(Path::new(folder), count.parse().unwrap())),
        ["restart", folder, count, rounds] => {
            tell(&gateway::restart(Path::new(folder), count.parse().unwrap(), rounds.parse().unwrap()));
        }
        _ => std::process::exit(measure()),
    }
}

fn tell(what: &impl Serialize) {
    println!("{}", serde_json::to_string(what).unwrap());
}

/// What this program says in another role.
fn ask<T: DeserializeOwned>(args: &[&str]) -> T {
    let program = std::env::current_exe().unwrap();
    let output = Command::new(program).args(args).stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", output.status);
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The whole of it; the exit code.
fn measure() -> i32 {
    let mut bench = Bench::from_args("table");
    let counts: &[usize] = if bench.quick { &[1_000, 10_000] } else { &[1_000, 10_000, 100_000, 1_000_000] };
    let rounds = bench.scale(2_000, 60);
    for count in counts {
        lookup::measure(&mut bench, *count);
        // In the folder where the build is, since the system's temporary folder may be memory.
        let folder = tempfile::tempdir_in(std::env::current_exe().unwrap().parent().unwrap()).unwrap();
        let path = folder.path().to_str().unwrap();
        let loaded: Loaded = ask(&["load", path, &count.to_string()]);
        let restarted: Restarted = ask(&["restart", path, &count.to_string(), &rounds.to_string()]);
        show(&mut bench, *count, &loaded, &restarted);
    }
    bench.finish()
}

fn show(bench: &mut Bench, count: usize, loaded: &Loaded, restarted: &Restarted) {
    // Of few domains memory says nothing: it comes in pages, and threads take some.
    let bytes = (count >= 100_000).then_some(BYTES);
    let note = "resident, beside its name; after a restart, with the store's cache filled before";
    bench.line(format!("{count} domains: memory of one"), restarted.bytes, "B", bytes, note);
    let note = "the same after loading, the store's caches and all freed memory included";
    bench.line("  after loading", loaded.bytes, "B", None, note);
    let note =
        format!("{} changes of {} domains; {:.1} ms each", loaded.changes, loaded.batch, loaded.change_ms);
    bench.line("  loading", loaded.seconds, "s", None, note);
    for (what, times) in [("domain", &restarted.domain), ("pool", &restarted.pool)] {
        let Times { ours, bare } = times;
        let note = format!(
            "p50 {:.3} to {:.3} ms, p99 {:.3} to {:.3} ms, the slowest {:.1} to {:.1} ms; {} B",
            ours.p50, bare.p50, ours.p99, bare.p99, ours.most, bare.most, bare.bytes
        );
        bench.line(format!("  change of a {what} / bare commit, p50"), ours.p50 / bare.p50, "x", None, note);
        bench.line("  … how much later, p99", ours.p99 - bare.p99, "ms", Some(LATER), "");
    }
    let note = format!("of {} while changes were made", restarted.requests);
    #[expect(clippy::cast_precision_loss, reason = "counts far below 2^53")]
    let failed = restarted.failed as f64;
    bench.line("  failed requests", failed, "", Some(0.0), note);
    let note = format!(
        "{:.1} MB of records, {:.0} MB/s; reading them alone {:.2} s; opening the store {:.2} s before that",
        restarted.megabytes,
        restarted.megabytes / restarted.replay,
        restarted.scan,
        restarted.open
    );
    bench.line("  start until it serves", restarted.replay, "s", None, note);
    bench.line("  start / reading the records", restarted.replay / restarted.scan, "x", None, "");
}
