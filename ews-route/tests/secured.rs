//! TLS towards endpoints: who they must be, how the gateway proves itself, and whatever is spoken within.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that can't go on fails"
)]

mod stage;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use ews_core::balancer::{DomainName, HealthCheck, Object, Op, Pool, PoolProtocol, UpstreamTls};
use ews_core::endpoint::HostName;
use ews_core::{Error, ErrorKind, SecretRef, SecretValue, Secrets};
use ews_route::{Gateway, Resolver, TcpListen};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use stage::upstream::{Deed, ok};
use stage::{
    PATIENCE, Stage, Upstream, config, forward, member, pool, put_domain, put_member, put_rules, until,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

const FILES: [(&str, &str); 6] = [
    ("ca", include_str!("certificates/ca.pem")),
    ("shop", include_str!("certificates/shop.pem")),
    ("shop.key", include_str!("certificates/shop.key")),
    ("client", include_str!("certificates/client.pem")),
    ("client.key", include_str!("certificates/client.key")),
    ("stranger", include_str!("certificates/stranger.pem")),
];

fn text(name: &str) -> &'static [u8] {
    FILES.iter().find(|(known, _)| *known == name).unwrap().1.as_bytes()
}

struct Shelf;

#[async_trait::async_trait]
impl Secrets for Shelf {
    async fn resolve(&self, reference: &SecretRef) -> ews_core::Result<SecretValue> {
        let found = FILES.iter().find(|(name, _)| *name == reference.name());
        let (_, text) = found.ok_or_else(|| Error::new(ErrorKind::NotFound, "no such file"))?;
        SecretValue::new(text.as_bytes())
    }
}

/// Ends TLS before an endpoint, as the site `shop.example`; clients must prove themselves, or need not.
struct Front {
    address: SocketAddr,
    handshakes: Arc<AtomicUsize>,
}

impl Front {
    async fn new(behind: SocketAddr, asks_clients: bool, protocols: &[&[u8]]) -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .unwrap();
        let builder = if asks_clients {
            let mut roots = RootCertStore::empty();
            roots.add(CertificateDer::from_pem_slice(text("ca")).unwrap()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.unwrap())
        } else {
            builder.with_no_client_auth()
        };
        let chain = vec![CertificateDer::from_pem_slice(text("shop")).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(text("shop.key")).unwrap();
        let mut config = builder.with_single_cert(chain, key).unwrap();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let handshakes = Arc::new(AtomicUsize::new(0));
        let counter = handshakes.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, counter) = (acceptor.clone(), counter.clone());
                tokio::spawn(async move {
                    let Ok(mut near) = acceptor.accept(stream).await else { return };
                    counter.fetch_add(1, Ordering::SeqCst);
                    let mut far = TcpStream::connect(behind).await.unwrap();
                    let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                });
            }
        });
        Self { address, handshakes }
    }
}

fn shop() -> UpstreamTls {
    UpstreamTls::new("ca".parse().unwrap()).with_server_name("shop.example")
}

fn put(name: &str, protocol: PoolProtocol, tls: UpstreamTls) -> Op {
    let mut pool = Pool::new(pool(name));
    (pool.protocol, pool.tls) = (protocol, Some(Box::new(tls)));
    Op::Put(Object::Pool(pool))
}

/// A gateway whose pool `p` has this endpoint.
async fn stage(endpoint: SocketAddr) -> Stage {
    let listener = TcpListen::new("127.0.0.1:0".parse().unwrap(), DomainName::new("t.tcp").unwrap());
    let config = config().with_listen_tcp([listener]);
    let gateway = Gateway::builder(config).with_secrets(Arc::new(Shelf)).start().await.unwrap();
    let stage = Stage::of(gateway).await;
    stage.apply([put_member("p", "i0", endpoint)]).await;
    stage
}

#[tokio::test]
async fn who_is_who_it_must_be_is_served_by_and_its_connection_is_kept() {
    let upstream = Upstream::named("secret").await;
    let front = Front::new(upstream.address, false, &[b"http/1.1"]).await;
    let stage = stage(front.address).await;
    assert_eq!(stage.get("a", "/").await.status, 502, "it speaks TLS, and nobody speaks that to it yet");
    stage.apply([put("p", PoolProtocol::Http1, shop())]).await;
    let mut client = stage.client().await;
    for _ in 0..5 {
        assert_eq!(client.get("/").await.text(), "secret");
    }
    assert_eq!(front.handshakes.load(Ordering::SeqCst), 1);
    // Bodies larger than a record, both ways.
    let body = "x".repeat(300_000);
    client.send(&format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}", body.len())).await;
    assert_eq!(client.answer().await.text(), "secret");
    assert_eq!(upstream.received().last().unwrap().body.len(), body.len());
    // A pool that asks for something else takes no connection of before.
    stage
        .apply([put(
            "p",
            PoolProtocol::Http1,
            shop().with_client("client".parse().unwrap(), "client.key".parse().unwrap()),
        )])
        .await;
    assert_eq!(client.get("/").await.text(), "secret");
    assert_eq!(front.handshakes.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn who_is_not_who_it_must_be_gets_nothing() {
    let upstream = Upstream::named("secret").await;
    let front = Front::new(upstream.address, false, &[b"http/1.1"]).await;
    let stage = stage(front.address).await;
    for (what, tls) in [
        ("a certificate for a name, not for the address", UpstreamTls::new("ca".parse().unwrap())),
        ("another name", UpstreamTls::new("ca".parse().unwrap()).with_server_name("other.example")),
        (
            "signed by somebody else",
            UpstreamTls::new("stranger".parse().unwrap()).with_server_name("shop.example"),
        ),
        (
            "nothing to verify it by",
            UpstreamTls::new("missing".parse().unwrap()).with_server_name("shop.example"),
        ),
        ("no certificate", UpstreamTls::new("shop.key".parse().unwrap()).with_server_name("shop.example")),
    ] {
        stage.apply([put("p", PoolProtocol::Http1, tls)]).await;
        assert_eq!(stage.get("a", "/").await.status, 502, "{what}");
    }
    assert!(upstream.received().is_empty());
    stage.apply([put("p", PoolProtocol::Http1, shop())]).await;
    assert_eq!(stage.get("a", "/").await.status, 200, "an ejected endpoint that is the only one is tried");
}

/// Knows two names of this host.
struct Here;

#[async_trait::async_trait]
impl Resolver for Here {
    async fn resolve(&self, host: &HostName) -> ews_core::Result<Vec<IpAddr>> {
        match host.bare() {
            "shop.example" | "other.example" => Ok(vec![Ipv4Addr::LOCALHOST.into()]),
            _ => Err(Error::new(ErrorKind::NotFound, "no such host")),
        }
    }
}

#[tokio::test]
async fn an_endpoint_at_a_name_must_be_who_its_name_says() {
    let upstream = Upstream::named("secret").await;
    let front = Front::new(upstream.address, false, &[b"http/1.1"]).await;
    let builder = Gateway::builder(config()).with_secrets(Arc::new(Shelf)).with_resolver(Arc::new(Here));
    let stage = Stage::of(builder.start().await.unwrap()).await;
    stage.apply([put("p", PoolProtocol::Http1, UpstreamTls::new("ca".parse().unwrap()))]).await;
    for (host, status) in [("shop.example", 200), ("other.example", 502), ("shop.example.", 200)] {
        let mut member = member("p", "i0", front.address);
        member.endpoint.address = format!("{host}:{}", front.address.port()).parse().unwrap();
        stage.apply([Op::Put(Object::Endpoint(member))]).await;
        until("the name is known", async || stage.get("a", "/").await.status != 503).await;
        assert_eq!(stage.get("a", "/").await.status, status, "{host}");
    }
}

#[tokio::test]
async fn the_gateway_proves_itself_where_that_is_asked_for() {
    let upstream = Upstream::named("secret").await;
    let front = Front::new(upstream.address, true, &[]).await;
    let stage = stage(front.address).await;
    stage.apply([put("p", PoolProtocol::Http1, shop())]).await;
    assert_eq!(stage.get("a", "/").await.status, 502);
    let own = shop().with_client("client".parse().unwrap(), "client.key".parse().unwrap());
    stage.apply([put("p", PoolProtocol::Http1, own)]).await;
    assert_eq!(stage.get("a", "/").await.text(), "secret");
}

#[cfg(feature = "http2")]
#[tokio::test]
async fn http2_is_agreed_on_with_endpoints() {
    let endpoint = stage::http2::Endpoint::new().await;
    let front = Front::new(endpoint.address, false, &[b"h2"]).await;
    let stage = stage(front.address).await;
    stage.apply([put("p", PoolProtocol::H2c, shop())]).await;
    let mut client = stage.client().await;
    for _ in 0..3 {
        assert_eq!(client.get("/").await.status, 200);
    }
    assert_eq!(front.handshakes.load(Ordering::SeqCst), 1);
    // One that would take it for HTTP/1.1 is not spoken to.
    let old = Front::new(endpoint.address, false, &[b"http/1.1"]).await;
    stage.apply([put_member("p", "i0", old.address)]).await;
    assert_eq!(stage.get("a", "/").await.status, 502);
}

#[tokio::test]
async fn upgrades_and_plain_tcp_pass_within_tls() {
    let upstream = Upstream::new(|received| async move {
        if received.header("upgrade").is_empty() {
            return Deed::Send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_vec());
        }
        Deed::SendAndClose(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello"
                .to_vec(),
        )
    })
    .await;
    let front = Front::new(upstream.address, false, &[]).await;
    let stage = stage(front.address).await;
    stage
        .apply([
            put("p", PoolProtocol::Http1, shop()),
            put("t", PoolProtocol::Tcp, shop()),
            put_member("t", "t0", front.address),
            put_rules("tr", vec![forward("/", "t")]),
            put_domain("t.tcp", "tr"),
        ])
        .await;
    let mut client = stage.client().await;
    client.send("GET /ws HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n").await;
    assert_eq!(client.answer_to("HEAD").await.unwrap().status, 101);
    assert_eq!(client.exactly(5).await.unwrap(), b"hello");
    let mut stream = TcpStream::connect(stage.gateway.addresses()[1]).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let mut answer = [0; 12];
    tokio::time::timeout(PATIENCE, stream.read_exact(&mut answer)).await.expect("in time").unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
}

#[tokio::test]
async fn checks_ask_within_tls_by_the_rules_of_traffic() {
    let is_well = Arc::new(AtomicBool::new(true));
    let well = is_well.clone();
    let upstream = Upstream::new(move |received| {
        let is_well = received.path() != "/healthz" || well.load(Ordering::SeqCst);
        async move {
            if is_well {
                ok("secret")
            } else {
                Deed::Send(b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n".to_vec())
            }
        }
    })
    .await;
    let front = Front::new(upstream.address, false, &[b"http/1.1"]).await;
    let builder = Gateway::builder(config()).with_secrets(Arc::new(Shelf)).with_resolver(Arc::new(Here));
    let stage = Stage::of(builder.start().await.unwrap()).await;
    let checked = |tls: UpstreamTls| {
        let mut pool = Pool::new(pool("p"));
        let check =
            HealthCheck::http("/healthz").with_interval(Duration::from_millis(100)).with_thresholds(1, 1);
        (pool.tls, pool.check) = (Some(Box::new(tls)), Some(Box::new(check)));
        Op::Put(Object::Pool(pool))
    };
    let is_healthy = async || stage.seen("i0").await.unwrap().healthy == Some(true);
    let named = |host: &str| {
        let mut member = member("p", "i0", front.address);
        member.endpoint.address = format!("{host}:{}", front.address.port()).parse().unwrap();
        Op::Put(Object::Endpoint(member))
    };
    stage.apply([checked(shop()), put_member("p", "i0", front.address)]).await;
    until("it passes", is_healthy).await;
    let asked = upstream.received().remove(0);
    assert_eq!((asked.path(), asked.header("host")), ("/healthz", vec![front.address.to_string()]));
    is_well.store(false, Ordering::SeqCst);
    until("it fails", async || !is_healthy().await).await;
    is_well.store(true, Ordering::SeqCst);
    until("it passes again", is_healthy).await;
    // Who is not who it must be is not even asked.
    stage.apply([checked(shop().with_server_name("other.example"))]).await;
    until("it is somebody else", async || !is_healthy().await).await;
    let before = upstream.received().len();
    stage.apply([checked(UpstreamTls::new("ca".parse().unwrap())), named("other.example")]).await;
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert!(!is_healthy().await);
    assert_eq!(upstream.received().len(), before);
    stage.apply([named("shop.example")]).await;
    until("it is at its name", is_healthy).await;
    assert_eq!(stage.get("a", "/").await.text(), "secret");
}

/// Runs one of this program's tests with other certificates for the system's.
fn with_system(file: &str, test: &str) {
    let file = format!("{}/tests/{file}", env!("CARGO_MANIFEST_DIR"));
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command.args([test, "--exact", "--ignored"]).env("SSL_CERT_FILE", file).env_remove("SSL_CERT_DIR");
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

#[test]
fn whom_the_system_trusts_is_trusted_where_a_pool_names_nobody() {
    with_system("certificates/ca.pem", "trusted_by_the_system");
    with_system("certificates/stranger.pem", "not_trusted_by_the_system");
    // It holds no certificate at all.
    with_system("secured.rs", "not_trusted_by_the_system");
}

/// The status of a request to an endpoint that the system may vouch for. There is no source of secrets, and none is needed.
async fn by_the_system() -> u16 {
    let upstream = Upstream::named("secret").await;
    let front = Front::new(upstream.address, false, &[b"http/1.1"]).await;
    let stage = Stage::new(config()).await;
    let tls = UpstreamTls::public().with_server_name("shop.example");
    stage.apply([put("p", PoolProtocol::Http1, tls), put_member("p", "i0", front.address)]).await;
    stage.get("a", "/").await.status
}

#[tokio::test]
#[ignore = "run by another test, with certificates of its own"]
async fn trusted_by_the_system() {
    assert_eq!(by_the_system().await, 200);
}

#[tokio::test]
#[ignore = "run by another test, with certificates of its own"]
async fn not_trusted_by_the_system() {
    assert_eq!(by_the_system().await, 502);
}
