//! Lines come out whole and unharmed, however the bytes come in.

use proptest::prelude::*;

use super::super::Lines;

const MOST: usize = 64 * 1024;

type Given = Vec<(Vec<u8>, bool)>;

fn split<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Given {
    let (mut lines, mut given) = (Lines::default(), Vec::new());
    for chunk in chunks {
        lines.feed(chunk, |bytes, partial| given.push((bytes.to_vec(), partial)));
    }
    lines.finish(|bytes, partial| given.push((bytes.to_vec(), partial)));
    given
}

/// What the rules say, slowly and without state.
fn model(bytes: &[u8]) -> Given {
    let mut given = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let end = rest.iter().position(|byte| *byte == b'\n');
        let line = &rest[..end.unwrap_or(rest.len())];
        rest = &rest[end.map_or(rest.len(), |end| end + 1)..];
        let pieces: Vec<&[u8]> = if line.is_empty() { vec![line] } else { line.chunks(MOST).collect() };
        let last = pieces.len() - 1;
        for (index, piece) in pieces.into_iter().enumerate() {
            given.push((piece.to_vec(), index < last || end.is_none()));
        }
    }
    given
}

fn chunks<'a>(mut bytes: &'a [u8], sizes: &[usize]) -> Vec<&'a [u8]> {
    let mut chunks = Vec::new();
    for size in sizes.iter().cycle() {
        if bytes.is_empty() {
            break;
        }
        let (chunk, rest) = bytes.split_at((*size).min(bytes.len()));
        chunks.push(chunk);
        bytes = rest;
    }
    chunks
}

/// Bytes with few and many line ends, and lines about as long as the longest piece and twice that.
fn output() -> impl Strategy<Value = Vec<u8>> {
    let part = prop_oneof![
        6 => proptest::collection::vec(any::<u8>(), 0..40),
        3 => Just(b"\n".to_vec()),
        1 => Just(b"\r\n".to_vec()),
        1 => (MOST - 2..MOST + 3).prop_map(|length| vec![b'x'; length]),
        1 => (2 * MOST - 2..2 * MOST + 3).prop_map(|length| vec![b'y'; length]),
    ];
    proptest::collection::vec(part, 0..12).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_chunks_of_any_bytes_give_the_same_lines(
        bytes in output(),
        sizes in proptest::collection::vec(prop_oneof![1_usize..50, 60_000_usize..70_000], 1..6),
    ) {
        let given = split(chunks(&bytes, &sizes));
        prop_assert!(given == model(&bytes), "other lines, of {} bytes", bytes.len());
        let joined: Vec<u8> = given
            .iter()
            .flat_map(|(line, partial)| line.iter().copied().chain((!partial).then_some(b'\n')))
            .collect();
        prop_assert!(joined == bytes, "joined again it is not what was fed");
    }
}

#[test]
fn a_line_of_just_the_longest_piece_is_whole() {
    let mut bytes = vec![b'x'; MOST];
    assert_eq!(split([&bytes[..]]), [(bytes.clone(), true)], "without an end");
    bytes.push(b'\n');
    for cut in [1, MOST - 1, MOST, MOST + 1] {
        let (a, b) = bytes.split_at(cut);
        assert_eq!(split([a, b]), [(vec![b'x'; MOST], false)], "fed in two at {cut}");
    }
}

#[test]
fn what_is_held_is_bounded() {
    let mut lines = Lines::default();
    for _ in 0..100 {
        lines.feed(&[b'x'; 5000], |_, _| ());
        assert!(lines.capacity() <= MOST, "{} bytes are held", lines.capacity());
    }
}

#[test]
fn a_whole_line_is_given_without_a_copy() {
    let bytes = b"first\nsecond\n";
    let mut at = Vec::new();
    Lines::default().feed(bytes, |line, _| at.push(line.as_ptr()));
    assert_eq!(at, [bytes.as_ptr(), bytes[6..].as_ptr()]);
}
