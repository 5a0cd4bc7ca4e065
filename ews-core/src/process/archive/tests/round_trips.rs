//! What goes in comes out: names, content, modes, links; and files that change while they are packed.

use std::io::Read as _;

use super::super::pack::Exactly;
use super::super::{Limits, Owner, pack, place_file, unpack};
use super::{Forge, Yard, kind, names};
use crate::error::ErrorKind;
use crate::spec::content::FileMode;

fn packed(yard: &Yard, path: &str) -> Vec<u8> {
    let mut archive = Vec::new();
    pack(&yard.dir, path, &mut archive).unwrap();
    archive
}

fn listing(archive: &[u8]) -> Vec<String> {
    let mut archive = tar::Archive::new(archive);
    archive
        .entries()
        .unwrap()
        .map(|entry| String::from_utf8(entry.unwrap().path_bytes().into_owned()).unwrap())
        .collect()
}

#[test]
fn a_tree_comes_back_as_it_went_in() {
    let yard = Yard::new();
    let deep = format!("top/{}/{}", "d".repeat(120), "f".repeat(200));
    std::fs::create_dir_all(yard.inside(&deep).parent().unwrap()).unwrap();
    std::fs::create_dir_all(yard.inside("top/empty")).unwrap();
    let large: Vec<u8> = (0..300_000_u32).map(|i| (i % 251) as u8).collect();
    for (name, content) in
        [(deep.as_str(), &b"deep"[..]), ("top/nothing", b""), ("top/größe 寸法", b"u"), ("top/large", &large)]
    {
        std::fs::write(yard.inside(name), content).unwrap();
    }
    let archive = packed(&yard, "/top");
    assert_eq!(archive, packed(&yard, "top/"), "the same files give the same archive");

    let other = Yard::new();
    other.unpack(&archive).unwrap();
    for name in [deep.as_str(), "top/nothing", "top/größe 寸法", "top/large"] {
        assert_eq!(
            std::fs::read(other.inside(name)).unwrap(),
            std::fs::read(yard.inside(name)).unwrap(),
            "{name}"
        );
    }
    assert!(other.inside("top/empty").is_dir());
    assert_eq!(names(&other.inside("top")), names(&yard.inside("top")));
    assert_eq!(packed(&other, "top").len(), archive.len());
}

// Windows has no permission bits, and a link needs a right.
#[cfg(unix)]
#[test]
fn modes_and_links_come_back() {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
    let yard = Yard::new();
    std::fs::create_dir(yard.inside("top")).unwrap();
    let long = "t".repeat(150);
    for (name, mode) in [("run", 0o755), ("read", 0o640), ("set-id", 0o4711)] {
        std::fs::write(yard.inside("top").join(name), name).unwrap();
        std::fs::set_permissions(yard.inside("top").join(name), std::fs::Permissions::from_mode(mode))
            .unwrap();
    }
    symlink("run", yard.inside("top/link")).unwrap();
    symlink(&long, yard.inside("top/long")).unwrap();
    let other = Yard::new();
    other.unpack(&packed(&yard, "top")).unwrap();
    for (name, mode) in [("run", 0o755), ("read", 0o640), ("set-id", 0o711)] {
        assert_eq!(other.inside("top").join(name).metadata().unwrap().mode() & 0o7777, mode, "{name}");
    }
    assert_eq!(std::fs::read_link(other.inside("top/link")).unwrap().to_str(), Some("run"));
    assert_eq!(std::fs::read_link(other.inside("top/long")).unwrap().to_str(), Some(long.as_str()));
}

#[test]
fn names_start_with_the_last_component_and_come_in_order() {
    let yard = Yard::new();
    for name in ["a/top/z", "a/top/c/d", "a/top/B"] {
        std::fs::create_dir_all(yard.inside(name).parent().unwrap()).unwrap();
        std::fs::write(yard.inside(name), "x").unwrap();
    }
    assert_eq!(listing(&packed(&yard, "a/top")), ["top/", "top/B", "top/c/", "top/c/d", "top/z"]);
    assert_eq!(listing(&packed(&yard, "/a/top/z")), ["z"]);
    assert_eq!(listing(&packed(&yard, "/"))[..2], ["a/", "a/top/"]);
    for (path, refused) in [
        ("a/nothing", ErrorKind::NotFound),
        ("nothing/at/all", ErrorKind::NotFound),
        ("a/top/z/x", ErrorKind::NotFound),
        ("../out/canary", ErrorKind::Invalid),
        ("a/../../out/canary", ErrorKind::Invalid),
    ] {
        assert_eq!(kind(pack(&yard.dir, path, Vec::new())), refused, "{path}");
    }
}

#[test]
fn names_of_pax_and_gnu_are_the_entrys_names() {
    let yard = Yard::new();
    let long = "n".repeat(200);
    let archive = Forge::default()
        .pax(b'g', &[("comment", b"as git writes it")])
        .pax(b'x', &[("path", b"with\nbreak"), ("size", b"5"), ("uid", b"77")])
        .raw(&Forge::header(b'0', b"short", b"", 0o644, 0), b"12345")
        .entry(b'L', "././@LongLink", "", 0, format!("{long}\0").as_bytes())
        .file("cut", "long")
        .file("old-directory/", "")
        .end();
    if cfg!(windows) {
        // A line break is in no name there.
        assert_eq!(kind(yard.unpack(&archive)), ErrorKind::Invalid);
        return;
    }
    yard.unpack(&archive).unwrap();
    assert_eq!(std::fs::read(yard.inside("with\nbreak")).unwrap(), b"12345");
    assert_eq!(std::fs::read(yard.inside(&long)).unwrap(), b"long");
    assert!(yard.inside("old-directory").is_dir());
    assert_eq!(names(&yard.inside("")).len(), 3);
}

#[test]
fn a_file_that_grows_or_shrinks_has_the_size_it_was_said_to_have() {
    for (content, left, expected) in
        [(&b"12345"[..], 3, &b"123"[..]), (b"12", 5, b"12\0\0\0"), (b"123", 3, b"123"), (b"", 0, b"")]
    {
        let mut read = Vec::new();
        Exactly { from: content, left }.read_to_end(&mut read).unwrap();
        assert_eq!(read, expected);
    }
}

/// A writer that, after the first header, changes the file that is being packed.
struct Meddler<'a> {
    yard: &'a Yard,
    size: u64,
    out: Vec<u8>,
}

impl std::io::Write for Meddler<'_> {
    fn write(&mut self, from: &[u8]) -> std::io::Result<usize> {
        if self.out.is_empty() {
            let file = std::fs::OpenOptions::new().write(true).open(self.yard.inside("top/b")).unwrap();
            file.set_len(self.size).unwrap();
        }
        self.out.extend_from_slice(from);
        Ok(from.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn an_archive_stays_whole_when_its_file_changes() {
    for size in [0, 700, 100_000] {
        let yard = Yard::new();
        std::fs::create_dir(yard.inside("top")).unwrap();
        std::fs::write(yard.inside("top/b"), "x".repeat(3000)).unwrap();
        std::fs::write(yard.inside("top/c"), "after").unwrap();
        // The file alone, whose header is the first write, and so already says 3000.
        let mut out = Meddler { yard: &yard, size, out: Vec::new() };
        pack(&yard.dir, "top/b", &mut out).unwrap();
        let other = Yard::new();
        other.unpack(&out.out).unwrap();
        let content = std::fs::read(other.inside("b")).unwrap();
        let kept = usize::try_from(size).unwrap().min(3000);
        assert_eq!(content.len(), 3000);
        assert_eq!(content[..kept], vec![b'x'; kept]);
        assert!(content[kept..].iter().all(|byte| *byte == 0));
    }
}

// Pipes and sockets in the file system, and links, are POSIX.
#[cfg(unix)]
#[test]
fn special_files_are_left_out_without_waiting_for_them() {
    use std::os::unix::fs::symlink;
    let yard = Yard::new();
    std::fs::create_dir(yard.inside("top")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        yard.inside("top/pipe"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(yard.inside("top/socket")).unwrap();
    symlink("/etc/passwd", yard.inside("top/out")).unwrap();
    std::fs::write(yard.inside("top/x"), "x").unwrap();
    // The look at the directory leaves the pipe out; the open alone must not wait for it either.
    assert_eq!(listing(&packed(&yard, "top")), ["top/", "top/out", "top/x"]);
    let top = yard.dir.open_dir("top").unwrap();
    assert!(super::super::beneath::open_file(&top, "pipe".as_ref()).unwrap().is_none());
    assert!(super::super::beneath::open_file(&top, "out".as_ref()).unwrap().is_none());
    // The link is packed, and not what it leads to; it is not followed on the way to something either.
    assert!(packed(&yard, "top/out").len() < 3 * 1024);
    symlink("/etc", yard.inside("etc")).unwrap();
    assert_eq!(kind(pack(&yard.dir, "etc/passwd", Vec::new())), ErrorKind::Invalid);
    // Within the directory a caller's path may lead over a link.
    symlink("top", yard.inside("current")).unwrap();
    assert_eq!(listing(&packed(&yard, "current/x")), ["x"]);
}

#[test]
fn a_file_is_placed_whole_and_leaves_nothing_beside_it() {
    let yard = Yard::new();
    place_file(&yard.dir, "/etc/app/config", b"one", FileMode::PUBLIC, Owner::default()).unwrap();
    place_file(&yard.dir, "etc/app/config", b"two", FileMode::PUBLIC, Owner::default()).unwrap();
    assert_eq!(std::fs::read(yard.inside("etc/app/config")).unwrap(), b"two");
    assert_eq!(names(&yard.inside("etc/app")), ["config"]);
    for path in ["../out/x", "", "/", "etc/app", "etc/app/config/x"] {
        let placed = place_file(&yard.dir, path, b"x", FileMode::PUBLIC, Owner::default());
        assert_eq!(kind(placed), ErrorKind::Invalid, "{path}");
    }
    assert_eq!(names(&yard.inside("etc")), ["app"]);
    assert_eq!(names(&yard.inside("")), ["etc"]);
    yard.assert_untouched("placed");
}

// Permission bits, owners and links are POSIX.
#[cfg(unix)]
#[test]
fn a_placed_file_has_its_mode_and_owner_and_follows_no_link() {
    use std::os::unix::fs::{MetadataExt as _, symlink};
    let root = rustix::process::geteuid().is_root();
    let owner = if root { Owner::of(4321, 8765) } else { Owner::default() };
    let yard = Yard::new();
    symlink(yard.outside().join("canary"), yard.inside("link")).unwrap();
    symlink(yard.outside(), yard.inside("dir")).unwrap();
    for (name, mode) in [("a/secret", 0o400), ("a/public", 0o644), ("link", 0o600), ("a/none", 0)] {
        place_file(&yard.dir, name, b"x", FileMode::new(mode).unwrap(), owner).unwrap();
        let metadata = yard.inside(name).symlink_metadata().unwrap();
        assert!(metadata.is_file());
        assert_eq!(metadata.mode() & 0o7777, u32::from(mode), "{name}");
        if root {
            assert_eq!((metadata.uid(), metadata.gid()), (4321, 8765), "{name}");
        }
    }
    if !root {
        println!("skipped: only root gives files away");
    }
    assert_eq!(yard.inside("a").metadata().unwrap().mode() & 0o7777, 0o755);
    assert_eq!(kind(place_file(&yard.dir, "dir/x", b"x", FileMode::PUBLIC, owner)), ErrorKind::Invalid);
    yard.assert_untouched("placed over links");
}

#[test]
fn the_suites_own_archives_are_read() {
    use crate::testkit::tar::{Entry, write};
    let yard = Yard::new();
    let archive = write(&[Entry::file("a/b", "x"), Entry::file("empty", "")]);
    unpack(&yard.dir, archive.as_slice(), &Limits::default(), Owner::default()).unwrap();
    let back = crate::testkit::tar::read(&packed(&yard, "a/b")).unwrap();
    assert_eq!(back, [Entry::file("b", "x")]);
}
