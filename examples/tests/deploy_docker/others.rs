//! What an engine has besides us: images that are not there, ports that are taken, containers that look like ours.

use std::net::TcpListener;

use ews_core::ErrorKind;
use ews_core::spec::network::Publish;
use ews_deploy::source::preflight;
use ews_deploy::{DeployRequest, FailureClass, FindingAbout, Order, Outcome, UnitOrder};

use crate::images::Behaviour;
use crate::stage::{REPLICAS, Stage, strategy, web};

fn fixed(mut request: DeployRequest, port: u16) -> DeployRequest {
    let mut publish = Publish::default();
    publish.port = Some(port);
    request.spec.instance.ports[0].publish = Some(publish);
    request
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_engine_has_besides_us_stops_nothing_that_serves() {
    let Some(stage) = Stage::new("others", &[("v2", Behaviour::Good), ("gone", Behaviour::Good)]).await
    else {
        return;
    };
    let owner = stage.word.parse().unwrap();
    let before: Vec<_> = stage.instances().await.into_iter().map(|instance| instance.id).collect();
    let ids =
        async || -> Vec<_> { stage.instances().await.into_iter().map(|instance| instance.id).collect() };

    // Containers of others: one whose labels are ours but for the owner, one that has our owner's label and no more, one that has a name like
    // ours.
    let stranger = |name: &str, labels: &[(String, String)]| {
        let image = format!("{}:v1", stage.word);
        let mut arguments = vec!["run", "-d", "--name", name];
        let labels: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        for label in &labels {
            arguments.extend(["--label", label]);
        }
        arguments.push(&image);
        stage.docker(&arguments)
    };
    let text = stage.docker(&["inspect", "-f", "{{json .Config.Labels}}", before[0].as_str()]);
    let labels: std::collections::BTreeMap<String, String> = serde_json::from_str(&text).unwrap();
    assert_eq!(labels["ews.owner"], stage.word);
    let not_ours = |(key, value): (&String, &String)| {
        let other = format!("{}-other", stage.word);
        (key.clone(), if key == "ews.owner" { other } else { value.clone() })
    };
    let copied: Vec<_> = labels.iter().map(not_ours).collect();
    let half = [("ews.owner".to_owned(), stage.word.clone()), ("ews.service".to_owned(), "web".to_owned())];
    let strangers = [
        stranger(&format!("{}-a", stage.word), &copied),
        stranger(&format!("{}-b", stage.word), &half),
        stranger(&format!("{}-web-0", stage.word), &[]),
    ];
    let state = || {
        strangers.each_ref().map(|id| {
            stage.docker(&[
                "inspect",
                "-f",
                "{{.Id}} {{.State.Running}} {{.State.StartedAt}} {{.RestartCount}}",
                id,
            ])
        })
    };
    let found = state();

    // The image is there when the spec is made, and not when it is asked for.
    let request = stage.request("gone");
    assert!(preflight(&request.spec, &stage.runtime, None, &owner).await.unwrap().can_run());
    stage.docker(&["rmi", "-f", &format!("{}:gone", stage.word)]);
    let report = preflight(&request.spec, &stage.runtime, None, &owner).await.unwrap();
    assert!(!report.can_run(), "{report:?}");
    assert_eq!(report.nodes[0].findings[0].about, FindingAbout::Source);
    assert_eq!(ids().await, before, "asking touches nothing");
    // The deployer asks by itself, before anything is written.
    let error = stage.deployer.deploy(&request).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ImageMissing, "{error}");
    assert_eq!(ids().await, before, "nothing was touched");

    // A port that a stranger has: the plan says that the order changes, and a new one that can't have it leaves the old one where it is.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let request = fixed(stage.request("v2"), port);
    let plan = stage.deployer.plan(&request).await.unwrap();
    assert_eq!(plan.order, UnitOrder::StopFirst);
    assert!(plan.order_reason.contains(&port.to_string()), "{}", plan.order_reason);
    let request = request.with_strategy(strategy().with_order(Order::StartFirst));
    let (told, report) = stage.quiet("a port is a stranger's", stage.deploy(&request)).await;
    assert_eq!((report.outcome, told.versions()), (Some(Outcome::RolledBack), vec!["v1"]), "{report:?}");
    assert_eq!(report.failures[0].class, FailureClass::Refused, "{report:?}");
    assert_eq!(ids().await, before, "the old ones serve on, and what was created is gone");
    // By the plan's own order one of three makes way, and comes back.
    let request = fixed(stage.request("v2"), port);
    let (told, report) = stage.quiet("a port is a stranger's, stop-first", stage.deploy(&request)).await;
    assert_eq!((report.outcome, told.versions()), (Some(Outcome::RolledBack), vec!["v1"]), "{report:?}");
    stage.whole("v1", REPLICAS).await;
    drop(listener);

    // The same port free: the order that the plan chose is kept to, by one instance.
    let mut request = fixed(stage.request("v2"), port);
    request.spec.replicas = 1;
    let plan = stage.deployer.plan(&request).await.unwrap();
    assert_eq!(plan.order, UnitOrder::StopFirst);
    let (told, report) = stage.counted("a port is fixed and free", stage.deploy(&request)).await;
    assert_eq!(report.outcome, Some(Outcome::Succeeded), "{report:?} {told:?}");

    assert_eq!(state(), found, "the strangers were left alone");
    stage.deployer.remove(&web()).await.unwrap();
    stage.deployer.wait_removed(&web()).await.unwrap();
    assert_eq!(state(), found, "the strangers were left alone");
    for stranger in &strangers {
        stage.docker(&["rm", "-f", stranger]);
    }
    stage.end().await;
}
