//! Reads one segment's file through a window: the record at a place, or how far the damage there goes.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::frame::{self, Found, MARKER, Seal};
use crate::segment::{self, Header};

/// Bytes read from a file at a time: few calls, and what was read is still in the processor's cache when it is checked.
const READ_BYTES: usize = 256 << 10;

/// An open segment, and a window of its bytes.
#[derive(Debug)]
pub(crate) struct Reader {
    id: u64,
    file: File,
    path: PathBuf,
    window: Vec<u8>,
    window_at: u64,
}

/// What stands at a place.
#[derive(Debug)]
pub(crate) enum Step {
    /// A valid record; [`Reader::payload`] has its payload.
    Record {
        /// Its kind.
        kind: u8,
        /// Its payload's length.
        length: usize,
    },
    /// No valid record.
    Damage {
        /// Where the next valid record stands; `None` if there is none.
        next: Option<u64>,
        /// What is wrong.
        why: &'static str,
    },
}

impl Reader {
    /// Opens a segment's file; `None` if there is no such file.
    pub(crate) fn open(dir: &Path, id: u64) -> Result<Option<Self>, Error> {
        let path = segment::path(dir, id);
        match File::open(&path) {
            Ok(file) => Ok(Some(Self { id, file, path, window: Vec::new(), window_at: 0 })),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::io("opening", path)(e)),
        }
    }

    /// The segment's number.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// The file's length.
    pub(crate) fn length(&self) -> Result<u64, Error> {
        Ok(self.file.metadata().map_err(Error::io("reading", &*self.path))?.len())
    }

    /// The header of a segment that is `end` bytes long.
    pub(crate) fn header(&mut self, end: u64) -> Result<Header, Error> {
        let bytes = self.fill(0, segment::HEADER_BYTES, end)?;
        let bytes = bytes.get(..segment::HEADER_BYTES).unwrap_or(bytes).to_vec();
        segment::decode_header(&bytes, self.id, &self.path)
    }

    /// What stands at `at` in a segment that is `end` bytes long.
    pub(crate) fn step(&mut self, at: u64, end: u64, salt: u64) -> Result<Step, Error> {
        match self.record(at, end, salt)? {
            Ok((kind, length)) => Ok(Step::Record { kind, length }),
            Err(why) => {
                let next = self.next_record(at.saturating_add(1), end, salt)?;
                Ok(Step::Damage { next, why })
            }
        }
    }

    /// The payload of the record at `at`, which the last step found.
    pub(crate) fn payload(&self, at: u64, length: usize) -> &[u8] {
        let from = at.saturating_sub(self.window_at).saturating_add(frame::HEADER_BYTES as u64);
        let from = usize::try_from(from).unwrap_or(usize::MAX);
        self.window.get(from..from.saturating_add(length)).unwrap_or(&[])
    }

    /// The kind and payload length of the record at `at`, or why there is none.
    fn record(
        &mut self,
        at: u64,
        end: u64,
        salt: u64,
    ) -> Result<Result<(u8, usize), &'static str>, Error> {
        let mut needs = frame::HEADER_BYTES;
        loop {
            let bytes = self.fill(at, needs, end)?;
            match frame::decode(bytes, Seal { salt, offset: at }) {
                Found::Record { kind, payload } => return Ok(Ok((kind, payload.len()))),
                Found::Short { needs: more }
                    if more > needs && at.saturating_add(more as u64) <= end =>
                {
                    needs = more;
                }
                Found::Short { .. } => return Ok(Err("the record is not complete")),
                Found::Bad(why) => return Ok(Err(why)),
            }
        }
    }

    /// The first place at or behind `from` where a valid record stands.
    fn next_record(&mut self, mut from: u64, end: u64, salt: u64) -> Result<Option<u64>, Error> {
        while from.saturating_add(frame::HEADER_BYTES as u64) <= end {
            let bytes = self.fill(from, MARKER.len(), end)?;
            let found = bytes.windows(MARKER.len()).position(|window| window == MARKER);
            if bytes.len() < MARKER.len() {
                break;
            }
            let Some(found) = found else {
                from += (bytes.len() - MARKER.len() + 1) as u64;
                continue;
            };
            from += found as u64;
            if self.record(from, end, salt)?.is_ok() {
                return Ok(Some(from));
            }
            from += 1;
        }
        Ok(None)
    }

    /// At least `needs` bytes from `at`, as far as the file has them below `end`.
    fn fill(&mut self, at: u64, needs: usize, end: u64) -> Result<&[u8], Error> {
        let inside = at.checked_sub(self.window_at).and_then(|o| usize::try_from(o).ok());
        if let Some(inside) = inside
            && self.window.len() >= inside.saturating_add(needs)
        {
            return Ok(self.window.get(inside..).unwrap_or(&[]));
        }
        let want = needs.max(READ_BYTES) as u64;
        let want = usize::try_from(want.min(end.saturating_sub(at))).unwrap_or(READ_BYTES);
        self.window.resize(want, 0);
        self.window_at = at;
        let mut filled = 0;
        while let Some(rest) = self.window.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.file.read_at(rest, at.saturating_add(filled as u64)) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => {
                    self.window.clear();
                    return Err(Error::io("reading", &*self.path)(e));
                }
            }
        }
        self.window.truncate(filled);
        Ok(&self.window)
    }
}
