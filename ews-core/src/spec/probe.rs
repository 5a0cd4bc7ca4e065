//! How an instance's health is known.
//!
//! A *startup* probe holds the others back until it passes once; a *readiness* probe decides whether traffic may come; a
//! *liveness* probe decides whether supervision restarts. Times default to Kubernetes' where they are sensible for a
//! gate: period 10 s, success 1, failure 3; the timeout is 5 s instead of its much criticised 1 s.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use crate::id::PortName;

/// The probes of an instance; each may be absent.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
#[non_exhaustive]
pub struct Probes {
    /// Holds the others back until it passes once; failing for good means that the start failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub startup: Option<Probe>,
    /// Decides whether traffic may come.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub readiness: Option<Probe>,
    /// Decides whether supervision restarts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub liveness: Option<Probe>,
}

/// One probe.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Probe {
    /// What is tried.
    #[serde(flatten)]
    pub check: Check,
    /// From the end of one try to the start of the next. Default 10 s.
    #[serde(with = "crate::time::duration")]
    pub interval: Duration,
    /// After how long a try without an answer has failed. Default 5 s.
    #[serde(with = "crate::time::duration")]
    pub timeout: Duration,
    /// How long after the start the first try waits. Default 0 s.
    #[serde(with = "crate::time::duration")]
    pub initial_delay: Duration,
    /// How many passes in a row make it healthy. Default 1.
    pub success: u32,
    /// How many failures in a row make it unhealthy. Default 3.
    pub failure: u32,
}

impl Probe {
    /// This check with the default times.
    pub fn new(check: Check) -> Self {
        Self {
            check,
            interval: Duration::from_secs(10),
            timeout: Duration::from_secs(5),
            initial_delay: Duration::ZERO,
            success: 1,
            failure: 3,
        }
    }

    /// `GET` of this path on the only port, with the default times.
    pub fn http(path: impl Into<String>) -> Self {
        Self::new(Check::Http(HttpCheck::new(path)))
    }

    /// With so much time from the end of one try to the start of the next.
    #[must_use]
    pub fn with_interval(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }

    /// With so much time for each try.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// With the first try so long after the start.
    #[must_use]
    pub fn with_initial_delay(mut self, initial_delay: Duration) -> Self {
        self.initial_delay = initial_delay;
        self
    }

    /// With so many passes and failures in a row that count.
    #[must_use]
    pub fn with_thresholds(mut self, success: u32, failure: u32) -> Self {
        (self.success, self.failure) = (success, failure);
        self
    }
}

/// What a probe tries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Check {
    /// An HTTP request that must be answered with a wanted status.
    Http(HttpCheck),
    /// A TCP connection that must be accepted.
    Tcp(TcpCheck),
    /// A command inside the instance that must exit with 0.
    Exec(ExecCheck),
    /// The engine's own health check.
    Engine(EngineCheck),
}

/// An HTTP request. `Debug` does not show the values of headers, since one may authorize.
#[derive(Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct HttpCheck {
    /// Which port; may be left out where the service has only one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<PortName>,
    /// The path and query. Default `/`.
    pub path: String,
    /// The `Host` header. Default: the endpoint's address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Further headers.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// Which statuses pass. Default 200 to 299.
    pub status: StatusRange,
}

impl HttpCheck {
    /// `GET` of this path on the only port.
    pub fn new(path: impl Into<String>) -> Self {
        Self {
            port: None,
            path: path.into(),
            host: None,
            headers: BTreeMap::new(),
            status: StatusRange::default(),
        }
    }

    /// On this port.
    #[must_use]
    pub fn with_port(mut self, port: PortName) -> Self {
        self.port = Some(port);
        self
    }

    /// With this `Host` header.
    #[must_use]
    pub fn with_host(mut self, host: impl Into<String>) -> Self {
        self.host = Some(host.into());
        self
    }

    /// With this header.
    #[must_use]
    pub fn with_header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.insert(name.into(), value.into());
        self
    }

    /// With these statuses passing.
    #[must_use]
    pub fn with_status(mut self, status: StatusRange) -> Self {
        self.status = status;
        self
    }
}

impl std::fmt::Debug for HttpCheck {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HttpCheck")
            .field("port", &self.port)
            .field("path", &self.path)
            .field("host", &self.host)
            .field("headers", &self.headers.keys())
            .field("status", &self.status)
            .finish()
    }
}

/// HTTP statuses from the first to the last; written `200-299` or `204`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatusRange {
    first: u16,
    last: u16,
}

impl StatusRange {
    /// Whether this status passes.
    pub const fn contains(self, status: u16) -> bool {
        self.first <= status && status <= self.last
    }
}

impl Default for StatusRange {
    fn default() -> Self {
        Self { first: 200, last: 299 }
    }
}

impl std::fmt::Display for StatusRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

impl std::str::FromStr for StatusRange {
    type Err = crate::Error;
    fn from_str(text: &str) -> crate::Result<Self> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let number =
            |text: &str| text.parse::<u16>().ok().filter(|n| (100..=599).contains(n) && text.len() == 3);
        match (number(first), number(last)) {
            (Some(first), Some(last)) if first <= last => Ok(Self { first, last }),
            _ => Err(crate::Error::invalid(format!(
                "`{}` is not a range of HTTP statuses; accepted: `204` or `200-399`, from 100 to 599",
                crate::time::Shown(text)
            ))),
        }
    }
}

super::text_serde!(StatusRange);

/// A TCP connection.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[non_exhaustive]
pub struct TcpCheck {
    /// Which port; may be left out where the service has only one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<PortName>,
}

/// A command inside the instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ExecCheck {
    /// The program and its arguments, without a shell.
    pub command: Vec<String>,
}

impl ExecCheck {
    /// Runs this.
    pub fn new(command: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self { command: command.into_iter().map(Into::into).collect() }
    }
}

/// The engine's own health check.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[non_exhaustive]
pub struct EngineCheck {
    /// The program and its arguments. Empty: what the image says.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
}
