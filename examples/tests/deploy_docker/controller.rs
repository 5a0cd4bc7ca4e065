//! A controller that dies in the midst of a rollout, and the next one.

use ews_deploy::{EventKind, Outcome};
use ews_docker::{DockerConfig, DockerRuntime};

use crate::images::Behaviour;
use crate::stage::{REPLICAS, Stage, deployer, strategy, until, web};

/// The controller has threads of its own, which end between two of their steps: what it had sent to the engine may happen or not, and nobody
/// says goodbye.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_controller_dies_in_the_midst_and_the_next_one_goes_on_without_a_failed_request() {
    let versions = [("v2", Behaviour::Good), ("v3", Behaviour::Good), ("v4", Behaviour::Good)];
    let Some(stage) = Stage::new("killed", &versions).await else { return };
    // Each dies at another place: while the first instance starts, when it serves, and when an old one is on its way out.
    for (version, at) in [("v2", "start"), ("v3", "attach"), ("v4", "stop")] {
        stage.deployer.leave().await;
        let threads =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (store, gateway, word) = (stage.store.clone(), stage.gateway.clone(), stage.word.clone());
        let request = stage.request(version).with_strategy(strategy());
        let (died, dead) = tokio::sync::oneshot::channel();
        let work = async {
            threads.spawn(async move {
                let runtime = DockerRuntime::connect(DockerConfig::from_env().unwrap()).await.unwrap();
                let mortal = deployer(&runtime, &store, &gateway, &word).await;
                let mut events = mortal.events();
                let rollout = mortal.deploy(&request).await.unwrap();
                while let Some(notice) = events.next().await {
                    if let ews_core::event::Notice::Event(event) = notice
                        && matches!(&event.event.kind, EventKind::Step { step, .. } if step.to_string() == at)
                    {
                        break;
                    }
                }
                let _ = died.send(rollout);
                // Alive until its threads are taken from it.
                std::future::pending::<()>().await;
                drop(mortal);
            });
            let rollout = dead.await.unwrap();
            threads.shutdown_background();
            let next = deployer(&stage.runtime, &stage.store, &stage.gateway, &stage.word).await;
            let report = next.wait(&rollout).await.unwrap();
            (next, report)
        };
        let (_, (next, report)) = stage.quiet(&format!("a controller dies at {at}"), Box::pin(work)).await;
        assert_eq!(report.outcome, Some(Outcome::Succeeded), "{report:?}");
        stage.whole(version, REPLICAS).await;
        assert_eq!(stage.answers().await, [version]);
        next.leave().await;
    }
    let last = deployer(&stage.runtime, &stage.store, &stage.gateway, &stage.word).await;
    last.remove(&web()).await.unwrap();
    until("everything is removed", async || stage.instances().await.is_empty()).await;
    last.wait_removed(&web()).await.unwrap();
    last.leave().await;
    stage.end().await;
}
