//! The processes of the tour as the presenter holds them: the gateway and the controller.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use ews_core::{Error, ErrorKind, Result};
use ews_route::server::Addresses;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::{Instant, sleep, timeout};

use super::say::{Ask, Said};
use super::{PATIENCE, own_program};

/// The gateway process.
pub(super) struct GatewayProcess {
    child: Child,
    /// It ends when nobody holds this any more.
    input: Option<ChildStdin>,
    pub(super) address: SocketAddr,
}

impl GatewayProcess {
    pub(super) async fn start(root: &Path) -> Result<Self> {
        let started = command(root, "gateway")?.stdin(Stdio::piped()).spawn();
        let mut child = started.map_err(|error| not_started("the gateway", error))?;
        let input = child.stdin.take();
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(Addresses { http, admin: Some(_), .. }) = Addresses::read(&root.join("addresses"))?
                && let Some(address) = http.first()
            {
                return Ok(Self { child, input, address: *address });
            }
            if Instant::now() > until {
                return Err(Error::new(ErrorKind::Timeout, "the gateway did not say where it listens"));
            }
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// SIGKILL, and another one in its place, at the same address.
    pub(super) async fn replace(&mut self, root: &Path) -> Result<()> {
        let _ = self.child.kill().await;
        std::fs::rename(root.join("addresses"), root.join(super::gateway::BEFORE))
            .map_err(|error| Error::internal("the addresses can't be put aside").with_source(error))?;
        *self = Self::start(root).await?;
        Ok(())
    }

    pub(super) fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Ends it in order. True when it ended well.
    pub(super) async fn stop(mut self) -> bool {
        let Some(pid) = self.child.id() else { return false };
        let asked = Command::new("kill").arg(pid.to_string()).status().await;
        // Its own reading of it ends too.
        drop(self.input.take());
        let ended = timeout(PATIENCE, self.child.wait()).await;
        asked.is_ok_and(|status| status.success())
            && ended.is_ok_and(|end| end.is_ok_and(|status| status.success()))
    }
}

/// A controller process.
pub(super) struct ControllerProcess {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl ControllerProcess {
    pub(super) async fn start(root: &Path) -> Result<Self> {
        let mut command = command(root, "controller")?;
        let started = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = started.map_err(|error| not_started("the controller", error))?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(Error::internal("the controller has no pipes"));
        };
        let mut controller = Self { child, input, output: BufReader::new(output).lines() };
        match controller.next(PATIENCE).await? {
            Said::Ready => Ok(controller),
            Said::Failed(why) => Err(Error::internal("the controller could not start").with_detail(why)),
            _ => Err(Error::internal("the controller speaks before it is ready")),
        }
    }

    pub(super) async fn ask(&mut self, ask: &Ask) -> Result<()> {
        let mut line = serde_json::to_string(ask)
            .map_err(|error| Error::internal("a question can't be written").with_source(error))?;
        line.push('\n');
        self.input.write_all(line.as_bytes()).await.map_err(gone)
    }

    /// What it says next, within this time.
    pub(super) async fn next(&mut self, patience: Duration) -> Result<Said> {
        match timeout(patience, self.output.next_line()).await {
            Ok(Ok(Some(line))) => serde_json::from_str(&line).map_err(|error| {
                Error::internal("the controller can't be understood").with_detail(line).with_source(error)
            }),
            Ok(Ok(None)) => Err(Error::internal("the controller has ended")),
            Ok(Err(error)) => Err(gone(error)),
            Err(_) => {
                Err(Error::new(ErrorKind::Timeout, format!("the controller said nothing for {patience:?}")))
            }
        }
    }

    pub(super) fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// SIGKILL.
    pub(super) async fn kill(&mut self) {
        let _ = self.child.kill().await;
    }

    /// Ends it in order. True when it ended well.
    pub(super) async fn leave(mut self) -> Result<bool> {
        self.ask(&Ask::Leave).await?;
        let Self { mut child, input, .. } = self;
        // It reads until there is no more.
        drop(input);
        let ended = timeout(PATIENCE, child.wait()).await;
        Ok(ended.is_ok_and(|end| end.is_ok_and(|status| status.success())))
    }
}

fn command(root: &Path, role: &str) -> Result<Command> {
    let mut command = Command::new(own_program()?);
    // In a group of its own: Ctrl-C is the presenter's to deal with, and what it leaves behind ends with its pipe.
    command.arg(role).arg(root).kill_on_drop(true).process_group(0);
    Ok(command)
}

fn not_started(what: &str, error: std::io::Error) -> Error {
    Error::internal(format!("{what} can't be started")).with_source(error)
}

fn gone(error: std::io::Error) -> Error {
    Error::internal("the controller is gone").with_source(error)
}
