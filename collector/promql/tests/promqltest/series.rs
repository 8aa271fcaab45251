//! Series and sequences of values: `metric{a="b"} 1 2+3x4 _ stale`.

use tributary_model::histogram::notation::{self, Native};
use tributary_model::label::{Labels, METRIC_NAME};
use tributary_model::number::parse_float;
use tributary_model::quote::unquote;
use tributary_model::sample::stale_nan;

/// A value of a sequence.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Item {
    /// No sample.
    Gap,
    /// A number, or a staleness marker.
    Float(f64),
    /// A native histogram.
    Histogram(Native),
}

/// A series and what follows it on the line.
pub(crate) fn split(line: &str) -> Result<(Labels, &str), String> {
    let mut pairs: Vec<(String, String)> = Vec::new();
    let name_end = line
        .find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'))
        .unwrap_or(line.len());
    let (name, mut rest) = line.split_at(name_end);
    if !name.is_empty() {
        pairs.push((METRIC_NAME.to_owned(), name.to_owned()));
    }
    let after_name = rest.trim_start();
    if let Some(inside) = after_name.strip_prefix('{')
        && !inside.starts_with('{')
    {
        rest = braces(inside, &mut pairs)?;
    } else if name.is_empty() {
        return Err(format!("no series: {line}"));
    }
    let labels = Labels::from_pairs(pairs).map_err(|e| format!("{e}: {line}"))?;
    Ok((labels, rest))
}

/// Reads label pairs up to the closing brace; returns what follows it.
fn braces<'a>(text: &'a str, pairs: &mut Vec<(String, String)>) -> Result<&'a str, String> {
    let mut rest = text.trim_start();
    loop {
        rest = rest.trim_start_matches([',', ' ', '\t']);
        if let Some(after) = rest.strip_prefix('}') {
            return Ok(after);
        }
        let (name, after) = if rest.starts_with(['"', '\'', '`']) {
            let (literal, after) = literal(rest)?;
            (unquote(literal).map_err(|e| e.to_string())?, after)
        } else {
            let end = rest
                .find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
                .ok_or_else(|| format!("unfinished labels: {text}"))?;
            (rest[..end].to_owned(), &rest[end..])
        };
        let after = after.trim_start();
        if let Some(value) = after.strip_prefix('=') {
            let (literal, after) = literal(value.trim_start())?;
            pairs.push((name, unquote(literal).map_err(|e| e.to_string())?));
            rest = after;
        } else {
            pairs.push((METRIC_NAME.to_owned(), name));
            rest = after;
        }
    }
}

/// A quoted literal at the start of a text, and what follows it.
pub(crate) fn literal(text: &str) -> Result<(&str, &str), String> {
    let quote = text.chars().next().ok_or("expected a quoted value")?;
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        if c == quote && !escaped {
            return Ok(text.split_at(at + 1));
        }
        escaped = c == '\\' && !escaped && quote != '`';
    }
    Err(format!("unfinished literal: {text}"))
}

/// A sequence of values.
pub(crate) fn items(text: &str) -> Result<Vec<Item>, String> {
    let mut out = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let end = if rest.starts_with("{{") {
            let close = rest.find("}}").ok_or("unfinished histogram")? + 2;
            // `{{…}}+{{…}}x5`
            let second = rest[close..].starts_with("+{{") || rest[close..].starts_with("-{{");
            let from = if second {
                close + rest[close..].find("}}").ok_or("unfinished histogram")? + 2
            } else {
                close
            };
            from + rest[from..].find(char::is_whitespace).unwrap_or(rest.len() - from)
        } else {
            rest.find(char::is_whitespace).unwrap_or(rest.len())
        };
        let (token, after) = rest.split_at(end);
        item(token, &mut out)?;
        rest = after.trim_start();
    }
    Ok(out)
}

fn item(token: &str, out: &mut Vec<Item>) -> Result<(), String> {
    let count = |text: &str| text.parse::<usize>().map_err(|_| format!("bad count in {token}"));
    if token.starts_with("{{") {
        let histograms = notation::sequence(token, usize::MAX)?;
        out.extend(histograms.into_iter().map(Item::Histogram));
        return Ok(());
    }
    if token == "_" {
        out.push(Item::Gap);
        return Ok(());
    }
    if let Some(repeats) = token.strip_prefix("_x") {
        out.extend(vec![Item::Gap; count(repeats)?]);
        return Ok(());
    }
    // `0x59` is a zero and 59 more, not a hexadecimal number.
    let repeated_zero = token.strip_prefix("0x").is_some_and(|n| n.parse::<usize>().is_ok());
    if let Some(value) = number(token).filter(|_| !repeated_zero) {
        out.push(Item::Float(value));
        return Ok(());
    }
    let (values, repeats) = token.rsplit_once('x').ok_or_else(|| format!("bad value {token}"))?;
    let repeats = count(repeats)?;
    if let Some(value) = number(values) {
        out.extend(vec![Item::Float(value); repeats + 1]);
        return Ok(());
    }
    let (start, change) = steps(values).ok_or_else(|| format!("bad value {token}"))?;
    let mut value = start;
    for _ in 0..=repeats {
        out.push(Item::Float(value));
        value += change;
    }
    Ok(())
}

/// `A+B` or `A-B`, where either may have an exponent or a sign.
fn steps(text: &str) -> Option<(f64, f64)> {
    text.char_indices().skip(1).filter(|(_, c)| matches!(c, '+' | '-')).find_map(|(at, c)| {
        let start = number(&text[..at])?;
        let change = number(&text[at + 1..])?;
        Some((start, if c == '-' { -change } else { change }))
    })
}

fn number(text: &str) -> Option<f64> {
    if text == "stale" { Some(stale_nan()) } else { parse_float(text) }
}

/// Checks that lines of scripts are understood.
pub(crate) fn check() {
    sequences();
    series_with_labels();
}

fn sequences() {
    let floats = |text: &str| -> Vec<f64> {
        let of = |item| match item {
            Item::Float(value) => value,
            other => panic!("{other:?}"),
        };
        items(text).unwrap().into_iter().map(of).collect()
    };
    assert_eq!(floats("1 2x2 0+10x3"), [1.0, 2.0, 2.0, 2.0, 0.0, 10.0, 20.0, 30.0]);
    assert_eq!(floats("5-1x2 -1.5e+2-0.5x1"), [5.0, 4.0, 3.0, -150.0, -150.5]);
    assert_eq!(floats("0x1F -Inf 0x1"), [31.0, f64::NEG_INFINITY, 0.0, 0.0]);
    assert_eq!(items("_ _x2").unwrap(), [Item::Gap, Item::Gap, Item::Gap]);
    let histograms = items("{{schema:1 sum:2}}x2 1 {{sum:1 count:1}}+{{count:1}}x1").unwrap();
    assert_eq!(histograms.len(), 6);
    assert!(items("nonsense").is_err());
}

fn series_with_labels() {
    let (labels, rest) = split(r#"a{b="c d", "e f"='g'} 1 2"#).unwrap();
    assert_eq!(labels.to_string(), r#"a{b="c d", "e f"="g"}"#);
    assert_eq!(rest, " 1 2");
    assert_eq!(split("{} 1").unwrap().0, Labels::empty());
    assert_eq!(split(r#"{"x.y"} 1"#).unwrap().0.metric_name(), "x.y");
}
