//! A sealed chunk's values: one constant, decimals as integers, near decimals, or bits; always bit exact.

use tributary_model::fields::{Fields, Malformed, put_signed, put_varint};

use super::integers::{self, Codes};

/// Every value has these bits.
const CONSTANT: u8 = 0;
/// Every value is this integer over a power of ten.
const CONSTANT_DECIMAL: u8 = 1;
/// Integers over a power of ten, by their differences.
const DECIMAL: u8 = 2;
/// The same, by the differences of their differences.
const DECIMAL_TWICE: u8 = 3;
/// Integers over a power of ten, and what is to be added to the quotients' bits: sums of decimals.
const NEAR: u8 = 4;
/// Differences of the bits.
const BITS: u8 = 5;
/// XORs of the bits, bytes swapped.
const XOR: u8 = 6;

/// The kind is in the upper bits of the first byte, the exponent in the lower ones.
const EXPONENT_BITS: u32 = 5;
/// Powers of ten that are exact in an `f64`, up to the largest exponent tried.
const POWERS: [f64; 19] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16,
    1e17, 1e18,
];
/// Exponents that are tried for near decimals.
const NEAR_EXPONENTS: [u8; 5] = [1, 2, 3, 6, 9];
/// Largest correction of a near decimal.
const NEAR_LIMIT: u64 = 1 << 20;
/// Integers up to here are exact in an `f64`.
const EXACT: f64 = 9_007_199_254_740_992.0;
/// One odd value in so many is kept beside the decimals; with more, they are no decimals.
const ODD_SHARE: usize = 8;

/// Encodes values by their bits.
pub(crate) fn encode(out: &mut Vec<u8>, values: &[u64]) {
    let Some(first) = values.first() else { return };
    if values.iter().all(|value| value == first) {
        return encode_constant(out, *first);
    }
    let mut candidates = Vec::new();
    for exponent in exponents(values).into_iter().flatten() {
        candidates.extend(decimal(values, exponent));
    }
    if candidates.is_empty() {
        candidates.extend(NEAR_EXPONENTS.iter().filter_map(|exponent| near(values, *exponent)));
        candidates.push(bits(values));
        candidates.push(xor(values));
    }
    if let Some(smallest) = candidates.iter().min_by_key(|candidate| candidate.len()) {
        out.extend_from_slice(smallest);
    }
}

/// Decodes as many values as there are slots; every byte must be used.
pub(crate) fn decode(bytes: &[u8], slots: &mut [u64]) -> Result<(), Malformed> {
    decode_all([(bytes, slots)])
}

/// Decodes chunks, each into its slots. Faster than one by one: a chunk of Rice codes, of which each waits for the one before
/// it, is kept until the next such chunk comes, and they are read in turns.
pub(crate) fn decode_all<'a>(
    chunks: impl IntoIterator<Item = (&'a [u8], &'a mut [u64])>,
) -> Result<(), Malformed> {
    let mut waiting: Option<Coded<'_>> = None;
    for (bytes, slots) in chunks {
        let Some(coded) = Coded::begin(bytes, slots)? else { continue };
        match waiting.take() {
            Some(before) => before.read_with(coded)?,
            None => waiting = Some(coded),
        }
    }
    waiting.map_or(Ok(()), |mut coded| coded.read(0))
}

/// Decimals whose integers are Rice codes, still to be read into the slots.
struct Coded<'a> {
    decimal: Decimal<'a>,
    codes: Codes<'a>,
    slots: &'a mut [u64],
}

impl<'a> Coded<'a> {
    /// Decodes a chunk of any other kind, and is `None`.
    fn begin(bytes: &'a [u8], slots: &'a mut [u64]) -> Result<Option<Self>, Malformed> {
        let Some(mut decimal) = Decimal::begin(bytes, slots)? else { return Ok(None) };
        match Codes::begin(&mut decimal.fields, behind(slots))? {
            Some(codes) => Ok(Some(Self { decimal, codes, slots })),
            None => decimal.end(slots).map(|()| None),
        }
    }

    fn read_with(mut self, mut other: Self) -> Result<(), Malformed> {
        let (slots, other_slots) = (behind(self.slots), behind(other.slots));
        let done = self.codes.read_in_turns(slots, &mut other.codes, other_slots)?;
        self.read(done)?;
        other.read(done)
    }

    /// Reads the codes behind so many, and makes values of all of them.
    fn read(&mut self, done: usize) -> Result<(), Malformed> {
        let rest = behind(self.slots).get_mut(done..).unwrap_or_default();
        self.codes.read(rest, &mut self.decimal.fields)?;
        self.decimal.end(self.slots)
    }
}

/// The slots behind the first one.
fn behind(slots: &mut [u64]) -> &mut [u64] {
    slots.get_mut(1..).unwrap_or_default()
}

/// Decimals whose integers are still to be read.
struct Decimal<'a> {
    fields: Fields<'a>,
    power: f64,
    twice: bool,
    odd: Odd<'a>,
    factor: u64,
    first: i64,
}

impl<'a> Decimal<'a> {
    /// Reads what stands in front of decimals' integers; `None` if a chunk of another kind was decoded.
    fn begin(bytes: &'a [u8], slots: &mut [u64]) -> Result<Option<Self>, Malformed> {
        let mut fields = Fields(bytes);
        if slots.is_empty() {
            return fields.end().map(|()| None);
        }
        let head = fields.byte()?;
        let power = usize::from(head & ((1 << EXPONENT_BITS) - 1));
        let power = *POWERS.get(power).ok_or(Malformed("an exponent is too large"))?;
        match head >> EXPONENT_BITS {
            CONSTANT => slots.fill(fields.u64_le()?),
            CONSTANT_DECIMAL => slots.fill(from_integer(fields.signed()?, power)),
            kind @ (DECIMAL | DECIMAL_TWICE) => {
                let odd = Odd::read(&mut fields, slots.len())?;
                let (factor, first) = (fields.varint()?, fields.signed()?);
                let twice = kind == DECIMAL_TWICE;
                return Ok(Some(Self { fields, power, twice, odd, factor, first }));
            }
            NEAR => decode_near(&mut fields, power, slots)?,
            BITS => {
                let mut value = fields.u64_le()?;
                for slot in behind_first(value, &mut fields, slots)? {
                    value = value.wrapping_add(*slot);
                    *slot = value;
                }
            }
            XOR => {
                integers::decode(&mut fields, slots)?;
                let mut value = 0u64;
                for slot in slots {
                    value ^= slot.swap_bytes();
                    *slot = value;
                }
            }
            _ => return Err(Malformed("a chunk has an unknown kind")),
        }
        fields.end().map(|()| None)
    }

    /// Makes values of the integers, which stand behind the first slot.
    fn end(&self, slots: &mut [u64]) -> Result<(), Malformed> {
        self.fields.end()?;
        if let Some((first, behind)) = slots.split_first_mut() {
            *first = from_integer(self.first, self.power);
            if self.twice {
                sum_up(0, behind);
            }
            if self.factor != 1 {
                for step in &mut *behind {
                    *step = step.wrapping_mul(self.factor);
                }
            }
            sum_up(self.first, behind);
            from_integers(behind, self.power);
        }
        self.odd.clone().put(slots)
    }
}

/// Puts a value into the first slot and integers into those behind it, which it returns.
fn behind_first<'a>(
    first: u64,
    fields: &mut Fields<'_>,
    slots: &'a mut [u64],
) -> Result<&'a mut [u64], Malformed> {
    let Some((slot, behind)) = slots.split_first_mut() else { return Ok(&mut []) };
    *slot = first;
    integers::decode(fields, behind)?;
    Ok(behind)
}

fn head(kind: u8, exponent: u8) -> u8 {
    kind << EXPONENT_BITS | exponent
}

fn encode_constant(out: &mut Vec<u8>, value: u64) {
    let decimal = (0u8..).take(POWERS.len()).find_map(|e| Some((e, to_integer(value, e)?)));
    if let Some((exponent, integer)) = decimal
        && integer.unsigned_abs() < 1 << 48
    {
        out.push(head(CONSTANT_DECIMAL, exponent));
        put_signed(out, integer);
    } else {
        out.push(head(CONSTANT, 0));
        out.extend_from_slice(&value.to_le_bytes());
    }
}

/// The exponents worth trying: the one that makes all decimals integers, and the smallest that leaves few odd.
fn exponents(values: &[u64]) -> [Option<u8>; 2] {
    let allowed = values.len() / ODD_SHARE;
    let mut needed = [0usize; POWERS.len()];
    let mut odd = 0;
    let mut usual = 0;
    for value in values {
        // Most values need what the one before needed.
        let found = if usual > 0 && to_integer(*value, usual - 1).is_some() { 0 } else { usual };
        let from = if to_integer(*value, usual).is_some() { found } else { usual };
        match (from..19).find(|e| to_integer(*value, *e).is_some()) {
            Some(found) => {
                usual = found;
                if let Some(count) = needed.get_mut(usize::from(found)) {
                    *count += 1;
                }
            }
            None => odd += 1,
        }
        if odd > allowed {
            return [None, None];
        }
    }
    let at_most = |e: u8| needed.iter().take(usize::from(e) + 1).sum::<usize>();
    let most = (0u8..19).rev().find(|e| needed.get(usize::from(*e)).is_some_and(|n| *n > 0));
    let few = (0u8..19).find(|e| values.len() - at_most(*e) <= allowed);
    [few, most.filter(|_| most != few)]
}

/// Integers over a power of ten, with the values that are none.
struct Integers {
    integers: Vec<i64>,
    /// Index and bits.
    odd: Vec<(usize, u64)>,
}

impl Integers {
    fn of(values: &[u64], integer: impl Fn(u64) -> Option<i64>) -> Option<Self> {
        let allowed = values.len() / ODD_SHARE;
        let first = values.iter().find_map(|value| integer(*value))?;
        let mut last = first;
        let mut odd = Vec::new();
        let mut integers = Vec::with_capacity(values.len());
        for (index, value) in values.iter().enumerate() {
            match integer(*value) {
                Some(integer) => last = integer,
                None => odd.push((index, *value)),
            }
            if odd.len() > allowed {
                return None;
            }
            integers.push(last);
        }
        Some(Self { integers, odd })
    }

    fn put_odd(&self, out: &mut Vec<u8>) {
        put_varint(out, self.odd.len() as u64);
        let mut before = 0;
        for (index, bits) in &self.odd {
            put_varint(out, (index - before) as u64);
            out.extend_from_slice(&bits.to_le_bytes());
            before = *index;
        }
    }

    fn first(&self) -> i64 {
        self.integers.first().copied().unwrap_or(0)
    }

    fn differences(&self) -> Vec<i64> {
        // At most 2^54 in size.
        self.integers.iter().zip(self.integers.iter().skip(1)).map(|(a, b)| b - a).collect()
    }
}

fn decimal(values: &[u64], exponent: u8) -> Option<Vec<u8>> {
    let content = Integers::of(values, |value| to_integer(value, exponent))?;
    let mut once = content.differences();
    let factor = once.iter().fold(0, |factor, d| gcd(factor, d.unsigned_abs())).max(1);
    let divisor = i64::try_from(factor).unwrap_or(1);
    for difference in &mut once {
        *difference /= divisor;
    }
    let twice: Vec<i64> = std::iter::once(&0).chain(&once).zip(&once).map(|(a, b)| b - a).collect();
    let make = |kind: u8, differences: &[i64]| {
        let mut out = vec![head(kind, exponent)];
        content.put_odd(&mut out);
        put_varint(&mut out, factor);
        put_signed(&mut out, content.first());
        integers::encode(&mut out, differences);
        out
    };
    let once = make(DECIMAL, &once);
    let twice = make(DECIMAL_TWICE, &twice);
    Some(if twice.len() < once.len() { twice } else { once })
}

/// Makes differences the integers that they lead to from the first one.
fn sum_up(first: i64, differences: &mut [u64]) {
    let mut integer = first.cast_unsigned();
    for slot in differences {
        integer = integer.wrapping_add(*slot);
        *slot = integer;
    }
}

/// Makes integers the values that they stand for.
fn from_integers(slots: &mut [u64], power: f64) {
    if power == 1.0 {
        for slot in slots {
            *slot = (slot.cast_signed() as f64).to_bits();
        }
    } else {
        for slot in slots {
            *slot = from_integer(slot.cast_signed(), power);
        }
    }
}

fn near(values: &[u64], exponent: u8) -> Option<Vec<u8>> {
    let power = *POWERS.get(usize::from(exponent))?;
    let integer = |value: u64| {
        let integer = nearest(value, power)?;
        let correction = value.wrapping_sub(from_integer(integer, power)).cast_signed();
        (correction.unsigned_abs() < NEAR_LIMIT).then_some(integer)
    };
    let content = Integers::of(values, integer)?;
    let mut odd = content.odd.iter().peekable();
    let mut corrections = Vec::with_capacity(values.len());
    for (index, (value, integer)) in values.iter().zip(&content.integers).enumerate() {
        let is_odd = odd.next_if(|(odd, _)| *odd == index).is_some();
        let correction = value.wrapping_sub(from_integer(*integer, power)).cast_signed();
        corrections.push(if is_odd { 0 } else { correction });
    }
    let mut out = vec![head(NEAR, exponent)];
    content.put_odd(&mut out);
    put_signed(&mut out, content.first());
    integers::encode(&mut out, &content.differences());
    integers::encode(&mut out, &corrections);
    Some(out)
}

fn decode_near(fields: &mut Fields<'_>, power: f64, slots: &mut [u64]) -> Result<(), Malformed> {
    let odd = Odd::read(fields, slots.len())?;
    let first = fields.signed()?;
    let behind = behind_first(from_integer(first, power), fields, slots)?;
    sum_up(first, behind);
    from_integers(behind, power);
    let mut corrections = vec![0; slots.len()];
    integers::decode(fields, &mut corrections)?;
    for (slot, correction) in slots.iter_mut().zip(corrections) {
        *slot = slot.wrapping_add(correction);
    }
    odd.put(slots)
}

/// Values that are none of the integers: index less the one before, and bits.
#[derive(Clone)]
struct Odd<'a> {
    count: usize,
    fields: Fields<'a>,
}

impl<'a> Odd<'a> {
    fn read(fields: &mut Fields<'a>, values: usize) -> Result<Self, Malformed> {
        let count = fields.count()?;
        if count > values {
            return Err(Malformed("a chunk has more odd values than values"));
        }
        let odd = Self { count, fields: *fields };
        for _ in 0..count {
            fields.varint()?;
            fields.u64_le()?;
        }
        Ok(odd)
    }

    fn put(mut self, slots: &mut [u64]) -> Result<(), Malformed> {
        let mut at = 0usize;
        for _ in 0..self.count {
            at = at.saturating_add(self.fields.count()?);
            let bits = self.fields.u64_le()?;
            *slots.get_mut(at).ok_or(Malformed("an odd value lies behind the chunk"))? = bits;
        }
        Ok(())
    }
}

fn bits(values: &[u64]) -> Vec<u8> {
    let mut out = vec![head(BITS, 0)];
    out.extend_from_slice(&values.first().copied().unwrap_or(0).to_le_bytes());
    let pairs = values.iter().zip(values.iter().skip(1));
    let differences: Vec<i64> = pairs.map(|(a, b)| b.wrapping_sub(*a).cast_signed()).collect();
    integers::encode(&mut out, &differences);
    out
}

fn xor(values: &[u64]) -> Vec<u8> {
    let mut out = vec![head(XOR, 0)];
    let mut before = 0;
    // Swapped, the bytes that change least are on top.
    let xors = values.iter().map(|value| std::mem::replace(&mut before, *value) ^ value);
    let xors: Vec<i64> = xors.map(|xor| xor.swap_bytes().cast_signed()).collect();
    integers::encode(&mut out, &xors);
    out
}

/// The integer whose quotient by the power of ten is the value, bit for bit.
fn to_integer(bits: u64, exponent: u8) -> Option<i64> {
    let power = *POWERS.get(usize::from(exponent))?;
    nearest(bits, power).filter(|integer| from_integer(*integer, power) == bits)
}

/// The integer whose quotient is nearest.
#[expect(clippy::cast_possible_truncation, reason = "the magnitude was checked against 2^53")]
fn nearest(bits: u64, power: f64) -> Option<i64> {
    let scaled = (f64::from_bits(bits) * power).round();
    // Also false for NaN.
    (scaled.abs() <= EXACT).then_some(scaled as i64)
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn round_trip(values: &[u64]) -> usize {
        let mut bytes = Vec::new();
        encode(&mut bytes, values);
        let mut back = vec![1; values.len()];
        decode(&bytes, &mut back).unwrap();
        assert_eq!(back, values);
        let other: Vec<u64> = (0..70).map(|i| f64::from(i * i % 17).to_bits()).collect();
        let mut other_bytes = Vec::new();
        encode(&mut other_bytes, &other);
        let mut other_back = vec![1; other.len()];
        back.fill(1);
        // In front of others, between them, and alone.
        let (mut middle, mut last) = (back.clone(), other_back.clone());
        let others = [(&*other_bytes, &mut *other_back), (&*bytes, &mut *middle)];
        let all = [(&*bytes, &mut *back)].into_iter().chain(others);
        decode_all(all.chain([(&*other_bytes, &mut *last)])).unwrap();
        assert_eq!((&*back, &*middle), (values, values));
        assert_eq!((&other_back, &last), (&other, &other));
        bytes.len()
    }

    #[test]
    fn sizes_are_small_where_they_should_be() {
        let of = |f: &dyn Fn(usize) -> f64| -> usize {
            round_trip(&(0..240).map(|i| f(i).to_bits()).collect::<Vec<_>>())
        };
        assert_eq!(of(&|_| 1.0), 2);
        assert_eq!(of(&|_| 0.25), 2);
        assert_eq!(of(&|_| std::f64::consts::PI), 9);
        assert!(of(&|i| i as f64) < 10);
        assert!(of(&|i| (i % 7) as f64 / 10.0) < 110);
        assert!(of(&|i| 1024.0 * (i * i) as f64) < 20);
        assert!(
            of(&|i| if i == 239 { tributary_model::sample::stale_nan() } else { i as f64 }) < 25
        );
        let mut sum = 0.0;
        let sums: Vec<u64> = (0..240)
            .map(|i| {
                sum += f64::from(i % 3) * 0.1;
                sum.to_bits()
            })
            .collect();
        assert!(round_trip(&sums) < 300);
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
        fn one_kind_of_bits_comes_back(bits in any::<u64>(), values in prop::collection::vec(any::<u16>(), 1..100)) {
            round_trip(&values.iter().map(|low| bits.wrapping_add(u64::from(*low))).collect::<Vec<_>>());
        }

        #[test]
        fn decimals_come_back(start in any::<i32>(), steps in prop::collection::vec(-50i64..500, 1..300), e in 0..6usize, odd in prop::collection::vec((0..300usize, value()), 0..4)) {
            let mut at = i64::from(start);
            let mut values: Vec<u64> = steps.iter().map(|s| { at += s; from_integer(at, POWERS[e]) }).collect();
            for (place, value) in odd {
                if let Some(slot) = values.get_mut(place) { *slot = value; }
            }
            round_trip(&values);
        }

        #[test]
        fn sums_of_decimals_come_back(steps in prop::collection::vec(0i64..50, 1..300), unit in prop::sample::select(vec![0.1, 0.01, 0.001])) {
            let mut at = 0.0;
            round_trip(&steps.iter().map(|s| { at += *s as f64 * unit; f64::to_bits(at) }).collect::<Vec<_>>());
        }

        #[test]
        fn arbitrary_bytes_never_panic(head in any::<u8>(), bytes in prop::collection::vec(any::<u8>(), 0..80), count in 0..100usize) {
            let bytes = [&[head][..], &bytes].concat();
            let _ = decode(&bytes, &mut vec![0; count]);
            let _ = decode_all([(&*bytes, &mut *vec![0; count]), (&*bytes, &mut [0; 9])]);
        }
    }
}
