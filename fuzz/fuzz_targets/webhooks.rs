//! Bodies of webhooks, once their signature was right: a forge may be taken over too. The first byte says whose, the second which event.
#![no_main]

use libfuzzer_sys::fuzz_target;

const EVENTS: [&str; 8] =
    ["push", "release", "registry_package", "package", "ping", "Push Hook", "Tag Push Hook", "Release Hook"];

fuzz_target!(|bytes: &[u8]| {
    let [which, event, body @ ..] = bytes else { return };
    let event = EVENTS[usize::from(event.wrapping_sub(b'0')) % EVENTS.len()];
    ews_deploy::intake::fuzzing::heard(which.wrapping_sub(b'0'), event, body);
});
