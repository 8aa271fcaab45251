//! Checks every record of every segment, on all processors, and cuts off a torn tail.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::error::Error;
use crate::frame;
use crate::reader::{Reader, Step};
use crate::segment::{self, COPY_BYTES, HEADER_BYTES, HEADER_LOST, Header};
use crate::{Damage, Recovery, SegmentInfo};

/// Most threads that check segments. Each holds a window, and a record if that is longer.
const MAX_THREADS: usize = 16;

/// The segments of a folder after their check.
pub(crate) struct Found {
    /// Every segment, oldest first.
    pub(crate) segments: Vec<SegmentInfo>,
    /// What was found and mended.
    pub(crate) recovery: Recovery,
    /// The last segment with its salt, if appends can go on there.
    pub(crate) resume: Option<(u64, u64)>,
}

/// Checks the segments of a folder. Nothing is changed before all of them were read.
pub(crate) fn recover(dir: &Path) -> Result<Found, Error> {
    let mut ids = BTreeSet::new();
    for entry in fs::read_dir(dir).map_err(Error::io("listing", dir))? {
        let entry = entry.map_err(Error::io("listing", dir))?;
        ids.extend(entry.file_name().to_str().and_then(segment::id_of));
    }
    let ids: Vec<u64> = ids.into_iter().collect();
    let mut found = Found { segments: Vec::new(), recovery: Recovery::default(), resume: None };
    let mut torn = None;
    for checked in check_all(dir, &ids)? {
        let Checked { segment, salt, damaged, .. } = checked;
        let before = found.segments.last().map(|before| before.id);
        if let Some(before) = before.filter(|before| before.checked_add(1) != Some(segment.id)) {
            let (segment, why) = (before.saturating_add(1), "the segment's file is missing");
            found.recovery.damaged.push(Damage { segment, offset: 0, bytes: 0, why });
        }
        found.recovery.damaged.extend(damaged);
        found.segments.push(segment);
        found.resume = salt.map(|salt| (segment.id, salt));
        torn = checked.torn;
    }
    if let Some((offset, why)) = torn
        && let Some(last) = found.segments.last_mut()
    {
        cut(dir, last.id, offset)?;
        let bytes = last.bytes.saturating_sub(offset);
        found.recovery.cut = Some(Damage { segment: last.id, offset, bytes, why });
        last.bytes = offset;
        if offset == 0 {
            found.segments.pop();
        }
    }
    Ok(found)
}

/// Cuts a torn tail off; a file without a header goes as a whole.
fn cut(dir: &Path, id: u64, length: u64) -> Result<(), Error> {
    let path = segment::path(dir, id);
    if length == 0 {
        fs::remove_file(&path).map_err(Error::io("deleting", path))?;
        return segment::sync_dir(dir);
    }
    let cut = || -> io::Result<()> {
        let file = OpenOptions::new().write(true).open(&path)?;
        file.set_len(length)?;
        file.sync_all()
    };
    cut().map_err(Error::io("cutting the torn tail of", &*path))
}

/// One segment after its check.
struct Checked {
    /// Its length is the file's.
    segment: SegmentInfo,
    /// `None` when the header is lost, and with it every record.
    salt: Option<u64>,
    /// Damaged places that valid records follow, or, unless the segment is the last, that end it.
    damaged: Vec<Damage>,
    /// Where a torn tail begins; only in the last segment.
    torn: Option<(u64, &'static str)>,
}

/// Checks segments, each on whichever thread is free, and returns them in order.
fn check_all(dir: &Path, ids: &[u64]) -> Result<Vec<Checked>, Error> {
    let turn = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        loop {
            let place = turn.fetch_add(1, Ordering::Relaxed);
            let Some(id) = ids.get(place) else { return done };
            done.push((place, check(dir, *id, place + 1 == ids.len())));
        }
    };
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let helpers = threads.min(MAX_THREADS).min(ids.len()).saturating_sub(1);
    let mut done = thread::scope(|scope| {
        // A thread that cannot be had leaves its work to the others.
        let spawn = |_| thread::Builder::new().spawn_scoped(scope, work).ok();
        let helpers: Vec<_> = (0..helpers).filter_map(spawn).collect();
        let mut done = work();
        for helper in helpers {
            match helper.join() {
                Ok(more) => done.extend(more),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        done
    });
    done.sort_unstable_by_key(|(place, _)| *place);
    done.into_iter().map(|(_, checked)| checked).collect()
}

/// Checks every record of a segment. In the last one, bytes that no valid record follows are a torn tail.
fn check(dir: &Path, id: u64, last: bool) -> Result<Checked, Error> {
    let opened = Reader::open(dir, id)?;
    let gone = || Error::io("opening", segment::path(dir, id))(io::ErrorKind::NotFound.into());
    let mut reader = opened.ok_or_else(gone)?;
    let end = reader.length()?;
    let header = reader.header(end)?;
    let segment = SegmentInfo { id, bytes: end };
    let mut out = Checked { segment, salt: None, damaged: Vec::new(), torn: None };
    let damage =
        |offset: u64, end: u64, why| Damage { segment: id, offset, bytes: end - offset, why };
    let whole = end >= HEADER_BYTES as u64;
    let salt = match header {
        Header::Valid { salt, damaged } if whole => {
            let why = "a copy of the segment's header does not match its checksum";
            let copies = damaged.iter().map(|at| damage(*at, at + COPY_BYTES as u64, why));
            out.damaged.extend(copies);
            salt
        }
        Header::Valid { .. } | Header::Lost if last && end <= HEADER_BYTES as u64 => {
            out.torn = Some((0, "the segment's header was not written"));
            return Ok(out);
        }
        Header::Valid { salt, .. } => {
            out.salt = Some(salt);
            out.damaged.push(damage(0, end, "the segment ends in its header"));
            return Ok(out);
        }
        Header::Lost => {
            out.damaged.push(damage(0, end, HEADER_LOST));
            return Ok(out);
        }
    };
    out.salt = Some(salt);
    let mut at = HEADER_BYTES as u64;
    while at < end {
        match reader.step(at, end, salt)? {
            Step::Record { length, .. } => at += (frame::HEADER_BYTES + length) as u64,
            Step::Damage { next: None, why } if last => {
                out.torn = Some((at, why));
                break;
            }
            Step::Damage { next, why } => {
                let next = next.unwrap_or(end);
                out.damaged.push(damage(at, next, why));
                at = next;
            }
        }
    }
    Ok(out)
}
