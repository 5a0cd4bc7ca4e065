//! The service of the tour: an HTTP server that knows nothing of EWS but the port in its environment, and a client for it.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use ews_core::{Error, ErrorKind, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};

/// The longest answer that is read, in bytes.
const ANSWER: u64 = 64 * 1024;

/// Serves at `PORT` until SIGTERM, then finishes what it has begun.
#[allow(clippy::print_stdout, reason = "what it writes is its log")]
pub async fn serve() -> ExitCode {
    let port = std::env::var("PORT").ok().and_then(|port| port.parse::<u16>().ok());
    let Some(port) = port else {
        println!("PORT must say where to listen");
        return ExitCode::FAILURE;
    };
    let slot = std::env::var("EWS_SLOT").unwrap_or_default();
    let listener = match TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await {
        Ok(listener) => listener,
        Err(error) => {
            println!("port {port} can't be listened on: {error}");
            return ExitCode::FAILURE;
        }
    };
    // For whoever looks for it without a controller; whole or not at all, since it is looked for all the time.
    let told = std::fs::write("address.new", format!("127.0.0.1:{port}"));
    let _ = told.and_then(|()| std::fs::rename("address.new", "address"));
    println!("listening on port {port}");
    let answer = format!("hello from slot {slot}, process {}", std::process::id());
    let app = Router::new().route("/", get(move || std::future::ready(answer.clone())));
    let Ok(mut asked) = signal(SignalKind::terminate()) else { return ExitCode::FAILURE };
    let until = async move {
        asked.recv().await;
        println!("asked to end");
    };
    match axum::serve(listener, app).with_graceful_shutdown(until).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// One request, its answer's body.
pub(super) async fn ask(address: SocketAddr) -> Result<String> {
    let asked = async {
        let mut stream = TcpStream::connect(address).await?;
        let request = format!("GET / HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.take(ANSWER).read_to_string(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    let silent =
        || Error::new(ErrorKind::Unavailable, "the service does not answer").with_context("address", address);
    let answer = tokio::time::timeout(Duration::from_secs(5), asked).await.map_err(|_| silent())?;
    let answer = answer.map_err(|error| silent().with_source(error))?;
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.starts_with("HTTP/1.1 200 ") => Ok(body.to_owned()),
        _ => Err(silent().with_detail(answer.lines().next().unwrap_or_default().to_owned())),
    }
}
