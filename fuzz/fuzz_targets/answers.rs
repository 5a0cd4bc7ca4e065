//! What endpoints answer: heads, chunks and trailers. What is read does not depend on how the bytes came.
#![no_main]

use std::hash::{DefaultHasher, Hasher};

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    // Where they are cut follows from what they are, so that an answer as it is on the wire is a seed.
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    let (mut random, mut rest, mut pieces) = (hasher.finish(), bytes, Vec::new());
    let is_head = random & 7 == 0;
    let whole = ews_route::fuzzing::answers(&[bytes], is_head);
    while !rest.is_empty() && pieces.len() < 64 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let longest = if random >> 63 == 0 { 4 } else { 64 };
        let (piece, after) = rest.split_at(rest.len().min((random >> 40) as usize % longest));
        pieces.push(piece);
        rest = after;
    }
    pieces.push(rest);
    let cut = ews_route::fuzzing::answers(&pieces, is_head);
    assert_eq!(whole, cut);
});
