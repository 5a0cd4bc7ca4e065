//! Streams: what happens, and what a command writes.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, BodyDataStream, Bytes};
use axum::extract::{Path, State};
use axum::http::Uri;
use ews_core::bus::{Cursor, Numbered, Subscription};
use ews_core::event::Notice;
use ews_core::http::Problem;
use ews_core::runtime::{ExecOutput, ExecSession, ExecSpec, OutputStream};
use ews_core::{Error, ErrorKind, InstanceState, Result, ServiceName};
use futures_util::{StreamExt as _, stream};
use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio::task::AbortHandle;
use tokio::time::timeout;

use super::wire::{EventLine, ExecBody, ExecLine, HostEvent};
use super::{Answered, Api, DOCUMENT, document, flag, parameters, service_name};

/// How often a stream that has nothing to say says so, so that one whose reader is gone ends.
const STILL: Duration = Duration::from_secs(15);
/// The most words of a command.
const WORDS: usize = 1_024;

pub(super) async fn events(State(api): State<Api>, uri: Uri) -> Answered {
    let parameters = parameters(&uri, &["service", "follow", "past"])?;
    let service = parameters.get("service").map(|name| service_name(name)).transpose()?;
    let follow = flag(&parameters, "follow")?;
    // A cursor of no bus leads to all that is kept, after a gap that only says so.
    let mut kept = api.parts.bus.resume(Cursor { bus: 0, sequence: 0 });
    let _ = kept.try_next();
    let mut past = VecDeque::new();
    while let Some(notice) = kept.try_next() {
        past.extend(line(notice, service.as_ref()));
    }
    if parameters.contains_key("past") && !flag(&parameters, "past")? {
        past.clear();
    }
    let past = stream::iter(past);
    if !follow {
        return Ok(api.lines(past)?);
    }
    let coming = stream::unfold((kept, service), |(mut kept, service)| async move {
        let line = next(&mut kept, service.as_ref()).await?;
        Some((line, (kept, service)))
    });
    // At once, so that whoever acts next knows that it is heard.
    let here = stream::iter([EventLine::Still]);
    Ok(api.lines(past.chain(here).chain(coming))?)
}

async fn next(events: &mut Subscription<HostEvent>, service: Option<&ServiceName>) -> Option<EventLine> {
    loop {
        match timeout(STILL, events.next()).await {
            Err(_) => return Some(EventLine::Still),
            Ok(notice) => {
                if let Some(line) = line(notice?, service) {
                    return Some(line);
                }
            }
        }
    }
}

fn line(notice: Notice<Numbered<HostEvent>>, service: Option<&ServiceName>) -> Option<EventLine> {
    match notice {
        Notice::Gap(_) => Some(EventLine::Gap),
        Notice::Event(event) => {
            let is_meant = service.is_none() || event.event.service.as_ref() == service;
            is_meant.then(|| EventLine::Event(Box::new(event.event)))
        }
    }
}

/// A document, and with `stdin=true` a line break and the command's standard input behind it, as long as it comes.
pub(super) async fn exec(State(api): State<Api>, Path(name): Path<String>, uri: Uri, body: Body) -> Answered {
    let service = service_name(&name)?;
    let has_stdin = flag(&parameters(&uri, &["stdin"])?, "stdin")?;
    let mut body = body.into_data_stream();
    let (head, first) = head(&mut body, has_stdin).await?;
    let ExecBody { command, env, instance } = document(&head)?;
    if command.first().is_none_or(String::is_empty) || command.len() > WORDS {
        return Err(Error::invalid(format!("no command; accepted: 1 to {WORDS} words")).into());
    }
    let status = Box::pin(api.deployer().status(&service)).await?;
    let mut running = status.instances.into_iter().filter(|found| found.state == InstanceState::Running);
    let found = match &instance {
        Some(wanted) => running.find(|found| found.id == *wanted),
        None => running.next(),
    };
    let Some(found) = found else {
        return Err(match instance {
            Some(wanted) => Error::not_found("running instance of the service", wanted),
            None => Error::new(ErrorKind::Busy, "no instance of the service runs"),
        }
        .into());
    };
    let mut spec = ExecSpec::new(command);
    spec.env = env;
    spec.stdin = has_stdin;
    let mut session = api.runtime().exec(&found.id, &spec).await?;
    let feeding = session.stdin.take().map(|stdin| Feeding::start(stdin, first, body));
    let begin = stream::iter([ExecLine::Instance(found.id)]);
    Ok(api.lines(begin.chain(output(session, feeding)))?)
}

/// The document at the head of a body, and what came with it.
async fn head(body: &mut BodyDataStream, to_line_break: bool) -> Result<(Vec<u8>, Bytes)> {
    let mut head = Vec::new();
    while let Some(piece) = body.next().await {
        let mut piece = piece.map_err(|_| Error::invalid("the request's body broke off, or is too large"))?;
        let end = piece.iter().position(|byte| *byte == b'\n').filter(|_| to_line_break);
        let rest = end.map(|end| piece.split_off(end));
        head.extend_from_slice(&piece);
        if head.len() > DOCUMENT {
            return Err(Error::new(
                ErrorKind::OutOfResources,
                format!("a document of more than {DOCUMENT} bytes"),
            ));
        }
        if let Some(rest) = rest {
            return Ok((head, rest.slice(1..)));
        }
    }
    Ok((head, Bytes::new()))
}

/// A task that hands on a command's standard input, for as long as this value lives.
struct Feeding(AbortHandle);

impl Feeding {
    fn start(mut stdin: Pin<Box<dyn AsyncWrite + Send>>, first: Bytes, mut body: BodyDataStream) -> Self {
        let feed = async move {
            let mut piece = Some(first);
            while let Some(bytes) = piece {
                // A command that reads no more has closed its end.
                if stdin.write_all(&bytes).await.is_err() {
                    return;
                }
                piece = body.next().await.and_then(std::result::Result::ok);
            }
            let _ = stdin.shutdown().await;
        };
        Self(tokio::spawn(feed).abort_handle())
    }
}

impl Drop for Feeding {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What a session writes, and how it ends. Dropping the stream ends the session.
fn output(
    session: ExecSession,
    feeding: Option<Feeding>,
) -> impl futures_util::Stream<Item = ExecLine> + Send {
    let ExecSession { output, control, .. } = session;
    let control = Arc::new(control);
    let held = Arc::clone(&control);
    let written = output.map(move |piece| {
        let _held = (&held, &feeding);
        match piece {
            Ok(ExecOutput { stream, bytes }) => written(stream, &bytes),
            Err(error) => ExecLine::Failed(Problem::from(&error)),
        }
    });
    let ended = stream::once(async move {
        let ended: Result<_> = control.wait().await;
        match ended {
            Ok(status) => ExecLine::Ended(status),
            Err(error) => ExecLine::Failed(Problem::from(&error)),
        }
    });
    written.chain(ended)
}

fn written(stream: OutputStream, bytes: &[u8]) -> ExecLine {
    match (stream, std::str::from_utf8(bytes)) {
        (OutputStream::Stdout, Ok(text)) => ExecLine::Stdout(text.to_owned()),
        (OutputStream::Stderr, Ok(text)) => ExecLine::Stderr(text.to_owned()),
        (OutputStream::Stdout, Err(_)) => ExecLine::StdoutBytes(bytes.to_vec()),
        (OutputStream::Stderr, Err(_)) => ExecLine::StderrBytes(bytes.to_vec()),
    }
}
