//! The one before, as its successor has it.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ews_core::balancer::{Limits, Table, TableLoader};
use ews_core::endpoint::{EndpointAddress, EndpointKey};
use ews_core::id::{GatewayId, PoolId};
use ews_core::{CapabilitySet, Error, ErrorKind, Result};
use tokio::net::UnixStream;

use super::channel::{self, Channel, confused};
use super::message::{Asks, Tells};
use super::{VERSION, relay};
use crate::gateway::Core;

/// How long the predecessor may take until it gives its sockets: it closes its store before.
const PATIENCE: Duration = Duration::from_secs(30);
/// How many listening sockets there may be: so many addresses at so many threads.
const MOST: usize = 16_384;

/// A gateway that waits for us to serve in its place. Dropping it leaves that one as it was.
#[derive(Debug)]
pub struct Predecessor {
    channel: Channel,
    generation: u64,
    listeners: Vec<TcpListener>,
}

/// What a successor is told beside its store.
pub(crate) struct Told {
    /// What was applied, where it asked for that.
    pub(crate) table: Option<Table>,
    /// Endpoints that are well by their checks.
    pub(crate) well: Vec<(PoolId, EndpointKey)>,
    /// What names of endpoints stand for.
    pub(crate) named: Vec<(EndpointAddress, Vec<IpAddr>)>,
}

impl Predecessor {
    /// Asks the gateway of this name that offers itself at `path` to hand over. From here on it takes no changes and its store is
    /// closed, until we serve or are gone. `None` where nobody is there, as at the first start or after a crash.
    ///
    /// # Errors
    /// What that gateway refuses with: `Invalid` where it has another name or speaks another version; `Unauthorized` for one of another user; `Timeout` where it does not
    /// answer within 30 s; `Unavailable` where the socket fails; `Invalid` for a name that is none.
    pub async fn ask(path: &Path, gateway: &str) -> Result<Option<Self>> {
        let gateway = GatewayId::new(gateway)?;
        let asked = async {
            let stream = match UnixStream::connect(path).await {
                Ok(stream) => stream,
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) =>
                {
                    return Ok(None);
                }
                Err(error) => {
                    return Err(Error::new(ErrorKind::Unavailable, "the predecessor can't be asked")
                        .with_source(error));
                }
            };
            let mut channel = Channel::new(stream)?;
            channel.send(&Asks::Take { version: VERSION, gateway }).await?;
            let (generation, addresses) = match channel.receive().await? {
                Tells::Given { generation, listeners } if listeners.len() <= MOST => (generation, listeners),
                Tells::Refused { kind, reason } => return Err(Error::new(kind, reason)),
                _ => return Err(confused("the predecessor answers with something else")),
            };
            let listeners = channel.receive_sockets(addresses.len()).await?;
            let is_same = |(listener, address): (&TcpListener, &SocketAddr)| {
                listener.local_addr().is_ok_and(|found| found == *address)
            };
            if !listeners.iter().zip(&addresses).all(is_same) {
                return Err(confused("a socket is not where the predecessor said"));
            }
            Ok(Some(Self { channel, generation, listeners }))
        };
        let result = tokio::time::timeout(PATIENCE, asked).await.unwrap_or_else(|_| {
            Err(Error::new(ErrorKind::Timeout, "the predecessor did not answer within 30s"))
        });
        result.map_err(|error| error.with_operation("handover.ask").with_context("path", path.display()))
    }

    /// The predecessor's listening sockets of this address. A gateway that is started with this predecessor takes those of
    /// its configuration by itself; this is for others, such as that of an admin endpoint.
    pub fn take(&mut self, address: SocketAddr) -> Vec<TcpListener> {
        let is_there = |listener: &mut TcpListener| listener.local_addr().is_ok_and(|found| found == address);
        self.listeners.extract_if(.., is_there).collect()
    }

    /// What has to be known to serve in its place.
    pub(crate) async fn tell(
        &mut self,
        stored: Option<&Table>,
        capabilities: CapabilitySet,
        limits: Limits,
    ) -> Result<Told> {
        if let Some(stored) = stored.map(Table::generation).filter(|stored| *stored != self.generation) {
            return Err(Error::new(
                ErrorKind::Stale,
                format!(
                    "the store is at generation {stored} and the predecessor at {}; accepted: the store that it has closed",
                    self.generation
                ),
            )
            .with_operation("handover.take"));
        }
        self.channel.send(&Asks::Tell { everything: stored.is_none() }).await?;
        let mut loader = TableLoader::new(capabilities, limits);
        let (mut changes, mut well, mut named) = (Vec::new(), Vec::new(), Vec::new());
        loop {
            match self.channel.receive().await? {
                Tells::Objects(objects) => objects.into_iter().for_each(|object| loader.add(object)),
                Tells::Remembered(some) => changes.extend(some),
                Tells::Well(some) => well.extend(some),
                Tells::Named(some) => named.extend(some),
                Tells::All => break,
                _ => return Err(confused("the predecessor tells something else")),
            }
        }
        let table = if stored.is_none() { Some(loader.finish(self.generation, changes)?) } else { None };
        Ok(Told { table, well, named })
    }

    /// We serve: it drains.
    pub(crate) async fn succeed(mut self, core: &Arc<Core>) -> Result<()> {
        // What nobody took is closed with the predecessor.
        self.listeners.clear();
        let told = async {
            // One that has given up meanwhile has said so before it closed: what it said is read in any case.
            let _ = self.channel.send(&Asks::Ready).await;
            channel::read(&mut self.channel.0).await
        };
        match tokio::time::timeout(PATIENCE, told).await {
            Ok(Ok(Some(Tells::Draining(views)))) => relay::follow(core, self.channel.0, views),
            Ok(Ok(Some(Tells::Refused { kind, reason }))) => {
                Err(Error::new(kind, reason).with_operation("handover.take"))
            }
            // It has died meanwhile; its sockets and what it knew are here.
            Ok(Ok(None)) => {
                tracing::warn!("the predecessor has gone without a word");
                Ok(())
            }
            Ok(Err(error)) if error.kind() == ErrorKind::Unavailable => {
                tracing::warn!(%error, "the predecessor has gone without a word");
                Ok(())
            }
            Ok(Err(error)) => Err(error.with_operation("handover.take")),
            Ok(Ok(Some(_))) => Err(confused("the predecessor answers with something else")),
            Err(_) => Err(Error::new(ErrorKind::Timeout, "the predecessor does not let go")
                .with_operation("handover.take")),
        }
    }
}
