//! Segments are begun, kept and removed, and readers go along.

use std::sync::mpsc::sync_channel;
use std::thread;

use super::super::format;
use super::*;

#[test]
fn what_is_written_is_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("not/there/yet");
    assert_eq!(read_all(&dir), []);
    let lines = [
        line(OUT, 0, "", false),
        line(ERR, 1, b"\x00\xff\r", true),
        line(OUT, Timestamp::MAX.as_micros(), "\u{4e2d}", false),
        line(OUT, 7, vec![b'\n'; 64 * 1024], false),
    ];
    write_all(&dir, &roomy(), &lines);
    assert_eq!(read_all(&dir), lines);
    let wanted = LogOptions { stdout: false, ..LogOptions::default() };
    assert_eq!(read(&dir, &wanted), lines[1..2]);
    let wanted = LogOptions { stderr: false, since: Some(at(7)), ..LogOptions::default() };
    assert_eq!(read(&dir, &wanted), lines[2..]);
}

#[test]
fn a_line_that_is_too_long_is_written_in_pieces() {
    let dir = tempfile::tempdir().unwrap();
    let most = 64 * 1024;
    write_all(dir.path(), &roomy(), &[line(OUT, 1, vec![b'x'; 2 * most], false)]);
    let piece = |partial| line(OUT, 1, vec![b'x'; most], partial);
    assert_eq!(read_all(dir.path()), [piece(true), piece(false)]);
}

#[cfg(unix)]
#[test]
fn only_the_owner_can_read() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    write_all(&log, &roomy(), &[numbered(1)]);
    for (path, mode) in [(log.clone(), 0o700), (segment::path(&log, 1), 0o600)] {
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o7777, mode, "{}", path.display());
    }
}

#[test]
fn segments_keep_their_size_and_number() {
    let size = format::size(numbered(10).bytes.len()) as u64;
    for (max_size, per_segment) in
        [(0, 1), (1, 1), (size, 1), (2 * size - 1, 1), (2 * size, 2), (5 * size, 5)]
    {
        for max_files in [0, 1, 2, 4] {
            let dir = tempfile::tempdir().unwrap();
            let lines: Vec<LogLine> = (10..40).map(numbered).collect();
            write_all(dir.path(), &limits(max_size, max_files), &lines);
            let (kept, sizes) = (max_files.max(1) as usize, sizes(dir.path()));
            assert_eq!(sizes.len(), kept, "{sizes:?}");
            assert!(sizes.iter().all(|(_, length)| *length == per_segment * size), "{max_size}: {sizes:?}");
            assert_eq!(sizes.last().unwrap().0, 30 / per_segment);
            assert_eq!(read_all(dir.path()), lines[lines.len() - kept * per_segment as usize..]);
        }
    }
}

#[test]
fn a_writer_goes_on_where_the_last_one_ended_and_keeps_new_limits() {
    let dir = tempfile::tempdir().unwrap();
    for number in 1..=9 {
        write_all(dir.path(), &limits(60, 9), &[numbered(number)]);
    }
    assert_eq!(sizes(dir.path()), [(1, 60), (2, 60), (3, 60), (4, 60), (5, 30)]);
    drop(LogWriter::open(dir.path(), &limits(60, 2)).unwrap());
    assert_eq!(read_all(dir.path()), [7, 8, 9].map(numbered));
}

#[test]
fn other_files_are_no_segments() {
    let dir = tempfile::tempdir().unwrap();
    write_all(dir.path(), &roomy(), &[numbered(1)]);
    for name in ["00000000.log", "7.log", "000000002.log", "00000002.txt", "+0000003.log", "x"] {
        std::fs::write(dir.path().join(name), "x").unwrap();
    }
    std::fs::create_dir(dir.path().join("00000009.log")).unwrap();
    assert_eq!(sizes(dir.path()), [(1, 30)]);
    assert_eq!(read_all(dir.path()), [numbered(1)]);
}

#[test]
fn batches_are_bounded() {
    for length in [0, 600, 64 * 1024] {
        let dir = tempfile::tempdir().unwrap();
        let lines = vec![line(OUT, 1, vec![b'x'; length], false); 1_500.min(20_000_000 / (length + 1))];
        write_all(dir.path(), &roomy(), &lines);
        let mut reader = LogReader::open(dir.path().to_owned(), &LogOptions::default()).unwrap();
        let mut count = 0;
        loop {
            let batch = reader.read().unwrap();
            let bytes: usize = batch.iter().map(|line| line.bytes.len()).sum();
            assert!(
                batch.len() <= 1_000 && bytes < (256 + 64) * 1024,
                "{} lines, {bytes} bytes",
                batch.len()
            );
            count += batch.len();
            if batch.is_empty() {
                break;
            }
        }
        assert_eq!(count, lines.len());
    }
}

#[test]
fn without_follow_a_reader_ends_where_the_log_ended() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = LogWriter::open(dir.path(), &limits(65, 9)).unwrap();
    (1..=3).for_each(|number| write(&mut writer, &numbered(number)));
    let mut whole = LogReader::open(dir.path().to_owned(), &LogOptions::default()).unwrap();
    let mut tail = LogReader::open(dir.path().to_owned(), &LogOptions::tail(2)).unwrap();
    (4..=6).for_each(|number| write(&mut writer, &numbered(number)));
    assert_eq!(drain(&mut whole), [1, 2, 3].map(numbered));
    assert_eq!(drain(&mut tail), [2, 3].map(numbered));
}

#[test]
fn a_reader_that_falls_behind_goes_on_with_the_oldest_there_is() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = LogWriter::open(dir.path(), &limits(65, 2)).unwrap();
    write(&mut writer, &numbered(1));
    let mut reader = LogReader::open(dir.path().to_owned(), &LogOptions::follow()).unwrap();
    assert_eq!(drain(&mut reader), [numbered(1)]);
    (2..=9).for_each(|number| write(&mut writer, &numbered(number)));
    assert_eq!(sizes(dir.path()), [(4, 60), (5, 30)]);
    // The second line is in the removed segment that the reader has open; of the others the last two segments are left.
    assert_eq!(drain(&mut reader), [2, 7, 8, 9].map(numbered));
    write(&mut writer, &numbered(10));
    assert_eq!(drain(&mut reader), [numbered(10)]);
}

/// Lines of all lengths, so that records end at all places of a page, and each tells its number.
fn varied(number: u64) -> LogLine {
    let length = [0, 3, 100, 5_000, 64 * 1024 - 20][number as usize % 5];
    let text = format!("{number:020}{}", "x".repeat(length));
    line(if number.is_multiple_of(3) { ERR } else { OUT }, number, text, number.is_multiple_of(2))
}

#[test]
fn a_reader_at_the_same_time_sees_whole_records_in_order() {
    const COUNT: u64 = 4_000;
    let dir = tempfile::tempdir().unwrap();
    let mut writer = LogWriter::open(dir.path(), &limits(300_000, 10_000)).unwrap();
    let mut reader = LogReader::open(dir.path().to_owned(), &LogOptions::follow()).unwrap();
    let writing = thread::spawn(move || (0..COUNT).for_each(|number| write(&mut writer, &varied(number))));
    let (mut next, mut is_over) = (0, false);
    while !is_over {
        // A look that begins after the last write sees everything.
        is_over = writing.is_finished();
        for line in drain(&mut reader) {
            assert!(line == varied(next), "after {next} lines came one of {:?}", line.at);
            next += 1;
        }
        // Tails of what is being written hold whole records too, the last ones in order.
        let tail = read(dir.path(), &LogOptions::tail(3));
        let first = tail.first().map_or(0, |line| line.at.as_micros());
        assert!(tail.iter().zip(first..).all(|(line, number)| *line == varied(number)));
    }
    writing.join().unwrap();
    assert_eq!(next, COUNT);
}

#[test]
fn a_reader_that_keeps_up_loses_nothing_to_rotation() {
    const COUNT: u64 = 5_000;
    let dir = tempfile::tempdir().unwrap();
    // Two or three lines a segment and two segments: a reader keeps up that is never more than two lines behind.
    let mut writer = LogWriter::open(dir.path(), &limits(100, 2)).unwrap();
    let mut reader = LogReader::open(dir.path().to_owned(), &LogOptions::follow()).unwrap();
    let (seen, may_write) = sync_channel(8);
    (0..2).for_each(|_| seen.send(()).unwrap());
    let writing = thread::spawn(move || {
        for number in 0..COUNT {
            may_write.recv().unwrap();
            write(&mut writer, &numbered(number));
        }
        // The last lines are acknowledged to somebody.
        may_write
    });
    let (mut next, mut is_over) = (0, false);
    while !is_over {
        is_over = writing.is_finished();
        for line in drain(&mut reader) {
            assert_eq!(line, numbered(next));
            next += 1;
            seen.send(()).unwrap();
        }
    }
    drop(writing.join().unwrap());
    assert_eq!(next, COUNT);
    assert!(sizes(dir.path()).last().unwrap().0 > COUNT / 4, "too few rotations to show anything");
}
