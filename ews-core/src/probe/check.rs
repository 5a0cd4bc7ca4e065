//! One try of one probe.
//!
//! Each try is bounded by the probe's timeout and by what it reads. A reason is a few words of our own: no byte that the
//! instance sent is ever repeated, since it may be a secret, and may be hostile.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt as _;
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::http;
use crate::endpoint::Endpoint;
use crate::error::{Error, ErrorKind};
use crate::id::PortName;
use crate::instance::{Health, Instance};
use crate::runtime::{ExecSpec, Runtime};
use crate::spec::network::Protocol;
use crate::spec::probe::{Check, Probe, Probes};

/// An instance that is probed.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Target {
    /// The instance as it was last seen; its endpoints are those that are tried.
    pub instance: Instance,
    /// Its probes.
    pub probes: Probes,
    /// How long ago it was started. Initial delays count from there. Default zero: just now.
    pub started_ago: Duration,
}

impl Target {
    /// An instance that was started just now.
    pub fn new(instance: Instance, probes: Probes) -> Self {
        Self { instance, probes, started_ago: Duration::ZERO }
    }

    /// Started so long ago, by the caller's own clock.
    #[must_use]
    pub fn with_started_ago(mut self, started_ago: Duration) -> Self {
        self.started_ago = started_ago;
        self
    }
}

/// What a try says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It is as it should be.
    Pass,
    /// It is not.
    Fail,
    /// It could not be found out.
    Unknown,
}

/// What came of a try.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Outcome {
    /// What it says.
    pub verdict: Verdict,
    /// How long it took.
    pub latency: Duration,
    /// Why, in a few words of our own: `status 503`, `connection refused`.
    pub reason: Cow<'static, str>,
}

impl Outcome {
    /// It is as it should be.
    pub fn pass(reason: impl Into<Cow<'static, str>>) -> Self {
        Self { verdict: Verdict::Pass, latency: Duration::ZERO, reason: reason.into() }
    }

    /// It is not as it should be.
    pub fn fail(reason: impl Into<Cow<'static, str>>) -> Self {
        Self { verdict: Verdict::Fail, latency: Duration::ZERO, reason: reason.into() }
    }

    /// It could not be found out.
    pub fn unknown(reason: impl Into<Cow<'static, str>>) -> Self {
        Self { verdict: Verdict::Unknown, latency: Duration::ZERO, reason: reason.into() }
    }
}

/// Makes tries. The prober uses [`StandardChecker`]; tests and simulations bring their own.
#[async_trait]
pub trait Checker: Send + Sync + 'static {
    /// Makes one try, within the probe's timeout. Dropping the future ends the try and what it started.
    async fn check(&self, target: &Target, probe: &Probe) -> Outcome;
}

/// HTTP and TCP from this process; commands and the engine's health through a runtime.
#[derive(Clone)]
pub struct StandardChecker {
    runtime: Option<Arc<dyn Runtime>>,
}

impl std::fmt::Debug for StandardChecker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StandardChecker").finish_non_exhaustive()
    }
}

const NO_RUNTIME: Outcome = Outcome {
    verdict: Verdict::Unknown,
    latency: Duration::ZERO,
    reason: Cow::Borrowed("there is no runtime to ask"),
};

impl StandardChecker {
    /// Tries the instances of this runtime.
    pub fn new(runtime: Arc<dyn Runtime>) -> Self {
        Self { runtime: Some(runtime) }
    }

    /// HTTP and TCP alone; of a command and of the engine's health nothing can be said.
    pub fn network() -> Self {
        Self { runtime: None }
    }

    async fn exec(&self, target: &Target, command: &[String], limit: Duration) -> Outcome {
        let Some(runtime) = &self.runtime else { return NO_RUNTIME };
        let spec = ExecSpec::new(command);
        let started = Instant::now();
        // The engine's slowness says nothing of the instance: only the command's own does.
        let session = match timeout(limit, runtime.exec(&target.instance.id, &spec)).await {
            Ok(Ok(session)) => session,
            Ok(Err(error)) => return refused(&error),
            Err(_) => return Outcome::unknown("the runtime did not start the command in time"),
        };
        let (mut output, control) = (session.output, session.control);
        // Read and forgotten, or a full pipe would keep the command from ending.
        let drain = async { while let Some(Ok(_)) = output.next().await {} };
        let ended = async {
            let (status, ()) = futures_util::future::join(control.wait(), drain).await;
            status
        };
        match timeout(limit.saturating_sub(started.elapsed()), ended).await {
            Ok(Ok(status)) if status.is_success() => Outcome::pass("exit code 0"),
            Ok(Ok(status)) => Outcome::fail(status.to_string()),
            Ok(Err(error)) => refused(&error),
            Err(_) => Outcome::fail(format!("the command did not end within {limit:?}")),
        }
    }

    async fn engine(&self, target: &Target, limit: Duration) -> Outcome {
        let Some(runtime) = &self.runtime else { return NO_RUNTIME };
        match timeout(limit, runtime.get(&target.instance.id)).await {
            Ok(Ok(now)) if now.incarnation != target.instance.incarnation => {
                Outcome::unknown("the instance was started again meanwhile")
            }
            Ok(Ok(now)) => match now.health {
                Health::Healthy => Outcome::pass("the engine says healthy"),
                Health::Unhealthy => Outcome::fail("the engine says unhealthy"),
                Health::Starting => Outcome::unknown("the engine has not made up its mind"),
                Health::None => Outcome::unknown("the engine has no health check for it"),
            },
            Ok(Err(error)) => refused(&error),
            Err(_) => Outcome::unknown("the runtime did not answer in time"),
        }
    }
}

/// What an error of the runtime says of the instance.
fn refused(error: &Error) -> Outcome {
    match error.kind() {
        ErrorKind::Busy => Outcome::fail("the instance does not run"),
        kind => Outcome::unknown(format!("the runtime said {kind}")),
    }
}

#[async_trait]
impl Checker for StandardChecker {
    async fn check(&self, target: &Target, probe: &Probe) -> Outcome {
        let started = Instant::now();
        let mut outcome = match &probe.check {
            Check::Http(check) => match choose(&target.instance, check.port.as_ref()) {
                Ok(endpoint) => bounded(probe.timeout, http::check(endpoint.address, check)).await,
                Err(outcome) => outcome,
            },
            Check::Tcp(check) => match choose(&target.instance, check.port.as_ref()) {
                Ok(endpoint) => bounded(probe.timeout, tcp(endpoint)).await,
                Err(outcome) => outcome,
            },
            Check::Exec(check) => self.exec(target, &check.command, probe.timeout).await,
            Check::Engine(_) => self.engine(target, probe.timeout).await,
        };
        outcome.latency = started.elapsed();
        outcome
    }
}

async fn bounded(limit: Duration, attempt: impl Future<Output = Outcome>) -> Outcome {
    match timeout(limit, attempt).await {
        Ok(outcome) => outcome,
        Err(_) => Outcome::fail(format!("no answer within {limit:?}")),
    }
}

async fn tcp(endpoint: &Endpoint) -> Outcome {
    match TcpStream::connect(endpoint.address).await {
        Ok(_) => Outcome::pass("connected"),
        Err(error) => Outcome::fail(io_reason(&error)),
    }
}

/// An IO error in words that hold nothing of the peer's.
pub(super) fn io_reason(error: &std::io::Error) -> Cow<'static, str> {
    Cow::Owned(error.kind().to_string())
}

/// The endpoint of a port. Of several addresses the one that is reached from farthest away counts, since that is where
/// traffic comes from.
///
/// # Errors
/// The outcome of the try: the instance does not offer that port, or offers several where none was named.
pub fn choose<'a>(instance: &'a Instance, port: Option<&PortName>) -> Result<&'a Endpoint, Outcome> {
    let mut offered = instance.endpoints.iter().filter(|endpoint| {
        endpoint.protocol == Protocol::Tcp && endpoint.key.incarnation == instance.incarnation
    });
    let name = match port {
        Some(name) => name,
        None => {
            let Some(first) = offered.clone().next() else {
                return Err(Outcome::fail("the instance offers no TCP port"));
            };
            if offered.any(|endpoint| endpoint.key.port != first.key.port) {
                return Err(Outcome::fail("the instance offers several ports and the probe names none"));
            }
            &first.key.port
        }
    };
    instance
        .endpoints
        .iter()
        .filter(|endpoint| {
            endpoint.protocol == Protocol::Tcp
                && endpoint.key.incarnation == instance.incarnation
                && endpoint.key.port == *name
        })
        .max_by_key(|endpoint| (endpoint.scope, std::cmp::Reverse(endpoint.address)))
        .ok_or_else(|| Outcome::fail(format!("the instance offers no port `{name}`")))
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
