//! From references to a configuration that handshakes use.

use std::sync::Arc;

use ews_core::balancer::PoolProtocol;
use ews_core::{Error, ErrorKind, Result, SecretRef, Secrets};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, ProducesTickets, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::sync::OnceCell;

use super::upstream::Upstream;
use crate::gateway::snapshot::CertificateView;

/// The most certificates of a chain, and of those that clients' certificates may be signed by.
const MAX_CHAIN: usize = 16;

/// What all configurations have in common.
pub(super) struct Loader {
    provider: Arc<CryptoProvider>,
    /// One for all certificates and threads, so that a session is found again wherever a client connects, and after a change
    /// of its certificate.
    tickets: Arc<dyn ProducesTickets>,
    /// Whom the system trusts, once somebody asked.
    public: OnceCell<Arc<RootCertStore>>,
}

/// Whatever keeps references' values; there may be none.
pub(super) type Source = Option<Arc<dyn Secrets>>;

impl Loader {
    pub(super) fn new() -> Result<Self> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        Ok(Self { provider, tickets: ticketer()?, public: OnceCell::new() })
    }

    pub(super) async fn load(
        &self,
        certificate: &CertificateView,
        source: &Source,
    ) -> Result<Arc<ServerConfig>> {
        let secrets = secrets(source)?;
        let (chain, key) = own(secrets, &certificate.chain, &certificate.key).await?;
        let key = CertifiedKey::from_der(chain, key, &self.provider)
            .map_err(|error| Error::invalid(format!("the certificate and its key can't be used: {error}")))?;
        let builder = ServerConfig::builder_with_provider(self.provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::internal(format!("no version of TLS can be spoken: {error}")))?;
        let (builder, tickets) = match &certificate.client_ca {
            None => (builder.with_no_client_auth(), self.tickets.clone()),
            Some(authorities) => {
                let roots = roots(secrets, authorities, "client_ca").await?;
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), self.provider.clone())
                        .build()
                        .map_err(|error| Error::invalid(format!("clients can't be verified: {error}")))?;
                // A session from before clients had to prove themselves must not be taken up again.
                (builder.with_client_cert_verifier(verifier), ticketer()?)
            }
        };
        let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(key)));
        config.alpn_protocols = if cfg!(feature = "http2") {
            vec![b"h2".to_vec(), b"http/1.1".to_vec()]
        } else {
            vec![b"http/1.1".to_vec()]
        };
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.ticketer = tickets;
        Ok(Arc::new(config))
    }

    pub(super) async fn load_client(
        &self,
        upstream: &Upstream,
        source: &Source,
    ) -> Result<Arc<ClientConfig>> {
        let roots = match &upstream.spec.ca {
            Some(ca) => Arc::new(roots(secrets(source)?, ca, "ca").await?),
            None => self.public.get_or_try_init(public).await?.clone(),
        };
        let builder = ClientConfig::builder_with_provider(self.provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::internal(format!("no version of TLS can be spoken: {error}")))?
            .with_root_certificates(roots);
        let mut config = match &upstream.spec.client {
            None => builder.with_no_client_auth(),
            Some(client) => {
                let (chain, key) = own(secrets(source)?, &client.chain, &client.key).await?;
                builder.with_client_auth_cert(chain, key).map_err(|error| {
                    Error::invalid(format!("the certificate and its key can't be used: {error}"))
                })?
            }
        };
        config.alpn_protocols = match upstream.protocol {
            PoolProtocol::H2c => vec![b"h2".to_vec()],
            PoolProtocol::Http1 => vec![b"http/1.1".to_vec()],
            _ => Vec::new(),
        };
        Ok(Arc::new(config))
    }
}

fn secrets(source: &Source) -> Result<&dyn Secrets> {
    source
        .as_deref()
        .ok_or_else(|| Error::invalid("the gateway was given no source of secrets to load certificates from"))
}

/// Whom the system trusts, as its other programs see it. What can't be used of it is passed over: systems keep certificates
/// that are older than today's rules.
async fn public() -> Result<Arc<RootCertStore>> {
    // A file of 200 kB and more, or a question to the system's keeper of certificates.
    let found = tokio::task::spawn_blocking(rustls_native_certs::load_native_certs)
        .await
        .map_err(|_| Error::internal("the system's certificates were not loaded"))?;
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        let why = found.errors.first().map_or_else(|| "none was found".to_owned(), ToString::to_string);
        return Err(Error::new(
            ErrorKind::Unavailable,
            format!(
                "the system has no certificates of authorities that it trusts ({why}); they come with a package such as \
                 `ca-certificates`, or `SSL_CERT_FILE` says where they are, or the pool's `tls.ca`"
            ),
        ));
    }
    Ok(Arc::new(roots))
}

/// A chain and its key.
async fn own(
    secrets: &dyn Secrets,
    chain: &SecretRef,
    key: &SecretRef,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
    let chain = pem(secrets, chain, "chain").await?;
    let text = secrets.resolve(key).await?;
    // What is wrong with a key is not said: its text could be in it.
    let key = PrivateKeyDer::from_pem_slice(text.expose())
        .map_err(|_| Error::invalid(format!("`{key}` holds no private key in PEM form")))?;
    Ok((chain, key))
}

/// Who may have signed the other side's certificate.
async fn roots(secrets: &dyn Secrets, authorities: &SecretRef, what: &str) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for authority in pem(secrets, authorities, what).await? {
        roots.add(authority).map_err(|error| {
            Error::invalid(format!("`{authorities}` holds what can sign no certificate: {error}"))
        })?;
    }
    Ok(roots)
}

fn ticketer() -> Result<Arc<dyn ProducesTickets>> {
    rustls::crypto::ring::Ticketer::new()
        .map_err(|error| Error::internal(format!("no keys for session tickets can be made: {error}")))
}

async fn pem(secrets: &dyn Secrets, of: &SecretRef, what: &str) -> Result<Vec<CertificateDer<'static>>> {
    let text = secrets.resolve(of).await?;
    let parsed: std::result::Result<Vec<_>, _> =
        CertificateDer::pem_slice_iter(text.expose()).take(MAX_CHAIN + 1).collect();
    let parsed = parsed.map_err(|error| {
        Error::invalid(format!("`{of}` is no chain of certificates in PEM form: {error}"))
            .with_context("field", what)
    })?;
    if parsed.is_empty() || parsed.len() > MAX_CHAIN {
        return Err(Error::invalid(format!(
            "`{of}` holds {} certificates; accepted: 1 to {MAX_CHAIN}",
            parsed.len()
        ))
        .with_context("field", what));
    }
    Ok(parsed)
}
