//! Quantiles, fractions and spread of native histograms, interpolated inside buckets.

use tributary_model::histogram::{Bucket, Histogram};

use super::number::Sum;
use super::remark::{Remark, Remarks};

/// The share of a bucket that lies below a value strictly inside it. Exponential buckets are interpolated on a
/// logarithmic scale, on which all of them have the same width.
pub(crate) fn share_below(bucket: &Bucket, value: f64, linear: bool) -> f64 {
    if linear {
        return (value - bucket.lower) / (bucket.upper - bucket.lower);
    }
    let [lower, upper, at] = [bucket.lower, bucket.upper, value].map(|v| v.abs().log2());
    if value > 0.0 { (at - lower) / (upper - lower) } else { 1.0 - (at - upper) / (lower - upper) }
}

/// The zero bucket of a histogram that is empty on one side is taken to end at zero there.
fn one_sided(histogram: &Histogram, bucket: &mut Bucket) {
    match (histogram.negative().is_empty(), histogram.positive().is_empty()) {
        (true, false) => bucket.lower = 0.0,
        (false, true) => bucket.upper = 0.0,
        _ => {}
    }
}

/// The quantile `q`.
pub(crate) fn quantile(q: f64, histogram: &Histogram, remarks: &mut Remarks) -> f64 {
    let total = histogram.count();
    if q < 0.0 {
        return f64::NEG_INFINITY;
    }
    if q > 1.0 {
        return f64::INFINITY;
    }
    if total == 0.0 || q.is_nan() {
        return f64::NAN;
    }
    let has_nan = histogram.sum().is_nan();
    // Observations that are no numbers are in no bucket; counted from below, they are above all others.
    let forward = has_nan || q < 0.5;
    let mut buckets = histogram.buckets();
    if !forward {
        buckets.reverse();
    }
    let mut rank = if forward { q * total } else { (1.0 - q) * total };
    let mut bucket = histogram.zero_bucket();
    bucket.count = 0.0;
    let mut reached = 0.0;
    let mut rest = buckets.iter();
    for next in rest.by_ref() {
        bucket = *next;
        reached += next.count;
        if next.count != 0.0 && reached >= rank {
            break;
        }
    }
    let custom = histogram.schema().is_custom();
    if !custom && bucket.lower < 0.0 && bucket.upper > 0.0 {
        one_sided(histogram, &mut bucket);
    } else if custom && bucket.lower == f64::NEG_INFINITY {
        if bucket.upper <= 0.0 {
            return bucket.upper;
        }
        bucket.lower = 0.0;
    } else if custom && bucket.upper == f64::INFINITY {
        return bucket.lower;
    }
    // Rounding may have made it more than there are.
    if reached > total {
        reached = total;
    }
    if reached < rank {
        if has_nan {
            remarks.add(Remark::QuantileNan);
            return f64::NAN;
        }
        return bucket.upper;
    }
    rank = if forward { rank - (reached - bucket.count) } else { reached - rank };
    if has_nan && reached + rest.map(|bucket| bucket.count).sum::<f64>() < total {
        remarks.add(Remark::QuantileSkewed);
    }
    let share = rank / bucket.count;
    if custom || (bucket.lower <= 0.0 && bucket.upper >= 0.0) {
        return bucket.lower + (bucket.upper - bucket.lower) * share;
    }
    let (lower, upper) = (bucket.lower.abs().log2(), bucket.upper.abs().log2());
    if bucket.lower > 0.0 {
        (lower + (upper - lower) * share).exp2()
    } else {
        -(upper + (lower - upper) * (1.0 - share)).exp2()
    }
}

/// The fraction of observations between two values.
pub(crate) fn fraction(
    lower: f64,
    upper: f64,
    histogram: &Histogram,
    remarks: &mut Remarks,
) -> f64 {
    let total = histogram.count();
    if total == 0.0 || lower.is_nan() || upper.is_nan() {
        return f64::NAN;
    }
    if lower >= upper {
        return 0.0;
    }
    let buckets = histogram.buckets();
    let mut counted = total;
    if histogram.sum().is_nan() {
        counted = buckets.iter().map(|bucket| bucket.count).sum();
        if counted < total {
            remarks.add(Remark::FractionNan);
        }
    }
    let below = |value: f64| match rank_of(value, histogram, &buckets) {
        Some(rank) if rank <= counted => rank,
        _ => counted,
    };
    (below(upper) - below(lower)) / total
}

/// How many observations lie below a value; none if it is beyond all buckets.
fn rank_of(value: f64, histogram: &Histogram, buckets: &[Bucket]) -> Option<f64> {
    let custom = histogram.schema().is_custom();
    let mut rank = 0.0;
    for bucket in buckets {
        let mut bucket = *bucket;
        let around_zero = bucket.lower <= 0.0 && bucket.upper >= 0.0;
        if around_zero {
            one_sided(histogram, &mut bucket);
        }
        if bucket.lower >= value {
            return Some(rank);
        }
        if bucket.upper > value {
            // Nothing is known of where in a bucket without end the observations are.
            return Some(if bucket.lower == f64::NEG_INFINITY {
                bucket.count
            } else {
                rank + bucket.count * share_below(&bucket, value, custom || around_zero)
            });
        }
        rank += bucket.count;
    }
    None
}

/// The mean of all observations.
pub(crate) fn mean(histogram: &Histogram) -> f64 {
    histogram.sum() / histogram.count()
}

/// The variance of all observations, each taken to be in the middle of its bucket.
pub(crate) fn variance(histogram: &Histogram) -> f64 {
    let mean = mean(histogram);
    let custom = histogram.schema().is_custom();
    let mut total = Sum::default();
    for bucket in histogram.buckets().iter().filter(|bucket| bucket.count != 0.0) {
        let middle = if custom {
            f64::midpoint(bucket.upper, bucket.lower)
        } else if bucket.lower <= 0.0 && bucket.upper >= 0.0 {
            0.0
        } else {
            (bucket.upper * bucket.lower).sqrt().copysign(bucket.upper)
        };
        let distance = middle - mean;
        total = total.plus(bucket.count * distance * distance);
    }
    total.total() / histogram.count()
}

#[cfg(test)]
mod tests {
    use tributary_model::histogram::{Buckets, Parts, Schema};

    use super::*;

    fn histogram(counts: &[(i32, f64)], negative: &[(i32, f64)], zero: f64) -> Histogram {
        let positive: Buckets = counts.iter().copied().collect();
        let negative: Buckets = negative.iter().copied().collect();
        let sides = positive.counts().iter().chain(negative.counts());
        let count = zero + sides.sum::<f64>();
        Histogram::new(Parts {
            zero_threshold: 0.5,
            zero_count: zero,
            count,
            positive,
            negative,
            ..Parts::default()
        })
        .unwrap()
    }

    #[test]
    fn quantiles_are_interpolated_on_a_logarithmic_scale() {
        let mut remarks = Remarks::default();
        let plain = histogram(&[(1, 4.0), (2, 4.0)], &[], 0.0);
        for (q, expected) in [
            (0.25, 2.0_f64.sqrt()),
            (0.5, 2.0),
            (0.75, 8.0_f64.sqrt()),
            (1.0, 4.0),
            (-0.1, f64::NEG_INFINITY),
            (1.1, f64::INFINITY),
        ] {
            let got = quantile(q, &plain, &mut remarks);
            assert!(got == expected || (got - expected).abs() < 1e-12, "{q}: {got}");
        }
        // Linear in the zero bucket, which begins at zero as nothing is below it.
        let with_zero = histogram(&[(1, 2.0)], &[], 2.0);
        assert_eq!(quantile(0.25, &with_zero, &mut remarks), 0.25);
        let mirrored = histogram(&[], &[(1, 4.0), (2, 4.0)], 0.0);
        assert!((quantile(0.25, &mirrored, &mut remarks) + 8.0_f64.sqrt()).abs() < 1e-12);
        assert!(quantile(0.5, &Histogram::default(), &mut remarks).is_nan());
        assert_eq!(remarks.drain().count(), 0);
    }

    #[test]
    fn fractions_undo_quantiles() {
        let mut remarks = Remarks::default();
        let both = histogram(&[(1, 4.0), (2, 4.0)], &[(1, 2.0)], 1.0);
        for q in [0.05, 0.2, 0.4, 0.7, 0.95] {
            let value = quantile(q, &both, &mut remarks);
            let got = fraction(f64::NEG_INFINITY, value, &both, &mut remarks);
            assert!((got - q).abs() < 1e-12, "{q}: {got}");
        }
        assert_eq!(fraction(f64::NEG_INFINITY, f64::INFINITY, &both, &mut remarks), 1.0);
        assert_eq!(fraction(2.0, 1.0, &both, &mut remarks), 0.0);
        let schema = Schema::Custom([1.0, 2.0].into());
        let positive = [(0, 1.0), (1, 2.0), (2, 1.0)].into_iter().collect();
        let parts = Parts { schema, count: 4.0, positive, ..Parts::default() };
        let custom = Histogram::new(parts).unwrap();
        assert_eq!(quantile(0.5, &custom, &mut remarks), 1.5);
        assert_eq!(quantile(0.99, &custom, &mut remarks), 2.0);
        assert_eq!(fraction(f64::NEG_INFINITY, 1.5, &custom, &mut remarks), 0.5);
    }

    #[test]
    fn observations_that_are_no_numbers_are_told() {
        let mut parts = histogram(&[(1, 4.0)], &[], 0.0).into_parts();
        (parts.count, parts.sum) = (8.0, f64::NAN);
        let skewed = Histogram::new(parts).unwrap();
        let mut remarks = Remarks::default();
        assert_eq!(quantile(0.5, &skewed, &mut remarks), 2.0);
        assert!(quantile(0.9, &skewed, &mut remarks).is_nan());
        assert_eq!(fraction(0.0, 9.0, &skewed, &mut remarks), 0.5);
        let all: Vec<Remark> = remarks.drain().map(|(remark, _)| remark).collect();
        assert_eq!(all, [Remark::QuantileSkewed, Remark::QuantileNan, Remark::FractionNan]);
    }

    #[test]
    fn variance_is_of_the_middles() {
        let both = histogram(&[(1, 2.0)], &[(1, 2.0)], 0.0);
        assert!((variance(&both) - 2.0).abs() < 1e-12);
        assert_eq!(variance(&histogram(&[], &[], 3.0)), 0.0);
    }
}
