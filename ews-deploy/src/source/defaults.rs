//! What an entry of the catalogue says of a service, put into a spec where that says nothing. Pure.

use std::time::Duration;

use ews_core::spec::lifecycle::Stop;
use ews_core::spec::network::Port;
use ews_core::spec::probe::{Check, HttpCheck, Probe, Probes, TcpCheck};
use ews_core::time::Timestamp;
use ews_core::{Error, Os, Result, ServiceSpec};

use super::catalogue::{CatalogueEntry, CatalogueProbe, Channel, check};
use super::resolved::{Warning, WarningAbout};

/// How often an entry's probe is tried: a gate of a rollout waits for it. Kamal's proxy asks each second, Nomad's examples every two.
const PROBE_INTERVAL: Duration = Duration::from_secs(2);

/// Fills in port, probe, signal and system.
///
/// # Errors
/// None in practice: the port's name is ours.
pub(super) fn fill(spec: &mut ServiceSpec, entry: &CatalogueEntry) -> Result<()> {
    let instance = &mut spec.instance;
    let says_ports = !instance.ports.is_empty();
    if let Some(port) = entry.port.filter(|_| !says_ports) {
        instance.ports.push(Port::new(check::port_name()?, Some(port)));
    }
    // A probe without a port means the only one.
    if instance.probes == Probes::default() && instance.ports.len() == 1 {
        let check = match &entry.probe {
            Some(CatalogueProbe::Http(path)) => Some(Check::Http(HttpCheck::new(path))),
            Some(CatalogueProbe::Tcp(_)) => Some(Check::Tcp(TcpCheck::default())),
            None => None,
        };
        instance.probes.readiness = check.map(|check| {
            let mut probe = Probe::new(check);
            probe.interval = PROBE_INTERVAL;
            probe
        });
    }
    if let Some(signal) = entry.stop_signal.filter(|_| instance.stop == Stop::default()) {
        instance.stop.signal = signal;
    }
    let windows =
        entry.base.iter().flat_map(|base| &base.platforms).all(|platform| platform.os == Os::Windows);
    if windows && instance.platform.os.is_none() {
        instance.platform.os = Some(Os::Windows);
    }
    Ok(())
}

/// A command with `{main}` replaced.
///
/// # Errors
/// `Invalid` where it is wanted and nobody says it.
pub(super) fn command(command: &[String], main: Option<&str>, entry: &CatalogueEntry) -> Result<Vec<String>> {
    let put = |word: &String| match main {
        Some(main) => Ok(word.replace("{main}", main)),
        None if word.contains("{main}") => Err(Error::invalid(format!(
            "the entry `{}` starts `{}`, and nobody says what `{{main}}` is; accepted: a request with it, such as `Shop.dll`",
            entry.name(),
            command.join(" ")
        ))),
        None => Ok(word.clone()),
    };
    command.iter().map(put).collect()
}

/// What somebody should know of an entry.
pub(super) fn warnings(entry: &CatalogueEntry, has_time: bool, now: Timestamp) -> Vec<Warning> {
    let mut warnings = Vec::new();
    let mut warn = |about, message| warnings.push(Warning::new(about, message));
    let name = entry.name();
    if entry.serves_files && !has_time {
        warn(
            WarningAbout::Times,
            format!(
                "`{name}` tells clients by a file's time whether it changed, and all files get one fixed time: say the time of the commit, \
                 or let the server send no `Last-Modified`"
            ),
        );
    }
    // Days compare as texts.
    let today = now.to_string();
    if entry.end_of_life.as_deref().is_some_and(|end| today.get(..10).is_some_and(|today| today > end)) {
        let end = entry.end_of_life.as_deref().unwrap_or_default();
        warn(WarningAbout::EndOfLife, format!("nobody patches `{name}` since {end}"));
    }
    match entry.channel {
        Channel::Stable => {}
        Channel::Candidate => {
            warn(WarningAbout::Channel, format!("`{name}` is a candidate, not yet for everybody"))
        }
        Channel::Retired => warn(WarningAbout::Channel, format!("`{name}` is retired: move to another line")),
    }
    warnings
}
