//! Archives that were made to do harm, and the limits.

use super::super::{Limits, Owner, unpack};
use super::{Forge, Yard, kind};
use crate::error::ErrorKind;

/// Each is refused as `Invalid`, names its entry, and leaves nothing outside.
#[test]
fn hostile_entries_are_refused_by_name() {
    let long = "x".repeat(5000);
    for (what, archive, named) in [
        ("`..`", Forge::default().file("../x", "x"), "../x"),
        ("`..` inside", Forge::default().file("a/../../x", "x"), "a/../../x"),
        ("a directory `..`", Forge::default().dir("../out/d"), "../out/d"),
        ("an absolute name", Forge::default().file("/x", "x"), "/x"),
        ("an empty name", Forge::default().file("", "x"), "``"),
        ("a link out", Forge::default().symlink("l", ".."), "`l`"),
        ("a link out from below", Forge::default().symlink("a/l", "../../out"), "a/l"),
        ("an absolute link", Forge::default().symlink("l", "/etc"), "`l`"),
        ("a link without target", Forge::default().symlink("l", ""), "`l`"),
        ("a hard link out", Forge::default().hard_link("h", "../out/canary"), "../out/canary"),
        ("an absolute hard link", Forge::default().hard_link("h", "/etc/passwd"), "/etc/passwd"),
        ("a hard link to nothing", Forge::default().hard_link("h", "nothing"), "`h`"),
        ("a hard link to itself", Forge::default().file("h", "x").hard_link("./h", "h"), "`h`"),
        ("a hard link to a directory", Forge::default().dir("d").hard_link("h", "d"), "`h`"),
        ("a character device", Forge::default().entry(b'3', "n", "", 0o666, b""), "`n`"),
        ("a block device", Forge::default().entry(b'4', "n", "", 0o666, b""), "`n`"),
        ("a pipe", Forge::default().entry(b'6', "n", "", 0o666, b""), "`n`"),
        ("a sparse file", Forge::default().entry(b'S', "n", "", 0o666, b""), "`n`"),
        ("an unknown type", Forge::default().entry(b'Z', "n", "", 0o666, b""), "`n`"),
        ("a multi-volume rest", Forge::default().entry(b'M', "n", "", 0o666, b""), "`n`"),
        ("a directory with content", Forge::default().entry(b'5', "d", "", 0o755, b"xx"), "`d`"),
        ("the directory as a link", Forge::default().symlink("./", "a"), "within"),
        ("pax: `..`", Forge::default().pax(b'x', &[("path", b"../x")]).file("x", "x"), "../x"),
        ("pax: NUL", Forge::default().pax(b'x', &[("path", b"a\0b")]).file("x", "x"), "NUL"),
        ("pax: a link out", Forge::default().pax(b'x', &[("linkpath", b"../..")]).symlink("l", "a"), "`l`"),
        ("pax: sparse", Forge::default().pax(b'x', &[("GNU.sparse.major", b"1")]).file("x", "x"), "sparse"),
        ("pax: a name for all", Forge::default().pax(b'g', &[("path", b"y")]).file("x", "x"), "global"),
        ("pax: no size", Forge::default().pax(b'x', &[("size", b"-1")]).file("x", "x"), "-1"),
        (
            "pax: a size beyond",
            Forge::default().pax(b'x', &[("size", b"18446744073709551615")]).file("x", ""),
            "size",
        ),
        ("pax: twice", Forge::default().pax(b'x', &[("path", b"a"), ("path", b"b")]).file("x", "x"), "twice"),
        (
            "pax: malformed",
            Forge::default().entry(b'x', "p", "", 0o644, b"99 path=a\n").file("x", ""),
            "malformed",
        ),
        (
            "two names",
            Forge::default().entry(b'L', "n", "", 0, b"a\0").pax(b'x', &[("path", b"b")]).file("x", ""),
            "twice",
        ),
        ("GNU: NUL inside", Forge::default().entry(b'L', "n", "", 0, b"a\0b\0").file("x", "x"), "NUL"),
        ("GNU: `..`", Forge::default().entry(b'L', "n", "", 0, b"../x\0").file("x", "x"), "../x"),
        ("GNU: a link out", Forge::default().entry(b'K', "n", "", 0, b"../x\0").symlink("l", "a"), "`l`"),
        ("GNU: too long", Forge::default().entry(b'L', "n", "", 0, long.as_bytes()).file("x", "x"), "5000"),
        ("a header for nobody", Forge::default().pax(b'x', &[("path", b"a")]), "one more entry"),
    ] {
        let yard = Yard::new();
        let error = yard.unpack(&archive.end()).expect_err(what);
        assert_eq!(error.kind(), ErrorKind::Invalid, "{what}: {error}");
        assert!(error.message().contains(named), "{what}: {error}");
        yard.assert_untouched(what);
    }
}

#[cfg(windows)]
#[test]
fn names_that_mean_something_else_on_windows_are_refused() {
    for name in ["C:\\x", "C:x", "a\\b", "..\\x", "\\\\host\\share", "nul", "a/COM1.txt", "a:stream", "x."] {
        let yard = Yard::new();
        assert_eq!(kind(yard.unpack(&Forge::default().file(name, "x").end())), ErrorKind::Invalid, "{name}");
        yard.assert_untouched(name);
    }
}

/// A pax header may say any length; nobody reserves it.
#[test]
fn a_header_that_says_it_is_huge_is_refused_without_memory() {
    for kind_of in [b'L', b'K', b'x', b'g'] {
        let header = Forge::header(kind_of, b"n", b"", 0, 1 << 40);
        let yard = Yard::new();
        assert_eq!(kind(yard.unpack(&Forge::default().raw(&header, b"").end())), ErrorKind::Invalid);
    }
}

// Symbolic links need a right that a Windows user rarely has.
#[cfg(unix)]
#[test]
fn nothing_is_written_through_a_link() {
    use std::os::unix::fs::symlink;

    // From an earlier entry: within the directory, so the link itself is good.
    let yard = Yard::new();
    let error = yard.unpack(&Forge::default().dir("d").symlink("l", "d").file("l/x", "x").end()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.maybe_applied() && error.message().contains("l/x"), "{error}");
    assert!(!yard.inside("d/x").exists());

    // From the program: a directory, a file, and a hard link's source that lead out.
    for archive in [
        Forge::default().file("l/x", "x"),
        Forge::default().dir("l/x"),
        Forge::default().symlink("l/x", "y"),
        Forge::default().hard_link("h", "l/canary"),
        Forge::default().hard_link("h", "f"),
        Forge::default().file("g", "x").hard_link("l/x", "g"),
        Forge::default().dir("l"),
    ] {
        let yard = Yard::new();
        symlink(yard.outside(), yard.inside("l")).unwrap();
        symlink(yard.outside().join("canary"), yard.inside("f")).unwrap();
        assert_eq!(kind(yard.unpack(&archive.end())), ErrorKind::Invalid);
        yard.assert_untouched("a link that was there");
    }
    let yard = Yard::new();
    symlink(yard.outside().join("canary"), yard.inside("f")).unwrap();
    symlink(yard.outside().join("new"), yard.inside("dangling")).unwrap();
    yard.unpack(&Forge::default().file("f", "x").file("dangling", "y").end()).unwrap();
    assert!(yard.inside("f").symlink_metadata().unwrap().is_file());
    assert_eq!(std::fs::read(yard.inside("dangling")).unwrap(), b"y");
    yard.assert_untouched("links that are replaced");
}

#[test]
fn a_file_with_another_name_is_replaced_and_not_written_through() {
    let yard = Yard::new();
    std::fs::hard_link(yard.outside().join("canary"), yard.inside("f")).unwrap();
    yard.unpack(&Forge::default().file("f", "x").end()).unwrap();
    assert_eq!(std::fs::read(yard.inside("f")).unwrap(), b"x");
    yard.assert_untouched("a hard link out");
}

#[test]
fn files_and_directories_do_not_take_each_others_place() {
    let yard = Yard::new();
    std::fs::create_dir(yard.inside("d")).unwrap();
    std::fs::write(yard.inside("d/kept"), "kept").unwrap();
    std::fs::write(yard.inside("f"), "kept").unwrap();
    for archive in [
        Forge::default().file("d", "x"),
        Forge::default().file("g", "").hard_link("d", "g"),
        Forge::default().dir("f"),
        Forge::default().file("f/x", "x"),
    ] {
        assert_eq!(kind(yard.unpack(&archive.end())), ErrorKind::Invalid);
    }
    // Whoever may make no links on Windows is told that instead.
    if cfg!(unix) {
        assert_eq!(kind(yard.unpack(&Forge::default().symlink("d", "x").end())), ErrorKind::Invalid);
    }
    yard.unpack(&Forge::default().dir("d").end()).unwrap();
    assert_eq!(std::fs::read(yard.inside("d/kept")).unwrap(), b"kept");
    assert_eq!(std::fs::read(yard.inside("f")).unwrap(), b"kept");
}

#[test]
fn an_error_says_whether_something_was_unpacked_before() {
    for (archive, applied) in
        [(Forge::default().file("../x", ""), false), (Forge::default().file("a", "").file("../x", ""), true)]
    {
        assert_eq!(Yard::new().unpack(&archive.end()).unwrap_err().maybe_applied(), applied);
    }
}

#[test]
fn limits_hold_at_the_border() {
    let limits = Limits { bytes: 10, entries: 3, path: 100, depth: 3 };
    let long = |length: usize| {
        Forge::default().entry(b'L', "n", "", 0, "x/".repeat(length / 2).as_bytes()).file("x", "")
    };
    let shallow = Limits { depth: 1000, ..limits };
    for (what, archive, limits, refused) in [
        ("bytes", Forge::default().file("a", "12345").file("b", "67890"), limits, None),
        (
            "bytes",
            Forge::default().file("a", "12345").file("b", "678901"),
            limits,
            Some(ErrorKind::OutOfResources),
        ),
        ("entries", Forge::default().dir("a").dir("b").dir("c"), limits, None),
        (
            "entries",
            Forge::default().dir("a").dir("b").dir("c").dir("d"),
            limits,
            Some(ErrorKind::OutOfResources),
        ),
        ("parents", Forge::default().file("a/b/c", ""), limits, None),
        (
            "parents",
            Forge::default().file("a/b/c", "").file("a/b/d", ""),
            limits,
            Some(ErrorKind::OutOfResources),
        ),
        ("depth", Forge::default().dir("a/b/c/d"), limits, Some(ErrorKind::Invalid)),
        ("path", long(100), Limits { entries: 50, ..shallow }, None),
        ("path", long(102), Limits { entries: 51, ..shallow }, Some(ErrorKind::Invalid)),
        (
            "globals",
            (0..4).fold(Forge::default(), |forge, _| forge.pax(b'g', &[("comment", b"x")])),
            limits,
            Some(ErrorKind::OutOfResources),
        ),
    ] {
        let yard = Yard::new();
        let result = unpack(&yard.dir, archive.end().as_slice(), &limits, Owner::default());
        assert_eq!(result.map_err(|error| error.kind()).err(), refused, "{what}");
    }
}

/// What stands in the header is refused before a byte is written.
#[test]
fn a_file_beyond_the_limit_is_not_begun() {
    let yard = Yard::new();
    let header = Forge::header(b'0', b"big", b"", 0o644, u64::MAX / 4);
    let result = yard.unpack(&Forge::default().raw(&header, b"x").end());
    assert_eq!(kind(result), ErrorKind::OutOfResources);
    assert!(!yard.inside("big").exists());
}

#[test]
fn what_follows_the_end_is_bounded_too() {
    let limits = Limits { bytes: 2000, ..Limits::default() };
    for (following, good) in [(0, true), (2000 + (1 << 20), true), (2000 + (1 << 20) + 1, false)] {
        let mut archive = Forge::default().file("a", "x").end();
        // One of the two empty blocks is the end, the other follows it.
        archive.resize(archive.len() - 512 + following, 1);
        let yard = Yard::new();
        assert_eq!(
            unpack(&yard.dir, archive.as_slice(), &limits, Owner::default()).is_ok(),
            good,
            "{following}"
        );
    }
}

// Windows has no permission bits.
#[cfg(unix)]
#[test]
fn only_permission_bits_come_from_the_archive() {
    use std::os::unix::fs::MetadataExt as _;
    let yard = Yard::new();
    let archive = Forge::default()
        .entry(b'0', "set-id", "", 0o6755, b"x")
        .entry(b'0', "nothing", "", 0, b"x")
        .entry(b'5', "sticky", "", 0o1777, b"")
        .entry(b'5', "closed", "", 0, b"")
        .file("closed/x", "x")
        .file("made/x", "x");
    yard.unpack(&archive.end()).unwrap();
    for (name, mode) in [
        ("set-id", 0o755),
        ("nothing", 0o600),
        ("sticky", 0o777),
        ("closed", 0o700),
        ("closed/x", 0o644),
        ("made", 0o755),
    ] {
        assert_eq!(yard.inside(name).metadata().unwrap().mode() & 0o7777, mode, "{name}");
    }
    assert_eq!(yard.inside("set-id").metadata().unwrap().mtime(), 1_000_000_000);
}

// Only root gives files away, and Windows has no such owners.
#[cfg(unix)]
#[test]
fn everything_made_is_given_to_its_owner() {
    use std::os::unix::fs::MetadataExt as _;
    if !rustix::process::geteuid().is_root() {
        println!("skipped: only root gives files away");
        return;
    }
    let yard = Yard::new();
    std::fs::create_dir(yard.inside("there")).unwrap();
    let archive = Forge::default().dir("d").file("made/x", "x").file("there/y", "y").hard_link("h", "made/x");
    unpack(&yard.dir, archive.end().as_slice(), &Limits::default(), Owner::of(4321, 8765)).unwrap();
    for name in ["d", "made", "made/x", "there/y", "h"] {
        let metadata = yard.inside(name).metadata().unwrap();
        assert_eq!((metadata.uid(), metadata.gid()), (4321, 8765), "{name}");
    }
    assert_eq!(yard.inside("there").metadata().unwrap().uid(), 0, "a directory that was there is kept");
}
