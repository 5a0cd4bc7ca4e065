//! The README's first five minutes, run as they are written there.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod stage;

use std::process::{Command, Stdio};

use stage::{package, pause};

/// The lines of the blocks of shell below this heading.
fn shell(text: &str, heading: &str) -> Vec<String> {
    let section = text.split(&format!("## {heading}\n")).nth(1).unwrap().split("\n## ").next().unwrap();
    section.split("```sh\n").skip(1).map(|block| block.split("```").next().unwrap().to_owned()).collect()
}

#[test]
fn the_first_five_minutes_work_as_written() {
    let text = std::fs::read_to_string(package("README.md")).unwrap();
    let blocks = shell(&text, "The first five minutes");
    // The first builds, which was done; the second is the tour.
    assert!(blocks[0].contains("cargo build") && blocks.len() >= 2, "{blocks:?}");
    let top = tempfile::Builder::new().prefix("ews-readme-").tempdir().unwrap();
    let port = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().port()
    };
    let config = top.path().join("ews.toml");
    std::fs::write(
        &config,
        format!("[gateway]\nhttp = [\"127.0.0.1:{port}\"]\n[process]\nports = {}\n", stage::ports()),
    )
    .unwrap();
    let program = std::path::Path::new(stage::program());
    // Two things are other than a reader has them: a port that is free here, and no build.
    let tour = blocks[1..]
        .concat()
        .replace(":8080", &format!(":{port}"))
        .replace("ews serve", &format!("ews serve --config {}", config.display()));
    let script = format!(
        "set -e\nexport PATH={}:$PATH EWS_DATA={}\n{tour}",
        program.parent().unwrap().display(),
        top.path().join("data").display()
    );
    let output = Command::new("bash")
        .args(["-c", &script])
        .current_dir(package("../.."))
        .env_remove("EWS_API")
        .env_remove("EWS_TOKEN_FILE")
        .stdin(Stdio::null())
        .stdout(std::fs::File::create(top.path().join("out")).unwrap())
        .stderr(std::fs::File::create(top.path().join("err")).unwrap())
        .status();
    let read = |name: &str| std::fs::read_to_string(top.path().join(name)).unwrap();
    let (out, err) = (read("out"), read("err"));
    assert!(output.unwrap().success(), "{out}\n{err}");
    for wanted in [
        "hello from version v1 in slot",
        "rollout 1 of hello succeeded",
        "hello has 4 instances",
        "hello is gone",
    ] {
        assert!(out.contains(wanted), "{wanted}\n{out}\n{err}");
    }
    // Its last line ends the host.
    for _ in 0..200 {
        if !top.path().join("data/host.json").exists() {
            return;
        }
        pause(50);
    }
    unreachable!("the host runs on:\n{out}\n{err}");
}
