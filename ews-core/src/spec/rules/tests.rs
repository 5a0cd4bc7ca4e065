//! Each rule is broken once, alone, in a spec that is good otherwise.

use std::time::Duration;

use crate::id::{NetworkName, PortName, ServiceName, VolumeName};
use crate::label::Labels;
use crate::selector::{Requirement, Selector};
use crate::spec::ServiceSpec;
use crate::spec::content::{ConfigFile, EnvValue, FileContent};
use crate::spec::lifecycle::{EngineRestart, Job, RestartCondition, Signal};
use crate::spec::network::{NetworkAttachment, Port, Protocol, Publish};
use crate::spec::placement::Preference;
use crate::spec::platform::{Isolation, Os};
use crate::spec::probe::{Check, EngineCheck, ExecCheck, HttpCheck, Probe, TcpCheck};
use crate::spec::resources::{ByteSize, Cpu, Ulimit};
use crate::spec::security::Device;
use crate::spec::source::{ArtifactSource, Digest, ImagePin, ImageSource, Source};
use crate::spec::storage::{Mount, MountKind};

/// A good service with one TCP port.
fn good() -> ServiceSpec {
    let image = ImageSource::new("shop/web:1.2".parse().unwrap());
    let mut spec = ServiceSpec::new(ServiceName::new("web").unwrap(), Source::Image(image));
    spec.instance.ports.push(port("http", 8080));
    spec
}

fn job() -> ServiceSpec {
    let source = good().instance.source;
    ServiceSpec::job(ServiceName::new("migrate").unwrap(), source, Job::default())
}

fn windows() -> ServiceSpec {
    let mut spec = good();
    spec.instance.platform.os = Some(Os::Windows);
    spec
}

fn port(name: &str, number: u16) -> Port {
    Port::new(PortName::new(name).unwrap(), Some(number))
}

fn published(name: &str, number: u16, address: Option<&str>, node: Option<u16>) -> Port {
    let mut port = port(name, number);
    port.publish = Some(Publish { address: address.map(|a| a.parse().unwrap()), port: node });
    port
}

fn volume(target: &str) -> Mount {
    Mount::new(target, MountKind::Volume(VolumeName::new("data").unwrap()))
}

fn plain(text: &str) -> EnvValue {
    EnvValue::Plain(text.to_owned())
}

fn tcp() -> Probe {
    Probe::new(Check::Tcp(TcpCheck::default()))
}

fn http(change: impl FnOnce(&mut HttpCheck)) -> Option<Probe> {
    let mut check = HttpCheck::new("/");
    change(&mut check);
    Some(Probe::new(Check::Http(check)))
}

fn artifact(location: &str, digest: Option<Digest>) -> Source {
    let mut artifact = ArtifactSource::new(location);
    artifact.digest = digest;
    Source::Artifact(artifact)
}

/// The change breaks exactly one rule, at this path, with these words.
#[track_caller]
fn broken(mut spec: ServiceSpec, path: &str, words: &str, change: impl FnOnce(&mut ServiceSpec)) {
    spec.check().expect("the spec is good before the change");
    change(&mut spec);
    let problems = spec.check().expect_err("the rule does not hold");
    let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
    assert_eq!(problems.len(), 1, "{lines:#?}");
    let problem = problems.iter().next().unwrap();
    assert_eq!(problem.path.to_string(), path, "{problem}");
    assert!(problem.to_string().contains(words), "{problem}");
}

/// The change breaks nothing.
#[track_caller]
fn fine(mut spec: ServiceSpec, change: impl FnOnce(&mut ServiceSpec)) {
    change(&mut spec);
    if let Err(problems) = spec.check() {
        panic!("{problems}");
    }
}

#[test]
fn sources() {
    let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
    broken(good(), "image.pin.manifest", "differs", |s| {
        let mut image =
            ImageSource::new("web".parse::<crate::spec::source::ImageRef>().unwrap().with_digest(a));
        image.pin = Some(ImagePin::Manifest(b));
        s.instance.source = Source::Image(image);
    });
    broken(good(), "image.pin.local.engine", "empty", |s| {
        let mut image = ImageSource::new("web".parse().unwrap());
        image.pin = Some(ImagePin::Local { engine: String::new(), image_id: a });
        s.instance.source = Source::Image(image);
    });
    for (location, digest, path, words) in [
        ("https://x.example/a", None, "artifact.digest", "needs the digest"),
        ("https://me:hunter2@x.example/a", Some(a), "artifact.location", "user or password"),
        ("https:///a", Some(a), "artifact.location", "not an address"),
        ("http://x.example/a", Some(a), "artifact.location", "scheme `http`"),
        ("s3://bucket/a", Some(a), "artifact.location", "scheme `s3`"),
        ("app.tar.gz", None, "artifact.location", "not absolute"),
        ("/srv/../app", None, "artifact.location", "`..`"),
        ("", None, "artifact.location", "is empty"),
    ] {
        broken(good(), path, words, |s| s.instance.source = artifact(location, digest));
    }
    fine(good(), |s| s.instance.source = artifact("/srv/app", None));
    broken(good(), "platform.os", "macOS", |s| s.instance.platform.os = Some(Os::Darwin));
    fine(good(), |s| {
        s.instance.platform.os = Some(Os::Darwin);
        s.instance.source = artifact("/srv/app", None);
    });
}

#[test]
fn words_and_environment() {
    broken(good(), "command[1]", "NUL", |s| s.instance.command = vec!["a".into(), "b\0c".into()]);
    broken(good(), "args[0]", "NUL", |s| s.instance.args = vec!["\0".into()]);
    fine(good(), |s| s.instance.args = vec!["two\nlines".into(), String::new()]);
    broken(good(), "command[0]", "name is empty", |s| s.instance.command = vec![String::new()]);
    broken(good(), "args[0]", "131072 bytes", |s| s.instance.args = vec!["x".repeat(131_072)]);
    broken(good(), "args", "at most 4096", |s| s.instance.args = vec!["x".into(); 4097]);
    broken(windows(), "args", "command line", |s| s.instance.args = vec!["x".repeat(33_000)]);
    fine(good(), |s| s.instance.args = vec!["x".repeat(33_000)]);
    for (name, words) in [
        ("", "is empty"),
        ("A=b", "contains `=`"),
        ("A b", "a space"),
        ("A:b", "contains `:`"),
        (&"A".repeat(257), "longer"),
    ] {
        let path = crate::document::Path::root().key("env").key(name).to_string();
        broken(good(), &path, words, |s| drop(s.instance.env.insert(name.to_owned(), plain("x"))));
    }
    broken(good(), "env.A", "NUL", |s| drop(s.instance.env.insert("A".into(), plain("hunter2\0"))));
    broken(good(), "env", "at most 1000", |s| {
        s.instance.env = (0..1001).map(|n| (format!("A{n}"), plain(""))).collect();
    });
    let both = [("Path".to_owned(), plain("a")), ("PATH".to_owned(), plain("b"))];
    broken(windows(), "env.Path", "differs in case", |s| s.instance.env.extend(both.clone()));
    fine(good(), |s| s.instance.env.extend(both.clone()));
    broken(windows(), "env.A", "too long", |s| {
        drop(s.instance.env.insert("A".into(), plain(&"x".repeat(32_766))))
    });
    broken(good(), "env.PORT_WEB_UI", "the runtime sets", |s| {
        s.instance.ports.push(Port::new(PortName::new("web-ui").unwrap(), None));
        s.instance.env.insert("PORT_WEB_UI".into(), plain("1"));
        s.instance.env.insert("PORT".into(), plain("8080"));
    });
}

#[test]
fn files_and_mounts() {
    let file = |path: &str| ConfigFile::new(path, FileContent::Content(String::new()));
    broken(good(), "files[0].path", "not absolute", |s| s.instance.files = vec![file("etc/x")]);
    broken(good(), "files[0].path", "a directory", |s| s.instance.files = vec![file("/etc/")]);
    broken(good(), "files[0].path", "control character", |s| s.instance.files = vec![file("/etc/\0x")]);
    broken(good(), "files[1].path", "twice, first at files[0].path", |s| {
        s.instance.files = vec![file("/etc/x"), file("//etc/x")];
    });
    broken(good(), "files", "at most 128", |s| {
        s.instance.files = (0..129).map(|n| file(&format!("/f{n}"))).collect()
    });
    broken(good(), "files[0].content", "524289 bytes", |s| {
        s.instance.files = vec![ConfigFile::new("/x", FileContent::Content("x".repeat(524_289)))];
    });
    broken(good(), "", "as JSON", |s| {
        let half = FileContent::Content("x".repeat(500_000));
        s.instance.files = vec![ConfigFile::new("/x", half.clone()), ConfigFile::new("/y", half)];
    });
    broken(good(), "mounts[0].target", "the root", |s| s.instance.mounts = vec![volume("//")]);
    broken(good(), "mounts[0].target", "`..`", |s| s.instance.mounts = vec![volume("/a/..")]);
    broken(good(), "mounts[1].target", "twice", |s| s.instance.mounts = vec![volume("/a"), volume("/a/")]);
    broken(good(), "mounts", "at most 128", |s| {
        s.instance.mounts = (0..129).map(|n| volume(&format!("/m{n}"))).collect();
    });
    broken(good(), "mounts[0].bind", "not absolute", |s| {
        s.instance.mounts = vec![Mount::new("/a", MountKind::Bind("./a".into()))];
    });
    broken(good(), "mounts[0].tmpfs", "at least 4096", |s| {
        s.instance.mounts = vec![Mount::new("/a", MountKind::Tmpfs(ByteSize::from_bytes(64)))];
    });
    let pipe = |name: &str| Mount::new(r"\\.\pipe\inside", MountKind::NamedPipe(name.into()));
    broken(good(), "mounts[0].named_pipe", "platform.os is not given", |s| {
        s.instance.mounts = vec![pipe(r"\\.\pipe\x")]
    });
    broken(windows(), "mounts[0].named_pipe", "not a named pipe", |s| {
        s.instance.mounts = vec![pipe(r"\\.\pipe\a\b")]
    });
    fine(windows(), |s| s.instance.mounts = vec![pipe(r"\\.\pipe\x")]);
    broken(windows(), "mounts[0].target", "not a named pipe", |s| {
        s.instance.mounts = vec![Mount::new(r"D:\p", MountKind::NamedPipe(r"\\.\pipe\x".into()))]
    });
    for (target, words) in [
        (r"C:\", "the root"),
        ("c:/", "the root"),
        ("/a", "not absolute on Windows"),
        (r"D:\a\NUL.txt", "reserves"),
        (r"D:\a|b", "forbids"),
    ] {
        broken(windows(), "mounts[0].target", words, |s| s.instance.mounts = vec![volume(target)]);
    }
    broken(windows(), "mounts[1].target", "twice", |s| {
        s.instance.mounts = vec![volume(r"D:\A"), volume("d:/a")]
    });
    broken(windows(), "mounts[0].tmpfs", "no tmpfs", |s| {
        s.instance.mounts = vec![Mount::new(r"D:\a", MountKind::Tmpfs(ByteSize::from_mib(1)))];
    });
    broken(good(), "mounts[0].target", "path of Windows", |s| {
        s.instance.platform.os = Some(Os::Linux);
        s.instance.mounts = vec![volume(r"D:\a")];
    });
    fine(good(), |s| s.instance.mounts = vec![volume(r"D:\a")]);
    broken(good(), "labels.\"ews/owner\"", "belong to EWS", |s| {
        s.instance.labels = Labels::new([("ews/owner", "me")]).unwrap();
    });
}

#[test]
fn ports_networks_and_names() {
    broken(good(), "ports[1].name", "twice, first at ports[0].name", |s| {
        s.instance.ports.push(port("http", 9090))
    });
    broken(good(), "ports[1].number", "8080/tcp is given twice", |s| s.instance.ports.push(port("b", 8080)));
    fine(good(), |s| {
        let mut udp = port("dns", 8080);
        udp.protocol = Protocol::Udp;
        s.instance.ports.push(udp);
    });
    broken(good(), "ports[0].number", "number 0", |s| s.instance.ports[0].number = Some(0));
    broken(good(), "ports[0].publish.port", "number 0", |s| {
        s.instance.ports = vec![published("a", 1, None, Some(0))]
    });
    broken(good(), "ports", "at most 128", |s| {
        s.instance.ports = (1..130).map(|n| port(&format!("p{n}"), n)).collect();
    });
    for (a, b, clash) in [
        (None, None, true),
        (None, Some("127.0.0.1"), true),
        (Some("0.0.0.0"), Some("10.0.0.1"), true),
        (Some("10.0.0.1"), Some("10.0.0.1"), true),
        (Some("10.0.0.1"), Some("10.0.0.2"), false),
    ] {
        let ports = vec![published("a", 1, a, Some(80)), published("b", 2, b, Some(80))];
        if clash {
            broken(good(), "ports[1].publish.port", "published already for the port \"a\"", |s| {
                s.instance.ports = ports
            });
        } else {
            fine(good(), |s| s.instance.ports = ports);
        }
    }
    fine(good(), |s| s.instance.ports = vec![published("a", 1, None, None), published("b", 2, None, None)]);
    broken(windows(), "ports[0].publish.address", "all addresses", |s| {
        s.instance.ports = vec![published("a", 1, Some("10.0.0.1"), None)];
    });
    fine(windows(), |s| s.instance.ports = vec![published("a", 1, Some("0.0.0.0"), None)]);
    let network = |name: &str, aliases: &[&str]| {
        let mut network = NetworkAttachment::new(NetworkName::new(name).unwrap());
        network.aliases = aliases.iter().map(|&a| a.to_owned()).collect();
        network
    };
    broken(good(), "networks[1].name", "twice", |s| {
        s.instance.networks = vec![network("a", &[]), network("a", &[])]
    });
    broken(good(), "networks[0].aliases[0]", "not a host name", |s| {
        s.instance.networks = vec![network("a", &["b_c"])]
    });
    broken(good(), "networks[0].aliases[1]", "twice", |s| {
        s.instance.networks = vec![network("a", &["b", "B"])]
    });
    broken(good(), "networks[0].aliases", "at most 32", |s| {
        s.instance.networks = vec![network("a", &["b"; 33])]
    });
    broken(good(), "networks", "at most 32", |s| {
        s.instance.networks = (0..33).map(|n| network(&format!("n{n}"), &[])).collect();
    });
    for name in ["", "-a", "a..b", "a b", &"a".repeat(64), &"a.".repeat(130)] {
        broken(good(), "hostname", "not a host name", |s| s.instance.hostname = Some(name.to_owned()));
    }
}

#[test]
fn probes() {
    let set = |probe: Probe| move |s: &mut ServiceSpec| s.instance.probes.readiness = Some(probe);
    let with = |change: fn(&mut Probe)| {
        let mut probe = tcp();
        change(&mut probe);
        set(probe)
    };
    fine(good(), set(tcp()));
    broken(good(), "probes.readiness.interval", "found 0s", with(|p| p.interval = Duration::ZERO));
    broken(good(), "probes.readiness.interval", "to 1d", with(|p| p.interval = Duration::from_secs(90_000)));
    broken(good(), "probes.readiness.timeout", "found 0s", with(|p| p.timeout = Duration::ZERO));
    broken(good(), "probes.readiness.timeout", "to 1h", with(|p| p.timeout = Duration::from_secs(3601)));
    broken(
        good(),
        "probes.readiness.initial_delay",
        "to 1d",
        with(|p| p.initial_delay = Duration::from_secs(90_000)),
    );
    broken(good(), "probes.readiness.success", "from 1 to 100", with(|p| p.success = 0));
    broken(good(), "probes.readiness.failure", "from 1 to 1000", with(|p| p.failure = 0));
    fine(good(), with(|p| p.success = 3));
    let twice = || Some(Probe { success: 2, ..tcp() });
    broken(good(), "probes.liveness.success", "only a readiness probe", |s| {
        s.instance.probes.liveness = twice()
    });
    broken(good(), "probes.startup.success", "only a readiness probe", |s| {
        s.instance.probes.startup = twice()
    });
    broken(good(), "probes.readiness.tcp.port", "no TCP port to probe", |s| {
        s.instance.ports.clear();
        s.instance.probes.readiness = Some(tcp());
    });
    broken(good(), "probes.readiness.tcp.port", "2 TCP ports", |s| {
        s.instance.ports.push(port("b", 2));
        s.instance.probes.readiness = Some(tcp());
    });
    let named = |name: &str| Probe::new(Check::Tcp(TcpCheck { port: Some(PortName::new(name).unwrap()) }));
    broken(good(), "probes.readiness.tcp.port", "accepted: \"http\"", set(named("htpt")));
    broken(good(), "probes.readiness.tcp.port", "not a TCP port", |s| {
        let mut udp = port("dns", 53);
        udp.protocol = Protocol::Udp;
        s.instance.ports.push(udp);
        s.instance.probes.readiness = Some(named("dns"));
    });
    for path in ["", "health", "/a b", "/a#b", "/\n", "/ü"] {
        broken(good(), "probes.readiness.http.path", "not a path", |s| {
            s.instance.probes.readiness = http(|c| c.path = path.to_owned());
        });
    }
    broken(good(), "probes.readiness.http.host", "not a host name", |s| {
        s.instance.probes.readiness = http(|c| c.host = Some("a\r\nb".into()));
    });
    fine(good(), |s| s.instance.probes.readiness = http(|c| c.host = Some("[::1]:80".into())));
    let header = |name: &'static str, value: &'static str| {
        move |s: &mut ServiceSpec| {
            s.instance.probes.readiness = http(|c| drop(c.headers.insert(name.into(), value.into())));
        }
    };
    broken(good(), "probes.readiness.http.headers.\"X…\"", "not the name", header("X Y", ""));
    broken(good(), "probes.readiness.http.headers.Host", "field of its own", header("Host", "x"));
    broken(good(), "probes.readiness.http.headers.X", "line break", header("X", "hunter2\r\nY: z"));
    broken(good(), "probes.readiness.http.headers", "at most 64", |s| {
        s.instance.probes.readiness =
            http(|c| c.headers = (0..65).map(|n| (format!("X{n}"), String::new())).collect());
    });
    broken(
        good(),
        "probes.readiness.exec.command",
        "empty",
        set(Probe::new(Check::Exec(ExecCheck::new([""; 0])))),
    );
    broken(
        good(),
        "probes.readiness.exec.command[0]",
        "NUL",
        set(Probe::new(Check::Exec(ExecCheck::new(["\0"])))),
    );
    broken(good(), "probes.readiness.engine.command[0]", "NUL", {
        set(Probe::new(Check::Engine(EngineCheck { command: vec!["\0".into()] })))
    });
}

#[test]
fn lifecycle() {
    broken(good(), "replicas", "from 0 to 100000", |s| s.replicas = 100_001);
    broken(good(), "stop.grace", "to 1d", |s| s.instance.stop.grace = Duration::from_secs(90_000));
    broken(windows(), "stop.signal", "SIGHUP", |s| s.instance.stop.signal = Signal::HUP);
    fine(windows(), |s| s.instance.stop.signal = Signal::KILL);
    broken(good(), "log.max_size", "64KiB", |s| s.instance.log.max_size = ByteSize::from_bytes(10));
    broken(good(), "log.max_files", "from 1", |s| s.instance.log.max_files = 0);
    broken(good(), "restart.attempts", "from 1", |s| s.restart.attempts = 0);
    broken(good(), "restart.window", "from 1s", |s| s.restart.window = Duration::ZERO);
}

#[test]
fn pauses_and_jobs() {
    broken(good(), "restart.max_delay", "less than `delay`", |s| s.restart.delay = Duration::from_secs(301));
    broken(good(), "restart.max_delay", "to 1d", |s| s.restart.max_delay = Duration::from_secs(90_000));
    broken(job(), "replicas", "runs one instance", |s| s.replicas = 2);
    broken(job(), "restart.condition", "not restarted", |s| s.restart.condition = RestartCondition::Always);
    broken(job(), "restart.condition", "job.retries", |s| s.restart.condition = RestartCondition::OnFailure);
    broken(job(), "engine_restart", "would restart", |s| {
        s.instance.engine_restart = EngineRestart::OnFailure
    });
    broken(job(), "probes", "no probes", |s| {
        s.instance.probes.startup = Some(Probe::new(Check::Exec(ExecCheck::new(["/bin/true"]))));
    });
    broken(job(), "job.deadline", "from 1s", |s| s.job.as_mut().unwrap().deadline = Duration::ZERO);
    broken(job(), "job.retries", "to 100", |s| s.job.as_mut().unwrap().retries = 101);
    fine(job(), |s| s.replicas = 0);
}

#[test]
fn placement() {
    let zone = || Selector::equal("zone", "a").unwrap();
    for weight in [-101, 0, 101] {
        broken(good(), "placement.prefer[0].weight", "from -100", |s| {
            s.placement.prefer = vec![Preference::new(zone(), weight)]
        });
    }
    let empty = Selector::new([Requirement::In("zone".into(), Box::default())]).unwrap();
    broken(good(), "placement.require", "read back", |s| s.placement.require = Some(empty.clone()));
    broken(good(), "placement.prefer[0].selector", "read back", |s| {
        s.placement.prefer = vec![Preference::new(empty.clone(), 1)];
    });
    broken(good(), "placement.prefer", "at most 64", |s| {
        s.placement.prefer = vec![Preference::new(zone(), 1); 65]
    });
    broken(good(), "placement.spread_by[0]", "label key", |s| s.placement.spread_by = vec!["a b".into()]);
    broken(good(), "placement.spread_by[1]", "twice", |s| {
        s.placement.spread_by = vec!["a".into(), "a".into()]
    });
    broken(good(), "placement.spread_by", "at most 8", |s| {
        s.placement.spread_by = (0..9).map(|n| format!("k{n}")).collect()
    });
    broken(good(), "placement.max_per_node", "from 1", |s| s.placement.max_per_node = Some(0));
}

#[test]
fn resources_and_limits() {
    broken(good(), "resources.memory", "write \"512MiB\"", |s| {
        s.instance.resources.memory = Some(ByteSize::from_bytes(512))
    });
    broken(good(), "resources.memory", "at least 6MiB", |s| {
        s.instance.resources.memory = Some(ByteSize::from_mib(5))
    });
    broken(good(), "resources.cpu", "0.01 CPU", |s| s.instance.resources.cpu = Some(Cpu::from_millis(0)));
    broken(good(), "resources.cpu_reserve", "0.01 CPU", |s| {
        s.instance.resources.cpu_reserve = Some(Cpu::from_millis(9))
    });
    fine(good(), |s| s.instance.resources.cpu_reserve = Some(Cpu::from_millis(0)));
    broken(good(), "resources.memory_reserve", "at most 64MiB", |s| {
        s.instance.resources.memory = Some(ByteSize::from_mib(64));
        s.instance.resources.memory_reserve = Some(ByteSize::from_mib(65));
    });
    broken(good(), "resources.cpu_reserve", "at most 1", |s| {
        s.instance.resources.cpu = Some(Cpu::from_millis(1000));
        s.instance.resources.cpu_reserve = Some(Cpu::from_millis(1001));
    });
    broken(good(), "resources.pids", "from 1", |s| s.instance.resources.pids = Some(0));
    broken(windows(), "resources.pids", "no limit of processes", |s| s.instance.resources.pids = Some(5));
    let limits = |limits: &[(&str, u64, u64)]| {
        let limits: Vec<Ulimit> = limits.iter().map(|(n, s, h)| Ulimit::new(*n, *s, *h)).collect();
        move |s: &mut ServiceSpec| s.instance.ulimits = limits
    };
    broken(good(), "ulimits[0].name", "did you mean \"nofile\"", limits(&[("nofiles", 1, 1)]));
    broken(good(), "ulimits[0].soft", "above the hard", limits(&[("nofile", 2, 1)]));
    broken(good(), "ulimits[0].hard", "unlimited", limits(&[("nofile", 2, 1 << 63)]));
    broken(good(), "ulimits[1].name", "twice", limits(&[("nofile", 1, 1), ("nofile", 2, 2)]));
    broken(good(), "ulimits", "at most 32", limits(&[("nofile", 1, 1); 33]));
    broken(windows(), "ulimits", "Windows containers", limits(&[("nofile", 1, 1)]));
    fine(good(), limits(&[("nofile", 1, Ulimit::UNLIMITED)]));
}

#[test]
fn rights_devices_and_users() {
    for os in [None, Some(Os::Linux)] {
        broken(good(), "platform.isolation", "Windows only", |s| {
            s.instance.platform.os = os;
            s.instance.platform.isolation = Some(Isolation::Process);
        });
    }
    broken(windows(), "platform.isolation", "no way to isolate", |s| {
        s.instance.platform.isolation = Some(Isolation::None);
    });
    broken(windows(), "security.privileged", "no privileged", |s| s.instance.security.privileged = true);
    broken(windows(), "security.read_only_root", "no read-only", |s| {
        s.instance.security.read_only_root = true
    });
    broken(windows(), "security.no_new_privileges", "no_new", |s| {
        s.instance.security.no_new_privileges = true
    });
    broken(windows(), "init", "no init", |s| s.instance.init = true);
    let all = || vec!["ALL".to_owned()];
    broken(windows(), "security.add_capabilities", "capabilities", |s| {
        s.instance.security.add_capabilities = all()
    });
    broken(windows(), "security.drop_capabilities", "capabilities", |s| {
        s.instance.security.drop_capabilities = all()
    });
    broken(good(), "security.drop_capabilities[0]", "did you mean \"NET_ADMIN\"", |s| {
        s.instance.security.drop_capabilities = vec!["CAP_NET_ADMIN".into()];
    });
    broken(good(), "security.add_capabilities[1]", "twice", |s| {
        s.instance.security.add_capabilities = vec!["KILL".into(), "KILL".into()];
    });
    broken(good(), "security.drop_capabilities[0]", "added and dropped", |s| {
        s.instance.security.add_capabilities = all();
        s.instance.security.drop_capabilities = all();
    });
    broken(good(), "security.add_capabilities", "every capability already", |s| {
        s.instance.security.privileged = true;
        s.instance.security.add_capabilities = all();
    });
    broken(good(), "security.add_capabilities", "at most 42", |s| {
        s.instance.security.add_capabilities = vec!["KILL".into(); 43];
    });
    broken(good(), "security.credential_spec", "Windows only", |s| {
        s.instance.security.credential_spec = Some("file://a.json".into());
    });
    for spec in ["raw://{}", "file://../a", "file:///a", "a.json", ""] {
        broken(windows(), "security.credential_spec", "not the name", |s| {
            s.instance.security.credential_spec = Some(spec.to_owned());
        });
    }
    let device = |path: &str, access: &str| Device { access: access.into(), ..Device::new(path) };
    broken(good(), "devices[0].path", "under /dev", |s| {
        s.instance.devices = vec![Device::new("/etc/passwd")]
    });
    broken(good(), "devices[0].path", "`..`", |s| s.instance.devices = vec![Device::new("/dev/../etc")]);
    broken(good(), "devices[0].target", "under /dev", |s| {
        s.instance.devices = vec![Device { target: Some("/x".into()), ..Device::new("/dev/x") }];
    });
    for access in ["", "x", "rr", "rwx"] {
        broken(good(), "devices[0].access", "letters", |s| {
            s.instance.devices = vec![device("/dev/x", access)]
        });
    }
    broken(good(), "devices[1].path", "twice", |s| {
        s.instance.devices = vec![Device::new("/dev/x"), Device::new("/dev//x")]
    });
    broken(good(), "devices", "at most 64", |s| {
        s.instance.devices = (0..65).map(|n| Device::new(format!("/dev/x{n}"))).collect();
    });
    broken(windows(), "devices[0].path", "device class", |s| {
        s.instance.devices = vec![Device::new("/dev/x")]
    });
    broken(windows(), "devices[0].path", "process-isolated", |s| {
        s.instance.platform.isolation = Some(Isolation::Hyperv);
        s.instance.devices = vec![Device::new("class/5B45201D")];
    });
    for user in ["", ":", "a b", "a:b:c", "1000:", "99999999999", "-x", "a\n"] {
        broken(good(), "user", "not a user", |s| s.instance.user = Some(user.to_owned()));
    }
    for user in ["app", "1000:1000", "app:staff", "a.b"] {
        fine(good(), |s| s.instance.user = Some(user.to_owned()));
    }
    fine(windows(), |s| s.instance.user = Some(r"SHOP\web runner".into()));
    broken(windows(), "user", "not a user", |s| s.instance.user = Some("a:b".into()));
    broken(good(), "workdir", "not absolute", |s| s.instance.workdir = Some("app".into()));
}
