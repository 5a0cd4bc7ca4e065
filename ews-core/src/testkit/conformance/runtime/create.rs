//! Behaviours 3 to 9: create makes one object, whoever asks how often, and touches nothing else.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::sleep;

use super::cx::{Cx, refused};
use super::{CaseResult, Workload, cases, ensure};
use crate::capability::Capability;
use crate::error::ErrorKind;
use crate::instance::{Incarnation, InstanceState};
use crate::label::Labels;
use crate::runtime::{CreateOptions, RemoveOptions, StopOptions};
use crate::testkit::conformance::Stop;

cases! {
    3 create_does_not_start,
    4 create_twice_is_one,
    5 the_same_key_with_another_spec_is_refused,
    6 a_foreign_object_is_left_alone,
    7 twenty_creates_at_once_are_one,
    8 a_missing_image_is_named,
    9 a_wrong_platform_is_named,
    0 create_on_a_chosen_node,
}

async fn create_does_not_start(cx: &Cx<'_>) -> CaseResult {
    let runtime = cx.rt().await?;
    let mut spec = cx.spec(&Workload::Sleep)?;
    spec.labels = Labels::new([("tier", "web")])?;
    let created = cx.create(&spec, 0).await?;
    ensure!(created.state == InstanceState::Created, "a created instance is {}", created.state.as_str());
    ensure!(created.incarnation == Incarnation(0), "its incarnation is {}", created.incarnation);
    ensure!(created.started_at.is_none(), "it is said to have started");
    ensure!(created.key == cx.key(0)?, "its key is {:?}", created.key);
    ensure!(created.labels == spec.labels, "its labels are {:?}", created.labels);
    ensure!(created.spec_hash == spec.hash(), "its spec hash is not the spec's");
    sleep(Duration::from_millis(500)).await;
    let later = runtime.get(&created.id).await?;
    ensure!(later.state == InstanceState::Created, "half a second later it is {}", later.state.as_str());
    // The same at every call, so that an observer can compare.
    ensure!(later == created, "get shows another instance than create: {later:?}, {created:?}");
    Ok(())
}

async fn create_twice_is_one(cx: &Cx<'_>) -> CaseResult {
    let runtime = cx.rt().await?;
    let spec = cx.spec(&Workload::Sleep)?;
    let first = cx.create(&spec, 0).await?;
    let second = cx.create(&spec, 0).await?;
    ensure!(first.id == second.id, "two creates of one key gave {} and {}", first.id, second.id);
    let started = runtime.start(&first.id).await?;
    let third = cx.create(&spec, 0).await?;
    ensure!(
        third.incarnation == started.incarnation && third.state == InstanceState::Running,
        "create of a running instance must return it as it is, not {} #{}",
        third.state.as_str(),
        third.incarnation
    );
    drop(runtime);
    let other = cx.reconnect().await?;
    let options = CreateOptions::default();
    if cx.has(Capability::SurvivesController).await? {
        let fourth = other.create(&spec, &cx.key(0)?, &options).await?;
        ensure!(fourth.id == first.id, "another controller got {} for the same key", fourth.id);
    }
    let list = cx.list().await?;
    ensure!(list.len() <= 1, "there are {} instances of one key", list.len());
    Ok(())
}

async fn the_same_key_with_another_spec_is_refused(cx: &Cx<'_>) -> CaseResult {
    let spec = cx.spec(&Workload::Sleep)?;
    let first = cx.create(&spec, 0).await?;
    let mut other = spec.clone();
    other.labels = Labels::new([("changed", "yes")])?;
    let error = refused("create with another spec", cx.create(&other, 0).await, &[ErrorKind::AlreadyExists])?;
    ensure!(!error.maybe_applied(), "a refusal can't have been applied");
    let after = cx.rt().await?.get(&first.id).await?;
    ensure!(after == first, "the refused create changed the instance: {after:?}");
    Ok(())
}

async fn a_foreign_object_is_left_alone(cx: &Cx<'_>) -> CaseResult {
    let runtime = cx.rt().await?;
    let key = cx.key(0)?;
    if !cx.harness.plant_foreign(&key).await {
        return Err(Stop::skip("the harness can't make an object of somebody else"));
    }
    let spec = cx.spec(&Workload::Sleep)?;
    refused("create over a foreign object", cx.create(&spec, 0).await, &[ErrorKind::AlreadyExists])?;
    let list = runtime.list(&crate::Selector::everything()).await?;
    ensure!(list.iter().all(|instance| instance.key != key), "a foreign object is listed");
    // What these say of it is their affair, as long as nothing happens to it.
    let id = key.to_id()?;
    let _ = runtime.start(&id).await;
    let _ = runtime.stop(&id, &StopOptions::grace(Duration::ZERO)).await;
    let _ = runtime.remove(&id, &RemoveOptions::force()).await;
    refused("get of a foreign object", runtime.get(&id).await, &[ErrorKind::NotFound])?;
    ensure!(cx.harness.foreign_is_intact(&key).await, "the foreign object was touched");
    Ok(())
}

async fn twenty_creates_at_once_are_one(cx: &Cx<'_>) -> CaseResult {
    let runtime = cx.rt().await?;
    let spec = cx.spec(&Workload::Sleep)?;
    let key = cx.key(0)?;
    let options = CreateOptions::default();
    let creates = (0..20).map(|_| runtime.create(&spec, &key, &options));
    let mut ids = Vec::new();
    for created in join_all(creates).await {
        ids.push(created?.id);
    }
    ids.dedup();
    ensure!(ids.len() == 1, "twenty creates of one key gave {ids:?}");
    let list = cx.list().await?;
    ensure!(list.len() == 1, "twenty creates of one key left {} instances", list.len());
    Ok(())
}

async fn a_missing_image_is_named(cx: &Cx<'_>) -> CaseResult {
    cx.need(Capability::ImageSource).await?;
    let spec = cx.spec(&Workload::MissingImage)?;
    refused("create from a missing image", cx.create(&spec, 0).await, &[ErrorKind::ImageMissing])?;
    ensure!(cx.list().await?.is_empty(), "the failed create left an instance behind");
    Ok(())
}

async fn a_wrong_platform_is_named(cx: &Cx<'_>) -> CaseResult {
    cx.need(Capability::ImageSource).await?;
    let spec = cx.spec(&Workload::WrongPlatform)?;
    refused("create for another platform", cx.create(&spec, 0).await, &[ErrorKind::ImageIncompatible])?;
    ensure!(cx.list().await?.is_empty(), "the failed create left an instance behind");
    Ok(())
}

async fn create_on_a_chosen_node(cx: &Cx<'_>) -> CaseResult {
    cx.need(Capability::NodeChoice).await?;
    let runtime = cx.rt().await?;
    let spec = cx.spec(&Workload::Sleep)?;
    // Twice each in a row, as no engine that spreads by itself would.
    let nodes = runtime.nodes().await?;
    let twice = nodes.iter().take(5).flat_map(|node| [node, node]);
    for (slot, node) in (0..).zip(twice) {
        let options = CreateOptions::on(node.id.clone());
        let created = runtime.create(&spec, &cx.key(slot)?, &options).await?;
        ensure!(created.node == node.id, "asked for node {}, got {}", node.id, created.node);
    }
    let nowhere = CreateOptions::on(crate::NodeId::new("no-such-node")?);
    let result = runtime.create(&spec, &cx.key(1000)?, &nowhere).await;
    refused("create on a node that does not exist", result, &[ErrorKind::NotFound])?;
    Ok(())
}
