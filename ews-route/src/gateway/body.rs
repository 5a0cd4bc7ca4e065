//! Bodies on their way through: nothing is kept of them but the frame that moves.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use super::connection::Connection;
use super::exchange::Exchange;
use super::http1::Reply;
use super::upstream::Lease;

/// An error of a body; what it says goes nowhere but into hyper's.
pub(crate) type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// The body of a request on its way to an endpoint.
#[derive(Debug)]
pub(crate) enum RequestBody {
    /// There is none.
    Empty,
    /// It comes from the client.
    Client(ClientBody),
}

/// A client's body.
#[derive(Debug)]
pub(crate) struct ClientBody {
    incoming: Incoming,
    /// What may still come, where that is limited.
    left: Option<u64>,
    connection: Rc<Connection>,
    /// Whether its pace is judged here; over HTTP/1.1 that is done where bytes come in.
    is_paced: bool,
    fate: Rc<Cell<Fate>>,
    /// The request is under way until its body is sent too.
    pub(crate) lease: Option<Rc<Lease>>,
}

/// How a request's body fared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Fate {
    /// Nobody has asked for it yet.
    #[default]
    Untouched,
    /// It moves, or has ended.
    Moving,
    /// The client broke off or sent what is no body.
    Broken,
    /// It is above the limit.
    TooLarge,
}

impl RequestBody {
    /// The client's body, of which so much may come, at some pace or not, and where its fate is told.
    pub(crate) fn new(
        incoming: Incoming,
        left: Option<u64>,
        is_paced: bool,
        connection: &Rc<Connection>,
    ) -> (Self, Rc<Cell<Fate>>) {
        let fate = Rc::new(Cell::new(Fate::Untouched));
        if incoming.is_end_stream() {
            return (Self::Empty, fate);
        }
        let (connection, told) = (connection.clone(), fate.clone());
        let is_paced = is_paced && connection.is_stream();
        if is_paced {
            connection.set_paced(true);
        }
        (Self::Client(ClientBody { incoming, left, connection, is_paced, fate: told, lease: None }), fate)
    }

    pub(crate) fn is_empty(&self) -> bool {
        matches!(self, Self::Empty)
    }

    /// Whether nothing of it is gone.
    pub(crate) fn is_untouched(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Client(body) => body.fate.get() == Fate::Untouched,
        }
    }

    /// Counts the body as part of what is under way.
    pub(crate) fn set_lease(&mut self, lease: Option<Rc<Lease>>) {
        if let Self::Client(body) = self {
            body.lease = lease;
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Self::Client(body) = self.get_mut() else { return Poll::Ready(None) };
        if body.fate.get() == Fate::Untouched {
            body.fate.set(Fate::Moving);
        }
        let frame = Pin::new(&mut body.incoming).poll_frame(cx);
        if body.is_paced {
            match &frame {
                Poll::Pending => body.connection.waits(),
                Poll::Ready(Some(Ok(frame))) => {
                    body.connection.came(frame.data_ref().map_or(0, Bytes::len));
                }
                Poll::Ready(_) => body.connection.set_paced(false),
            }
        }
        let frame = ready!(frame);
        body.connection.progress();
        let Some(frame) = frame else { return Poll::Ready(None) };
        let frame = frame.inspect_err(|_| body.fate.set(Fate::Broken))?;
        if let (Some(left), Some(data)) = (&mut body.left, frame.data_ref()) {
            match left.checked_sub(data.len() as u64) {
                Some(rest) => *left = rest,
                None => {
                    body.fate.set(Fate::TooLarge);
                    return Poll::Ready(Some(Err("the body is above the limit".into())));
                }
            }
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Client(body) => body.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Client(body) => body.incoming.size_hint(),
        }
    }
}

/// The body of a response on its way to the client.
pub(crate) enum ResponseBody {
    /// The gateway's own, or none.
    Own(Option<Bytes>),
    /// An endpoint's. Its exchange ends with it.
    Upstream(Option<Reply>, Option<Box<Exchange>>),
    /// An endpoint's that broke off.
    Broken(Option<BodyError>),
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let (kept, exchange) = match this {
            Self::Own(body) => return Poll::Ready(body.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Upstream(reply, exchange) => (reply, exchange),
            Self::Broken(error) => return Poll::Ready(error.take().map(Err)),
        };
        let Some(reply) = kept else { return Poll::Ready(None) };
        let frame = ready!(reply.poll_frame(cx));
        if let (Some(Ok(frame)), Some(exchange)) = (&frame, exchange.as_mut()) {
            exchange.progress(frame.data_ref().map_or(0, Bytes::len));
        }
        // Nobody asks for more after the last bytes of a known length, or after trailers.
        let is_end = match &frame {
            Some(Ok(frame)) => reply.is_end_stream() || frame.is_trailers(),
            Some(Err(_)) | None => true,
        };
        if is_end && let (Some(reply), Some(exchange)) = (kept.take(), exchange.take()) {
            if let Some(Err(error)) = frame {
                exchange.broke_off();
                // hyper throws away what it has not written when a body fails. What came before that is the client's: here is the
                // turn to write it.
                *this = Self::Broken(Some(error));
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            exchange.complete(reply.finish());
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own(body) => body.is_none(),
            Self::Upstream(reply, _) => reply.as_ref().is_none_or(Reply::is_end_stream),
            Self::Broken(error) => error.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own(body) => SizeHint::with_exact(body.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Upstream(Some(reply), _) => reply.size_hint(),
            Self::Upstream(None, _) => SizeHint::with_exact(0),
            Self::Broken(_) => SizeHint::new(),
        }
    }
}
