//! `/federate`: the newest samples in the text format, for a Prometheus that scrapes the collector.

use std::fmt::Write as _;

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use tributary_model::histogram::HistogramSample;
use tributary_model::label::{Labels, METRIC_NAME};
use tributary_model::number;
use tributary_model::sample::Timestamp;

use super::envelope::{ApiError, plain};
use super::params::Params;
use super::{Api, Scope};
use crate::query::{Look, Point};

const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8; escaping=underscores";

/// Answers with one sample per series that any `match[]` selects; without one, with nothing.
pub async fn federate(State(api): State<Api>, scope: Scope, params: Params) -> Response {
    let any_of = match params.selectors() {
        Ok(any_of) => any_of,
        Err(error) => return plain(StatusCode::BAD_REQUEST, error.text + "\n"),
    };
    if any_of.is_empty() {
        return text(String::new());
    }
    let now = api.now();
    // The window is open at its left end, as every window of PromQL.
    let from = now.minus(api.queries.bounds().lookback).plus(std::time::Duration::from_millis(1));
    let look = Look { any_of, enforced: scope.enforced(), from, to: now };
    match api.queries.latest(look).await {
        Ok(series) => text(written(series)),
        Err(error) => ApiError::from(error).into_response(),
    }
}

fn text(body: String) -> Response {
    let mut response = Response::new(Body::from(body));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
    response
}

/// The exposition: families in the order of their names, each with its series in the order of their labels.
fn written(mut series: Vec<(Labels, Point)>) -> String {
    series.retain(|(labels, _)| !labels.metric_name().is_empty());
    series.sort_by(|(a, _), (b, _)| (a.metric_name(), a).cmp(&(b.metric_name(), b)));
    let mut out = String::new();
    let mut family = "";
    for (labels, point) in &series {
        let name = labels.metric_name();
        if name != family {
            family = name;
            let kind = if matches!(point, Point::Number(_)) { "untyped" } else { "histogram" };
            let _ = writeln!(out, "# TYPE {} {kind}", legacy(name, true));
        }
        match point {
            Point::Number(sample) => line(&mut out, labels, "", None, sample.value, sample.at),
            // The text format has no buckets of native histograms: what is left is how many observations there were.
            Point::Histogram(HistogramSample { at, histogram }) => {
                line(&mut out, labels, "_bucket", Some("+Inf"), histogram.count(), *at);
                line(&mut out, labels, "_sum", None, histogram.sum(), *at);
                line(&mut out, labels, "_count", None, histogram.count(), *at);
            }
        }
    }
    out
}

fn line(
    out: &mut String,
    labels: &Labels,
    suffix: &str,
    bound: Option<&str>,
    value: f64,
    at: Timestamp,
) {
    out.push_str(&legacy(labels.metric_name(), true));
    out.push_str(suffix);
    let own = labels.iter().filter(|l| &*l.name != METRIC_NAME);
    let own = own.map(|label| (&*label.name, &*label.value));
    let mut separator = '{';
    for (name, value) in own.chain(bound.map(|bound| ("le", bound))) {
        out.push(separator);
        separator = ',';
        let value = value.replace('\\', "\\\\").replace('\n', "\\n").replace('"', "\\\"");
        let _ = write!(out, "{}=\"{value}\"", legacy(name, false));
    }
    if separator == ',' {
        out.push('}');
    }
    let _ = writeln!(out, " {} {}", general(value), at.as_millis());
}

/// A name in the characters of the classic format; others become underscores, as the content type says.
fn legacy(name: &str, colons: bool) -> String {
    let ok = |(i, c): (usize, char)| {
        let letter = c.is_ascii_alphabetic() || c == '_' || (colons && c == ':');
        if letter || (i > 0 && c.is_ascii_digit()) { c } else { '_' }
    };
    name.chars().enumerate().map(ok).collect()
}

/// A value as the text format writes it, which is Go's shortest `'g'`: with an exponent below 1e-4 and from 1e6 on.
fn general(value: f64) -> String {
    let magnitude = value.abs();
    let exponent = magnitude != 0.0 && magnitude.is_finite() && !(1e-4..1e6).contains(&magnitude);
    if exponent { number::format_exponent(value) } else { number::format_plain(value) }
}

#[cfg(test)]
mod tests {
    use tributary_model::histogram::{Histogram, Parts};
    use tributary_model::sample::Sample;

    use super::*;

    #[test]
    fn the_text_format() {
        let labels = |pairs: &[(&str, &str)]| Labels::from_pairs(pairs.iter().copied()).unwrap();
        let number = |at, value| Point::Number(Sample::new(at, value));
        let parts = Parts { count: 3.0, sum: 4.5, ..Parts::default() };
        let histogram = Histogram::new(parts).unwrap().into();
        let at = Timestamp::from_millis(5);
        let series = vec![
            (labels(&[("__name__", "up"), ("job", "b")]), number(5, 1.0)),
            (labels(&[("__name__", "up"), ("job", "a\"\\\n")]), number(5, f64::NAN)),
            (labels(&[("__name__", "a.b"), ("c.d", "ä")]), number(-5, 12_566_152.0)),
            (labels(&[("x", "nameless")]), number(5, 1.0)),
            (labels(&[("__name__", "c")]), number(5, 0.07)),
            (
                labels(&[("__name__", "h"), ("a", "b")]),
                Point::Histogram(HistogramSample { at, histogram }),
            ),
        ];
        let expected = concat!(
            "# TYPE a_b untyped\na_b{c_d=\"ä\"} 1.2566152e+07 -5\n",
            "# TYPE c untyped\nc 0.07 5\n",
            "# TYPE h histogram\nh_bucket{a=\"b\",le=\"+Inf\"} 3 5\nh_sum{a=\"b\"} 4.5 5\nh_count{a=\"b\"} 3 5\n",
            "# TYPE up untyped\nup{job=\"a\\\"\\\\\\n\"} NaN 5\nup{job=\"b\"} 1 5\n",
        );
        assert_eq!(written(series), expected);
        for (value, text) in [
            (0.0, "0"),
            (1e6, "1e+06"),
            (999_999.0, "999999"),
            (1e-4, "0.0001"),
            (1e-5, "1e-05"),
            (f64::INFINITY, "+Inf"),
        ] {
            assert_eq!(general(value), text);
        }
    }
}
