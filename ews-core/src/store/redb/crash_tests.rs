//! Power loss and full disks, on a disk that the test controls.
//!
//! Each round runs a workload until the power fails at the n-th sync, makes the disk as it may be found then (each write
//! since the last sync is there, absent or torn, in any combination), opens the store again and compares it with what
//! was acknowledged: everything acknowledged is there, and of what was under way a whole number of transactions.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};

use redb::StorageBackend;

use super::super::{Expect, Key, LeaseId, ListRequest, Prefix, Record, StoreRevision, Transaction, Write};
use super::*;
use crate::error::Retry;

/// A disk in memory with a write cache that a power failure loses.
#[derive(Debug, Default)]
struct Disk {
    /// What reads see.
    now: Vec<u8>,
    /// What the last sync made durable.
    durable: Vec<u8>,
    /// What happened since.
    since: Vec<Operation>,
    syncs: u64,
    /// The power fails at this sync.
    fail_at: Option<u64>,
    failed: bool,
    /// The disk has room for so many bytes.
    room: Option<usize>,
    /// No write is accepted, for want of space.
    full: bool,
    /// The next syncs fail, though the disk goes on.
    sync_error: bool,
}

#[derive(Debug, Clone)]
enum Operation {
    Write(usize, Vec<u8>),
    SetLen(usize),
}

impl Operation {
    fn apply(&self, image: &mut Vec<u8>) {
        match self {
            Self::Write(at, bytes) => {
                if image.len() < at + bytes.len() {
                    image.resize(at + bytes.len(), 0);
                }
                image[*at..at + bytes.len()].copy_from_slice(bytes);
            }
            Self::SetLen(length) => image.resize(*length, 0),
        }
    }
}

#[derive(Debug, Clone, Default)]
struct SharedDisk(Arc<Mutex<Disk>>);

fn no_power() -> io::Error {
    io::Error::other("the power failed")
}

impl SharedDisk {
    fn of(image: Vec<u8>) -> Self {
        Self(Arc::new(Mutex::new(Disk { now: image.clone(), durable: image, ..Disk::default() })))
    }

    fn set(&self, change: impl FnOnce(&mut Disk)) {
        change(&mut self.0.lock().unwrap());
    }

    /// The disk as it may be found after the power failed.
    fn found(&self, random: &mut Random) -> Vec<u8> {
        let disk = self.0.lock().unwrap();
        let mut image = disk.durable.clone();
        let mut since = disk.since.clone();
        let keep = random.below(4);
        if random.below(2) == 0 {
            // The disk wrote them in another order.
            for i in (1..since.len()).rev() {
                since.swap(i, random.below(i + 1));
            }
        }
        for operation in since {
            let lost = match keep {
                0 => true,
                1 => false,
                _ => random.below(2) == 0,
            };
            match operation {
                _ if lost => {}
                Operation::Write(at, bytes) if keep == 3 && random.below(3) == 0 => {
                    // Torn at a sector, or in the middle of one.
                    let unit = if random.below(2) == 0 { 512 } else { 1 };
                    let end = (random.below(bytes.len() + 1) / unit) * unit;
                    Operation::Write(at, bytes[..end].to_vec()).apply(&mut image);
                }
                operation => operation.apply(&mut image),
            }
        }
        image
    }
}

impl StorageBackend for SharedDisk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().now.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let disk = self.0.lock().unwrap();
        let at = offset as usize;
        let bytes = disk.now.get(at..at + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(bytes);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(Operation::SetLen(len as usize))
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut disk = self.0.lock().unwrap();
        if disk.sync_error {
            return Err(io::Error::other("the disk does not answer"));
        }
        disk.syncs += 1;
        if disk.failed || disk.fail_at == Some(disk.syncs) {
            disk.failed = true;
            return Err(no_power());
        }
        disk.durable = disk.now.clone();
        disk.since.clear();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.change(Operation::Write(offset as usize, data.to_vec()))
    }
}

impl SharedDisk {
    fn change(&self, operation: Operation) -> io::Result<()> {
        let mut disk = self.0.lock().unwrap();
        if disk.failed {
            return Err(no_power());
        }
        if disk.full {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let end = match &operation {
            Operation::Write(at, bytes) => at + bytes.len(),
            Operation::SetLen(length) => *length,
        };
        if disk.room.is_some_and(|room| end > room && end > disk.durable.len().min(disk.now.len())) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        operation.apply(&mut disk.now);
        disk.since.push(operation);
        Ok(())
    }
}

/// A small generator, so that a failed round can be run again by its seed.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        // SplitMix64, Steele et al. 2014.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % bound as u64) as usize
    }
}

fn open(disk: &SharedDisk) -> Result<Embedded<RedbRows>> {
    open_with(disk, true)
}

fn open_with(disk: &SharedDisk, verify: bool) -> Result<Embedded<RedbRows>> {
    // A short log, so that it is trimmed on the way.
    let embedded = EmbeddedConfig::default().with_log_entries(8);
    let config = RedbConfig::default().with_embedded(embedded).with_verify_on_open(verify);
    open_storage(Storage::on(disk.clone()), config, &format::CURRENT)
}

fn new_disk() -> SharedDisk {
    let disk = SharedDisk::default();
    let rows = RedbRows::open(Storage::on(disk.clone()), 1 << 20, false).unwrap();
    rows.write(&mut |rows| backup::begin(rows, format::CURRENT.version, 0).map(|()| Ending::Commit)).unwrap();
    rows.close().unwrap();
    disk
}

type State = BTreeMap<Key, (Vec<u8>, u64)>;

/// The naive model: what a committed transaction does.
fn apply(state: &mut State, transaction: &Transaction, revision: u64) {
    for write in &transaction.writes {
        match write {
            Write::Put { key, value, .. } => {
                state.insert(key.clone(), (value.to_vec(), revision));
            }
            Write::Delete { key } => {
                state.remove(key);
            }
        }
    }
}

async fn state_of(store: &Embedded<RedbRows>) -> (State, u64) {
    let page = store.list(&ListRequest::new(Prefix::all())).await.unwrap();
    assert!(!page.more);
    let state = page
        .records
        .into_iter()
        .map(|Record { key, value, modified, .. }| (key, (value.to_vec(), modified.0)));
    (state.collect(), page.revision.0)
}

fn transaction(n: u64, random: &mut Random) -> Transaction {
    let mut transaction = Transaction::new();
    let mut used = Vec::new();
    for _ in 0..1 + random.below(4) {
        let at = random.below(12);
        if used.contains(&at) {
            continue;
        }
        used.push(at);
        let key = Key::new(format!("k/{at}")).unwrap();
        transaction = if random.below(4) == 0 {
            transaction.delete(&key)
        } else {
            // Small and large, so that pages of all kinds are written.
            let length = if random.below(3) == 0 { random.below(20_000) } else { random.below(60) };
            transaction.put(&key, [n.to_string().into_bytes(), vec![b'.'; length]].concat())
        };
    }
    transaction
}

/// One round; returns whether the power failed before the workload's end.
async fn round(seed: u64, fail_at: u64) -> bool {
    let mut random = Random(seed * 2 + 1);
    let disk = new_disk();
    disk.set(|disk| {
        disk.syncs = 0;
        disk.fail_at = Some(fail_at);
    });
    // What the store may be found as: after the last acknowledged transaction, or after some that followed it.
    let mut states = vec![State::new()];
    let mut acknowledged = 0;
    match open(&disk) {
        Err(error) => assert!(disk.0.lock().unwrap().failed, "seed {seed}: {error}"),
        Ok(store) => {
            for n in 1..=12 {
                // Two at a time share a commit or don't; each is whole all the same.
                let (one, two) = (transaction(n * 2, &mut random), transaction(n * 2 + 1, &mut random));
                let mut state = states[states.len() - 1].clone();
                for next in [&one, &two] {
                    apply(&mut state, next, states.len() as u64);
                    states.push(state.clone());
                }
                let answers = futures_util::future::join(store.commit(&one), store.commit(&two)).await;
                match answers {
                    (Ok(first), Ok(second)) => {
                        assert_eq!((first.0, second.0), (acknowledged + 1, acknowledged + 2), "seed {seed}");
                        acknowledged += 2;
                    }
                    (first, second) => {
                        if let Ok(first) = first {
                            assert_eq!(first.0, acknowledged + 1, "seed {seed}");
                            acknowledged += 1;
                        }
                        assert!(second.is_err(), "seed {seed}: the second without the first");
                        break;
                    }
                }
            }
        }
    }
    let failed = disk.0.lock().unwrap().failed;
    for _ in 0..3 {
        let found = SharedDisk::of(disk.found(&mut random));
        // What a crash leaves must be repaired without the check of every page, too.
        let store = open_with(&found, random.below(2) == 0)
            .unwrap_or_else(|error| panic!("seed {seed}, sync {fail_at}: {error:?}"));
        let (state, revision) = state_of(&store).await;
        assert!(revision >= acknowledged, "seed {seed}, sync {fail_at}: {revision} < {acknowledged}, a loss");
        assert!((revision as usize) < states.len(), "seed {seed}, sync {fail_at}: a transaction nobody made");
        assert_eq!(state, states[revision as usize], "seed {seed}, sync {fail_at}: a half transaction");
        // And it works.
        let next = store.commit(&Transaction::new().put(&Key::new("after").unwrap(), "x")).await.unwrap();
        assert_eq!(next.0, revision + 1);
    }
    failed
}

#[tokio::test]
async fn whatever_a_power_failure_leaves_of_unsynced_writes_nothing_acknowledged_is_lost() {
    for seed in 1..=12 {
        let mut fail_at = 1;
        while round(seed, fail_at).await {
            fail_at += 1;
        }
        assert!(
            fail_at > 12,
            "the workload syncs at least once for each pair, though it ended at sync {fail_at}"
        );
    }
}

#[tokio::test]
async fn the_model_of_the_disk_does_lose_unsynced_writes() {
    // Without this, the test above could pass on a disk that never forgets.
    let disk = SharedDisk::default();
    disk.write(0, b"kept").unwrap();
    disk.sync_data().unwrap();
    disk.write(0, b"lost").unwrap();
    let mut random = Random(7);
    let found: std::collections::BTreeSet<Vec<u8>> = (0..2000).map(|_| disk.found(&mut random)).collect();
    assert!(found.contains(&b"kept"[..]) && found.contains(&b"lost"[..]) && found.len() > 2, "{found:?}");
}

#[tokio::test]
async fn a_full_disk_is_an_error_and_the_store_goes_on_when_there_is_space_again() {
    let disk = new_disk();
    let store = open(&disk).unwrap();
    let key = |n: usize| Key::new(format!("k/{n}")).unwrap();
    let put =
        |n: usize| Transaction::new().expect(&key(n), Expect::Absent).put(&key(n), vec![n as u8; 30_000]);
    for n in 0..5 {
        store.commit(&put(n)).await.unwrap();
    }
    for round in 0..3 {
        let room = disk.0.lock().unwrap().now.len();
        disk.set(|disk| disk.room = Some(room));
        let (before, _) = state_of(&store).await;
        let mut full = None;
        for n in 5 + round * 100..105 + round * 100 {
            match store.commit(&put(n)).await {
                Ok(_) => {
                    store.commit(&Transaction::new().put(&key(1), "small")).await.map(drop).unwrap_or(())
                }
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::OutOfResources, "{error:?}");
                    assert!(!error.maybe_applied(), "it is known by now: {error:?}");
                    full = Some(n);
                    break;
                }
            }
        }
        let full = full.expect("the disk fills up");
        // Reads go on, what was there is there, and what failed is not.
        let (after, _) = state_of(&store).await;
        assert!(before.keys().all(|key| after.contains_key(key)));
        assert!(!after.contains_key(&key(full)));
        disk.set(|disk| disk.room = None);
        store.commit(&put(full)).await.unwrap();
        let (end, revision) = state_of(&store).await;
        assert_eq!(end[&key(full)].1, revision);
    }
    let (last, revision) = state_of(&store).await;
    drop(store);
    let store = open(&SharedDisk::of(disk.0.lock().unwrap().now.clone())).unwrap();
    assert_eq!(state_of(&store).await, (last, revision));
}

#[tokio::test]
async fn after_a_failed_sync_nothing_more_is_written() {
    let disk = new_disk();
    let store = open(&disk).unwrap();
    let key = Key::new("a").unwrap();
    store.commit(&Transaction::new().put(&key, "kept")).await.unwrap();
    disk.set(|disk| disk.sync_error = true);
    let error = store.commit(&Transaction::new().put(&key, "doubtful")).await.unwrap_err();
    assert!(error.maybe_applied(), "{error:?}");
    // The system may take the next sync for a success although it dropped what the first could not write.
    disk.set(|disk| disk.sync_error = false);
    for _ in 0..2 {
        let error = store.commit(&Transaction::new().put(&key, "later")).await.unwrap_err();
        assert_eq!((error.kind(), error.retry()), (ErrorKind::Unavailable, Retry::Never));
        assert!(error.message().contains("open it again"), "{error}");
    }
    let store = open(&SharedDisk::of(disk.found(&mut Random(3)))).unwrap();
    let value = store.get(&key).await.unwrap().unwrap().value;
    assert!(value == "kept" || value == "doubtful", "{value:?}");
}

#[tokio::test(start_paused = true)]
async fn a_lease_whose_end_could_not_be_written_stays_ended_and_is_written_later() {
    let disk = new_disk();
    let store = open(&disk).unwrap();
    let key = Key::new("lock").unwrap();
    let lease = store.grant(std::time::Duration::from_secs(5)).await.unwrap();
    let put = Transaction::new().put_leased(&key, "me", &lease);
    let held = store.commit(&put).await.unwrap();
    disk.set(|disk| disk.full = true);
    tokio::time::sleep(std::time::Duration::from_secs(6)).await;
    let late =
        Transaction::new().fence(crate::store::Fence { lock: key.clone(), token: held }).put(&key, "late");
    assert!(store.commit(&late).await.is_err(), "neither the disk nor the lease lets it");
    assert_eq!(store.renew(LeaseId(lease.id.0)).unwrap_err().kind(), ErrorKind::NotFound);
    assert!(
        store.get(&key).await.is_err() || store.get(&key).await.unwrap().is_some(),
        "its end was not written"
    );
    disk.set(|disk| disk.full = false);
    assert_eq!(store.commit(&late).await.unwrap_err().kind(), ErrorKind::Stale);
    assert_eq!(store.get(&key).await.unwrap(), None);
    assert_eq!(store.revision(), StoreRevision(held.0 + 1));
}
