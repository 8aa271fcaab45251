//! What the lines below an evaluation expect, and whether an outcome meets it.

use std::time::Duration;

use tributary_model::histogram::notation::Native;
use tributary_model::histogram::{Buckets, Histogram, HistogramSample};
use tributary_model::label::Labels;
use tributary_model::number::parse_float;
use tributary_model::quote::unquote;
use tributary_model::regex::Regex;
use tributary_model::sample::{Sample, Timestamp, is_stale};
use tributary_promql::value::{Element, MatrixSeries, Outcome, Value, VectorSample};

use super::script::{Eval, When, Words, time};
use super::series::{self, Item};

/// Everything expected of one evaluation.
#[derive(Debug, Default)]
pub(crate) struct Expectation {
    pub(crate) fail: Option<Text>,
    pub(crate) ordered: bool,
    pub(crate) warn: Vec<Text>,
    pub(crate) info: Vec<Text>,
    pub(crate) no_warn: bool,
    pub(crate) no_info: bool,
    pub(crate) string: Option<String>,
    pub(crate) scalar: Option<f64>,
    /// Start, end and step of an expected range vector.
    pub(crate) range_vector: Option<(Duration, Duration, Duration)>,
    pub(crate) series: Vec<(Labels, Vec<Item>)>,
}

/// What a message must be.
#[derive(Debug)]
pub(crate) enum Text {
    Any,
    Exact(String),
    Pattern(Regex),
}

impl Text {
    fn read(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if let Some(exact) = text.strip_prefix("msg:") {
            Ok(Self::Exact(exact.trim().to_owned()))
        } else if let Some(pattern) = text.strip_prefix("regex:") {
            search(pattern.trim()).map(Self::Pattern)
        } else if text.is_empty() {
            Ok(Self::Any)
        } else {
            Err(format!("neither msg: nor regex:: {text}"))
        }
    }

    pub(crate) fn matches(&self, message: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(exact) => message == exact,
            Self::Pattern(pattern) => pattern.is_match(message),
        }
    }
}

impl Expectation {
    pub(crate) fn read(eval: &Eval) -> Result<Self, String> {
        let mut out = Self::default();
        match eval.suffix.as_deref() {
            None => {}
            Some("fail") => out.fail = Some(Text::Any),
            Some("ordered") => out.ordered = true,
            Some("warn") => out.warn.push(Text::Any),
            Some("info") => out.info.push(Text::Any),
            Some(other) => return Err(format!("unknown suffix {other}")),
        }
        for line in &eval.lines {
            if let Some(rest) = line.strip_prefix("expect ") {
                out.expect(rest)?;
            } else if let Some(text) = line.strip_prefix("expected_fail_message") {
                out.fail = Some(Text::Exact(text.trim().to_owned()));
            } else if let Some(text) = line.strip_prefix("expected_fail_regexp") {
                out.fail = Some(Text::Pattern(search(text.trim())?));
            } else if let Some(number) = parse_float(line) {
                out.scalar = Some(number);
            } else {
                let (labels, values) = series::split(line)?;
                out.series.push((labels, series::items(values)?));
            }
        }
        Ok(out)
    }

    fn expect(&mut self, text: &str) -> Result<(), String> {
        let mut words = Words(text);
        match words.next() {
            "fail" => self.fail = Some(Text::read(words.0)?),
            "ordered" => self.ordered = true,
            "warn" => self.warn.push(Text::read(words.0)?),
            "info" => self.info.push(Text::read(words.0)?),
            "no_warn" => self.no_warn = true,
            "no_info" => self.no_info = true,
            "string" => self.string = Some(unquote(words.0.trim()).map_err(|e| e.to_string())?),
            "range" => {
                words.expect("vector")?;
                words.expect("from")?;
                let start = time(words.next())?;
                words.expect("to")?;
                let end = time(words.next())?;
                words.expect("step")?;
                self.range_vector = Some((start, end, time(words.next())?));
            }
            other => return Err(format!("unknown expectation {other}")),
        }
        Ok(())
    }

    /// Why the remarks of an outcome are not the expected ones.
    pub(crate) fn check_remarks(&self, outcome: &Outcome) -> Result<(), String> {
        let kinds = [
            ("warning", &self.warn, self.no_warn, &outcome.warnings),
            ("info", &self.info, self.no_info, &outcome.infos),
        ];
        for (kind, wanted, none, got) in kinds {
            if none && !got.is_empty() {
                return Err(format!("no {kind} expected, got {got:?}"));
            }
            if let Some(missing) = wanted.iter().find(|w| !got.iter().any(|g| w.matches(g))) {
                return Err(format!("{kind} {missing:?} expected, got {got:?}"));
            }
            let unexpected = got.iter().find(|g| !wanted.iter().any(|w| w.matches(g)));
            if let (false, Some(unexpected)) = (wanted.is_empty(), unexpected) {
                return Err(format!("unexpected {kind} {unexpected}"));
            }
        }
        Ok(())
    }

    /// Why a value is not the expected one.
    pub(crate) fn check_value(&self, value: &Value, when: When) -> Result<(), String> {
        match value {
            Value::String { text, .. } => match &self.string {
                Some(wanted) if wanted == text => Ok(()),
                wanted => Err(format!("string {wanted:?} expected, got {text:?}")),
            },
            Value::Scalar(sample) => match self.scalar {
                Some(wanted) if nearly_equal(wanted, sample.value) => Ok(()),
                wanted => Err(format!("scalar {wanted:?} expected, got {}", sample.value)),
            },
            Value::Vector(vector) => {
                let got: Vec<MatrixSeries> = vector.iter().map(of_one).collect();
                let When::Instant(at) = when else {
                    return Err("a vector from a range query".to_owned());
                };
                self.check_series(&got, at, Duration::from_secs(1), self.ordered)
            }
            Value::Matrix(got) => {
                let ((When::Range { start, step, .. }, _) | (_, Some((start, _, step)))) =
                    (when, self.range_vector)
                else {
                    return Err("a range vector from an instant query".to_owned());
                };
                if !got.is_sorted_by(|a, b| a.labels < b.labels) {
                    return Err("the series are not sorted".to_owned());
                }
                self.check_series(got, start, step, false)
            }
        }
    }

    fn check_series(
        &self,
        got: &[MatrixSeries],
        start: Duration,
        step: Duration,
        ordered: bool,
    ) -> Result<(), String> {
        if self.scalar.is_some() || self.string.is_some() {
            return Err(format!("not a vector expected, got {got:?}"));
        }
        for (place, (labels, items)) in self.series.iter().enumerate() {
            let found = got.iter().position(|series| series.labels == *labels);
            let Some(found) = found else {
                return Err(format!("{labels} is missing, got {}", shown(got)));
            };
            if ordered && found != place {
                return Err(format!("{labels} is at position {found}, not {place}"));
            }
            check_values(&got[found], items, start, step)?;
        }
        match got.iter().find(|series| !self.series.iter().any(|(l, _)| *l == series.labels)) {
            Some(unexpected) => Err(format!("unexpected {}", unexpected.labels)),
            None => Ok(()),
        }
    }
}

/// An element of a vector as a series with one value.
fn of_one(element: &VectorSample) -> MatrixSeries {
    let (mut samples, mut histograms) = (Vec::new(), Vec::new());
    match &element.value {
        Element::Float(value) => samples.push(Sample { at: element.at, value: *value }),
        Element::Histogram(histogram) => histograms
            .push(HistogramSample { at: element.at, histogram: std::sync::Arc::clone(histogram) }),
    }
    MatrixSeries { labels: element.labels.clone(), samples, histograms }
}

/// Why the values of a series are not those expected at each step.
fn check_values(
    got: &MatrixSeries,
    items: &[Item],
    start: Duration,
    step: Duration,
) -> Result<(), String> {
    let (mut samples, mut histograms) = (got.samples.iter(), got.histograms.iter());
    let labels = &got.labels;
    for (i, item) in items.iter().enumerate() {
        let at = start + step * u32::try_from(i).unwrap();
        let at = Timestamp::from_millis(i64::try_from(at.as_millis()).unwrap());
        match item {
            Item::Gap => {}
            Item::Float(value) => {
                let got = samples.next();
                if got.is_none_or(|got| got.at != at || !nearly_equal(*value, got.value)) {
                    return Err(format!("{labels}: {value} at {at} expected, got {got:?}"));
                }
            }
            Item::Histogram(native) => {
                let got = histograms.next();
                if got.is_none_or(|got| got.at != at || !native_equal(native, &got.histogram)) {
                    let got = got.map(|got| {
                        format!("{} {} {:?}", got.at, got.histogram, got.histogram.hint())
                    });
                    let (wanted, hint) = (&native.histogram, native.histogram.hint());
                    return Err(format!(
                        "{labels}: {wanted} {hint:?} at {at} expected, got {got:?}"
                    ));
                }
            }
        }
    }
    match (samples.next(), histograms.next()) {
        (None, None) => Ok(()),
        more => Err(format!("{labels}: {more:?} is too much")),
    }
}

/// Whether two histograms are equal up to a millionth, empty buckets aside.
fn native_equal(wanted: &Native, got: &Histogram) -> bool {
    let got = got.clone().compacted();
    let hint = wanted.histogram.hint();
    let wanted_histogram = Histogram::clone(&wanted.histogram).compacted();
    let counts = |a: &Buckets, b: &Buckets| {
        a.spans() == b.spans()
            && a.counts().iter().zip(b.counts()).all(|(a, b)| nearly_equal(*a, *b))
    };
    wanted_histogram.schema() == got.schema()
        && nearly_equal(wanted_histogram.count(), got.count())
        && nearly_equal(wanted_histogram.sum(), got.sum())
        && wanted_histogram.zero_threshold() == got.zero_threshold()
        && nearly_equal(wanted_histogram.zero_count(), got.zero_count())
        && counts(wanted_histogram.positive(), got.positive())
        && counts(wanted_histogram.negative(), got.negative())
        && (!wanted.hint_given || hint == got.hint())
}

/// An expression that is looked for anywhere in a message.
fn search(pattern: &str) -> Result<Regex, String> {
    Regex::new(&format!(".*(?:{pattern}).*")).map_err(|e| e.to_string())
}

fn shown(series: &[MatrixSeries]) -> String {
    let labels: Vec<String> = series.iter().map(|series| series.labels.to_string()).collect();
    format!("[{}]", labels.join("; "))
}

/// Equal up to a millionth of the sum; a staleness marker equals only itself, NaN equals NaN.
fn nearly_equal(a: f64, b: f64) -> bool {
    if is_stale(a) || is_stale(b) {
        return is_stale(a) && is_stale(b);
    }
    if (a.is_nan() && b.is_nan()) || a == b {
        return true;
    }
    let (sum, difference) = (a.abs() + b.abs(), (a - b).abs());
    if a == 0.0 || b == 0.0 || sum < f64::MIN_POSITIVE {
        return difference < 1e-6 * f64::MIN_POSITIVE;
    }
    difference / sum.min(f64::MAX) < 1e-6
}
