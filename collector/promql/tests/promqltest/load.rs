//! Puts the series of a script into memory.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tributary_model::duration;
use tributary_model::histogram::{Histogram, HistogramSample, Parts, Schema};
use tributary_model::label::{Labels, METRIC_NAME};
use tributary_model::number::parse_float;
use tributary_model::sample::{Sample, Timestamp};
use tributary_promql::source::Memory;

use super::run::moment;
use super::series::{self, Item};

/// Loads lines of series. `with_custom`: classic histograms also become native ones with custom bounds.
pub(crate) fn load(
    source: &mut Memory,
    step: Duration,
    lines: &[String],
    with_custom: bool,
) -> Result<(), String> {
    let mut starts: Option<Vec<Option<i64>>> = None;
    let mut loaded = Vec::new();
    for line in lines {
        let first = line.split_whitespace().next().unwrap_or("");
        if first.ends_with("@st") {
            starts = Some(offsets(&line[first.len()..])?);
            continue;
        }
        let (labels, values) = series::split(line)?;
        let items = series::items(values)?;
        let at = |index: usize| moment(step * u32::try_from(index).unwrap());
        // In order of time, as what is known of resets follows from the sample before.
        for (index, item) in items.iter().enumerate() {
            match item {
                Item::Gap => {}
                Item::Float(value) => {
                    source.add(&labels, [Sample { at: at(index), value: *value }]);
                }
                Item::Histogram(native) => {
                    let histogram = Arc::clone(&native.histogram);
                    let sample = HistogramSample { at: at(index), histogram };
                    source.add_histograms(&labels, [sample]);
                }
            }
        }
        if let Some(starts) = starts.take() {
            let known = starts.iter().enumerate().filter_map(|(index, offset)| {
                let at = at(index);
                Some((at, Timestamp::from_millis(at.as_millis() + (*offset)?)))
            });
            source.set_starts(&labels, known);
        }
        loaded.push((labels, items));
    }
    if with_custom {
        for (labels, samples) in custom_histograms(&loaded, step)? {
            source.add_histograms(&labels, samples);
        }
    }
    Ok(())
}

/// Offsets of start timestamps in milliseconds: `_`, `_x3`, `-1m`, `-1mx2`, `-30s-1mx2`.
fn offsets(text: &str) -> Result<Vec<Option<i64>>, String> {
    let mut out = Vec::new();
    for item in text.split_whitespace() {
        let (what, count) = match item.rsplit_once('x') {
            Some((what, count)) => (what, Some(count.parse::<usize>().map_err(|e| e.to_string())?)),
            None => (item, None),
        };
        if what == "_" {
            out.extend(vec![None; count.unwrap_or(1)]);
            continue;
        }
        let second = what.char_indices().skip(1).find(|(_, c)| matches!(c, '+' | '-'));
        let (start, change) = match second {
            Some((at, _)) => (signed(&what[..at])?, signed(&what[at..])?),
            None => (signed(what)?, 0),
        };
        let steps = i64::try_from(count.unwrap_or(0)).map_err(|e| e.to_string())?;
        out.extend((0..=steps).map(|index| Some(start + index * change)));
    }
    Ok(out)
}

fn signed(text: &str) -> Result<i64, String> {
    let (negative, unsigned) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let length = duration::parse(unsigned).map_err(|e| format!("{e}: {text}"))?;
    let millis = i64::try_from(length.as_millis()).map_err(|e| e.to_string())?;
    Ok(if negative { -millis } else { millis })
}

/// A classic histogram at one time, put together from its series.
#[derive(Default)]
struct Classic {
    /// Cumulative counts by bound.
    buckets: Vec<(f64, f64)>,
    count: Option<f64>,
    sum: f64,
}

type Custom = Vec<(Labels, Vec<HistogramSample>)>;

fn custom_histograms(loaded: &[(Labels, Vec<Item>)], step: Duration) -> Result<Custom, String> {
    let mut all: Vec<(Labels, BTreeMap<usize, Classic>)> = Vec::new();
    for (labels, items) in loaded {
        let name = labels.metric_name();
        let suffixes = ["_bucket", "_count", "_sum"];
        let Some(suffix) = suffixes.into_iter().find(|suffix| name.ends_with(suffix)) else {
            continue;
        };
        let bound = labels.get("le").and_then(parse_float);
        if suffix == "_bucket" && bound.is_none_or(f64::is_nan) {
            continue;
        }
        let base = labels.with(METRIC_NAME, &name[..name.len() - suffix.len()]).with("le", "");
        let place = all.iter().position(|(known, _)| *known == base).unwrap_or_else(|| {
            all.push((base, BTreeMap::new()));
            all.len() - 1
        });
        for (index, item) in items.iter().enumerate() {
            let Item::Float(value) = item else { continue };
            let classic = all[place].1.entry(index).or_default();
            match suffix {
                "_bucket" => classic.buckets.push((bound.unwrap(), *value)),
                "_count" => classic.count = Some(*value),
                _ => classic.sum = *value,
            }
        }
    }
    let mut out = Vec::new();
    for (labels, by_time) in all {
        let mut samples = Vec::new();
        for (index, classic) in by_time {
            let histogram = classic.native().map_err(|e| format!("{labels}: {e}"))?;
            let at = moment(step * u32::try_from(index).unwrap());
            samples.push(HistogramSample { at, histogram: Arc::new(histogram) });
        }
        out.push((labels, samples));
    }
    Ok(out)
}

impl Classic {
    fn native(mut self) -> Result<Histogram, String> {
        self.buckets.sort_by(|(a, _), (b, _)| a.total_cmp(b));
        self.buckets.dedup_by_key(|(bound, _)| *bound);
        let highest = self.buckets.last().map_or(0.0, |(_, count)| *count);
        let count = self.count.unwrap_or(highest);
        if self.buckets.last().is_none_or(|(bound, _)| *bound != f64::INFINITY) {
            self.buckets.push((f64::INFINITY, count));
        }
        let mut before = 0.0;
        let mut counts = Vec::new();
        for (index, (_, count)) in self.buckets.iter().enumerate() {
            if *count < before {
                return Err(format!("{count} is less than {before}"));
            }
            counts.push((i32::try_from(index).unwrap(), count - before));
            before = *count;
        }
        let bounds = self.buckets.iter().map(|(bound, _)| *bound).filter(|b| b.is_finite());
        let parts = Parts {
            schema: Schema::Custom(bounds.collect()),
            count,
            sum: self.sum,
            positive: counts.into_iter().collect(),
            ..Parts::default()
        };
        Ok(Histogram::observed(parts).map_err(|e| e.to_string())?.compacted())
    }
}
