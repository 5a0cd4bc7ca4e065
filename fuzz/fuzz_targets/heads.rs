//! What comes from the network at the gateway: heads of requests and of the PROXY protocol. The verdict does not depend on how the bytes came.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (&[u8], Vec<u8>)| {
    let (bytes, cuts) = input;
    let whole = ews_route::fuzzing::heads(&[bytes]);
    let mut pieces = Vec::new();
    let mut rest = bytes;
    for cut in cuts.iter().take(64) {
        let (piece, after) = rest.split_at(rest.len().min(usize::from(*cut)));
        pieces.push(piece);
        rest = after;
    }
    pieces.push(rest);
    assert_eq!(whole, ews_route::fuzzing::heads(&pieces));
    ews_route::fuzzing::proxy(bytes);
});
