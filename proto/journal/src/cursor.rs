//! Reads synced records in order, from any position, and can be asked again later for newer ones.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::Error;
use crate::frame::{self, Record};
use crate::reader::{Reader, Step};
use crate::segment::{self, Header};
use crate::{Damage, Position, SegmentInfo};

/// What writer and cursors share: the segments, oldest first, and how much of each is synced.
#[derive(Debug, Default)]
pub(crate) struct Synced(Mutex<Vec<SegmentInfo>>);

impl Synced {
    /// Runs `change` on the list.
    pub(crate) fn with<T>(&self, change: impl FnOnce(&mut Vec<SegmentInfo>) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The oldest segment that is not older than `id`, and whether a newer one exists.
    fn at_or_after(&self, id: u64) -> Option<(SegmentInfo, bool)> {
        self.with(|all| {
            let at = all.partition_point(|segment| segment.id < id);
            all.get(at).map(|segment| (*segment, at + 1 < all.len()))
        })
    }
}

/// A reader. It holds no lock; segments deleted in front of it are passed over.
#[derive(Debug)]
pub struct Cursor {
    dir: PathBuf,
    synced: Arc<Synced>,
    next: Position,
    open: Option<Open>,
    damaged: Vec<Damage>,
}

/// The segment being read.
#[derive(Debug)]
struct Open {
    reader: Reader,
    /// `None` when its header is lost.
    salt: Option<u64>,
}

impl Cursor {
    pub(crate) fn new(dir: PathBuf, synced: Arc<Synced>, from: Position) -> Self {
        Self { dir, synced, next: from, open: None, damaged: Vec::new() }
    }

    /// The next synced record; `None` when there is none yet.
    #[expect(clippy::should_implement_trait, reason = "None is not the end: more may come")]
    pub fn next(&mut self) -> Result<Option<Record>, Error> {
        loop {
            let Some((segment, newer)) = self.synced.at_or_after(self.next.segment) else {
                return Ok(None);
            };
            if segment.id != self.next.segment {
                self.next = segment::position(segment.id, 0);
            }
            if self.next.offset < segment.bytes
                && let Some(record) = self.read_in(segment)?
            {
                return Ok(Some(record));
            }
            // Only asked after this segment was read to its end, which is final once a newer one exists.
            if !newer {
                return Ok(None);
            }
            self.next = segment::position(segment.id.saturating_add(1), 0);
        }
    }

    /// The place of the next record, or of the bytes where it will be looked for.
    pub fn position(&self) -> Position {
        self.next
    }

    /// The damage passed over since the last call.
    pub fn take_damage(&mut self) -> Vec<Damage> {
        std::mem::take(&mut self.damaged)
    }

    /// The next valid record below the segment's synced length.
    fn read_in(&mut self, segment: SegmentInfo) -> Result<Option<Record>, Error> {
        if self.open.as_ref().is_none_or(|open| open.reader.id() != segment.id) {
            self.open = self.opened(segment)?;
        }
        let Some(open) = &mut self.open else {
            self.next.offset = segment.bytes;
            return Ok(None);
        };
        let SegmentInfo { id, bytes: end } = segment;
        let Some(salt) = open.salt else {
            let (offset, why) = (self.next.offset, segment::HEADER_LOST);
            self.damaged.push(Damage { segment: id, offset, bytes: end - offset, why });
            self.next.offset = end;
            return Ok(None);
        };
        self.next.offset = self.next.offset.max(segment::HEADER_BYTES as u64);
        while self.next.offset < end {
            let at = self.next.offset;
            match open.reader.step(at, end, salt)? {
                Step::Record { kind, length } => {
                    let payload = open.reader.payload(at, length).to_vec();
                    self.next.offset += (frame::HEADER_BYTES + length) as u64;
                    return Ok(Some(Record { position: segment::position(id, at), kind, payload }));
                }
                Step::Damage { next, why } => {
                    let next = next.unwrap_or(end);
                    self.damaged.push(Damage { segment: id, offset: at, bytes: next - at, why });
                    self.next.offset = next;
                }
            }
        }
        Ok(None)
    }

    /// Opens a segment; `None` when it was deleted in the meantime.
    fn opened(&self, segment: SegmentInfo) -> Result<Option<Open>, Error> {
        let Some(mut reader) = Reader::open(&self.dir, segment.id)? else {
            return Ok(None);
        };
        let salt = match reader.header(segment.bytes)? {
            Header::Valid { salt, .. } => Some(salt),
            Header::Lost => None,
        };
        Ok(Some(Open { reader, salt }))
    }
}
