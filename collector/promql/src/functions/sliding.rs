//! Sums and extremes of windows that slide: each sample is looked at a fixed number of times, however many windows it is
//! in.

use tributary_model::sample::Sample;

use super::number::Sum;

/// A summary of neighbouring samples that can be put together with that of the samples after them.
pub(crate) trait Summary: Copy {
    /// Of one sample.
    fn of(sample: &Sample) -> Self;

    /// Of these samples and the later ones.
    #[must_use]
    fn with(self, later: Self) -> Self;
}

impl Summary for Sum {
    fn of(sample: &Sample) -> Self {
        Self::of(sample.value)
    }

    fn with(self, later: Self) -> Self {
        self.plus(later.value).plus(later.lost)
    }
}

/// The largest value; NaN only if there is nothing else.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Largest(pub(crate) f64);

impl Summary for Largest {
    fn of(sample: &Sample) -> Self {
        Self(sample.value)
    }

    fn with(self, later: Self) -> Self {
        if self.0.is_nan() || later.0 > self.0 { later } else { self }
    }
}

/// The smallest value; NaN only if there is nothing else.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Smallest(pub(crate) f64);

impl Summary for Smallest {
    fn of(sample: &Sample) -> Self {
        Self(sample.value)
    }

    fn with(self, later: Self) -> Self {
        if self.0.is_nan() || later.0 < self.0 { later } else { self }
    }
}

/// Summaries of a window whose start and end only move forward. Up to `middle`, there is a summary from each sample on;
/// from there, one of all samples. When the start reaches the middle, the middle moves to the end.
#[derive(Debug)]
pub(crate) struct Sliding<S> {
    /// Of the samples from each index up to the middle, that of the lowest index last.
    until_middle: Vec<S>,
    middle: usize,
    after_middle: Option<S>,
    end: usize,
}

impl<S: Summary> Sliding<S> {
    /// An empty window at the start.
    pub(crate) fn new() -> Self {
        Self { until_middle: Vec::new(), middle: 0, after_middle: None, end: 0 }
    }

    /// The summary of the samples from `from` up to `to`, without that; none if there are none.
    pub(crate) fn window(&mut self, samples: &[Sample], from: usize, to: usize) -> Option<S> {
        if from >= self.end {
            self.until_middle.clear();
            self.after_middle = None;
            (self.middle, self.end) = (from, from);
        }
        for sample in samples.get(self.end..to).unwrap_or_default() {
            let one = S::of(sample);
            self.after_middle = Some(self.after_middle.map_or(one, |before| before.with(one)));
        }
        self.end = self.end.max(to);
        if from >= self.middle {
            self.move_middle(samples, from);
        }
        self.until_middle.truncate(self.middle - from);
        match (self.until_middle.last(), self.after_middle) {
            (Some(before), Some(after)) => Some(before.with(after)),
            (Some(only), None) => Some(*only),
            (None, only) => only,
        }
    }

    fn move_middle(&mut self, samples: &[Sample], from: usize) {
        self.until_middle.clear();
        for sample in samples.get(from..self.end).unwrap_or_default().iter().rev() {
            let one = S::of(sample);
            self.until_middle.push(self.until_middle.last().map_or(one, |later| one.with(*later)));
        }
        self.middle = self.end;
        self.after_middle = None;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Every window has the sum and the extremes of its own samples.
        #[test]
        fn windows_are_those_of_their_samples(
            values in prop::collection::vec(prop_oneof![Just(f64::NAN), (0_u8..9).prop_map(f64::from)], 0..40),
            moves in prop::collection::vec((0_usize..5, 0_usize..5), 0..30),
        ) {
            let samples: Vec<Sample> =
                values.iter().enumerate().map(|(i, v)| Sample::new(i64::try_from(i).unwrap(), *v)).collect();
            let (mut sums, mut largest, mut smallest) =
                (Sliding::<Sum>::new(), Sliding::<Largest>::new(), Sliding::<Smallest>::new());
            let (mut from, mut to) = (0, 0);
            for (start, end) in moves {
                to = (to + end).min(samples.len());
                from = (from + start).min(to);
                let window = &values[from..to];
                let bits = |v: Option<f64>| v.map(|v| if v.is_nan() { 1 } else { v.to_bits() });
                let sum = sums.window(&samples, from, to).map(Sum::total);
                let expected = (!window.is_empty()).then(|| window.iter().sum::<f64>() + 0.0);
                prop_assert_eq!(bits(sum.map(|s| s + 0.0)), bits(expected));
                let extreme = |pick: fn(f64, f64) -> f64| window.iter().copied().reduce(pick);
                let got = largest.window(&samples, from, to).map(|largest| largest.0);
                prop_assert_eq!(bits(got), bits(extreme(f64::max)));
                let got = smallest.window(&samples, from, to).map(|smallest| smallest.0);
                prop_assert_eq!(bits(got), bits(extreme(f64::min)));
            }
        }
    }
}
