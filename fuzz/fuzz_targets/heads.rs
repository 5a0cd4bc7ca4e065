//! What comes from the network at the gateway: heads of requests and of the PROXY protocol. The verdict does not depend on how the bytes came.
#![no_main]

use std::hash::{DefaultHasher, Hasher};

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let whole = ews_route::fuzzing::heads(&[bytes]);
    // Where they are cut follows from what they are, so that a request as it is on the wire is a seed.
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    let (mut random, mut rest, mut pieces) = (hasher.finish(), bytes, Vec::new());
    while !rest.is_empty() && pieces.len() < 64 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let longest = if random >> 63 == 0 { 4 } else { 64 };
        let (piece, after) = rest.split_at(rest.len().min((random >> 40) as usize % longest));
        pieces.push(piece);
        rest = after;
    }
    pieces.push(rest);
    let (out, verdict) = ews_route::fuzzing::heads(&pieces);
    assert_eq!(whole.1, verdict);
    // Of a body that is found out to be broken, more or less of what came before may be on its way already.
    assert!(out.starts_with(&whole.0), "{out:?} {whole:?}");
    assert!(out.len() == whole.0.len() || verdict.starts_with("Broken"), "{out:?} {whole:?}");
    ews_route::fuzzing::proxy(bytes);
});
