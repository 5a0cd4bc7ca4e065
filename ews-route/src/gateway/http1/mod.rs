//! HTTP/1.1 to endpoints, on the task of whoever asks.
//!
//! hyper's client makes each connection a task of its own: a request, its answer and every piece of a body pass through channels,
//! and two tasks are woken in turn. Here a connection is a socket that whoever has it writes and reads; an idle one is nothing
//! but that socket. Only a request whose body is still coming when its answer begins gets a task for the rest of it, so that
//! neither waits for the other.
//!
//! # Reading order
//! [`sending`] (a request as bytes), [`head`] (the begin of an answer), [`chunks`], [`reply`] (an answer's body).

mod chunks;
mod head;
mod reply;
mod sending;

#[cfg(test)]
mod tests;

/// What the fuzz targets reach.
#[cfg(fuzzing)]
pub(crate) mod fuzzing {
    pub(crate) use super::chunks::Chunks;
    pub(crate) use super::head::{Framing, Interim, Read, read};
}

pub(crate) use reply::Reply;

use std::cell::RefCell;
use std::future::{Future as _, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use hyper::{Method, Request, Response, StatusCode};
use tokio::io::{AsyncRead as _, ReadBuf};

use super::body::RequestBody;
use super::names::Remote;
use super::stream::Stream;
use super::thread::Thread;
use head::{Framing, Head};
use reply::Http1Reply;
use sending::{Broken, Sending};

/// A socket, shared with the task that sends the rest of a request.
type Socket = Rc<RefCell<Stream>>;

/// A connection for one request after the other.
#[derive(Debug)]
pub(crate) struct Http1 {
    socket: Socket,
    /// How it was made; a pool that is changed takes none of before.
    pub(crate) flavour: u64,
    /// Where it leads, where its endpoint is known by name.
    pub(crate) remote: Option<Remote>,
}

/// What an upgraded connection consists of: the socket, and what was read of it already.
#[derive(Debug)]
pub(crate) struct Upgraded(pub(crate) Stream, pub(crate) Bytes);

/// A request that got no answer.
#[derive(Debug)]
pub(crate) struct Unanswered {
    /// The request again, where nothing of a body is gone.
    pub(crate) request: Option<Box<Request<RequestBody>>>,
    /// How far it came.
    pub(crate) reached: Reached,
}

/// How far a request came that got no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reached {
    /// Nothing was sent.
    Nobody,
    /// The connection ended without a byte of an answer.
    Silence,
    /// Something came that is no whole head of an answer, or it can't be told.
    Something,
}

impl Http1 {
    pub(crate) fn new(stream: Stream, flavour: u64, remote: Option<Remote>) -> Self {
        Self { socket: Rc::new(RefCell::new(stream)), flavour, remote }
    }

    /// Whether it can take a request: it is open, and nothing came that nobody asked for. Without a call to the system where
    /// nothing has happened.
    pub(crate) fn is_open(&self) -> bool {
        let (mut byte, mut stream) = ([0], self.socket.borrow_mut());
        let mut buffer = ReadBuf::new(&mut byte);
        // Its task's share of turns is for what moves something.
        let look = poll_fn(|cx| Pin::new(&mut *stream).poll_read(cx, &mut buffer));
        let look = pin!(tokio::task::unconstrained(look));
        look.poll(&mut Context::from_waker(Waker::noop())).is_pending()
    }

    /// The same with the system's own word for it, for what can't be asked twice.
    pub(crate) fn is_surely_open(&self) -> bool {
        self.is_open() && self.socket.borrow().is_quiet()
    }

    /// Asks a request; the answer's begin comes of [`Asked::poll`].
    pub(crate) fn ask(self, request: Box<Request<RequestBody>>) -> Asked {
        let is_head = request.method() == Method::HEAD;
        // A server that expects no body here would take it for the next request: so there is none after it.
        let is_odd = !request.body().is_empty() && (is_head || request.method() == Method::GET);
        let sending = Sending::new(request);
        Asked {
            connection: Some(self),
            sending: Some(sending),
            has_begun: false,
            is_sent: false,
            is_head,
            is_odd,
            reading: Reading::default(),
        }
    }

    /// The socket itself, where nobody else has it.
    fn into_stream(self) -> Option<Stream> {
        Rc::into_inner(self.socket).map(RefCell::into_inner)
    }
}

/// A request under way, until its answer begins.
#[derive(Debug)]
pub(crate) struct Asked {
    connection: Option<Http1>,
    sending: Option<Sending>,
    /// Whether it was its turn once.
    has_begun: bool,
    /// Whether all of it was sent that will be.
    is_sent: bool,
    is_head: bool,
    is_odd: bool,
    reading: Reading,
}

impl Asked {
    pub(crate) fn poll(
        &mut self,
        thread: &Rc<Thread>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Response<Reply>, Unanswered>> {
        if !std::mem::replace(&mut self.has_begun, true) {
            // All that came at once is read before anything is sent on: so the endpoint's side is woken once for all of it, and
            // answers in one go.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let Self { connection, sending, is_sent, is_head, is_odd, reading, .. } = self;
        let (Some(http1), Some(under_way)) = (connection.as_ref(), sending.as_mut()) else {
            // It has been answered.
            return Poll::Pending;
        };
        let read = {
            let mut stream = http1.socket.borrow_mut();
            let mut reached = None;
            if !*is_sent {
                match under_way.poll(&mut stream, thread, cx) {
                    Poll::Pending if !under_way.is_begun() => return Poll::Pending,
                    Poll::Pending => {}
                    Poll::Ready(Ok(())) => *is_sent = true,
                    Poll::Ready(Err(Broken::Body)) => reached = Some(Reached::Something),
                    Poll::Ready(Err(Broken::Socket)) if under_way.is_begun() => {
                        // It may have been answered before, which is read below.
                        *is_sent = true;
                        reading.is_cut = true;
                    }
                    Poll::Ready(Err(Broken::Socket)) => reached = Some(Reached::Nobody),
                }
            }
            match reached {
                Some(reached) => Err(reached),
                None => ready!(reading.poll(&mut stream, thread, *is_head, cx)),
            }
        };
        let (Some(http1), Some(under_way)) = (connection.take(), sending.take()) else {
            return Poll::Pending;
        };
        Poll::Ready(match read {
            Ok(Head { response, framing, is_last, rest }) => {
                let is_kept = !is_last && !reading.is_cut && !*is_odd;
                let unsent = if *is_sent {
                    if let Some(answered) = under_way.end() {
                        thread.recycle(answered.into_parts().0.headers);
                    }
                    None
                } else {
                    Some(sending::Rest::go_on(under_way, &http1.socket, thread.clone()))
                };
                let is_upgraded = response.status() == StatusCode::SWITCHING_PROTOCOLS;
                let reply = match framing {
                    Framing::Length(length)
                        if length == rest.len() as u64 && unsent.is_none() && !is_upgraded =>
                    {
                        Reply::Whole(rest, is_kept.then_some(http1))
                    }
                    _ => {
                        let thread = thread.clone();
                        Reply::Http1(Box::new(Http1Reply::new(http1, framing, rest, is_kept, unsent, thread)))
                    }
                };
                Ok(response.map(|()| reply))
            }
            Err(reached) => Err(Unanswered { request: under_way.end(), reached }),
        })
    }
}

/// An answer's head, as far as it has come.
#[derive(Debug, Default)]
struct Reading {
    kept: Vec<u8>,
    interim: head::Interim,
    /// Whether the request could not be sent to its end.
    is_cut: bool,
}

impl Reading {
    fn poll(
        &mut self,
        stream: &mut Stream,
        thread: &Thread,
        is_head: bool,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Head, Reached>> {
        loop {
            let mut scratch = thread.scratch.borrow_mut();
            let mut buffer = ReadBuf::new(&mut scratch);
            let read: io::Result<()> = ready!(Pin::new(&mut *stream).poll_read(cx, &mut buffer));
            let came = buffer.filled();
            if read.is_err() || came.is_empty() {
                let is_silent = self.kept.is_empty() && self.interim.is_none();
                return Poll::Ready(Err(if is_silent { Reached::Silence } else { Reached::Something }));
            }
            let from = self.kept.len();
            let bytes = if from == 0 {
                came
            } else {
                self.kept.extend_from_slice(came);
                &self.kept
            };
            match head::read(bytes, from, is_head, &mut self.interim, |bytes| {
                (thread.shared_copy(bytes), thread.header_map())
            }) {
                Ok(head::Read::Whole(head)) => return Poll::Ready(Ok(head)),
                Ok(head::Read::Partial { used }) => {
                    if from == 0 {
                        self.kept.extend_from_slice(came.get(used..).unwrap_or_default());
                    } else {
                        self.kept.drain(..used);
                    }
                }
                Err(_) => return Poll::Ready(Err(Reached::Something)),
            }
        }
    }
}
