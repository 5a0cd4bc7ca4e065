//! Requests that run while changes are made: some thousand a second, so that the processors have time for both.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::names;

const CONNECTIONS: usize = 4;
const PAUSE: Duration = Duration::from_millis(1);

/// Answers every request alike, on a thread of its own.
pub(crate) fn upstream() -> SocketAddr {
    let (tell, told) = std::sync::mpsc::channel();
    apart(async move {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        tell.send(listener.local_addr().unwrap()).unwrap();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            tokio::spawn(async move {
                let mut buffer = Vec::with_capacity(4096);
                while let Ok(1..) = stream.read_buf(&mut buffer).await {
                    while let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                        buffer.drain(..end + 4);
                        if stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.is_err()
                        {
                            return;
                        }
                    }
                }
            });
        }
    });
    told.recv().unwrap()
}

fn apart(work: impl Future<Output = ()> + Send + 'static) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    std::thread::spawn(move || runtime.block_on(work));
}

/// Requests under way.
pub(crate) struct Traffic {
    ends: Arc<AtomicBool>,
    running: Arc<AtomicUsize>,
    good: Arc<AtomicUsize>,
    failed: Arc<AtomicUsize>,
}

impl Traffic {
    /// Asks for random domains among so many, until it is ended.
    pub(crate) fn start(address: SocketAddr, count: usize) -> Self {
        let traffic = Self {
            ends: Arc::default(),
            running: Arc::new(AtomicUsize::new(CONNECTIONS)),
            good: Arc::default(),
            failed: Arc::default(),
        };
        let (ends, running) = (traffic.ends.clone(), traffic.running.clone());
        let (good, failed) = (traffic.good.clone(), traffic.failed.clone());
        apart(async move {
            let one = async |first: usize| {
                let mut stream: Option<TcpStream> = None;
                let mut number = first;
                while !ends.load(Ordering::Relaxed) {
                    number = names::mixed(number + 1);
                    match ask(&mut stream, address, &names::host(number % count)).await {
                        true => good.fetch_add(1, Ordering::Relaxed),
                        false => {
                            stream = None;
                            failed.fetch_add(1, Ordering::Relaxed)
                        }
                    };
                    tokio::time::sleep(PAUSE).await;
                }
                running.fetch_sub(1, Ordering::Relaxed);
            };
            futures_util::future::join_all((0..CONNECTIONS).map(one)).await;
        });
        traffic
    }

    /// How many requests there were, and how many of them failed.
    pub(crate) async fn end(self) -> (usize, usize) {
        self.ends.store(true, Ordering::Relaxed);
        while self.running.load(Ordering::Relaxed) > 0 {
            tokio::time::sleep(PAUSE).await;
        }
        let failed = self.failed.load(Ordering::Relaxed);
        (self.good.load(Ordering::Relaxed) + failed, failed)
    }
}

async fn ask(stream: &mut Option<TcpStream>, address: SocketAddr, host: &str) -> bool {
    let mut buffer = Vec::with_capacity(1024);
    let asked = async {
        if stream.is_none() {
            let new = TcpStream::connect(address).await?;
            new.set_nodelay(true)?;
            *stream = Some(new);
        }
        let Some(stream) = stream else { return Ok(()) };
        stream.write_all(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes()).await?;
        while !buffer.ends_with(b"\r\n\r\nok") && stream.read_buf(&mut buffer).await? > 0 {}
        Ok::<(), std::io::Error>(())
    };
    asked.await.is_ok() && buffer.starts_with(b"HTTP/1.1 200") && buffer.ends_with(b"\r\n\r\nok")
}
