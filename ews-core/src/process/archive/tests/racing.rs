//! A program that swaps a directory for a link out while we write and read: nothing of ours lands or comes from there.
//!
//! For Linux only, which alone can exchange two names at once: the name is never free, so each of our calls meets the
//! directory or the link. On Windows a directory that is open is not renamed, and links need a right.

use std::os::unix::fs::{MetadataExt as _, symlink};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::super::{Limits, Owner, pack, place_file, unpack};
use super::{Forge, Yard};
use crate::spec::content::FileMode;

/// So often at least each side has its turn, and so often at most ours.
const TURNS: usize = 400;
const MOST_TURNS: usize = 20_000;

/// Ends the other thread however this one ends, so that a failed assertion does not wait for it.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Calls `work` again and again while `a` is exchanged with a link out, at least until it says that it met both.
fn race(yard: &Yard, mut work: impl FnMut(usize) -> bool) {
    std::fs::create_dir(yard.inside("a")).unwrap();
    symlink(yard.outside(), yard.inside("link")).unwrap();
    let (stop, swaps) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let _stop = Stop(&stop);
        let swapper = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                renameat_with(CWD, yard.inside("a"), CWD, yard.inside("link"), RenameFlags::EXCHANGE)
                    .unwrap();
                swaps.fetch_add(1, Ordering::Relaxed);
            }
        });
        for turn in 0..MOST_TURNS {
            let enough = work(turn) && turn >= TURNS && swaps.load(Ordering::Relaxed) >= TURNS;
            if enough || swapper.is_finished() {
                break;
            }
        }
    });
}

#[test]
fn nothing_is_unpacked_outside() {
    let yard = Yard::new();
    let owner = if rustix::process::geteuid().is_root() { Owner::of(4321, 4321) } else { Owner::default() };
    let before = yard.outside().metadata().unwrap();
    let (mut good, mut refused) = (0_u32, 0_u32);
    race(&yard, |turn| {
        // A new directory each time, so that it is made while its parent is swapped.
        let archive = Forge::default()
            .file("a/b", "x")
            .dir(&format!("a/{turn}"))
            .symlink("a/l", "b")
            .hard_link("a/h", "a/b")
            .hard_link("a/h", "a/canary")
            .end();
        match unpack(&yard.dir, archive.as_slice(), &Limits::default(), owner) {
            // No `canary` lies in the directory, so a good end would be a link to the one outside.
            Ok(()) => panic!("the file outside was linked"),
            Err(error) if error.maybe_applied() => good += 1,
            Err(_) => refused += 1,
        }
        good > 0 && refused > 0
    });
    yard.assert_untouched("unpacked in a race");
    let after = yard.outside().metadata().unwrap();
    assert_eq!(
        (before.uid(), before.mode()),
        (after.uid(), after.mode()),
        "the directory outside was given away"
    );
    // Both were met, or the race was none.
    assert!(good > 0 && refused > 0, "written {good} times, refused {refused} times");
}

#[test]
fn no_file_is_placed_outside() {
    let yard = Yard::new();
    let (mut good, mut refused) = (0_u32, 0_u32);
    race(&yard, |_| {
        match place_file(&yard.dir, "a/b", b"x", FileMode::SECRET, Owner::default()) {
            Ok(()) => good += 1,
            Err(_) => refused += 1,
        }
        good > 0 && refused > 0
    });
    yard.assert_untouched("placed in a race");
    assert!(good > 0 && refused > 0, "placed {good} times, refused {refused} times");
}

#[test]
fn nothing_outside_is_packed() {
    let yard = Yard::new();
    // Only the file outside holds this.
    std::fs::write(yard.outside().join("b"), "SECRET OUTSIDE").unwrap();
    std::fs::create_dir(yard.inside("top")).unwrap();
    let (mut read, mut refused) = (0_u32, 0_u32);
    race(&yard, |turn| {
        if turn == 0 {
            place_file(&yard.dir, "inside-b", b"GOOD INSIDE", FileMode::PUBLIC, Owner::default()).unwrap();
        }
        // The file is put wherever the directory is by now.
        let _ = std::fs::hard_link(yard.inside("inside-b"), yard.inside("a/inside"));
        let mut archive = Vec::new();
        let path = ["a/b", "a", "", "link/b", "a/inside"][turn % 5];
        let packed = pack(&yard.dir, path, &mut archive);
        let holds = |text: &[u8]| archive.windows(text.len()).any(|window| window == text);
        assert!(!holds(b"SECRET OUTSIDE"), "the file outside was packed by way of {path:?}");
        assert!(!holds(b"canary"), "the directory outside was listed by way of {path:?}");
        match packed {
            Ok(()) if holds(b"GOOD INSIDE") => read += 1,
            Ok(()) => {}
            Err(_) => refused += 1,
        }
        read > 0 && refused > 0
    });
    assert!(read > 0 && refused > 0, "read {read} times, refused {refused} times");
}

/// A program that reads what is replaced meanwhile gets the old or the new, whole; so a hotfix in place fails no request.
#[test]
fn what_is_replaced_is_never_gone_and_never_half() {
    let yard = Yard::new();
    let archive = |letter: &str| {
        let page = letter.repeat(100_000);
        Forge::default().file("page", &page).symlink("link", "page").hard_link("other", "page").end()
    };
    yard.unpack(&archive("a")).unwrap();
    let (stop, looks) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let _stop = Stop(&stop);
        let reader = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                for name in ["page", "link", "other"] {
                    let read = std::fs::read(yard.inside(name)).unwrap();
                    assert!(read.len() == 100_000 && read.iter().all(|byte| *byte == read[0]), "{name}");
                }
                looks.fetch_add(1, Ordering::Relaxed);
            }
        });
        let mut turns = 0;
        while turns < TURNS || (looks.load(Ordering::Relaxed) < TURNS && turns < MOST_TURNS) {
            if reader.is_finished() {
                break;
            }
            yard.unpack(&archive(if turns % 2 == 0 { "b" } else { "c" })).unwrap();
            turns += 1;
        }
        stop.store(true, Ordering::Relaxed);
        reader.join().unwrap();
    });
    assert_eq!(super::names(&yard.top.path().join("in")), ["link", "other", "page"]);
    yard.assert_untouched("replacing");
}
