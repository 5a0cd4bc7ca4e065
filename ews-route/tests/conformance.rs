//! The suite of the balancer contract on the gateway, in this process and over its admin router, with real traffic.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that can't go on fails"
)]

mod stage;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use ews_core::Balancer;
use ews_core::store::{MemoryStore, Store};
use ews_core::testkit::conformance::Stop;
use ews_core::testkit::conformance::balancer::{BalancerHarness, Target, run};
use ews_route::Gateway;
use stage::upstream::ok;
use stage::{Client, Upstream, config};
use tokio::sync::watch;

/// How the gateway is reached.
#[async_trait]
trait Reach: Send + Sync {
    async fn reach(&self, gateway: &Gateway) -> Arc<dyn Balancer>;
}

struct Bench<R> {
    reach: R,
    name: &'static str,
    store: Arc<dyn Store>,
    gateway: Mutex<Gateway>,
    balancer: Mutex<Arc<dyn Balancer>>,
    upstreams: Mutex<HashMap<u16, SocketAddr>>,
    kept: Mutex<Vec<Upstream>>,
    clients: Mutex<Vec<Client>>,
    gate: watch::Sender<u64>,
    /// How many requests have ever waited for it.
    arrived: Arc<AtomicUsize>,
}

impl<R: Reach> Bench<R> {
    async fn new(name: &'static str, reach: R) -> Self {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
        let gateway = Gateway::builder(config()).with_store(store.clone()).start().await.unwrap();
        let balancer = reach.reach(&gateway).await;
        let bench = Self {
            reach,
            name,
            store,
            gateway: Mutex::new(gateway),
            balancer: Mutex::new(balancer),
            upstreams: Mutex::default(),
            kept: Mutex::default(),
            clients: Mutex::default(),
            gate: watch::channel(0).0,
            arrived: Arc::default(),
        };
        // The cases that make traffic make it at the first endpoint.
        let (gate, arrived) = (bench.gate.clone(), bench.arrived.clone());
        let upstream = Upstream::new(move |_| {
            let (mut gate, arrived) = (gate.subscribe(), arrived.clone());
            async move {
                let before = *gate.borrow_and_update();
                // From here on it is let go with the others.
                arrived.fetch_add(1, Ordering::SeqCst);
                let _ = gate.wait_for(|round| *round > before).await;
                ok("ended")
            }
        })
        .await;
        bench.upstreams.lock().unwrap().insert(1, upstream.address);
        bench.kept.lock().unwrap().push(upstream);
        bench
    }

    fn arrived(&self) -> usize {
        self.arrived.load(Ordering::SeqCst)
    }

    fn gateway(&self) -> Gateway {
        self.gateway.lock().unwrap().clone()
    }
}

#[async_trait]
impl<R: Reach> BalancerHarness for Bench<R> {
    async fn balancer(&self) -> Result<Arc<dyn Balancer>, Stop> {
        Ok(self.balancer.lock().unwrap().clone())
    }

    fn name(&self) -> String {
        self.name.to_owned()
    }

    fn address(&self, number: u16) -> SocketAddr {
        let known = self.upstreams.lock().unwrap().get(&number).copied();
        known.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 20_000_u16.saturating_add(number))))
    }

    async fn reconnect(&self) -> Result<Arc<dyn Balancer>, Stop> {
        // The gateway itself starts anew from what it wrote down.
        let old = self.gateway();
        old.shutdown(std::time::Duration::from_secs(5)).await;
        let gateway = Gateway::builder(config()).with_store(self.store.clone()).start().await?;
        let balancer = self.reach.reach(&gateway).await;
        *self.gateway.lock().unwrap() = gateway;
        *self.balancer.lock().unwrap() = balancer.clone();
        Ok(balancer)
    }

    async fn begin_request(&self, target: &Target) -> Result<(), Stop> {
        let before = self.arrived();
        let mut client = Client::connect(self.gateway().addresses()[0]).await;
        client.send(&format!("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", target.host)).await;
        let ends = tokio::time::Instant::now() + stage::PATIENCE;
        while self.arrived() == before {
            if tokio::time::Instant::now() > ends {
                return Err(Stop::fail("the request did not come through"));
            }
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
        self.clients.lock().unwrap().push(client);
        Ok(())
    }

    async fn end_requests(&self) -> Result<(), Stop> {
        self.gate.send_modify(|round| *round += 1);
        let clients = std::mem::take(&mut *self.clients.lock().unwrap());
        for mut client in clients {
            // Those of an earlier case were closed by force.
            let _ = client.answer_to("GET").await;
        }
        Ok(())
    }
}

struct Here;

#[async_trait]
impl Reach for Here {
    async fn reach(&self, gateway: &Gateway) -> Arc<dyn Balancer> {
        Arc::new(gateway.clone())
    }
}

/// What only a balancer that lacks counts, or has a gateway that can be cut off, is asked for.
const SKIPPED: [&str; 3] = [
    "a_cut_gateway_is_listed_without_a_generation",
    "without_counts_a_drain_elapses",
    "a_cut_gateway_is_no_proof",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_gateway_keeps_the_contract() {
    let bench = Bench::new("gateway", Here).await;
    run(&bench).await.assert_passed(&SKIPPED);
}

/// Over the admin router, on a real socket of loopback.
#[cfg(all(feature = "admin", feature = "remote"))]
struct Outside;

#[cfg(all(feature = "admin", feature = "remote"))]
#[async_trait]
impl Reach for Outside {
    async fn reach(&self, gateway: &Gateway) -> Arc<dyn Balancer> {
        use ews_core::http::{Access, Tokens};
        let token = ews_core::SecretValue::new("0123456789abcdef").unwrap();
        let access = Access::Tokens(Tokens::new([token.clone()]).unwrap());
        let router = ews_route::admin::router(gateway, access).unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        let config = ews_route::RemoteConfig::new(url).with_token(token);
        Arc::new(ews_route::RemoteBalancer::connect(config).await.unwrap())
    }
}

#[cfg(all(feature = "admin", feature = "remote"))]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_is_reached_from_outside_keeps_the_contract() {
    let bench = Bench::new("remote gateway", Outside).await;
    run(&bench).await.assert_passed(&SKIPPED);
}
