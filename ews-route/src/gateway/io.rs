//! Sockets as hyper reads and writes them, the client's with the guard in between.
//!
//! Both read into a buffer of their thread and copy from there, so that an idle connection holds no read buffer of its own
//! beside hyper's.

use std::io::{Error, ErrorKind, Result};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use hyper::rt::{Read, ReadBufCursor, Write};
use tokio::io::{AsyncRead as _, AsyncWrite, ReadBuf};

use super::connection::{Connection, Phase};
use super::guard::{Guard, HeadLimits, Refusal, Verdict};
use super::stream::Stream;
use super::thread::Thread;

/// Up to how many bytes pieces are copied into one before they are written: below a page, a copy is cheaper than what the
/// system does for a list.
const GATHER: usize = 4096;

/// The most that is read and thrown away at the end of a connection that is cut off.
const LINGER_BYTES: usize = 1024 * 1024;

/// A client's socket.
pub(crate) struct ClientIo {
    stream: Stream,
    /// Whether what comes is HTTP/1.1, which is judged.
    is_guarded: bool,
    guard: Guard,
    connection: Rc<Connection>,
    /// What the guard let through and hyper had no room for.
    ready: Vec<u8>,
    is_refused: bool,
    is_broken: bool,
    /// What may still be thrown away, from the socket's end on; 1 where that is used up.
    linger: usize,
}

impl ClientIo {
    pub(crate) fn new(stream: Stream, connection: Rc<Connection>) -> Self {
        let limits = connection.thread.shared.config.limits;
        let limits = HeadLimits { bytes: limits.head_bytes, headers: limits.headers };
        let guard = Guard::new(limits);
        Self {
            stream,
            is_guarded: true,
            guard,
            connection,
            ready: Vec::new(),
            is_refused: false,
            is_broken: false,
            linger: 0,
        }
    }

    /// Looks at the first bytes: whether they are HTTP/2's. What was read is judged or handed over later, as it turns out.
    #[cfg(feature = "http2")]
    pub(crate) fn poll_preface(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool>> {
        const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        loop {
            // One that stops in the midst of it is refused as any head that does not come in time.
            let mut is_end = self.connection.is_expired(Phase::Head);
            if !is_end {
                let thread = self.connection.thread.clone();
                let mut scratch = thread.scratch.borrow_mut();
                let mut buffer = ReadBuf::new(&mut scratch);
                ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer))?;
                let bytes = buffer.filled();
                is_end = bytes.is_empty();
                self.ready.extend_from_slice(bytes);
            }
            let length = self.ready.len().min(PREFACE.len());
            if self.ready.get(..length) == PREFACE.get(..length) && !is_end {
                if length == PREFACE.len() {
                    return Poll::Ready(Ok(true));
                }
                // A head that comes byte by byte gets no more time than any other.
                self.connection.guarded(true, true);
                continue;
            }
            self.connection.progress();
            let first = std::mem::take(&mut self.ready);
            let Self { guard, ready, .. } = self;
            let verdict = guard.advance(&first, &mut |accepted| ready.extend_from_slice(accepted));
            self.judged(verdict);
            return Poll::Ready(Ok(false));
        }
    }

    /// What comes is not HTTP/1.1: nothing of it is judged here.
    #[cfg(feature = "http2")]
    pub(crate) fn pass_all(&mut self) {
        self.is_guarded = false;
        self.connection.guarded(false, false);
    }

    /// The socket itself, and what was read of it and not handed over. From here on nothing is judged any more.
    pub(crate) fn into_stream(mut self) -> (Stream, Vec<u8>) {
        self.ready.extend(self.guard.take_held());
        (self.stream, self.ready)
    }

    /// Whether something of what came was refused.
    pub(crate) fn is_refused(&self) -> bool {
        self.is_refused || self.is_broken
    }

    fn hand_over(&mut self, target: &mut ReadBufCursor<'_>) {
        let length = self.ready.len().min(target.remaining());
        target.put_slice(self.ready.get(..length).unwrap_or_default());
        self.ready.drain(..length);
        if self.ready.is_empty() {
            self.ready = Vec::new();
        }
    }

    /// Whether the connection is to end without another byte either way.
    fn is_reset(&self) -> Result<()> {
        if self.connection.is_reset() {
            // What the client has not read goes with it.
            let _ = self.stream.set_zero_linger();
            return Err(ErrorKind::ConnectionAborted.into());
        }
        Ok(())
    }

    /// What came of writing to the client.
    fn wrote(&self, written: Poll<Result<usize>>) -> Poll<Result<usize>> {
        match &written {
            Poll::Pending => self.connection.blocked(|| self.stream.between()),
            Poll::Ready(Ok(bytes)) => {
                self.connection.took(*bytes);
                self.connection.progress();
            }
            Poll::Ready(Err(_)) => {}
        }
        written
    }

    fn judged(&mut self, verdict: Verdict) {
        match verdict {
            Verdict::Fine => {}
            Verdict::Refused(number, refusal) => {
                self.is_refused = true;
                self.connection.refuse(number, refusal);
            }
            Verdict::Broken(refusal) => {
                self.is_broken = true;
                self.connection.thread.counts.refused(refusal);
            }
        }
        let within = !self.guard.is_between_requests();
        self.connection.guarded(self.guard.is_within_head(), within);
    }
}

impl Read for ClientIo {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut target: ReadBufCursor<'_>,
    ) -> Poll<Result<()>> {
        let this = self.get_mut();
        this.is_reset()?;
        loop {
            if !this.ready.is_empty() {
                this.hand_over(&mut target);
                return Poll::Ready(Ok(()));
            }
            if this.is_broken {
                return Poll::Ready(Err(Error::new(ErrorKind::InvalidData, "the body is malformed")));
            }
            if this.is_refused {
                // The answer to the substitute ends the connection.
                return Poll::Pending;
            }
            if this.connection.is_expired(Phase::Head) {
                let Self { guard, ready, .. } = this;
                let verdict = guard.refuse(Refusal::HeadTimeout, &mut |bytes| ready.extend_from_slice(bytes));
                this.judged(verdict);
                continue;
            }
            let thread = this.connection.thread.clone();
            let mut scratch = thread.scratch.borrow_mut();
            let length = scratch.len().min(target.remaining());
            let mut buffer = ReadBuf::new(scratch.get_mut(..length).unwrap_or_default());
            let Poll::Ready(read) = Pin::new(&mut this.stream).poll_read(cx, &mut buffer) else {
                this.connection.waits();
                return Poll::Pending;
            };
            read?;
            let bytes = buffer.filled();
            if bytes.is_empty() {
                return Poll::Ready(Ok(()));
            }
            this.connection.came(bytes.len());
            this.connection.progress();
            if !this.is_guarded {
                target.put_slice(bytes);
                return Poll::Ready(Ok(()));
            }
            let mut handed = false;
            let Self { guard, ready, .. } = this;
            let verdict = guard.advance(bytes, &mut |accepted| {
                handed = true;
                // In order: once something waits, all waits.
                let fits = if ready.is_empty() { accepted.len().min(target.remaining()) } else { 0 };
                let (now, later) = accepted.split_at_checked(fits).unwrap_or_default();
                target.put_slice(now);
                ready.extend_from_slice(later);
            });
            this.judged(verdict);
            if handed {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl Write for ClientIo {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        let this = self.get_mut();
        this.is_reset()?;
        let written = Pin::new(&mut this.stream).poll_write(cx, bytes);
        this.wrote(written)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        // A socket holds nothing back; what is around it may.
        let this = self.get_mut();
        let flushed = Pin::new(&mut this.stream).poll_flush(cx);
        match flushed {
            Poll::Pending => this.connection.blocked(|| this.stream.between()),
            Poll::Ready(_) => this.connection.took(0),
        }
        flushed
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        let this = self.get_mut();
        if this.linger == 0 {
            ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
            if !this.connection.is_cut() {
                return Poll::Ready(Ok(()));
            }
            this.linger = LINGER_BYTES;
            this.connection.enter(Phase::Linger);
        }
        let thread = this.connection.thread.clone();
        let mut scratch = thread.scratch.borrow_mut();
        while this.linger > 1 {
            let mut buffer = ReadBuf::new(&mut scratch);
            ready!(Pin::new(&mut this.stream).poll_read(cx, &mut buffer))?;
            match buffer.filled().len() {
                0 => break,
                read => this.linger = this.linger.saturating_sub(read).max(1),
            }
        }
        Poll::Ready(Ok(()))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[std::io::IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        let this = self.get_mut();
        this.is_reset()?;
        let written = write_pieces(&mut this.stream, &this.connection.thread, cx, pieces);
        this.wrote(written)
    }
}

/// An upstream's socket, for hyper.
#[cfg(feature = "http2")]
#[derive(Debug)]
pub(crate) struct UpstreamIo {
    stream: Stream,
    thread: Rc<Thread>,
}

#[cfg(feature = "http2")]
impl UpstreamIo {
    pub(crate) fn new(stream: Stream, thread: Rc<Thread>) -> Self {
        Self { stream, thread }
    }
}

#[cfg(feature = "http2")]
impl Read for UpstreamIo {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut target: ReadBufCursor<'_>,
    ) -> Poll<Result<()>> {
        let this = self.get_mut();
        let mut scratch = this.thread.scratch.borrow_mut();
        let length = scratch.len().min(target.remaining());
        let mut buffer = ReadBuf::new(scratch.get_mut(..length).unwrap_or_default());
        ready!(Pin::new(&mut this.stream).poll_read(cx, &mut buffer))?;
        target.put_slice(buffer.filled());
        Poll::Ready(Ok(()))
    }
}

#[cfg(feature = "http2")]
impl Write for UpstreamIo {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[std::io::IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        let this = self.get_mut();
        write_pieces(&mut this.stream, &this.thread, cx, pieces)
    }
}

/// Writes what was given in pieces, in as cheap a way as its size allows.
fn write_pieces(
    stream: &mut Stream,
    thread: &Thread,
    cx: &mut Context<'_>,
    pieces: &[std::io::IoSlice<'_>],
) -> Poll<Result<usize>> {
    if let [one] = pieces {
        return Pin::new(stream).poll_write(cx, one);
    }
    let length: usize = pieces.iter().map(|piece| piece.len()).sum();
    let mut scratch = thread.scratch.borrow_mut();
    let Some(target) = scratch.get_mut(..length).filter(|_| length <= GATHER) else {
        return Pin::new(stream).poll_write_vectored(cx, pieces);
    };
    let mut rest = &mut *target;
    for piece in pieces {
        let Some((here, later)) = rest.split_at_mut_checked(piece.len()) else { break };
        here.copy_from_slice(piece);
        rest = later;
    }
    Pin::new(stream).poll_write(cx, target)
}
