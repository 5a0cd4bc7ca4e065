//! The service of the tour: an HTTP server that knows nothing of EWS but the port in its environment.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use super::load;

/// The version that is broken: it ends at its start, with last words.
pub(super) const BROKEN: &str = "v3";
/// The version that is well by its probe and answers every request with an error.
pub(super) const SICKLY: &str = "v5";
/// The file whose text each answer ends with, in the instance's directory.
pub(super) const TEXT: &str = "text";

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
    let name = variable("EWS_SERVICE");
    let answer = format!("{name} {version} in slot {slot}, process {}", std::process::id());
    let app = Router::new()
        .route("/", get(move || answered(version == SICKLY, answer.clone())))
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

/// What it is, what the file says, and what the service that it calls answers.
async fn answered(is_sickly: bool, mut answer: String) -> (StatusCode, String) {
    if is_sickly {
        return (StatusCode::INTERNAL_SERVER_ERROR, "the basket has no price".to_owned());
    }
    if let Ok(text) = tokio::fs::read_to_string(TEXT).await {
        answer.push_str(": ");
        answer.push_str(text.trim());
    }
    let Ok(calls) = std::env::var("CALLS") else { return (StatusCode::OK, answer) };
    let Some(address) = known(&calls).await else {
        return (StatusCode::BAD_GATEWAY, format!("{answer} knows no {calls}"));
    };
    match load::fetch(address, "/", &calls).await {
        Ok((200, next)) => (StatusCode::OK, format!("{answer} > {next}")),
        other => (StatusCode::BAD_GATEWAY, format!("{answer} got {other:?} from {calls}")),
    }
}

/// Where another member of the release is, by the file that says it now.
async fn known(member: &str) -> Option<SocketAddr> {
    let text = tokio::fs::read_to_string(std::env::var_os("EWS_PEERS")?).await.ok()?;
    let value: serde_json::Value = serde_json::from_str(&text).ok()?;
    let endpoint = value.get("members")?.get(member)?.get("endpoints")?.get(0)?;
    endpoint.get("address")?.as_str()?.parse().ok()
}
