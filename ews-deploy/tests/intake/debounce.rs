//! Several pushes within a window, and what a crash in the middle of anything leaves.

use std::time::Duration;

use ews_core::ErrorKind;
use ews_deploy::Concurrency;
use ews_deploy::intake::{Provider, StatusState};
use tokio::time::sleep;

use crate::payloads::github_push;
use crate::rig::eventually;
use crate::stage::{SECRET, Stage, commits, results, rule, signed};

fn sha(n: u8) -> String {
    format!("{n:02x}").repeat(20)
}

async fn push(stage: &Stage, n: u8) {
    let body = github_push("refs/heads/main", &sha(n), &["a"]);
    let (signature, delivery) = (signed(SECRET, &body), n.to_string());
    let headers =
        [("x-github-event", "push"), ("x-github-delivery", &*delivery), ("x-hub-signature-256", &*signature)];
    let (_, value) = stage.hook("/hooks/github/web", &headers, &body).await;
    assert_eq!(results(&value), ["accepted"], "{value}");
}

fn slow(debounce: u64) -> ews_deploy::intake::Rule {
    let mut rule = commits(Provider::Github);
    rule.debounce = Duration::from_secs(debounce);
    rule
}

#[tokio::test(start_paused = true)]
async fn the_latest_of_several_pushes_is_the_one_that_is_deployed() {
    let stage = Stage::with_rule("web", slow(10)).await;
    for n in 1..=4 {
        push(&stage, n).await;
        sleep(Duration::from_secs(5)).await;
    }
    assert_eq!(stage.rollouts().await.len(), 0, "each began the wait anew");
    stage.statuses(2).await;
    sleep(Duration::from_secs(120)).await;
    assert_eq!(*stage.commits.fetched.lock().unwrap(), [sha(4)]);
    assert_eq!(stage.rollouts().await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn who_pushes_without_end_is_not_waited_for_without_end() {
    let stage = Stage::with_rule("web", slow(10)).await;
    for n in 1..=40 {
        push(&stage, n).await;
        sleep(Duration::from_secs(5)).await;
    }
    assert!(!stage.commits.fetched.lock().unwrap().is_empty(), "200 s of pushes, and a wait of at most 100");
}

#[tokio::test(start_paused = true)]
async fn a_restart_in_the_window_loses_neither_the_push_nor_the_wait() {
    let mut stage = Stage::with_rule("web", slow(60)).await;
    push(&stage, 1).await;
    sleep(Duration::from_secs(20)).await;
    stage.restart().await;
    sleep(Duration::from_secs(20)).await;
    assert!(stage.commits.fetched.lock().unwrap().is_empty());
    push(&stage, 2).await;
    stage.kill_intake().await;
    sleep(Duration::from_secs(600)).await;
    stage.restart().await;
    stage.statuses(2).await;
    assert_eq!(*stage.commits.fetched.lock().unwrap(), [sha(2)]);
    assert_eq!(stage.rollouts().await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_crash_while_a_source_is_made_is_made_up_for_once_the_claim_has_ended() {
    let mut stage = Stage::with_rule("web", slow(0)).await;
    *stage.commits.takes.lock().unwrap() = Duration::from_secs(300);
    push(&stage, 1).await;
    let commits = stage.commits.clone();
    eventually("it is being fetched", || async { !commits.fetched.lock().unwrap().is_empty() }).await;
    sleep(Duration::from_secs(100)).await;
    stage.restart().await;
    *stage.commits.takes.lock().unwrap() = Duration::ZERO;
    assert_eq!(stage.statuses(2).await, [(StatusState::Pending, Some(1)), (StatusState::Success, Some(1))]);
    assert_eq!(stage.commits.fetched.lock().unwrap().len(), 2);
    assert_eq!(stage.rollouts().await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_second_intake_leaves_alone_what_the_first_works_on() {
    let stage = Stage::with_rule("web", slow(0)).await;
    *stage.commits.takes.lock().unwrap() = Duration::from_secs(300);
    push(&stage, 1).await;
    let mut config = stage.config.clone();
    config.uploads = stage.dir.path().join("uploads-2");
    let parts = ews_deploy::intake::IntakeParts::new(
        stage.controller.deployer.clone(),
        std::sync::Arc::new(stage.secrets.clone()),
    );
    // It has no sources and would fail at once.
    let second = ews_deploy::intake::Intake::start(parts, config).unwrap();
    let running = tokio::spawn(async move { second.run().await });
    assert_eq!(stage.statuses(1).await, [(StatusState::Pending, Some(1))]);
    running.abort();
}

#[tokio::test(start_paused = true)]
async fn a_push_while_an_earlier_one_is_worked_on_comes_after_it() {
    let stage = Stage::with_rule("web", slow(0)).await;
    *stage.commits.takes.lock().unwrap() = Duration::from_secs(30);
    push(&stage, 1).await;
    sleep(Duration::from_secs(5)).await;
    push(&stage, 2).await;
    stage.statuses(4).await;
    assert_eq!(*stage.commits.fetched.lock().unwrap(), [sha(1), sha(2)]);
    assert_eq!(stage.rollouts().await.iter().map(|rollout| rollout.0).collect::<Vec<_>>(), [1, 2]);
    assert_eq!((stage.records("job/").await, stage.records("followed/").await), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn what_may_pass_is_tried_again_and_what_may_not_is_told() {
    let mut stage = Stage::with_rule("web", rule(Provider::Github)).await;
    // The image is not there yet: it never will be by trying again.
    push(&stage, 1).await;
    assert_eq!(stage.statuses(1).await, [(StatusState::Failure, None)]);
    let description = stage.told.statuses.lock().unwrap()[0].description.clone();
    assert!(!description.is_empty());
    // The registry is away for a moment, and a crash comes between.
    stage.push(&format!("registry.example/acme/web:{}", sha(2))).await;
    for _ in 0..3 {
        stage.registry.inject(
            ews_core::testkit::fake_registry::RegistryCall::Manifest,
            ews_core::testkit::CallFault::Fail(ErrorKind::Unavailable),
        );
    }
    push(&stage, 2).await;
    sleep(Duration::from_secs(1)).await;
    stage.restart().await;
    assert_eq!(
        stage.statuses(3).await[1..],
        [(StatusState::Pending, Some(1)), (StatusState::Success, Some(1))]
    );
}

#[tokio::test(start_paused = true)]
async fn a_status_is_told_until_it_is_taken_and_in_order() {
    let mut stage = Stage::with_rule("web", slow(0)).await;
    *stage.told.failing.lock().unwrap() = 3;
    push(&stage, 1).await;
    stage.ended(1).await;
    stage.restart().await;
    assert_eq!(stage.statuses(2).await, [(StatusState::Pending, Some(1)), (StatusState::Success, Some(1))]);
    // One that nobody ever takes is given up.
    *stage.told.failing.lock().unwrap() = u32::MAX;
    push(&stage, 2).await;
    let stage = &stage;
    eventually("it is given up", || async move {
        stage.records("followed/").await == 0 && stage.rollouts().await.len() == 2
    })
    .await;
    assert_eq!(stage.told.states().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_rollout_that_fails_is_told_so() {
    let mut failing = slow(0);
    failing.spec["command"] = serde_json::json!(["fake", "exit", "7", "after", "10ms"]);
    failing.concurrency = Concurrency::Supersede;
    let stage = Stage::with_rule("web", failing).await;
    push(&stage, 1).await;
    assert_eq!(stage.statuses(2).await[1], (StatusState::Failure, Some(1)));
    let description = stage.told.statuses.lock().unwrap()[1].description.clone();
    assert!(description.contains("rolled back") || description.contains("failed"), "{description}");
}
