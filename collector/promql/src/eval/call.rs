//! Function calls: scalars, functions of one value, and the way to all other functions.

use tributary_model::histogram::Histogram;
use tributary_model::label::{Labels, METRIC_NAME};
use tributary_model::matcher::{MatchOp, Matcher};

use super::Evaluator;
use super::grid::Grid;
use super::selector::Take;
use super::series::{Data, Points, Series};
use crate::ast::{Call, Expr};
use crate::functions::elementwise::{self, clamp, round};
use crate::functions::{native, number};
use crate::signature::Function;
use crate::value::{Element, EvalError};

impl Evaluator<'_> {
    pub(super) fn call(&mut self, call: &Call, grid: Grid) -> Result<Data, EvalError> {
        if let Some(scalar) = self.scalar_call(call, grid)? {
            return Ok(Data::Scalar(scalar));
        }
        if let Some(series) = self.range_call(call, grid)? {
            return Ok(Data::Vector(series));
        }
        if let Some(function) = elementwise::function(call.function) {
            return self.each_value(call, function, grid).map(Data::Vector);
        }
        let series = match call.function {
            Function::Vector => {
                let values = self.scalar_arg(call, 0, grid)?;
                vec![unlabelled(values)]
            }
            Function::Clamp | Function::ClampMin | Function::ClampMax => {
                self.clamp_call(call, grid)?
            }
            Function::Round => self.round_call(call, grid)?,
            Function::Timestamp => self.timestamp(call, grid)?,
            Function::StartTimestamp => self.start_timestamp(call, grid)?,
            Function::Absent => {
                let arg = arg(call, 0)?.unparenthesised();
                let present = self.vector(arg, grid)?;
                absent(&present, arg, grid)
            }
            Function::LabelReplace => self.label_replace(call, grid)?,
            Function::LabelJoin => self.label_join(call, grid)?,
            Function::Sort
            | Function::SortDesc
            | Function::SortByLabel
            | Function::SortByLabelDesc => self.sort(call, grid)?,
            Function::HistogramQuantile => self.histogram_quantile(call, grid)?,
            Function::HistogramQuantiles => self.histogram_quantiles(call, grid)?,
            Function::HistogramFraction => self.histogram_fraction(call, grid)?,
            Function::Info => self.info(call, grid)?,
            Function::HistogramCount => self.each_histogram(call, Histogram::count, grid)?,
            Function::HistogramSum => self.each_histogram(call, Histogram::sum, grid)?,
            Function::HistogramAvg => self.each_histogram(call, native::mean, grid)?,
            Function::HistogramStdvar => self.each_histogram(call, native::variance, grid)?,
            Function::HistogramStddev => {
                self.each_histogram(call, |histogram| native::variance(histogram).sqrt(), grid)?
            }
            _ => return Err(EvalError::Unsupported(call.function.name())),
        };
        Ok(Data::Vector(series))
    }

    /// A call of a function that gives a scalar; `None` if it is another function.
    fn scalar_call(&mut self, call: &Call, grid: Grid) -> Result<Option<Vec<f64>>, EvalError> {
        let times = self.times;
        let constant = match call.function {
            Function::Time => {
                return Ok(Some(grid.times().map(|(_, time)| number::seconds(time)).collect()));
            }
            Function::Scalar => {
                let series = self.vector(arg(call, 0)?, grid)?;
                return Ok(Some(only_value(&series, grid)));
            }
            Function::MaxOf | Function::MinOf => {
                let (a, b) = (self.scalar_arg(call, 0, grid)?, self.scalar_arg(call, 1, grid)?);
                let pick = if call.function == Function::MaxOf { number::max } else { number::min };
                return Ok(Some(a.into_iter().zip(b).map(|(a, b)| pick(a, b)).collect()));
            }
            Function::Pi => std::f64::consts::PI,
            Function::Start => times.start.as_secs_f64(),
            Function::End => times.end.as_secs_f64(),
            Function::Range => times.end.since(times.start).as_secs_f64(),
            Function::Step if times.start == times.end => 0.0,
            Function::Step => times.step.unwrap_or_default().as_secs_f64(),
            _ => return Ok(None),
        };
        Ok(Some(vec![constant; grid.count]))
    }

    fn scalar_arg(&mut self, call: &Call, at: usize, grid: Grid) -> Result<Vec<f64>, EvalError> {
        self.scalar(arg(call, at)?, grid)
    }

    /// A function of each value; without an argument, of the time of each step.
    fn each_value(
        &mut self,
        call: &Call,
        function: fn(f64) -> f64,
        grid: Grid,
    ) -> Result<Vec<Series>, EvalError> {
        let Some(arg) = call.args.first() else {
            let values = grid.times().map(|(_, time)| function((time / 1000) as f64));
            return Ok(vec![unlabelled(values.collect())]);
        };
        let series = self.vector(arg, grid)?;
        self.change_values(series, grid, |_, value| Some(function(value)))
    }

    /// A number from each histogram.
    fn each_histogram(
        &mut self,
        call: &Call,
        function: impl Fn(&Histogram) -> f64,
        grid: Grid,
    ) -> Result<Vec<Series>, EvalError> {
        let mut series = self.vector(arg(call, 0)?, grid)?;
        for series in &mut series {
            series.points.map(|_, _| None);
            series.points.map_histograms(|_, histogram| Some(Element::Float(function(histogram))));
            self.drop_name(series);
        }
        self.unite(super::series::without_empty(series), grid)
    }

    /// Series with other numbers, without their histograms; they are no longer the metric they were.
    fn change_values(
        &self,
        mut series: Vec<Series>,
        grid: Grid,
        mut change: impl FnMut(usize, f64) -> Option<f64>,
    ) -> Result<Vec<Series>, EvalError> {
        for series in &mut series {
            series.points.drop_histograms();
            series.points.map(&mut change);
            self.drop_name(series);
        }
        self.unite(super::series::without_empty(series), grid)
    }

    fn clamp_call(&mut self, call: &Call, grid: Grid) -> Result<Vec<Series>, EvalError> {
        let series = self.vector(arg(call, 0)?, grid)?;
        let first = self.scalar_arg(call, 1, grid)?;
        let second = match call.function {
            Function::Clamp => Some(self.scalar_arg(call, 2, grid)?),
            _ => None,
        };
        let lowest = vec![f64::NEG_INFINITY; grid.count];
        let highest = vec![f64::INFINITY; grid.count];
        let (low, high) = match (call.function, second) {
            (Function::ClampMax, _) => (lowest, first),
            (_, Some(second)) => (first, second),
            (_, None) => (first, highest),
        };
        self.change_values(series, grid, |step, value| {
            let (low, high) = (*low.get(step)?, *high.get(step)?);
            // Written so that NaN limits pass.
            let crossed = high < low;
            (!crossed).then(|| clamp(value, low, high))
        })
    }

    fn round_call(&mut self, call: &Call, grid: Grid) -> Result<Vec<Series>, EvalError> {
        let series = self.vector(arg(call, 0)?, grid)?;
        let to = match call.args.get(1) {
            Some(to) => self.scalar(to, grid)?,
            None => vec![1.0; grid.count],
        };
        self.change_values(series, grid, |step, value| Some(round(value, *to.get(step)?)))
    }

    /// `timestamp`: of a selector, the samples' own times; of anything else, the time of the step.
    fn timestamp(&mut self, call: &Call, grid: Grid) -> Result<Vec<Series>, EvalError> {
        let arg = arg(call, 0)?.unparenthesised();
        if let Expr::Vector(selector) = arg
            && selector.extend.is_none()
        {
            let reference = self.reference(&selector.time)?;
            let series = self.latest(selector, reference, grid, Take::Time)?;
            return self.change_values(series, grid, |_, time| Some(time));
        }
        let mut series = self.vector(arg, grid)?;
        for series in &mut series {
            series.points.map_histograms(|_, _| Some(Element::Float(0.0)));
        }
        self.change_values(series, grid, |step, _| Some(number::seconds(grid.time(step))))
    }

    /// `start_timestamp`: since when the samples that a selector finds count; of anything else it is not known.
    fn start_timestamp(&mut self, call: &Call, grid: Grid) -> Result<Vec<Series>, EvalError> {
        let arg = arg(call, 0)?.unparenthesised();
        if let Expr::Vector(selector) = arg
            && selector.extend.is_none()
            && self.options.features.start_timestamps
        {
            let reference = self.reference(&selector.time)?;
            let series = self.latest(selector, reference, grid, Take::Start)?;
            return self.change_values(series, grid, |_, time| Some(time));
        }
        self.vector(arg, grid)?;
        Ok(Vec::new())
    }
}

/// The argument at an index; the checker has counted them.
pub(super) fn arg(call: &Call, at: usize) -> Result<&Expr, EvalError> {
    call.args.get(at).ok_or(EvalError::Unsupported("this number of arguments"))
}

/// A series without labels.
fn unlabelled(values: Vec<f64>) -> Series {
    Series { labels: Labels::empty(), drop_name: false, points: Points::dense(values) }
}

/// The value of the one series that has one, or NaN, at each step.
fn only_value(series: &[Series], grid: Grid) -> Vec<f64> {
    let mut found = vec![0_u8; grid.count];
    let mut values = vec![f64::NAN; grid.count];
    for series in series {
        for (step, value) in series.points.floats() {
            if let (Some(found), Some(slot)) = (found.get_mut(step), values.get_mut(step)) {
                *slot = if *found == 0 { value } else { f64::NAN };
                *found = 1;
            }
        }
    }
    values
}

/// One series with 1 at the steps where no series has a value, labelled by the selector.
pub(super) fn absent(present: &[Series], arg: &Expr, grid: Grid) -> Vec<Series> {
    let mut missing = vec![true; grid.count];
    for series in present {
        for step in series.points.steps() {
            if let Some(missing) = missing.get_mut(step) {
                *missing = false;
            }
        }
    }
    let mut points = Points::default();
    for (step, _) in missing.iter().enumerate().filter(|(_, missing)| **missing) {
        points.push(step, 1.0);
    }
    if points.is_empty() {
        return Vec::new();
    }
    vec![Series { labels: labels_asked_for(arg), drop_name: false, points }]
}

/// The labels that a selector fixes with a single `=` matcher each.
fn labels_asked_for(arg: &Expr) -> Labels {
    let matchers = match arg {
        Expr::Vector(selector) => &selector.matchers,
        Expr::Matrix(matrix) => &matrix.selector.matchers,
        _ => return Labels::empty(),
    };
    let fixed = matchers.iter().filter(|matcher| {
        let same_name = |other: &&Matcher| other.name() == matcher.name();
        matcher.op() == MatchOp::Equal
            && matcher.name() != METRIC_NAME
            && matchers.iter().filter(same_name).count() == 1
    });
    let mut labels = Labels::empty();
    for matcher in fixed {
        labels = labels.with(matcher.name(), matcher.value());
    }
    labels
}
