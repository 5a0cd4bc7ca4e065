//! No text makes reading panic, hang or grow without bound, and no spec changes on its way through a document.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

use std::time::Duration;

use ews_core::document::{Format, Limits, Tree, Value, read};
use ews_core::id::{NetworkName, PortName, ServiceName, VolumeName};
use ews_core::spec::content::{ConfigFile, EnvValue, FileContent, FileMode};
use ews_core::spec::lifecycle::{EngineRestart, Job, RestartCondition, Signal};
use ews_core::spec::network::{NetworkAttachment, Port, Protocol, Publish};
use ews_core::spec::placement::{PlacementStrategy, Preference};
use ews_core::spec::platform::{Arch, Os};
use ews_core::spec::probe::{Check, ExecCheck, HttpCheck, Probe, TcpCheck};
use ews_core::spec::resources::{ByteSize, Cpu, Ulimit};
use ews_core::spec::security::Device;
use ews_core::spec::source::{ArtifactSource, Digest, ImagePin, ImageSource, PullPolicy, Source};
use ews_core::spec::storage::{Mount, MountKind};
use ews_core::spec::{InstanceSpec, ServiceSpec};
use ews_core::{Labels, Selector};
use proptest::prelude::*;

const FORMATS: [Format; 3] = [Format::Toml, Format::Json, Format::Yaml];

/// What a tree holds is within the limits, whatever the text was.
fn measure(tree: &Tree, depth: usize, nodes: &mut usize, bytes: &mut usize) {
    *nodes += 1;
    assert!(depth <= 65, "nested {depth} deep");
    match &tree.value {
        Value::Text(text) => *bytes += text.len(),
        Value::List(items) => items.iter().for_each(|item| measure(item, depth + 1, nodes, bytes)),
        Value::Table(table) => table.entries().iter().for_each(|entry| {
            *bytes += entry.key.len();
            measure(&entry.value, depth + 1, nodes, bytes);
        }),
        _ => {}
    }
}

fn survive(text: &str) {
    for format in FORMATS {
        if let Ok(tree) = read(text, format, Limits::default()) {
            let (mut nodes, mut bytes) = (0, 0);
            measure(&tree, 0, &mut nodes, &mut bytes);
            assert!(nodes <= Limits::default().nodes && bytes <= Limits::default().bytes);
        }
        match ServiceSpec::from_document(text, format) {
            // What was accepted can be checked, written and read back.
            Ok(spec) => {
                spec.check().unwrap();
                let json = serde_json::to_string(&spec).unwrap();
                assert_eq!(ServiceSpec::from_json(&json).unwrap(), spec, "{json}");
            }
            Err(problems) => {
                assert!(problems.iter().count() <= 100);
                let shown = problems.to_string();
                assert!(shown.lines().count() <= 102, "a problem is not one line: {shown:?}");
            }
        }
    }
}

fn good_documents() -> Vec<String> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/documents/good");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    files.iter().map(|path| std::fs::read_to_string(path).unwrap()).collect()
}

/// Pieces that matter to one of the formats.
fn piece() -> impl Strategy<Value = String> {
    let pieces = [
        "{",
        "}",
        "[",
        "]",
        "[[",
        "]]",
        ":",
        ": ",
        "-",
        "- ",
        "=",
        " = ",
        ",",
        "\n",
        "\n  ",
        "\t",
        "\"",
        "'",
        "\"\"\"",
        "'''",
        "|",
        ">",
        "&a ",
        "*a",
        "<<: ",
        "!!str ",
        "!x ",
        "---\n",
        "...\n",
        "%YAML 1.2\n",
        "#",
        "\\",
        "\\u",
        "\0",
        "\u{feff}",
        "null",
        "true",
        "yes",
        "0644",
        "1.10",
        "-1",
        "1e999",
        "99999999999999999999",
        ".inf",
        "2026-11-23",
        "a.b.c",
        "name",
        "image",
        "ports",
        "env",
        "probes",
        "店",
    ];
    prop_oneof![prop::sample::select(pieces.to_vec()).prop_map(str::to_owned), any::<String>()]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_text_is_survived(text in any::<String>()) {
        survive(&text);
    }

    #[test]
    fn arbitrary_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        survive(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn pieces_of_the_formats_are_survived(pieces in prop::collection::vec(piece(), 0..60)) {
        survive(&pieces.concat());
    }

    #[test]
    fn mutated_good_documents_are_survived(
        which in any::<prop::sample::Index>(),
        cuts in prop::collection::vec((any::<prop::sample::Index>(), 0_usize..12, piece()), 1..5),
    ) {
        let documents = good_documents();
        let mut text = which.get(&documents).clone();
        for (at, length, piece) in cuts {
            let mut start = at.index(text.len() + 1);
            while !text.is_char_boundary(start) {
                start -= 1;
            }
            let mut end = (start + length).min(text.len());
            while !text.is_char_boundary(end) {
                end += 1;
            }
            text.replace_range(start..end, &piece);
        }
        survive(&text);
    }

    #[test]
    fn a_spec_survives_its_document(spec in spec()) {
        spec.check().unwrap();
        let json = serde_json::to_string(&spec).unwrap();
        prop_assert_eq!(&ServiceSpec::from_json(&json).unwrap(), &spec);
        prop_assert_eq!(&serde_json::from_str::<ServiceSpec>(&json).unwrap(), &spec);
        // JSON is YAML too, if what YAML's parser takes for unprintable is escaped.
        let json = json.chars().map(|c| if unprintable(c) { escape(c) } else { c.to_string() }).collect::<String>();
        prop_assert_eq!(&ServiceSpec::from_yaml(&json).unwrap(), &spec);
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        let mut toml = String::new();
        write_table(&value, &mut toml);
        prop_assert_eq!(&ServiceSpec::from_toml(&toml).unwrap(), &spec, "{}", toml);
        let mut yaml = String::new();
        write_block(&value, 0, &mut yaml);
        prop_assert_eq!(&ServiceSpec::from_yaml(&yaml).unwrap(), &spec, "{}", yaml);
        let instance = serde_json::to_string(&spec.instance).unwrap();
        prop_assert_eq!(serde_json::from_str::<InstanceSpec>(&instance).unwrap(), spec.instance);
    }
}

/// One `key = value` line for each field; what lies deeper is written inline.
fn write_table(value: &serde_json::Value, out: &mut String) {
    for (key, value) in value.as_object().unwrap() {
        out.push_str(&format!("{} = ", text(key)));
        write_inline(value, out);
        out.push('\n');
    }
}

fn write_inline(value: &serde_json::Value, out: &mut String) {
    match value {
        serde_json::Value::Object(fields) => {
            out.push_str("{ ");
            for (at, (key, value)) in fields.iter().enumerate() {
                out.push_str(if at > 0 { ", " } else { "" });
                out.push_str(&format!("{} = ", text(key)));
                write_inline(value, out);
            }
            out.push_str(" }");
        }
        serde_json::Value::Array(items) => {
            out.push('[');
            for item in items {
                write_inline(item, out);
                out.push_str(", ");
            }
            out.push(']');
        }
        serde_json::Value::String(value) => out.push_str(&text(value)),
        other => out.push_str(&other.to_string()),
    }
}

/// Block YAML with every text in double quotes.
fn write_block(value: &serde_json::Value, indent: usize, out: &mut String) {
    let pad = "  ".repeat(indent);
    match value {
        serde_json::Value::Object(fields) if !fields.is_empty() => {
            for (key, value) in fields {
                out.push_str(&format!("\n{pad}{}: ", text(key)));
                write_block(value, indent + 1, out);
            }
        }
        serde_json::Value::Array(items) if !items.is_empty() => {
            for item in items {
                out.push_str(&format!("\n{pad}- "));
                write_block(item, indent + 1, out);
            }
        }
        serde_json::Value::String(value) => out.push_str(&text(value)),
        other => out.push_str(&other.to_string()),
    }
    if indent == 0 {
        out.push('\n');
    }
}

/// A basic string, with the escapes that TOML and YAML share.
fn text(value: &str) -> String {
    let mut out = String::from("\"");
    for c in value.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if unprintable(c) => out.push_str(&escape(c)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

fn unprintable(c: char) -> bool {
    c.is_control() || matches!(c, '\u{feff}' | '\u{fffe}' | '\u{ffff}' | '\u{2028}' | '\u{2029}')
}

fn escape(c: char) -> String {
    format!("\\u{:04x}", u32::from(c))
}

fn words() -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec("[^\\x00]{0,12}", 0..3).prop_map(|mut words| {
        if let Some(first) = words.first_mut() {
            first.insert(0, '/');
        }
        words
    })
}

fn duration(most: u64) -> impl Strategy<Value = Duration> {
    (1_000..most * 1_000).prop_map(Duration::from_millis)
}

fn source() -> impl Strategy<Value = Source> {
    let digest = any::<[u8; 32]>().prop_map(Digest::from_sha256);
    let name = "([a-z]{1,8}\\.example(:[0-9]{1,4})?/)?[a-z0-9]{1,8}(/[a-z0-9]{1,8}){0,2}";
    let pull = prop::sample::select(&[PullPolicy::IfMissing, PullPolicy::Always, PullPolicy::Never][..]);
    let image = (name, prop::option::of("[A-Za-z0-9_][A-Za-z0-9_.-]{0,10}"), pull, 0..3_u8, digest.clone())
        .prop_map(|(name, tag, pull, pin, digest)| {
            let tag = tag.map(|tag| format!(":{tag}")).unwrap_or_default();
            let mut image = ImageSource::new(format!("{name}{tag}").parse().unwrap());
            image.pull = pull;
            image.pin = match pin {
                0 => None,
                1 => Some(ImagePin::Manifest(digest)),
                _ => serde_json::from_value(
                    serde_json::json!({ "local": { "engine": "e1", "image_id": digest } }),
                )
                .ok(),
            };
            Source::Image(image)
        });
    let artifact = ("/[a-z /]{0,8}x", prop::option::of(digest)).prop_map(|(location, digest)| {
        let mut artifact = ArtifactSource::new(location);
        artifact.digest = digest;
        Source::Artifact(artifact)
    });
    prop_oneof![image, artifact]
}

fn env() -> impl Strategy<Value = EnvValue> {
    let plain = prop_oneof!["[^\\x00]{0,20}", "(yes|no|null|~|0644|1\\.10|true|<<|- a|\\*x|#)"]
        .prop_map(EnvValue::Plain);
    let secret = "(file:)?[a-z]{1,6}(/[a-z]{1,6}){0,2}(@[0-9]{1,2})?".prop_map(|name| {
        serde_json::from_value::<InstanceSpec>(
            serde_json::json!({ "image": "x", "env": { "A": { "secret": name } } }),
        )
        .unwrap()
        .env
        .remove("A")
        .unwrap()
    });
    prop_oneof![plain, secret]
}

fn probe() -> impl Strategy<Value = Probe> {
    let port = || Some(PortName::new("http").unwrap());
    let http = ("/[a-z?=]{0,8}", prop::option::of("[a-z]{1,8}\\.example"), "[a-zA-Z0-9 é]{0,8}", 0..3_usize)
        .prop_map(move |(path, host, header, status)| {
            let mut check = HttpCheck::new(path);
            check.port = port();
            check.host = host;
            check.headers.insert("X-Probe".into(), header);
            check.status = ["200-299", "204", "100-599"][status].parse().unwrap();
            Check::Http(check)
        });
    let tcp = Just(()).prop_map(move |()| {
        let mut check = TcpCheck::default();
        check.port = port();
        Check::Tcp(check)
    });
    let exec =
        words().prop_filter("a program", |w| !w.is_empty()).prop_map(|w| Check::Exec(ExecCheck::new(w)));
    let engine = words().prop_map(|words| {
        let mut check = ews_core::spec::probe::EngineCheck::default();
        check.command = words;
        Check::Engine(check)
    });
    (prop_oneof![http, tcp, exec, engine], duration(3600), duration(3600), duration(3600), 1..1000_u32)
        .prop_map(|(check, interval, timeout, delay, failure)| {
            let mut probe = Probe::new(check);
            (probe.interval, probe.timeout, probe.initial_delay, probe.failure) =
                (interval, timeout, delay, failure);
            probe
        })
}

fn instance() -> impl Strategy<Value = InstanceSpec> {
    let first = (source(), words(), words(), prop::collection::btree_map("[^=:\\s\\pC]{1,8}", env(), 0..4));
    let second = (
        prop::option::of(probe()),
        prop::option::of(probe()),
        prop::collection::btree_map("[a-z]{1,8}(\\.x/y)?", "[^\\pC]{0,12}", 0..4),
        prop::collection::vec(("[^\\pC]{0,30}", 0..0o1000_u16, any::<bool>()), 0..3),
    );
    let third = (
        prop::collection::vec((prop::option::of(1..u16::MAX), any::<bool>(), 0..4_u8), 0..4),
        prop::collection::vec((0..3_u8, any::<bool>()), 0..4),
        (10..9_000_u32, 6..99_999_u32, any::<bool>()),
        (0..4_u8, 1..64_i32, duration(86_400)),
    );
    let fourth = (
        any::<[bool; 6]>(),
        0..Ulimit::NAMES.len(),
        0..=i64::MAX.cast_unsigned(),
        prop::option::of("[a-z]{1,9}"),
    );
    (first, second, third, fourth).prop_map(|(first, second, third, fourth)| {
        let mut spec = InstanceSpec::new(first.0);
        (spec.command, spec.args, spec.env) = (first.1, first.2, first.3);
        spec.ports.push(Port::new(PortName::new("http").unwrap(), Some(65_535)));
        let (readiness, liveness, labels, files) = second;
        (spec.probes.readiness, spec.probes.liveness) = (readiness, liveness);
        spec.labels = Labels::new(labels).unwrap();
        for (at, (text, mode, secret)) in files.into_iter().enumerate() {
            let content = match secret {
                true => FileContent::Secret("store:a".parse().unwrap()),
                false => FileContent::Content(text),
            };
            let mut file = ConfigFile::new(format!("/etc/{at}"), content);
            file.mode = FileMode::new(mode).unwrap();
            spec.files.push(file);
        }
        let (ports, mounts, (cpu, memory, reserve), (stop, signal, grace)) = third;
        for (at, (number, udp, publish)) in ports.into_iter().enumerate() {
            let mut port = Port::new(PortName::new(format!("p{at}")).unwrap(), number);
            if spec.ports.iter().any(|other| other.number == port.number) {
                port.number = None;
            }
            port.protocol = if udp { Protocol::Udp } else { Protocol::Tcp };
            let mut published = Publish::default();
            match publish {
                0 => continue,
                1 => {}
                2 => published.port = Some(1000 + u16::try_from(at).unwrap()),
                _ => published.address = Some("::1".parse().unwrap()),
            }
            port.publish = Some(published);
            spec.ports.push(port);
        }
        for (at, (kind, read_only)) in mounts.into_iter().enumerate() {
            let kind = match kind {
                0 => MountKind::Bind("/srv".into()),
                1 => MountKind::Volume(VolumeName::new("data").unwrap()),
                _ => MountKind::Tmpfs(ByteSize::from_bytes(4097)),
            };
            let mut mount = Mount::new(format!("/m/{at}"), kind);
            mount.read_only = read_only;
            spec.mounts.push(mount);
        }
        spec.resources.cpu = Some(Cpu::from_millis(cpu));
        spec.resources.memory = Some(ByteSize::from_mib(memory));
        if reserve {
            spec.resources.cpu_reserve = Some(Cpu::from_millis(cpu));
            spec.resources.memory_reserve = Some(ByteSize::from_bytes(6_000_001));
            spec.resources.pids = Some(cpu);
        }
        spec.stop.signal = Signal::from_number(signal).unwrap();
        spec.stop.grace = grace;
        spec.log.max_files = u32::from(stop) + 1;
        let ([init, root, privileges, capability, network, device], limit, soft, user) = fourth;
        (spec.init, spec.security.read_only_root, spec.security.no_new_privileges) = (init, root, privileges);
        if capability {
            spec.security.add_capabilities = vec!["NET_ADMIN".into()];
            spec.security.drop_capabilities = vec!["ALL".into()];
            spec.engine_restart = EngineRestart::UnlessStopped;
            spec.platform.os = Some(Os::Linux);
            spec.platform.arch = Some(Arch::I386);
        }
        if network {
            let mut network = NetworkAttachment::new(NetworkName::new("a.b").unwrap());
            network.aliases = vec!["web".into()];
            spec.networks = vec![network, NetworkAttachment::new(NetworkName::new("b").unwrap())];
            spec.hostname = user.clone();
            spec.workdir = Some("/app".into());
        }
        if device {
            spec.devices = vec![Device::new("/dev/fuse")];
            spec.ulimits = vec![Ulimit::new(Ulimit::NAMES[limit], soft, Ulimit::UNLIMITED)];
        }
        spec.user = user;
        spec
    })
}

fn spec() -> impl Strategy<Value = ServiceSpec> {
    (instance(), 0..100_000_u32, any::<bool>(), duration(86_400), any::<bool>(), -100..100_i32).prop_map(
        |(instance, replicas, is_job, time, place, weight)| {
            let name = ServiceName::new("web-1").unwrap();
            let mut spec = ServiceSpec::new(name, instance.source.clone());
            spec.instance = instance;
            spec.replicas = replicas;
            spec.restart.max_delay = time;
            spec.restart.delay = time / 2;
            spec.restart.condition = RestartCondition::OnFailure;
            if is_job {
                spec.replicas = 1;
                spec.restart.condition = RestartCondition::Never;
                spec.instance.engine_restart = EngineRestart::Never;
                spec.instance.probes = Default::default();
                let mut job = Job::default();
                job.deadline = time;
                job.retries = 3;
                spec.job = Some(job);
            }
            if place {
                let selector: Selector = "zone in (a,\"b c\"),!x,y!=\"\"".parse().unwrap();
                spec.placement.prefer =
                    vec![Preference::new(selector.clone(), if weight == 0 { 1 } else { weight })];
                spec.placement.require = Some(selector);
                spec.placement.strategy = PlacementStrategy::Pack;
                spec.placement.spread_by = vec!["zone".into()];
                spec.placement.max_per_node = Some(2);
            }
            spec
        },
    )
}

#[test]
fn what_is_deep_or_large_or_repeated_is_refused_and_not_followed() {
    let limits = Limits::default();
    let many = 400_000;
    let mut laughs = String::from("a: &a [x,x,x,x,x,x,x,x,x]\n");
    for (from, to) in "abcdefghi".chars().zip("bcdefghij".chars()) {
        let uses = vec![format!("*{from}"); 9].join(",");
        laughs.push_str(&format!("{to}: &{to} [{uses}]\n"));
    }
    let long = format!("a: &a {}\nb: [{}]\n", "x".repeat(400_000), vec!["*a"; 50].join(","));
    let mut dotted = String::new();
    for _ in 0..70 {
        dotted.push_str(&"a.".repeat(70));
        dotted.push_str("a = {");
    }
    let brackets = format!("{}1", "a = [{".repeat(60_000));
    for (format, text, words) in [
        (Format::Json, "[".repeat(many), "nested more than 64"),
        (Format::Json, "{\"a\":".repeat(many), "bytes long"),
        (Format::Json, "{\"a\":".repeat(200_000), "nested more than 64"),
        (Format::Json, format!("[{}1]", "1,".repeat(many)), "more than 100000 values"),
        (Format::Yaml, "[".repeat(many), "nested"),
        (Format::Yaml, "- ".repeat(many), "nested"),
        (Format::Yaml, "? ".repeat(many), "table stands as a key"),
        (Format::Yaml, format!("[{}1]", "1,".repeat(many)), "more than 100000 values"),
        (Format::Yaml, laughs, "more than 100000 values"),
        (Format::Yaml, long, "once aliases are resolved"),
        (Format::Yaml, "a: &a [*a]".to_owned(), "its own anchor"),
        (Format::Yaml, "a: *b".to_owned(), "anchor"),
        (Format::Toml, format!("a = {}", "[".repeat(many)), ""),
        (Format::Toml, format!("a = [{}1]", "1,".repeat(many)), "more than 100000 values"),
        (Format::Toml, format!("{}a = 1", "a.".repeat(many)), "nested too deep"),
        (Format::Toml, format!("[{}a]", "a.".repeat(many)), "nested too deep"),
        (Format::Toml, format!("[{}a]\n{}a = 1", "a.".repeat(70), "a.".repeat(70)), "nested more than 64"),
        (Format::Toml, format!("{}a = 1", "a.".repeat(70)), "nested more than 64"),
        (Format::Toml, dotted, "nested too deep"),
        (Format::Toml, brackets, "nested"),
    ] {
        let problems = read(&text, format, limits).expect_err("it is refused");
        assert_eq!(problems.len(), 1);
        assert!(problems.to_string().contains(words), "{format}: {problems}");
    }
}

#[test]
fn within_the_limits_is_read() {
    let deep = format!("{}1{}", "[".repeat(64), "]".repeat(64));
    for format in [Format::Json, Format::Yaml] {
        assert!(read(&deep, format, Limits::default()).is_ok(), "{format}");
    }
    let table = format!("{}1{}", "[".repeat(63), "]".repeat(63));
    assert!(read(&format!("a = {table}"), Format::Toml, Limits::default()).is_ok());
    // Dots and braces within texts, numbers and comments nest nothing.
    let texts = "{ 10.0.0.1.2.3.4 ".repeat(900);
    let braces = format!("a = '''\n{texts}\n'''\n# {texts}\nb = [{}]\n", "1.5, ".repeat(900));
    read(&braces, Format::Toml, Limits::default()).unwrap();
    let problems = read("[1, 2]", Format::Json, Limits::default().with_nodes(2)).unwrap_err();
    assert!(problems.to_string().contains("more than 2 values"), "{problems}");
    // An alias gives the whole value again, with the place of its use.
    let tree = read("a: &x { b: 1 }\nc: *x\n", Format::Yaml, Limits::default()).unwrap();
    let table = tree.as_table().unwrap();
    assert_eq!(table.get("c").unwrap().as_table().unwrap().get("b").unwrap().as_integer(), Some(1));
    assert_eq!(
        table.get("c").unwrap().position("a: &x { b: 1 }\nc: *x\n").unwrap().to_string(),
        "line 2, column 4"
    );
}

#[test]
#[ignore = "a measurement, run by hand: cargo test --release --test documents_fuzz -- --ignored --nocapture"]
fn how_long_a_whole_mebibyte_takes() {
    let fill = |piece: &str| piece.repeat((1 << 20) / piece.len());
    for (name, format, text) in [
        ("flow list", Format::Yaml, fill("[a,")),
        ("wide list", Format::Yaml, fill("- 1\n")),
        ("many keys", Format::Yaml, (0..70_000).map(|n| format!("k{n}: 1\n")).collect()),
        ("one text", Format::Yaml, fill("word ")),
        ("quotes", Format::Yaml, fill("\"")),
        ("question marks", Format::Yaml, fill("? a\n")),
        ("flow keys", Format::Yaml, format!("{{{}", fill("a: b, "))),
        ("anchors", Format::Yaml, (0..60_000).map(|n| format!("- &a{n} 1\n")).collect()),
        ("comments", Format::Yaml, fill("# x\n")),
        ("wide list", Format::Json, format!("[{}1]", "1,".repeat(500_000))),
        (
            "many keys",
            Format::Json,
            format!("{{{}\"z\":1}}", (0..70_000).map(|n| format!("\"k{n}\":1,")).collect::<String>()),
        ),
        ("tables", Format::Toml, (0..60_000).map(|n| format!("[t{n}]\n")).collect()),
        ("list of tables", Format::Toml, fill("[[a]]\nb.c.d=1\n")),
        ("many keys", Format::Toml, (0..70_000).map(|n| format!("k{n} = 1\n")).collect()),
        ("dotted keys", Format::Toml, (0..60_000).map(|n| format!("a.b.k{n} = 1\n")).collect()),
        ("errors", Format::Toml, fill("= = =\n")),
    ] {
        let start = std::time::Instant::now();
        let outcome = ServiceSpec::from_document(&text, format);
        let took = start.elapsed();
        let first = outcome.map_or_else(|problems| problems.to_string(), |_| "accepted".into());
        println!("{format} {name}: {took:?}, {} bytes: {:.90}", text.len(), first.replace('\n', " "));
    }
}
