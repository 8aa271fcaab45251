//! The labels of one sample's line.

use std::borrow::Cow;

use super::{BLANK, ExpositionError, MAX_ROW_LABELS, Row, plain_float};
use crate::label::{Labels, METRIC_NAME, is_legacy_label_name, is_legacy_metric_name};
use crate::number::{format_exponent, format_plain};
use crate::series::MetricType;

impl Row<'_> {
    /// The series' labels, checked: a name, no label twice, nothing unfinished.
    pub fn labels(&self) -> Result<Labels, ExpositionError> {
        let fail = |what| ExpositionError { line: self.line, what };
        let pairs = self.pairs().map_err(fail)?;
        if !pairs.iter().any(|(name, value)| name == METRIC_NAME && !value.is_empty()) {
            return Err(fail("the sample has no metric name"));
        }
        Labels::from_pairs(pairs)
            .map_err(|_| fail("a label name is given twice, or the metric name is"))
    }

    fn pairs(&self) -> Result<Vec<Pair<'_>>, &'static str> {
        let (name, labels) =
            self.series.split_at(self.series.find('{').unwrap_or(self.series.len()));
        let name = name.trim_end_matches(BLANK);
        let mut pairs = Vec::new();
        if !name.is_empty() {
            if !is_legacy_metric_name(name) {
                return Err("not a metric name");
            }
            pairs.push((METRIC_NAME.into(), name.into()));
        }
        let mut rest = labels.strip_prefix('{').map_or("", |text| text.trim_start_matches(BLANK));
        while !rest.is_empty() && !rest.starts_with('}') {
            if pairs.len() >= MAX_ROW_LABELS {
                return Err("too many labels");
            }
            let ((name, value), after) = pair(rest)?;
            let value = self.normalized(&name, value);
            pairs.push((name, value));
            let after = after.trim_start_matches(BLANK);
            rest = match after.strip_prefix(',') {
                Some(next) => next.trim_start_matches(BLANK),
                None if after.starts_with('}') => after,
                None => return Err("expected ',' or '}' after a label"),
            };
        }
        Ok(pairs)
    }
}

impl Row<'_> {
    /// As Prometheus 3: numbers in `le` and `quantile` are written the way OpenMetrics writes them, so that the two
    /// formats give the same series.
    fn normalized<'a>(&self, name: &str, value: Cow<'a, str>) -> Cow<'a, str> {
        let number = match (self.kind, name) {
            (MetricType::Histogram, "le") | (MetricType::Summary, "quantile") => {
                plain_float(&value)
            }
            _ => None,
        };
        number.map_or(value, |number| openmetrics_float(number).into())
    }
}

/// Shortest form with a fraction or an exponent: `1.0`, `0.25`, `1e+06`.
fn openmetrics_float(value: f64) -> String {
    let magnitude = value.abs();
    if magnitude != 0.0 && !(1e-4..1e6).contains(&magnitude) && value.is_finite() {
        return format_exponent(value);
    }
    let mut text = format_plain(value);
    if value.is_finite() && !text.contains('.') {
        text.push_str(".0");
    }
    text
}

type Pair<'a> = (Cow<'a, str>, Cow<'a, str>);

/// `name="value"`, `"name"="value"`, or `"metric name"`; and what follows.
fn pair(text: &str) -> Result<(Pair<'_>, &str), &'static str> {
    let (name, rest): (Cow<'_, str>, &str) = if text.starts_with('"') {
        let (name, rest) = split_quoted(text)?;
        (unescape(name, true), rest)
    } else {
        let end = text.find(['=', ' ', '\t', ',', '}']).unwrap_or(text.len());
        let (name, rest) = text.split_at(end);
        if !is_legacy_label_name(name) {
            return Err("not a label name");
        }
        (name.into(), rest)
    };
    let rest = rest.trim_start_matches(BLANK);
    let Some(value) = rest.strip_prefix('=') else {
        return if text.starts_with('"') {
            Ok(((METRIC_NAME.into(), name), rest))
        } else {
            Err("expected '=' after a label name")
        };
    };
    if name.is_empty() {
        return Err("a label has an empty name");
    }
    let (value, rest) = split_quoted(value.trim_start_matches(BLANK))?;
    Ok(((name, unescape(value, true)), rest))
}

/// The inside of the quotes that `text` starts with, and what follows them.
pub(super) fn split_quoted(text: &str) -> Result<(&str, &str), &'static str> {
    let body = text.strip_prefix('"').ok_or("expected a quoted text")?;
    let mut escaped = false;
    let end = body.bytes().position(|byte| {
        let closes = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        closes
    });
    let end = end.ok_or("a quoted text does not end")?;
    Ok((body.get(..end).unwrap_or(""), body.get(end + 1..).unwrap_or("")))
}

/// Resolves `\\`, `\n` and, inside quotes, `\"`; other backslashes stand for themselves.
pub(super) fn unescape(text: &str, quotes: bool) -> Cow<'_, str> {
    if !text.contains('\\') {
        return text.into();
    }
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let escaped = match (c, chars.peek()) {
            ('\\', Some('\\')) => Some('\\'),
            ('\\', Some('n')) => Some('\n'),
            ('\\', Some('"')) if quotes => Some('"'),
            _ => None,
        };
        out.push(escaped.unwrap_or(c));
        if escaped.is_some() {
            chars.next();
        }
    }
    out.into()
}
