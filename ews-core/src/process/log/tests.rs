//! The log's tests, and what they share: logs in temporary directories, lines that tell themselves apart.

use std::path::Path;

use super::segment;
use super::{LogReader, LogWriter};
use crate::runtime::{LogLine, LogOptions, OutputStream};
use crate::spec::lifecycle::LogLimits;
use crate::spec::resources::ByteSize;
use crate::time::Timestamp;

mod damage;
mod full_disk;
mod lines;
mod rotation;
mod stream;
mod tail;

const OUT: OutputStream = OutputStream::Stdout;
const ERR: OutputStream = OutputStream::Stderr;

fn at(micros: u64) -> Timestamp {
    Timestamp::from_micros(micros)
}

fn limits(max_size: u64, max_files: u32) -> LogLimits {
    LogLimits { max_size: ByteSize::from_bytes(max_size), max_files }
}

fn roomy() -> LogLimits {
    limits(1 << 30, 3)
}

/// What may be written, so that what is read can be compared with it.
fn line(stream: OutputStream, micros: u64, bytes: impl AsRef<[u8]>, partial: bool) -> LogLine {
    LogLine { at: at(micros), stream, bytes: bytes.as_ref().to_vec().into(), partial }
}

/// The line of this number.
fn numbered(number: u64) -> LogLine {
    line(OUT, number, format!("line {number}"), false)
}

fn write(writer: &mut LogWriter, line: &LogLine) {
    writer.write(line.stream, line.at, &line.bytes, line.partial);
}

fn write_all(dir: &Path, limits: &LogLimits, lines: &[LogLine]) {
    let mut writer = LogWriter::open(dir, limits).unwrap();
    lines.iter().for_each(|line| write(&mut writer, line));
    assert_eq!(writer.dropped(), super::Dropped::default());
}

/// All that comes until nothing more does.
fn drain(reader: &mut LogReader) -> Vec<LogLine> {
    let mut all = Vec::new();
    loop {
        let batch = reader.read().unwrap();
        if batch.is_empty() {
            return all;
        }
        all.extend(batch);
    }
}

fn read(dir: &Path, options: &LogOptions) -> Vec<LogLine> {
    drain(&mut LogReader::open(dir.to_owned(), options).unwrap())
}

fn read_all(dir: &Path) -> Vec<LogLine> {
    read(dir, &LogOptions::default())
}

/// The segments' numbers and sizes. One that is removed and still open somewhere may keep its name on Windows, and is left out.
fn sizes(dir: &Path) -> Vec<(u64, u64)> {
    let numbers = segment::numbers(dir).unwrap().into_iter();
    let opened = numbers.filter_map(|number| Some((number, segment::open(dir, number).unwrap()?)));
    opened.map(|(number, file)| (number, file.metadata().unwrap().len())).collect()
}
