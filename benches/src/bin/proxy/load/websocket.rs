//! Messages through an upgraded connection, each sent back before the next. No proxy here reads what they mean, so frames are
//! bytes of the right shape and come back as they were.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::Way;
use super::http1::head;

/// A masked text frame of 64 bytes.
const FRAME: usize = 2 + 4 + 64;

/// Sends messages until the time is up; how long each took to come back.
pub(super) async fn run(way: &Way, path: &str, ends: Instant) -> Vec<Duration> {
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: bench.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    let mut stream = way.connect().await;
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while head(&answer).is_none() {
        assert!(stream.read_buf(&mut answer).await.unwrap() > 0, "the connection was closed");
    }
    assert!(answer.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&answer));
    let mut frame = vec![b'm'; FRAME];
    frame[..2].copy_from_slice(&[0x81, 0x80 | 64]);
    let (mut times, mut back) = (Vec::new(), vec![0; FRAME]);
    while Instant::now() < ends {
        let begun = Instant::now();
        stream.write_all(&frame).await.unwrap();
        stream.read_exact(&mut back).await.unwrap();
        times.push(begun.elapsed());
        assert!(back == frame, "a message came back as another");
    }
    times
}
