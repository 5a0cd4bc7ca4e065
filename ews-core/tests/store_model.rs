//! Random operations on both embedded stores, compared with a naive model at every step.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test: what panics has failed, and the lints spare only what is inside test functions"
)]

use std::collections::BTreeMap;
use std::time::Duration;

use ews_core::ErrorKind;
use ews_core::store::{
    Change, EmbeddedConfig, Expect, Fence, Key, Lease, ListRequest, MemoryStore, Prefix, Record, Store,
    StoreRevision, Transaction,
};
use futures_util::{FutureExt as _, StreamExt as _};
use proptest::prelude::*;

const KEYS: [&str; 6] = ["a", "a/1", "a/2", "a/1/x", "b/1", "b/2"];
const PREFIXES: [&str; 4] = ["", "a/", "a/1/", "b/"];
const HISTORY: usize = 20;

#[derive(Debug, Clone)]
enum Step {
    /// Conditions and writes by number of key.
    Commit(Vec<(usize, Wanted)>, Vec<Writing>, Option<usize>),
    List {
        prefix: usize,
        limit: usize,
        back: u64,
    },
    Get(usize),
    Grant,
    Revoke(usize),
    Renew(usize),
    /// Tenths of a lease's time to live.
    Wait(u32),
    Watch {
        prefix: usize,
        back: u64,
    },
    Reopen,
}

/// A key with the value and lease to put, or nothing to delete it.
type Writing = (usize, Option<(u8, Option<usize>)>);

#[derive(Debug, Clone, Copy)]
enum Wanted {
    Any,
    Absent,
    Present,
    Current,
    Old,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let wanted = prop_oneof![
        1 => Just(Wanted::Any),
        1 => Just(Wanted::Absent),
        1 => Just(Wanted::Present),
        3 => Just(Wanted::Current),
        1 => Just(Wanted::Old)
    ];
    let put = (any::<u8>(), proptest::option::weighted(0.3, 0..4_usize));
    let write = (0..KEYS.len(), proptest::option::weighted(0.7, put));
    let commit = (
        proptest::collection::vec((0..KEYS.len(), wanted), 0..2),
        proptest::collection::vec(write, 1..4),
        proptest::option::weighted(0.1, 0..KEYS.len()),
    );
    let step = prop_oneof![
        8 => commit.prop_map(|(conditions, writes, fence)| Step::Commit(conditions, writes, fence)),
        3 => (0..PREFIXES.len(), 1..5_usize, 0..30_u64)
            .prop_map(|(prefix, limit, back)| Step::List { prefix, limit, back }),
        1 => (0..KEYS.len()).prop_map(Step::Get),
        1 => Just(Step::Grant),
        1 => (0..4_usize).prop_map(Step::Revoke),
        1 => (0..4_usize).prop_map(Step::Renew),
        1 => (1..8_u32).prop_map(Step::Wait),
        1 => (0..PREFIXES.len(), 0..30_u64).prop_map(|(prefix, back)| Step::Watch { prefix, back }),
        1 => Just(Step::Reopen),
    ];
    proptest::collection::vec(step, 1..60)
}

/// What the contract says, written down without regard to cost: the whole state at every revision.
struct Model {
    states: Vec<BTreeMap<Key, Record>>,
    /// What each revision changed, from 1.
    changes: Vec<Vec<Change>>,
    leases: Vec<(Lease, tokio::time::Instant, bool)>,
    /// The oldest revision whose state a list may still ask for: history in memory is lost by a reopen.
    opened_at: usize,
}

const TTL: Duration = Duration::from_secs(10);

impl Model {
    fn new() -> Self {
        Self { states: vec![BTreeMap::new()], changes: Vec::new(), leases: Vec::new(), opened_at: 0 }
    }

    fn revision(&self) -> usize {
        self.states.len() - 1
    }

    fn now(&self) -> &BTreeMap<Key, Record> {
        &self.states[self.revision()]
    }

    fn end(&mut self, at: usize) {
        self.leases[at].2 = false;
        let id = self.leases[at].0.id;
        let gone: Vec<Key> = self
            .now()
            .values()
            .filter(|record| record.lease == Some(id))
            .map(|record| record.key.clone())
            .collect();
        if !gone.is_empty() {
            let mut state = self.now().clone();
            state.retain(|key, _| !gone.contains(key));
            self.states.push(state);
            self.changes.push(gone.into_iter().map(Change::Deleted).collect());
        }
    }

    fn expire(&mut self) {
        let now = tokio::time::Instant::now();
        let mut due: Vec<usize> =
            (0..self.leases.len()).filter(|at| self.leases[*at].2 && self.leases[*at].1 <= now).collect();
        // The first to run out is the first to end, and a renewal moves a lease back in that order.
        due.sort_by_key(|at| (self.leases[*at].1, *at));
        due.into_iter().for_each(|at| self.end(at));
    }
}

/// A store that may be able to reopen.
trait Subject: Store + Sized {
    fn reopen(self) -> impl Future<Output = (Self, bool)>;
}

impl Subject for MemoryStore {
    async fn reopen(self) -> (Self, bool) {
        (self, false)
    }
}

#[cfg(feature = "redb")]
impl Subject for ews_core::store::RedbStore {
    async fn reopen(self) -> (Self, bool) {
        let path = self.path().to_owned();
        self.close().await.unwrap();
        (Self::open(path, redb_config()).await.unwrap(), true)
    }
}

fn config() -> EmbeddedConfig {
    EmbeddedConfig::default().with_log_entries(HISTORY).with_tail_entries(4)
}

#[cfg(feature = "redb")]
fn redb_config() -> ews_core::store::RedbConfig {
    ews_core::store::RedbConfig::default().with_embedded(config())
}

fn key(at: usize) -> Key {
    Key::new(KEYS[at]).unwrap()
}

fn prefix(at: usize) -> Prefix {
    Prefix::new(PREFIXES[at]).unwrap()
}

async fn compare<S: Subject>(mut store: S, steps: &[Step]) {
    let mut model = Model::new();
    for (at, step) in steps.iter().enumerate() {
        // Whatever ran out is ended before the step, by a transaction that has no other effect on the model.
        tokio::time::sleep(Duration::from_millis(1)).await;
        let due = model.leases.iter().any(|lease| lease.2 && lease.1 <= tokio::time::Instant::now());
        model.expire();
        if due {
            let marker =
                store.commit(&Transaction::new().delete(&Key::new("marker").unwrap())).await.unwrap();
            let mut state = model.now().clone();
            state.remove(&Key::new("marker").unwrap());
            model.states.push(state);
            model.changes.push(Vec::new());
            assert_eq!(marker.0 as usize, model.revision(), "step {at}: after leases ended");
        }
        match step {
            Step::Commit(conditions, writes, fence) => {
                commit(&store, &mut model, conditions, writes, *fence, at).await;
            }
            Step::List { prefix: under, limit, back } => {
                list(&store, &model, *under, *limit, *back, at).await
            }
            Step::Get(of) => {
                assert_eq!(
                    store.get(&key(*of)).await.unwrap().as_ref(),
                    model.now().get(&key(*of)),
                    "step {at}"
                );
            }
            Step::Grant if model.leases.len() < 4 => {
                let lease = store.grant(TTL).await.unwrap();
                assert!(model.leases.iter().all(|other| other.0.id != lease.id));
                model.leases.push((lease, tokio::time::Instant::now() + TTL, true));
            }
            Step::Grant => {}
            Step::Revoke(of) => {
                if let Some((lease, _, live)) = model.leases.get(*of).cloned() {
                    store.revoke(lease.id).await.unwrap();
                    if live {
                        model.end(*of);
                    }
                }
            }
            Step::Renew(of) => {
                if let Some((lease, deadline, live)) = model.leases.get_mut(*of) {
                    let renewed = store.renew(lease.id).await;
                    assert_eq!(renewed.is_ok(), *live, "step {at}: {renewed:?}");
                    *deadline = tokio::time::Instant::now() + TTL;
                }
            }
            Step::Wait(tenths) => tokio::time::sleep(TTL / 10 * *tenths).await,
            Step::Watch { prefix: under, back } => watch(&store, &model, *under, *back, at).await,
            Step::Reopen => {
                let (again, reopened) = store.reopen().await;
                store = again;
                if reopened {
                    model.opened_at = model.revision();
                    for lease in model.leases.iter_mut().filter(|lease| lease.2) {
                        lease.1 = tokio::time::Instant::now() + TTL;
                    }
                }
            }
        }
    }
}

async fn commit(
    store: &impl Store,
    model: &mut Model,
    conditions: &[(usize, Wanted)],
    writes: &[Writing],
    fence: Option<usize>,
    at: usize,
) {
    let mut transaction = Transaction::new();
    let mut expected = None;
    for (of, wanted) in conditions {
        let found = model.now().get(&key(*of));
        let (expect, holds) = match wanted {
            Wanted::Any => (Expect::Any, true),
            Wanted::Absent => (Expect::Absent, found.is_none()),
            Wanted::Present => (Expect::Present, found.is_some()),
            Wanted::Current => match found {
                Some(record) => (Expect::Revision(record.modified), true),
                None => (Expect::Revision(StoreRevision(1 << 40)), false),
            },
            Wanted::Old => (Expect::Revision(StoreRevision(0)), false),
        };
        if !holds && expected.is_none() {
            expected =
                Some(if expect == Expect::Absent { ErrorKind::AlreadyExists } else { ErrorKind::Stale });
        }
        transaction = transaction.expect(&key(*of), expect);
    }
    if let Some(of) = fence {
        let found = model.now().get(&key(of));
        let token = found.map_or(StoreRevision(1), |record| record.created);
        if found.is_none() && expected.is_none() {
            expected = Some(ErrorKind::Stale);
        }
        transaction = transaction.fence(Fence { lock: key(of), token });
    }
    let revision = StoreRevision(model.revision() as u64 + 1);
    let mut state = model.now().clone();
    let (mut changes, mut used, mut lost) = (Vec::new(), Vec::new(), false);
    for (of, put) in writes {
        if used.contains(of) {
            continue;
        }
        used.push(*of);
        match put {
            None => {
                transaction = transaction.delete(&key(*of));
                if state.remove(&key(*of)).is_some() {
                    changes.push(Change::Deleted(key(*of)));
                }
            }
            Some((value, lease)) => {
                let lease = lease.and_then(|lease| model.leases.get(lease));
                lost |= lease.is_some_and(|lease| !lease.2);
                let value = vec![*value; usize::from(*value)];
                transaction = match lease {
                    Some((lease, ..)) => transaction.put_leased(&key(*of), value.clone(), lease),
                    None => transaction.put(&key(*of), value.clone()),
                };
                let before = state.get(&key(*of));
                let record = Record::new(
                    key(*of),
                    value.into(),
                    before.map_or(revision, |record| record.created),
                    revision,
                    before.map_or(1, |record| record.version + 1),
                )
                .with_lease(lease.map(|lease| lease.0.id));
                state.insert(key(*of), record.clone());
                changes.push(Change::Put(record));
            }
        }
    }
    if lost && expected.is_none() {
        expected = Some(ErrorKind::NotFound);
    }
    match (store.commit(&transaction).await, expected) {
        (Ok(committed), None) => {
            assert_eq!(committed, revision, "step {at}");
            model.states.push(state);
            model.changes.push(changes);
        }
        (Err(error), Some(kind)) => assert_eq!(error.kind(), kind, "step {at}: {error}"),
        (result, expected) => panic!("step {at}: {result:?}, expected {expected:?}"),
    }
}

async fn list(store: &impl Store, model: &Model, under: usize, limit: usize, back: u64, at: usize) {
    let revision = (model.revision() as u64).saturating_sub(back);
    let of = StoreRevision(revision);
    let expected: Vec<Record> =
        model.states[revision as usize].values().filter(|r| prefix(under).covers(&r.key)).cloned().collect();
    let mut request = ListRequest::new(prefix(under)).limit(limit).at(of);
    let mut seen = Vec::new();
    loop {
        let page = match store.list(&request).await {
            Ok(page) => page,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Compacted, "step {at}");
                let kept = back < HISTORY as u64 / 2 && revision as usize >= model.opened_at;
                assert!(!kept, "step {at}: {error}, though it is {back} back");
                return;
            }
        };
        assert!(page.revision == of && page.records.len() <= limit, "step {at}");
        seen.extend(page.records);
        if !page.more {
            break;
        }
        request = request.after(seen[seen.len() - 1].key.clone());
    }
    assert_eq!(seen, expected, "step {at}: as of {revision}");
}

async fn watch(store: &impl Store, model: &Model, under: usize, back: u64, at: usize) {
    let after = (model.revision() as u64).saturating_sub(back);
    let mut watch = match store.watch(&prefix(under), StoreRevision(after)).await {
        Ok(watch) => watch,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Compacted, "step {at}");
            assert!(back >= HISTORY as u64 / 2, "step {at}: {error}, though it is {back} back");
            return;
        }
    };
    for revision in after as usize + 1..=model.revision() {
        let changes: Vec<Change> =
            model.changes[revision - 1].iter().filter(|c| prefix(under).covers(c.key())).cloned().collect();
        if changes.is_empty() {
            continue;
        }
        let batch = watch.next().await.unwrap().unwrap();
        assert_eq!((batch.revision.0 as usize, &*batch.changes), (revision, &changes[..]), "step {at}");
    }
    assert!(watch.next().now_or_never().is_none(), "step {at}: there is nothing more");
}

fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap()
        .block_on(test);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn the_store_in_memory_does_what_the_model_does(steps in steps()) {
        run(compare(MemoryStore::with_config(config()), &steps));
    }
}

#[cfg(feature = "redb")]
proptest! {
    // Each commit waits for the disk.
    #![proptest_config(ProptestConfig::with_cases(25))]

    #[test]
    fn the_store_on_disk_does_what_the_model_does(steps in steps()) {
        let folder = tempfile::tempdir().unwrap();
        run(async {
            let store = ews_core::store::RedbStore::open(folder.path().join("s"), redb_config()).await.unwrap();
            compare(store, &steps).await;
        });
    }
}
