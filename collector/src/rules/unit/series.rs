//! Made-up series: `metric{a="b"}`, and values such as `1 2+3x4 _ stale`.

use std::sync::Arc;

use tributary_model::histogram::{Histogram, HistogramSample, notation};
use tributary_model::label::{Labels, METRIC_NAME};
use tributary_model::matcher::MatchOp;
use tributary_model::number::parse_float;
use tributary_model::sample::{Sample, Timestamp, stale_nan};
use tributary_promql::ast::Expr;

use crate::query::Point;

/// Most values of one series.
const MAX_VALUES: usize = 1_000_000;

/// The labels of a series as it is written in PromQL; nothing at all is the series without labels.
pub(super) fn labels(text: &str) -> Result<Labels, String> {
    if matches!(text.trim(), "" | "{}") {
        return Ok(Labels::empty());
    }
    let read = tributary_promql::parse(text).map_err(|e| e.to_string())?;
    let Expr::Vector(selector) = read else { return Err(format!("{text:?} is not a series")) };
    if selector.matchers.iter().any(|matcher| matcher.op() != MatchOp::Equal) {
        return Err(format!("{text:?} is not one series: write only \"=\""));
    }
    let pairs = selector.matchers.iter().map(|m| (m.name(), m.value()));
    // A label without a value is none, except for the name, which nothing can stand for.
    let pairs = pairs.filter(|(name, value)| *name == METRIC_NAME || !value.is_empty());
    Labels::from_pairs(pairs).map_err(|e| e.to_string())
}

/// The samples of a sequence of values, `interval` milliseconds apart, from 0 on.
pub(super) fn samples(text: &str, interval: i64) -> Result<Vec<Point>, String> {
    let mut values: Vec<Option<Value>> = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (token, after) = rest.split_at(token_length(rest)?);
        if token.starts_with("{{") {
            let histograms = notation::sequence(token, MAX_VALUES)?;
            values
                .extend(histograms.into_iter().map(|native| Some(Value::Native(native.histogram))));
        } else {
            let mut numbers = Vec::new();
            item(token, &mut numbers)?;
            values.extend(numbers.into_iter().map(|number| number.map(Value::Number)));
        }
        if values.len() > MAX_VALUES {
            return Err(format!("more than {MAX_VALUES} values"));
        }
        rest = after.trim_start();
    }
    let at = |i: usize| i64::try_from(i).unwrap_or(i64::MAX).saturating_mul(interval);
    let point = |(i, value): (usize, Option<Value>)| match value? {
        Value::Number(value) => Some(Point::Number(Sample::new(at(i), value))),
        Value::Native(histogram) => {
            let at = Timestamp::from_millis(at(i));
            Some(Point::Histogram(HistogramSample { at, histogram }))
        }
    };
    Ok(values.into_iter().enumerate().filter_map(point).collect())
}

enum Value {
    Number(f64),
    Native(Arc<Histogram>),
}

/// How long the first item is: there may be white space within double braces.
fn token_length(text: &str) -> Result<usize, String> {
    let mut length = 0;
    loop {
        let rest = text.get(length..).unwrap_or_default();
        let space = rest.find(char::is_whitespace).unwrap_or(rest.len());
        if rest.find("{{").is_none_or(|open| open >= space) {
            return Ok(length + space);
        }
        let close = rest.find("}}").ok_or_else(|| format!("{text:?} has no closing braces"))?;
        length += close + 2;
    }
}

/// Appends what one item stands for; nothing is a gap.
fn item(token: &str, out: &mut Vec<Option<f64>>) -> Result<(), String> {
    let bad = || format!("{token:?} is not a value: write numbers, 1+2x3, _, _x3 or stale");
    let count = |text: &str| {
        text.parse::<usize>().ok().filter(|count| *count <= MAX_VALUES).ok_or_else(bad)
    };
    if token == "_" {
        out.push(None);
        return Ok(());
    }
    if let Some(gaps) = token.strip_prefix("_x") {
        out.extend(std::iter::repeat_n(None, count(gaps)?));
        return Ok(());
    }
    // `0x59` is a zero and 59 more, not a hexadecimal number.
    let zeros = token.strip_prefix("0x").is_some_and(|n| n.parse::<usize>().is_ok());
    if let Some(value) = number(token).filter(|_| !zeros) {
        out.push(Some(value));
        return Ok(());
    }
    let (values, repeats) = token.rsplit_once('x').ok_or_else(bad)?;
    let repeats = count(repeats)?;
    if let Some(value) = number(values) {
        out.extend(std::iter::repeat_n(Some(value), repeats + 1));
        return Ok(());
    }
    let (mut value, change) = steps(values).ok_or_else(bad)?;
    for _ in 0..=repeats {
        out.push(Some(value));
        value += change;
    }
    Ok(())
}

/// `A+B` or `A-B`, where either may have a sign or an exponent.
fn steps(text: &str) -> Option<(f64, f64)> {
    let signs = text.char_indices().skip(1).filter(|(_, c)| matches!(c, '+' | '-'));
    signs.into_iter().find_map(|(at, sign)| {
        let start = number(text.get(..at)?)?;
        let change = number(text.get(at + 1..)?)?;
        Some((start, if sign == '-' { -change } else { change }))
    })
}

fn number(text: &str) -> Option<f64> {
    if text == "stale" { Some(stale_nan()) } else { parse_float(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences() {
        let values = |text: &str| -> Vec<(i64, f64)> {
            let samples = samples(text, 10).unwrap();
            let number = |point: &Point| match point {
                Point::Number(sample) => (sample.at.as_millis(), sample.value),
                Point::Histogram(sample) => (sample.at.as_millis(), sample.histogram.count()),
            };
            samples.iter().map(number).collect()
        };
        assert_eq!(
            values("1 _ 2x1 _x2 0+10x2"),
            [(0, 1.0), (20, 2.0), (30, 2.0), (60, 0.0), (70, 10.0), (80, 20.0)]
        );
        assert_eq!(
            values("-1.5e+1-0.5x1 0x1 Inf"),
            [(0, -15.0), (10, -15.5), (20, 0.0), (30, 0.0), (40, f64::INFINITY)]
        );
        assert_eq!(
            values("{{count:1 sum:2}}x1 7 {{count:1}}+{{count:2 buckets:[1 2]}}x1 _"),
            [(0, 1.0), (10, 1.0), (20, 7.0), (30, 1.0), (40, 3.0)]
        );
        for bad in ["x", "1x", "1+x2", "ax3", "{{count:1", "{{a:1}}", "_x9999999999"] {
            assert!(samples(bad, 1).is_err(), "{bad}");
        }
    }

    #[test]
    fn series() {
        for (text, shown) in [
            ("", "{}"),
            ("{}", "{}"),
            ("a", "a"),
            (r#"{a="b",c=""}"#, r#"{a="b"}"#),
            (r#"{"x.y", a="b"}"#, r#"{"__name__"="x.y", a="b"}"#),
        ] {
            let labels = labels(text).unwrap().to_string();
            assert_eq!(
                labels.replace("\"__name__\"", "__name__"),
                shown.replace("\"__name__\"", "__name__")
            );
        }
        for bad in ["a{", "a{b=~\"c\"}", "a[5m]", "1"] {
            assert!(labels(bad).is_err(), "{bad}");
        }
    }
}
