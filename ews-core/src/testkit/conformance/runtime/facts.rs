//! Behaviours 1 and 2: what the driver says of itself and of its nodes, and that it is true.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};

use tokio::time::sleep;

use super::cx::{Cx, refused, within};
use super::{CaseResult, Disturbance, Workload, cases, ensure};
use crate::capability::{Capability, Enforcement};
use crate::error::{Error, ErrorKind};
use crate::id::{NetworkName, PortName, VolumeName};
use crate::instance::InstanceState;
use crate::node::NodeState;
use crate::runtime::{ExecSpec, LogOptions};
use crate::spec::InstanceSpec;
use crate::spec::content::{ConfigFile, FileContent, FileMode};
use crate::spec::lifecycle::{EngineRestart, Signal};
use crate::spec::network::{NetworkAttachment, Port, Protocol, Publish};
use crate::spec::resources::{ByteSize, Cpu};
use crate::spec::security::Device;
use crate::spec::storage::{Mount, MountKind};
use crate::testkit::conformance::Stop;

cases! {
    1 nodes_answer_in_five_seconds,
    1 silence_is_unknown_never_exited,
    0 an_engine_restart_is_survived_as_declared,
    2 capabilities_are_stable,
    2 what_is_not_declared_is_refused,
    2 what_is_declared_is_there,
}

async fn nodes_answer_in_five_seconds(cx: &Cx<'_>) -> CaseResult {
    let runtime = cx.rt().await?;
    let nodes = within("nodes", Duration::from_secs(5), runtime.nodes()).await??;
    ensure!(!nodes.is_empty(), "there is no node");
    let ids: BTreeSet<_> = nodes.iter().map(|node| &node.id).collect();
    ensure!(ids.len() == nodes.len(), "two nodes have one id: {ids:?}");
    ensure!(nodes.iter().any(|node| node.state == NodeState::Ready), "no node is ready: {nodes:?}");
    drop(runtime);
    let mut again: Vec<_> = cx.reconnect().await?.nodes().await?.into_iter().map(|node| node.id).collect();
    again.sort();
    ensure!(again.iter().collect::<BTreeSet<_>>() == ids, "another controller sees other nodes: {again:?}");
    Ok(())
}

async fn silence_is_unknown_never_exited(cx: &Cx<'_>) -> CaseResult {
    let runtime = cx.rt().await?;
    let instance = cx.start_workload(&Workload::Sleep, 0).await?;
    if !cx.harness.disturb(Disturbance::Sever).await {
        return Err(Stop::skip("the harness can't cut the driver off its engine"));
    }
    let silent = |error: &Error| matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Timeout);
    match within("nodes", cx.limits.call, runtime.nodes()).await? {
        Ok(nodes) => ensure!(
            nodes.iter().any(|node| matches!(node.state, NodeState::Unknown { .. })),
            "the engine is out of reach and no node is unknown: {nodes:?}"
        ),
        Err(error) => ensure!(silent(&error), "nodes says {error} of an engine out of reach"),
    }
    match within("get", cx.limits.call, runtime.get(&instance.id)).await? {
        Ok(seen) => ensure!(
            matches!(seen.state, InstanceState::Unknown { .. }),
            "an instance out of reach is said to be {}",
            seen.state.as_str()
        ),
        Err(error) => ensure!(silent(&error), "get says {error} of an instance out of reach"),
    }
    match within("list", cx.limits.call, runtime.list(&cx.selector()?)).await? {
        Ok(list) => ensure!(
            list.iter()
                .any(|seen| seen.id == instance.id && matches!(seen.state, InstanceState::Unknown { .. })),
            "a list without an error leaves out, or pretends to know, an instance out of reach: {list:?}"
        ),
        Err(error) => ensure!(silent(&error), "list says {error} of an engine out of reach"),
    }
    cx.harness.heal().await;
    let back = cx
        .until("the instance to be running after the engine came back", async || {
            let seen = runtime.get(&instance.id).await.ok();
            Ok(seen.filter(|seen| seen.state == InstanceState::Running))
        })
        .await?;
    ensure!(back.incarnation == instance.incarnation, "losing sight of an instance raised its incarnation");
    Ok(())
}

async fn an_engine_restart_is_survived_as_declared(cx: &Cx<'_>) -> CaseResult {
    let runtime = cx.rt().await?;
    let before = cx.start_workload(&Workload::Sleep, 0).await?;
    if !cx.harness.disturb(Disturbance::RestartEngine).await {
        return Err(Stop::skip("the harness can't restart the engine"));
    }
    // What does not survive may take a moment to be gone.
    sleep(Duration::from_secs(2)).await;
    let after = cx
        .until("the engine to know its instance again", async || {
            let seen = runtime.get(&before.id).await.ok();
            Ok(seen.filter(|seen| {
                !matches!(seen.state, InstanceState::Unknown { .. } | InstanceState::Stopping)
            }))
        })
        .await?;
    let same = after.state == InstanceState::Running && after.incarnation == before.incarnation;
    if cx.has(Capability::SurvivesEngine).await? {
        ensure!(
            same,
            "the driver declares that instances outlive the engine; this is {}",
            after.state.as_str()
        );
    } else {
        let ended = cx.state(&before.id, "the end that the driver declares", InstanceState::is_ended).await;
        ensure!(
            ended.is_ok() || !same,
            "the instance is said to run as before, which the driver does not declare"
        );
    }
    Ok(())
}

async fn capabilities_are_stable(cx: &Cx<'_>) -> CaseResult {
    let first = cx.capabilities().await?;
    let second = cx.capabilities().await?;
    ensure!(first == second, "two questions to one handle had two answers");
    let third = cx.reconnect().await?.capabilities();
    ensure!(first == third, "a second handle declares something else");
    ensure!(!first.isolation.is_empty(), "no way to isolate is declared; a plain process is `none`");
    Ok(())
}

async fn what_is_not_declared_is_refused(cx: &Cx<'_>) -> CaseResult {
    let runtime = cx.rt().await?;
    let capabilities = cx.capabilities().await?;
    let lacks = |capability| !capabilities.features.has(capability);
    let base = cx.spec(&Workload::Sleep)?;
    let id = cx.start(&base, 0).await?.id;
    let unsupported = &[ErrorKind::Unsupported];
    if lacks(Capability::Signals) {
        refused("signal", runtime.signal(&id, Signal::HUP).await, unsupported)?;
    }
    if lacks(Capability::Logs) {
        refused("logs", runtime.logs(&id, &LogOptions::default()).await.map(drop), unsupported)?;
    }
    if lacks(Capability::Usage) {
        refused("usage", runtime.usage(std::slice::from_ref(&id)).await, unsupported)?;
    }
    if lacks(Capability::Exec) {
        refused("exec", runtime.exec(&id, &ExecSpec::new(["true"])).await, unsupported)?;
    }
    if lacks(Capability::PutArchive) {
        let nothing = stream::empty().boxed();
        refused("put_archive", runtime.put_archive(&id, "/", nothing).await, unsupported)?;
    }
    if lacks(Capability::GetArchive) {
        refused("get_archive", runtime.get_archive(&id, "/").await.map(drop), unsupported)?;
    }
    ensure!(
        runtime.images().is_some() != lacks(Capability::ImageStore),
        "images() does not match the capability `image_store`"
    );
    for (slot, (need, spec)) in beyond(&base)?.into_iter().enumerate() {
        let declared = match need {
            Need::Feature(capability) => !lacks(capability),
            Need::Limit(limit) => limit(&capabilities) != Enforcement::None,
        };
        if !declared {
            let what = format!("create of a spec that needs {need:?}");
            let slot = u32::try_from(slot + 1)?;
            refused(&what, cx.create(&spec, slot).await, unsupported)?;
        }
    }
    let left = cx.list().await?;
    ensure!(left.len() == 1, "a refused create left something behind: {left:?}");
    Ok(())
}

enum Need {
    Feature(Capability),
    Limit(fn(&crate::RuntimeCapabilities) -> Enforcement),
}

impl std::fmt::Debug for Need {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Feature(capability) => write!(f, "`{capability}`"),
            Self::Limit(_) => f.write_str("an enforced limit"),
        }
    }
}

/// Specs that each need one thing more than `base`.
fn beyond(base: &InstanceSpec) -> Result<Vec<(Need, InstanceSpec)>, Error> {
    use Capability as C;
    let mut specs = Vec::new();
    let mut with = |need: Need, change: &mut dyn FnMut(&mut InstanceSpec)| {
        let mut spec = base.clone();
        change(&mut spec);
        specs.push((need, spec));
    };
    let name = PortName::new("web")?;
    let mut port = Port::new(name, Some(8080));
    with(Need::Feature(C::AllotPorts), &mut |s| s.ports = vec![Port { number: None, ..port.clone() }]);
    with(Need::Feature(C::Udp), &mut |s| s.ports = vec![Port { protocol: Protocol::Udp, ..port.clone() }]);
    port.publish = Some(Publish::default());
    with(Need::Feature(C::PublishPorts), &mut |s| s.ports = vec![port.clone()]);
    let mount = |kind| vec![Mount::new("/ews-conformance", kind)];
    with(Need::Feature(C::Tmpfs), &mut |s| s.mounts = mount(MountKind::Tmpfs(ByteSize::from_mib(1))));
    let volume = VolumeName::new("ews-conformance-unused")?;
    with(Need::Feature(C::Volumes), &mut |s| s.mounts = mount(MountKind::Volume(volume.clone())));
    with(Need::Feature(C::BindMounts), &mut |s| s.mounts = mount(MountKind::Bind("/tmp".into())));
    with(Need::Feature(C::NamedPipes), &mut |s| s.mounts = mount(MountKind::NamedPipe(r"\\.\pipe\x".into())));
    let network = NetworkName::new("ews-conformance-unused")?;
    with(Need::Feature(C::Networks), &mut |s| s.networks = vec![NetworkAttachment::new(network.clone())]);
    let file = ConfigFile {
        path: "/ews-conformance".to_owned(),
        content: FileContent::Content(String::new()),
        mode: FileMode::PUBLIC,
    };
    with(Need::Feature(C::Files), &mut |s| s.files = vec![file.clone()]);
    with(Need::Feature(C::User), &mut |s| s.user = Some("65534".to_owned()));
    with(Need::Feature(C::Workdir), &mut |s| s.workdir = Some("/".to_owned()));
    with(Need::Feature(C::Hostname), &mut |s| s.hostname = Some("conformance".to_owned()));
    with(Need::Feature(C::Init), &mut |s| s.init = true);
    with(Need::Feature(C::Devices), &mut |s| s.devices = vec![Device::new("/dev/null")]);
    with(Need::Feature(C::ReadOnlyRoot), &mut |s| s.security.read_only_root = true);
    with(Need::Feature(C::NoNewPrivileges), &mut |s| s.security.no_new_privileges = true);
    with(Need::Feature(C::LinuxCapabilities), &mut |s| s.security.drop_capabilities = vec!["ALL".to_owned()]);
    with(Need::Feature(C::Privileged), &mut |s| s.security.privileged = true);
    with(Need::Feature(C::CredentialSpec), &mut |s| {
        s.security.credential_spec = Some("file://x.json".into())
    });
    with(Need::Feature(C::EngineRestart), &mut |s| s.engine_restart = EngineRestart::OnFailure);
    with(Need::Limit(|c| c.cpu), &mut |s| s.resources.cpu = Some(Cpu::from_millis(500)));
    with(Need::Limit(|c| c.memory), &mut |s| s.resources.memory = Some(ByteSize::from_mib(64)));
    with(Need::Limit(|c| c.pids), &mut |s| s.resources.pids = Some(64));
    Ok(specs)
}

async fn what_is_declared_is_there(cx: &Cx<'_>) -> CaseResult {
    let runtime = cx.rt().await?;
    let id = cx.start_workload(&Workload::Sleep, 0).await?.id;
    let there = |capability: Capability, answer: Result<(), Error>| match answer {
        Err(error) if error.kind() == ErrorKind::Unsupported => {
            Err(Stop::fail(format!("`{capability}` is declared and refused: {error}")))
        }
        Err(error) => Err(Stop::from(error)),
        Ok(()) => Ok(()),
    };
    if cx.has(Capability::Logs).await? {
        there(Capability::Logs, runtime.logs(&id, &LogOptions::default()).await.map(drop))?;
    }
    if cx.has(Capability::Usage).await? {
        there(Capability::Usage, runtime.usage(std::slice::from_ref(&id)).await.map(drop))?;
    }
    if cx.has(Capability::GetArchive).await? {
        let directory = cx.harness.scratch_directory();
        there(Capability::GetArchive, runtime.get_archive(&id, &directory).await.map(drop))?;
    }
    if cx.has(Capability::Exec).await? {
        let command = cx.command(&Workload::Exit { code: 0, after: Duration::ZERO })?;
        there(Capability::Exec, runtime.exec(&id, &ExecSpec::new(command)).await.map(drop))?;
    }
    if cx.has(Capability::Signals).await? {
        // Checked last: it ends the program.
        let signals = &cx.capabilities().await?.signals;
        let signal = signals.first().copied().unwrap_or(Signal::USR1);
        there(Capability::Signals, runtime.signal(&id, signal).await)?;
    }
    Ok(())
}
