//! The command line.

use std::time::Duration;

use ews_core::balancer::DomainName;
use ews_core::time::parse_duration;
use ews_core::{Error, Result};
use ews_route::server::ServerConfig;
use ews_route::{AccessFormat, TcpListen};
use tracing::Level;

pub(crate) const HELP: &str = "\
ews-gateway: a gateway for HTTP and TCP, as a process of its own

usage: ews-gateway [--config FILE] [OPTION]...

An option holds over the configuration's own. Those with a * may be given several times.

  --config FILE                the configuration as TOML: `ews_route::server::ServerConfig`, which has all of this and every
                               bound and time limit besides
  --name NAME                  its name in views, events and metrics; default gateway
  --listen ADDRESS           * where it takes HTTP, such as 0.0.0.0:80; port 0 takes a free one
  --listen-tls ADDRESS       * where it takes HTTP within TLS
  --listen-tcp ADDRESS=HOST  * where it takes TCP, and the domain whose routes hold for that
  --secrets DIRECTORY          whose files hold the chains and keys of certificates
  --trust NETWORK            * proxies that are believed about their clients, such as 10.0.0.0/8
  --threads COUNT              data threads; default one per core
  --admin ADDRESS              where a controller changes and watches it; default nowhere
  --token-file FILE            the tokens of the admin endpoint, one a line, each of at least 16 bytes
  --state FILE                 keeps what was applied; without it a new process knows nothing
  --addresses-file FILE        gets the bound addresses as JSON once all listen
  --handover SOCKET            takes over from the gateway that offers itself there, then offers itself (Unix)
  --access-log FILE            gets a line for each request; it may be rotated
  --access-format FORMAT       of these lines: json or combined; default json
  --drain TIME                 for requests under way at the end, such as 30s or 2m; default 30s
  --log LEVEL                  what is logged to standard error: error, warn, info or debug; default warn
  -h, --help                   this text
  -V, --version                the version

example: ews-gateway --listen 0.0.0.0:8080 --admin 127.0.0.1:7070 --token-file tokens --state gateway.redb

Once all listen it prints a line for each address, such as `http 0.0.0.0:8080`. On SIGTERM or Ctrl-C it takes no more
connections and ends when what is under way has; a second one ends it at once.
Exit codes: 0 it ended in order, 1 it could not start, 2 the command line or the configuration is wrong.
";

/// What the command line asks for.
#[derive(Debug)]
pub(crate) enum Asked {
    /// The text that lists what is accepted.
    Help,
    /// The version.
    Version,
    /// A gateway like this, logging up to this level.
    Run(Box<ServerConfig>, Level),
}

/// The options that take a value, but for `--config`.
const OPTIONS: [&str; 16] = [
    "--name",
    "--listen",
    "--listen-tls",
    "--listen-tcp",
    "--secrets",
    "--trust",
    "--threads",
    "--admin",
    "--token-file",
    "--state",
    "--addresses-file",
    "--handover",
    "--access-log",
    "--access-format",
    "--drain",
    "--log",
];

/// Reads the command line, and the configuration that it names.
///
/// # Errors
/// `Invalid`, naming the option and what is accepted; what [`ServerConfig::check`] refuses.
pub(crate) fn read(mut args: impl Iterator<Item = String>) -> Result<Asked> {
    let mut flags = Vec::new();
    let mut config = ServerConfig::default();
    while let Some(word) = args.next() {
        match word.as_str() {
            "--help" | "-h" => return Ok(Asked::Help),
            "--version" | "-V" => return Ok(Asked::Version),
            _ => {}
        }
        let (flag, value) = match word.split_once('=') {
            Some((flag, value)) => (flag.to_owned(), Some(value.to_owned())),
            None => (word, None),
        };
        if flag != "--config" && !OPTIONS.contains(&flag.as_str()) {
            let shown = flag.escape_debug();
            return Err(Error::invalid(format!(
                "`{shown}` is no option; accepted: --config, {}",
                OPTIONS.join(", ")
            )));
        }
        let value = value.or_else(|| args.next());
        let value =
            value.ok_or_else(|| Error::invalid(format!("`{flag}` without a value; accepted: one")))?;
        if flag == "--config" {
            let text = std::fs::read_to_string(&value)
                .map_err(|error| Error::invalid(format!("`--config {value}` can't be read: {error}")))?;
            config = ServerConfig::from_toml(&text).map_err(|error| error.with_context("file", value))?;
        } else {
            flags.push((flag, value));
        }
    }
    let level = take(&mut config, flags)?;
    let gateway = &config.gateway;
    if gateway.listen.is_empty() && gateway.listen_tls.is_empty() && gateway.listen_tcp.is_empty() {
        return Err(Error::invalid(
            "it is to listen nowhere; accepted: at least one `--listen`, `--listen-tls` or `--listen-tcp`, or the same in a `--config`",
        ));
    }
    config.check()?;
    Ok(Asked::Run(Box::new(config), level))
}

/// Puts what the options say in the place of what is there, and returns how much is logged.
fn take(config: &mut ServerConfig, flags: Vec<(String, String)>) -> Result<Level> {
    let mut level = Level::WARN;
    let (mut listen, mut listen_tls, mut listen_tcp, mut trusted) = (vec![], vec![], vec![], vec![]);
    for (flag, value) in flags {
        let wrong = |accepted: &str| {
            Error::invalid(format!("`{flag} {}`; accepted: {accepted}", value.escape_debug()))
        };
        let address =
            || value.parse().map_err(|_| wrong("an address of numbers with a port, such as 127.0.0.1:8080"));
        match flag.as_str() {
            "--name" => config.gateway.name = value,
            "--listen" => listen.push(address()?),
            "--listen-tls" => listen_tls.push(address()?),
            "--listen-tcp" => {
                let accepted = || wrong("an address and a domain, such as 127.0.0.1:6379=redis.example");
                let (address, host) = value.split_once('=').ok_or_else(accepted)?;
                let address = address.parse().map_err(|_| accepted())?;
                let host = DomainName::new(host).map_err(|error| error.with_context("option", &flag))?;
                listen_tcp.push(TcpListen::new(address, host));
            }
            "--trust" => {
                let network = value.parse();
                trusted.push(network.map_err(|error: Error| error.with_context("option", &flag))?);
            }
            "--secrets" => config.secrets = Some(value.into()),
            "--access-log" => config.access_log = Some(value.into()),
            "--access-format" => {
                config.access_format = match value.as_str() {
                    "json" => AccessFormat::Json,
                    "combined" => AccessFormat::Combined,
                    _ => return Err(wrong("json or combined")),
                };
            }
            "--drain" => {
                // A number alone means seconds.
                let seconds = value.parse().map(Duration::from_secs);
                config.drain = match seconds {
                    Ok(drain) => drain,
                    Err(_) => parse_duration(&value).map_err(|_| wrong("a time such as 30s or 2m"))?,
                };
            }
            "--log" => {
                level = match value.as_str() {
                    "error" => Level::ERROR,
                    "warn" => Level::WARN,
                    "info" => Level::INFO,
                    "debug" => Level::DEBUG,
                    _ => return Err(wrong("error, warn, info or debug")),
                };
            }
            "--admin" => config.admin = Some(address()?),
            "--threads" => {
                config.gateway.threads = Some(value.parse().map_err(|_| wrong("a number from 1"))?);
            }
            "--token-file" => config.token_file = Some(value.into()),
            "--state" => config.state = Some(value.into()),
            "--handover" => config.handover = Some(value.into()),
            "--addresses-file" => config.addresses_file = Some(value.into()),
            _ => return Err(Error::internal(format!("the option `{flag}` does nothing"))),
        }
    }
    let gateway = &mut config.gateway;
    for (given, place) in [(listen, &mut gateway.listen), (listen_tls, &mut gateway.listen_tls)] {
        if !given.is_empty() {
            *place = given;
        }
    }
    if !listen_tcp.is_empty() {
        gateway.listen_tcp = listen_tcp;
    }
    if !trusted.is_empty() {
        gateway.forwarding.trusted = trusted;
    }
    Ok(level)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(words: &[&str]) -> Result<Asked> {
        read(words.iter().map(|word| (*word).to_owned()))
    }

    fn config(words: &[&str]) -> ServerConfig {
        match asked(words) {
            Ok(Asked::Run(config, _)) => *config,
            other => unreachable!("{other:?}"),
        }
    }

    #[test]
    fn every_option_is_in_the_help_and_does_something() {
        for option in OPTIONS {
            assert!(HELP.contains(&format!("  {option} ")), "{option}");
            let value = match option {
                "--listen" | "--listen-tls" | "--admin" => "127.0.0.1:0",
                "--listen-tcp" => "127.0.0.1:0=a.tcp",
                "--trust" => "10.0.0.0/8",
                "--threads" => "2",
                "--access-format" => "combined",
                "--drain" => "1m",
                "--log" => "debug",
                _ => "x",
            };
            let mut told = ServerConfig::default();
            let level = take(&mut told, vec![(option.to_owned(), value.to_owned())]).unwrap();
            assert!(told != ServerConfig::default() || level != Level::WARN, "{option}");
        }
    }

    #[test]
    fn options_hold_over_the_file_and_may_be_written_in_both_ways() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("gateway.toml");
        std::fs::write(&file, "drain = '5s'\n[gateway]\nname = 'a'\nlisten = ['127.0.0.1:1']\n").unwrap();
        let file = file.to_str().unwrap();
        let told = config(&["--config", file, "--listen=127.0.0.1:2", "--listen", "127.0.0.1:3"]);
        assert_eq!(told.gateway.name, "a");
        assert_eq!(told.drain, Duration::from_secs(5));
        let listen: Vec<String> = told.gateway.listen.iter().map(ToString::to_string).collect();
        assert_eq!(listen, ["127.0.0.1:2", "127.0.0.1:3"]);
        assert_eq!(config(&["--config", file, "--drain", "7"]).drain, Duration::from_secs(7));
        std::fs::write(file, "[gateway]\nlisten = ['127.0.0.1:1']\nlimis = 3\n").unwrap();
        let error = asked(&["--config", file]).unwrap_err().to_string();
        assert!(error.contains("limis") && error.contains("line 3") && error.contains(file), "{error}");
    }

    #[test]
    fn what_is_wrong_is_said_with_what_is_accepted() {
        for (words, says) in [
            (&["--lisen", "x"][..], "`--lisen` is no option; accepted: --config, --name, --listen"),
            (&["serve"], "`serve` is no option"),
            (&["--listen"], "`--listen` without a value"),
            (&["--listen", "localhost:80"], "such as 127.0.0.1:8080"),
            (&["--listen", "127.0.0.1:0", "--drain", "soon"], "such as 30s"),
            (&["--name", "a"], "it is to listen nowhere"),
            (&["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"], "`token_file`"),
            (&["--listen", "127.0.0.1:0", "--threads", "0"], "`threads` is 0; accepted: 1 to 1024"),
        ] {
            let error = asked(words).unwrap_err().to_string();
            assert!(error.contains(says) && error.contains("accepted: "), "{error}");
        }
        assert!(asked(&["--listen", "--help"]).is_err());
        assert!(matches!(asked(&["-h", "--lisen"]), Ok(Asked::Help)));
        assert!(matches!(asked(&["--version"]), Ok(Asked::Version)));
    }
}
