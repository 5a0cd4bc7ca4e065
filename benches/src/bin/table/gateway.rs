//! A gateway over a store on disk: filled, and started anew.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ews_benches::resident_bytes;
use ews_core::Balancer as _;
use ews_core::balancer::{
    Algorithm, Change, Member, Object, Op, PathMatch, Pool, RouteAction, RouteRule, RouteSet, WeightedPool,
};
use ews_core::endpoint::{Endpoint, EndpointKey, Scope};
use ews_core::id::{ChangeId, InstanceId, PoolId, PortName};
use ews_core::instance::Incarnation;
use ews_core::spec::network::Protocol;
use ews_core::store::{Key, ListRequest, Prefix, RedbConfig, RedbStore, Store, Transaction};
use ews_route::{Gateway, GatewayBuilder, GatewayConfig};
use serde::{Deserialize, Serialize};

use crate::names::{self, SETS};
use crate::traffic::{Traffic, upstream};

#[derive(Serialize, Deserialize)]
pub(crate) struct Loaded {
    pub(crate) bytes: f64,
    pub(crate) seconds: f64,
    pub(crate) changes: usize,
    pub(crate) batch: usize,
    pub(crate) change_ms: f64,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Restarted {
    /// Seconds to open the store, to read its records, and to start the gateway on it.
    pub(crate) open: f64,
    pub(crate) scan: f64,
    pub(crate) replay: f64,
    pub(crate) megabytes: f64,
    /// What a domain takes beside its name.
    pub(crate) bytes: f64,
    pub(crate) domain: Times,
    pub(crate) pool: Times,
    pub(crate) requests: usize,
    pub(crate) failed: usize,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Times {
    pub(crate) ours: Quantiles,
    pub(crate) bare: Quantiles,
}

/// In milliseconds.
#[derive(Serialize, Deserialize)]
pub(crate) struct Quantiles {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) most: f64,
    /// Of the record that was written.
    pub(crate) bytes: usize,
}

/// In a task, as a service's own work runs.
fn run<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async { tokio::spawn(work).await.unwrap() })
}

async fn open(folder: &Path) -> Arc<RedbStore> {
    let config = RedbConfig::default().with_embedded(GatewayBuilder::store_config());
    Arc::new(RedbStore::open(folder.join("store"), config).await.unwrap())
}

async fn start(store: &Arc<RedbStore>) -> Gateway {
    let config = GatewayConfig::default().with_listen(["127.0.0.1:0".parse().unwrap()]).with_threads(1);
    Gateway::builder(config).with_store(store.clone()).start().await.unwrap()
}

fn resident() -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "memory far below 2^53")]
    let bytes = resident_bytes().unwrap_or(0) as f64;
    bytes
}

/// What each of so many domains takes of this memory beside its name.
#[expect(clippy::cast_precision_loss, reason = "counts far below 2^53")]
fn each(memory: f64, count: usize) -> f64 {
    let names: usize = (0..count).map(|number| names::name(number).len()).sum();
    (memory - names as f64) / count as f64
}

fn change(id: String, ops: Vec<Op>) -> Change {
    Change::new(ChangeId::new(id).unwrap(), ops)
}

fn pool() -> Pool {
    Pool::new(PoolId::new("app").unwrap())
}

fn member(upstream: std::net::SocketAddr) -> Op {
    let key = EndpointKey {
        instance: InstanceId::new("app-0").unwrap(),
        incarnation: Incarnation(1),
        port: PortName::new("http").unwrap(),
    };
    let endpoint = Endpoint { key, address: upstream, protocol: Protocol::Tcp, scope: Scope::Loopback };
    Op::Put(Object::Endpoint(Member::new(pool().id, endpoint)))
}

pub(crate) fn load(folder: &Path, count: usize) -> Loaded {
    let folder = folder.to_owned();
    run(async move {
        let store = open(&folder).await;
        let gateway = start(&store).await;
        let share = WeightedPool::new(pool().id, 1);
        let rule = RouteRule::new(PathMatch::Prefix("/".to_owned()), RouteAction::Forward(vec![share]));
        let sets = (0..SETS)
            .map(|number| Op::Put(Object::RouteSet(RouteSet::new(names::set(number), [rule.clone()]))));
        let first = std::iter::once(Op::Put(Object::Pool(pool()))).chain(sets).collect();
        gateway.apply(&change("first".to_owned(), first)).await.unwrap();
        let (before, begun) = (resident(), Instant::now());
        let batch = Change::MAX_OPS;
        let mut changes = 0;
        for from in (0..count).step_by(batch) {
            let domains = from..count.min(from + batch);
            let ops = domains.map(|number| Op::Put(Object::Domain(names::domain(number, number)))).collect();
            gateway.apply(&change(format!("load-{from}"), ops)).await.unwrap();
            changes += 1;
        }
        let (seconds, memory) = (begun.elapsed().as_secs_f64(), resident() - before);
        gateway.shutdown(Duration::from_secs(5)).await;
        drop(gateway);
        Arc::into_inner(store).unwrap().close().await.unwrap();
        let change_ms = seconds * 1e3 / f64::from(u32::try_from(changes).unwrap());
        Loaded { bytes: each(memory, count), seconds, changes, batch, change_ms }
    })
}

/// Reads every record, as a gateway's start must; gives their bytes.
async fn scan(store: &RedbStore) -> usize {
    let (mut bytes, mut after) = (0, None);
    loop {
        let mut request = ListRequest::new(Prefix::all());
        request.after = after;
        let page = store.list(&request).await.unwrap();
        bytes +=
            page.records.iter().map(|record| record.key.as_str().len() + record.value.len()).sum::<usize>();
        after = page.records.last().map(|record| record.key.clone());
        if !page.more {
            return bytes;
        }
    }
}

pub(crate) fn restart(folder: &Path, count: usize, rounds: usize) -> Restarted {
    let folder = folder.to_owned();
    run(async move {
        let begun = Instant::now();
        let store = open(&folder).await;
        let open = begun.elapsed().as_secs_f64();
        // Once for the caches, once for the time.
        scan(&store).await;
        let begun = Instant::now();
        let bytes = scan(&store).await;
        let scan = begun.elapsed().as_secs_f64();
        let before = resident();
        let begun = Instant::now();
        let gateway = start(&store).await;
        let replay = begun.elapsed().as_secs_f64();
        let memory = resident() - before;

        gateway.apply(&change("upstream".to_owned(), vec![member(upstream())])).await.unwrap();
        let traffic = Traffic::start(gateway.addresses()[0], count);
        let domain = |round: usize| {
            let number = names::mixed(round) % count;
            Object::Domain(names::domain(number, number + round))
        };
        let pool = |round: usize| {
            let mut pool = pool();
            pool.algorithm = if round.is_multiple_of(2) { Algorithm::RoundRobin } else { Algorithm::Auto };
            Object::Pool(pool)
        };
        let domain = times(&gateway, &store, "domain", rounds, domain).await;
        let pool = times(&gateway, &store, "pool", rounds, pool).await;
        let (requests, failed) = traffic.end().await;
        #[expect(clippy::cast_precision_loss, reason = "sizes far below 2^53")]
        let megabytes = bytes as f64 / 1e6;
        let bytes = each(memory, count);
        Restarted { open, scan, replay, megabytes, bytes, domain, pool, requests, failed }
    })
}

/// Changes of one object, each beside a bare commit of its record, by turns.
async fn times(
    gateway: &Gateway,
    store: &RedbStore,
    what: &str,
    rounds: usize,
    object: impl Fn(usize) -> Object,
) -> Times {
    let (mut ours, mut bare, mut bytes) = (Vec::new(), Vec::new(), 0);
    // Long enough for the store to have reached its history's bound on both sides.
    for round in 0..rounds {
        let object = object(round);
        let record = serde_json::to_vec(&serde_json::json!({ "version": round, "object": object })).unwrap();
        bytes = record.len();
        let key = Key::new(format!("bench/bench/object/{what}/{:012}", names::mixed(round) % 1_000)).unwrap();
        let commit = Transaction::new().put(&key, record);
        let change = change(format!("{what}-{round}"), vec![Op::Put(object)]);
        let one = async |is_ours: bool| {
            let begun = Instant::now();
            if is_ours {
                gateway.apply(&change).await.unwrap();
            } else {
                store.commit(&commit).await.unwrap();
            }
            begun.elapsed().as_secs_f64() * 1e3
        };
        let is_first = round.is_multiple_of(2);
        let (first, second) = (one(is_first).await, one(!is_first).await);
        let (mine, other) = if is_first { (first, second) } else { (second, first) };
        ours.push(mine);
        bare.push(other);
    }
    Times { ours: quantiles(ours, bytes), bare: quantiles(bare, bytes) }
}

fn quantiles(mut times: Vec<f64>, bytes: usize) -> Quantiles {
    times.sort_by(f64::total_cmp);
    Quantiles {
        p50: times[times.len() / 2],
        p99: times[times.len() * 99 / 100],
        most: times[times.len() - 1],
        bytes,
    }
}
