//! What is measured, and what must hold.

use super::load::{Kind, Load};

/// At most so many times what a peer takes: what must hold, and what is wanted.
#[derive(Clone, Copy)]
pub(crate) struct Bound {
    pub(crate) peer: &'static str,
    pub(crate) must: f64,
    pub(crate) goal: Option<f64>,
}

/// One thing that proxies do.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) load: Load,
    /// Whether a relay that reads nothing is measured too.
    pub(crate) has_floor: bool,
    pub(crate) bounds: &'static [Bound],
}

const SMALL: &[Bound] = &[
    Bound { peer: "nginx", must: 1.15, goal: Some(1.0) },
    Bound { peer: "haproxy", must: 1.05, goal: Some(0.95) },
];
const OTHERS: &[Bound] = &[Bound { peer: "nginx", must: 1.3, goal: None }];

pub(crate) fn all() -> Vec<Case> {
    let case = |name, kind, path, connections, tls| Case {
        name,
        load: Load { kind, path, connections, tls },
        has_floor: name == "small",
        bounds: if name == "small" { SMALL } else { OTHERS },
    };
    vec![
        case("small", Kind::Kept, "/small", 32, false),
        case("body_16k", Kind::Kept, "/16k", 32, false),
        case("body_100k", Kind::Kept, "/100k", 16, false),
        case("connection_per_request", Kind::Fresh, "/small", 16, false),
        case("tls", Kind::Kept, "/small", 32, true),
        case("tls_handshake", Kind::Fresh, "/small", 16, true),
        case("http2", Kind::Streams(32), "/small", 4, false),
        case("http2_tls", Kind::Streams(32), "/small", 4, true),
        case("websocket_echo", Kind::Echo, "/echo", 32, false),
    ]
}
