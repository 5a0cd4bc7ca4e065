//! TLS to an engine: a private authority, our certificate where the engine wants one, and what a refusal on either side means.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use ews_core::{Error, ErrorKind, Result};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{AlertDescription, CertificateError, ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::TlsFiles;

/// Makes TLS connections to one engine.
#[derive(Clone)]
pub(super) struct Dialler {
    connector: TlsConnector,
    name: ServerName<'static>,
}

impl Dialler {
    pub(super) fn new(host: &str, files: &TlsFiles) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&files.ca)? {
            roots
                .add(certificate)
                .map_err(|error| unreadable("an authority's certificate", &files.ca, error))?;
        }
        let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::internal("rustls refuses its own protocol versions").with_source(error))?
            .with_root_certificates(roots);
        let config = match (&files.cert, &files.key) {
            (Some(cert), Some(key)) => {
                let private = PrivateKeyDer::from_pem_file(key)
                    .map_err(|error| unreadable("a private key", key, error))?;
                builder
                    .with_client_auth_cert(certificates(cert)?, private)
                    .map_err(|error| unreadable("a certificate with its key", cert, error))?
            }
            (None, None) => builder.with_no_client_auth(),
            (cert, _) => {
                let given = if cert.is_some() { "cert.pem" } else { "key.pem" };
                return Err(Error::invalid(
                    "a certificate needs its key, and a key its certificate: only one of them is there",
                )
                .with_context("given", given));
            }
        };
        let name = files.server_name.as_deref().unwrap_or(host).to_owned();
        let name = ServerName::try_from(name).map_err(|error| {
            Error::invalid("the engine's name is no name of a certificate").with_source(error)
        })?;
        Ok(Self { connector: TlsConnector::from(Arc::new(config)), name })
    }

    pub(super) async fn handshake(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        self.connector.connect(self.name.clone(), stream).await
    }
}

/// What the engine said last of our certificate. It says it after the handshake, to a connection that nobody waits on yet; who asks next
/// finds the connection closed, and the reason here.
#[derive(Debug, Clone, Default)]
pub(crate) struct Refusal(Arc<Mutex<Option<Said>>>);

/// The kind, our words and TLS's own.
type Said = (ErrorKind, &'static str, String);

impl Refusal {
    /// Keeps what was read in place of an answer, where it is a refusal.
    pub(super) fn note(&self, error: &io::Error) {
        if let Some((kind, words)) = explain(error) {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((kind, words, error.to_string()));
        }
    }

    /// What was kept, which is then forgotten.
    pub(crate) fn take(&self) -> Option<Error> {
        let (kind, words, detail) = self.0.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        Some(Error::new(kind, words).with_detail(detail))
    }
}

/// What kept a connection from being made, or ended it, where it was TLS; with what to do about it.
///
/// An engine that wants a certificate says so after the handshake (TLS 1.3), so what it says comes out of the first call.
pub(crate) fn explain(error: &io::Error) -> Option<(ErrorKind, &'static str)> {
    use CertificateError as C;
    use rustls::Error as E;
    Some(match error.get_ref()?.downcast_ref::<E>()? {
        E::InvalidCertificate(C::UnknownIssuer | C::BadSignature) => (
            ErrorKind::Unauthorized,
            "the engine's certificate comes from no authority in `ca.pem`: give the one that signed it, and check that this is the engine",
        ),
        E::InvalidCertificate(C::Expired | C::ExpiredContext { .. }) => (
            ErrorKind::Unauthorized,
            "the engine's certificate has expired, or this machine's clock is wrong: renew it",
        ),
        E::InvalidCertificate(C::NotValidYet | C::NotValidYetContext { .. }) => {
            (ErrorKind::Unauthorized, "the engine's certificate is not valid yet: check this machine's clock")
        }
        E::InvalidCertificate(C::NotValidForName | C::NotValidForNameContext { .. }) => (
            ErrorKind::Unauthorized,
            "the engine's certificate is for another name: use a name or address that it holds, or set `server_name`",
        ),
        E::InvalidCertificate(_) => {
            (ErrorKind::Unauthorized, "the engine's certificate can't be believed: check `ca.pem`")
        }
        E::AlertReceived(AlertDescription::CertificateRequired) => {
            (ErrorKind::Unauthorized, "the engine wants a certificate of ours: give `cert.pem` and `key.pem`")
        }
        E::AlertReceived(AlertDescription::CertificateExpired) => {
            (ErrorKind::Unauthorized, "our certificate has expired, says the engine: renew `cert.pem`")
        }
        // Engines of Go say "bad certificate" for whatever is wrong with ours, and for none at all.
        E::AlertReceived(
            AlertDescription::BadCertificate
            | AlertDescription::UnknownCA
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateRevoked
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::AccessDenied
            | AlertDescription::DecryptError
            | AlertDescription::HandshakeFailure,
        ) => (
            ErrorKind::Unauthorized,
            "the engine refuses our certificate: give a `cert.pem` and `key.pem` from the authority that it trusts, not expired",
        ),
        E::InvalidMessage(_) => (
            ErrorKind::Invalid,
            "what answers here speaks no TLS: is it the port that engines serve with TLS (2376 by custom), or an engine without?",
        ),
        _ => (ErrorKind::Unauthorized, "TLS with the engine failed: check the certificates"),
    })
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let read = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<std::result::Result<Vec<_>, _>>)
        .map_err(|error| unreadable("a certificate", path, error))?;
    if read.is_empty() {
        return Err(Error::invalid("a PEM file holds no certificate").with_context("path", path.display()));
    }
    Ok(read)
}

fn unreadable(
    what: &'static str,
    path: &Path,
    error: impl std::error::Error + Send + Sync + 'static,
) -> Error {
    Error::invalid(format!("{what} can't be read")).with_context("path", path.display()).with_source(error)
}
