//! The same questions to everybody, how long they take, and whether the answers agree.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use ::http::Method;
use anyhow::{Context as _, ensure};
use bytes::Bytes;
use serde_json::Value;
use tributary_tests::fleet_data::Plan;
use tributary_tests::http::{Connection, form};

use crate::meter::{Times, Usage};
use crate::report::Better::Lower;
use crate::report::{Measure, Report, System};
use crate::say;

/// A question is asked so often, or until the time is over, but a few times in any case.
const MOST_RUNS: usize = 10_000;
const FEWEST_RUNS: usize = 5;
const TIME: Duration = Duration::from_secs(3);
/// Answers of ours and Prometheus' may differ by so much, relatively.
const TOLERANCE: f64 = 1e-9;
const RANGE_STEP: &str = "60";

/// A question. Instant ones ask about the end, the others about the whole time.
struct Question {
    name: &'static str,
    path: &'static str,
    expression: &'static str,
}

const INSTANT: &str = "/api/v1/query";
const RANGE: &str = "/api/v1/query_range";
const VALUES: &str = "/api/v1/label/pod/values";
const SERIES: &str = "/api/v1/series";

const QUESTIONS: &[Question] = &[
    Question {
        name: "instant, sum by (cluster) (rate(requests[5m]))",
        path: INSTANT,
        expression: "sum by (cluster) (rate(http_requests_total[5m]))",
    },
    Question {
        name: "instant, sum by (cluster) (rate(all counters[5m]))",
        path: INSTANT,
        expression: "sum by (cluster) (rate({__name__=~\".+_total|.+_bucket\", pod!=\"\"}[5m]))",
    },
    Question {
        name: "range, sum by (cluster) (rate(requests[5m]))",
        path: RANGE,
        expression: "sum by (cluster) (rate(http_requests_total[5m]))",
    },
    Question {
        name: "range, topk(10, sum by (pod) (rate(requests[5m])))",
        path: RANGE,
        expression: "topk(10, sum by (pod) (rate(http_requests_total[5m])))",
    },
    Question {
        name: "range, histogram_quantile(.99, sum by (le, cluster) (rate(…)))",
        path: RANGE,
        expression: "histogram_quantile(.99, sum by (le, cluster) \
                     (rate(http_request_duration_seconds_bucket[5m])))",
    },
    Question {
        name: "range, one series",
        path: RANGE,
        expression: "http_requests_total{cluster=\"eu-000\", instance=\"10.0.0.0:8080\", \
                     method=\"GET\", code=\"200\"}",
    },
    Question { name: "values of the label pod", path: VALUES, expression: "" },
    Question { name: "series of requests", path: SERIES, expression: "http_requests_total" },
];

/// What everybody answered, by question.
#[derive(Debug, Default)]
pub struct Answers(BTreeMap<(usize, System), Value>);

/// Who is asked.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// Whose column.
    pub system: System,
    /// `http://127.0.0.1:PORT`
    pub url: &'a str,
    /// Whose CPU time.
    pub process: u32,
}

/// Asks somebody everything.
pub async fn measure(
    asked: Asked<'_>,
    plan: &Plan,
    answers: &mut Answers,
    report: &mut Report,
) -> anyhow::Result<()> {
    say(&format!("{}: asking", asked.system.name()));
    let connection = Connection::new();
    for (number, question) in QUESTIONS.iter().enumerate() {
        let url = format!("{}{}?{}", asked.url, question.path, question.fields(plan));
        let ask = async || {
            let answer = connection.send(Method::GET, &url, &[], Bytes::new()).await?;
            ensure!(answer.status.is_success(), "{url}: {} {}", answer.status, answer.text());
            Ok(answer)
        };
        let answer = ask().await?.json();
        answers.0.insert((number, asked.system), answer["data"].clone());
        let (before, start) = (Usage::of(asked.process)?, Instant::now());
        let (mut times, mut runs) = (Times::default(), 0);
        while runs < FEWEST_RUNS || (runs < MOST_RUNS && start.elapsed() < TIME) {
            let start = Instant::now();
            ask().await?;
            times.push(start.elapsed());
            runs += 1;
        }
        let used = Usage::of(asked.process)?.since(before);
        let p50 = times.quantile_ms(0.5);
        let cpu = used.cpu.as_secs_f64() * 1e3 / runs as f64;
        report.set(&Measure::new("queries, p50 ms", question.name, Lower), asked.system, p50);
        // The kernel counts in hundredths of a second: what a run cannot be told from nothing is one of that in all runs.
        let cpu = cpu.max(10.0 / runs as f64);
        let measure = Measure::new("queries, server CPU ms", question.name, Lower);
        report.set(&measure, asked.system, cpu);
    }
    Ok(())
}

impl Question {
    fn fields(&self, plan: &Plan) -> String {
        let (start, end) = ((plan.start_ms / 1000).to_string(), (plan.end_ms() / 1000).to_string());
        let span = [("start", &*start), ("end", &*end), ("nocache", "1")];
        match self.path {
            INSTANT => form(&[("query", self.expression), ("time", &end), ("nocache", "1")]),
            RANGE => {
                let asked = [("query", self.expression), ("step", RANGE_STEP)];
                form(&[&asked[..], &span].concat())
            }
            SERIES => form(&[&[("match[]", self.expression)][..], &span].concat()),
            _ => form(&span),
        }
    }
}

/// Compares what ours and Prometheus answered.
pub fn compare(answers: &Answers, report: &mut Report) -> anyhow::Result<()> {
    let mut compared = 0;
    for (number, question) in QUESTIONS.iter().enumerate() {
        let of = |system| answers.0.get(&(number, system));
        let (Some(ours), Some(theirs)) = (of(System::Ours), of(System::Prometheus)) else {
            continue;
        };
        let (ours, theirs) = (flat(ours), flat(theirs));
        let (mut ours, mut theirs) = (ours.context(question.name)?, theirs.context(question.name)?);
        if question.expression.starts_with("topk") {
            // Which of two equal series is the last that is taken hangs on the order of additions.
            (ours, theirs) = (by_time(&ours), by_time(&theirs));
        }
        compared += 1;
        if let Some(why) = difference(&ours, &theirs) {
            report.fail(format!("{}: ours is not what Prometheus answers: {why}", question.name));
        }
    }
    if compared > 0 {
        let note = "answers of ours were compared with Prometheus'; marked below if one differs";
        report.note(format!("{compared} {note}"));
    }
    Ok(())
}

/// Anything that was answered as series of numbers: label values are series without any.
type Flat = BTreeMap<String, Vec<(f64, f64)>>;

fn flat(data: &Value) -> Option<Flat> {
    let list = data.as_array().or_else(|| data["result"].as_array())?;
    let series = list.iter().map(|item| {
        if let Some(metric) = item.get("metric") {
            let pair = |pair: &Value| Some((pair[0].as_f64()?, pair[1].as_str()?.parse().ok()?));
            let values = match item["values"].as_array() {
                Some(values) => values.iter().map(pair).collect::<Option<Vec<_>>>()?,
                None => vec![pair(&item["value"])?],
            };
            return Some((metric.to_string(), values));
        }
        Some((item.to_string(), Vec::new()))
    });
    series.collect()
}

/// The values of each time from small to large, whosever they are.
fn by_time(series: &Flat) -> Flat {
    let mut times: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for (at, value) in series.values().flatten() {
        times.entry(at.to_string()).or_default().push(*value);
    }
    let numbered = |mut values: Vec<f64>| {
        values.sort_by(f64::total_cmp);
        (0..).map(f64::from).zip(values).collect()
    };
    times.into_iter().map(|(at, values)| (at, numbered(values))).collect()
}

fn difference(ours: &Flat, theirs: &Flat) -> Option<String> {
    if let Some((name, _)) = ours.iter().find(|(name, _)| !theirs.contains_key(*name)) {
        return Some(format!("{name} is in ours only"));
    }
    for (name, expected) in theirs {
        let Some(found) = ours.get(name) else {
            return Some(format!("{name} is missing in ours"));
        };
        if found.len() != expected.len() {
            return Some(format!("{name}: {} values, not {}", found.len(), expected.len()));
        }
        for ((at, is), (when, should)) in found.iter().zip(expected) {
            let near =
                is.total_cmp(should).is_eq() || (is - should).abs() <= TOLERANCE * should.abs();
            if at != when || !near {
                return Some(format!("{name} at {when}: {is} at {at}, not {should}"));
            }
        }
    }
    theirs.is_empty().then(|| "there is nothing".to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn equal_series_may_stand_for_each_other() {
        let answer = |name: &str, value: &str| {
            let fixed = json!({ "metric": { "a": "b" }, "values": [[1, "9"], [2, "7"]] });
            let other = json!({ "metric": { "a": name }, "values": [[1, value]] });
            by_time(&flat(&json!([fixed, other])).unwrap())
        };
        assert_eq!(difference(&answer("c", "5"), &answer("d", "5")), None);
        assert!(difference(&answer("c", "5"), &answer("c", "6")).is_some());
        assert_eq!(answer("c", "5")["1"], [(0.0, 5.0), (1.0, 9.0)]);
    }

    #[test]
    fn answers_agree_within_the_tolerance_only() {
        let answer = |value: &str| {
            let series = json!([{ "metric": { "a": "b" }, "values": [[1.5, "2"], [3, value]] }]);
            flat(&json!({ "result": series })).unwrap()
        };
        assert_eq!(difference(&answer("0.1"), &answer("0.10000000000001")), None);
        assert_eq!(difference(&answer("NaN"), &answer("NaN")), None);
        let told = difference(&answer("0.1"), &answer("0.1000001")).unwrap();
        assert_eq!(told, "{\"a\":\"b\"} at 3: 0.1 at 3, not 0.1000001");
        let values = |list: Value| flat(&list).unwrap();
        assert_eq!(difference(&values(json!(["x"])), &values(json!(["x"]))), None);
        assert!(difference(&values(json!(["x"])), &values(json!(["y"]))).is_some());
        assert!(difference(&values(json!(["x"])), &values(json!(["x", "y"]))).is_some());
        assert!(difference(&values(json!([])), &values(json!([]))).is_some());
    }
}
