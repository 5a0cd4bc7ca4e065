//! Requests over HTTP/1.1.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{Socket, Way};

/// Asks until the time is up; how long each answer took to come whole.
pub(super) async fn run(way: &Way, path: &str, keeps: bool, ends: Instant) -> Vec<Duration> {
    // What a browser or a library sends, more or less.
    let close = if keeps { "" } else { "Connection: close\r\n" };
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: bench.example\r\nUser-Agent: ews-bench/1.0\r\nAccept: */*\r\n\
         Accept-Encoding: gzip, br\r\nCookie: session=0123456789abcdef\r\n{close}\r\n"
    );
    let (mut times, mut buffer) = (Vec::new(), Vec::with_capacity(128 * 1024));
    let mut kept: Option<Box<dyn Socket>> = None;
    while Instant::now() < ends {
        let begun = Instant::now();
        let mut stream = match kept.take() {
            Some(stream) => stream,
            None => way.connect().await,
        };
        stream.write_all(request.as_bytes()).await.unwrap();
        stream.flush().await.unwrap();
        let length = loop {
            assert!(stream.read_buf(&mut buffer).await.unwrap() > 0, "the connection was closed");
            if let Some(length) = whole(&buffer) {
                break length;
            }
        };
        times.push(begun.elapsed());
        buffer.drain(..length);
        if keeps {
            kept = Some(stream);
        }
    }
    times
}

/// The length of an answer that has come whole.
fn whole(bytes: &[u8]) -> Option<usize> {
    let head = head(bytes)?;
    let text = std::str::from_utf8(&bytes[..head]).unwrap();
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    let length = text.split("\r\n").find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().unwrap())
    });
    let whole = head + length.unwrap();
    (bytes.len() >= whole).then_some(whole)
}

/// The length of a head that has come whole.
pub(super) fn head(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4)
}
