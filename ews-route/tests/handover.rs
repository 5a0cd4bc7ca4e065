//! A successor takes over: nothing is refused, nothing is lost, and what is under way is known to whoever drains.

#![cfg(unix)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that can't go on fails"
)]

mod stage;

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use ews_core::ErrorKind;
use ews_core::balancer::{
    Balancer as _, Change, Drained, HealthCheck, Member, MemberState, Object, ObjectKind, ObjectQuery,
    ObserveQuery, Op,
};
use ews_core::endpoint::{Endpoint, EndpointAddress, HostName, Scope};
use ews_core::id::ChangeId;
use ews_core::spec::network::Protocol;
use ews_route::handover::{Handover, HandoverOutcome, Predecessor, Successors};
use ews_route::server::{Server, ServerConfig};
use ews_route::{Accept, Gateway, GatewayConfig, Resolver};
use stage::upstream::ok;
use stage::{
    Client, PATIENCE, Stage, Upstream, config, key, pool, put_domain, put_member, put_pool, put_routes, until,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinHandle;

/// An upstream that holds requests to `/hold` until it is let go, and its gate.
async fn holding() -> (Upstream, Arc<Semaphore>) {
    let gate = Arc::new(Semaphore::new(0));
    let held = gate.clone();
    let upstream = Upstream::new(move |received| {
        let gate = held.clone();
        async move {
            if received.path() == "/hold" {
                gate.acquire().await.unwrap().forget();
            }
            ok("ok")
        }
    })
    .await;
    (upstream, gate)
}

fn change(id: &str, ops: impl IntoIterator<Item = Op>) -> Change {
    Change::new(ChangeId::new(id).unwrap(), ops)
}

fn all(upstream: SocketAddr) -> [Op; 4] {
    [put_pool("p"), put_member("p", "i0", upstream), put_routes("r", &[("/", "p")]), put_domain("*", "r")]
}

/// A gateway process, as far as one in this process can be one.
struct Process {
    gateway: Gateway,
    stop: Option<oneshot::Sender<()>>,
    running: JoinHandle<usize>,
}

impl Process {
    async fn start(config: ServerConfig) -> Self {
        Self::of(Server::start(config).await.unwrap())
    }

    fn of(server: Server) -> Self {
        let (gateway, (stop, stopped)) = (server.gateway().clone(), oneshot::channel());
        let running = tokio::spawn(server.serve(async move { drop(stopped.await) }));
        Self { gateway, stop: Some(stop), running }
    }

    /// Ends because somebody has taken over.
    async fn ended(self) -> usize {
        drop(self.gateway);
        let ended = tokio::time::timeout(PATIENCE, self.running).await;
        ended.expect("the predecessor ends").unwrap()
    }

    async fn stop(mut self) {
        self.stop.take().unwrap().send(()).unwrap();
        self.ended().await;
    }
}

fn server(folder: &Path, listen: SocketAddr, admin: SocketAddr) -> ServerConfig {
    let tokens = folder.join("tokens");
    std::fs::write(&tokens, "0123456789abcdef\n").unwrap();
    ServerConfig::default()
        .with_gateway(config().with_listen([listen]))
        .with_admin(admin, tokens)
        .with_state(folder.join("state.redb"))
        .with_handover(folder.join("gateway.socket"))
        .with_addresses_file(folder.join("addresses.json"))
        .with_drain(Duration::from_secs(20))
}

/// One request, as a client sends it that tries once more on a new connection where a kept one was closed without an answer.
async fn ask(kept: &mut Option<TcpStream>, address: SocketAddr, closes: bool) -> std::io::Result<String> {
    let request =
        format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", if closes { "Connection: close\r\n" } else { "" });
    let was_kept = kept.is_some();
    let mut stream = match kept.take() {
        Some(stream) => stream,
        None => TcpStream::connect(address).await?,
    };
    let mut answer = Vec::new();
    let exchanged = async {
        stream.write_all(request.as_bytes()).await?;
        while !answer.ends_with(b"\r\n\r\nok") {
            if stream.read_buf(&mut answer).await? == 0 {
                return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof));
            }
        }
        Ok(())
    };
    match exchanged.await {
        Err(_) if was_kept && answer.is_empty() => return Box::pin(ask(kept, address, closes)).await,
        exchanged => exchanged?,
    }
    let answer = String::from_utf8(answer).unwrap();
    if !answer.to_ascii_lowercase().contains("connection: close") {
        *kept = Some(stream);
    }
    Ok(answer)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_refused_while_one_process_after_the_other_takes_over() {
    let (upstream, _gate) = holding().await;
    let folder = tempfile::tempdir().unwrap();
    let any = "127.0.0.1:0".parse().unwrap();
    let mut process = Process::start(server(folder.path(), any, any)).await;
    let address = process.gateway.addresses()[0];
    let file = folder.path().join("addresses.json");
    let admin = ews_route::server::Addresses::read(&file).unwrap().unwrap().admin.unwrap();
    process.gateway.apply(&change("first", all(upstream.address))).await.unwrap();
    until("it serves", async || Client::connect(address).await.get("/").await.status == 200).await;

    let (ends, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let clients: Vec<JoinHandle<Vec<String>>> = (0..8)
        .map(|number| {
            let (ends, answered) = (ends.clone(), answered.clone());
            tokio::spawn(async move {
                let (mut kept, mut failed) = (None, Vec::new());
                while !ends.load(Ordering::Relaxed) {
                    match ask(&mut kept, address, number % 2 == 0).await {
                        Ok(answer) if answer.starts_with("HTTP/1.1 200 ") => {
                            answered.fetch_add(1, Ordering::Relaxed);
                        }
                        Ok(answer) => failed.push(answer),
                        Err(error) => failed.push(error.to_string()),
                    }
                }
                failed
            })
        })
        .collect();
    // Fewer threads, more threads, and other ways to accept: each has all listening sockets of the one before.
    for (round, (threads, accept)) in
        [(1, Accept::default()), (3, Accept::Deal), (2, Accept::default())].into_iter().enumerate()
    {
        let some = answered.load(Ordering::Relaxed) + 200;
        until("there is traffic", async || answered.load(Ordering::Relaxed) > some).await;
        let mut config = server(folder.path(), address, admin);
        config.gateway = config.gateway.with_threads(threads).with_accept(accept);
        let next = Process::start(config).await;
        assert_eq!(next.gateway.addresses(), [address]);
        let before = std::mem::replace(&mut process, next);
        let error = before.gateway.apply(&change("late", [put_pool("q")])).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        assert_eq!(before.ended().await, 0);
        // It is the one that decides now, and the last one's journal is its own.
        process.gateway.apply(&change(&format!("round-{round}"), [put_pool("q")])).await.unwrap();
    }
    ends.store(true, Ordering::Relaxed);
    for client in clients {
        assert_eq!(client.await.unwrap(), Vec::<String>::new());
    }
    let addresses = ews_route::server::Addresses::read(&file).unwrap().unwrap();
    assert_eq!((addresses.http[0], addresses.admin), (address, Some(admin)));
    assert!(TcpStream::connect(admin).await.is_ok());
    process.stop().await;
    assert!(!folder.path().join("gateway.socket").exists(), "nobody offers itself there any more");
    assert!(TcpStream::connect(address).await.is_err());

    // As durable as ever.
    let process = Process::start(server(folder.path(), address, admin)).await;
    let pools = process.gateway.objects(&ObjectQuery::kinds([ObjectKind::Pool])).await.unwrap();
    assert_eq!(pools.len(), 2);
    process.stop().await;
}

/// A gateway without a store, that offers itself.
struct Offered {
    stage: Stage,
    socket: PathBuf,
    running: JoinHandle<ews_core::Result<HandoverOutcome>>,
}

async fn offered(folder: &Path, config: GatewayConfig, how: Handover, upstream: SocketAddr) -> Offered {
    let stage = Stage::with(config, &[upstream]).await;
    let socket = folder.join("gateway.socket");
    let running = offer(&stage.gateway, &socket, how);
    Offered { stage, socket, running }
}

/// Offers it once.
fn offer(gateway: &Gateway, socket: &Path, how: Handover) -> JoinHandle<ews_core::Result<HandoverOutcome>> {
    let mut successors = Successors::bind(socket).unwrap();
    let gateway = gateway.clone();
    tokio::spawn(async move { successors.next().await.unwrap().take_over(&gateway, how).await })
}

async fn succeed(socket: &Path, address: SocketAddr) -> Stage {
    let predecessor = Predecessor::ask(socket, "gateway").await.unwrap().unwrap();
    let config = config().with_listen([address]);
    let gateway = Gateway::builder(config).with_predecessor(predecessor).start().await.unwrap();
    Stage { gateway, address }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_is_not_proved_while_a_predecessor_has_something_under_way() {
    let (upstream, gate) = holding().await;
    let folder = tempfile::tempdir().unwrap();
    let Offered { stage: old, socket, running } =
        offered(folder.path(), config(), Handover::default(), upstream.address).await;
    let mut client = old.client().await;
    client.send("GET /hold HTTP/1.1\r\nHost: a\r\n\r\n").await;
    until("it is under way", async || old.seen("i0").await.unwrap().in_flight == Some(1)).await;

    // It has no store: the new one knows all from the old one.
    let new = succeed(&socket, old.address).await;
    let views = new.gateway.observe(&ObserveQuery::default()).await.unwrap();
    let names: Vec<&str> = views.iter().map(|view| view.gateway.as_str()).collect();
    assert_eq!(names, ["gateway", "gateway.before"]);
    assert_eq!(views[1].endpoints[0].in_flight, Some(1));
    assert_eq!(new.get("a", "/").await.text(), "ok");

    // And the next one knows of both.
    let second = offer(&new.gateway, &socket, Handover::default());
    let newest = succeed(&socket, old.address).await;
    let names = async || -> Vec<String> {
        let views = newest.gateway.observe(&ObserveQuery::default()).await.unwrap();
        views.into_iter().map(|view| view.gateway.to_string()).collect()
    };
    assert_eq!(names().await, ["gateway", "gateway.before", "gateway.before.before"]);

    let mut drained = Box::pin(newest.drain("i0", Duration::from_secs(60)));
    let followed = async {
        until("the first one follows the last", async || {
            let member = old.gateway.observe(&ObserveQuery::endpoint(pool("p"), key("i0"))).await.unwrap();
            member[0].endpoints[0].state == MemberState::Draining
        })
        .await;
        // Long enough for the drain to look again.
        tokio::time::sleep(Duration::from_millis(1_500)).await;
    };
    tokio::select! {
        early = &mut drained => panic!("{early:?} though the first of them has it under way"),
        () = followed => {}
    }
    gate.add_permits(1);
    assert_eq!(drained.await, Drained::Drained);
    assert_eq!(client.answer().await.text(), "ok");
    for running in [running, second] {
        let outcome = tokio::time::timeout(PATIENCE, running).await.expect("it ends").unwrap().unwrap();
        assert!(matches!(outcome, HandoverOutcome::Taken { closed: 0 }), "{outcome:?}");
    }
    until("nobody is before it", async || names().await == ["gateway"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_predecessor_does_not_finish_is_cut_and_its_forced_close_is_obeyed() {
    let (upstream, _gate) = holding().await;
    let folder = tempfile::tempdir().unwrap();
    let how = Handover::default().with_drain(Duration::from_secs(20));
    let Offered { stage: old, socket, running } =
        offered(folder.path(), config(), how, upstream.address).await;
    let mut client = old.client().await;
    client.send("GET /hold HTTP/1.1\r\nHost: a\r\n\r\n").await;
    until("it is under way", async || old.seen("i0").await.unwrap().in_flight == Some(1)).await;
    let new = succeed(&socket, old.address).await;
    // The deadline of the drain is over long before that of the hand-over: the predecessor closes what it has.
    assert_eq!(new.drain("i0", Duration::from_millis(300)).await, Drained::Forced(1));
    assert_eq!(client.answer().await.status, 503);
    let outcome = tokio::time::timeout(PATIENCE, running).await.expect("it ends").unwrap().unwrap();
    assert!(matches!(outcome, HandoverOutcome::Taken { .. }), "{outcome:?}");

    // And what hangs at the end of its own time is cut.
    new.apply([put_member("p", "i1", upstream.address)]).await;
    let mut client = new.client().await;
    client.send("GET /hold HTTP/1.1\r\nHost: a\r\n\r\n").await;
    until("it is under way", async || new.seen("i1").await.is_some_and(|seen| seen.in_flight == Some(1)))
        .await;
    let running = offer(&new.gateway, &socket, Handover::default().with_drain(Duration::from_millis(300)));
    let newest = succeed(&socket, old.address).await;
    let outcome = tokio::time::timeout(PATIENCE, running).await.expect("it ends").unwrap().unwrap();
    assert!(matches!(outcome, HandoverOutcome::Taken { closed: 1 }), "{outcome:?}");
    assert!(client.is_closed().await);
    drop(newest);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_successor_that_dies_before_it_serves_changes_nothing() {
    let (upstream, _gate) = holding().await;
    let folder = tempfile::tempdir().unwrap();
    let any = "127.0.0.1:0".parse().unwrap();
    let process = Process::start(server(folder.path(), any, any)).await;
    let address = process.gateway.addresses()[0];
    let socket = folder.path().join("gateway.socket");
    process.gateway.apply(&change("first", all(upstream.address))).await.unwrap();
    until("it serves", async || Client::connect(address).await.get("/").await.status == 200).await;

    // It has the sockets, and goes.
    let mut predecessor = Predecessor::ask(&socket, "gateway").await.unwrap().unwrap();
    let taken = predecessor.take(address);
    assert_eq!(taken.len(), 2, "one for each thread");
    assert_eq!(Client::connect(address).await.get("/").await.text(), "ok");
    // A change waits meanwhile, and is made when that is settled.
    let gateway = process.gateway.clone();
    let waiting = tokio::spawn(async move { gateway.apply(&change("meanwhile", [put_pool("q")])).await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!waiting.is_finished());
    drop((predecessor, taken));
    waiting.await.unwrap().unwrap();
    for _ in 0..20 {
        assert_eq!(Client::connect(address).await.get("/").await.text(), "ok");
    }

    // One that never says that it serves, with the store held open for a while, as by one that is slow to die.
    let predecessor = Predecessor::ask(&socket, "gateway").await.unwrap().unwrap();
    let file = folder.path().join("state.redb");
    let config =
        ews_core::store::RedbConfig::default().with_embedded(ews_route::GatewayBuilder::store_config());
    let held = ews_core::store::RedbStore::open(&file, config).await.unwrap();
    drop(predecessor);
    tokio::time::sleep(Duration::from_millis(300)).await;
    held.close().await.unwrap();
    until("it is changed as before", async || {
        process.gateway.apply(&change("after", [put_pool("s")])).await.is_ok()
    })
    .await;

    // One with another store is refused, and by itself.
    let predecessor = Predecessor::ask(&socket, "gateway").await.unwrap().unwrap();
    let other = Arc::new(ews_core::store::MemoryStore::new());
    let started =
        Gateway::builder(stage::config()).with_store(other).with_predecessor(predecessor).start().await;
    assert_eq!(started.unwrap_err().kind(), ErrorKind::Stale);
    // One whose address can't be bound has not taken anything either.
    let blocked = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let config = server(folder.path(), blocked.local_addr().unwrap(), any);
    assert_eq!(Server::start(config).await.unwrap_err().kind(), ErrorKind::PortInUse);
    until("it is changed as before", async || {
        process.gateway.apply(&change("still", [put_pool("t")])).await.is_ok()
    })
    .await;

    // All of it is in the store.
    process.stop().await;
    let process = Process::start(server(folder.path(), any, any)).await;
    let pools = process.gateway.objects(&ObjectQuery::kinds([ObjectKind::Pool])).await.unwrap();
    let names: Vec<String> = pools.iter().map(|stored| stored.object.reference().to_string()).collect();
    assert_eq!(names.len(), 4, "{names:?}");
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_too_slow_learns_that_it_was_given_up() {
    let (upstream, _gate) = holding().await;
    let folder = tempfile::tempdir().unwrap();
    let how = Handover::default().with_patience(Duration::from_millis(200));
    let Offered { stage: old, socket, running } =
        offered(folder.path(), config(), how, upstream.address).await;
    let predecessor = Predecessor::ask(&socket, "gateway").await.unwrap().unwrap();
    let outcome = running.await.unwrap().unwrap();
    assert!(
        matches!(&outcome, HandoverOutcome::Kept(why) if why.kind() == ErrorKind::Timeout),
        "{outcome:?}"
    );
    let config = config().with_listen([old.address]);
    let started = Gateway::builder(config).with_predecessor(predecessor).start().await;
    // Two that both serve would be worse than none.
    assert!(started.is_err(), "{started:?}");
    old.apply([put_pool("q")]).await;
    assert_eq!(old.get("a", "/").await.text(), "ok");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_and_nonsense_are_refused_and_forgotten() {
    let (upstream, _gate) = holding().await;
    let folder = tempfile::tempdir().unwrap();
    let any = "127.0.0.1:0".parse().unwrap();
    let socket = folder.path().join("gateway.socket");
    assert!(Predecessor::ask(&socket, "gateway").await.unwrap().is_none(), "there is none yet");
    // What a crash left.
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    assert!(Predecessor::ask(&socket, "gateway").await.unwrap().is_none(), "nobody listens there");

    let process = Process::start(server(folder.path(), any, any)).await;
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&socket).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    process.gateway.apply(&change("first", all(upstream.address))).await.unwrap();
    let error = Predecessor::ask(&socket, "another").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(
        error.to_string().contains("this gateway is `gateway`, and the successor is `another`"),
        "{error}"
    );

    let say = async |bytes: &[u8]| {
        let mut stream = UnixStream::connect(&socket).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let _ = stream.shutdown().await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    };
    let framed = |text: &str| {
        let mut bytes = u32::try_from(text.len()).unwrap().to_be_bytes().to_vec();
        bytes.extend(text.as_bytes());
        bytes
    };
    assert!(say(&framed(r#"{"take":{"version":2,"gateway":"gateway"}}"#)).await.contains("accepted: 1"));
    assert!(say(&framed(r#""ready""#)).await.contains("refused"));
    for nonsense in
        [&b""[..], b"\0", b"\xff\xff\xff\xff{}", b"\0\0\0\x05{}", b"\0\0\0\x02[]", b"GET / HTTP/1.1\r\n\r\n"]
    {
        say(nonsense).await;
    }
    // Asks rightly, and then says something else.
    let begin = framed(r#"{"take":{"version":1,"gateway":"gateway"}}"#);
    say(&[begin.clone(), framed(r#""ready""#)].concat()).await;
    say(&[begin, framed(r#"{"tell":{"everything":true}}"#), framed(r#"{"tell":{"everything":true}}"#)]
        .concat())
    .await;
    until("it is changed as before", async || {
        process.gateway.apply(&change("after", [put_pool("q")])).await.is_ok()
    })
    .await;
    let address = process.gateway.addresses()[0];
    until("it serves", async || Client::connect(address).await.get("/").await.status == 200).await;
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_checks_have_found_is_known_from_the_start() {
    let (upstream, _gate) = holding().await;
    let folder = tempfile::tempdir().unwrap();
    let Offered { stage: old, socket, running } =
        offered(folder.path(), config(), Handover::default(), upstream.address).await;
    let mut checked = HealthCheck::default();
    // The next one comes long after this test.
    checked.interval = Duration::from_secs(600);
    let Op::Put(Object::Pool(mut checked_pool)) = put_pool("p") else { panic!("a pool") };
    checked_pool.check = Some(Box::new(checked));
    old.apply([Op::Put(Object::Pool(checked_pool))]).await;
    until("it is well", async || old.seen("i0").await.unwrap().healthy == Some(true)).await;
    let connections = upstream.connections().0;
    let new = succeed(&socket, old.address).await;
    assert_eq!(new.seen("i0").await.unwrap().healthy, Some(true));
    assert_eq!(new.get("a", "/").await.text(), "ok");
    assert!(upstream.connections().0 > connections);
    running.await.unwrap().unwrap();
}

/// Knows this machine, or never answers.
#[derive(Debug)]
struct Oracle(bool);

#[async_trait::async_trait]
impl Resolver for Oracle {
    async fn resolve(&self, _: &HostName) -> ews_core::Result<Vec<IpAddr>> {
        if !self.0 {
            std::future::pending::<()>().await;
        }
        Ok(vec![IpAddr::from([127, 0, 0, 1])])
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_names_stand_for_is_known_from_the_start() {
    let (upstream, _gate) = holding().await;
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::builder(config()).with_resolver(Arc::new(Oracle(true))).start().await.unwrap();
    let old = Stage::of(gateway).await;
    let endpoint = Endpoint {
        key: key("i0"),
        address: format!("up.example:{}", upstream.address.port()).parse::<EndpointAddress>().unwrap(),
        protocol: Protocol::Tcp,
        scope: Scope::Host,
    };
    old.apply([Op::Put(Object::Endpoint(Member::new(pool("p"), endpoint)))]).await;
    until("it serves", async || old.get("a", "/").await.status == 200).await;
    let socket = folder.path().join("gateway.socket");
    let running = offer(&old.gateway, &socket, Handover::default());

    let predecessor = Predecessor::ask(&socket, "gateway").await.unwrap().unwrap();
    let builder =
        Gateway::builder(config().with_listen([old.address])).with_resolver(Arc::new(Oracle(false)));
    let gateway = builder.with_predecessor(predecessor).start().await.unwrap();
    running.await.unwrap().unwrap();
    let new = Stage { gateway, address: old.address };
    assert_eq!(new.get("a", "/").await.text(), "ok");
}
