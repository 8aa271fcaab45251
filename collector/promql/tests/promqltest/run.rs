//! Carries out a script: loads series, evaluates, compares.

use std::sync::Arc;
use std::time::Duration;

use tributary_model::sample::{Sample, Timestamp};
use tributary_promql::eval::{self, Options};
use tributary_promql::feature::Features;
use tributary_promql::parse;
use tributary_promql::source::Memory;
use tributary_promql::value::{Element, MatrixSeries, Outcome, Value, VectorSample};

use super::expectation::Expectation;
use super::load::load;
use super::pinned::pin;
use super::script::{self, Command, Eval, When};

const MINUTE: Duration = Duration::from_secs(60);

/// The number of evaluations that passed, and a line for each that did not.
pub(crate) fn run(text: &str) -> (usize, Vec<String>) {
    let blocks = match script::read(text) {
        Ok(blocks) => blocks,
        Err(e) => return (0, vec![e]),
    };
    let mut source = Memory::default();
    let (mut passed, mut failures) = (0, Vec::new());
    for block in blocks {
        let result = match &block.command {
            Command::Clear => {
                source = Memory::default();
                continue;
            }
            Command::Load { step, series, with_custom } => {
                match load(&mut source, *step, series, *with_custom) {
                    Ok(()) => continue,
                    Err(e) => Err(e),
                }
            }
            Command::Eval(eval) => check(&source, eval),
        };
        match result {
            Ok(()) => passed += 1,
            Err(e) => failures.push(format!("{}: {e}", block.line)),
        }
    }
    (passed, failures)
}

/// A time since the epoch.
pub(crate) fn moment(since_epoch: Duration) -> Timestamp {
    Timestamp::from_millis(0).plus(since_epoch)
}

fn evaluate(source: &Memory, text: &str, when: When) -> Result<Outcome, String> {
    let expr = parse(text).map_err(|e| e.to_string())?;
    let options = Options {
        max_samples: 10_000,
        features: Features::ALL,
        query: Arc::from(text),
        ..Options::default()
    };
    match when {
        When::Instant(at) => eval::instant(&expr, source, moment(at), &options),
        When::Range { start, end, step } => {
            eval::range(&expr, source, moment(start), moment(end), step, &options)
        }
    }
    .map_err(|e| e.to_string())
}

fn check(source: &Memory, eval: &Eval) -> Result<(), String> {
    let expected = Expectation::read(eval)?;
    let when = match (eval.when, expected.range_vector) {
        (When::Instant(_), Some((_, end, _))) => When::Instant(end),
        (when, _) => when,
    };
    let outcome = match (evaluate(source, &eval.expression, when), &expected.fail) {
        (Ok(outcome), None) => outcome,
        (Err(e), Some(text)) if text.matches(&e) => return Ok(()),
        (Err(e), Some(text)) => return Err(format!("error {text:?} expected, got {e}")),
        (Err(e), None) => return Err(format!("{}: {e}", eval.expression)),
        (Ok(_), Some(_)) => return Err(format!("{}: an error expected", eval.expression)),
    };
    let named = |e: String| format!("{}: {e}", eval.expression);
    expected.check_remarks(&outcome).map_err(named)?;
    expected.check_value(&outcome.value, when).map_err(named)?;
    if let When::Instant(at) = eval.when {
        let plain = expected.string.is_none() && expected.range_vector.is_none();
        if plain && !expected.ordered {
            check_pinned(source, eval, &expected, at)?;
        }
    }
    Ok(())
}

/// Evaluates the query with its time fixed, at other times and in ranges around them.
fn check_pinned(
    source: &Memory,
    eval: &Eval,
    expected: &Expectation,
    at: Duration,
) -> Result<(), String> {
    let expr = parse(&eval.expression).map_err(|e| e.to_string())?;
    let Some(text) = pin(&expr, moment(at)) else { return Ok(()) };
    let expr = parse(&text).map_err(|e| format!("{text}: {e}"))?;
    let options = Options { max_samples: 10_000, features: Features::ALL, ..Options::default() };
    let millis = moment(at).as_millis();
    let times = if millis == 0 {
        vec![-1000, 0, 1000]
    } else {
        vec![-10 * millis, 0, millis / 5, millis, 10 * millis]
    };
    for time in times {
        let now = Timestamp::from_millis(time);
        let fail = |e: String| format!("{text} at {time} ms: {e}");
        let outcome =
            eval::instant(&expr, source, now, &options).map_err(|e| fail(e.to_string()))?;
        let value = moved(outcome.value, now, moment(at));
        expected.check_value(&value, When::Instant(at)).map_err(fail)?;

        let fail = |e: String| format!("{text} around {time} ms: {e}");
        let (start, end) = (now.minus(MINUTE), now.plus(MINUTE));
        let outcome = eval::range(&expr, source, start, end, MINUTE, &options)
            .map_err(|e| fail(e.to_string()))?;
        let Value::Matrix(series) = outcome.value else { return Err(fail("no matrix".into())) };
        let value = if expected.scalar.is_some() {
            let value = series[0].samples[1].value;
            Value::Scalar(Sample { at: moment(at), value })
        } else {
            Value::Vector(middle(series, now, moment(at)))
        };
        expected.check_value(&value, When::Instant(at)).map_err(fail)?;
    }
    Ok(())
}

/// A value as if it had been evaluated at another time.
fn moved(value: Value, from: Timestamp, to: Timestamp) -> Value {
    match value {
        Value::Scalar(sample) => {
            assert_eq!(sample.at, from);
            Value::Scalar(Sample { at: to, ..sample })
        }
        Value::Vector(vector) => {
            let moved = vector.into_iter().map(|element| {
                assert_eq!(element.at, from);
                VectorSample { at: to, ..element }
            });
            Value::Vector(moved.collect())
        }
        other => other,
    }
}

/// The values of one step of a matrix.
fn middle(series: Vec<MatrixSeries>, now: Timestamp, at: Timestamp) -> Vec<VectorSample> {
    series
        .into_iter()
        .filter_map(|series| {
            let float = series.samples.iter().find(|sample| sample.at == now);
            let histogram = series.histograms.iter().find(|sample| sample.at == now);
            let value = match (float, histogram) {
                (Some(sample), None) => Element::Float(sample.value),
                (None, Some(sample)) => Element::Histogram(Arc::clone(&sample.histogram)),
                (None, None) => return None,
                (Some(_), Some(_)) => panic!("{} has two values at {now}", series.labels),
            };
            Some(VectorSample { labels: series.labels, at, value })
        })
        .collect()
}
