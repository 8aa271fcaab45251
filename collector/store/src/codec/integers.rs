//! Runs of signed integers around a centre, in the smallest of four forms; the decoder is told how many there are.

use tributary_model::fields::{Fields, Malformed, put_signed, put_varint, unzigzag, zigzag};

use super::bits::{BitReader, BitWriter, PEEKED};

/// Every integer is the centre.
const SAME: u8 = 0;
/// Differences from the centre, zigzagged, in Rice codes that adapt.
const RICE: u8 = 1;
/// Distances to the few that differ, and by how much, both in Rice codes.
const SPARSE: u8 = 2;
/// Blocks of integers above the centre, each as wide as most of them need; the others stand behind it.
const PACKED: u8 = 3;

/// Integers in a packed block.
const BLOCK: usize = 32;
/// Bits of a packed block's head: width, and how many stand behind.
const WIDTH_BITS: u32 = 7;
const SPARE_BITS: u32 = 4;
/// Bits of an integer that stands behind its block: its place, and all of it.
const SPARE_COST: u64 = 5 + 64;
/// Most integers that stand behind a block.
const MAX_SPARE: usize = (1 << SPARE_BITS) - 1;
/// So many ones before a Rice code's end say that 64 bits follow as they are.
const ESCAPE: u32 = 24;
/// Bits that hold a Rice code's first parameter.
const START_BITS: u32 = 6;
/// Largest Rice parameter: a code and its unary part are read from one word.
const MAX_K: u32 = 32;

/// Appends the integers in the form that is smallest.
pub(crate) fn encode(out: &mut Vec<u8>, integers: &[i64]) {
    let mut sorted = integers.to_vec();
    sorted.sort_unstable();
    let middle = sorted.get(sorted.len() / 2).copied().unwrap_or(0);
    if sorted.first() == sorted.last() {
        out.push(SAME);
        put_signed(out, middle);
        return;
    }
    let zero_or_middle =
        if rice_bits(integers, 0) <= rice_bits(integers, middle) { 0 } else { middle };
    // The lowest, or what is above one or a few that are far below the others.
    let bases =
        [0, 1, sorted.len() / BLOCK].map(|place| sorted.get(place).copied().unwrap_or(middle));
    let base = bases.into_iter().min_by_key(|base| packed_bits(integers, *base)).unwrap_or(middle);
    let candidates = [
        (rice_bits(integers, zero_or_middle), RICE, zero_or_middle),
        (sparse_bits(integers, middle), SPARSE, middle),
        (packed_bits(integers, base), PACKED, base),
    ];
    let Some((_, form, centre)) = candidates.into_iter().min_by_key(|(bits, ..)| *bits) else {
        return;
    };
    out.push(form);
    put_signed(out, centre);
    let mut bits = BitWriter::default();
    match form {
        RICE => write_rice(&mut bits, integers, centre),
        SPARSE => {
            let apart = integers.iter().filter(|integer| **integer != centre).count();
            put_varint(out, apart as u64);
            write_sparse(&mut bits, integers, centre);
        }
        _ => write_packed(&mut bits, integers, centre),
    }
    out.extend_from_slice(&bits.finish());
}

/// Reads as many integers as there are slots from the front of the fields; a slot has an integer's bits.
pub(crate) fn decode(fields: &mut Fields<'_>, slots: &mut [u64]) -> Result<(), Malformed> {
    match Codes::begin(fields, slots)? {
        None => Ok(()),
        Some(mut codes) => codes.read(slots, fields),
    }
}

/// Rice codes about to be read.
pub(crate) struct Codes<'a> {
    bits: BitReader<'a>,
    rice: Rice,
    centre: i64,
}

impl<'a> Codes<'a> {
    /// Reads what stands in front of Rice codes; `None` if integers of another form were read.
    pub(crate) fn begin(
        fields: &mut Fields<'a>,
        slots: &mut [u64],
    ) -> Result<Option<Self>, Malformed> {
        let form = fields.byte()?;
        let centre = fields.signed()?;
        if form == SAME {
            slots.fill(centre.cast_unsigned());
            return Ok(None);
        }
        let apart = if form == SPARSE { fields.count()? } else { 0 };
        let mut bits = BitReader::new(fields.0);
        let read = match form {
            RICE => {
                let rice = Rice::new(start(&mut bits).ok_or(CUT)?);
                return Ok(Some(Self { bits, rice, centre }));
            }
            SPARSE => read_sparse(&mut bits, apart, centre, slots),
            PACKED => read_packed(&mut bits, centre, slots),
            _ => return Err(Malformed("integers have an unknown form")),
        };
        pass(&bits, read, fields).map(|()| None)
    }

    #[expect(clippy::inline_always, reason = "its parts stay in registers")]
    #[inline(always)]
    fn next(&mut self) -> Option<u64> {
        let difference = unzigzag(self.rice.read(&mut self.bits)?);
        Some(self.centre.wrapping_add(difference).cast_unsigned())
    }

    /// Reads the codes from the front of the fields.
    pub(crate) fn read(
        &mut self,
        slots: &mut [u64],
        fields: &mut Fields<'_>,
    ) -> Result<(), Malformed> {
        // One of its own stays in registers.
        let mut own = Self { bits: self.bits.clone(), ..*self };
        let read = slots.iter_mut().try_for_each(|slot| {
            *slot = own.next()?;
            Some(())
        });
        pass(&own.bits, read, fields)
    }

    /// Reads the first codes of two in turns, which is faster: each code waits for the one before it. Says how many.
    pub(crate) fn read_in_turns(
        &mut self,
        slots: &mut [u64],
        other: &mut Self,
        other_slots: &mut [u64],
    ) -> Result<usize, Malformed> {
        let mut left = Self { bits: self.bits.clone(), ..*self };
        let mut right = Self { bits: other.bits.clone(), ..*other };
        let mut pairs = slots.iter_mut().zip(&mut *other_slots);
        let read = pairs.try_for_each(|(slot, other_slot)| {
            *slot = left.next()?;
            *other_slot = right.next()?;
            Some(())
        });
        read.ok_or(CUT)?;
        (*self, *other) = (left, right);
        Ok(slots.len().min(other_slots.len()))
    }
}

const CUT: Malformed = Malformed("packed integers end too early");

/// Passes over the bytes that were read, if they were there.
fn pass(bits: &BitReader<'_>, read: Option<()>, fields: &mut Fields<'_>) -> Result<(), Malformed> {
    read.filter(|()| bits.is_inside()).ok_or(CUT)?;
    fields.take(bits.bytes_read())?;
    Ok(())
}

/// An adaptive Rice parameter.
#[derive(Clone, Copy)]
struct Rice {
    /// Sixteenths of the mean of what was coded.
    mean: u64,
}

impl Rice {
    fn new(k: u32) -> Self {
        Self { mean: if k == 0 { 8 } else { 24 << k.min(MAX_K) } }
    }

    #[inline]
    fn k(self) -> u32 {
        // The logarithm of the whole mean, at least 0.
        (59 - (self.mean | 16).leading_zeros()).min(MAX_K)
    }

    #[inline]
    fn learn(&mut self, value: u64) {
        self.learn_small(value.min(1 << 56));
    }

    /// The same of a value of at most 2^56.
    #[inline]
    fn learn_small(&mut self, value: u64) {
        let apart = (value << 4).wrapping_sub(self.mean).cast_signed();
        // An eighth of the way, rounded towards the mean.
        let towards = (apart + (apart >> 63 & 7)) >> 3;
        self.mean = self.mean.wrapping_add(towards.cast_unsigned());
    }

    /// Bits of the next code, which is learnt from.
    fn cost(&mut self, value: u64) -> u64 {
        let k = self.k();
        let ones = value >> k;
        self.learn(value);
        if ones < u64::from(ESCAPE) { ones + 1 + u64::from(k) } else { u64::from(ESCAPE) + 64 }
    }

    fn write(&mut self, bits: &mut BitWriter, value: u64) {
        let k = self.k();
        let ones = value >> k;
        self.learn(value);
        match u32::try_from(ones) {
            Ok(ones) if ones < ESCAPE => {
                bits.write(((1 << ones) - 1) << 1, ones + 1);
                bits.write(value & ((1 << k) - 1), k);
            }
            _ => {
                bits.write((1 << ESCAPE) - 1, ESCAPE);
                bits.write(value, 64);
            }
        }
    }

    #[expect(clippy::inline_always, reason = "half the time of reading chunks is spent here")]
    #[inline(always)]
    fn read(&mut self, bits: &mut BitReader<'_>) -> Option<u64> {
        let k = self.k();
        let word = bits.peek();
        // The last bit is never looked at: set, it spares asking whether there is any.
        let ones = (!word | 1).leading_zeros();
        if ones < ESCAPE {
            // At most 24 bits in front, and 32 behind: within what a look ahead has.
            bits.skip(ones + 1 + k);
            let value = u64::from(ones) << k | (word << (ones + 1)) >> 32 >> (32 - k);
            self.learn_small(value);
            return Some(value);
        }
        bits.skip(ESCAPE);
        let (value, behind) = far_bits(bits.clone())?;
        *bits = behind;
        self.learn(value);
        Some(value)
    }
}

/// A code's 64 bits as they are. The reader is copied, so that the caller's can stay in registers.
#[cold]
fn far_bits(mut bits: BitReader<'_>) -> Option<(u64, BitReader<'_>)> {
    Some((bits.read(64)?, bits))
}

/// The parameter that suits the first values.
fn first_k(values: impl Iterator<Item = u64>) -> u32 {
    let (mut sum, mut count) = (0u64, 0u64);
    for value in values.take(8) {
        sum = sum.saturating_add(value);
        count += 1;
    }
    let mean = sum / count.max(1);
    (64 - mean.leading_zeros()).saturating_sub(1).min(MAX_K)
}

fn differences(integers: &[i64], centre: i64) -> impl Iterator<Item = u64> + Clone + '_ {
    integers.iter().map(move |integer| zigzag(integer.wrapping_sub(centre)))
}

fn rice_bits(integers: &[i64], centre: i64) -> u64 {
    let mut rice = Rice::new(first_k(differences(integers, centre)));
    u64::from(START_BITS) + differences(integers, centre).map(|value| rice.cost(value)).sum::<u64>()
}

fn write_rice(bits: &mut BitWriter, integers: &[i64], centre: i64) {
    let k = first_k(differences(integers, centre));
    bits.write(u64::from(k), START_BITS);
    let mut rice = Rice::new(k);
    differences(integers, centre).for_each(|value| rice.write(bits, value));
}

fn start(bits: &mut BitReader<'_>) -> Option<u32> {
    u32::try_from(bits.read(START_BITS)?).ok()
}

/// For every integer that is not the centre: how many centres stand in front of it, and its difference, less one.
fn apart(integers: &[i64], centre: i64) -> impl Iterator<Item = (u64, u64)> + Clone + '_ {
    let mut gap = 0u64;
    differences(integers, centre).filter_map(move |value| {
        gap += 1;
        (value > 0).then(|| (std::mem::take(&mut gap) - 1, value - 1))
    })
}

fn sparse_bits(integers: &[i64], centre: i64) -> u64 {
    let (mut gaps, mut values) = sparse_codes(integers, centre);
    let codes = apart(integers, centre).map(|(gap, value)| gaps.cost(gap) + values.cost(value));
    8 + 2 * u64::from(START_BITS) + codes.sum::<u64>()
}

fn sparse_codes(integers: &[i64], centre: i64) -> (Rice, Rice) {
    let gaps = first_k(apart(integers, centre).map(|(gap, _)| gap));
    let values = first_k(apart(integers, centre).map(|(_, value)| value));
    (Rice::new(gaps), Rice::new(values))
}

fn write_sparse(bits: &mut BitWriter, integers: &[i64], centre: i64) {
    bits.write(u64::from(first_k(apart(integers, centre).map(|(gap, _)| gap))), START_BITS);
    bits.write(u64::from(first_k(apart(integers, centre).map(|(_, value)| value))), START_BITS);
    let (mut gaps, mut values) = sparse_codes(integers, centre);
    for (gap, value) in apart(integers, centre) {
        gaps.write(bits, gap);
        values.write(bits, value);
    }
}

fn read_sparse(
    bits: &mut BitReader<'_>,
    apart: usize,
    centre: i64,
    slots: &mut [u64],
) -> Option<()> {
    let mut gaps = Rice::new(start(bits)?);
    let mut values = Rice::new(start(bits)?);
    slots.fill(centre.cast_unsigned());
    let mut rest = slots;
    // A reader of its own stays in registers.
    let mut own = bits.clone();
    for _ in 0..apart {
        let gap = usize::try_from(gaps.read(&mut own)?).ok()?;
        let (slot, behind) = rest.get_mut(gap..)?.split_first_mut()?;
        let value = values.read(&mut own)?.checked_add(1)?;
        *slot = centre.wrapping_add(unzigzag(value)).cast_unsigned();
        rest = behind;
    }
    *bits = own;
    Some(())
}

fn above(integer: i64, base: i64) -> u64 {
    integer.wrapping_sub(base).cast_unsigned()
}

fn width_of(value: u64) -> u32 {
    64 - value.leading_zeros()
}

/// The width that makes a block smallest, and the block's bits.
fn packed_width(block: &[i64], base: i64) -> (u32, u64) {
    let mut of_width = [0u64; 65];
    for integer in block {
        let width = usize::try_from(width_of(above(*integer, base))).unwrap_or(64);
        if let Some(count) = of_width.get_mut(width) {
            *count += 1;
        }
    }
    let head = u64::from(WIDTH_BITS + SPARE_BITS);
    let (mut best, mut spare) = ((64, u64::MAX), 0u64);
    for (width, count) in (0u32..65).zip(of_width).rev() {
        if spare > MAX_SPARE as u64 {
            break;
        }
        let bits = head + u64::from(width) * block.len() as u64 + spare * SPARE_COST;
        if bits <= best.1 {
            best = (width, bits);
        }
        spare += count;
    }
    best
}

fn packed_bits(integers: &[i64], base: i64) -> u64 {
    integers.chunks(BLOCK).map(|block| packed_width(block, base).1).sum()
}

fn write_packed(bits: &mut BitWriter, integers: &[i64], base: i64) {
    for block in integers.chunks(BLOCK) {
        let (width, _) = packed_width(block, base);
        let mask = u64::MAX.checked_shr(64 - width).unwrap_or(0);
        let spare = (0u64..).zip(block).filter(|(_, i)| width_of(above(**i, base)) > width);
        bits.write(u64::from(width), WIDTH_BITS);
        bits.write(spare.clone().count() as u64, SPARE_BITS);
        for integer in block {
            bits.write(above(*integer, base) & mask, width);
        }
        for (place, integer) in spare {
            bits.write(place, 5);
            bits.write(above(*integer, base), 64);
        }
    }
}

fn read_packed(bits: &mut BitReader<'_>, base: i64, slots: &mut [u64]) -> Option<()> {
    for block in slots.chunks_mut(BLOCK) {
        let width = u32::try_from(bits.read(WIDTH_BITS)?).ok().filter(|width| *width <= 64)?;
        let spare = bits.read(SPARE_BITS)?;
        read_block(bits, width, block)?;
        for _ in 0..spare {
            let place = usize::try_from(bits.read(5)?).ok()?;
            *block.get_mut(place)? = bits.read(64)?;
        }
        for slot in block {
            *slot = slot.wrapping_add(base.cast_unsigned());
        }
    }
    Some(())
}

/// Reads integers that are all so wide.
fn read_block(bits: &mut BitReader<'_>, width: u32, block: &mut [u64]) -> Option<()> {
    if !(1..=PEEKED).contains(&width) {
        return block.iter_mut().try_for_each(|slot| {
            *slot = bits.read(width)?;
            Some(())
        });
    }
    let mut own = bits.clone();
    for slot in block {
        *slot = own.peek() >> (64 - width);
        own.skip(width);
    }
    *bits = own;
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn round_trip(integers: &[i64]) -> usize {
        let mut bytes = Vec::new();
        encode(&mut bytes, integers);
        let mut fields = Fields(&bytes);
        let mut back = vec![7; integers.len()];
        decode(&mut fields, &mut back).unwrap();
        assert!(back.iter().map(|bits| bits.cast_signed()).eq(integers.iter().copied()));
        fields.end().unwrap();
        bytes.len()
    }

    #[test]
    fn each_form_is_small_where_it_fits() {
        let of = |f: &dyn Fn(u32) -> i64| round_trip(&(0..240).map(f).collect::<Vec<_>>());
        let noise = |i: u32| i64::from(i.wrapping_mul(2_654_435_761) >> 22);
        assert_eq!(of(&|_| 30_000), 4);
        assert!(of(&|i| i64::from(i == 7 || i == 100)) < 8);
        assert!(of(&|i| 15_000 + noise(i) % 7 - 3) < 108);
        assert!(of(&|i| 900 + noise(i)) < 320);
        assert!(of(&|i| if i == 50 { i64::MIN } else { 900 + noise(i) }) < 330);
    }

    fn integer() -> impl Strategy<Value = i64> {
        prop_oneof![
            4 => Just(0),
            3 => -3i64..4,
            2 => -70_000i64..70_000,
            1 => any::<i64>(),
        ]
    }

    proptest! {
        #[test]
        fn integers_come_back(centre in integer(), integers in prop::collection::vec(integer(), 0..300)) {
            let integers: Vec<i64> = integers.iter().map(|i| i.wrapping_add(centre)).collect();
            round_trip(&integers);
        }

        #[test]
        fn quiet_runs_come_back(at in prop::collection::btree_set(0..500usize, 0..20), value in any::<i64>()) {
            let integers: Vec<i64> = (0..500).map(|i| if at.contains(&i) { value } else { 5 }).collect();
            round_trip(&integers);
        }

        #[test]
        fn arbitrary_bytes_never_panic(form in 0u8..5, bytes in prop::collection::vec(any::<u8>(), 0..80), count in 0..500usize) {
            let bytes = [&[form][..], &bytes].concat();
            let _ = decode(&mut Fields(&bytes), &mut vec![0; count]);
        }
    }
}
