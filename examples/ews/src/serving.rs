//! How the host's own endpoints are served: HTTP/1.1, so many connections at once, and a head that comes in time.
//!
//! Who reaches an endpoint need not have a token yet, so that it must cost little to be looked at: beyond [`CONNECTIONS`] the
//! next one waits, and one that does not say within [`HEAD`] what it wants is closed, idle ones included. What a request itself may
//! take is the router's to say.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio::time::sleep;

/// The most connections of one endpoint.
const CONNECTIONS: usize = 512;
/// How long a request's head may take to come, from the connection's beginning or the last answer's end.
const HEAD: Duration = Duration::from_secs(30);
/// The pause after a connection could not be taken, such as for want of file descriptors.
const REST: Duration = Duration::from_millis(200);

/// Where an endpoint listens.
pub(crate) enum Door {
    Unix(UnixListener),
    Tcp(TcpListener),
}

/// Serves until it is dropped; connections under way go on then.
pub(crate) async fn serve(door: Door, router: Router) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
        let router = router.clone();
        let taken = match &door {
            Door::Unix(listener) => listener.accept().await.map(|(stream, _)| {
                tokio::spawn(async move {
                    connection(stream, router).await;
                    drop(permit);
                });
            }),
            Door::Tcp(listener) => listener.accept().await.map(|(stream, _)| {
                tokio::spawn(async move {
                    connection(stream, router).await;
                    drop(permit);
                });
            }),
        };
        if let Err(error) = taken {
            tracing::debug!(%error, "a connection could not be taken");
            sleep(REST).await;
        }
    }
}

async fn connection(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, router: Router) {
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
        .await;
    if let Err(error) = served {
        // Clients go away, and some never say a word.
        tracing::debug!(%error, "a connection to the host ended");
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_says_nothing_or_half_a_head_or_stays_after_an_answer_is_closed() {
        for said in ["", "GET / HTTP/1.1\r\nHost: a", "GET / HTTP/1.1\r\nHost: a\r\n\r\n"] {
            let (mut client, server) = tokio::io::duplex(4_096);
            let router = Router::new().route("/", get(|| std::future::ready("here")));
            let serving = tokio::spawn(connection(server, router));
            client.write_all(said.as_bytes()).await.unwrap();
            let mut answer = String::new();
            // With virtual time a wait for ever would be found at once.
            let read = tokio::time::timeout(2 * HEAD, client.read_to_string(&mut answer)).await;
            read.unwrap_or_else(|_| unreachable!("{said:?} holds its connection")).unwrap();
            assert_eq!(answer.contains("here"), said.ends_with("\r\n\r\n"), "{said:?}: {answer}");
            serving.await.unwrap();
        }
    }
}
