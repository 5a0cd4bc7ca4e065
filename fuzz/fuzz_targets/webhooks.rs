//! Bodies of webhooks, once their signature was right: a forge may be taken over too.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u8, &str, &[u8])| {
    let (which, event, body) = input;
    ews_deploy::intake::fuzzing::heard(which, event, body);
});
