//! Functions of range vectors: a window slides over the samples of one series after the other.

use std::sync::Arc;

use tributary_model::histogram::{Histogram, HistogramSample, ResetHint};
use tributary_model::sample::{Sample, Timestamp};

use super::Evaluator;
use super::budget::Budget;
use super::grid::{Grid, Reference};
use super::labels::{check_unique, without_identity};
use super::loaded::Loaded;
use super::series::{Points, Series};
use super::{duration, workers};
use crate::ast::{Call, Expr, Extend};
use crate::functions::mixed::{self, MixedWindow};
use crate::functions::remark::{Remark, Remarks};
use crate::functions::{
    Timed, Window, WindowFunction, counter, extended, number, over_time, trend,
};
use crate::signature::Function;
use crate::source;
use crate::value::EvalError;

/// The function that computes a range function's values, if `function` is one.
fn window_function(function: Function) -> Option<WindowFunction> {
    Some(match function {
        Function::Rate => counter::rate,
        Function::Increase => counter::increase,
        Function::Delta => counter::delta,
        Function::Irate => counter::irate,
        Function::Idelta => counter::idelta,
        Function::Resets => counter::resets,
        Function::Changes => counter::changes,
        Function::Deriv => trend::deriv,
        Function::PredictLinear => trend::predict_linear,
        Function::DoubleExponentialSmoothing => trend::double_exponential_smoothing,
        Function::AvgOverTime => over_time::avg,
        Function::CountOverTime => over_time::count,
        Function::FirstOverTime => over_time::first,
        Function::LastOverTime => over_time::last,
        Function::MaxOverTime => over_time::max,
        Function::MinOverTime => over_time::min,
        Function::PresentOverTime | Function::AbsentOverTime => over_time::present,
        Function::StddevOverTime => over_time::deviation,
        Function::StdvarOverTime => over_time::variance,
        Function::SumOverTime => over_time::sum,
        Function::QuantileOverTime => over_time::quantile,
        Function::MadOverTime => over_time::median_deviation,
        Function::TsOfFirstOverTime => over_time::time_of_first,
        Function::TsOfLastOverTime => over_time::time_of_last,
        Function::TsOfMaxOverTime => over_time::time_of_max,
        Function::TsOfMinOverTime => over_time::time_of_min,
        _ => return None,
    })
}

/// After so many samples in windows it is asked whether to go on: a few milliseconds of work.
const SAMPLES_BETWEEN_CHECKS: usize = 1_000_000;

/// The series a range function looks at, and through which windows.
struct Ranged {
    series: Vec<RangedSeries>,
    reference: Reference,
    range: i64,
    /// How far before and after the window samples are taken along, for `anchored` and `smoothed`.
    margin: (i64, i64),
}

enum RangedSeries {
    /// From the source.
    Stored(source::Series),
    /// From a subquery: the samples are there.
    Computed(Series, Grid),
}

/// One range function on its way over all series.
struct Slide<'a> {
    function: Function,
    plain: WindowFunction,
    extend: Option<Extend>,
    params: &'a [Vec<f64>],
    ranged: &'a Ranged,
    grid: Grid,
    budget: &'a Budget<'a>,
    /// Whether it matters since when samples count.
    with_starts: bool,
    /// Whether nothing looks at the buckets of histograms.
    totals_only: bool,
}

/// What a thread reuses from series to series.
#[derive(Default)]
struct Scratch {
    loaded: Loaded,
    values: Vec<f64>,
}

/// What one series came to.
struct Slid {
    points: Points,
    remarks: Remarks,
}

impl Evaluator<'_> {
    /// A call of a function of a range vector; `None` if it is another function.
    pub(super) fn range_call(
        &mut self,
        call: &Call,
        grid: Grid,
    ) -> Result<Option<Vec<Series>>, EvalError> {
        let Some(plain) = window_function(call.function) else { return Ok(None) };
        let mut ranged_arg = None;
        let mut params = Vec::new();
        for arg in &call.args {
            match arg.unparenthesised() {
                range @ (Expr::Matrix(_) | Expr::Subquery(_)) => ranged_arg = Some(range),
                other => params.push(self.scalar(other, grid)?),
            }
        }
        let Some(arg) = ranged_arg else {
            return Err(EvalError::Unsupported("a call without a range vector"));
        };
        let extend = match arg {
            Expr::Matrix(matrix) => matrix.selector.extend,
            _ => None,
        };
        let plain = match extend {
            Some(extend) => extended_function(call.function, extend)?,
            None => plain,
        };
        let held = self.budget.held();
        let ranged = self.ranged(arg, grid)?;
        let uses_starts = matches!(
            call.function,
            Function::Rate | Function::Irate | Function::Increase | Function::Resets
        );
        let slide = Slide {
            function: call.function,
            plain,
            extend,
            params: &params,
            ranged: &ranged,
            grid,
            budget: &self.budget,
            with_starts: uses_starts && self.options.features.start_timestamps,
            totals_only: self.totals.only(),
        };
        let slid = workers::map(&self.budget, &ranged.series, |scratch, series| {
            slide.series(scratch, series)
        })?;
        let mut out = self.series_of(call, &ranged, slid);
        self.budget.settle(held);
        if call.function == Function::AbsentOverTime {
            out = super::call::absent(&out, arg, grid);
        }
        if !self.delayed() {
            check_unique(&out)?;
        }
        Ok(Some(out))
    }

    /// The series that have values, with remarks made about them.
    fn series_of(&mut self, call: &Call, ranged: &Ranged, slid: Vec<Slid>) -> Vec<Series> {
        let keeps_name = matches!(call.function, Function::LastOverTime | Function::FirstOverTime);
        let span = call.args.first().map_or(call.span, Expr::span);
        let mut out = Vec::with_capacity(slid.len());
        for (series, Slid { points, mut remarks }) in ranged.series.iter().zip(slid) {
            self.annotations.remarks(&mut remarks, series.labels().metric_name(), span);
            if points.is_empty() {
                continue;
            }
            if points.floats().next().is_some() {
                self.remark_non_counter(call, series.labels().metric_name());
            }
            let drop_name = !keeps_name || series.drops_name();
            let labels = if drop_name && !self.delayed() {
                without_identity(series.labels())
            } else {
                series.labels().clone()
            };
            out.push(Series { labels, drop_name, points });
        }
        out
    }

    fn ranged(&mut self, arg: &Expr, grid: Grid) -> Result<Ranged, EvalError> {
        match arg {
            Expr::Subquery(subquery) => {
                let (series, steps) = self.subquery(subquery, grid)?;
                let computed = series.into_iter().map(|s| RangedSeries::Computed(s, steps));
                Ok(Ranged {
                    series: computed.collect(),
                    reference: self.reference(&subquery.time)?,
                    range: duration::positive(&subquery.range, self.durations())?,
                    margin: (0, 0),
                })
            }
            Expr::Matrix(matrix) => {
                let lookback = self.lookback();
                let margin = match matrix.selector.extend {
                    None => (0, 0),
                    Some(Extend::Anchored) => (lookback, 0),
                    Some(Extend::Smoothed) => (lookback, lookback),
                };
                let mut ranged = Ranged {
                    series: Vec::new(),
                    reference: self.reference(&matrix.selector.time)?,
                    range: duration::positive(&matrix.range, self.durations())?,
                    margin,
                };
                let (from, to) = ranged.bounds(grid);
                let selected = self.select(&matrix.selector.matchers, from, to)?;
                ranged.series = selected.into_iter().map(RangedSeries::Stored).collect();
                Ok(ranged)
            }
            _ => Err(EvalError::Unsupported("a call without a range vector")),
        }
    }

    /// `rate` and `increase` of a metric that is not called like a counter.
    fn remark_non_counter(&mut self, call: &Call, metric: &str) {
        let is_rise = matches!(call.function, Function::Rate | Function::Increase);
        let endings = ["_total", "_sum", "_count", "_bucket"];
        if is_rise && !metric.is_empty() && !endings.iter().any(|end| metric.ends_with(end)) {
            let name = tributary_model::quote::quote(metric);
            let text = format!(
                "metric might not be a counter, name does not end in _total/_sum/_count/_bucket: {name}"
            );
            if let Some(arg) = call.args.first() {
                self.annotations.info(&text, arg.span());
            }
        }
    }
}

impl Slide<'_> {
    /// Slides the window over one series.
    fn series(&self, scratch: &mut Scratch, series: &RangedSeries) -> Result<Slid, EvalError> {
        let Scratch { loaded, values } = scratch;
        self.load(series, loaded)?;
        let size = loaded.size();
        self.budget.hold(size)?;
        let slid = if loaded.histograms.is_empty() && !loaded.has_starts() {
            self.numbers(&loaded.samples, values)
        } else {
            self.either(loaded, values)
        }?;
        self.budget.release(size);
        self.budget.hold(slid.points.size())?;
        Ok(slid)
    }

    /// Reads the samples of a series without staleness markers.
    fn load(&self, series: &RangedSeries, loaded: &mut Loaded) -> Result<(), EvalError> {
        match series {
            RangedSeries::Stored(series) => {
                let bounds = self.ranged.bounds(self.grid);
                loaded.read(series, bounds, self.with_starts, self.budget)?;
                if self.totals_only {
                    loaded.reduce_to_totals();
                }
                loaded.drop_stale();
            }
            RangedSeries::Computed(series, steps) => {
                self.budget.check()?;
                loaded.clear();
                let samples = series.points.floats().map(|(i, v)| Sample::new(steps.time(i), v));
                loaded.samples.extend(samples);
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
        let mut slid = self.nothing();
        let (mut from, mut to) = (0, 0);
        let mut looked_at = 0;
        for (step, time) in self.grid.times() {
            let (start, end) = self.ranged.window(time);
            let (before, after) = self.ranged.margin;
            to = advance(samples, to, end.saturating_add(after));
            from = advance(samples, from, start.saturating_sub(before));
            let Some(window @ [_, ..]) = samples.get(from..to) else { continue };
            self.check_now_and_then(&mut looked_at, window.len())?;
            let params = params_at(self.params, step);
            self.check_params(params, &mut slid.remarks)?;
            let value = (self.plain)(&mut Window {
                samples: window,
                start,
                end,
                at: time,
                params,
                scratch: values,
            });
            if let Some(value) = value {
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

impl Ranged {
    /// Start and end of the window of a step.
    fn window(&self, time: i64) -> (i64, i64) {
        let end = self.reference.of(time);
        (end.saturating_sub(self.range), end)
    }

    /// The first and last millisecond that any window looks at.
    fn bounds(&self, grid: Grid) -> (i64, i64) {
        let (before, after) = self.margin;
        let first = self.reference.of(grid.start);
        let from = first.saturating_sub(self.range).saturating_sub(before).saturating_add(1);
        (from, self.reference.of(grid.last()).saturating_add(after))
    }
}

impl RangedSeries {
    fn labels(&self) -> &tributary_model::label::Labels {
        match self {
            Self::Stored(series) => &series.labels,
            Self::Computed(series, _) => &series.labels,
        }
    }

    fn drops_name(&self) -> bool {
        matches!(self, Self::Computed(series, _) if series.drop_name)
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

fn extended_function(function: Function, extend: Extend) -> Result<WindowFunction, EvalError> {
    let found: Option<WindowFunction> = match (function, extend) {
        (Function::Rate, Extend::Anchored) => Some(extended::anchored_rate),
        (Function::Increase, Extend::Anchored) => Some(extended::anchored_increase),
        (Function::Delta, Extend::Anchored) => Some(extended::anchored_delta),
        (Function::Resets, Extend::Anchored) => Some(extended::anchored_resets),
        (Function::Changes, Extend::Anchored) => Some(extended::anchored_changes),
        (Function::Rate, Extend::Smoothed) => Some(extended::smoothed_rate),
        (Function::Increase, Extend::Smoothed) => Some(extended::smoothed_increase),
        (Function::Delta, Extend::Smoothed) => Some(extended::smoothed_delta),
        _ => None,
    };
    found.ok_or_else(|| EvalError::Modifier {
        modifier: extend.as_str(),
        allowed: match extend {
            Extend::Anchored => "changes, delta, increase, rate, resets",
            Extend::Smoothed => "delta, increase, rate",
        },
        function: function.name(),
    })
}
