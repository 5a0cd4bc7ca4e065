//! Input in pieces, as it comes from a network. Where it is cut follows from what it is, so that bytes as they are on the wire are a seed.

use std::hash::{DefaultHasher, Hasher};

/// A number that follows from the bytes.
pub fn number(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}

/// The bytes in at most 65 pieces, some of them empty.
pub fn cut(bytes: &[u8]) -> Vec<&[u8]> {
    let (mut random, mut rest, mut pieces) = (number(bytes), bytes, Vec::new());
    while !rest.is_empty() && pieces.len() < 64 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let longest = if random >> 63 == 0 { 4 } else { 64 };
        let (piece, after) = rest.split_at(rest.len().min((random >> 40) as usize % longest));
        pieces.push(piece);
        rest = after;
    }
    pieces.push(rest);
    pieces
}
