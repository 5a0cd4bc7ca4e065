//! What wakes an operator: a host that is asked to end at the wrong moment, a client that goes away, files that are not as they should be.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod stage;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use stage::{PATIENCE, Stage, ews, kill, pause};

fn wait(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < until, "it does not come about that {what}");
        pause(50);
    }
}

/// The exit code, once it has ended.
fn ended(child: &mut Child, what: &str) -> Option<i32> {
    let mut code = None;
    wait(what, || {
        code = child.try_wait().unwrap().map(|status| status.code());
        code.is_some()
    });
    code.unwrap()
}

/// A command against this host that goes on, with its output to be read.
fn going(stage: &Stage, arguments: &[&str]) -> Child {
    let data = stage.data();
    Command::new(stage::program())
        .arg("--data")
        .arg(data)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// A service that writes a line twenty times a second, and asks for no port.
fn chatter(stage: &Stage) -> String {
    let text = "name = \"chatter\"\ncommand = [\"sh\", \"-c\", \"echo begins; while :; do echo tick; sleep 0.05; done\"]\n\
                replicas = 1\nstrategy = \"fast\"\nrestart = { delay = \"100ms\" }\n";
    stage.write("chatter.toml", text)
}

#[test]
fn who_asks_a_host_to_end_that_is_only_starting_is_obeyed() {
    let mut stage = Stage::new("");
    stage.ews(&["deploy", &stage.hello("v1", "")]).ends(0);
    let instances = stage.answering("hello.test");
    stage.end("TERM");
    std::fs::remove_file(stage.data().join("lock")).unwrap();
    let mut host = Command::new(stage::program())
        .arg("serve")
        .arg("--config")
        .arg(stage.at("ews.toml"))
        .arg("--data")
        .arg(stage.data())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let pid = host.id();
    let is_locked =
        || std::fs::read_to_string(stage.data().join("lock")).is_ok_and(|text| text == pid.to_string());
    wait("it has begun to start", is_locked);
    // A hangup, as of its terminal, is no such question.
    kill("HUP", pid);
    kill("TERM", pid);
    assert_eq!(ended(&mut host, "it ends"), Some(0));
    let running = stage.instances();
    assert!(instances.iter().all(|instance| running.contains(instance)), "instances run on");
    stage.start();
    kill("HUP", stage.pid());
    assert_eq!(stage.answering("hello.test"), instances);
    wait("it is said what a hangup does", || stage.log().contains("SIGHUP changes nothing"));
    stage.clear();
}

#[test]
fn a_rollout_outlives_the_end_of_the_host_and_who_waits_for_it_is_told_how_to_go_on() {
    let mut stage = Stage::new("");
    stage.ews(&["deploy", &stage.hello("v1", "")]).ends(0);
    let slow = "strategy = { min_healthy = \"3s\", monitor = \"500ms\", healthy_deadline = \"30s\" }";
    let path = stage.hello("v2", "");
    let text = std::fs::read_to_string(&path).unwrap().replace("strategy = \"fast\"", slow);
    std::fs::write(&path, text).unwrap();
    let said = |command: &mut Child| {
        let mut said = String::new();
        command.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        said
    };
    let mut interrupted = going(&stage, &["deploy", &path]);
    wait("it is under way", || !stage.ews(&["status", "hello", "--json"]).json()["rollout"].is_null());
    // By its number, which it may not come to ask for before the host has ended.
    let mut waiting = going(&stage, &["wait", "hello", "2"]);
    kill("INT", interrupted.id());
    assert_eq!(ended(&mut interrupted, "the interrupted command ends"), Some(130));
    let text = said(&mut interrupted);
    assert!(text.contains("`ews wait hello"), "{text}");
    assert_eq!(stage.end("TERM"), Some(0));
    assert_eq!(ended(&mut waiting, "the command ends"), Some(3));
    let text = said(&mut waiting);
    assert!(text.contains("`ews wait hello 2`"), "{text}");
    stage.start();
    stage.ews(&["wait", "hello", "2"]).ends(0).says(&["rollout 2 of hello succeeded"]);
    assert_eq!(stage.ews(&["wait", "hello", "--json"]).ends(0).json()["id"]["number"], 2);
    stage.ews(&["wait", "hello", "9"]).ends(4);
    stage.ews(&["wait", "nowhere"]).ends(4);
    stage.clear();
}

#[test]
fn what_is_ready_is_said_to_be_ready_after_a_restart_of_the_host() {
    let mut stage = Stage::new("");
    // Two passes, ten seconds apart, behind a probe of the start: long enough to look.
    let path = stage.hello("v1", "");
    let slow = "probes = { startup = { http = \"/health\", interval = \"200ms\" }, \
                readiness = { http = \"/health\", interval = \"10s\", success = 2 } }";
    let text = std::fs::read_to_string(&path).unwrap();
    let text = text.replace("probe = { http = \"/health\", interval = \"200ms\" }", slow);
    std::fs::write(&path, text).unwrap();
    stage.ews(&["deploy", &path]).ends(0);
    for signal in ["TERM", "KILL"] {
        stage.end(signal);
        stage.start();
        let until = Instant::now() + Duration::from_secs(4);
        while Instant::now() < until {
            let seen = stage.ews(&["status", "hello", "--json"]).ends(0).json();
            let count = |name: &str| seen[name].as_u64().unwrap();
            assert_eq!(count("ready") + count("unknown"), 2, "{signal}: {seen}");
            // It serves, too: nothing that has not failed is taken out of traffic.
            assert_eq!(stage.get("hello.test").unwrap().0, 200, "{signal}");
            pause(50);
        }
        stage.ews(&["status"]).ends(0).says(&["2/2", "well"]);
    }
    stage.clear();
}

#[test]
fn who_follows_a_log_hears_of_instances_that_come_while_others_never_pause_and_of_those_that_come_back() {
    let stage = Stage::new("");
    stage.ews(&["deploy", &chatter(&stage)]).ends(0);
    let mut follower = going(&stage, &["logs", "chatter", "-f", "--tail", "0"]);
    let mut lines = BufReader::new(follower.stdout.take().unwrap()).lines();
    let mut hears = |wanted: &str| {
        let until = Instant::now() + PATIENCE;
        for line in lines.by_ref() {
            if line.unwrap() == wanted {
                return;
            }
            assert!(Instant::now() < until, "`{wanted}` is not heard");
        }
        unreachable!("the follower ended before `{wanted}`");
    };
    hears("chatter.0 | tick");
    stage.ews(&["scale", "chatter", "2"]).ends(0);
    hears("chatter.1 | begins");
    hears("chatter.1 | tick");
    for pid in stage.instances() {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        if environment.split(|byte| *byte == 0).any(|variable| variable == b"EWS_SLOT=0") {
            kill("KILL", pid);
        }
    }
    hears("chatter.0 | begins");
    hears("chatter.0 | tick");
    // Nobody reads any more, as behind `head -1`: it ends, and that is no failure.
    drop(lines);
    assert_eq!(ended(&mut follower, "the follower ends"), Some(0));
    stage.clear();
}

#[test]
fn a_command_whose_input_breaks_off_does_not_take_a_part_for_the_whole() {
    let stage = Stage::new("");
    stage.ews(&["deploy", &stage.hello("v1", "")]).ends(0);
    let marks = stage.at("marks");
    std::fs::create_dir(&marks).unwrap();
    let mark = |name: &str| marks.join(name).display().to_string();
    let script = format!("cat > {}; echo > {}", mark("input"), mark("whole"));
    let head = serde_json::json!({ "command": ["sh", "-c", script] }).to_string() + "\n";
    let input = "a part of the whole\n".repeat(1_000);
    for is_whole in [false, true] {
        let mut stream = UnixStream::connect(stage.data().join("api.sock")).unwrap();
        let path = "/v1/services/hello/exec?stdin=true";
        write!(stream, "POST {path} HTTP/1.1\r\nHost: ews\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
        for text in [&head, &input] {
            write!(stream, "{:x}\r\n{text}\r\n", text.len()).unwrap();
        }
        let length = input.len() as u64;
        wait("the command has that part", || {
            std::fs::metadata(mark("input")).is_ok_and(|input| input.len() == length)
        });
        if is_whole {
            write!(stream, "0\r\n\r\n").unwrap();
            wait("the command ends", || std::path::Path::new(&mark("whole")).exists());
        }
        drop(stream);
        wait("nothing of the command runs", || {
            let named = |process: std::fs::DirEntry| {
                let line = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
                String::from_utf8_lossy(&line).contains(&mark("input"))
            };
            !std::fs::read_dir("/proc").unwrap().flatten().any(named)
        });
        assert_eq!(std::path::Path::new(&mark("whole")).exists(), is_whole);
        std::fs::remove_file(mark("input")).unwrap();
    }
    stage.clear();
}

#[test]
fn clients_that_go_away_leave_nothing_behind() {
    let stage = Stage::new("");
    stage.ews(&["deploy", &stage.hello("v1", "")]).ends(0);
    // More than there may be at once of streams, and of connections.
    for path in ["events?follow=true", "services/hello/logs?follow=true"] {
        for number in 0..300 {
            let mut stream = UnixStream::connect(stage.data().join("api.sock")).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            write!(stream, "GET /v1/{path} HTTP/1.1\r\nHost: ews\r\n\r\n").unwrap();
            let mut status = String::new();
            BufReader::new(stream).read_line(&mut status).unwrap();
            assert!(status.contains(" 200 "), "{path}, the {number}th: {status}");
        }
    }
    // A command that nobody hears of any more ends, however quiet it is.
    let seconds = format!("{}.5", 100_000 + std::process::id());
    let runs = || {
        let named = |process: std::fs::DirEntry| {
            let line = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
            line == format!("sleep\0{seconds}\0").as_bytes()
        };
        std::fs::read_dir("/proc").unwrap().flatten().any(named)
    };
    let body = serde_json::json!({ "command": ["sleep", seconds] }).to_string();
    let mut stream = UnixStream::connect(stage.data().join("api.sock")).unwrap();
    let length = body.len();
    write!(
        stream,
        "POST /v1/services/hello/exec HTTP/1.1\r\nHost: ews\r\nContent-Length: {length}\r\n\r\n{body}"
    )
    .unwrap();
    wait("the command runs", &runs);
    drop(stream);
    wait("the command has ended", || !runs());
    stage.clear();
}

#[test]
fn whoever_started_the_host_is_told_when_it_serves_and_when_it_ends() {
    let mut stage = Stage::new("");
    stage.ews(&["deploy", &stage.hello("v1", "")]).ends(0);
    stage.end("TERM");
    let path = stage.at("notify");
    let name = format!("ews-host-test-{}", std::process::id());
    let abstract_name = SocketAddr::from_abstract_name(&name).unwrap();
    let sockets = [
        (path.display().to_string(), UnixDatagram::bind(&path).unwrap()),
        (format!("@{name}"), UnixDatagram::bind_addr(&abstract_name).unwrap()),
    ];
    for (named, socket) in sockets {
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let told = || {
            let mut text = [0; 1_024];
            let length = socket.recv(&mut text).unwrap();
            String::from_utf8_lossy(&text[..length]).into_owned()
        };
        stage.start_with(&[("NOTIFY_SOCKET", &named)]);
        let text = told();
        assert!(text.lines().any(|line| line == "READY=1"), "{text}");
        assert!(text.contains(&format!("STATUS=serving {}", stage.http())), "{text}");
        stage.ews(&["status", "hello"]).ends(0);
        assert_eq!(stage.get("hello.test").unwrap().0, 200);
        stage.end("TERM");
        let text = told();
        assert!(text.lines().any(|line| line == "STOPPING=1"), "{text}");
    }
    // What can't be told keeps nobody from serving.
    for nonsense in ["/no/such/socket", "relative", "@"] {
        stage.start_with(&[("NOTIFY_SOCKET", nonsense)]);
        assert_eq!(stage.get("hello.test").unwrap().0, 200, "{nonsense}");
        stage.end("TERM");
    }
    stage.start();
    stage.clear();
}

#[test]
fn a_file_of_tokens_that_protects_nothing_keeps_the_host_from_starting() {
    let top = tempfile::tempdir().unwrap();
    let (config, tokens) = (top.path().join("ews.toml"), top.path().join("tokens"));
    let data = top.path().join("data");
    let write = |text: &str, mode: u32| {
        std::fs::write(&tokens, text).unwrap();
        std::fs::set_permissions(&tokens, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    for section in ["api.tcp", "gateway.admin"] {
        // Its path begins where the configuration is.
        let text = format!("[{section}]\nlisten = \"127.0.0.1:0\"\ntoken_file = \"tokens\"\n");
        std::fs::write(&config, text).unwrap();
        for (text, mode, code, says) in [
            ("hunter2hunter2hunter2\n", 0o644, 5, "chmod 600"),
            ("\n \n", 0o600, 2, "there is no token in it"),
            ("hunter2", 0o600, 2, "at least 16 bytes"),
        ] {
            write(text, mode);
            let (config, data) = (config.to_str().unwrap(), data.to_str().unwrap());
            for arguments in
                [&["check", "--config", config][..], &["serve", "--config", config, "--data", data]]
            {
                let ran = ews(arguments).ends(code).says(&[&format!("`{section}.token_file`"), says]);
                assert!(!format!("{ran:?}").contains("hunter2"), "{ran:?}");
            }
        }
        write("hunter2hunter2hunter2\n", 0o640);
        ews(&["check", "--config", config.to_str().unwrap()]).ends(0);
    }
    // Nor does a client use one that everybody may read, or none.
    for (text, mode, says) in [("hunter2hunter2hunter2", 0o644, "chmod 600"), ("\n", 0o600, "holds no token")]
    {
        write(text, mode);
        let tokens = tokens.to_str().unwrap();
        ews(&["--api", "http://127.0.0.1:1", "--token-file", tokens, "status"]).ends(2).says(&[says]);
    }
}

#[test]
fn what_is_only_for_people_to_read_keeps_no_host_from_starting() {
    let mut stage = Stage::new("");
    stage.ews(&["deploy", &stage.hello("v1", "")]).ends(0);
    let instances = stage.answering("hello.test");
    stage.end("TERM");
    // As with a disk that is full: the file that says where it listens can't be written.
    std::fs::create_dir(stage.data().join("host.json.new")).unwrap();
    stage.start();
    assert_eq!(stage.answering("hello.test"), instances);
    assert!(stage.log().contains("nobody can read where the host listens"));
    std::fs::remove_dir(stage.data().join("host.json.new")).unwrap();
    stage.clear();
}

#[test]
fn a_shell_completes_commands_and_the_names_of_services() {
    let stage = Stage::new("");
    stage.ews(&["deploy", &stage.hello("v1", "")]).ends(0);
    let complete = |words: &[&str], with_data: bool| {
        let quoted: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
        let (last, before) = (words[words.len() - 1], words[words.len() - 2]);
        let script = format!(
            "source <(ews completion bash)\nCOMP_WORDS=({})\nCOMP_CWORD={}\n_ews_with_names ews '{last}' '{before}'\n\
             printf '%s\\n' \"${{COMPREPLY[@]}}\"\n",
            quoted.join(" "),
            words.len() - 1
        );
        let program = std::path::Path::new(stage::program());
        let path = format!("{}:{}", program.parent().unwrap().display(), std::env::var("PATH").unwrap());
        let mut command = Command::new("bash");
        command.args(["-c", &script]).env("PATH", path).env_remove("EWS_API").env_remove("EWS_DATA");
        if with_data {
            command.env("EWS_DATA", stage.data());
        }
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
        text.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let has = |found: &[String], wanted: &str| found.iter().any(|word| word == wanted);
    assert!(has(&complete(&["ews", "rol"], true), "rollback"));
    assert!(has(&complete(&["ews", "logs", "--f"], true), "--follow"));
    for command in ["status", "logs", "exec", "scale", "rollback", "wait", "rm"] {
        // The names are given up after a while that is short for a busy machine: a shell must not hang.
        wait(command, || has(&complete(&["ews", command, "he"], true), "hello"));
    }
    let data = stage.data().display().to_string();
    let words = ["ews", "--data", &data, "logs", "-f", ""];
    wait("the host is found by its directory", || has(&complete(&words, false), "hello"));
    // Where a name stands already, and where none is wanted, there is none.
    assert!(!has(&complete(&["ews", "scale", "hello", ""], true), "hello"));
    assert!(!has(&complete(&["ews", "deploy", ""], true), "hello"));
    stage.clear();
}
