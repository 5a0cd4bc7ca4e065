//! Streams: what happens, and what a command writes.

use std::collections::VecDeque;
use std::pin::Pin;
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
use tokio::sync::oneshot;
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
    let room = api.room()?;
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
        return Ok(room.lines(past));
    }
    let coming = stream::unfold((kept, service), |(mut kept, service)| async move {
        let line = next(&mut kept, service.as_ref()).await?;
        Some((line, (kept, service)))
    });
    // At once, so that whoever acts next knows that it is heard.
    let here = stream::iter([EventLine::Still]);
    Ok(room.lines(past.chain(here).chain(coming)))
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
    let room = api.room()?;
    let mut session = api.runtime().exec(&found.id, &spec).await?;
    let feeding = session.stdin.take().map(|stdin| Feeding::start(stdin, first, body));
    let begin = stream::iter([ExecLine::Instance(found.id)]);
    Ok(room.lines(begin.chain(output(session, feeding))))
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
struct Feeding {
    task: AbortHandle,
    /// Says so where the input broke off; nothing once it is known that it did not.
    broke: Option<oneshot::Receiver<()>>,
}

impl Feeding {
    fn start(mut stdin: Pin<Box<dyn AsyncWrite + Send>>, first: Bytes, mut body: BodyDataStream) -> Self {
        let (breaks, broke) = oneshot::channel();
        let feed = async move {
            let mut piece = Some(first);
            while let Some(bytes) = piece {
                // A command that reads no more has closed its end.
                if stdin.write_all(&bytes).await.is_err() {
                    return;
                }
                piece = match body.next().await.transpose() {
                    Ok(piece) => piece,
                    Err(_) => {
                        // Its end is not told to the command, which would take a part for the whole: it is ended instead.
                        let _ = breaks.send(());
                        return std::future::pending().await;
                    }
                };
            }
            let _ = stdin.shutdown().await;
        };
        Self { task: tokio::spawn(feed).abort_handle(), broke: Some(broke) }
    }
}

impl Drop for Feeding {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A session that is read. It is dropped before what feeds it: an input that is let go of is an input that has ended.
struct Reading {
    session: ExecSession,
    feeding: Option<Feeding>,
    is_over: bool,
}

/// What a session writes, and how it ends. Dropping the stream ends the session; so does an input that breaks off.
fn output(
    session: ExecSession,
    feeding: Option<Feeding>,
) -> impl futures_util::Stream<Item = ExecLine> + Send {
    let reading = Reading { session, feeding, is_over: false };
    stream::unfold(reading, |mut reading| async move {
        if reading.is_over {
            return None;
        }
        let line = reading.next().await;
        reading.is_over = matches!(line, ExecLine::Ended(_) | ExecLine::Failed(_));
        Some((line, reading))
    })
}

impl Reading {
    async fn next(&mut self) -> ExecLine {
        let broke = async {
            let Some(feeding) = &mut self.feeding else { return std::future::pending().await };
            let Some(broke) = &mut feeding.broke else { return std::future::pending().await };
            if broke.await.is_err() {
                // All there was has been handed on.
                feeding.broke = None;
                std::future::pending().await
            }
        };
        let ExecSession { output, control, .. } = &mut self.session;
        let control = &*control;
        let piece = async {
            match output.next().await {
                Some(Ok(ExecOutput { stream, bytes })) => written(stream, &bytes),
                Some(Err(error)) => ExecLine::Failed(Problem::from(&error)),
                None => match control.wait().await {
                    Ok(status) => ExecLine::Ended(status),
                    Err(error) => ExecLine::Failed(Problem::from(&error)),
                },
            }
        };
        tokio::select! {
            biased;
            line = piece => line,
            () = broke => {
                if let Err(error) = control.terminate().await {
                    tracing::debug!(%error, "a command could not be ended at once");
                }
                let error = Error::new(
                    ErrorKind::Cancelled,
                    "the command's input broke off or is too large, so that the command was ended",
                );
                ExecLine::Failed(Problem::from(&error))
            }
        }
    }
}

fn written(stream: OutputStream, bytes: &[u8]) -> ExecLine {
    match (stream, std::str::from_utf8(bytes)) {
        (OutputStream::Stdout, Ok(text)) => ExecLine::Stdout(text.to_owned()),
        (OutputStream::Stderr, Ok(text)) => ExecLine::Stderr(text.to_owned()),
        (OutputStream::Stdout, Err(_)) => ExecLine::StdoutBytes(bytes.to_vec()),
        (OutputStream::Stderr, Err(_)) => ExecLine::StderrBytes(bytes.to_vec()),
    }
}
