//! TLS: who is trusted, and that nothing goes out without it unasked.

use std::sync::Arc;
use std::time::Duration;

use ews_core::registry::Registry;
use ews_core::{Error, ErrorKind, ImageRef, Retry};
use ews_docker::Credentials;
use ews_docker::registry::{OciRegistry, OciRegistryConfig};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::pieces::MANIFEST;
use crate::standin::{Reply, StandIn};

const AUTHORITY: &str = include_str!("tls/ca.pem");

/// A server on loopback that answers every request with this head and an empty object.
async fn server(head: String) -> (u16, tokio::task::JoinHandle<()>) {
    let certificate = CertificateDer::from_pem_slice(include_bytes!("tls/server.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_slice(include_bytes!("tls/server.key")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let task = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // A client that does not trust us hangs up.
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                if stream.read_buf(&mut request).await.unwrap_or(0) == 0 {
                    break;
                }
            }
            let answer = format!("HTTP/1.1 {head}\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{{}}");
            let _ = stream.write_all(answer.as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    });
    (port, task)
}

fn config() -> OciRegistryConfig {
    OciRegistryConfig::default().without_proxy().with_answer_timeout(Duration::from_secs(20))
}

async fn ask(config: OciRegistryConfig, host: &str) -> Result<(), Error> {
    let registry = OciRegistry::new(config, Credentials::anonymous()).unwrap();
    let name: ImageRef = format!("{host}/a/b:1").parse().unwrap();
    registry.manifest(&name).await.map(drop)
}

#[tokio::test]
async fn a_private_authority_is_trusted_when_it_is_named() {
    let (port, task) = server(format!("200 OK\r\ncontent-type: {MANIFEST}")).await;
    let host = format!("127.0.0.1:{port}");
    ask(config().with_certificates(AUTHORITY), &host).await.unwrap();
    let error = ask(config(), &host).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Unavailable, Retry::Never), "{error}");
    assert!(error.message().contains("certificate"), "{error}");
    task.abort();
}

#[tokio::test]
async fn a_way_out_of_tls_is_not_taken() {
    let plain = StandIn::start(|_| Reply::new(200).with("content-type", MANIFEST).body("{}")).await;
    let (port, task) = server(format!("307 Elsewhere\r\nlocation: http://{}/x", plain.host())).await;
    let error = ask(config().with_certificates(AUTHORITY), &format!("127.0.0.1:{port}")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Decode, "{error}");
    assert!(plain.requests().is_empty());
    task.abort();
}

#[tokio::test]
async fn a_registry_without_tls_is_not_spoken_to_unasked() {
    let plain = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = plain.local_addr().unwrap().port();
    let task = tokio::spawn(async move {
        let mut first = Vec::new();
        while let Ok((mut stream, _)) = plain.accept().await {
            let mut bytes = vec![0; 16];
            let count = stream.read(&mut bytes).await.unwrap();
            first.push(bytes[..count].first().copied());
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").await;
            // The first byte of a handshake; a request would begin with a letter.
            assert!(first.iter().all(|byte| *byte == Some(22)), "{first:?}");
        }
    });
    for host in [format!("127.0.0.1:{port}"), format!("localhost:{port}")] {
        let error = ask(config(), &host).await.unwrap_err();
        assert_eq!((error.kind(), error.retry()), (ErrorKind::Unavailable, Retry::Never), "{error}");
        assert!(error.message().contains("plain_http"), "{error}");
    }
    assert!(!task.is_finished(), "the server saw handshakes only");
    task.abort();
}
