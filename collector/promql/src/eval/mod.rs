//! The evaluator: one pass over the tree, each node for all steps at once.
//!
//! An instant query is a range query of one step. What does not depend on the step is evaluated once.

mod aggregate;
mod annotation;
mod binary;
mod budget;
mod call;
mod count_values;
mod duration;
mod grid;
mod histogram;
mod info;
mod invariant;
mod labels;
mod loaded;
mod matching;
mod range_call;
mod rank;
mod sampling;
mod selector;
mod series;
mod set;
mod slide;
mod sort;
mod states;
mod stretches;
mod subquery;
mod wanted;
mod workers;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tributary_model::histogram::{Histogram, HistogramSample};
use tributary_model::sample::{Sample, Timestamp};

pub use self::grid::MAX_STEPS;

use self::annotation::Annotations;
use self::budget::Budget;
use self::grid::{Grid, Reference};
use self::series::{Data, Series};
use crate::ast::{At, Expr, TimeShift, Unary, ValueType};
use crate::feature::Features;
use crate::source::Source;
use crate::value::{Element, EvalError, Interrupted, MatrixSeries, Outcome, Value, VectorSample};

/// How an evaluation behaves and how far it may go.
#[derive(Clone)]
pub struct Options {
    /// How old a sample may be to stand for the current value.
    pub lookback: Duration,
    /// The most samples in memory at one time; more is [`EvalError::TooManySamples`].
    pub max_samples: usize,
    /// The step of subqueries that name none.
    pub default_step: Duration,
    /// How many threads may evaluate at once. They are started where an expression has many series.
    pub threads: usize,
    /// Asked at every node and every series whether to go on.
    pub interrupt: Option<Arc<dyn Fn() -> Option<Interrupted> + Send + Sync>>,
    /// Here only whether names are dropped at the end; whether syntax is enabled is [`crate::feature::check`]'s concern.
    pub features: Features,
    /// The text the expression was parsed from: positions in warnings count in it. Empty: warnings have no positions.
    pub query: Arc<str>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            lookback: Duration::from_secs(300),
            max_samples: 50_000_000,
            default_step: Duration::from_secs(60),
            threads: 1,
            interrupt: None,
            features: Features::default(),
            query: Arc::from(""),
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("lookback", &self.lookback)
            .field("max_samples", &self.max_samples)
            .field("default_step", &self.default_step)
            .field("threads", &self.threads)
            .field("features", &self.features)
            .finish_non_exhaustive()
    }
}

/// Evaluates an expression at one time.
pub fn instant(
    expr: &Expr,
    source: &dyn Source,
    at: Timestamp,
    options: &Options,
) -> Result<Outcome, EvalError> {
    let mut evaluator = Evaluator::new(source, options, Times { start: at, end: at, step: None });
    let value = evaluator.instant_value(expr)?;
    Ok(evaluator.outcome(value))
}

/// Evaluates an expression of a scalar or an instant vector at the times from `start`, by `step`, up to `end`.
pub fn range(
    expr: &Expr,
    source: &dyn Source,
    start: Timestamp,
    end: Timestamp,
    step: Duration,
    options: &Options,
) -> Result<Outcome, EvalError> {
    if !matches!(expr.value_type(), ValueType::Scalar | ValueType::Vector) {
        return Err(EvalError::NotForRange(expr.value_type()));
    }
    let millis = i64::try_from(step.as_millis()).map_err(|_| EvalError::TooManySteps)?;
    if millis == 0 {
        return Err(EvalError::ZeroStep);
    }
    let grid = Grid::new(start.as_millis(), end.as_millis(), millis)?;
    let mut evaluator = Evaluator::new(source, options, Times { start, end, step: Some(step) });
    let series = match evaluator.eval(expr, grid)? {
        Data::Scalar(values) => vec![Series {
            labels: tributary_model::label::Labels::empty(),
            drop_name: false,
            points: series::Points::dense(values),
        }],
        Data::Vector(series) => evaluator.drop_names(series)?,
        Data::Text(_) => return Err(EvalError::NotForRange(ValueType::String)),
    };
    Ok(evaluator.outcome(Value::Matrix(matrix(series, grid))))
}

/// The public form of series, sorted by labels.
fn matrix(series: Vec<Series>, grid: Grid) -> Vec<MatrixSeries> {
    let with_times = series.into_iter().map(|series| MatrixSeries {
        samples: series.points.floats().map(|(i, v)| Sample::new(grid.time(i), v)).collect(),
        histograms: series
            .points
            .histograms()
            .iter()
            .map(|(i, histogram)| HistogramSample {
                at: Timestamp::from_millis(grid.time(*i)),
                histogram: Arc::clone(histogram),
            })
            .collect(),
        labels: series.labels,
    });
    matrix_from_samples(with_times.collect())
}

/// Leaves out series without samples and sorts the others by labels.
fn matrix_from_samples(mut series: Vec<MatrixSeries>) -> Vec<MatrixSeries> {
    series.retain(|series| !(series.samples.is_empty() && series.histograms.is_empty()));
    series.sort_by(|a, b| a.labels.cmp(&b.labels));
    series
}

/// The times of the whole query, which `@ start()`, `end()`, `step()` and `range()` name.
#[derive(Debug, Clone, Copy)]
struct Times {
    start: Timestamp,
    end: Timestamp,
    /// Absent in an instant query.
    step: Option<Duration>,
}

/// One evaluation.
struct Evaluator<'a> {
    source: &'a dyn Source,
    options: &'a Options,
    times: Times,
    annotations: Annotations,
    budget: Budget<'a>,
    wanted: wanted::Wanted,
}

impl<'a> Evaluator<'a> {
    fn new(source: &'a dyn Source, options: &'a Options, times: Times) -> Self {
        let annotations = Annotations::default();
        Self {
            source,
            options,
            times,
            annotations,
            budget: Budget::new(options),
            wanted: wanted::Wanted::default(),
        }
    }

    fn outcome(self, value: Value) -> Outcome {
        let (warnings, infos) = self.annotations.render(&self.options.query);
        let (samples_read, peak_samples) = (self.budget.read(), self.budget.peak());
        Outcome { value, warnings, infos, samples_read, peak_samples }
    }

    fn instant_value(&mut self, expr: &Expr) -> Result<Value, EvalError> {
        let at = self.times.start;
        let grid = Grid::instant(at.as_millis());
        let expr = expr.unparenthesised();
        match expr {
            Expr::Matrix(selector) => return Ok(Value::Matrix(self.raw_matrix(selector, grid)?)),
            Expr::Subquery(subquery) => {
                let (series, steps) = self.subquery(subquery, grid)?;
                return Ok(Value::Matrix(matrix(self.drop_names(series)?, steps)));
            }
            _ => {}
        }
        Ok(match self.eval(expr, grid)? {
            Data::Scalar(values) => {
                let value = values.first().copied().unwrap_or(f64::NAN);
                Value::Scalar(Sample { at, value })
            }
            Data::Text(text) => Value::String { at, text },
            Data::Vector(series) => {
                let series = self.drop_names(series)?;
                let with_value = series.into_iter().filter_map(|series| {
                    let value = series.points.element(0)?;
                    Some(VectorSample { labels: series.labels, at, value })
                });
                Value::Vector(with_value.collect())
            }
        })
    }

    /// Evaluates a node for all steps.
    fn eval(&mut self, expr: &Expr, grid: Grid) -> Result<Data, EvalError> {
        self.check()?;
        let held = self.budget.held();
        let data = if grid.count > 1 && invariant::is_step_invariant(expr) {
            let once = self.node(expr, grid.first())?;
            repeat(once, grid.count)
        } else {
            self.node(expr, grid)?
        };
        // What the node was made from is gone; what it gave stays until its own parent is done.
        self.budget.settle(held);
        self.hold(data.samples())?;
        Ok(data)
    }

    fn node(&mut self, expr: &Expr, grid: Grid) -> Result<Data, EvalError> {
        let outer = self.wanted;
        self.wanted = outer.below(expr);
        let data = self.node_of_kind(expr, grid);
        self.wanted = outer;
        data
    }

    fn node_of_kind(&mut self, expr: &Expr, grid: Grid) -> Result<Data, EvalError> {
        match expr {
            Expr::Number(number) => Ok(Data::Scalar(vec![number.value; grid.count])),
            Expr::String(text) => Ok(Data::Text(text.text.clone())),
            Expr::Vector(selector) => Ok(Data::Vector(self.vector_selector(selector, grid)?)),
            Expr::Paren(paren) => self.node(&paren.expr, grid),
            Expr::Unary(unary) => self.unary(unary, grid),
            Expr::Binary(binary) => self.binary(binary, grid),
            Expr::Aggregate(aggregate) => Ok(Data::Vector(self.aggregate(aggregate, grid)?)),
            Expr::Call(call) => self.call(call, grid),
            // The checker lets range vectors stand only as arguments and at the top, where they are handled.
            Expr::Matrix(_) | Expr::Subquery(_) => {
                Err(EvalError::Unsupported("a range vector in this place"))
            }
        }
    }

    fn unary(&mut self, unary: &Unary, grid: Grid) -> Result<Data, EvalError> {
        let data = self.eval(&unary.expr, grid)?;
        if !unary.negative {
            return Ok(data);
        }
        match data {
            Data::Scalar(values) => Ok(Data::Scalar(values.into_iter().map(|v| -v).collect())),
            Data::Vector(mut series) => {
                for series in &mut series {
                    series.points.map(|_, value| Some(-value));
                    series.points.map_histograms(|_, histogram| {
                        Some(Element::from(Histogram::clone(histogram).times(-1.0)))
                    });
                    self.drop_name(series);
                }
                Ok(Data::Vector(if self.delayed() { series } else { labels::merge(series)? }))
            }
            text @ Data::Text(_) => Ok(text),
        }
    }

    /// An expression whose type is scalar: one number per step.
    fn scalar(&mut self, expr: &Expr, grid: Grid) -> Result<Vec<f64>, EvalError> {
        match self.eval(expr, grid)? {
            Data::Scalar(values) => Ok(values),
            _ => Err(EvalError::Unsupported("a vector where a scalar is due")),
        }
    }

    /// An expression whose type is instant vector.
    fn vector(&mut self, expr: &Expr, grid: Grid) -> Result<Vec<Series>, EvalError> {
        match self.eval(expr, grid)? {
            Data::Vector(series) => Ok(series),
            _ => Err(EvalError::Unsupported("a scalar where a vector is due")),
        }
    }

    /// The time that a selector or subquery looks at.
    fn reference(&self, time: &TimeShift) -> Result<Reference, EvalError> {
        let at = time.at.map(|at| match at {
            At::Time(at) => at,
            At::Start => self.times.start,
            At::End => self.times.end,
        });
        let offset = match &time.offset {
            Some(offset) => duration::offset(offset, self.durations())?,
            None => 0,
        };
        Ok(Reference { at: at.map(Timestamp::as_millis), offset })
    }

    fn durations(&self) -> duration::Context {
        duration::Context {
            step: self.times.step.unwrap_or_default(),
            range: self.times.end.since(self.times.start),
        }
    }

    fn lookback(&self) -> i64 {
        i64::try_from(self.options.lookback.as_millis()).unwrap_or(i64::MAX)
    }

    /// Whether metric names are dropped only at the end.
    fn delayed(&self) -> bool {
        self.options.features.delayed_name_removal
    }

    /// Asks whether to go on.
    fn check(&self) -> Result<(), EvalError> {
        self.budget.check()
    }

    /// Counts samples that are now in memory.
    fn hold(&self, samples: usize) -> Result<(), EvalError> {
        self.budget.hold(samples)
    }
}

/// The value of one step for many.
fn repeat(data: Data, steps: usize) -> Data {
    match data {
        Data::Scalar(values) => {
            Data::Scalar(vec![values.first().copied().unwrap_or(f64::NAN); steps])
        }
        Data::Vector(mut series) => {
            for series in &mut series {
                series.points.repeat(steps);
            }
            Data::Vector(series)
        }
        text @ Data::Text(_) => text,
    }
}
