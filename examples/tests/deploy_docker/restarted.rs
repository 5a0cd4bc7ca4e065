//! An engine that is killed in the midst of a rollout, and comes back.

use ews_deploy::{EventKind, Outcome};
use ews_docker::{DockerConfig, EngineAddress};

use crate::engine::OwnEngine;
use crate::images::Behaviour;
use crate::stage::{REPLICAS, Stage, until, web};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_is_killed_in_the_midst_comes_back_to_a_rollout_that_goes_on() {
    let Some(mut engine) = OwnEngine::start() else { return };
    if std::env::var("EWS_TEST_PUBLISHED").is_ok_and(|value| value == "unreachable") {
        println!("skipped, as EWS_TEST_PUBLISHED=unreachable says");
        return;
    }
    let config = DockerConfig::new(EngineAddress::Unix(engine.socket()));
    let stage = Stage::on(config, "restarted", &[("v2", Behaviour::Good), ("v3", Behaviour::Good)]).await;
    let mut events = stage.deployer.events();
    let rollout = stage.deployer.deploy(&stage.request("v2")).await.unwrap();
    // One of three is new, and old ones are on their way out.
    while let Some(notice) = events.next().await {
        if let ews_core::event::Notice::Event(event) = notice
            && matches!(event.event.kind, EventKind::BatchStarted { number: 2, .. })
        {
            break;
        }
    }
    // What is sent meanwhile is lost: nothing of ours can answer for containers that the engine no longer has.
    let work = async {
        engine.kill();
        engine.up();
        stage.ended(&rollout).await
    };
    let (told, report) = stage.counted("the engine is killed", work).await;
    assert!(told.failed > 0, "its containers were not reached: {told:?}");
    println!("it ended as {:?}: {} {:?}", report.outcome, report.cause, report.failures);
    let version = match report.outcome {
        Some(Outcome::Succeeded) => "v2",
        // A new instance that was being watched ended with its engine: that is a failure like another.
        Some(Outcome::RolledBack) => "v1",
        _ => panic!("{report:?}"),
    };
    stage.whole(version, REPLICAS).await;
    until("all serve again", async || {
        let before = stage.load.told().await;
        stage.load.more(100).await;
        let told = stage.load.told().await.since(&before);
        told.failed == 0 && told.versions() == [version]
    })
    .await;
    // And it is as good as before.
    let (_, report) = stage.quiet("the next version", stage.deploy(&stage.request("v3"))).await;
    assert_eq!(report.outcome, Some(Outcome::Succeeded), "{report:?}");
    stage.whole("v3", REPLICAS).await;
    assert_eq!(stage.deployer.status(&web()).await.unwrap().desired, REPLICAS);
    stage.end().await;
}
