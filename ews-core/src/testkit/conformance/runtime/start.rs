//! Behaviours 10 to 15: starting, and the ports that come with it.

use std::error::Error as _;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};

use super::cx::{Cx, refused};
use super::{CaseResult, Workload, cases, ensure};
use crate::capability::Capability;
use crate::error::ErrorKind;
use crate::id::{InstanceId, PortName};
use crate::instance::{Incarnation, Instance, InstanceState};
use crate::runtime::{CreateOptions, ExecSpec, LogOptions, RemoveOptions, StopOptions, WaitOptions};
use crate::runtime_ext::RuntimeExt as _;
use crate::spec::InstanceSpec;
use crate::spec::lifecycle::Signal;
use crate::spec::network::{Port, Publish};
use crate::testkit::conformance::Stop;

cases! {
    10 a_program_that_is_missing_is_failed_with_words,
    11 start_twice_is_one_start,
    11 each_start_raises_the_incarnation,
    12 what_is_not_there_is_not_found,
    13 ports_are_reachable_when_running,
    14 a_port_clash_is_port_in_use,
    15 an_open_port_gets_a_real_number,
}

async fn a_program_that_is_missing_is_failed_with_words(cx: &Cx<'_>) -> CaseResult {
    let runtime = cx.rt().await?;
    let spec = cx.spec(&Workload::MissingProgram)?;
    let created = cx.create(&spec, 0).await?;
    let started = runtime.start(&created.id).await?;
    let InstanceState::Failed(failure) = &started.state else {
        return Err(Stop::fail(format!("a program that does not exist is {}", started.state.as_str())));
    };
    ensure!(!failure.message.is_empty(), "the failure has no words");
    ensure!(
        matches!(failure.code, None | Some(126 | 127)),
        "the failure's code is {:?}; 126 and 127 say that a program can't be started",
        failure.code
    );
    ensure!(started.incarnation == Incarnation(0), "a start that failed raised the incarnation");
    let seen = runtime.get(&created.id).await?;
    ensure!(seen.state == started.state, "start says failed, get says {}", seen.state.as_str());
    let status = runtime.wait(&created.id, &WaitOptions::default()).await?;
    ensure!(status.code == failure.code, "wait gives {status}, the failure code {:?}", failure.code);
    let error = runtime.launch(&spec, &cx.key(1)?, &CreateOptions::default()).await;
    refused("launch of a program that does not exist", error, &[ErrorKind::Invalid])?;
    ensure!(cx.list().await?.len() == 1, "launch left behind what it could not start");
    Ok(())
}

async fn start_twice_is_one_start(cx: &Cx<'_>) -> CaseResult {
    let runtime = cx.rt().await?;
    let first = cx.start_workload(&Workload::Sleep, 0).await?;
    ensure!(first.incarnation > Incarnation(0), "the first start gave incarnation {}", first.incarnation);
    ensure!(first.started_at.is_some(), "it does not say when it started");
    let second = runtime.start(&first.id).await?;
    ensure!(
        second.incarnation == first.incarnation && second.started_at == first.started_at,
        "starting what runs gave incarnation {}, started at {:?}",
        second.incarnation,
        second.started_at
    );
    let created = cx.create(&cx.spec(&Workload::Sleep)?, 1).await?;
    let (a, b) = futures_util::future::join(runtime.start(&created.id), runtime.start(&created.id)).await;
    let (a, b) = (a?.incarnation, b?.incarnation);
    ensure!(a > Incarnation(0) && b == a, "two starts at once gave incarnations {a} and {b}");
    Ok(())
}

async fn each_start_raises_the_incarnation(cx: &Cx<'_>) -> CaseResult {
    let runtime = cx.rt().await?;
    let spec = serving(cx).await.unwrap_or(cx.spec(&Workload::Sleep)?);
    let first = cx.start(&spec, 0).await?;
    runtime.stop(&first.id, &StopOptions::default()).await?;
    let second = runtime.start(&first.id).await?;
    ensure!(second.state == InstanceState::Running, "restarted, it is {}", second.state.as_str());
    ensure!(
        second.incarnation > first.incarnation,
        "the second start gave incarnation {} after {}",
        second.incarnation,
        first.incarnation
    );
    for endpoint in &second.endpoints {
        ensure!(
            endpoint.key.incarnation == second.incarnation,
            "an endpoint still carries incarnation {}",
            endpoint.key.incarnation
        );
    }
    let seen = runtime.get(&first.id).await?.incarnation;
    ensure!(seen == second.incarnation, "start says {}, get says {seen}", second.incarnation);
    Ok(())
}

async fn what_is_not_there_is_not_found(cx: &Cx<'_>) -> CaseResult {
    let runtime = cx.rt().await?;
    let id = &cx.key(4242)?.to_id()?;
    let missing = &[ErrorKind::NotFound];
    refused("get of what is not there", runtime.get(id).await, missing)?;
    refused("start of what is not there", runtime.start(id).await, missing)?;
    refused("stop of what is not there", runtime.stop(id, &StopOptions::default()).await, missing)?;
    refused("wait for what is not there", runtime.wait(id, &WaitOptions::default()).await, missing)?;
    if cx.has(Capability::Signals).await? {
        refused("signal to what is not there", runtime.signal(id, Signal::TERM).await, missing)?;
    }
    if cx.has(Capability::Logs).await? {
        let logs = runtime.logs(id, &LogOptions::default()).await.map(drop);
        refused("logs of what is not there", logs, missing)?;
    }
    if cx.has(Capability::Exec).await? {
        refused("exec in what is not there", runtime.exec(id, &ExecSpec::new(["true"])).await, missing)?;
    }
    ensure!(runtime.find(id).await?.is_none(), "find has found what is not there");
    Ok(())
}

/// A server with one port, opened in the way that this driver has.
async fn serving(cx: &Cx<'_>) -> Result<InstanceSpec, Stop> {
    let (allots, publishes) =
        (cx.has(Capability::AllotPorts).await?, cx.has(Capability::PublishPorts).await?);
    let fixed = if allots || publishes { Some(8080) } else { cx.harness.free_port() };
    let fixed = fixed.ok_or_else(|| Stop::skip("the harness knows no free port"))?;
    let mut spec = cx.spec(&Workload::Serve { port: fixed })?;
    let mut port = Port::new(PortName::new("web")?, (!allots).then_some(fixed));
    port.publish = publishes.then(Publish::default);
    spec.ports = vec![port];
    Ok(spec)
}

fn address(instance: &Instance) -> Result<SocketAddr, Stop> {
    match instance.endpoints.as_slice() {
        [endpoint] if endpoint.key.instance == instance.id && endpoint.key.port.as_str() == "web" => {
            Ok(endpoint.address)
        }
        other => Err(Stop::fail(format!("one port `web` was asked for; the endpoints are {other:?}"))),
    }
}

async fn answers(cx: &Cx<'_>, address: SocketAddr) -> CaseResult {
    let last = Mutex::new(String::new());
    let ask = async || match cx.harness.dial(address).await {
        Ok(()) => Ok(Some(())),
        Err(error) => {
            *last.lock().unwrap_or_else(PoisonError::into_inner) =
                error.source().map_or_else(|| error.to_string(), ToString::to_string);
            Ok(None)
        }
    };
    match cx.until(&format!("an answer from {address}"), ask).await {
        Err(Stop::Fail(text)) => {
            Err(Stop::fail(format!("{text}: {}", last.into_inner().unwrap_or_else(PoisonError::into_inner))))
        }
        done => done,
    }
}

async fn ports_are_reachable_when_running(cx: &Cx<'_>) -> CaseResult {
    let spec = serving(cx).await?;
    let started = cx.start(&spec, 0).await?;
    ensure!(started.state == InstanceState::Running, "start left it {}", started.state.as_str());
    let address = address(&started)?;
    answers(cx, address).await?;
    cx.rt().await?.stop(&started.id, &StopOptions::default()).await?;
    cx.until(&format!("{address} to fall silent"), async || {
        Ok(cx.harness.dial(address).await.is_err().then_some(()))
    })
    .await
}

async fn a_port_clash_is_port_in_use(cx: &Cx<'_>) -> CaseResult {
    let runtime = cx.rt().await?;
    let Some(number) = cx.harness.free_port() else {
        return Err(Stop::skip("the harness knows no free port"));
    };
    let mut spec = cx.spec(&Workload::Serve { port: number })?;
    let mut port = Port::new(PortName::new("web")?, Some(number));
    if cx.has(Capability::PublishPorts).await? {
        port.publish = Some(Publish { port: Some(number), ..Publish::default() });
    }
    spec.ports = vec![port];
    let options = if cx.has(Capability::NodeChoice).await? {
        let nodes = runtime.nodes().await?;
        CreateOptions { node: nodes.first().map(|node| node.id.clone()) }
    } else {
        CreateOptions::default()
    };
    let first = runtime.launch(&spec, &cx.key(0)?, &options).await?;
    answers(cx, address(&first)?).await?;
    if first.endpoints.iter().any(|endpoint| endpoint.scope == crate::Scope::Bridge) {
        return Err(Stop::skip("instances have addresses of their own, and the driver publishes no ports"));
    }
    let result = runtime.launch(&spec, &cx.key(1)?, &options).await;
    refused("a second server on one port", result, &[ErrorKind::PortInUse])?;
    let list = cx.list().await?;
    ensure!(list.len() == 1, "the clash left something behind: {list:?}");
    if let Some(count) = cx.harness.leftovers(&cx.owner).await {
        ensure!(count == 0, "the clash left {count} objects that the contract does not show");
    }
    answers(cx, address(&runtime.get(&first.id).await?)?).await?;
    runtime.remove(&first.id, &RemoveOptions::force()).await?;
    let again = runtime.launch(&spec, &cx.key(1)?, &options).await?;
    answers(cx, address(&again)?).await
}

async fn an_open_port_gets_a_real_number(cx: &Cx<'_>) -> CaseResult {
    if !cx.has(Capability::AllotPorts).await? && !cx.has(Capability::PublishPorts).await? {
        return Err(Stop::skip("the driver declares neither `allot_ports` nor `publish_ports`"));
    }
    let spec = serving(cx).await?;
    let mut seen: Vec<(InstanceId, SocketAddr)> = Vec::new();
    for slot in 0..2 {
        let started = cx.start(&spec, slot).await?;
        let address = address(&started)?;
        ensure!(address.port() != 0, "port 0 is reported as the real one");
        ensure!(seen.iter().all(|(_, other)| *other != address), "two instances have {address}");
        answers(cx, address).await?;
        seen.push((started.id, address));
    }
    Ok(())
}
