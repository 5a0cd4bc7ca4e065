//! What comes from the network at the gateway: heads of requests and of the PROXY protocol. The verdict does not depend on how the bytes came.
#![no_main]

mod pieces;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let whole = ews_route::fuzzing::heads(&[bytes]);
    let (out, verdict) = ews_route::fuzzing::heads(&pieces::cut(bytes));
    assert_eq!(whole.1, verdict);
    // Of a body that is found out to be broken, more or less of what came before may be on its way already.
    assert!(out.starts_with(&whole.0), "{out:?} {whole:?}");
    assert!(out.len() == whole.0.len() || verdict.starts_with("Broken"), "{out:?} {whole:?}");
    ews_route::fuzzing::proxy(bytes);
});
