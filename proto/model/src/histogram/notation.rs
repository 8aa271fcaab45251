//! Native histograms as test files of PromQL and of rules write them: `{{schema:1 sum:3 count:2 buckets:[1 0 1]}}`.

use std::sync::Arc;

use super::{Buckets, CUSTOM_SCHEMA, Histogram, Parts, ResetHint, Schema, Span};
use crate::number::parse_float;

/// A histogram, and whether the text says what is known of resets.
#[derive(Debug, Clone, PartialEq)]
pub struct Native {
    /// The histogram.
    pub histogram: Arc<Histogram>,
    /// Whether `counter_reset_hint` stands in the text.
    pub hint_given: bool,
}

/// Reads a histogram in double braces.
pub fn read(text: &str) -> Result<Native, String> {
    let inside = text.trim().strip_prefix("{{").and_then(|text| text.strip_suffix("}}"));
    let mut rest = inside.ok_or_else(|| format!("{text:?} is not a histogram"))?.trim();
    let mut parts = Parts::default();
    let (mut schema, mut bounds) = (0, Vec::new());
    let (mut above, mut below) = ((0, Vec::new()), (0, Vec::new()));
    let mut hint_given = false;
    while !rest.is_empty() {
        let (key, after) = rest.split_once(':').ok_or_else(|| format!("{rest:?} has no value"))?;
        let end = if after.starts_with('[') {
            after.find(']').ok_or_else(|| format!("{after:?} has no closing bracket"))? + 1
        } else {
            after.find(char::is_whitespace).unwrap_or(after.len())
        };
        let (value, after) = after.split_at(end);
        rest = after.trim_start();
        match key.trim() {
            "schema" => schema = integer(value)?,
            "sum" => parts.sum = number(value)?,
            "count" => parts.count = number(value)?,
            "z_bucket" => parts.zero_count = number(value)?,
            "z_bucket_w" => parts.zero_threshold = number(value)?,
            "custom_values" => bounds = list(value)?,
            "buckets" => above.1 = list(value)?,
            "offset" => above.0 = integer(value)?,
            "n_buckets" => below.1 = list(value)?,
            "n_offset" => below.0 = integer(value)?,
            "counter_reset_hint" => {
                hint_given = true;
                parts.hint = hint(value)?;
            }
            other => return Err(format!("{other:?} is nothing that a histogram has")),
        }
    }
    parts.schema = if schema == CUSTOM_SCHEMA {
        Schema::Custom(bounds.into())
    } else {
        let unknown = |_| format!("{schema} is not a schema");
        Schema::Exponential(i8::try_from(schema).map_err(unknown)?)
    };
    parts.positive = side(above)?;
    parts.negative = side(below)?;
    let histogram = Histogram::new(parts).map_err(|e| format!("{e}: {text}"))?;
    Ok(Native { histogram: Arc::new(histogram), hint_given })
}

/// `{{…}}`, `{{…}}x3`, `{{…}}+{{…}}x3`, `{{…}}-{{…}}x3`: at most `most` histograms.
pub fn sequence(token: &str, most: usize) -> Result<Vec<Native>, String> {
    let bad = || format!("{token:?} is not a histogram, or several");
    let (values, tail) = token.rsplit_once("}}").ok_or_else(bad)?;
    let repeats = match tail.strip_prefix('x') {
        Some(count) => count.parse().ok().filter(|count| *count < most).ok_or_else(bad)?,
        None if tail.is_empty() => 0,
        None => return Err(bad()),
    };
    let operator = ["}}+{{", "}}-{{"].into_iter().find(|operator| values.contains(operator));
    let Some((start, change)) = operator.and_then(|operator| values.split_once(operator)) else {
        return Ok(vec![read(&format!("{values}}}}}"))?; repeats + 1]);
    };
    let mut current = read(&format!("{start}}}}}"))?;
    let change = read(&format!("{{{{{change}}}}}"))?.histogram;
    let mut out = vec![current.clone()];
    for _ in 0..repeats {
        let next = Arc::make_mut(&mut current.histogram);
        let combined =
            if operator == Some("}}+{{") { next.add(&change) } else { next.subtract(&change) };
        combined.map_err(|e| e.to_string())?;
        out.push(current.clone());
    }
    Ok(out)
}

/// A histogram in the form in which it is written in tests.
pub fn text(histogram: &Histogram) -> String {
    let mut out = format!("{{{{schema:{}", histogram.schema().number());
    let numbers =
        |values: &[f64]| values.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    let mut put = |key: &str, value: String| {
        out.push(' ');
        out.push_str(key);
        out.push(':');
        out.push_str(&value);
    };
    put("count", histogram.count().to_string());
    put("sum", histogram.sum().to_string());
    if histogram.zero_threshold() != 0.0 {
        put("z_bucket_w", histogram.zero_threshold().to_string());
    }
    if histogram.zero_count() != 0.0 {
        put("z_bucket", histogram.zero_count().to_string());
    }
    if let Schema::Custom(bounds) = histogram.schema() {
        put("custom_values", format!("[{}]", numbers(bounds)));
    }
    for (offset, name, side) in [
        ("offset", "buckets", histogram.positive()),
        ("n_offset", "n_buckets", histogram.negative()),
    ] {
        let Some(first) = side.first_index() else { continue };
        put(offset, first.to_string());
        let mut counts = Vec::new();
        let mut next = first;
        for (index, count) in side {
            while next < index {
                counts.push(0.0);
                next += 1;
            }
            counts.push(count);
            next += 1;
        }
        put(name, format!("[{}]", numbers(&counts)));
    }
    out + "}}"
}

fn side((offset, counts): (i32, Vec<f64>)) -> Result<Buckets, String> {
    let length = u32::try_from(counts.len()).map_err(|e| e.to_string())?;
    Buckets::new(&[Span { offset, length }], counts).map_err(|e| e.to_string())
}

fn number(text: &str) -> Result<f64, String> {
    parse_float(text).ok_or_else(|| format!("{text:?} is not a number"))
}

fn integer(text: &str) -> Result<i32, String> {
    text.parse().map_err(|_| format!("{text:?} is not a whole number"))
}

fn list(text: &str) -> Result<Vec<f64>, String> {
    text.trim_matches(['[', ']']).split_whitespace().map(number).collect()
}

fn hint(text: &str) -> Result<ResetHint, String> {
    Ok(match text {
        "unknown" => ResetHint::Unknown,
        "reset" => ResetHint::Reset,
        "not_reset" => ResetHint::NotReset,
        "gauge" => ResetHint::Gauge,
        other => return Err(format!("{other:?} is not a counter_reset_hint")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histograms_are_read_and_written() {
        for written in [
            "{{schema:0 count:0 sum:0}}",
            "{{schema:1 count:12 sum:18.4 z_bucket_w:0.001 z_bucket:2 offset:-1 buckets:[1 0 1] n_offset:3 n_buckets:[4]}}",
            "{{schema:-53 count:1.5 sum:2 custom_values:[5 10] offset:1 buckets:[0.5 1]}}",
        ] {
            assert_eq!(text(&read(written).unwrap().histogram), written);
        }
        let gauge = read("{{ counter_reset_hint:gauge }}").unwrap();
        assert!(gauge.hint_given && gauge.histogram.hint() == ResetHint::Gauge);
        for bad in ["{{schema:99}}", "{{x:1}}", "{{sum}}", "{{buckets:[1}}", "{sum:1}", "{{sum:a}}"]
        {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn histograms_are_repeated_and_added() {
        let counts = |token: &str| -> Vec<f64> {
            sequence(token, 100).unwrap().iter().map(|n| n.histogram.count()).collect()
        };
        assert_eq!(counts("{{count:2}}"), [2.0]);
        assert_eq!(counts("{{count:2}}x2"), [2.0, 2.0, 2.0]);
        assert_eq!(counts("{{count:2}}+{{count:1}}x2"), [2.0, 3.0, 4.0]);
        assert_eq!(counts("{{count:2}}-{{count:1}}x1"), [2.0, 1.0]);
        for bad in ["{{count:2}}x", "{{count:2}}y", "{{count:2", "{{count:2}}x100"] {
            assert!(sequence(bad, 100).is_err(), "{bad}");
        }
    }
}
