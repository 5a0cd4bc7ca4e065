//! Checks against small servers, honest and hostile, and against a scripted runtime.
//!
//! Where the verdict is a timeout the clock is paused: it jumps to the deadline whenever nobody has anything to do. Where it
//! is not, the clock runs, and the timeout is far beyond what an honest machine needs.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;
use crate::endpoint::{EndpointKey, Scope};
use crate::instance::{ExitStatus, Incarnation, InstanceKey};
use crate::runtime::{
    CreateOptions, ExecControl, ExecOutput, ExecSession, OutputStream, RemoveOptions, StopOptions, TtySize,
    WaitOptions,
};
use crate::spec::InstanceSpec;
use crate::spec::probe::{EngineCheck, ExecCheck, HttpCheck, TcpCheck};
use crate::spec::source::Digest;
use crate::{EventStream, ServiceName, Timestamp};
use crate::{InstanceId, Node, NodeId, OwnerId, Result, RevisionId, RuntimeCapabilities, Selector};

const SECRET: &str = "hunter2";

fn instance() -> Instance {
    let key = InstanceKey {
        owner: OwnerId::new("o").unwrap(),
        service: ServiceName::new("web").unwrap(),
        revision: RevisionId::new("r1").unwrap(),
        slot: 0,
        generation: 0,
    };
    let id = InstanceId::new("i1").unwrap();
    let mut instance = Instance::new(id, key, NodeId::new("n").unwrap(), Digest::of(b"x"), Timestamp::EPOCH);
    instance.incarnation = Incarnation(1);
    instance
}

fn endpoint(port: &str, address: &str, incarnation: u64, scope: Scope) -> Endpoint {
    Endpoint {
        key: EndpointKey {
            instance: InstanceId::new("i1").unwrap(),
            incarnation: Incarnation(incarnation),
            port: PortName::new(port).unwrap(),
        },
        address: address.parse().unwrap(),
        protocol: Protocol::Tcp,
        scope,
    }
}

fn target(address: SocketAddr) -> Target {
    let mut instance = instance();
    instance.endpoints.push(endpoint("http", &address.to_string(), 1, Scope::Host));
    Target::new(instance, Probes::default())
}

fn probe(check: Check) -> Probe {
    let mut probe = Probe::new(check);
    probe.timeout = Duration::from_secs(30);
    probe
}

/// A runtime that knows one instance and runs one kind of command.
#[derive(Default)]
struct Engine {
    health: Health,
    incarnation: u64,
    exec: Option<fn() -> Result<ExecSession>>,
}

#[async_trait]
impl Runtime for Engine {
    fn capabilities(&self) -> Arc<RuntimeCapabilities> {
        Arc::default()
    }
    async fn nodes(&self) -> Result<Vec<Node>> {
        panic!("a check has no business here")
    }
    async fn create(&self, _: &InstanceSpec, _: &InstanceKey, _: &CreateOptions) -> Result<Instance> {
        panic!("a check has no business here")
    }
    async fn start(&self, _: &InstanceId) -> Result<Instance> {
        panic!("a check has no business here")
    }
    async fn stop(&self, _: &InstanceId, _: &StopOptions) -> Result<ExitStatus> {
        panic!("a check has no business here")
    }
    async fn wait(&self, _: &InstanceId, _: &WaitOptions) -> Result<ExitStatus> {
        panic!("a check has no business here")
    }
    async fn remove(&self, _: &InstanceId, _: &RemoveOptions) -> Result<()> {
        panic!("a check has no business here")
    }
    async fn get(&self, _: &InstanceId) -> Result<Instance> {
        let mut now = instance();
        (now.health, now.incarnation) = (self.health, Incarnation(self.incarnation));
        Ok(now)
    }
    async fn list(&self, _: &Selector) -> Result<Vec<Instance>> {
        panic!("a check has no business here")
    }
    async fn events(&self, _: &Selector) -> Result<EventStream> {
        panic!("a check has no business here")
    }
    async fn exec(&self, _: &InstanceId, spec: &ExecSpec) -> Result<ExecSession> {
        assert_eq!((&spec.command[..], spec.stdin, spec.tty), (&["check".to_owned()][..], false, None));
        match self.exec {
            Some(exec) => exec(),
            None => std::future::pending().await,
        }
    }
}

/// Ends with this code once its output was read; never, for none.
struct Command {
    code: Option<i32>,
    read: tokio::sync::watch::Receiver<bool>,
}

#[async_trait]
impl ExecControl for Command {
    async fn resize(&self, _: TtySize) -> Result<()> {
        Ok(())
    }
    async fn terminate(&self) -> Result<()> {
        Ok(())
    }
    async fn wait(&self) -> Result<ExitStatus> {
        let Some(code) = self.code else { return std::future::pending().await };
        self.read.clone().wait_for(|read| *read).await.unwrap();
        Ok(ExitStatus::code(code, Timestamp::EPOCH))
    }
}

fn command(code: Option<i32>) -> Result<ExecSession> {
    let (done, read) = tokio::sync::watch::channel(false);
    let piece = |_| Ok(ExecOutput { stream: OutputStream::Stdout, bytes: SECRET.into() });
    let pieces = futures_util::stream::iter((0..100).map(piece));
    let end = futures_util::stream::once(async move {
        done.send_replace(true);
        // Keeps the sender alive until the stream is dropped.
        std::future::pending::<()>().await;
        unreachable!()
    });
    let output = pieces.chain(end.take_until(async move { tokio::task::yield_now().await })).boxed();
    Ok(ExecSession { stdin: None, output, control: Box::new(Command { code, read }) })
}

fn checker(engine: Engine) -> StandardChecker {
    StandardChecker::new(Arc::new(engine))
}

async fn try_http(address: SocketAddr, check: HttpCheck) -> Outcome {
    checker(Engine::default()).check(&target(address), &probe(Check::Http(check))).await
}

/// A server that takes one connection, reads the request's head and does what it is told.
async fn server<F, Fut>(act: F) -> (SocketAddr, tokio::task::JoinHandle<String>)
where
    F: FnOnce(TcpStream) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            if stream.read(&mut byte).await.unwrap_or(0) == 0 {
                break;
            }
            head.push(byte[0]);
        }
        act(stream).await;
        String::from_utf8(head).unwrap()
    });
    (address, task)
}

async fn answering(answer: impl Into<Vec<u8>>) -> (SocketAddr, tokio::task::JoinHandle<String>) {
    let answer = answer.into();
    server(|mut stream| async move {
        let _ = stream.write_all(&answer).await;
    })
    .await
}

#[tokio::test]
async fn the_request_is_what_the_probe_says_and_the_connection_is_not_kept() {
    let (address, request) = answering("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    let mut check = HttpCheck::new("/healthz?full=1");
    check.host = Some("shop.example".into());
    check.headers.insert("X-Token".into(), "abc".into());
    let outcome = try_http(address, check).await;
    assert_eq!((outcome.verdict, &*outcome.reason), (Verdict::Pass, "status 200"));
    let request = request.await.unwrap();
    assert!(request.starts_with("GET /healthz?full=1 HTTP/1.1\r\n"), "{request}");
    for line in ["host: shop.example", "x-token: abc", "connection: close", "user-agent: ews-probe/"] {
        assert!(request.contains(line), "{line}: {request}");
    }
    assert_eq!(request.matches("host:").count(), 1);
}

#[tokio::test]
async fn only_the_wanted_statuses_pass_and_no_redirect_is_followed() {
    for (status, range, verdict) in [
        ("204 No Content", "200-299", Verdict::Pass),
        ("302 Found\r\nLocation: http://127.0.0.1:1/", "200-299", Verdict::Fail),
        ("302 Found\r\nLocation: http://127.0.0.1:1/", "200-399", Verdict::Pass),
        ("503 Unavailable", "200-299", Verdict::Fail),
        ("401 Unauthorized", "401", Verdict::Pass),
    ] {
        let (address, _) = answering(format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n")).await;
        let mut check = HttpCheck::new("/");
        check.status = range.parse().unwrap();
        let outcome = try_http(address, check).await;
        assert_eq!(outcome.verdict, verdict, "{status} {range} {outcome:?}");
    }
}

#[tokio::test]
async fn an_endless_or_missing_body_does_not_change_the_verdict() {
    let endless = server(|mut stream| async move {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
        // Until the prober has had enough and closes.
        while stream.write_all(b"400\r\n").await.is_ok()
            && stream.write_all(&[b'x'; 0x400]).await.is_ok()
            && stream.write_all(b"\r\n").await.is_ok()
        {}
    })
    .await;
    assert_eq!(try_http(endless.0, HttpCheck::new("/")).await.verdict, Verdict::Pass);
    endless.1.await.unwrap();
    let missing = server(|mut stream| async move {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n").await;
        let _ = stream.read(&mut [0]).await;
    })
    .await;
    assert_eq!(try_http(missing.0, HttpCheck::new("/")).await.verdict, Verdict::Pass);
}

#[tokio::test]
async fn hostile_answers_fail_in_words_of_our_own() {
    let many = (0..200).map(|n| format!("X-{n}: {SECRET}\r\n")).collect::<String>();
    for (what, answer) in [
        ("garbage", format!("{SECRET} {SECRET}\r\n\r\n")),
        ("another protocol", format!("SSH-2.0-{SECRET}\r\n")),
        ("no status", format!("HTTP/1.1 {SECRET}\r\n\r\n")),
        ("too many headers", format!("HTTP/1.1 200 OK\r\n{many}\r\n")),
        ("a header too long", format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", SECRET.repeat(20_000))),
        ("nothing", String::new()),
        ("half a head", format!("HTTP/1.1 200 OK\r\nX: {SECRET}")),
        ("two lengths", format!("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{SECRET}")),
    ] {
        let (address, _) = answering(answer).await;
        let outcome = try_http(address, HttpCheck::new("/")).await;
        assert_eq!(outcome.verdict, Verdict::Fail, "{what}: {outcome:?}");
        assert!(!outcome.reason.contains(SECRET) && outcome.reason.len() < 80, "{what}: {outcome:?}");
    }
    let reset = server(|stream| async move { stream.set_zero_linger().unwrap() }).await;
    let outcome = try_http(reset.0, HttpCheck::new("/")).await;
    // Which of the two it is depends on whether the reset or the request is faster; Wine knows only the second.
    let words = ["connection reset", "the connection was closed before the answer"];
    assert!(outcome.verdict == Verdict::Fail && words.contains(&&*outcome.reason), "{outcome:?}");
}

#[tokio::test]
async fn endless_headers_are_cut_off_by_size() {
    let (address, server) = server(|mut stream| async move {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n").await;
        // One header without an end.
        while stream.write_all(&[b'x'; 1024]).await.is_ok() {}
    })
    .await;
    let outcome = try_http(address, HttpCheck::new("/")).await;
    assert_eq!(outcome.verdict, Verdict::Fail, "{outcome:?}");
    // It ends only because the prober closed the connection.
    server.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn who_never_answers_or_drips_is_given_up_at_the_timeout() {
    let silent = server(|stream| async move {
        let _open = stream;
        std::future::pending().await
    })
    .await
    .0;
    let dripping = server(|mut stream| async move {
        for byte in b"HTTP/1.1 200 OK\r\nX: ".iter().chain(std::iter::repeat(&b'x')) {
            if stream.write_all(&[*byte]).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    })
    .await
    .0;
    for address in [silent, dripping] {
        let started = Instant::now();
        let outcome = try_http(address, HttpCheck::new("/")).await;
        assert_eq!((outcome.verdict, &*outcome.reason), (Verdict::Fail, "no answer within 30s"));
        assert_eq!(started.elapsed().as_secs(), 30);
        assert_eq!(outcome.latency.as_secs(), 30);
    }
}

#[tokio::test]
async fn a_probe_that_can_make_no_request_fails_and_repeats_no_header() {
    let address: SocketAddr = "127.0.0.1:1".parse().unwrap();
    let mut split = HttpCheck::new("/");
    split.headers.insert("X-Token".into(), format!("{SECRET}\r\nX-Evil: 1"));
    let mut name = HttpCheck::new("/");
    name.headers.insert("X Token\n".into(), SECRET.into());
    let mut host = HttpCheck::new("/");
    host.host = Some("a\r\nb".into());
    for check in [split, name, host, HttpCheck::new("no-slash"), HttpCheck::new("/ a b"), HttpCheck::new("")]
    {
        let outcome = try_http(address, check).await;
        assert_eq!(outcome.verdict, Verdict::Fail);
        assert!(outcome.reason.contains("the probe's") && !outcome.reason.contains(SECRET), "{outcome:?}");
    }
}

#[tokio::test]
async fn tcp_passes_where_somebody_listens_and_only_there() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let check = probe(Check::Tcp(TcpCheck::default()));
    let checker = checker(Engine::default());
    assert_eq!(checker.check(&target(address), &check).await.verdict, Verdict::Pass);
    drop(listener);
    let outcome = checker.check(&target(address), &check).await;
    assert_eq!((outcome.verdict, &*outcome.reason), (Verdict::Fail, "connection refused"));
}

#[test]
fn the_endpoint_is_chosen_by_port_of_this_incarnation_from_farthest_away() {
    let mut of = instance();
    assert!(choose(&of, None).unwrap_err().reason.contains("no TCP port"));
    of.endpoints = vec![
        endpoint("http", "10.0.0.1:80", 0, Scope::Routable),
        endpoint("http", "127.0.0.1:80", 1, Scope::Loopback),
        endpoint("http", "192.0.2.1:80", 1, Scope::Host),
        endpoint("http", "172.17.0.2:80", 1, Scope::Bridge),
    ];
    assert_eq!(choose(&of, None).unwrap().address.to_string(), "192.0.2.1:80");
    of.endpoints.push(endpoint("metrics", "192.0.2.1:90", 1, Scope::Host));
    assert!(choose(&of, None).unwrap_err().reason.contains("several ports"));
    let metrics = PortName::new("metrics").unwrap();
    assert_eq!(choose(&of, Some(&metrics)).unwrap().address.port(), 90);
    of.endpoints[4].protocol = Protocol::Udp;
    assert!(choose(&of, Some(&metrics)).is_err());
    assert!(choose(&of, None).is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_command_is_judged_by_its_end_and_an_engine_that_fails_says_nothing() {
    let check = probe(Check::Exec(ExecCheck::new(["check"])));
    let target = target("127.0.0.1:1".parse().unwrap());
    let exec = |exec| checker(Engine { exec, ..Engine::default() });
    for (engine, verdict, reason) in [
        (exec(Some(|| command(Some(0)))), Verdict::Pass, "exit code 0"),
        (exec(Some(|| command(Some(3)))), Verdict::Fail, "exit code 3"),
        (exec(Some(|| command(None))), Verdict::Fail, "the command did not end within 30s"),
        (exec(None), Verdict::Unknown, "the runtime did not start the command in time"),
        (
            exec(Some(|| Err(Error::new(ErrorKind::Unavailable, SECRET)))),
            Verdict::Unknown,
            "the runtime said unavailable",
        ),
        (exec(Some(|| Err(Error::new(ErrorKind::Busy, SECRET)))), Verdict::Fail, "the instance does not run"),
    ] {
        let outcome = engine.check(&target, &check).await;
        assert_eq!((outcome.verdict, &*outcome.reason), (verdict, reason));
    }
}

#[tokio::test]
async fn the_engines_word_counts_for_the_same_start_only() {
    let check = probe(Check::Engine(EngineCheck::default()));
    let target = target("127.0.0.1:1".parse().unwrap());
    for (health, incarnation, verdict) in [
        (Health::Healthy, 1, Verdict::Pass),
        (Health::Unhealthy, 1, Verdict::Fail),
        (Health::Starting, 1, Verdict::Unknown),
        (Health::None, 1, Verdict::Unknown),
        (Health::Healthy, 2, Verdict::Unknown),
    ] {
        let engine = checker(Engine { health, incarnation, exec: None });
        assert_eq!(engine.check(&target, &check).await.verdict, verdict, "{health:?}");
    }
}
