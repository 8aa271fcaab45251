//! Reads what `/metrics` serves: the Prometheus text format 0.0.4 and OpenMetrics 1.0, a line at a time.
//!
//! Nothing is copied until [`Row::labels`] is asked for, so a scraper that has seen a series before needs only its
//! text. Accepts and refuses what Prometheus does; faults never quote a label's value, for they end up in logs.

mod row;

use std::borrow::Cow;
use std::collections::HashMap;

use crate::label::{Labels, is_legacy_metric_name};
use crate::number::parse_float;
use crate::sample::Timestamp;
use crate::series::{Metadata, MetricType};

use row::{split_quoted, unescape};

/// Longest line, in bytes; a longer one is a fault.
pub const MAX_LINE_BYTES: usize = 256 << 10;
/// Most labels of one series; more are a fault.
pub const MAX_ROW_LABELS: usize = 1024;
/// The media type of OpenMetrics.
pub const OPENMETRICS_TYPE: &str = "application/openmetrics-text";

/// Which of the two text formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// The Prometheus text format 0.0.4: timestamps in milliseconds, free white space.
    Text,
    /// OpenMetrics 1.0: timestamps in seconds, units, exemplars, a final `# EOF`.
    OpenMetrics,
}

impl Format {
    /// The format of a `Content-Type` header; anything but OpenMetrics is read as the Prometheus text format.
    pub fn from_content_type(header: &str) -> Self {
        let media = header.split(';').next().unwrap_or("").trim();
        if media.eq_ignore_ascii_case(OPENMETRICS_TYPE) { Self::OpenMetrics } else { Self::Text }
    }
}

/// What a line says.
#[derive(Debug, Clone, PartialEq)]
pub enum Entry<'a> {
    /// `# TYPE metric kind`
    Type(Cow<'a, str>, MetricType),
    /// `# HELP metric text`
    Help(Cow<'a, str>, Cow<'a, str>),
    /// `# UNIT metric unit` (OpenMetrics)
    Unit(Cow<'a, str>, &'a str),
    /// A sample.
    Row(Row<'a>),
}

/// One sample's line.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Row<'a> {
    /// The series as it is written: name and labels. The same series may be written in several ways.
    pub series: &'a str,
    /// The value.
    pub value: f64,
    /// The timestamp, where the line has one.
    pub at: Option<Timestamp>,
    /// The line, from 1.
    pub line: usize,
    /// The type that was declared last; says which labels hold numbers.
    kind: MetricType,
}

/// Why a text cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct ExpositionError {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong there.
    pub what: &'static str,
}

/// Reads a text entry by entry; after a fault it yields nothing more.
#[derive(Debug, Clone)]
pub struct Parser<'a> {
    rest: &'a str,
    format: Format,
    line: usize,
    kind: MetricType,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Reading,
    /// `# EOF` was read.
    Ended,
    Failed,
}

impl<'a> Parser<'a> {
    /// A parser at the start of `text`.
    pub fn new(text: &'a str, format: Format) -> Self {
        Self { rest: text, format, line: 0, kind: MetricType::Unknown, state: State::Reading }
    }

    fn step(&mut self) -> Result<Option<Entry<'a>>, &'static str> {
        loop {
            let Some(line) = self.take_line()? else { return Ok(None) };
            if self.state == State::Ended {
                return Err("text after # EOF");
            }
            let mut entry = match self.format {
                Format::Text => text_line(line, self.line)?,
                Format::OpenMetrics if line == "# EOF" => {
                    self.state = State::Ended;
                    None
                }
                Format::OpenMetrics => openmetrics_line(line, self.line)?,
            };
            match &mut entry {
                None => continue,
                Some(Entry::Type(_, kind)) => self.kind = *kind,
                Some(Entry::Row(row)) => row.kind = self.kind,
                Some(_) => {}
            }
            return Ok(entry);
        }
    }

    fn take_line(&mut self) -> Result<Option<&'a str>, &'static str> {
        if self.rest.is_empty() {
            return if self.format == Format::OpenMetrics && self.state != State::Ended {
                Err("the text ends without # EOF")
            } else {
                Ok(None)
            };
        }
        self.line += 1;
        let (line, rest) = match self.rest.split_once('\n') {
            Some(split) => split,
            None if self.rest == "# EOF" => (self.rest, ""),
            None => return Err("the last line does not end"),
        };
        if line.len() > MAX_LINE_BYTES {
            return Err("the line is too long");
        }
        self.rest = rest;
        Ok(Some(line))
    }
}

impl<'a> Iterator for Parser<'a> {
    type Item = Result<Entry<'a>, ExpositionError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.state == State::Failed {
            return None;
        }
        let result = self.step();
        if result.is_err() {
            self.state = State::Failed;
            self.line = self.line.max(1);
        }
        result.map_err(|what| ExpositionError { line: self.line, what }).transpose()
    }
}

fn text_line(line: &str, number: usize) -> Result<Option<Entry<'_>>, &'static str> {
    let trimmed = line.trim_start_matches(BLANK);
    let Some(comment) = trimmed.strip_prefix('#') else {
        if trimmed.is_empty() {
            return Ok(None);
        }
        return row(trimmed, number, BLANK, text_tail).map(|row| Some(Entry::Row(row)));
    };
    // As Prometheus: without a blank after the hash it is a plain comment.
    let words = comment.trim_start_matches(BLANK);
    if words.len() == comment.len() {
        return Ok(None);
    }
    let Some((keyword, after)) = words.split_once(BLANK) else { return Ok(None) };
    if keyword != "HELP" && keyword != "TYPE" {
        return Ok(None);
    }
    let (metric, text) = metric_of_comment(after.trim_start_matches(BLANK))?;
    let text = text.trim_start_matches(BLANK);
    if keyword == "HELP" {
        return Ok(Some(Entry::Help(metric, unescape(text, false))));
    }
    let kind = match text.trim_end_matches(BLANK) {
        "counter" => MetricType::Counter,
        "gauge" => MetricType::Gauge,
        "histogram" => MetricType::Histogram,
        "summary" => MetricType::Summary,
        "untyped" | "unknown" => MetricType::Unknown,
        _ => return Err("not a metric type of the text format"),
    };
    Ok(Some(Entry::Type(metric, kind)))
}

const BLANK: [char; 2] = [' ', '\t'];

fn openmetrics_line(line: &str, number: usize) -> Result<Option<Entry<'_>>, &'static str> {
    let Some(comment) = line.strip_prefix("# ") else {
        if line.is_empty() {
            return Err("an empty line");
        }
        return row(line, number, [' ', ' '], openmetrics_tail).map(|row| Some(Entry::Row(row)));
    };
    let (keyword, after) = comment.split_once(' ').ok_or("expected HELP, TYPE, UNIT or EOF")?;
    if !matches!(keyword, "HELP" | "TYPE" | "UNIT") {
        return Err("expected HELP, TYPE, UNIT or EOF");
    }
    let (metric, text) = metric_of_comment(after)?;
    let text = text.strip_prefix(' ').unwrap_or(text);
    Ok(Some(match keyword {
        "HELP" => Entry::Help(metric, unescape(text, true)),
        "TYPE" => {
            if text == "untyped" {
                return Err("not a metric type of OpenMetrics");
            }
            Entry::Type(metric, text.parse().map_err(|_| "not a metric type of OpenMetrics")?)
        }
        _ => {
            let fits =
                text.is_empty() || metric.strip_suffix(text).is_some_and(|m| m.ends_with('_'));
            if !fits {
                return Err("the unit is not a suffix of the metric's name");
            }
            Entry::Unit(metric, text)
        }
    }))
}

/// The metric's name at the start of a comment's text, plain or quoted, and what follows it.
fn metric_of_comment(text: &str) -> Result<(Cow<'_, str>, &str), &'static str> {
    if text.starts_with('"') {
        let (quoted, rest) = split_quoted(text)?;
        return Ok((unescape(quoted, true), rest));
    }
    let end = text.find(BLANK).unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    if is_legacy_metric_name(name) { Ok((name.into(), rest)) } else { Err("not a metric name") }
}

type Tail = (f64, Option<Timestamp>);

/// Splits a sample's line where the series ends, and has `tail` read the rest.
fn row<'a>(
    line: &'a str,
    number: usize,
    blank: [char; 2],
    tail: fn(&'a str) -> Result<Tail, &'static str>,
) -> Result<Row<'a>, &'static str> {
    let head = line.find(['{', blank[0], blank[1]]).ok_or("expected a value")?;
    let mut end = head;
    // The text format lets blanks stand between name and brace.
    let gap = line.get(head..).unwrap_or("");
    let open = gap.len() - gap.trim_start_matches(BLANK).len();
    let braced = gap.get(open..).unwrap_or("");
    if braced.starts_with('{') {
        if open > 0 && blank[1] == ' ' {
            return Err("a blank before the labels");
        }
        end = head + open + labels_length(braced)?;
    }
    let (series, rest) = line.split_at(end);
    let (value, at) = tail(rest)?;
    Ok(Row { series, value, at, line: number, kind: MetricType::Unknown })
}

/// Bytes of `{…}`: up to the brace that is not inside quotes.
fn labels_length(text: &str) -> Result<usize, &'static str> {
    let bytes = text.as_bytes();
    let mut at = 1;
    let mut quoted = false;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'\\' if quoted => at += 1,
            b'"' => quoted = !quoted,
            b'}' if !quoted => return Ok(at + 1),
            _ => {}
        }
        at += 1;
    }
    Err(if quoted { "a quoted text does not end" } else { "the labels do not end with '}'" })
}

fn text_tail(rest: &str) -> Result<Tail, &'static str> {
    let mut words = rest.split(BLANK).filter(|word| !word.is_empty());
    let value = number(words.next().ok_or("expected a value")?)?;
    let at = words
        .next()
        .map(|word| {
            word.parse().map(Timestamp::from_millis).map_err(|_| "expected milliseconds since 1970")
        })
        .transpose()?;
    if words.next().is_some() {
        return Err("expected the end of the line");
    }
    Ok((value, at))
}

fn openmetrics_tail(rest: &str) -> Result<Tail, &'static str> {
    let rest = rest.strip_prefix(' ').ok_or("expected a blank and a value")?;
    let (sample, exemplar) =
        rest.split_once(" # ").map_or((rest, None), |(sample, exemplar)| (sample, Some(exemplar)));
    let (value, at) = value_and_seconds(sample)?;
    if let Some(exemplar) = exemplar {
        let length = if exemplar.starts_with('{') { labels_length(exemplar)? } else { 0 };
        let after = exemplar.get(length..).and_then(|text| text.strip_prefix(' '));
        value_and_seconds(
            after.filter(|_| length > 0).ok_or("expected an exemplar's labels and value")?,
        )?;
    }
    Ok((value, at))
}

fn value_and_seconds(text: &str) -> Result<Tail, &'static str> {
    let (value, seconds) = text.split_once(' ').map_or((text, None), |(v, s)| (v, Some(s)));
    let at = seconds.map(|word| timestamp_in_seconds(word).ok_or("expected seconds since 1970"));
    Ok((number(value)?, at.transpose()?))
}

/// Seconds with fraction, to whole milliseconds as Prometheus cuts them.
fn timestamp_in_seconds(text: &str) -> Option<Timestamp> {
    let millis = plain_float(text)? * 1000.0;
    if !millis.is_finite() || millis.abs() >= 9.2e18 {
        return None;
    }
    #[expect(
        clippy::cast_possible_truncation,
        reason = "finite and within i64; the fraction is cut"
    )]
    let whole = millis as i64;
    Some(Timestamp::from_millis(whole))
}

fn number(text: &str) -> Result<f64, &'static str> {
    plain_float(text).ok_or("the value is not a number")
}

/// Both formats keep to floats without hexadecimal digits, binary exponents and underscores.
fn plain_float(text: &str) -> Option<f64> {
    (!text.contains(['x', 'X', 'p', 'P', '_'])).then(|| parse_float(text)).flatten()
}

/// Types, helps and units as they come by, put together per metric, in order of first mention.
#[derive(Debug, Default)]
pub struct Families {
    found: Vec<Metadata>,
    places: HashMap<String, usize>,
}

impl Families {
    /// Takes note of an entry; samples say nothing here.
    pub fn note(&mut self, entry: &Entry<'_>) {
        match entry {
            Entry::Type(metric, kind) => self.edit(metric, |found| found.kind = *kind),
            Entry::Help(metric, help) => self.edit(metric, |found| found.help = help.to_string()),
            Entry::Unit(metric, unit) => {
                self.edit(metric, |found| (*unit).clone_into(&mut found.unit));
            }
            Entry::Row(_) => {}
        }
    }

    /// What was found.
    pub fn into_metadata(self) -> Vec<Metadata> {
        self.found
    }

    fn edit(&mut self, metric: &str, change: impl FnOnce(&mut Metadata)) {
        let place = *self.places.entry(metric.to_owned()).or_insert_with(|| {
            self.found.push(Metadata { metric: metric.to_owned(), ..Metadata::default() });
            self.found.len() - 1
        });
        if let Some(found) = self.found.get_mut(place) {
            change(found);
        }
    }
}

/// A whole text, read.
#[derive(Debug, Default)]
pub struct Exposition {
    /// The samples with their own timestamps, in order.
    pub rows: Vec<(Labels, f64, Option<Timestamp>)>,
    /// Types, helps and units.
    pub metadata: Vec<Metadata>,
}

/// Reads a whole text at once; refuses all of it for one fault, as Prometheus does.
pub fn read(text: &str, format: Format) -> Result<Exposition, ExpositionError> {
    let mut families = Families::default();
    let mut rows = Vec::new();
    for entry in Parser::new(text, format) {
        let entry = entry?;
        families.note(&entry);
        if let Entry::Row(row) = entry {
            rows.push((row.labels()?, row.value, row.at));
        }
    }
    Ok(Exposition { rows, metadata: families.into_metadata() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rows(text: &str, format: Format) -> Result<Vec<String>, String> {
        let read = read(text, format).map_err(|e| e.to_string())?;
        Ok(read
            .rows
            .iter()
            .map(|(labels, value, at)| {
                let at = at.map(|at| format!(" @{at}")).unwrap_or_default();
                format!("{labels} {}{at}", crate::number::format_plain(*value))
            })
            .collect())
    }

    #[test]
    fn reads_rows_of_the_text_format() {
        for (line, expected) in [
            ("up 1", "up 1"),
            ("up\t1\t", "up 1"),
            ("  up 1 1700000000000", "up 1 @1700000000000"),
            ("up{} -5 -1", "up -5 @-1"),
            ("up {a=\"b\"} +Inf", "up{a=\"b\"} +Inf"),
            ("a:b{ x = \"1\" , y=\"2\", } NaN", "a:b{x=\"1\", y=\"2\"} NaN"),
            ("a{b=\"}\\\"\\\\\\n\\x\"}1e3", "a{b=\"}\\\"\\\\\\n\\\\x\"} 1000"),
            ("{\"a.b\",c=\"d\"} .5", "{__name__=\"a.b\", c=\"d\"} 0.5"),
            ("{\"ä\\\"\",\"c d\"=\"e\"} 1", "{__name__=\"ä\\\"\", \"c d\"=\"e\"} 1"),
            ("a{b=\"\"} 1", "a 1"),
            ("a{b=\"ü\"} 1", "a{b=\"ü\"} 1"),
        ] {
            assert_eq!(rows(&format!("{line}\n"), Format::Text).unwrap(), [expected], "{line}");
        }
    }

    #[test]
    fn numbers_in_labels_are_normalized_by_type() {
        for (kind, series, expected) in [
            ("histogram", "a_bucket{le=\"1\"}", "a_bucket{le=\"1.0\"} 0"),
            ("histogram", "a_bucket{le=\"+Inf\"}", "a_bucket{le=\"+Inf\"} 0"),
            ("histogram", "a_bucket{le=\"0.250\"}", "a_bucket{le=\"0.25\"} 0"),
            ("histogram", "a_bucket{le=\"1000000\"}", "a_bucket{le=\"1e+06\"} 0"),
            ("histogram", "a_bucket{le=\"123456\"}", "a_bucket{le=\"123456.0\"} 0"),
            ("histogram", "a_bucket{le=\"0.00001\"}", "a_bucket{le=\"1e-05\"} 0"),
            (
                "histogram",
                "a_bucket{le=\"x\",quantile=\"1\"}",
                "a_bucket{le=\"x\", quantile=\"1\"} 0",
            ),
            ("summary", "a{quantile=\"0\",le=\"1\"}", "a{le=\"1\", quantile=\"0.0\"} 0"),
            ("gauge", "a{le=\"1\"}", "a{le=\"1\"} 0"),
        ] {
            let text = format!("# TYPE a {kind}\n{series} 0\n");
            assert_eq!(rows(&text, Format::Text).unwrap(), [expected]);
        }
    }

    #[test]
    fn faults_of_the_text_format_have_lines() {
        for (text, message) in [
            ("up", "line 1: the last line does not end"),
            ("up 1\nup 1", "line 2: the last line does not end"),
            ("up\n", "line 1: expected a value"),
            ("up \n", "line 1: expected a value"),
            ("up 0x1p2\n", "line 1: the value is not a number"),
            ("up 1_0\n", "line 1: the value is not a number"),
            ("up 1 1.5\n", "line 1: expected milliseconds since 1970"),
            ("up 1 2 3\n", "line 1: expected the end of the line"),
            ("\n\nü 1\n", "line 3: not a metric name"),
            ("a{b} 1\n", "line 1: expected '=' after a label name"),
            ("a{b=c} 1\n", "line 1: expected a quoted text"),
            ("a{b=\"c} 1\n", "line 1: a quoted text does not end"),
            ("a{b=\"c\" 1\n", "line 1: the labels do not end with '}'"),
            ("a{b=\"c\" d=\"e\"} 1\n", "line 1: expected ',' or '}' after a label"),
            ("a{b:c=\"c\"} 1\n", "line 1: not a label name"),
            ("a{\"\"=\"c\"} 1\n", "line 1: a label has an empty name"),
            ("a{,} 1\n", "line 1: not a label name"),
            ("a{b=\"c\",b=\"\"} 1\n", "line 1: a label name is given twice, or the metric name is"),
            ("a{\"b\"} 1\n", "line 1: a label name is given twice, or the metric name is"),
            ("{a=\"b\"} 1\n", "line 1: the sample has no metric name"),
            ("# TYPE a info\n", "line 1: not a metric type of the text format"),
            ("# HELP ä x\n", "line 1: not a metric name"),
        ] {
            assert_eq!(rows(text, Format::Text).unwrap_err(), message, "{text:?}");
        }
    }

    #[test]
    fn reads_rows_of_openmetrics() {
        for (line, expected) in [
            ("a_total 1 1700000000.25", "a_total 1 @1700000000250"),
            ("a_total{x=\"y\"} 1", "a_total{x=\"y\"} 1"),
            ("a_created 1.7e9", "a_created 1700000000"),
            ("a_bucket{le=\"1.0\"} 1 # {id=\"x # y\"} 0.5 1.5", "a_bucket{le=\"1.0\"} 1"),
            ("a_bucket{le=\"#\"} 1 2 # {} 3", "a_bucket{le=\"#\"} 1 @2000"),
        ] {
            let text = format!("{line}\n# EOF\n");
            assert_eq!(rows(&text, Format::OpenMetrics).unwrap(), [expected], "{line}");
        }
        assert!(rows("# EOF", Format::OpenMetrics).unwrap().is_empty());
    }

    #[test]
    fn faults_of_openmetrics_have_lines() {
        for (text, message) in [
            ("", "line 1: the text ends without # EOF"),
            ("a 1\n", "line 1: the text ends without # EOF"),
            ("# EOF\na 1\n", "line 2: text after # EOF"),
            ("\n# EOF\n", "line 1: an empty line"),
            ("a  1\n# EOF\n", "line 1: the value is not a number"),
            ("a {b=\"c\"} 1\n# EOF\n", "line 1: a blank before the labels"),
            ("a 1 NaN\n# EOF\n", "line 1: expected seconds since 1970"),
            ("a 1 # x\n# EOF\n", "line 1: expected an exemplar's labels and value"),
            ("# a comment\n# EOF\n", "line 1: expected HELP, TYPE, UNIT or EOF"),
            ("# TYPE a untyped\n# EOF\n", "line 1: not a metric type of OpenMetrics"),
            (
                "# UNIT a_bytes seconds\n# EOF\n",
                "line 1: the unit is not a suffix of the metric's name",
            ),
        ] {
            assert_eq!(rows(text, Format::OpenMetrics).unwrap_err(), message, "{text:?}");
        }
    }

    #[test]
    fn metadata_is_put_together() {
        let text = "# TYPE a_seconds counter\n# UNIT a_seconds seconds\n# HELP a_seconds Say \\\"it\\\".\n# HELP b \n# EOF\n";
        let found = read(text, Format::OpenMetrics).unwrap().metadata;
        assert_eq!(
            found,
            [
                Metadata {
                    metric: "a_seconds".into(),
                    kind: MetricType::Counter,
                    help: "Say \"it\".".into(),
                    unit: "seconds".into(),
                },
                Metadata { metric: "b".into(), ..Metadata::default() },
            ]
        );
        let text =
            "#TYPE x y\n# just words\n# HELP\n# HELP a  two \\\\ and \\n \\\"\n# TYPE a untyped\n";
        let found = read(text, Format::Text).unwrap().metadata;
        assert_eq!(found[0].help, "two \\ and \n \\\"");
        assert_eq!(found[0].kind, MetricType::Unknown);
    }

    #[test]
    fn content_types() {
        for (header, format) in [
            ("text/plain; version=0.0.4; charset=utf-8", Format::Text),
            ("application/openmetrics-text; version=1.0.0", Format::OpenMetrics),
            ("", Format::Text),
        ] {
            assert_eq!(Format::from_content_type(header), format);
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in "([a{}=~!\"'`, \\\\ä#\n\t01.e-]|# EOF\n|# HELP a |# TYPE a |\"\\} 1\n){0,24}") {
            let _ = read(&text, Format::Text);
            let _ = read(&text, Format::OpenMetrics);
        }

        #[test]
        fn what_labels_print_is_read_back(pairs in proptest::collection::btree_map("[a-c]{1,2}|ä[ .b]|__name__", "[a\"\\\\\nü}{,=]{1,4}", 0..4)) {
            let mut pairs = pairs;
            pairs.entry("__name__".to_owned()).or_insert_with(|| "up".to_owned());
            let labels = Labels::from_pairs(pairs).unwrap();
            let text = format!("{labels} 1\n");
            let read = read(&text, Format::Text).unwrap();
            prop_assert_eq!(&read.rows[0].0, &labels);
        }
    }
}
