//! The load: connections that each send a request, read the answer, and send the next.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// What is asked, and how.
#[derive(Clone, Copy)]
pub(crate) struct Load {
    pub(crate) path: &'static str,
    pub(crate) connections: usize,
    /// Whether a connection is kept for the next request.
    pub(crate) keeps: bool,
}

/// What came of it.
pub(crate) struct Run {
    pub(crate) requests: usize,
    pub(crate) elapsed: Duration,
    pub(crate) p99: Duration,
}

impl Load {
    pub(crate) async fn run(self, address: SocketAddr, duration: Duration) -> Run {
        let begun = Instant::now();
        let all = (0..self.connections).map(|_| self.one(address, begun + duration));
        let mut times: Vec<Duration> =
            futures_util::future::join_all(all).await.into_iter().flatten().collect();
        let elapsed = begun.elapsed();
        times.sort_unstable();
        let p99 = times.get(times.len() * 99 / 100).copied().unwrap_or_default();
        Run { requests: times.len(), elapsed, p99 }
    }

    async fn one(self, address: SocketAddr, ends: Instant) -> Vec<Duration> {
        // What a browser or a library sends, more or less.
        let close = if self.keeps { "" } else { "Connection: close\r\n" };
        let request = format!(
            "GET {} HTTP/1.1\r\nHost: bench.example\r\nUser-Agent: ews-bench/1.0\r\nAccept: */*\r\n\
             Accept-Encoding: gzip, br\r\nCookie: session=0123456789abcdef\r\n{close}\r\n",
            self.path
        );
        let (mut times, mut buffer) = (Vec::new(), Vec::with_capacity(32 * 1024));
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        while Instant::now() < ends {
            let sent = Instant::now();
            stream.write_all(request.as_bytes()).await.unwrap();
            let length = loop {
                assert!(stream.read_buf(&mut buffer).await.unwrap() > 0, "the connection was closed");
                if let Some(length) = whole(&buffer) {
                    break length;
                }
            };
            times.push(sent.elapsed());
            buffer.drain(..length);
            if !self.keeps {
                buffer.clear();
                stream = TcpStream::connect(address).await.unwrap();
                stream.set_nodelay(true).unwrap();
            }
        }
        times
    }
}

/// The length of an answer that has come whole.
fn whole(bytes: &[u8]) -> Option<usize> {
    let head = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let text = std::str::from_utf8(&bytes[..head]).unwrap();
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    let length = text.split("\r\n").find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().unwrap())
    });
    let whole = head + length.unwrap();
    (bytes.len() >= whole).then_some(whole)
}
