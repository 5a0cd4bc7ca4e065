//! Hotfixes under load: everybody has the new content, also who comes later, until it is taken back.

use ews_core::spec::lifecycle::Signal;
use ews_core::{ScaleChange, ScaleTarget as _};
use ews_deploy::{Hotfix, Outcome, Reload, RolloutReport};

use crate::images::{ANSWER, Behaviour, answer};
use crate::load::CLIENTS;
use crate::stage::{REPLICAS, Stage, strategy, until, web};

async fn fix(stage: &Stage, says: &str, reload: Reload) -> RolloutReport {
    let fix = Hotfix::new(web())
        .with_file(ANSWER, answer(says, Behaviour::Good))
        .with_reload(reload)
        .with_strategy(strategy());
    let rollout = Box::pin(stage.deployer.hotfix(&fix)).await.unwrap();
    stage.ended(&rollout).await
}

/// Each instance answers so, asked itself.
async fn each_says(stage: &Stage, says: &str) {
    for instance in stage.instances().await {
        until(&format!("{} says {says}", instance.id), async || {
            let file = stage.docker(&["cp", &format!("{}:{ANSWER}", instance.id), "-"]);
            file.contains(&format!("\"{says}\\n\""))
        })
        .await;
    }
    until(&format!("everybody says {says}"), async || stage.answers().await == [says]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hotfix_reaches_all_and_those_that_come_later_and_is_taken_back() {
    let Some(stage) = Stage::new("fixes", &[]).await else { return };
    let before: Vec<_> = stage.instances().await.into_iter().map(|instance| instance.id).collect();

    let work = fix(&stage, "one", Reload::Signal(Signal::HUP));
    let (_, report) = stage.quiet("a file is replaced, by signal", work).await;
    assert_eq!(report.outcome, Some(Outcome::Succeeded), "{report:?}");
    each_says(&stage, "one").await;
    let command = ["/usr/sbin/nginx", "-c", "/etc/nginx/nginx.conf", "-s", "reload"];
    let work = fix(&stage, "two", Reload::Exec(command.map(str::to_owned).to_vec()));
    let (_, report) = stage.quiet("a file is replaced, by a command", work).await;
    assert_eq!(report.outcome, Some(Outcome::Succeeded), "{report:?}");
    each_says(&stage, "two").await;
    let after: Vec<_> = stage.instances().await.into_iter().map(|instance| instance.id).collect();
    assert_eq!(before, after, "the same instances");

    // What the program does not take: it ends when it is told, or says no, and the file goes back.
    let bad = Hotfix::new(web())
        .with_file(ANSWER, "column_price on;\n")
        .with_reload(Reload::Exec(command.map(str::to_owned).to_vec()))
        .with_strategy(strategy());
    let work = async {
        let rollout = Box::pin(stage.deployer.hotfix(&bad)).await.unwrap();
        stage.ended(&rollout).await
    };
    let (told, report) = stage.quiet("a file is replaced by one that is broken", work).await;
    assert_eq!((report.outcome, told.versions()), (Some(Outcome::RolledBack), vec!["two"]), "{report:?}");
    each_says(&stage, "two").await;

    let work = async {
        stage.deployer.set(&web(), &ScaleChange::to(REPLICAS + 2, "more")).await.unwrap();
        stage.whole("v1", REPLICAS + 2).await;
        each_says(&stage, "two").await;
    };
    let (told, ()) = stage.quiet("there are more instances", work).await;
    assert_eq!(told.versions(), ["two"], "nobody saw what the image holds");

    // Its successor has the same name where nothing else is in its slot.
    let gone = stage.instances().await.pop().unwrap();
    let work = async {
        stage.docker(&["rm", "-f", gone.id.as_str()]);
        until("another is there for it", async || {
            let instances = stage.instances().await;
            let is_new = |instance: &ews_core::Instance| {
                instance.id != gone.id || instance.created_at > gone.created_at
            };
            instances.len() == REPLICAS as usize + 2 && instances.iter().all(is_new)
        })
        .await;
        stage.whole("v1", REPLICAS + 2).await;
        each_says_later(&stage, "two").await;
    };
    let (told, ()) = stage.counted("a container is removed behind our back", work).await;
    assert!(told.failed <= CLIENTS, "no more than was under way: {told:?}");
    assert_eq!(told.versions(), ["two"], "nobody saw what the image holds");
    assert!(stage.deployer.drift(&web()).await.unwrap().is_empty());

    // Back past both: to what the image holds.
    let first = stage.deployer.revisions(&web()).await.unwrap()[0].id.clone();
    let work = async {
        let rollout = stage.deployer.rollback(&web(), Some(&first)).await.unwrap();
        stage.ended(&rollout).await
    };
    let (_, report) = stage.quiet("the hotfix is taken back", work).await;
    assert_eq!(report.outcome, Some(Outcome::Succeeded), "{report:?}");
    each_says(&stage, "v1").await;
    stage.end().await;
}

/// Like [`each_says`] for instances of which some may not serve yet.
async fn each_says_later(stage: &Stage, says: &str) {
    until("nothing differs", async || {
        stage.deployer.drift(&web()).await.is_ok_and(|drift| drift.is_empty())
            && stage.load.told().await.answers.contains_key(says)
    })
    .await;
}
