//! How much a series of native histograms rose or fell in a window: `rate` and its relatives.

use std::sync::Arc;

use tributary_model::histogram::{
    Combined, Histogram, HistogramSample, MixedSchemas, Parts, ResetHint, Schema,
};

use super::counter::Stretch;
use super::mixed::MixedWindow;
use super::remark::{Operation, Remark, Remarks};
use super::start::Counted;

/// Adds another histogram; false, and a remark, if they have nothing in common.
pub(crate) fn add(to: &mut Histogram, other: &Histogram, remarks: &mut Remarks) -> bool {
    note(to.add(other), Operation::Addition, remarks)
}

/// Subtracts another histogram; false, and a remark, if they have nothing in common.
pub(crate) fn subtract(from: &mut Histogram, other: &Histogram, remarks: &mut Remarks) -> bool {
    note(from.subtract(other), Operation::Subtraction, remarks)
}

/// Hints are looked at on their own here, so their collisions say nothing.
fn note(
    combined: Result<Combined, MixedSchemas>,
    operation: Operation,
    remarks: &mut Remarks,
) -> bool {
    let Ok(combined) = combined else {
        remarks.add(Remark::MixedSchemas);
        return false;
    };
    if combined.bounds_differ {
        remarks.add(Remark::Reconciled(operation));
    }
    true
}

/// `rate`, `increase` and `delta` of histograms. Stretched to the edges as numbers are, by the count of observations.
pub(crate) fn extrapolated(
    window: &mut MixedWindow<'_>,
    counter: bool,
    per_second: bool,
) -> Option<Histogram> {
    let [first, ..] = window.histograms else { return None };
    let last = window.histograms.last()?;
    let stretch = Stretch {
        start: window.start,
        end: window.end,
        first: first.at.as_millis(),
        last: last.at.as_millis(),
        gaps: window.histograms.len() - 1,
    };
    let mut result = match window.histograms {
        [_] => None,
        _ => Some(rise(window, counter)?),
    };
    let since = window.histogram_starts.first().map_or(0, |start| start.as_millis());
    let known = counter && since != 0 && since > window.start && since < stretch.first;
    let factor = if known {
        match &mut result {
            Some(result) => {
                if !add(result, &first.histogram, window.remarks) {
                    return None;
                }
            }
            none => *none = Some(Histogram::clone(&first.histogram)),
        }
        stretch.factor_since(since)
    } else {
        let (rise, before) = (result.as_ref()?.count(), first.histogram.count());
        let from_zero = counter && rise > 0.0 && before >= 0.0;
        stretch.factor(from_zero.then_some((before, rise)), false)
    };
    let factor = if per_second { factor / window.range_seconds() } else { factor };
    result.map(|result| result.times(factor))
}

/// The last histogram less the first, with what resets have taken in between.
fn rise(window: &mut MixedWindow<'_>, counter: bool) -> Option<Histogram> {
    let samples = window.histograms;
    let [first, second, ..] = samples else { return None };
    let last = samples.last()?;
    let is_gauge = |sample: &HistogramSample| sample.histogram.hint() == ResetHint::Gauge;
    if counter && (is_gauge(first) || is_gauge(last)) {
        window.remarks.add(Remark::NotCounter);
    }
    let mut before = Arc::clone(&first.histogram);
    let began_anew = |index: usize, before: &Histogram| {
        let (Some(previous), Some(sample)) = (samples.get(index - 1), samples.get(index)) else {
            return false;
        };
        let starts = window.histogram_starts;
        let counted = |sample: &HistogramSample, at| Counted::new(sample.at, starts, at);
        counted(sample, index).is_reset_after(counted(previous, index - 1))
            || sample.histogram.is_reset_after(before)
    };
    if counter && began_anew(1, &before) {
        // The first histogram does not matter, whatever its buckets are.
        before = Arc::new(nothing_like(&second.histogram));
    }
    let custom = before.schema().is_custom();
    if last.histogram.schema().is_custom() != custom {
        window.remarks.add(Remark::MixedSchemas);
        return None;
    }
    let mut coarsest = before.schema().number().min(last.histogram.schema().number());
    let inner = samples.get(1..samples.len() - 1).unwrap_or_default();
    for sample in inner.iter().filter(|_| counter) {
        if is_gauge(sample) {
            window.remarks.add(Remark::NotCounter);
        }
        if sample.histogram.schema().is_custom() != custom {
            window.remarks.only(Remark::MixedSchemas);
            return None;
        }
        coarsest = coarsest.min(sample.histogram.schema().number());
    }
    let mut result = Histogram::clone(&last.histogram);
    if let (false, Ok(schema)) = (custom, i8::try_from(coarsest)) {
        result.coarsen(schema);
    }
    if !subtract(&mut result, &before, window.remarks) {
        return None;
    }
    if counter {
        let mut overlaps = false;
        for (index, sample) in samples.iter().enumerate().skip(1) {
            overlaps = overlaps || overlap(window, index);
            if began_anew(index, &before) && !add(&mut result, &before, window.remarks) {
                return None;
            }
            before = Arc::clone(&sample.histogram);
        }
        if overlaps {
            window.remarks.add(Remark::StartsOverlap);
        }
    } else if !is_gauge(first) || !is_gauge(last) {
        window.remarks.add(Remark::NotGauge);
    }
    Some(result.with_hint(ResetHint::Gauge).compacted())
}

fn overlap(window: &MixedWindow<'_>, index: usize) -> bool {
    let counted = |at: usize| {
        let sample = window.histograms.get(at)?;
        Some(Counted::new(sample.at, window.histogram_starts, at))
    };
    matches!((counted(index - 1), counted(index)), (Some(a), Some(b)) if b.overlaps(a))
}

/// A histogram of no observations with the same schema.
fn nothing_like(histogram: &Histogram) -> Histogram {
    let schema: Schema = histogram.schema().clone();
    Histogram::new(Parts { schema, ..Parts::default() }).unwrap_or_default()
}

/// `irate` and `idelta` of the last two histograms.
pub(crate) fn last_two(
    before: (&Histogram, Counted),
    last: (&Histogram, Counted),
    counter: bool,
    remarks: &mut Remarks,
) -> Option<Histogram> {
    let both_gauges = [before.0, last.0].map(|h| h.hint() == ResetHint::Gauge);
    match (counter, both_gauges) {
        (true, [true, _] | [_, true]) => remarks.add(Remark::NotCounter),
        (false, [false, _] | [_, false]) => remarks.add(Remark::NotGauge),
        _ => {}
    }
    let mut result = last.0.clone();
    let reset = counter && (last.1.is_reset_after(before.1) || last.0.is_reset_after(before.0));
    if !reset && !subtract(&mut result, before.0, remarks) {
        return None;
    }
    let result = result.with_hint(ResetHint::Gauge).compacted();
    let elapsed = super::number::seconds(last.1.at.saturating_sub(before.1.at));
    Some(if counter { result.over(elapsed) } else { result })
}
