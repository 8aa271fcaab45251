//! Prometheus' chunks of native histograms with counts as floats, as remote read streams them.

use tributary_model::histogram::{Buckets, Histogram, HistogramSample, ResetHint, Schema};

use super::chunk::{Bits, MAX_SAMPLES};

/// The number that stands for this encoding in messages.
pub const FLOAT_HISTOGRAM: u64 = 3;

/// In a chunk's third byte: its histograms are gauges.
const GAUGE: u8 = 0b1100_0000;

/// Parts samples so that each part fits one chunk: at most [`MAX_SAMPLES`], all with one layout.
pub fn split(samples: &[HistogramSample]) -> impl Iterator<Item = &[HistogramSample]> {
    let same = |a: &HistogramSample, b: &HistogramSample| of_one_chunk(&a.histogram, &b.histogram);
    samples.chunk_by(same).flat_map(|part| part.chunks(MAX_SAMPLES))
}

fn of_one_chunk(a: &Histogram, b: &Histogram) -> bool {
    let gauge = |histogram: &Histogram| histogram.hint() == ResetHint::Gauge;
    a.is_stale() == b.is_stale()
        && gauge(a) == gauge(b)
        && a.schema() == b.schema()
        && a.zero_threshold() == b.zero_threshold()
        && a.positive().spans() == b.positive().spans()
        && a.negative().spans() == b.negative().spans()
        && (gauge(a) || !b.is_reset_after(a))
}

/// Encodes what is one part of [`split`].
pub fn encode(samples: &[HistogramSample]) -> Vec<u8> {
    let count = u16::try_from(samples.len()).unwrap_or(u16::MAX);
    let mut bytes = count.to_be_bytes().to_vec();
    let Some(first) = samples.first() else { return bytes };
    bytes.push(if first.histogram.hint() == ResetHint::Gauge { GAUGE } else { 0 });
    let mut bits = Bits::behind(bytes);
    layout(&mut bits, &first.histogram);
    let mut before: Option<(i64, i64)> = None;
    let mut columns: Vec<Column> = Vec::new();
    for sample in samples {
        let at = sample.at.as_millis();
        let (step, delta) = match before {
            None => (at, 0),
            Some((last, last_delta)) => {
                let delta = at.wrapping_sub(last);
                (delta.wrapping_sub(last_delta), delta)
            }
        };
        bits.varbit_signed(step);
        let values = values(&sample.histogram);
        if before.is_none() {
            for value in values {
                bits.push(value.to_bits(), 64);
                columns.push(Column { bits: value.to_bits(), window: None });
            }
        } else {
            for (value, column) in values.zip(&mut columns) {
                bits.xor(value.to_bits() ^ column.bits, &mut column.window);
                column.bits = value.to_bits();
            }
        }
        before = Some((at, delta));
    }
    bits.bytes
}

/// One number of every histogram.
struct Column {
    bits: u64,
    /// The place of the significant bits of its last change.
    window: Option<(u32, u32)>,
}

/// In the order of the chunk.
fn values(histogram: &Histogram) -> impl Iterator<Item = f64> {
    let totals = [histogram.count(), histogram.zero_count(), histogram.sum()];
    let buckets = histogram.positive().counts().iter().chain(histogram.negative().counts());
    totals.into_iter().chain(buckets.copied())
}

fn layout(bits: &mut Bits, histogram: &Histogram) {
    zero_threshold(bits, histogram.zero_threshold());
    bits.varbit_signed(i64::from(histogram.schema().number()));
    spans(bits, histogram.positive());
    spans(bits, histogram.negative());
    if let Schema::Custom(bounds) = histogram.schema() {
        bits.varbit(u64::try_from(bounds.len()).unwrap_or(0));
        for bound in &**bounds {
            custom_bound(bits, *bound);
        }
    }
}

fn spans(bits: &mut Bits, buckets: &Buckets) {
    bits.varbit(u64::try_from(buckets.spans().len()).unwrap_or(0));
    for span in buckets.spans() {
        bits.varbit(u64::from(span.length));
        bits.varbit_signed(i64::from(span.offset));
    }
}

/// Zero and powers of two from 2^-243 to 2^10 take one byte.
fn zero_threshold(bits: &mut Bits, threshold: f64) {
    let pattern = threshold.to_bits();
    let exponent = i64::try_from(pattern >> 52).unwrap_or(0) - 1022;
    if pattern == 0 {
        bits.push(0, 8);
    } else if pattern.trailing_zeros() >= 52 && (-242..=11).contains(&exponent) {
        bits.push((exponent + 243).unsigned_abs(), 8);
    } else {
        bits.push(255, 8);
        bits.push(pattern, 64);
    }
}

/// Whole thousandths are short.
fn custom_bound(bits: &mut Bits, bound: f64) {
    let thousandths = (bound * 1000.0).round();
    let short = (0.0..=33_554_430.0).contains(&thousandths)
        && (thousandths / 1000.0).to_bits() == bound.to_bits();
    if short {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "in range")]
        bits.varbit(thousandths as u64 + 1);
    } else {
        bits.push(0, 1);
        bits.push(bound.to_bits(), 64);
    }
}

/// How many bits follow how many ones and a zero; eight ones have no zero behind them.
const WIDTHS: [u32; 9] = [0, 3, 6, 9, 12, 18, 25, 56, 64];

impl Bits {
    /// Appends a number in as few bits as its size needs.
    fn varbit(&mut self, value: u64) {
        let fits = |width: &&u32| **width == 64 || value >> **width == 0;
        self.varbit_of(value, WIDTHS.iter().find(fits).copied().unwrap_or(64));
    }

    /// The same with a sign.
    fn varbit_signed(&mut self, value: i64) {
        let fits = |width: &&u32| match **width {
            0 => value == 0,
            64 => true,
            width => (-(1 << (width - 1)) + 1..=1 << (width - 1)).contains(&value),
        };
        let width = WIDTHS.iter().find(fits).copied().unwrap_or(64);
        self.varbit_of(value.cast_unsigned(), width);
    }

    fn varbit_of(&mut self, value: u64, width: u32) {
        let ones = WIDTHS.iter().take_while(|w| **w < width).count();
        for _ in 0..ones {
            self.push(1, 1);
        }
        if ones < 8 {
            self.push(0, 1);
        }
        self.push(value, width);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tributary_model::histogram::{Parts, Span};
    use tributary_model::sample::Timestamp;

    use super::*;

    fn sample(at: i64, parts: Parts) -> HistogramSample {
        let histogram = Arc::new(Histogram::new(parts).unwrap());
        HistogramSample { at: Timestamp::from_millis(at), histogram }
    }

    fn parts(counts: &[f64]) -> Parts {
        let span = [Span { offset: 1, length: u32::try_from(counts.len()).unwrap() }];
        let positive = Buckets::new(&span, counts.to_vec()).unwrap();
        Parts { count: 3.0, sum: 2.0, positive, ..Parts::default() }
    }

    /// Reads the bits of a chunk back, in order.
    struct Reader<'a>(&'a [u8], usize);

    impl Reader<'_> {
        fn bits(&mut self, count: u32) -> u64 {
            (0..count).fold(0, |out, _| {
                let bit = self.0[self.1 / 8] >> (7 - self.1 % 8) & 1;
                self.1 += 1;
                out << 1 | u64::from(bit)
            })
        }

        fn varbit(&mut self) -> (u64, u32) {
            let mut ones = 0;
            while ones < 8 && self.bits(1) == 1 {
                ones += 1;
            }
            (self.bits(WIDTHS[ones]), WIDTHS[ones])
        }

        fn signed(&mut self) -> i64 {
            let (value, width) = self.varbit();
            let value = value.cast_signed();
            if (1..64).contains(&width) && value > 1 << (width - 1) {
                value - (1 << width)
            } else {
                value
            }
        }
    }

    #[test]
    fn layout_and_first_sample() {
        let first = Parts { zero_threshold: 0.5, zero_count: 1.0, ..parts(&[1.0, 2.0]) };
        let next = Parts { zero_threshold: 0.5, zero_count: 1.0, ..parts(&[1.0, 3.0]) };
        let samples = [sample(1_000_000, first), sample(1_015_000, next)];
        assert_eq!(split(&samples).count(), 1);
        let bytes = encode(&samples);
        assert_eq!(bytes[..3], [0, 2, 0]);
        let mut reader = Reader(&bytes, 24);
        // 0.5 is 0.5 · 2^0.
        assert_eq!(reader.bits(8), 243);
        assert_eq!(reader.signed(), 0);
        assert_eq!((reader.varbit().0, reader.varbit().0, reader.signed()), (1, 2, 1));
        assert_eq!(reader.varbit().0, 0);
        assert_eq!(reader.signed(), 1_000_000);
        let values: Vec<f64> = (0..5).map(|_| f64::from_bits(reader.bits(64))).collect();
        assert_eq!(values, [3.0, 1.0, 2.0, 1.0, 2.0]);
        assert_eq!(reader.signed(), 15_000);
        // Four values stay, the last one changes.
        assert_eq!(reader.bits(4), 0);
        assert_eq!(reader.bits(2), 0b11);
        assert_eq!(reader.bits(5), u64::from((2f64.to_bits() ^ 3f64.to_bits()).leading_zeros()));
    }

    #[test]
    fn numbers_and_bounds() {
        for value in [0, 1, -3, 4, 5, -4, 31, 32, 33, 1 << 17, -(1 << 24), 1 << 55, i64::MIN] {
            let mut bits = Bits::behind(Vec::new());
            bits.varbit_signed(value);
            assert_eq!(Reader(&bits.bytes, 0).signed(), value);
        }
        let mut bits = Bits::behind(Vec::new());
        custom_bound(&mut bits, 0.005);
        assert_eq!(Reader(&bits.bytes, 0).varbit().0, 6);
        let mut bits = Bits::behind(Vec::new());
        custom_bound(&mut bits, -1.0);
        assert_eq!(Reader(&bits.bytes, 0).varbit().0, 0);
        assert_eq!(Reader(&bits.bytes, 1).bits(64), (-1f64).to_bits());
    }

    #[test]
    fn layouts_markers_and_resets_part_chunks() {
        let stale = HistogramSample {
            at: Timestamp::from_millis(4),
            histogram: Arc::new(Histogram::stale()),
        };
        let gauge = Parts { hint: ResetHint::Gauge, ..parts(&[1.0]) };
        let samples = [
            sample(1, parts(&[1.0, 2.0])),
            sample(2, parts(&[1.0, 2.0])),
            sample(3, parts(&[1.0])),
            stale,
            sample(5, gauge),
            sample(6, parts(&[1.0])),
            sample(7, parts(&[0.0])),
        ];
        let sizes: Vec<usize> = split(&samples).map(<[_]>::len).collect();
        assert_eq!(sizes, [2, 1, 1, 1, 1, 1]);
        assert_eq!(encode(&samples[4..5])[2], GAUGE);
    }
}
