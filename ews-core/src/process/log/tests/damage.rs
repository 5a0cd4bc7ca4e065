//! Writers killed at any byte and files damaged at any byte.

use proptest::prelude::*;

use super::super::format::{self, Parsed, Place};
use super::*;

/// A log of these segments.
fn log_of(segments: &[Vec<u8>]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (number, bytes) in (1..).zip(segments) {
        std::fs::write(segment::path(dir.path(), number), bytes).unwrap();
    }
    dir
}

/// Two segments with all kinds of records, and the lines that each holds.
fn sample() -> (Vec<Vec<u8>>, Vec<Vec<LogLine>>) {
    let lines = [
        line(OUT, 1, "one", false),
        line(ERR, 2, "", false),
        line(OUT, 3, "three", true),
        line(OUT, 4, "four", false),
        line(ERR, 5, "five\r", false),
        line(OUT, 6, "", true),
    ];
    let dir = tempfile::tempdir().unwrap();
    write_all(dir.path(), &limits(90, 9), &lines);
    let segments: Vec<Vec<u8>> = [1, 2].map(|n| std::fs::read(segment::path(dir.path(), n)).unwrap()).into();
    assert_eq!(sizes(dir.path()).len(), 2);
    (segments, vec![lines[..3].to_vec(), lines[3..].to_vec()])
}

/// Where each of these lines' records ends in its segment.
fn ends(lines: &[LogLine]) -> Vec<usize> {
    let sizes = lines.iter().map(|line| format::size(line.bytes.len()));
    sizes
        .scan(0, |end, size| {
            *end += size;
            Some(*end)
        })
        .collect()
}

fn is_in_order(some: &[LogLine], all: &[LogLine]) -> bool {
    let mut all = all.iter();
    some.iter().all(|line| all.any(|other| other == line))
}

#[test]
fn a_writer_killed_at_any_byte_loses_its_last_record_only() {
    let (segments, lines) = sample();
    let ends = ends(&lines[1]);
    for length in 0..=segments[1].len() {
        let dir = log_of(&[segments[0].clone(), segments[1][..length].to_vec()]);
        let whole = ends.iter().filter(|end| **end <= length).count();
        let mut expected = [&lines[0][..], &lines[1][..whole]].concat();
        assert_eq!(read_all(dir.path()), expected, "cut at {length}");
        let tail = read(dir.path(), &LogOptions::tail(2));
        assert_eq!(tail, expected[expected.len() - 2..], "cut at {length}");
        // One that followed it goes on with what the next writer writes.
        let mut follower = LogReader::open(dir.path().to_owned(), &LogOptions::follow()).unwrap();
        assert_eq!(drain(&mut follower), expected, "cut at {length}");
        let last = numbered(7);
        write_all(dir.path(), &roomy(), std::slice::from_ref(&last));
        expected.push(last.clone());
        assert_eq!(drain(&mut follower), [last], "cut at {length}");
        assert_eq!(read_all(dir.path()), expected, "cut at {length}");
        assert_eq!(sizes(dir.path()).len(), 2, "the segment is gone on with, cut at {length}");
    }
}

#[test]
fn damage_at_any_byte_costs_the_rest_of_its_segment_and_gives_no_other_lines() {
    let (segments, lines) = sample();
    let all = lines.concat();
    for (index, bytes) in segments.iter().enumerate() {
        for at in 0..bytes.len() {
            for flip in [1, 2, 4, 8, 16, 32, 64, 128, 255] {
                let mut damaged = segments.clone();
                damaged[index][at] ^= flip;
                let dir = log_of(&damaged);
                let whole = ends(&lines[index]).iter().filter(|end| **end <= at).count();
                let mut left = lines.clone();
                left[index].truncate(whole);
                let context = format!("byte {at} of segment {} with {flip} flipped", index + 1);
                assert_eq!(read_all(dir.path()), left.concat(), "{context}");
                for wanted in [0, 1, 3, 100] {
                    let tail = read(dir.path(), &LogOptions::tail(wanted));
                    assert!(tail.len() <= wanted && is_in_order(&tail, &all), "{context}: {tail:?}");
                    assert!(tail.len() >= wanted.min(whole), "{context}: {tail:?}");
                }
                // What is written next is read, wherever the damage is.
                let last = numbered(7);
                write_all(dir.path(), &roomy(), std::slice::from_ref(&last));
                assert_eq!(read_all(dir.path()), [left.concat(), vec![last]].concat(), "{context}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_anywhere_give_no_lines_that_were_not_written(
        index in 0_usize..2,
        from in 0_usize..100,
        removed in 0_usize..100,
        put in prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..200),
            (0_usize..400_000).prop_map(|length| vec![0; length]),
        ],
        wanted in 0_usize..9,
    ) {
        let (mut segments, lines) = sample();
        let bytes = &mut segments[index];
        let from = from.min(bytes.len());
        let to = (from + removed).min(bytes.len());
        bytes.splice(from..to, put);
        let dir = log_of(&segments);
        let all = lines.concat();
        for options in [LogOptions::default(), LogOptions::tail(wanted)] {
            let found = read(dir.path(), &options);
            prop_assert!(is_in_order(&found, &all), "{:?}", found);
        }
        let last = numbered(7);
        write_all(dir.path(), &roomy(), std::slice::from_ref(&last));
        prop_assert_eq!(read_all(dir.path()).pop(), Some(last));
    }
}

#[test]
fn a_damaged_segment_is_left_as_it_is_and_a_new_one_begun() {
    let (mut segments, lines) = sample();
    segments[1][30] ^= 1;
    let dir = log_of(&segments);
    write_all(dir.path(), &roomy(), &[numbered(7)]);
    assert_eq!(std::fs::read(segment::path(dir.path(), 2)).unwrap(), segments[1]);
    assert_eq!(read_all(dir.path()), [&lines[0][..], &lines[1][..1], &[numbered(7)]].concat());
}

#[test]
fn a_program_that_prints_its_own_log_forges_nothing() {
    let (segments, lines) = sample();
    for segment in &segments {
        let dir = log_of(&segments[..1]);
        let printed = line(OUT, 9, segment, true);
        write_all(dir.path(), &roomy(), &[printed]);
        // The writer was killed just when what it wrote ends like a record.
        let path = segment::path(dir.path(), 1);
        let bytes = std::fs::read(&path).unwrap();
        let begin = segments[0].len() + 20;
        for end in ends(&lines[0]).into_iter().chain(ends(&lines[1])) {
            std::fs::write(&path, &bytes[..begin + end]).unwrap();
            assert_eq!(read(dir.path(), &LogOptions::tail(1)), lines[0][2..]);
            assert_eq!(read_all(dir.path()), lines[0]);
        }
    }
}

#[test]
fn a_record_counts_only_where_it_was_written() {
    let place = Place { segment: 3, offset: 70 };
    let mut bytes = Vec::new();
    format::append(&mut bytes, place, OUT, at(1), false, b"text");
    assert!(matches!(format::parse(&bytes, place), Parsed::Whole(_)));
    for other in [Place { segment: 4, ..place }, Place { offset: 71, ..place }] {
        assert_eq!(format::parse(&bytes, other), Parsed::Damaged);
    }
}

#[test]
fn a_length_that_no_record_has_is_refused_before_anything_is_read() {
    let place = Place { segment: 1, offset: 0 };
    let mut bytes = Vec::new();
    format::append(&mut bytes, place, OUT, at(1), false, b"text");
    for length in [65_537_u32, 0x7FFF_FFFF, u32::MAX] {
        let mut wrong = bytes.clone();
        wrong[6..10].copy_from_slice(&length.to_le_bytes());
        assert_eq!(format::parse(&wrong, place), Parsed::Damaged);
        assert_eq!(format::size_by_trailer(&length.to_le_bytes()), None);
    }
}
