//! Values between the nodes of an expression: series with one value per step.

use std::sync::Arc;

use tributary_model::histogram::Histogram;
use tributary_model::label::Labels;
use tributary_model::sample::{is_stale, stale_nan};

use crate::value::Element;

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
    /// How much it holds, in samples.
    pub(crate) fn samples(&self) -> usize {
        match self {
            Self::Scalar(values) => values.len(),
            Self::Vector(series) => series.iter().map(|s| s.points.size()).sum(),
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

/// What a histogram takes beside its buckets and spans, in bytes, by Prometheus' count.
const HISTOGRAM_BYTES: usize = 168;

/// Whether any of the values is a staleness marker. Mostly none is even a NaN, which is seen several at a time.
pub(crate) fn any_stale(values: &[f64]) -> bool {
    values.iter().filter(|value| value.is_nan()).count() > 0
        && values.iter().any(|value| is_stale(*value))
}

/// A histogram's share of the limit on samples: its bytes over a sample's.
pub(crate) fn histogram_size(histogram: &Histogram) -> usize {
    let side =
        |buckets: &tributary_model::histogram::Buckets| (buckets.spans().len() + buckets.len()) * 8;
    (HISTOGRAM_BYTES + side(histogram.positive()) + side(histogram.negative()) + 8) / 16
}

/// At most one value per step, a number or a histogram. Gaps among the numbers are staleness markers, which are never a
/// value: selectors drop them and no arithmetic makes them (they are signalling NaNs).
#[derive(Debug, Clone, Default)]
pub(crate) struct Points {
    first: usize,
    values: Vec<f64>,
    /// Whether there may be gaps among the numbers.
    gaps: bool,
    /// By step, at steps that have no number.
    histograms: Vec<(usize, Arc<Histogram>)>,
}

/// The numbers of steps that follow each other.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Column<'a> {
    /// The first step.
    pub(crate) first: usize,
    /// The numbers; gaps are staleness markers.
    pub(crate) values: &'a [f64],
    /// Whether there may be gaps.
    pub(crate) gaps: bool,
}

impl Points {
    /// No values yet, with room for so many steps. Of a great many steps, most may stay without a value.
    pub(crate) fn with_capacity(steps: usize) -> Self {
        Self { values: Vec::with_capacity(steps.min(PREPARED_STEPS)), ..Self::default() }
    }

    /// One number per step from the first on.
    pub(crate) fn dense(values: Vec<f64>) -> Self {
        Self::from_column(0, values)
    }

    /// One number for each of the steps from `first` on.
    pub(crate) fn from_column(first: usize, values: Vec<f64>) -> Self {
        Self { first, values, ..Self::default() }
    }

    /// Nothing at any of the steps; to be filled with [`Points::slots`].
    pub(crate) fn empty_slots(steps: usize) -> Self {
        Self { values: vec![stale_nan(); steps], gaps: true, ..Self::default() }
    }

    /// The steps' places for numbers, gaps included; of all steps if made by [`Points::empty_slots`] or
    /// [`Points::dense`].
    pub(crate) fn slots(&mut self) -> &mut [f64] {
        self.gaps = true;
        &mut self.values
    }

    /// The number at a step.
    pub(crate) fn float(&self, step: usize) -> Option<f64> {
        let value = *self.values.get(step.checked_sub(self.first)?)?;
        (!is_stale(value)).then_some(value)
    }

    /// The histogram at a step.
    pub(crate) fn histogram(&self, step: usize) -> Option<&Arc<Histogram>> {
        let at = self.histograms.binary_search_by_key(&step, |(at, _)| *at).ok()?;
        self.histograms.get(at).map(|(_, histogram)| histogram)
    }

    /// Whatever there is at a step.
    pub(crate) fn element(&self, step: usize) -> Option<Element> {
        let float = self.float(step).map(Element::Float);
        float.or_else(|| self.histogram(step).map(|h| Element::Histogram(Arc::clone(h))))
    }

    /// Adds the number at a step after all those there.
    #[inline]
    pub(crate) fn push(&mut self, step: usize, value: f64) {
        if self.values.is_empty() {
            self.first = step;
        }
        let index = step.saturating_sub(self.first);
        if index > self.values.len() {
            self.values.resize(index, stale_nan());
            self.gaps = true;
        }
        self.values.push(value);
    }

    /// Adds the histogram at a step after all those there.
    pub(crate) fn push_histogram(&mut self, step: usize, histogram: Arc<Histogram>) {
        self.histograms.push((step, histogram));
    }

    /// Adds a value at a step after all those there.
    pub(crate) fn push_element(&mut self, step: usize, element: Element) {
        match element {
            Element::Float(value) => self.push(step, value),
            Element::Histogram(histogram) => self.push_histogram(step, histogram),
        }
    }

    /// Steps and their numbers, gaps left out.
    pub(crate) fn floats(&self) -> impl Iterator<Item = (usize, f64)> {
        let first = self.first;
        let steps = self.values.iter().enumerate();
        steps.filter(|(_, v)| !is_stale(**v)).map(move |(i, v)| (first + i, *v))
    }

    /// The numbers.
    pub(crate) fn column(&self) -> Column<'_> {
        Column { first: self.first, values: &self.values, gaps: self.gaps }
    }

    /// Steps and their histograms.
    pub(crate) fn histograms(&self) -> &[(usize, Arc<Histogram>)] {
        &self.histograms
    }

    /// The steps that have a value: those of numbers, then those of histograms.
    pub(crate) fn steps(&self) -> impl Iterator<Item = usize> {
        self.floats().map(|(step, _)| step).chain(self.histograms.iter().map(|(step, _)| *step))
    }

    /// Replaces each number; `None` leaves a gap.
    pub(crate) fn map(&mut self, mut change: impl FnMut(usize, f64) -> Option<f64>) {
        for (i, value) in self.values.iter_mut().enumerate() {
            if !is_stale(*value) {
                let changed = change(self.first + i, *value);
                self.gaps |= changed.is_none();
                *value = changed.unwrap_or_else(stale_nan);
            }
        }
    }

    /// Replaces each histogram; `None` leaves a gap.
    pub(crate) fn map_histograms(
        &mut self,
        mut change: impl FnMut(usize, &Arc<Histogram>) -> Option<Element>,
    ) {
        for (step, histogram) in std::mem::take(&mut self.histograms) {
            match change(step, &histogram) {
                Some(Element::Histogram(histogram)) => self.histograms.push((step, histogram)),
                Some(Element::Float(value)) => self.put(step, value),
                None => {}
            }
        }
    }

    /// Sets the number at a step, whatever the order.
    fn put(&mut self, step: usize, value: f64) {
        self.gaps = true;
        if self.values.is_empty() {
            self.first = step;
        }
        if step < self.first {
            let missing = self.first - step;
            self.values.splice(0..0, std::iter::repeat_n(stale_nan(), missing));
            self.first = step;
        }
        let index = step - self.first;
        if index >= self.values.len() {
            self.values.resize(index + 1, stale_nan());
        }
        if let Some(slot) = self.values.get_mut(index) {
            *slot = value;
        }
    }

    /// Keeps the values at the steps for which `keep` says so.
    pub(crate) fn retain(&mut self, keep: impl Fn(usize) -> bool) {
        self.map(|step, value| keep(step).then_some(value));
        self.histograms.retain(|(step, _)| keep(*step));
    }

    /// Leaves the numbers.
    pub(crate) fn drop_histograms(&mut self) {
        self.histograms = Vec::new();
    }

    /// How much it holds, in samples.
    pub(crate) fn size(&self) -> usize {
        let gaps = if self.gaps {
            self.values.iter().filter(|value| is_stale(**value)).count()
        } else {
            0
        };
        self.values.len() - gaps
            + self.histograms.iter().map(|(_, h)| histogram_size(h)).sum::<usize>()
    }

    /// Whether there is no value.
    pub(crate) fn is_empty(&self) -> bool {
        self.histograms.is_empty() && self.values.iter().all(|value| is_stale(*value))
    }

    /// Takes over the values of `other`; false if both have one at the same step.
    pub(crate) fn merge(&mut self, other: &Self) -> bool {
        let first = self.first.min(other.first);
        let end = (self.first + self.values.len()).max(other.first + other.values.len());
        let values = vec![stale_nan(); end - first];
        let mut all = Self { first, values, gaps: true, ..Self::default() };
        let mut disjoint = true;
        for (step, value) in self.floats().chain(other.floats()) {
            if let Some(slot) = all.values.get_mut(step - first) {
                disjoint &= is_stale(*slot);
                *slot = value;
            }
        }
        all.histograms = std::mem::take(&mut self.histograms);
        all.histograms.extend_from_slice(&other.histograms);
        all.histograms.sort_by_key(|(step, _)| *step);
        disjoint &= all.histograms.iter().all(|(step, _)| all.float(*step).is_none());
        disjoint &= all.histograms.is_sorted_by(|(a, _), (b, _)| a < b);
        *self = all;
        disjoint
    }

    /// The value of the first step at each of so many steps.
    pub(crate) fn repeat(&mut self, steps: usize) {
        match self.element(0) {
            Some(Element::Float(value)) => *self = Self::dense(vec![value; steps]),
            Some(Element::Histogram(histogram)) => {
                let histograms = (0..steps).map(|step| (step, Arc::clone(&histogram))).collect();
                *self = Self { histograms, ..Self::default() };
            }
            None => {}
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
        assert_eq!(points.float(2), None);
        assert_eq!(points.float(3), Some(1.0));
        assert_eq!(points.float(4), None);
        assert!(points.float(5).unwrap().is_nan());
        assert_eq!(points.size(), 3);
        points.map(|_, v| (v > 1.0).then_some(v * 2.0));
        assert_eq!(points.floats().collect::<Vec<_>>(), [(6, 4.0)]);
    }

    #[test]
    fn merging_notices_overlap() {
        let mut a = Points::default();
        a.push(1, 1.0);
        let mut b = Points::default();
        b.push(4, 4.0);
        assert!(a.merge(&b));
        assert_eq!(a.floats().collect::<Vec<_>>(), [(1, 1.0), (4, 4.0)]);
        assert!(!a.clone().merge(&b));
        let mut histograms = Points::default();
        histograms.push_histogram(2, Arc::default());
        assert!(a.merge(&histograms));
        assert!(!a.clone().merge(&histograms));
        assert_eq!(a.steps().collect::<Vec<_>>(), [1, 4, 2]);
    }

    #[test]
    fn histograms_may_become_numbers() {
        let mut points = Points::default();
        points.push(2, 2.0);
        for step in [0, 1, 4] {
            points.push_histogram(step, Arc::default());
        }
        points.map_histograms(|step, histogram| match step {
            1 => Some(Element::Histogram(Arc::clone(histogram))),
            other => Some(Element::Float(other as f64)),
        });
        assert_eq!(points.floats().collect::<Vec<_>>(), [(0, 0.0), (2, 2.0), (4, 4.0)]);
        assert!(points.histogram(1).is_some() && points.histogram(0).is_none());
    }
}
