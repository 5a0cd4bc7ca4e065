//! What becomes of services when the host ends: in order, by a kill, and with the machine.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod stage;

use stage::{Stage, kill, pause, wait};

#[test]
fn instances_run_on_and_are_taken_over_after_an_orderly_end_and_after_a_kill() {
    let mut stage = Stage::new("");
    stage.ews(&["deploy", &stage.hello("v1", "")]).ends(0);
    let instances = stage.answering("hello.test");
    assert_eq!(instances.len(), 2);
    for signal in ["TERM", "INT", "KILL"] {
        let ended = stage.end(signal);
        assert_eq!(ended, (signal != "KILL").then_some(0), "{signal}");
        stage.ews(&["status"]).ends(3).says(&["no host answers", "ews serve --data"]);
        let running = stage.instances();
        assert!(instances.iter().all(|pid| running.contains(pid)), "{signal}: {instances:?} of {running:?}");
        stage.start();
        // From its first moment on the new gateway serves what the one before served.
        assert_eq!(stage.answering("hello.test"), instances, "{signal}");
        stage.ews(&["status", "hello", "--json"]).ends(0);
    }
    // It is led as before: what is asked for now comes about.
    stage.ews(&["scale", "hello", "3"]).ends(0);
    wait(|| stage.answering("hello.test").len() == 3);
    assert!(stage.answering("hello.test").is_superset(&instances));
    // One that dies is replaced.
    let victim = *instances.iter().next().unwrap();
    kill("KILL", victim);
    let until = std::time::Instant::now() + stage::PATIENCE;
    while stage.instances().contains(&victim) || stage.answering("hello.test").len() < 3 {
        assert!(std::time::Instant::now() < until, "it is not replaced");
        pause(100);
    }
    stage.clear();
}

#[test]
fn a_host_that_is_killed_in_the_midst_of_a_rollout_is_followed_by_one_that_ends_it() {
    let mut stage = Stage::new("");
    stage.ews(&["deploy", &stage.hello("v1", "")]).ends(0);
    stage.ews(&["deploy", &stage.hello("v2", ""), "--detach"]).ends(0);
    pause(300);
    stage.end("KILL");
    stage.start();
    let until = std::time::Instant::now() + stage::PATIENCE;
    loop {
        let history = stage.ews(&["history", "hello", "--json"]).ends(0).json();
        if history["rollouts"][0]["outcome"] == "succeeded" && history["rollouts"][0]["id"]["number"] == 2 {
            break;
        }
        assert!(std::time::Instant::now() < until, "{history}");
        pause(200);
    }
    for _ in 0..20 {
        assert!(stage.get("hello.test").unwrap().1.contains("version v2"));
    }
    stage.clear();
}

#[test]
fn after_another_boot_everything_is_started_again() {
    let mut stage = Stage::new("");
    stage.ews(&["deploy", &stage.hello("v1", "")]).ends(0);
    let before = stage.answering("hello.test");
    stage.end("KILL");
    // What a restart of the machine does: every process ends, and the records are of a boot that is over.
    for pid in stage.processes() {
        kill("KILL", pid);
    }
    while !stage.processes().is_empty() {
        pause(20);
    }
    let mut changed = 0;
    for instance in std::fs::read_dir(stage.data().join("runtime/instances")).unwrap().flatten() {
        let path = instance.path().join("instance.json");
        let mut record: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        record["boot"] = "another".into();
        std::fs::write(&path, record.to_string()).unwrap();
        changed += 1;
    }
    assert_eq!(changed, 2);
    stage.start();
    let until = std::time::Instant::now() + stage::PATIENCE;
    while stage.get("hello.test").is_none_or(|(status, _)| status != 200)
        || stage.ews(&["status", "hello", "--json"]).json()["ready"] != 2
    {
        assert!(std::time::Instant::now() < until, "nothing is started again");
        pause(100);
    }
    assert!(stage.answering("hello.test").is_disjoint(&before));
    stage.clear();
}

#[test]
fn a_request_under_way_is_finished_before_the_host_ends_and_a_second_signal_does_not_wait() {
    use std::io::{Read as _, Write as _};
    let mut stage = Stage::new("");
    stage.ews(&["deploy", &stage.hello("v1", "")]).ends(0);
    let ask = |stage: &Stage, path: &str| {
        let mut stream = std::net::TcpStream::connect(stage.http()).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: hello.test\r\nConnection: close\r\n\r\n").unwrap();
        let words = format!("{path} has begun");
        wait(|| stage.ews(&["logs", "hello"]).ends(0).out.contains(&words));
        stream
    };
    let mut stream = ask(&stage, "/slow");
    let pid = stage.pid();
    assert_eq!(stage.end("TERM"), Some(0));
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("hello from version v1"), "{answer}");
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());

    // Longer than everything that is asked meanwhile.
    let path = stage.at("ews.toml");
    let config = std::fs::read_to_string(&path).unwrap();
    assert!(config.contains("drain = \"5s\""));
    std::fs::write(&path, config.replace("drain = \"5s\"", "drain = \"60s\"")).unwrap();
    stage.start();
    let before = stage.log().matches("ending: instances run on").count();
    let _stream = ask(&stage, "/very-slow");
    kill("TERM", stage.pid());
    wait(|| stage.log().matches("ending: instances run on").count() > before);
    // Whoever asks meanwhile is told.
    stage.ews(&["status"]).ends(0).says(&["it ends: requests under way are finished"]);
    // One that waits for the request ends with 0.
    assert_eq!(stage.end("TERM"), Some(1));
    stage.start();
    stage.clear();
}
