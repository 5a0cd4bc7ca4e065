//! Behaviours 43 and 44: hostile names and values do no harm, and secrets stay where they belong.

use std::time::Duration;

use futures_util::StreamExt as _;

use super::cx::{Cx, refused};
use super::{CaseResult, Workload, cases, ensure};
use crate::capability::Capability;
use crate::error::{Error, ErrorKind};
use crate::id::{InstanceId, OwnerId, RevisionId, ServiceName};
use crate::instance::InstanceKey;
use crate::label::Labels;
use crate::runtime::{CreateOptions, ExecSpec, LogOptions, RemoveOptions};
use crate::selector::Selector;
use crate::spec::content::EnvValue;
use crate::testkit::conformance::Stop;

cases! {
    43 hostile_names_are_only_names,
    43 hostile_values_are_only_values,
    43 what_can_not_be_said_is_invalid,
    44 secrets_stay_out_of_sight,
}

async fn hostile_names_are_only_names(cx: &Cx<'_>) -> CaseResult {
    let runtime = cx.rt().await?;
    let long = "x".repeat(InstanceId::MAX_LEN);
    for name in ["con", "NUL", "aux.txt", "0", "a.b.c", "a-b_c.d", "bridge", "json", "prune", "1e9", &long] {
        let id = InstanceId::new(name)?;
        refused(&format!("get of `{name:.20}`"), runtime.get(&id).await, &[ErrorKind::NotFound])?;
        refused(&format!("start of `{name:.20}`"), runtime.start(&id).await, &[ErrorKind::NotFound])?;
        runtime.remove(&id, &RemoveOptions::force()).await?;
    }
    // Keys that would meet if their parts were joined or cut carelessly.
    let spec = cx.spec(&Workload::Sleep)?;
    let service = cx.service.as_str();
    let long = |last: char| format!("{}{last}", "r".repeat(RevisionId::MAX_LEN - 1));
    let keys = [
        (service.to_owned(), "r-1".to_owned(), 0, 0),
        (format!("{service}-r"), "1".to_owned(), 0, 0),
        (service.to_owned(), "r-1-0".to_owned(), 0, 0),
        (service.to_owned(), "r-1".to_owned(), 0, 1),
        (service.to_owned(), "r-1".to_owned(), u32::MAX, u32::MAX),
        (service.to_owned(), long('a'), 0, 0),
        (service.to_owned(), long('b'), 0, 0),
    ];
    let mut ids = Vec::new();
    for (service, revision, slot, generation) in keys {
        let key = InstanceKey {
            owner: cx.owner.clone(),
            service: ServiceName::new(&service)?,
            revision: RevisionId::new(revision)?,
            slot,
            generation,
        };
        let created = runtime.create(&spec, &key, &CreateOptions::default()).await?;
        ensure!(created.key == key, "{key} came back as {}", created.key);
        let seen = runtime.get(&created.id).await?;
        ensure!(seen.key == key, "{key} is seen as {}", seen.key);
        ensure!(!ids.contains(&created.id), "two keys share the instance {}", created.id);
        ids.push(created.id);
    }
    let stranger = Selector::equal("ews/owner", OwnerId::new("somebody-else")?.as_str())?;
    let theirs = runtime.list(&stranger).await?;
    ensure!(!theirs.iter().any(|instance| ids.contains(&instance.id)), "ours are listed as another owner's");
    for id in ids {
        runtime.remove(&id, &RemoveOptions::force()).await?;
    }
    Ok(())
}

const VALUES: [&str; 8] =
    ["", "a,b", "a=b", "\"quoted\"", "' or 1=1 --", "$(reboot)", "{\"json\":[1]}", "中文"];

async fn hostile_values_are_only_values(cx: &Cx<'_>) -> CaseResult {
    let runtime = cx.rt().await?;
    let own = cx.selector()?;
    for (slot, value) in (0..).zip(VALUES) {
        let mut spec = cx.spec(&Workload::Sleep)?;
        spec.labels = Labels::new([("value", value), ("a.b-c_d/e", value)])?;
        let id = cx.create(&spec, slot).await?.id;
        let seen = runtime.get(&id).await?.labels;
        ensure!(seen == spec.labels, "the labels {:?} came back as {seen:?}", spec.labels);
        let found = runtime.list(&own.and(&Selector::equal("value", value)?)).await?;
        let ids: Vec<_> = found.iter().map(|instance| &instance.id).collect();
        ensure!(ids == [&id], "one instance has the label `{value}`; selected were {ids:?}");
    }
    if cx.has(Capability::Logs).await? {
        let id = cx.start_workload(&Workload::Exit { code: 0, after: Duration::ZERO }, 100).await?.id;
        runtime.wait(&id, &Default::default()).await?;
        let mut options = LogOptions::tail(usize::MAX);
        cx.lines(&id, &options).await?;
        if cx.has(Capability::LogsSince).await? {
            for since in [crate::Timestamp::EPOCH, crate::Timestamp::MAX] {
                options.since = Some(since);
                cx.lines(&id, &options).await?;
            }
        }
    }
    Ok(())
}

async fn what_can_not_be_said_is_invalid(cx: &Cx<'_>) -> CaseResult {
    let plain = || EnvValue::Plain("x".to_owned());
    let invalid = &[ErrorKind::Invalid];
    for (slot, name) in (0..).zip(["", "A=B", "A\0B"]) {
        let mut spec = cx.spec(&Workload::Sleep)?;
        spec.env.insert(name.to_owned(), plain());
        refused(&format!("create with the variable {name:?}"), cx.create(&spec, slot).await, invalid)?;
    }
    let mut spec = cx.spec(&Workload::Sleep)?;
    spec.args.push("a\0b".to_owned());
    refused("create with NUL in an argument", cx.create(&spec, 10).await, invalid)?;
    let mut spec = cx.spec(&Workload::Sleep)?;
    spec.env.insert("A".to_owned(), EnvValue::Plain("a\0b".to_owned()));
    refused("create with NUL in a variable", cx.create(&spec, 11).await, invalid)?;
    ensure!(cx.list().await?.is_empty(), "a refused create left an instance behind");
    if cx.has(Capability::Exec).await? {
        let runtime = cx.rt().await?;
        let id = cx.start_workload(&Workload::Sleep, 12).await?.id;
        let nothing = ExecSpec::new(Vec::<String>::new());
        refused("exec of nothing", runtime.exec(&id, &nothing).await, invalid)?;
        refused("exec with NUL", runtime.exec(&id, &ExecSpec::new(["a\0b"])).await, invalid)?;
    }
    Ok(())
}

async fn secrets_stay_out_of_sight(cx: &Cx<'_>) -> CaseResult {
    let runtime = cx.rt().await?;
    let marker = format!("5ecret-{}", cx.owner);
    let mut values = vec![marker.clone()];
    let mut spec = cx.spec(&Workload::Sleep)?;
    spec.env.insert("PASSWORD".to_owned(), EnvValue::Plain(marker.clone()));
    if let Some((secret, value)) = cx.harness.secret() {
        spec.env.insert("EWS_T_SECRET".to_owned(), EnvValue::Secret { secret });
        values.push(value);
    }
    let mut seen = String::new();
    let mut events = runtime.events(&cx.selector()?).await?;
    let created = cx.create(&spec, 0).await?;
    let mut see = |text: String| {
        seen.push_str(&text);
        seen.push('\n');
    };
    see(format!("{created:?} {}", serde_json::to_string(&created)?));
    see(format!("{:?}", runtime.start(&created.id).await?));
    // Refusals of the same spec: each says what was wrong, none what the secret is.
    let mut other = spec.clone();
    other.env.insert("MORE".to_owned(), EnvValue::Plain(marker.clone()));
    let errors: Vec<Error> = [
        cx.create(&other, 0).await.err(),
        {
            let mut bad = spec.clone();
            bad.env.insert("A=B".to_owned(), EnvValue::Plain(marker.clone()));
            cx.create(&bad, 1).await.err()
        },
        {
            let mut bad = spec.clone();
            bad.env.insert("A".to_owned(), EnvValue::Plain(format!("{marker}\0")));
            cx.create(&bad, 2).await.err()
        },
        match cx.harness.workload(&Workload::MissingProgram) {
            Some(missing) => {
                let mut bad = spec.clone();
                bad.command = missing.command;
                let id = cx.create(&bad, 3).await?.id;
                see(format!("{:?}", runtime.start(&id).await));
                None
            }
            None => None,
        },
    ]
    .into_iter()
    .flatten()
    .collect();
    for error in &errors {
        see(format!("{error} {error:?}"));
    }
    see(format!("{:?}", runtime.list(&cx.selector()?).await?));
    see(format!("{:?}", runtime.nodes().await?));
    runtime.remove(&created.id, &RemoveOptions::force()).await?;
    while let Ok(Some(notice)) = tokio::time::timeout(Duration::from_millis(300), events.next()).await {
        see(format!("{notice:?}"));
    }
    ensure!(errors.len() >= 3, "specs that must be refused were taken");
    for (place, text) in [("what the driver says", Some(seen)), ("the log", cx.harness.captured_log())] {
        let Some(text) = text else { continue };
        for value in &values {
            if let Some(at) = text.find(value.as_str()) {
                let start =
                    text.get(..at).map_or("", |before| before.rsplit('\n').next().unwrap_or_default());
                // The value itself stays out of the report.
                let start: String = start.chars().take(200).collect();
                return Err(Stop::fail(format!("a secret stands in {place}, after: {start}")));
            }
        }
    }
    Ok(())
}
