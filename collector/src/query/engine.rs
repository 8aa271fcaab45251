//! Evaluates a job over a source of series, with matchers that no expression can avoid.

use std::num::NonZero;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use tributary_model::histogram::HistogramSample;
use tributary_model::matcher::Matcher;
use tributary_model::sample::Sample;
use tributary_promql::eval::{self, Options};
use tributary_promql::source::{Select, Series, Source, SourceError};
use tributary_promql::value::{
    self, Element, EvalError, Interrupted, MatrixSeries, Outcome, VectorSample,
};

use super::text::parse;
use super::{Answer, Cost, Expression, Job, Point, QueryError, Row, Value, Watch, When};

/// The step of subqueries that name none.
const DEFAULT_STEP: Duration = Duration::from_secs(60);

/// Threads that one evaluation may use; it starts them only for many series. More would rather take from other queries.
const MAX_THREADS: usize = 4;

/// As many as there are processors, within the bound. Asked once: it takes a look at the control group's files.
static THREADS: LazyLock<usize> =
    LazyLock::new(|| std::thread::available_parallelism().map_or(1, NonZero::get).min(MAX_THREADS));

/// Evaluates; asks `watch` at every node whether to stop.
pub fn evaluate(job: &Job, source: &dyn Source, watch: &Watch) -> Result<Answer, QueryError> {
    let (read, text);
    let expression = match &job.expression {
        Expression::Text(written) => {
            read = parse(written, job.features)?;
            text = written.as_str();
            &read
        }
        Expression::Tree(expression) => {
            text = "";
            expression
        }
    };
    let watch = watch.clone();
    let interrupt = move || match watch.interrupted() {
        None => None,
        Some(QueryError::Canceled) => Some(Interrupted::Canceled),
        Some(_) => Some(Interrupted::Timeout),
    };
    let options = Options {
        lookback: job.lookback,
        max_samples: job.max_samples,
        default_step: DEFAULT_STEP,
        threads: *THREADS,
        interrupt: Some(Arc::new(interrupt)),
        features: job.features,
        query: text.into(),
    };
    let source = Enforced { source, matchers: &job.enforced };
    let outcome = match job.when {
        When::Instant(at) => eval::instant(expression, &source, at, &options),
        When::Range { start, end, step } => {
            eval::range(expression, &source, start, end, step, &options)
        }
    };
    Ok(answer(outcome.map_err(fault)?))
}

/// Adds matchers to whatever an expression selects.
struct Enforced<'a> {
    source: &'a dyn Source,
    matchers: &'a [Matcher],
}

impl Source for Enforced<'_> {
    fn select(&self, request: &Select<'_>) -> Result<Vec<Series>, SourceError> {
        if self.matchers.is_empty() {
            return self.source.select(request);
        }
        let matchers: Vec<Matcher> =
            request.matchers.iter().chain(self.matchers).cloned().collect();
        self.source.select(&Select { matchers: &matchers, ..*request })
    }
}

fn answer(outcome: Outcome) -> Answer {
    let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
    Answer {
        value: own(outcome.value),
        warnings: outcome.warnings,
        infos: outcome.infos,
        cost: Cost {
            samples_read: count(outcome.samples_read),
            samples_peak: count(outcome.peak_samples),
            ..Cost::default()
        },
    }
}

/// The evaluator's value in our own terms.
pub fn own(value: value::Value) -> Value {
    match value {
        value::Value::Scalar(sample) => Value::Scalar(sample),
        value::Value::String { at, text } => Value::Text(at, text),
        value::Value::Vector(vector) => {
            let own = vector.into_iter().map(|VectorSample { labels, at, value }| match value {
                Element::Float(value) => (labels, Point::Number(Sample { at, value })),
                Element::Histogram(histogram) => {
                    (labels, Point::Histogram(HistogramSample { at, histogram }))
                }
            });
            Value::Vector(own.collect())
        }
        value::Value::Matrix(matrix) => {
            let own = matrix.into_iter().map(|MatrixSeries { labels, samples, histograms }| Row {
                labels,
                samples,
                histograms,
            });
            Value::Matrix(own.collect())
        }
    }
}

fn fault(error: EvalError) -> QueryError {
    match error {
        EvalError::Timeout => QueryError::Timeout("expression evaluation"),
        EvalError::Canceled => QueryError::Canceled,
        EvalError::Source(error) => QueryError::Internal(error.to_string()),
        EvalError::NotForRange(_) => QueryError::Parse(error.to_string()),
        EvalError::ZeroStep | EvalError::TooManySteps => QueryError::Refused(error.to_string()),
        other => QueryError::Execution(other.to_string()),
    }
}
