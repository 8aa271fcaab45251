//! `anchored` and `smoothed` windows: the value at the window's edges is taken or interpolated from outside it.

use tributary_model::sample::Sample;

use super::counter;
use super::{Timed, Window};

/// `rate(… anchored)`
pub(crate) fn anchored_rate(window: &mut Window<'_>) -> Option<f64> {
    difference(window, false, true).map(|rise| rise / window.range_seconds())
}

/// `increase(… anchored)`
pub(crate) fn anchored_increase(window: &mut Window<'_>) -> Option<f64> {
    difference(window, false, true)
}

/// `delta(… anchored)`
pub(crate) fn anchored_delta(window: &mut Window<'_>) -> Option<f64> {
    difference(window, false, false)
}

/// `rate(… smoothed)`
pub(crate) fn smoothed_rate(window: &mut Window<'_>) -> Option<f64> {
    difference(window, true, true).map(|rise| rise / window.range_seconds())
}

/// `increase(… smoothed)`
pub(crate) fn smoothed_increase(window: &mut Window<'_>) -> Option<f64> {
    difference(window, true, true)
}

/// `delta(… smoothed)`
pub(crate) fn smoothed_delta(window: &mut Window<'_>) -> Option<f64> {
    difference(window, true, false)
}

/// `resets(… anchored)`
pub(crate) fn anchored_resets(window: &mut Window<'_>) -> Option<f64> {
    anchor(window)?;
    counter::resets(window)
}

/// `changes(… anchored)`
pub(crate) fn anchored_changes(window: &mut Window<'_>) -> Option<f64> {
    anchor(window)?;
    counter::changes(window)
}

/// Leaves one sample at or before the start; none if there is none after it.
fn anchor(window: &mut Window<'_>) -> Option<()> {
    let after_start = window.samples.partition_point(|s| s.at.as_millis() <= window.start);
    if after_start == window.samples.len() {
        return None;
    }
    window.samples = window.samples.get(after_start.saturating_sub(1)..)?;
    Some(())
}

/// The samples that matter: the last one at or before the start, and for a smoothed window none after the first one at
/// or after the end. None if nothing lies in the window.
pub(crate) fn relevant<T: Timed>(
    samples: &[T],
    start: i64,
    end: i64,
    smoothed: bool,
) -> Option<&[T]> {
    let last = samples.len().checked_sub(1)?;
    let but_last = samples.get(..last)?;
    let first = but_last.partition_point(|s| s.millis() <= start).saturating_sub(1);
    let last = if smoothed { but_last.partition_point(|s| s.millis() < end) } else { last };
    let relevant = samples.get(first..=last)?;
    let (head, tail) = (relevant.first()?, relevant.last()?);
    let outside = tail.millis() <= start || (smoothed && head.millis() > end);
    (!outside).then_some(relevant)
}

/// The value at the window's start: the first sample's, or interpolated.
fn left_edge(samples: &[Sample], start: i64, smoothed: bool, counter: bool) -> Option<f64> {
    let first = samples.first()?;
    if smoothed && first.at.as_millis() < start {
        return Some(interpolate(first, samples.get(1)?, start, counter));
    }
    Some(first.value)
}

/// The value at the window's end: the last sample's, or interpolated.
fn right_edge(samples: &[Sample], end: i64, smoothed: bool, counter: bool) -> Option<f64> {
    match samples {
        [.., before, last] if smoothed && last.at.as_millis() > end => {
            Some(interpolate(before, last, end, counter))
        }
        [.., last] => Some(last.value),
        [] => None,
    }
}

/// The value at `at` on the line between two samples; a counter that falls starts from zero.
fn interpolate(before: &Sample, after: &Sample, at: i64, counter: bool) -> f64 {
    let from = if counter && after.value < before.value { 0.0 } else { before.value };
    let elapsed = at.saturating_sub(before.at.as_millis()) as f64;
    let whole = after.at.as_millis().saturating_sub(before.at.as_millis()) as f64;
    from + (after.value - from) * elapsed / whole
}

fn difference(window: &Window<'_>, smoothed: bool, counter: bool) -> Option<f64> {
    let samples = relevant(window.samples, window.start, window.end, smoothed)?;
    let left = left_edge(samples, window.start, smoothed, counter)?;
    let right = right_edge(samples, window.end, smoothed, counter)?;
    let mut difference = right - left;
    if counter {
        let mut previous = left;
        let values = inside(samples, window.start, window.end).iter().map(|s| s.value);
        for value in values.chain([right]) {
            if value < previous {
                difference += previous;
            }
            previous = value;
        }
    }
    Some(difference)
}

/// Without a first sample at or before the start and a last one at or after the end.
fn inside(samples: &[Sample], start: i64, end: i64) -> &[Sample] {
    let mut inside = samples;
    if let [first, rest @ ..] = inside
        && first.at.as_millis() <= start
    {
        inside = rest;
    }
    if let [rest @ .., last] = inside
        && last.at.as_millis() >= end
    {
        inside = rest;
    }
    inside
}

/// The samples of a window with its two edges as samples of their own.
pub(crate) fn cut(samples: &[Sample], start: i64, end: i64, smoothed: bool) -> Vec<Sample> {
    let edges = || {
        let relevant = relevant(samples, start, end, smoothed)?;
        let left = left_edge(relevant, start, smoothed, false)?;
        let right = right_edge(relevant, end, smoothed, false)?;
        Some((relevant, left, right))
    };
    let Some((relevant, left, right)) = edges() else { return Vec::new() };
    let mut out = vec![Sample::new(start, left)];
    out.extend_from_slice(inside(relevant, start, end));
    out.push(Sample::new(end, right));
    out
}

/// The value at `at`: a sample's, interpolated between two, or the last one's if none follows within the lookback.
pub(crate) fn value_at(samples: &[Sample], at: i64, lookback: i64) -> Option<f64> {
    let from = samples.partition_point(|s| s.at.as_millis() <= at.saturating_sub(lookback));
    let to = samples.partition_point(|s| s.at.as_millis() <= at.saturating_add(lookback));
    let near = samples.get(from..to)?;
    let next = near.partition_point(|s| s.at.as_millis() < at);
    let after = near.get(next);
    if let Some(exact) = after.filter(|s| s.at.as_millis() == at) {
        return Some(exact.value);
    }
    let before = near.get(next.checked_sub(1)?)?;
    Some(after.map_or(before.value, |after| interpolate(before, after, at, false)))
}

#[cfg(test)]
mod tests {
    use super::super::window::run;
    use super::*;

    #[test]
    fn anchored_takes_the_sample_before() {
        // The window starts at 0; the sample at -5 s stands for its start.
        let samples = [(-5, 1.0), (5, 2.0), (10, 4.0)];
        assert_eq!(run(anchored_increase, &samples, 10, [0.0; 2]), Some(3.0));
        assert_eq!(run(anchored_rate, &samples, 10, [0.0; 2]), Some(0.3));
        assert_eq!(run(anchored_changes, &samples, 10, [0.0; 2]), Some(2.0));
        assert_eq!(run(anchored_increase, &[(-5, 1.0)], 10, [0.0; 2]), None);
        assert_eq!(run(anchored_resets, &[(-5, 1.0)], 10, [0.0; 2]), None);
    }

    #[test]
    fn smoothed_interpolates_both_edges() {
        let samples = [(-5, 0.0), (5, 10.0), (15, 20.0)];
        assert_eq!(run(smoothed_delta, &samples, 10, [0.0; 2]), Some(10.0));
        assert_eq!(run(smoothed_increase, &samples, 10, [0.0; 2]), Some(10.0));
        let reset = [(-5, 8.0), (5, 10.0), (15, 4.0)];
        // 9 at the start, 10 at 5 s, then from zero to 2 at the end.
        assert_eq!(run(smoothed_increase, &reset, 10, [0.0; 2]), Some(3.0));
    }

    #[test]
    fn values_between_samples() {
        let samples = [Sample::new(0, 0.0), Sample::new(10, 10.0)];
        assert_eq!(value_at(&samples, 4, 100), Some(4.0));
        assert_eq!(value_at(&samples, 10, 100), Some(10.0));
        assert_eq!(value_at(&samples, 15, 100), Some(10.0));
        assert_eq!(value_at(&samples, -1, 100), None);
        let cut: Vec<f64> = cut(&samples, 2, 8, true).iter().map(|s| s.value).collect();
        assert_eq!(cut, [2.0, 8.0]);
    }
}
