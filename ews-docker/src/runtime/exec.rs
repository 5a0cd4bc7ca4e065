//! Commands inside a container, over a connection of their own.
//!
//! With a terminal the connection carries the terminal's bytes, every one of them; without, frames. The end of a command is asked for, since
//! the stream's end says nothing of a code.
//!
//! One byte is late on a terminal: a lone 0x1e (Ctrl-^) comes with the byte after it.
//!
//! An engine can't end an exec. So each carries a mark in its environment that its children inherit, and ending one means ending what carries
//! the mark: from outside where the engine runs on this machine, else by a second exec with the container's own shell.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use ews_core::instance::{ExitStatus, InstanceState};
use ews_core::runtime::{ExecControl, ExecOutput, ExecSession, ExecSpec, OutputStream, TtySize};
use ews_core::{Capability, Error, ErrorKind, InstanceId, Result};
use futures_util::{StreamExt as _, stream};
use serde::Serialize;
use tokio::io::{AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::sync::watch;

use super::{Inner, observe};
use crate::client::frames::Frames;
use crate::client::models::{ExecAnswer, IdAnswer};
use crate::client::{Call, Hijacked, Subject, Until};
use crate::connect::EngineStream;

const OPERATION: &str = "runtime.exec";
/// The name of the mark.
const MARK: &str = "EWS_EXEC";
/// How much of the output is read at a time.
const PIECE: usize = 64 * 1024;
/// How often a command that ends is asked for: from, up to.
const POLL: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(500));
/// How often ending a session that was dropped is tried, each time for as long as a call may take.
const ENDINGS: usize = 3;
/// What an engine takes on a terminal as "let go of it", in place of its default, ^P ^Q, which would end a session that sends these two bytes.
/// It can't be switched off, and an engine holds back what begins like it until it sees how it goes on: so it begins with the byte that is
/// typed least, Ctrl-^ (0x1e), and is too long to be met by chance.
const DETACH_KEYS: &str = "ctrl-^,ctrl-],ctrl-^,ctrl-_,ctrl-@,ctrl-^,ctrl-],ctrl-@,ctrl-_,ctrl-^,ctrl-],ctrl-@,ctrl-^,ctrl-_,ctrl-^,ctrl-@";

/// The body of the call that makes an exec.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Request<'a> {
    attach_stdin: bool,
    attach_stdout: bool,
    attach_stderr: bool,
    tty: bool,
    detach_keys: &'static str,
    cmd: &'a [String],
    env: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    working_dir: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Start {
    detach: bool,
    tty: bool,
}

impl Inner {
    pub(super) async fn exec(self: Arc<Self>, id: &InstanceId, spec: &ExecSpec) -> Result<ExecSession> {
        check(spec)?;
        let (seen, _) = self.find(id, OPERATION).await?;
        if seen.instance.state != InstanceState::Running {
            return Err(Error::new(
                ErrorKind::Busy,
                format!("it does not run: it is {}", seen.instance.state.as_str()),
            )
            .with_operation(OPERATION)
            .with_context("instance", id));
        }
        let mark = mark();
        let mut env: Vec<String> = spec.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
        env.push(format!("{MARK}={mark}"));
        let request = Request {
            attach_stdin: spec.stdin,
            attach_stdout: true,
            attach_stderr: true,
            tty: spec.tty.is_some(),
            detach_keys: DETACH_KEYS,
            cmd: &spec.command,
            env,
            working_dir: spec.workdir.as_deref(),
            user: spec.user.as_deref(),
        };
        let exec = self
            .make_exec(&seen.container, &request)
            .await
            .map_err(|error| error.with_context("instance", id))?;
        let (ended, over) = watch::channel(false);
        // Before it begins: whoever drops this call while the engine is told to begin it ends it too.
        let control = Control {
            shared: Arc::new(Shared {
                inner: Arc::clone(&self),
                exec,
                container: seen.container,
                mark,
                end: Mutex::new(None),
            }),
            tty: spec.tty.is_some(),
            over,
        };
        let started = self.start_exec(&control.shared.exec, control.tty).await;
        let Hijacked { first, stream } = started?;
        let (read, write) = tokio::io::split(stream);
        if let Some(size) = spec.tty {
            // The engine answers once the command has started, which it may never do.
            let shared = Arc::clone(&control.shared);
            tokio::spawn(async move {
                if let Err(error) = shared.resize(size).await {
                    tracing::debug!(%error, "a terminal could not be given its first size");
                }
            });
        }
        let source = Source { first, read };
        let output = if spec.tty.is_some() { raw(source, ended) } else { framed(source, ended) };
        // Without input the writing half stays with the control: dropped alone it would change nothing, and it ends with the session.
        let stdin: Option<Pin<Box<dyn AsyncWrite + Send>>> =
            spec.stdin.then(|| Box::pin(Stdin { write: Some(write) }) as Pin<Box<dyn AsyncWrite + Send>>);
        Ok(ExecSession::new(stdin, output, Box::new(control)))
    }

    async fn make_exec(&self, container: &str, request: &Request<'_>) -> Result<String> {
        // Not through bollard, which would log the environment.
        let call =
            Call::post(OPERATION, Subject::Container, &["containers", container, "exec"]).json(request)?;
        Ok(self.engine.json::<IdAnswer>(call).await?.id)
    }

    async fn start_exec(&self, exec: &str, tty: bool) -> Result<Hijacked> {
        let call = Call::post(OPERATION, Subject::Exec, &["exec", exec, "start"])
            .json(&Start { detach: false, tty })?;
        self.engine.hijack(call.within(self.engine.config().work_limit)).await
    }

    async fn look_exec(&self, exec: &str) -> Result<ExecAnswer> {
        self.engine.json(Call::get(OPERATION, Subject::Exec, &["exec", exec, "json"])).await
    }
}

fn check(spec: &ExecSpec) -> Result<()> {
    let wrong = |what: &'static str| Err(Error::invalid(what).with_operation(OPERATION));
    if spec.command.first().is_none_or(String::is_empty) {
        return wrong("there is no command; accepted: a program and its arguments");
    }
    if spec.command.iter().any(|word| word.contains('\0')) {
        return wrong("the command holds the character NUL, at which programs end text");
    }
    for (name, value) in &spec.env {
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            return wrong("a variable's name is empty or holds `=`, or it holds the character NUL");
        }
    }
    Ok(())
}

/// A mark that nobody else has.
pub(super) fn mark() -> String {
    use std::hash::{BuildHasher as _, Hasher as _};
    let draw = || std::collections::hash_map::RandomState::new().build_hasher().finish();
    format!("{:016x}{:016x}", draw(), draw())
}

/// The reading half, with what came behind the answer's head.
struct Source {
    first: Bytes,
    read: ReadHalf<EngineStream>,
}

impl Source {
    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        if !self.first.is_empty() {
            return Ok(Some(std::mem::take(&mut self.first)));
        }
        let mut piece = BytesMut::with_capacity(PIECE);
        let count = self.read.read_buf(&mut piece).await?;
        Ok((count > 0).then(|| piece.freeze()))
    }
}

fn broke(error: io::Error) -> Error {
    Error::new(ErrorKind::Unavailable, "the session's connection to the engine broke")
        .with_operation(OPERATION)
        .with_source(error)
}

type Output = stream::BoxStream<'static, Result<ExecOutput>>;

fn raw(source: Source, ended: watch::Sender<bool>) -> Output {
    stream::unfold(Some((source, ended)), |state| async move {
        let (mut source, ended) = state?;
        match source.next().await {
            Ok(Some(bytes)) => {
                Some((Ok(ExecOutput { stream: OutputStream::Stdout, bytes }), Some((source, ended))))
            }
            Ok(None) => {
                ended.send_replace(true);
                None
            }
            Err(error) => Some((Err(broke(error)), None)),
        }
    })
    .boxed()
}

fn framed(source: Source, ended: watch::Sender<bool>) -> Output {
    stream::unfold(Some((source, Frames::default(), ended)), |state| async move {
        let (mut source, mut frames, ended) = state?;
        loop {
            match frames.next() {
                Ok(Some(piece)) => {
                    let output = ExecOutput { stream: piece.stream, bytes: piece.bytes };
                    return Some((Ok(output), Some((source, frames, ended))));
                }
                Ok(None) => {}
                Err(error) => return Some((Err(error.with_operation(OPERATION)), None)),
            }
            match source.next().await {
                Ok(Some(bytes)) => frames.push(&bytes),
                Ok(None) if frames.is_between_frames() => {
                    ended.send_replace(true);
                    return None;
                }
                Ok(None) => return Some((Err(broke(io::ErrorKind::UnexpectedEof.into())), None)),
                Err(error) => return Some((Err(broke(error)), None)),
            }
        }
    })
    .boxed()
}

/// Standard input. Shutting it down, or dropping it, tells the program its end and leaves the output open.
struct Stdin {
    write: Option<WriteHalf<EngineStream>>,
}

impl Stdin {
    fn half(&mut self) -> io::Result<Pin<&mut WriteHalf<EngineStream>>> {
        self.write.as_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::BrokenPipe.into())
    }
}

impl AsyncWrite for Stdin {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.half()?.poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.half()?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.half()?.poll_shutdown(cx)
    }
}

impl Drop for Stdin {
    fn drop(&mut self) {
        if let (Some(mut write), Ok(runtime)) = (self.write.take(), tokio::runtime::Handle::try_current()) {
            runtime.spawn(async move { write.shutdown().await });
        }
    }
}

struct Control {
    shared: Arc<Shared>,
    tty: bool,
    /// Whether the output has ended.
    over: watch::Receiver<bool>,
}

struct Shared {
    inner: Arc<Inner>,
    exec: String,
    container: String,
    mark: String,
    end: Mutex<Option<ExitStatus>>,
}

impl Shared {
    fn end(&self) -> Option<ExitStatus> {
        self.end.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How the command ended, where it has.
    async fn look(&self) -> Result<Option<ExitStatus>> {
        if let Some(end) = self.end() {
            return Ok(Some(end));
        }
        let seen = match self.inner.look_exec(&self.exec).await {
            Ok(seen) => seen,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                // Engines forget an exec some minutes after its end, and with its container.
                return Err(Error::new(ErrorKind::NotFound, "the session is gone, and how it ended with it")
                    .with_operation(OPERATION));
            }
            Err(error) => return Err(error),
        };
        // Before its start it does not run either, and has no code.
        let Some(code) = seen.exit_code.filter(|_| !seen.running) else { return Ok(None) };
        let status = ExitStatus::code(observe::code(code), self.inner.now());
        *self.end.lock().unwrap_or_else(PoisonError::into_inner) = Some(status.clone());
        Ok(Some(status))
    }

    async fn resize(&self, size: TtySize) -> Result<()> {
        let call = Call::post(OPERATION, Subject::Exec, &["exec", &self.exec, "resize"])
            .query("h", &size.rows.to_string())
            .query("w", &size.columns.to_string());
        match self.inner.engine.unit(call).await {
            Ok(()) => Ok(()),
            Err(_) if self.look().await?.is_some() => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn terminate(&self) -> Result<()> {
        let call = self.inner.engine.config().call_limit;
        let limit = Until::after(call);
        let mut pause = POLL.0;
        loop {
            let running = self.look().await?.is_none();
            if running && limit.left() > call / 2 && self.is_unborn().await {
                // Nothing to be killed yet, and looking inside would only give a busy engine more to begin.
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(POLL.1);
                continue;
            }
            let killed = match self.kill_from_outside().await {
                Some(killed) => killed,
                None if running => self.kill_from_inside().await?,
                None => 0,
            };
            if !running && killed == 0 {
                return Ok(());
            }
            if limit.left().is_zero() {
                return Err(Error::new(
                    ErrorKind::Timeout,
                    "the session was killed and is still said to run",
                )
                .with_operation(OPERATION)
                .with_maybe_applied());
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(POLL.1);
        }
    }

    /// Whether the engine is still about to begin it: it runs by then, without a process.
    async fn is_unborn(&self) -> bool {
        self.inner.look_exec(&self.exec).await.is_ok_and(|seen| seen.running && seen.pid == 0)
    }

    /// Ends what nobody holds any more. What has ended by itself before keeps what it left running.
    async fn abandon(&self, had_ended: bool) {
        // The call that begins it may have reached the engine, and a busy engine takes its time. What has not begun by then never will.
        let limit = Until::after(self.inner.engine.config().work_limit);
        let mut pause = POLL.0;
        loop {
            match self.inner.look_exec(&self.exec).await {
                Ok(seen) if seen.running => break,
                Ok(seen) if seen.exit_code.is_some() && had_ended => return,
                // A terminal that goes ends its shell, and not what that has put aside.
                Ok(seen) if seen.exit_code.is_some() => break,
                Ok(_) if !limit.left().is_zero() => tokio::time::sleep(pause).await,
                Ok(_) | Err(_) => return,
            }
            pause = (pause * 2).min(POLL.1);
        }
        for _ in 0..ENDINGS {
            match self.terminate().await {
                Ok(()) => return,
                Err(error) => tracing::warn!(%error, "a session that was dropped could not be ended"),
            }
        }
    }

    /// Kills what carries the mark, as seen from this machine. `None` where the engine's processes can't be seen from here.
    async fn kill_from_outside(&self) -> Option<usize> {
        if !self.inner.engine.config().address.is_local() || !cfg!(target_os = "linux") {
            return None;
        }
        let seen = self.inner.look_exec(&self.exec).await.ok()?;
        let wanted = format!("{MARK}={}", self.mark);
        let pid = u32::try_from(seen.pid).ok();
        tokio::task::spawn_blocking(move || kill_marked(&wanted, pid)).await.ok().flatten()
    }

    /// The same by a second exec, with the container's own shell. Says one where it can't know.
    async fn kill_from_inside(&self) -> Result<usize> {
        let script = format!(
            "for p in /proc/[0-9]*; do if tr '\\0' '\\n' <\"$p/environ\" 2>/dev/null | grep -qx '{MARK}={}'; then kill -9 \"${{p##*/}}\"; fi; done",
            self.mark
        );
        let command = ["sh".to_owned(), "-c".to_owned(), script];
        let request = Request {
            attach_stdin: false,
            attach_stdout: true,
            attach_stderr: true,
            tty: false,
            detach_keys: "",
            cmd: &command,
            env: Vec::new(),
            working_dir: Some("/"),
            user: Some("0"),
        };
        let exec = self.inner.make_exec(&self.container, &request).await?;
        let Hijacked { first, stream } = self.inner.start_exec(&exec, false).await?;
        let (read, _write) = tokio::io::split(stream);
        let mut source = Source { first, read };
        let drain = async { while let Ok(Some(_)) = source.next().await {} };
        let _ = tokio::time::timeout(self.inner.engine.config().call_limit, drain).await;
        match self.inner.look_exec(&exec).await?.exit_code {
            Some(126 | 127) => Err(Error::new(
                ErrorKind::Unsupported,
                "a session of an engine on another machine is ended by the container's shell, and this one has none",
            )
            .with_operation(OPERATION)),
            _ => Ok(1),
        }
    }
}

#[cfg(target_os = "linux")]
fn kill_marked(wanted: &str, pid: Option<u32>) -> Option<usize> {
    let carries = |pid: &str| {
        let environment = std::fs::read(format!("/proc/{pid}/environ"));
        environment.is_ok_and(|environment| {
            environment.split(|byte| *byte == 0).any(|variable| variable == wanted.as_bytes())
        })
    };
    // The command itself must be seen with its mark, else these are other processes than the engine's, or not ours to see.
    let visible = pid.is_some_and(|pid| pid != 0 && carries(&pid.to_string()));
    let processes = std::fs::read_dir("/proc").ok()?;
    let mut killed = 0;
    for name in processes.flatten().filter_map(|entry| entry.file_name().into_string().ok()) {
        if name.bytes().all(|byte| byte.is_ascii_digit()) && carries(&name) {
            let Some(pid) = name.parse().ok().and_then(rustix::process::Pid::from_raw) else { continue };
            if rustix::process::kill_process(pid, rustix::process::Signal::KILL).is_ok() {
                killed += 1;
            }
        }
    }
    (visible || killed > 0).then_some(killed)
}

#[cfg(not(target_os = "linux"))]
fn kill_marked(_: &str, _: Option<u32>) -> Option<usize> {
    None
}

#[async_trait]
impl ExecControl for Control {
    async fn resize(&self, size: TtySize) -> Result<()> {
        if !self.tty {
            return Err(Error::unsupported(Capability::ExecResize).with_operation(OPERATION));
        }
        self.shared.resize(size).await
    }

    async fn terminate(&self) -> Result<()> {
        if self.shared.inner.engine.facts().is_windows() {
            return Err(Error::unsupported(Capability::ExecTerminate).with_operation(OPERATION));
        }
        let shared = Arc::clone(&self.shared);
        ews_core::detach(async move { shared.terminate().await }).await
    }

    async fn wait(&self) -> Result<ExitStatus> {
        let mut over = self.over.clone();
        let mut pause = POLL.0;
        loop {
            if let Some(status) = self.shared.look().await? {
                return Ok(status);
            }
            // The output's end comes just before the command's.
            let ended = async {
                if over.wait_for(|over| *over).await.is_err() || pause > POLL.0 * 4 {
                    std::future::pending::<()>().await;
                }
            };
            let _ = tokio::time::timeout(pause, ended).await;
            pause = (pause * 2).min(POLL.1);
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        if self.shared.end().is_some() || self.shared.inner.engine.facts().is_windows() {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let shared = Arc::clone(&self.shared);
        let had_ended = *self.over.borrow();
        runtime.spawn(async move { shared.abandon(had_ended).await });
    }
}
