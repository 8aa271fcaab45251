//! The growing chunk of the head: delta-of-delta times and XORed values, bit exact, one sample at a time.

use tributary_model::sample::{Sample, Timestamp};

use super::bits::{BitReader, BitWriter};
use super::fields::{Malformed, unzigzag, zigzag};

/// Appends samples; each must be newer than the one before.
#[derive(Debug, Clone, Default)]
pub(crate) struct Appender {
    bits: BitWriter,
    count: u32,
    first: i64,
    at: i64,
    delta: i64,
    value: u64,
    leading: u32,
    /// Width of the last XOR window; 0 before the first.
    width: u32,
}

/// Prefix length, prefix and width of the zigzagged delta-of-delta.
const STEPS: [(u32, u64, u32); 5] =
    [(1, 0b0, 0), (2, 0b10, 10), (3, 0b110, 16), (4, 0b1110, 24), (4, 0b1111, 64)];

impl Appender {
    pub(crate) fn count(&self) -> u32 {
        self.count
    }

    /// The first sample's time.
    pub(crate) fn first(&self) -> i64 {
        self.first
    }

    /// The newest sample's time.
    pub(crate) fn last(&self) -> i64 {
        self.at
    }

    pub(crate) fn capacity(&self) -> usize {
        self.bits.capacity()
    }

    pub(crate) fn push(&mut self, at: i64, value: u64) {
        if self.count == 0 {
            self.bits.write(at.cast_unsigned(), 64);
            self.bits.write(value, 64);
            self.first = at;
        } else {
            let delta = at.wrapping_sub(self.at);
            self.push_step(zigzag(delta.wrapping_sub(self.delta)));
            self.push_value(value ^ self.value);
            self.delta = delta;
        }
        self.at = at;
        self.value = value;
        self.count += 1;
    }

    fn push_step(&mut self, step: u64) {
        for (length, prefix, width) in STEPS {
            if width == 64 || step >> width == 0 {
                self.bits.write(prefix, length);
                self.bits.write(step, width);
                return;
            }
        }
    }

    fn push_value(&mut self, xor: u64) {
        if xor == 0 {
            self.bits.write(0, 1);
            return;
        }
        let leading = xor.leading_zeros().min(31);
        let trailing = xor.trailing_zeros();
        let kept = 64u32.saturating_sub(self.leading + self.width);
        if self.width > 0 && leading >= self.leading && trailing >= kept {
            self.bits.write(0b10, 2);
        } else {
            self.leading = leading;
            self.width = 64 - leading - trailing;
            let header = 0b11 << 11 | u64::from(leading) << 6 | u64::from(self.width - 1);
            self.bits.write(header, 13);
        }
        self.bits.write(xor >> (64 - self.leading - self.width), self.width);
    }

    /// The chunk's bytes so far.
    pub(crate) fn snapshot(&self) -> Vec<u8> {
        self.bits.snapshot()
    }

    /// The chunk's bytes.
    pub(crate) fn finish(self) -> Vec<u8> {
        self.bits.finish()
    }
}

/// Reads a chunk of `count` samples; `visit` says whether to go on.
pub(crate) fn decode(
    bytes: &[u8],
    count: u32,
    mut visit: impl FnMut(Sample) -> bool,
) -> Result<(), Malformed> {
    let mut reader = Reader::new(bytes);
    for _ in 0..count {
        let (at, value) = reader.next().ok_or(Malformed("a chunk ends too early"))?;
        if !visit(Sample { at: Timestamp::from_millis(at), value: f64::from_bits(value) }) {
            return Ok(());
        }
    }
    Ok(())
}

struct Reader<'a> {
    bits: BitReader<'a>,
    started: bool,
    at: i64,
    delta: i64,
    value: u64,
    leading: u32,
    width: u32,
}

impl<'a> Reader<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        let bits = BitReader::new(bytes);
        Self { bits, started: false, at: 0, delta: 0, value: 0, leading: 0, width: 0 }
    }

    fn next(&mut self) -> Option<(i64, u64)> {
        if self.started {
            let width = self.step_width()?;
            let step = unzigzag(self.bits.read(width)?);
            self.delta = self.delta.wrapping_add(step);
            self.at = self.at.wrapping_add(self.delta);
            self.value ^= self.xor()?;
        } else {
            self.at = self.bits.read(64)?.cast_signed();
            self.value = self.bits.read(64)?;
            self.started = true;
        }
        Some((self.at, self.value))
    }

    fn step_width(&mut self) -> Option<u32> {
        let mut ones = 0;
        while ones < 4 && self.bits.bit()? {
            ones += 1;
        }
        STEPS.get(ones).map(|(_, _, width)| *width)
    }

    fn xor(&mut self) -> Option<u64> {
        if !self.bits.bit()? {
            return Some(0);
        }
        if self.bits.bit()? {
            self.leading = u32::try_from(self.bits.read(5)?).ok()?;
            self.width = u32::try_from(self.bits.read(6)?).ok()? + 1;
        }
        let shift = 64u32.checked_sub(self.leading + self.width)?;
        if self.width == 0 {
            return None;
        }
        Some(self.bits.read(self.width)? << shift)
    }
}
