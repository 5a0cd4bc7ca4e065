//! TLS to clients: which certificate a handshake gets, and when it is loaded.
//!
//! A handshake begins with the name that the client asks for. Its domain leads to a certificate, which is loaded when it is
//! first asked for, on the control thread, once for all who wait for it, and kept. A certificate that is changed is loaded
//! anew at the next handshake; where that fails the last good one goes on. So a gateway with a million domains starts at once
//! and holds what is in use.

mod certificates;
mod load;
mod upstream;

use std::io::{Error, ErrorKind, Result};
use std::rc::Rc;

use ews_core::id::CertificateId;
use ews_core::{Clock as _, SystemClock};
use tokio::net::TcpStream;
use tokio_rustls::{LazyConfigAcceptor, TlsStream};

use super::connection::Connection;
use super::headers::host_name;

pub(crate) use certificates::Certificates;
pub(crate) use upstream::{Upstream, connect};

/// The end of a handshake.
pub(crate) struct Secured {
    pub(crate) stream: Box<TlsStream<TcpStream>>,
    pub(crate) certificate: CertificateId,
    /// Whether HTTP/2 was agreed on.
    pub(crate) is_http2: bool,
}

/// Does a client's handshake.
pub(crate) async fn accept(connection: &Rc<Connection>, stream: TcpStream) -> Result<Secured> {
    let start = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), stream).await?;
    let hello = start.client_hello();
    // Without a name the domain `*` answers, as an address has no other.
    let name = host_name(hello.server_name().unwrap_or_default()).into_owned();
    let snapshot = connection.thread.snapshot();
    if snapshot.blackholes.drops_host(&name, || SystemClock.now()) {
        return Err(Error::new(ErrorKind::ConnectionRefused, "the site is dropped"));
    }
    let certificate = snapshot.site(&name).and_then(|site| snapshot.certificate(site.certificate.as_ref()?));
    let Some(certificate) = certificate.cloned() else {
        return Err(Error::new(ErrorKind::NotFound, "no certificate for the name that is asked for"));
    };
    drop(snapshot);
    let config = connection.thread.shared.certificates.get(&certificate).await.map_err(Error::other)?;
    let stream = Box::new(TlsStream::from(start.into_stream(config).await?));
    let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    Ok(Secured { stream, certificate: certificate.id.clone(), is_http2 })
}
