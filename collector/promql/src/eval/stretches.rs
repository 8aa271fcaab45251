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
    /// The windows with at least two samples.
    windows: Vec<Stretched>,
    /// The step of each window, and what its factor comes from.
    origins: Vec<(usize, Stretch)>,
    /// Room for the indices of values below the one before.
    falls: Vec<usize>,
}

/// What has to be known of a window for every series: kept small, as all windows together should stay near the processor.
#[derive(Debug)]
struct Stretched {
    /// The index of its first sample.
    first: u32,
    /// The index of its last sample.
    last: u32,
    /// Seconds between the first and the last sample.
    sampled: f64,
    /// A little more than the seconds that it is stretched over before the first sample, if zero is not crossed.
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
        self.windows.clear();
        self.origins.clear();
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
            let stretch = Stretch { start, end, first: *first, last: *last, gaps: to - 1 - from };
            let (sampled, to_start, _) = stretch.edges();
            // Whether zero is crossed is asked twice, the first time without a division.
            let to_start = to_start * (1.0 + 1e-9);
            let factor = stretch.factor(None, rise == Rise::PerSecond);
            let [first, last] = [from, to - 1].map(|i| u32::try_from(i).unwrap_or(u32::MAX));
            self.windows.push(Stretched { first, last, sampled, to_start, factor });
            self.origins.push((step, stretch));
        }
    }

    /// The rise of each window over these values.
    pub(super) fn rises(&mut self, rise: Rise, values: &[f64]) -> Points {
        let counter = rise != Rise::Gauge;
        self.find_falls(if counter { values } else { &[] });
        let mut falls = self.falls.as_slice();
        let window_rise = |(number, window): (usize, &Stretched)| {
            let (first, last) = (place(window.first), place(window.last));
            let value = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
            let before = value(first);
            let mut difference = value(last) - before;
            if !falls.is_empty() {
                let passed = falls.iter().take_while(|fall| **fall <= first).count();
                falls = falls.get(passed..).unwrap_or_default();
                // A fall is a reset: what was there before it has been counted.
                let inside = falls.iter().take_while(|fall| **fall <= last);
                difference = inside.fold(difference, |rise, fall| rise + value(fall - 1));
            }
            let from_zero = counter
                && difference > 0.0
                && before >= 0.0
                && window.sampled * before < window.to_start * difference;
            let factor = match self.origins.get(number) {
                Some((_, stretch)) if from_zero => {
                    stretch.factor(Some((before, difference)), rise == Rise::PerSecond)
                }
                _ => window.factor,
            };
            difference * factor
        };
        let rises: Vec<f64> = self.windows.iter().enumerate().map(window_rise).collect();
        let first_step = self.origins.first().map_or(0, |(step, _)| *step);
        let last_step = self.origins.last().map_or(0, |(step, _)| *step);
        if last_step - first_step + 1 == self.windows.len() {
            return Points::from_column(first_step, rises);
        }
        let mut points = Points::with_capacity(last_step + 1);
        for (rise, (step, _)) in rises.iter().zip(&self.origins) {
            points.push(*step, *rise);
        }
        points
    }

    fn find_falls(&mut self, values: &[f64]) {
        self.falls.clear();
        let pairs = || values.iter().zip(values.iter().skip(1));
        // Nearly always there is none, which counting sees quickest.
        if pairs().filter(|(before, value)| value < before).count() > 0 {
            let falls = pairs().enumerate().filter(|(_, (before, value))| value < before);
            self.falls.extend(falls.map(|(index, _)| index + 1));
        }
    }
}

fn place(index: u32) -> usize {
    usize::try_from(index).unwrap_or(usize::MAX)
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
                    let got = stretches.rises(rise, &values);
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
