//! `anchored` and `smoothed` windows of native histograms, whose edges are taken or interpolated from outside.

use tributary_model::histogram::{Histogram, HistogramSample, ResetHint};

use super::extended::relevant;
use super::mixed::MixedWindow;
use super::native_counter::{add, subtract};
use super::remark::{Remark, Remarks};

/// `rate`, `increase` and `delta` of histograms in such a window.
pub(crate) fn difference(
    window: &mut MixedWindow<'_>,
    smoothed: bool,
    counter: bool,
    per_second: bool,
) -> Option<Histogram> {
    let samples = relevant(window.histograms, window.start, window.end, smoothed)?;
    let remarks = &mut *window.remarks;
    if !check(samples, counter, remarks) {
        return None;
    }
    let first = samples.first()?;
    let left = if smoothed && first.at.as_millis() < window.start {
        interpolate(first, samples.get(1)?, window.start, counter, remarks)?
    } else {
        Histogram::clone(&first.histogram)
    };
    let right = match samples {
        [.., before, last] if smoothed && last.at.as_millis() > window.end => {
            interpolate(before, last, window.end, counter, remarks)?
        }
        [.., last] => Histogram::clone(&last.histogram),
        [] => return None,
    };
    let is_gauge = |histogram: &Histogram| histogram.hint() == ResetHint::Gauge;
    if !(counter || is_gauge(&left) && is_gauge(&right)) {
        remarks.add(Remark::NotGauge);
    }
    let mut result = right.clone();
    if !subtract(&mut result, &left, remarks) {
        return None;
    }
    if counter {
        let cut = smoothed && first.at.as_millis() < window.start;
        let taken = taken_by_resets(samples, &left, &right, cut, remarks)?;
        if let Some(taken) = taken
            && !add(&mut result, &taken, remarks)
        {
            return None;
        }
    }
    if per_second {
        result = result.over(window.range_seconds());
    }
    Some(result.with_hint(ResetHint::Gauge).compacted())
}

/// Whether all histograms can be combined; remarks on gauges among counters.
fn check(samples: &[HistogramSample], counter: bool, remarks: &mut Remarks) -> bool {
    let custom = samples.first().is_some_and(|s| s.histogram.schema().is_custom());
    for sample in samples {
        if sample.histogram.schema().is_custom() != custom {
            remarks.add(Remark::MixedSchemas);
            return false;
        }
        if counter && sample.histogram.hint() == ResetHint::Gauge {
            remarks.add(Remark::NotCounter);
        }
    }
    true
}

/// What resets took between the edges; the inner `None` is nothing. `cut`: the left edge lies between the first two
/// samples, so that a reset between them is already accounted for.
#[expect(clippy::option_option, reason = "the outer one is failure, the inner one is no reset")]
fn taken_by_resets(
    samples: &[HistogramSample],
    left: &Histogram,
    right: &Histogram,
    cut: bool,
    remarks: &mut Remarks,
) -> Option<Option<Histogram>> {
    let mut taken: Option<Histogram> = None;
    let mut take = |before: &Histogram| match &mut taken {
        Some(taken) => add(taken, before, remarks),
        none => {
            *none = Some(before.clone());
            true
        }
    };
    let mut before = left;
    let mut inner = samples.get(1..).unwrap_or_default();
    if let (true, [first, second, ..]) = (cut, samples)
        && second.histogram.is_reset_after(&first.histogram)
    {
        before = &second.histogram;
        inner = samples.get(2..).unwrap_or_default();
        if inner.is_empty() {
            // Both edges lie after the reset.
            return Some(None);
        }
    }
    let Some((_, inner)) = inner.split_last() else { return Some(None) };
    for sample in inner {
        if sample.histogram.is_reset_after(before) && !take(before) {
            return None;
        }
        before = &sample.histogram;
    }
    if right.is_reset_after(before) && !take(before) {
        return None;
    }
    Some(taken)
}

/// The histogram at `at` on the line between two; a counter that was reset starts from zero.
pub(crate) fn interpolate(
    before: &HistogramSample,
    after: &HistogramSample,
    at: i64,
    counter: bool,
    remarks: &mut Remarks,
) -> Option<Histogram> {
    let (from, to) = (before.at.as_millis(), after.at.as_millis());
    if at == from {
        return Some(Histogram::clone(&before.histogram));
    }
    let mut result = Histogram::clone(&after.histogram);
    if at == to {
        return Some(result);
    }
    let share = at.saturating_sub(from) as f64 / to.saturating_sub(from) as f64;
    if counter && after.histogram.is_reset_after(&before.histogram) {
        return Some(result.times(share));
    }
    if !subtract(&mut result, &before.histogram, remarks) {
        return None;
    }
    let mut result = result.times(share);
    add(&mut result, &before.histogram, remarks).then_some(result)
}

/// The histogram at `at`: a sample's, interpolated between two, or the last one's if none follows within the lookback.
/// It is a counter's unless both neighbours are gauges.
pub(crate) fn value_at(
    near: &[HistogramSample],
    at: i64,
    remarks: &mut Remarks,
) -> Option<Histogram> {
    let next = near.partition_point(|s| s.at.as_millis() < at);
    let after = near.get(next);
    if let Some(exact) = after.filter(|s| s.at.as_millis() == at) {
        return Some(Histogram::clone(&exact.histogram));
    }
    let before = near.get(next.checked_sub(1)?)?;
    let Some(after) = after else {
        // The hint tells of the samples' order, not of the value.
        return Some(Histogram::clone(&before.histogram).with_hint(ResetHint::Unknown));
    };
    let is_gauge = |sample: &HistogramSample| sample.histogram.hint() == ResetHint::Gauge;
    let counter = !(is_gauge(before) && is_gauge(after));
    if before.histogram.schema().is_custom() != after.histogram.schema().is_custom() {
        remarks.add(Remark::MixedSchemas);
        return None;
    }
    interpolate(before, after, at, counter, remarks)
}
