//! Finds where the last so many lines begin, by reading backwards, so that neither memory nor time depends on what came
//! before them.

use std::fs::File;
use std::io;
use std::path::Path;

use super::format::Place;
use super::reader::Filter;
use super::scan::{Backward, Forward, Previous};
use super::segment;

/// A reader that stands before the last `wanted` lines that pass the filter and end before `end` in the newest segment, or
/// before all of them where there are fewer.
///
/// It holds its segment open, so that the writer can't remove it before it is read.
pub(super) fn start(
    dir: &Path,
    newest: File,
    end: Place,
    filter: &Filter,
    wanted: usize,
) -> io::Result<Forward> {
    let walk = walk_segment(&newest, end, filter, wanted)?;
    let mut start = Forward::new(newest, walk.place);
    let mut wanted = wanted.saturating_sub(walk.found);
    for number in segment::numbers(dir)?.into_iter().rev().filter(|number| *number < end.segment) {
        if wanted == 0 {
            break;
        }
        let Some(file) = segment::open(dir, number)? else { continue };
        let offset = file.metadata()?.len();
        let walk = walk_segment(&file, Place { segment: number, offset }, filter, wanted)?;
        start = Forward::new(file, walk.place);
        wanted = wanted.saturating_sub(walk.found);
    }
    Ok(start)
}

/// How far back a segment was walked.
struct Walk {
    found: usize,
    place: Place,
}

fn walk_segment(file: &File, end: Place, filter: &Filter, wanted: usize) -> io::Result<Walk> {
    if let Some(walk) = walk_back(file, end, filter, wanted)? {
        return Ok(walk);
    }
    // Where records don't join up backwards, only reading forwards tells where the last one ends that a reader can reach.
    let mut forward = Forward::new(file.try_clone()?, Place { offset: 0, ..end });
    while forward.place().offset < end.offset && forward.next()?.is_some() {}
    let whole = forward.place();
    Ok(walk_back(file, whole, filter, wanted)?.unwrap_or(Walk { found: 0, place: whole }))
}

/// Walks until enough was found or the segment begins; `None` where records don't join up.
fn walk_back(file: &File, end: Place, filter: &Filter, wanted: usize) -> io::Result<Option<Walk>> {
    let mut backward = Backward::new(file, end);
    let mut walk = Walk { found: 0, place: end };
    loop {
        // Even where nothing is wanted, a record must be seen to end here, or a reader would begin amid one.
        if walk.found == wanted && walk.place != end {
            return Ok(Some(walk));
        }
        match backward.previous()? {
            Previous::Record(_) if walk.found == wanted => return Ok(Some(walk)),
            Previous::Record(record) => {
                walk.place = backward.place();
                walk.found += usize::from(filter.wants(&record));
            }
            Previous::Nothing => return Ok(Some(walk)),
            Previous::Broken => return Ok(None),
        }
    }
}
