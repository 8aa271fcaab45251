//! Bytes that are compressed if that helps, and checked: catalogue blocks, and the sections of a block file.

use tributary_model::fields::Malformed;

/// The version this program writes and reads.
const VERSION: u8 = 1;
const FLAG_ZSTD: u8 = 1;
/// Bytes in front of what is sealed.
pub(crate) const ENVELOPE_BYTES: usize = 10;
const ZSTD_LEVEL: i32 = 3;
/// Compression has to save one byte in so many: what is read must be decompressed each time.
const WORTH: usize = 32;
/// Most bytes a value may claim to hold uncompressed.
const MAX_RAW_BYTES: usize = 1 << 24;

/// A compressor for [`seal`].
pub(crate) fn compressor() -> std::io::Result<zstd::bulk::Compressor<'static>> {
    zstd::bulk::Compressor::new(ZSTD_LEVEL)
}

/// Compresses, if that helps, and puts version, length and checksum in front. The checksum covers the key, so that a
/// value in another place is damage.
pub(crate) fn seal(key: &[u8], raw: &[u8], zstd: &mut zstd::bulk::Compressor<'_>) -> Vec<u8> {
    let worth = |compressed: &Vec<u8>| compressed.len() < raw.len() - raw.len() / WORTH;
    let compressed = zstd.compress(raw).ok().filter(worth);
    let (flags, stored) = compressed.as_deref().map_or((0, raw), |stored| (FLAG_ZSTD, stored));
    let length = u32::try_from(raw.len()).unwrap_or(u32::MAX);
    let mut out = Vec::with_capacity(ENVELOPE_BYTES + stored.len());
    out.extend_from_slice(&[VERSION, flags]);
    out.extend_from_slice(&length.to_le_bytes());
    let crc = checksum(key, &out, stored);
    out.extend_from_slice(&crc.to_le_bytes());
    out.extend_from_slice(stored);
    out
}

/// Checks and decompresses what [`seal`] made.
pub(crate) fn unseal(key: &[u8], value: &[u8]) -> Result<Vec<u8>, Malformed> {
    let (head, rest) = value.split_at_checked(6).ok_or(Malformed("it is too short"))?;
    let (crc, stored) = rest.split_at_checked(4).ok_or(Malformed("it is too short"))?;
    if checksum(key, head, stored).to_le_bytes() != crc {
        return Err(Malformed("it does not match its checksum"));
    }
    let [version, flags, l0, l1, l2, l3] = *head else {
        return Err(Malformed("it is too short"));
    };
    if version != VERSION {
        return Err(Malformed("it has an unknown version"));
    }
    let length = usize::try_from(u32::from_le_bytes([l0, l1, l2, l3])).unwrap_or(usize::MAX);
    if length > MAX_RAW_BYTES {
        return Err(Malformed("it claims too many bytes"));
    }
    let raw = match flags {
        0 => stored.to_vec(),
        FLAG_ZSTD => zstd::bulk::decompress(stored, length)
            .map_err(|_| Malformed("it cannot be decompressed"))?,
        _ => return Err(Malformed("it has unknown flags")),
    };
    if raw.len() != length {
        return Err(Malformed("it has another length than it says"));
    }
    Ok(raw)
}

fn checksum(key: &[u8], head: &[u8], stored: &[u8]) -> u32 {
    let crc = crc32c::crc32c_append(crc32c::crc32c(key), head);
    crc32c::crc32c_append(crc, stored)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_every_cut_and_another_key_are_found() {
        let mut zstd = compressor().unwrap();
        for raw in [b"abcabcabc".repeat(20), (0..=255u8).collect()] {
            let sealed = seal(b"key", &raw, &mut zstd);
            assert_eq!(unseal(b"key", &sealed), Ok(raw));
            assert!(unseal(b"kez", &sealed).is_err());
            for bit in 0..sealed.len() * 8 {
                let mut flipped = sealed.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert!(unseal(b"key", &flipped).is_err(), "bit {bit}");
            }
            for length in 0..sealed.len() {
                assert!(unseal(b"key", &sealed[..length]).is_err(), "cut at {length}");
            }
        }
    }
}
