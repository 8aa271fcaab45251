//! A segment file: its name, its two header copies, and its disk space.

use std::collections::hash_map::RandomState;
use std::fs::{File, OpenOptions};
use std::hash::{BuildHasher, Hasher};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::Position;
use crate::error::Error;

/// The version this program writes and reads.
pub(crate) const VERSION: u32 = 1;
/// Bytes in front of the first record: two copies of the header.
pub(crate) const HEADER_BYTES: usize = 2 * COPY_BYTES;
/// Bytes of one copy of the header.
pub(crate) const COPY_BYTES: usize = 32;
/// Why a segment without a valid header is damage as a whole.
pub(crate) const HEADER_LOST: &str = "the segment's header is lost";
/// Disk space is taken so far in advance: few syncs wait for it, and a small spool's folder stays small.
const ALLOCATE_BYTES: u64 = 4 << 20;
const MAGIC: [u8; 8] = *b"TRIBJRNL";
const SUFFIX: &str = ".journal";

/// A file's path from its segment's number.
pub(crate) fn path(dir: &Path, id: u64) -> PathBuf {
    dir.join(format!("{id:020}{SUFFIX}"))
}

/// The number in a segment file's name; `None` for foreign files.
pub(crate) fn id_of(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(SUFFIX)?;
    (digits.len() == 20 && digits.bytes().all(|b| b.is_ascii_digit()))
        .then(|| digits.parse().ok())
        .flatten()
}

/// A new salt. It only has to be unknown to whoever chooses payloads.
pub(crate) fn new_salt() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// The segment's header, both copies.
pub(crate) fn encode_header(id: u64, salt: u64) -> Vec<u8> {
    let mut copy = Vec::with_capacity(HEADER_BYTES);
    copy.extend_from_slice(&MAGIC);
    copy.extend_from_slice(&VERSION.to_le_bytes());
    copy.extend_from_slice(&id.to_le_bytes());
    copy.extend_from_slice(&salt.to_le_bytes());
    copy.extend_from_slice(&crc32c::crc32c(&copy).to_le_bytes());
    copy.extend_from_within(..);
    copy
}

/// One valid header copy: version, segment, salt.
fn decode_copy(copy: &[u8]) -> Option<(u32, u64, u64)> {
    let (body, crc) = copy.split_at_checked(COPY_BYTES - 4)?;
    if crc32c::crc32c(body).to_le_bytes() != crc {
        return None;
    }
    let rest = body.strip_prefix(&MAGIC)?;
    let (version, rest) = rest.split_first_chunk::<4>()?;
    let (id, rest) = rest.split_first_chunk::<8>()?;
    let salt = rest.first_chunk::<8>()?;
    Some((u32::from_le_bytes(*version), u64::from_le_bytes(*id), u64::from_le_bytes(*salt)))
}

/// What a header says.
#[derive(Debug)]
pub(crate) enum Header {
    /// At least one copy is valid; `damaged` are the offsets of those that are not.
    Valid {
        /// The segment's salt.
        salt: u64,
        /// Offsets of damaged copies.
        damaged: Vec<u64>,
    },
    /// Neither copy is valid.
    Lost,
}

/// Reads the header at the beginning of a segment's bytes.
pub(crate) fn decode_header(bytes: &[u8], id: u64, path: &Path) -> Result<Header, Error> {
    let mut damaged = Vec::new();
    let mut valid = None;
    for offset in [0, COPY_BYTES] {
        let copy = bytes.get(offset..offset + COPY_BYTES).unwrap_or(&[]);
        match decode_copy(copy) {
            Some((version, found, salt)) if found == id => {
                if version != VERSION {
                    let path = path.to_owned();
                    return Err(Error::Version { path, version, supported: VERSION });
                }
                valid = valid.or(Some(salt));
            }
            _ => damaged.push(offset as u64),
        }
    }
    Ok(valid.map_or(Header::Lost, |salt| Header::Valid { salt, damaged }))
}

/// Makes a segment file with its header, durable with its name, and takes its disk space in advance.
pub(crate) fn create(
    dir: &Path,
    id: u64,
    salt: u64,
    segment_bytes: u64,
) -> Result<(File, u64), Error> {
    let path = path(dir, id);
    let write = || -> io::Result<(File, u64)> {
        let mut file = OpenOptions::new().append(true).create_new(true).open(&path)?;
        let allocated = allocate(&file, HEADER_BYTES as u64, segment_bytes);
        file.write_all(&encode_header(id, salt))?;
        file.sync_all()?;
        Ok((file, allocated))
    };
    let made = write().map_err(Error::io("making", &*path))?;
    sync_dir(dir)?;
    Ok(made)
}

/// Takes disk space for a file that will soon be `end` bytes long, and for some bytes more, but not for more than a
/// segment has. The file's length stays: nothing reads bytes that were not written. Returns up to where space was asked
/// for. A file system that cannot do it, or has no room, is no error: the write that follows says what it has to say.
pub(crate) fn allocate(file: &File, end: u64, segment_bytes: u64) -> u64 {
    let want = end.saturating_add(ALLOCATE_BYTES).min(segment_bytes).max(end);
    #[cfg(target_os = "linux")]
    let _ = rustix::fs::fallocate(file, rustix::fs::FallocateFlags::KEEP_SIZE, 0, want);
    want
}

/// Gives back the disk space that a segment of this length did not need. That it fails costs space, until the segment is
/// deleted, and nothing else.
pub(crate) fn give_back(file: &File, length: u64) {
    let _ = file.set_len(length);
}

/// Makes creations and deletions in a folder durable.
pub(crate) fn sync_dir(dir: &Path) -> Result<(), Error> {
    let sync = || -> io::Result<()> { File::open(dir)?.sync_all() };
    sync().map_err(Error::io("syncing the folder", dir))
}

/// A place in a segment.
pub(crate) fn position(segment: u64, offset: u64) -> Position {
    Position { segment, offset }
}
