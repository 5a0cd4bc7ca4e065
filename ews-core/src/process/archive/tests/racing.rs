//! A program that swaps a directory for a link out while we write and read: nothing of ours lands or comes from there.
//!
//! For Unix only: on Windows a directory that is open is not renamed, and links need a right.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::super::{Limits, Owner, pack, place_file, unpack};
use super::{Forge, Yard};
use crate::spec::content::FileMode;

const ROUNDS: usize = 3000;

/// Calls `work` again and again while `a` is swapped between a directory and a link out; says how often it did.
fn race(yard: &Yard, mut work: impl FnMut(usize)) -> usize {
    std::fs::create_dir(yard.inside("a")).unwrap();
    symlink(yard.outside(), yard.inside("link")).unwrap();
    let over = AtomicBool::new(false);
    let rounds = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // At least so many swaps, and at most so many more until the work saw enough of them.
            for round in 0..ROUNDS * 100 {
                if round >= ROUNDS && rounds.load(Ordering::Relaxed) >= ROUNDS / 10 {
                    break;
                }
                std::fs::rename(yard.inside("a"), yard.inside("dir")).unwrap();
                std::fs::rename(yard.inside("link"), yard.inside("a")).unwrap();
                std::fs::rename(yard.inside("a"), yard.inside("link")).unwrap();
                // What was made in the meantime makes room.
                if let Ok(found) = yard.inside("a").symlink_metadata() {
                    assert!(found.is_dir());
                    let _ = std::fs::remove_dir_all(yard.inside("dir"));
                } else {
                    let _ = std::fs::rename(yard.inside("dir"), yard.inside("a"));
                }
                let _ = std::fs::create_dir(yard.inside("a"));
            }
            over.store(true, Ordering::Relaxed);
        });
        while !over.load(Ordering::Relaxed) {
            work(rounds.fetch_add(1, Ordering::Relaxed));
        }
    });
    rounds.into_inner()
}

#[test]
fn nothing_is_unpacked_outside() {
    let yard = Yard::new();
    let archive = Forge::default()
        .dir("a")
        .file("a/b", "x")
        .dir("a/c")
        .symlink("a/l", "b")
        .hard_link("a/h", "a/b")
        .end();
    let (mut good, mut refused) = (0_u32, 0_u32);
    let owner = if rustix::process::geteuid().is_root() { Owner::of(4321, 4321) } else { Owner::default() };
    let before = yard.outside().metadata().unwrap();
    race(&yard, |_| match unpack(&yard.dir, archive.as_slice(), &Limits::default(), owner) {
        Ok(()) => good += 1,
        Err(_) => refused += 1,
    });
    yard.assert_untouched("unpacked in a race");
    let after = yard.outside().metadata().unwrap();
    assert_eq!(
        (before.uid(), before.mode()),
        (after.uid(), after.mode()),
        "the directory outside was given away"
    );
    println!("unpacked {good} times, refused {refused} times");
}

#[test]
fn no_file_is_placed_outside() {
    let yard = Yard::new();
    race(&yard, |_| drop(place_file(&yard.dir, "a/b", b"x", FileMode::SECRET, Owner::default())));
    yard.assert_untouched("placed in a race");
}

#[test]
fn nothing_outside_is_packed() {
    let yard = Yard::new();
    // Only the file outside holds this.
    std::fs::write(yard.outside().join("b"), "SECRET OUTSIDE").unwrap();
    std::fs::set_permissions(yard.outside().join("b"), std::fs::Permissions::from_mode(0o600)).unwrap();
    let mut packed = 0_u32;
    race(&yard, |round| {
        let _ = std::fs::write(yard.inside("made"), "inside");
        let _ = std::fs::rename(yard.inside("made"), yard.inside("dir/b"));
        let mut archive = Vec::new();
        let path = ["a/b", "a", "", "link/b"][round % 4];
        if pack(&yard.dir, path, &mut archive).is_ok() {
            packed += 1;
        }
        let leaked = archive.windows(14).any(|window| window == b"SECRET OUTSIDE");
        assert!(!leaked, "the file outside was packed by way of {path:?}");
        let mut entries = tar::Archive::new(archive.as_slice());
        for entry in entries.entries().unwrap().map_while(Result::ok) {
            assert!(!entry.path_bytes().ends_with(b"canary"), "a directory outside was listed");
        }
    });
    assert!(packed > 0);
}
