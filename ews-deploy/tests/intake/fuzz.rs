//! Whatever is sent: never a panic, never 5xx.

use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, Method, Request};
use ews_deploy::intake::Provider;
use proptest::prelude::*;

use crate::payloads::*;
use crate::stage::{SECRET, SHA, Stage, TOKEN, commits, hex};

const PROVIDERS: [Provider; 7] = [
    Provider::Github,
    Provider::Gitlab,
    Provider::Gitea,
    Provider::Generic,
    Provider::Registry,
    Provider::Harbor,
    Provider::Dockerhub,
];

fn payloads() -> Vec<Vec<u8>> {
    let digest = ews_core::Digest::of(b"x").to_string();
    vec![
        github_push("refs/heads/main", SHA, &["a"]),
        github_release("published"),
        github_package(&digest),
        gitlab_push("refs/tags/v1"),
        gitlab_release(),
        gitea_push("refs/heads/main"),
        registry(&[notification("1", "push", Some("v1"), &digest)]),
        harbor(&digest),
        dockerhub(),
        b"{\"size\": 1, \"digest\": \"sha256:00\"}".to_vec(),
        b"{\"image\": \"a\", \"spec\": {}}".to_vec(),
    ]
}

/// A payload with some bytes changed, cut somewhere, or any bytes at all.
fn body() -> impl Strategy<Value = Vec<u8>> {
    let changed = (
        0..payloads().len(),
        prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        any::<prop::sample::Index>(),
        any::<bool>(),
    )
        .prop_map(|(which, changes, end, is_cut)| {
            let mut bytes = payloads().swap_remove(which);
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            if is_cut {
                bytes.truncate(end.index(bytes.len()));
            }
            bytes
        });
    prop_oneof![3 => changed, 1 => prop::collection::vec(any::<u8>(), 0..200)]
}

fn headers() -> impl Strategy<Value = Vec<(usize, Vec<u8>)>> {
    prop::collection::vec((0..HEADERS.len(), prop::collection::vec(any::<u8>(), 0..40)), 0..4)
}

const HEADERS: [&str; 12] = [
    "x-github-event",
    "x-github-delivery",
    "x-gitea-event",
    "x-gitlab-event-uuid",
    "x-ews-delivery",
    "upload-offset",
    "content-range",
    "chunk-digest",
    "idempotency-key",
    "last-event-id",
    "content-type",
    "authorization",
];

const EVENTS: [&str; 6] = ["push", "release", "package", "ping", "registry_package", "x"];
const PATHS: [&str; 18] = [
    "/v1/uploads",
    "/v1/uploads/x",
    "/v1/artifacts?digest=x",
    "/v1/audit?service=web",
    "/v1/services/web/deploy",
    "/v1/services/web/plan",
    "/v1/services/web/hotfix",
    "/v1/services/web/rollback",
    "/v1/services/web/restart",
    "/v1/services/web/scale",
    "/v1/services/web/pause",
    "/v1/services/web/status",
    "/v1/services/web/rollouts/1?wait=1ms",
    "/v1/services/%00/status",
    "/v1/services/web/rollouts/-1",
    "/v1/audit?service=%ff",
    "/v1/x",
    "/hooks/github/%2e",
];

#[test]
fn never_a_panic_and_never_the_servers_fault() {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    let stage = runtime.block_on(Stage::new(|config| {
        PROVIDERS.iter().fold(config, |config, provider| {
            // Nothing is waited for and nothing is due: what is tried is what comes in.
            let mut rule = commits(*provider);
            rule.debounce = std::time::Duration::from_secs(3_600);
            config.with_rule(provider.name(), rule)
        })
    }));
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 96,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let cases = (0..PROVIDERS.len(), body(), headers(), 0..EVENTS.len(), 0..PATHS.len(), 0..6_usize);
    let ran = runner.run(&cases, |(provider, body, headers, event, path, method)| {
        let with = |mut request: Request<Body>| {
            for (which, value) in &headers {
                let Ok(value) = HeaderValue::from_bytes(value) else { continue };
                request.headers_mut().append(HeaderName::from_static(HEADERS[*which]), value);
            }
            request
        };
        let provider = PROVIDERS[provider].name();
        let tag = hex(&hmac_sha256::HMAC::mac(&body, SECRET));
        let now = "1767225600";
        let timed = hex(&hmac_sha256::HMAC::mac([now.as_bytes(), b".", &body].concat(), SECRET));
        let mut hook = Request::post(format!("/hooks/{provider}/{provider}?token={SECRET}"))
            .header("x-hub-signature-256", format!("sha256={tag}"))
            .header("x-gitea-signature", &tag)
            .header("x-gitlab-token", SECRET)
            .header("x-ews-timestamp", now)
            .header("x-ews-signature", format!("sha256={timed}"))
            .header("x-github-event", EVENTS[event])
            .header("x-gitea-event", EVENTS[event]);
        if headers.iter().all(|(which, _)| HEADERS[*which] != "authorization") {
            hook = hook.header("authorization", format!("Bearer {SECRET}"));
        }
        let hook = with(hook.body(Body::from(body.clone())).unwrap());
        let methods = [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::HEAD];
        let api = Request::builder()
            .method(&methods[method])
            .uri(PATHS[path])
            .header("authorization", format!("Bearer {TOKEN}"));
        let api = with(api.body(Body::from(body)).unwrap());
        for request in [hook, api] {
            let what = format!("{request:?}");
            let (status, _, value) = runtime.block_on(stage.ask(request));
            prop_assert!(!status.is_server_error(), "{status} {value} for {what}");
        }
        Ok(())
    });
    if let Err(error) = ran {
        panic!("{error}");
    }
}
