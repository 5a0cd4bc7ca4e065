//! The service of the tour: an HTTP server that knows nothing of EWS but the port in its environment.

use std::net::Ipv4Addr;
use std::process::ExitCode;

use axum::Router;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

/// The version that is broken: it ends at its start, with last words.
pub(super) const BROKEN: &str = "v3";

/// Serves at `PORT` until SIGTERM, then finishes what it has begun.
#[allow(clippy::print_stdout, reason = "what it writes is its log")]
pub async fn serve() -> ExitCode {
    let variable = |name| std::env::var(name).unwrap_or_default();
    let (version, slot) = (variable("VERSION"), variable("EWS_SLOT"));
    let Ok(port) = variable("PORT").parse::<u16>() else {
        println!("PORT must say where to listen");
        return ExitCode::FAILURE;
    };
    println!("version {version} starts");
    if version == BROKEN {
        println!("connecting to the database");
        println!("the database refuses this version's schema: column `price` is missing");
        return ExitCode::from(3);
    }
    let listener = match TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await {
        Ok(listener) => listener,
        Err(error) => {
            println!("port {port} can't be listened on: {error}");
            return ExitCode::FAILURE;
        }
    };
    println!("listening on port {port}");
    let answer = format!("{version} in slot {slot}, process {}", std::process::id());
    let app = Router::new()
        .route("/", get(move || std::future::ready(answer.clone())))
        .route("/ready", get(|| std::future::ready("ready")));
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
