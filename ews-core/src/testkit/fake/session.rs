//! Commands inside an instance of the fake engine.

use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::{StreamExt as _, stream};
use tokio::io::AsyncWrite;
use tokio::sync::{mpsc, watch};

use super::engine::FakeEngine;
use super::life::{Launch, cpu_limit, reachable};
use super::process::{End, Process, Session, Sink};
use super::program;
use crate::capability::Capability;
use crate::error::{Error, ErrorKind, Result};
use crate::id::InstanceId;
use crate::instance::ExitStatus;
use crate::runtime::{ExecControl, ExecOutput, ExecSession, ExecSpec, OutputStream, TtySize};
use crate::spec::lifecycle::Signal;

/// Pieces of output that wait for their reader; a program that writes more waits.
const WAITING: usize = 8;

/// Bytes of input that wait for the program.
const INPUT: usize = 64 * 1024;

impl FakeEngine {
    pub(super) fn exec(&self, id: &InstanceId, spec: &ExecSpec) -> Result<ExecSession> {
        if spec.command.is_empty() || spec.command.iter().any(|word| word.contains('\0')) {
            return Err(
                Error::invalid("the command to run is empty or holds NUL").with_context("field", "command")
            );
        }
        if spec.tty.is_some() {
            self.shared.config.capabilities.features.require(Capability::ExecTty)?;
        }
        let mut state = self.state();
        let record = reachable(&state, id)?;
        if record.main.is_none() {
            return Err(Error::new(ErrorKind::Busy, "the instance does not run").with_context("instance", id));
        }
        let (incarnation, limit) = (record.instance.incarnation, cpu_limit(&record.spec));
        let mut env = record.env.clone();
        // The mark of the instance's own processes is not that of what runs beside them.
        env.remove("EWS_MARK");
        env.extend(spec.env.clone());
        let workdir = spec.workdir.clone().or_else(|| record.spec.workdir.clone());
        let user = spec.user.clone().or_else(|| record.spec.user.clone());
        let (sender, receiver) = mpsc::channel(WAITING);
        let (mut stdin, input) = (None, spec.stdin.then(|| tokio::io::duplex(INPUT)));
        let input = input.map(|(ours, theirs)| {
            stdin = Some(Box::pin(ours) as Pin<Box<dyn AsyncWrite + Send>>);
            theirs
        });
        let size = spec.tty.map(watch::Sender::new);
        let session = Session(state.number());
        let missing = program::missing(&spec.command);
        let command =
            if missing.is_some() { vec!["fake".into(), "print".into()] } else { spec.command.clone() };
        let launch = Launch {
            instance: id.clone(),
            incarnation,
            session,
            command,
            env,
            workdir: workdir.unwrap_or_else(|| "/".to_owned()),
            user,
            cpu_limit: limit,
            stdin: input,
            tty: size.as_ref().map(watch::Sender::subscribe),
            sink: Sink::Session(sender.clone()),
        };
        let process = self.spawn(&mut state, launch);
        drop(state);
        if let Some((message, code)) = missing {
            // There is room: nothing was sent yet.
            let bytes = format!("{message}\n").into();
            let _ = sender.try_send(ExecOutput { stream: OutputStream::Stderr, bytes });
            process.force(End::Code(code));
        }
        let output = stream::unfold(receiver, |mut receiver| async move {
            receiver.recv().await.map(|piece| (Ok(piece), receiver))
        });
        let control = Control { engine: self.clone(), process, size };
        Ok(ExecSession { stdin, output: output.boxed(), control: Box::new(control) })
    }

    fn end_session(&self, session: Session) {
        let state = self.state();
        for process in state.processes.values().filter(|process| process.session == session) {
            process.force(End::Signal(Signal::KILL));
        }
    }
}

struct Control {
    engine: FakeEngine,
    process: Arc<Process>,
    size: Option<watch::Sender<TtySize>>,
}

#[async_trait]
impl ExecControl for Control {
    async fn resize(&self, size: TtySize) -> Result<()> {
        self.engine.shared.config.capabilities.features.require(Capability::ExecResize)?;
        match &self.size {
            Some(current) => {
                current.send_replace(size);
                Ok(())
            }
            None => Err(Error::new(ErrorKind::Unsupported, "the session has no terminal")),
        }
    }

    async fn terminate(&self) -> Result<()> {
        self.engine.shared.config.capabilities.features.require(Capability::ExecTerminate)?;
        self.engine.end_session(self.process.session);
        Ok(())
    }

    async fn wait(&self) -> Result<ExitStatus> {
        let end = self.process.wait().await;
        Ok(end.status(self.engine.now()))
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.engine.end_session(self.process.session);
    }
}
