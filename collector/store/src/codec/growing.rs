//! The growing chunk of the head, bit exact, one sample at a time. It is only ever in memory: what counts is how fast it is
//! read, so that everything stands in whole bytes.
//!
//! A sample is a byte with two codes, then the bytes they announce, little-endian. The upper code is the number of bytes of
//! the zigzagged delta-of-delta of its time; none for 0. The lower one is 0 for the bits of the value before, 1 to 7 for so
//! many bytes of a zigzagged difference from the last value that was an integer, 8 to 15 for 1 to 8 bytes of an XOR with the
//! bits of the value before.

use tributary_model::fields::{Malformed, unzigzag, zigzag};

/// Lower codes from here on are XORs, the first of one byte.
const XOR: u32 = 8;
/// Integers below this are exact in an `f64`, and so are their differences in the bytes there are for them.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// Appends samples; each must be newer than the one before.
#[derive(Debug, Clone, Default)]
pub(crate) struct Appender {
    bytes: Vec<u8>,
    count: u32,
    first: i64,
    at: i64,
    delta: i64,
    value: u64,
    integer: i64,
}

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
        self.bytes.capacity()
    }

    pub(crate) fn push(&mut self, at: i64, value: u64) {
        if self.count == 0 {
            self.first = at;
        }
        let delta = at.wrapping_sub(self.at);
        let step = zigzag(delta.wrapping_sub(self.delta));
        let (code, difference) = self.code(value);
        let time_bytes = bytes_of(step);
        let value_bytes = if code >= XOR { code - XOR + 1 } else { code };
        self.bytes.push(u8::try_from(time_bytes << 4 | code).unwrap_or(0));
        put(&mut self.bytes, step, time_bytes);
        put(&mut self.bytes, difference, value_bytes);
        (self.at, self.delta, self.value) = (at, delta, value);
        self.count += 1;
    }

    /// The lower code of a value, and what stands for it.
    fn code(&mut self, value: u64) -> (u32, u64) {
        if value == self.value {
            return (0, 0);
        }
        let float = f64::from_bits(value);
        if let Some(integer) = to_integer(float) {
            let difference = zigzag(integer.wrapping_sub(self.integer));
            self.integer = integer;
            // Integers are equal only where something else was in between.
            return (bytes_of(difference).max(1), difference);
        }
        let xor = value ^ self.value;
        (XOR + bytes_of(xor) - 1, xor)
    }

    /// The chunk's bytes so far.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The chunk's bytes.
    pub(crate) fn finish(self) -> Vec<u8> {
        self.bytes
    }
}

/// The integer that a value is, if it is exact and has no other bits.
fn to_integer(value: f64) -> Option<i64> {
    #[expect(clippy::cast_possible_truncation, reason = "compared with what it was")]
    let integer = value as i64;
    let same = value.abs() < EXACT && (integer as f64).to_bits() == value.to_bits();
    same.then_some(integer)
}

/// How many bytes a number takes, none for 0.
fn bytes_of(number: u64) -> u32 {
    (64 - number.leading_zeros()).div_ceil(8)
}

fn put(out: &mut Vec<u8>, number: u64, bytes: u32) {
    let all = number.to_le_bytes();
    out.extend_from_slice(all.get(..count(bytes)).unwrap_or(&all));
}

fn count(bytes: u32) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// Reads a chunk of `count` samples: times, and values' bits. `visit` says whether to go on.
#[inline]
pub(crate) fn decode(
    bytes: &[u8],
    count: u32,
    mut visit: impl FnMut(i64, u64) -> bool,
) -> Result<(), Malformed> {
    let mut rest = bytes;
    let (mut at, mut delta, mut value, mut integer) = (0i64, 0i64, 0u64, 0i64);
    for _ in 0..count {
        let [codes, behind @ ..] = rest else { return Err(Malformed("a chunk ends too early")) };
        rest = behind;
        let (time, code) = (u32::from(codes >> 4), u32::from(codes & 15));
        if time > 0 {
            delta = delta.wrapping_add(unzigzag(take(&mut rest, time)?));
        }
        at = at.wrapping_add(delta);
        if code >= XOR {
            value ^= take(&mut rest, code - XOR + 1)?;
        } else if code > 0 {
            integer = integer.wrapping_add(unzigzag(take(&mut rest, code)?));
            value = (integer as f64).to_bits();
        }
        if !visit(at, value) {
            return Ok(());
        }
    }
    Ok(())
}

/// Takes a number of 1 to 8 bytes.
#[inline]
fn take(rest: &mut &[u8], bytes: u32) -> Result<u64, Malformed> {
    let word = rest.first_chunk::<8>().copied().unwrap_or_else(|| {
        let mut word = [0; 8];
        word.iter_mut().zip(*rest).for_each(|(to, from)| *to = *from);
        word
    });
    let kept = u64::MAX.checked_shr(64 - 8 * bytes.min(8)).unwrap_or(0);
    *rest = rest.get(count(bytes)..).ok_or(Malformed("a chunk ends too early"))?;
    Ok(u64::from_le_bytes(word) & kept)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn value() -> impl Strategy<Value = u64> {
        prop_oneof![
            3 => (-1000i64..1_000_000).prop_map(|v| (v as f64).to_bits()),
            1 => any::<i64>().prop_map(|v| (v as f64).to_bits()),
            2 => any::<f64>().prop_map(f64::to_bits),
            2 => any::<u64>(),
            1 => prop::sample::select(vec![0.0_f64, -0.0, EXACT, -EXACT, EXACT - 1.0]).prop_map(f64::to_bits),
        ]
    }

    proptest! {
        #[test]
        fn samples_come_back(first in any::<i64>(), samples in prop::collection::vec((prop_oneof![4 => Just(15_000), 1 => any::<i64>()], value()), 0..300)) {
            let mut appender = Appender::default();
            let mut at = first;
            let mut expected = Vec::new();
            for (step, value) in samples {
                appender.push(at, value);
                expected.push((at, value));
                at = at.wrapping_add(step);
            }
            let count = appender.count();
            prop_assert_eq!(appender.bytes().to_vec(), appender.clone().finish());
            let bytes = appender.finish();
            let mut back = Vec::new();
            decode(&bytes, count, |at, value| { back.push((at, value)); true }).unwrap();
            prop_assert_eq!(back, expected);
            prop_assert!(decode(&bytes, count + 1, |_, _| true).is_err());
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..80), count in 0..100u32) {
            let _ = decode(&bytes, count, |_, _| true);
        }
    }
}
