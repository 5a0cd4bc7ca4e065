//! The program `ews-gateway` as whoever starts it meets it: its help, what it says of mistakes, and how it ends.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::net::TcpListener;
use std::process::{Command, Output};

fn gateway(words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ews-gateway")).args(words).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn help_and_version_are_answers_and_no_mistakes() {
    let help = gateway(&["--help"]);
    assert!(help.status.success() && text(&help.stdout).contains("usage: ews-gateway"), "{help:?}");
    let version = gateway(&["--version"]);
    assert_eq!(text(&version.stdout), format!("ews-gateway {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn a_wrong_command_line_is_told_from_an_address_that_is_taken() {
    let wrong = gateway(&["--lisen", "127.0.0.1:0"]);
    assert_eq!(wrong.status.code(), Some(2), "{wrong:?}");
    assert!(text(&wrong.stderr).contains("`--lisen` is no option; accepted: "), "{wrong:?}");

    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let refused = gateway(&["--listen", "127.0.0.1:0", "--listen", &address]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    let said = text(&refused.stderr);
    assert!(said.contains("port_in_use") && said.contains(&address), "{said}");
    // Nobody could change anything while it ran, which it said before.
    assert!(said.contains("WARN ews_gateway: nothing can be changed"), "{said}");
}
