//! Directories, archives and programs of this machine.

use std::io::Write as _;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;

use super::super::{Limits, Owner, Placed, place_artifact};
use super::{Forge, Yard, kind, names};
use crate::error::{ErrorKind, Result};
use crate::spec::source::{ArtifactSource, Digest};

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn place(yard: &Yard, path: &Path, digest: Option<Digest>, limits: &Limits) -> Result<Placed> {
    let mut source = ArtifactSource::new(path.to_str().unwrap());
    source.digest = digest;
    place_artifact(&source, &yard.dir, limits, Owner::default())
}

/// Places a file of this name and content.
fn file(name: &str, content: &[u8], digest: Option<Digest>) -> (Yard, Result<Placed>) {
    let (yard, source) = (Yard::new(), tempfile::tempdir().unwrap());
    let path = source.path().join(name);
    std::fs::write(&path, content).unwrap();
    let placed = place(&yard, &path, digest, &Limits::default());
    (yard, placed)
}

fn archive() -> Vec<u8> {
    Forge::default().file("bin/run", "#!/bin/sh\n").end()
}

#[test]
fn archives_are_told_by_content_and_unpacked() {
    let tar = archive();
    let zipped = gzip(&tar);
    for (name, content) in [
        ("a.tar", &tar),
        ("a.tar.gz", &zipped),
        ("a.tgz", &zipped),
        ("no-ending", &tar),
        ("no-ending", &zipped),
        ("wrong.tar", &zipped),
        ("wrong.tgz", &tar),
    ] {
        let (yard, placed) = file(name, content, None);
        assert_eq!(placed.unwrap(), Placed::Content, "{name}");
        assert_eq!(std::fs::read(yard.inside("bin/run")).unwrap(), b"#!/bin/sh\n");
    }
}

#[test]
fn a_digest_covers_every_byte_of_the_file() {
    let tar = archive();
    let (front, back) = tar.split_at(700);
    let members = [gzip(front), gzip(back)].concat();
    let trailing = [tar.as_slice(), &[7; 100_000]].concat();
    for (name, content) in
        [("a.tar", &tar), ("a.tgz", &gzip(&tar)), ("a.tgz", &members), ("a.tar", &trailing)]
    {
        let (yard, placed) = file(name, content, Some(Digest::of(content)));
        assert_eq!(placed.unwrap(), Placed::Content, "{name}");
        assert!(yard.inside("bin/run").exists());
        // One byte more, and the last one changed: both lie behind the archive's end.
        let mut changed = content.clone();
        *changed.last_mut().unwrap() ^= 1;
        for other in [&[content.as_slice(), b"\0"].concat(), &changed] {
            let (_, placed) = file(name, other, Some(Digest::of(content)));
            let error = placed.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid);
            assert!(error.maybe_applied());
            let (expected, found) = (Digest::of(content).to_string(), Digest::of(other).to_string());
            assert!(error.message().contains(&expected) && error.message().contains(&found), "{error}");
        }
    }
}

#[test]
fn a_damaged_archive_with_a_digest_is_called_another_one() {
    let right = archive();
    let mut wrong = right.clone();
    wrong[600] = 1;
    wrong[0] ^= 1;
    let (_, placed) = file("a.tar", &wrong, Some(Digest::of(&right)));
    assert!(placed.unwrap_err().message().contains("digest"));
    let (_, placed) = file("a.tar", &wrong, Some(Digest::of(&wrong)));
    assert!(placed.unwrap_err().message().contains("checksum"));
}

#[test]
fn damaged_gzip_is_refused_even_behind_the_archives_end() {
    let zipped = gzip(&archive());
    for (what, content) in [
        ("cut in its sum", zipped[..zipped.len() - 4].to_vec()),
        ("cut in the middle", zipped[..zipped.len() / 2].to_vec()),
        ("followed by garbage", [zipped.as_slice(), b"garbage, and more of it"].concat()),
        ("a wrong sum", {
            let mut wrong = zipped.clone();
            let at = wrong.len() - 8;
            wrong[at] ^= 1;
            wrong
        }),
    ] {
        let (_, placed) = file("a.tgz", &content, None);
        assert_eq!(kind(placed), ErrorKind::Invalid, "{what}");
    }
}

#[test]
fn a_bomb_ends_at_the_limit() {
    let limits = Limits { bytes: 1 << 20, ..Limits::default() };
    let zeros = vec![0; 4 << 20];
    let header = Forge::header(b'0', b"zeros", b"", 0o644, 4 << 20);
    let inside = Forge::default().raw(&header, &zeros).end();
    for bomb in [gzip(&zeros), gzip(&inside)] {
        let (yard, source) = (Yard::new(), tempfile::tempdir().unwrap());
        let path = source.path().join("bomb.tgz");
        std::fs::write(&path, &bomb).unwrap();
        assert!(bomb.len() < 1 << 16);
        assert_eq!(kind(place(&yard, &path, None, &limits)), ErrorKind::OutOfResources);
        assert!(names(&yard.inside("")).is_empty());
    }
}

#[test]
fn a_program_stays_where_it_is() {
    let (yard, source) = (Yard::new(), tempfile::tempdir().unwrap());
    let path = source.path().join("program");
    std::fs::write(&path, "#!/bin/sh\n").unwrap();
    let digest = Digest::of(b"#!/bin/sh\n");
    for digest in [None, Some(digest)] {
        let placed = place(&yard, &path, digest, &Limits::default()).unwrap();
        let Placed::Program(program) = placed else { panic!("{placed:?}") };
        assert!(program.is_absolute());
        assert_eq!(program, path);
    }
    let error = place(&yard, &path, Some(Digest::of(b"other")), &Limits::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.message().contains(&digest.to_string()) && !error.maybe_applied(), "{error}");
    assert!(names(&yard.inside("")).is_empty());
}

#[test]
fn what_can_not_be_placed_says_what_can() {
    for (name, content, refused) in [
        ("a.zip", &b"PK\x03\x04rest"[..], ErrorKind::Unsupported),
        ("a.tar.xz", b"\xfd7zXZ\0rest", ErrorKind::Unsupported),
        ("a.tar.zst", b"\x28\xb5\x2f\xfdrest", ErrorKind::Unsupported),
        ("a.tgz", b"neither", ErrorKind::Invalid),
    ] {
        let (_, placed) = file(name, content, None);
        let error = placed.unwrap_err();
        assert_eq!(error.kind(), refused, "{name}");
        assert!(error.message().contains(".tar.gz"), "{error}");
    }
    let (_, placed) = file("a.tar", b"neither", None);
    assert_eq!(kind(placed), ErrorKind::Invalid);

    let yard = Yard::new();
    for location in ["http://user:hunter2@h/x", "https://h/x", "ftp://h/x"] {
        let error = place(&yard, Path::new(location), None, &Limits::default()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(
            error.message().contains("on this machine") && !error.to_string().contains("hunter2"),
            "{error}"
        );
    }
    let error = place(&yard, &yard.inside("no-such-thing"), None, &Limits::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("no-such-thing"), "{error}");
    assert_eq!(kind(place(&yard, Path::new(""), None, &Limits::default())), ErrorKind::Invalid);
    let digest = Some(Digest::of(b""));
    assert_eq!(kind(place(&yard, &yard.outside(), digest, &Limits::default())), ErrorKind::Invalid);
}

fn tree() -> tempfile::TempDir {
    let source = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(source.path().join("bin/empty")).unwrap();
    std::fs::write(source.path().join("bin/run"), "12345").unwrap();
    std::fs::write(source.path().join("data"), "67890").unwrap();
    source
}

#[test]
fn a_directory_is_copied_within_the_limits() {
    let source = tree();
    for (bytes, entries, good) in [(10, 4, true), (9, 4, false), (10, 3, false)] {
        let yard = Yard::new();
        let limits = Limits { bytes, entries, ..Limits::default() };
        let placed = place(&yard, source.path(), None, &limits);
        if good {
            assert_eq!(placed.unwrap(), Placed::Content);
            assert_eq!(std::fs::read(yard.inside("bin/run")).unwrap(), b"12345");
            assert_eq!(names(&yard.inside("bin")), ["empty", "run"]);
        } else {
            let error = placed.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::OutOfResources, "{error}");
        }
    }
}

#[test]
fn a_directory_is_not_copied_into_itself() {
    let yard = Yard::new();
    std::fs::create_dir_all(yard.inside("deep/er")).unwrap();
    std::fs::write(yard.inside("deep/x"), "x").unwrap();
    for path in [yard.inside(""), yard.inside("deep/er"), yard.inside("../in"), yard.top.path().to_owned()] {
        let error = place(&yard, &path, None, &Limits::default()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{path:?}");
        assert!(!error.maybe_applied());
    }
    assert_eq!(names(&yard.inside("")), ["deep"]);
}

// Permission bits, links and pipes in the file system are POSIX.
#[cfg(unix)]
#[test]
fn a_copy_keeps_modes_and_links_within_and_nothing_special() {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
    let source = tree();
    let at = |name: &str| source.path().join(name);
    std::fs::set_permissions(at("bin/run"), std::fs::Permissions::from_mode(0o4755)).unwrap();
    std::fs::set_permissions(at("bin"), std::fs::Permissions::from_mode(0o2750)).unwrap();
    symlink("../data", at("bin/link")).unwrap();
    let yard = Yard::new();
    place(&yard, source.path(), None, &Limits::default()).unwrap();
    assert_eq!(yard.inside("bin/run").metadata().unwrap().mode() & 0o7777, 0o755);
    assert_eq!(yard.inside("bin").metadata().unwrap().mode() & 0o7777, 0o750);
    assert_eq!(std::fs::read_link(yard.inside("bin/link")).unwrap().to_str(), Some("../data"));

    for target in ["../..", "/etc/passwd"] {
        let source = tree();
        symlink(target, source.path().join("bin/out")).unwrap();
        assert_eq!(kind(place(&Yard::new(), source.path(), None, &Limits::default())), ErrorKind::Invalid);
    }
    let pipe = at("pipe");
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    assert_eq!(kind(place(&Yard::new(), source.path(), None, &Limits::default())), ErrorKind::Invalid);
    assert_eq!(kind(place(&Yard::new(), &pipe, None, &Limits::default())), ErrorKind::Invalid);
}
