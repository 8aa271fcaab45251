//! The segmented, CRC-framed, fsynced log of both ends: what was synced is there after a power cut.
//!
//! `FORMAT.md` has every byte. One process writes; cursors read what is synced.

mod cursor;
mod error;
mod frame;
mod reader;
mod recover;
mod segment;

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cursor::Synced;
use frame::Seal;

pub use cursor::Cursor;
pub use error::Error;
pub use frame::{MAX_RECORD_BYTES, Record};

/// The file whose lock keeps a second process out.
const LOCK_FILE: &str = "lock";

/// Where a journal lives and how large its segments grow.
#[derive(Debug, Clone)]
pub struct Options {
    /// The folder; made if it is missing.
    pub dir: PathBuf,
    /// A new segment is begun when an append would pass this. A larger record has a segment to itself.
    pub segment_bytes: u64,
}

/// The place of a record's first byte. Ordered as the records were appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Position {
    /// The segment's number.
    pub segment: u64,
    /// The offset in it. 0 is in front of its first record.
    pub offset: u64,
}

/// One segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentInfo {
    /// Its number; numbers rise by one.
    pub id: u64,
    /// Its synced length, header included.
    pub bytes: u64,
}

/// What opening found and mended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recovery {
    /// The torn tail that was cut off: an append that was never synced.
    pub cut: Option<Damage>,
    /// Damage with valid records behind it. It was passed over; everything else is there.
    pub damaged: Vec<Damage>,
}

/// Bytes that are not a valid record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// In which segment.
    pub segment: u64,
    /// Where it begins.
    pub offset: u64,
    /// How long it is.
    pub bytes: u64,
    /// What is wrong there.
    pub why: &'static str,
}

/// The writer.
#[derive(Debug)]
pub struct Journal {
    options: Options,
    /// Held open: closing it would let another process in.
    _lock: File,
    file: File,
    current: u64,
    salt: u64,
    /// The current segment's length in the file.
    written: u64,
    /// Up to where disk space was taken in advance.
    allocated: u64,
    /// Records appended but not written.
    buffer: Vec<u8>,
    synced: Arc<Synced>,
    poisoned: bool,
}

impl Journal {
    /// Opens or makes a journal, checks every record, and cuts off a torn tail.
    pub fn open(options: Options) -> Result<(Self, Recovery), Error> {
        Self::open_with(options, segment::new_salt())
    }

    fn open_with(options: Options, salt: u64) -> Result<(Self, Recovery), Error> {
        let dir = &options.dir;
        make_dir(dir)?;
        let lock = lock(dir)?;
        let found = recover::recover(dir)?;
        let next = found.segments.last().map_or(Some(1), |last| last.id.checked_add(1));
        let synced = Arc::new(Synced::default());
        let (file, current, salt, written, allocated) = if let Some((id, salt)) = found.resume {
            let path = segment::path(dir, id);
            let opened = OpenOptions::new().append(true).open(&path);
            let file = opened.map_err(Error::io("opening", &*path))?;
            // A killed process may have written records without syncing them. They are handed out as synced.
            file.sync_data().map_err(Error::io("syncing", path))?;
            let written = found.segments.last().map_or(0, |last| last.bytes);
            (file, id, salt, written, written)
        } else {
            let id = next.ok_or(Error::Exhausted)?;
            let (file, allocated) = segment::create(dir, id, salt, options.segment_bytes)?;
            (file, id, salt, segment::HEADER_BYTES as u64, allocated)
        };
        synced.with(|all| {
            all.extend(found.segments);
            if all.last().is_none_or(|last| last.id != current) {
                all.push(SegmentInfo { id: current, bytes: written });
            }
        });
        let buffer = Vec::new();
        let journal = Self {
            options,
            _lock: lock,
            file,
            current,
            salt,
            written,
            allocated,
            buffer,
            synced,
            poisoned: false,
        };
        Ok((journal, found.recovery))
    }

    /// Appends a record to the buffer; it is durable after the next [`Journal::sync`].
    pub fn append(&mut self, kind: u8, payload: &[u8]) -> Result<Position, Error> {
        self.healthy()?;
        let length = u32::try_from(payload.len())
            .ok()
            .filter(|_| payload.len() <= MAX_RECORD_BYTES)
            .ok_or(Error::TooLarge { bytes: payload.len(), limit: MAX_RECORD_BYTES })?;
        let size = (frame::HEADER_BYTES + payload.len()) as u64;
        let empty = self.end() <= segment::HEADER_BYTES as u64;
        if !empty && self.end().saturating_add(size) > self.options.segment_bytes {
            self.roll()?;
        }
        let position = segment::position(self.current, self.end());
        let seal = Seal { salt: self.salt, offset: position.offset };
        frame::encode(&mut self.buffer, seal, kind, payload, length);
        Ok(position)
    }

    /// Writes what was appended and waits until it is on disk. After a failure nothing is accepted any more:
    /// the system may have dropped the pages that it could not write, and a second sync would not tell.
    pub fn sync(&mut self) -> Result<(), Error> {
        self.healthy()?;
        if self.buffer.is_empty() {
            return Ok(());
        }
        let path = segment::path(&self.options.dir, self.current);
        if self.end() > self.allocated {
            self.allocated = segment::allocate(&self.file, self.end(), self.options.segment_bytes);
        }
        self.poisoned = true;
        self.file.write_all(&self.buffer).map_err(Error::io("writing", &*path))?;
        self.file.sync_data().map_err(Error::io("syncing", &*path))?;
        self.poisoned = false;
        self.written = self.end();
        self.buffer.clear();
        let (id, bytes) = (self.current, self.written);
        self.synced.with(|all| {
            if let Some(last) = all.last_mut().filter(|last| last.id == id) {
                last.bytes = bytes;
            }
        });
        Ok(())
    }

    /// Syncs, begins a new segment now, and returns its number.
    pub fn roll(&mut self) -> Result<u64, Error> {
        self.sync()?;
        let id = self.current.checked_add(1).ok_or(Error::Exhausted)?;
        let salt = segment::new_salt();
        segment::give_back(&self.file, self.written);
        self.poisoned = true;
        (self.file, self.allocated) =
            segment::create(&self.options.dir, id, salt, self.options.segment_bytes)?;
        self.poisoned = false;
        self.current = id;
        self.salt = salt;
        self.written = segment::HEADER_BYTES as u64;
        let bytes = self.written;
        self.synced.with(|all| all.push(SegmentInfo { id, bytes }));
        Ok(id)
    }

    /// The segment that appends go to.
    pub fn current_segment(&self) -> u64 {
        self.current
    }

    /// Every segment, oldest first.
    pub fn segments(&self) -> Vec<SegmentInfo> {
        self.synced.with(|all| all.clone())
    }

    /// Synced bytes of all segments.
    pub fn bytes(&self) -> u64 {
        self.synced.with(|all| all.iter().map(|segment| segment.bytes).sum())
    }

    /// Deletes the segments older than `segment`, never the current one, and returns the bytes freed.
    pub fn delete_before(&mut self, segment: u64) -> Result<u64, Error> {
        let bound = segment.min(self.current);
        let mut freed = 0;
        while let Some(oldest) =
            self.synced.with(|all| all.first().copied()).filter(|oldest| oldest.id < bound)
        {
            let path = segment::path(&self.options.dir, oldest.id);
            match fs::remove_file(&path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    return Err(Error::io("deleting", path)(e));
                }
                _ => {}
            }
            self.synced.with(|all| all.retain(|segment| segment.id != oldest.id));
            freed += oldest.bytes;
        }
        if freed > 0 {
            segment::sync_dir(&self.options.dir)?;
        }
        Ok(freed)
    }

    /// A reader of synced records from `from` on; from the oldest if `from` is already deleted.
    /// `Position::default()` is the beginning.
    pub fn read(&self, from: Position) -> Result<Cursor, Error> {
        Ok(Cursor::new(self.options.dir.clone(), Arc::clone(&self.synced), from))
    }

    /// Where the next record will stand, unless it begins a new segment.
    pub fn end_position(&self) -> Position {
        segment::position(self.current, self.end())
    }

    fn end(&self) -> u64 {
        self.written + self.buffer.len() as u64
    }

    fn healthy(&self) -> Result<(), Error> {
        if self.poisoned { Err(Error::Poisoned) } else { Ok(()) }
    }
}

fn make_dir(dir: &Path) -> Result<(), Error> {
    if dir.is_dir() {
        return Ok(());
    }
    let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty());
    if let Some(parent) = parent {
        make_dir(parent)?;
    }
    fs::create_dir(dir).map_err(Error::io("making the folder", dir))?;
    segment::sync_dir(parent.unwrap_or(Path::new(".")))
}

fn lock(dir: &Path) -> Result<File, Error> {
    let path = dir.join(LOCK_FILE);
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(Error::io("opening", &*path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::Locked { path: dir.to_owned() }),
        Err(TryLockError::Error(e)) => Err(Error::io("locking", path)(e)),
    }
}

#[cfg(test)]
mod tests;
