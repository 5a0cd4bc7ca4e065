//! A service's life on a host, with real processes: every command in the order in which an operator comes to need them, under load.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod stage;

use stage::{Load, Stage, wait};

const QUICK: &str = r#"{"min_healthy":"300ms","healthy_deadline":"20s","monitor":"500ms","drain":"3s"}"#;

#[test]
fn a_service_is_deployed_looked_at_scaled_rolled_back_mended_and_removed_and_no_request_fails() {
    let stage = Stage::new("");
    let v1 = stage.hello("v1", "");
    stage.ews(&["status"]).ends(0).says(&["process runtime", "no services yet"]);

    stage.ews(&["plan", &v1]).ends(0).says(&["hello: (nothing) -> r1-", "slot 1: create"]);
    stage.ews(&["deploy", &v1, "--reason", "the first"]).ends(0).says(&[
        "rollout 1 begins: nothing -> r1-",
        "slot 0: create",
        "rollout 1 of hello succeeded",
        "(2 of 2)",
    ]);
    let (status, body) = stage.get("hello.test").unwrap();
    assert_eq!(status, 200);
    assert!(body.starts_with("hello from version v1 in slot "), "{body}");
    // Nobody else's name is served.
    assert_eq!(stage.get("other.test").unwrap().0, 404);

    let load = Load::on(stage.http(), "hello.test");
    let seen = stage.ews(&["status", "hello", "--json"]).ends(0).json();
    assert_eq!((seen["desired"].as_u64(), seen["ready"].as_u64()), (Some(2), Some(2)));
    assert_eq!(seen["instances"].as_array().unwrap().len(), 2);
    stage.ews(&["status"]).ends(0).says(&["SERVICE", "hello", "2/2", "well"]);
    stage.ews(&["status", "hello"]).ends(0).says(&["SLOT", "ENDPOINTS", "running", "http=127.0.0.1:"]);

    stage.ews(&["scale", "hello", "3"]).ends(0).says(&["hello has 3 instances"]);
    wait(|| stage.answering("hello.test").len() == 3);
    stage.ews(&["scale", "hello", "2", "--reason", "enough"]).ends(0);

    // A version that ends at its start is rolled back, and its last words are shown.
    let bad = stage.hello("bad", "");
    stage.ews(&["deploy", &bad]).ends(1).says(&[
        "rollout 2 turns round",
        "rollout 2 of hello rolled back",
        "exit code 3",
        "column `price` is missing",
    ]);
    assert!(stage.get("hello.test").unwrap().1.contains("version v1"));
    let report = stage.ews(&["deploy", &bad, "--json"]).ends(1).json();
    assert_eq!(report["outcome"], "rolled_back");

    let v2 = stage.hello("v2", "");
    stage.ews(&["plan", &v2]).ends(0).says(&["r1-", "replace"]);
    stage.ews(&["deploy", &v2]).ends(0);
    assert!(stage.get("hello.test").unwrap().1.contains("version v2"));
    // The same once more changes nothing and is well.
    stage.ews(&["deploy", &v2]).ends(0);
    stage.ews(&["rollback", "hello"]).ends(0).says(&["succeeded"]);
    assert!(stage.get("hello.test").unwrap().1.contains("version v1"));

    let mended = stage.write("mended.txt", "mended\n");
    let pair = format!("/message.txt={mended}");
    stage
        .ews(&["hotfix", "hello", &pair, "--strategy", QUICK, "--reason", "a typo"])
        .ends(0)
        .says(&["succeeded"]);
    assert!(stage.get("hello.test").unwrap().1.starts_with("mended from version v1"));
    stage.ews(&["rollback", "hello"]).ends(0);
    assert!(stage.get("hello.test").unwrap().1.starts_with("hello from version v1"));

    let before = stage.instances();
    stage.ews(&["restart", "hello", "--strategy", QUICK]).ends(0).says(&["succeeded"]);
    assert!(before.is_disjoint(&stage.instances()));

    let (asked, failed) = load.end();
    assert!(asked > 100, "{asked}");
    assert_eq!(failed, 0, "of {asked}");

    stage
        .ews(&["logs", "hello"])
        .ends(0)
        .says(&["hello.0 | listening on port", "hello.1 | version v1 starts"]);
    let lines = stage.ews(&["logs", "hello", "--tail", "1", "--json"]).ends(0).lines();
    assert_eq!(lines.len(), 1);
    assert_eq!(lines[0]["line"]["stderr"], false);
    let one = seen_instance(&stage);
    stage.ews(&["logs", "hello", "--instance", &one]).ends(0).says(&["hello.0 | "]);
    stage.ews(&["logs", "hello", "--instance", "ews_none"]).ends(4);

    let ran = stage.ews(&["exec", "hello", "--", "sh", "-c", "echo out; echo err >&2; exit 7"]).ends(7);
    assert_eq!((ran.out.as_str(), ran.err.as_str()), ("out\n", "err\n"));
    let ran =
        stage.ews(&["exec", "hello", "-e", "A=b c", "--", "sh", "-c", "echo $A; cat message.txt"]).ends(0);
    assert_eq!(ran.out, "b c\nhello\n");
    stage.ews(&["exec", "hello", "--", "no-such-program"]).ends(127);
    let large = "0123456789abcdef\n".repeat(20_000);
    let mut input = std::process::Command::new(stage::program())
        .arg("--data")
        .arg(stage.data())
        .args(["exec", "hello", "--stdin", "--", "sh", "-c", "wc -c; exit 4"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut input.stdin.take().unwrap(), large.as_bytes()).unwrap();
    let output = input.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), large.len().to_string());
    assert_eq!(output.status.code(), Some(4));
    let binary = stage.ews(&["exec", "hello", "--json", "--", "printf", "\\377"]).ends(0).lines();
    assert_eq!(binary[1]["stdout_bytes"][0], 255);
    assert_eq!(stage.ews(&["exec", "hello", "--", "sh", "-c", "kill -9 $$"]).code, 137);

    let history = stage.ews(&["history", "hello", "--json"]).ends(0).json();
    let outcomes: Vec<_> = history["rollouts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| r["outcome"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(outcomes.iter().filter(|outcome| *outcome == "rolled_back").count(), 2, "{outcomes:?}");
    stage.ews(&["history", "hello"]).ends(0).says(&[
        "ROLLOUT",
        "rolled back",
        "hotfix (rollout",
        "scale from 2 to 3",
        "a typo",
        "operator",
    ]);
    stage.ews(&["events", "hello"]).ends(0).says(&[
        "hello: rollout 1 begins",
        "turns round",
        "scaled from 2 to 3",
    ]);
    let events = stage.ews(&["events", "--json"]).ends(0).lines();
    assert!(events.iter().all(|line| line["event"]["text"].is_string()), "{events:?}");

    stage.ews(&["rm", "hello"]).ends(0).says(&["hello is gone"]);
    stage.ews(&["status", "hello"]).ends(4);
    stage.ews(&["rm", "hello"]).ends(4);
    assert_eq!(stage.get("hello.test").unwrap().0, 404);
    stage.clear();
}

fn seen_instance(stage: &Stage) -> String {
    let seen = stage.ews(&["status", "hello", "--json"]).json();
    seen["instances"][0]["id"].as_str().unwrap().to_owned()
}

#[test]
fn a_rollout_is_paused_resumed_and_aborted_and_a_second_one_waits_its_turn() {
    let stage = Stage::new("");
    // Slow enough to be stepped into.
    let slow = "strategy = { min_healthy = \"2s\", monitor = \"500ms\", healthy_deadline = \"30s\" }";
    let document = |version: &str| {
        let path = stage.hello(version, "");
        let text = std::fs::read_to_string(&path).unwrap().replace("strategy = \"fast\"", slow);
        std::fs::write(&path, text).unwrap();
        path
    };
    stage.ews(&["deploy", &stage.hello("v1", "")]).ends(0);
    let v2 = document("v2");
    stage.ews(&["pause", "hello"]).ends(5).says(&["no rollout of the service is under way"]);
    stage.ews(&["deploy", &v2, "--detach"]).ends(0).says(&["rollout 2 of hello is asked for"]);
    stage.ews(&["deploy", &v2]).ends(5).says(&["rollout 2 of the service is under way"]);
    stage.ews(&["scale", "hello", "70000"]).ends(2);
    stage.ews(&["pause", "hello"]).ends(0);
    wait(|| stage.ews(&["status", "hello", "--json"]).json()["rollout"]["paused"] == true);
    stage.ews(&["resume", "hello"]).ends(0);
    stage.ews(&["abort", "hello"]).ends(0);
    wait(|| stage.ews(&["status", "hello", "--json"]).json()["rollout"].is_null());
    let history = stage.ews(&["history", "hello", "--json"]).json();
    assert_eq!(history["rollouts"][0]["outcome"], "rolled_back");
    assert!(stage.get("hello.test").unwrap().1.contains("version v1"));

    stage.ews(&["deploy", &v2, "--detach"]).ends(0);
    let v3 = stage.hello("v3", "");
    stage.ews(&["deploy", &v3, "--supersede"]).ends(0);
    assert!(stage.get("hello.test").unwrap().1.contains("version v3"));
    stage.clear();
}

#[test]
fn who_follows_hears_of_what_comes_later_and_of_instances_that_are_made_later() {
    let stage = Stage::new("");
    stage.ews(&["deploy", &stage.hello("v1", "")]).ends(0);
    let follow = |arguments: &[&str]| {
        let out = std::fs::File::create(stage.at(arguments[0])).unwrap();
        let data = stage.data();
        std::process::Command::new(stage::program())
            .arg("--data")
            .arg(data)
            .args(arguments)
            .stdout(out)
            .spawn()
            .unwrap()
    };
    let mut followers = [follow(&["logs", "hello", "-f"]), follow(&["events", "hello", "-f"])];
    let read = |name: &str| std::fs::read_to_string(stage.at(name)).unwrap_or_default();
    wait(|| read("logs").contains("version v1 starts") && read("events").contains("rollout 1 begins"));
    stage.ews(&["deploy", &stage.hello("v2", "")]).ends(0);
    wait(|| read("logs").contains("version v2 starts") && read("logs").contains("asked to end"));
    wait(|| read("events").contains("rollout 2 succeeded"));
    for follower in &mut followers {
        assert!(follower.try_wait().unwrap().is_none(), "a follower ended by itself");
    }
    stage.ews(&["rm", "hello"]).ends(0);
    // Nothing is left to be followed.
    wait(|| matches!(followers[0].try_wait(), Ok(Some(status)) if status.success()));
    followers[1].kill().unwrap();
    followers[1].wait().unwrap();
    stage.clear();
}
