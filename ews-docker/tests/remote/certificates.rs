//! TLS that fails, each way with words that say what to do; and the TLS of an engine itself, which is Go's and not ours.
//!
//! The files beside this one were made with `openssl ca`: an authority, a stranger's, and certificates of one key (`leaf.key`) for a server of
//! loopback and a client, with one each that expired in 2025. The others hold until 2125.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ews_core::testkit::conformance::runtime;
use ews_core::{Error, ErrorKind};
use ews_docker::{DockerConfig, DockerRuntime, EngineAddress, TlsFiles};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion, crypto};

use crate::engine;
use crate::private::PrivateEngine;
use crate::relay::Relay;
use crate::rig::garbler::{Garbler, Say};
use crate::trouble;

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/remote/tls").join(name)
}

/// A server of this certificate, which wants one of the clients where it is told to.
pub(super) fn server(certificate: &str, wants: bool) -> TlsAcceptor {
    speaking(&[&TLS13, &TLS12], certificate, wants)
}

fn speaking(versions: &[&'static SupportedProtocolVersion], certificate: &str, wants: bool) -> TlsAcceptor {
    let provider = Arc::new(crypto::ring::default_provider());
    let chain = vec![CertificateDer::from_pem_file(file(&format!("{certificate}.pem"))).unwrap()];
    let key = PrivateKeyDer::from_pem_file(file("leaf.key")).unwrap();
    let config =
        ServerConfig::builder_with_provider(Arc::clone(&provider)).with_protocol_versions(versions).unwrap();
    let config = if wants {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(file("ca.pem")).unwrap()).unwrap();
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
        config.with_client_cert_verifier(verifier)
    } else {
        config.with_no_client_auth()
    };
    TlsAcceptor::from(Arc::new(config.with_single_cert(chain, key).unwrap()))
}

/// Our side: the authority, and this certificate.
pub(super) fn ours(certificate: Option<&str>) -> TlsFiles {
    let files = TlsFiles::new(file("ca.pem"));
    match certificate {
        Some(name) => files.with_client(file(&format!("{name}.pem")), file("leaf.key")),
        None => files,
    }
}

async fn refusal(port: u16, files: TlsFiles) -> Error {
    let address = EngineAddress::Tls { host: "127.0.0.1".to_owned(), port, tls: files };
    DockerRuntime::connect(DockerConfig::new(address)).await.unwrap_err()
}

#[tokio::test]
async fn what_is_wrong_with_certificates_is_said_with_its_remedy() {
    let stranger = || {
        let mut files = ours(Some("client"));
        files.ca = file("stranger.pem");
        files
    };
    let named = || {
        let mut files = ours(None);
        files.server_name = Some("other.example".to_owned());
        files
    };
    // Which server, whether it wants a certificate, what we have, and a word of the remedy.
    let cases: [(&str, bool, TlsFiles, &str); 8] = [
        ("server", false, stranger(), "no authority in `ca.pem`"),
        ("server-expired", false, ours(None), "has expired, or this machine's clock"),
        ("server-elsewhere", false, ours(None), "for another name"),
        ("server", false, named(), "set `server_name`"),
        ("server", true, ours(None), "`cert.pem` and `key.pem`"),
        ("server", true, ours(Some("client-stranger")), "refuses our certificate"),
        ("server", true, ours(Some("client-expired")), "renew `cert.pem`"),
        // One for servers is none for clients.
        ("server", true, ours(Some("server")), "certificate"),
    ];
    for (number, (name, wants, files, remedy)) in cases.into_iter().enumerate() {
        for versions in [&[&TLS13][..], &[&TLS12]] {
            // Nobody stands behind the port: none of these comes so far.
            let relay = Relay::tls("/nonexistent".into(), speaking(versions, name, wants));
            let error = refusal(relay.port(), files.clone()).await;
            let shown = format!("case {number} with {versions:?}: {error} {:?}", error.detail());
            assert_eq!(error.kind(), ErrorKind::Unauthorized, "{shown}");
            assert!(versions == [&TLS12] || error.message().contains(remedy), "{shown}");
            assert!(error.detail().is_some() && !error.maybe_applied(), "{shown}");
        }
    }
}

#[tokio::test]
async fn tls_where_there_is_none_and_none_where_there_is_tls() {
    let relay = Relay::tls("/nonexistent".into(), server("server", true));
    let plain = |port: u16| async move {
        let address = EngineAddress::Tcp { host: "127.0.0.1".to_owned(), port };
        DockerRuntime::connect(DockerConfig::new(address)).await.unwrap_err()
    };
    let error = plain(relay.port()).await;
    assert_eq!(error.kind(), ErrorKind::Decode, "{error}");
    assert!(error.message().contains("`TlsFiles`"), "{error}");
    // What Go's server says to those who speak plainly to its TLS, word for word.
    let go = Garbler::mute(|_| {
        Say::Bytes(
            b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n".to_vec(),
        )
    })
    .await;
    let error = plain(go.port()).await;
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    assert!(error.message().contains("DOCKER_CERT_PATH"), "{error}");
    // And what it says to those who speak TLS to a plain port.
    let go = Garbler::mute(|_| {
        Say::Bytes(b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n400 Bad Request".to_vec())
    })
    .await;
    let error = refusal(go.port(), ours(Some("client"))).await;
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    assert!(error.message().contains("speaks no TLS"), "{error}");
    // One that takes connections and hangs up is no matter of certificates.
    let silent = Garbler::mute(|_| Say::Bytes(Vec::new())).await;
    let error = refusal(silent.port(), ours(Some("client"))).await;
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
}

/// What goes through a connection in ways of its own.
const CASES: [&str; 7] = [
    "exec_input_ends",
    "terminate_ends_the_sessions_tree",
    "a_terminal_carries_every_byte",
    "a_terminal_tells_its_size",
    "archives_round_trip",
    "every_transition_is_told",
    "followed_logs_end_at_exit",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_tls_of_an_engine_itself() {
    if engine::socket().is_none() {
        return;
    }
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let path = |name: &str| file(name).to_str().unwrap().to_owned();
    let more = [
        "--tlsverify".to_owned(),
        format!("--tlscacert={}", path("ca.pem")),
        format!("--tlscert={}", path("server.pem")),
        format!("--tlskey={}", path("leaf.key")),
        format!("--host=tcp://127.0.0.1:{port}"),
    ];
    let Some(own) = PrivateEngine::start_with(&more) else { return };
    for (files, remedy) in [
        (ours(None), "`cert.pem` and `key.pem`"),
        (ours(Some("client-stranger")), "certificate"),
        (ours(Some("client-expired")), "certificate"),
    ] {
        let error = refusal(port, files).await;
        assert_eq!(error.kind(), ErrorKind::Unauthorized, "{error} {:?}", error.detail());
        assert!(error.message().contains(remedy), "{error}");
    }
    let plain = EngineAddress::Tcp { host: "127.0.0.1".to_owned(), port };
    let error = DockerRuntime::connect(DockerConfig::new(plain)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    assert!(error.message().contains("wants TLS"), "{error}");
    let mut config = trouble::config(&own.socket());
    config.address = EngineAddress::Tls { host: "localhost".to_owned(), port, tls: ours(Some("client")) };
    let harness = trouble::Harness::new(own, config);
    let report = runtime::run_only(&harness, &CASES).await;
    println!("{report}");
    report.assert_passed(&[]);
}
