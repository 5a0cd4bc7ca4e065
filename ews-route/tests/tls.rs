//! TLS: which certificate whom, when it is loaded, what a change of it does, and clients that prove themselves.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that can't go on fails"
)]

mod stage;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ews_core::balancer::{Certificate, Domain, DomainName, Object, Op, Pool, PoolProtocol};
use ews_core::id::{CertificateId, RouteSetId};
use ews_core::{Error, ErrorKind, SecretRef, SecretValue, Secrets};
use ews_route::{Gateway, GatewayConfig, RequestLimits, TcpListen};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, HandshakeKind, RootCertStore};
use stage::{PATIENCE, Stage, Upstream, config, forward, put_domain, put_member, put_rules, until};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

const FILES: [(&str, &str); 10] = [
    ("ca", include_str!("certificates/ca.pem")),
    ("shop", include_str!("certificates/shop.pem")),
    ("shop.key", include_str!("certificates/shop.key")),
    ("renewed", include_str!("certificates/renewed.pem")),
    ("renewed.key", include_str!("certificates/renewed.key")),
    ("wild", include_str!("certificates/wild.pem")),
    ("wild.key", include_str!("certificates/wild.key")),
    ("stranger", include_str!("certificates/stranger.pem")),
    ("stranger.key", include_str!("certificates/stranger.key")),
    ("broken", "-----BEGIN CERTIFICATE-----\nAAAA\n"),
];

/// Files that count how often they are read.
struct Shelf(AtomicUsize);

#[async_trait::async_trait]
impl Secrets for Shelf {
    async fn resolve(&self, reference: &SecretRef) -> ews_core::Result<SecretValue> {
        self.0.fetch_add(1, Ordering::Relaxed);
        // Long enough for a crowd to come together.
        tokio::time::sleep(Duration::from_millis(50)).await;
        let found = FILES.iter().find(|(name, _)| *name == reference.name());
        let (_, text) = found.ok_or_else(|| Error::new(ErrorKind::NotFound, "no such file"))?;
        SecretValue::new(text.as_bytes())
    }
}

fn certificate(id: &str, file: &str, client_ca: Option<&str>) -> Op {
    let chain = file.parse().unwrap();
    let key = format!("{file}.key").parse().unwrap();
    let mut certificate = Certificate::new(CertificateId::new(id).unwrap(), chain, key);
    certificate.client_ca = client_ca.map(|name| name.parse().unwrap());
    Op::Put(Object::Certificate(certificate))
}

fn domain(name: &str, certificate: &str) -> Op {
    Op::Put(Object::Domain(
        Domain::new(DomainName::new(name).unwrap(), RouteSetId::new("r").unwrap())
            .with_certificate(CertificateId::new(certificate).unwrap()),
    ))
}

struct Tls {
    stage: Stage,
    address: SocketAddr,
    shelf: Arc<Shelf>,
    upstream: Upstream,
}

/// A gateway with TLS for `shop.example` and what lies below it, and for nothing else.
async fn tls(config: GatewayConfig) -> Tls {
    let shelf = Arc::new(Shelf(AtomicUsize::new(0)));
    let config = config.with_listen_tls(["127.0.0.1:0".parse().unwrap()]);
    let gateway = Gateway::builder(config).with_secrets(shelf.clone()).start().await.unwrap();
    let address = gateway.addresses()[1];
    let upstream = Upstream::named("secure").await;
    let stage = Stage::of(gateway).await;
    stage
        .apply([
            put_member("p", "i0", upstream.address),
            certificate("shop", "shop", None),
            certificate("wild", "wild", None),
            domain("shop.example", "shop"),
            domain("*.shop.example", "wild"),
        ])
        .await;
    Tls { stage, address, shelf, upstream }
}

/// What a client trusts, and who it is.
fn client(own: Option<(&str, &str)>, protocols: &[&[u8]]) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(FILES[0].1.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let builder = builder.with_root_certificates(roots);
    let mut config = match own {
        None => builder.with_no_client_auth(),
        Some((chain, key)) => builder
            .with_client_auth_cert(
                vec![CertificateDer::from_pem_slice(chain.as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
            )
            .unwrap(),
    };
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    Arc::new(config)
}

async fn connect(
    address: SocketAddr,
    name: &'static str,
    config: &Arc<ClientConfig>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from(name).unwrap();
    let handshake = tokio_rustls::TlsConnector::from(config.clone()).connect(name, stream);
    tokio::time::timeout(PATIENCE, handshake).await.expect("a handshake in time")
}

/// One request; the answer as text, until the gateway closes.
async fn ask(stream: &mut TlsStream<TcpStream>, host: &str) -> std::io::Result<String> {
    stream
        .write_all(format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").as_bytes())
        .await?;
    let mut text = String::new();
    tokio::time::timeout(PATIENCE, stream.read_to_string(&mut text)).await.expect("an answer in time")?;
    Ok(text)
}

fn shown(stream: &TlsStream<TcpStream>) -> Vec<u8> {
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

fn file(name: &str) -> Vec<u8> {
    let (_, text) = FILES.iter().find(|(known, _)| *known == name).unwrap();
    CertificateDer::from_pem_slice(text.as_bytes()).unwrap().to_vec()
}

#[tokio::test]
async fn each_domain_shows_its_own_certificate_loaded_once_when_first_asked_for() {
    let tls = tls(config()).await;
    let config = client(None, &[]);
    assert_eq!(tls.shelf.0.load(Ordering::Relaxed), 0, "nothing is loaded before somebody asks");
    let crowd = (0..20).map(|_| connect(tls.address, "shop.example", &config));
    for stream in futures_util::future::join_all(crowd).await {
        let mut stream = stream.unwrap();
        assert_eq!(shown(&stream), file("shop"));
        let answer = ask(&mut stream, "shop.example").await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("secure"), "{answer}");
    }
    assert_eq!(tls.shelf.0.load(Ordering::Relaxed), 2, "the chain and the key, once for all");
    let stream = connect(tls.address, "a.shop.example", &config).await.unwrap();
    assert_eq!(shown(&stream), file("wild"));
    let seen = tls.upstream.received().pop().unwrap();
    assert_eq!(seen.header("x-forwarded-proto"), ["https"]);
    assert!(connect(tls.address, "unknown.example", &config).await.is_err());
    // A session goes on whichever thread takes the connection.
    let again: Vec<_> = futures_util::future::join_all((0..8).map(|_| async {
        let mut stream = connect(tls.address, "shop.example", &config).await.unwrap();
        let kind = stream.get_ref().1.handshake_kind();
        ask(&mut stream, "shop.example").await.unwrap();
        kind
    }))
    .await;
    assert!(again.contains(&Some(HandshakeKind::Resumed)), "{again:?}");
}

#[tokio::test]
async fn a_changed_certificate_holds_from_the_next_handshake_and_a_bad_one_never() {
    let tls = tls(config()).await;
    let mut open = connect(tls.address, "shop.example", &client(None, &[])).await.unwrap();
    tls.stage.apply([certificate("shop", "renewed", None)]).await;
    let stream = connect(tls.address, "shop.example", &client(None, &[])).await.unwrap();
    assert_eq!(shown(&stream), file("renewed"));
    for bad in ["missing", "broken", "ca"] {
        tls.stage.apply([certificate("shop", bad, None)]).await;
        let stream = connect(tls.address, "shop.example", &client(None, &[])).await.unwrap();
        assert_eq!(shown(&stream), file("renewed"), "{bad}");
    }
    // One that was never good: no handshake, and the others go on.
    tls.stage.apply([certificate("wild", "broken", None)]).await;
    assert!(connect(tls.address, "a.shop.example", &client(None, &[])).await.is_err());
    // Who was connected before all that still is.
    assert!(ask(&mut open, "shop.example").await.unwrap().ends_with("secure"));
}

#[tokio::test]
async fn clients_prove_themselves_where_that_is_asked_for() {
    let tls = tls(config()).await;
    tls.stage.apply([certificate("shop", "shop", Some("ca"))]).await;
    let own = (include_str!("certificates/client.pem"), include_str!("certificates/client.key"));
    let mut known = connect(tls.address, "shop.example", &client(Some(own), &[])).await.unwrap();
    assert!(ask(&mut known, "shop.example").await.unwrap().ends_with("secure"));
    for stranger in [None, Some((FILES[7].1, FILES[8].1))] {
        // With TLS 1.3 a client learns only afterwards that it was turned away.
        let refused = match connect(tls.address, "shop.example", &client(stranger, &[])).await {
            Ok(mut stream) => ask(&mut stream, "shop.example").await.is_err(),
            Err(_) => true,
        };
        assert!(refused);
    }
    // A connection for another domain is no way in, nor is one without TLS.
    let mut around = connect(tls.address, "a.shop.example", &client(None, &[])).await.unwrap();
    assert!(ask(&mut around, "shop.example").await.unwrap().starts_with("HTTP/1.1 421"));
    assert_eq!(tls.stage.get("shop.example", "/").await.status, 421);
    assert_eq!(tls.upstream.received().len(), 1);
}

#[tokio::test]
async fn what_is_no_handshake_or_none_in_time_is_closed_and_counted() {
    let mut times = ews_route::Timeouts::default();
    times.handshake = Duration::from_secs(1);
    let tls = tls(config().with_timeouts(times)).await;
    let mut plain = stage::Client::connect(tls.address).await;
    plain.send("GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n").await;
    // An alert may come before the end.
    while plain.exactly(1).await.is_some() {}
    let mut silent = stage::Client::connect(tls.address).await;
    assert!(silent.is_closed().await);
    assert!(tls.upstream.received().is_empty());
    // Others go on; on a busy machine one may be late too.
    let config = client(None, &[]);
    until("another is served", async || match connect(tls.address, "shop.example", &config).await {
        Ok(mut stream) => {
            ask(&mut stream, "shop.example").await.is_ok_and(|answer| answer.ends_with("secure"))
        }
        Err(_) => false,
    })
    .await;
}

#[cfg(feature = "http2")]
#[tokio::test]
async fn http2_is_agreed_on_where_both_speak_it() {
    let tls = tls(config()).await;
    let agreed = |stream: &TlsStream<TcpStream>| stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
    for (offered, wanted) in
        [(&[&b"h2"[..], b"http/1.1"][..], Some(&b"h2"[..])), (&[b"http/1.1"], Some(b"http/1.1")), (&[], None)]
    {
        let stream = connect(tls.address, "shop.example", &client(None, offered)).await.unwrap();
        assert_eq!(agreed(&stream).as_deref(), wanted);
    }
    let stream = connect(tls.address, "shop.example", &client(None, &[b"h2"])).await.unwrap();
    let (status, body) = stage::http2::get(stream, "https://shop.example/x").await;
    assert_eq!((status, body.as_slice()), (200, &b"secure"[..]));
}

#[tokio::test]
async fn a_client_begins_no_more_handshakes_than_it_may() {
    let mut limits = RequestLimits::default();
    limits.handshakes_per_client = Some(3);
    let tls = tls(config().with_limits(limits)).await;
    let config = client(None, &[]);
    let crowd = (0..12).map(|_| connect(tls.address, "shop.example", &config));
    let made = futures_util::future::join_all(crowd).await.iter().filter(|made| made.is_ok()).count();
    // Three at once; a fourth or fifth where they took a second together.
    assert!((3..12).contains(&made), "{made}");
    until("one more is let in with time", async || {
        connect(tls.address, "shop.example", &config).await.is_ok()
    })
    .await;
}

#[tokio::test]
async fn tls_ends_before_a_tcp_endpoint_too() {
    let shelf = Arc::new(Shelf(AtomicUsize::new(0)));
    let host = DomainName::new("echo.tcp").unwrap();
    let listener = TcpListen::new("127.0.0.1:0".parse().unwrap(), host).with_tls(true);
    let gateway =
        Gateway::builder(config().with_listen_tcp([listener])).with_secrets(shelf).start().await.unwrap();
    let address = gateway.addresses()[1];
    let endpoint = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stage = Stage::of(gateway).await;
    let mut pool = Pool::new(stage::pool("t"));
    pool.protocol = PoolProtocol::Tcp;
    stage
        .apply([
            Op::Put(Object::Pool(pool)),
            put_member("t", "one", endpoint.local_addr().unwrap()),
            put_rules("tr", vec![forward("/", "t")]),
            put_domain("echo.tcp", "tr"),
            certificate("shop", "shop", None),
            domain("shop.example", "shop"),
        ])
        .await;
    tokio::spawn(async move {
        let (mut stream, _) = endpoint.accept().await.unwrap();
        let (mut reader, mut writer) = stream.split();
        let _ = tokio::io::copy(&mut reader, &mut writer).await;
    });
    let mut stream = connect(address, "shop.example", &client(None, &[])).await.unwrap();
    stream.write_all(b"\0plain\xff").await.unwrap();
    let mut back = [0; 7];
    tokio::time::timeout(PATIENCE, stream.read_exact(&mut back)).await.expect("in time").unwrap();
    assert_eq!(&back, b"\0plain\xff");
    stream.shutdown().await.unwrap();
    let ended =
        tokio::time::timeout(PATIENCE, stream.read(&mut back)).await.expect("an end in time").unwrap();
    assert_eq!(ended, 0);
}
