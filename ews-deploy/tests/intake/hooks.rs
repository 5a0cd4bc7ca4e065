//! Each provider's webhooks: believed, read, filtered, known again.

use std::time::Duration;

use axum::http::StatusCode;
use ews_core::{Clock as _, Digest, SystemClock};
use ews_deploy::intake::{HeardKind, Pointed, Provider, RuleSource, StatusState};
use serde_json::json;

use crate::payloads::*;
use crate::stage::{SECRET, SHA, Stage, commits, hex, results, rule, secret, signed};

const MAIN: &str = "refs/heads/main";

async fn github(stage: &Stage, event: &str, delivery: &str, body: &[u8]) -> (StatusCode, serde_json::Value) {
    let signature = signed(SECRET, body);
    let headers =
        [("x-github-event", event), ("x-github-delivery", delivery), ("x-hub-signature-256", &signature)];
    stage.hook("/hooks/github/web", &headers, body).await
}

fn accepted(answer: &(StatusCode, serde_json::Value)) {
    assert_eq!(
        (answer.0, results(&answer.1)),
        (StatusCode::ACCEPTED, vec!["accepted".to_owned()]),
        "{}",
        answer.1
    );
}

fn ignored(answer: &(StatusCode, serde_json::Value), why: &str) {
    assert_eq!(
        (answer.0, results(&answer.1)),
        (StatusCode::ACCEPTED, vec!["ignored".to_owned()]),
        "{}",
        answer.1
    );
    let said = answer.1["results"][0]["why"].as_str().unwrap();
    assert!(said.contains(why), "{said}");
}

#[tokio::test(start_paused = true)]
async fn a_push_to_github_is_a_rollout_told_at_its_begin_and_its_end() {
    let stage = Stage::with_rule("web", rule(Provider::Github)).await;
    let digest = stage.push(&format!("registry.example/acme/web:{SHA}")).await;
    accepted(
        &github(&stage, "push", "72d3162e-cc78-11e3-81ab-4c9367dc0958", &github_push(MAIN, SHA, &["a"]))
            .await,
    );
    assert_eq!(stage.statuses(2).await, [(StatusState::Pending, Some(1)), (StatusState::Success, Some(1))]);
    let rollouts = stage.rollouts().await;
    assert_eq!(rollouts[0].1, "github:acme/web@ann");
    assert!(rollouts[0].2.contains(SHA), "{rollouts:?}");
    let revisions = stage.controller.deployer.revisions(&"web".parse().unwrap()).await.unwrap();
    assert!(serde_json::to_string(&revisions[0]).unwrap().contains(&digest.to_string()));
    let statuses = stage.told.statuses.lock().unwrap().clone();
    assert_eq!(statuses[0].heard.sha.as_deref(), Some(SHA));
    assert_eq!(statuses[1].link.as_deref(), Some("https://deploy.example/web/Some(1)"));
    // Nothing is left but the ids of deliveries.
    assert_eq!(
        (stage.records("job/").await, stage.records("followed/").await, stage.records("seen/").await),
        (0, 0, 1)
    );
}

#[tokio::test(start_paused = true)]
async fn a_delivery_that_comes_again_changes_nothing_also_after_a_restart() {
    let mut stage = Stage::with_rule("web", commits(Provider::Github)).await;
    let body = github_push(MAIN, SHA, &["a"]);
    accepted(&github(&stage, "push", "one", &body).await);
    assert_eq!(results(&github(&stage, "push", "one", &body).await.1), ["repeated"]);
    stage.statuses(2).await;
    stage.restart().await;
    assert_eq!(results(&github(&stage, "push", "one", &body).await.1), ["repeated"]);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(stage.rollouts().await.len(), 1);
    accepted(&github(&stage, "push", "two", &github_push(MAIN, &"a".repeat(40), &["a"])).await);
    stage.ended(2).await;
}

#[tokio::test(start_paused = true)]
async fn who_does_not_sign_is_told_nothing() {
    let stage = Stage::with_rule("web", rule(Provider::Github)).await;
    let body = github_push(MAIN, SHA, &["a"]);
    let good = signed(SECRET, &body);
    let other_body = signed(SECRET, b"{}");
    let truncated = good[..good.len() - 2].to_owned();
    let (upper, plus) = (good.to_uppercase(), format!("sha256=+{}", &good[8..]));
    let wrong = signed("another", &body);
    let bare = good.trim_start_matches("sha256=").to_owned();
    let sha1 = format!("sha1={}", "0".repeat(40));
    let mut answers = Vec::new();
    for signature in
        ["", "sha256=", &other_body, &truncated, &wrong, &bare, &sha1, &plus, &upper, &"0".repeat(10_000)]
    {
        let headers =
            [("x-github-event", "push"), ("x-github-delivery", "1"), ("x-hub-signature-256", signature)];
        answers.push(stage.hook("/hooks/github/web", &headers, &body).await);
    }
    let event = [("x-github-event", "push")];
    answers.push(stage.hook("/hooks/github/web", &event, &body).await);
    // Two signatures are none, and a rule that is not there or another provider's answers the same.
    let twice =
        [("x-github-event", "push"), ("x-hub-signature-256", &*good), ("x-hub-signature-256", &*good)];
    answers.push(stage.hook("/hooks/github/web", &twice, &body).await);
    let right = [("x-github-event", "push"), ("x-hub-signature-256", &*good)];
    for path in ["/hooks/github/none", "/hooks/gitea/web", "/hooks/none/web"] {
        answers.push(stage.hook(path, &right, &body).await);
    }
    for (index, answer) in answers.iter().enumerate() {
        assert_eq!(answer, &answers[0], "{index}");
        assert_eq!(answer.0, StatusCode::UNAUTHORIZED, "{index}");
    }
    assert_eq!(stage.records("").await, 0);
    accepted(&stage.hook("/hooks/github/web", &right, &body).await);
}

#[tokio::test(start_paused = true)]
async fn a_replaced_secret_holds_beside_the_old_one() {
    let mut both = commits(Provider::Github);
    both.secrets.push(secret("hook-next"));
    let stage = Stage::with_rule("web", both).await;
    let body = github_push(MAIN, SHA, &["a"]);
    accepted(&github(&stage, "push", "1", &body).await);
    stage.secrets.put(&secret("hook-next"), "the-next-hunter2");
    let signature = signed("the-next-hunter2", &body);
    let headers =
        [("x-github-delivery", "2"), ("x-github-event", "push"), ("x-hub-signature-256", &*signature)];
    accepted(&stage.hook("/hooks/github/web", &headers, &body).await);
    // Where none can be had, it is a passing fault, without a name or value of a secret.
    stage.secrets.remove(&secret("hook"));
    stage.secrets.remove(&secret("hook-next"));
    tokio::time::sleep(Duration::from_secs(31)).await;
    let (status, problem) = github(&stage, "push", "3", &body).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{problem}");
    assert!(!problem.to_string().contains("hook-next"), "{problem}");
}

#[tokio::test(start_paused = true)]
async fn filters_say_why_they_are_not_about_it() {
    let mut narrow = commits(Provider::Github);
    narrow.repositories = vec!["acme/*".parse().unwrap()];
    narrow.branches = vec!["main".parse().unwrap(), "release/*".parse().unwrap()];
    narrow.paths = vec!["src/**".parse().unwrap()];
    let stage = Stage::with_rule("web", narrow).await;
    let push = async |delivery: &str, reference: &str, paths: &[&str]| {
        github(&stage, "push", delivery, &github_push(reference, SHA, paths)).await
    };
    ignored(&push("1", "refs/heads/other", &["src/a"]).await, "branch or tag");
    ignored(&push("2", "refs/tags/v1", &["src/a"]).await, "branch or tag");
    ignored(&push("3", MAIN, &["README.md"]).await, "paths");
    accepted(&push("4", "refs/heads/release/1", &["README.md", "src/a/b"]).await);
    ignored(&github(&stage, "push", "5", &github_push(MAIN, &"0".repeat(40), &["src/a"])).await, "deleted");
    ignored(&github(&stage, "release", "6", &github_release("published")).await, "not about `release`");
    ignored(&github(&stage, "issues", "7", b"{}").await, "no rule is about");
    ignored(&github(&stage, "push", "8", b"[1, 2").await, "not JSON");
    ignored(&github(&stage, "push", "9", b"[]").await, "deleted");
    assert_eq!(results(&github(&stage, "ping", "10", &github_ping()).await.1), ["pong"]);
}

#[tokio::test(start_paused = true)]
async fn releases_and_packages_of_github_are_heard() {
    let mut releases = rule(Provider::Github);
    releases.events = vec![HeardKind::Release, HeardKind::Image];
    releases.tags = vec!["v*".parse().unwrap()];
    releases.source = RuleSource::Image("registry.example/acme/web:{tag}".parse().unwrap());
    let stage = Stage::with_rule("web", releases).await;
    stage.push("registry.example/acme/web:v1.4.0").await;
    ignored(&github(&stage, "release", "1", &github_release("edited")).await, "not published");
    accepted(&github(&stage, "release", "2", &github_release("published")).await);
    stage.statuses(2).await;
    let digest = Digest::of(b"x").to_string();
    accepted(&github(&stage, "package", "3", &github_package(&digest)).await);
}

#[tokio::test(start_paused = true)]
async fn gitlab_is_believed_by_its_token() {
    let mut both = commits(Provider::Gitlab);
    both.events.push(HeardKind::Release);
    let stage = Stage::with_rule("web", both).await;
    let body = gitlab_push("refs/tags/v1");
    for token in ["", "wrong", &SECRET[..SECRET.len() - 1], &format!("{SECRET}x")] {
        let answer = stage.hook("/hooks/gitlab/web", &[("x-gitlab-token", token)], &body).await;
        assert_eq!(answer.0, StatusCode::UNAUTHORIZED, "{token}");
    }
    let headers = |uuid| {
        [("x-gitlab-event-uuid", uuid), ("x-gitlab-token", SECRET), ("x-gitlab-event", "Tag Push Hook")]
    };
    accepted(&stage.hook("/hooks/gitlab/web", &headers("13792a34"), &body).await);
    assert_eq!(results(&stage.hook("/hooks/gitlab/web", &headers("13792a34"), &body).await.1), ["repeated"]);
    stage.statuses(2).await;
    // The commit is what is checked out, not the tag's own object.
    assert_eq!(*stage.commits.fetched.lock().unwrap(), [SHA]);
    assert_eq!(stage.rollouts().await[0].1, "gitlab:acme/web@ann");
    accepted(&stage.hook("/hooks/gitlab/web", &headers("2"), &gitlab_release()).await);
    accepted(&stage.hook("/hooks/gitlab/web", &headers("3"), &gitlab_push(MAIN)).await);
}

#[tokio::test(start_paused = true)]
async fn gitea_and_forgejo_sign_alike() {
    let stage = Stage::with_rule("web", commits(Provider::Gitea)).await;
    let body = gitea_push(MAIN);
    let tag = hex(&hmac_sha256::HMAC::mac(&body, SECRET));
    for (kind, delivery) in [("gitea", "1"), ("forgejo", "2")] {
        let names = ["signature", "event", "delivery"].map(|name| format!("x-{kind}-{name}"));
        let headers = [(&*names[0], &*tag), (&*names[1], "push"), (&*names[2], delivery)];
        accepted(&stage.hook("/hooks/gitea/web", &headers, &body).await);
        assert_eq!(results(&stage.hook("/hooks/gitea/web", &headers, &body).await.1), ["repeated"], "{kind}");
    }
    let short = [("x-gitea-signature", &tag[..63]), ("x-gitea-event", "push")];
    assert_eq!(stage.hook("/hooks/gitea/web", &short, &body).await.0, StatusCode::UNAUTHORIZED);
}

#[tokio::test(start_paused = true)]
async fn a_generic_sender_signs_the_time_too() {
    let mut pointed = commits(Provider::Generic);
    for (what, pointer) in [
        (Pointed::Repository, "/repo"),
        (Pointed::Ref, "/git/ref"),
        (Pointed::Sha, "/git/commit"),
        (Pointed::By, "/who"),
    ] {
        pointed.pointers.insert(what, pointer.to_owned());
    }
    let stage = Stage::with_rule("web", pointed).await;
    let body = bytes(&json!({ "repo": "acme/web", "git": { "ref": MAIN, "commit": SHA }, "who": "ann" }));
    let now = stage_now(&stage);
    let send = async |at: i64, signed_at: i64, delivery: &str| {
        let text = [signed_at.to_string().as_bytes(), b".", &body].concat();
        let (at, signature) = (at.to_string(), signed(SECRET, &text));
        let headers =
            [("x-ews-timestamp", &*at), ("x-ews-signature", &*signature), ("x-ews-delivery", delivery)];
        stage.hook("/hooks/generic/web", &headers, &body).await
    };
    for (at, signed_at) in
        [(now - 301, now - 301), (now + 310, now + 310), (now, now - 301), (now + 1, now), (-1, -1)]
    {
        assert_eq!(send(at, signed_at, "0").await.0, StatusCode::UNAUTHORIZED, "{at} {signed_at}");
    }
    accepted(&send(now - 200, now - 200, "1").await);
    assert_eq!(results(&send(now, now, "1").await.1), ["repeated"]);
    stage.statuses(2).await;
    assert_eq!(stage.rollouts().await[0].1, "generic:acme/web@ann");
}

/// The wall clock that the intake sees, in seconds.
fn stage_now(stage: &Stage) -> i64 {
    let _ = (SystemClock.now(), stage);
    // The virtual clock begins in 2026 and goes on with tokio's, which stands.
    1_767_225_600
}

#[tokio::test(start_paused = true)]
async fn a_registry_tells_of_images_by_tag_and_sends_the_same_again() {
    let mut images = rule(Provider::Registry);
    images.tags = vec!["v*".parse().unwrap()];
    images.source = RuleSource::Image("{image}@{digest}".parse().unwrap());
    let stage = Stage::with_rule("web", images).await;
    let digest = stage.push("registry.example/acme/web:v1.4.0").await.to_string();
    let authorization = format!("Bearer {SECRET}");
    let headers = [
        ("authorization", &*authorization),
        ("content-type", "application/vnd.docker.distribution.events.v1+json"),
    ];
    let events = [
        notification("1", "pull", Some("v1.4.0"), &digest),
        notification("2", "push", None, &digest),
        notification("3", "push", Some("v1.4.0"), &digest),
        notification("4", "push", Some("latest"), &digest),
    ];
    let (status, value) = stage.hook("/hooks/registry/web", &headers, &registry(&events)).await;
    assert_eq!(
        (status, results(&value)),
        (StatusCode::ACCEPTED, vec!["accepted".to_owned(), "ignored".to_owned()])
    );
    // What was not answered comes again, in another envelope.
    let again = registry(&events[2..3]);
    assert_eq!(results(&stage.hook("/hooks/registry/web", &headers, &again).await.1), ["repeated"]);
    for token in ["Bearer ", "Bearer wrong", "Basic YTpi", SECRET] {
        let answer = stage.hook("/hooks/registry/web", &[("authorization", token)], &again).await;
        assert_eq!(answer.0, StatusCode::UNAUTHORIZED, "{token}");
    }
    ignored(&stage.hook("/hooks/registry/web", &headers, b"{}").await, "envelope");
    let many: Vec<_> = (0..101).map(|n| notification(&n.to_string(), "push", Some("v1"), &digest)).collect();
    ignored(&stage.hook("/hooks/registry/web", &headers, &registry(&many)).await, "more than 100");
    assert_eq!(stage.statuses(2).await[1].0, StatusState::Success);
}

#[tokio::test(start_paused = true)]
async fn harbor_and_docker_hub_are_heard() {
    let mut images = rule(Provider::Harbor);
    images.source = RuleSource::Image("{image}:{tag}".parse().unwrap());
    let mut hub = images.clone();
    hub.provider = Provider::Dockerhub;
    let stage = Stage::new(|config| config.with_rule("web", images).with_rule("hub", hub)).await;
    let digest = stage.push("registry.example/acme/web:v1.4.0").await.to_string();
    stage.push("docker.io/acme/web:v1.4.0").await;
    accepted(&stage.hook("/hooks/harbor/web", &[("authorization", SECRET)], &harbor(&digest)).await);
    assert_eq!(stage.hook("/hooks/harbor/web", &[], &harbor(&digest)).await.0, StatusCode::UNAUTHORIZED);
    let path = format!("/hooks/dockerhub/hub?token={SECRET}");
    accepted(&stage.hook(&path, &[], &dockerhub()).await);
    assert_eq!(
        stage.hook("/hooks/dockerhub/hub?token=x", &[], &dockerhub()).await.0,
        StatusCode::UNAUTHORIZED
    );
    stage.statuses(4).await;
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_was_announced_by_a_hook_is_deployed() {
    let mut uploads = commits(Provider::Generic);
    uploads.source = RuleSource::Upload(ews_deploy::intake::MadeBy::process());
    uploads.pointers.insert(Pointed::Digest, "/digest".to_owned());
    let stage = Stage::with_rule("web", uploads).await;
    stage.upload(crate::stage::PROGRAM).await;
    let send = async |digest: &str| {
        let body = bytes(&json!({ "digest": digest }));
        let now = stage_now(&stage).to_string();
        let signature = signed(SECRET, &[now.as_bytes(), b".", &body].concat());
        stage
            .hook("/hooks/generic/web", &[("x-ews-timestamp", &now), ("x-ews-signature", &signature)], &body)
            .await
    };
    accepted(&send(&Digest::of(crate::stage::PROGRAM).to_string()).await);
    assert_eq!(stage.statuses(2).await, [(StatusState::Pending, Some(1)), (StatusState::Success, Some(1))]);
    ignored(&send("sha256:0").await, "no digest");
    // One that is not here fails for good, and is told.
    accepted(&send(&Digest::of(b"never").to_string()).await);
    assert_eq!(stage.statuses(3).await[2], (StatusState::Failure, None));
}

#[tokio::test(start_paused = true)]
async fn bodies_are_bounded_in_size_and_depth() {
    let stage = Stage::with_rule("web", commits(Provider::Github)).await;
    let huge = vec![b' '; (4 << 20) + 1];
    assert_eq!(github(&stage, "push", "1", &huge).await.0, StatusCode::PAYLOAD_TOO_LARGE);
    let deep = [vec![b'['; 100_000], vec![b']'; 100_000]].concat();
    ignored(&github(&stage, "push", "2", &deep).await, "nested too deeply");
    // Brackets within text are text.
    let text = bytes(
        &json!({ "ref": MAIN, "after": SHA, "repository": { "full_name": "acme/web" }, "x": "[".repeat(1_000) }),
    );
    accepted(&github(&stage, "push", "3", &text).await);
    ignored(&github(&stage, "push", "4", b"\xff\xfe").await, "not JSON");
    ignored(&github(&stage, "push", "5", b"").await, "not JSON");
}
