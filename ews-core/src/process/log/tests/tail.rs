//! A tail is the last lines of what would be read, whichever way it is cut into segments.

use proptest::prelude::*;

use super::*;

fn lines() -> impl Strategy<Value = Vec<LogLine>> {
    // With its number in front, none is longer than a record may be: a longer one would come in pieces.
    let length = prop_oneof![8 => 0_usize..60, 1 => 60_000_usize..64 * 1024 - 1];
    // Clocks step back, so times are in no order.
    proptest::collection::vec((any::<bool>(), 0_u64..20, length, any::<bool>()), 0..60).prop_map(|lines| {
        let lines = lines.into_iter().enumerate();
        lines
            .map(|(index, (out, micros, length, partial))| {
                let text = format!("{index}{}", "x".repeat(length));
                line(if out { OUT } else { ERR }, micros, text, partial)
            })
            .collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_tail_is_the_end_of_what_is_there(
        lines in lines(),
        max_size in prop_oneof![1_u64..2_000, 100_000_u64..1_000_000],
        max_files in 1_u32..6,
        wanted in prop_oneof![0_usize..70, Just(usize::MAX)],
        (stdout, stderr) in (any::<bool>(), any::<bool>()),
        since in proptest::option::of(0_u64..22),
        torn in any::<bool>(),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let limits = limits(max_size, max_files);
        write_all(dir.path(), &limits, &lines);
        let there = read_all(dir.path());
        prop_assert!(lines.ends_with(&there) && there.is_empty() == lines.is_empty());
        if torn && let Some((newest, length)) = sizes(dir.path()).pop() {
            // A record that is being written while the tail is looked for.
            let path = segment::path(dir.path(), newest);
            let mut bytes = std::fs::read(&path).unwrap();
            bytes.extend_from_within(..length as usize / 2);
            std::fs::write(path, bytes).unwrap();
        }
        let passes = |line: &&LogLine| {
            (if line.stream == OUT { stdout } else { stderr }) && since.is_none_or(|since| line.at >= at(since))
        };
        let passing: Vec<LogLine> = there.iter().filter(passes).cloned().collect();
        let expected = &passing[passing.len().saturating_sub(wanted)..];
        let mut options =
            LogOptions { follow: false, since: since.map(at), tail: Some(wanted), stdout, stderr };
        let found = read(dir.path(), &options);
        prop_assert!(found == expected, "{} lines instead of {}", found.len(), expected.len());

        // Followed, it goes on with what is written from there on, and with nothing else.
        options.follow = true;
        let mut reader = LogReader::open(dir.path().to_owned(), &options).unwrap();
        let later = [line(OUT, 21, "later", false), line(ERR, 3, "last", true)];
        prop_assert_eq!(drain(&mut reader), expected);
        let mut writer = LogWriter::open(dir.path(), &limits).unwrap();
        for line in &later {
            write(&mut writer, line);
            prop_assert_eq!(drain(&mut reader), Vec::from_iter(Some(line).filter(passes).cloned()));
        }
    }
}

#[test]
fn a_tail_is_held_though_its_segments_are_removed() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = LogWriter::open(dir.path(), &limits(65, 2)).unwrap();
    (1..=4).for_each(|number| write(&mut writer, &numbered(number)));
    let mut tail = LogReader::open(dir.path().to_owned(), &LogOptions::tail(1)).unwrap();
    let mut whole = LogReader::open(dir.path().to_owned(), &LogOptions::default()).unwrap();
    (5..=20).for_each(|number| write(&mut writer, &numbered(number)));
    assert_eq!(drain(&mut tail), [numbered(4)]);
    assert_eq!(drain(&mut whole), [1, 2].map(numbered), "it held the oldest, and the next is removed");
}
