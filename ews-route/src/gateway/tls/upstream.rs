//! TLS towards endpoints: who they must be, and how this gateway proves itself.

use std::fmt;
use std::io::{Error, ErrorKind, Result};
use std::sync::Arc;

use ews_core::balancer::{Pool, PoolProtocol, UpstreamTls};
use ews_core::endpoint::EndpointAddress;
use ews_core::id::PoolId;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, TlsStream};

use super::certificates::Place;
use crate::gateway::thread::Shared;

/// How a pool's endpoints are spoken to. Its configuration is loaded when the first is connected to.
pub(crate) struct Upstream {
    /// Tells it from those before and after a change.
    pub(crate) uid: u64,
    pub(super) pool: PoolId,
    pub(super) protocol: PoolProtocol,
    pub(super) spec: UpstreamTls,
    pub(super) place: Place<ClientConfig>,
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TLS to {}", self.pool)
    }
}

impl Upstream {
    /// What a pool asks for; what was before where that is the same.
    pub(crate) fn of(pool: &Pool, before: Option<&Arc<Self>>, uid: u64) -> Option<Arc<Self>> {
        let spec = pool.tls.as_deref()?;
        let kept = before.filter(|before| before.spec == *spec && before.protocol == pool.protocol);
        Some(kept.cloned().unwrap_or_else(|| {
            Arc::new(Self {
                uid,
                pool: pool.id.clone(),
                protocol: pool.protocol,
                spec: spec.clone(),
                place: Place::default(),
            })
        }))
    }
}

/// Does the handshake with an endpoint.
pub(crate) async fn connect(
    shared: &Shared,
    upstream: &Arc<Upstream>,
    address: &EndpointAddress,
    stream: TcpStream,
) -> Result<TlsStream<TcpStream>> {
    let shaking = async {
        let config = shared.certificates.client(upstream).await.map_err(Error::other)?;
        let name = match (&upstream.spec.server_name, address) {
            (Some(name), _) => ServerName::try_from(name.clone()).map_err(Error::other)?,
            (None, EndpointAddress::Ip(address)) => ServerName::from(address.ip()),
            (None, EndpointAddress::Name { host, .. }) => {
                ServerName::try_from(host.bare().to_owned()).map_err(Error::other)?
            }
        };
        TlsConnector::from(config).connect(name, stream).await
    };
    let limit = shared.config.timeouts.handshake;
    let stream =
        tokio::time::timeout(limit, shaking).await.map_err(|_| Error::from(ErrorKind::TimedOut))??;
    let agreed = stream.get_ref().1.alpn_protocol();
    if upstream.protocol == PoolProtocol::H2c && agreed != Some(b"h2") {
        return Err(Error::new(ErrorKind::Unsupported, "the endpoint does not agree on HTTP/2"));
    }
    Ok(stream.into())
}
