//! One value after another of one series: decimal deltas, with an exact fall-back for every bit pattern.

use tributary_model::sample::STALE_NAN_BITS;

use super::FrameError;
use super::wire::{Reader, put_svarint, put_uvarint, unzigzag, zigzag};

/// Largest integer that a decimal value may be: every integer up to here is an `f64`.
const MAX_INTEGER: i64 = 1 << 53;

/// Powers of ten that are exact in an `f64` and useful as divisors.
const POWERS: [f64; 19] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16,
    1e17, 1e18,
];

/// Token: the same bits as the last value.
const SAME: u64 = 0;
/// Token: an escape byte follows.
const ESCAPE: u64 = 1;
/// Tokens from here on are a change, zigzag in decimal mode, a shape of XOR bytes in bits mode.
const CHANGE: u64 = 2;

/// Escape: the staleness marker.
const STALE: u8 = 0x20;
/// Escape: eight bytes, and the mode stays.
const ONCE: u8 = 0x21;
/// Escape: eight bytes, and the mode becomes bits.
const BITS: u8 = 0x22;

/// Decimal values in a row after which a series in bits mode goes back to decimals.
const DECIMALS_BEFORE_SWITCH: u8 = 4;

/// What both ends know of a series after its last value.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Series {
    last_bits: u64,
    last_integer: i64,
    mode: Mode,
    /// Encoder only: decimal values in a row while in bits mode.
    decimals: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// The value is an integer over ten to this power.
    Decimal(u8),
    /// XOR with the last bits.
    Bits,
}

impl Default for Mode {
    fn default() -> Self {
        Self::Decimal(0)
    }
}

impl Series {
    /// Appends one value.
    pub(super) fn encode(&mut self, value: f64, out: &mut Vec<u8>) {
        let bits = value.to_bits();
        if bits == self.last_bits {
            put_uvarint(out, SAME);
            return;
        }
        match self.mode {
            Mode::Decimal(exponent) => self.encode_decimal(value, exponent, out),
            Mode::Bits => self.encode_bits(value, out),
        }
        self.last_bits = bits;
    }

    fn encode_decimal(&mut self, value: f64, exponent: u8, out: &mut Vec<u8>) {
        if let Some(integer) = integer_at(value, exponent) {
            put_uvarint(out, CHANGE + zigzag(integer - self.last_integer));
            self.last_integer = integer;
        } else if let Some((exponent, integer)) = decimal(value) {
            self.switch_to_decimal(exponent, integer, out);
        } else if value.to_bits() == STALE_NAN_BITS {
            put_uvarint(out, ESCAPE);
            out.push(STALE);
        } else {
            put_uvarint(out, ESCAPE);
            let lasting = value.is_finite();
            out.push(if lasting { BITS } else { ONCE });
            out.extend_from_slice(&value.to_bits().to_le_bytes());
            if lasting {
                self.mode = Mode::Bits;
                self.decimals = 0;
            }
        }
    }

    fn encode_bits(&mut self, value: f64, out: &mut Vec<u8>) {
        if value.to_bits() == STALE_NAN_BITS {
            put_uvarint(out, ESCAPE);
            out.push(STALE);
            return;
        }
        if let Some((exponent, integer)) = decimal(value) {
            self.decimals += 1;
            if self.decimals >= DECIMALS_BEFORE_SWITCH {
                self.switch_to_decimal(exponent, integer, out);
                return;
            }
        } else {
            self.decimals = 0;
        }
        let xor = value.to_bits() ^ self.last_bits;
        let low = xor.trailing_zeros() / 8;
        let high = xor.leading_zeros() / 8;
        let len = 8 - low - high;
        put_uvarint(out, CHANGE + u64::from(low * 8 + len - 1));
        let shifted = (xor >> (low * 8)).to_le_bytes();
        out.extend(shifted.iter().zip(0..len).map(|(byte, _)| *byte));
    }

    fn switch_to_decimal(&mut self, exponent: u8, integer: i64, out: &mut Vec<u8>) {
        put_uvarint(out, ESCAPE);
        out.push(exponent);
        put_svarint(out, integer);
        self.mode = Mode::Decimal(exponent);
        self.last_integer = integer;
        self.decimals = 0;
    }

    /// Reads the next value.
    pub(super) fn decode(&mut self, reader: &mut Reader<'_>) -> Result<f64, FrameError> {
        match (reader.uvarint()?, self.mode) {
            (SAME, _) => {}
            (ESCAPE, _) => self.decode_escape(reader)?,
            (token, Mode::Decimal(exponent)) => {
                let delta = unzigzag(token - CHANGE);
                let integer = self.last_integer.checked_add(delta);
                let integer = integer.ok_or_else(|| reader.malformed("a value overflows"))?;
                self.last_bits = value_of(integer, exponent, reader)?.to_bits();
                self.last_integer = integer;
            }
            (token, Mode::Bits) => {
                let shape = token - CHANGE;
                let (low, len) = (shape / 8, shape % 8 + 1);
                if low + len > 8 {
                    return Err(reader.malformed("an XOR is longer than a value"));
                }
                let mut xor = 0u64;
                for at in low..low + len {
                    xor |= u64::from(reader.u8()?) << (at * 8);
                }
                self.last_bits ^= xor;
            }
        }
        Ok(f64::from_bits(self.last_bits))
    }

    fn decode_escape(&mut self, reader: &mut Reader<'_>) -> Result<(), FrameError> {
        match reader.u8()? {
            STALE => self.last_bits = STALE_NAN_BITS,
            ONCE => self.last_bits = reader.u64_le()?,
            BITS => {
                self.last_bits = reader.u64_le()?;
                self.mode = Mode::Bits;
            }
            exponent => {
                let integer = reader.svarint()?;
                self.last_bits = value_of(integer, exponent, reader)?.to_bits();
                self.last_integer = integer;
                self.mode = Mode::Decimal(exponent);
            }
        }
        Ok(())
    }
}

/// The value of an integer over a power of ten: one IEEE division, the same on every machine.
fn value_of(integer: i64, exponent: u8, reader: &Reader<'_>) -> Result<f64, FrameError> {
    let power = POWERS.get(usize::from(exponent));
    let power = power.ok_or_else(|| reader.malformed("an unknown value escape"))?;
    if integer.unsigned_abs() > MAX_INTEGER.unsigned_abs() {
        return Err(reader.malformed("an integer is over 2^53"));
    }
    Ok(integer as f64 / power)
}

/// The smallest exponent at which a value is exactly an integer over a power of ten, and that integer.
fn decimal(value: f64) -> Option<(u8, i64)> {
    (0..).zip(POWERS).find_map(|(exponent, _)| Some((exponent, integer_at(value, exponent)?)))
}

/// The integer that gives back exactly these bits at this exponent; none for -0.0, NaN and infinities.
fn integer_at(value: f64, exponent: u8) -> Option<i64> {
    let power = *POWERS.get(usize::from(exponent))?;
    let scaled = (value * power).round();
    if scaled.is_nan() || scaled.abs() > MAX_INTEGER as f64 {
        return None;
    }
    #[expect(clippy::cast_possible_truncation, reason = "a whole number of at most 2^53")]
    let integer = scaled as i64;
    ((integer as f64 / power).to_bits() == value.to_bits()).then_some(integer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn round_trip(values: &[f64]) -> usize {
        let (mut out, mut encoder, mut decoder) =
            (Vec::new(), Series::default(), Series::default());
        for value in values {
            encoder.encode(*value, &mut out);
        }
        let mut reader = Reader::new(&out, "values");
        for value in values {
            assert_eq!(decoder.decode(&mut reader).unwrap().to_bits(), value.to_bits());
        }
        reader.end().unwrap();
        out.len()
    }

    #[test]
    fn decimals_cost_a_byte_and_edges_are_exact() {
        for (values, bytes) in [
            (vec![0.0, 0.0, 1.0, 2.0, 2.0], 5),
            (vec![0.25, 0.5, 0.75], 3 + 1 + 1),
            (vec![100.0, f64::NAN, f64::NAN, 101.0], 2 + 10 + 1 + 1),
            (vec![5.0, f64::from_bits(STALE_NAN_BITS), 5.0], 1 + 2 + 1),
        ] {
            assert_eq!(round_trip(&values), bytes, "{values:?}");
        }
        let two_53 = 9_007_199_254_740_992.0;
        round_trip(&[-0.0, 0.0, -0.0, f64::INFINITY, f64::NEG_INFINITY, 1.0]);
        round_trip(&[two_53, -two_53, two_53 + 2.0, two_53 - 1.0, f64::MAX, f64::MIN_POSITIVE]);
        round_trip(&[5e-324, 0.1 + 0.2, 0.3, 0.1, 1e-18, 1e22, 1.0, 2.0, 3.0, 4.0, 5.0]);
        round_trip(&[0.1 + 0.2, f64::from_bits(STALE_NAN_BITS), 0.7 + 0.1, f64::NAN]);
    }

    proptest! {
        #[test]
        fn any_bits_round_trip(bits in prop::collection::vec(any::<u64>(), 0..40)) {
            let values: Vec<f64> = bits.into_iter().map(f64::from_bits).collect();
            round_trip(&values);
        }

        #[test]
        fn any_decimals_round_trip(values in prop::collection::vec((any::<i32>(), 0..20i32), 0..40)) {
            let values: Vec<f64> =
                values.into_iter().map(|(i, e)| f64::from(i) / 10f64.powi(e)).collect();
            round_trip(&values);
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let (mut series, mut reader) = (Series::default(), Reader::new(&bytes, "values"));
            while series.decode(&mut reader).is_ok() {}
        }
    }
}
