//! Webhooks and the deploy API of CI jobs, where the configuration asks for them.

use std::sync::Arc;

use ews_core::{Result, Secrets};
use ews_deploy::Deployer;
use ews_deploy::intake::{Intake, IntakeParts};
use ews_deploy::source::Sources;
use tokio::net::TcpListener;

use crate::config::IntakeSection;
use crate::data::DataDirectory;
use crate::host::bind;

/// The intake with its listener, not yet served.
pub(crate) struct Opened {
    pub(crate) intake: Intake,
    pub(crate) router: axum::Router,
    pub(crate) listener: TcpListener,
}

/// Opens it.
pub(crate) async fn open(
    section: &IntakeSection,
    data: &DataDirectory,
    deployer: &Deployer,
    secrets: Arc<dyn Secrets>,
    sources: Sources,
) -> Result<Opened> {
    let parts = IntakeParts::new(deployer.clone(), secrets).with_sources(sources);
    let intake = Intake::start(parts, section.config(data.at("uploads")))?;
    let router = intake.router()?;
    let listener = bind(section.listen, "intake.listen").await?;
    if !section.listen.ip().is_loopback() {
        let listen = section.listen;
        tracing::warn!(%listen, "`intake.listen` is reached by others and speaks without TLS: whoever is between reads its tokens");
    }
    Ok(Opened { intake, router, listener })
}
