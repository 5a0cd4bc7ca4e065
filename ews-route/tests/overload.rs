//! Ten times as many requests as there is room for: what is answered was waited for in a bounded queue, the rest is turned
//! away at once, and memory stays as it is.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test that can't go on fails, and says its figures to whoever wants to read them"
)]

mod stage;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use ews_core::balancer::{Object, Op, Queue, TrafficPolicy};
use ews_core::id::TrafficPolicyId;
use ews_route::SampleConfig;
use stage::{Client, Stage, config, forward, put_rules, until};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// How many requests may be under way, and how many may wait.
const ROOM: usize = 16;
const QUEUE: usize = 32;
/// Ten times as many clients.
const CLIENTS: usize = 10 * (ROOM + QUEUE);
/// How many requests each makes before memory is looked at, and after that.
const WARM: usize = 15;
const REQUESTS: usize = 40;
/// How much memory may have grown, of clients, gateway and endpoint together: no more than 256 bytes for each request.
const GROWTH: usize = CLIENTS * REQUESTS * 256;
/// How long a request takes at the endpoint.
const WORK: Duration = Duration::from_millis(30);

/// An endpoint that keeps nothing and knows how much it ever had to do at once.
#[derive(Default)]
struct Endpoint {
    now: AtomicUsize,
    most: AtomicUsize,
    all: AtomicUsize,
}

impl Endpoint {
    async fn start() -> (SocketAddr, Arc<Self>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, endpoint) = (listener.local_addr().unwrap(), Arc::new(Self::default()));
        let counted = endpoint.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let counted = counted.clone();
                tokio::spawn(async move { counted.serve(stream).await });
            }
        });
        (address, endpoint)
    }

    async fn serve(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let mut buffer = Vec::new();
        while stream.read_buf(&mut buffer).await? > 0 {
            while let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                buffer.drain(..end + 4);
                let now = self.now.fetch_add(1, Ordering::Relaxed) + 1;
                self.most.fetch_max(now, Ordering::Relaxed);
                self.all.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(WORK).await;
                self.now.fetch_sub(1, Ordering::Relaxed);
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone").await?;
            }
        }
        Ok(())
    }
}

/// What came of requests: how long those took that were answered, and those that were turned away.
#[derive(Default)]
struct Seen {
    answered: Vec<Duration>,
    turned_away: Vec<Duration>,
}

impl Seen {
    async fn ask(&mut self, client: &mut Client, requests: usize) {
        for _ in 0..requests {
            let begun = Instant::now();
            let answer = client.get("/").await;
            match answer.status {
                200 => self.answered.push(begun.elapsed()),
                503 => {
                    self.turned_away.push(begun.elapsed());
                    // Who was turned away comes back soon, and not in one loop without a pause.
                    tokio::time::sleep(WORK).await;
                }
                other => panic!("{other}"),
            }
        }
    }
}

/// The resident memory of this process, with the gateway, its endpoint and all clients in it.
#[cfg(target_os = "linux")]
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().strip_suffix("kB").unwrap().trim().parse::<usize>().unwrap() * 1024
}

#[cfg(not(target_os = "linux"))]
fn resident() -> usize {
    0
}

async fn crowd(clients: Vec<Client>, requests: usize) -> (Vec<Client>, Seen) {
    let crowd = clients.into_iter().map(|mut client| {
        tokio::spawn(async move {
            let mut seen = Seen::default();
            seen.ask(&mut client, requests).await;
            (client, seen)
        })
    });
    let (mut clients, mut all) = (Vec::new(), Seen::default());
    for one in crowd.collect::<Vec<_>>() {
        let (client, seen) = one.await.unwrap();
        clients.push(client);
        all.answered.extend(seen.answered);
        all.turned_away.extend(seen.turned_away);
    }
    (clients, all)
}

fn quantiles(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    let at = |share: usize| times[(times.len() * share / 100).min(times.len() - 1)];
    format!("p50 {:.1?}, p99 {:.1?}, the slowest {:.1?}", at(50), at(99), at(100))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_there_is_no_room_for_is_turned_away_and_takes_no_memory() {
    let (address, endpoint) = Endpoint::start().await;
    // Samples are kept too, and at their usual pace they are few.
    let config = config().with_metrics(SampleConfig::default());
    let stage = Stage::with(config, &[address]).await;
    let mut policy = TrafficPolicy::new(TrafficPolicyId::new("bounded").unwrap());
    policy.max_in_flight = Some(u32::try_from(ROOM).unwrap());
    policy.queue = Some(Queue::new(u32::try_from(QUEUE).unwrap(), Duration::from_secs(10)));
    let rule = forward("/", "p").policy(policy.id.clone());
    stage.apply([Op::Put(Object::TrafficPolicy(policy)), put_rules("r", vec![rule])]).await;

    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(stage.client().await);
    }
    let (clients, warm) = crowd(clients, WARM).await;
    let before = resident();
    let (clients, seen) = crowd(clients, REQUESTS).await;
    let grown = resident().saturating_sub(before);

    let all = seen.answered.len() + seen.turned_away.len();
    println!(
        "{CLIENTS} clients, room for {ROOM} and {QUEUE} waiting: of {all} requests {} were answered ({}) and {} turned away ({}); \
         memory grew by {grown} bytes from {before}",
        seen.answered.len(),
        quantiles(seen.answered.clone()),
        seen.turned_away.len(),
        quantiles(seen.turned_away.clone()),
    );
    assert_eq!(all, CLIENTS * REQUESTS, "every request has an answer");
    assert!(seen.answered.len() > ROOM + QUEUE, "those with a place are served");
    // There is no room for nine of ten; half of those, for whoever comes back at another time.
    assert!(seen.turned_away.len() > seen.answered.len(), "the rest is turned away");
    assert!(endpoint.most.load(Ordering::Relaxed) <= ROOM, "the endpoint gets no more than it can do");
    let served = warm.answered.len() + seen.answered.len();
    assert_eq!(
        endpoint.all.load(Ordering::Relaxed),
        served,
        "nothing is sent for those that are turned away"
    );
    assert!(grown <= GROWTH, "memory grew by {grown} bytes, {GROWTH} are allowed");

    // And when the crowd has gone, all is as before.
    drop(clients);
    assert_eq!(stage.get("a.example", "/").await.status, 200);
    until("nothing is under way", async || stage.seen("i0").await.unwrap().in_flight == Some(0)).await;
}
