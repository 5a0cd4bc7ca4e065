//! What engines newer than Debian's change (API 1.44 to 1.51, and engines that have gone further), on a stand-in that answers as they do.
//!
//! The changes are those of moby's own history of its API. The forms of answers are of recordings that people published: containers of Docker
//! 28 and 29 on the containerd image store, events of 29.8, refusals of 29.0.

mod engine;
mod odd;

use std::collections::BTreeSet;
use std::time::Duration;

use ews_core::endpoint::Scope;
use ews_core::event::{Notice, RuntimeEvent};
use ews_core::instance::{Health, InstanceKey, InstanceState};
use ews_core::runtime::{CreateOptions, RemoveOptions, StopOptions};
use ews_core::spec::network::{NetworkAttachment, Port, Publish};
use ews_core::spec::source::{ImageSource, Source};
use ews_core::spec::storage::{Mount, MountKind};
use ews_core::{
    ErrorKind, InstanceSpec, NetworkName, OwnerId, PortName, RevisionId, Runtime, Selector, ServiceName,
    VolumeName,
};
use ews_docker::DockerRuntime;
use futures_util::StreamExt as _;

use engine::{Engine, INDEX, version};

fn key() -> InstanceKey {
    InstanceKey {
        owner: OwnerId::new("newer").unwrap(),
        service: ServiceName::new("web").unwrap(),
        revision: RevisionId::new("r1").unwrap(),
        slot: 0,
        generation: 0,
    }
}

fn spec() -> InstanceSpec {
    let mut spec = InstanceSpec::new(Source::Image(ImageSource::new("r.example/web:1".parse().unwrap())));
    let mut port = Port::new(PortName::new("web").unwrap(), Some(8080));
    port.publish = Some(Publish::default());
    spec.ports = vec![port];
    spec
}

#[tokio::test]
async fn the_newest_version_that_both_know_is_said_in_every_call() {
    // What real engines say of themselves: 20.10, 25, 27, 28.5, 29.0, and one of the branch that took old clients back.
    for (engine, min, spoken) in [
        ("1.41", "1.12", "1.41"),
        ("1.44", "1.24", "1.44"),
        ("1.47", "1.24", "1.47"),
        ("1.51", "1.24", "1.51"),
        ("1.52", "1.44", "1.51"),
        ("1.56", "1.40", "1.51"),
    ] {
        let stood = Engine::new(&version(engine, min));
        let runtime = DockerRuntime::connect(stood.config()).await.unwrap();
        let mut spec = spec();
        spec.networks = vec![NetworkAttachment::new(NetworkName::new("shop").unwrap())];
        spec.mounts = vec![Mount::new("/data", MountKind::Volume(VolumeName::new("data").unwrap()))];
        runtime.create(&spec, &key(), &CreateOptions::default()).await.unwrap();
        runtime.prune_with_volumes(&key().owner).await.unwrap();
        let asked = stood.asked();
        let versions: BTreeSet<&str> = asked
            .iter()
            .filter(|(_, line)| line != "GET /version")
            .map(|(version, _)| version.as_str())
            .collect();
        assert_eq!(versions, BTreeSet::from([spoken]), "an engine of {min} to {engine}");
        for call in [
            "GET /info",
            "POST /networks/create",
            "POST /volumes/create",
            "POST /containers/create",
            "DELETE /volumes/data",
        ] {
            assert!(
                asked.iter().any(|(_, line)| line.starts_with(call)),
                "{call} was not asked of {engine}: {asked:?}"
            );
        }
    }
}

#[tokio::test]
async fn an_engine_that_has_left_us_behind_is_refused_before_anything_is_asked() {
    for (engine, min) in [("1.60", "1.52"), ("1.40", "1.12")] {
        let stood = Engine::new(&version(engine, min));
        let error = DockerRuntime::connect(stood.config()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        for word in [engine, min, "1.41", "1.51"] {
            assert!(error.message().contains(word), "{error}");
        }
        assert_eq!(stood.asked().len(), 1, "only the version was asked for");
    }
}

/// A life from creation to removal on each.
#[tokio::test]
async fn a_life_on_each_engine() {
    for engine in ["1.44", "1.45", "1.48", "1.51", "1.52"] {
        let stood = Engine::new(&version(engine, "1.24"));
        let runtime = DockerRuntime::connect(stood.config()).await.unwrap();
        let mut events = runtime.events(&Selector::everything()).await.unwrap();
        let created = runtime.create(&spec(), &key(), &CreateOptions::default()).await.unwrap();
        assert_eq!((created.state.clone(), created.incarnation.0), (InstanceState::Created, 0), "{engine}");
        // The image store of containerd knows an image by its index, and that is what a container is made from.
        assert_eq!(stood.body()["Image"], INDEX, "{engine}");
        let started = runtime.start(&created.id).await.unwrap();
        assert_eq!(started.state, InstanceState::Running, "{engine}");
        assert_eq!(started.health, Health::Starting, "{engine}");
        let endpoint = &started.endpoints[0];
        assert_eq!(
            (endpoint.address.to_string().as_str(), endpoint.scope),
            ("127.0.0.1:32768", Scope::Loopback),
            "{engine}"
        );
        assert_eq!(runtime.list(&Selector::everything()).await.unwrap().len(), 1, "{engine}");
        let usage = runtime.usage(std::slice::from_ref(&created.id)).await.unwrap().remove(0);
        assert_eq!(
            (usage.cpu_nanos, usage.memory, usage.pids, usage.net_received),
            (Some(41_000_000), Some(3_000_000), Some(3), Some(1_130)),
            "{engine}"
        );
        let status = runtime.stop(&created.id, &StopOptions::grace(Duration::from_secs(3))).await.unwrap();
        assert_eq!(status.code, Some(0), "{engine}");
        runtime.remove(&created.id, &RemoveOptions::default()).await.unwrap();
        assert_eq!(runtime.get(&created.id).await.unwrap_err().kind(), ErrorKind::NotFound, "{engine}");
        let mut told = Vec::new();
        while told.last() != Some(&"removed") {
            let notice = tokio::time::timeout(Duration::from_secs(20), events.next()).await;
            match notice.unwrap_or_else(|_| panic!("{engine}: after {told:?} nothing comes")).unwrap() {
                Notice::Event(RuntimeEvent::Instance { state, .. }) => told.push(state.as_str()),
                Notice::Event(RuntimeEvent::Health { health: Health::Healthy, .. }) => told.push("healthy"),
                Notice::Event(RuntimeEvent::Removed { .. }) => told.push("removed"),
                other => panic!("{engine}: {other:?}"),
            }
        }
        assert_eq!(told, ["created", "running", "healthy", "exited", "removed"], "{engine}");
    }
}

/// A container that publishes nothing is found by its address in its network: the address beside the networks is gone since 1.52.
#[tokio::test]
async fn addresses_are_those_of_networks() {
    for engine in ["1.47", "1.51", "1.52"] {
        let stood = Engine::new(&version(engine, "1.24"));
        let runtime = DockerRuntime::connect(stood.config()).await.unwrap();
        let mut spec = spec();
        spec.ports[0].publish = None;
        let id = runtime.create(&spec, &key(), &CreateOptions::default()).await.unwrap().id;
        let started = runtime.start(&id).await.unwrap();
        let endpoint = &started.endpoints[0];
        assert_eq!(
            (endpoint.address.to_string().as_str(), endpoint.scope),
            ("172.18.0.2:8080", Scope::Bridge),
            "{engine}"
        );
    }
}
