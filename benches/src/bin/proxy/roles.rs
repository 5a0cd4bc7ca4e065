//! The processes that this program starts of itself: the upstream, and the gateway.

use std::io::Write as _;
use std::net::SocketAddr;

use ews_core::Balancer as _;
use ews_core::balancer::{
    Change, Domain, DomainName, Member, Object, Op, PathMatch, Pool, RouteAction, RouteRule, RouteSet,
    WeightedPool,
};
use ews_core::endpoint::{Endpoint, EndpointKey, Scope};
use ews_core::id::{ChangeId, InstanceId, PoolId, PortName, RouteSetId};
use ews_core::instance::Incarnation;
use ews_core::spec::network::Protocol;
use ews_route::{Gateway, GatewayConfig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

fn block_on(work: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, work);
}

fn tell(address: SocketAddr) {
    println!("{address}");
    std::io::stdout().flush().unwrap();
}

/// Answers each head with a body of the length that its path asks for, and reads nothing else.
pub(crate) fn upstream() {
    block_on(async {
        let answer = |length: usize| {
            let head =
                format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n\r\n");
            [head.into_bytes(), vec![b'x'; length]].concat()
        };
        let (small, large): (&'static [u8], &'static [u8]) = (answer(64).leak(), answer(16 * 1024).leak());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        tell(listener.local_addr().unwrap());
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            tokio::task::spawn_local(async move {
                let mut buffer = Vec::with_capacity(4096);
                while let Ok(1..) = stream.read_buf(&mut buffer).await {
                    while let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                        let body = if buffer.starts_with(b"GET /16k") { large } else { small };
                        buffer.drain(..end + 4);
                        if stream.write_all(body).await.is_err() {
                            return;
                        }
                    }
                }
            });
        }
    });
}

/// The gateway with one data thread, in front of one upstream.
pub(crate) fn gateway(upstream: &str) {
    block_on(async {
        let config = GatewayConfig::default().with_listen(["127.0.0.1:0".parse().unwrap()]).with_threads(1);
        let gateway = Gateway::start(config).await.unwrap();
        let (pool, routes) = (PoolId::new("up").unwrap(), RouteSetId::new("all").unwrap());
        let key = EndpointKey {
            instance: InstanceId::new("up").unwrap(),
            incarnation: Incarnation(1),
            port: PortName::new("http").unwrap(),
        };
        let address = upstream.parse().unwrap();
        let endpoint = Endpoint { key, address, protocol: Protocol::Tcp, scope: Scope::Loopback };
        let share = WeightedPool { pool: pool.clone(), weight: 1 };
        let rule = RouteRule::new(PathMatch::Prefix("/".to_owned()), RouteAction::Forward(vec![share]));
        let name = DomainName::new("bench.example").unwrap();
        let ops = [
            Object::Pool(Pool::new(pool.clone())),
            Object::Endpoint(Member::new(pool, endpoint)),
            Object::RouteSet(RouteSet { id: routes.clone(), rules: vec![rule] }),
            Object::Domain(Domain { name, routes, certificate: None, policy: None }),
        ];
        let change = Change::new(ChangeId::new("bench").unwrap(), ops.map(Op::Put));
        gateway.apply(&change).await.unwrap();
        tell(gateway.addresses()[0]);
        std::future::pending().await
    });
}
