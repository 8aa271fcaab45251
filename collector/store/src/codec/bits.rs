//! Bit by bit, most significant first.

/// Grows a bit string.
#[derive(Debug, Clone)]
pub(crate) struct BitWriter {
    bytes: Vec<u8>,
    /// Bits not in `bytes` yet, from the top.
    pending: u64,
    /// Free bits at the bottom of `pending`; 1 to 64.
    free: u32,
}

impl Default for BitWriter {
    fn default() -> Self {
        Self { bytes: Vec::new(), pending: 0, free: 64 }
    }
}

impl BitWriter {
    /// Appends the lowest `count` bits of `value`; the others must be zero.
    pub(crate) fn write(&mut self, value: u64, count: u32) {
        if count == 0 {
            return;
        }
        if count < self.free {
            self.free -= count;
            self.pending |= value << self.free;
            return;
        }
        let rest = count - self.free;
        self.pending |= value >> rest;
        self.bytes.extend_from_slice(&self.pending.to_be_bytes());
        self.free = 64 - rest;
        self.pending = if rest == 0 { 0 } else { value << self.free };
    }

    /// The bits, padded with zeros to whole bytes.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        let tail = self.pending.to_be_bytes();
        let length = usize::try_from((64 - self.free).div_ceil(8)).unwrap_or(8);
        self.bytes.extend(tail.iter().take(length));
        self.bytes
    }
}

/// Bits that a look ahead has at least.
pub(crate) const PEEKED: u32 = 57;

/// Reads what a [`BitWriter`] wrote. Reading over the end is `None`.
#[derive(Debug, Clone)]
pub(crate) struct BitReader<'a> {
    bytes: &'a [u8],
    bit: usize,
}

impl<'a> BitReader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, bit: 0 }
    }

    /// The next `count` bits, at most 64.
    pub(crate) fn read(&mut self, count: u32) -> Option<u64> {
        if count > 56 {
            let low = count - 32;
            return Some(self.read(32)? << low | self.read(low)?);
        }
        if count == 0 {
            return Some(0);
        }
        let from = self.bytes.get(self.bit / 8..)?;
        let shift = u32::try_from(self.bit % 8).unwrap_or(0);
        let word = if let Some(word) = from.first_chunk::<8>() {
            u64::from_be_bytes(*word)
        } else {
            let available = u32::try_from(from.len() * 8).unwrap_or(0);
            if shift + count > available {
                return None;
            }
            let mut word = [0u8; 8];
            for (to, from) in word.iter_mut().zip(from) {
                *to = *from;
            }
            u64::from_be_bytes(word)
        };
        self.bit += usize::try_from(count).unwrap_or(0);
        Some(word << shift >> (64 - count))
    }

    /// The next bits from the top of a word, at least [`PEEKED`] of them; zeros behind the end. They stay unread.
    #[inline]
    pub(crate) fn peek(&self) -> u64 {
        let at = self.bit / 8;
        let word = match self.bytes.get(at..at + 8).and_then(|from| from.first_chunk::<8>()) {
            Some(word) => u64::from_be_bytes(*word),
            None => last_word(self.bytes, at),
        };
        word << (self.bit % 8)
    }

    /// Passes over bits that were looked at; [`BitReader::is_inside`] says whether they were there.
    #[inline]
    pub(crate) fn skip(&mut self, count: u32) {
        // There are never so many bytes that this wraps: the bits of a slice, and a few for each value of a chunk.
        self.bit = self.bit.wrapping_add(usize::try_from(count).unwrap_or(usize::MAX));
    }

    /// Whether nothing behind the end was passed over.
    pub(crate) fn is_inside(&self) -> bool {
        self.bytes_read() <= self.bytes.len()
    }

    /// Whole bytes that were begun.
    pub(crate) fn bytes_read(&self) -> usize {
        self.bit.div_ceil(8)
    }
}

/// The last bytes from a place on, less than eight, and zeros behind them.
fn last_word(bytes: &[u8], at: usize) -> u64 {
    let (word, from) = match bytes.last_chunk::<8>() {
        Some(last) => (u64::from_be_bytes(*last), bytes.len() - 8),
        None => (bytes.iter().rfold(0, |word, byte| word >> 8 | u64::from(*byte) << 56), 0),
    };
    let passed = u32::try_from(at.saturating_sub(from)).unwrap_or(8);
    word.checked_shl(passed.saturating_mul(8)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn reads_what_was_written(parts in prop::collection::vec((any::<u64>(), 0..=64u32), 0..100)) {
            let parts: Vec<_> = parts
                .into_iter()
                .map(|(value, count)| (value & u64::MAX.checked_shr(64 - count).unwrap_or(0), count))
                .collect();
            let mut writer = BitWriter::default();
            for (value, count) in &parts {
                writer.write(*value, *count);
            }
            let bytes = writer.finish();
            let mut reader = BitReader::new(&bytes);
            for (value, count) in &parts {
                prop_assert_eq!(reader.read(*count), Some(*value));
            }
            prop_assert!(reader.read(8).is_none());
            prop_assert_eq!(reader.bytes_read(), bytes.len());
        }
    }
}
