//! The measurements, on Linux.

mod raw;

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ews_benches::{Bench, interleave, resident_bytes};
use ews_core::runtime::{CreateOptions, ExecSpec, RemoveOptions, Runtime as _, StopOptions};
use ews_core::spec::source::{ImageSource, PullPolicy, Source};
use ews_core::{
    InstanceId, InstanceKey, InstanceSpec, OwnerId, RevisionId, RuntimeExt as _, Selector, ServiceName,
};
use ews_docker::{DockerConfig, DockerRuntime};
use futures_util::{StreamExt as _, stream};
use raw::Raw;

/// What every call may cost beside raw HTTP.
const TARGET: f64 = 1.2;
const IMAGE: &str = "ews-bench/busybox:1";
/// How many bytes go through exec.
const VOLUME: u64 = 100_000_000;

pub(crate) fn main() {
    let mut bench = Bench::from_args("docker");
    let threads = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let config = DockerConfig::from_env().unwrap();
    let socket = socket(&config);
    if std::os::unix::net::UnixStream::connect(&socket).is_err() {
        println!("no Docker Engine answers at {}", config.address);
        std::process::exit(i32::from(
            std::env::var("EWS_TEST_DOCKER").is_ok_and(|value| value == "required"),
        ));
    }
    image();
    let ours = threads.block_on(DockerRuntime::connect(config)).unwrap();
    clean(&threads, &ours);
    let mut raw = Raw::connect(&socket);
    calls(&mut bench, &threads, &ours, &mut raw);
    lists(&mut bench, &threads, &ours, &mut raw);
    usage(&mut bench, &threads, &ours, &mut raw);
    through_exec(&mut bench, &threads, &ours);
    clean(&threads, &ours);
    docker(&["rmi", IMAGE]);
    std::process::exit(bench.finish());
}

fn socket(config: &DockerConfig) -> PathBuf {
    match &config.address {
        ews_docker::EngineAddress::Unix(path) => path.clone(),
        other => panic!("this bench measures an engine on this machine, by its socket; {other} is none"),
    }
}

fn docker(arguments: &[&str]) -> Vec<u8> {
    Command::new("docker").args(arguments).stdin(Stdio::null()).stderr(Stdio::null()).output().unwrap().stdout
}

fn image() {
    let folder = tempfile::tempdir().unwrap();
    let busybox =
        ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|path| std::fs::exists(path).unwrap_or(false));
    std::fs::copy(busybox.expect("a static busybox"), folder.path().join("busybox")).unwrap();
    let dockerfile = "FROM scratch\nCOPY busybox /bin/busybox\nCOPY busybox /bin/sh\nENV PATH=/bin\n";
    std::fs::write(folder.path().join("Dockerfile"), dockerfile).unwrap();
    let built = docker(&["build", "-q", "-t", IMAGE, folder.path().to_str().unwrap()]);
    assert!(!built.is_empty(), "the image can't be built");
}

fn clean(threads: &tokio::runtime::Runtime, ours: &DockerRuntime) {
    threads.block_on(async {
        let left = ours.list(&Selector::equal("ews/owner", "bench").unwrap()).await.unwrap();
        let removes = stream::iter(left)
            .map(|instance| async move { ours.remove(&instance.id, &RemoveOptions::force()).await });
        let removed: Vec<_> = removes.buffer_unordered(8).collect().await;
        removed.into_iter().for_each(|removed| removed.unwrap());
    });
}

fn spec() -> InstanceSpec {
    let mut image = ImageSource::new(IMAGE.parse().unwrap());
    image.pull = PullPolicy::Never;
    let mut spec = InstanceSpec::new(Source::Image(image));
    spec.command = ["busybox", "sleep", "100000"].map(str::to_owned).to_vec();
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

/// Single calls, each against the requests that it is made of.
fn calls(bench: &mut Bench, threads: &tokio::runtime::Runtime, ours: &DockerRuntime, raw: &mut Raw) {
    let options = CreateOptions::default();
    let launched = threads.block_on(ours.launch(&spec(), &key(0), &options)).unwrap();
    let id = &launched.id;
    let target = format!("/containers/{id}/json");
    let rounds = bench.scale(1000, 50);
    let pair = interleave(rounds, || threads.block_on(ours.get(id)).unwrap(), || raw.ask("GET", &target, ""));
    bench.ratio("get", "raw HTTP", &pair, Some(TARGET));
    let pair = interleave(
        bench.scale(30, 5),
        || threads.block_on(ours.get(id)).unwrap(),
        || docker(&["inspect", id.as_str()]),
    );
    bench.ratio("get", "docker inspect", &pair, None);
    let pair = interleave(
        bench.scale(200, 20),
        || threads.block_on(ours.nodes()).unwrap(),
        || raw.ask("GET", "/info", ""),
    );
    bench.ratio("nodes", "raw HTTP", &pair, Some(TARGET));

    let mut slot = 10;
    let body = format!(
        r#"{{"Image":"{IMAGE}","Entrypoint":["busybox","sleep","100000"],"HostConfig":{{"LogConfig":{{"Type":"json-file","Config":{{"max-size":"10485760","max-file":"3"}}}}}}}}"#
    );
    let mut number = 0;
    let pair = interleave(
        bench.scale(60, 5),
        || {
            slot += 1;
            threads.block_on(async {
                let created = ours.create(&spec(), &key(slot), &options).await.unwrap();
                ours.remove(&created.id, &RemoveOptions::default()).await.unwrap();
            });
        },
        || {
            number += 1;
            let name = format!("ews-bench-raw-{number}");
            assert_eq!(raw.ask("POST", &format!("/containers/create?name={name}"), &body).0, 201);
            assert_eq!(raw.ask("DELETE", &format!("/containers/{name}?v=1"), "").0, 204);
        },
    );
    bench.ratio("create and remove", "raw HTTP, these two requests alone", &pair, Some(TARGET));

    assert_eq!(raw.ask("POST", "/containers/create?name=ews-bench-raw", &body).0, 201);
    let kill = StopOptions::grace(Duration::ZERO);
    threads.block_on(ours.stop(id, &kill)).unwrap();
    let pair = interleave(
        bench.scale(15, 2),
        || {
            threads.block_on(async {
                ours.start(id).await.unwrap();
                ours.stop(id, &kill).await.unwrap();
            });
        },
        || {
            assert_eq!(raw.ask("POST", "/containers/ews-bench-raw/start", "").0, 204);
            assert_eq!(raw.ask("POST", "/containers/ews-bench-raw/kill?signal=KILL", "").0, 204);
            raw.ask("POST", "/containers/ews-bench-raw/wait?condition=not-running", "");
        },
    );
    bench.ratio("start and kill", "raw HTTP", &pair, Some(TARGET));
    raw.ask("DELETE", "/containers/ews-bench-raw?force=1", "");
    threads.block_on(ours.remove(id, &RemoveOptions::force())).unwrap();
}

/// A list, which needs one request more for each container.
fn lists(bench: &mut Bench, threads: &tokio::runtime::Runtime, ours: &DockerRuntime, raw: &mut Raw) {
    let count = bench.scale(100, 10) as u32;
    let ids: Vec<InstanceId> = threads.block_on(async {
        let options = CreateOptions::default();
        let mut ids = Vec::new();
        for slot in 0..count {
            ids.push(ours.create(&spec(), &key(1000 + slot), &options).await.unwrap().id);
        }
        ids
    });
    let selector = Selector::equal("ews/owner", "bench").unwrap();
    let pair = interleave(
        bench.scale(30, 3),
        || assert_eq!(threads.block_on(ours.list(&selector)).unwrap().len(), ids.len()),
        || {
            raw.ask("GET", "/containers/json?all=1", "");
            for id in &ids {
                raw.ask("GET", &format!("/containers/{id}/json"), "");
            }
        },
    );
    bench.ratio(&format!("list of {count}"), "raw HTTP, one request after the other", &pair, Some(TARGET));
    clean(threads, ours);
}

/// CPU time that the processes of these names have used so far.
fn cpu_of(names: &[&str]) -> Duration {
    let mut ticks = 0;
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        let Some((front, rest)) = stat.rsplit_once(')') else { continue };
        if names.iter().any(|name| front.ends_with(&format!("({name}"))) {
            let fields: Vec<&str> = rest.split_whitespace().collect();
            ticks += fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        }
    }
    // USER_HZ is 100 on every Linux that Rust runs on.
    Duration::from_millis(ticks * 10)
}

/// Our own CPU time, by the scheduler's clock.
fn own_cpu() -> Duration {
    let mut sum = 0;
    for task in std::fs::read_dir("/proc/self/task").unwrap().flatten() {
        let text = std::fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
        sum += text.split(' ').next().and_then(|nanos| nanos.parse::<u64>().ok()).unwrap_or(0);
    }
    Duration::from_nanos(sum)
}

/// Usage of many containers: from the kernel's files, and from the engine.
fn usage(bench: &mut Bench, threads: &tokio::runtime::Runtime, ours: &DockerRuntime, raw: &mut Raw) {
    let count = bench.scale(200, 8) as u32;
    let options = CreateOptions::default();
    let ids: Vec<InstanceId> = threads.block_on(async {
        let launches = stream::iter(0..count).map(|slot| {
            let (options, key) = (&options, key(5000 + slot));
            async move { ours.launch(&spec(), &key, options).await.unwrap().id }
        });
        launches.buffer_unordered(4).collect().await
    });
    let rounds = bench.scale(20, 3);
    // Where each one's files are is found once.
    assert_eq!(threads.block_on(ours.usage(&ids)).unwrap().len(), ids.len());
    let engine = ["dockerd", "containerd", "containerd-shim"];
    let (daemon, own, began) = (cpu_of(&engine), own_cpu(), Instant::now());
    for _ in 0..rounds {
        assert_eq!(threads.block_on(ours.usage(&ids)).unwrap().len(), ids.len());
    }
    let each = f64::from(count) * rounds as f64;
    let micros = |time: Duration| time.as_secs_f64() * 1e6 / each;
    let note = format!("of {count} containers, every figure of the contract");
    bench.line("usage of one container, from the kernel", micros(began.elapsed()), "µs", Some(50.0), note);
    bench.line("usage of one container, our CPU", micros(own_cpu().saturating_sub(own)), "µs", None, "");
    bench.line(
        "usage of one container, the engine's CPU",
        micros(cpu_of(&engine).saturating_sub(daemon)),
        "µs",
        None,
        "",
    );

    // The engine takes most of a second for each, so not all of them are asked.
    let asked = &ids[..ids.len().min(30)];
    let (daemon, began) = (cpu_of(&engine), Instant::now());
    for id in asked {
        raw.ask("GET", &format!("/containers/{id}/stats?stream=false&one-shot=true"), "");
    }
    let micros = |time: Duration| time.as_secs_f64() * 1e6 / asked.len() as f64;
    bench.line(
        "statistics of one container from the engine, wall",
        micros(began.elapsed()),
        "µs",
        None,
        "one-shot, one after the other",
    );
    bench.line(
        "statistics of one container from the engine, its CPU",
        micros(cpu_of(&engine).saturating_sub(daemon)),
        "µs",
        None,
        "",
    );
    clean(threads, ours);
}

/// Much through exec, beside the `docker` command.
fn through_exec(bench: &mut Bench, threads: &tokio::runtime::Runtime, ours: &DockerRuntime) {
    let launched = threads.block_on(ours.launch(&spec(), &key(9000), &CreateOptions::default())).unwrap();
    let id = &launched.id;
    let volume = if bench.quick { VOLUME / 10 } else { VOLUME };
    let command = [
        "busybox".to_owned(),
        "head".to_owned(),
        "-c".to_owned(),
        volume.to_string(),
        "/dev/zero".to_owned(),
    ];
    let before = resident_bytes().unwrap_or(0);
    let mut peak = before;
    let pair = interleave(
        bench.scale(5, 1),
        || {
            threads.block_on(async {
                let mut session = ours.exec(id, &ExecSpec::new(command.clone())).await.unwrap();
                let (mut bytes, mut pieces) = (0, 0_u32);
                while let Some(piece) = session.output.next().await {
                    bytes += piece.unwrap().bytes.len() as u64;
                    pieces += 1;
                    if pieces.is_multiple_of(64) {
                        peak = peak.max(resident_bytes().unwrap_or(0));
                    }
                }
                assert_eq!(bytes, volume);
                assert!(session.control.wait().await.unwrap().is_success());
            });
        },
        || {
            let mut arguments = vec!["exec", id.as_str()];
            arguments.extend(command.iter().map(String::as_str));
            let status =
                Command::new("docker").args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).status();
            assert!(status.unwrap().success());
        },
    );
    bench.ratio(&format!("{} MB through exec", volume / 1_000_000), "docker exec", &pair, Some(TARGET));
    let grown = (peak - before) as f64 / 1e6;
    bench.line(
        "memory that this took",
        grown,
        "MB",
        Some(16.0),
        "the most that was resident meanwhile, above before",
    );
    threads.block_on(ours.remove(id, &RemoveOptions::force())).unwrap();
}
