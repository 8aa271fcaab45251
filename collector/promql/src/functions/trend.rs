//! Lines and smooth curves through the samples of a window.

use tributary_model::sample::Sample;

use super::Window;
use super::number::{Sum, seconds};

/// `deriv`: the slope of the least-squares line, per second.
pub(crate) fn deriv(window: &mut Window<'_>) -> Option<f64> {
    let [first, _, ..] = window.samples else { return None };
    Some(line(window.samples, first.at.as_millis()).slope)
}

/// `predict_linear`: the least-squares line, so many seconds after the step.
pub(crate) fn predict_linear(window: &mut Window<'_>) -> Option<f64> {
    let [_, _, ..] = window.samples else { return None };
    let [ahead, _] = window.params;
    let line = line(window.samples, window.at);
    Some(line.slope * ahead + line.intercept)
}

struct Line {
    slope: f64,
    intercept: f64,
}

/// The least-squares line, with the time axis in seconds from `origin` (in milliseconds).
fn line(samples: &[Sample], origin: i64) -> Line {
    let initial = samples.first().map_or(f64::NAN, |sample| sample.value);
    if samples.iter().skip(1).all(|sample| sample.value == initial) {
        return if initial.is_infinite() {
            Line { slope: f64::NAN, intercept: f64::NAN }
        } else {
            Line { slope: 0.0, intercept: initial }
        };
    }
    let [mut x, mut y, mut xy, mut xx] = [Sum::default(); 4];
    for sample in samples {
        let at = seconds(sample.at.as_millis().saturating_sub(origin));
        x = x.plus(at);
        y = y.plus(sample.value);
        xy = xy.plus(at * sample.value);
        xx = xx.plus(at * at);
    }
    let n = samples.len() as f64;
    let (x, y, xy, xx) = (x.total(), y.total(), xy.total(), xx.total());
    let slope = (xy - x * y / n) / (xx - x * x / n);
    Line { slope, intercept: y / n - slope * x / n }
}

/// `double_exponential_smoothing` with the smoothing and the trend factor.
pub(crate) fn double_exponential_smoothing(window: &mut Window<'_>) -> Option<f64> {
    let [first, second, ..] = window.samples else { return None };
    let [smoothing, trend_factor] = window.params;
    let mut before = 0.0;
    let mut smooth = first.value;
    let mut trend = second.value - first.value;
    for (i, sample) in window.samples.iter().skip(1).enumerate() {
        if i > 0 {
            trend = trend_factor * (smooth - before) + (1.0 - trend_factor) * trend;
        }
        let next = smoothing * sample.value + (1.0 - smoothing) * (smooth + trend);
        before = smooth;
        smooth = next;
    }
    Some(smooth)
}

#[cfg(test)]
mod tests {
    use super::super::window::run;
    use super::*;

    #[test]
    fn a_line_is_found_and_continued() {
        let samples = [(10, 5.0), (20, 10.0), (30, 15.0)];
        assert_eq!(run(deriv, &samples, 40, [0.0; 2]), Some(0.5));
        assert_eq!(run(predict_linear, &samples, 40, [60.0, 0.0]), Some(50.0));
        assert_eq!(run(deriv, &samples[..1], 40, [0.0; 2]), None);
    }

    #[test]
    fn a_level_line_is_exact() {
        let level = [(10, 0.1), (20, 0.1), (31, 0.1)];
        assert_eq!(run(deriv, &level, 40, [0.0; 2]), Some(0.0));
        assert_eq!(run(predict_linear, &level, 40, [9.0, 0.0]), Some(0.1));
        let infinite = [(10, f64::INFINITY), (20, f64::INFINITY)];
        assert!(run(deriv, &infinite, 40, [0.0; 2]).unwrap().is_nan());
    }

    #[test]
    fn smoothing_follows_a_line() {
        let samples = [(1, 1.0), (2, 2.0), (3, 3.0), (4, 4.0)];
        assert_eq!(run(double_exponential_smoothing, &samples, 4, [0.5, 0.5]), Some(4.0));
        assert_eq!(run(double_exponential_smoothing, &samples[..1], 4, [0.5, 0.5]), None);
    }
}
