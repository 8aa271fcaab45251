//! One record's bytes: marker, length, checksums, kind and payload.

use crate::Position;

/// Longest payload of one record. Longer ones are refused before anything is written.
pub const MAX_RECORD_BYTES: usize = 16 << 20;

/// Bytes in front of a payload.
pub(crate) const HEADER_BYTES: usize = 20;

/// Every record begins with it, so that a reader can find the next record behind damaged bytes.
pub(crate) const MARKER: [u8; 4] = [0xD7, 0x4A, 0xE1, 0x93];

/// What makes a record's header valid at one place only: a copy elsewhere, or in a payload, is not a record.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seal {
    /// The segment's random salt.
    pub(crate) salt: u64,
    /// The record's offset in the segment.
    pub(crate) offset: u64,
}

impl Seal {
    fn header_crc(self, first_16: &[u8]) -> u32 {
        let crc = crc32c::crc32c(&self.salt.to_le_bytes());
        let crc = crc32c::crc32c_append(crc, &self.offset.to_le_bytes());
        crc32c::crc32c_append(crc, first_16)
    }
}

/// Appends a record to `out`.
pub(crate) fn encode(out: &mut Vec<u8>, seal: Seal, kind: u8, payload: &[u8], length: u32) {
    let mut header = [0u8; 16];
    let parts: [&[u8]; 5] =
        [&MARKER, &length.to_le_bytes(), &crc32c::crc32c(payload).to_le_bytes(), &[kind], &[0; 3]];
    for (to, from) in header.iter_mut().zip(parts.iter().flat_map(|part| part.iter())) {
        *to = *from;
    }
    out.extend_from_slice(&header);
    out.extend_from_slice(&seal.header_crc(&header).to_le_bytes());
    out.extend_from_slice(payload);
}

/// What stands at a place.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found<'a> {
    /// A whole, valid record.
    Record {
        /// Its kind.
        kind: u8,
        /// Its payload.
        payload: &'a [u8],
    },
    /// The bytes end before the record does; `needs` bytes are needed from its start.
    Short {
        /// Bytes needed, header included.
        needs: usize,
    },
    /// No valid record.
    Bad(&'static str),
}

/// Reads the record at the beginning of `bytes`.
pub(crate) fn decode(bytes: &[u8], seal: Seal) -> Found<'_> {
    let Some((header, rest)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
        return Found::Short { needs: HEADER_BYTES };
    };
    let [m0, m1, m2, m3, l0, l1, l2, l3, p0, p1, p2, p3, kind, z0, z1, z2, h0, h1, h2, h3] =
        *header;
    if [m0, m1, m2, m3] != MARKER {
        return Found::Bad("no record begins here");
    }
    let first_16 = header.first_chunk::<16>().map_or(&[][..], |first| first);
    if seal.header_crc(first_16) != u32::from_le_bytes([h0, h1, h2, h3]) {
        return Found::Bad("the record's header does not match its checksum");
    }
    let length = usize::try_from(u32::from_le_bytes([l0, l1, l2, l3])).unwrap_or(usize::MAX);
    if length > MAX_RECORD_BYTES || [z0, z1, z2] != [0; 3] {
        return Found::Bad("the record's header is not valid");
    }
    let Some(payload) = rest.get(..length) else {
        return Found::Short { needs: HEADER_BYTES + length };
    };
    if crc32c::crc32c(payload) != u32::from_le_bytes([p0, p1, p2, p3]) {
        return Found::Bad("the record's payload does not match its checksum");
    }
    Found::Record { kind, payload }
}

/// One record, as read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Where it stands.
    pub position: Position,
    /// What the writer called it.
    pub kind: u8,
    /// What the writer gave.
    pub payload: Vec<u8>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn valid_at_its_place_only() {
        let seal = Seal { salt: 7, offset: 64 };
        let mut bytes = Vec::new();
        encode(&mut bytes, seal, 3, b"payload", 7);
        assert_eq!(bytes.len(), HEADER_BYTES + 7);
        assert_eq!(decode(&bytes, seal), Found::Record { kind: 3, payload: b"payload" });
        assert!(matches!(decode(&bytes, Seal { salt: 7, offset: 65 }), Found::Bad(_)));
        assert!(matches!(decode(&bytes, Seal { salt: 8, offset: 64 }), Found::Bad(_)));
        assert_eq!(decode(&bytes[..9], seal), Found::Short { needs: HEADER_BYTES });
        assert_eq!(decode(&bytes[..25], seal), Found::Short { needs: HEADER_BYTES + 7 });
    }
}
