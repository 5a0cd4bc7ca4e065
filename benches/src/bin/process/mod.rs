//! The measurements, on Linux.

use std::fs;
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ews_benches::{Bench, interleave, median};
use ews_core::process::{Cgroups, ProcessConfig, ProcessRuntime};
use ews_core::runtime::{CreateOptions, ExecSpec, RemoveOptions, Runtime};
use ews_core::spec::source::{ArtifactSource, Source};
use ews_core::{
    Instance, InstanceKey, InstanceSpec, OwnerId, RevisionId, RuntimeExt as _, Selector, ServiceName,
};
use futures_util::{StreamExt as _, stream};

/// How many bytes go through exec.
const VOLUME: u64 = 100_000_000;

/// How long the CPU at rest is looked at.
const REST: Duration = Duration::from_secs(5);

pub(crate) fn main() {
    ews_core::process::shim_entry();
    if std::env::args().nth(1).as_deref() == Some("peer") {
        return first_of_two();
    }
    let mut bench = Bench::from_args("process");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let open = |name: &str, cgroups: Cgroups| {
        let config = ProcessConfig::new(folder.path().join(name)).with_cgroups(cgroups);
        runtime.block_on(ProcessRuntime::open(config)).unwrap()
    };
    // Both before anything is removed: a file system such as ext4 goes around what was freed in the last seconds, one file at a time.
    let pairs = [(Cgroups::Auto, "with control groups"), (Cgroups::Off, "without control groups")];
    let launched = pairs.map(|(cgroups, how)| {
        let ours = open(how, cgroups);
        let launched = launch(&mut bench, &runtime, &ours, folder.path(), how);
        (ours, launched, how)
    });
    for (ours, launched, how) in launched {
        remove(&mut bench, &runtime, &ours, launched, how);
    }
    at_rest(&mut bench, &runtime, &open("rest", Cgroups::Auto));
    through_exec(&mut bench, &runtime, &open("exec", Cgroups::Auto));
    drop(folder);
    std::process::exit(bench.finish());
}

fn spec() -> InstanceSpec {
    let mut spec = InstanceSpec::new(Source::Artifact(ArtifactSource::new("/bin/sleep")));
    spec.args = vec!["1000".to_owned()];
    spec
}

fn key(slot: u32) -> InstanceKey {
    InstanceKey {
        owner: OwnerId::new("bench").unwrap(),
        service: ServiceName::new("sleeper").unwrap(),
        revision: RevisionId::new("r1").unwrap(),
        slot,
        generation: 0,
    }
}

fn launch(
    bench: &mut Bench,
    threads: &tokio::runtime::Runtime,
    ours: &ProcessRuntime,
    folder: &Path,
    how: &str,
) -> (Vec<Instance>, Vec<Peer>) {
    let rounds = bench.scale(200, 20);
    let spec = spec();
    let own = std::env::current_exe().unwrap();
    let options = CreateOptions::default();
    let (mut launched, mut peers) = (Vec::new(), Vec::new());
    let pair = interleave(
        rounds,
        || {
            let key = key(launched.len() as u32);
            launched.push(threads.block_on(ours.launch(&spec, &key, &options)).unwrap());
        },
        || {
            let folder = folder.join(format!("peer-{}-{}", how.len(), peers.len()));
            peers.push(Peer::launch(&own, &folder));
        },
    );
    let name = format!("launch, {how}");
    bench.line(
        &name,
        pair.ours().as_secs_f64() * 1e3,
        "ms",
        None,
        "create and start, until its program runs",
    );
    bench.ratio(&name, "two bare fork+execs, same pipes and syncs", &pair, Some(1.3));
    (launched, peers)
}

fn remove(
    bench: &mut Bench,
    threads: &tokio::runtime::Runtime,
    ours: &ProcessRuntime,
    (launched, peers): (Vec<Instance>, Vec<Peer>),
    how: &str,
) {
    let mut times = Vec::new();
    for instance in launched {
        let began = Instant::now();
        threads.block_on(ours.remove(&instance.id, &RemoveOptions::force())).unwrap();
        times.push(began.elapsed().as_secs_f64() * 1e3);
    }
    let name = format!("forced removal, {how}");
    bench.line(name, median(times), "ms", None, "kill, end synced to disk, everything gone");
    drop(peers);
}

/// Two bare processes, the one started by the other.
struct Peer(Child);

impl Peer {
    fn launch(own: &Path, folder: &Path) -> Self {
        let new = folder.with_extension("new");
        fs::create_dir(&new).unwrap();
        fs::create_dir_all(new.join("work/tmp")).unwrap();
        fs::create_dir(new.join("log")).unwrap();
        // The same sizes and the same syncs: a record of its own, which is whole when it has its name, as the directory is.
        let temporary = new.join("record.tmp");
        let mut record = fs::File::create(&temporary).unwrap();
        record.write_all(&[b'x'; 600]).unwrap();
        record.sync_data().unwrap();
        fs::rename(&temporary, new.join("record")).unwrap();
        fs::File::open(&new).unwrap().sync_all().unwrap();
        fs::rename(&new, folder).unwrap();
        fs::File::open(folder.parent().unwrap()).unwrap().sync_all().unwrap();
        let mut child = Command::new(own)
            .arg("peer")
            .current_dir(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut runs = [0];
        child.stdout.as_mut().unwrap().read_exact(&mut runs).unwrap();
        Self(child)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        self.0.wait().unwrap();
    }
}

/// The first of the two: it starts the other, says so, and ends it when its input ends.
fn first_of_two() {
    let mut second = Command::new("/bin/sleep")
        .arg("1000")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    std::io::stdout().write_all(b"x").unwrap();
    std::io::stdout().flush().unwrap();
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    second.kill().unwrap();
    second.wait().unwrap();
}

fn at_rest(bench: &mut Bench, threads: &tokio::runtime::Runtime, ours: &ProcessRuntime) {
    let count = bench.scale(500, 50) as u32;
    let spec = spec();
    let before = own(std::process::id());
    let began = Instant::now();
    threads.block_on(async {
        let launches = (0..count).map(|slot| {
            let spec = &spec;
            async move { ours.launch(spec, &key(slot), &CreateOptions::default()).await.unwrap() }
        });
        let launched: Vec<_> = stream::iter(launches).buffer_unordered(8).collect().await;
        assert_eq!(launched.len(), count as usize);
    });
    let rate = f64::from(count) / began.elapsed().as_secs_f64();
    bench.line("launches, 8 at a time", rate, "/s", None, format!("{count} instances"));
    let shims = children_named("ews-shim");
    assert_eq!(shims.len(), count as usize);
    let controller = own(std::process::id()).saturating_sub(before) as f64 / f64::from(count);
    bench.line("controller, per instance", controller / 1024.0, "KiB", None, "anonymous memory, growth");
    let each = median(shims.iter().map(|pid| proportional(*pid) as f64));
    bench.line("shim, each", each / 1024.0, "KiB", None, "proportional set size, median");
    let ticks = |pids: &[u32]| pids.iter().map(|pid| ticks(*pid)).sum::<u64>();
    let all: Vec<u32> = shims.iter().copied().chain([std::process::id()]).collect();
    let (start, began) = (ticks(&all), Instant::now());
    std::thread::sleep(REST);
    let used = (ticks(&all) - start) as f64 / 100.0 / began.elapsed().as_secs_f64() * 100.0;
    bench.line(
        "CPU at rest, controller and shims",
        used,
        "%",
        None,
        format!("of one CPU, over {REST:?}, ticks of 10 ms"),
    );

    let ids: Vec<_> = threads
        .block_on(ours.list(&Selector::everything()))
        .unwrap()
        .into_iter()
        .map(|instance| instance.id)
        .collect();
    let rounds = bench.scale(20, 5);
    let stat = format!("/proc/{}/stat", std::process::id());
    let pair = interleave(
        rounds,
        || assert_eq!(threads.block_on(ours.usage(&ids)).unwrap().len(), ids.len()),
        || ids.iter().for_each(|_| drop(fs::read(&stat).unwrap())),
    );
    let each = pair.ours().as_secs_f64() * 1e6 / f64::from(count);
    bench.line("usage, per instance", each, "µs", None, "all of them in one call");
    bench.ratio("usage of all", "one read of /proc each", &pair, None);
    threads.block_on(async {
        let removes =
            ids.iter().map(|id| async move { ours.remove(id, &RemoveOptions::force()).await.unwrap() });
        stream::iter(removes).buffer_unordered(8).collect::<Vec<()>>().await;
    });
}

fn through_exec(bench: &mut Bench, threads: &tokio::runtime::Runtime, ours: &ProcessRuntime) {
    let options = CreateOptions::default();
    let instance = threads.block_on(ours.launch(&spec(), &key(0), &options)).unwrap();
    let shim = children_named("ews-shim").first().copied().unwrap();
    let volume = bench.scale(VOLUME as usize, VOLUME as usize / 10);
    let command = ["head", "-c", &volume.to_string(), "/dev/zero"].map(str::to_owned);
    let rounds = bench.scale(10, 3);
    let before = high_water(std::process::id());
    let pair = interleave(
        rounds,
        || {
            threads.block_on(async {
                let session = ours.exec(&instance.id, &ExecSpec::new(command.iter().cloned())).await.unwrap();
                let count = |sum, piece: ews_core::Result<ews_core::runtime::ExecOutput>| {
                    std::future::ready(sum + piece.unwrap().bytes.len())
                };
                assert_eq!(session.output.fold(0, count).await, volume);
                assert!(session.control.wait().await.unwrap().is_success());
            });
        },
        || {
            let mut child = Command::new("head").args(&command[1..]).stdout(Stdio::piped()).spawn().unwrap();
            let mut pipe = child.stdout.take().unwrap();
            let (mut buffer, mut sum) = (vec![0; 64 << 10], 0);
            while let Ok(count @ 1..) = pipe.read(&mut buffer) {
                sum += count;
            }
            assert_eq!(sum, volume);
            child.wait().unwrap();
        },
    );
    let mib = volume as f64 / 1_048_576.0 / pair.ours().as_secs_f64();
    bench.line("exec, output", mib, "MiB/s", None, format!("{volume} bytes"));
    bench.ratio("exec, output", "a bare pipe", &pair, None);
    let grown = high_water(std::process::id()).saturating_sub(before) as f64;
    bench.line(
        "controller's memory for it",
        grown / 1_048_576.0,
        "MiB",
        Some(8.0),
        "growth of the highest resident size",
    );
    let shim = high_water(shim) as f64;
    bench.line(
        "shim's memory for it",
        shim / 1_048_576.0,
        "MiB",
        Some(16.0),
        "highest resident size, its program's pages included",
    );
    threads.block_on(ours.remove(&instance.id, &RemoveOptions::force())).unwrap();
}

/// The processes whose parent is this one and whose command line begins so.
fn children_named(name: &str) -> Vec<u32> {
    let own = format!("\nPPid:\t{}\n", std::process::id());
    let pids = fs::read_dir("/proc").unwrap().filter_map(|e| e.unwrap().file_name().to_str()?.parse().ok());
    pids.filter(|pid: &u32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        status.contains(&own) && line.starts_with(name.as_bytes())
    })
    .collect()
}

/// Memory with shared pages divided among those that share them, in bytes.
fn proportional(pid: u32) -> u64 {
    field(&format!("/proc/{pid}/smaps_rollup"), "Pss:")
}

/// Memory that no file is behind, in bytes: what a program's own pages shared with its children do not shrink.
fn own(pid: u32) -> u64 {
    field(&format!("/proc/{pid}/smaps_rollup"), "Pss_Anon:")
}

fn high_water(pid: u32) -> u64 {
    field(&format!("/proc/{pid}/status"), "VmHWM:")
}

fn field(file: &str, name: &str) -> u64 {
    let text = fs::read_to_string(file).unwrap_or_default();
    let kib = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

/// CPU time in ticks, user and kernel.
fn ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default();
    fields.split_whitespace().skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum()
}
