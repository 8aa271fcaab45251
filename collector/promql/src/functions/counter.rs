//! How much a series rose or fell in a window: `rate` and its relatives, resets and changes.

#![expect(clippy::unnecessary_wraps, reason = "all have the type of window functions")]

use super::Window;
use super::number::seconds;

/// A gap of up to this many average distances at an edge is taken for regular spacing.
const EDGE_TOLERANCE: f64 = 1.1;

/// `rate`: per-second rise of a counter.
#[inline]
pub(crate) fn rate(window: &mut Window<'_>) -> Option<f64> {
    extrapolated(window, true, true)
}

/// `increase`: rise of a counter.
#[inline]
pub(crate) fn increase(window: &mut Window<'_>) -> Option<f64> {
    extrapolated(window, true, false)
}

/// `delta`: difference of a gauge.
pub(crate) fn delta(window: &mut Window<'_>) -> Option<f64> {
    extrapolated(window, false, false)
}

/// The difference between the last and the first sample, stretched to the edges of the window as far as samples can be
/// expected there. A counter's falls are resets, and it is not stretched below zero.
#[inline]
fn extrapolated(window: &Window<'_>, counter: bool, per_second: bool) -> Option<f64> {
    let [first, .., last] = window.samples else { return None };
    let mut difference = last.value - first.value;
    if counter {
        difference = with_resets(window, difference);
    }
    let stretch = Stretch {
        start: window.start,
        end: window.end,
        first: first.at.as_millis(),
        last: last.at.as_millis(),
        gaps: window.samples.len() - 1,
    };
    let from_zero = counter && difference > 0.0 && first.value >= 0.0;
    let factor = stretch.factor(from_zero.then_some((first.value, difference)), per_second);
    Some(difference * factor)
}

/// Where samples lie in a window.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stretch {
    /// The window's start.
    pub(crate) start: i64,
    /// The window's end.
    pub(crate) end: i64,
    /// The first sample's time.
    pub(crate) first: i64,
    /// The last sample's time.
    pub(crate) last: i64,
    /// The number of samples less one.
    pub(crate) gaps: usize,
}

impl Stretch {
    /// By how much the difference between the last and the first sample grows when it is stretched to the edges, and
    /// divided by the window's seconds if it is to be `per_second`. `counter`: the first value and the rise after it,
    /// if zero cannot be crossed. Computed step by step as in `promql/functions.go`, to the last bit.
    pub(crate) fn factor(self, counter: Option<(f64, f64)>, per_second: bool) -> f64 {
        let (sampled, mut to_start, to_end) = self.edges();
        if let Some((first, rise)) = counter {
            // Where the counter was zero if it always rose as fast as in between.
            let to_zero = sampled * (first / rise);
            if to_zero < to_start {
                to_start = to_zero;
            }
        }
        let factor = (sampled + to_start + to_end) / sampled;
        if per_second { factor / seconds(self.end.saturating_sub(self.start)) } else { factor }
    }

    /// The time between the first and the last sample, and those to be stretched over before and after, all in seconds.
    pub(crate) fn edges(self) -> (f64, f64, f64) {
        let sampled = seconds(self.last.saturating_sub(self.first));
        let distance = sampled / self.gaps as f64;
        let edge = |far: i64| {
            let far = seconds(far);
            if far >= distance * EDGE_TOLERANCE { distance / 2.0 } else { far }
        };
        let to_start = edge(self.first.saturating_sub(self.start));
        (sampled, to_start, edge(self.end.saturating_sub(self.last)))
    }

    /// The same where the counter is known to have been zero at `since`, between the window's start and the first
    /// sample: there is nothing to guess before that.
    pub(crate) fn factor_since(self, since: i64) -> f64 {
        let counted = seconds(self.last.saturating_sub(since));
        let sampled = seconds(self.last.saturating_sub(self.first));
        let distance = if self.gaps > 0 { sampled / self.gaps as f64 } else { 0.0 };
        if counted == 0.0 { 1.0 } else { (counted + self.to_end(distance)) / counted }
    }

    fn to_end(self, distance: f64) -> f64 {
        let to_end = seconds(self.end.saturating_sub(self.last));
        if to_end >= distance * EDGE_TOLERANCE { distance / 2.0 } else { to_end }
    }
}

/// A counter's rise: the difference, and what falls have taken from it, which is the value before each.
fn with_resets(window: &Window<'_>, difference: f64) -> f64 {
    let pairs = window.values().zip(window.values().skip(1));
    let falls = pairs.filter(|(before, value)| value < before);
    falls.fold(difference, |rise, (before, _)| rise + before)
}

/// `irate`: per-second rise between the last two samples; after a reset, the last value.
pub(crate) fn irate(window: &mut Window<'_>) -> Option<f64> {
    let [.., before, last] = window.samples else { return None };
    let elapsed = last.at.as_millis().saturating_sub(before.at.as_millis());
    if elapsed == 0 {
        return None;
    }
    let rise = if last.value < before.value { last.value } else { last.value - before.value };
    Some(rise / seconds(elapsed))
}

/// `idelta`: difference between the last two samples.
pub(crate) fn idelta(window: &mut Window<'_>) -> Option<f64> {
    let [.., before, last] = window.samples else { return None };
    (last.at != before.at).then_some(last.value - before.value)
}

/// `resets`: how often the value fell.
pub(crate) fn resets(window: &mut Window<'_>) -> Option<f64> {
    Some(count_pairs(window, |before, after| after < before))
}

/// `changes`: how often the value changed; NaN equals NaN.
pub(crate) fn changes(window: &mut Window<'_>) -> Option<f64> {
    Some(count_pairs(window, |before, after| {
        before != after && !(before.is_nan() && after.is_nan())
    }))
}

fn count_pairs(window: &Window<'_>, differ: impl Fn(f64, f64) -> bool) -> f64 {
    let pairs = window.samples.iter().zip(window.samples.iter().skip(1));
    pairs.filter(|(before, after)| differ(before.value, after.value)).count() as f64
}

#[cfg(test)]
mod tests {
    use super::super::window::run;
    use super::*;

    #[test]
    fn rise_is_stretched_to_near_edges_only() {
        let regular = [(10, 10.0), (20, 20.0), (30, 30.0)];
        assert_eq!(run(increase, &regular, 40, [0.0; 2]), Some(40.0));
        assert_eq!(run(rate, &regular, 40, [0.0; 2]), Some(1.0));
        // The end is far away: half a distance is added there.
        assert_eq!(run(increase, &regular, 100, [0.0; 2]), Some(35.0));
        // Zero would have been 5 s before the first sample.
        assert_eq!(run(increase, &[(10, 5.0), (20, 15.0)], 20, [0.0; 2]), Some(15.0));
        assert_eq!(run(delta, &[(10, 5.0), (20, 15.0)], 20, [0.0; 2]), Some(20.0));
        assert_eq!(run(rate, &[(10, 1.0)], 20, [0.0; 2]), None);
    }

    #[test]
    fn falls_of_a_counter_are_resets() {
        let reset = [(10, 4.0), (20, 1.0), (30, 3.0)];
        assert_eq!(run(resets, &reset, 30, [0.0; 2]), Some(1.0));
        assert_eq!(run(irate, &reset[..2], 30, [0.0; 2]), Some(0.1));
        assert_eq!(run(idelta, &reset[..2], 30, [0.0; 2]), Some(-3.0));
        let rise = run(increase, &reset, 30, [0.0; 2]).unwrap();
        assert_eq!(rise, 3.0 * 30.0 / 20.0);
    }

    #[test]
    fn nan_does_not_change() {
        let samples = [(1, f64::NAN), (2, f64::NAN), (3, 1.0), (4, 1.0)];
        assert_eq!(run(changes, &samples, 5, [0.0; 2]), Some(1.0));
    }
}
