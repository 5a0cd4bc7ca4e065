//! `ews status` and `ews history`.

use clap::ArgMatches;
use ews_core::{Clock as _, Instance, SystemClock};
use ews_deploy::{AuditAction, RolloutReport};

use super::out::age;
use super::{Call, Failure, service};
use crate::api::wire::{HistoryView, HostView, ServiceView};

pub(super) async fn status(call: &Call, matches: &ArgMatches) -> Result<u8, Failure> {
    if matches.contains_id("service") {
        return one(call, &service(matches)?).await;
    }
    let host: HostView = call.client.get("/v1/host").await?;
    let services: Vec<ServiceView> = call.client.get("/v1/services").await?;
    if call.out.json {
        call.out.document(&serde_json::json!({ "host": host, "services": services }));
        return Ok(0);
    }
    call.out.line(&format!(
        "{}: process {}, {} runtime, up {}, traffic at {}",
        host.name,
        host.pid,
        host.runtime,
        age(SystemClock.now().since(host.since)),
        host.listening.traffic()
    ));
    if host.ending {
        call.out.line(
            "it ends: requests under way are finished, and its next start brings about what is asked for now",
        );
    }
    if services.is_empty() {
        call.out.line("no services yet: `ews deploy FILE` deploys one");
        return Ok(0);
    }
    let rows: Vec<_> = services
        .iter()
        .map(|view| {
            vec![
                view.service.to_string(),
                format!("{}/{}", ready(view), view.desired),
                view.stable.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string),
                doing(view),
            ]
        })
        .collect();
    call.out.table(&["SERVICE", "READY", "REVISION", "STATE"], &rows);
    Ok(0)
}

/// How many are ready, or a mark where nobody knows of any yet.
fn ready(view: &ServiceView) -> String {
    if view.ready == 0 && view.unknown > 0 { "?".to_owned() } else { view.ready.to_string() }
}

/// What a service is doing, in a few words.
fn doing(view: &ServiceView) -> String {
    if view.removing {
        return "being removed".to_owned();
    }
    match &view.rollout {
        Some(rollout) => {
            let (done, all) = rollout.done;
            let paused = if rollout.paused { ", paused" } else { "" };
            format!("rollout {} to {}: {done} of {all}{paused}", rollout.id.number, rollout.to)
        }
        None if view.ready < view.desired && view.unknown > 0 => "being looked at".to_owned(),
        None if view.ready < view.desired => "not complete".to_owned(),
        None => "well".to_owned(),
    }
}

async fn one(call: &Call, service: &str) -> Result<u8, Failure> {
    let view: ServiceView = call.client.get(&format!("/v1/services/{service}")).await?;
    if call.out.json {
        call.out.document(&view);
        return Ok(0);
    }
    let stable = view.stable.as_ref().map_or_else(|| "nothing yet".to_owned(), ToString::to_string);
    call.out.line(&format!(
        "{}: {} of {} ready, {}, {stable}",
        view.service,
        ready(&view),
        view.desired,
        doing(&view)
    ));
    if let Some(cause) = view.rollout.as_ref().map(|rollout| &rollout.cause).filter(|cause| !cause.is_empty())
    {
        call.out.line(&format!("  {cause}"));
    }
    if view.instances.is_empty() {
        return Ok(0);
    }
    let now = SystemClock.now();
    let rows: Vec<_> = view.instances.iter().map(|instance| row(instance, now)).collect();
    call.out.table(&["SLOT", "INSTANCE", "REVISION", "STATE", "UP", "ENDPOINTS"], &rows);
    Ok(0)
}

fn row(instance: &Instance, now: ews_core::Timestamp) -> Vec<String> {
    let endpoints: Vec<_> = instance
        .endpoints
        .iter()
        .map(|endpoint| format!("{}={}", endpoint.key.port, endpoint.address))
        .collect();
    vec![
        instance.key.slot.to_string(),
        instance.id.to_string(),
        instance.key.revision.to_string(),
        instance.state.as_str().to_owned(),
        instance.started_at.map_or_else(|| "-".to_owned(), |started| age(now.since(started))),
        endpoints.join(" "),
    ]
}

pub(super) async fn history(call: &Call, matches: &ArgMatches) -> Result<u8, Failure> {
    let service = service(matches)?;
    let view: HistoryView = call.client.get(&format!("/v1/services/{service}/history")).await?;
    if call.out.json {
        call.out.document(&view);
        return Ok(0);
    }
    let rows: Vec<_> = view.rollouts.iter().map(rollout_row).collect();
    call.out.table(&["ROLLOUT", "BEGAN", "TOOK", "TO", "OUTCOME", "BY", "WHY"], &rows);
    let rows: Vec<_> = view
        .audit
        .iter()
        .filter(|entry| !matches!(entry.action, AuditAction::Ended { .. }))
        .map(|entry| vec![short(entry.at), entry.by.clone(), action(&entry.action), entry.why.clone()])
        .collect();
    call.out.line("");
    call.out.table(&["WHEN", "BY", "ASKED FOR", "WHY"], &rows);
    Ok(0)
}

fn rollout_row(report: &RolloutReport) -> Vec<String> {
    let outcome = report.outcome.map_or_else(|| "under way".to_owned(), |outcome| outcome.to_string());
    let why = if report.cause.is_empty() { &report.reason } else { &report.cause };
    vec![
        report.id.number.to_string(),
        short(report.started_at),
        report.ended_at.map_or_else(|| "-".to_owned(), |ended| age(ended.since(report.started_at))),
        report.to.to_string(),
        outcome,
        report.by.clone(),
        why.clone(),
    ]
}

/// A moment to the second.
fn short(at: ews_core::Timestamp) -> String {
    let text = at.to_string();
    text.split('.').next().map(|text| format!("{}Z", text.trim_end_matches('Z'))).unwrap_or_default()
}

fn action(action: &AuditAction) -> String {
    match action {
        AuditAction::Deploy(number) => format!("deploy (rollout {number})"),
        AuditAction::Hotfix(number) => format!("hotfix (rollout {number})"),
        AuditAction::Rollback(number) => format!("rollback (rollout {number})"),
        AuditAction::Restart(number) => format!("restart (rollout {number})"),
        AuditAction::Pause(number) => format!("pause of rollout {number}"),
        AuditAction::Resume(number) => format!("resume of rollout {number}"),
        AuditAction::Abort(number) => format!("abort of rollout {number}"),
        AuditAction::Cancel(number) => format!("cancel of rollout {number}"),
        AuditAction::Scale { from, to } => format!("scale from {from} to {to}"),
        AuditAction::Remove => "remove".to_owned(),
        other => format!("{other:?}"),
    }
}
