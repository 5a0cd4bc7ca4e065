//! An endpoint's answer on its way to the client: its body, and the connection that it came on.

use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
#[cfg(feature = "http2")]
use hyper::body::Body as _;
use hyper::body::{Frame, SizeHint};
use tokio::io::{AsyncRead as _, AsyncReadExt as _, ReadBuf};

use super::chunks::Chunks;
use super::head::Framing;
use super::sending::{Fares, Rest};
use super::{Http1, Upgraded};
use crate::gateway::body::BodyError;
use crate::gateway::stream::Stream;
use crate::gateway::thread::Thread;
use crate::gateway::upstream::Sender;

/// Up to how much of a body is read by way of the thread's buffer.
const SMALL: u64 = 8 * 1024;
/// How much more is read at once.
const LARGE: usize = 64 * 1024;

/// The body of an answer, with what it comes on.
#[derive(Debug)]
pub(crate) enum Reply {
    /// All of it came with its head; its connection, where that can be used for another request.
    Whole(Bytes, Option<Http1>),
    /// HTTP/1.1's.
    Http1(Box<Http1Reply>),
    /// hyper's.
    #[cfg(feature = "http2")]
    Http2 {
        body: hyper::body::Incoming,
        /// The room that it takes on its connection.
        _stream: crate::gateway::upstream_http2::Stream,
    },
}

impl Reply {
    /// All of the body, where it is here already and its length was given. It is not given again.
    pub(crate) fn take_whole(&mut self) -> Option<Bytes> {
        match self {
            Self::Whole(bytes, _) => Some(std::mem::take(bytes)),
            Self::Http1(reply) => reply.take_whole(),
            #[cfg(feature = "http2")]
            Self::Http2 { .. } => None,
        }
    }

    /// The connection, where it can be used for another request.
    pub(crate) fn finish(self) -> Option<Sender> {
        match self {
            Self::Whole(_, connection) => connection.map(Sender::Http1),
            Self::Http1(reply) => reply.finish().map(Sender::Http1),
            // Others are on it anyhow.
            #[cfg(feature = "http2")]
            Self::Http2 { .. } => None,
        }
    }

    /// The connection itself, after an answer that upgrades it.
    pub(crate) fn upgraded(self) -> Option<Upgraded> {
        match self {
            Self::Whole(..) => None,
            Self::Http1(reply) => Some(Upgraded(reply.connection.into_stream()?, reply.bytes)),
            #[cfg(feature = "http2")]
            Self::Http2 { .. } => None,
        }
    }

    /// The next part of the body.
    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self {
            Self::Whole(bytes, _) if bytes.is_empty() => Poll::Ready(None),
            Self::Whole(bytes, _) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Self::Http1(reply) => {
                reply.poll_frame(cx).map(|frame| frame.map(|frame| frame.map_err(Into::into)))
            }
            #[cfg(feature = "http2")]
            Self::Http2 { body, .. } => {
                Pin::new(body).poll_frame(cx).map(|frame| frame.map(|frame| frame.map_err(Into::into)))
            }
        }
    }

    /// Whether nothing comes any more.
    pub(crate) fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes, _) => bytes.is_empty(),
            Self::Http1(reply) => reply.is_end(),
            #[cfg(feature = "http2")]
            Self::Http2 { body, .. } => body.is_end_stream(),
        }
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes, _) => SizeHint::with_exact(bytes.len() as u64),
            Self::Http1(reply) => reply.size_hint(),
            #[cfg(feature = "http2")]
            Self::Http2 { body, .. } => body.size_hint(),
        }
    }
}

/// The same over HTTP/1.1.
#[derive(Debug)]
pub(crate) struct Http1Reply {
    connection: Http1,
    body: Body,
    /// What was read and not handed on.
    bytes: Bytes,
    /// Whether the connection may take another request after this.
    is_kept: bool,
    /// The rest of the request, where it is still on its way.
    rest: Option<Rest>,
    thread: Rc<Thread>,
}

/// What is still to come of a body.
#[derive(Debug)]
enum Body {
    Length(u64),
    Chunked(Chunks),
    Close,
    Ended,
}

impl Http1Reply {
    pub(super) fn new(
        connection: Http1,
        framing: Framing,
        bytes: Bytes,
        is_kept: bool,
        rest: Option<Rest>,
        thread: Rc<Thread>,
    ) -> Self {
        let body = match framing {
            Framing::Length(0) => Body::Ended,
            Framing::Length(length) => Body::Length(length),
            Framing::Chunked => Body::Chunked(Chunks::new()),
            Framing::Close => Body::Close,
        };
        Self { connection, body, bytes, is_kept, rest, thread }
    }

    fn is_end(&self) -> bool {
        matches!(self.body, Body::Ended)
    }

    fn size_hint(&self) -> SizeHint {
        match self.body {
            Body::Length(left) => SizeHint::with_exact(left),
            Body::Ended => SizeHint::with_exact(0),
            Body::Chunked(_) | Body::Close => SizeHint::new(),
        }
    }

    fn take_whole(&mut self) -> Option<Bytes> {
        let Body::Length(left) = self.body else { return None };
        let left = usize::try_from(left).ok().filter(|left| *left <= self.bytes.len())?;
        self.body = Body::Ended;
        Some(self.bytes.split_to(left))
    }

    fn finish(mut self) -> Option<Http1> {
        let is_whole_request = match self.rest.take() {
            None => true,
            Some(rest) => {
                let is_sent = rest.fares() == Fares::Sent;
                if rest.fares() == Fares::Moving {
                    rest.leave();
                }
                is_sent
            }
        };
        // What came behind the answer was never asked for.
        let is_kept = self.is_kept && self.is_end() && self.bytes.is_empty() && is_whole_request;
        is_kept.then_some(self.connection)
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        loop {
            match &mut self.body {
                Body::Ended => return Poll::Ready(None),
                Body::Length(left) => {
                    if !self.bytes.is_empty() {
                        let length = usize::try_from(*left).unwrap_or(usize::MAX).min(self.bytes.len());
                        *left -= length as u64;
                        if *left == 0 {
                            self.body = Body::Ended;
                        }
                        return Poll::Ready(Some(Ok(Frame::data(self.bytes.split_to(length)))));
                    }
                    let most = *left;
                    if !ready!(self.poll_more(most, cx))? {
                        return Poll::Ready(Some(Err(io::ErrorKind::UnexpectedEof.into())));
                    }
                }
                Body::Chunked(chunks) => {
                    let (data, used) = chunks.next(&self.bytes).map_err(|_| io::ErrorKind::InvalidData)?;
                    let is_done = chunks.is_done();
                    if !data.is_empty() {
                        let data = self.bytes.slice(data);
                        self.bytes.advance(used);
                        return Poll::Ready(Some(Ok(Frame::data(data))));
                    }
                    self.bytes.advance(used);
                    if is_done {
                        let trailers = chunks.take_trailers().map_err(|_| io::ErrorKind::InvalidData)?;
                        self.body = Body::Ended;
                        return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
                    }
                    if !ready!(self.poll_more(u64::MAX, cx))? {
                        return Poll::Ready(Some(Err(io::ErrorKind::UnexpectedEof.into())));
                    }
                }
                Body::Close => {
                    if !self.bytes.is_empty() {
                        return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut self.bytes)))));
                    }
                    if !ready!(self.poll_more(u64::MAX, cx))? {
                        self.body = Body::Ended;
                        if self.rest.as_ref().is_some_and(|rest| rest.fares() == Fares::Broken) {
                            return Poll::Ready(Some(Err(io::ErrorKind::BrokenPipe.into())));
                        }
                        return Poll::Ready(None);
                    }
                }
            }
        }
    }

    /// Reads more, of which so much at most is wanted; `false` at the end of all.
    fn poll_more(&mut self, most: u64, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let mut stream = self.connection.socket.borrow_mut();
        self.bytes = if most <= SMALL {
            ready!(small(&mut stream, &self.thread, cx))?
        } else {
            ready!(large(&mut stream, &self.thread, cx))?
        };
        Poll::Ready(Ok(!self.bytes.is_empty()))
    }
}

/// Reads into more than is wanted: a read that fills its buffer would be followed by one more, to see whether that was all.
fn small(stream: &mut Stream, thread: &Thread, cx: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
    let mut scratch = thread.scratch.borrow_mut();
    let mut buffer = ReadBuf::new(&mut scratch);
    ready!(Pin::new(stream).poll_read(cx, &mut buffer))?;
    Poll::Ready(Ok(Bytes::copy_from_slice(buffer.filled())))
}

/// Much is not copied, little is: so no client that reads slowly holds more memory than it has still to read.
fn large(stream: &mut Stream, thread: &Thread, cx: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
    let mut spare = thread.spare.borrow_mut();
    spare.reserve(LARGE);
    let read = ready!(pin!(stream.read_buf(&mut *spare)).poll(cx))?;
    if read >= spare.capacity() / 2 {
        return Poll::Ready(Ok(std::mem::take(&mut *spare).freeze()));
    }
    let bytes = Bytes::copy_from_slice(&spare);
    spare.clear();
    Poll::Ready(Ok(bytes))
}
