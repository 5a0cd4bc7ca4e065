//! The load: connections, or streams of connections, that each send a request, read the answer, and send the next.
//!
//! It is the same for every proxy. How fast it is does not matter: what is measured is the proxies' own processor time.

mod http1;
mod http2;
mod tls;
mod websocket;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::ClientConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// What is asked, and how.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    pub(crate) kind: Kind,
    pub(crate) path: &'static str,
    pub(crate) connections: usize,
    /// Whether TLS is spoken.
    pub(crate) tls: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// One request after the other on each connection.
    Kept,
    /// A connection for each request.
    Fresh,
    /// So many streams on each connection, each with one request after the other.
    Streams(usize),
    /// A message after the other, each sent back, on connections that were upgraded once.
    Echo,
}

/// Where a proxy listens.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Addresses {
    pub(crate) plain: SocketAddr,
    pub(crate) tls: SocketAddr,
    /// For HTTP/2 without TLS.
    pub(crate) h2c: SocketAddr,
}

/// What came of it.
pub(crate) struct Run {
    /// Answers, or messages that came back.
    pub(crate) requests: usize,
    pub(crate) elapsed: Duration,
    pub(crate) p99: Duration,
}

trait Socket: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Socket for T {}

/// How one connection is made.
#[derive(Clone)]
struct Way {
    address: SocketAddr,
    tls: Option<Arc<ClientConfig>>,
}

impl Way {
    async fn connect(&self) -> Box<dyn Socket> {
        let stream = TcpStream::connect(self.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        match &self.tls {
            None => Box::new(stream),
            Some(config) => Box::new(tls::connect(config.clone(), stream).await),
        }
    }
}

impl Load {
    pub(crate) async fn run(self, addresses: Addresses, duration: Duration) -> Run {
        let is_http2 = matches!(self.kind, Kind::Streams(_));
        let protocol: &[u8] = if is_http2 { b"h2" } else { b"http/1.1" };
        let way = match (self.tls, is_http2) {
            (true, _) => Way { address: addresses.tls, tls: Some(tls::config(protocol)) },
            (false, true) => Way { address: addresses.h2c, tls: None },
            (false, false) => Way { address: addresses.plain, tls: None },
        };
        let begun = Instant::now();
        let ends = begun + duration;
        let one = async || match self.kind {
            Kind::Kept => http1::run(&way, self.path, true, ends).await,
            Kind::Fresh => http1::run(&way, self.path, false, ends).await,
            Kind::Streams(streams) => http2::run(&way, self.path, streams, ends).await,
            Kind::Echo => websocket::run(&way, self.path, ends).await,
        };
        let all = futures_util::future::join_all((0..self.connections).map(|_| one()));
        let mut times: Vec<Duration> = all.await.into_iter().flatten().collect();
        let elapsed = begun.elapsed();
        times.sort_unstable();
        let p99 = times.get(times.len() * 99 / 100).copied().unwrap_or_default();
        Run { requests: times.len(), elapsed, p99 }
    }
}
