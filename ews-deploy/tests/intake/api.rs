//! The deploy API: tokens, deployments from their begin to their end, and its description.

use std::collections::BTreeSet;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use ews_core::Digest;
use ews_deploy::intake::{OPENAPI, Verb};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tower::ServiceExt as _;

use crate::rig::eventually;
use crate::stage::{PROGRAM, Stage, TOKEN, api_request, scope, secret, spec, strategy};

const WEB: &str = "/v1/services/web";

fn deployment() -> Value {
    json!({
        "upload": { "digest": Digest::of(PROGRAM), "kind": "process" }, "spec": spec(), "strategy": strategy(),
        "reason": "build 4711"
    })
}

async fn deployed(stage: &Stage) {
    stage.upload(PROGRAM).await;
    let (status, value) = stage.api("POST", &format!("{WEB}/deploy"), deployment().to_string()).await;
    assert_eq!((status, &value["rollout"]), (StatusCode::ACCEPTED, &json!(1)), "{value}");
    let (status, value) = stage.api("GET", &format!("{WEB}/rollouts/1?wait=60s"), "").await;
    assert_eq!((status, &value["report"]["outcome"]), (StatusCode::OK, &json!("succeeded")), "{value}");
}

#[tokio::test(start_paused = true)]
async fn a_service_lives_its_life_by_requests_alone() {
    let stage = Stage::new(|config| config).await;
    let ask = async |method: &str, path: &str, body: Value| {
        let (status, value) = stage.api(method, &format!("{WEB}{path}"), body.to_string()).await;
        (status.as_u16(), value)
    };
    assert_eq!(ask("GET", "/status", json!({})).await.0, 404);
    stage.upload(PROGRAM).await;
    assert_eq!(
        ask("POST", "/deploy", json!({ "upload": { "digest": Digest::of(PROGRAM), "kind": "process" } }))
            .await
            .0,
        404
    );
    let (status, plan) = ask("POST", "/plan", deployment()).await;
    assert_eq!((status, plan["batches"][0].as_array().map(Vec::len)), (200, Some(2)), "{plan}");
    deployed(&stage).await;
    assert_eq!(stage.rollouts().await[0].1, "api:ci");
    let (_, status) = ask("GET", "/status", json!({})).await;
    assert_eq!((&status["desired"], status["instances"].as_array().unwrap().len()), (&json!(2), 2));
    // A CI job that knows the service names its new image only.
    stage.push("registry.example/acme/web:2").await;
    let image =
        json!({ "image": "registry.example/acme/web:2", "strategy": strategy(), "concurrency": "queue" });
    assert_eq!(ask("POST", "/deploy", image).await.1["rollout"], 2);
    assert_eq!(ask("GET", "/rollouts/2?wait=60s", json!({})).await.1["report"]["outcome"], "succeeded");
    assert_eq!(ask("POST", "/scale", json!({ "replicas": 3, "reason": "Friday" })).await.1["desired"], 3);
    assert_eq!(ask("POST", "/scale", json!({ "replicas": 3, "version": 77 })).await.0, 412);
    let (status, restarted) = ask("POST", "/restart", json!({ "strategy": strategy() })).await;
    assert_eq!((status, &restarted["rollout"]), (202, &json!(3)), "{restarted}");
    for (path, wanted) in [("/pause", 202), ("/resume", 202)] {
        assert_eq!(ask("POST", path, json!({})).await.0, wanted, "{path}");
    }
    assert_eq!(ask("GET", "/rollouts/3?wait=60s", json!({})).await.1["report"]["outcome"], "succeeded");
    assert_eq!(ask("POST", "/abort", json!({})).await.0, 409, "nothing is under way");
    assert_eq!(ask("POST", "/rollback", json!({})).await.1["rollout"], 4);
    assert_eq!(ask("POST", "/rollback", json!({})).await.0, 409, "one is under way");
    assert_eq!(ask("GET", "/rollouts/4?wait=60s", json!({})).await.1["report"]["outcome"], "succeeded");
    let fix = json!({ "files": [{ "path": "/etc/motd", "content": "mended" }], "reason": "Thursdays" });
    let (status, fixed) = ask("POST", "/hotfix", fix).await;
    assert_eq!((status, &fixed["rollout"]), (202, &json!(5)), "{fixed}");
    // It is watched for longer than one request waits.
    let mut answer = ask("GET", "/rollouts/5?wait=60s", json!({})).await;
    for _ in 0..20 {
        if answer.0 != 202 {
            break;
        }
        answer = ask("GET", "/rollouts/5?wait=60s", json!({})).await;
    }
    assert_eq!(answer.1["report"]["outcome"], "succeeded", "{}", answer.1);
    assert_eq!(ask("GET", "/rollouts/99", json!({})).await.0, 404);
    assert_eq!(ask("GET", "/rollouts/99?wait=1s", json!({})).await.0, 404);
    assert_eq!(ask("GET", "/history", json!({})).await.1.as_array().unwrap().len(), 5);
    let (_, audit) = stage.api("GET", "/v1/audit?service=web&limit=1000", "").await;
    assert!(audit.as_array().unwrap().iter().filter(|entry| entry["by"] == "api:ci").count() >= 8, "{audit}");
}

#[tokio::test(start_paused = true)]
async fn a_request_with_a_key_is_made_once() {
    let mut stage = Stage::new(|config| config).await;
    deployed(&stage).await;
    let ask = async |stage: &Stage, path: &str, key: &str, body: Value| {
        let request = api_request(TOKEN, "POST", &format!("{WEB}{path}")).header("idempotency-key", key);
        let (status, headers, value) = stage.ask(request.body(Body::from(body.to_string())).unwrap()).await;
        (status.as_u16(), headers.contains_key("idempotent-replayed"), value)
    };
    let first = ask(&stage, "/deploy", "a", deployment()).await;
    assert_eq!(ask(&stage, "/deploy", "a", deployment()).await, first);
    stage.ended(2).await;
    let restart = json!({ "strategy": strategy() });
    let (_, replayed, value) = ask(&stage, "/restart", "a", restart.clone()).await;
    assert_eq!((replayed, &value["rollout"]), (false, &json!(3)), "a key is of one path: {value}");
    stage.ended(3).await;
    stage.restart().await;
    assert_eq!(ask(&stage, "/restart", "a", restart).await, (202, true, value));
    assert_eq!(ask(&stage, "/deploy", "a", deployment()).await.2["rollout"], 2);
    assert_eq!(ask(&stage, "/deploy", &"k".repeat(256), deployment()).await.0, 400);
}

#[tokio::test(start_paused = true)]
async fn a_token_opens_its_scope_and_nothing_shows_what_else_there_is() {
    let stage = Stage::new(|config| {
        config
            .with_token("reader", scope("reader", &[Verb::Read]))
            .with_token("none", scope("not-there", &[Verb::Read]))
    })
    .await;
    stage.secrets.put(&secret("reader"), "reader-token-of-many-bytes");
    let paths: Vec<String> =
        ["status", "history", "events", "rollouts/1"].map(|path| format!("{WEB}/{path}")).into();
    let mut answers = Vec::new();
    for path in paths.iter().map(String::as_str).chain(["/v1/nothing", "/", "/v1/audit", "/v1/openapi.json"])
    {
        for token in [None, Some("Bearer wrong"), Some("Bearer "), Some("Basic eA=="), Some(&TOKEN[1..])] {
            let mut request = Request::get(path);
            if let Some(token) = token {
                request = request.header("authorization", token);
            }
            answers.push(stage.ask(request.body(Body::empty()).unwrap()).await);
        }
    }
    for (status, headers, value) in &answers {
        assert_eq!((*status, value), (StatusCode::UNAUTHORIZED, &answers[0].2));
        assert_eq!(headers["www-authenticate"], "Bearer");
    }
    let reader =
        async |method: &str, path: &str| stage.api_as("reader-token-of-many-bytes", method, path, "").await;
    assert_eq!(reader("GET", "/v1/services/web/status").await.0, StatusCode::NOT_FOUND);
    assert_eq!(reader("GET", "/v1/services/shop-a/status").await.0, StatusCode::NOT_FOUND);
    for (method, path) in [
        ("GET", "/v1/services/other/status"),
        ("GET", "/v1/audit?service=other"),
        ("POST", "/v1/services/web/deploy"),
        ("POST", "/v1/services/web/plan"),
        ("POST", "/v1/services/web/rollback"),
        ("POST", "/v1/services/web/scale"),
        ("POST", "/v1/services/web/hotfix"),
        ("POST", "/v1/uploads"),
    ] {
        let (status, problem) = reader(method, path).await;
        assert_eq!(status, StatusCode::FORBIDDEN, "{method} {path}: {problem}");
    }
}

#[tokio::test(start_paused = true)]
async fn wrong_requests_say_where_and_what_is_accepted() {
    let stage = Stage::new(|config| config).await;
    for (path, body, field, says) in [
        ("deploy", json!({ "imagee": "x" }), "body", "imagee"),
        ("deploy", json!({ "spec": spec() }), "image", "no source"),
        ("deploy", json!({ "image": "a", "upload": { "id": "x" }, "spec": spec() }), "image", "two"),
        ("deploy", json!({ "image": "a", "spec": { "name": "other" } }), "spec", "another service's"),
        ("deploy", json!({ "image": "a", "spec": { "artifact": "/etc" } }), "spec", "a source within"),
        ("deploy", json!({ "image": "a", "spec": { "replicaz": 1 } }), "spec", "replicaz"),
        ("deploy", json!({ "upload": {}, "spec": spec() }), "upload", "`id` or `digest`"),
        ("scale", json!({}), "body", "replicas"),
        ("hotfix", json!({ "files": [{ "path": "/a" }] }), "files", "`content` or `upload`"),
        ("hotfix", json!({ "files": [] }), "files", "accepted"),
        ("pause", json!({ "x": 1 }), "body", "x"),
    ] {
        let (status, problem) = stage.api("POST", &format!("{WEB}/{path}"), body.to_string()).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{path} {body}: {problem}");
        assert_eq!(problem["context"]["field"], field, "{path} {body}: {problem}");
        assert!(problem["detail"].as_str().unwrap().contains(says), "{path} {body}: {problem}");
    }
    for path in
        ["rollouts/x", "rollouts/1?wait=61s", "rollouts/1?wait=x", "rollouts/1?wait=%zz", "events?after=x"]
    {
        let (status, problem) = stage.api("GET", &format!("{WEB}/{path}"), "").await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{path}: {problem}");
    }
}

#[tokio::test(start_paused = true)]
async fn events_are_resumed_after_the_last_one_seen() {
    let stage = Stage::new(|config| config).await;
    let open = async |after: Option<&str>| {
        let mut request = api_request(TOKEN, "GET", &format!("{WEB}/events"));
        if let Some(after) = after {
            request = request.header("last-event-id", after);
        }
        let response = stage.router().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        response.into_body()
    };
    let read = async |body: &mut Body, until: &str| {
        let mut text = String::new();
        while !text.contains(until) {
            text.push_str(
                std::str::from_utf8(body.frame().await.unwrap().unwrap().data_ref().unwrap()).unwrap(),
            );
        }
        text
    };
    let mut stream = open(None).await;
    deployed(&stage).await;
    let seen = read(&mut stream, "\"succeeded\"").await;
    let ids: Vec<&str> = seen.lines().filter_map(|line| line.strip_prefix("id: ")).collect();
    assert!(ids.len() > 5, "{seen}");
    let again = read(&mut open(Some(ids[2])).await, "\"succeeded\"").await;
    assert!(again.contains(ids[3]) && !again.contains(&format!("id: {}\n", ids[2])), "{again}");
    let gap = read(&mut open(Some("00000000000000ff-7")).await, "event: gap").await;
    assert!(gap.contains("event: gap"));
    let mut all = Vec::new();
    for _ in 0..64 {
        all.push(open(None).await);
        if all.len() == 63 {
            break;
        }
    }
    let (status, _) = stage.api("GET", &format!("{WEB}/events"), "").await;
    assert_eq!(status, StatusCode::TOO_MANY_REQUESTS);
    drop(all);
    let open_again = || async {
        let request = api_request(TOKEN, "GET", &format!("{WEB}/events")).body(Body::empty()).unwrap();
        stage.router().oneshot(request).await.unwrap().status() == StatusCode::OK
    };
    eventually("there is room again", open_again).await;
}

#[tokio::test(start_paused = true)]
async fn the_description_has_every_path_and_method_and_no_other() {
    let stage = Stage::new(|config| config).await;
    let document: Value = serde_json::from_str(OPENAPI).unwrap();
    let described: BTreeSet<String> = document["paths"].as_object().unwrap().keys().cloned().collect();
    let source = include_str!("../../src/intake/api/mod.rs");
    let routed: BTreeSet<String> = source
        .split(".route(")
        .skip(1)
        .filter_map(|rest| Some(rest.split_once('"')?.1.split_once('"')?.0.to_owned()))
        .collect();
    assert_eq!(described, routed);
    for (path, operations) in document["paths"].as_object().unwrap() {
        let place = path.replace("{name}", "web").replace("{id}", "x").replace("{number}", "1");
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
            if path.ends_with("/events") && method == "GET" {
                continue;
            }
            let (status, _) = stage.api(method, &place, "").await;
            let has = operations.get(method.to_ascii_lowercase()).is_some();
            assert_eq!(status != StatusCode::METHOD_NOT_ALLOWED, has, "{method} {path}: {status}");
        }
    }
    // Every schema that is named is there.
    for part in OPENAPI.split("#/components/schemas/").skip(1) {
        let name = part.split('"').next().unwrap();
        assert!(document["components"]["schemas"][name].is_object(), "{name}");
    }
    stage.upload(PROGRAM).await;
    let (_, upload) = stage
        .api(
            "POST",
            "/v1/uploads",
            json!({ "size": PROGRAM.len(), "digest": Digest::of(PROGRAM) }).to_string(),
        )
        .await;
    let schema = &document["components"]["schemas"]["Upload"]["properties"];
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>();
    assert_eq!(keys(&upload), keys(schema));
    deployed(&stage).await;
    let (_, status) = stage.api("GET", &format!("{WEB}/status"), "").await;
    assert_eq!(keys(&status), keys(&document["components"]["schemas"]["Status"]["properties"]));
}
