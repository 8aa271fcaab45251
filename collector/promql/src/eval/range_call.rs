//! Functions of range vectors: a window slides over the samples of one series after the other.

use super::Evaluator;
use super::grid::Grid;
use super::labels::{check_unique, same_identity, without_identity};
use super::series::Series;
use super::slide::{Ranged, RangedSeries, Slid, Slide};
use super::{duration, workers};
use crate::ast::{Call, Expr, Extend};
use crate::functions::{WindowFunction, counter, extended, over_time, trend};
use crate::signature::Function;
use crate::value::EvalError;

/// The function that computes a range function's values, if `function` is one.
pub(super) fn window_function(function: Function) -> Option<WindowFunction> {
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
            totals_only: self.wanted.only_totals(),
        };
        let weight = workers::READING + grid.count * 4;
        let slid = workers::map(&self.budget, &ranged.series, weight, |scratch, series| {
            slide.series(scratch, series)
        })?;
        let mut out = self.series_of(call, &ranged, slid);
        self.budget.settle(held);
        if call.function == Function::AbsentOverTime {
            out = super::call::absent(&out, arg, grid);
        }
        // Different series of one metric are different without its name, too.
        if !self.delayed() && !same_identity(ranged.series.iter().map(RangedSeries::labels)) {
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
            // Remarks on histograms may name the metric.
            let may_stay = self.wanted.no_identity && points.histograms().is_empty();
            let labels = if drop_name && !self.delayed() && !may_stay {
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
