//! The gateway of the tour: a process of its own, which outlives controllers.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use ews_route::server::{self, ServerConfig};
use ews_route::{GatewayConfig, SampleConfig};
use tokio::signal::unix::{SignalKind, signal};

/// Serves until SIGTERM.
#[allow(clippy::print_stdout, reason = "the presenter shows what it says")]
pub async fn gateway(root: &Path) -> ExitCode {
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let mut samples = SampleConfig::default();
    samples.interval = Duration::from_millis(250);
    let gateway = GatewayConfig::default().with_listen([any]).with_metrics(samples);
    let config = ServerConfig::default()
        .with_gateway(gateway)
        .with_admin(any, root.join("token"))
        .with_state(root.join("gateway.redb"))
        .with_addresses_file(root.join("addresses"))
        .with_drain(Duration::from_secs(5));
    let Ok(mut asked) = signal(SignalKind::terminate()) else { return ExitCode::FAILURE };
    let until = async move {
        asked.recv().await;
    };
    match server::run(config, |_| {}, until).await {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            println!("the gateway can't run: {error}");
            ExitCode::FAILURE
        }
    }
}
