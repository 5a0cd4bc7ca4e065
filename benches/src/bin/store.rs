//! The embedded store: a durable put against a bare redb commit of the same rows, and the fan-out of a watch against a bare
//! broadcast channel.

#![allow(clippy::unwrap_used, reason = "a bench that can't run says so by its panic")]

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Release};
use std::time::{Duration, Instant};

use ews_benches::{Bench, Pair, interleave, resident_bytes};
use ews_core::store::{
    EmbeddedConfig, Expect, Key, MemoryStore, Prefix, RedbConfig, RedbStore, Store, StoreExt as _,
    StoreRevision, WatchBatch,
};
use futures_util::{FutureExt as _, StreamExt as _};
use redb::{Database, ReadableTable as _, TableDefinition};
use tokio::runtime::Runtime;
use tokio::sync::broadcast;

fn main() {
    let mut bench = Bench::from_args("store");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    // First, while no memory was freed that others could reuse unseen.
    watcher_memory(&mut bench);
    puts(&mut bench, &runtime, 100);
    puts(&mut bench, &runtime, 4096);
    together(&mut bench, &runtime);
    fan_out(&mut bench);
    std::process::exit(bench.finish());
}

const RECORDS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("records");
const LOG: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("log");
/// The log is full, so that each side also removes what it adds, as a store that has been up for a while does.
const LOG_ENTRIES: u64 = 1000;
const KEYS: u64 = 1000;

fn key_of(n: u64) -> String {
    // Spread over the keys, so that neighbours in time are no neighbours on disk.
    format!("service/web/instance/{:04}", n * 617 % KEYS)
}

/// What the store writes for a put, by hand: the record with its 32 bytes of marks, and the log row that repeats both.
struct Bare {
    database: Database,
    revision: u64,
}

impl Bare {
    fn put(&mut self, value: &[u8]) {
        self.revision += 1;
        let key = key_of(self.revision);
        let row = [&[0; 32], value].concat();
        let log_row = [&[0; 11], key.as_bytes(), &row].concat();
        let transaction = self.database.begin_write().unwrap();
        {
            let mut records = transaction.open_table(RECORDS).unwrap();
            records.insert(key.as_bytes(), &*row).unwrap();
            let mut log = transaction.open_table(LOG).unwrap();
            log.insert(&self.revision.to_be_bytes()[..], &*log_row).unwrap();
            // As the store does: a sixteenth of the log at a time.
            let first = u64::from_be_bytes(log.first().unwrap().unwrap().0.value().try_into().unwrap());
            if self.revision + 1 - first > LOG_ENTRIES {
                for old in first..first + 1 + LOG_ENTRIES / 16 {
                    log.remove(&old.to_be_bytes()[..]).unwrap();
                }
            }
        }
        transaction.commit().unwrap();
    }
}

fn open(runtime: &Runtime, folder: &tempfile::TempDir) -> RedbStore {
    let embedded = EmbeddedConfig::default().with_log_entries(usize::try_from(LOG_ENTRIES).unwrap());
    let config = RedbConfig::default().with_embedded(embedded);
    runtime.block_on(RedbStore::open(folder.path().join("store"), config)).unwrap()
}

fn puts(bench: &mut Bench, runtime: &Runtime, bytes: usize) {
    // In the folder where the build is, since the system's temporary folder may be memory.
    let folder = tempfile::tempdir_in(std::env::current_exe().unwrap().parent().unwrap()).unwrap();
    let store = open(runtime, &folder);
    let database = redb::Builder::new().set_cache_size(32 << 20).create(folder.path().join("bare")).unwrap();
    let mut bare = Bare { database, revision: 0 };
    let value = vec![b'v'; bytes];
    let mut n = 0;
    let mut put = || {
        n += 1;
        let key = Key::new(key_of(n)).unwrap();
        let value = value.clone();
        // On a worker of the runtime, as a service's own tasks run.
        runtime.block_on(store.put(&key, value.into(), Expect::Any)).unwrap()
    };
    let mut bare_put = || bare.put(&value);
    for _ in 0..KEYS + LOG_ENTRIES {
        put();
        bare_put();
    }
    // A round is a single put on either side: what the disk does meanwhile falls on both alike.
    let pair = interleave(bench.scale(3000, 400), put, bare_put);
    bench.ratio(&format!("durable put of {bytes} B"), "bare redb commit", &pair, Some(1.2));
}

/// How much a group of callers gains by sharing commits; there is no target, the figure is what group commit is worth.
fn together(bench: &mut Bench, runtime: &Runtime) {
    let folder = tempfile::tempdir_in(std::env::current_exe().unwrap().parent().unwrap()).unwrap();
    let store = open(runtime, &folder);
    let database = redb::Builder::new().set_cache_size(32 << 20).create(folder.path().join("bare")).unwrap();
    let mut bare = Bare { database, revision: 0 };
    let mut n = 0;
    let pair = interleave(
        bench.scale(60, 10),
        || {
            let puts = (0..64).map(|_| {
                n += 1;
                let key = Key::new(key_of(n)).unwrap();
                let store = &store;
                async move { store.put(&key, vec![b'v'; 100].into(), Expect::Any).await.unwrap() }
            });
            runtime.block_on(futures_util::future::join_all(puts))
        },
        || (0..64).for_each(|_| bare.put(&[b'v'; 100])),
    );
    bench.ratio("64 durable puts at a time", "64 bare commits", &pair, None);
}

const WATCHERS: usize = 1000;

/// What a waiting watcher takes: its stream alone, without a task around it.
fn watcher_memory(bench: &mut Bench) {
    const MANY: usize = 10_000;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let store = MemoryStore::new();
    let Some(before) = resident_bytes() else { return };
    let mut watches = Vec::with_capacity(MANY);
    for _ in 0..MANY {
        let mut watch = runtime.block_on(store.watch(&Prefix::all(), StoreRevision::ZERO)).unwrap();
        assert!(watch.next().now_or_never().is_none());
        watches.push(watch);
    }
    let Some(after) = resident_bytes() else { return };
    let each = after.saturating_sub(before) as f64 / MANY as f64;
    bench.line("memory of a waiting watcher", each, "bytes", Some(1024.0), format!("of {MANY}"));
    drop(watches);
}

/// The time from the first of some commits until all watchers have seen all of them.
fn fan_out(bench: &mut Bench) {
    let (rounds, commits) = (bench.scale(40, 8), 50);
    for threads in [1, 2] {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build().unwrap();
        let store = Arc::new(MemoryStore::new());
        let watchers = Watchers::start(&runtime, &store);
        let receivers = Receivers::start(&runtime);
        let key = Key::new("service/web/1").unwrap();
        // Both sides are given the same batch, and one commit or send at a time.
        let batch =
            WatchBatch::new(StoreRevision(1), Arc::from([ews_core::store::Change::Deleted(key.clone())]));
        let pair = interleave(
            rounds,
            || {
                let store = store.clone();
                let key = key.clone();
                let committed = runtime.spawn(async move {
                    for _ in 0..commits {
                        store.put(&key, "value".into(), Expect::Any).await.unwrap();
                    }
                });
                runtime.block_on(committed).unwrap();
                watchers.wait(commits);
            },
            || {
                let sender = receivers.sender.clone();
                let batch = batch.clone();
                let sent = runtime.spawn(async move {
                    for _ in 0..commits {
                        sender.send(batch.clone()).unwrap();
                    }
                });
                runtime.block_on(sent).unwrap();
                receivers.wait(commits);
            },
        );
        let each = |time: Duration| time.as_secs_f64() * 1e9 / (commits * WATCHERS) as f64;
        bench.ratio(&format!("{WATCHERS} watchers, {threads} thread(s)"), "tokio broadcast", &pair, None);
        let note = format!("broadcast: {:.0} ns", each(pair.theirs()));
        bench.line(
            format!("  one batch to one watcher, {threads} thread(s)"),
            each(pair.ours()),
            "ns",
            None,
            note,
        );
        single(bench, &runtime, &store, &watchers, &receivers, &key, &batch, rounds, threads);
    }
    quiet(bench);
}

/// The same, with each commit waited for: the latency of one fan-out.
#[allow(clippy::too_many_arguments, reason = "both sides' parts, once")]
fn single(
    bench: &mut Bench,
    runtime: &Runtime,
    store: &Arc<MemoryStore>,
    watchers: &Watchers,
    receivers: &Receivers,
    key: &Key,
    batch: &WatchBatch,
    rounds: usize,
    threads: usize,
) {
    let pair: Pair = interleave(
        rounds * 10,
        || {
            let (store, key) = (store.clone(), key.clone());
            let put = async move { store.put(&key, "value".into(), Expect::Any).await.unwrap() };
            runtime.block_on(runtime.spawn(put)).unwrap();
            watchers.wait(1);
        },
        || {
            let (sender, batch) = (receivers.sender.clone(), batch.clone());
            runtime.block_on(runtime.spawn(async move { sender.send(batch).unwrap() })).unwrap();
            receivers.wait(1);
        },
    );
    bench.ratio(
        &format!("  one commit to {WATCHERS} watchers, {threads} thread(s)"),
        "tokio broadcast",
        &pair,
        None,
    );
}

/// Watchers of other prefixes cost a commit nothing.
fn quiet(bench: &mut Bench) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (watched, alone) = (MemoryStore::new(), MemoryStore::new());
    let mut watches = Vec::new();
    for n in 0..WATCHERS {
        let prefix = Prefix::new(format!("service/other-{n}/")).unwrap();
        let mut watch = runtime.block_on(watched.watch(&prefix, StoreRevision::ZERO)).unwrap();
        assert!(watch.next().now_or_never().is_none());
        watches.push(watch);
    }
    let key = Key::new("service/web/1").unwrap();
    let put = |store: &MemoryStore| {
        for _ in 0..200 {
            runtime.block_on(store.put(&key, "value".into(), Expect::Any)).unwrap();
        }
    };
    let pair = interleave(bench.scale(100, 20), || put(&watched), || put(&alone));
    bench.ratio("put beside 1000 quiet watchers", "put without watchers", &pair, None);
}

/// Counts what the watching tasks saw, and wakes the bench when all of them saw everything.
#[derive(Clone)]
struct Counter {
    seen: Arc<AtomicUsize>,
    bench: std::thread::Thread,
}

impl Counter {
    fn new() -> Self {
        Self { seen: Arc::default(), bench: std::thread::current() }
    }

    fn saw(&self) {
        if (self.seen.fetch_add(1, AcqRel) + 1).is_multiple_of(WATCHERS) {
            self.bench.unpark();
        }
    }

    fn wait(&self, commits: usize) {
        let start = Instant::now();
        while self.seen.load(Acquire) < commits * WATCHERS {
            std::thread::park_timeout(Duration::from_millis(100));
            assert!(start.elapsed() < Duration::from_secs(60), "the watchers do not see everything");
        }
        self.seen.store(0, Release);
    }
}

struct Watchers(Counter);

impl Watchers {
    fn start(runtime: &Runtime, store: &Arc<MemoryStore>) -> Self {
        let counter = Counter::new();
        for _ in 0..WATCHERS {
            let prefix = Prefix::new("service/").unwrap();
            let mut watch = runtime.block_on(store.watch(&prefix, store.revision())).unwrap();
            let seen = counter.clone();
            runtime.spawn(async move {
                while let Some(Ok(batch)) = watch.next().await {
                    std::hint::black_box(batch);
                    seen.saw();
                }
            });
        }
        Self(counter)
    }

    fn wait(&self, commits: usize) {
        self.0.wait(commits);
    }
}

struct Receivers {
    counter: Counter,
    sender: broadcast::Sender<WatchBatch>,
}

impl Receivers {
    fn start(runtime: &Runtime) -> Self {
        let counter = Counter::new();
        let (sender, _) = broadcast::channel(1024);
        for _ in 0..WATCHERS {
            let mut receiver = sender.subscribe();
            let seen = counter.clone();
            runtime.spawn(async move {
                while let Ok(batch) = receiver.recv().await {
                    std::hint::black_box(batch);
                    seen.saw();
                }
            });
        }
        Self { counter, sender }
    }

    fn wait(&self, commits: usize) {
        self.counter.wait(commits);
    }
}
