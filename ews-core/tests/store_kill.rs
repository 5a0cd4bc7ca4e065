//! A process that writes is killed again and again: nothing it acknowledged is lost, nothing is half done.
//!
//! The test starts itself as the writing process. Each of its transactions writes the same number to two keys and appends a
//! third, and it prints the number once the store acknowledged it.
#![cfg(feature = "redb")]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test: what panics has failed, and the lints spare only what is inside test functions"
)]

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use ews_core::store::{
    EmbeddedConfig, Expect, Key, Prefix, RedbConfig, RedbStore, Store as _, StoreExt as _, Transaction,
};

const FOLDER: &str = "EWS_TEST_KILLED_WRITER";
const ROUNDS: u64 = 25;

fn config() -> RedbConfig {
    // A short log, so that it is trimmed all the time.
    RedbConfig::default().with_embedded(EmbeddedConfig::default().with_log_entries(50))
}

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

async fn number(store: &RedbStore, at: &str) -> u64 {
    let record = store.get(&key(at)).await.unwrap();
    record.map_or(0, |record| std::str::from_utf8(&record.value).unwrap().parse().unwrap())
}

/// The part of the process that is killed. As a test by itself it does nothing.
#[test]
fn writer() {
    let Ok(folder) = std::env::var(FOLDER) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let store = RedbStore::open(Path::new(&folder).join("s"), config()).await.unwrap();
        let mut n = number(&store, "first").await;
        loop {
            // Several at a time, so that they share commits; each writes its own keys whole.
            let side = futures_util::future::join_all((0..4).map(|lane| {
                let at = key(&format!("lane/{lane}"));
                let store = &store;
                async move { store.put(&at, vec![lane as u8; 3000].into(), Expect::Any).await.unwrap() }
            }));
            n += 1;
            let value = n.to_string();
            let transaction = Transaction::new()
                .put(&key("first"), value.clone())
                .put(&key(&format!("log/{:04}", n % 1000)), vec![b'x'; (n % 5000) as usize])
                .put(&key("second"), value);
            let (revision, _) = futures_util::future::join(store.commit(&transaction), side).await;
            let revision = revision.unwrap();
            let mut out = std::io::stdout().lock();
            writeln!(out, "acknowledged {n} {revision}").unwrap();
            out.flush().unwrap();
        }
    });
}

#[test]
fn a_killed_writer_loses_nothing_acknowledged_and_leaves_nothing_half_done() {
    let folder = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    // Created before, so that each round is about writing.
    runtime.block_on(async {
        RedbStore::open(folder.path().join("s"), config()).await.unwrap().close().await.unwrap()
    });
    let (mut acknowledged, mut last_revision) = (0, 0);
    for round in 0..ROUNDS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "writer", "--nocapture", "--test-threads=1"])
            .env(FOLDER, folder.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        // After so many acknowledgements it is killed, in the middle of whatever it does then.
        let mut left = 1 + round * 7 % 23;
        let before = acknowledged;
        for line in lines {
            let line = line.unwrap();
            let Some(at) = line.find("acknowledged ") else { continue };
            let mut words = line[at..].split(' ').skip(1).map(|word| word.parse::<u64>().unwrap());
            acknowledged = words.next().unwrap();
            last_revision = words.next().unwrap();
            left = left.saturating_sub(1);
            if left == 0 {
                // A little later, so that the kill falls into a commit; and what was acknowledged meanwhile is read on.
                std::thread::sleep(Duration::from_micros(round * 137 % 2000));
                child.kill().unwrap();
                left = u64::MAX;
            }
        }
        let status = child.wait().unwrap();
        assert!(
            !status.success() && acknowledged > before,
            "round {round}: the writer wrote and was killed: {status}"
        );
        runtime.block_on(async {
            let store = RedbStore::open(folder.path().join("s"), config()).await.unwrap();
            let (first, second) = (number(&store, "first").await, number(&store, "second").await);
            assert_eq!(first, second, "round {round}: a transaction is whole");
            assert!(
                first >= acknowledged,
                "round {round}: {acknowledged} was acknowledged, {first} is there"
            );
            assert!(first <= acknowledged + 1, "round {round}: nobody asked for {first}");
            assert!(store.revision().0 >= last_revision, "round {round}");
            let log = store.get(&key(&format!("log/{:04}", first % 1000))).await.unwrap().unwrap();
            assert_eq!(log.value.len() as u64, first % 5000, "round {round}");
            for record in store.list_all(&Prefix::new("lane/").unwrap(), 10).await.unwrap().records {
                assert_eq!(record.value.len(), 3000, "round {round}");
            }
            store.close().await.unwrap();
        });
    }
    assert!(acknowledged > ROUNDS);
}

#[test]
fn a_second_process_is_refused_with_the_path() {
    let folder = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let path = folder.path().join("s");
        let store = RedbStore::open(&path, config()).await.unwrap();
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "writer", "--nocapture", "--test-threads=1"])
            .env(FOLDER, folder.path())
            .output()
            .unwrap();
        assert!(!output.status.success());
        let said =
            String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
        // The panic shows the error's Debug form, which doubles the backslashes of a Windows path.
        let said = said.replace(r"\\", r"\");
        assert!(said.contains("Busy") && said.contains(&*path.to_string_lossy()), "{said}");
        store.put(&key("a"), "x".into(), Expect::Absent).await.unwrap();
    });
}
