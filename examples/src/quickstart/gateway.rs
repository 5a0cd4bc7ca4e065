//! The gateway of the tour: a process of its own, which outlives controllers.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use ews_route::server::{self, Addresses, ServerConfig};
use ews_route::{GatewayConfig, SampleConfig};
use tokio::io::AsyncReadExt as _;
use tokio::signal::unix::{SignalKind, signal};

/// Where the one before said where it listened.
pub(super) const BEFORE: &str = "addresses.before";

/// Serves until SIGTERM.
#[allow(clippy::print_stdout, reason = "the presenter shows what it says")]
pub async fn gateway(root: &Path) -> ExitCode {
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    // One that takes another's place is found where that one was.
    let before = Addresses::read(&root.join(BEFORE)).ok().flatten();
    let listen = before.as_ref().and_then(|before| before.http.first().copied()).unwrap_or(any);
    let admin = before.and_then(|before| before.admin).unwrap_or(any);
    let mut samples = SampleConfig::default();
    samples.interval = Duration::from_millis(250);
    let gateway = GatewayConfig::default().with_listen([listen]).with_metrics(samples);
    let config = ServerConfig::default()
        .with_gateway(gateway)
        .with_admin(admin, root.join("token"))
        .with_state(root.join("gateway.redb"))
        .with_addresses_file(root.join("addresses"))
        .with_drain(Duration::from_secs(5));
    let Ok(mut asked) = signal(SignalKind::terminate()) else { return ExitCode::FAILURE };
    let until = async move {
        let mut input = tokio::io::stdin();
        let mut nothing = [0; 64];
        tokio::select! {
            _ = asked.recv() => {}
            // The presenter is gone, in whatever way.
            () = async { while matches!(input.read(&mut nothing).await, Ok(1..)) {} } => {}
        }
    };
    match server::run(config, |_| {}, until).await {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            println!("the gateway can't run: {error}");
            ExitCode::FAILURE
        }
    }
}
