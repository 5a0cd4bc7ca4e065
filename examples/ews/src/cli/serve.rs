//! `ews serve` and `ews check`.

use std::path::PathBuf;

use clap::ArgMatches;

use super::Failure;
use super::failure::FAILED;
use super::out::Out;
use crate::api::wire::Listening;
use crate::config::HostConfig;
use crate::data::{self, DataDirectory};
use crate::host;
use crate::trail::Trail;

/// Runs a host until SIGTERM or SIGINT; a second one ends it at once.
pub(super) async fn serve(matches: &ArgMatches) -> Result<u8, Failure> {
    let out = Out::new(matches.get_flag("json"));
    let config = match matches.get_one::<PathBuf>("config") {
        Some(path) => HostConfig::read(path)?,
        None => HostConfig::default(),
    };
    let path = matches.get_one::<PathBuf>("data").cloned().or_else(|| config.data.clone());
    let data = DataDirectory::open(&path.unwrap_or_else(data::default_path))?;
    let trail = tracing::Dispatch::new(Trail::new(config.log));
    tracing::dispatcher::set_global_default(trail)
        .map_err(|_| Failure::odd("somebody else keeps the log of this process".to_owned()))?;
    let ready = move |listening: &Listening| {
        if out.json {
            out.document(listening);
            return;
        }
        let lines = [
            ("http", &listening.http[..]),
            ("https", &listening.https[..]),
            ("api (token)", listening.api.as_slice()),
            ("intake", listening.intake.as_slice()),
            ("gateway admin", listening.admin.as_slice()),
        ];
        for (what, addresses) in lines {
            for address in addresses {
                out.line(&format!("{what} {address}"));
            }
        }
        out.line(&format!("api {}", listening.socket.display()));
        out.line("ready");
    };
    let served = Box::pin(host::serve(config, data, ready, asked()));
    let twice = async {
        asked().await;
        asked().await;
    };
    tokio::select! {
        served = served => served.map(|()| 0).map_err(Failure::from),
        () = twice => Ok(FAILED),
    }
}

/// Waits for a signal that asks for the end.
async fn asked() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut terminate), Ok(mut interrupt)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// Says what is wrong with a configuration.
pub(super) fn check(matches: &ArgMatches) -> Result<u8, Failure> {
    let out = Out::new(matches.get_flag("json"));
    let path = matches.get_one::<PathBuf>("config").cloned().unwrap_or_default();
    HostConfig::read(&path)?;
    if out.json {
        out.document(&serde_json::json!({ "config": path, "valid": true }));
    }
    out.line(&format!("{} is right", path.display()));
    Ok(0)
}
