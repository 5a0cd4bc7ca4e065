//! Networks and volumes: made once, marked, left alone where they are another's, removed when they are asked to be.

use std::sync::Arc;

use ews_core::runtime::CreateOptions;
use ews_core::spec::network::NetworkAttachment;
use ews_core::spec::storage::{Mount, MountKind};
use ews_core::{ErrorKind, InstanceSpec, NetworkName, OwnerId, Runtime as _, RuntimeExt as _, VolumeName};

use super::{IDLE, Site, shell};
use crate::engine::{docker, docker_ok};
use crate::rig::unique;

fn spec(network: &str, volume: &str) -> InstanceSpec {
    let mut spec = shell(IDLE);
    spec.networks = vec![NetworkAttachment::new(NetworkName::new(network).unwrap())];
    spec.mounts = vec![Mount::new("/data", MountKind::Volume(VolumeName::new(volume).unwrap()))];
    spec
}

fn ids(kind: &str, name: &str) -> Vec<String> {
    let listed = docker(&[kind, "ls", "--filter", &format!("name={name}"), "--format", "{{.Name}}"]);
    listed.lines().filter(|line| *line == name).map(str::to_owned).collect()
}

fn owner_of(kind: &str, name: &str) -> String {
    docker(&[kind, "inspect", "-f", "{{index .Labels \"ews.owner\"}}", name]).trim().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_who_need_one_make_one() {
    let Some(site) = Site::new().await else { return };
    // Two controllers, ten instances each.
    let runtimes = [site.runtime.clone(), site.another().await];
    for round in 0..2_u32 {
        let (network, volume) = (unique(), unique());
        let spec = Arc::new(spec(&network, &volume));
        let creates = (0..20).map(|number| {
            let (runtime, spec) = (runtimes[number as usize % 2].clone(), Arc::clone(&spec));
            let key = site.key(round * 100 + number);
            tokio::spawn(async move { runtime.create(&spec, &key, &CreateOptions::default()).await })
        });
        let made = futures_util::future::join_all(creates).await;
        for one in made {
            one.unwrap().unwrap();
        }
        assert_eq!(ids("network", &network).len(), 1);
        assert_eq!(ids("volume", &volume).len(), 1);
        for kind in ["network", "volume"] {
            let name = if kind == "network" { &network } else { &volume };
            assert_eq!(owner_of(kind, name), site.owner.as_str());
        }
        for slot in [0, 1, 19] {
            let started = runtimes[0].start(&site.key(round * 100 + slot).to_id().unwrap()).await.unwrap();
            assert!(started.state.is_running(), "{:?}", started.state);
        }
        for slot in 0..20 {
            site.remove(round * 100 + slot).await;
        }
        let pruned = runtimes[1].prune_with_volumes(&site.owner).await.unwrap();
        assert_eq!((pruned.networks, pruned.volumes, pruned.kept.len()), (vec![network], vec![volume], 0));
    }
}

#[tokio::test]
async fn anothers_are_left_alone() {
    let Some(site) = Site::new().await else { return };
    let (network, volume) = (unique(), unique());
    let theirs = ["--label", "ews.owner=somebody-else"];
    assert!(docker_ok(&[&["network", "create"], &theirs[..], &[&network]].concat()));
    assert!(docker_ok(&[&["volume", "create"], &theirs[..], &["--name", &volume]].concat()));
    let none = unique();
    for (network, volume) in [(&network, &none), (&none, &volume)] {
        let error = site.create(&spec(network, volume), 0).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}");
        assert!(error.to_string().contains("somebody-else"), "{error}");
    }
    let pruned = site.runtime.prune_with_volumes(&site.owner).await.unwrap();
    assert!(!pruned.networks.contains(&network) && !pruned.volumes.contains(&volume), "{pruned:?}");
    assert_eq!(
        (owner_of("network", &network), owner_of("volume", &volume)),
        ("somebody-else".into(), "somebody-else".into())
    );
    // Theirs they may remove themselves.
    let pruned = site.runtime.prune_with_volumes(&OwnerId::new("somebody-else").unwrap()).await.unwrap();
    assert!(pruned.networks.contains(&network) && pruned.volumes.contains(&volume), "{pruned:?}");
}

#[tokio::test]
async fn what_people_made_is_used_and_kept() {
    let Some(site) = Site::new().await else { return };
    let (network, volume) = (unique(), unique());
    assert!(
        docker_ok(&["network", "create", &network]) && docker_ok(&["volume", "create", "--name", &volume])
    );
    let id = site
        .runtime
        .launch(&spec(&network, &volume), &site.key(0), &CreateOptions::default())
        .await
        .unwrap()
        .id;
    let inside =
        docker(&["inspect", "-f", "{{range $n, $_ := .NetworkSettings.Networks}}{{$n}}{{end}}", id.as_str()]);
    assert_eq!(inside.trim(), network);
    site.remove(0).await;
    assert_eq!(site.runtime.prune_with_volumes(&site.owner).await.unwrap(), Default::default());
    assert!(
        docker_ok(&["network", "rm", &network]) && docker_ok(&["volume", "rm", &volume]),
        "both were still there"
    );
}

#[tokio::test]
async fn what_is_in_use_is_kept_with_the_reason() {
    let Some(site) = Site::new().await else { return };
    let (network, volume) = (unique(), unique());
    let spec = spec(&network, &volume);
    let id = site.create(&spec, 0).await.unwrap().id;
    let kept = async |what: &str| {
        let pruned = site.runtime.prune_with_volumes(&site.owner).await.unwrap();
        assert_eq!((pruned.networks.len(), pruned.volumes.len()), (0, 0), "{what}");
        let names: Vec<&str> = pruned.kept.iter().map(|kept| kept.name.as_str()).collect();
        assert_eq!(names, [&network, &volume], "{what}");
        assert!(pruned.kept[0].reason.contains(id.as_str()), "{what}: {:?}", pruned.kept);
        assert!(pruned.kept[1].reason.contains("in use"), "{what}: {:?}", pruned.kept);
    };
    kept("never started").await;
    site.runtime.start(&id).await.unwrap();
    kept("running").await;
    site.runtime.stop(&id, &Default::default()).await.unwrap();
    kept("ended").await;
    site.runtime.start(&id).await.unwrap();
    site.remove(0).await;
    let pruned = site.runtime.prune(&site.owner).await.unwrap();
    assert_eq!(
        (pruned.networks, pruned.volumes.len()),
        (vec![network], 0),
        "volumes go only where that is asked for"
    );
    assert_eq!(site.runtime.prune_with_volumes(&site.owner).await.unwrap().volumes, [volume]);
}
