//! A segment file: its name, its two header copies, and the scan that finds its records and its damage.

use std::collections::hash_map::RandomState;
use std::fs::File;
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::frame::{self, Found, MARKER, Seal};
use crate::{Damage, Position};

/// The version this program writes and reads.
pub(crate) const VERSION: u32 = 1;
/// Bytes in front of the first record: two copies of the header.
pub(crate) const HEADER_BYTES: usize = 2 * COPY_BYTES;
const COPY_BYTES: usize = 32;
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

/// What a scan found in one segment.
#[derive(Debug)]
pub(crate) struct Scan {
    /// `None` when the header is lost, and with it every record.
    pub(crate) salt: Option<u64>,
    /// Damaged places that valid records follow, or, if `last` was not set, that end the segment.
    pub(crate) damaged: Vec<Damage>,
    /// Where a torn tail begins; only if `last` was set.
    pub(crate) torn: Option<(u64, &'static str)>,
    /// The number of valid records.
    pub(crate) records: u64,
}

/// Checks every record of a segment. In the last segment, bytes that no valid record follows are a torn tail.
pub(crate) fn scan(bytes: &[u8], id: u64, path: &Path, last: bool) -> Result<Scan, Error> {
    let mut out = Scan { salt: None, damaged: Vec::new(), torn: None, records: 0 };
    let damage = |offset: usize, end: usize, why| Damage {
        segment: id,
        offset: offset as u64,
        bytes: (end - offset) as u64,
        why,
    };
    let salt = match decode_header(bytes, id, path)? {
        Header::Valid { salt, damaged } => {
            let why = "a copy of the segment's header does not match its checksum";
            let copies = damaged.iter().filter(|_| bytes.len() >= HEADER_BYTES);
            out.damaged.extend(copies.map(|offset| Damage {
                segment: id,
                offset: *offset,
                bytes: COPY_BYTES as u64,
                why,
            }));
            salt
        }
        Header::Lost if last && bytes.len() <= HEADER_BYTES => {
            out.torn = Some((0, "the segment's header was not written"));
            return Ok(out);
        }
        Header::Lost => {
            out.damaged.push(damage(0, bytes.len(), "the segment's header is lost"));
            return Ok(out);
        }
    };
    out.salt = Some(salt);
    if bytes.len() < HEADER_BYTES {
        if last {
            out.torn = Some((0, "the segment's header was not written"));
        } else {
            out.damaged.push(damage(0, bytes.len(), "the segment ends in its header"));
        }
        return Ok(out);
    }
    let mut at = HEADER_BYTES;
    while at < bytes.len() {
        let why = match decode_at(bytes, at, salt) {
            Found::Record { payload, .. } => {
                at += frame::HEADER_BYTES + payload.len();
                out.records += 1;
                continue;
            }
            Found::Short { .. } => "the record is not complete",
            Found::Bad(why) => why,
        };
        match next_record(bytes, at + 1, salt) {
            Some(next) => {
                out.damaged.push(damage(at, next, why));
                at = next;
            }
            None if last => {
                out.torn = Some((at as u64, why));
                break;
            }
            None => {
                out.damaged.push(damage(at, bytes.len(), why));
                break;
            }
        }
    }
    Ok(out)
}

fn decode_at(bytes: &[u8], at: usize, salt: u64) -> Found<'_> {
    frame::decode(bytes.get(at..).unwrap_or(&[]), Seal { salt, offset: at as u64 })
}

/// The first place at or behind `from` where a valid record stands.
pub(crate) fn next_record(bytes: &[u8], from: usize, salt: u64) -> Option<usize> {
    let windows = bytes.get(from..)?.windows(MARKER.len());
    windows
        .enumerate()
        .filter(|(_, window)| *window == MARKER)
        .map(|(i, _)| from + i)
        .find(|at| matches!(decode_at(bytes, *at, salt), Found::Record { .. }))
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
