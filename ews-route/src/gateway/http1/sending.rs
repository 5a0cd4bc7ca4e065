//! A request as bytes on their way to an endpoint.

use std::cell::Cell;
use std::future::poll_fn;
use std::io::{IoSlice, Write as _};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use hyper::Request;
use hyper::body::{Body as _, Frame};
use hyper::header::{self, HeaderMap, HeaderName};
use tokio::io::AsyncWrite as _;
use tokio::task::JoinHandle;

use super::Socket;
use crate::gateway::body::RequestBody;
use crate::gateway::stream::Stream;
use crate::gateway::thread::Thread;

/// Up to how many bytes a part of a body is copied behind what is to be written before it: below a page, a copy is cheaper
/// than what the system does for a list.
const GATHER: usize = 4096;

/// Room for nearly every head.
const HEAD: usize = 1024;

/// The largest buffer that a thread keeps for its next head.
const KEPT_BUFFER: usize = 16 * 1024;

/// A request under way.
#[derive(Debug)]
pub(super) struct Sending {
    request: Box<Request<RequestBody>>,
    framing: Framing,
    /// Whether its head is in what is to be written.
    has_head: bool,
    /// What is to be written first, and how much of it was.
    out: Vec<u8>,
    written: usize,
    /// A large part of the body after that, and what ends it.
    part: Bytes,
    tail: &'static [u8],
    /// Whether all of the body is in what is to be written.
    is_last: bool,
    /// Whether a byte was written.
    is_begun: bool,
}

/// How the end of a request's body is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    /// So much is still to come.
    Length(u64),
    Chunked,
}

/// Why a request could not be sent to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Broken {
    /// Its body came to no good end.
    Body,
    /// The endpoint takes no more.
    Socket,
}

impl Sending {
    pub(super) fn new(request: Box<Request<RequestBody>>) -> Self {
        let framing = framing(&request);
        Self {
            is_last: framing == Framing::Length(0),
            request,
            framing,
            has_head: false,
            out: Vec::new(),
            written: 0,
            part: Bytes::new(),
            tail: b"",
            is_begun: false,
        }
    }

    /// Whether something of it was written.
    pub(super) fn is_begun(&self) -> bool {
        self.is_begun
    }

    /// The request again, where nothing of a body is gone.
    pub(super) fn end(self) -> Option<Box<Request<RequestBody>>> {
        self.request.body().is_untouched().then_some(self.request)
    }

    /// Writes on; ready when all is written.
    pub(super) fn poll(
        &mut self,
        stream: &mut Stream,
        thread: &Thread,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Broken>> {
        if !self.has_head {
            self.has_head = true;
            self.out = std::mem::take(&mut *thread.heads.borrow_mut());
            write_head(&self.request, self.framing, &mut self.out);
        }
        loop {
            let mut waits = false;
            while !self.is_last && !waits && self.part.is_empty() && self.out.len() < GATHER {
                match Pin::new(self.request.body_mut()).poll_frame(cx) {
                    Poll::Ready(Some(Ok(frame))) => self.put(frame)?,
                    Poll::Ready(Some(Err(_))) => return Poll::Ready(Err(Broken::Body)),
                    Poll::Ready(None) => self.put_end(None)?,
                    Poll::Pending => waits = true,
                }
            }
            if ready!(self.flush(stream, cx)).is_err() {
                return Poll::Ready(Err(Broken::Socket));
            }
            if self.is_last {
                if self.out.capacity() <= KEPT_BUFFER {
                    *thread.heads.borrow_mut() = std::mem::take(&mut self.out);
                }
                return Poll::Ready(Ok(()));
            }
            if waits {
                return Poll::Pending;
            }
        }
    }

    fn put(&mut self, frame: Frame<Bytes>) -> Result<(), Broken> {
        let data = match frame.into_data() {
            Ok(data) if data.is_empty() => return Ok(()),
            Ok(data) => data,
            Err(frame) => return self.put_end(frame.into_trailers().ok()),
        };
        match &mut self.framing {
            Framing::Length(left) => {
                *left = left.checked_sub(data.len() as u64).ok_or(Broken::Body)?;
                self.is_last = *left == 0;
            }
            Framing::Chunked => {
                let _ = write!(self.out, "{:x}\r\n", data.len());
                self.tail = b"\r\n";
            }
        }
        if data.len() <= GATHER {
            self.out.extend_from_slice(&data);
            self.out.extend_from_slice(std::mem::take(&mut self.tail));
        } else {
            self.part = data;
        }
        Ok(())
    }

    fn put_end(&mut self, trailers: Option<HeaderMap>) -> Result<(), Broken> {
        match self.framing {
            Framing::Length(0) => {}
            // It was announced as longer.
            Framing::Length(_) => return Err(Broken::Body),
            Framing::Chunked => {
                self.out.extend_from_slice(b"0\r\n");
                if let Some(trailers) = trailers {
                    write_trailers(self.request.headers(), &trailers, &mut self.out);
                }
                self.out.extend_from_slice(b"\r\n");
            }
        }
        self.is_last = true;
        Ok(())
    }

    fn flush(&mut self, stream: &mut Stream, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        loop {
            let first = self.out.get(self.written..).unwrap_or_default();
            let written = match (first.is_empty(), self.part.is_empty()) {
                (true, true) if self.tail.is_empty() => break,
                (false, true) if self.tail.is_empty() => ready!(Pin::new(&mut *stream).poll_write(cx, first)),
                _ => {
                    let parts = [IoSlice::new(first), IoSlice::new(&self.part), IoSlice::new(self.tail)];
                    ready!(Pin::new(&mut *stream).poll_write_vectored(cx, &parts))
                }
            };
            let written = written?;
            if written == 0 {
                return Poll::Ready(Err(std::io::ErrorKind::WriteZero.into()));
            }
            self.is_begun = true;
            let of_first = written.min(first.len());
            self.written += of_first;
            let of_part = (written - of_first).min(self.part.len());
            self.part.advance(of_part);
            self.tail = self.tail.get(written - of_first - of_part..).unwrap_or_default();
        }
        self.out.clear();
        self.written = 0;
        // With TLS around it, what was written may still be held back.
        Pin::new(stream).poll_flush(cx)
    }
}

/// Writes a request's head, which says how its body ends.
fn write_head(request: &Request<RequestBody>, framing: Framing, out: &mut Vec<u8>) {
    out.reserve(HEAD);
    out.extend_from_slice(request.method().as_str().as_bytes());
    out.push(b' ');
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
    out.extend_from_slice(target.as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
    for (name, value) in request.headers() {
        let is_shown = match *name {
            // What the length says and what follows it must be the same whatever anybody wrote.
            header::CONTENT_LENGTH => match framing {
                Framing::Length(0) => value == "0",
                Framing::Length(_) => true,
                Framing::Chunked => false,
            },
            header::TRANSFER_ENCODING => false,
            _ => true,
        };
        if is_shown {
            write_header(name, value.as_bytes(), out);
        }
    }
    if framing == Framing::Chunked {
        write_header(&header::TRANSFER_ENCODING, b"chunked", out);
    }
    out.extend_from_slice(b"\r\n");
}

/// How a body ends: by its length, where one and only one is given.
fn framing(request: &Request<RequestBody>) -> Framing {
    if request.body().is_empty() {
        return Framing::Length(0);
    }
    let mut lengths = request.headers().get_all(header::CONTENT_LENGTH).iter();
    let length = lengths.next().and_then(|length| length.to_str().ok()?.parse().ok());
    match (length, lengths.next()) {
        (Some(length), None) => Framing::Length(length),
        _ => Framing::Chunked,
    }
}

fn write_header(name: &HeaderName, value: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(name.as_str().as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Of the trailers those that the head has announced, and that may be trailers (RFC 9110, section 6.5.1).
fn write_trailers(head: &HeaderMap, trailers: &HeaderMap, out: &mut Vec<u8>) {
    let is_announced = |name: &HeaderName| {
        let mut announced = head.get_all(header::TRAILER).iter();
        announced.any(|line| {
            let mut names = line.as_bytes().split(|byte| *byte == b',');
            names.any(|one| one.trim_ascii().eq_ignore_ascii_case(name.as_str().as_bytes()))
        })
    };
    for (name, value) in trailers {
        if is_announced(name) && !is_of_heads(name) {
            write_header(name, value.as_bytes(), out);
        }
    }
}

/// Headers that mean something for what was read already: framing, routing, requests' conditions, who asks.
fn is_of_heads(name: &HeaderName) -> bool {
    [
        header::AUTHORIZATION,
        header::CACHE_CONTROL,
        header::CONNECTION,
        header::CONTENT_ENCODING,
        header::CONTENT_LENGTH,
        header::CONTENT_RANGE,
        header::CONTENT_TYPE,
        header::COOKIE,
        header::EXPECT,
        header::HOST,
        header::IF_MATCH,
        header::IF_MODIFIED_SINCE,
        header::IF_NONE_MATCH,
        header::IF_RANGE,
        header::IF_UNMODIFIED_SINCE,
        header::MAX_FORWARDS,
        header::PROXY_AUTHORIZATION,
        header::RANGE,
        header::SET_COOKIE,
        header::TE,
        header::TRAILER,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
        header::VARY,
    ]
    .contains(name)
        || name.as_str().starts_with("x-forwarded-")
        || name == "forwarded"
}

/// The rest of a request whose answer has begun already, which goes on beside it.
#[derive(Debug)]
pub(super) struct Rest {
    fares: Rc<Cell<Fares>>,
    task: JoinHandle<()>,
    goes_on_alone: bool,
}

/// How the rest of a request fares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fares {
    /// It moves.
    Moving,
    /// All of it was sent.
    Sent,
    /// The endpoint takes no more of it, which its answer may have said.
    Refused,
    /// It came to no good end: the answer can't be trusted to be whole.
    Broken,
}

impl Rest {
    /// Sends the rest of a request.
    pub(super) fn go_on(mut sending: Sending, socket: &Socket, thread: Rc<Thread>) -> Self {
        let fares = Rc::new(Cell::new(Fares::Moving));
        let (told, socket) = (fares.clone(), socket.clone());
        let task = tokio::task::spawn_local(async move {
            let sent = poll_fn(|cx| sending.poll(&mut socket.borrow_mut(), &thread, cx)).await;
            told.set(match sent {
                Ok(()) => Fares::Sent,
                Err(Broken::Socket) => Fares::Refused,
                Err(Broken::Body) => Fares::Broken,
            });
            if sent == Err(Broken::Body) {
                // Who waits for the answer learns of it by its end.
                let _ = socket.borrow().shut();
            }
        });
        Self { fares, task, goes_on_alone: false }
    }

    pub(super) fn fares(&self) -> Fares {
        self.fares.get()
    }

    /// The answer has ended; what is left of the request is sent all the same.
    pub(super) fn leave(mut self) {
        self.goes_on_alone = true;
    }
}

impl Drop for Rest {
    fn drop(&mut self) {
        if !self.goes_on_alone {
            self.task.abort();
        }
    }
}
