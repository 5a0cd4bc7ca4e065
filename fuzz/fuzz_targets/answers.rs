//! What endpoints answer: heads, chunks and trailers. What is read does not depend on how the bytes came.
#![no_main]

mod pieces;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let is_head = pieces::number(bytes) & 7 == 0;
    let whole = ews_route::fuzzing::answers(&[bytes], is_head);
    let cut = ews_route::fuzzing::answers(&pieces::cut(bytes), is_head);
    assert_eq!(whole, cut);
});
