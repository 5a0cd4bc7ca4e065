//! What the suite does not ask, since it is about shims: one that is killed takes everything along, and what somebody still
//! holds of a start that has ended keeps the next from nothing.

use std::fs;
use std::process::{Command, Stdio};

use ews_core::runtime::{
    CreateOptions, ExecSpec, LogOptions, RemoveOptions, Runtime, StopOptions, WaitOptions,
};
use ews_core::spec::content::EnvValue;
use ews_core::testkit::conformance::runtime::{RuntimeHarness, Workload};
use ews_core::testkit::conformance::{CaseResult, Stop};
use ews_core::{Instance, InstanceKey, InstanceState, OwnerId, RevisionId, ServiceName};

use super::{Harness, marks};

/// Every case of this file.
pub(super) const NAMES: [&str; 2] = ["a_killed_shim_takes_its_tree", "what_is_held_of_an_end_keeps_no_start"];

pub(super) async fn run(harness: &Harness, name: &str) -> CaseResult {
    match name {
        "a_killed_shim_takes_its_tree" => a_killed_shim_takes_its_tree(harness).await,
        _ => what_is_held_of_an_end_keeps_no_start(harness).await,
    }
}

async fn started(
    harness: &Harness,
    runtime: &dyn Runtime,
    workload: &Workload,
    mark: &str,
) -> Result<Instance, Stop> {
    let mut spec = harness.workload(workload).unwrap();
    spec.env.insert("EWS_MARK".to_owned(), EnvValue::Plain(mark.to_owned()));
    let key = InstanceKey {
        owner: OwnerId::new("own")?,
        service: ServiceName::new(mark)?,
        revision: RevisionId::new("r1")?,
        slot: 0,
        generation: 0,
    };
    let created = runtime.create(&spec, &key, &CreateOptions::default()).await?;
    Ok(runtime.start(&created.id).await?)
}

/// Waits until so many processes carry a mark; the case's deadline is the limit.
async fn until(mark: &str, count: usize) {
    while marks::count(mark) != count {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

fn ensure(condition: bool, text: impl Into<String>) -> CaseResult {
    if condition { Ok(()) } else { Err(Stop::fail(text)) }
}

async fn a_killed_shim_takes_its_tree(harness: &Harness) -> CaseResult {
    let runtime = harness.connect().await?;
    let instance = started(harness, &*runtime, &Workload::Tree, "killed-shim").await?;
    until("killed-shim", 2).await;
    let mut command = ExecSpec::new(harness.command(&Workload::Tree).unwrap());
    command.env.insert("EWS_MARK".to_owned(), "killed-command".to_owned());
    let session = runtime.exec(&instance.id, &command).await?;
    until("killed-command", 2).await;

    let record = fs::read(harness.root().join("instances").join(instance.id.as_str()).join("run.json"))?;
    let record: serde_json::Value = serde_json::from_slice(&record)?;
    let shim = record["shim"]["pid"].to_string();
    let mut kill = Command::new("taskkill");
    kill.args(["/F", "/PID", &shim]).stdout(Stdio::null());
    ensure(
        tokio::task::spawn_blocking(move || kill.status()).await??.success(),
        "the shim could not be killed",
    )?;

    until("killed-shim", 0).await;
    until("killed-command", 0).await;
    let status = runtime.wait(&instance.id, &WaitOptions::default()).await?;
    ensure((status.code, status.signal) == (None, None), format!("nobody knows its end; it is `{status}`"))?;
    ensure(session.control.wait().await.is_err(), "a command's end is told that nobody has seen")?;
    let again = runtime.start(&instance.id).await?;
    ensure(
        again.state == InstanceState::Running && again.incarnation.0 == 2,
        format!("then it is {again:?}"),
    )?;
    runtime.remove(&instance.id, &RemoveOptions::force()).await?;
    Ok(())
}

async fn what_is_held_of_an_end_keeps_no_start(harness: &Harness) -> CaseResult {
    let runtime = harness.connect().await?;
    let instance = started(harness, &*runtime, &Workload::Sleep, "held").await?;
    let session =
        runtime.exec(&instance.id, &ExecSpec::new(harness.command(&Workload::Sleep).unwrap())).await?;
    let log = runtime.logs(&instance.id, &LogOptions::follow()).await?;
    for incarnation in 2..5 {
        runtime.stop(&instance.id, &StopOptions::grace(std::time::Duration::ZERO)).await?;
        let again = runtime.start(&instance.id).await?;
        ensure(again.incarnation.0 == incarnation, format!("start {incarnation} is {}", again.incarnation))?;
    }
    drop((session, log));
    runtime.remove(&instance.id, &RemoveOptions::force()).await?;
    Ok(())
}
