//! Fields of records and keys: variable-length integers and length-prefixed bytes.

/// A field's bytes are not what they must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Malformed(pub(crate) &'static str);

/// LEB128.
pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push((value & 0x7f) as u8);
}

/// Small magnitudes of either sign become small numbers.
pub(crate) fn zigzag(value: i64) -> u64 {
    (value.cast_unsigned() << 1) ^ (value >> 63).cast_unsigned()
}

/// The inverse of [`zigzag`].
pub(crate) fn unzigzag(value: u64) -> i64 {
    (value >> 1).cast_signed() ^ -(value & 1).cast_signed()
}

/// A signed integer.
pub(crate) fn put_signed(out: &mut Vec<u8>, value: i64) {
    put_varint(out, zigzag(value));
}

/// A length, then the bytes.
pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

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

/// Reads fields from the front.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

impl<'a> Fields<'a> {
    pub(crate) fn byte(&mut self) -> Result<u8, Malformed> {
        let (first, rest) = self.0.split_first().ok_or(Malformed("the bytes end too early"))?;
        self.0 = rest;
        Ok(*first)
    }

    pub(crate) fn varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            value |= bits << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Malformed("an integer is too long"))
    }

    /// A varint that counts things in memory.
    pub(crate) fn count(&mut self) -> Result<usize, Malformed> {
        usize::try_from(self.varint()?).map_err(|_| Malformed("a count is too large"))
    }

    /// A varint that fits 32 bits.
    pub(crate) fn small(&mut self) -> Result<u32, Malformed> {
        u32::try_from(self.varint()?).map_err(|_| Malformed("a number is too large"))
    }

    pub(crate) fn signed(&mut self) -> Result<i64, Malformed> {
        self.varint().map(unzigzag)
    }

    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) =
            self.0.split_at_checked(count).ok_or(Malformed("the bytes end too early"))?;
        self.0 = rest;
        Ok(taken)
    }

    pub(crate) fn u64_le(&mut self) -> Result<u64, Malformed> {
        let (taken, rest) =
            self.0.split_first_chunk::<8>().ok_or(Malformed("the bytes end too early"))?;
        self.0 = rest;
        Ok(u64::from_le_bytes(*taken))
    }

    pub(crate) fn u32_be(&mut self) -> Result<u32, Malformed> {
        let (taken, rest) =
            self.0.split_first_chunk::<4>().ok_or(Malformed("the bytes end too early"))?;
        self.0 = rest;
        Ok(u32::from_be_bytes(*taken))
    }

    pub(crate) fn bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let count = self.count()?;
        self.take(count)
    }

    pub(crate) fn text(&mut self) -> Result<&'a str, Malformed> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Malformed("a text is not UTF-8"))
    }

    /// Nothing may be left.
    pub(crate) fn end(self) -> Result<(), Malformed> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed("bytes are left over")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_round_trip() {
        for value in [0, 1, -1, 63, -64, 300, i64::MAX, i64::MIN] {
            let mut bytes = Vec::new();
            put_signed(&mut bytes, value);
            let mut fields = Fields(&bytes);
            assert_eq!(fields.signed(), Ok(value));
            assert_eq!(fields.end(), Ok(()));
        }
        assert!(Fields(&[0xff; 10]).varint().is_err());
        assert!(Fields(&[0x80]).varint().is_err());
        assert!(Fields(&[5, 1]).bytes().is_err());
    }

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
