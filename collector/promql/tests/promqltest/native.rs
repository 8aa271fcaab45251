//! Native histograms as scripts write them: `{{schema:1 sum:3 count:2 buckets:[1 0 1]}}`.

use std::sync::Arc;

use tributary_model::histogram::{
    Buckets, CUSTOM_SCHEMA, Histogram, Parts, ResetHint, Schema, Span,
};
use tributary_model::number::parse_float;

/// A histogram, and whether the script says what is known of resets.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Native {
    pub(crate) histogram: Arc<Histogram>,
    pub(crate) hint_given: bool,
}

/// Reads what stands between the double braces.
pub(crate) fn read(text: &str) -> Result<Native, String> {
    let mut parts = Parts::default();
    let (mut schema, mut bounds) = (0, Vec::new());
    let (mut offset, mut counts, mut negative_offset, mut negative) = (0, vec![], 0, vec![]);
    let mut hint_given = false;
    let mut rest = text.trim();
    while !rest.is_empty() {
        let (key, after) = rest.split_once(':').ok_or_else(|| format!("no value: {rest}"))?;
        let end = if after.starts_with('[') {
            after.find(']').ok_or("unfinished list")? + 1
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
            "buckets" => counts = list(value)?,
            "offset" => offset = integer(value)?,
            "n_buckets" => negative = list(value)?,
            "n_offset" => negative_offset = integer(value)?,
            "counter_reset_hint" => {
                hint_given = true;
                parts.hint = hint(value)?;
            }
            other => return Err(format!("unknown key {other}")),
        }
    }
    parts.schema = if schema == CUSTOM_SCHEMA {
        Schema::Custom(bounds.into())
    } else {
        Schema::Exponential(i8::try_from(schema).map_err(|e| e.to_string())?)
    };
    parts.positive = side(offset, counts)?;
    parts.negative = side(negative_offset, negative)?;
    let histogram = Histogram::new(parts).map_err(|e| format!("{e}: {text}"))?;
    Ok(Native { histogram: Arc::new(histogram), hint_given })
}

fn side(offset: i32, counts: Vec<f64>) -> Result<Buckets, String> {
    let length = u32::try_from(counts.len()).unwrap();
    Buckets::new(&[Span { offset, length }], counts).map_err(|e| e.to_string())
}

fn number(text: &str) -> Result<f64, String> {
    parse_float(text).ok_or_else(|| format!("not a number: {text}"))
}

fn integer(text: &str) -> Result<i32, String> {
    text.parse().map_err(|_| format!("not a whole number: {text}"))
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
        other => return Err(format!("unknown hint {other}")),
    })
}
