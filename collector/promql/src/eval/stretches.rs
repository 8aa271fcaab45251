//! Rises of sliding windows. Series that are scraped together have their samples at the same times: where the windows of
//! all steps begin and end, and by how much they are stretched, is worked out once for all of them.

use super::grid::Grid;
use super::series::Points;
use super::slide::Ranged;
use crate::functions::counter::Stretch;

/// What is wanted of a rise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rise {
    /// `rate`.
    PerSecond,
    /// `increase`.
    Whole,
    /// `delta`: a gauge, which may fall.
    Gauge,
}

/// The windows over one list of times.
#[derive(Debug, Default)]
pub(super) struct Stretches {
    times: Vec<i64>,
    /// The windows with at least two samples, those together that follow each other and are alike.
    runs: Vec<Run>,
    /// Room for the indices of values below the one before.
    falls: Vec<usize>,
}

/// Windows that follow each other, a step apart. All but their places is the same, as it mostly is for samples and steps
/// that are evenly spaced.
#[derive(Debug)]
struct Run {
    /// The step of the first window.
    step: usize,
    windows: usize,
    /// The index of the first window's first sample.
    first: usize,
    /// The next window begins and ends so many samples behind the one before.
    samples_apart: usize,
    /// The first window; the others are as long, with their samples in the same places.
    of: Stretch,
    /// Seconds between the first and the last sample.
    sampled: f64,
    /// A little more than the seconds that a window is stretched over before the first sample, if zero is not crossed.
    to_start: f64,
    /// What the rise is multiplied by, if zero is not crossed.
    factor: f64,
}

impl Stretches {
    /// Works out the windows for samples at these times, unless they are those of the last call. The other arguments
    /// must be the same in every call.
    pub(super) fn fit(&mut self, rise: Rise, ranged: &Ranged, grid: Grid, times: &[i64]) {
        if self.times == times {
            return;
        }
        self.times.clear();
        self.times.extend_from_slice(times);
        self.runs.clear();
        let (mut from, mut to) = (0, 0);
        for (step, time) in grid.times() {
            let (start, end) = ranged.window(time);
            while times.get(to).is_some_and(|at| *at <= end) {
                to += 1;
            }
            while times.get(from).is_some_and(|at| *at <= start) {
                from += 1;
            }
            let Some([first, .., last]) = times.get(from..to) else { continue };
            let window = Stretch { start, end, first: *first, last: *last, gaps: to - 1 - from };
            if !self.runs.last_mut().is_some_and(|run| run.takes(step, from, &window)) {
                self.runs.push(Run::begin(rise, step, from, window));
            }
        }
    }

    /// The rise of each window over these values, of which it is known whether they ever fall.
    pub(super) fn rises(&mut self, rise: Rise, values: &[f64], never_falls: bool) -> Points {
        self.falls.clear();
        if rise != Rise::Gauge && !never_falls {
            self.find_falls(values);
        }
        let windows = self.runs.iter().map(|run| run.windows).sum();
        let mut rises = Vec::with_capacity(windows);
        let mut falls = self.falls.as_slice();
        for run in &self.runs {
            if falls.is_empty() {
                run.rises(rise, values, &mut rises);
            } else {
                run.rises_with_falls(rise, values, &mut falls, &mut rises);
            }
        }
        let Some((begin, end)) = self.runs.first().zip(self.runs.last()) else {
            return Points::default();
        };
        if end.step + end.windows - begin.step == windows {
            return Points::from_column(begin.step, rises);
        }
        let mut points = Points::with_capacity(end.step + end.windows);
        let steps = self.runs.iter().flat_map(|run| run.step..run.step + run.windows);
        steps.zip(rises).for_each(|(step, rise)| points.push(step, rise));
        points
    }

    fn find_falls(&mut self, values: &[f64]) {
        let pairs = values.iter().zip(values.get(1..).unwrap_or_default());
        let falls = pairs.enumerate().filter(|(_, (before, value))| value < before);
        self.falls.extend(falls.map(|(index, _)| index + 1));
    }
}

/// Whether every value is at least the one before; none of two or more is a NaN then. Counting sees it quickest.
pub(super) fn never_falls(values: &[f64]) -> bool {
    let pairs = values.iter().zip(values.get(1..).unwrap_or_default());
    #[expect(clippy::neg_cmp_op_on_partial_ord, reason = "a NaN counts, too")]
    let others = pairs.filter(|(before, value)| !(before <= value)).count();
    others == 0
}

impl Run {
    /// A run of one window so far, with its first sample's index.
    fn begin(rise: Rise, step: usize, first: usize, of: Stretch) -> Self {
        let (sampled, to_start, _) = of.edges();
        // Whether zero is crossed is asked twice, the first time without a division.
        let to_start = to_start * (1.0 + 1e-9);
        let factor = of.factor(None, rise == Rise::PerSecond);
        Self { step, windows: 1, first, samples_apart: 0, of, sampled, to_start, factor }
    }

    /// Takes the window of a step if it goes on with the run.
    fn takes(&mut self, step: usize, first: usize, window: &Stretch) -> bool {
        let shape = |of: &Stretch| (of.first - of.start, of.last - of.first, of.end - of.last);
        let apart = if self.windows == 1 { first - self.first } else { self.samples_apart };
        let goes_on = step == self.step + self.windows
            && first == self.first + apart * self.windows
            && window.gaps == self.of.gaps
            && shape(window) == shape(&self.of);
        if goes_on {
            self.samples_apart = apart;
            self.windows += 1;
        }
        goes_on
    }

    /// Appends the rises over values that never fall, or may.
    fn rises(&self, rise: Rise, values: &[f64], out: &mut Vec<f64>) {
        let behind = values.get(self.first..).unwrap_or_default();
        let (length, sampled, to_start, usual) =
            (self.of.gaps, self.sampled, self.to_start, self.factor);
        let places = (0..self.windows).map(|window| window * self.samples_apart);
        out.extend(places.map(move |at| {
            let value = |index: usize| behind.get(index).copied().unwrap_or(f64::NAN);
            let before = value(at);
            let difference = value(at + length) - before;
            // Asked first, as the answer is nearly always no.
            let may_cross = sampled * before < to_start * difference;
            let factor = if may_cross { self.factor_of(rise, before, difference) } else { usual };
            difference * factor
        }));
    }

    /// Appends the rises of a counter that falls: these are the indices of values below the one before. Those that no
    /// further window has are passed over.
    fn rises_with_falls(
        &self,
        rise: Rise,
        values: &[f64],
        falls: &mut &[usize],
        out: &mut Vec<f64>,
    ) {
        let value = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
        for window in 0..self.windows {
            let first = self.first + window * self.samples_apart;
            let last = first + self.of.gaps;
            let passed = falls.iter().take_while(|fall| **fall <= first).count();
            *falls = falls.get(passed..).unwrap_or_default();
            // A fall is a reset: what was there before it has been counted.
            let inside = falls.iter().take_while(|fall| **fall <= last);
            let before = value(first);
            let difference = inside.fold(value(last) - before, |rise, fall| rise + value(fall - 1));
            out.push(difference * self.factor_of(rise, before, difference));
        }
    }

    fn factor_of(&self, rise: Rise, before: f64, difference: f64) -> f64 {
        let crosses_zero = self.sampled * before < self.to_start * difference
            && difference > 0.0
            && before >= 0.0
            && rise != Rise::Gauge;
        if crosses_zero {
            self.of.factor(Some((before, difference)), rise == Rise::PerSecond)
        } else {
            self.factor
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::grid::Reference;
    use super::*;
    use crate::functions::{Window, WindowFunction, counter};
    use tributary_model::sample::Sample;

    proptest! {
        /// The rises are, bit for bit, those that the window functions compute one by one.
        #[test]
        fn rises_are_those_of_window_functions(
            lists in prop::collection::vec(prop::collection::vec((1_i64..40, prop_oneof![
                Just(f64::NAN), Just(f64::INFINITY), Just(-1.0), (0_u16..900).prop_map(f64::from),
            ]), 0..40), 1..4),
            range in 1_i64..90,
            step in 1_i64..50,
        ) {
            let grid = Grid { start: 0, step, count: 40 };
            let reference = Reference { at: None, offset: 3 };
            let ranged = Ranged { series: Vec::new(), reference, range, margin: (0, 0) };
            let functions: [(Rise, WindowFunction); 3] =
                [(Rise::PerSecond, counter::rate), (Rise::Whole, counter::increase), (Rise::Gauge, counter::delta)];
            for (rise, function) in functions {
                let mut stretches = Stretches::default();
                for list in lists.iter().flat_map(|list| [list, list]) {
                    let times = list.iter().scan(0, |at, (gap, _)| { *at += gap; Some(*at) });
                    let times: Vec<i64> = times.collect();
                    let values: Vec<f64> = list.iter().map(|(_, value)| *value).collect();
                    stretches.fit(rise, &ranged, grid, &times);
                    let got = stretches.rises(rise, &values, never_falls(&values));
                    let samples: Vec<Sample> =
                        times.iter().zip(&values).map(|(at, value)| Sample::new(*at, *value)).collect();
                    for (step, at) in grid.times() {
                        let (start, end) = ranged.window(at);
                        let from = times.partition_point(|at| *at <= start);
                        let to = times.partition_point(|at| *at <= end);
                        let expected = function(&mut Window {
                            samples: &samples[from..to],
                            start,
                            end,
                            at,
                            params: [f64::NAN; 2],
                            scratch: &mut Vec::new(),
                        });
                        let bits = |v: Option<f64>| v.map(|v| if v.is_nan() { 1 } else { v.to_bits() });
                        prop_assert_eq!(bits(got.float(step)), bits(expected));
                    }
                }
            }
        }
    }
}
