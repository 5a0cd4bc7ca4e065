//! Files as operators leave them: open twice, read-only, cut off, overwritten, of other versions.

use std::path::PathBuf;

use super::super::embedded::codec::meta;
use super::super::embedded::rows::{RowsMut, Table};
use super::super::{Expect, Key, Store as _, StoreExt as _, StoreRevision};
use super::format::Migration;
use super::*;

struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("state.redb")
    }

    async fn open(&self) -> Result<RedbStore> {
        RedbStore::open(self.path(), RedbConfig::default()).await
    }

    /// A store of a few records, closed.
    async fn filled(&self) -> Vec<u8> {
        let store = self.open().await.unwrap();
        for n in 0..40 {
            store.put(&key(&format!("k/{n}")), vec![n; 3000].into(), Expect::Absent).await.unwrap();
        }
        store.close().await.unwrap();
        std::fs::read(self.path()).unwrap()
    }
}

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

fn names_path(error: &Error, path: &Path) {
    assert!(error.to_string().contains(&path.display().to_string()), "{error}");
}

#[tokio::test]
async fn a_second_opener_is_refused_until_the_first_closes() {
    let place = Place::new();
    let store = place.open().await.unwrap();
    let error = place.open().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy);
    names_path(&error, &place.path());
    let watch = store.watch(&super::super::Prefix::all(), StoreRevision::ZERO).await.unwrap();
    store.close().await.unwrap();
    let again = place.open().await.unwrap();
    again.put(&key("a"), "x".into(), Expect::Absent).await.unwrap();
    // A watch of the store that was closed ends, and sees nothing of the new one.
    let seen: Vec<_> = futures_util::StreamExt::collect(watch).await;
    assert!(matches!(&seen[..], [Err(error)] if error.kind() == ErrorKind::Unavailable), "{seen:?}");
}

#[tokio::test]
async fn of_many_first_openers_one_gets_the_store() {
    let place = Place::new();
    let opened = futures_util::future::join_all((0..8).map(|_| place.open())).await;
    assert_eq!(opened.iter().filter(|store| store.is_ok()).count(), 1, "{opened:?}");
    for error in opened.iter().filter_map(|store| store.as_ref().err()) {
        assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
    }
    // The new file had two names for a moment. Wine takes away a name only when no handle to its file is open any more, so
    // the winner lets go before the folder is looked at.
    for store in opened.into_iter().flatten() {
        store.close().await.unwrap();
    }
    let left: Vec<_> = std::fs::read_dir(place.folder.path()).unwrap().collect();
    assert_eq!(left.len(), 1, "{left:?}");
}

#[tokio::test]
async fn a_missing_folder_and_a_folder_in_the_files_place_are_said_clearly() {
    let place = Place::new();
    let missing = place.folder.path().join("none").join("state.redb");
    let error = RedbStore::open(&missing, RedbConfig::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.message().contains("create it first"), "{error}");
    names_path(&error, &missing);
    let error = RedbStore::open(place.folder.path(), RedbConfig::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    names_path(&error, place.folder.path());
}

#[tokio::test]
async fn a_read_only_file_is_refused() {
    let place = Place::new();
    place.filled().await;
    let mut permissions = std::fs::metadata(place.path()).unwrap().permissions();
    permissions.set_readonly(true);
    std::fs::set_permissions(place.path(), permissions.clone()).unwrap();
    let error = place.open().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthorized);
    names_path(&error, &place.path());
    #[allow(clippy::permissions_set_readonly_false, reason = "only so that the folder can be removed")]
    permissions.set_readonly(false);
    std::fs::set_permissions(place.path(), permissions).unwrap();
}

#[cfg(unix)]
#[tokio::test]
async fn only_the_owner_can_read_the_file_and_its_backup() {
    use std::os::unix::fs::PermissionsExt as _;
    let place = Place::new();
    let store = place.open().await.unwrap();
    let backup = place.folder.path().join("backup");
    store.backup_to_file(&backup).await.unwrap();
    for path in [place.path(), backup] {
        assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}

/// Opening must give the whole store or `Corrupt`; never a panic, and never less than was there.
async fn opens_whole_or_not(place: &Place, what: &str) -> bool {
    match place.open().await {
        Ok(store) => {
            let all = store.list_all(&super::super::Prefix::all(), 100).await;
            let all = all.unwrap_or_else(|error| panic!("{what}: it opened, then {error}"));
            assert_eq!(all.records.len(), 40, "{what}: records are gone without a word");
            for record in all.records {
                let n: u8 = record.key.as_str()[2..].parse().unwrap();
                assert!(record.value.len() == 3000 && record.value.iter().all(|byte| *byte == n), "{what}");
            }
            store.close().await.unwrap();
            true
        }
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{what}: {error:?}");
            names_path(&error, &place.path());
            false
        }
    }
}

#[tokio::test]
async fn a_cut_off_file_is_corrupt() {
    let place = Place::new();
    let whole = place.filled().await;
    for part in [0, 1, 9, 100, 4095, 4096, 5000, whole.len() / 2, whole.len() - 4096, whole.len() - 1] {
        std::fs::write(place.path(), &whole[..part]).unwrap();
        let opened = opens_whole_or_not(&place, &format!("{part} of {} bytes", whole.len())).await;
        // The last bytes may be free space.
        assert!(!opened || part > whole.len() / 2, "{part} of {} bytes opened", whole.len());
    }
}

#[tokio::test]
async fn garbage_is_corrupt() {
    let place = Place::new();
    for bytes in [vec![0; 100], vec![0; 1 << 20], b"# notes\n".repeat(1000), vec![0xff; 70_000]] {
        std::fs::write(place.path(), bytes).unwrap();
        assert!(!opens_whole_or_not(&place, "garbage").await);
    }
}

#[tokio::test]
async fn damaged_pages_are_found_at_the_start() {
    let place = Place::new();
    let whole = place.filled().await;
    let mut refused = 0;
    for page in (0..whole.len()).step_by(4096) {
        let mut damaged = whole.clone();
        for byte in &mut damaged[page + 40..page + 300] {
            *byte ^= 0x5a;
        }
        std::fs::write(place.path(), damaged).unwrap();
        if !opens_whole_or_not(&place, &format!("damage at {page}")).await {
            refused += 1;
        }
    }
    assert!(refused > 20, "{refused} damages were found; the records alone fill more pages");
}

#[tokio::test]
async fn a_database_of_another_program_is_not_touched() {
    let place = Place::new();
    let database = ::redb::Database::create(place.path()).unwrap();
    let writing = database.begin_write().unwrap();
    writing.open_table(::redb::TableDefinition::<u64, u64>::new("theirs")).unwrap().insert(1, 2).unwrap();
    writing.commit().unwrap();
    drop(database);
    let error = place.open().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.message().contains("not a store of EWS"), "{error}");
}

fn rename_a_to_b(rows: &mut dyn RowsMut) -> Result<()> {
    let row = rows.get(Table::Records, b"a")?.unwrap();
    rows.remove(Table::Records, b"a")?;
    rows.put(Table::Records, b"b", &row)
}

fn write_and_fail(rows: &mut dyn RowsMut) -> Result<()> {
    rows.put(Table::Records, b"half", b"")?;
    Err(Error::internal("the second step fails"))
}

fn leave(_: &mut dyn RowsMut) -> Result<()> {
    Ok(())
}

#[tokio::test]
async fn an_older_format_is_migrated_whole_and_a_newer_one_refused() {
    let place = Place::new();
    let store = place.open().await.unwrap();
    store.put(&key("a"), "x".into(), Expect::Absent).await.unwrap();
    store.close().await.unwrap();
    let open = |formats: Formats| {
        let path = place.path();
        spawn_blocking(move || open_file(&path, RedbConfig::default(), &formats))
    };
    const FAILS: &[Migration] =
        &[Migration { from: 1, run: rename_a_to_b }, Migration { from: 2, run: write_and_fail }];
    const WORKS: &[Migration] =
        &[Migration { from: 1, run: rename_a_to_b }, Migration { from: 2, run: leave }];

    let error = open(Formats { version: 3, migrations: FAILS }).await.unwrap().unwrap_err();
    assert!(
        error.to_string().contains("the second step fails") && error.to_string().contains("migration_from=2")
    );
    let error = open(Formats { version: 3, migrations: &WORKS[1..] }).await.unwrap().unwrap_err();
    assert!(error.message().contains("no way from 1 to 3"), "{error}");
    // Neither left a trace: the store is as it was.
    let store = place.open().await.unwrap();
    assert_eq!(store.list_all(&super::super::Prefix::all(), 9).await.unwrap().records[0].key, key("a"));
    store.close().await.unwrap();

    let store = open(Formats { version: 3, migrations: WORKS }).await.unwrap().unwrap();
    let moved = store.get(&key("b")).await.unwrap().unwrap();
    assert_eq!((moved.value, moved.version), ("x".into(), 1));
    assert_eq!(store.get(&key("a")).await.unwrap(), None);
    store.close().await.unwrap();

    let error = place.open().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.message().contains("format 3") && error.message().contains("up to 1"), "{error}");
}

#[tokio::test]
async fn a_store_without_a_format_is_refused() {
    let place = Place::new();
    place.open().await.unwrap().close().await.unwrap();
    let rows = RedbRows::open(Storage::open(&place.path()).unwrap(), 1 << 20, false).unwrap();
    rows.write(&mut |rows| rows.remove(Table::Meta, meta::FORMAT).map(|_| Ending::Commit)).unwrap();
    drop(rows);
    assert_eq!(place.open().await.unwrap_err().kind(), ErrorKind::Corrupt);
}

/// A file system of 1 MiB that is gone with the test.
#[cfg(target_os = "linux")]
struct Tiny(PathBuf);

#[cfg(target_os = "linux")]
impl Drop for Tiny {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg(&self.0).status();
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_full_file_system_is_an_error_and_no_damage() {
    let place = Place::new();
    let mount = place.folder.path().join("tiny");
    std::fs::create_dir(&mount).unwrap();
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"])
        .arg(&mount)
        .output();
    if !mounted.is_ok_and(|output| output.status.success()) {
        println!("skipped: mounting a file system needs root; the same is tried on a disk in memory");
        return;
    }
    let _tiny = Tiny(mount.clone());
    let path = mount.join("state.redb");
    let ballast = mount.join("ballast");
    let store = RedbStore::open(&path, RedbConfig::default()).await.unwrap();
    std::fs::write(&ballast, vec![1; 300_000]).unwrap();
    let mut last = 0;
    let full = loop {
        match store.put(&key(&format!("k/{last}")), vec![7; 20_000].into(), Expect::Absent).await {
            Ok(_) => last += 1,
            Err(error) => break error,
        }
        assert!(last < 100, "the file system never filled up");
    };
    assert_eq!(full.kind(), ErrorKind::OutOfResources, "{full:?}");
    std::fs::remove_file(&ballast).unwrap();
    store.put(&key("after"), "space".into(), Expect::Absent).await.unwrap();
    store.close().await.unwrap();
    let store = RedbStore::open(&path, RedbConfig::default()).await.unwrap();
    assert_eq!(store.list_all(&super::super::Prefix::all(), 200).await.unwrap().records.len(), last + 1);
    store.close().await.unwrap();
}
