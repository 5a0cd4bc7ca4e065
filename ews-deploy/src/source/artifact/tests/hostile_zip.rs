//! Zip archives that two readers would read in two ways, or that hold too much.

use ews_core::ErrorKind;

use super::made::{self, Yard, Zipped, entry, raw_entry};

fn changed(change: impl FnOnce(&mut Zipped)) -> Vec<u8> {
    let mut made = entry("a", b"content");
    change(&mut made);
    made::zip(&[made])
}

#[tokio::test]
async fn what_a_zip_archive_must_not_hold() {
    let yard = Yard::new();
    let mut link = entry("l", b"/etc");
    link.mode = 0o120_777;
    let mut inner = entry("l", b"d");
    inner.mode = 0o120_777;
    let mut device = entry("d", b"");
    device.mode = 0o020_666;
    let mut unicode = entry("a", b"");
    unicode.extra = [&[0x75, 0x70, 6, 0, 1, 0, 0, 0, 0][..], b"b"].concat();
    let mut directory = entry("d/", b"content");
    directory.mode = 0o040_755;
    let good = made::zip(&[entry("a", b"content")]);
    for (bytes, fault) in [
        (made::zip(&[entry("../x", b"")]), "leads out"),
        (made::zip(&[entry("/x", b"")]), "absolute"),
        (made::zip(&[entry("dir\\x", b"")]), "backslash"),
        (made::zip(&[entry("..\\..\\x", b"")]), "backslash"),
        (made::zip(&[entry("C:/x", b"")]), "drive"),
        // Code page 437, as the format has it where no flag says UTF-8.
        (made::zip(&[raw_entry(b"caf\x82", b"")]), "not UTF-8"),
        (made::zip(&[entry("a", b"1"), entry("a", b"2")]), "comes twice"),
        (made::zip(&[link]), "absolute"),
        (made::zip(&[inner, entry("l/x", b"")]), "which is a symbolic link"),
        (made::zip(&[device]), "device"),
        (made::zip(&[unicode]), "two names"),
        (made::zip(&[directory]), "directory and has content"),
        (changed(|made| made.local_name = b"b".to_vec()), "say different things"),
        (changed(|made| made.local_size = 9), "say different things"),
        (changed(|made| made.crc += 1), "checksum"),
        (changed(|made| (made.size, made.local_size) = (9, 9)), "ends before its size"),
        (changed(|made| (made.size, made.local_size) = (3, 3)), "longer than its size"),
        (changed(|made| made.method = 0), "two sizes"),
        ([good.as_slice(), b"more"].concat(), "no directory at its end"),
        (good[..good.len() - 1].to_vec(), "no directory at its end"),
        ([&good[..4], &good].concat(), "not where its end says"),
    ] {
        let error = yard.refusal(bytes, false).await;
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        assert!(error.message().contains(fault), "{fault}: {error}");
    }
    for (bytes, fault) in
        [(changed(|made| made.flags = 1), "encrypted"), (changed(|made| made.method = 93), "method 93")]
    {
        let error = yard.refusal(bytes, false).await;
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(error.message().contains(fault), "{fault}: {error}");
    }
    assert_eq!(yard.scratch.used(), 0);
}

#[tokio::test]
async fn entries_that_share_their_bytes_are_refused() {
    let yard = Yard::new();
    let kernel = entry("a", &vec![0; 100_000]);
    let mut again = kernel.clone();
    (again.name, again.shares) = (b"b".to_vec(), Some(0));
    let error = yard.refusal(made::zip(&[kernel.clone(), again]), false).await;
    assert!(error.message().contains("another entry's too"), "{error}");

    // The better bomb quotes the other headers as its content: it starts in one entry and ends in the next.
    let good = made::zip(&[kernel.clone(), entry("b", b"x")]);
    let start = good.windows(4).rposition(|window| window == 0x0201_4b50_u32.to_le_bytes()).unwrap();
    let mut bomb = good;
    bomb[start + 42] = bomb[start + 42].wrapping_sub(4);
    let error = yard.refusal(bomb, false).await;
    assert!(error.message().contains("another entry's too"), "{error}");
}

#[tokio::test]
async fn a_bomb_is_stopped_before_it_unpacks_and_a_lie_about_sizes_while_it_does() {
    let mut yard = Yard::new();
    let bomb = entry("zeros", &vec![0; 20 << 20]);
    let error = yard.refusal(made::zip(std::slice::from_ref(&bomb)), false).await;
    assert!(error.message().contains("`ratio`"), "{error}");
    let mut liar = bomb;
    (liar.size, liar.local_size) = (100, 100);
    let error = yard.refusal(made::zip(&[liar]), false).await;
    assert!(error.message().contains("longer than its size"), "{error}");
    yard.limits = yard.limits.with_entries(2);
    let error = yard.refusal(made::zip(&[entry("a", b""), entry("b", b""), entry("c", b"")]), false).await;
    assert!(error.message().contains("`entries`"), "{error}");
}

#[tokio::test]
async fn what_zip_programs_write_is_read() {
    let yard = Yard::new();
    let mut stored = entry("stored", b"plain");
    (stored.method, stored.packed) = (0, b"plain".to_vec());
    // Sizes behind the content (bit 3), as written to a pipe.
    let mut streamed = entry("streamed", b"piped");
    (streamed.flags, streamed.local_size) = (8, 0);
    let mut utf8 = entry("é.txt", b"");
    utf8.flags = 0x800;
    let mut script = entry("bin/run", b"#!");
    script.mode = 0o100_755;
    let bytes = made::zip(&[stored, streamed, utf8, script, entry("bin/", b"")]);
    let received = yard.receive(bytes).await.unwrap();
    let tree = received.tree(&yard.limits, false, &yard.scratch);
    assert_eq!(super::names(tree), ["bin", "bin/run", "stored", "streamed", "é.txt"].map(str::to_owned));
}
