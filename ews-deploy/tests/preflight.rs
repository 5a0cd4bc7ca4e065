//! Every node is asked before the first change: what none can run is refused, and nothing is written or made.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod rig;

use std::sync::Arc;

use ews_core::runtime::CreateOptions;
use ews_core::spec::network::Publish;
use ews_core::spec::platform::Platform;
use ews_core::spec::resources::ByteSize;
use ews_core::spec::source::{ImagePin, ImageSource, PullPolicy, Source};
use ews_core::testkit::FakeImages;
use ews_core::testkit::fake::{FakeRuntime, Fault, FaultRule, Operation};
use ews_core::{Arch, Digest, ErrorKind, InstanceKey, NodeState, Runtime as _, ServiceSpec};
use ews_deploy::release::{MemberSpec, ReleaseRequest, ReleaseSpec};
use ews_deploy::{FindingAbout, ImageThere, Outcome};
use rig::*;

async fn refused(controller: &Controller, spec: &ServiceSpec) -> ews_core::Error {
    let error = controller.deployer.deploy(&request(spec.clone())).await.unwrap_err();
    let planned = controller.deployer.plan(&request(spec.clone())).await.unwrap_err();
    assert_eq!(error.kind(), planned.kind());
    error
}

#[tokio::test(start_paused = true)]
async fn what_no_node_can_run_is_refused_and_nothing_is_written() {
    let (world, controller) = running().await;
    let (before, records) = (world.instances().await, world.keys("deploy/").await);
    let mut wanted = spec("v2");
    wanted.instance.platform.arch = Some(Arch::S390x);
    let error = refused(&controller, &wanted).await;
    assert_eq!(error.kind(), ErrorKind::ImageIncompatible, "{error}");
    assert!(error.to_string().contains("every node: the node is"), "{error}");

    let mut wanted = spec("v2");
    wanted.instance.resources.memory_reserve = Some(ByteSize::from_mib(u32::MAX));
    let error = refused(&controller, &wanted).await;
    assert_eq!(error.kind(), ErrorKind::OutOfResources, "{error}");

    // A member of a release that can't run is as bad as a service.
    let mut other = spec("v2");
    other.name = "other".parse().unwrap();
    other.instance.platform.arch = Some(Arch::S390x);
    let release = ReleaseSpec::new("shop".parse().unwrap())
        .with_member(MemberSpec::new(spec("v2")))
        .with_member(MemberSpec::new(other));
    let release = ReleaseRequest::new(release);
    let error = controller.deployer.release(&release).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ImageIncompatible, "{error}");
    assert!(error.to_string().contains("other"), "{error}");

    assert_eq!((world.instances().await, world.keys("deploy/").await), (before, records));
}

#[tokio::test(start_paused = true)]
async fn a_port_that_another_holds_on_every_node_is_refused_and_on_some_is_said() {
    let (world, controller) = running().await;
    let engine = FakeRuntime::connect(&world.engine);
    let mut holder = spec("v1").instance;
    let mut publish = Publish::default();
    publish.port = Some(8443);
    holder.ports[0].publish = Some(publish);
    let nodes = engine.nodes().await.unwrap();
    let mut wanted = spec("v2");
    wanted.instance.ports[0].publish = holder.ports[0].publish.clone();
    for slot in 0..nodes.len() as u32 {
        let plan = controller.deployer.plan(&request(wanted.clone())).await.unwrap();
        let taken = plan.preflight.nodes.iter().filter(|node| !node.can_run()).count();
        assert_eq!(taken, slot as usize, "{plan}");
        assert_eq!(plan.warnings.iter().any(|warning| warning.contains("port 8443")), slot > 0, "{plan}");
        let key = InstanceKey {
            owner: "acme".parse().unwrap(),
            service: "holder".parse().unwrap(),
            revision: "r1".parse().unwrap(),
            slot,
            generation: 0,
        };
        let made = engine.create(&holder, &key, &CreateOptions::default()).await.unwrap();
        engine.start(&made.id).await.unwrap();
    }
    let error = refused(&controller, &wanted).await;
    assert_eq!(error.kind(), ErrorKind::PortInUse, "{error}");
    assert!(error.to_string().contains("holder/r1"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_node_that_takes_nothing_new_is_said_and_what_may_end_is_waited_for() {
    let (world, controller) = running().await;
    let nodes = FakeRuntime::connect(&world.engine).nodes().await.unwrap();
    world.engine.set_node_state(&nodes[1].id, NodeState::Cordoned);
    let plan = controller.deployer.plan(&request(spec("v2"))).await.unwrap();
    let about: Vec<_> = plan.preflight.nodes[1].findings.iter().map(|finding| finding.about).collect();
    assert_eq!(about, [FindingAbout::State]);
    let said = format!("warning: {}: it takes no new instances", nodes[1].id);
    assert!(plan.to_string().contains(&said), "{plan}");
    assert_eq!(deploy(&controller, spec("v2")).await.outcome, Some(Outcome::Succeeded));

    // All of them: somebody may uncordon one before the deadline.
    for node in &nodes {
        world.engine.set_node_state(&node.id, NodeState::Cordoned);
    }
    let id = controller.deployer.deploy(&request(spec("v3"))).await.unwrap();
    tokio::time::sleep(std::time::Duration::from_secs(20)).await;
    for node in &nodes {
        world.engine.set_node_state(&node.id, NodeState::Ready);
    }
    assert_eq!(ended(&controller, &id).await.outcome, Some(Outcome::Succeeded));

    // An engine that can't be asked now is no reason to lose a request.
    world
        .engine
        .faults()
        .add(FaultRule::new(Fault::Fail(ErrorKind::Unavailable)).on(Operation::List).times(3));
    assert_eq!(deploy(&controller, spec("v4")).await.outcome, Some(Outcome::Succeeded));
}

#[tokio::test(start_paused = true)]
async fn an_image_that_will_not_come_is_refused_and_one_that_may_come_is_waited_for() {
    let world = World::new();
    let host = Platform::host().unwrap();
    let images = FakeImages::new("n1".parse().unwrap(), host.clone());
    let controller =
        world.controller_with("first", |parts| parts.with_images(Arc::new(images.clone()))).await;
    let digest = Digest::of(b"v1");
    let imaged = |pin, pull| {
        let mut image = ImageSource::new("shop/web:v1".parse().unwrap());
        (image.pin, image.pull) = (Some(pin), pull);
        let mut spec = spec("v1");
        spec.instance.source = Source::Image(image);
        spec
    };
    let never = imaged(ImagePin::Manifest(digest), PullPolicy::Never);
    let error = refused(&controller, &never).await;
    assert_eq!(error.kind(), ErrorKind::ImageMissing, "{error}");
    let local = imaged(ImagePin::Local { engine: "one".to_owned(), image_id: digest }, PullPolicy::IfMissing);
    assert_eq!(refused(&controller, &local).await.kind(), ErrorKind::ImageMissing);
    assert_eq!(world.keys("deploy/acme/web/").await, 0);

    let asked = request(imaged(ImagePin::Manifest(digest), PullPolicy::IfMissing));
    let plan = controller.deployer.plan(&asked).await.unwrap();
    assert!(plan.preflight.nodes.iter().all(|node| node.image == ImageThere::Unknown), "{plan}");
    let mut image = ews_core::image::Image::new(digest, host);
    image.manifests = vec![digest];
    images.offer(&"shop/web:v1".parse().unwrap(), image);
    assert_eq!(deploy(&controller, asked.spec.clone()).await.outcome, Some(Outcome::Succeeded));
    let plan = controller.deployer.plan(&asked).await.unwrap();
    assert!(plan.preflight.nodes.iter().all(|node| node.image == ImageThere::Present), "{plan}");
}
