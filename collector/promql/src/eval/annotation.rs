//! Remarks made during an evaluation, each text once, with the place in the query.

use std::collections::HashMap;
use std::fmt::Write as _;

use crate::ast::Span;
use crate::functions::bucket::Forced;
use crate::functions::date::rfc3339;
use crate::functions::remark::{Remark, Remarks};
use tributary_model::number::format_general;

/// How serious a remark is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    Warning,
    Info,
}

#[derive(Debug)]
struct Entry {
    level: Level,
    text: String,
    span: Span,
    corrections: Option<Corrections>,
    /// How often it happened; told only if it is a fault of the data and happened more than once.
    occurrences: usize,
}

/// Monotonicity corrections of `histogram_quantile`, summed up over steps and series.
#[derive(Debug, Clone, Copy)]
struct Corrections {
    first: i64,
    last: i64,
    forced: Forced,
    count: usize,
}

/// The remarks of one evaluation.
#[derive(Debug, Default)]
pub(crate) struct Annotations {
    entries: Vec<Entry>,
    by_text: HashMap<String, usize>,
}

impl Annotations {
    /// Adds a warning, unless there is one with the same text.
    pub(crate) fn warning(&mut self, text: &str, span: Span) {
        self.entry(Level::Warning, text, span);
    }

    /// Adds an info, unless there is one with the same text.
    pub(crate) fn info(&mut self, text: &str, span: Span) {
        self.entry(Level::Info, text, span);
    }

    /// A quantile outside 0…1.
    pub(crate) fn bad_quantile(&mut self, q: f64, span: Span) {
        let q = format_general(q);
        self.warning(&format!("quantile value should be between 0 and 1, got {q}"), span);
    }

    /// Counts of a classic histogram at `at` fell from bucket to bucket and were corrected.
    pub(crate) fn forced_monotonic(&mut self, metric: &str, at: i64, forced: Forced, span: Span) {
        let text = with_metric_name(
            "input to histogram_quantile needed to be fixed for monotonicity (see https://prometheus.io/docs/prometheus/latest/querying/functions/#histogram_quantile)",
            metric,
        );
        let index = self.entry(Level::Info, &text, span);
        let Some(entry) = self.entries.get_mut(index) else { return };
        match &mut entry.corrections {
            Some(all) => {
                all.first = all.first.min(at);
                all.last = all.last.max(at);
                all.forced.lowest = all.forced.lowest.min(forced.lowest);
                all.forced.highest = all.forced.highest.max(forced.highest);
                all.forced.largest = all.forced.largest.max(forced.largest);
                all.count += 1;
            }
            none => *none = Some(Corrections { first: at, last: at, forced, count: 1 }),
        }
    }

    /// What functions remarked about the histograms of a metric, or about since when its samples count.
    pub(crate) fn remarks(&mut self, remarks: &mut Remarks, metric: &str, span: Span) {
        for (remark, calls) in remarks.drain() {
            let (level, text) = remark_text(remark, metric);
            let index = self.entry(level, &text, span);
            if let (Remark::StartsOverlap, Some(entry)) = (remark, self.entries.get_mut(index)) {
                entry.occurrences += calls;
            }
        }
    }

    fn entry(&mut self, level: Level, text: &str, span: Span) -> usize {
        if let Some(index) = self.by_text.get(text) {
            return *index;
        }
        let index = self.entries.len();
        self.by_text.insert(text.to_owned(), index);
        self.entries.push(Entry {
            level,
            text: text.to_owned(),
            span,
            corrections: None,
            occurrences: 0,
        });
        index
    }

    /// Warnings and infos, with positions in `query` if it is not empty.
    pub(crate) fn render(&self, query: &str) -> (Vec<String>, Vec<String>) {
        let of = |level: Level| {
            let entries = self.entries.iter().filter(|entry| entry.level == level);
            entries.map(|entry| entry.render(query)).collect()
        };
        (of(Level::Warning), of(Level::Info))
    }
}

impl Entry {
    fn render(&self, query: &str) -> String {
        let level = match self.level {
            Level::Warning => "PromQL warning",
            Level::Info => "PromQL info",
        };
        let mut out = format!("{level}: {}", self.text);
        if let Some(Corrections { first, last, forced, count }) = self.corrections {
            let _ = write!(
                out,
                ", from buckets {} to {}, with a max diff of {}, over {count} samples from {} to {}",
                format_general(forced.lowest),
                format_general(forced.highest),
                two_digits(forced.largest),
                rfc3339(first),
                rfc3339(last),
            );
        }
        if self.occurrences > 1 && !query.is_empty() {
            let _ = write!(out, " ({} occurrences)", self.occurrences);
        }
        if !query.is_empty() {
            let before = query.as_bytes().get(..self.span.start).unwrap_or(query.as_bytes());
            let line = before.split(|b| *b == b'\n').count();
            let column = before.rsplit(|b| *b == b'\n').next().map_or(0, <[u8]>::len) + 1;
            let _ = write!(out, " ({line}:{column})");
        }
        out
    }
}

fn remark_text(remark: Remark, metric: &str) -> (Level, String) {
    let quoted = tributary_model::quote::quote(metric);
    match remark {
        Remark::MixedSamples => (
            Level::Warning,
            format!("encountered a mix of histograms and floats for metric name {quoted}"),
        ),
        Remark::MixedSchemas => (
            Level::Warning,
            format!(
                "vector contains a mix of histograms with exponential and custom buckets schemas for metric name {quoted}"
            ),
        ),
        Remark::NotCounter => {
            (Level::Warning, format!("this native histogram metric is not a counter: {quoted}"))
        }
        Remark::NotGauge => {
            (Level::Warning, format!("this native histogram metric is not a gauge: {quoted}"))
        }
        Remark::HistogramsIgnored => (
            Level::Info,
            format!(
                "ignored histograms in a range containing both floats and histograms for metric name {quoted}"
            ),
        ),
        Remark::Reconciled(operation) => (
            Level::Info,
            format!("mismatched custom buckets were reconciled during {}", operation.as_str()),
        ),
        Remark::HintsCollide(operation) => (
            Level::Warning,
            format!("conflicting counter resets during histogram {}", operation.as_str()),
        ),
        Remark::StartsOverlap => (
            Level::Warning,
            format!(
                "sample has start time that overlaps with previous sample timestamp for metric {quoted}"
            ),
        ),
        Remark::QuantileNan => (
            Level::Info,
            with_metric_name(
                "input to histogram_quantile has NaN observations, result is NaN",
                metric,
            ),
        ),
        Remark::QuantileSkewed => (
            Level::Info,
            with_metric_name(
                "input to histogram_quantile has NaN observations, result is skewed higher",
                metric,
            ),
        ),
        Remark::FractionNan => (
            Level::Info,
            with_metric_name(
                "input to histogram_fraction has NaN observations, which are excluded from all fractions",
                metric,
            ),
        ),
        Remark::BadQuantile(bits) => {
            let q = format_general(f64::from_bits(bits));
            (Level::Warning, format!("quantile value should be between 0 and 1, got {q}"))
        }
    }
}

/// Adds ` for metric name "…"` if there is one.
pub(crate) fn with_metric_name(text: &str, metric: &str) -> String {
    if metric.is_empty() {
        text.to_owned()
    } else {
        format!("{text} for metric name {}", tributary_model::quote::quote(metric))
    }
}

/// A number with two significant digits, as Go's `%.2g` writes it.
fn two_digits(value: f64) -> String {
    let text = format!("{value:.1e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    match exponent.parse::<i32>() {
        Ok(-4..=1) => text.parse::<f64>().map_or(text.clone(), |rounded| rounded.to_string()),
        Ok(exponent) => {
            let mantissa = mantissa.trim_end_matches('0').trim_end_matches('.');
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{mantissa}e{sign}{:02}", exponent.abs())
        }
        Err(_) => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_kept_once_with_their_place() {
        let mut annotations = Annotations::default();
        annotations.bad_quantile(1.5, Span::new(6, 7));
        annotations.bad_quantile(1.5, Span::new(0, 1));
        annotations.info("careful", Span::new(0, 1));
        let (warnings, infos) = annotations.render("sum(\na)");
        assert_eq!(
            warnings,
            ["PromQL warning: quantile value should be between 0 and 1, got 1.5 (2:2)"]
        );
        assert_eq!(infos, ["PromQL info: careful (1:1)"]);
    }

    #[test]
    fn corrections_are_summed_up() {
        let mut annotations = Annotations::default();
        for (at, lowest) in [(60_000, 2.0), (120_000, 1.0)] {
            let forced = Forced { lowest, highest: 5.0, largest: 12.34 };
            annotations.forced_monotonic("m", at, forced, Span::new(0, 1));
        }
        let (_, infos) = annotations.render("");
        let expected = "for metric name \"m\", from buckets 1 to 5, with a max diff of 12, over 2 samples from 1970-01-01T00:01:00Z to 1970-01-01T00:02:00Z";
        assert!(infos[0].ends_with(expected), "{}", infos[0]);
    }

    #[test]
    fn two_digits_as_in_go() {
        for (value, text) in
            [(0.123, "0.12"), (1234.0, "1.2e+03"), (2.0, "2"), (0.000_012, "1.2e-05"), (10.0, "10")]
        {
            assert_eq!(two_digits(value), text);
        }
    }
}
