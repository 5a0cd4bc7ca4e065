//! One content, one layer.

use std::io::Read as _;

use proptest::prelude::*;
use tar::EntryType;

use super::super::layer::{self, Placing};
use super::made::{self, Item, Yard, file};

/// Some files and links by name, so that each name comes once, each with what means nothing.
fn items() -> impl Strategy<Value = Vec<Item>> {
    let content = prop::collection::vec(any::<u8>(), 0..300);
    let names = prop::collection::btree_map("[a-c]{1,2}(/[d-f]{1,2}){0,2}", (content, any::<bool>()), 0..8);
    names.prop_map(|names| {
        let mut items = Vec::new();
        for (number, (name, (content, executable))) in names.into_iter().enumerate() {
            // Behind a letter that no directory starts with, so that nothing lies below a file.
            let mut item = file(&format!("{name}.{number}"), &content);
            item.mode = if executable { 0o755 } else { 0o600 };
            items.push(item);
        }
        items.push(made::link("a link", "somewhere/else"));
        items
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Order, times, owners, modes beyond the executable bit, directory entries, and the kind of archive leave no trace.
    #[test]
    fn the_same_content_gives_the_same_layer(
        (first, second) in items().prop_flat_map(|items| (Just(items.clone()), Just(items).prop_shuffle())),
        time: u32, owner in 0_u64..60_000, named_directories: bool,
    ) {
        let rt = tokio::runtime::Builder::new_current_thread().build().unwrap();
        rt.block_on(async {
            let yard = Yard::new();
            let mut second = second;
            for item in &mut second {
                (item.time, item.owner) = (time.into(), owner);
                item.mode |= 0o004;
            }
            if named_directories {
                let mut directories: Vec<String> = Vec::new();
                for item in &second {
                    let name = String::from_utf8(item.name.clone()).unwrap();
                    directories.extend(name.match_indices('/').map(|(end, _)| name[..=end].to_owned()));
                }
                for name in directories {
                    second.push(made::item(EntryType::Directory, name.as_bytes(), b"", b""));
                }
            }
            let one = yard.receive(made::tar(&first)).await.unwrap();
            let two = yard.receive(made::gzip(&made::tar(&second))).await.unwrap();
            let zipped: Vec<_> = second.iter().filter(|item| item.kind != EntryType::Directory).map(|item| {
                let content = if item.kind == EntryType::Symlink { &item.target } else { &item.content };
                let mut entry = made::raw_entry(&item.name, content);
                entry.mode = if item.kind == EntryType::Symlink { 0o120_777 } else { 0o100_000 | item.mode };
                entry
            }).collect();
            let three = yard.receive(made::zip(&zipped)).await.unwrap();
            let layers = [one, two, three].map(|artifact| yard.layer(&artifact, false).unwrap());
            assert_eq!(layers[0].digest, layers[1].digest);
            assert_eq!(layers[0].digest, layers[2].digest);
        });
    }

    /// Other content, other layer.
    #[test]
    fn another_content_gives_another_layer(items in items(), at: prop::sample::Index) {
        let rt = tokio::runtime::Builder::new_current_thread().build().unwrap();
        rt.block_on(async {
            let yard = Yard::new();
            let mut other = items.clone();
            let changed = at.get_mut(&mut other);
            if changed.kind == EntryType::Symlink { changed.target.push(b'x') } else { changed.content.push(b'x') }
            let one = yard.receive(made::tar(&items)).await.unwrap();
            let two = yard.receive(made::tar(&other)).await.unwrap();
            assert_ne!(yard.layer(&one, false).unwrap().digest, yard.layer(&two, false).unwrap().digest);
        });
    }
}

#[tokio::test]
async fn a_layer_reads_back_with_its_owner_time_and_modes() {
    let yard = Yard::new();
    let mut run = file("bin/run", b"#!");
    run.mode = 0o4711;
    let long = format!("{}/x", "d".repeat(90));
    let received =
        yard.receive(made::tar(&[run, file(&long, b"1"), made::link("l", "bin/run")])).await.unwrap();
    for compress in [false, true] {
        let tree = received.tree(&yard.limits, false, &yard.scratch).unwrap();
        let placing = Placing {
            to: "/srv/www".to_owned(),
            os: ews_core::Os::Linux,
            user: 33,
            group: 34,
            modified: layer::TIME,
            compress,
        };
        let made = layer::write(&tree, &placing, &yard.scratch).unwrap();
        let mut bytes = Vec::new();
        made.file.whole().read_to_end(&mut bytes).unwrap();
        assert_eq!(ews_core::Digest::of(&bytes), made.digest);
        if compress {
            let mut plain = Vec::new();
            flate2::read::GzDecoder::new(bytes.as_slice()).read_to_end(&mut plain).unwrap();
            bytes = plain;
        }
        assert_eq!(ews_core::Digest::of(&bytes), made.diff_id);
        let mut archive = tar::Archive::new(bytes.as_slice());
        let mut found = Vec::new();
        for entry in archive.entries().unwrap() {
            let entry = entry.unwrap();
            let header = entry.header();
            assert_eq!(
                (header.uid().unwrap(), header.gid().unwrap(), header.mtime().unwrap()),
                (33, 34, layer::TIME)
            );
            found.push((entry.path().unwrap().to_str().unwrap().to_owned(), header.mode().unwrap()));
        }
        let long = format!("srv/www/{long}");
        let expected: [(&str, u32); 6] = [
            ("srv/www/", 0o755),
            ("srv/www/bin/", 0o755),
            ("srv/www/bin/run", 0o755),
            (&format!("srv/www/{}/", "d".repeat(90)), 0o755),
            (&long, 0o644),
            ("srv/www/l", 0o777),
        ];
        assert_eq!(found, expected.map(|(name, mode)| (name.to_owned(), mode)));
    }
}

#[tokio::test]
async fn a_layer_for_windows_lies_below_files_and_says_whose_it_is() {
    let yard = Yard::new();
    let received = yard.receive(made::tar(&[file("a.dll", b"1")])).await.unwrap();
    let made = yard.layer(&received, true).unwrap();
    let mut archive = tar::Archive::new(made.file.whole());
    let mut found = Vec::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let said = entry
            .pax_extensions()
            .unwrap()
            .is_some_and(|mut all| all.any(|pax| pax.is_ok_and(|pax| pax.key_bytes() == b"MSWINDOWS.rawsd")));
        found.push((entry.path().unwrap().to_str().unwrap().to_owned(), said));
    }
    let expected = [("Files/", false), ("Hives/", false), ("Files/app/", true), ("Files/app/a.dll", true)];
    assert_eq!(found, expected.map(|(name, said)| (name.to_owned(), said)));
}
