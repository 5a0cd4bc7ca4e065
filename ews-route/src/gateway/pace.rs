//! How fast a client sends its requests' bodies and takes its answers.
//!
//! Only waiting for the client counts. What the gateway or an endpoint keeps it from is not its fault: nobody asks for more of
//! a body that an endpoint does not take, and nothing is offered while an endpoint has nothing to say.

use std::cell::Cell;

/// For how long a client is waited for before its pace is judged, in milliseconds.
pub(crate) const PACE: u64 = 10_000;

/// How a request's body comes, as far as it is waited for.
#[derive(Debug, Default)]
pub(crate) struct Coming(Cell<Body>);

#[derive(Debug, Clone, Copy, Default)]
struct Body {
    /// Whether the next bytes are asked for and not there.
    waits: bool,
    /// For how long that was so, in milliseconds, and how much came by it.
    waited: u64,
    bytes: u64,
    /// When it was looked at last.
    looked: u64,
}

impl Coming {
    /// More is asked for and not there yet.
    pub(crate) fn waits(&self, now: u64) {
        let body = self.0.get();
        let looked = if body.waits { body.looked } else { now };
        self.0.set(Body { waits: true, looked, ..body });
    }

    /// So much of it came.
    pub(crate) fn came(&self, bytes: usize) {
        let body = self.0.get();
        if body.waits || body.waited > 0 {
            self.0.set(Body { waits: false, bytes: body.bytes + bytes as u64, ..body });
        }
    }

    /// It has ended, or there is none.
    pub(crate) fn reset(&self) {
        self.0.set(Body::default());
    }

    /// Whether less comes than so many bytes per second, judged every ten seconds of waiting for it.
    pub(crate) fn is_slow(&self, now: u64, least: u32) -> bool {
        let mut body = self.0.get();
        if body.waits {
            body.waited += now.saturating_sub(body.looked);
            body.looked = now;
        }
        let is_slow = body.waited >= PACE && body.bytes * 1_000 < u64::from(least) * body.waited;
        if body.waited >= PACE {
            (body.waited, body.bytes) = (0, 0);
        }
        self.0.set(body);
        is_slow
    }
}

/// How answers are taken, as far as that is waited for.
///
/// What can be seen is when a buffer that was full takes more, not when the client has read. So a client owes what it had to
/// take in the time that it was waited for, less what was then handed over, and is slow once it owes more than lies in the
/// buffers between the two and ten seconds' worth: who reads as fast as it must never owes so much. Who is fast for a while
/// saves nothing up by it.
#[derive(Debug, Default)]
pub(crate) struct Taking {
    /// Since when it is waited for, in milliseconds.
    since: Cell<Option<u64>>,
    /// What it owes, in thousandths of a byte.
    owed: Cell<u64>,
    /// How much may lie between the two, in bytes.
    between: Cell<u64>,
}

impl Taking {
    /// Nothing more is taken for now, with so much in between: asked for when that is not known, or may have grown.
    pub(crate) fn blocked(&self, now: u64, between: impl FnOnce() -> u64) {
        if self.since.get().is_none() {
            self.since.set(Some(now));
            if self.between.get() == 0 || self.owed.get() > 0 {
                self.between.set(self.between.get().max(between()));
            }
        }
    }

    /// So much is taken.
    pub(crate) fn took(&self, now: u64, least: u32, bytes: usize) {
        if self.since.get().is_some() || self.owed.get() > 0 {
            let owed = self.owes(now, least);
            self.since.set(None);
            self.owed.set(owed.saturating_sub((bytes as u64).saturating_mul(1_000)));
        }
    }

    fn owes(&self, now: u64, least: u32) -> u64 {
        let waited = self.since.get().map_or(0, |since| now.saturating_sub(since));
        self.owed.get().saturating_add(waited.saturating_mul(u64::from(least)))
    }

    /// Whether less is taken than so many bytes per second.
    pub(crate) fn is_slow(&self, now: u64, least: u32) -> bool {
        let spared = self.between.get().saturating_mul(1_000).saturating_add(PACE * u64::from(least));
        self.since.get().is_some() && self.owes(now, least) > spared
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads so many bytes per second out of a full buffer, which takes more when a third of it is free; whether and when
    /// (in seconds) it is found slow.
    fn read(rate: u64, buffer: u64, least: u32) -> Option<u64> {
        let taking = Taking::default();
        let (mut free, mut now) = (0, 0);
        taking.blocked(now, || buffer);
        while now < 10_000_000 {
            now += 100;
            free += rate / 10;
            if free >= buffer / 3 {
                taking.took(now, least, usize::try_from(free).unwrap());
                free = 0;
                taking.blocked(now, || buffer);
            }
            if taking.is_slow(now, least) {
                return Some(now / 1_000);
            }
        }
        None
    }

    #[test]
    fn who_reads_as_fast_as_it_must_is_never_slow_whatever_lies_between() {
        for buffer in [3_000, 90_000, 2_500_000] {
            assert_eq!(read(240, buffer, 240), None, "{buffer}");
            assert_eq!(read(10_000, buffer, 10_000), None, "{buffer}");
        }
        assert!(read(120, 3_000, 240).is_some_and(|seconds| seconds < 60));
        assert!(read(10, 90_000, 1_000).is_some_and(|seconds| seconds < 120));
        assert_eq!(read(10, 90_000, 0), None, "there is no least");
    }

    #[test]
    fn nothing_is_saved_up() {
        let taking = Taking::default();
        taking.blocked(0, || 1_000);
        taking.took(100, 1_000, 1_000_000_000);
        taking.blocked(200, || 1_000);
        assert!(!taking.is_slow(11_200, 1_000) && taking.is_slow(11_300, 1_000));
        taking.took(11_300, 1_000, 0);
        assert!(!taking.is_slow(100_000, 1_000), "nobody waits for it");
    }
}
