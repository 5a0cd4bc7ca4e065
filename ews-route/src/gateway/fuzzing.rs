//! What the fuzz targets reach that nobody else shall.

use super::guard::{Guard, HeadLimits, Verdict};
use super::proxy_protocol;

/// What the head guard hands on of these bytes as they come, and how it ends. Nothing is looked at after a refusal.
pub fn heads(pieces: &[&[u8]]) -> (Vec<u8>, String) {
    let limits = HeadLimits { bytes: 8 * 1024, headers: 50 };
    let (mut guard, mut out) = (Guard::new(limits), Vec::new());
    for piece in pieces {
        match guard.advance(piece, &mut |bytes: &[u8]| out.extend_from_slice(bytes)) {
            Verdict::Fine => {}
            verdict => return (out, format!("{verdict:?}")),
        }
    }
    (out, String::new())
}

/// Reads what may stand before a connection's own bytes.
pub fn proxy(bytes: &[u8]) {
    proxy_protocol::parse(bytes);
}
