//! A histogram as bytes, in frames as in the store, often as what changed since the one before it. PROTOCOL.md has the
//! format.

use std::sync::Arc;

use crate::fields::{CUT, Fields, Malformed, put_signed, put_varint};

use super::{Buckets, COARSEST, FINEST, Histogram, HistogramError, Parts, ResetHint, Schema, Span};

/// Most buckets, and most custom bounds, of a histogram that is sent or stored. One with more is refused where it comes
/// in.
pub const MAX_BUCKETS: usize = 8_192;

/// The hint, in the two lowest bits.
const HINT: u8 = 3;
/// Schema, threshold and spans are those of the histogram before.
const SAME_LAYOUT: u8 = 1 << 2;
/// All counts are whole numbers.
const WHOLE: u8 = 1 << 3;
/// The bounds are listed.
const CUSTOM: u8 = 1 << 4;
/// The zero bucket's threshold is not zero.
const THRESHOLD: u8 = 1 << 5;
/// Up to here every whole number is a double.
const LARGEST_WHOLE: f64 = 9_007_199_254_740_992.0;

impl Histogram {
    /// Whether it may be sent and stored: neither its buckets nor its bounds are more than [`MAX_BUCKETS`].
    pub fn is_within_bounds(&self) -> bool {
        let bounds = match &self.schema {
            Schema::Custom(bounds) => bounds.len(),
            Schema::Exponential(_) => 0,
        };
        self.positive.len() + self.negative.len() <= MAX_BUCKETS && bounds <= MAX_BUCKETS
    }

    /// Most bytes that [`Histogram::encode`] takes for it.
    pub fn encoded_bound(&self) -> usize {
        let spans = self.positive.spans().len() + self.negative.spans().len();
        let bounds = match &self.schema {
            Schema::Custom(bounds) => bounds.len(),
            Schema::Exponential(_) => 0,
        };
        let counts = self.positive.len() + self.negative.len() + 2;
        32 + bounds * 8 + spans * 10 + counts * 8
    }

    /// Appends its bytes. A reader needs the same `previous`.
    pub fn encode(&self, previous: Option<&Self>, out: &mut Vec<u8>) {
        let base = previous.filter(|previous| self.has_layout_of(previous));
        let numbers = whole(self).filter(|_| base.is_none_or(|base| whole(base).is_some()));
        let mut flags = hint_code(self.hint);
        flags |= if numbers.is_some() { WHOLE } else { 0 };
        let at = out.len();
        out.push(0);
        if base.is_some() {
            flags |= SAME_LAYOUT;
        } else {
            flags |= self.put_layout(out);
        }
        if let Some(first) = out.get_mut(at) {
            *first = flags;
        }
        let xor = |base: Option<f64>, value: f64| base.map_or(0, f64::to_bits) ^ value.to_bits();
        out.extend_from_slice(&xor(base.map(|base| base.sum), self.sum).to_le_bytes());
        if let Some(numbers) = numbers {
            let before = match base {
                Some(base) => whole(base).unwrap_or_default(),
                None => neighbours(&numbers, self.positive.len()),
            };
            for (count, before) in numbers.iter().zip(before) {
                put_signed(out, count - before);
            }
            return;
        }
        let before = base.map(Self::counts).into_iter().flatten().map(Some);
        for (count, before) in self.counts().zip(before.chain(std::iter::repeat(None))) {
            out.extend_from_slice(&xor(before, count).to_le_bytes());
        }
    }

    /// Takes a histogram from the front of `bytes`; refuses what [`Histogram::encode`] does not write.
    pub fn decode(bytes: &mut &[u8], previous: Option<&Self>) -> Result<Self, CodecError> {
        let mut fields = Fields(bytes);
        let flags = fields.byte()?;
        if flags & !(HINT | SAME_LAYOUT | WHOLE | CUSTOM | THRESHOLD) != 0 {
            return Err(CodecError::Malformed("a flag is unknown"));
        }
        let same = flags & SAME_LAYOUT != 0;
        let base = if same {
            if flags & (CUSTOM | THRESHOLD) != 0 {
                return Err(CodecError::Malformed("its layout is given twice"));
            }
            Some(previous.ok_or(CodecError::Malformed("there is none before it"))?)
        } else {
            None
        };
        let layout = match base {
            Some(base) => base.layout(),
            None => Layout::take(&mut fields, flags)?,
        };
        let sides = layout.sides()?;
        let xor =
            |base: Option<f64>, bits: u64| f64::from_bits(base.map_or(0, f64::to_bits) ^ bits);
        let sum = xor(base.map(|base| base.sum), fields.u64_le()?);
        let total = sides.0 + sides.1 + 2;
        let each = if flags & WHOLE != 0 { 1 } else { 8 };
        if total.saturating_mul(each) > fields.0.len() {
            return Err(CodecError::Truncated);
        }
        let mut counts = Vec::with_capacity(total);
        if flags & WHOLE != 0 {
            let before = match base {
                Some(base) => {
                    Some(whole(base).ok_or(CodecError::Malformed("it differs from a fraction"))?)
                }
                None => None,
            };
            take_whole(&mut fields, before.as_deref(), sides, &mut counts)?;
        } else {
            let before = base.map(Self::counts).into_iter().flatten().map(Some);
            for before in before.chain(std::iter::repeat(None)).take(total) {
                counts.push(xor(before, fields.u64_le()?));
            }
        }
        *bytes = fields.0;
        layout.fill(hint_of(flags & HINT), sum, counts, sides)
    }

    /// Zero bucket, total, positive and negative buckets.
    fn counts(&self) -> impl Iterator<Item = f64> {
        let buckets = self.positive.counts().iter().chain(self.negative.counts());
        [self.zero_count, self.count].into_iter().chain(buckets.copied())
    }

    fn has_layout_of(&self, other: &Self) -> bool {
        let schemas = match (&self.schema, &other.schema) {
            (Schema::Custom(own), Schema::Custom(others)) => {
                Arc::ptr_eq(own, others)
                    || own.iter().map(|b| b.to_bits()).eq(others.iter().map(|b| b.to_bits()))
            }
            (own, others) => own == others,
        };
        schemas
            && self.zero_threshold.to_bits() == other.zero_threshold.to_bits()
            && self.positive.spans() == other.positive.spans()
            && self.negative.spans() == other.negative.spans()
    }

    fn layout(&self) -> Layout {
        Layout {
            schema: self.schema.clone(),
            zero_threshold: self.zero_threshold,
            positive: self.positive.spans().to_vec(),
            negative: self.negative.spans().to_vec(),
        }
    }

    /// Appends schema, threshold and spans, and says which flags they need.
    fn put_layout(&self, out: &mut Vec<u8>) -> u8 {
        let mut flags = 0;
        match &self.schema {
            Schema::Custom(bounds) => {
                flags |= CUSTOM;
                put_varint(out, bounds.len() as u64);
                for bound in &**bounds {
                    out.extend_from_slice(&bound.to_bits().to_le_bytes());
                }
            }
            Schema::Exponential(schema) => {
                out.push(schema.saturating_sub(COARSEST).unsigned_abs());
            }
        }
        if self.zero_threshold.to_bits() != 0 {
            flags |= THRESHOLD;
            out.extend_from_slice(&self.zero_threshold.to_bits().to_le_bytes());
        }
        for side in [&self.positive, &self.negative] {
            put_varint(out, side.spans().len() as u64);
            for span in side.spans() {
                put_signed(out, i64::from(span.offset));
                put_varint(out, u64::from(span.length));
            }
        }
        flags
    }
}

/// The counts as whole numbers, if all of them are.
fn whole(histogram: &Histogram) -> Option<Vec<i64>> {
    histogram.counts().map(whole_number).collect()
}

fn whole_number(count: f64) -> Option<i64> {
    if !(0.0..=LARGEST_WHOLE).contains(&count) || count.is_sign_negative() {
        return None;
    }
    #[expect(clippy::cast_possible_truncation, reason = "at most 2^53, and checked below")]
    let number = count as i64;
    (number as f64 == count).then_some(number)
}

/// What each count is written as a difference from, without a histogram before: a bucket from its neighbour below.
fn neighbours(counts: &[i64], positive: usize) -> Vec<i64> {
    let mut before = Vec::with_capacity(counts.len());
    for place in 0..counts.len() {
        let first = place <= 2 || place == positive + 2;
        let neighbour = place.checked_sub(1).and_then(|place| counts.get(place)).copied();
        before.push(if first { 0 } else { neighbour.unwrap_or(0) });
    }
    before
}

fn take_whole(
    fields: &mut Fields<'_>,
    before: Option<&[i64]>,
    (positive, negative): (usize, usize),
    out: &mut Vec<f64>,
) -> Result<(), CodecError> {
    let mut neighbour = 0;
    for place in 0..positive + negative + 2 {
        if place <= 2 || place == positive + 2 {
            neighbour = 0;
        }
        let from = before.map_or(neighbour, |before| before.get(place).copied().unwrap_or(0));
        let count = from.checked_add(fields.signed()?).filter(|count| *count >= 0);
        let count = count.filter(|count| *count <= 1 << 53);
        let count = count.ok_or(CodecError::Malformed("a count is negative or too large"))?;
        out.push(count as f64);
        neighbour = count;
    }
    Ok(())
}

/// All of a histogram but its counts.
struct Layout {
    schema: Schema,
    zero_threshold: f64,
    positive: Vec<Span>,
    negative: Vec<Span>,
}

impl Layout {
    fn take(fields: &mut Fields<'_>, flags: u8) -> Result<Self, CodecError> {
        let schema = if flags & CUSTOM != 0 {
            let count = count(fields, 8)?;
            if count > MAX_BUCKETS {
                return Err(CodecError::TooMany);
            }
            let bounds: Result<Vec<f64>, _> =
                (0..count).map(|_| fields.u64_le().map(f64::from_bits)).collect();
            Schema::Custom(bounds?.into())
        } else {
            let schema = i8::try_from(fields.byte()?).ok().and_then(|n| n.checked_add(COARSEST));
            let schema = schema.filter(|schema| *schema <= FINEST);
            Schema::Exponential(schema.ok_or(CodecError::Malformed("its schema is unknown"))?)
        };
        let threshold = if flags & THRESHOLD != 0 { fields.u64_le()? } else { 0 };
        let zero_threshold = f64::from_bits(threshold);
        Ok(Self { schema, zero_threshold, positive: spans(fields)?, negative: spans(fields)? })
    }

    /// How many buckets there are on each side.
    fn sides(&self) -> Result<(usize, usize), CodecError> {
        let buckets = |spans: &[Span]| spans.iter().map(|span| u64::from(span.length)).sum::<u64>();
        let (positive, negative) = (buckets(&self.positive), buckets(&self.negative));
        match (usize::try_from(positive), usize::try_from(negative)) {
            (Ok(a), Ok(b)) if a.saturating_add(b) <= MAX_BUCKETS => Ok((a, b)),
            _ => Err(CodecError::TooMany),
        }
    }

    fn fill(
        self,
        hint: ResetHint,
        sum: f64,
        counts: Vec<f64>,
        (positive, negative): (usize, usize),
    ) -> Result<Histogram, CodecError> {
        let mut counts = counts.into_iter();
        let (zero_count, count) = (counts.next(), counts.next());
        let above: Vec<f64> = counts.by_ref().take(positive).collect();
        let below: Vec<f64> = counts.take(negative).collect();
        Ok(Histogram::new(Parts {
            hint,
            schema: self.schema,
            zero_threshold: self.zero_threshold,
            zero_count: zero_count.unwrap_or_default(),
            count: count.unwrap_or_default(),
            sum,
            positive: Buckets::new(&self.positive, above)?,
            negative: Buckets::new(&self.negative, below)?,
        })?)
    }
}

fn spans(fields: &mut Fields<'_>) -> Result<Vec<Span>, CodecError> {
    let count = count(fields, 2)?;
    if count > MAX_BUCKETS {
        return Err(CodecError::TooMany);
    }
    let span = |_| {
        let offset = i32::try_from(fields.signed()?);
        let length = u32::try_from(fields.varint()?);
        match (offset, length) {
            (Ok(offset), Ok(length)) => Ok(Span { offset, length }),
            _ => Err(CodecError::Malformed("a span is too large")),
        }
    };
    (0..count).map(span).collect()
}

fn hint_code(hint: ResetHint) -> u8 {
    match hint {
        ResetHint::Unknown => 0,
        ResetHint::Reset => 1,
        ResetHint::NotReset => 2,
        ResetHint::Gauge => 3,
    }
}

fn hint_of(code: u8) -> ResetHint {
    match code {
        1 => ResetHint::Reset,
        2 => ResetHint::NotReset,
        3 => ResetHint::Gauge,
        _ => ResetHint::Unknown,
    }
}

/// A count of things that take at least `each` bytes in what is left.
fn count(fields: &mut Fields<'_>, each: usize) -> Result<usize, CodecError> {
    let count = fields.count()?;
    if count.saturating_mul(each) > fields.0.len() {
        return Err(CodecError::Truncated);
    }
    Ok(count)
}

/// Why bytes are not a histogram.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum CodecError {
    /// They end too early.
    #[error("a histogram ends too early")]
    Truncated,
    /// They contradict the format.
    #[error("a histogram is malformed: {0}")]
    Malformed(&'static str),
    /// It has more buckets or bounds than [`MAX_BUCKETS`].
    #[error("a histogram has more than {MAX_BUCKETS} buckets or bounds")]
    TooMany,
    /// What they say is not a histogram.
    #[error("a histogram is not valid: {0}")]
    Invalid(#[from] HistogramError),
}

impl From<Malformed> for CodecError {
    fn from(error: Malformed) -> Self {
        if error == CUT { Self::Truncated } else { Self::Malformed(error.0) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn count() -> impl Strategy<Value = f64> {
        let edges = [0.0, -0.0, 0.5, f64::NAN, f64::INFINITY, -3.0, LARGEST_WHOLE, 1e300];
        prop_oneof![
            6 => (0..1000u32).prop_map(f64::from),
            1 => any::<u64>().prop_map(f64::from_bits),
            1 => prop::sample::select(edges.to_vec()),
        ]
    }

    fn side() -> impl Strategy<Value = (Vec<Span>, Vec<f64>)> {
        let span = (0..5i32, 0..4u32).prop_map(|(offset, length)| Span { offset, length });
        prop::collection::vec(span, 0..4).prop_flat_map(|spans| {
            let total: u32 = spans.iter().map(|span| span.length).sum();
            let total = usize::try_from(total).unwrap();
            (Just(spans), prop::collection::vec(count(), total))
        })
    }

    fn hint() -> impl Strategy<Value = ResetHint> {
        (0..4u8).prop_map(hint_of)
    }

    fn exponential() -> impl Strategy<Value = Histogram> {
        let numbers = (count(), count(), any::<u64>().prop_map(f64::from_bits));
        let threshold = prop_oneof![Just(0.0), Just(-0.0), Just(1e-128), 0.0..5.0];
        (hint(), COARSEST..=FINEST, threshold, numbers, side(), side()).prop_map(
            |(hint, schema, zero_threshold, (zero_count, count, sum), above, below)| {
                let positive = Buckets::new(&above.0, above.1).unwrap();
                let negative = Buckets::new(&below.0, below.1).unwrap();
                let schema = Schema::Exponential(schema);
                let parts = Parts {
                    hint,
                    schema,
                    zero_threshold,
                    zero_count,
                    count,
                    sum,
                    positive,
                    negative,
                };
                Histogram::new(parts).unwrap()
            },
        )
    }

    fn custom() -> impl Strategy<Value = Histogram> {
        let steps = prop::collection::vec(1..9u32, 40);
        (hint(), steps, count(), any::<u64>(), side()).prop_map(
            |(hint, steps, count, sum, (spans, counts))| {
                let mut bound = -9.5;
                let next = |step| {
                    bound += f64::from(step);
                    bound
                };
                let bounds: Vec<f64> = steps.into_iter().map(next).collect();
                let parts = Parts {
                    hint,
                    schema: Schema::Custom(bounds.into()),
                    count,
                    sum: f64::from_bits(sum),
                    positive: Buckets::new(&spans, counts).unwrap(),
                    ..Parts::default()
                };
                Histogram::new(parts).unwrap()
            },
        )
    }

    fn check(histograms: &[Histogram]) {
        let mut bytes = Vec::new();
        let mut previous = None;
        for histogram in histograms {
            let before = bytes.len();
            histogram.encode(previous, &mut bytes);
            assert!(bytes.len() - before <= histogram.encoded_bound());
            previous = Some(histogram);
        }
        let mut rest = bytes.as_slice();
        let mut previous: Option<Histogram> = None;
        for histogram in histograms {
            let back = Histogram::decode(&mut rest, previous.as_ref()).unwrap();
            assert_eq!(&back, histogram);
            assert_eq!(back.zero_threshold.to_bits(), histogram.zero_threshold.to_bits());
            previous = Some(back);
        }
        assert!(rest.is_empty());
    }

    proptest! {
        #[test]
        fn any_histograms_come_back(all in prop::collection::vec(prop_oneof![exponential(), custom()], 1..4)) {
            check(&all);
        }

        #[test]
        fn growing_ones_come_back(first in exponential(), step in 0..9u32, fraction in any::<bool>()) {
            let step = f64::from(step) + if fraction { 0.5 } else { 0.0 };
            let next = first.convert(|count| count + step);
            check(&[first.clone(), next.clone(), next, first]);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..120), before in exponential()) {
            let _ = Histogram::decode(&mut bytes.as_slice(), None);
            let _ = Histogram::decode(&mut bytes.as_slice(), Some(&before));
        }

        #[test]
        fn damage_never_panics(histogram in prop_oneof![exponential(), custom()], at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let mut bytes = Vec::new();
            histogram.encode(None, &mut bytes);
            for length in 0..bytes.len() {
                prop_assert!(Histogram::decode(&mut &bytes[..length], None).is_err());
            }
            let at = at.index(bytes.len());
            bytes[at] = byte;
            let _ = Histogram::decode(&mut bytes.as_slice(), Some(&histogram));
        }
    }

    #[test]
    fn a_steady_histogram_takes_few_bytes() {
        let spans = [Span { offset: -3, length: 20 }, Span { offset: 4, length: 10 }];
        let positive = Buckets::new(&spans, (0..30).map(|n| f64::from(n * 7)).collect()).unwrap();
        let parts = Parts { count: 3045.0, sum: 17.5, positive, ..Parts::default() };
        let histogram = Histogram::new(parts).unwrap();
        let mut bytes = Vec::new();
        histogram.encode(None, &mut bytes);
        let first = bytes.len();
        histogram.encode(Some(&histogram), &mut bytes);
        assert!(first < 60 && bytes.len() - first == 1 + 8 + 32, "{first} {}", bytes.len());
    }

    #[test]
    fn too_many_buckets_are_refused() {
        let mut bytes = vec![WHOLE, 4, 1, 0];
        put_varint(&mut bytes, MAX_BUCKETS as u64 + 1);
        bytes.extend(vec![0; 2 * MAX_BUCKETS]);
        let refused = Histogram::decode(&mut bytes.as_slice(), None);
        assert_eq!(refused, Err(CodecError::TooMany));
        // A few bytes that announce a lot.
        let mut bytes = vec![WHOLE | CUSTOM];
        put_varint(&mut bytes, u64::MAX);
        assert_eq!(Histogram::decode(&mut bytes.as_slice(), None), Err(CodecError::Truncated));
    }
}
