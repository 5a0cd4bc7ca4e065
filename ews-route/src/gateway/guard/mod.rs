//! The head guard: every request head is judged on its raw bytes before hyper sees one of them.
//!
//! hyper is lenient where an edge must not be: it takes bare LF, does not look at `Host`, and drops a length beside
//! `Transfer-Encoding` without a word, so that attempts to smuggle could be neither refused nor counted. The guard stands
//! between the socket and hyper. It holds a head back until it is complete and accepted; then hyper gets exactly those
//! bytes. It follows each body (length or chunks) to its end, so that it finds the next head where hyper and the upstream
//! find it. What it accepts is so narrow that no two readers can disagree on it.
//!
//! A refusal goes through hyper as well, so that answers before it are sent first and in order: in place of the refused
//! head hyper is given [`SUBSTITUTE`], and the service is told the number of that head. A body that turns out malformed
//! can't be refused any more: the stream breaks there.
//!
//! No IO here: bytes in, bytes and a verdict out. The verdict does not depend on how the bytes were split.

mod body;
mod chars;
mod head;
#[cfg(feature = "http2")]
pub(crate) mod http2;
mod refusal;

#[cfg(test)]
mod corpus;
#[cfg(test)]
mod tests;

pub(crate) use body::Body as ChunkedBody;
pub(crate) use head::HeadLimits;
pub(crate) use refusal::Refusal;

use body::Body;
use head::{Head, Step};

/// What hyper reads in place of a refused head. HTTP/1.0 without keep-alive ends the connection.
pub(crate) const SUBSTITUTE: &[u8] = b"GET / HTTP/1.0\r\n\r\n";

/// Empty lines before a request that are passed over (RFC 9112, section 2.2 asks for one).
const EMPTY_LINES: usize = 8;

/// The guard of one connection.
#[derive(Debug)]
pub(crate) struct Guard {
    limits: HeadLimits,
    state: State,
    /// The bytes of a head that is not complete.
    held: Vec<u8>,
    empty_lines: usize,
    heads: u64,
}

#[derive(Debug)]
enum State {
    Head(Head),
    Body(Body),
    /// Nothing more is let through.
    Ended,
}

/// What came of some bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing is wrong so far.
    Fine,
    /// The head of this number, from 1, was refused and replaced.
    Refused(u64, Refusal),
    /// The body of the last request is malformed: the connection can't go on.
    Broken(Refusal),
}

impl Guard {
    pub(crate) fn new(limits: HeadLimits) -> Self {
        Self { limits, state: State::Head(Head::default()), held: Vec::new(), empty_lines: 0, heads: 0 }
    }

    /// What was held back of a head that is none, after an upgrade.
    pub(crate) fn take_held(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.held)
    }

    /// Whether a head has begun and is not complete.
    pub(crate) fn is_within_head(&self) -> bool {
        !self.held.is_empty()
    }

    /// Whether the last request has come whole and nothing of another one.
    pub(crate) fn is_between_requests(&self) -> bool {
        matches!(self.state, State::Head(_)) && self.held.is_empty()
    }

    /// Looks at more bytes and hands on what is accepted, in order.
    pub(crate) fn advance(&mut self, input: &[u8], out: &mut impl FnMut(&[u8])) -> Verdict {
        if self.held.is_empty() {
            let (verdict, kept) = self.run(input, out);
            self.held.extend_from_slice(input.get(input.len() - kept..).unwrap_or_default());
            return verdict;
        }
        let mut held = std::mem::take(&mut self.held);
        held.extend_from_slice(input);
        let (verdict, kept) = self.run(&held, out);
        held.drain(..held.len() - kept);
        if kept > 0 {
            self.held = held;
        }
        verdict
    }

    /// Refuses what comes next: the head that is not complete, or the next one.
    pub(crate) fn refuse(&mut self, refusal: Refusal, out: &mut impl FnMut(&[u8])) -> Verdict {
        self.held = Vec::new();
        self.state = State::Ended;
        self.heads += 1;
        out(SUBSTITUTE);
        Verdict::Refused(self.heads, refusal)
    }

    /// The verdict, and how many of the last bytes are to be held back.
    fn run(&mut self, mut input: &[u8], out: &mut impl FnMut(&[u8])) -> (Verdict, usize) {
        loop {
            match &mut self.state {
                State::Ended => return (Verdict::Fine, 0),
                State::Head(head) => {
                    while let Some(rest) = input.strip_prefix(b"\r\n") {
                        self.empty_lines += 1;
                        if self.empty_lines > EMPTY_LINES {
                            return (self.refuse(Refusal::RequestLine, out), 0);
                        }
                        // The head has seen no more than these two bytes.
                        *head = Head::default();
                        input = rest;
                    }
                    if input.is_empty() {
                        return (Verdict::Fine, 0);
                    }
                    // A lone CR may become an empty line.
                    if input == b"\r" {
                        return (Verdict::Fine, 1);
                    }
                    match head.feed(input, &self.limits) {
                        Step::More => return (Verdict::Fine, input.len()),
                        Step::Refused(refusal) => return (self.refuse(refusal, out), 0),
                        Step::Done { length, framing } => {
                            let (taken, rest) = input.split_at_checked(length).unwrap_or((input, &[]));
                            out(taken);
                            input = rest;
                            self.heads += 1;
                            self.empty_lines = 0;
                            self.state = State::Body(Body::new(framing));
                        }
                    }
                }
                State::Body(body) => {
                    let taken = match body.feed(input) {
                        Ok(taken) => taken,
                        Err(refusal) => {
                            self.state = State::Ended;
                            return (Verdict::Broken(refusal), 0);
                        }
                    };
                    let (taken, rest) = input.split_at_checked(taken).unwrap_or((input, &[]));
                    if !taken.is_empty() {
                        out(taken);
                    }
                    input = rest;
                    if !body.is_done() {
                        return (Verdict::Fine, 0);
                    }
                    self.state = State::Head(Head::default());
                }
            }
        }
    }
}
