//! Native histograms: observations counted in buckets whose bounds follow from a schema.
//!
//! A [`Histogram`] is made from [`Parts`], which [`Histogram::new`] checks; nothing after it has to check again.
//! Counts are `f64`, or any other [`Quantity`]: a sum that keeps what rounding loses is one.

mod arithmetic;
mod bounds;
mod buckets;
mod codec;
pub mod notation;
mod reset;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

pub use self::arithmetic::{Combined, MixedSchemas};
pub use self::buckets::{Buckets, Quantity, Span};
pub use self::codec::{CodecError, MAX_BUCKETS};
use crate::number::format_general;
use crate::sample::{Timestamp, is_stale, stale_nan};

/// The coarsest exponential schema: each bucket's bound is 2¹⁶ times the one before.
pub const COARSEST: i8 = -4;

/// The finest exponential schema: 256 buckets between two powers of two.
pub const FINEST: i8 = 8;

/// The number by which wire formats and JSON mean custom bounds.
pub const CUSTOM_SCHEMA: i32 = -53;

/// How bounds are chosen.
#[derive(Debug, Clone, PartialEq)]
pub enum Schema {
    /// Powers of 2^(2^-n) on both sides of zero, where n is from [`COARSEST`] to [`FINEST`].
    Exponential(i8),
    /// The upper bounds of all buckets but the last, which reaches to infinity: finite, strictly increasing.
    Custom(Arc<[f64]>),
}

impl Schema {
    /// The number in wire formats.
    pub fn number(&self) -> i32 {
        match self {
            Self::Exponential(schema) => i32::from(*schema),
            Self::Custom(_) => CUSTOM_SCHEMA,
        }
    }

    /// Whether the bounds are listed.
    pub fn is_custom(&self) -> bool {
        matches!(self, Self::Custom(_))
    }
}

impl Default for Schema {
    fn default() -> Self {
        Self::Exponential(0)
    }
}

/// What is known of counter resets between a histogram and the one before it in its series.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum ResetHint {
    /// Nothing: the two must be compared.
    #[default]
    Unknown,
    /// It started again from zero.
    Reset,
    /// It did not.
    NotReset,
    /// It is a gauge, which may fall.
    Gauge,
}

/// The open form of a histogram, as it is read from a wire format or a text.
#[derive(Debug, Clone, Default)]
pub struct Parts<N = f64> {
    /// What is known of resets.
    pub hint: ResetHint,
    /// How bounds are chosen.
    pub schema: Schema,
    /// Observations from minus this to this are in the zero bucket. Zero with custom bounds.
    pub zero_threshold: f64,
    /// Observations in the zero bucket. Zero with custom bounds.
    pub zero_count: N,
    /// All observations; those that are NaN are in no bucket.
    pub count: N,
    /// Their sum.
    pub sum: N,
    /// Observations above zero; with custom bounds, all.
    pub positive: Buckets<N>,
    /// Observations below zero, by the bound's distance from zero. Empty with custom bounds.
    pub negative: Buckets<N>,
}

/// A histogram. Immutable in samples, which share it; arithmetic is done on copies.
#[derive(Debug, Clone, Default)]
pub struct Histogram<N = f64> {
    hint: ResetHint,
    schema: Schema,
    zero_threshold: f64,
    zero_count: N,
    count: N,
    sum: N,
    positive: Buckets<N>,
    negative: Buckets<N>,
}

/// A histogram at one time.
#[derive(Debug, Clone, PartialEq)]
pub struct HistogramSample {
    /// When it was true.
    pub at: Timestamp,
    /// The histogram; [`Histogram::is_stale`] if the series ended here.
    pub histogram: Arc<Histogram>,
}

/// A bucket with its bounds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bucket {
    /// The lower bound.
    pub lower: f64,
    /// The upper bound.
    pub upper: f64,
    /// Whether the lower bound itself is in the bucket.
    pub lower_inclusive: bool,
    /// Whether the upper bound itself is in the bucket.
    pub upper_inclusive: bool,
    /// The observations.
    pub count: f64,
}

impl<N: Quantity> Histogram<N> {
    /// Checks what later code relies on: a known schema, a threshold that is a distance, increasing finite custom
    /// bounds with a bucket index for each, and nothing that custom bounds have no use for.
    pub fn new(parts: Parts<N>) -> Result<Self, HistogramError> {
        let Parts { hint, schema, zero_threshold, zero_count, count, sum, positive, negative } =
            parts;
        match &schema {
            Schema::Exponential(schema) if !(COARSEST..=FINEST).contains(schema) => {
                return Err(HistogramError::Schema(i32::from(*schema)));
            }
            Schema::Exponential(_) if !(zero_threshold >= 0.0 && zero_threshold.is_finite()) => {
                return Err(HistogramError::ZeroThreshold(zero_threshold));
            }
            Schema::Exponential(_) => {}
            Schema::Custom(bounds) => {
                check_bounds(bounds)?;
                let indices = positive.first_index().into_iter().chain(positive.last_index());
                let last = i64::try_from(bounds.len()).unwrap_or(i64::MAX);
                if indices.into_iter().any(|index| !(0..=last).contains(&i64::from(index))) {
                    return Err(HistogramError::TooFewBounds(bounds.len()));
                }
                if zero_threshold != 0.0 || !zero_count.is_zero() || !negative.is_empty() {
                    return Err(HistogramError::NotForCustomBounds);
                }
            }
        }
        Ok(Self { hint, schema, zero_threshold, zero_count, count, sum, positive, negative })
    }

    /// The open form.
    pub fn into_parts(self) -> Parts<N> {
        let Self { hint, schema, zero_threshold, zero_count, count, sum, positive, negative } =
            self;
        Parts { hint, schema, zero_threshold, zero_count, count, sum, positive, negative }
    }

    /// The same with counts of another kind.
    pub fn convert<M: Quantity>(&self, change: impl Fn(N) -> M) -> Histogram<M> {
        Histogram {
            hint: self.hint,
            schema: self.schema.clone(),
            zero_threshold: self.zero_threshold,
            zero_count: change(self.zero_count),
            count: change(self.count),
            sum: change(self.sum),
            positive: self.positive.map(|_, count| change(count)),
            negative: self.negative.map(|_, count| change(count)),
        }
    }

    /// Whether any count, or the sum, passes the test.
    pub fn any(&self, test: impl Fn(N) -> bool) -> bool {
        let buckets = self.positive.counts().iter().chain(self.negative.counts());
        buckets.chain([&self.zero_count, &self.count, &self.sum]).any(|count| test(*count))
    }

    /// Without empty buckets.
    #[must_use]
    pub fn compacted(mut self) -> Self {
        self.positive.compact();
        self.negative.compact();
        self
    }

    /// The same with another hint.
    #[must_use]
    pub fn with_hint(mut self, hint: ResetHint) -> Self {
        self.hint = hint;
        self
    }

    /// What is known of resets.
    pub fn hint(&self) -> ResetHint {
        self.hint
    }

    /// How bounds are chosen.
    pub fn schema(&self) -> &Schema {
        &self.schema
    }

    /// Up to which distance from zero observations are in the zero bucket.
    pub fn zero_threshold(&self) -> f64 {
        self.zero_threshold
    }

    /// Observations in the zero bucket.
    pub fn zero_count(&self) -> N {
        self.zero_count
    }

    /// All observations.
    pub fn count(&self) -> N {
        self.count
    }

    /// The sum of all observations.
    pub fn sum(&self) -> N {
        self.sum
    }

    /// Buckets above zero; with custom bounds, all.
    pub fn positive(&self) -> &Buckets<N> {
        &self.positive
    }

    /// Buckets below zero.
    pub fn negative(&self) -> &Buckets<N> {
        &self.negative
    }
}

impl Histogram {
    /// Also checks that no count is negative, which is true of what was observed, but not of differences.
    pub fn observed(parts: Parts) -> Result<Self, HistogramError> {
        let checked = Self::new(parts)?;
        let buckets = checked.positive.iter().chain(checked.negative.iter());
        let mut counts = buckets.map(|(_, count)| count).chain([checked.count, checked.zero_count]);
        match counts.find(|count| *count < 0.0) {
            Some(negative) => Err(HistogramError::Negative(negative)),
            None => Ok(checked),
        }
    }

    /// The marker that says that a series of histograms ended.
    pub fn stale() -> Self {
        Self { sum: stale_nan(), ..Self::default() }
    }

    /// Whether it is that marker.
    pub fn is_stale(&self) -> bool {
        is_stale(self.sum)
    }

    /// All buckets in ascending order, the zero bucket among them if there is anything in it. Where the zero bucket
    /// reaches into a neighbour, the neighbour's bound is the threshold.
    pub fn buckets(&self) -> Vec<Bucket> {
        let threshold = self.zero_threshold;
        let mut out = Vec::with_capacity(self.negative.len() + self.positive.len() + 1);
        for mut bucket in self.negative_buckets().rev() {
            if bucket.upper < 0.0 && bucket.upper > -threshold {
                bucket.upper = -threshold;
            }
            out.push(bucket);
        }
        if self.zero_count > 0.0 {
            out.push(self.zero_bucket());
        }
        for mut bucket in self.positive_buckets() {
            if bucket.lower > 0.0 && bucket.lower < threshold {
                bucket.lower = threshold;
            }
            out.push(bucket);
        }
        out
    }

    /// The bucket around zero.
    pub fn zero_bucket(&self) -> Bucket {
        Bucket {
            lower: -self.zero_threshold,
            upper: self.zero_threshold,
            lower_inclusive: true,
            upper_inclusive: true,
            count: self.zero_count,
        }
    }

    /// The buckets above zero in ascending order, with their own bounds; with custom bounds, all.
    pub fn positive_buckets(&self) -> impl DoubleEndedIterator<Item = Bucket> {
        self.positive.iter().map(|(index, count)| {
            let (lower, upper) = bounds::of(&self.schema, index);
            let custom = self.schema.is_custom();
            Bucket {
                lower,
                upper,
                lower_inclusive: custom && index == 0,
                upper_inclusive: custom || upper > 0.0,
                count,
            }
        })
    }

    /// The buckets below zero in descending order, with their own bounds.
    pub fn negative_buckets(&self) -> impl DoubleEndedIterator<Item = Bucket> {
        self.negative.iter().map(|(index, count)| {
            let (near, far) = bounds::of(&self.schema, index);
            Bucket {
                lower: -far,
                upper: -near,
                lower_inclusive: far > 0.0,
                upper_inclusive: false,
                count,
            }
        })
    }

    /// Whether the data are the same, bit for bit and bucket for bucket, the hint aside.
    pub fn has_data_of(&self, other: &Self) -> bool {
        let bits = |a: f64, b: f64| a.to_bits() == b.to_bits();
        self.schema == other.schema
            && self.zero_threshold == other.zero_threshold
            && bits(self.zero_count, other.zero_count)
            && bits(self.count, other.count)
            && bits(self.sum, other.sum)
            && self.positive == other.positive
            && self.negative == other.negative
    }
}

impl PartialEq for Histogram {
    fn eq(&self, other: &Self) -> bool {
        self.hint == other.hint && self.has_data_of(other)
    }
}

/// The text form of Prometheus: `{count:2, sum:3, [-0.5,0.5]:1, (1,2]:1}`; buckets without observations are left out.
impl fmt::Display for Histogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{count:{}, sum:{}", format_general(self.count), format_general(self.sum))?;
        let zero = (self.zero_count != 0.0).then(|| self.zero_bucket());
        let all = self.negative_buckets().rev().chain(zero).chain(self.positive_buckets());
        for bucket in all.filter(|bucket| bucket.count != 0.0) {
            write!(f, ", {bucket}")?;
        }
        f.write_str("}")
    }
}

/// An interval and its count: `(1,2]:3`.
impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let open = if self.lower_inclusive { '[' } else { '(' };
        let close = if self.upper_inclusive { ']' } else { ')' };
        let (lower, upper) = (format_general(self.lower), format_general(self.upper));
        write!(f, "{open}{lower},{upper}{close}:{}", format_general(self.count))
    }
}

fn check_bounds(bounds: &[f64]) -> Result<(), HistogramError> {
    if let Some(bound) = bounds.iter().find(|bound| !bound.is_finite()) {
        return Err(HistogramError::Bound(*bound));
    }
    match bounds.windows(2).find(|pair| matches!(pair, [a, b] if a >= b)) {
        Some(_) => Err(HistogramError::BoundOrder),
        None => Ok(()),
    }
}

/// Why parts are not a histogram.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum HistogramError {
    /// An unknown schema.
    #[error(
        "schema {0} is neither from {COARSEST} to {FINEST} nor {CUSTOM_SCHEMA} (custom bounds)"
    )]
    Schema(i32),
    /// The threshold is no distance.
    #[error("{0} cannot be the zero bucket's threshold: it must be finite and not negative")]
    ZeroThreshold(f64),
    /// Spans and counts do not go together.
    #[error("spans stand for {spans} buckets, but there are {counts} counts")]
    Spans {
        /// The sum of the spans' lengths.
        spans: u64,
        /// The number of counts.
        counts: usize,
    },
    /// Spans overlap, or reach beyond any bucket that a number can be in.
    #[error("a span of buckets lies outside the possible ones")]
    SpanOffset,
    /// A custom bound is not finite.
    #[error("{0} cannot be a custom bound: it must be finite")]
    Bound(f64),
    /// Custom bounds do not increase.
    #[error("custom bounds must increase strictly")]
    BoundOrder,
    /// There are buckets without bounds.
    #[error("there are buckets beyond the {0} custom bounds")]
    TooFewBounds(usize),
    /// With custom bounds there is neither a zero bucket nor a negative side.
    #[error("a histogram with custom bounds has no zero bucket and no negative buckets")]
    NotForCustomBounds,
    /// A count is negative.
    #[error("a count is negative: {0}")]
    Negative(f64),
}
