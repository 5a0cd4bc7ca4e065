//! Answers that say what nobody has heard of, say nothing, or refuse in other words: one container's oddity, and never the end of a list.

use ews_core::instance::{Health, InstanceState};
use ews_core::runtime::{CreateOptions, RemoveOptions, StopOptions};
use ews_core::{ErrorKind, Runtime, Selector};
use ews_docker::DockerRuntime;
use serde_json::{Value, json};

use super::engine::{Engine, INDEX, version};
use super::{key, spec};
use crate::rig::standin::{Reply, Standin};

async fn running() -> (Engine, DockerRuntime, ews_core::InstanceId) {
    let stood = Engine::new(&version("1.51", "1.44"));
    let runtime = DockerRuntime::connect(stood.config()).await.unwrap();
    let id = runtime.create(&spec(), &key(), &CreateOptions::default()).await.unwrap().id;
    runtime.start(&id).await.unwrap();
    (stood, runtime, id)
}

#[tokio::test]
async fn a_start_of_what_runs_already_is_none() {
    let (stood, runtime, id) = running().await;
    let before = runtime.get(&id).await.unwrap();
    stood.forget_that_it_runs();
    // 304, without a body.
    let again = runtime.start(&id).await.unwrap();
    assert_eq!((again.state, again.incarnation), (before.state, before.incarnation));
}

#[tokio::test]
async fn words_that_nobody_has_heard_of() {
    let (stood, runtime, id) = running().await;
    let unknown = |state: &InstanceState| matches!(state, InstanceState::Unknown { .. });
    type Wanted = fn(&InstanceState) -> bool;
    let cases: [(Value, Wanted); 6] = [
        (json!({"State": {"Status": "hibernating", "Running": true}}), |state| {
            *state == InstanceState::Running
        }),
        (json!({"State": {"Status": "hibernating", "Running": false}}), unknown),
        (json!({"State": {"Status": "", "Running": false}}), unknown),
        (json!({"State": {"Status": "restarting", "Restarting": true}}), |state| {
            *state == InstanceState::Starting
        }),
        (
            json!({"State": {"Status": "dead", "ExitCode": 3, "FinishedAt": "2026-09-30T21:18:00Z"}}),
            |state| matches!(state, InstanceState::Exited(status) if status.code == Some(3)),
        ),
        (json!({"HostConfig": {"RestartPolicy": {"Name": "on-tuesdays"}, "NetworkMode": "mesh"}}), |state| {
            *state == InstanceState::Running
        }),
    ];
    for (over, wanted) in cases {
        stood.say(over.clone());
        let one = runtime.get(&id).await.unwrap();
        assert!(wanted(&one.state), "{over}: {:?}", one.state);
        assert_eq!(runtime.list(&Selector::everything()).await.unwrap().len(), 1, "{over}");
    }
    for (said, health) in [("healthy", Health::Healthy), ("dozing", Health::None), ("", Health::None)] {
        stood.say(json!({"State": {"Health": {"Status": said}}}));
        assert_eq!(runtime.get(&id).await.unwrap().health, health, "{said}");
    }
    // A port of a protocol, and an address, that can't be read: no endpoint, and no error.
    stood.say(json!({"NetworkSettings": {"Ports": {"8080/quic": [{"HostIp": "fe80::1%eth0", "HostPort": "x"}],
        "8080/tcp": [{"HostIp": "fe80::1%eth0", "HostPort": "99999"}]}, "Networks": {"bridge": {"IPAddress": "?"}}}}));
    assert!(runtime.get(&id).await.unwrap().endpoints.is_empty());
}

/// `null`, and nothing at all, in every place that has a default.
#[tokio::test]
async fn nothing_where_something_was() {
    let (id, labels) = (key().to_id().unwrap(), {
        let (stood, _, _) = running().await;
        stood.body()["Labels"].clone()
    });
    let whole = json!({"Id": "aa", "Name": format!("/{id}"), "Config": {"Labels": labels}});
    let mut bare = whole.clone();
    for field in ["State", "HostConfig", "NetworkSettings", "Created", "Mounts", "Image"] {
        bare[field] = Value::Null;
    }
    let mut hollow = whole.clone();
    hollow["State"] = json!({"Status": null, "Health": null, "Pid": null, "StartedAt": null, "Error": null, "ExitCode": null});
    hollow["NetworkSettings"] = json!({"Ports": null, "Networks": null});
    hollow["Config"]["User"] = Value::Null;
    for one in [whole, bare, hollow] {
        let list = json!([{"Id": "aa", "Names": [format!("/{id}")], "Labels": labels}, {"Id": "bb"}, {"Id": null, "Names": null}]);
        let shown = one.clone();
        let engine = Standin::saying(
            &version("1.51", "1.44"),
            r#"{"OSType":"linux","Architecture":"aarch64"}"#,
            move |asked| match asked.line.split('?').next().unwrap() {
                "GET /containers/json" => Reply::Whole(200, list.to_string()),
                line if line.ends_with("/json") => Reply::Whole(200, shown.to_string()),
                line => panic!("nobody should ask for {line}"),
            },
        );
        let runtime = DockerRuntime::connect(engine.config()).await.unwrap();
        let list = runtime.list(&Selector::everything()).await.unwrap();
        assert_eq!(list.len(), 1, "{one}");
        assert!(matches!(list[0].state, InstanceState::Unknown { .. }), "{one}: {:?}", list[0].state);
        assert!(runtime.usage(std::slice::from_ref(&id)).await.unwrap().is_empty(), "{one}");
    }
    for list in ["null", "[]"] {
        let engine = Standin::saying(
            &version("1.51", "1.44"),
            r#"{"OSType":"linux","Architecture":"aarch64"}"#,
            move |_| Reply::Whole(200, list.to_owned()),
        );
        let runtime = DockerRuntime::connect(engine.config()).await.unwrap();
        assert!(runtime.list(&Selector::everything()).await.unwrap().is_empty(), "{list}");
    }
}

/// What 20.10 to 29 answer after they died in the midst of a start: for ever, so that only another container helps.
#[tokio::test]
async fn what_an_engine_had_begun_before_it_died_makes_way() {
    let labels = {
        let (stood, _, _) = running().await;
        stood.body()["Labels"].clone()
    };
    for (words, makes_way) in [
        ("task aa: already exists", true),
        ("failed to create task for container: task aa: already exists: unknown", true),
        ("id already in use", true),
        // Words about something else, for which no container goes.
        ("task bb: already exists", false),
        ("endpoint with name ews_acme_task_r1_0_0 already exists in network task", false),
        ("port with id already in use", false),
    ] {
        let gone = std::sync::atomic::AtomicBool::new(false);
        let one = json!({"Id": "aa", "Name": format!("/{}", key().to_id().unwrap()), "Config": {"Labels": labels},
            "State": {"Status": "created"}});
        let engine = Standin::saying(
            &version("1.51", "1.44"),
            r#"{"OSType":"linux","Architecture":"x86_64"}"#,
            move |asked| match asked.line.split_once(' ').unwrap() {
                ("POST", _) => Reply::Whole(409, json!({ "message": words }).to_string()),
                ("DELETE", _) => {
                    gone.store(true, std::sync::atomic::Ordering::Relaxed);
                    Reply::Whole(204, String::new())
                }
                _ if gone.load(std::sync::atomic::Ordering::Relaxed) => {
                    Reply::Whole(404, json!({ "message": "No such container: aa" }).to_string())
                }
                _ => Reply::Whole(200, one.to_string()),
            },
        );
        let runtime = DockerRuntime::connect(engine.config()).await.unwrap();
        let id = key().to_id().unwrap();
        let error = runtime.start(&id).await.unwrap_err();
        if !makes_way {
            assert!(runtime.get(&id).await.is_ok(), "{words}");
            continue;
        }
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        assert!(error.to_string().contains("died while it started"), "{error}");
        assert_eq!(runtime.get(&id).await.unwrap_err().kind(), ErrorKind::NotFound);
    }
}

/// The words of engines 25 to 29, and of none, for each call that may be refused.
#[tokio::test]
async fn refusals_in_the_words_of_newer_engines() {
    use ErrorKind as K;
    let cases: [(&str, u16, &str, &str, K); 15] = [
        // Which call, the status, its content type and words, and what it means.
        ("create", 404, "json", "No such image: r.example/web:1", K::ImageMissing),
        ("create", 404, "json", "no match for platform in manifest: not found", K::ImageIncompatible),
        (
            "create",
            400,
            "json",
            "invalid JSON: network-scoped aliases are only supported for user-defined networks",
            K::Invalid,
        ),
        (
            "create",
            400,
            "json",
            "client version 1.41 is too old. Minimum supported API version is 1.44, please upgrade your client to a newer version",
            K::Invalid,
        ),
        (
            "create",
            507,
            "json",
            "write /var/lib/containerd/io.containerd.content.v1.content/ingest/x: no space left on device",
            K::OutOfResources,
        ),
        (
            "start",
            500,
            "json",
            "failed to set up container networking: driver failed programming external connectivity on endpoint web (0a): Bind for 127.0.0.1:80 failed: port is already allocated",
            K::PortInUse,
        ),
        (
            "start",
            500,
            "json",
            "failed to set up container networking: driver failed programming external connectivity on endpoint web (0a): failed to bind host port for 127.0.0.1:80: address already in use",
            K::PortInUse,
        ),
        ("start", 404, "json", "No such container: web", K::NotFound),
        ("start", 502, "html", "<html><body><h1>502 Bad Gateway</h1></body></html>", K::Unavailable),
        ("start", 504, "text", "upstream timed out", K::Timeout),
        (
            "stop",
            500,
            "json",
            "cannot stop container: web: tried to kill container, but did not receive an exit event",
            K::Internal,
        ),
        ("stop", 403, "json", "authorization denied by plugin opa: not allowed", K::Unauthorized),
        (
            "remove",
            409,
            "json",
            "cannot remove container \"/web\": container is running: stop the container before removing or force remove",
            K::Busy,
        ),
        ("remove", 500, "empty", "", K::Internal),
        ("remove", 429, "text", "slow down", K::Unavailable),
    ];
    for (call, status, kind_of_body, words, kind) in cases {
        let body = match kind_of_body {
            "json" => json!({ "message": words }).to_string(),
            _ => words.to_owned(),
        };
        let mut inspected = json!({"Id": "aa", "Name": format!("/{}", key().to_id().unwrap())});
        let labelled = {
            let (stood, _, _) = running().await;
            stood.body()["Labels"].clone()
        };
        inspected["Config"] = json!({ "Labels": labelled });
        // A container to be started and removed has not run; one to be stopped does.
        inspected["State"] = match call {
            "stop" => json!({"Status": "running", "Running": true, "StartedAt": "2026-09-30T21:17:10Z"}),
            _ => json!({"Status": "created"}),
        };
        let exists = call != "create";
        let engine = Standin::saying(
            &version("1.51", "1.44"),
            r#"{"OSType":"linux","Architecture":"x86_64"}"#,
            move |asked| {
                match asked.line.split_once(' ').unwrap() {
                ("GET", path) if path.starts_with("/images/") => {
                    Reply::Whole(200, json!({"Id": INDEX, "Os": "linux", "Architecture": "amd64", "RepoTags": ["r.example/web:1"]}).to_string())
                }
                ("GET", _) if exists => Reply::Whole(200, inspected.to_string()),
                ("GET", _) => Reply::Whole(404, r#"{"message":"No such container"}"#.to_owned()),
                _ => Reply::Whole(status, body.clone()),
            }
            },
        );
        let runtime = DockerRuntime::connect(engine.config()).await.unwrap();
        let id = key().to_id().unwrap();
        let error = match call {
            "create" => runtime.create(&spec(), &key(), &CreateOptions::default()).await.map(drop),
            "start" => runtime.start(&id).await.map(drop),
            "stop" => runtime.stop(&id, &StopOptions::default()).await.map(drop),
            _ => runtime.remove(&id, &RemoveOptions::default()).await,
        };
        let error = error.expect_err(words);
        assert_eq!(error.kind(), kind, "{call} {status} {words}: {error}");
        assert_eq!(error.detail().unwrap_or_default(), words, "the engine's own words travel along");
        let midway = status >= 500 && matches!(kind, K::Internal | K::Unavailable | K::Timeout);
        assert_eq!(error.maybe_applied(), midway, "{call} {status} {words}");
    }
}
