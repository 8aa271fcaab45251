//! Reads test files, in promtool's format.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;

use serde::Deserialize;
use tributary_model::duration;
use tributary_model::histogram::notation;
use tributary_model::label::Labels;
use tributary_model::yaml;

use super::compare::{Compared, Expected, Values};
use super::series;
use crate::query::Point;

/// A test file.
#[derive(Debug)]
pub(super) struct TestFile {
    /// Paths relative to the file's folder; `*` and `?` match within a name.
    pub(super) rule_files: Vec<PathBuf>,
    /// How often rules are evaluated, in milliseconds.
    pub(super) interval: i64,
    /// Groups in the order of their evaluation.
    pub(super) order: Vec<String>,
    /// Whether neighbouring floats are equal.
    pub(super) fuzzy: bool,
    pub(super) tests: Vec<TestGroup>,
}

/// Series, and what the rules should make of them.
#[derive(Debug)]
pub(super) struct TestGroup {
    /// May be empty.
    pub(super) name: String,
    pub(super) series: Vec<(Labels, Vec<Point>)>,
    pub(super) alerts: Vec<AlertCheck>,
    pub(super) expressions: Vec<ExprCheck>,
    pub(super) external_labels: Labels,
    pub(super) external_url: String,
}

/// Which alerts of a name should fire at a time.
#[derive(Debug)]
pub(super) struct AlertCheck {
    /// Milliseconds since the beginning.
    pub(super) at: i64,
    pub(super) name: String,
    pub(super) expected: Vec<Expected>,
}

/// Which value an expression should have at a time.
#[derive(Debug)]
pub(super) struct ExprCheck {
    /// Milliseconds since the beginning.
    pub(super) at: i64,
    pub(super) expr: String,
    samples: Vec<RawSample>,
}

impl TestGroup {
    /// The last time at which something is compared.
    pub(super) fn last(&self) -> i64 {
        let alerts = self.alerts.iter().map(|check| check.at);
        alerts.chain(self.expressions.iter().map(|check| check.at)).max().unwrap_or(0)
    }
}

impl ExprCheck {
    /// What is expected.
    pub(super) fn samples(&self) -> Result<Values, String> {
        let sample = |sample: &RawSample| {
            let labels = series::labels(&sample.labels);
            let labels = labels.map_err(|e| format!("labels {:?}: {e}", sample.labels))?;
            let value = match &sample.histogram {
                None => Compared::Number(sample.value),
                Some(text) => {
                    let read = notation::read(text)?;
                    Compared::Histogram(read.histogram, read.hint_given)
                }
            };
            Ok((labels, value))
        };
        self.samples.iter().map(sample).collect()
    }
}

impl TestFile {
    /// Reads `text`, the content of `file`.
    pub(super) fn parse(text: &str, file: &str) -> Result<Self, String> {
        let raw: RawFile = yaml::parse(text, file).map_err(|e| e.to_string())?;
        let interval = match millis("evaluation_interval", &raw.evaluation_interval)? {
            0 => 60_000,
            interval => interval,
        };
        let mut seen = HashSet::new();
        if let Some(twice) = raw.group_eval_order.iter().find(|name| !seen.insert(*name)) {
            return Err(format!("group name repeated in evaluation order: {twice}"));
        }
        let tests = raw.tests.into_iter().map(|test| group(test, interval));
        Ok(Self {
            rule_files: raw.rule_files,
            interval,
            order: raw.group_eval_order.clone(),
            fuzzy: raw.fuzzy_compare,
            tests: tests.collect::<Result<_, _>>()?,
        })
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    #[serde(default)]
    rule_files: Vec<PathBuf>,
    #[serde(default)]
    evaluation_interval: String,
    #[serde(default)]
    group_eval_order: Vec<String>,
    #[serde(default)]
    fuzzy_compare: bool,
    #[serde(default)]
    tests: Vec<RawGroup>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawGroup {
    #[serde(default)]
    interval: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    input_series: Vec<RawSeries>,
    #[serde(default)]
    alert_rule_test: Vec<RawAlertCheck>,
    #[serde(default)]
    promql_expr_test: Vec<RawExprCheck>,
    #[serde(default)]
    external_labels: BTreeMap<String, String>,
    #[serde(default)]
    external_url: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSeries {
    series: String,
    values: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawAlertCheck {
    #[serde(default)]
    eval_time: String,
    alertname: String,
    #[serde(default)]
    exp_alerts: Option<Vec<RawAlert>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawAlert {
    #[serde(default)]
    exp_labels: Option<BTreeMap<String, String>>,
    #[serde(default)]
    exp_annotations: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawExprCheck {
    expr: String,
    #[serde(default)]
    eval_time: String,
    #[serde(default)]
    exp_samples: Option<Vec<RawSample>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSample {
    #[serde(default)]
    labels: String,
    #[serde(default)]
    value: f64,
    #[serde(default)]
    histogram: Option<String>,
}

fn group(raw: RawGroup, evaluation_interval: i64) -> Result<TestGroup, String> {
    let interval = match millis("interval", &raw.interval)? {
        0 => evaluation_interval,
        interval => interval,
    };
    let mut all = Vec::new();
    for RawSeries { series: text, values } in raw.input_series {
        let fail = |why| format!("series {text:?}: {why}");
        let labels = series::labels(&text).map_err(fail)?;
        all.push((labels, series::samples(&values, interval).map_err(fail)?));
    }
    let expressions = raw.promql_expr_test.into_iter().map(|check| {
        Ok(ExprCheck {
            at: millis("eval_time", &check.eval_time)?,
            expr: check.expr,
            samples: check.exp_samples.unwrap_or_default(),
        })
    });
    let mut alerts: Vec<AlertCheck> =
        raw.alert_rule_test.into_iter().map(alert_check).collect::<Result<_, String>>()?;
    alerts.sort_by_key(|check| check.at);
    Ok(TestGroup {
        name: raw.name,
        series: all,
        alerts,
        expressions: expressions.collect::<Result<_, String>>()?,
        external_labels: pairs(raw.external_labels)?,
        external_url: raw.external_url,
    })
}

fn alert_check(raw: RawAlertCheck) -> Result<AlertCheck, String> {
    let expected = raw.exp_alerts.unwrap_or_default().into_iter().map(|alert| {
        let mut labels = alert.exp_labels.unwrap_or_default();
        labels.insert("alertname".to_owned(), raw.alertname.clone());
        let annotations = pairs(alert.exp_annotations.unwrap_or_default())?;
        Ok(Expected { labels: pairs(labels)?, annotations })
    });
    Ok(AlertCheck {
        at: millis("eval_time", &raw.eval_time)?,
        expected: expected.collect::<Result<_, String>>()?,
        name: raw.alertname,
    })
}

fn pairs(pairs: BTreeMap<String, String>) -> Result<Labels, String> {
    Labels::from_pairs(pairs).map_err(|e| e.to_string())
}

/// A duration in milliseconds; 0 if there is none.
fn millis(key: &str, text: &str) -> Result<i64, String> {
    if text.is_empty() {
        return Ok(0);
    }
    let parsed = duration::parse(text).map_err(|e| format!("{key}: {e}"))?;
    i64::try_from(parsed.as_millis()).map_err(|_| format!("{key}: {text} is too long"))
}
