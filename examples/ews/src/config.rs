//! What a host is: its configuration file, with a default for every field.
//!
//! The file is TOML; an unknown field is refused with its line and with what is accepted. What the file says of the gateway's
//! routes, of scaling, of alerts and of webhooks are the documents of those engines themselves.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ews_core::balancer::DomainName;
use ews_core::time::duration;
use ews_core::{Error, OwnerId, Result, ServiceName};
use ews_deploy::intake::{IntakeConfig, IntakeLimits, Rule, TokenScope};
use ews_monitor::AlertRule;
use ews_route::AccessFormat;
use ews_scale::{ScalePolicy, TargetTracking};
use serde::Deserialize;

use crate::files;

/// What a host is.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct HostConfig {
    /// The installation: instances of others are never touched. Default `ews`.
    pub(crate) name: String,
    /// The directory for state. Default: `--data`, then `EWS_DATA`, then the user's own.
    pub(crate) data: Option<PathBuf>,
    /// What instances are.
    pub(crate) runtime: RuntimeKind,
    /// How long requests under way may take at the end. Default 30 s.
    #[serde(with = "duration")]
    pub(crate) drain: Duration,
    /// How much the log says. Default `info`.
    pub(crate) log: LogLevel,
    /// Where traffic comes in.
    pub(crate) gateway: GatewaySection,
    /// The operator's API beyond its socket.
    pub(crate) api: ApiSection,
    /// Webhooks and the deploy API of CI jobs. Default: none.
    pub(crate) intake: Option<IntakeSection>,
    /// Instances that are processes.
    pub(crate) process: ProcessSection,
    /// What a service's count follows, by service. Default: nothing, and the count is what somebody set.
    pub(crate) scale: BTreeMap<ServiceName, ScalePolicy>,
    /// When somebody should know. Default: never.
    pub(crate) alerts: Vec<AlertRule>,
}

impl Default for HostConfig {
    fn default() -> Self {
        Self {
            name: "ews".to_owned(),
            data: None,
            runtime: RuntimeKind::default(),
            drain: Duration::from_secs(30),
            log: LogLevel::default(),
            gateway: GatewaySection::default(),
            api: ApiSection::default(),
            intake: None,
            process: ProcessSection::default(),
            scale: BTreeMap::new(),
            alerts: Vec::new(),
        }
    }
}

/// What instances are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum RuntimeKind {
    /// Processes of this machine.
    #[default]
    Process,
    /// Containers of the Docker Engine that the `docker` command would find.
    Docker,
}

impl RuntimeKind {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::Docker => "docker",
        }
    }
}

/// How much the log says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum LogLevel {
    /// What failed.
    Error,
    /// And what may lead to failures.
    Warn,
    /// And what somebody wants to know later.
    #[default]
    Info,
    /// And every step.
    Debug,
    /// And everything.
    Trace,
}

/// Where traffic comes in.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct GatewaySection {
    /// Where HTTP is listened for. Default `127.0.0.1:8080`.
    pub(crate) http: Vec<SocketAddr>,
    /// Where HTTP within TLS is listened for. Default: nowhere.
    pub(crate) https: Vec<SocketAddr>,
    /// The certificates, by the domains that they are for.
    pub(crate) certificates: Vec<CertificateSection>,
    /// How many threads move traffic. Default: one for each core.
    pub(crate) threads: Option<usize>,
    /// How the lines of `logs/access.log` look. Default: there is none.
    pub(crate) access_log: Option<AccessFormat>,
    /// The gateway's own admin endpoint. Default: none.
    pub(crate) admin: Option<EndpointSection>,
}

impl Default for GatewaySection {
    fn default() -> Self {
        Self {
            http: vec![SocketAddr::from(([127, 0, 0, 1], 8080))],
            https: Vec::new(),
            certificates: Vec::new(),
            threads: None,
            access_log: None,
            admin: None,
        }
    }
}

/// A certificate and its key, as files.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CertificateSection {
    /// For which domains: `shop.example`, `*.shop.example`, or `*` for all that no other has.
    pub(crate) domains: Vec<DomainName>,
    /// The chain, PEM, the leaf first.
    pub(crate) chain: PathBuf,
    /// The private key, PEM; not readable by everybody.
    pub(crate) key: PathBuf,
}

/// Something that listens on TCP and asks for a token.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct EndpointSection {
    /// Where.
    pub(crate) listen: SocketAddr,
    /// The file that holds its tokens, one a line, each of at least 16 bytes.
    pub(crate) token_file: PathBuf,
}

/// The operator's API beyond its socket.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ApiSection {
    /// The API on TCP too. Default: only the socket in the data directory, which needs no token.
    pub(crate) tcp: Option<EndpointSection>,
}

/// Webhooks and the deploy API of CI jobs.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct IntakeSection {
    /// Where. It wants TLS in front of it.
    pub(crate) listen: SocketAddr,
    /// The rules of webhooks, by the name in their path.
    #[serde(default)]
    pub(crate) rules: BTreeMap<String, Rule>,
    /// Who may use the deploy API; their tokens are secrets of this host.
    #[serde(default)]
    pub(crate) tokens: BTreeMap<String, TokenScope>,
    /// The bounds.
    #[serde(default)]
    pub(crate) limits: IntakeLimits,
}

impl IntakeSection {
    /// As the engine takes it.
    pub(crate) fn config(&self, uploads: PathBuf) -> IntakeConfig {
        let mut config = IntakeConfig::new(uploads).with_limits(self.limits);
        (config.rules, config.tokens) = (self.rules.clone(), self.tokens.clone());
        config
    }
}

/// Instances that are processes.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ProcessSection {
    /// The first and the last of the ports that instances are given. Default 20000 to 32000.
    pub(crate) ports: (u16, u16),
    /// The variables of the host's own environment that instances get beside `PATH`, the locale and the time zone.
    pub(crate) inherit: Vec<String>,
    /// The address under which instances are told to others. Default: loopback.
    pub(crate) advertise: Option<IpAddr>,
}

impl Default for ProcessSection {
    fn default() -> Self {
        Self { ports: (20_000, 32_000), inherit: Vec::new(), advertise: None }
    }
}

impl HostConfig {
    /// Reads a file and checks what it says. Relative paths in it begin where the file is.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = files::text(path, "the configuration")?;
        let mut config = Self::parse(&text).map_err(|error| {
            Error::invalid(format!("the configuration {} can't be used: {}", path.display(), error.message()))
        })?;
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let folder = path.parent().map(Path::to_owned).unwrap_or_default();
        for named in config.paths() {
            *named = folder.join(&*named);
        }
        Ok(config)
    }

    /// Every path that it names.
    fn paths(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        let endpoints = [&mut self.gateway.admin, &mut self.api.tcp].into_iter().flatten();
        let certificates = &mut self.gateway.certificates;
        endpoints
            .map(|endpoint| &mut endpoint.token_file)
            .chain(certificates.iter_mut().flat_map(|section| [&mut section.chain, &mut section.key]))
            .chain(&mut self.data)
    }

    /// Reads a text and checks what it says.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let config: Self = toml::from_str(text).map_err(|error| wrong(text, &error))?;
        config.check()?;
        Ok(config)
    }

    /// Refuses what can't work.
    pub(crate) fn check(&self) -> Result<()> {
        let wrong = |field: &str, message: String| Err(Error::invalid(format!("`{field}`: {message}")));
        let named = |field: &str, error: &Error| Error::invalid(format!("`{field}`: {}", error.message()));
        self.owner()?;
        if self.drain > Duration::from_secs(3_600) {
            return wrong("drain", "longer than an hour; accepted: at most `1h`".to_owned());
        }
        if self.runtime == RuntimeKind::Docker && cfg!(not(feature = "docker")) {
            return wrong(
                "runtime",
                "this program was built without Docker; accepted: `process`, or a build with `--features docker`"
                    .to_owned(),
            );
        }
        let (first, last) = self.process.ports;
        if first < 1_024 || first > last {
            let message = format!("{first} to {last}; accepted: two ports in order, from 1024 on");
            return wrong("process.ports", message);
        }
        if self.gateway.http.is_empty() && self.gateway.https.is_empty() {
            return wrong("gateway.http", "nowhere to listen; accepted: at least one address".to_owned());
        }
        if !self.gateway.https.is_empty() && self.gateway.certificates.is_empty() {
            let message =
                "an address for TLS and no certificate; accepted: one `[[gateway.certificates]]` at least";
            return wrong("gateway.certificates", message.to_owned());
        }
        if self.gateway.certificates.len() > 1_000 {
            return wrong("gateway.certificates", "more than 1,000; accepted: at most that".to_owned());
        }
        for (index, certificate) in self.gateway.certificates.iter().enumerate() {
            if certificate.domains.is_empty() {
                let message = "no domain; accepted: at least one, `*` for all that no other has".to_owned();
                return wrong(&format!("gateway.certificates[{index}].domains"), message);
            }
        }
        let endpoints = [("gateway.admin", &self.gateway.admin), ("api.tcp", &self.api.tcp)];
        for (field, endpoint) in endpoints {
            if endpoint.as_ref().is_some_and(|endpoint| !endpoint.listen.ip().is_loopback()) {
                let message =
                    "it speaks without TLS; accepted: a loopback address, with a proxy or a tunnel before it";
                return wrong(&format!("{field}.listen"), message.to_owned());
            }
        }
        if let Some(intake) = &self.intake {
            intake.config(PathBuf::from("uploads")).check().map_err(|error| named("intake", &error))?;
        }
        for (service, policy) in &self.scale {
            TargetTracking::new(policy.clone())
                .map_err(|error| named(&format!("scale.{service}"), &error))?;
        }
        for rule in &self.alerts {
            rule.check().map_err(|error| named(&format!("alerts, rule `{}`", rule.name), &error))?;
        }
        Ok(())
    }

    /// The installation.
    pub(crate) fn owner(&self) -> Result<OwnerId> {
        OwnerId::new(&self.name).map_err(|error| Error::invalid(format!("`name`: {}", error.message())))
    }
}

/// What is wrong and what is accepted, with its place. The line itself is not repeated, since it may hold what somebody took for the
/// place of a secret; neither is a text that stands where something else should.
fn wrong(text: &str, error: &toml::de::Error) -> Error {
    let message = error.message();
    let message = match message.split_once("string \"").and_then(|(before, rest)| {
        let (_, after) = rest.rsplit_once("\", expected")?;
        Some(format!("{before}string, expected{after}"))
    }) {
        Some(without) => without,
        None => message.to_owned(),
    };
    let before = error.span().and_then(|span| text.get(..span.start));
    let place = before.map_or_else(String::new, |before| {
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        format!("line {line}, column {column}: ")
    });
    Error::invalid(format!("{place}{message}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_in_the_wrong_place_is_not_repeated() {
        for text in [
            "[intake]\nlisten = \"127.0.0.1:1\"\n[intake.tokens.ci]\ntoken = \"hunter2\"",
            "[intake]\nlisten = \"127.0.0.1:1\"\n[intake.tokens.ci]\nsecrets = \"hunter2\"",
            "[intake]\nlisten = \"127.0.0.1:1\"\n[intake.tokens]\nci = \"hunter2 \\\", expected x\"",
        ] {
            let error = HostConfig::parse(text).expect_err(text).to_string();
            assert!(error.contains("line ") && !error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn relative_paths_begin_where_the_file_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ews.toml");
        let text = "data = \"state\"\n[api.tcp]\nlisten = \"127.0.0.1:1\"\ntoken_file = \"t\"\n\
                    [[gateway.certificates]]\ndomains = [\"*\"]\nchain = \"c\"\nkey = \"/k\"\n";
        std::fs::write(&path, text).unwrap();
        let config = HostConfig::read(&path).unwrap();
        assert_eq!(config.data, Some(folder.path().join("state")));
        assert_eq!(config.api.tcp.unwrap().token_file, folder.path().join("t"));
        let certificate = &config.gateway.certificates[0];
        assert_eq!((&*certificate.chain, &*certificate.key), (&*folder.path().join("c"), Path::new("/k")));
    }

    #[test]
    fn the_documented_file_says_the_defaults_and_every_field_that_it_shows_is_read() {
        let text = include_str!("../ews.toml");
        assert_eq!(
            HostConfig::parse(text).unwrap(),
            HostConfig { name: "ews".to_owned(), ..HostConfig::default() }
        );
        // What is commented out is right too, where its files need not be there.
        let all: String = text.lines().map(|line| line.strip_prefix("#~ ").unwrap_or(line)).fold(
            String::new(),
            |mut all, line| {
                all.push_str(line);
                all.push('\n');
                all
            },
        );
        let config = HostConfig::parse(&all).unwrap();
        assert_eq!(config.gateway.https.len(), 1);
        assert_eq!((config.scale.len(), config.alerts.len()), (1, 1));
        assert!(config.intake.is_some() && config.api.tcp.is_some() && config.gateway.admin.is_some());
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place_and_what_is_accepted() {
        for (text, says) in [
            ("nmae = \"x\"", &["line 1", "unknown field `nmae`", "`name`"][..]),
            ("[gateway]\nhttp = [\"8080\"]", &["line 2", "socket address"]),
            ("[gateway]\nhttp = []", &["gateway.http", "at least one address"]),
            ("[gateway]\nhttps = [\"127.0.0.1:8443\"]", &["gateway.certificates"]),
            ("drain = \"2h\"", &["`drain`", "at most `1h`"]),
            ("drain = 30", &["line 1", "invalid type"]),
            ("runtime = \"podman\"", &["line 1", "unknown variant `podman`", "`process`"]),
            ("name = \"No Such\"", &["`name`", "accepted"]),
            ("[process]\nports = [80, 90]", &["process.ports", "from 1024"]),
            ("[api.tcp]\nlisten = \"0.0.0.0:7400\"\ntoken_file = \"t\"", &["api.tcp.listen", "loopback"]),
            ("[api.tcp]\nlisten = \"127.0.0.1:7400\"", &["token_file"]),
        ] {
            let error = HostConfig::parse(text).expect_err(text).to_string();
            for says in says {
                assert!(error.contains(says), "{text}: {error}");
            }
        }
    }
}
