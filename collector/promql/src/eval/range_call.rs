//! Functions of range vectors: a window slides over the samples of one series after the other.

use tributary_model::sample::{Sample, is_stale};

use super::Evaluator;
use super::duration;
use super::grid::{Grid, Reference};
use super::labels::{check_unique, without_identity};
use super::series::{Points, Series};
use crate::ast::{Call, Expr, Extend};
use crate::functions::{Window, WindowFunction, counter, extended, number, over_time, trend};
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
        let function = match arg {
            Expr::Matrix(matrix) => match matrix.selector.extend {
                Some(extend) => extended_function(call.function, extend)?,
                None => plain,
            },
            _ => plain,
        };
        let held = self.held;
        let ranged = self.ranged(arg, grid)?;
        let mut out = self.slide(call, &ranged, function, &params, grid)?;
        self.held = held;
        if call.function == Function::AbsentOverTime {
            out = absent_over_time(&out, arg, grid);
        }
        if !self.delayed() {
            check_unique(&out)?;
        }
        Ok(Some(out))
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

    fn slide(
        &mut self,
        call: &Call,
        ranged: &Ranged,
        function: WindowFunction,
        params: &[Vec<f64>],
        grid: Grid,
    ) -> Result<Vec<Series>, EvalError> {
        let keeps_name = matches!(call.function, Function::LastOverTime | Function::FirstOverTime);
        let mut out = Vec::with_capacity(ranged.series.len());
        let mut samples = Vec::new();
        let mut scratch = Vec::new();
        let mut looked_at = 0;
        for series in &ranged.series {
            self.load(series, ranged.bounds(grid), &mut samples)?;
            self.hold(samples.len())?;
            let mut points = Points::with_capacity(grid.count);
            let (mut from, mut to) = (0, 0);
            for (step, time) in grid.times() {
                let end = ranged.reference.of(time);
                let start = end.saturating_sub(ranged.range);
                let (before, after) = ranged.margin;
                to = advance(&samples, to, end.saturating_add(after));
                from = advance(&samples, from, start.saturating_sub(before));
                let Some(window @ [_, ..]) = samples.get(from..to) else { continue };
                looked_at += window.len();
                if looked_at > SAMPLES_BETWEEN_CHECKS {
                    looked_at = 0;
                    self.check()?;
                }
                let params = params_at(params, step);
                self.check_params(call, params)?;
                let value = function(&mut Window {
                    samples: window,
                    start,
                    end,
                    at: time,
                    params,
                    scratch: &mut scratch,
                });
                if let Some(value) = value {
                    points.push(step, value);
                }
            }
            self.release(samples.len());
            if points.is_empty() {
                continue;
            }
            self.hold(points.count())?;
            self.remark_non_counter(call, series.labels().metric_name());
            let drop_name = !keeps_name || series.drops_name();
            let labels = if drop_name && !self.delayed() {
                without_identity(series.labels())
            } else {
                series.labels().clone()
            };
            out.push(Series { labels, drop_name, points });
        }
        Ok(out)
    }

    /// The samples of a series without staleness markers, in place of those in `out`.
    fn load(
        &mut self,
        series: &RangedSeries,
        (from, to): (i64, i64),
        out: &mut Vec<Sample>,
    ) -> Result<(), EvalError> {
        match series {
            RangedSeries::Stored(series) => {
                self.read(series, from, to, out)?;
                out.retain(|sample| !is_stale(sample.value));
            }
            RangedSeries::Computed(series, steps) => {
                self.check()?;
                out.clear();
                let samples = series.points.iter().map(|(i, v)| Sample::new(steps.time(i), v));
                out.extend(samples);
            }
        }
        Ok(())
    }

    /// Remarks and errors about scalar arguments; only made where there is a window to use them on.
    fn check_params(&mut self, call: &Call, [first, second]: [f64; 2]) -> Result<(), EvalError> {
        match call.function {
            Function::QuantileOverTime if !number::is_quantile(first) => {
                if let Some(arg) = call.args.first() {
                    self.annotations.bad_quantile(first, arg.span());
                }
                Ok(())
            }
            Function::DoubleExponentialSmoothing => {
                check_factor("smoothing", "sf", first)?;
                check_factor("trend", "tf", second)
            }
            _ => Ok(()),
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

impl Ranged {
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
fn advance(samples: &[Sample], index: usize, time: i64) -> usize {
    let rest = samples.get(index..).unwrap_or(&[]);
    index + rest.iter().take_while(|sample| sample.at.as_millis() <= time).count()
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

/// One series with 1 at the steps where no series has a value.
fn absent_over_time(present: &[Series], arg: &Expr, grid: Grid) -> Vec<Series> {
    super::call::absent(present, arg, grid)
}
