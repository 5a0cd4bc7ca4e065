//! Docker's credential programs (`docker-credential-…`): asked over their standard input, with a deadline and a bound.
//!
//! The protocol is docker-credential-helpers': `get`, the server's address on standard input, and JSON on standard output; a refusal is
//! an exit status with a line of text *on standard output*. Programs hang (a keychain that waits for a click), so each has a
//! deadline, after which it is killed. One that leaves a child behind with its output open is not waited for.
//!
//! `tokio::process` would take over the process's child signals on some systems, which a library must not; a thread reads.

use std::ffi::OsString;
use std::io::{ErrorKind as Io, Read as _, Write as _};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use ews_core::{Error, ErrorKind, Result, SecretValue};
use serde::Deserialize;

use super::Credential;

/// The most that a program may say, in bytes.
const MAX_OUTPUT: u64 = 64 * 1024;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    #[serde(default)]
    username: String,
    #[serde(default)]
    secret: String,
}

/// Asks a program for a server's credentials; `None` where it has none.
pub(super) async fn ask(
    name: &str,
    server: &str,
    deadline: Duration,
    folder: Option<&Path>,
) -> Result<Option<Credential>> {
    let named = |error: Error| error.with_context("program", format_args!("docker-credential-{name}"));
    // The name becomes part of a program's path.
    if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
    {
        return Err(Error::invalid(
            "Docker's configuration names a credential program that can't be one; accepted: letters, digits, `-`, `_`, `.`",
        ));
    }
    let (status, output) = match tokio::time::timeout(deadline, run(name, server, folder)).await {
        Ok(ran) => ran.map_err(named)?,
        Err(_) => {
            return Err(named(Error::new(
                ErrorKind::Timeout,
                format!(
                    "the credential program did not answer within {deadline:?} and was ended; does it wait for somebody at a screen?"
                ),
            )));
        }
    };
    read(status, output.expose()).map_err(named)
}

/// Tells an answer from a refusal.
fn read(status: ExitStatus, output: &[u8]) -> Result<Option<Credential>> {
    if !status.success() {
        let text = String::from_utf8_lossy(output);
        // What docker-credential-helpers' own client takes for "none".
        if [
            "credentials not found in native keychain",
            "no credentials server URL",
            "no credentials username",
        ]
        .iter()
        .any(|none| text.contains(none))
        {
            return Ok(None);
        }
        // What it said is not repeated: nobody promises that it holds no secret.
        return Err(Error::new(
            ErrorKind::Unauthorized,
            format!("the credential program failed ({status}); run it by hand with `get` to see why"),
        ));
    }
    if output.trim_ascii().is_empty() {
        return Ok(None);
    }
    let answer: Answer = serde_json::from_slice(output).map_err(|_| {
        Error::new(ErrorKind::Decode, "the credential program's answer is not the JSON of its protocol")
    })?;
    Ok(match (answer.username.as_str(), answer.secret.as_str()) {
        (_, "") => None,
        ("<token>", token) => Some(Credential::IdentityToken(SecretValue::new(token)?)),
        (user, secret) => {
            Some(Credential::Password { user: user.to_owned(), password: SecretValue::new(secret)? })
        }
    })
}

async fn run(name: &str, server: &str, folder: Option<&Path>) -> Result<(ExitStatus, SecretValue)> {
    let program = format!("docker-credential-{name}");
    let path: OsString = folder.map_or_else(|| program.clone().into(), |folder| folder.join(&program).into());
    let server = server.to_owned();
    // Guarded from the first moment: whoever waits may be gone before the program has started.
    let start = move || -> std::io::Result<Running> {
        let mut child = Command::new(path)
            .arg("get")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        if let Some(mut input) = child.stdin.take() {
            // An address fits into any pipe. A program that does not read it has its own reasons, and its answer tells.
            let _ = input.write_all(server.as_bytes());
        }
        Ok(Running(Some(child)))
    };
    let mut running = match tokio::task::spawn_blocking(start).await {
        Ok(Ok(running)) => running,
        Ok(Err(error)) if error.kind() == Io::NotFound => {
            return Err(Error::new(
                ErrorKind::Unauthorized,
                format!(
                    "Docker's configuration names the credential program `{program}`, which is not there; install it, put it on this \
                     program's PATH, or take it out of the configuration"
                ),
            ));
        }
        Ok(Err(error)) => {
            return Err(Error::new(ErrorKind::Unauthorized, "the credential program can't be started")
                .with_source(error));
        }
        Err(error) => {
            return Err(Error::internal("the credential program's start was lost").with_source(error));
        }
    };
    let output = running.output().await?;
    let status = running.status().await?;
    Ok((status, output))
}

/// A program that is ended with the value.
struct Running(Option<Child>);

impl Running {
    async fn output(&mut self) -> Result<SecretValue> {
        let lost = || Error::internal("the credential program's output was lost");
        let pipe = self.0.as_mut().and_then(|child| child.stdout.take()).ok_or_else(lost)?;
        let (tell, told) = tokio::sync::oneshot::channel();
        let read = move || {
            let mut output = Vec::new();
            let result = pipe.take(MAX_OUTPUT + 1).read_to_end(&mut output);
            // Nobody listens after the deadline.
            let _ = tell.send(result.map(|_| output));
        };
        // A thread of its own: one for blocking work would hold up the end of the async runtime for as long as a
        // grandchild keeps the pipe.
        std::thread::Builder::new().name("ews-credential".to_owned()).spawn(read).map_err(|error| {
            Error::new(ErrorKind::OutOfResources, "no thread for the credential program").with_source(error)
        })?;
        let output = told.await.map_err(|_| lost())?;
        let output = output.map_err(|error| lost().with_source(error))?;
        if output.len() as u64 > MAX_OUTPUT {
            return Err(Error::new(
                ErrorKind::Decode,
                format!("the credential program said more than {MAX_OUTPUT} bytes"),
            ));
        }
        SecretValue::new(output)
    }

    /// Its exit, after its output has ended. Most are gone by then.
    async fn status(&mut self) -> Result<ExitStatus> {
        let lost = || Error::internal("the credential program's exit was lost");
        let mut pause = Duration::from_millis(1);
        loop {
            let child = self.0.as_mut().ok_or_else(lost)?;
            if let Some(status) = child.try_wait().map_err(|error| lost().with_source(error))? {
                self.0 = None;
                return Ok(status);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            // It must be waited for, or it stays as a zombie; a killed program ends by itself.
            let _ = std::thread::Builder::new().name("ews-credential".to_owned()).spawn(move || child.wait());
        }
    }
}
