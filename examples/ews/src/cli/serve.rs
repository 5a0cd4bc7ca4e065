//! `ews serve` and `ews check`.

use std::path::PathBuf;

use clap::ArgMatches;
use tokio::sync::watch;

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
    // First of all, so that none is missed however long the start takes.
    let asked = asked()?;
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
    let served = Box::pin(host::serve(config, data, ready, often(asked.clone(), 1)));
    tokio::select! {
        served = served => served.map(|()| 0).map_err(Failure::from),
        () = often(asked, 2) => Ok(FAILED),
    }
}

/// How often the end was asked for, from now on. A hangup, as of the terminal in which it was started, ends nothing.
fn asked() -> Result<watch::Receiver<usize>, Failure> {
    use tokio::signal::unix::{SignalKind, signal};
    let listen =
        |kind| signal(kind).map_err(|error| Failure::odd(format!("signals can't be listened for: {error}")));
    let (mut terminate, mut interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    let mut hangup = listen(SignalKind::hangup())?;
    let (count, asked) = watch::channel(0_usize);
    tokio::spawn(async move {
        loop {
            tokio::select! {
                Some(()) = terminate.recv() => {}
                Some(()) = interrupt.recv() => {}
                Some(()) = hangup.recv() => {
                    tracing::info!(
                        "SIGHUP changes nothing: certificates are read anew by themselves, and a changed configuration takes a restart"
                    );
                    continue;
                }
                else => return,
            }
            count.send_modify(|count| *count += 1);
        }
    });
    Ok(asked)
}

/// Waits until the end was asked for so often.
async fn often(mut asked: watch::Receiver<usize>, times: usize) {
    if asked.wait_for(|count| *count >= times).await.is_err() {
        // Nobody listens any more.
        std::future::pending().await
    }
}

/// Says what is wrong with a configuration.
pub(super) fn check(matches: &ArgMatches) -> Result<u8, Failure> {
    let out = Out::new(matches.get_flag("json"));
    let path = matches.get_one::<PathBuf>("config").cloned().unwrap_or_default();
    host::check_files(&HostConfig::read(&path)?)?;
    if out.json {
        out.document(&serde_json::json!({ "config": path, "valid": true }));
    }
    out.line(&format!("{} is right", path.display()));
    Ok(0)
}
