//! The program: its configuration tested and swapped, its start, its reloads, and what its workers serve.
//!
//! nginx runs as a daemon, so that traffic outlives the controller. A reload is a signal: it returns before anything has
//! happened, and nginx refuses a bad configuration in its log only. So the truth is asked for: each configuration answers its
//! generation at a socket of its own, and it is served in full when the workers that accept connections are as many as there
//! should be, none of them old: those that finish what they have say so in their title.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use ews_core::{Error, ErrorKind, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::process::Command;
use tokio::time::{Instant, sleep, timeout};

use super::NginxConfig;

/// How long one question or one command may take.
const CALL: Duration = Duration::from_secs(5);
/// How long a new configuration may take until it is served.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often nginx is asked meanwhile.
const POLL: Duration = Duration::from_millis(20);
/// How much of nginx's words is kept with an error.
const MOST_WORDS: u64 = 2_000;

/// The files of a driver's directory that both nginx and the driver know.
pub(super) struct Files<'a>(pub(super) &'a Path);

impl Files<'_> {
    pub(super) fn pid(&self) -> PathBuf {
        self.0.join("nginx.pid")
    }

    pub(super) fn status(&self) -> PathBuf {
        self.0.join("status.sock")
    }

    pub(super) fn log(&self) -> PathBuf {
        self.0.join("error.log")
    }
}

pub(super) struct Nginx {
    program: PathBuf,
    root: PathBuf,
    workers: usize,
}

fn failed(what: &str, detail: impl Into<String>) -> Error {
    Error::new(ErrorKind::Unavailable, format!("nginx {what}")).with_detail(detail)
}

impl Nginx {
    pub(super) fn new(config: &NginxConfig) -> Self {
        let workers = usize::try_from(config.workers).unwrap_or(usize::MAX);
        Self { program: config.program.clone(), root: config.root.clone(), workers }
    }

    /// Brings nginx to this configuration, and returns once every worker that accepts connections serves it.
    pub(super) async fn serve(&self, text: &str, generation: u64) -> Result<()> {
        let (live, next) = (self.root.join("nginx.conf"), self.root.join("next.conf"));
        let is_up = self.is_up().await?;
        if !is_up {
            // What a crash left would keep nginx from listening there.
            let _ = std::fs::remove_file(Files(&self.root).status());
        }
        std::fs::write(&next, text).map_err(|error| failed("got no configuration", error.to_string()))?;
        self.run(&next, &["-t", "-q"], "refuses its configuration").await?;
        std::fs::rename(&next, &live).map_err(|error| failed("got no configuration", error.to_string()))?;
        // A process id alone may be somebody else's by now: only one that answers is signalled.
        let (arguments, what): (&[&str], _) =
            if is_up { (&["-s", "reload"], "does not reload") } else { (&[], "does not start") };
        self.run(&live, arguments, what).await?;

        let ends = Instant::now() + PATIENCE;
        while self.generation().await != Some(generation) || self.accepting() != Some(self.workers) {
            if Instant::now() > ends {
                return Err(failed("does not serve its new configuration", self.last_words()));
            }
            sleep(POLL).await;
        }
        Ok(())
    }

    /// Whether nginx listens. One that listens and does not answer is neither up nor down, and nothing is done about it.
    async fn is_up(&self) -> Result<bool> {
        use std::io::ErrorKind::{ConnectionRefused, NotFound};
        match timeout(CALL, UnixStream::connect(Files(&self.root).status())).await {
            Ok(Err(error)) if matches!(error.kind(), ConnectionRefused | NotFound) => Ok(false),
            Ok(Ok(_)) if self.generation().await.is_some() => Ok(true),
            _ => Err(failed("does not answer", self.last_words())),
        }
    }

    /// The generation that a worker answers; `None` where none does.
    pub(super) async fn generation(&self) -> Option<u64> {
        let asked = async {
            let mut stream = UnixStream::connect(Files(&self.root).status()).await.ok()?;
            stream.write_all(b"GET /generation HTTP/1.0\r\n\r\n").await.ok()?;
            let mut text = String::new();
            stream.take(4_096).read_to_string(&mut text).await.ok()?;
            text.split_once("\r\n\r\n")?.1.trim().parse().ok()
        };
        timeout(CALL, asked).await.ok()?
    }

    /// How many workers accept connections.
    fn accepting(&self) -> Option<usize> {
        let master = std::fs::read_to_string(Files(&self.root).pid()).ok()?;
        let master = master.trim();
        let children = std::fs::read_to_string(format!("/proc/{master}/task/{master}/children")).ok()?;
        let accepts = |child: &&str| {
            let title = std::fs::read_to_string(format!("/proc/{child}/cmdline")).unwrap_or_default();
            title.starts_with("nginx: worker process") && !title.contains("is shutting down")
        };
        Some(children.split_whitespace().filter(accepts).count())
    }

    /// Ends nginx at once, if it runs.
    pub(super) async fn stop(&self) -> Result<()> {
        if !self.is_up().await? {
            return Ok(());
        }
        self.run(&self.root.join("nginx.conf"), &["-s", "stop"], "does not stop").await?;
        let ends = Instant::now() + PATIENCE;
        while Files(&self.root).pid().exists() {
            if Instant::now() > ends {
                return Err(failed("does not stop", self.last_words()));
            }
            sleep(POLL).await;
        }
        Ok(())
    }

    async fn run(&self, config: &Path, arguments: &[&str], what: &str) -> Result<()> {
        let mut command = Command::new(&self.program);
        command.arg("-p").arg(&self.root).arg("-c").arg(config).args(arguments);
        command.arg("-e").arg(Files(&self.root).log());
        // A daemon keeps what it inherits: its words are read from its log.
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        match timeout(CALL, command.status()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(_)) => Err(failed(what, self.last_words())),
            Ok(Err(error)) => Err(failed(what, format!("{}: {error}", self.program.display()))),
            Err(_) => Err(failed(what, format!("no end within {CALL:?}"))),
        }
    }

    /// The end of the log.
    fn last_words(&self) -> String {
        end_of(&Files(&self.root).log(), MOST_WORDS).unwrap_or_default()
    }
}

/// The last bytes of a file, however long it has become.
fn end_of(path: &Path, most: u64) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(most)))?;
    let mut end = Vec::new();
    file.take(most).read_to_end(&mut end)?;
    Ok(String::from_utf8_lossy(&end).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_log_that_has_grown_only_the_end_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("error.log");
        let file = File::create(&path).unwrap();
        // A hole: as long as no memory is, and nothing on disk.
        file.set_len(1 << 40).unwrap();
        (&file).seek(SeekFrom::End(0)).unwrap();
        std::io::Write::write_all(&mut &file, "the last words ä\n".as_bytes()).unwrap();
        assert_eq!(end_of(&path, 18).unwrap(), "the last words ä\n");
        assert_eq!(end_of(&path, 2).unwrap(), "\u{fffd}\n");
        assert!(end_of(&folder.path().join("none"), 2).is_err());
    }
}
