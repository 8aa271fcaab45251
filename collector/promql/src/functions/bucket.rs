//! Quantiles and fractions of classic histograms, from their cumulative buckets.

use super::number::nearly_equal;

/// Differences between neighbouring buckets below this, relative to their sum, come from rounding.
const ROUNDING: f64 = 1e-12;

/// One cumulative bucket.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Bucket {
    /// The value of `le`.
    pub(crate) bound: f64,
    /// Observations up to the bound.
    pub(crate) count: f64,
}

/// What had to be changed so that counts never fall from bucket to bucket.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Forced {
    /// The lowest bound with a change.
    pub(crate) lowest: f64,
    /// The highest bound with a change.
    pub(crate) highest: f64,
    /// The largest change.
    pub(crate) largest: f64,
}

/// The quantile `q`, interpolated inside its bucket. The buckets are sorted by bound; they are merged and corrected in
/// place.
pub(crate) fn quantile(q: f64, buckets: &mut Vec<Bucket>) -> (f64, Option<Forced>) {
    if q.is_nan() {
        return (f64::NAN, None);
    }
    if q < 0.0 {
        return (f64::NEG_INFINITY, None);
    }
    if q > 1.0 {
        return (f64::INFINITY, None);
    }
    if buckets.last().is_none_or(|last| last.bound != f64::INFINITY) {
        return (f64::NAN, None);
    }
    merge_equal_bounds(buckets);
    let forced = make_monotonic(buckets);
    let [.., second_last, last] = buckets.as_slice() else { return (f64::NAN, forced) };
    if last.count == 0.0 {
        return (f64::NAN, forced);
    }
    let rank = q * last.count;
    let finite = buckets.get(..buckets.len() - 1).unwrap_or(&[]);
    let at = finite.partition_point(|bucket| bucket.count.is_nan() || bucket.count < rank);
    let Some(bucket) = finite.get(at) else { return (second_last.bound, forced) };
    let below = at.checked_sub(1).and_then(|before| finite.get(before));
    let value = match below {
        None if bucket.bound <= 0.0 => bucket.bound,
        None => bucket.bound * (rank / bucket.count),
        Some(below) => {
            let share = (rank - below.count) / (bucket.count - below.count);
            below.bound + (bucket.bound - below.bound) * share
        }
    };
    (value, forced)
}

/// The fraction of observations between two values, interpolated inside their buckets. The buckets are sorted by bound;
/// they are merged in place.
pub(crate) fn fraction(lower: f64, upper: f64, buckets: &mut Vec<Bucket>) -> f64 {
    if buckets.last().is_none_or(|last| last.bound != f64::INFINITY) {
        return f64::NAN;
    }
    merge_equal_bounds(buckets);
    let total = buckets.last().map_or(0.0, |last| last.count);
    if total == 0.0 || lower.is_nan() || upper.is_nan() {
        return f64::NAN;
    }
    if lower >= upper {
        return 0.0;
    }
    (rank_of(upper, total, buckets) - rank_of(lower, total, buckets)) / total
}

/// How many observations lie below a value.
fn rank_of(value: f64, total: f64, buckets: &[Bucket]) -> f64 {
    // A lowest bucket with a positive bound is taken to start at zero.
    let starts_at_zero = buckets.first().is_some_and(|first| first.bound > 0.0);
    let mut start = if starts_at_zero { 0.0 } else { f64::NEG_INFINITY };
    let mut below = 0.0;
    for bucket in buckets {
        if start >= value {
            return if below > total { total } else { below };
        }
        if bucket.bound > value {
            let inside = if start == f64::NEG_INFINITY {
                bucket.count
            } else {
                below + (bucket.count - below) * (value - start) / (bucket.bound - start)
            };
            return if inside > total { total } else { inside };
        }
        below = bucket.count;
        start = bucket.bound;
    }
    total
}

fn merge_equal_bounds(buckets: &mut Vec<Bucket>) {
    buckets.dedup_by(|bucket, before| {
        let equal = bucket.bound == before.bound;
        if equal {
            before.count += bucket.count;
        }
        equal
    });
}

/// Evens out rounding errors silently, and removes real decreases.
fn make_monotonic(buckets: &mut [Bucket]) -> Option<Forced> {
    let mut forced: Option<Forced> = None;
    let (first, rest) = buckets.split_first_mut()?;
    let mut previous = first.count;
    for bucket in rest {
        if bucket.count == previous {
            continue;
        }
        if nearly_equal(previous, bucket.count, ROUNDING) {
            bucket.count = previous;
        } else if bucket.count < previous {
            let change = previous - bucket.count;
            let all = forced.get_or_insert(Forced {
                lowest: bucket.bound,
                highest: bucket.bound,
                largest: change,
            });
            all.lowest = all.lowest.min(bucket.bound);
            all.highest = all.highest.max(bucket.bound);
            all.largest = all.largest.max(change);
            bucket.count = previous;
        } else {
            previous = bucket.count;
        }
    }
    forced
}

#[cfg(test)]
mod tests {
    use super::*;

    const INF: f64 = f64::INFINITY;

    fn buckets(pairs: &[(f64, f64)]) -> Vec<Bucket> {
        pairs.iter().map(|(bound, count)| Bucket { bound: *bound, count: *count }).collect()
    }

    #[test]
    fn quantiles_are_interpolated() {
        let plain = [(1.0, 10.0), (2.0, 20.0), (INF, 20.0)];
        for (q, pairs, expected) in [
            (0.25, &plain[..], 0.5),
            (0.75, &plain, 1.5),
            (1.0, &plain, 2.0),
            (0.9, &[(1.0, 1.0), (INF, 10.0)], 1.0),
            (0.1, &[(-1.0, 10.0), (INF, 10.0)], -1.0),
            (0.5, &[(1.0, 5.0), (1.0, 5.0), (INF, 10.0)], 0.5),
            (-1.0, &plain, -INF),
            (2.0, &plain, INF),
        ] {
            assert_eq!(quantile(q, &mut buckets(pairs)).0, expected, "{q} {pairs:?}");
        }
        for pairs in [&[(1.0, 1.0)][..], &[(INF, 1.0)], &[(1.0, 0.0), (INF, 0.0)], &[]] {
            assert!(quantile(0.5, &mut buckets(pairs)).0.is_nan(), "{pairs:?}");
        }
    }

    #[test]
    fn falling_counts_are_corrected() {
        let mut falling = buckets(&[(1.0, 10.0), (2.0, 8.0), (3.0, 12.0), (INF, 12.0)]);
        let (_, forced) = quantile(0.5, &mut falling);
        assert_eq!(forced, Some(Forced { lowest: 2.0, highest: 2.0, largest: 2.0 }));
        let mut rounded = buckets(&[(1.0, 10.0), (2.0, 10.0 - 1e-12), (INF, 10.0)]);
        assert_eq!(quantile(0.5, &mut rounded).1, None);
    }

    #[test]
    fn fractions_are_interpolated() {
        let plain = [(1.0, 10.0), (2.0, 20.0), (INF, 40.0)];
        for (lower, upper, expected) in [
            (0.0, 1.0, 0.25),
            (0.5, 1.5, 0.25),
            (-INF, INF, 1.0),
            (2.0, INF, 0.5),
            (3.0, 4.0, 0.0),
            (1.0, 1.0, 0.0),
        ] {
            assert_eq!(fraction(lower, upper, &mut buckets(&plain)), expected, "{lower} {upper}");
        }
        assert!(fraction(f64::NAN, 1.0, &mut buckets(&plain)).is_nan());
        assert!(fraction(0.0, 1.0, &mut buckets(&[(1.0, 1.0)])).is_nan());
    }
}
