//! TCP through the gateway: bytes as they are, both ways, and all that holds for HTTP where it has a meaning.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test that can't go on fails"
)]

mod stage;

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ews_core::balancer::{
    Balancer as _, BalancerExt as _, DomainName, Drained, Hold, MemberState, Object, ObjectRef, ObserveQuery,
    Op, Pool, PoolProtocol, ProxyProtocol, TrafficPolicy,
};
use ews_core::id::{ChangeId, TrafficPolicyId};
use ews_route::{AccessFormat, AccessLog, Forwarding, Gateway, GatewayConfig, TcpListen};
use stage::{
    Client, PATIENCE, Stage, Upstream, config, forward, nowhere, pool, put_domain, put_member, put_rules,
    until,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

fn with_tcp() -> GatewayConfig {
    let host = DomainName::new("echo.tcp").unwrap();
    config().with_listen_tcp([TcpListen::new("127.0.0.1:0".parse().unwrap(), host)])
}

fn put(change: impl FnOnce(&mut Pool)) -> Op {
    let mut pool = Pool::new(pool("t"));
    pool.protocol = PoolProtocol::Tcp;
    change(&mut pool);
    Op::Put(Object::Pool(pool))
}

/// A gateway with the pool `t` behind its TCP listener, and where that is.
async fn stage(config: GatewayConfig) -> (Stage, SocketAddr) {
    let stage = Stage::of(Gateway::start(config).await.unwrap()).await;
    let address = stage.gateway.addresses()[1];
    stage.apply([put(|_| {}), put_rules("tr", vec![forward("/", "t")]), put_domain("echo.tcp", "tr")]).await;
    (stage, address)
}

/// An endpoint that says its name, echoes, and says goodbye when its client has ended.
async fn echo(name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut reader, mut writer) = stream.split();
                writer.write_all(name.as_bytes()).await.unwrap();
                let _ = tokio::io::copy(&mut reader, &mut writer).await;
                let _ = writer.write_all(b"bye").await;
            });
        }
    });
    address
}

/// Everything that comes until the end, `None` where the connection breaks.
async fn rest(stream: &mut TcpStream) -> Option<String> {
    let mut all = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut all)).await.expect("an end in time");
    read.ok().map(|_| String::from_utf8_lossy(&all).into_owned())
}

async fn exactly(stream: &mut TcpStream, length: usize) -> String {
    let mut bytes = vec![0; length];
    tokio::time::timeout(PATIENCE, stream.read_exact(&mut bytes)).await.expect("in time").unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}

#[tokio::test]
async fn bytes_pass_both_ways_and_each_end_by_itself() {
    let (stage, address) = stage(with_tcp()).await;
    stage.apply([put_member("t", "one", echo("one").await)]).await;
    let mut client = TcpStream::connect(address).await.unwrap();
    // The endpoint speaks first, as mail and database servers do.
    assert_eq!(exactly(&mut client, 3).await, "one");
    let every: Vec<u8> = (0..=255).collect();
    client.write_all(&every).await.unwrap();
    let mut echoed = vec![0; 256];
    client.read_exact(&mut echoed).await.unwrap();
    assert_eq!(echoed, every);
    // Much, with nobody reading meanwhile: it waits and is not lost.
    let much = vec![7_u8; 3_000_000];
    let (mut reader, mut writer) = client.split();
    let (read, written) = tokio::join!(
        async {
            let mut back = vec![0; much.len()];
            reader.read_exact(&mut back).await.map(|_| back)
        },
        writer.write_all(&much)
    );
    written.unwrap();
    assert!(read.unwrap() == much);
    client.shutdown().await.unwrap();
    assert_eq!(
        rest(&mut client).await.as_deref(),
        Some("bye"),
        "its end is told, and the answer to that comes"
    );
    until("nothing is under way", async || {
        let query = ObserveQuery::endpoint(pool("t"), stage::key("one"));
        let views = stage.gateway.observe(&query).await.unwrap();
        let seen = views.into_iter().flat_map(|view| view.endpoints).next().unwrap();
        seen.in_flight == Some(0) && seen.requests == Some(1)
    })
    .await;
}

#[tokio::test]
async fn endpoints_share_by_weight_and_dead_ones_are_passed_over() {
    let (stage, address) = stage(with_tcp()).await;
    stage
        .apply([
            put_member("t", "dead", nowhere().await),
            put_member("t", "one", echo("one").await),
            put_member("t", "two", echo("two").await),
        ])
        .await;
    let mut seen = std::collections::BTreeMap::new();
    for _ in 0..40 {
        let mut client = TcpStream::connect(address).await.unwrap();
        *seen.entry(exactly(&mut client, 3).await).or_insert(0) += 1;
    }
    assert!(seen.len() == 2 && seen.values().all(|count| *count > 5), "{seen:?}");
}

#[tokio::test]
async fn who_leads_nowhere_is_closed_and_who_may_wait_waits() {
    let (stage, address) = stage(with_tcp()).await;
    let mut client = TcpStream::connect(address).await.unwrap();
    assert_eq!(rest(&mut client).await.as_deref(), Some(""), "there is no endpoint");
    let hold = Hold::new(10, Duration::from_secs(30));
    stage.apply([put(|pool| pool.hold = Some(hold))]).await;
    let mut waiting = TcpStream::connect(address).await.unwrap();
    waiting.write_all(b"early").await.unwrap();
    stage.apply([put_member("t", "one", echo("one").await)]).await;
    assert_eq!(exactly(&mut waiting, 8).await, "oneearly");
    // HTTP is not for such endpoints, and TCP not for those of HTTP.
    stage.apply([put_rules("r", vec![forward("/", "t")]), put_rules("tr", vec![forward("/", "p")])]).await;
    assert_eq!(stage.get("a", "/").await.status, 502);
    let mut client = TcpStream::connect(address).await.unwrap();
    assert_eq!(rest(&mut client).await.as_deref(), Some(""));
}

#[tokio::test]
async fn policies_hold_for_connections() {
    let (stage, address) = stage(with_tcp()).await;
    stage.apply([put_member("t", "one", echo("one").await)]).await;
    let under = |change: &dyn Fn(&mut TrafficPolicy)| {
        let id = TrafficPolicyId::new("t").unwrap();
        let mut policy = TrafficPolicy::new(id.clone());
        change(&mut policy);
        [Op::Put(Object::TrafficPolicy(policy)), put_rules("tr", vec![forward("/", "t").policy(id)])]
    };
    stage.apply(under(&|policy| policy.deny = vec!["127.0.0.0/8".parse().unwrap()])).await;
    let mut client = TcpStream::connect(address).await.unwrap();
    assert_eq!(rest(&mut client).await.as_deref(), Some(""));
    stage.apply(under(&|policy| policy.max_in_flight = Some(1))).await;
    let mut first = TcpStream::connect(address).await.unwrap();
    assert_eq!(exactly(&mut first, 3).await, "one");
    let mut second = TcpStream::connect(address).await.unwrap();
    assert_eq!(rest(&mut second).await.as_deref(), Some(""), "one is there already");
    drop(first);
    until("there is room again", async || {
        let mut third = TcpStream::connect(address).await.unwrap();
        let mut name = [0; 3];
        third.read_exact(&mut name).await.is_ok()
    })
    .await;
}

#[tokio::test]
async fn a_drain_waits_for_connections_and_closes_them_at_its_deadline() {
    let (stage, address) = stage(with_tcp()).await;
    stage.apply([put_member("t", "one", echo("one").await)]).await;
    let mut client = TcpStream::connect(address).await.unwrap();
    assert_eq!(exactly(&mut client, 3).await, "one");
    let (id, t, one) = (ChangeId::new("drain-tcp").unwrap(), pool("t"), stage::key("one"));
    let draining = Op::State { pool: t.clone(), endpoint: one.clone(), state: MemberState::Draining };
    stage.apply([draining]).await;
    client.write_all(b"still").await.unwrap();
    assert_eq!(exactly(&mut client, 5).await, "still", "what it has goes on");
    let (began, deadline) = (Instant::now(), Duration::from_millis(500));
    assert_eq!(stage.gateway.drain(&id, &t, &one, deadline).await.unwrap(), Drained::Forced(1));
    assert!(began.elapsed() >= deadline, "it is waited for");
    assert_eq!(rest(&mut client).await.as_deref().unwrap_or_default(), "");
}

#[tokio::test]
async fn a_connection_has_its_line_in_the_access_log() {
    #[derive(Clone, Default)]
    struct Sink(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);
    impl std::io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let sink = Sink::default();
    let log = AccessLog::new(AccessFormat::Json, sink.clone());
    let gateway = Gateway::builder(with_tcp()).with_access_log(log).start().await.unwrap();
    let stage = Stage::of(gateway).await;
    let address = stage.gateway.addresses()[1];
    let endpoint = echo("one").await;
    stage
        .apply([
            put(|_| {}),
            put_rules("tr", vec![forward("/", "t")]),
            put_domain("echo.tcp", "tr"),
            put_member("t", "one", endpoint),
        ])
        .await;
    let mut client = TcpStream::connect(address).await.unwrap();
    assert_eq!(exactly(&mut client, 3).await, "one");
    client.shutdown().await.unwrap();
    rest(&mut client).await;
    until("the line is there", async || sink.0.lock().unwrap().ends_with(b"\n")).await;
    let line: serde_json::Value = serde_json::from_slice(&sink.0.lock().unwrap()).unwrap();
    assert_eq!(
        (&line["protocol"], &line["host"], &line["pool"]),
        (&"TCP".into(), &"echo.tcp".into(), &"t".into())
    );
    assert_eq!((&line["client"], &line["endpoint"]), (&"127.0.0.1".into(), &endpoint.to_string().into()));
    assert_eq!(line["bytes"], 6, "what the endpoint said: its name and goodbye");
    // One that is refused has a line too.
    sink.0.lock().unwrap().clear();
    stage.apply([Op::Delete(ObjectRef::Domain(DomainName::new("echo.tcp").unwrap()))]).await;
    stage.apply([Op::Delete(ObjectRef::Domain(DomainName::new("*").unwrap()))]).await;
    let mut client = TcpStream::connect(address).await.unwrap();
    assert_eq!(rest(&mut client).await.as_deref(), Some(""));
    until("its line is there", async || sink.0.lock().unwrap().ends_with(b"\n")).await;
    let line: serde_json::Value = serde_json::from_slice(&sink.0.lock().unwrap()).unwrap();
    assert_eq!((&line["host"], &line["failure"]), (&"echo.tcp".into(), &"no_route".into()));
    assert!(line.get("pool").is_none() && line.get("status").is_none(), "{line}");
}

/// A server of Debian's, ended with the test.
struct Server {
    process: Child,
    _folder: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Starts it with this configuration; `None`, and a line that says so, where it is not installed.
fn server(program: &str, arguments: &[&str], text: &str) -> Option<Server> {
    if !std::path::Path::new(program).exists() {
        assert!(
            std::env::var("EWS_TEST_SERVERS").is_err(),
            "EWS_TEST_SERVERS is set, and there is no {program}"
        );
        println!("skipped: there is no {program}");
        return None;
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("server.conf");
    std::fs::write(&file, text.replace("FOLDER", folder.path().to_str().unwrap())).unwrap();
    let process = Command::new(program)
        .args(arguments)
        .arg(&file)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    Some(Server { process, _folder: folder })
}

#[tokio::test]
async fn nginx_reads_whom_we_speak_for() {
    let address = nowhere().await;
    let text = format!(
        "daemon off; master_process off; pid FOLDER/pid; error_log FOLDER/error.log; events {{}}\n\
         http {{ access_log off; client_body_temp_path FOLDER/a; proxy_temp_path FOLDER/b; fastcgi_temp_path FOLDER/c;\n\
         uwsgi_temp_path FOLDER/d; scgi_temp_path FOLDER/e;\n\
         server {{ listen {address} proxy_protocol; location / {{ return 200 \"$proxy_protocol_addr $proxy_protocol_port\"; }} }} }}"
    );
    let Some(_nginx) = server("/usr/sbin/nginx", &["-c"], &text) else { return };
    until("nginx listens", async || TcpStream::connect(address).await.is_ok()).await;
    let (stage, gateway) = stage(with_tcp()).await;
    stage.apply([put_member("t", "nginx", address)]).await;
    for version in [ProxyProtocol::V1, ProxyProtocol::V2] {
        stage.apply([put(|pool| pool.proxy_protocol = Some(version))]).await;
        let client = TcpStream::connect(gateway).await.unwrap();
        let port = client.local_addr().unwrap().port();
        let mut client = Client::of(client);
        assert_eq!(client.get("/").await.text(), format!("127.0.0.1 {port}"), "{version:?}");
    }
}

#[tokio::test]
async fn haproxy_says_whom_it_speaks_for() {
    let upstream = Upstream::named("up").await;
    let announced = Forwarding::default().with_proxy_protocol(["127.0.0.0/8".parse().unwrap()]);
    let stage = Stage::with(config().with_forwarding(announced), &[upstream.address]).await;
    let (first, second) = (nowhere().await, nowhere().await);
    let to = stage.address;
    let text = format!(
        "defaults\n mode tcp\n timeout connect 5s\n timeout client 60s\n timeout server 60s\n\
         listen a\n bind {first}\n server s {to} send-proxy source 127.0.0.9\n\
         listen b\n bind {second}\n server s {to} send-proxy-v2 source 127.0.0.9\n"
    );
    let Some(_haproxy) = server("/usr/sbin/haproxy", &["-db", "-f"], &text) else { return };
    for address in [first, second] {
        until("HAProxy listens", async || TcpStream::connect(address).await.is_ok()).await;
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.77:0".parse().unwrap()).unwrap();
        let mut client = Client::of(socket.connect(address).await.unwrap());
        assert_eq!(client.get("/").await.text(), "up");
        assert_eq!(upstream.received().last().unwrap().header("x-forwarded-for"), ["127.0.0.77"]);
    }
}
