//! The tour of `quickstart`: what is done and what must have been seen.
//!
//! It is three programs in one: the presenter, a controller that is killed on the way, and the service. What the presenter shows
//! it also checks; `report` counts.

mod report;
mod service;

pub use service::serve;

use std::io::BufRead as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use ews_core::event::{Notice, RuntimeEvent};
use ews_core::process::{ProcessConfig, ProcessRuntime};
use ews_core::runtime::{CreateOptions, ExecSpec, LogOptions, RemoveOptions, Runtime, StopOptions};
use ews_core::spec::network::Port;
use ews_core::spec::source::{ArtifactSource, Source};
use ews_core::{
    Error, Incarnation, Instance, InstanceKey, InstanceSpec, InstanceState, OwnerId, PortName, Result,
    RevisionId, RuntimeExt as _, Selector, ServiceName,
};
use futures_util::StreamExt as _;
use report::Report;
use service::ask;

/// How many instances there are.
const INSTANCES: u32 = 3;

/// The longest that anything may take; the whole tour is over in a few seconds.
const PATIENCE: Duration = Duration::from_secs(20);

/// The tour, from an empty directory to an empty directory.
pub async fn tour() -> ExitCode {
    let root = std::env::temp_dir().join(format!("ews-quickstart-{}", std::process::id()));
    let mut report = Report::new();
    if let Err(error) = through(&root, &mut report).await {
        report.fail(&format!("it broke off: {error}"));
        clean_up(&root).await;
    }
    report.end()
}

/// The first controller: it launches the instances, says so, and waits to be killed.
#[allow(clippy::print_stdout, reason = "the presenter reads what it says")]
pub async fn controller(root: &Path) -> ExitCode {
    match launch_all(root).await {
        Ok(_runtime) => {
            println!("ready");
            std::future::pending().await
        }
        Err(error) => {
            println!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn launch_all(root: &Path) -> Result<ProcessRuntime> {
    let runtime = open(root).await?;
    for slot in 0..INSTANCES {
        runtime.launch(&spec()?, &key(slot)?, &CreateOptions::default()).await?;
    }
    Ok(runtime)
}

async fn open(root: &Path) -> Result<ProcessRuntime> {
    ProcessRuntime::open(ProcessConfig::new(root)).await
}

fn own_program() -> Result<PathBuf> {
    std::env::current_exe().map_err(|error| Error::internal("this program can't be found").with_source(error))
}

/// The service: this program, which answers HTTP at the port that it is given.
fn spec() -> Result<InstanceSpec> {
    let program = own_program()?;
    let mut spec = InstanceSpec::new(Source::Artifact(ArtifactSource::new(program.to_string_lossy())));
    spec.args = vec!["serve".to_owned()];
    spec.ports = vec![Port::new(PortName::new("http")?, None)];
    Ok(spec)
}

fn key(slot: u32) -> Result<InstanceKey> {
    Ok(InstanceKey {
        owner: OwnerId::new("quickstart")?,
        service: ServiceName::new("hello")?,
        revision: RevisionId::new("r1")?,
        slot,
        generation: 0,
    })
}

/// What every step of the tour must show.
async fn through(root: &Path, report: &mut Report) -> Result<()> {
    report.step("launch", "a controller in a process of its own launches three instances of an HTTP service");
    let mut first = first_controller(root)?;
    let runtime = {
        // Looked at through its work, not through its memory: each instance answers at its own port.
        let addresses = addresses_of_all(root).await?;
        let mut answers = 0;
        for address in &addresses {
            let answer = answering(*address).await?;
            report.show(&format!("http://{address}/ says: {answer}"));
            answers += 1;
        }
        report.check("three instances answer", answers == INSTANCES);

        report.step("kill the controller", "SIGKILL, while the instances serve");
        let _ = first.kill();
        let _ = first.wait();
        let mut still = 0;
        for address in &addresses {
            still += u32::from(ask(*address).await.is_ok());
        }
        report.check("all instances answer without a controller", still == INSTANCES);

        report.step("restart the controller", "the next one opens the same directory");
        open(root).await?
    };
    let adopted = runtime.list(&Selector::everything()).await?;
    for instance in &adopted {
        report.show(&described(instance));
    }
    let same = |instance: &Instance| {
        instance.state == InstanceState::Running && instance.incarnation == Incarnation(1)
    };
    report.check(
        "it has adopted all three, none was restarted",
        adopted.len() == 3 && adopted.iter().all(same),
    );

    killed_from_outside(&runtime, &adopted, report).await?;
    looked_into(&runtime, &adopted, report).await?;

    report.step("clean end", "stop and remove everything");
    for instance in runtime.list(&Selector::everything()).await? {
        let status = runtime.stop(&instance.id, &StopOptions::default()).await?;
        report.show(&format!("{} ended with {status}", instance.id));
        report.check("it ended by itself when asked", status.is_success());
        runtime.remove(&instance.id, &RemoveOptions::default()).await?;
    }
    drop(runtime);
    let _ = std::fs::remove_dir_all(root);
    let left = processes_below(root);
    report.check("no process is left", left == 0);
    report.check("no file is left", !root.exists());
    Ok(())
}

async fn killed_from_outside(
    runtime: &ProcessRuntime,
    instances: &[Instance],
    report: &mut Report,
) -> Result<()> {
    report.step("kill an instance", "SIGKILL from outside, seen by the controller as an event");
    let Some(victim) = instances.get(1) else { return Err(Error::internal("there is no second instance")) };
    let mut events = runtime.events(&Selector::equal("ews/instance", victim.id.as_str())?).await?;
    let pid = ask(address(victim)?).await?.rsplit("process ").next().unwrap_or_default().to_owned();
    let killed = Command::new("sh").args(["-c", "kill -9 \"$0\"", &pid]).status();
    report.check("the kill was sent", killed.is_ok_and(|status| status.success()));
    let end = tokio::time::timeout(PATIENCE, async {
        while let Some(notice) = events.next().await {
            if let Notice::Event(RuntimeEvent::Instance { state: InstanceState::Exited(status), .. }) = notice
            {
                return Some(status);
            }
        }
        None
    });
    let status = end.await.ok().flatten();
    report.show(&format!(
        "event: {} ended with {}",
        victim.id,
        status.as_ref().map_or("nothing".into(), |s| s.to_string())
    ));
    let by_kill = status.and_then(|status| status.signal) == Some(ews_core::spec::lifecycle::Signal::KILL);
    report.check("the event says that a SIGKILL ended it", by_kill);
    let again = runtime.start(&victim.id).await?;
    report.show(&described(&again));
    report.check("started again it has the next incarnation", again.incarnation == Incarnation(2));
    answering(address(&again)?).await?;
    Ok(())
}

async fn looked_into(runtime: &ProcessRuntime, instances: &[Instance], report: &mut Report) -> Result<()> {
    report.step("look inside", "usage, logs and a command run in an instance");
    let ids: Vec<_> = instances.iter().map(|instance| instance.id.clone()).collect();
    let usage = runtime.usage(&ids).await?;
    for used in &usage {
        let cpu = used.cpu_nanos.map_or("unknown".into(), |nanos| format!("{:.1} ms", nanos as f64 / 1e6));
        let memory =
            used.memory.map_or("unknown".into(), |bytes| format!("{:.1} MiB", bytes as f64 / 1_048_576.0));
        let pids = used.pids.map_or("unknown".into(), |count| count.to_string());
        report.show(&format!("{}: CPU {cpu}, memory {memory}, threads {pids}", used.instance));
    }
    report.check("all three have a usage", usage.len() == 3);
    let Some(first) = instances.first() else { return Ok(()) };
    let lines: Vec<_> = runtime.logs(&first.id, &LogOptions::tail(2)).await?.collect().await;
    for line in lines.iter().flatten() {
        report.show(&format!("log: {} {}", line.at, String::from_utf8_lossy(&line.bytes)));
    }
    report.check("its log is there", !lines.is_empty() && lines.iter().all(|line| line.is_ok()));
    let command = ExecSpec::new(["sh", "-c", "echo \"I am in $PWD, for port $PORT\""]);
    let session = runtime.exec(&first.id, &command).await?;
    let output: Vec<_> = session.output.collect().await;
    let output: Vec<u8> = output.into_iter().flatten().flat_map(|piece| piece.bytes.to_vec()).collect();
    let output = String::from_utf8_lossy(&output).trim().to_owned();
    report.show(&format!("exec: {output}"));
    let port = address(first)?.port().to_string();
    report.check("the command saw the instance's port", output.ends_with(&port));
    report.check("the command succeeded", session.control.wait().await?.is_success());
    Ok(())
}

/// Starts the controller that will be killed, and waits until it is ready.
fn first_controller(root: &Path) -> Result<Child> {
    let failed =
        |error: std::io::Error| Error::internal("the first controller can't be started").with_source(error);
    let mut child = Command::new(own_program()?)
        .arg("controller")
        .arg(root)
        .stdout(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let mut line = String::new();
    if let Some(stdout) = child.stdout.take() {
        std::io::BufReader::new(stdout).read_line(&mut line).map_err(failed)?;
    }
    if line.trim() == "ready" {
        return Ok(child);
    }
    let _ = child.wait();
    Err(Error::internal("the first controller failed").with_detail(line.trim().to_owned()))
}

/// The addresses of all instances. They run before they listen, and say where only then.
async fn addresses_of_all(root: &Path) -> Result<Vec<SocketAddr>> {
    let until = tokio::time::Instant::now() + PATIENCE;
    loop {
        let addresses = addresses_on_disk(root)?;
        if addresses.len() == INSTANCES as usize || tokio::time::Instant::now() > until {
            return Ok(addresses);
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The addresses of the instances while another controller has them: what anybody on the machine could find.
fn addresses_on_disk(root: &Path) -> Result<Vec<SocketAddr>> {
    let failed = |error: std::io::Error| Error::internal("the instances can't be listed").with_source(error);
    let mut addresses = Vec::new();
    for entry in std::fs::read_dir(root.join("instances")).map_err(failed)? {
        let text =
            std::fs::read_to_string(entry.map_err(failed)?.path().join("work/address")).unwrap_or_default();
        addresses.extend(text.trim().parse::<SocketAddr>());
    }
    addresses.sort_unstable();
    Ok(addresses)
}

fn address(instance: &Instance) -> Result<SocketAddr> {
    let endpoint = instance.endpoints.first();
    endpoint.map(|endpoint| endpoint.address).ok_or_else(|| Error::internal("the instance has no endpoint"))
}

/// The first answer of a service that is coming up.
async fn answering(address: SocketAddr) -> Result<String> {
    let until = tokio::time::Instant::now() + PATIENCE;
    loop {
        match ask(address).await {
            Ok(answer) => return Ok(answer),
            Err(error) if tokio::time::Instant::now() > until => return Err(error),
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

fn described(instance: &Instance) -> String {
    let at = instance.endpoints.first().map_or("no endpoint".into(), |endpoint| endpoint.address.to_string());
    format!("{} is {}, start {}, at {at}", instance.id, instance.state.as_str(), instance.incarnation)
}

/// How many processes were started for instances of this root.
fn processes_below(root: &Path) -> usize {
    let prefix = format!("EWS_WORKDIR={}/", root.display());
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let environments = processes.filter_map(|process| std::fs::read(process.path().join("environ")).ok());
    environments
        .filter(|variables| variables.split(|byte| *byte == 0).any(|v| v.starts_with(prefix.as_bytes())))
        .count()
}

/// After a failure: whatever runs is ended, and the directory is removed.
async fn clean_up(root: &Path) {
    if let Ok(runtime) = open(root).await {
        for instance in runtime.list(&Selector::everything()).await.unwrap_or_default() {
            let _ = runtime.remove(&instance.id, &RemoveOptions::force()).await;
        }
    }
    let _ = std::fs::remove_dir_all(root);
}
