//! What holds for every evaluation: a range query is its instants, limits and interruptions end it, remarks have places.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use proptest::prelude::*;
use tributary_model::histogram::{Buckets, Histogram, HistogramSample, Parts, Schema};
use tributary_model::label::Labels;
use tributary_model::sample::{Sample, Timestamp, stale_nan};
use tributary_promql::eval::{Options, instant, range};
use tributary_promql::feature::Features;
use tributary_promql::parse;
use tributary_promql::source::{Memory, Select, Series, Source, SourceError};
use tributary_promql::value::{Element, EvalError, Interrupted, Outcome, Value};

const STEP: Duration = Duration::from_secs(47);

/// Expressions whose instants must not depend on each other.
const EXPRESSIONS: &[&str] = &[
    "a",
    "a offset 90s",
    "a @ 600 + b",
    "-a",
    "rate(a[3m])",
    "increase(a[3m] offset 1m)",
    "max_over_time((a + b)[4m:30s])",
    "sum_over_time(sum by (x) (a)[3m:1m])",
    "predict_linear(a[5m], 60)",
    "quantile_over_time(scalar(b{x=\"1\"}), a[5m])",
    "absent(b)",
    "absent_over_time(b[1m])",
    "timestamp(a)",
    "clamp(a, 1, scalar(b{x=\"1\"}))",
    "sum by (x) (a)",
    "avg(a)",
    "stddev without (x) (a)",
    "quantile(0.3, a)",
    "count_values(\"v\", b)",
    "topk(2, a)",
    "bottomk by (x) (1, a)",
    "a > b",
    "a >= bool 2",
    "2 < a",
    "a / on(x, y) b",
    "a * on(x) group_left() max by (x) (b)",
    "a and b",
    "a or b",
    "a unless on(x) b",
    "a + on(x, y) fill(1) b",
    "label_replace(a, \"z\", \"$1\", \"x\", \"(.*)\")",
    "minute(a) + hour()",
    "vector(time())",
    "scalar(b{x=\"1\"}) + 1",
    "time() % 2 == bool 1",
    "h",
    "-h",
    "h * 2 - h offset 1m",
    "h >/ 1",
    "rate(h[3m])",
    "irate(h[3m])",
    "delta(h[3m] offset 1m)",
    "increase(h[4m:30s])",
    "resets(h[10m])",
    "sum_over_time(h[3m])",
    "avg_over_time(h[3m])",
    "last_over_time(h[2m])",
    "sum(h)",
    "avg by (y) (h)",
    "count(h or a)",
    "sum({x=\"1\"})",
    "limitk(1, h)",
    "count_values(\"v\", h)",
    "histogram_quantile(0.4, h)",
    "histogram_fraction(0, 2, rate(h[4m]))",
    "histogram_count(h) + histogram_avg(increase(h[4m]))",
    "histogram_stddev(h)",
    "a + on(x, y) group_left h",
    "h == h offset 5m30s",
    "timestamp(h)",
    "absent(h)",
];

fn millis(value: i64) -> Timestamp {
    Timestamp::from_millis(value)
}

fn labels(name: &str, x: usize, y: usize) -> Labels {
    let pairs = [("__name__", name.to_owned()), ("x", x.to_string()), ("y", y.to_string())];
    Labels::from_pairs(pairs).unwrap()
}

fn options() -> Options {
    Options { features: Features::ALL, ..Options::default() }
}

/// Values per series: gaps, staleness markers, NaN and small numbers.
fn values() -> impl Strategy<Value = Vec<Option<f64>>> {
    let value = prop_oneof![
        2 => Just(None),
        1 => Just(Some(stale_nan())),
        1 => Just(Some(f64::NAN)),
        12 => (0_u8..5).prop_map(|v| Some(f64::from(v))),
    ];
    prop::collection::vec(value, 30)
}

fn source(series: &[Vec<Option<f64>>]) -> Memory {
    let mut memory = Memory::default();
    for (i, values) in series.iter().enumerate() {
        let name = if i % 2 == 0 { "a" } else { "b" };
        let samples = values.iter().enumerate().filter_map(|(k, value)| {
            let at = i64::try_from(k * 30_000 + i * 1_000).unwrap();
            Some(Sample::new(at, (*value)?))
        });
        memory.add(&labels(name, i / 4, i / 2 % 2), samples.collect::<Vec<_>>());
    }
    for x in 0..2 {
        let histograms = (0..30_u8).filter(|k| k % 7 != 3).map(|k| {
            let at = Timestamp::from_millis(i64::from(k) * 30_000);
            HistogramSample { at, histogram: Arc::new(histogram(k % 11, x)) }
        });
        memory.add_histograms(&labels("h", x, 0), histograms);
    }
    memory
}

/// A histogram that grows with `k`, with other buckets for each `x`.
fn histogram(k: u8, x: usize) -> Histogram {
    let k = f64::from(k);
    let schema = Schema::Exponential(i8::try_from(x).unwrap());
    let positive: Buckets = [(0, k), (1, 2.0 * k), (3, 1.0)].into_iter().collect();
    let (count, sum) = (3.0 * k + 2.0, 5.0 * k);
    let (zero_threshold, zero_count) = (0.25, 1.0);
    let parts =
        Parts { schema, zero_threshold, zero_count, count, sum, positive, ..Parts::default() };
    Histogram::observed(parts).unwrap()
}

/// The samples at one time, by labels, as text.
fn at(
    outcome: Result<Outcome, EvalError>,
    time: Timestamp,
) -> Result<Vec<(Labels, String)>, String> {
    let element = |element: &Element| match element {
        Element::Float(value) => format!("{value:?}"),
        Element::Histogram(histogram) => format!("{histogram} {:?}", histogram.hint()),
    };
    let mut found: Vec<(Labels, String)> = match outcome.map_err(|e| e.to_string())?.value {
        Value::Scalar(sample) => vec![(Labels::empty(), format!("{:?}", sample.value))],
        Value::Vector(vector) => {
            vector.into_iter().map(|v| (v.labels, element(&v.value))).collect()
        }
        Value::Matrix(series) => series
            .into_iter()
            .filter_map(|series| {
                let sample = series.samples.iter().find(|sample| sample.at == time);
                let number = sample.map(|sample| Element::Float(sample.value));
                let histogram = series.histograms.iter().find(|sample| sample.at == time);
                let histogram = histogram.map(|h| Element::Histogram(Arc::clone(&h.histogram)));
                assert!(number.is_none() || histogram.is_none(), "{}", series.labels);
                Some((series.labels, element(&number.or(histogram)?)))
            })
            .collect(),
        Value::String { .. } => panic!("a string"),
    };
    found.sort();
    Ok(found)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_range_query_is_its_instants(series in prop::collection::vec(values(), 8)) {
        let memory = source(&series);
        let (start, end) = (millis(60_000), millis(840_000));
        for text in EXPRESSIONS {
            let expr = parse(text).unwrap();
            let whole = || range(&expr, &memory, start, end, STEP, &options());
            let mut time = start;
            while time <= end {
                let single = at(instant(&expr, &memory, time, &options()), time);
                let part = at(whole(), time);
                match (single, part) {
                    (Ok(single), Ok(part)) => prop_assert_eq!(single, part, "{} at {}", text, time),
                    // An error at any step is an error of the whole.
                    (_, Err(_)) => {}
                    (Err(e), Ok(_)) => prop_assert!(false, "{}: only the instant fails: {}", text, e),
                }
                time = time.plus(STEP * 4);
            }
        }
    }
}

fn some_data() -> Memory {
    source(&vec![vec![Some(1.0); 30]; 8])
}

#[test]
fn too_many_samples_are_refused() {
    let memory = some_data();
    let few = Options { max_samples: 20, ..options() };
    for text in ["a", "rate(a[10m])", "a + b", "sum(a)", "count_values(\"v\", a)"] {
        let expr = parse(text).unwrap();
        let outcome = range(&expr, &memory, millis(0), millis(800_000), STEP, &few);
        assert!(matches!(outcome, Err(EvalError::TooManySamples)), "{text}: {outcome:?}");
        let enough = range(&expr, &memory, millis(0), millis(800_000), STEP, &options()).unwrap();
        assert!(enough.peak_samples > 20, "{text}");
        assert!(enough.samples_read > 20, "{text}");
    }
}

#[test]
fn too_many_steps_are_refused() {
    let memory = some_data();
    let expr = parse("a").unwrap();
    let step = Duration::from_millis(1);
    let outcome = range(&expr, &memory, Timestamp::MIN, Timestamp::MAX, step, &options());
    assert!(matches!(outcome, Err(EvalError::TooManySteps)));
    let outcome = range(&expr, &memory, millis(0), millis(1), Duration::ZERO, &options());
    assert!(matches!(outcome, Err(EvalError::ZeroStep)));
    let expr = parse("a[5m]").unwrap();
    let outcome = range(&expr, &memory, millis(0), millis(1), step, &options());
    assert!(
        outcome.unwrap_err().to_string().starts_with("invalid expression type \"range vector\"")
    );
}

#[test]
fn an_interruption_ends_the_evaluation_at_any_point() {
    let memory = some_data();
    let expr = parse("sum(rate(a[5m])) / on() topk(1, max_over_time(b[3m:1m]))").unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let run = |stop_at: usize, why: Interrupted| {
        asked.store(0, Ordering::Relaxed);
        let asked = Arc::clone(&asked);
        let interrupt = move || (asked.fetch_add(1, Ordering::Relaxed) == stop_at).then_some(why);
        let options = Options { interrupt: Some(Arc::new(interrupt)), ..options() };
        instant(&expr, &memory, millis(600_000), &options)
    };
    assert!(run(usize::MAX, Interrupted::Timeout).is_ok());
    let times = asked.load(Ordering::Relaxed);
    // At least once per node and once per series.
    assert!(times > 20, "{times}");
    for stop_at in 0..times {
        let text = run(stop_at, Interrupted::Timeout).unwrap_err().to_string();
        assert_eq!(text, "query timed out in expression evaluation");
        let text = run(stop_at, Interrupted::Canceled).unwrap_err().to_string();
        assert_eq!(text, "query was canceled in expression evaluation");
    }
}

struct Broken;

impl Source for Broken {
    fn select(&self, _: &Select<'_>) -> Result<Vec<Series>, SourceError> {
        Err(SourceError::new("the disk is gone"))
    }
}

#[test]
fn a_broken_source_is_an_error() {
    let expr = parse("sum(a)").unwrap();
    let error = instant(&expr, &Broken, millis(0), &options()).unwrap_err();
    assert_eq!(error.to_string(), "expanding series: the disk is gone");
}

#[test]
fn each_selector_is_read_once() {
    let memory = some_data();
    let expr = parse("rate(a[5m])").unwrap();
    let outcome = range(&expr, &memory, millis(300_000), millis(800_000), STEP, &options());
    // 4 series with 30 samples each at most, whatever the number of overlapping windows.
    assert!(outcome.unwrap().samples_read <= 120);
    let expr = parse("rate(a[5m] @ 600)").unwrap();
    let outcome = range(&expr, &memory, millis(0), millis(800_000), STEP, &options());
    assert_eq!(outcome.unwrap().samples_read, 4 * 10);
}

#[test]
fn extreme_times_do_no_harm() {
    let memory = some_data();
    for text in EXPRESSIONS {
        let expr = parse(text).unwrap();
        for time in [Timestamp::MIN, Timestamp::MAX, millis(-1), millis(0)] {
            let _ = instant(&expr, &memory, time, &options());
        }
    }
}

#[test]
fn names_that_nothing_looks_at_still_tell_series_apart() {
    let mut source = Memory::default();
    let samples = |rise: f64| (0..11).map(move |i| Sample::new(i * 60_000, rise * i as f64));
    for (name, pod, rise) in
        [("asked_total", "a", 60.0), ("asked_total", "b", 120.0), ("answered_total", "a", 60.0)]
    {
        let labels = Labels::from_pairs([("__name__", name), ("pod", pod)]).unwrap();
        source.add(&labels, samples(rise));
    }
    let at = Timestamp::from_millis(600_000);
    let ask = |text: &str| instant(&parse(text).unwrap(), &source, at, &Options::default());
    let one = ask("sum by (pod, __name__) (rate(asked_total[5m]))").unwrap();
    let Value::Vector(found) = one.value else { panic!("{:?}", one.value) };
    let found: Vec<String> = found.iter().map(|sample| sample.labels.to_string()).collect();
    assert_eq!(found, [r#"{pod="a"}"#, r#"{pod="b"}"#]);
    for both in [
        "rate({pod=~\".+\"}[5m])",
        "count by (pod) (rate({pod=~\".+\"}[5m]))",
        "count(max_over_time(rate({pod=~\".+\"}[5m])[5m:1m]))",
    ] {
        assert!(matches!(ask(both), Err(EvalError::SameLabels)), "{both}");
    }
    assert!(ask("count by (pod) (rate({pod=~\"b\"}[5m]))").is_ok());
    assert!(ask("count by (pod) (last_over_time({pod=~\".+\"}[5m]))").is_ok());
}
