//! What native histograms say of resets.

use std::sync::Arc;

use tributary_model::histogram::{Histogram, HistogramSample};
use tributary_model::sample::Timestamp;

/// The histograms of a series with the hints that follow from those before, and from the times of its numbers: a number
/// between two histograms parts them. Both ascend.
pub(super) fn with_hints(
    found: Vec<(i64, Arc<Histogram>)>,
    numbers: &[i64],
) -> impl Iterator<Item = HistogramSample> {
    let mut before: Option<(i64, Arc<Histogram>)> = None;
    found.into_iter().map(move |(at, histogram)| {
        let previous = before
            .as_ref()
            .filter(|(time, previous)| !previous.is_stale() && !any_between(numbers, *time, at));
        let hint = histogram.hint_after(previous.map(|(_, previous)| &**previous));
        before = Some((at, Arc::clone(&histogram)));
        let histogram = if hint == histogram.hint() {
            histogram
        } else {
            Arc::new(Histogram::clone(&histogram).with_hint(hint))
        };
        HistogramSample { at: Timestamp::from_millis(at), histogram }
    })
}

/// Whether a sample lies between two times.
fn any_between(times: &[i64], from: i64, to: i64) -> bool {
    let at = times.partition_point(|at| *at <= from);
    times.get(at).is_some_and(|at| *at < to)
}
