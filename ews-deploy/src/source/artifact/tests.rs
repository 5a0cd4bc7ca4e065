//! Tests of uploads as a whole: what is hostile, what is detected, and that one content gives one layer.

mod hostile_tar;
mod hostile_zip;
mod layers;
pub(in crate::source) mod made;

use ews_core::Result;

use super::*;
use made::Yard;

#[tokio::test]
async fn what_an_upload_is_its_content_says() {
    let yard = Yard::new();
    let tar = made::tar(&[made::file("index.html", b"hi")]);
    let war = made::zip(&[made::entry("WEB-INF/web.xml", b"<x/>"), made::entry("META-INF/MANIFEST.MF", b"")]);
    let jar = made::zip(&[made::entry("META-INF/MANIFEST.MF", b"M"), made::entry("A.class", b"c")]);
    let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
    elf.resize(18, 0);
    elf.extend([183, 0, 0, 0]);
    let mut pe = b"MZ".to_vec();
    pe.resize(0x3c, 0);
    pe.extend([0x80, 0, 0, 0]);
    pe.resize(0x80, 0);
    pe.extend(b"PE\0\0\x64\x86");
    for (bytes, content) in [
        (tar.clone(), Content::Tar),
        (made::gzip(&tar), Content::TarGz),
        (made::zip(&[made::entry("a", b"a")]), Content::Zip),
        (war, Content::War),
        (jar, Content::Jar),
        (elf, Content::Program { platform: Some((ews_core::Os::Linux, ews_core::Arch::Arm64)) }),
        (pe, Content::Program { platform: Some((ews_core::Os::Windows, ews_core::Arch::Amd64)) }),
        (b"#!/bin/sh\n".to_vec(), Content::Program { platform: None }),
    ] {
        assert_eq!(yard.receive(bytes).await.unwrap().content(), content);
    }
    for (bytes, fault) in [
        (&b""[..], "empty"),
        (b"hello", "nothing that can be told"),
        (b"\xfd7zXZ\0\0", "xz"),
        (b"MZ", "nothing that can be told"),
        (&made::gzip(b"no archive"), "no tar archive"),
        (b"PK\x03\x04", "no directory at its end"),
    ] {
        let error = yard.receive(bytes.to_vec()).await.unwrap_err();
        assert!(error.message().contains(fault), "{error}");
    }
    assert_eq!(yard.scratch.used(), 0);
}

#[tokio::test]
async fn another_digest_and_too_many_bytes_are_refused() {
    let mut yard = Yard::new();
    let bytes = made::tar(&[made::file("a", b"a")]);
    let digest = Digest::of(&bytes);
    let (stream, other) = (made::stream(bytes.clone()), made::stream(bytes.clone()));
    let received = receive(stream, Some(digest), &yard.limits, &yard.scratch).await.unwrap();
    assert_eq!((received.digest(), received.size()), (digest, bytes.len() as u64));
    let error = receive(other, Some(Digest::of(b"x")), &yard.limits, &yard.scratch).await.unwrap_err();
    assert!(error.message().contains("was announced"), "{error}");
    yard.limits.packed = bytes.len() as u64 - 1;
    let error = yard.receive(bytes).await.unwrap_err();
    assert_eq!(error.kind(), ews_core::ErrorKind::OutOfResources);
    assert!(error.message().contains("`packed`"), "{error}");
}

#[cfg(unix)]
#[tokio::test]
async fn a_directory_is_the_same_as_its_archive() {
    let yard = Yard::new();
    let top = tempfile::tempdir().unwrap();
    std::fs::create_dir(top.path().join("bin")).unwrap();
    std::fs::write(top.path().join("bin/run"), "#!").unwrap();
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    std::fs::set_permissions(top.path().join("bin/run"), executable).unwrap();
    std::os::unix::fs::symlink("bin/run", top.path().join("start")).unwrap();
    let directory = receive_path(top.path(), &yard.limits, &yard.scratch).await.unwrap();
    assert_eq!(directory.content(), Content::Directory);
    let mut run = made::file("bin/run", b"#!");
    run.mode = 0o755;
    let archive = yard.receive(made::tar(&[made::link("start", "bin/run"), run])).await.unwrap();
    assert_eq!(yard.layer(&directory, false).unwrap().diff_id, yard.layer(&archive, false).unwrap().diff_id);

    std::os::unix::fs::symlink("/etc/passwd", top.path().join("out")).unwrap();
    let error = receive_path(top.path(), &yard.limits, &yard.scratch).await.unwrap_err();
    assert!(error.message().contains("absolute"), "{error}");
}

fn names(tree: Result<Tree>) -> Vec<String> {
    tree.unwrap().nodes().map(|(name, _)| name.to_owned()).collect()
}

#[tokio::test]
async fn a_part_of_an_upload_can_be_the_whole_of_it() {
    let yard = Yard::new();
    let entries = [made::file("dist/a/b", b"1"), made::link("dist/a/l", "b"), made::file("other", b"2")];
    let tree =
        yard.receive(made::tar(&entries)).await.unwrap().tree(&yard.limits, false, &yard.scratch).unwrap();
    assert_eq!(names(tree.clone().below("dist", &yard.limits)), ["a", "a/b", "a/l"]);
    assert_eq!(names(tree.clone().below("./dist/a/", &yard.limits)), ["b", "l"]);
    let error = tree.clone().below("build", &yard.limits).unwrap_err();
    assert!(error.message().contains("at its top are: dist, other"), "{error}");
    assert!(tree.below("../x", &yard.limits).is_err());
    // A link that leads out of the part, and stays within the whole.
    let entries = [made::link("dist/l", "../other"), made::file("other", b"2")];
    let tree =
        yard.receive(made::tar(&entries)).await.unwrap().tree(&yard.limits, false, &yard.scratch).unwrap();
    assert!(tree.below("dist", &yard.limits).unwrap_err().message().contains("leads out"));
}
