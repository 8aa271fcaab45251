//! Arithmetic as Go does it: compensated sums, minimum and maximum, quantiles, conversions.

use tributary_model::histogram::Quantity;

/// A sum that keeps what rounding loses (Neumaier's variant of Kahan's algorithm).
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Sum {
    /// The plain sum.
    pub(crate) value: f64,
    /// What rounding has taken from it.
    pub(crate) lost: f64,
}

impl Sum {
    /// A sum of one number.
    pub(crate) fn of(value: f64) -> Self {
        Self { value, lost: 0.0 }
    }

    /// Adds a number. An infinite sum has lost nothing.
    #[must_use]
    pub(crate) fn plus(self, more: f64) -> Self {
        let value = self.value + more;
        let lost = if value.is_infinite() {
            0.0
        } else if self.value.abs() >= more.abs() {
            self.lost + ((self.value - value) + more)
        } else {
            self.lost + ((more - value) + self.value)
        };
        Self { value, lost }
    }

    /// Both parts multiplied.
    #[must_use]
    pub(crate) fn times(self, factor: f64) -> Self {
        Self { value: self.value * factor, lost: self.lost * factor }
    }

    /// Both parts divided.
    #[must_use]
    pub(crate) fn over(self, divisor: f64) -> Self {
        Self { value: self.value / divisor, lost: self.lost / divisor }
    }

    /// The sum with what was lost.
    pub(crate) fn total(self) -> f64 {
        self.value + self.lost
    }
}

/// Histograms can count with it.
impl Quantity for Sum {
    fn plus(self, other: Self) -> Self {
        let sum = self.plus(other.value);
        if other.lost == 0.0 { sum } else { sum.plus(other.lost) }
    }

    fn is_zero(self) -> bool {
        self.value == 0.0 && self.lost == 0.0
    }
}

/// A mean: the sum over the count, or a running mean once the sum would overflow.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mean {
    sum: Sum,
    count: f64,
    running: bool,
}

impl Mean {
    /// The mean of one number.
    pub(crate) fn of(value: f64) -> Self {
        Self { sum: Sum::of(value), count: 1.0, running: false }
    }

    /// Adds a number.
    pub(crate) fn add(&mut self, value: f64) {
        self.count += 1.0;
        if !self.running {
            let sum = self.sum.plus(value);
            if !sum.value.is_infinite() {
                self.sum = sum;
                return;
            }
            self.running = true;
            self.sum = self.sum.over(self.count - 1.0);
        }
        let share = (self.count - 1.0) / self.count;
        self.sum = self.sum.times(share).plus(value / self.count);
    }

    /// The mean.
    pub(crate) fn value(&self) -> f64 {
        if self.running { self.sum.total() } else { self.sum.over(self.count).total() }
    }
}

/// The larger number; NaN if one is NaN, unless the other is infinite.
pub(crate) fn max(a: f64, b: f64) -> f64 {
    if a == f64::INFINITY || b == f64::INFINITY {
        f64::INFINITY
    } else if a.is_nan() || b.is_nan() {
        f64::NAN
    } else {
        a.max(b)
    }
}

/// The smaller number; NaN if one is NaN, unless the other is negative infinity.
pub(crate) fn min(a: f64, b: f64) -> f64 {
    if a == f64::NEG_INFINITY || b == f64::NEG_INFINITY {
        f64::NEG_INFINITY
    } else if a.is_nan() || b.is_nan() {
        f64::NAN
    } else {
        a.min(b)
    }
}

/// The quantile `q` of numbers in any order, interpolated between neighbours; sorts them. NaN counts as the smallest.
pub(crate) fn quantile(q: f64, values: &mut [f64]) -> f64 {
    if values.is_empty() || q.is_nan() {
        return f64::NAN;
    }
    if q < 0.0 {
        return f64::NEG_INFINITY;
    }
    if q > 1.0 {
        return f64::INFINITY;
    }
    values.sort_unstable_by(|a, b| nan_first(*a, *b));
    let rank = q * (values.len() - 1) as f64;
    let below = to_usize(rank.floor());
    let above = (below + 1).min(values.len() - 1);
    let weight = rank - rank.floor();
    match (values.get(below), values.get(above)) {
        (Some(low), Some(high)) => low * (1.0 - weight) + high * weight,
        _ => f64::NAN,
    }
}

/// Whether `q` can be a quantile.
pub(crate) fn is_quantile(q: f64) -> bool {
    (0.0..=1.0).contains(&q)
}

/// Ascending, with NaN before everything.
pub(crate) fn nan_first(a: f64, b: f64) -> std::cmp::Ordering {
    a.partial_cmp(&b).unwrap_or_else(|| b.is_nan().cmp(&a.is_nan()))
}

/// Whether `a` and `b` differ by no more than `tolerance` relative to their sum; near zero, by next to nothing.
pub(crate) fn nearly_equal(a: f64, b: f64, tolerance: f64) -> bool {
    if (a.is_nan() && b.is_nan()) || a == b {
        return true;
    }
    let sum = a.abs() + b.abs();
    let difference = (a - b).abs();
    if a == 0.0 || b == 0.0 || sum < f64::MIN_POSITIVE {
        return difference < tolerance * f64::MIN_POSITIVE;
    }
    difference / sum.min(f64::MAX) < tolerance
}

/// The first number beyond what `i64` holds: 2⁶³.
pub(crate) const INT64_END: f64 = 9_223_372_036_854_775_808.0;

/// The whole part; what `i64` cannot hold is its smallest value, as in Go on common processors.
#[expect(clippy::cast_possible_truncation, reason = "out of range is ruled out before the cast")]
pub(crate) fn to_i64(value: f64) -> i64 {
    if (-INT64_END..INT64_END).contains(&value) { value as i64 } else { i64::MIN }
}

/// The whole part of a number that is not negative; saturates.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the cast saturates, and NaN and negative numbers become zero"
)]
pub(crate) fn to_usize(value: f64) -> usize {
    value as usize
}

/// Seconds from milliseconds.
pub(crate) fn seconds(millis: i64) -> f64 {
    millis as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_keep_small_parts() {
        let total = [1.0, 1e100, 1.0, -1e100].iter().fold(Sum::default(), |s, v| s.plus(*v));
        assert_eq!(total.total(), 2.0);
        assert_eq!(Sum::of(f64::MAX).plus(f64::MAX).total(), f64::INFINITY);
    }

    #[test]
    fn means_do_not_overflow() {
        let mut mean = Mean::of(f64::MAX);
        mean.add(f64::MAX);
        mean.add(f64::MAX);
        assert!(nearly_equal(mean.value(), f64::MAX, 1e-12));
    }

    #[test]
    fn quantiles() {
        for (q, values, expected) in [
            (0.5, vec![3.0, 1.0, 2.0], 2.0),
            (0.5, vec![1.0, 2.0], 1.5),
            (0.0, vec![5.0], 5.0),
            (1.0, vec![2.0, 9.0], 9.0),
            (-0.1, vec![1.0], f64::NEG_INFINITY),
            (1.1, vec![1.0], f64::INFINITY),
            (0.8, vec![f64::NAN, 0.0, 1.0], 0.6),
        ] {
            let got = quantile(q, &mut values.clone());
            assert!(nearly_equal(got, expected, 1e-12), "{q} of {values:?}: {got}");
        }
        assert!(quantile(0.5, &mut []).is_nan());
        assert!(quantile(0.2, &mut [f64::NAN, 0.0, 1.0]).is_nan());
    }

    #[test]
    fn conversions_do_not_wrap() {
        assert_eq!(to_i64(-1.9), -1);
        assert_eq!(to_i64(f64::NAN), i64::MIN);
        assert_eq!(to_i64(1e300), i64::MIN);
        assert_eq!(to_usize(-1.0), 0);
    }

    #[test]
    fn extremes_as_in_go() {
        assert!(max(f64::NAN, 1.0).is_nan() && min(1.0, f64::NAN).is_nan());
        assert_eq!(max(f64::NAN, f64::INFINITY), f64::INFINITY);
        assert_eq!(min(f64::NEG_INFINITY, f64::NAN), f64::NEG_INFINITY);
    }
}
