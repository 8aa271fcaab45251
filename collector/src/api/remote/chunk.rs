//! Prometheus' chunks of float samples, as remote read streams them: times as differences of differences, values as XOR.

/// Most samples of a chunk.
pub const MAX_SAMPLES: usize = 120;

/// The number that stands for this encoding in messages.
pub const XOR: u64 = 1;

/// Encodes at most [`MAX_SAMPLES`] samples: milliseconds and value.
pub fn encode(samples: &[(i64, f64)]) -> Vec<u8> {
    let count = u16::try_from(samples.len()).unwrap_or(u16::MAX);
    let mut bits = Bits::behind(count.to_be_bytes().to_vec());
    let mut before: Option<(i64, i64, u64)> = None;
    let mut window = None;
    for (number, &(at, value)) in samples.iter().enumerate() {
        let value = value.to_bits();
        let delta = match before {
            None => {
                bits.signed(at);
                bits.push(value, 64);
                0
            }
            Some((last_at, last_delta, last)) => {
                let delta = at.wrapping_sub(last_at);
                if number == 1 {
                    bits.unsigned(delta.cast_unsigned());
                } else {
                    bits.difference(delta.wrapping_sub(last_delta));
                }
                bits.xor(value ^ last, &mut window);
                delta
            }
        };
        before = Some((at, delta, value));
    }
    bits.bytes
}

/// Bits, most significant first.
pub(super) struct Bits {
    pub(super) bytes: Vec<u8>,
    /// Bits of the last byte that are not used yet.
    free: u32,
}

impl Bits {
    /// Behind whole bytes.
    pub(super) fn behind(bytes: Vec<u8>) -> Self {
        Self { bytes, free: 0 }
    }

    /// Appends the lowest `count` bits.
    pub(super) fn push(&mut self, bits: u64, count: u32) {
        let mut left = count;
        while left > 0 {
            if self.free == 0 {
                self.bytes.push(0);
                self.free = 8;
            }
            let take = left.min(self.free);
            let part = (bits >> (left - take)) & ((1 << take) - 1);
            if let Some(last) = self.bytes.last_mut() {
                *last |= u8::try_from(part << (self.free - take)).unwrap_or(0);
            }
            self.free -= take;
            left -= take;
        }
    }

    /// Appends Go's `binary.PutUvarint`.
    fn unsigned(&mut self, value: u64) {
        let mut bytes = Vec::new();
        tributary_model::fields::put_varint(&mut bytes, value);
        for byte in bytes {
            self.push(u64::from(byte), 8);
        }
    }

    /// Appends Go's `binary.PutVarint`: zigzag.
    fn signed(&mut self, value: i64) {
        self.unsigned(((value << 1) ^ (value >> 63)).cast_unsigned());
    }

    /// Appends the difference of two intervals, in as few bits as its size needs.
    fn difference(&mut self, value: i64) {
        let fits = |bits: u32| (-(1 << (bits - 1)) + 1..=1 << (bits - 1)).contains(&value);
        let (prefix, prefix_bits, bits) = match value {
            0 => return self.push(0, 1),
            _ if fits(14) => (0b10, 2, 14),
            _ if fits(17) => (0b110, 3, 17),
            _ if fits(20) => (0b1110, 4, 20),
            _ => (0b1111, 4, 64),
        };
        self.push(prefix, prefix_bits);
        self.push(value.cast_unsigned(), bits);
    }

    /// Appends a value's difference to the one before; `window` is the place of the significant bits of the last one.
    pub(super) fn xor(&mut self, difference: u64, window: &mut Option<(u32, u32)>) {
        if difference == 0 {
            return self.push(0, 1);
        }
        self.push(1, 1);
        // Five bits hold the number of leading zeros.
        let leading = difference.leading_zeros().min(31);
        let trailing = difference.trailing_zeros();
        if let Some((before, after)) = *window
            && leading >= before
            && trailing >= after
        {
            self.push(0, 1);
            return self.push(difference >> after, 64 - before - after);
        }
        *window = Some((leading, trailing));
        let significant = 64 - leading - trailing;
        self.push(1, 1);
        self.push(u64::from(leading), 5);
        // 64 does not fit into six bits and is written as 0.
        self.push(u64::from(significant & 63), 6);
        self.push(difference >> trailing, significant);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads a chunk back, the way Prometheus does.
    fn decode(bytes: &[u8]) -> Vec<(i64, f64)> {
        let mut at = 16_usize;
        let mut read = |count: u32| {
            (0..count).fold(0_u64, |out, _| {
                let bit = bytes[at / 8] >> (7 - at % 8) & 1;
                at += 1;
                out << 1 | u64::from(bit)
            })
        };
        let varint = |read: &mut dyn FnMut(u32) -> u64| {
            let (mut out, mut shift) = (0_u64, 0);
            loop {
                let byte = read(8);
                out |= (byte & 0x7f) << shift;
                shift += 7;
                if byte < 0x80 {
                    return out;
                }
            }
        };
        let count = u16::from_be_bytes([bytes[0], bytes[1]]);
        let (mut time, mut delta, mut value) = (0_i64, 0_i64, 0_u64);
        let (mut leading, mut trailing) = (0, 0);
        let mut out = Vec::new();
        for number in 0..count {
            if number == 0 {
                let zigzag = varint(&mut read);
                time = (zigzag >> 1).cast_signed() ^ -(zigzag & 1).cast_signed();
                value = read(64);
            } else {
                if number == 1 {
                    delta = varint(&mut read).cast_signed();
                } else {
                    let mut ones = 0;
                    while ones < 4 && read(1) == 1 {
                        ones += 1;
                    }
                    let size = [0, 14, 17, 20, 64][ones];
                    let mut more = read(size).cast_signed();
                    if (1..64).contains(&size) && more > 1 << (size - 1) {
                        more -= 1 << size;
                    }
                    delta = delta.wrapping_add(more);
                }
                time = time.wrapping_add(delta);
                if read(1) == 1 {
                    if read(1) == 1 {
                        leading = u32::try_from(read(5)).unwrap();
                        let significant = u32::try_from(read(6)).unwrap();
                        trailing = 64 - leading - if significant == 0 { 64 } else { significant };
                    }
                    value ^= read(64 - leading - trailing) << trailing;
                }
            }
            out.push((time, f64::from_bits(value)));
        }
        out
    }

    #[test]
    fn chunks_hold_what_was_put_in() {
        let steady: Vec<(i64, f64)> = (0..120).map(|i| (1000 + i * 15_000, i as f64)).collect();
        let odd = [
            (i64::MIN / 4, 1.0),
            (-5, f64::INFINITY),
            (-4, f64::NEG_INFINITY),
            (8187, 0.1),
            (24_571, -0.1),
            (90_000, 1e300),
            (700_000, 5e-324),
            (1 << 40, 0.0),
            ((1 << 40) + 1, -0.0),
            ((1 << 40) + 1, 123_456.789),
        ];
        for samples in [&steady[..], &steady[..1], &steady[..2], &odd[..], &[]] {
            assert_eq!(decode(&encode(samples)), samples);
        }
        let stale = tributary_model::sample::stale_nan();
        let back = decode(&encode(&[(1, 1.0), (2, stale)]));
        assert_eq!(back[1].1.to_bits(), stale.to_bits());
        assert!(encode(&steady).len() < 400);
    }
}
