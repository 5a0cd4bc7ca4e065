//! Documents as newcomers write them.

use super::*;

fn read_toml(text: &str) -> std::result::Result<DeployBody, Vec<String>> {
    of_text(text, Format::Toml, Path::new("/"))
}

#[test]
fn the_short_words_become_a_spec_with_traffic_and_a_strategy() {
    let body = read_toml(
        "name = \"shop\"\ncommand = [\"sh\", \"-c\", \"exec server\"]\nargs = [\"x\"]\nreplicas = 3\nprobe = \"/health\"\ndomain = \"Shop.example\"\nstrategy = \"fast\"\nbounds = { least = 1, most = 5 }",
    )
    .unwrap();
    let Source::Artifact(artifact) = &body.spec.instance.source else { unreachable!("a program") };
    assert!(artifact.location.ends_with("/sh"), "{}", artifact.location);
    assert_eq!(body.spec.instance.args, ["-c", "exec server", "x"]);
    assert!(body.spec.instance.command.is_empty() && !body.keep);
    let traffic = body.traffic.unwrap();
    assert_eq!((traffic.domains[0].as_str(), traffic.port.as_str()), ("shop.example", "http"));
    assert_eq!(body.spec.instance.ports[0].number, None);
    assert!(body.spec.instance.probes.readiness.is_some());
    assert_eq!(body.strategy.min_healthy, std::time::Duration::from_millis(500));
    assert_eq!(body.bounds.map(|bounds| (bounds.least, bounds.most)), Some((1, 5)));
}

#[test]
fn a_program_beside_the_document_is_kept_and_one_of_the_system_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("run");
    std::fs::write(&program, "#!/bin/sh\n").unwrap();
    std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let read = |text: &str| of_text(text, Format::Toml, folder.path());
    let own = read("name = \"a\"\ncommand = \"./run\"").unwrap();
    assert!(own.keep);
    let Source::Artifact(artifact) = &own.spec.instance.source else { unreachable!("a program") };
    assert_eq!(Path::new(&artifact.location), folder.path().join("./run"));
    let tree = read("name = \"a\"\nartifact = \".\"\ncommand = [\"./run\"]").unwrap();
    assert!(tree.keep);
    assert_eq!(tree.spec.instance.command, ["./run"]);
    assert!(!read("name = \"a\"\nimage = \"shop/web:1\"").unwrap().keep);
}

#[test]
fn every_slip_is_reported_with_its_line_and_what_is_accepted() {
    for (text, wanted) in [
        ("name = \"a\"\ncommand = \"sh\"\nreplica = 2", &["replica (line 3", "did you mean `replicas`?"][..]),
        (
            "name = \"a\"\ncommand = \"sh\"\ndomian = \"x\"",
            &["domian (line 3", "did you mean `domain`?", "strategy"],
        ),
        ("name = \"a\"", &["nothing says what runs", "`command`", "`image`"]),
        ("command = \"sh\"", &["`name` is missing"]),
        ("name = \"a\"\ncommand = \"python3 -m http.server\"", &["command (line 2", "a list of texts"]),
        (
            "name = \"a\"\ncommand = [\"no-such-program-here\"]",
            &["command (line 2", "no program `no-such-program-here`"],
        ),
        ("name = \"a\"\ncommand = [\"./missing\"]", &["command (line 2", "can't be found"]),
        ("name = \"a\"\nartifact = \"./missing\"", &["artifact (line 2", "there is nothing at /./missing"]),
        ("name = \"a\"\ncommand = \"sh\"\nport = 80800", &["port (line 3", "the number 80800", "\"auto\""]),
        ("name = \"a\"\ncommand = \"sh\"\nport = \"8080\"", &["port (line 3", "the text \"8080\""]),
        ("name = \"a\"\ncommand = \"sh\"\nport = 8080\nreplicas = 2", &["port (line 3", "`port = \"auto\"`"]),
        ("name = \"a\"\ncommand = \"sh\"\nprobe = \"health\"", &["probe (line 3", "begins with `/`"]),
        ("name = \"a\"\ncommand = \"sh\"\nprobe = \"/health\"", &["line 3"]),
        (
            "name = \"a\"\ncommand = \"sh\"\ndomain = \"http://x.example/\"",
            &["domain (line 3", "is not a host name"],
        ),
        ("name = \"a\"\ncommand = \"sh\"\ndomain = [\"x.example\"]", &["domain (line 3", "a host name"]),
        ("name = \"a\"\ncommand = \"sh\"\nstrategy = \"yolo\"", &["strategy (line 3", "\"rolling\""]),
        (
            "name = \"a\"\ncommand = \"sh\"\n[strategy]\nbatch = 1\nmin_helthy = \"1s\"",
            &["strategy (line 5", "`min_helthy`", "`min_healthy`"],
        ),
        (
            "name = \"a\"\ncommand = \"sh\"\nstrategy = { min_healthy = \"1h\" }",
            &["strategy (line 3", "`healthy_deadline`"],
        ),
        ("name = \"a\"\ncommand = \"sh\"\nreplicas = \"3\"", &["replicas (line 3", "without quotes"]),
        ("name = \"a\"\ncommand = \"sh\"\nreplicas 3", &["line 3"]),
        ("name = \"My Shop\"\ncommand = \"sh\"", &["name (line 1", "did you mean `my-shop`?"]),
        (
            "name = \"a\"\ncommand = \"sh\"\nport = 1\nports = { http = 2 }",
            &["port (line 3", "one of the two"],
        ),
        ("name = \"a\"\ncommand = \"sh\"\nenv = [\"A=1\"]", &["env (line 3", "a table of names and values"]),
        ("name = \"a\"\ncommand = \"sh\"\nbounds = { least = 1 }", &["bounds (line 3", "`most`"]),
    ] {
        let problems = read_toml(text).map(|_| ()).expect_err(text).join("\n");
        for wanted in wanted {
            assert!(problems.contains(wanted), "{text}\n{wanted}\n{problems}");
        }
    }
    let json =
        of_text("{\"name\": \"a\",\n \"command\": \"sh\",\n \"port\": 0}", Format::Json, Path::new("/"));
    assert!(json.unwrap_err().join("\n").contains("port (line 3"));
}

#[test]
fn several_problems_come_at_once_in_the_order_of_the_lines() {
    let problems = read_toml("name = \"a\"\nport = 0\ncommand = \"sh\"\nreplica = 1\nstrategy = \"x\"")
        .map(|_| ())
        .unwrap_err();
    assert_eq!(problems.len(), 3, "{problems:?}");
    assert!(
        problems[0].starts_with("port")
            && problems[1].starts_with("replica")
            && problems[2].starts_with("strategy")
    );
}
