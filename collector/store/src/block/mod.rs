//! A block: one cluster's samples of some windows in one immutable file, with the label sets of their series.
//!
//! A file is written under another name, synced and renamed; from then on it is only read, and deleted as a whole.

mod clocks;
mod found;
mod histograms;
mod page;
mod read;
mod write;

use std::path::{Path, PathBuf};

use tributary_model::fields::Malformed;

use crate::keys::window_start;

pub(crate) use clocks::Clocks;
pub(crate) use found::{Found, decode};
pub(crate) use page::{MAX_CHUNK_SAMPLES, Page, Place};
pub(crate) use read::{Block, Column, Cursor, Recent};
pub(crate) use write::{Writer, Written};

/// A block of numbers.
const NUMBERS: u32 = 1;
/// A block with native histograms, which a program that knows only the other must not pass over.
const WITH_HISTOGRAMS: u32 = 2;
const MAGIC: [u8; 8] = *b"TRIBBLCK";
const END_MAGIC: [u8; 8] = *b"TRIBBEND";
/// Bytes in front of the first section.
const HEADER_BYTES: usize = 40;
/// Bytes behind the directory.
const TRAILER_BYTES: usize = 24;
/// A section of chunks; the directory has its first and last place.
const PAGE: u8 = 0;
/// A section of clocks; the directory has the first one's number.
const CLOCKS: u8 = 1;
/// A section of label sets; the directory has the first one's series.
const SERIES: u8 = 2;
/// A section of chunks of native histograms, about which the directory says the same as about a page.
const HISTOGRAMS: u8 = 3;
const SUFFIX: &str = ".block";
/// What a file that is being written is called.
const TEMPORARY: &str = ".tmp";

/// Which windows a block covers, and what tells it from others of the same windows. Ordered by time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct BlockName {
    /// The first window.
    pub(crate) first: i64,
    /// How many windows.
    pub(crate) windows: u32,
    /// Rises with every block of the store; the upper half is the flush that made it.
    pub(crate) number: u64,
}

impl BlockName {
    /// The last window.
    pub(crate) fn last(&self) -> i64 {
        self.first.saturating_add(i64::from(self.windows)).saturating_sub(1)
    }

    /// The first millisecond behind it.
    pub(crate) fn end(&self) -> i64 {
        window_start(self.last().saturating_add(1))
    }

    /// Whether a window lies in it.
    pub(crate) fn overlaps(&self, first: i64, last: i64) -> bool {
        self.first <= last && first <= self.last()
    }

    /// The flush that made it.
    pub(crate) fn attempt(&self) -> u32 {
        u32::try_from(self.number >> 32).unwrap_or(u32::MAX)
    }

    /// The file in a shard's folder.
    pub(crate) fn path(&self, folder: &Path) -> PathBuf {
        let Self { first, windows, number } = self;
        folder.join(format!("{first}+{windows}-{number:016x}{SUFFIX}"))
    }

    /// Reads a file's name; `None` for other files.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        let (first, rest) = name.strip_suffix(SUFFIX)?.split_once('+')?;
        let (windows, number) = rest.split_once('-')?;
        let number = u64::from_str_radix(number, 16).ok().filter(|_| number.len() == 16)?;
        let name = Self { first: first.parse().ok()?, windows: windows.parse().ok()?, number };
        (name.windows > 0).then_some(name)
    }
}

/// Whether a name is that of a file that was being written.
pub(crate) fn is_temporary(name: &str) -> bool {
    name.ends_with(TEMPORARY)
}

/// The header of a block.
fn header(version: u32, shard: u32, name: &BlockName) -> [u8; HEADER_BYTES] {
    let mut out = [0; HEADER_BYTES];
    let mut at = out.as_mut_slice();
    let mut put = |bytes: &[u8]| {
        if let Some((to, rest)) = std::mem::take(&mut at).split_at_mut_checked(bytes.len()) {
            to.copy_from_slice(bytes);
            at = rest;
        }
    };
    put(&MAGIC);
    put(&version.to_le_bytes());
    put(&shard.to_le_bytes());
    put(&name.number.to_le_bytes());
    put(&name.first.to_le_bytes());
    put(&name.windows.to_le_bytes());
    let checked = out.get(..HEADER_BYTES - 4).unwrap_or_default();
    let crc = crc32c::crc32c(checked).to_le_bytes();
    if let Some(end) = out.last_chunk_mut::<4>() {
        *end = crc;
    }
    out
}

/// What the checksum of a section covers beside the section.
fn section_key(number: u64, offset: u64) -> [u8; 16] {
    let mut key = [0; 16];
    let (high, low) = key.split_at_mut(8);
    high.copy_from_slice(&number.to_be_bytes());
    low.copy_from_slice(&offset.to_be_bytes());
    key
}

/// The last bytes of a block: where the directory is.
fn trailer(number: u64, offset: u64, length: u32) -> Vec<u8> {
    let mut out = Vec::with_capacity(TRAILER_BYTES);
    out.extend_from_slice(&offset.to_le_bytes());
    out.extend_from_slice(&length.to_le_bytes());
    let crc = crc32c::crc32c_append(crc32c::crc32c(&number.to_le_bytes()), &out);
    out.extend_from_slice(&crc.to_le_bytes());
    out.extend_from_slice(&END_MAGIC);
    out
}

/// Where the directory is, from a block's last bytes.
fn directory_place(number: u64, bytes: &[u8; TRAILER_BYTES]) -> Result<(u64, u32), Malformed> {
    let (offset, rest) = bytes.split_first_chunk::<8>().ok_or(Malformed("it is too short"))?;
    let length = rest.first_chunk::<4>().ok_or(Malformed("it is too short"))?;
    let place = (u64::from_le_bytes(*offset), u32::from_le_bytes(*length));
    if trailer(number, place.0, place.1) == bytes {
        Ok(place)
    } else {
        Err(Malformed("its end does not match its checksum"))
    }
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
