//! Damaged archives: cut, changed, or never archives. None panics, none writes outside.

use proptest::prelude::*;

use super::super::{Limits, Owner, unpack};
use super::{Forge, Yard, kind};
use crate::error::ErrorKind;

fn sample() -> Vec<u8> {
    let forge = Forge::default().dir("a").file("a/f", "content");
    // A link is what a Windows user may rarely make.
    let forge = if cfg!(unix) { forge.symlink("a/l", "../b") } else { forge };
    forge
        .hard_link("h", "a/f")
        .pax(b'x', &[("path", "a/ü".as_bytes()), ("mtime", b"1.5")])
        .file("x", "y")
        .entry(b'L', "././@LongLink", "", 0o644, b"a/long\0")
        .file("z", "")
        .end()
}

#[test]
fn the_sample_itself_is_good() {
    Yard::new().unpack(&sample()).unwrap();
}

#[test]
fn an_archive_cut_at_any_length_is_refused() {
    let whole = sample();
    // One empty block is an end; GNU tar remarks on it and goes on too.
    let yard = Yard::new();
    for length in 0..whole.len() - 512 {
        assert_eq!(kind(yard.unpack(&whole[..length])), ErrorKind::Invalid, "{length}");
    }
    yard.assert_untouched("a cut archive");
}

#[test]
fn what_is_no_archive_is_refused() {
    for bytes in [&b""[..], b"x", &b"this is no archive".repeat(100), &[0xff; 2048]] {
        assert_eq!(kind(Yard::new().unpack(bytes)), ErrorKind::Invalid);
    }
    let mut wrong = sample();
    wrong[0] ^= 1;
    let error = Yard::new().unpack(&wrong).unwrap_err();
    assert!(error.message().contains("checksum") && !error.maybe_applied(), "{error}");
}

/// A checksum that is right again lets a mutation reach what lies behind it.
fn mend(archive: &mut [u8]) {
    for block in archive.chunks_exact_mut(512) {
        if block.get(257..262) == Some(b"ustar") {
            let mut header = tar::Header::new_old();
            header.as_mut_bytes().copy_from_slice(block);
            header.set_cksum();
            block.copy_from_slice(header.as_bytes());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn mutations_never_panic_and_never_write_outside(
        changes in prop::collection::vec((0..sample().len(), prop_oneof![
            any::<u8>(), Just(b'/'), Just(b'.'), Just(0), Just(b'1'), Just(b'2'), Just(b'x'), Just(b'L')
        ]), 1..12),
        names in prop::collection::vec((0_usize..12, prop_oneof![
            Just("../out/canary"), Just("a/l/../../out/x"), Just("/tmp/x"), Just("a/l/x"), Just("a"), Just("..")
        ]), 0..3),
        mended in any::<bool>(),
    ) {
        let yard = Yard::new();
        let mut archive = sample();
        for (at, byte) in changes {
            archive[at] = byte;
        }
        for (block, name) in names {
            if let Some(field) = archive.get_mut(block * 512..block * 512 + 100) {
                field.fill(0);
                field[..name.len()].copy_from_slice(name.as_bytes());
            }
        }
        if mended {
            mend(&mut archive);
        }
        let limits = Limits { bytes: 1 << 20, entries: 100, ..Limits::default() };
        let _ = unpack(&yard.dir, archive.as_slice(), &limits, Owner::default());
        yard.assert_untouched("a mutation");
    }

    #[test]
    fn noise_never_panics(noise in prop::collection::vec(any::<u8>(), 0..4096)) {
        let yard = Yard::new();
        let _ = yard.unpack(&noise);
        yard.assert_untouched("noise");
    }
}
