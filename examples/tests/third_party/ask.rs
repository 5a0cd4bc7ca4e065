//! A question to a server on a connection of its own, and its whole answer.

use std::io::{Error, ErrorKind, Result};
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// After so long without an answer a question has failed.
const PATIENCE: Duration = Duration::from_secs(20);

/// The body of what an HTTP server answers with success, without the spaces around it.
pub(crate) async fn http(address: SocketAddr, host: &str) -> Result<String> {
    let question = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    let answer = exchange(address, question.as_bytes(), |_| false).await?;
    let wrong = |why: &str| {
        Error::new(ErrorKind::InvalidData, format!("{why}: {}", String::from_utf8_lossy(&answer)))
    };
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").ok_or_else(|| wrong("no head"))?;
    let head = String::from_utf8_lossy(&answer[..end]).to_ascii_lowercase();
    if !head.starts_with("http/1.1 200 ") && !head.starts_with("http/1.0 200 ") {
        return Err(wrong("no success"));
    }
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
    let body = &answer[end + 4..];
    if length != Some(body.len()) {
        return Err(wrong("not the length that was told"));
    }
    Ok(String::from_utf8_lossy(body).trim().to_owned())
}

/// What comes for these bytes, until it is whole or the server ends.
pub(crate) async fn exchange(
    address: SocketAddr,
    question: &[u8],
    is_whole: impl Fn(&[u8]) -> bool,
) -> Result<Vec<u8>> {
    let asked = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(question).await?;
        let mut answer = Vec::new();
        while !is_whole(&answer) {
            if stream.read_buf(&mut answer).await? == 0 {
                break;
            }
        }
        Ok(answer)
    };
    timeout(PATIENCE, asked).await.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()))
}
