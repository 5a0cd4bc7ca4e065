//! The service of the first five minutes: a small HTTP server that knows nothing of EWS but the port in its environment.
//!
//! It answers with `message.txt` of its work directory, or `GREETING`, and says who it is. `DEMO_FAILS=1` makes it end at its start,
//! with last words.

use std::net::Ipv4Addr;
use std::process::ExitCode;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

/// Serves at `PORT` until SIGTERM, then finishes what it has begun.
#[allow(clippy::print_stdout, clippy::print_stderr, reason = "what it writes is its log")]
pub(crate) async fn serve() -> ExitCode {
    let variable = |name| std::env::var(name).unwrap_or_default();
    let Ok(port) = variable("PORT").parse::<u16>() else {
        eprintln!("PORT must say where to listen");
        return ExitCode::FAILURE;
    };
    println!("version {} starts", variable("VERSION"));
    if variable("DEMO_FAILS") == "1" {
        eprintln!("the database refuses this version's schema: column `price` is missing");
        return ExitCode::from(3);
    }
    let listener = match TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await {
        Ok(listener) => listener,
        Err(error) => {
            eprintln!("port {port} can't be listened on: {error}");
            return ExitCode::FAILURE;
        }
    };
    println!("listening on port {port}");
    let app = Router::new()
        .route("/", get(answer))
        .route("/slow", get(|| slow("/slow", Duration::from_secs(2))))
        .route("/very-slow", get(|| slow("/very-slow", Duration::from_secs(50))))
        .route("/health", get(|| std::future::ready("well\n")));
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

/// Takes its time, as a large download does.
#[allow(clippy::print_stdout, reason = "what it writes is its log")]
async fn slow(path: &str, time: Duration) -> String {
    println!("{path} has begun");
    tokio::time::sleep(time).await;
    answer().await
}

async fn answer() -> String {
    let variable = |name| std::env::var(name).unwrap_or_default();
    let message = match tokio::fs::read_to_string("message.txt").await {
        Ok(message) => message.trim().to_owned(),
        Err(_) if variable("GREETING").is_empty() => "hello".to_owned(),
        Err(_) => variable("GREETING"),
    };
    format!(
        "{message} from version {} in slot {}, process {}\n",
        variable("VERSION"),
        variable("EWS_SLOT"),
        std::process::id()
    )
}
