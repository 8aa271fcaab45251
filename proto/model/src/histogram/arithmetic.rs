//! Sums and differences of histograms whose buckets may differ: both are brought to what they have in common.

use std::sync::Arc;

use super::{Buckets, Histogram, Quantity, ResetHint, Schema, bounds};

/// What had to be reconciled to combine two histograms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Combined {
    /// One was after a reset and the other was not, so nothing is known of the result.
    pub hints_collide: bool,
    /// Custom bounds differed; the result has those that both have.
    pub bounds_differ: bool,
}

/// Exponential and custom buckets have nothing in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("histograms with exponential and with custom buckets cannot be combined")]
pub struct MixedSchemas;

impl<N: Quantity> Histogram<N> {
    /// Adds the other histogram. The coarser schema and the wider zero bucket win.
    pub fn add(&mut self, other: &Self) -> Result<Combined, MixedSchemas> {
        self.combine(other, |count| count)
    }

    /// Multiplies, divides or negates everything that was counted.
    #[must_use]
    pub fn scaled(self, change: impl Fn(N) -> N) -> Self {
        Self {
            zero_count: change(self.zero_count),
            count: change(self.count),
            sum: change(self.sum),
            positive: self.positive.map(|_, count| change(count)),
            negative: self.negative.map(|_, count| change(count)),
            ..self
        }
    }

    fn combine(&mut self, other: &Self, change: impl Fn(N) -> N) -> Result<Combined, MixedSchemas> {
        let mut combined = Combined::default();
        let mut other = other.convert(change);
        match (&self.schema, &other.schema) {
            (Schema::Exponential(a), Schema::Exponential(b)) => {
                let schema = *a.min(b);
                while self.zero_threshold != other.zero_threshold {
                    let wider = self.zero_threshold.max(other.zero_threshold);
                    self.widen_zero(wider);
                    other.widen_zero(wider);
                }
                self.coarsen(schema);
                other.coarsen(schema);
            }
            (Schema::Custom(a), Schema::Custom(b)) => {
                if a != b {
                    let common = common_bounds(a, b);
                    self.rebound(&common);
                    other.rebound(&common);
                    combined.bounds_differ = true;
                }
            }
            _ => return Err(MixedSchemas),
        }
        (self.hint, combined.hints_collide) = combined_hint(self.hint, other.hint);
        self.zero_count = self.zero_count.plus(other.zero_count);
        self.count = self.count.plus(other.count);
        self.sum = self.sum.plus(other.sum);
        self.positive.add(&other.positive);
        self.negative.add(&other.negative);
        Ok(combined)
    }

    /// Widens the zero bucket to at least this distance. If that is inside a bucket with observations, it is widened to
    /// that bucket's end.
    pub(super) fn widen_zero(&mut self, at_least: f64) {
        let Schema::Exponential(schema) = self.schema else { return };
        if at_least <= self.zero_threshold {
            return;
        }
        let lower = |index: i32| bounds::exponential(schema, i64::from(index) - 1);
        let upper = |index: i32| bounds::exponential(schema, i64::from(index));
        let mut threshold = at_least;
        loop {
            let sides = self.positive.iter().chain(self.negative.iter());
            let cut = sides
                .filter(|(_, count)| !count.is_zero())
                .find(|(index, _)| lower(*index) < threshold && upper(*index) > threshold);
            match cut {
                Some((index, _)) => threshold = upper(index),
                None => break,
            }
        }
        for side in [&mut self.positive, &mut self.negative] {
            for (_, count) in side.iter().filter(|(index, _)| lower(*index) < threshold) {
                self.zero_count = self.zero_count.plus(count);
            }
            *side = side.iter().filter(|(index, _)| lower(*index) >= threshold).collect();
        }
        self.zero_threshold = threshold;
    }

    /// Merges buckets until they have this exponential schema. A coarser histogram, or one with custom bounds, stays.
    pub fn coarsen(&mut self, schema: i8) {
        let Schema::Exponential(own) = self.schema else { return };
        let steps = own.saturating_sub(schema);
        if steps <= 0 {
            return;
        }
        let target = |index: i32| ((index - 1) >> steps) + 1;
        self.positive = self.positive.moved(target);
        self.negative = self.negative.moved(target);
        self.schema = Schema::Exponential(schema);
    }

    /// Merges buckets until only these custom bounds are left, which must be among the own ones.
    pub(super) fn rebound(&mut self, bounds: &Arc<[f64]>) {
        let Schema::Custom(own) = &self.schema else { return };
        let target = |index: i32| {
            let bound = usize::try_from(index).ok().and_then(|index| own.get(index));
            let at = bound.map_or(bounds.len(), |own| bounds.partition_point(|b| b < own));
            i32::try_from(at).unwrap_or(i32::MAX - 1)
        };
        self.positive = self.positive.moved(target);
        self.schema = Schema::Custom(Arc::clone(bounds));
    }
}

impl Histogram {
    /// Subtracts the other histogram.
    pub fn subtract(&mut self, other: &Self) -> Result<Combined, MixedSchemas> {
        self.combine(other, |count| -count)
    }

    /// Everything times a factor. What has a negative factor is a gauge.
    #[must_use]
    pub fn times(self, factor: f64) -> Self {
        let hint = if factor < 0.0 { ResetHint::Gauge } else { self.hint };
        self.scaled(|count| count * factor).with_hint(hint)
    }

    /// Everything over a divisor. Nothing is left of the buckets if that is zero.
    #[must_use]
    pub fn over(self, divisor: f64) -> Self {
        let hint = if divisor < 0.0 { ResetHint::Gauge } else { self.hint };
        let mut quotient = self.scaled(|count| count / divisor).with_hint(hint);
        if divisor == 0.0 {
            (quotient.positive, quotient.negative) = (Buckets::default(), Buckets::default());
        }
        quotient
    }
}

/// The bounds that both have.
pub(super) fn common_bounds(a: &[f64], b: &[f64]) -> Arc<[f64]> {
    let has = |bound: &f64| {
        let at = b.partition_point(|other| other < bound);
        b.get(at) == Some(bound)
    };
    a.iter().copied().filter(has).collect()
}

/// What is known of a combination, and whether the two contradict each other.
fn combined_hint(a: ResetHint, b: ResetHint) -> (ResetHint, bool) {
    match (a, b) {
        _ if a == b => (a, false),
        (ResetHint::Gauge, _) | (_, ResetHint::Gauge) => (ResetHint::Gauge, false),
        (ResetHint::Unknown, _) | (_, ResetHint::Unknown) => (ResetHint::Unknown, false),
        _ => (ResetHint::Unknown, true),
    }
}
