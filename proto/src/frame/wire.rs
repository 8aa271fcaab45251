//! Integers and byte strings as a frame writes them, and a reader that checks every step.

use super::FrameError;

/// Longest varint of a `u64`.
pub(super) const MAX_VARINT_BYTES: usize = 10;

/// Seven bits a byte, low bits first, high bit set on all but the last.
pub(super) fn put_uvarint(out: &mut Vec<u8>, mut value: u64) {
    loop {
        let low = value.to_le_bytes()[0] & 0x7f;
        value >>= 7;
        if value == 0 {
            out.push(low);
            return;
        }
        out.push(low | 0x80);
    }
}

/// A length or count.
pub(super) fn put_len(out: &mut Vec<u8>, len: usize) {
    put_uvarint(out, u64::try_from(len).unwrap_or(u64::MAX));
}

/// Zigzag, then varint.
pub(super) fn put_svarint(out: &mut Vec<u8>, value: i64) {
    put_uvarint(out, zigzag(value));
}

/// A length and that many bytes.
pub(super) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_len(out, bytes.len());
    out.extend_from_slice(bytes);
}

/// 0, -1, 1, -2, … become 0, 1, 2, 3, ….
pub(super) fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)).cast_unsigned()
}

/// The inverse of [`zigzag`].
pub(super) fn unzigzag(value: u64) -> i64 {
    (value >> 1).cast_signed() ^ -((value & 1).cast_signed())
}

/// Reads from the front of a byte slice; never past its end.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
    /// What is being read, for errors.
    what: &'static str,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8], what: &'static str) -> Self {
        Self { rest: bytes, what }
    }

    /// Bytes not read yet.
    pub(super) fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// The bytes not read yet.
    pub(super) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(super) fn truncated(&self) -> FrameError {
        FrameError::Truncated { what: self.what }
    }

    pub(super) fn malformed(&self, why: &'static str) -> FrameError {
        FrameError::Malformed { what: self.what, why }
    }

    pub(super) fn u8(&mut self) -> Result<u8, FrameError> {
        let (first, rest) = self.rest.split_first().ok_or_else(|| self.truncated())?;
        self.rest = rest;
        Ok(*first)
    }

    pub(super) fn take(&mut self, len: usize) -> Result<&'a [u8], FrameError> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or_else(|| self.truncated())?;
        self.rest = rest;
        Ok(taken)
    }

    pub(super) fn u64_le(&mut self) -> Result<u64, FrameError> {
        let bytes = self.take(8)?.try_into().map_err(|_| self.truncated())?;
        Ok(u64::from_le_bytes(bytes))
    }

    pub(super) fn uvarint(&mut self) -> Result<u64, FrameError> {
        let mut value = 0u64;
        for shift in (0..).step_by(7).take(MAX_VARINT_BYTES) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(self.malformed("a number is over 64 bits"))
    }

    pub(super) fn svarint(&mut self) -> Result<i64, FrameError> {
        self.uvarint().map(unzigzag)
    }

    /// A `u32` as varint.
    pub(super) fn u32(&mut self) -> Result<u32, FrameError> {
        u32::try_from(self.uvarint()?).map_err(|_| self.malformed("a number is over 32 bits"))
    }

    /// A count of things that take at least `each` bytes here, which bounds it by the input.
    pub(super) fn count(&mut self, each: usize) -> Result<usize, FrameError> {
        let count = self.len()?;
        if count.saturating_mul(each) > self.rest.len() {
            return Err(self.truncated());
        }
        Ok(count)
    }

    /// A length or count that the caller bounds.
    pub(super) fn len(&mut self) -> Result<usize, FrameError> {
        usize::try_from(self.uvarint()?).map_err(|_| self.malformed("a count is too large"))
    }

    /// A length and that many bytes.
    pub(super) fn bytes(&mut self) -> Result<&'a [u8], FrameError> {
        let len = self.len()?;
        self.take(len)
    }

    /// A length and that many bytes of UTF-8.
    pub(super) fn text(&mut self) -> Result<&'a str, FrameError> {
        std::str::from_utf8(self.bytes()?).map_err(|_| self.malformed("a text is not UTF-8"))
    }

    /// Refuses bytes that nothing explains.
    pub(super) fn end(&self) -> Result<(), FrameError> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.malformed("bytes are left over")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints_round_trip_and_are_bounded() {
        for value in [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX - 1, u64::MAX] {
            let mut out = Vec::new();
            put_uvarint(&mut out, value);
            let mut reader = Reader::new(&out, "test");
            assert_eq!(reader.uvarint().unwrap(), value);
            reader.end().unwrap();
        }
        for value in [0, -1, 1, i64::MIN, i64::MAX] {
            assert_eq!(unzigzag(zigzag(value)), value);
        }
        assert!(Reader::new(&[0xff; 10], "test").uvarint().is_err());
        assert!(Reader::new(&[0xff; 9], "test").uvarint().is_err());
        assert!(Reader::new(&[0x80; 20], "test").uvarint().is_err());
    }
}
