//! Values between the nodes of an expression: series with one value per step.

use tributary_model::label::Labels;
use tributary_model::sample::{STALE_NAN_BITS, is_stale, stale_nan};

/// What a node gives for all steps.
#[derive(Debug, Clone)]
pub(crate) enum Data {
    /// One number per step, without gaps.
    Scalar(Vec<f64>),
    /// Series.
    Vector(Vec<Series>),
    /// A text.
    Text(String),
}

impl Data {
    /// How many samples it holds.
    pub(crate) fn samples(&self) -> usize {
        match self {
            Self::Scalar(values) => values.len(),
            Self::Vector(series) => series.iter().map(|s| s.points.count()).sum(),
            Self::Text(_) => 0,
        }
    }
}

/// A series between nodes.
#[derive(Debug, Clone)]
pub(crate) struct Series {
    /// Its labels.
    pub(crate) labels: Labels,
    /// Whether the metric name goes at the end of the evaluation (delayed name removal).
    pub(crate) drop_name: bool,
    /// Its values.
    pub(crate) points: Points,
}

/// The most steps that room is made for in advance.
const PREPARED_STEPS: usize = 4096;

/// At most one value per step. Gaps are staleness markers, which are never a value: selectors drop them and no
/// arithmetic makes them (they are signalling NaNs). Native histograms will be a second column here.
#[derive(Debug, Clone, Default)]
pub(crate) struct Points {
    first: usize,
    values: Vec<f64>,
}

impl Points {
    /// No values yet, with room for so many steps. Of a great many steps, most may stay without a value.
    pub(crate) fn with_capacity(steps: usize) -> Self {
        Self { first: 0, values: Vec::with_capacity(steps.min(PREPARED_STEPS)) }
    }

    /// One value per step from the first on.
    pub(crate) fn dense(values: Vec<f64>) -> Self {
        Self { first: 0, values }
    }

    /// Nothing at any of the steps; to be filled with [`Points::slots`].
    pub(crate) fn empty_slots(steps: usize) -> Self {
        Self::dense(vec![stale_nan(); steps])
    }

    /// The steps' places, gaps included; of all steps if made by [`Points::empty_slots`] or [`Points::dense`].
    pub(crate) fn slots(&mut self) -> &mut [f64] {
        &mut self.values
    }

    /// The value at a step.
    pub(crate) fn get(&self, step: usize) -> Option<f64> {
        let value = *self.values.get(step.checked_sub(self.first)?)?;
        (!is_stale(value)).then_some(value)
    }

    /// Adds the value at a step after all those there.
    pub(crate) fn push(&mut self, step: usize, value: f64) {
        if self.values.is_empty() {
            self.first = step;
        }
        let index = step.saturating_sub(self.first);
        if index > self.values.len() {
            self.values.resize(index, stale_nan());
        }
        self.values.push(value);
    }

    /// Steps and their values, gaps left out.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (usize, f64)> {
        let first = self.first;
        let steps = self.values.iter().enumerate();
        steps.filter(|(_, v)| !is_stale(**v)).map(move |(i, v)| (first + i, *v))
    }

    /// Replaces each value; `None` leaves a gap.
    pub(crate) fn map(&mut self, mut change: impl FnMut(usize, f64) -> Option<f64>) {
        for (i, value) in self.values.iter_mut().enumerate() {
            if !is_stale(*value) {
                *value = change(self.first + i, *value).unwrap_or_else(stale_nan);
            }
        }
    }

    /// The number of values.
    pub(crate) fn count(&self) -> usize {
        self.values.iter().filter(|value| value.to_bits() != STALE_NAN_BITS).count()
    }

    /// Whether there is no value.
    pub(crate) fn is_empty(&self) -> bool {
        self.values.iter().all(|value| is_stale(*value))
    }

    /// Takes over the values of `other`; false if both have one at the same step.
    pub(crate) fn merge(&mut self, other: &Self) -> bool {
        let first = self.first.min(other.first);
        let end = (self.first + self.values.len()).max(other.first + other.values.len());
        let mut all = Self { first, values: vec![stale_nan(); end - first] };
        let mut disjoint = true;
        for (step, value) in self.iter().chain(other.iter()) {
            if let Some(slot) = all.values.get_mut(step - first) {
                disjoint &= is_stale(*slot);
                *slot = value;
            }
        }
        *self = all;
        disjoint
    }

    /// The value of the first step at each of so many steps.
    pub(crate) fn repeat(&mut self, steps: usize) {
        if let Some(value) = self.get(0) {
            *self = Self::dense(vec![value; steps]);
        }
    }
}

/// Leaves out series without any value.
pub(crate) fn without_empty(mut series: Vec<Series>) -> Vec<Series> {
    series.retain(|s| !s.points.is_empty());
    series
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_no_values() {
        let mut points = Points::default();
        points.push(3, 1.0);
        points.push(5, f64::NAN);
        points.push(6, 2.0);
        assert_eq!(points.get(2), None);
        assert_eq!(points.get(3), Some(1.0));
        assert_eq!(points.get(4), None);
        assert!(points.get(5).unwrap().is_nan());
        assert_eq!(points.count(), 3);
        points.map(|_, v| (v > 1.0).then_some(v * 2.0));
        assert_eq!(points.iter().collect::<Vec<_>>(), [(6, 4.0)]);
    }

    #[test]
    fn merging_notices_overlap() {
        let mut a = Points::default();
        a.push(1, 1.0);
        let mut b = Points::default();
        b.push(4, 4.0);
        assert!(a.merge(&b));
        assert_eq!(a.iter().collect::<Vec<_>>(), [(1, 1.0), (4, 4.0)]);
        assert!(!a.merge(&b));
    }
}
