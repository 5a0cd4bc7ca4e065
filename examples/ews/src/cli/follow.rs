//! `ews logs`, `ews events` and `ews exec`: streams.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use clap::ArgMatches;
use ews_core::{ExitStatus, InstanceId};
use hyper::Method;

use super::failure::FAILED;
use super::{Call, Failure, service, text};
use crate::api::wire::{EventLine, ExecBody, ExecLine, LogStreamLine};
use crate::client::{encoded, whole, with_input, written};

/// What a command's end is called whose output nobody reads any more: that of SIGPIPE, as a shell says it. The host ends it.
const UNREAD: u8 = 128 + 13;

pub(super) async fn logs(call: &Call, matches: &ArgMatches) -> Result<u8, Failure> {
    let service = service(matches)?;
    let tail = matches.get_one::<u32>("tail").copied().unwrap_or_default();
    let mut path = format!("/v1/services/{service}/logs?tail={tail}&follow={}", matches.get_flag("follow"));
    if matches.contains_id("instance") {
        path.push_str(&format!("&instance={}", encoded(&text(matches, "instance"))));
    }
    let out = call.out;
    let each = |line: LogStreamLine| {
        let is_read = match &line {
            _ if out.json => out.document(&line),
            LogStreamLine::Line(line) => out.raw_line(&format!("{}.{} | {}", service, line.slot, line.text)),
            LogStreamLine::Failed { instance, why } => {
                out.progress(&format!("the log of {instance} can't be read: {why}"));
                true
            }
        };
        Ok(while_read(is_read))
    };
    call.client.lines(Method::GET, &path, None, each).await?;
    Ok(0)
}

pub(super) async fn events(call: &Call, matches: &ArgMatches) -> Result<u8, Failure> {
    let mut path = format!("/v1/events?follow={}", matches.get_flag("follow"));
    if matches.contains_id("service") {
        path.push_str(&format!("&service={}", service(matches)?));
    }
    let out = call.out;
    let each = |line: EventLine| {
        let is_read = match &line {
            EventLine::Still => true,
            _ if out.json => out.document(&line),
            EventLine::Event(event) => {
                let of = event.service.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string);
                out.line(&format!("{} {of}: {}", event.at, event.text))
            }
            EventLine::Gap => {
                out.progress("some events are missing here");
                true
            }
        };
        Ok(while_read(is_read))
    };
    call.client.lines(Method::GET, &path, None, each).await?;
    Ok(0)
}

pub(super) async fn exec(call: &Call, matches: &ArgMatches) -> Result<u8, Failure> {
    let service = service(matches)?;
    let mut env = BTreeMap::new();
    for pair in matches.get_many::<String>("env").into_iter().flatten() {
        let Some((name, value)) = pair.split_once('=').filter(|(name, _)| !name.is_empty()) else {
            // It is not repeated: it may be a secret.
            return Err(Failure::usage("`--env` without a name and `=`; accepted: `NAME=VALUE`".to_owned()));
        };
        env.insert(name.to_owned(), value.to_owned());
    }
    let instance = matches.get_one::<String>("instance").map(InstanceId::new).transpose()?;
    let command: Vec<String> = matches.get_many::<String>("command").into_iter().flatten().cloned().collect();
    let (mut path, document) =
        (format!("/v1/services/{service}/exec"), written(&ExecBody { command, env, instance })?);
    let body = if matches.get_flag("stdin") {
        path.push_str("?stdin=true");
        with_input(document)
    } else {
        whole(document)
    };
    let (out, mut ended) = (call.out, None);
    let each = |line: ExecLine| {
        let mut is_read = !out.json || out.document(&line);
        match line {
            ExecLine::Ended(status) => ended = Some(code(&status)),
            ExecLine::Failed(problem) => return Err(Failure::of(&problem.into_error())),
            _ if out.json => {}
            ExecLine::Stdout(text) => is_read = out.raw(text.as_bytes()),
            ExecLine::Stderr(text) => is_read = out.raw_error(text.as_bytes()),
            ExecLine::StdoutBytes(bytes) => is_read = out.raw(&bytes),
            ExecLine::StderrBytes(bytes) => is_read = out.raw_error(&bytes),
            ExecLine::Instance(_) => {}
        }
        if !is_read && ended.is_none() {
            ended = Some(UNREAD);
        }
        Ok(while_read(is_read))
    };
    call.client.lines(Method::POST, &path, Some(body), each).await?;
    ended.ok_or_else(|| Failure::unreachable("the host did not say how the command ended".to_owned()))
}

/// Goes on for as long as somebody reads.
fn while_read(is_read: bool) -> ControlFlow<()> {
    if is_read { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
}

/// As a shell says it.
fn code(status: &ExitStatus) -> u8 {
    match (status.code, status.signal) {
        (Some(code), _) => u8::try_from(code).unwrap_or(FAILED),
        (None, Some(signal)) => 128_u8.saturating_add(signal.number()),
        (None, None) => FAILED,
    }
}
