//! The smallest embedding does what it says and leaves nothing.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::Path;
use std::process::Command;

/// The processes whose command line or environment names this directory.
fn processes_of(directory: &Path) -> Vec<String> {
    let wanted = directory.to_str().unwrap().as_bytes();
    let mut found = Vec::new();
    for process in std::fs::read_dir("/proc").unwrap().flatten() {
        for file in ["cmdline", "environ"] {
            let text = std::fs::read(process.path().join(file)).unwrap_or_default();
            if text.windows(wanted.len()).any(|window| window == wanted) {
                found.push(format!("{}: {}", process.path().display(), String::from_utf8_lossy(&text)));
            }
        }
    }
    found
}

#[test]
fn two_versions_are_deployed_and_nothing_is_left() {
    let directory = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_embed")).env("TMPDIR", directory.path()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));

    let lines: Vec<&str> = said.lines().collect();
    let [v1, first @ .., v2, third, fourth] = lines.as_slice() else { unreachable!("{said}") };
    assert!(v1.starts_with("v1: Some(Succeeded)") && v2.starts_with("v2: Some(Succeeded)"), "{said}");
    assert_eq!(first.len(), 2, "{said}");
    for (instances, revision) in [(first, "r1"), (&[*third, *fourth][..], "r2")] {
        for instance in instances {
            assert!(instance.contains(&format!("of {revision}")) && instance.ends_with("Running"), "{said}");
        }
    }

    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "a file is left");
    assert!(processes_of(directory.path()).is_empty(), "{:?}", processes_of(directory.path()));
}

#[test]
fn it_is_as_small_as_it_says() {
    let text = include_str!("../src/bin/embed.rs");
    assert!(text.lines().count() < 60, "the smallest embedding has {} lines", text.lines().count());
}
