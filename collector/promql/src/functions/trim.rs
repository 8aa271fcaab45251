//! Trimming: the observations of a native histogram below or above a value. Sums are estimated from the buckets' middles.

use tributary_model::histogram::{Bucket, Buckets, Histogram};

use super::native::share_below;

/// Which observations stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keep {
    /// Those up to the value: `</`.
    Below,
    /// Those from the value on: `>/`.
    Above,
}

/// Of a bucket: the observations that stay, and where they are taken to be.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Part {
    count: f64,
    middle: f64,
}

/// How a side of a histogram is cut.
#[derive(Debug, Clone, Copy)]
struct Cut {
    at: f64,
    keep: Keep,
    positive: bool,
    /// Custom buckets are interpolated linearly, others on a logarithmic scale.
    custom: bool,
}

/// The histogram of the observations that stay. The sum is only estimated where something was cut.
pub(crate) fn trim(histogram: &Histogram, at: f64, keep: Keep) -> Histogram {
    let custom = histogram.schema().is_custom();
    let (mut count, mut sum, mut changed) = (0.0, 0.0, false);
    let mut cut_side = |buckets: &mut dyn Iterator<Item = Bucket>, positive: bool| -> Vec<f64> {
        let cut = Cut { at, keep, positive, custom };
        let left = buckets.map(|bucket| {
            if bucket.count == 0.0 {
                return 0.0;
            }
            let part = cut.part(&bucket);
            count += part.count;
            sum += part.middle * part.count;
            changed |= part.count != bucket.count;
            part.count
        });
        left.collect()
    };
    let positive = cut_side(&mut histogram.positive_buckets(), true);
    let negative = cut_side(&mut histogram.negative_buckets(), false);
    let mut zero_count = histogram.zero_count();
    if zero_count > 0.0 {
        let mut zero = histogram.zero_bucket();
        match (has_any(histogram.negative()), has_any(histogram.positive())) {
            (true, false) => zero.upper = 0.0,
            (false, true) => zero.lower = 0.0,
            _ => {}
        }
        let part = part_of_zero(&zero, at, keep);
        changed |= part.count != zero_count;
        zero_count = part.count;
        count += part.count;
        sum += part.middle * part.count;
    }
    if !changed {
        return histogram.clone();
    }
    let mut parts = histogram.clone().into_parts();
    (parts.count, parts.sum, parts.zero_count) = (count, sum, zero_count);
    parts.positive = with_counts(&parts.positive, &positive);
    parts.negative = with_counts(&parts.negative, &negative);
    // The layout is that of a histogram, so it is one.
    Histogram::new(parts).map_or_else(|_| histogram.clone(), Histogram::compacted)
}

fn has_any(buckets: &Buckets) -> bool {
    buckets.counts().iter().any(|count| *count != 0.0)
}

fn with_counts(buckets: &Buckets, counts: &[f64]) -> Buckets {
    let mut counts = counts.iter();
    buckets.map(|_, _| counts.next().copied().unwrap_or(0.0))
}

impl Cut {
    fn part(&self, bucket: &Bucket) -> Part {
        let (whole, some) = match self.keep {
            Keep::Below => (bucket.upper <= self.at, bucket.lower < self.at),
            Keep::Above => (bucket.lower >= self.at, bucket.upper > self.at),
        };
        if whole {
            return Part { count: bucket.count, middle: self.middle(bucket.lower, bucket.upper) };
        }
        if !some {
            return Part { count: 0.0, middle: 0.0 };
        }
        if bucket.lower == f64::NEG_INFINITY {
            return self.part_without_lower_end(bucket);
        }
        if bucket.upper == f64::INFINITY {
            return self.part_without_upper_end(bucket);
        }
        let below = bucket.count * share_below(bucket, self.at, self.custom);
        match self.keep {
            Keep::Below => Part { count: below, middle: self.middle(bucket.lower, self.at) },
            Keep::Above => {
                Part { count: bucket.count - below, middle: self.middle(self.at, bucket.upper) }
            }
        }
    }

    /// Where nothing is known of the observations inside, all go, unless the bucket can be taken to begin at zero.
    fn part_without_lower_end(&self, bucket: &Bucket) -> Part {
        let (at, upper) = (self.at, bucket.upper);
        let nothing = Part { count: 0.0, middle: 0.0 };
        match self.keep {
            Keep::Below if at > 0.0 && upper > 0.0 && upper.is_finite() => {
                Part { count: bucket.count * at / upper, middle: at / 2.0 }
            }
            Keep::Below if upper <= 0.0 => Part { count: bucket.count, middle: at },
            Keep::Above if at >= 0.0 && upper.is_finite() => {
                Part { count: bucket.count * (1.0 - at / upper), middle: f64::midpoint(at, upper) }
            }
            _ => nothing,
        }
    }

    fn part_without_upper_end(&self, bucket: &Bucket) -> Part {
        match self.keep {
            Keep::Above if self.at >= bucket.lower => Part { count: bucket.count, middle: self.at },
            _ => Part { count: 0.0, middle: 0.0 },
        }
    }

    /// The middle of an interval: on a linear scale for custom buckets, otherwise on a logarithmic one.
    fn middle(&self, lower: f64, upper: f64) -> f64 {
        match (lower.is_infinite(), upper.is_infinite()) {
            (true, true) => 0.0,
            (true, false) if upper > 0.0 => upper / 2.0,
            (true, false) => upper,
            (false, true) => lower,
            (false, false) if self.custom => f64::midpoint(lower, upper),
            (false, false) => {
                let distance = (lower * upper).abs().sqrt();
                if self.positive { distance } else { -distance }
            }
        }
    }
}

fn part_of_zero(zero: &Bucket, at: f64, keep: Keep) -> Part {
    let (lower, upper) = (zero.lower, zero.upper);
    let whole = Part { count: zero.count, middle: f64::midpoint(lower, upper) };
    let nothing = Part { count: 0.0, middle: 0.0 };
    match keep {
        Keep::Below if at <= lower => nothing,
        Keep::Below if at >= upper => whole,
        Keep::Below => Part {
            count: zero.count * ((at - lower) / (upper - lower)),
            middle: f64::midpoint(lower, at),
        },
        Keep::Above if at <= lower => whole,
        Keep::Above if at >= upper => nothing,
        Keep::Above => Part {
            count: zero.count * ((upper - at) / (upper - lower)),
            middle: f64::midpoint(at, upper),
        },
    }
}

#[cfg(test)]
mod tests {
    use tributary_model::histogram::{Parts, Schema};

    use super::*;

    #[test]
    fn buckets_are_cut_where_the_value_is() {
        let positive = [(1, 4.0), (2, 4.0)].into_iter().collect();
        let whole = Histogram::new(Parts {
            zero_threshold: 0.5,
            zero_count: 2.0,
            count: 10.0,
            sum: 17.0,
            positive,
            ..Parts::default()
        })
        .unwrap();
        let at = 2.0_f64.sqrt();
        let (below, above) = (trim(&whole, at, Keep::Below), trim(&whole, at, Keep::Above));
        assert!((below.count() - 4.0).abs() < 1e-12 && (above.count() - 6.0).abs() < 1e-12);
        assert_eq!((below.zero_count(), above.zero_count()), (2.0, 0.0));
        // The zero bucket begins at zero, as nothing is below it.
        assert_eq!(trim(&whole, 0.25, Keep::Below).count(), 1.0);
        assert_eq!(trim(&whole, 100.0, Keep::Below), whole);
        assert_eq!(trim(&whole, f64::NAN, Keep::Above).positive().len(), 0);
    }

    #[test]
    fn buckets_without_end_go_unless_they_can_begin_at_zero() {
        let positive = [(0, 4.0), (1, 4.0), (2, 4.0)].into_iter().collect();
        let schema = Schema::Custom([2.0, 4.0].into());
        let parts = Parts { schema, count: 12.0, positive, ..Parts::default() };
        let whole = Histogram::new(parts).unwrap();
        assert_eq!(trim(&whole, 1.0, Keep::Below).count(), 2.0);
        assert_eq!(trim(&whole, 1.0, Keep::Above).count(), 10.0);
        assert_eq!(trim(&whole, 5.0, Keep::Below).count(), 8.0);
        assert_eq!(trim(&whole, 5.0, Keep::Above).count(), 4.0);
        assert_eq!(trim(&whole, 3.0, Keep::Below).sum(), 4.0 * 1.0 + 2.0 * 2.5);
    }
}
