//! Who knows what a name stands for: the system, or whoever the embedder says.

use std::net::{IpAddr, ToSocketAddrs as _};
use std::sync::Arc;

use async_trait::async_trait;
use ews_core::endpoint::HostName;
use ews_core::{Error, ErrorKind, Result};
use tokio::sync::Semaphore;

/// Finds out what names of endpoints stand for.
///
/// It is asked in the gateway's control thread, at most 16 times at once, and each time for at most
/// [`NamesConfig::timeout`](crate::NamesConfig::timeout); then the future is dropped. It must not block that thread. What is added to this
/// trait later has a default.
///
/// ```
/// use std::net::IpAddr;
/// use ews_core::endpoint::HostName;
/// use ews_route::Resolver;
///
/// /// Knows one name.
/// struct Fixed;
///
/// #[async_trait::async_trait]
/// impl Resolver for Fixed {
///     async fn resolve(&self, host: &HostName) -> ews_core::Result<Vec<IpAddr>> {
///         match host.as_str() {
///             "db.internal" => Ok(vec![IpAddr::from([10, 0, 0, 7])]),
///             _ => Err(ews_core::Error::not_found("host", host)),
///         }
///     }
/// }
/// ```
#[async_trait]
pub trait Resolver: Send + Sync + 'static {
    /// The addresses that this name stands for now. The order means nothing; of more than 64, those that sort first are used.
    ///
    /// # Errors
    /// Whatever went wrong: it is logged, what was known before stays, and the question is repeated. An empty answer is the
    /// same.
    async fn resolve(&self, host: &HostName) -> Result<Vec<IpAddr>>;
}

/// How many questions the system may be answering at once.
const AT_ONCE: usize = 16;

/// The system's own resolver, as programs of this machine use it: `/etc/hosts`, `/etc/resolv.conf` and whatever else it is told.
///
/// It says nothing of how long an answer holds, so that a name is looked up at regular times. A question can't be taken back:
/// one that hangs holds one of 16 places until the system gives up, however long the gateway waited for it; where all are
/// held, further questions fail at once.
#[derive(Debug, Clone)]
pub struct SystemResolver(Arc<Semaphore>);

impl Default for SystemResolver {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(AT_ONCE)))
    }
}

#[async_trait]
impl Resolver for SystemResolver {
    async fn resolve(&self, host: &HostName) -> Result<Vec<IpAddr>> {
        let busy = |_| Error::new(ErrorKind::Busy, "the system is busy with 16 other names");
        let place = self.0.clone().try_acquire_owned().map_err(busy)?;
        let name = host.clone();
        let asked = tokio::task::spawn_blocking(move || {
            let found = (name.as_str(), 0).to_socket_addrs();
            // Held until the system has answered, not until somebody stopped waiting for it.
            drop(place);
            found.map(|found| found.map(|address| address.ip()).collect::<Vec<_>>())
        });
        let unknown = |error: std::io::Error| {
            Error::new(ErrorKind::Unavailable, "the system does not know the name").with_source(error)
        };
        asked.await.map_err(|_| Error::internal("the question was not answered"))?.map_err(unknown)
    }
}
