//! Who answers: a server over the Prometheus API, or the evaluator in this process.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use anyhow::Context as _;
use http::Method;
use serde_json::Value as Json;
use tributary_model::histogram::{Histogram, HistogramSample};
use tributary_model::label::Labels;
use tributary_model::number::parse_float;
use tributary_model::sample::{Sample, Timestamp};
use tributary_promql::eval::{self, Options};
use tributary_promql::feature::Features;
use tributary_promql::source::Memory;
use tributary_promql::value::{Element, MatrixSeries, Outcome, Value};
use tributary_tests::http::{Connection, form};

use super::histogram::Native;

/// When an expression is to be evaluated, in milliseconds since the epoch.
#[derive(Debug, Clone, Copy)]
pub enum Question {
    Instant(i64),
    /// Start, end and step.
    Range(i64, i64, i64),
}

impl Question {
    pub fn kind(self) -> &'static str {
        match self {
            Self::Instant(_) => "instant",
            Self::Range(..) => "range",
        }
    }
}

impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Instant(at) => write!(f, "at {at}"),
            Self::Range(start, end, step) => write!(f, "from {start} to {end} by {step}"),
        }
    }
}

/// What came back, in one form for all kinds of values.
#[derive(Debug)]
pub struct Answer {
    pub result: Result<Series, String>,
    /// Warnings and infos, sorted.
    pub remarks: Vec<String>,
}

/// What a series holds at one time.
#[derive(Clone)]
pub enum Point {
    Number(f64),
    Histogram(Box<Native>),
}

impl fmt::Debug for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(value) => value.fmt(f),
            Self::Histogram(histogram) => histogram.fmt(f),
        }
    }
}

/// Points in time.
type Points = Vec<(i64, Point)>;

/// Labels and points in time.
type Labelled = (BTreeMap<String, String>, Points);

/// The type of the value, and the series in the order given.
#[derive(Debug, Default)]
pub struct Series {
    pub kind: String,
    pub series: Vec<Labelled>,
}

pub enum Engine {
    Remote(String, Box<Connection>),
    /// With or without delayed name removal.
    Here(Memory, bool),
}

impl Engine {
    pub async fn ask(&self, expression: &str, question: Question) -> anyhow::Result<Answer> {
        match self {
            Self::Remote(url, connection) => remote(url, connection, expression, question).await,
            Self::Here(memory, delayed) => {
                let features = Features { delayed_name_removal: *delayed, ..Features::default() };
                let options = Options { query: expression.into(), features, ..Options::default() };
                Ok(here(memory, expression, question, &options))
            }
        }
    }
}

async fn remote(
    url: &str,
    connection: &Connection,
    expression: &str,
    question: Question,
) -> anyhow::Result<Answer> {
    let post = async |path: &str, fields: &[(&str, &str)]| {
        let headers = [("content-type", "application/x-www-form-urlencoded")];
        let (url, form) = (format!("{url}{path}"), form(fields));
        match connection.send(Method::POST, &url, &headers, form.clone()).await {
            // The server may just have closed a connection that was idle.
            Err(_) => connection.send(Method::POST, &url, &headers, form).await,
            answered => answered,
        }
    };
    let seconds = |millis: i64| format!("{}.{:03}", millis / 1000, millis % 1000);
    let answer = match question {
        Question::Instant(at) => {
            let fields = [("query", expression), ("time", &seconds(at))];
            post("/api/v1/query", &fields).await?
        }
        Question::Range(start, end, step) => {
            let fields = [
                ("query", expression),
                ("start", &seconds(start)),
                ("end", &seconds(end)),
                ("step", &seconds(step)),
            ];
            post("/api/v1/query_range", &fields).await?
        }
    };
    let json = answer.json();
    let mut remarks: Vec<String> = ["warnings", "infos"]
        .into_iter()
        .filter_map(|key| json[key].as_array())
        .flatten()
        .filter_map(|text| text.as_str().map(str::to_owned))
        .collect();
    remarks.sort();
    let result = match json["status"].as_str() {
        Some("success") => Ok(series(&json["data"])?),
        Some("error") => Err(json["error"].as_str().unwrap_or("").to_owned()),
        _ => anyhow::bail!("not an answer: {}", answer.text()),
    };
    Ok(Answer { result, remarks })
}

fn series(data: &Json) -> anyhow::Result<Series> {
    let kind = data["resultType"].as_str().context("no resultType")?.to_owned();
    if matches!(kind.as_str(), "scalar" | "string") {
        let series = vec![(BTreeMap::new(), vec![point(&data["result"])?])];
        return Ok(Series { kind, series });
    }
    let mut out = Vec::new();
    for element in data["result"].as_array().context("no result")? {
        let labels = element["metric"].as_object().context("no metric")?;
        let labels = labels
            .iter()
            .map(|(name, value)| (name.clone(), value.as_str().unwrap_or("").to_owned()))
            .collect();
        let of_time = ["value", "histogram"].into_iter().filter_map(|key| element.get(key));
        let lists = ["values", "histograms"].into_iter().filter_map(|key| element[key].as_array());
        let points = of_time.chain(lists.flatten()).map(point).collect::<Result<_, _>>()?;
        out.push((labels, by_time(points)));
    }
    Ok(Series { kind, series: out })
}

fn point(pair: &Json) -> anyhow::Result<(i64, Point)> {
    let at = pair[0].as_f64().context("no time")?;
    let point = match pair[1].as_str() {
        Some(text) => Point::Number(parse_float(text).unwrap_or(f64::NAN)),
        None => Point::Histogram(Box::new(Native::read(&pair[1])?)),
    };
    Ok(((at * 1000.0).round() as i64, point))
}

/// A series may have numbers at some times and histograms at others.
fn by_time(mut points: Points) -> Points {
    points.sort_by_key(|(at, _)| *at);
    points
}

fn here(memory: &Memory, expression: &str, question: Question, options: &Options) -> Answer {
    let outcome = evaluate(memory, expression, question, options);
    let mut remarks = Vec::new();
    let result = outcome.map(|outcome| {
        remarks.extend(outcome.warnings);
        remarks.extend(outcome.infos);
        remarks.sort();
        own_series(outcome.value)
    });
    Answer { result, remarks }
}

fn evaluate(
    memory: &Memory,
    expression: &str,
    question: Question,
    options: &Options,
) -> Result<Outcome, String> {
    let expr = tributary_promql::parse(expression).map_err(|e| e.to_string())?;
    let time = Timestamp::from_millis;
    match question {
        Question::Instant(at) => eval::instant(&expr, memory, time(at), options),
        Question::Range(start, end, step) => {
            let step = Duration::from_millis(step.unsigned_abs());
            eval::range(&expr, memory, time(start), time(end), step, options)
        }
    }
    .map_err(|e| e.to_string())
}

fn own_series(value: Value) -> Series {
    let map = |labels: &Labels| {
        labels.iter().map(|l| (l.name.to_string(), l.value.to_string())).collect()
    };
    let kind = value.value_type().as_str().to_owned();
    let series = match &value {
        Value::Scalar(sample) => vec![(BTreeMap::new(), vec![own_number(sample)])],
        Value::String { at, .. } => {
            vec![(BTreeMap::new(), vec![(at.as_millis(), Point::Number(f64::NAN))])]
        }
        Value::Vector(vector) => vector
            .iter()
            .map(|v| {
                let point = match &v.value {
                    Element::Float(value) => Point::Number(*value),
                    Element::Histogram(histogram) => own_histogram(histogram),
                };
                (map(&v.labels), vec![(v.at.as_millis(), point)])
            })
            .collect(),
        Value::Matrix(matrix) => {
            matrix.iter().map(|series| (map(&series.labels), own_points(series))).collect()
        }
    };
    Series { kind, series }
}

fn own_points(series: &MatrixSeries) -> Points {
    let histogram =
        |sample: &HistogramSample| (sample.at.as_millis(), own_histogram(&sample.histogram));
    let numbers = series.samples.iter().map(own_number);
    by_time(numbers.chain(series.histograms.iter().map(histogram)).collect())
}

fn own_number(sample: &Sample) -> (i64, Point) {
    (sample.at.as_millis(), Point::Number(sample.value))
}

fn own_histogram(histogram: &Histogram) -> Point {
    Point::Histogram(Box::new(histogram.into()))
}
