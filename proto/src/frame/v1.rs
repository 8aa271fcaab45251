//! Values as frames of version 1 have them, for journals and spools that were written before version 2: read only.

use tributary_model::fields::unzigzag;
use tributary_model::sample::STALE_NAN_BITS;

use super::FrameError;
use super::decimal;
use super::wire::Reader;

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

/// What is known of a series after its last value.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Series {
    last_bits: u64,
    last_integer: i64,
    mode: Mode,
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
    /// Reads the next value.
    pub(super) fn decode(&mut self, reader: &mut Reader<'_>) -> Result<f64, FrameError> {
        match (reader.varint()?, self.mode) {
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
                let integer = reader.signed()?;
                self.last_bits = value_of(integer, exponent, reader)?.to_bits();
                self.last_integer = integer;
                self.mode = Mode::Decimal(exponent);
            }
        }
        Ok(())
    }
}

/// The value of an integer over a power of ten.
fn value_of(integer: i64, exponent: u8, reader: &Reader<'_>) -> Result<f64, FrameError> {
    let value = decimal::value_of(integer, exponent);
    value.ok_or_else(|| reader.malformed("an integer or its exponent is too large"))
}
