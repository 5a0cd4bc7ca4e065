//! What newcomers get wrong, what they are told, and the exit code that a script sees.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod stage;

use stage::{Stage, ews};

#[test]
fn a_wrong_command_line_is_2_and_says_what_is_accepted() {
    for (arguments, wanted) in [
        (&["deplyo", "a.toml"][..], &["unrecognized subcommand 'deplyo'", "deploy"][..]),
        (&["deploy"], &["<FILE>"]),
        (&["scale", "web", "many"], &["invalid value 'many'"]),
        (&["scale", "web", "-1"], &["unexpected argument '-1'"]),
        (&["exec", "web", "ls"], &["unexpected argument 'ls'", "--"]),
        (&["exec", "web", "--"], &["<COMMAND>"]),
        (&["logs", "web", "--tail", "99999"], &["99999", "10000"]),
        (&["status", "My Shop"], &["service name `My Shop`", "did you mean `my-shop`?"]),
        (&["status", "--api", "127.0.0.1:7400"], &["accepted: `unix:`", "`http://127.0.0.1:7400`"]),
        (&["status", "--api", "http://127.0.0.1:1"], &["asks for a token", "--token-file"]),
        (
            &["status", "--api", "http://127.0.0.1:1", "--token-file", "/no/such/file"],
            &["/no/such/file", "can't be read"],
        ),
        (&["exec", "web", "-e", "NAME", "--", "ls"], &["`NAME=VALUE`"]),
        (&["hotfix", "web", "index.html"], &["`index.html` is no pair", "the path in the instance"]),
        (&["hotfix", "web", "/a=/no/such/file"], &["/no/such/file can't be read"]),
        (&["restart", "web", "--strategy", "fast"], &["`--strategy` can't be read"]),
        (&["restart", "web", "--strategy", "{\"bach\": 1}"], &["unknown field `bach`", "`batch`"]),
        (&["completion", "powersh"], &["powersh", "bash", "zsh", "fish"]),
        (&["check"], &["--config"]),
        (&[], &["Usage", "deploy", "Exit codes"]),
    ] {
        let ran = ews(arguments);
        assert_eq!(ran.code, 2, "{arguments:?}: {ran:?}");
        ran.says(wanted);
    }
    let ran = ews(&["status", "My Shop", "--json"]).ends(2);
    let error: serde_json::Value = serde_json::from_str(&ran.err).unwrap();
    assert_eq!(error["exit"], 2);
    assert!(error["error"].as_str().unwrap().contains("did you mean `my-shop`?"), "{error}");
    // Whoever asks for JSON gets it though the rest of the line is wrong.
    for wrong in [&["deplyo", "--json"][..], &["scale", "web", "many", "--json"], &["--json"]] {
        let ran = ews(wrong).ends(2);
        let error: serde_json::Value =
            serde_json::from_str(&ran.err).unwrap_or_else(|_| unreachable!("{ran:?}"));
        assert_eq!((error["exit"].as_u64(), ran.out.as_str()), (Some(2), ""), "{ran:?}");
    }
    ews(&["exec", "--", "--json"]).ends(2).says(&["error: "]);
    ews(&["help", "deploy"]).ends(0).says(&["Examples:", "--queue"]);
    ews(&["help", "deplyo"]).ends(2).says(&["deplyo"]);
    ews(&["--help"]).ends(0).says(&["Exit codes:", "3  no host answers"]);
}

#[test]
fn a_wrong_document_is_2_and_every_problem_has_its_line() {
    let top = tempfile::tempdir().unwrap();
    let at = |name: &str| top.path().join(name).to_str().unwrap().to_owned();
    for (name, text, wanted) in [
        (
            "1.toml",
            "name = \"web\"\ncommand = [\"sh\"]\nreplica = 3",
            &["1.toml has 1 problem", "replica (line 3", "did you mean `replicas`?"][..],
        ),
        (
            "2.toml",
            "name = \"web\"\ncommand = [\"sh\"]\ndomian = \"a.test\"",
            &["domian (line 3", "did you mean `domain`?"],
        ),
        (
            "3.toml",
            "name = \"web\"\ncommand = \"python3 -m http.server\"",
            &["command (line 2", "a list of texts"],
        ),
        ("4.toml", "name = \"web\"\ncommand = [\"pyhton3\"]", &["command (line 2", "no program `pyhton3`"]),
        ("5.toml", "name = \"Web\"\ncommand = [\"sh\"]", &["name (line 1", "did you mean `web`?"]),
        ("6.toml", "name = \"web\"", &["nothing says what runs"]),
        (
            "7.toml",
            "name = \"web\"\ncommand = [\"sh\"]\nport = \"8080\"",
            &["port (line 3", "without quotes", "auto"],
        ),
        (
            "8.toml",
            "name = \"web\"\ncommand = [\"sh\"]\nport = 8080\nreplicas = 3",
            &["port (line 3", "`port = \"auto\"`"],
        ),
        (
            "9.toml",
            "name = \"web\"\ncommand = [\"sh\"]\nprobe = \"health\"\ndomain = \"https://a.test\"\nstrategy = \"slow\"",
            &["3 problems", "line 3", "line 4", "line 5"],
        ),
        ("10.toml", "name = \"web\"\ncommand = [\"sh\"\n", &["10.toml has", "line 2"]),
        (
            "11.json",
            "{\"name\": \"web\",\n \"command\": [\"sh\"],\n \"replicas\": \"3\"}",
            &["replicas (line 3", "without quotes"],
        ),
        (
            "12.toml",
            "name = \"web\"\nimage = \"shop/web:1.2\"\nenviroment = { A = \"b\" }",
            &["enviroment (line 3"],
        ),
        ("13.ini", "name=web", &["names no format", "`.toml`"]),
        ("14.yaml", "services:\n  web:\n    image: a/b:1", &["Compose"]),
    ] {
        std::fs::write(top.path().join(name), text).unwrap();
        let ran = ews(&["--data", &at("data"), "deploy", &at(name)]);
        assert_eq!(ran.code, 2, "{name}: {ran:?}");
        ran.says(wanted);
    }
    ews(&["--data", &at("data"), "deploy", &at("none.toml")]).ends(4).says(&["none.toml can't be read"]);
    std::fs::write(top.path().join("good.toml"), "name = \"web\"\ncommand = [\"sh\"]").unwrap();
    ews(&["--data", &at("data"), "deploy", &at("good.toml")])
        .ends(3)
        .says(&["no host answers", "ews serve --data"]);
}

#[test]
fn a_wrong_configuration_is_2_with_its_line_and_a_right_one_0() {
    let top = tempfile::tempdir().unwrap();
    let config = top.path().join("ews.toml");
    let config = config.to_str().unwrap();
    for (text, wanted) in [
        ("drian = \"10s\"", &["line 1", "unknown field `drian`", "`drain`"][..]),
        ("[gateway]\nlisten = \"0.0.0.0:80\"", &["line 2", "unknown field `listen`", "`http`"]),
        ("runtime = \"docker\"", &["runtime"]),
        ("[gateway]\nhttps = [\"127.0.0.1:0\"]", &["gateway.certificates"]),
        ("[[alerts]]\nname = \"a\"", &["line 1", "missing field"]),
        ("[scale.web]\nmin = 5\nmax = 2\nsignals = []", &["scale.web"]),
    ] {
        std::fs::write(config, text).unwrap();
        let ran = ews(&["check", "--config", config]);
        if text.contains("docker") && ran.code == 0 {
            // It was built with Docker.
            continue;
        }
        assert_eq!(ran.code, 2, "{text}: {ran:?}");
        ran.says(wanted).says(&["ews.toml"]);
        let data = top.path().join("data");
        ews(&["serve", "--config", config, "--data", data.to_str().unwrap()]).ends(2);
        assert!(!data.exists(), "a wrong configuration makes nothing");
    }
    let documented = stage::package("ews.toml");
    ews(&["check", "--config", documented.to_str().unwrap()]).ends(0).says(&["is right"]);
    ews(&["check", "--config", "/no/such/file"]).ends(4);
}

#[test]
fn what_is_not_there_is_4_what_can_not_be_is_5_and_what_this_host_can_not_run_is_2() {
    let stage = Stage::new("");
    for command in
        ["status", "logs", "history", "pause", "resume", "abort", "cancel", "rollback", "restart", "rm"]
    {
        stage.ews(&[command, "nowhere"]).ends(4).says(&["no such service: nowhere"]);
    }
    stage.ews(&["scale", "nowhere", "1"]).ends(4);
    stage.ews(&["exec", "nowhere", "--", "ls"]).ends(4);
    let file = stage.write("a.txt", "a");
    stage.ews(&["hotfix", "nowhere", &format!("/a={file}")]).ends(4);

    stage.ews(&["deploy", &stage.hello("v1", "")]).ends(0);
    stage.ews(&["rollback", "hello"]).ends(4).says(&["no earlier revision"]);
    stage.ews(&["rollback", "hello", "r9-none"]).ends(4).says(&["no such revision of the service: r9-none"]);
    stage.ews(&["abort", "hello"]).ends(5).says(&["no rollout"]);
    stage.ews(&["hotfix", "hello", &format!("../a={file}")]).ends(2);
    stage
        .ews(&["hotfix", "hello", &format!("/a={file}"), "--reload", "kick"])
        .ends(2)
        .says(&["`none`, `restart`"]);
    // A domain that another service has.
    let twin = std::fs::read_to_string(stage.hello("v1", "")).unwrap().replace("\"hello\"", "\"twin\"");
    let twin = stage.write("twin.toml", &twin);
    stage.ews(&["deploy", &twin]).ends(5).says(&["`hello.test` is served by the routes `hello` already"]);
    let image = stage.write("image.toml", "name = \"web\"\nimage = \"registry.example/shop/web:1.2\"\n");
    stage.ews(&["deploy", &image]).ends(2).says(&["this host runs processes", "`command`"]);
    let garbage = stage.write("site.dat", "this is no program");
    let text = stage.write("garbage.toml", &format!("name = \"web\"\nartifact = \"{garbage}\"\n"));
    stage.ews(&["deploy", &text]).ends(2).says(&["accepted: tar"]);
    stage.ews(&["exec", "hello", "--instance", "ews_none", "--", "ls"]).ends(4);

    // A second host on the same directory.
    let (config, data) = (stage.at("ews.toml"), stage.data());
    ews(&["serve", "--config", config.to_str().unwrap(), "--data", data.to_str().unwrap()])
        .ends(5)
        .says(&[&format!("another host (process {})", stage.pid()), "--data"]);
    // The first one does not mind.
    stage.ews(&["status", "hello"]).ends(0);
    stage.clear();
}

#[test]
fn a_completion_of_each_shell_names_the_commands() {
    for shell in ["bash", "zsh", "fish"] {
        ews(&["completion", shell]).ends(0).says(&["rollback", "hotfix", "token-file"]);
    }
}
