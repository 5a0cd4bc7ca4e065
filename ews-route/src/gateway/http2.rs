//! HTTP/2 from clients: each stream is a request like any other, with times and an end of its own.
//!
//! The protocol is the crate `h2`'s, within hyper. What it lets through is judged once more, since endpoints speak HTTP/1.1: a
//! stream whose target, authority or headers an HTTP/1.1 reader could take for something else is answered with 400.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper::{Request, Response, header};

use super::body::{BodyError, ResponseBody};
use super::connection::{Connection, Place};
use super::forward;
use super::guard::Refusal;
use super::guard::http2::judge;
use super::io::ClientIo;
use super::respond::plain;

/// The most requests at once on one connection (nginx: 128; Envoy 100 recommended by RFC 9113 as a least).
const STREAMS: u32 = 128;
/// What one stream and all together may send ahead.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// What is kept of a response that its reader does not take.
const SEND_BUFFER: usize = 64 * 1024;

/// Runs what hyper starts in this thread.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Local;

impl<F> hyper::rt::Executor<F> for Local
where
    F: Future + 'static,
    F::Output: 'static,
{
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}

/// Serves a connection to its end.
pub(crate) async fn serve(connection: &Rc<Connection>, io: ClientIo) {
    let limits = &connection.thread.shared.config.limits;
    let mut builder = http2::Builder::new(Local);
    builder
        .max_concurrent_streams(STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .max_header_list_size(u32::try_from(limits.head_bytes).unwrap_or(u32::MAX));
    let parent = connection.clone();
    // In a box from the start: hyper hands it on three times before it runs, and it is large.
    let service = service_fn(move |request| Box::pin(answer(parent.clone(), request)));
    let mut protocol = pin!(builder.serve_connection(io, service));
    let mut is_told = false;
    poll_fn(|cx| {
        connection.register(cx.waker());
        if connection.is_over() {
            if connection.is_reset() {
                // The socket is within, and learns of it when it is asked for anything.
                let _ = protocol.as_mut().poll(cx);
            }
            return Poll::Ready(());
        }
        if connection.thread.is_draining() && !is_told {
            is_told = true;
            protocol.as_mut().graceful_shutdown();
        }
        match protocol.as_mut().poll(cx) {
            Poll::Ready(_) => Poll::Ready(()),
            Poll::Pending if connection.is_over() => Poll::Ready(()),
            Poll::Pending => Poll::Pending,
        }
    })
    .await;
}

/// Serves one stream.
async fn answer(
    parent: Rc<Connection>,
    request: Request<Incoming>,
) -> Result<Response<StreamBody>, BodyError> {
    let stream = Place::of_stream(&parent);
    if request.headers().len() > parent.thread.shared.config.limits.headers {
        return Ok(refused(stream, Refusal::TooManyHeaders));
    }
    if let Err(refusal) = judge(&request) {
        return Ok(refused(stream, refusal));
    }
    let connection = stream.connection().clone();
    let mut answered = pin!(forward::answer(connection.clone(), request));
    let answer = poll_fn(|cx| {
        connection.register(cx.waker());
        answered.as_mut().poll(cx)
    });
    let mut response = match answer.await {
        Ok(response) => response,
        Err(never) => match never {},
    };
    // It says to end the connection, which the other streams would not like.
    response.headers_mut().remove(header::CONNECTION);
    Ok(response.map(|body| StreamBody { body, stream }))
}

fn refused(stream: Place, refusal: Refusal) -> Response<StreamBody> {
    stream.connection().thread.counts.refused(refusal);
    plain(refusal.status()).map(|body| StreamBody { body, stream })
}

/// A response's body, with the times that hold for it.
struct StreamBody {
    body: ResponseBody,
    stream: Place,
}

impl Body for StreamBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let connection = this.stream.connection();
        connection.register(cx.waker());
        if connection.is_over() {
            return Poll::Ready(Some(Err("the response was cut off".into())));
        }
        // It is asked for more only when the client's window is open, and everything before has gone out.
        connection.took(0);
        let frame = Pin::new(&mut this.body).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &frame {
            connection.took(frame.data_ref().map_or(0, Bytes::len));
            connection.blocked(|| SEND_BUFFER as u64);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
