//! A window slides over the samples of one series after the other.

use std::sync::Arc;

use tributary_model::histogram::{Histogram, HistogramSample, ResetHint};
use tributary_model::label::Labels;
use tributary_model::sample::{Sample, Timestamp};

use super::budget::Budget;
use super::grid::{Grid, Reference};
use super::loaded::Loaded;
use super::series::{Points, Series, any_stale};
use super::stretches::{Rise, Stretches, never_falls};
use crate::ast::Extend;
use crate::functions::mixed::{self, MixedWindow};
use crate::functions::number::{self, Sum};
use crate::functions::remark::{Remark, Remarks};
use crate::functions::sliding::{Largest, Sliding, Smallest, Summary};
use crate::functions::{Timed, Window, WindowFunction};
use crate::signature::Function;
use crate::source;
use crate::value::EvalError;

/// After so many samples in windows it is asked whether to go on: a few milliseconds of work.
const SAMPLES_BETWEEN_CHECKS: usize = 1_000_000;

/// The series a range function looks at, and through which windows.
pub(super) struct Ranged {
    pub(super) series: Vec<RangedSeries>,
    pub(super) reference: Reference,
    pub(super) range: i64,
    /// How far before and after the window samples are taken along, for `anchored` and `smoothed`.
    pub(super) margin: (i64, i64),
}

pub(super) enum RangedSeries {
    /// From the source.
    Stored(source::Series),
    /// From a subquery: the samples are there.
    Computed(Series, Grid),
}

/// One range function on its way over all series.
pub(super) struct Slide<'a> {
    pub(super) function: Function,
    pub(super) plain: WindowFunction,
    pub(super) extend: Option<Extend>,
    pub(super) params: &'a [Vec<f64>],
    pub(super) ranged: &'a Ranged,
    pub(super) grid: Grid,
    pub(super) budget: &'a Budget<'a>,
    /// Whether it matters since when samples count.
    pub(super) with_starts: bool,
    /// Whether nothing looks at the buckets of histograms.
    pub(super) totals_only: bool,
}

/// What a thread reuses from series to series.
#[derive(Default)]
pub(super) struct Scratch {
    loaded: Loaded,
    values: Vec<f64>,
    stretches: Stretches,
}

/// What one series came to.
pub(super) struct Slid {
    pub(super) points: Points,
    pub(super) remarks: Remarks,
}

impl Ranged {
    /// Start and end of the window of a step.
    pub(super) fn window(&self, time: i64) -> (i64, i64) {
        let end = self.reference.of(time);
        (end.saturating_sub(self.range), end)
    }

    /// The first and last millisecond that any window looks at.
    pub(super) fn bounds(&self, grid: Grid) -> (i64, i64) {
        let (before, after) = self.margin;
        let first = self.reference.of(grid.start);
        let from = first.saturating_sub(self.range).saturating_sub(before).saturating_add(1);
        (from, self.reference.of(grid.last()).saturating_add(after))
    }
}

impl RangedSeries {
    pub(super) fn labels(&self) -> &Labels {
        match self {
            Self::Stored(series) => &series.labels,
            Self::Computed(series, _) => &series.labels,
        }
    }

    pub(super) fn drops_name(&self) -> bool {
        matches!(self, Self::Computed(series, _) if series.drop_name)
    }
}

impl Slide<'_> {
    /// Slides the window over one series.
    pub(super) fn series(
        &self,
        scratch: &mut Scratch,
        series: &RangedSeries,
    ) -> Result<Slid, EvalError> {
        let Scratch { loaded, values, stretches } = scratch;
        self.load(series, loaded)?;
        let values_alone = &loaded.numbers.values;
        // Values of which none is below the one before have no staleness marker among them, either.
        let never_falls = never_falls(values_alone);
        let rise = self
            .rise()
            .filter(|_| loaded.has_only_numbers() && (never_falls || !any_stale(values_alone)));
        if rise.is_none() {
            loaded.join_fresh();
        }
        let size = loaded.size();
        self.budget.hold(size)?;
        let slid = if let Some(rise) = rise {
            stretches.fit(rise, self.ranged, self.grid, &loaded.numbers.times);
            let points = stretches.rises(rise, &loaded.numbers.values, never_falls);
            Slid { points, remarks: Remarks::default() }
        } else if loaded.histograms.is_empty() && !loaded.has_starts() {
            self.numbers(&loaded.samples, values)?
        } else {
            self.either(loaded, values)?
        };
        self.budget.release(size);
        self.budget.hold(slid.points.size())?;
        Ok(slid)
    }

    /// Which rise the function computes, if it is one and only looks at samples in the window.
    fn rise(&self) -> Option<Rise> {
        let rise = match self.function {
            Function::Rate => Rise::PerSecond,
            Function::Increase => Rise::Whole,
            Function::Delta => Rise::Gauge,
            _ => return None,
        };
        self.extend.is_none().then_some(rise)
    }

    /// Reads the samples of a series.
    fn load(&self, series: &RangedSeries, loaded: &mut Loaded) -> Result<(), EvalError> {
        match series {
            RangedSeries::Stored(series) => {
                let bounds = self.ranged.bounds(self.grid);
                loaded.read(series, bounds, self.with_starts, self.budget)?;
                if self.totals_only {
                    loaded.reduce_to_totals();
                }
            }
            RangedSeries::Computed(series, steps) => {
                self.budget.check()?;
                loaded.clear();
                let samples = series.points.floats().map(|(i, v)| Sample::new(steps.time(i), v));
                loaded.numbers.extend(samples);
                let histograms = series.points.histograms().iter().map(|(i, histogram)| {
                    let at = Timestamp::from_millis(steps.time(*i));
                    HistogramSample { at, histogram: forget_reset(histogram) }
                });
                loaded.histograms.extend(histograms);
            }
        }
        Ok(())
    }

    /// Over numbers, of which nothing else is known.
    fn numbers(&self, samples: &[Sample], values: &mut Vec<f64>) -> Result<Slid, EvalError> {
        match self.function {
            Function::SumOverTime => self.summed(samples, values, |sum: Sum, _| sum.total()),
            Function::AvgOverTime => {
                self.summed(samples, values, |sum: Sum, count| sum.over(count).total())
            }
            Function::MaxOverTime => self.summed(samples, values, |largest: Largest, _| largest.0),
            Function::MinOverTime => {
                self.summed(samples, values, |smallest: Smallest, _| smallest.0)
            }
            _ => self.windows(samples, values, |window, _| (self.plain)(window)),
        }
    }

    /// A function of the summary of all samples and their number. What is not finite is computed in its own way.
    fn summed<S: Summary>(
        &self,
        samples: &[Sample],
        values: &mut Vec<f64>,
        result: impl Fn(S, f64) -> f64,
    ) -> Result<Slid, EvalError> {
        let mut sliding = Sliding::<S>::new();
        self.windows(samples, values, |window, (from, to)| {
            let value = result(sliding.window(samples, from, to)?, (to - from) as f64);
            if value.is_finite() { Some(value) } else { (self.plain)(window) }
        })
    }

    /// Calls a function for each window that has samples, with the first index and the one after the last.
    fn windows(
        &self,
        samples: &[Sample],
        values: &mut Vec<f64>,
        mut compute: impl FnMut(&mut Window<'_>, (usize, usize)) -> Option<f64>,
    ) -> Result<Slid, EvalError> {
        let mut slid = self.nothing();
        let (before, after) = self.ranged.margin;
        let has_params = !self.params.is_empty();
        let (mut from, mut to) = (0, 0);
        let mut looked_at = 0;
        for (step, time) in self.grid.times() {
            let (start, end) = self.ranged.window(time);
            let (first, last) = (start.saturating_sub(before), end.saturating_add(after));
            to = advance(samples, to, last);
            from = advance(samples, from, first);
            let Some(window @ [_, ..]) = samples.get(from..to) else { continue };
            self.check_now_and_then(&mut looked_at, window.len())?;
            let mut params = [f64::NAN; 2];
            if has_params {
                params = params_at(self.params, step);
                self.check_params(params, &mut slid.remarks)?;
            }
            let mut window =
                Window { samples: window, start, end, at: time, params, scratch: values };
            if let Some(value) = compute(&mut window, (from, to)) {
                slid.points.push(step, value);
            }
        }
        Ok(slid)
    }

    /// Over numbers and histograms.
    fn either(&self, loaded: &Loaded, values: &mut Vec<f64>) -> Result<Slid, EvalError> {
        let mut slid = self.nothing();
        let [mut floats, mut histograms] = [(0, 0); 2];
        let mut looked_at = 0;
        let mut remarks = Remarks::default();
        for (step, time) in self.grid.times() {
            let (start, end) = self.ranged.window(time);
            let (before, after) = self.ranged.margin;
            let (first, last) = (start.saturating_sub(before), end.saturating_add(after));
            floats.0 = advance(&loaded.samples, floats.0, first);
            floats.1 = advance(&loaded.samples, floats.1, last);
            histograms.0 = advance(&loaded.histograms, histograms.0, first);
            histograms.1 = advance(&loaded.histograms, histograms.1, last);
            let (floats, histograms) = (floats.0..floats.1, histograms.0..histograms.1);
            let size = floats.len() + histograms.len();
            if size == 0 {
                continue;
            }
            self.check_now_and_then(&mut looked_at, size)?;
            let params = params_at(self.params, step);
            let starts = &loaded.starts;
            let mut window = MixedWindow {
                samples: loaded.samples.get(floats.clone()).unwrap_or_default(),
                starts: starts.samples.get(floats).unwrap_or_default(),
                histograms: loaded.histograms.get(histograms.clone()).unwrap_or_default(),
                histogram_starts: starts.histograms.get(histograms).unwrap_or_default(),
                start,
                end,
                at: time,
                params,
                scratch: values,
                remarks: &mut remarks,
            };
            if !window.samples.is_empty() {
                self.check_params(params, window.remarks)?;
            }
            let element = mixed::call(self.function, self.extend, self.plain, &mut window);
            if let Some(element) = element {
                slid.points.push_element(step, element);
            }
            slid.remarks.absorb(&mut remarks);
        }
        Ok(slid)
    }

    fn nothing(&self) -> Slid {
        Slid { points: Points::with_capacity(self.grid.count), remarks: Remarks::default() }
    }

    fn check_now_and_then(&self, looked_at: &mut usize, more: usize) -> Result<(), EvalError> {
        *looked_at += more;
        if *looked_at > SAMPLES_BETWEEN_CHECKS {
            *looked_at = 0;
            self.budget.check()?;
        }
        Ok(())
    }

    /// Remarks and errors about scalar arguments; only made where there is a window to use them on.
    fn check_params(
        &self,
        [first, second]: [f64; 2],
        remarks: &mut Remarks,
    ) -> Result<(), EvalError> {
        match self.function {
            Function::QuantileOverTime if !number::is_quantile(first) => {
                remarks.add(Remark::BadQuantile(first.to_bits()));
                Ok(())
            }
            Function::DoubleExponentialSmoothing => {
                check_factor("smoothing", "sf", first)?;
                check_factor("trend", "tf", second)
            }
            _ => Ok(()),
        }
    }
}

/// The histogram without what its hint says of resets: a subquery may leave out or repeat the samples around one.
fn forget_reset(histogram: &Arc<Histogram>) -> Arc<Histogram> {
    match histogram.hint() {
        ResetHint::Reset | ResetHint::NotReset => {
            Arc::new(Histogram::clone(histogram).with_hint(ResetHint::Unknown))
        }
        ResetHint::Unknown | ResetHint::Gauge => Arc::clone(histogram),
    }
}

/// The index of the first sample after `time`, looked for from `index` on.
fn advance<T: Timed>(samples: &[T], index: usize, time: i64) -> usize {
    let rest = samples.get(index..).unwrap_or(&[]);
    index + rest.iter().take_while(|sample| sample.millis() <= time).count()
}

fn params_at(params: &[Vec<f64>], step: usize) -> [f64; 2] {
    let at = |index: usize| params.get(index).and_then(|p| p.get(step)).copied();
    [at(0).unwrap_or(f64::NAN), at(1).unwrap_or(f64::NAN)]
}

fn check_factor(which: &'static str, short: &'static str, value: f64) -> Result<(), EvalError> {
    // NaN passes, as in Prometheus.
    if value <= 0.0 || value >= 1.0 {
        return Err(EvalError::Factor { which, short, value });
    }
    Ok(())
}
