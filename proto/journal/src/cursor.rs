//! Reads synced records in order, from any position, and can be asked again later for newer ones.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::Error;
use crate::frame::{self, Found, Record, Seal};
use crate::segment::{self, Header};
use crate::{Damage, Position, SegmentInfo};

/// Bytes read from a file at a time.
const READ_BYTES: usize = 256 << 10;

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

/// The file being read, and a window of its bytes.
#[derive(Debug)]
struct Open {
    id: u64,
    file: File,
    path: PathBuf,
    salt: Option<u64>,
    window: Vec<u8>,
    window_at: u64,
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
        let Some(open) = self.opened(segment)? else {
            return Ok(None);
        };
        let Some(salt) = open.salt else {
            let (offset, why) = (self.next.offset, "the segment's header is lost");
            let bytes = segment.bytes.saturating_sub(offset);
            self.damaged.push(Damage { segment: segment.id, offset, bytes, why });
            self.next.offset = segment.bytes;
            return Ok(None);
        };
        let mut at = self.next.offset.max(segment::HEADER_BYTES as u64);
        let Some(open) = &mut self.open else { return Ok(None) };
        if at >= segment.bytes {
            self.next.offset = at;
            return Ok(None);
        }
        let mut needs = frame::HEADER_BYTES;
        let why = loop {
            let bytes = open.bytes(at, needs, segment.bytes)?;
            match frame::decode(bytes, Seal { salt, offset: at }) {
                Found::Record { kind, payload } => {
                    let record = Record {
                        position: segment::position(segment.id, at),
                        kind,
                        payload: payload.to_vec(),
                    };
                    at += (frame::HEADER_BYTES + payload.len()) as u64;
                    self.next.offset = at;
                    return Ok(Some(record));
                }
                Found::Short { needs: more } if at + more as u64 <= segment.bytes => needs = more,
                Found::Short { .. } => break "the record is not complete",
                Found::Bad(why) => break why,
            }
        };
        let next = open.next_record(at, segment.bytes, salt)?;
        self.damaged.push(Damage { segment: segment.id, offset: at, bytes: next - at, why });
        self.next.offset = next;
        self.read_in(segment)
    }

    /// The open file of a segment; `None` when it was deleted in the meantime.
    fn opened(&mut self, segment: SegmentInfo) -> Result<Option<&Open>, Error> {
        if self.open.as_ref().is_none_or(|open| open.id != segment.id) {
            let path = segment::path(&self.dir, segment.id);
            let file = match File::open(&path) {
                Ok(file) => file,
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                    self.open = None;
                    self.next.offset = segment.bytes;
                    return Ok(None);
                }
                Err(e) => return Err(Error::io("opening", path)(e)),
            };
            let mut open =
                Open { id: segment.id, file, path, salt: None, window: Vec::new(), window_at: 0 };
            let header = open.bytes(0, segment::HEADER_BYTES, segment.bytes)?.to_vec();
            if let Header::Valid { salt, .. } =
                segment::decode_header(&header, segment.id, &open.path)?
            {
                open.salt = Some(salt);
            }
            self.open = Some(open);
        }
        Ok(self.open.as_ref())
    }
}

impl Open {
    /// At least `needs` bytes from `at`, as far as the file has them below `end`.
    fn bytes(&mut self, at: u64, needs: usize, end: u64) -> Result<&[u8], Error> {
        let inside = at.checked_sub(self.window_at).and_then(|o| usize::try_from(o).ok());
        let have = inside.is_some_and(|o| self.window.len() >= o.saturating_add(needs));
        if have {
            let from = inside.unwrap_or(0);
            return Ok(self.window.get(from..).unwrap_or(&[]));
        }
        let want = needs.max(READ_BYTES) as u64;
        let want = usize::try_from(want.min(end.saturating_sub(at))).unwrap_or(READ_BYTES);
        self.window.resize(want, 0);
        self.window_at = at;
        let mut filled = 0;
        while let Some(rest) = self.window.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            let read = self
                .file
                .read_at(rest, at + filled as u64)
                .map_err(Error::io("reading", &*self.path))?;
            if read == 0 {
                break;
            }
            filled += read;
        }
        self.window.truncate(filled);
        Ok(&self.window)
    }

    /// Where the next valid record behind `at` stands, or `end`. Reads the rest of the segment: damage is rare.
    fn next_record(&mut self, at: u64, end: u64, salt: u64) -> Result<u64, Error> {
        self.window = Vec::new();
        let length = usize::try_from(end).unwrap_or(usize::MAX);
        let bytes = self.bytes(0, length, end)?;
        let from = usize::try_from(at).unwrap_or(usize::MAX).saturating_add(1);
        let next = segment::next_record(bytes, from, salt).map_or(end, |next| next as u64);
        self.window = Vec::new();
        Ok(next)
    }
}
