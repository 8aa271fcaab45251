//! A frame's first bytes and its checksum.

use tributary_model::fields::{put_signed, put_varint};
use tributary_model::sample::Timestamp;

use super::wire::Reader;
use super::{FrameError, Header};

/// The first bytes of every frame.
const MAGIC: [u8; 4] = *b"TRBF";
/// The format's version. A segment of version 1 has no others; frames of 2 and 3 stand in one segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    /// Read only.
    V1,
    V2,
    /// The same with histograms. A frame without any is written as version 2.
    V3 {
        /// How many of the samples are histograms; at least one.
        histograms: u32,
    },
}

impl Version {
    /// The version of a frame with so many histograms.
    pub(super) fn of(histograms: usize) -> Self {
        match u32::try_from(histograms).unwrap_or(u32::MAX) {
            0 => Self::V2,
            histograms => Self::V3 { histograms },
        }
    }

    /// How many of the samples are histograms.
    pub(super) fn histograms(self) -> u32 {
        match self {
            Self::V1 | Self::V2 => 0,
            Self::V3 { histograms } => histograms,
        }
    }

    fn code(self) -> u8 {
        match self {
            Self::V1 => 1,
            Self::V2 => 2,
            Self::V3 { .. } => 3,
        }
    }

    /// The version a byte stands for; histograms are not counted yet.
    fn from_code(code: u8) -> Result<Self, FrameError> {
        let all = [Self::V1, Self::V2, Self::V3 { histograms: 0 }];
        let known = all.into_iter().find(|known| known.code() == code);
        known.ok_or(FrameError::Version(code))
    }
}

/// Flag: the decoder starts anew.
const STARTS_SEGMENT: u8 = 1;
/// CRC-32C of everything before it, little-endian.
const CHECKSUM_BYTES: usize = 4;

/// The header's bytes; sections follow, then [`seal`].
pub(super) fn write(header: &Header, version: Version) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    out.extend_from_slice(&MAGIC);
    out.push(version.code());
    out.push(if header.starts_segment { STARTS_SEGMENT } else { 0 });
    out.extend_from_slice(&header.epoch.to_le_bytes());
    put_varint(&mut out, header.seq);
    put_varint(&mut out, header.segment);
    let (complete, min, max) =
        (header.complete_until.as_millis(), header.min_at.as_millis(), header.max_at.as_millis());
    put_signed(&mut out, complete);
    put_signed(&mut out, min.wrapping_sub(complete));
    put_varint(&mut out, max.wrapping_sub(min).cast_unsigned());
    put_varint(&mut out, u64::from(header.samples));
    if let Version::V3 { histograms } = version {
        put_varint(&mut out, u64::from(histograms));
    }
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
    let mut version = Version::from_code(reader.u8()?)?;
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
    let (seq, segment) = (reader.varint()?, reader.varint()?);
    let complete = reader.signed()?;
    let min = complete.wrapping_add(reader.signed()?);
    let max = min.wrapping_add(reader.varint()?.cast_signed());
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
    if let Version::V3 { histograms } = &mut version {
        *histograms = reader.u32()?;
        if *histograms == 0 || *histograms > header.samples {
            return Err(reader.malformed("it counts no histograms, or more than there are samples"));
        }
    }
    if seq == 0 {
        return Err(reader.malformed("frames are numbered from 1"));
    }
    Ok((header, version, reader.rest()))
}
