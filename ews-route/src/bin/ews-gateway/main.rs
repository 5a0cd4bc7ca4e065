//! The gateway as a program of its own: `ews-gateway --config gateway.toml`, or flags, which hold over the file.
//!
//! It prints a line for each address once it is ready, logs to standard error, and ends on SIGTERM or Ctrl-C when what is under way
//! has ended; a second one ends it at once. `options` reads the command line, `log` writes what is logged.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program talks to whoever started it")]

mod log;
mod options;

use std::process::ExitCode;

use ews_core::{Error, Result};
use ews_route::server::{self, ServerConfig};

use options::Asked;

fn main() -> ExitCode {
    let (config, level) = match options::read(std::env::args().skip(1)) {
        Ok(Asked::Help) => {
            print!("{}", options::HELP);
            return ExitCode::SUCCESS;
        }
        Ok(Asked::Version) => {
            println!("ews-gateway {}", env!("CARGO_PKG_VERSION"));
            return ExitCode::SUCCESS;
        }
        Ok(Asked::Run(config, level)) => (*config, level),
        Err(error) => {
            eprintln!("{}\n`ews-gateway --help` lists what is accepted", told(&error));
            return ExitCode::from(2);
        }
    };
    log::install(level);
    if config.admin.is_none() {
        tracing::warn!("nothing can be changed while it runs: it has no `--admin`");
    }
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
            eprintln!("{}", told(&error));
            ExitCode::FAILURE
        }
    }
}

/// An error with what led to it, which its own text does not repeat.
fn told(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(because) = cause {
        let because_text = because.to_string();
        if !text.contains(&because_text) {
            text.push_str(": ");
            text.push_str(&because_text);
        }
        cause = because.source();
    }
    text
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
