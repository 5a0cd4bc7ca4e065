//! The unit of systemd that comes with the host: read by systemd where that is here, and what it starts is a command that there is.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::print_stderr, reason = "tests")]

mod stage;

use std::process::Command;

use stage::{ews, package};

/// What a setting says; the last one holds.
fn setting<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('=')).next_back()
}

#[test]
fn what_the_unit_starts_is_a_command_that_there_is() {
    let text = std::fs::read_to_string(package("ews.service")).unwrap();
    let mut words = setting(&text, "ExecStart").unwrap().split_whitespace();
    assert!(words.next().unwrap().starts_with('/'), "systemd takes whole paths");
    // A configuration that is not there is the first thing that is missed: the command line was right.
    let words: Vec<_> =
        words.map(|word| if word.ends_with(".toml") { "/no/such/ews.toml" } else { word }).collect();
    ews(&words).ends(4).says(&["/no/such/ews.toml can't be read"]);
    // Its directories are those that systemd makes.
    for (setting_name, top) in [("StateDirectory", "/var/lib/"), ("ConfigurationDirectory", "/etc/")] {
        let directory = format!("{top}{}", setting(&text, setting_name).unwrap());
        assert!(setting(&text, "ExecStart").unwrap().contains(&directory), "{directory}");
    }
}

#[test]
fn systemd_reads_the_unit_without_complaint() {
    let analyze = Command::new("systemd-analyze").arg("--version").output();
    let Ok(version) = analyze else {
        eprintln!("not run: there is no systemd-analyze");
        return;
    };
    let version = String::from_utf8_lossy(&version.stdout).into_owned();
    let version: u32 = version.split_whitespace().nth(1).and_then(|text| text.parse().ok()).unwrap_or(0);
    let folder = tempfile::tempdir().unwrap();
    let unit = folder.path().join("ews.service");
    let text = std::fs::read_to_string(package("ews.service")).unwrap();
    std::fs::write(&unit, text.replace("/usr/local/bin/ews", stage::program())).unwrap();
    let output = Command::new("systemd-analyze").arg("verify").arg("--man=no").arg(&unit).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    // Of other units of this machine it may say what it likes.
    let about_ours = said.lines().filter(|line| line.contains("ews.service"));
    let complaints: Vec<_> =
        about_ours.filter(|line| version >= 254 || !line.contains("'DelegateSubgroup'")).collect();
    assert!(complaints.is_empty(), "{complaints:?}");
}
