//! The processes that this program starts of itself: the upstream, and the gateway.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ews_core::Balancer as _;
use ews_core::balancer::{
    Certificate, Change, Domain, DomainName, HealthCheck, Member, Object, ObserveQuery, Op, PathMatch, Pool,
    RouteAction, RouteRule, RouteSet, WeightedPool,
};
use ews_core::endpoint::{Endpoint, EndpointKey, Scope};
use ews_core::id::{CertificateId, ChangeId, InstanceId, PoolId, PortName, RouteSetId};
use ews_core::instance::Incarnation;
use ews_core::secrets::FileSecrets;
use ews_core::spec::network::Protocol;
use ews_route::{Gateway, GatewayConfig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

fn block_on(work: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, work);
}

fn tell(addresses: &[SocketAddr]) {
    let addresses: Vec<String> = addresses.iter().map(SocketAddr::to_string).collect();
    println!("{}", addresses.join(" "));
    std::io::stdout().flush().unwrap();
}

fn answer(length: usize) -> &'static [u8] {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n\r\n");
    [head.into_bytes(), vec![b'x'; length]].concat().leak()
}

/// Answers each head with a body of the length that its path asks for, and reads nothing else; at `/echo` it sends back what
/// comes after the head.
pub(crate) fn upstream() {
    block_on(async {
        let answers = [answer(64), answer(16 * 1024), answer(100 * 1000)];
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        tell(&[listener.local_addr().unwrap()]);
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            tokio::task::spawn_local(async move {
                // Whoever goes away has had enough.
                let _ = serve(stream, answers).await;
            });
        }
    });
}

async fn serve(mut stream: TcpStream, [small, large, larger]: [&'static [u8]; 3]) -> std::io::Result<()> {
    let mut buffer = Vec::with_capacity(4096);
    while stream.read_buf(&mut buffer).await? > 0 {
        while let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            let body = match buffer.split(|byte| *byte == b' ').nth(1) {
                Some(b"/16k") => large,
                Some(b"/100k") => larger,
                Some(b"/echo") => return echo(stream, buffer.split_off(end + 4)).await,
                _ => small,
            };
            buffer.drain(..end + 4);
            stream.write_all(body).await?;
        }
    }
    Ok(())
}

async fn echo(mut stream: TcpStream, mut buffer: Vec<u8>) -> std::io::Result<()> {
    let accept =
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
    stream.write_all(format!("HTTP/1.1 101 Switching Protocols\r\n{accept}\r\n\r\n").as_bytes()).await?;
    loop {
        stream.write_all(&buffer).await?;
        buffer.clear();
        if stream.read_buf(&mut buffer).await? == 0 {
            return Ok(());
        }
    }
}

/// The gateway with one data thread, in front of one upstream that it checks, and with so many domains beside the one that is
/// asked for.
pub(crate) fn gateway(upstream: &str, domains: usize, folder: &str) {
    block_on(async {
        let any = || ["127.0.0.1:0".parse().unwrap()];
        let config = GatewayConfig::default().with_listen(any()).with_listen_tls(any()).with_threads(1);
        let secrets = Arc::new(FileSecrets::new(Path::new(folder)).unwrap());
        let gateway = Gateway::builder(config).with_secrets(secrets).start().await.unwrap();
        for (number, batch) in objects(upstream.parse().unwrap(), domains).chunks(Change::MAX_OPS).enumerate()
        {
            let id = ChangeId::new(format!("bench-{number}")).unwrap();
            gateway.apply(&Change::new(id, batch.to_vec())).await.unwrap();
        }
        let is_well = async || {
            let views = gateway.observe(&ObserveQuery::default()).await.unwrap();
            views.iter().flat_map(|view| &view.endpoints).all(|endpoint| endpoint.healthy == Some(true))
        };
        while !is_well().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        tell(gateway.addresses());
        std::future::pending().await
    });
}

fn objects(upstream: SocketAddr, domains: usize) -> Vec<Op> {
    let (id, routes) = (PoolId::new("up").unwrap(), RouteSetId::new("all").unwrap());
    let mut pool = Pool::new(id.clone());
    pool.check = Some(Box::new(HealthCheck::http("/small").with_interval(Duration::from_secs(2))));
    let key = EndpointKey {
        instance: InstanceId::new("up").unwrap(),
        incarnation: Incarnation(1),
        port: PortName::new("http").unwrap(),
    };
    let endpoint = Endpoint { key, address: upstream, protocol: Protocol::Tcp, scope: Scope::Loopback };
    let rule = RouteRule::new(
        PathMatch::Prefix("/".to_owned()),
        RouteAction::Forward(vec![WeightedPool::new(id.clone(), 1)]),
    );
    let certificate = CertificateId::new("bench").unwrap();
    let domain = |name: &str| {
        let (name, certificate) = (DomainName::new(name).unwrap(), Some(certificate.clone()));
        Object::Domain(Domain::new(name, routes.clone()).with_certificate(certificate))
    };
    let first = [
        Object::Pool(pool),
        Object::Endpoint(Member::new(id, endpoint)),
        Object::RouteSet(RouteSet::new(routes.clone(), [rule])),
        Object::Certificate(Certificate::new(
            certificate.clone(),
            "chain".parse().unwrap(),
            "key".parse().unwrap(),
        )),
        domain("bench.example"),
    ];
    let others =
        (1..domains).map(|number| domain(&format!("shop-{number}.customer-{}.example", number / 100)));
    first.into_iter().chain(others).map(Op::Put).collect()
}
