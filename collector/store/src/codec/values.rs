//! A sealed chunk's values: one constant, decimals as integers, or XORs; whichever is smallest, always bit exact.

use super::fields::{Fields, Malformed, put_signed, put_varint, unzigzag, zigzag};
use super::pack;

const CONSTANT: u8 = 0;
const DECIMAL: u8 = 1;
const XOR: u8 = 2;

/// Powers of ten that are exact in an `f64`, up to the largest exponent tried.
const POWERS: [f64; 19] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16,
    1e17, 1e18,
];
/// Integers up to here are exact in an `f64`.
const EXACT: f64 = 9_007_199_254_740_992.0;
/// One odd value in so many is kept beside the decimals; with more, XOR is tried alone.
const PATCH_SHARE: usize = 8;

/// Encodes values by their bits.
pub(crate) fn encode(out: &mut Vec<u8>, values: &[u64]) {
    let Some(first) = values.first() else { return };
    if values.iter().all(|value| value == first) {
        out.push(CONSTANT);
        out.extend_from_slice(&first.to_le_bytes());
        return;
    }
    let start = out.len();
    if let Some(decimal) = Decimal::of(values) {
        out.push(DECIMAL);
        decimal.encode(out);
        // A decimal chunk of four bytes a sample is random digits; only then is XOR worth a try.
        if out.len() - start < values.len() * 4 {
            return;
        }
    }
    let mut xors = vec![XOR];
    encode_xor(&mut xors, values);
    if out.len() == start || xors.len() < out.len() - start {
        out.truncate(start);
        out.append(&mut xors);
    }
}

/// Decodes `count` values; every byte must be used.
pub(crate) fn decode(bytes: &[u8], count: usize, out: &mut Vec<u64>) -> Result<(), Malformed> {
    if count == 0 {
        return Fields(bytes).end();
    }
    let mut fields = Fields(bytes);
    match fields.byte()? {
        CONSTANT => {
            let value = fields.u64_le()?;
            out.resize(out.len() + count, value);
            fields.end()
        }
        DECIMAL => decode_decimal(fields, count, out),
        XOR => decode_xor(fields, count, out),
        _ => Err(Malformed("a chunk has an unknown kind")),
    }
}

struct Decimal {
    exponent: u8,
    integers: Vec<i64>,
    /// Index and bits of the values that are not decimals.
    patches: Vec<(usize, u64)>,
}

impl Decimal {
    fn of(values: &[u64]) -> Option<Self> {
        let allowed = values.len() / PATCH_SHARE;
        let mut exponent = 0usize;
        let mut odd = 0;
        for bits in values {
            match (exponent..POWERS.len()).find(|e| to_integer(*bits, *e).is_some()) {
                Some(found) => exponent = found,
                None => odd += 1,
            }
            if odd > allowed {
                return None;
            }
        }
        let mut patches = Vec::new();
        let mut integers = Vec::with_capacity(values.len());
        for (i, bits) in values.iter().enumerate() {
            let integer = to_integer(*bits, exponent).unwrap_or_else(|| {
                patches.push((i, *bits));
                integers.last().copied().unwrap_or(0)
            });
            integers.push(integer);
        }
        let exponent = u8::try_from(exponent).ok()?;
        (patches.len() <= allowed).then_some(Self { exponent, integers, patches })
    }

    fn encode(&self, out: &mut Vec<u8>) {
        let deltas: Vec<i64> =
            self.integers.iter().zip(self.integers.iter().skip(1)).map(|(a, b)| b - a).collect();
        let factor = deltas.iter().fold(0u64, |g, d| gcd(g, d.unsigned_abs())).max(1);
        let factor_signed = factor.cast_signed();
        let first_order: Vec<u64> = deltas.iter().map(|d| zigzag(d / factor_signed)).collect();
        let second_order: Vec<u64> = std::iter::once(&0)
            .chain(&deltas)
            .zip(&deltas)
            .map(|(a, b)| zigzag(b / factor_signed - a / factor_signed))
            .collect();
        let second = pack::packed_bits(&second_order) < pack::packed_bits(&first_order);
        out.push(self.exponent | u8::from(second) << 7);
        put_varint(out, factor);
        put_varint(out, self.patches.len() as u64);
        let mut before = 0;
        for (i, bits) in &self.patches {
            put_varint(out, (i - before) as u64);
            out.extend_from_slice(&bits.to_le_bytes());
            before = *i;
        }
        put_signed(out, self.integers.first().copied().unwrap_or(0));
        pack::pack(out, if second { &second_order } else { &first_order });
    }
}

fn decode_decimal(
    mut fields: Fields<'_>,
    count: usize,
    out: &mut Vec<u64>,
) -> Result<(), Malformed> {
    let head = fields.byte()?;
    let second = head >> 7 == 1;
    let power =
        POWERS.get(usize::from(head & 0x7f)).ok_or(Malformed("an exponent is too large"))?;
    let factor = fields.varint()?.cast_signed();
    let patches = fields.count()?;
    if patches > count {
        return Err(Malformed("a chunk has more odd values than values"));
    }
    let mut patch_fields = fields;
    for _ in 0..patches {
        fields.varint()?;
        fields.u64_le()?;
    }
    let start = out.len();
    let mut integer = fields.signed()?;
    let mut delta = 0i64;
    out.push(from_integer(integer, *power));
    let used = pack::unpack(fields.0, count - 1, |residual| {
        let residual = unzigzag(residual);
        delta = if second { delta.wrapping_add(residual) } else { residual };
        integer = integer.wrapping_add(delta.wrapping_mul(factor));
        out.push(from_integer(integer, *power));
    })?;
    fields.take(used)?;
    fields.end()?;
    let mut at = start;
    for _ in 0..patches {
        at = at.saturating_add(patch_fields.count()?);
        let bits = patch_fields.u64_le()?;
        *out.get_mut(at).ok_or(Malformed("an odd value lies behind the chunk"))? = bits;
    }
    Ok(())
}

/// The integer whose quotient by the power of ten is the value, bit for bit.
#[expect(clippy::cast_possible_truncation, reason = "the magnitude was checked against 2^53")]
fn to_integer(bits: u64, exponent: usize) -> Option<i64> {
    let value = f64::from_bits(bits);
    let power = POWERS.get(exponent)?;
    let scaled = (value * power).round();
    // Also false for NaN.
    if scaled.abs() <= EXACT {
        let integer = scaled as i64;
        (from_integer(integer, *power) == bits).then_some(integer)
    } else {
        None
    }
}

fn from_integer(integer: i64, power: f64) -> u64 {
    (integer as f64 / power).to_bits()
}

fn gcd(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

fn encode_xor(out: &mut Vec<u8>, values: &[u64]) {
    let mut before = 0;
    let xors: Vec<u64> = values
        .iter()
        .map(|value| std::mem::replace(&mut before, *value) ^ value)
        .map(u64::swap_bytes)
        .collect();
    // Swapped bytes put the exponent, which changes least, at the bottom: the plain XOR is narrower.
    let plain: Vec<u64> = xors.iter().map(|xor| xor.swap_bytes()).collect();
    let swapped = pack::packed_bits(&xors) < pack::packed_bits(&plain);
    out.push(u8::from(swapped));
    pack::pack(out, if swapped { &xors } else { &plain });
}

fn decode_xor(mut fields: Fields<'_>, count: usize, out: &mut Vec<u64>) -> Result<(), Malformed> {
    let swapped = match fields.byte()? {
        0 => false,
        1 => true,
        _ => return Err(Malformed("a chunk has an unknown kind")),
    };
    let mut before = 0;
    let used = pack::unpack(fields.0, count, |xor| {
        before ^= if swapped { xor.swap_bytes() } else { xor };
        out.push(before);
    })?;
    fields.take(used)?;
    fields.end()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn round_trip(values: &[u64]) -> usize {
        let mut bytes = Vec::new();
        encode(&mut bytes, values);
        let mut back = Vec::new();
        decode(&bytes, values.len(), &mut back).unwrap();
        assert_eq!(back, values);
        bytes.len()
    }

    #[test]
    fn sizes_are_small_where_they_should_be() {
        let of = |f: &dyn Fn(usize) -> f64| -> usize {
            round_trip(&(0..240).map(|i| f(i).to_bits()).collect::<Vec<_>>())
        };
        assert_eq!(of(&|_| 1.0), 9);
        assert!(of(&|i| i as f64) < 30);
        assert!(of(&|i| (i % 7) as f64 / 10.0) < 200);
        assert!(of(&|i| 1024.0 * (i * i) as f64) < 450);
        assert!(
            of(&|i| if i == 239 { tributary_model::sample::stale_nan() } else { i as f64 }) < 50
        );
    }

    fn value() -> impl Strategy<Value = u64> {
        prop_oneof![
            any::<u64>(),
            (-1000i64..1000, 0..19usize).prop_map(|(i, e)| from_integer(i, POWERS[e])),
            (-1000i64..1000).prop_map(|i| (i as f64 * 0.1).to_bits()),
            prop::sample::select(vec![
                tributary_model::sample::STALE_NAN_BITS,
                f64::NAN.to_bits(),
                (-0.0f64).to_bits(),
                f64::INFINITY.to_bits(),
                f64::NEG_INFINITY.to_bits(),
                EXACT.to_bits(),
                (-EXACT).to_bits(),
                f64::MAX.to_bits(),
                f64::MIN_POSITIVE.to_bits(),
                1,
            ]),
        ]
    }

    proptest! {
        #[test]
        fn every_bit_comes_back(values in prop::collection::vec(value(), 0..300)) {
            round_trip(&values);
        }

        #[test]
        fn integers_come_back(start in any::<i32>(), steps in prop::collection::vec(-50i64..500, 1..300), e in 0..6usize) {
            let mut at = i64::from(start);
            let values: Vec<u64> = steps.iter().map(|s| { at += s; from_integer(at, POWERS[e]) }).collect();
            round_trip(&values);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..80), count in 0..100usize) {
            let _ = decode(&bytes, count, &mut Vec::new());
        }
    }
}
