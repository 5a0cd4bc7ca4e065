//! The gateway as a program of its own: `ews-gateway --config gateway.toml`, or flags, which hold over the file.
//!
//! It prints a line for each address once it is ready, and ends on SIGTERM or Ctrl-C when what is under way has ended; a
//! second one ends it at once.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program talks to whoever started it")]

use std::process::ExitCode;
use std::time::Duration;

use ews_core::balancer::DomainName;
use ews_core::{Error, Result};
use ews_route::server::{self, ServerConfig};
use ews_route::{AccessFormat, TcpListen};

const USAGE: &str =
    "usage: ews-gateway [--config FILE] [--name NAME] [--listen ADDRESS]... [--listen-tls ADDRESS]...
                   [--listen-tcp ADDRESS=HOST]... [--secrets DIRECTORY] [--trust NETWORK]... [--threads COUNT]
                   [--admin ADDRESS --token-file FILE] [--state FILE] [--addresses-file FILE] [--handover SOCKET]
                   [--access-log FILE] [--access-format json|combined] [--drain SECONDS]";

fn main() -> ExitCode {
    let config = match read(std::env::args().skip(1)) {
        Ok(Some(config)) => config,
        Ok(None) => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("{error}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(serve(config)),
        Err(error) => Err(Error::internal("the runtime could not be made").with_source(error)),
    };
    match result {
        Ok(0) => ExitCode::SUCCESS,
        Ok(left) => {
            eprintln!("{left} connections were closed before they had ended");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(config: ServerConfig) -> Result<usize> {
    let work = server::run(config, |addresses| println!("{addresses}"), stopped());
    let again = async {
        stopped().await;
        stopped().await;
    };
    tokio::select! {
        result = work => result,
        () = again => Ok(0),
    }
}

#[cfg(unix)]
async fn stopped() {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut terminate) = signal(SignalKind::terminate()) else { return std::future::pending().await };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
}

#[cfg(not(unix))]
async fn stopped() {
    let _ = tokio::signal::ctrl_c().await;
}

/// The configuration; `None` where only help is wanted.
fn read(mut args: impl Iterator<Item = String>) -> Result<Option<ServerConfig>> {
    let mut flags = Vec::new();
    let mut config = ServerConfig::default();
    while let Some(flag) = args.next() {
        if flag == "--help" || flag == "-h" {
            return Ok(None);
        }
        let value = args.next().ok_or_else(|| Error::invalid(format!("`{flag}` needs a value")))?;
        if flag == "--config" {
            let text = std::fs::read_to_string(&value)
                .map_err(|error| Error::invalid(format!("{value} can't be read: {error}")))?;
            config = ServerConfig::from_toml(&text)?;
        } else {
            flags.push((flag, value));
        }
    }
    let (mut listen, mut listen_tls, mut listen_tcp, mut trusted) = (vec![], vec![], vec![], vec![]);
    for (flag, value) in flags {
        let wrong = |accepted: &str| Error::invalid(format!("`{flag} {value}`; accepted: {accepted}"));
        let address = || value.parse().map_err(|_| wrong("an address with a port, such as 127.0.0.1:8080"));
        match flag.as_str() {
            "--name" => config.gateway.name = value,
            "--listen" => listen.push(address()?),
            "--listen-tls" => listen_tls.push(address()?),
            "--listen-tcp" => {
                let accepted = || wrong("an address and a domain, such as 127.0.0.1:6379=redis.example");
                let (address, host) = value.split_once('=').ok_or_else(accepted)?;
                let address = address.parse().map_err(|_| accepted())?;
                listen_tcp.push(TcpListen::new(address, DomainName::new(host)?));
            }
            "--trust" => trusted.push(value.parse()?),
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
                let seconds = value.parse().map_err(|_| wrong("a number of seconds"))?;
                config.drain = Duration::from_secs(seconds);
            }
            "--admin" => config.admin = Some(address()?),
            "--threads" => {
                let count = value.parse().map_err(|_| wrong("a number"))?;
                config.gateway.threads = Some(count);
            }
            "--token-file" => config.token_file = Some(value.into()),
            "--state" => config.state = Some(value.into()),
            "--handover" => config.handover = Some(value.into()),
            "--addresses-file" => config.addresses_file = Some(value.into()),
            _ => return Err(Error::invalid(format!("`{flag}` is not an option"))),
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
    Ok(Some(config))
}
