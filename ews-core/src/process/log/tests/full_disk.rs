//! A disk that refuses: what is lost is counted and said, and nothing else is lost.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use proptest::prelude::*;

use super::super::disk::{Disk, Files, Segment};
use super::super::format::{self, Place};
use super::super::scan::{Forward, Remainder};
use super::super::writer::{Dropped, LogWriter};
use super::*;

/// A real directory on a disk with this many bytes left. Like a real one, it writes what fits of a record.
#[derive(Debug, Clone, Default)]
struct SmallDisk {
    room: Arc<AtomicU64>,
    keeps_what_it_has: Arc<AtomicBool>,
    calls: Arc<AtomicU64>,
    /// Looks at the worst moment: when part of what was to be written is there and is about to be cut away.
    follower: Arc<Mutex<Option<Follower>>>,
}

#[derive(Debug)]
struct Follower {
    reader: LogReader,
    lines: Vec<LogLine>,
}

#[derive(Debug)]
struct SmallFile {
    file: File,
    disk: SmallDisk,
    length: u64,
}

impl SmallDisk {
    fn of(room: u64) -> Self {
        let disk = Self::default();
        disk.room.store(room, SeqCst);
        disk
    }

    fn follow(&self, dir: &Path) {
        let reader = LogReader::open(dir.to_owned(), &LogOptions::follow()).unwrap();
        *self.follower.lock().unwrap() = Some(Follower { reader, lines: Vec::new() });
    }

    fn look(&self) -> Vec<LogLine> {
        let mut follower = self.follower.lock().unwrap();
        let Some(follower) = follower.as_mut() else { return Vec::new() };
        follower.lines.extend(drain(&mut follower.reader));
        follower.lines.clone()
    }

    fn has(&self, file: File) -> SmallFile {
        let length = file.metadata().unwrap().len();
        SmallFile { file, disk: self.clone(), length }
    }
}

impl Disk for SmallDisk {
    type Segment = SmallFile;

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        Files.create_dir(dir)
    }

    fn create(&self, path: &Path) -> io::Result<SmallFile> {
        if self.room.load(SeqCst) == 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Files.create(path).map(|file| self.has(file))
    }

    fn open(&self, path: &Path) -> io::Result<SmallFile> {
        Files.open(path).map(|file| self.has(file))
    }
}

impl Segment for SmallFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.disk.calls.fetch_add(1, SeqCst);
        let room = self.disk.room.load(SeqCst);
        let fits = room.min(bytes.len() as u64);
        if fits == 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.disk.room.fetch_sub(fits, SeqCst);
        self.length += fits;
        Segment::write(&mut self.file, &bytes[..fits as usize])
    }

    fn cut(&mut self, length: u64) -> io::Result<()> {
        self.disk.look();
        if self.disk.keeps_what_it_has.load(SeqCst) {
            return Err(io::Error::other("no"));
        }
        assert!(length <= self.length, "a cut never makes a file longer");
        self.disk.room.fetch_add(self.length - length, SeqCst);
        self.length = length;
        self.file.cut(length)
    }
}

fn put(writer: &mut LogWriter<SmallDisk>, line: &LogLine) {
    writer.write(line.stream, line.at, &line.bytes, line.partial);
}

fn notice(lines: u64, bytes: u64) -> String {
    format!(
        "ews: {lines} lines ({bytes} bytes) of output were lost here: {}",
        io::Error::from(io::ErrorKind::StorageFull)
    )
}

/// What follows the last whole record of the newest segment.
fn remainder(dir: &Path) -> Remainder {
    let number = segment::numbers(dir).unwrap().pop().unwrap();
    let file = segment::open(dir, number).unwrap().unwrap();
    Forward::new(file, Place { segment: number, offset: 0 }).skip_whole().unwrap()
}

#[test]
fn what_does_not_fit_is_counted_and_said_and_writing_goes_on() {
    let lines: Vec<LogLine> = (1..=4).map(numbered).collect();
    let size = format::size(lines[0].bytes.len()) as u64;
    // The disk is full at each byte of the second record.
    for spare in 0..size {
        let dir = tempfile::tempdir().unwrap();
        let disk = SmallDisk::of(size + spare);
        let mut writer = LogWriter::open_on(disk.clone(), dir.path(), &roomy()).unwrap();
        let mut reader = LogReader::open(dir.path().to_owned(), &LogOptions::follow()).unwrap();
        lines[..3].iter().for_each(|line| put(&mut writer, line));
        assert_eq!(writer.dropped(), Dropped { lines: 2, bytes: 12 });
        assert_eq!(remainder(dir.path()), Remainder::Nothing, "half a record is left");
        assert_eq!(drain(&mut reader), lines[..1]);
        disk.room.store(1 << 20, SeqCst);
        put(&mut writer, &lines[3]);
        assert_eq!(drain(&mut reader), [line(ERR, 4, notice(2, 12), false), lines[3].clone()]);
        assert_eq!(writer.dropped(), Dropped { lines: 2, bytes: 12 });
    }
}

#[test]
fn what_is_lost_at_the_end_is_said_at_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let disk = SmallDisk::of(0);
    let mut writer = LogWriter::open_on(disk.clone(), dir.path(), &roomy()).unwrap();
    put(&mut writer, &numbered(1));
    writer.finish(at(2));
    assert_eq!(read_all(dir.path()), []);
    disk.room.store(1 << 20, SeqCst);
    writer.finish(at(3));
    writer.finish(at(4));
    assert_eq!(read_all(dir.path()), [line(ERR, 3, notice(1, 6), false)]);
}

#[test]
fn a_segment_that_can_not_be_cut_is_left_for_a_new_one() {
    let dir = tempfile::tempdir().unwrap();
    let disk = SmallDisk::of(40);
    let mut writer = LogWriter::open_on(disk.clone(), dir.path(), &roomy()).unwrap();
    let mut reader = LogReader::open(dir.path().to_owned(), &LogOptions::follow()).unwrap();
    disk.keeps_what_it_has.store(true, SeqCst);
    put(&mut writer, &numbered(1));
    put(&mut writer, &numbered(2));
    assert_eq!(remainder(dir.path()), Remainder::Torn);
    disk.room.store(1 << 20, SeqCst);
    put(&mut writer, &numbered(3));
    assert_eq!(drain(&mut reader), [numbered(1), line(ERR, 3, notice(1, 6), false), numbered(3)]);
    assert_eq!(sizes(dir.path()).len(), 2);
}

#[test]
fn rotation_on_a_full_disk_frees_the_oldest_and_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let disk = SmallDisk::of(1 << 20);
    let mut writer = LogWriter::open_on(disk.clone(), dir.path(), &limits(40, 3)).unwrap();
    (1..=3).for_each(|number| put(&mut writer, &numbered(number)));
    assert_eq!(sizes(dir.path()), [(1, 30), (2, 30), (3, 30)]);
    disk.room.store(0, SeqCst);
    put(&mut writer, &numbered(4));
    assert_eq!(sizes(dir.path()), [(2, 30), (3, 30)], "no room was made");
    // However often it is tried, what is there stays.
    (5..=9).for_each(|number| put(&mut writer, &numbered(number)));
    assert_eq!(sizes(dir.path()), [(2, 30), (3, 30)]);
    disk.room.store(30, SeqCst);
    put(&mut writer, &numbered(10));
    disk.room.store(1 << 20, SeqCst);
    put(&mut writer, &numbered(11));
    assert_eq!(read(dir.path(), &LogOptions::tail(2)), [line(ERR, 11, notice(7, 43), false), numbered(11)]);
}

#[test]
fn a_record_is_one_write_even_behind_a_notice() {
    let dir = tempfile::tempdir().unwrap();
    let disk = SmallDisk::of(1 << 20);
    let mut writer = LogWriter::open_on(disk.clone(), dir.path(), &roomy()).unwrap();
    put(&mut writer, &line(OUT, 1, vec![b'x'; 64 * 1024], false));
    assert_eq!(disk.calls.swap(0, SeqCst), 1);
    disk.room.store(0, SeqCst);
    put(&mut writer, &numbered(2));
    disk.room.store(1 << 20, SeqCst);
    disk.calls.store(0, SeqCst);
    put(&mut writer, &numbered(3));
    assert_eq!(disk.calls.load(SeqCst), 1);
    assert_eq!(read_all(dir.path()).len(), 3);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever room there is and when, the lines that were not dropped are read in order, each gap is said where it is, and
    /// the sum of what is said is what was dropped.
    #[test]
    fn gaps_are_said_where_they_are(
        steps in proptest::collection::vec((prop_oneof![Just(0_u64), 0_u64..300], 0_usize..80), 1..40),
        max_size in 1_u64..2_000,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let disk = SmallDisk::of(0);
        let mut writer = LogWriter::open_on(disk.clone(), dir.path(), &limits(max_size, 1_000)).unwrap();
        disk.follow(dir.path());
        let (mut expected, mut gap) = (Vec::new(), 0);
        for (index, (room, length)) in steps.iter().enumerate() {
            disk.room.fetch_add(*room, SeqCst);
            let before = writer.dropped().lines;
            let written = line(OUT, index as u64, vec![b'x'; *length], false);
            put(&mut writer, &written);
            if writer.dropped().lines > before {
                gap += 1;
            } else {
                expected.push((gap, written));
                gap = 0;
            }
        }
        disk.room.fetch_add(1 << 20, SeqCst);
        writer.finish(at(0));
        let (mut found, mut said, mut all_said) = (Vec::new(), 0, 0);
        for line in disk.look() {
            if line.stream == ERR {
                let text = String::from_utf8(line.bytes.to_vec()).unwrap();
                let lines: u64 = text.split(' ').nth(1).unwrap().parse().unwrap();
                said += lines;
                all_said += lines;
            } else {
                found.push((said, line));
                said = 0;
            }
        }
        prop_assert_eq!(found, expected);
        prop_assert_eq!(disk.look(), read_all(dir.path()));
        prop_assert_eq!(all_said, writer.dropped().lines);
    }
}
