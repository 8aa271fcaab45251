//! What the lines below an evaluation expect, and whether an outcome meets it.

use std::time::Duration;

use tributary_model::label::Labels;
use tributary_model::number::parse_float;
use tributary_model::quote::unquote;
use tributary_model::regex::Regex;
use tributary_model::sample::{Sample, is_stale};
use tributary_promql::value::{MatrixSeries, Outcome, Value};

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
                let got: Vec<MatrixSeries> = vector
                    .iter()
                    .map(|v| MatrixSeries { labels: v.labels.clone(), samples: vec![v.sample] })
                    .collect();
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
            let samples = &got[found].samples;
            let mut wanted = Vec::new();
            for (i, item) in items.iter().enumerate() {
                let at = start + step * u32::try_from(i).unwrap();
                match item {
                    Item::Gap => {}
                    Item::Float(value) => {
                        wanted.push(Sample::new(i64::try_from(at.as_millis()).unwrap(), *value));
                    }
                    Item::Histogram => return Err(format!("{labels}: a histogram is expected")),
                }
            }
            let same = wanted.len() == samples.len()
                && wanted
                    .iter()
                    .zip(samples)
                    .all(|(w, g)| w.at == g.at && nearly_equal(w.value, g.value));
            if !same {
                return Err(format!("{labels}: {wanted:?} expected, got {samples:?}"));
            }
        }
        match got.iter().find(|series| !self.series.iter().any(|(l, _)| *l == series.labels)) {
            Some(unexpected) => Err(format!("unexpected {}", unexpected.labels)),
            None => Ok(()),
        }
    }
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
