//! Values of the key-value store with their checksums.

use tributary_model::fields::Malformed;

/// Puts a CRC-32C in front of a value. It covers the key, so that a value under another key is damage.
pub(crate) fn checked(key: &[u8], value: &[u8]) -> Vec<u8> {
    let mut out = checksum(key, value).to_le_bytes().to_vec();
    out.extend_from_slice(value);
    out
}

/// The value that [`checked`] was given.
pub(crate) fn unchecked<'a>(key: &[u8], stored: &'a [u8]) -> Result<&'a [u8], Malformed> {
    let (crc, value) = stored.split_at_checked(4).ok_or(Malformed("it is too short"))?;
    if checksum(key, value).to_le_bytes() == crc {
        Ok(value)
    } else {
        Err(Malformed("it does not match its checksum"))
    }
}

fn checksum(key: &[u8], value: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(key), value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checked_values_notice_every_bit_and_another_key() {
        let stored = checked(b"key", b"value");
        assert_eq!(unchecked(b"key", &stored), Ok(&b"value"[..]));
        assert!(unchecked(b"kex", &stored).is_err());
        assert!(unchecked(b"key", &stored[..3]).is_err());
        for bit in 0..stored.len() * 8 {
            let mut flipped = stored.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(unchecked(b"key", &flipped).is_err(), "bit {bit}");
        }
    }
}
