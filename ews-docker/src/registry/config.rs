//! What a registry client is told: how registries are reached, how long they may take, and what they may send.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ews_core::backoff::BackoffConfig;
use ews_core::time::duration;
use ews_core::{Capability, CapabilitySet, Error, Result};
use serde::{Deserialize, Serialize};

use super::origin::Origin;

/// How an [`OciRegistry`](super::OciRegistry) reaches registries. It holds no credentials and may be stored.
///
/// Fixed bounds: a manifest has at most 4 MiB (the contract's), a page of tags 4 MiB, a repository 100,000 tags, a token 64 KiB,
/// an error's body 64 KiB of which 512 characters are kept; a read follows at most five redirects.
///
/// ```
/// use std::time::Duration;
/// use ews_docker::registry::OciRegistryConfig;
///
/// let config = OciRegistryConfig::default()
///     .with_plain_http("127.0.0.1:5000")
///     .with_endpoint("docker.io", "mirror.example:5000")
///     .with_answer_timeout(Duration::from_secs(10));
/// config.check()?;
/// # Ok::<(), ews_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct OciRegistryConfig {
    /// The hosts that are spoken to without TLS, as `host:port` (`host` alone means port 80): registries, and also token services
    /// and stores that they redirect to. Default none, loopback included: plain HTTP is never assumed.
    pub plain_http: BTreeSet<String>,
    /// Which host is asked for a registry, as registry → `host[:port]`: a mirror or a proxy. Credentials are looked up under the host that is
    /// asked, since a mirror must not get the password of what it mirrors. Default: `docker.io` is asked at `registry-1.docker.io`, under
    /// its own name.
    pub endpoints: BTreeMap<String, String>,
    /// Certificate authorities that are trusted beside the system's, each a text of PEM blocks. Default none.
    pub certificates: Vec<String>,
    /// Whether `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY` of the environment count. Default: yes, as for Docker.
    pub environment_proxy: bool,
    /// What may be asked of these registries; less than all for those that delete nothing, or for a client that must not write.
    /// Default: push, mount and delete. A registry that refuses gives `Unsupported` whatever stands here.
    pub capabilities: CapabilitySet,
    /// How long connecting may take, TLS included. Above zero. Default 10 s.
    #[serde(with = "duration")]
    pub connect_timeout: Duration,
    /// How long an answer may be awaited once the request is sent. Above zero. Default 30 s: what a registry needs at most to check
    /// a large upload.
    #[serde(with = "duration")]
    pub answer_timeout: Duration,
    /// How long a body may stand still, ours or theirs: between two pieces of a blob, or of a stream that is pushed. Above zero.
    /// Default 60 s.
    #[serde(with = "duration")]
    pub idle_timeout: Duration,
    /// How long one call may take with all its attempts and pauses. Of a blob's stream only its beginning counts; each chunk of an
    /// upload is a call of its own and has a second more for each of its 64 KiB. At least `answer_timeout`. Default 2 minutes.
    #[serde(with = "duration")]
    pub total_timeout: Duration,
    /// How often a request is made at most, of those that may be repeated; a stream that was cut may be taken up again as often without a
    /// byte in between. 1 to 20. Default 5.
    pub attempts: u32,
    /// The pauses between attempts, where the registry asks for none itself. Default 200 ms to 10 s, full jitter.
    pub backoff: BackoffConfig,
    /// The longest pause that a registry may ask for by `Retry-After`; beyond it the call fails at once and says how long was asked
    /// for. Default 60 s.
    #[serde(with = "duration")]
    pub max_pause: Duration,
    /// How much of an upload is kept in memory, so that it can be sent again, in bytes: 64 KiB to 64 MiB. Default 8 MiB: above
    /// the 5 MiB that S3 asks of every part.
    pub chunk: u64,
    /// The largest blob that is read, in bytes. Default 64 GiB.
    pub max_blob: u64,
}

impl OciRegistryConfig {
    /// The registry that has another name than its host.
    const DOCKER: (&'static str, &'static str) = ("docker.io", "registry-1.docker.io");
    /// The longest of any time here: a day.
    const MAX_TIME: Duration = Duration::from_secs(24 * 3600);
    /// The bounds of [`chunk`](Self::chunk).
    const CHUNK: std::ops::RangeInclusive<u64> = (64 << 10)..=MAX_CHUNK;

    /// Adds to [`plain_http`](Self::plain_http).
    #[must_use]
    pub fn with_plain_http(mut self, host: impl Into<String>) -> Self {
        self.plain_http.insert(host.into());
        self
    }

    /// Adds to [`endpoints`](Self::endpoints).
    #[must_use]
    pub fn with_endpoint(mut self, registry: impl Into<String>, host: impl Into<String>) -> Self {
        self.endpoints.insert(registry.into(), host.into());
        self
    }

    /// Adds to [`certificates`](Self::certificates).
    #[must_use]
    pub fn with_certificates(mut self, pem: impl Into<String>) -> Self {
        self.certificates.push(pem.into());
        self
    }

    /// Sets [`environment_proxy`](Self::environment_proxy) to no.
    #[must_use]
    pub fn without_proxy(mut self) -> Self {
        self.environment_proxy = false;
        self
    }

    /// Sets [`capabilities`](Self::capabilities).
    #[must_use]
    pub fn with_capabilities(mut self, capabilities: CapabilitySet) -> Self {
        self.capabilities = capabilities;
        self
    }

    /// Sets [`connect_timeout`](Self::connect_timeout).
    #[must_use]
    pub fn with_connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Sets [`answer_timeout`](Self::answer_timeout).
    #[must_use]
    pub fn with_answer_timeout(mut self, timeout: Duration) -> Self {
        self.answer_timeout = timeout;
        self
    }

    /// Sets [`idle_timeout`](Self::idle_timeout).
    #[must_use]
    pub fn with_idle_timeout(mut self, timeout: Duration) -> Self {
        self.idle_timeout = timeout;
        self
    }

    /// Sets [`total_timeout`](Self::total_timeout).
    #[must_use]
    pub fn with_total_timeout(mut self, timeout: Duration) -> Self {
        self.total_timeout = timeout;
        self
    }

    /// Sets [`attempts`](Self::attempts).
    #[must_use]
    pub fn with_attempts(mut self, attempts: u32) -> Self {
        self.attempts = attempts;
        self
    }

    /// Sets [`backoff`](Self::backoff).
    #[must_use]
    pub fn with_backoff(mut self, backoff: BackoffConfig) -> Self {
        self.backoff = backoff;
        self
    }

    /// Sets [`max_pause`](Self::max_pause).
    #[must_use]
    pub fn with_max_pause(mut self, pause: Duration) -> Self {
        self.max_pause = pause;
        self
    }

    /// Sets [`chunk`](Self::chunk).
    #[must_use]
    pub fn with_chunk(mut self, bytes: u64) -> Self {
        self.chunk = bytes;
        self
    }

    /// Sets [`max_blob`](Self::max_blob).
    #[must_use]
    pub fn with_max_blob(mut self, bytes: u64) -> Self {
        self.max_blob = bytes;
        self
    }

    /// Refuses what can't be meant.
    ///
    /// # Errors
    /// `Invalid`, naming the field, what it holds and what is accepted. Certificates are read by
    /// [`OciRegistry::new`](super::OciRegistry::new).
    pub fn check(&self) -> Result<()> {
        for host in self.plain_http.iter().chain(self.endpoints.values()) {
            Origin::parse(host, true)?;
        }
        for (field, time) in [
            ("connect_timeout", self.connect_timeout),
            ("answer_timeout", self.answer_timeout),
            ("idle_timeout", self.idle_timeout),
            ("total_timeout", self.total_timeout),
        ] {
            if time.is_zero() || time > Self::MAX_TIME {
                return Err(Error::invalid(format!(
                    "`{field}` is {time:?}; accepted: above zero, at most {:?}",
                    Self::MAX_TIME
                )));
            }
        }
        if self.max_pause > Self::MAX_TIME {
            return Err(Error::invalid(format!(
                "`max_pause` is {:?}; accepted: at most {:?}",
                self.max_pause,
                Self::MAX_TIME
            )));
        }
        if self.total_timeout < self.answer_timeout {
            return Err(Error::invalid(format!(
                "`total_timeout` is {:?}; accepted: at least `answer_timeout`, {:?}",
                self.total_timeout, self.answer_timeout
            )));
        }
        if !(1..=20).contains(&self.attempts) {
            return Err(Error::invalid(format!("`attempts` is {}; accepted: 1 to 20", self.attempts)));
        }
        if !Self::CHUNK.contains(&self.chunk) {
            return Err(Error::invalid(format!(
                "`chunk` is {}; accepted: {} to {} bytes",
                self.chunk,
                Self::CHUNK.start(),
                Self::CHUNK.end()
            )));
        }
        self.backoff.check()
    }

    /// Where a registry is asked, and under which name its credentials are looked up.
    pub(super) fn endpoint(&self, registry: &str) -> Result<(Origin, String)> {
        let (host, name) = match self.endpoints.get(registry) {
            Some(host) => (host.as_str(), host.as_str()),
            None if registry == Self::DOCKER.0 => (Self::DOCKER.1, registry),
            None => (registry, registry),
        };
        Ok((Origin::parse(host, self.is_plain(host))?, name.to_owned()))
    }

    fn is_plain(&self, host: &str) -> bool {
        Origin::parse(host, true).is_ok_and(|origin| self.allows(&origin))
    }

    /// Whether an origin may be spoken to: over TLS any, without it those that were asked for.
    pub(super) fn allows(&self, origin: &Origin) -> bool {
        origin.is_tls()
            || self
                .plain_http
                .iter()
                .any(|host| Origin::parse(host, true).is_ok_and(|plain| plain == *origin))
    }
}

/// The most that is ever kept of an upload, whatever the registry asks for.
pub(super) const MAX_CHUNK: u64 = 64 << 20;

impl Default for OciRegistryConfig {
    fn default() -> Self {
        Self {
            plain_http: BTreeSet::new(),
            endpoints: BTreeMap::new(),
            certificates: Vec::new(),
            environment_proxy: true,
            capabilities: CapabilitySet::none()
                .with(Capability::RegistryPush)
                .with(Capability::RegistryMount)
                .with(Capability::RegistryDelete),
            connect_timeout: Duration::from_secs(10),
            answer_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(60),
            total_timeout: Duration::from_secs(120),
            attempts: 5,
            backoff: BackoffConfig::new(Duration::from_millis(200), Duration::from_secs(10))
                .unwrap_or_default(),
            max_pause: Duration::from_secs(60),
            chunk: 8 << 20,
            max_blob: 64 << 30,
        }
    }
}

#[cfg(test)]
mod tests {
    use ews_core::ErrorKind;

    use super::*;

    #[test]
    fn plain_http_is_never_assumed() {
        let config =
            OciRegistryConfig::default().with_plain_http("127.0.0.1:5000").with_plain_http("plain.example");
        for (registry, plain) in [
            ("127.0.0.1:5000", true),
            ("127.0.0.1:5001", false),
            ("localhost:5000", false),
            ("127.0.0.1", false),
            ("plain.example", true),
            ("plain.example:80", true),
            ("plain.example:443", false),
        ] {
            let (origin, _) = config.endpoint(registry).unwrap();
            assert_eq!(!origin.is_tls(), plain, "{registry}: {origin}");
        }
    }

    #[test]
    fn a_mirror_is_not_given_the_credentials_of_what_it_mirrors() {
        let config = OciRegistryConfig::default();
        let (origin, name) = config.endpoint("docker.io").unwrap();
        assert_eq!(
            (origin.to_string().as_str(), name.as_str()),
            ("https://registry-1.docker.io", "docker.io")
        );
        let (origin, name) =
            config.with_endpoint("docker.io", "mirror.example:5000").endpoint("docker.io").unwrap();
        assert_eq!(origin.to_string(), "https://mirror.example:5000");
        assert_eq!(name, "mirror.example:5000");
    }

    #[test]
    fn what_can_not_be_meant_is_refused() {
        let good = OciRegistryConfig::default();
        good.check().unwrap();
        let zero = Duration::ZERO;
        for (what, config) in [
            ("a path", good.clone().with_plain_http("a.example/x")),
            ("an address", good.clone().with_endpoint("docker.io", "https://mirror.example")),
            ("a user", good.clone().with_plain_http("user@a.example")),
            ("no host", good.clone().with_plain_http("")),
            ("no time", good.clone().with_idle_timeout(zero)),
            ("less than one answer", good.clone().with_total_timeout(Duration::from_secs(1))),
            ("no attempt", good.clone().with_attempts(0)),
            ("a chunk of a gigabyte", good.clone().with_chunk(1 << 30)),
        ] {
            assert_eq!(config.check().unwrap_err().kind(), ErrorKind::Invalid, "{what}");
        }
    }

    #[test]
    fn it_is_a_document_that_refuses_unknown_fields() {
        let config = OciRegistryConfig::default().with_plain_http("127.0.0.1:5000");
        let text = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<OciRegistryConfig>(&text).unwrap(), config);
        assert!(serde_json::from_str::<OciRegistryConfig>(r#"{"insecure":true}"#).is_err());
        assert_eq!(serde_json::from_str::<OciRegistryConfig>("{}").unwrap(), OciRegistryConfig::default());
    }
}
