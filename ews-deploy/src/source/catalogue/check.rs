//! What must hold of an entry beyond its form.

use ews_core::{Os, PortName};

use super::{CatalogueEntry, CatalogueProbe, Kind};
use crate::source::artifact::layer;

/// What is wrong with an entry, each with its field.
pub(super) fn faults(entry: &CatalogueEntry) -> Vec<String> {
    let mut faults = Vec::new();
    let mut fault = |field: &str, fault: &str| faults.push(format!("`{field}`: {fault}"));
    let word = |text: &str, more: &[char]| {
        !text.is_empty()
            && text.len() <= 63
            && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || more.contains(&c))
    };
    if !word(&entry.id, &['-']) {
        fault("id", "accepted: 1 to 63 lower-case letters, digits and `-`");
    }
    if !word(&entry.line, &['-', '.', '_']) {
        fault("line", "accepted: 1 to 63 lower-case letters, digits, `-`, `.` and `_`");
    }
    if entry.compatibility.is_empty() || entry.compatibility.len() > 200 {
        fault("compatibility", "accepted: 1 to 200 characters that say what an artifact relies on");
    }
    if entry.base.is_empty() {
        fault("base", "accepted: at least one");
    }
    let platforms = || entry.base.iter().flat_map(|base| &base.platforms);
    if entry.base.iter().any(|base| base.platforms.is_empty()) {
        fault("base.platforms", "accepted: at least one, as `linux/amd64`");
    }
    let windows = platforms().any(|platform| platform.os == Os::Windows);
    if windows && platforms().any(|platform| platform.os != Os::Windows) {
        fault(
            "base.platforms",
            "Windows and other systems need entries of their own, since paths and commands differ",
        );
    }
    if entry.takes.is_empty() {
        fault("takes", "accepted: at least one");
    }
    for (number, takes) in entry.takes.iter().enumerate() {
        let parts: Vec<&str> = takes.to.split('/').collect();
        let good = takes.to.starts_with('/')
            && takes.to.len() > 1
            && !takes.to.contains(['\\', ':'])
            && parts.iter().skip(1).all(|part| !part.is_empty() && !matches!(*part, "." | ".."));
        if !good {
            fault(
                &format!("takes[{number}].to"),
                "accepted: an absolute path with `/` and without a drive, as `/app`",
            );
        }
        if takes.kind == Kind::Program && takes.unpack {
            fault(&format!("takes[{number}].unpack"), "a program can't be unpacked");
        }
        if entry.takes.iter().take(number).any(|other| other.kind == takes.kind) {
            fault(&format!("takes[{number}].kind"), "comes twice");
        }
    }
    if let Some(owner) = &entry.owner
        && let Err(error) = layer::owner(owner)
    {
        fault("owner", error.message());
    }
    if let Some(name) = entry.env.keys().find(|name| name.is_empty() || name.contains(['=', '\0'])) {
        fault("env", &format!("`{name}` is no name of a variable"));
    }
    if entry.port == Some(0) {
        fault("port", "accepted: 1 to 65535");
    }
    match &entry.probe {
        Some(_) if entry.port.is_none() => fault("probe", "needs a `port`"),
        Some(CatalogueProbe::Http(path)) if !path.starts_with('/') => {
            fault("probe.http", "accepted: a path, as `/`")
        }
        Some(CatalogueProbe::Tcp(false)) => fault("probe.tcp", "accepted: true, or no probe"),
        _ => {}
    }
    if let Some(builder) = &entry.builder {
        if builder.run.is_empty() {
            fault("builder.run", "accepted: at least one line");
        }
        // A line that goes on, or that is several, would be another instruction of the Dockerfile.
        if builder
            .run
            .iter()
            .any(|line| line.trim().is_empty() || line.contains(['\n', '\r']) || line.ends_with('\\'))
        {
            fault("builder.run", "accepted: single lines of shell");
        }
        if builder.output.is_empty()
            || builder.output.contains(char::is_whitespace)
            || builder.output.contains("..")
        {
            fault("builder.output", "accepted: a directory without blanks and `..`, as `/out` or `dist`");
        }
    }
    let day = |text: &str| {
        text.len() == 10
            && text
                .bytes()
                .enumerate()
                .all(|(at, byte)| if matches!(at, 4 | 7) { byte == b'-' } else { byte.is_ascii_digit() })
    };
    if entry.end_of_life.as_deref().is_some_and(|text| !day(text)) {
        fault("end-of-life", "accepted: a day, as `2028-04-30`");
    }
    faults
}

/// What the one port of an entry is called.
pub(in crate::source) fn port_name() -> ews_core::Result<PortName> {
    "http".parse()
}
