//! Behaviours 16 and 17: the program gets exactly what its spec says, and sees the mounts it asked for.

use super::cx::Cx;
use super::{CaseResult, Workload, cases, ensure};
use crate::capability::Capability;
use crate::id::VolumeName;
use crate::runtime::LogLine;
use crate::spec::content::EnvValue;
use crate::spec::storage::{Mount, MountKind};
use crate::testkit::conformance::Stop;

cases! {
    16 the_program_gets_exact_values,
    17 mounts_are_seen_and_read_only_holds,
}

const ARGS: [&str; 9] = [
    "plain",
    "two words",
    "  blanks  ",
    "'single' \"double\"",
    "$HOME `id` $(id)",
    "*",
    "back\\slash",
    "中文 é",
    "",
];

fn hex(text: &str) -> String {
    text.bytes().map(|byte| format!("{byte:02x}")).collect()
}

fn values<'a>(lines: &'a [LogLine], name: &str) -> Vec<&'a str> {
    let text = |line: &'a LogLine| std::str::from_utf8(&line.bytes).ok();
    lines.iter().filter_map(|line| text(line)?.strip_prefix(name)?.strip_prefix('=')).collect()
}

async fn the_program_gets_exact_values(cx: &Cx<'_>) -> CaseResult {
    cx.need(Capability::Logs).await?;
    let mut spec = cx.spec(&Workload::Describe)?;
    spec.args = ARGS.map(str::to_owned).to_vec();
    let variables = [
        ("EWS_T_PLAIN", "plain"),
        ("EWS_T_QUOTES", "'a' \"b\" $HOME \\ `id`"),
        ("EWS_T_UNICODE", "中文 é\nsecond line"),
        ("EWS_T_EMPTY", ""),
    ];
    for (name, value) in variables {
        spec.env.insert(name.to_owned(), EnvValue::Plain(value.to_owned()));
    }
    if cx.has(Capability::Workdir).await? {
        spec.workdir = Some(cx.harness.scratch_directory());
    }
    if cx.has(Capability::User).await? {
        spec.user = Some("65534".to_owned());
    }
    let secret = cx.harness.secret();
    if let Some((reference, _)) = &secret {
        spec.env.insert("EWS_T_SECRET".to_owned(), EnvValue::Secret { secret: reference.clone() });
    }
    let (status, lines) = cx.run(&spec, 0).await?;
    ensure!(status.is_success(), "the program ended with {status}");
    let args = values(&lines, "arg");
    ensure!(args == ARGS.map(hex), "the arguments {ARGS:?} arrived as {args:?} (hexadecimal)");
    let secret = secret.as_ref().map(|(_, value)| ("EWS_T_SECRET", value.as_str()));
    for (name, value) in variables.into_iter().chain(secret) {
        let found = values(&lines, &format!("env {name}"));
        // The value of a secret stays out of the report.
        ensure!(found == [hex(value)], "the variable {name} did not arrive as it was given");
    }
    if let Some(directory) = &spec.workdir {
        let found = values(&lines, "cwd");
        ensure!(
            found == [hex(directory)],
            "the working directory {directory} arrived as {found:?} (hexadecimal)"
        );
    }
    if spec.user.is_some() {
        let found = values(&lines, "uid");
        ensure!(found == ["65534"], "it runs as {found:?} instead of 65534");
    }
    Ok(())
}

async fn mounts_are_seen_and_read_only_holds(cx: &Cx<'_>) -> CaseResult {
    cx.need(Capability::Logs).await?;
    let volume = VolumeName::new(format!("{}-{}", cx.owner, cx.service))?;
    let kind = if cx.has(Capability::Volumes).await? {
        MountKind::Volume(volume)
    } else if let (true, Some(directory)) =
        (cx.has(Capability::BindMounts).await?, cx.harness.bind_directory())
    {
        MountKind::Bind(directory)
    } else {
        return Err(Stop::skip(
            "the driver declares no volumes, and bind mounts lack a directory or the capability",
        ));
    };
    let target = "/ews-mounted";
    let mut spec = cx.spec(&Workload::Touch { path: target.to_owned() })?;
    let mut slot = 0;
    let mut touch = async |read_only: bool| {
        spec.mounts = vec![Mount { read_only, ..Mount::new(target, kind.clone()) }];
        // The second run must find what the first has written, so both lie on one node.
        let nodes = cx.rt().await?.nodes().await?;
        let mut options = crate::runtime::CreateOptions::default();
        if cx.has(Capability::NodeChoice).await? {
            options.node = nodes.first().map(|node| node.id.clone());
        }
        let runtime = cx.rt().await?;
        let created = runtime.create(&spec, &cx.key(slot)?, &options).await?;
        slot += 1;
        runtime.start(&created.id).await?;
        runtime.wait(&created.id, &crate::runtime::WaitOptions::default()).await?;
        let lines = cx.lines(&created.id, &crate::runtime::LogOptions::default()).await?;
        Ok::<_, Stop>(
            lines.iter().map(|line| String::from_utf8_lossy(&line.bytes).into_owned()).collect::<Vec<_>>(),
        )
    };
    let first = touch(false).await?;
    ensure!(first == ["none", "write=ok"], "a writable mount gave {first:?}");
    let second = touch(false).await?;
    ensure!(second == ["mark", "write=ok"], "what was written into a mount is not there later: {second:?}");
    if cx.has(Capability::ReadOnlyMounts).await? {
        let third = touch(true).await?;
        ensure!(third == ["mark", "write=refused"], "a read-only mount gave {third:?}");
    }
    Ok(())
}
