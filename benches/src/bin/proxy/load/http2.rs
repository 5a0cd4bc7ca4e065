//! Requests over HTTP/2, many at once on each connection.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::Request;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::Way;

/// Asks until the time is up; how long each answer took to come whole.
pub(super) async fn run(way: &Way, path: &str, streams: usize, ends: Instant) -> Vec<Duration> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    // Large enough for no answer here to wait for more.
    builder.initial_stream_window_size(1 << 20).initial_connection_window_size(1 << 24);
    let (sender, connection) = builder.handshake(TokioIo::new(way.connect().await)).await.unwrap();
    tokio::spawn(async move {
        // How it ends shows at its streams.
        let _ = connection.await;
    });
    let scheme = if way.tls.is_some() { "https" } else { "http" };
    let one = async || {
        let (mut sender, mut times) = (sender.clone(), Vec::new());
        while Instant::now() < ends {
            let begun = Instant::now();
            let request = Request::get(format!("{scheme}://bench.example{path}"))
                .header("user-agent", "ews-bench/1.0")
                .header("accept", "*/*")
                .header("accept-encoding", "gzip, br")
                .header("cookie", "session=0123456789abcdef");
            let request = request.body(Empty::<Bytes>::new()).unwrap();
            let answer = sender.send_request(request).await.unwrap();
            assert_eq!(answer.status(), 200);
            answer.into_body().collect().await.unwrap();
            times.push(begun.elapsed());
        }
        times
    };
    futures_util::future::join_all((0..streams).map(|_| one())).await.into_iter().flatten().collect()
}
