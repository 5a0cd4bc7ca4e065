//! What the tests of releases share: small services and jobs by name, and a record of what a release told.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "shared by the tests of releases, which each use a part of it"
)]

use std::collections::BTreeMap;
use std::time::Duration;

use ews_core::bus::Subscription;
use ews_core::event::Notice;
use ews_core::spec::lifecycle::Job;
use ews_core::spec::network::Port;
use ews_core::spec::probe::{Check, HttpCheck, Probe};
use ews_core::spec::source::{ArtifactSource, Source};
use ews_core::{InstanceState, Labels, PortName, ReleaseName, ServiceName, ServiceSpec};
use ews_deploy::release::{
    MemberCondition, MemberSpec, ReleaseEvent, ReleaseEventKind, ReleaseId, ReleaseReport, ReleaseRequest,
    ReleaseSpec,
};
use ews_deploy::{Batch, Deployer, Strategy};

use crate::rig::{Controller, World, eventually};

pub(crate) fn name(text: &str) -> ServiceName {
    ServiceName::new(text).unwrap()
}

pub(crate) fn shop() -> ReleaseName {
    ReleaseName::new("shop").unwrap()
}

/// A service of two that answers HTTP.
pub(crate) fn service(of: &str, version: &str) -> MemberSpec {
    labelled(of, version, "yes")
}

/// One whose readiness probe never passes.
pub(crate) fn ailing(of: &str, version: &str) -> MemberSpec {
    labelled(of, version, "no")
}

fn labelled(of: &str, version: &str, healthy: &str) -> MemberSpec {
    let mut spec = ServiceSpec::new(name(of), Source::Artifact(ArtifactSource::new(format!("/srv/{of}"))));
    spec.replicas = 2;
    spec.instance.command = vec!["fake".to_owned(), "serve".to_owned()];
    spec.instance.ports = vec![Port::new(PortName::new("http").unwrap(), None)];
    spec.instance.labels = Labels::new([("version", version), ("healthy", healthy)]).unwrap();
    let mut probe = Probe::new(Check::Http(HttpCheck::new("/")));
    probe.interval = Duration::from_secs(1);
    spec.instance.probes.readiness = Some(probe);
    spec.instance.stop.grace = Duration::from_secs(5);
    MemberSpec::new(spec).with_strategy(quick())
}

pub(crate) fn quick() -> Strategy {
    Strategy::default()
        .with_min_healthy(Duration::from_secs(2))
        .with_deadlines(Duration::from_secs(20), Duration::from_secs(60))
        .with_batches(Batch::Percent(100), Batch::Percent(100))
        .with_drain(Duration::from_secs(1))
        .with_monitor(Duration::ZERO)
}

/// A job of these words, tried once.
pub(crate) fn job(of: &str, words: &[&str]) -> MemberSpec {
    job_with(of, words, Job::default())
}

pub(crate) fn job_with(of: &str, words: &[&str], job: Job) -> MemberSpec {
    let source = Source::Artifact(ArtifactSource::new(format!("/srv/{of}")));
    let mut spec = ServiceSpec::job(name(of), source, job);
    spec.instance.command = std::iter::once("fake").chain(words.iter().copied()).map(str::to_owned).collect();
    spec.instance.stop.grace = Duration::from_secs(5);
    MemberSpec::new(spec)
}

pub(crate) fn release(members: impl IntoIterator<Item = MemberSpec>) -> ReleaseSpec {
    let spec = ReleaseSpec::new(shop()).with_deadline(Duration::from_secs(600));
    members.into_iter().fold(spec, ReleaseSpec::with_member)
}

/// A database, an API that waits until it is healthy, and a front that waits until the API is promoted.
pub(crate) fn chain(version: &str) -> ReleaseSpec {
    release([
        service("db", version),
        service("api", version).after(name("db"), MemberCondition::Healthy),
        service("front", version).after(name("api"), MemberCondition::Promoted),
    ])
}

pub(crate) async fn released(controller: &Controller, spec: ReleaseSpec) -> ReleaseReport {
    let id = controller.deployer.release(&ReleaseRequest::new(spec)).await.unwrap();
    ended_release(&controller.deployer, &id).await
}

/// Waits for the end of a release, in virtual time.
pub(crate) async fn ended_release(deployer: &Deployer, id: &ReleaseId) -> ReleaseReport {
    let waited = tokio::time::timeout(Duration::from_secs(7_200), deployer.wait_release(id)).await;
    waited.unwrap_or_else(|_| panic!("{id} never ends")).unwrap()
}

/// What was told so far, as short lines: `start db`, `healthy db`, `back db`, ….
pub(crate) fn told(events: &mut Subscription<ReleaseEvent>) -> Vec<String> {
    let mut lines = Vec::new();
    while let Some(notice) = events.try_next() {
        let Notice::Event(event) = notice else { panic!("the bus was too small") };
        let line = match event.event.kind {
            ReleaseEventKind::Started { .. } => "begin".to_owned(),
            ReleaseEventKind::MemberStarted { member, .. } => format!("start {member}"),
            ReleaseEventKind::MemberUnchanged { member } => format!("keep {member}"),
            ReleaseEventKind::MemberHealthy { member } => format!("healthy {member}"),
            ReleaseEventKind::MemberSucceeded { member } => format!("done {member}"),
            ReleaseEventKind::MemberFailed { member, .. } => format!("failed {member}"),
            ReleaseEventKind::MemberSkipped { member } => format!("skip {member}"),
            ReleaseEventKind::RollingBack { .. } => "turn".to_owned(),
            ReleaseEventKind::MemberGoingBack { member } => format!("back {member}"),
            ReleaseEventKind::MemberWentBack { member } => format!("was {member}"),
            ReleaseEventKind::MemberLeft { member } => format!("left {member}"),
            ReleaseEventKind::MemberBackFailed { member, .. } => format!("stuck {member}"),
            ReleaseEventKind::Pruning { service } => format!("prune {service}"),
            ReleaseEventKind::Ended { outcome, .. } => format!("end {outcome}"),
            _ => continue,
        };
        lines.push(line);
    }
    lines
}

/// Where a line stands.
pub(crate) fn at(lines: &[String], line: &str) -> usize {
    lines.iter().position(|told| told == line).unwrap_or_else(|| panic!("`{line}` was not told: {lines:?}"))
}

/// The versions that run of each service, jobs left out; each instance must run.
pub(crate) async fn versions(world: &World) -> BTreeMap<String, Vec<String>> {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for instance in world.instances().await {
        let Some(version) = instance.labels.get("version") else { continue };
        let state =
            if instance.state == InstanceState::Running { version.to_owned() } else { "down".to_owned() };
        found.entry(instance.key.service.to_string()).or_default().push(state);
    }
    found
}

/// Waits until exactly this runs, two of each.
pub(crate) async fn runs(world: &World, expected: &[(&str, &str)]) {
    let expected: BTreeMap<String, Vec<String>> = expected
        .iter()
        .map(|(service, version)| ((*service).to_owned(), vec![(*version).to_owned(); 2]))
        .collect();
    let mut last = BTreeMap::new();
    for _ in 0..2_000 {
        last = versions(world).await;
        if last == expected {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("expected {expected:?}, found {last:?}");
}

/// Waits until a member stands like this.
pub(crate) async fn until(deployer: &Deployer, id: &ReleaseId, holds: impl Fn(&ReleaseReport) -> bool) {
    let what = || async { deployer.release_report(id).await.is_ok_and(|report| holds(&report)) };
    eventually("the release stands as expected", what).await;
}
