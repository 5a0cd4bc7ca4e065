//! Commands that change something, besides deployments.

use std::path::Path;
use std::time::Duration;

use clap::ArgMatches;
use ews_core::{InstanceState, RevisionId, Scale, ServiceName};
use ews_deploy::{Hotfix, Strategy};
use hyper::{Method, StatusCode};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::deploy::rollout;
use super::failure::FAILED;
use super::{Call, Failure, service, text};
use crate::api::wire::{Accepted, RestartBody, RollbackBody, ScaleBody, ServiceView};
use crate::client::{encoded, whole};

/// How often is looked whether a count is reached.
const LOOK: Duration = Duration::from_millis(200);
/// How long a count is waited for.
const PATIENCE: Duration = Duration::from_secs(300);

fn named(matches: &ArgMatches) -> Result<ServiceName, Failure> {
    Ok(ServiceName::new(service(matches)?)?)
}

pub(super) async fn scale(call: &Call, matches: &ArgMatches) -> Result<u8, Failure> {
    let service = named(matches)?;
    let replicas = matches.get_one::<u32>("replicas").copied().unwrap_or_default();
    let body = ScaleBody { replicas, reason: text(matches, "reason") };
    let scale: Scale = call.client.post(&format!("/v1/services/{service}/scale"), &body).await?;
    if matches.get_flag("detach") {
        if call.out.json {
            call.out.document(&scale);
        }
        call.out.line(&format!("{service} shall have {replicas} instances"));
        return Ok(0);
    }
    let until = Instant::now() + PATIENCE;
    loop {
        let view: ServiceView = call.client.get(&format!("/v1/services/{service}")).await?;
        let all = usize::try_from(view.desired).unwrap_or(usize::MAX);
        let running = view.instances.iter().filter(|one| one.state == InstanceState::Running).count();
        let is_late = Instant::now() > until;
        if view.desired != replicas || is_late {
            let why = if is_late {
                format!("that is {} s after they were asked for", PATIENCE.as_secs())
            } else {
                format!("somebody has asked for {} since", view.desired)
            };
            let ready = view.ready;
            call.out.document_or_line(
                &view,
                &format!("{service} has {running} of {replicas} instances, {ready} of them ready: {why}"),
            );
            return Ok(FAILED);
        }
        if view.instances.len() == all && running == all && view.ready >= view.desired {
            call.out.document_or_line(&view, &format!("{service} has {replicas} instances"));
            return Ok(0);
        }
        sleep(LOOK).await;
    }
}

pub(super) async fn rollback(call: &Call, matches: &ArgMatches) -> Result<u8, Failure> {
    let service = named(matches)?;
    let to = matches.get_one::<String>("revision").map(RevisionId::new).transpose()?;
    let (path, body) = (format!("/v1/services/{service}/rollback"), RollbackBody { to });
    let doing = call.client.post::<Accepted>(&path, &body);
    rollout(call, &service, matches.get_flag("detach"), doing).await
}

pub(super) async fn restart(call: &Call, matches: &ArgMatches) -> Result<u8, Failure> {
    let service = named(matches)?;
    let strategy = strategy(matches)?.unwrap_or_default();
    let (path, body) = (format!("/v1/services/{service}/restart"), RestartBody { strategy });
    let doing = call.client.post::<Accepted>(&path, &body);
    rollout(call, &service, matches.get_flag("detach"), doing).await
}

fn strategy(matches: &ArgMatches) -> Result<Option<Strategy>, Failure> {
    let Some(text) = matches.get_one::<String>("strategy") else { return Ok(None) };
    let strategy: Strategy = serde_json::from_str(text)
        .map_err(|error| Failure::usage(format!("`--strategy` can't be read: {error}")))?;
    strategy.check()?;
    Ok(Some(strategy))
}

pub(super) async fn hotfix(call: &Call, matches: &ArgMatches) -> Result<u8, Failure> {
    let service = named(matches)?;
    let mut archive = tar::Builder::new(Vec::new());
    let mut total = 0;
    for pair in matches.get_many::<String>("files").into_iter().flatten() {
        let Some((path, file)) =
            pair.split_once('=').filter(|(path, file)| !path.is_empty() && !file.is_empty())
        else {
            return Err(Failure::usage(format!(
                "`{pair}` is no pair; accepted: the path in the instance, `=`, and a file of this machine"
            )));
        };
        let content = content(Path::new(file), &mut total)?;
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        let written = archive.append_data(&mut header, path.trim_start_matches('/'), content.as_slice());
        written.map_err(|error| Failure::usage(format!("`{path}` is no path of a file: {error}")))?;
    }
    let archive =
        archive.into_inner().map_err(|error| Failure::odd(format!("the files can't be packed: {error}")))?;
    let mut path = format!(
        "/v1/services/{service}/hotfix?reload={}&reason={}",
        encoded(&text(matches, "reload")),
        encoded(&text(matches, "reason"))
    );
    if strategy(matches)?.is_some() {
        path.push_str(&format!("&strategy={}", encoded(&text(matches, "strategy"))));
    }
    let doing = async {
        let (_, accepted) =
            call.client.call::<Accepted>(Method::POST, &path, Some(whole(archive.into()))).await?;
        Ok(accepted)
    };
    rollout(call, &service, matches.get_flag("detach"), doing).await
}

fn content(file: &Path, total: &mut u64) -> Result<Vec<u8>, Failure> {
    let failed = |error: std::io::Error| Failure::usage(format!("{} can't be read: {error}", file.display()));
    let length = std::fs::metadata(file).map_err(failed)?.len();
    *total += length;
    if length > Hotfix::FILE as u64 || *total > Hotfix::TOTAL {
        return Err(Failure::usage(format!(
            "{} makes it too much for a hotfix; accepted: at most {} bytes each and {} together",
            file.display(),
            Hotfix::FILE,
            Hotfix::TOTAL
        )));
    }
    std::fs::read(file).map_err(failed)
}

/// Pause, resume, abort, cancel.
pub(super) async fn steer(call: &Call, name: &str, matches: &ArgMatches) -> Result<u8, Failure> {
    let service = named(matches)?;
    let done: Value =
        call.client.post(&format!("/v1/services/{service}/{name}"), &serde_json::json!({})).await?;
    let said = match name {
        "pause" => "nothing more of its rollout begins",
        "resume" => "its rollout goes on",
        "abort" => "its rollout turns round",
        _ => "its rollout ends where it stands",
    };
    call.out.document_or_line(&done, &format!("{service}: {said}"));
    Ok(0)
}

pub(super) async fn remove(call: &Call, matches: &ArgMatches) -> Result<u8, Failure> {
    let service = named(matches)?;
    let detach = matches.get_flag("detach");
    let path = format!("/v1/services/{service}");
    let asked = format!("{path}?wait={}", if detach { "0s" } else { "30s" });
    let (status, done) = call.client.call::<Value>(Method::DELETE, &asked, None).await?;
    if detach {
        call.out.document_or_line(&done, &format!("{service} is being removed"));
        return Ok(0);
    }
    // Asked for once: a service of that name that somebody deploys meanwhile is another one, and stays.
    let mut is_gone = status != StatusCode::ACCEPTED;
    while !is_gone {
        sleep(LOOK).await;
        is_gone = match call.client.get::<ServiceView>(&path).await {
            Ok(view) => !view.removing,
            Err(failure) if failure.is_not_found() => true,
            Err(failure) => return Err(failure),
        };
    }
    call.out.document_or_line(&done, &format!("{service} is gone"));
    Ok(0)
}
