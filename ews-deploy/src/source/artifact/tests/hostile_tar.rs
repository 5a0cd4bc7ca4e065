//! Tar archives that want more than to be unpacked.

use ews_core::ErrorKind;
use tar::EntryType;

use super::made::{self, Yard, file, item, link};

#[tokio::test]
async fn what_a_tar_archive_must_not_hold() {
    let yard = Yard::new();
    for (items, fault) in [
        (vec![file("../x", b"")], "leads out"),
        (vec![file("a/../../x", b"")], "leads out"),
        (vec![file("/etc/passwd", b"")], "absolute"),
        (vec![file("a\\b", b"")], "backslash"),
        (vec![item(EntryType::Regular, b"caf\xe9", b"", b"")], "not UTF-8"),
        (vec![file("app/.wh.config", b"")], "deletes a file of the base"),
        (vec![link("l", "/etc")], "absolute"),
        (vec![link("a/l", "../../x")], "leads out"),
        // The classic: a link, then a file through it. In either order.
        (
            vec![link("l", "d"), file("d/x", b""), file("l/passwd", b"")],
            "below `l`, which is a symbolic link",
        ),
        (vec![file("l/passwd", b""), link("l", "d")], "below `l`, which is a symbolic link"),
        (vec![file("f", b""), file("f/x", b"")], "below `f`, which is a file"),
        (vec![file("a", b"1"), file("a", b"2")], "comes twice"),
        (vec![file("a", b"1"), file("./a", b"2")], "comes twice"),
        (vec![file("a", b"1"), link("a", "b")], "comes twice"),
        (vec![item(EntryType::Link, b"h", b"../x", b"")], "leads out"),
        (vec![item(EntryType::Link, b"h", b"x", b"")], "did not come before"),
        (vec![link("l", "d"), item(EntryType::Link, b"h", b"l", b"")], "no file"),
        (vec![item(EntryType::Char, b"null", b"", b"")], "device"),
        (vec![item(EntryType::Block, b"sda", b"", b"")], "device"),
        (vec![item(EntryType::Fifo, b"pipe", b"", b"")], "pipe"),
        (vec![item(EntryType::GNUSparse, b"s", b"", b"")], "sparse"),
    ] {
        for packed in [made::tar(&items), made::gzip(&made::tar(&items))] {
            let error = yard.refusal(packed, false).await;
            assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
            assert!(error.message().contains(fault), "{fault}: {error}");
        }
    }
    assert_eq!(yard.scratch.used(), 0);
}

#[tokio::test]
async fn what_does_not_work_on_windows_is_refused_there_only() {
    let yard = Yard::new();
    for (items, fault) in [
        (vec![file("Readme", b""), file("README", b"")], "one name on Windows"),
        (vec![file("a/x", b""), file("A/y", b"")], "one name on Windows"),
        (vec![file("aux.js", b"")], "a device on Windows"),
        (vec![file("a:b", b"")], "streams on Windows"),
        (vec![file("x.", b"")], "takes off a dot"),
        (vec![file("d/x", b""), link("l", "d")], "links need rights"),
    ] {
        let error = yard.refusal(made::tar(&items), true).await;
        assert!(error.message().contains(fault), "{fault}: {error}");
        let good = yard.receive(made::tar(&items)).await.unwrap();
        good.tree(&yard.limits, false, &yard.scratch).unwrap();
    }
}

#[tokio::test]
async fn limits_hold_and_are_named() {
    let mut yard = Yard::new();
    yard.limits = yard.limits.with_unpacked(1000).with_entries(4).with_depth(3);
    for (items, limit) in [
        (vec![file("a", &[1; 600]), file("b", &[2; 401])], "unpacked"),
        // The same bytes again by a hard link.
        (vec![file("a", &[1; 600]), item(EntryType::Link, b"b", b"a", b"")], "unpacked"),
        (vec![file("a/b/c", b""), file("d", b""), file("e", b"")], "entries"),
        // A directory that comes again and again makes nothing, and takes time.
        (vec![item(EntryType::Directory, b"d/", b"", b""); 5], "entries"),
    ] {
        let error = yard.refusal(made::tar(&items), false).await;
        assert_eq!(error.kind(), ErrorKind::OutOfResources, "{error}");
        assert!(error.message().contains(&format!("`{limit}`")), "{limit}: {error}");
    }
    let error = yard.refusal(made::tar(&[file("a/b/c/d", b"")]), false).await;
    assert!(error.message().contains("4 directories"), "{error}");
    let exact = [file("a", &[1; 600]), file("b", &[2; 400])];
    yard.receive(made::tar(&exact)).await.unwrap().tree(&yard.limits, false, &yard.scratch).unwrap();
}

#[tokio::test]
async fn a_bomb_is_stopped_by_its_ratio() {
    let yard = Yard::new();
    let bomb = made::gzip(&made::tar(&[file("zeros", &vec![0; 20 << 20])]));
    assert!(bomb.len() < 100_000);
    let error = yard.refusal(bomb, false).await;
    assert!(error.message().contains("`ratio`"), "{error}");
    // Up to 16 MiB the ratio does not matter.
    let small = made::gzip(&made::tar(&[file("zeros", &vec![0; 16 << 20])]));
    yard.receive(small).await.unwrap().tree(&yard.limits, false, &yard.scratch).unwrap();
    assert_eq!(yard.scratch.used(), 0);
}

#[tokio::test]
async fn what_is_cut_off_or_goes_on_is_refused() {
    let yard = Yard::new();
    let good = made::tar(&[file("a", &[1; 2000]), file("b", b"b")]);
    let packed = made::gzip(&good);
    for (bytes, what) in [
        (good[..512 + 2048].to_vec(), "between two entries"),
        (good[..700].to_vec(), "in the middle of one"),
        (packed[..packed.len() - 4].to_vec(), "gzip's own sum"),
        ([packed.as_slice(), b"junk"].concat(), "something behind gzip"),
        ([good.as_slice(), &vec![0; 2 << 20]].concat(), "much behind the end"),
    ] {
        let error = yard.refusal(bytes, false).await;
        assert_eq!(error.kind(), ErrorKind::Invalid, "{what}: {error}");
    }
}
