//! A frame's first bytes and its checksum.

use tributary_model::sample::Timestamp;

use super::wire::{Reader, put_svarint, put_uvarint};
use super::{FrameError, Header};

/// The first bytes of every frame.
const MAGIC: [u8; 4] = *b"TRBF";
/// The format's version. All frames of a segment have the same one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    /// Read only.
    V1,
    V2,
}

impl Version {
    /// What is written.
    const WRITTEN: u8 = 2;

    fn from_code(code: u8) -> Result<Self, FrameError> {
        match code {
            1 => Ok(Self::V1),
            2 => Ok(Self::V2),
            other => Err(FrameError::Version(other)),
        }
    }
}

/// Flag: the decoder starts anew.
const STARTS_SEGMENT: u8 = 1;
/// CRC-32C of everything before it, little-endian.
const CHECKSUM_BYTES: usize = 4;

/// The header's bytes; sections follow, then [`seal`].
pub(super) fn write(header: &Header) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    out.extend_from_slice(&MAGIC);
    out.push(Version::WRITTEN);
    out.push(if header.starts_segment { STARTS_SEGMENT } else { 0 });
    out.extend_from_slice(&header.epoch.to_le_bytes());
    put_uvarint(&mut out, header.seq);
    put_uvarint(&mut out, header.segment);
    let (complete, min, max) =
        (header.complete_until.as_millis(), header.min_at.as_millis(), header.max_at.as_millis());
    put_svarint(&mut out, complete);
    put_svarint(&mut out, min.wrapping_sub(complete));
    put_uvarint(&mut out, max.wrapping_sub(min).cast_unsigned());
    put_uvarint(&mut out, u64::from(header.samples));
    out
}

/// Appends the checksum.
pub(super) fn seal(out: &mut Vec<u8>) {
    let checksum = crc32c::crc32c(out);
    out.extend_from_slice(&checksum.to_le_bytes());
}

/// The header, the format's version, and the bytes of the sections.
pub(super) fn read(bytes: &[u8], max: usize) -> Result<(Header, Version, &[u8]), FrameError> {
    if bytes.len() > max {
        return Err(FrameError::too_large("frame", bytes.len(), max));
    }
    let mut reader = Reader::new(bytes, "header");
    if reader.take(MAGIC.len()).ok() != Some(&MAGIC) {
        return Err(FrameError::NotAFrame);
    }
    let version = Version::from_code(reader.u8()?)?;
    let content = bytes.len().checked_sub(CHECKSUM_BYTES);
    let (content, checksum) = content
        .and_then(|at| bytes.split_at_checked(at))
        .ok_or(FrameError::Truncated { what: "header" })?;
    if checksum != crc32c::crc32c(content).to_le_bytes() {
        return Err(FrameError::Checksum);
    }
    let mut reader = Reader::new(content, "header");
    reader.take(MAGIC.len() + 1)?;
    let flags = reader.u8()?;
    if flags & !STARTS_SEGMENT != 0 {
        return Err(reader.malformed("an unknown flag is set"));
    }
    let epoch = reader.u64_le()?;
    let (seq, segment) = (reader.uvarint()?, reader.uvarint()?);
    let complete = reader.svarint()?;
    let min = complete.wrapping_add(reader.svarint()?);
    let max = min.wrapping_add(reader.uvarint()?.cast_signed());
    let header = Header {
        epoch,
        seq,
        segment,
        starts_segment: flags & STARTS_SEGMENT != 0,
        complete_until: Timestamp::from_millis(complete),
        min_at: Timestamp::from_millis(min),
        max_at: Timestamp::from_millis(max),
        samples: reader.u32()?,
    };
    if seq == 0 {
        return Err(reader.malformed("frames are numbered from 1"));
    }
    Ok((header, version, reader.rest()))
}
