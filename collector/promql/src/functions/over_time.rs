//! Aggregates of the values in a window: `avg_over_time` and its relatives.

#![expect(clippy::unnecessary_wraps, reason = "all have the type of window functions")]

use tributary_model::sample::Sample;

use super::Window;
use super::number::{self, Mean, Sum};

/// `sum_over_time`
pub(crate) fn sum(window: &mut Window<'_>) -> Option<f64> {
    let sum = window.values().fold(Sum::default(), Sum::plus);
    Some(if sum.value.is_infinite() { sum.value } else { sum.total() })
}

/// `avg_over_time`
pub(crate) fn avg(window: &mut Window<'_>) -> Option<f64> {
    let mut values = window.values();
    let mut mean = Mean::of(values.next()?);
    for value in values {
        mean.add(value);
    }
    Some(mean.value())
}

/// `count_over_time`
pub(crate) fn count(window: &mut Window<'_>) -> Option<f64> {
    Some(window.samples.len() as f64)
}

/// `present_over_time`, and what `absent_over_time` is computed from.
pub(crate) fn present(_: &mut Window<'_>) -> Option<f64> {
    Some(1.0)
}

/// `first_over_time`
pub(crate) fn first(window: &mut Window<'_>) -> Option<f64> {
    window.samples.first().map(|sample| sample.value)
}

/// `last_over_time`
pub(crate) fn last(window: &mut Window<'_>) -> Option<f64> {
    window.samples.last().map(|sample| sample.value)
}

/// `max_over_time`: any number is larger than NaN.
pub(crate) fn max(window: &mut Window<'_>) -> Option<f64> {
    best(window, |value, best| value > best).map(|sample| sample.value)
}

/// `min_over_time`: any number is smaller than NaN.
pub(crate) fn min(window: &mut Window<'_>) -> Option<f64> {
    best(window, |value, best| value < best).map(|sample| sample.value)
}

/// `ts_of_first_over_time`
pub(crate) fn time_of_first(window: &mut Window<'_>) -> Option<f64> {
    window.samples.first().map(|sample| sample.at.as_secs_f64())
}

/// `ts_of_last_over_time`
pub(crate) fn time_of_last(window: &mut Window<'_>) -> Option<f64> {
    window.samples.last().map(|sample| sample.at.as_secs_f64())
}

/// `ts_of_max_over_time`: of the last one, if there are several.
pub(crate) fn time_of_max(window: &mut Window<'_>) -> Option<f64> {
    best(window, |value, best| value >= best).map(|sample| sample.at.as_secs_f64())
}

/// `ts_of_min_over_time`: of the last one, if there are several.
pub(crate) fn time_of_min(window: &mut Window<'_>) -> Option<f64> {
    best(window, |value, best| value <= best).map(|sample| sample.at.as_secs_f64())
}

/// The sample that no other one beats; everything beats NaN.
fn best(window: &Window<'_>, beats: impl Fn(f64, f64) -> bool) -> Option<Sample> {
    let challenge = |best: Sample, sample: Sample| {
        if best.value.is_nan() || beats(sample.value, best.value) { sample } else { best }
    };
    window.samples.iter().copied().reduce(challenge)
}

/// `stdvar_over_time`
pub(crate) fn variance(window: &mut Window<'_>) -> Option<f64> {
    let mut count = 0.0;
    let mut mean = Sum::default();
    let mut squares = Sum::default();
    for value in window.values() {
        count += 1.0;
        let delta = value - mean.total();
        mean = mean.plus(delta / count);
        squares = squares.plus(delta * (value - mean.total()));
    }
    Some(squares.total() / count)
}

/// `stddev_over_time`
pub(crate) fn deviation(window: &mut Window<'_>) -> Option<f64> {
    variance(window).map(f64::sqrt)
}

/// `quantile_over_time`
pub(crate) fn quantile(window: &mut Window<'_>) -> Option<f64> {
    copy_values(window);
    let [q, _] = window.params;
    Some(number::quantile(q, window.scratch))
}

/// `mad_over_time`: the median distance from the median. NaN makes it NaN.
pub(crate) fn median_deviation(window: &mut Window<'_>) -> Option<f64> {
    if window.values().any(f64::is_nan) {
        return Some(f64::NAN);
    }
    copy_values(window);
    let median = number::quantile(0.5, window.scratch);
    for value in window.scratch.iter_mut() {
        *value = (*value - median).abs();
    }
    Some(number::quantile(0.5, window.scratch))
}

fn copy_values(window: &mut Window<'_>) {
    window.scratch.clear();
    window.scratch.extend(window.samples.iter().map(|sample| sample.value));
}

#[cfg(test)]
mod tests {
    use super::super::WindowFunction;
    use super::super::window::run;
    use super::*;

    const NONE: [f64; 2] = [0.0; 2];

    #[test]
    fn plain_aggregates() {
        let samples = [(10, 3.0), (20, 1.0), (30, 3.0), (40, 1.0)];
        let cases: [(WindowFunction, f64); 16] = [
            (sum, 8.0),
            (avg, 2.0),
            (count, 4.0),
            (present, 1.0),
            (first, 3.0),
            (last, 1.0),
            (max, 3.0),
            (min, 1.0),
            (time_of_first, 10.0),
            (time_of_last, 40.0),
            (time_of_max, 30.0),
            (time_of_min, 40.0),
            (variance, 1.0),
            (deviation, 1.0),
            (median_deviation, 1.0),
            (quantile, 1.0),
        ];
        for (at, (function, expected)) in cases.into_iter().enumerate() {
            assert_eq!(run(function, &samples, 60, NONE), Some(expected), "case {at}");
        }
    }

    #[test]
    fn nan_loses_and_spreads() {
        let samples = [(10, f64::NAN), (20, 1.0), (30, f64::NAN)];
        assert_eq!(run(max, &samples, 60, NONE), Some(1.0));
        assert_eq!(run(time_of_min, &samples, 60, NONE), Some(20.0));
        assert!(run(sum, &samples, 60, NONE).unwrap().is_nan());
        assert!(run(median_deviation, &samples, 60, NONE).unwrap().is_nan());
    }

    #[test]
    fn infinite_sums_stay_infinite() {
        let samples = [(10, f64::MAX), (20, f64::MAX)];
        assert_eq!(run(sum, &samples, 60, NONE), Some(f64::INFINITY));
        assert_eq!(run(avg, &samples, 60, NONE), Some(f64::MAX));
    }
}
