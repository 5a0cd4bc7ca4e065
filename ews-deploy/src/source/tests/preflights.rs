//! What is known of every node before the first change.

use ews_core::runtime::CreateOptions;
use ews_core::spec::network::{Port, Publish};
use ews_core::spec::resources::ByteSize;
use ews_core::testkit::CallFault;
use ews_core::testkit::fake::{FakeConfig, FakeEngine, FakeRuntime};
use ews_core::testkit::fake_registry::RegistryCall;
use ews_core::{Arch, ErrorKind, InstanceKey, NodeState, Runtime as _, RuntimeExt as _};

use super::super::*;
use super::stage::{Stage, spec, target};
use crate::{FindingAbout, ImageThere, NodeReport};

fn about(report: &NodeReport) -> Vec<FindingAbout> {
    report.findings.iter().map(|finding| finding.about).collect()
}

async fn pinned(stage: &Stage) -> ServiceSpec {
    stage.resolve(ImageRequest::new(target("base/httpd:1"))).await.unwrap().spec
}

#[tokio::test]
async fn a_node_that_can_not_run_it_says_why_and_the_others_can() {
    let stage = Stage::new().await;
    let engine = FakeEngine::new(FakeConfig::default().with_nodes(3));
    let runtime = FakeRuntime::connect(&engine);
    let owner = "acme".parse().unwrap();
    let mut wanted = pinned(&stage).await;
    let nodes = runtime.nodes().await.unwrap();
    let ask = async |wanted: &ServiceSpec| {
        preflight(wanted, &runtime, Some(&stage.registry), &owner).await.unwrap()
    };
    let report = ask(&wanted).await;
    assert_eq!(
        report.nodes.iter().map(|report| report.node.clone()).collect::<Vec<_>>(),
        nodes.iter().map(|node| node.id.clone()).collect::<Vec<_>>()
    );
    for node in &report.nodes {
        assert!(node.can_run() && node.findings.is_empty(), "{node:?}");
        assert!(matches!(node.image, ImageThere::Pullable { bytes } if bytes > 0), "{node:?}");
    }

    engine.set_node_state(&nodes[1].id, NodeState::Cordoned);
    wanted.instance.resources.memory_reserve = Some(ByteSize::from_mib(u32::MAX));
    let report = ask(&wanted).await;
    assert_eq!(about(&report.nodes[1])[0], FindingAbout::State);
    if nodes[0].capacity.memory.bytes() > 0 {
        assert_eq!(about(&report.nodes[0]), [FindingAbout::Resources]);
    }
    wanted.instance.resources.memory_reserve = None;
    assert!(ask(&wanted).await.can_run());

    // A platform that the spec wants and no node is, and one that the image is not for.
    wanted.instance.platform.arch = Some(Arch::S390x);
    assert!(!ask(&wanted).await.can_run());
    stage.base("base/other:1", &[("linux", "riscv64")], &["x"]).await;
    let other = stage.resolve(ImageRequest::new(target("base/other:1"))).await.unwrap().spec;
    let report = ask(&other).await;
    assert_eq!(about(&report.nodes[0]), [FindingAbout::Platform]);
    assert!(report.nodes[0].findings[0].message.contains("linux/riscv64"));
}

#[tokio::test]
async fn an_image_that_will_not_come_stops_and_one_that_can_not_be_told_does_not() {
    let stage = Stage::new().await;
    let engine = FakeEngine::new(FakeConfig::default().with_nodes(1));
    let runtime = FakeRuntime::connect(&engine);
    let owner = "acme".parse().unwrap();
    let wanted = pinned(&stage).await;
    for (fault, stops) in
        [(ErrorKind::Unavailable, false), (ErrorKind::ImageDenied, true), (ErrorKind::ImageMissing, true)]
    {
        stage.registry.inject(RegistryCall::Manifest, CallFault::Fail(fault));
        let report = preflight(&wanted, &runtime, Some(&stage.registry), &owner).await.unwrap();
        assert_eq!(about(&report.nodes[0]), [FindingAbout::Source]);
        assert_eq!((report.can_run(), report.nodes[0].image), (!stops, ImageThere::Unknown), "{fault}");
    }
    let report = preflight(&wanted, &runtime, None, &owner).await.unwrap();
    assert!(report.can_run() && report.nodes[0].findings.len() == 1);
    let mut never = wanted.clone();
    let Source::Image(image) = &mut never.instance.source else { panic!("no image") };
    image.pull = ews_core::spec::source::PullPolicy::Never;
    assert!(!preflight(&never, &runtime, Some(&stage.registry), &owner).await.unwrap().can_run());
    let error = preflight(&spec(), &runtime, None, &owner).await.unwrap_err();
    assert!(error.message().contains("not pinned"), "{error}");
}

#[tokio::test]
async fn a_port_of_somebody_else_stops_and_ones_own_does_not() {
    let stage = Stage::new().await;
    let engine = FakeEngine::new(FakeConfig::default().with_nodes(2));
    let runtime = FakeRuntime::connect(&engine);
    let mut wanted = pinned(&stage).await;
    let mut port = Port::new("http".parse().unwrap(), Some(80));
    let mut publish = Publish::default();
    publish.port = Some(8080);
    port.publish = Some(publish);
    wanted.instance.ports = vec![port];
    let other = InstanceKey {
        owner: "other".parse().unwrap(),
        service: "shop".parse().unwrap(),
        revision: "r1".parse().unwrap(),
        slot: 0,
        generation: 0,
    };
    let options = CreateOptions::default();
    let there = runtime.launch(&wanted.instance, &other, &options).await.unwrap();
    let ask = async |owner: &str, service: &str| {
        let mut wanted = wanted.clone();
        wanted.name = service.parse().unwrap();
        let report =
            preflight(&wanted, &runtime, Some(&stage.registry), &owner.parse().unwrap()).await.unwrap();
        let stopped: Vec<_> =
            report.nodes.iter().filter(|node| !node.can_run()).map(|node| node.node.clone()).collect();
        stopped
    };
    assert_eq!(ask("acme", "web").await, std::slice::from_ref(&there.node));
    assert_eq!(ask("other", "web").await, std::slice::from_ref(&there.node));
    assert_eq!(ask("acme", "shop").await, [there.node]);
    assert_eq!(ask("other", "shop").await, []);
}
