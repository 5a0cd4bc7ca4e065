//! Where an engine is and how it is reached.
//!
//! An [`EngineAddress`] is written as Docker writes it (`unix:///var/run/docker.sock`, `tcp://10.0.0.7:2376`,
//! `npipe:////./pipe/docker_engine`), or found the way the `docker` command finds it: `DOCKER_HOST` with `DOCKER_TLS_VERIFY` and
//! `DOCKER_CERT_PATH`, else `DOCKER_CONTEXT` or the current context, else the platform's socket. `ssh://` is refused: forward the
//! engine's socket, or use TLS.

mod context;
mod stream;
#[cfg(feature = "tls")]
mod tls;

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use ews_core::{Error, Result};

pub(crate) use stream::{Connector, EngineStream};
#[cfg(feature = "tls")]
pub(crate) use tls::explain as explain_tls;

/// Where one engine is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum EngineAddress {
    /// A Unix socket.
    Unix(PathBuf),
    /// A Windows named pipe, such as `\\.\pipe\docker_engine`.
    NamedPipe(String),
    /// TCP without TLS. Whoever reaches the port has every right on the node.
    Tcp {
        /// The host, a name or an address.
        host: String,
        /// The port.
        port: u16,
    },
    /// TCP with TLS; needs the feature `tls`.
    Tls {
        /// The host, a name or an address.
        host: String,
        /// The port.
        port: u16,
        /// Who is believed, and who we are.
        tls: TlsFiles,
    },
}

/// The PEM files of a TLS connection, named as Docker names them.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TlsFiles {
    /// `ca.pem`: the authorities that the engine's certificate must come from. Required: a public authority never signs an engine.
    pub ca: PathBuf,
    /// `cert.pem`: our certificate, where the engine wants one.
    pub cert: Option<PathBuf>,
    /// `key.pem`: its key.
    pub key: Option<PathBuf>,
    /// The name that the engine's certificate must have. Default: the address's host.
    pub server_name: Option<String>,
}

impl TlsFiles {
    /// These authorities; we show no certificate.
    pub fn new(ca: impl Into<PathBuf>) -> Self {
        Self { ca: ca.into(), cert: None, key: None, server_name: None }
    }

    /// Showing this certificate, of which this is the key.
    #[must_use]
    pub fn with_client(mut self, cert: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        (self.cert, self.key) = (Some(cert.into()), Some(key.into()));
        self
    }

    /// The engine's certificate must have this name.
    #[must_use]
    pub fn with_server_name(mut self, name: impl Into<String>) -> Self {
        self.server_name = Some(name.into());
        self
    }

    /// `ca.pem`, `cert.pem` and `key.pem` of this directory, as `DOCKER_CERT_PATH` has them; the last two where they exist.
    pub fn in_directory(directory: impl AsRef<Path>) -> Self {
        let directory = directory.as_ref();
        let there = |name: &str| Some(directory.join(name)).filter(|path| path.exists());
        Self {
            ca: directory.join("ca.pem"),
            cert: there("cert.pem"),
            key: there("key.pem"),
            server_name: None,
        }
    }
}

impl EngineAddress {
    /// The socket of an engine that was installed the usual way.
    pub fn platform_default() -> Self {
        if cfg!(windows) {
            Self::NamedPipe(r"\\.\pipe\docker_engine".to_owned())
        } else {
            Self::Unix("/var/run/docker.sock".into())
        }
    }

    /// The engine that the `docker` command would talk to.
    ///
    /// # Errors
    /// `Invalid` for an address that can't be read, a context that does not exist, or `ssh://`.
    pub fn from_env() -> Result<Self> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let directory = context::config_directory(&variable);
        Self::from_variables(&variable, directory.as_deref())
    }

    fn from_variables(variable: &dyn Fn(&str) -> Option<String>, directory: Option<&Path>) -> Result<Self> {
        if let Some(host) = variable("DOCKER_HOST") {
            let address: Self =
                host.parse().map_err(|error: Error| error.with_context("variable", "DOCKER_HOST"))?;
            let (verify, certs) = (variable("DOCKER_TLS_VERIFY"), variable("DOCKER_CERT_PATH"));
            return match (address, verify) {
                (Self::Tcp { host, port }, Some(_)) => {
                    let certs = certs
                        .map(PathBuf::from)
                        .or_else(|| directory.map(Path::to_owned))
                        .ok_or_else(|| {
                            Error::invalid(
                                "DOCKER_TLS_VERIFY is set and DOCKER_CERT_PATH is not: there is no `ca.pem`",
                            )
                        })?;
                    Ok(Self::Tls { host, port, tls: TlsFiles::in_directory(certs) })
                }
                (address, _) => Ok(address),
            };
        }
        let Some(directory) = directory else { return Ok(Self::platform_default()) };
        match variable("DOCKER_CONTEXT").map_or_else(|| context::current(directory), |name| Ok(Some(name)))? {
            Some(name) if name != "default" => context::address(directory, &name),
            _ => Ok(Self::platform_default()),
        }
    }

    /// The engine of a Docker context, as `docker context ls` names it, from the files of this directory (`~/.docker`).
    ///
    /// # Errors
    /// `Invalid` where there is no such context, or it has an address that can't be read.
    pub fn from_context(directory: impl AsRef<Path>, name: &str) -> Result<Self> {
        context::address(directory.as_ref(), name)
    }

    /// Whether the engine runs on this machine, as far as the address tells: TCP is another machine's, loopback too, since forwarded ports
    /// end there. A socket may be forwarded as well, so who looks at this machine for an engine's sake must see the engine's mark there.
    pub(crate) fn is_local(&self) -> bool {
        matches!(self, Self::Unix(_) | Self::NamedPipe(_))
    }

    /// The host of a TCP address.
    pub(crate) fn host(&self) -> Option<&str> {
        match self {
            Self::Tcp { host, .. } | Self::Tls { host, .. } => Some(host),
            Self::Unix(_) | Self::NamedPipe(_) => None,
        }
    }
}

impl fmt::Display for EngineAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::NamedPipe(path) => write!(f, "npipe://{}", path.replace('\\', "/")),
            Self::Tcp { host, port } | Self::Tls { host, port, .. } if host.contains(':') => {
                write!(f, "tcp://[{host}]:{port}")
            }
            Self::Tcp { host, port } | Self::Tls { host, port, .. } => write!(f, "tcp://{host}:{port}"),
        }
    }
}

const ACCEPTED: &str = "accepted: `unix:///path`, `tcp://host:port`, `npipe:////./pipe/name`";

impl FromStr for EngineAddress {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let shown = || text.chars().take(100).collect::<String>().escape_debug().to_string();
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(Error::invalid(format!(
                "`{}` is not the address of an engine: it has no scheme; {ACCEPTED}",
                shown()
            )));
        };
        match scheme {
            "unix" if rest.starts_with('/') => Ok(Self::Unix(rest.into())),
            "unix" => {
                Err(Error::invalid(format!("`{}`: a socket's path must be absolute; {ACCEPTED}", shown())))
            }
            "npipe" => Ok(Self::NamedPipe(rest.replace('/', r"\"))),
            "tcp" | "http" => {
                let (host, port) = host_and_port(rest, 2375).ok_or_else(|| {
                    Error::invalid(format!("`{}` has no host, or a port that is none; {ACCEPTED}", shown()))
                })?;
                Ok(Self::Tcp { host, port })
            }
            "https" => Err(Error::invalid(format!(
                "`{}`: write `tcp://` and give the certificates (DOCKER_TLS_VERIFY and DOCKER_CERT_PATH, a context, or `TlsFiles`)",
                shown()
            ))),
            "ssh" => Err(Error::invalid(format!(
                "`{}`: engines over ssh are not supported, since each connection would be a process; forward the engine's socket \
                 (`ssh -L`) or use TLS; {ACCEPTED}",
                shown()
            ))),
            _ => Err(Error::invalid(format!("`{}` has a scheme that is not known; {ACCEPTED}", shown()))),
        }
    }
}

/// `host`, `host:port`, `[v6]:port`; a path behind it is refused.
fn host_and_port(text: &str, default: u16) -> Option<(String, u16)> {
    let text = text.strip_suffix('/').unwrap_or(text);
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']')?;
            host.parse::<std::net::Ipv6Addr>().ok()?;
            (
                host,
                rest.strip_prefix(':')
                    .map(str::to_owned)
                    .or_else(|| rest.is_empty().then(|| default.to_string()))?,
            )
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, port.to_owned()),
            None => (text, default.to_string()),
        },
    };
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
    let port = port.parse().ok().filter(|port| *port > 0)?;
    (!host.is_empty() && host.len() <= 253 && host.chars().all(good)).then(|| (host.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_docker_writes_them() {
        for text in [
            "unix:///run/docker.sock",
            "tcp://engine.example:2375",
            "tcp://[::1]:2375",
            "npipe:////./pipe/docker_engine",
        ] {
            assert_eq!(text.parse::<EngineAddress>().unwrap().to_string(), text);
        }
        assert_eq!("tcp://engine".parse::<EngineAddress>().unwrap().to_string(), "tcp://engine:2375");
        let pipe = EngineAddress::NamedPipe(r"\\.\pipe\docker_engine".to_owned());
        assert_eq!("npipe:////./pipe/docker_engine".parse::<EngineAddress>().unwrap(), pipe);
        for (text, word) in [
            ("/var/run/docker.sock", "no scheme"),
            ("unix://run/docker.sock", "absolute"),
            ("ssh://me@host", "ssh"),
            ("https://host:2376", "TlsFiles"),
            ("tcp://", "no host"),
            ("tcp://host:99999", "no host"),
            ("tcp://host/x y", "no host"),
            ("ftp://host", "not known"),
        ] {
            let error = text.parse::<EngineAddress>().unwrap_err();
            assert!(error.message().contains(word), "{text}: {error}");
        }
    }

    #[test]
    fn the_environment_is_read_as_docker_reads_it() {
        let directory = tempfile::tempdir().unwrap();
        let of = |variables: &[(&str, &str)]| {
            let found = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
            EngineAddress::from_variables(&found, Some(directory.path()))
        };
        assert_eq!(of(&[]).unwrap(), EngineAddress::platform_default());
        let tls = of(&[
            ("DOCKER_HOST", "tcp://h:2376"),
            ("DOCKER_TLS_VERIFY", "1"),
            ("DOCKER_CERT_PATH", "/certs"),
        ])
        .unwrap();
        assert!(
            matches!(&tls, EngineAddress::Tls { tls, .. } if tls.ca == Path::new("/certs/ca.pem")),
            "{tls:?}"
        );
        // Docker's own rule: certificates without DOCKER_TLS_VERIFY change nothing.
        let plain = of(&[("DOCKER_HOST", "tcp://h:2375"), ("DOCKER_CERT_PATH", "/certs")]).unwrap();
        assert!(matches!(plain, EngineAddress::Tcp { .. }));
        let error = of(&[("DOCKER_HOST", "nonsense")]).unwrap_err();
        assert!(error.to_string().contains("DOCKER_HOST"), "{error}");

        context::write_for_test(directory.path(), "far", "tcp://far.example:2376", true);
        std::fs::write(directory.path().join("config.json"), r#"{"currentContext":"far","auths":{}}"#)
            .unwrap();
        let far = of(&[]).unwrap();
        assert!(
            matches!(&far, EngineAddress::Tls { host, tls, .. } if host == "far.example" && tls.cert.is_some()),
            "{far:?}"
        );
        assert_eq!(of(&[("DOCKER_CONTEXT", "default")]).unwrap(), EngineAddress::platform_default());
        let error = of(&[("DOCKER_CONTEXT", "../../etc")]).unwrap_err();
        assert!(error.message().contains("no Docker context"), "{error}");
    }
}
