//! A window: the samples of one series that a range function looks at for one step.

use tributary_model::histogram::HistogramSample;
use tributary_model::sample::Sample;

/// Something with a time.
pub(crate) trait Timed {
    /// The time in milliseconds.
    fn millis(&self) -> i64;
}

impl Timed for Sample {
    fn millis(&self) -> i64 {
        self.at.as_millis()
    }
}

impl Timed for HistogramSample {
    fn millis(&self) -> i64 {
        self.at.as_millis()
    }
}

/// What a range function sees.
#[derive(Debug)]
pub(crate) struct Window<'a> {
    /// The samples after `start` and not after `end`, in order of time, without staleness markers; never empty.
    /// For `anchored` and `smoothed` selectors also the neighbours outside.
    pub(crate) samples: &'a [Sample],
    /// The window's start in milliseconds, itself outside.
    pub(crate) start: i64,
    /// The window's end in milliseconds, itself inside.
    pub(crate) end: i64,
    /// The step's own time in milliseconds.
    pub(crate) at: i64,
    /// The scalar arguments at this step, in order.
    pub(crate) params: [f64; 2],
    /// Room for a copy of the values, reused from window to window.
    pub(crate) scratch: &'a mut Vec<f64>,
}

/// A range function: one number per window, or none.
pub(crate) type WindowFunction = fn(&mut Window<'_>) -> Option<f64>;

impl Window<'_> {
    /// The values in order of time.
    pub(crate) fn values(&self) -> impl Iterator<Item = f64> {
        self.samples.iter().map(|sample| sample.value)
    }

    /// The length of the window in seconds.
    pub(crate) fn range_seconds(&self) -> f64 {
        super::number::seconds(self.end.saturating_sub(self.start))
    }
}

/// Runs a range function over samples at the given seconds, in a window from 0 to `end` seconds.
#[cfg(test)]
pub(crate) fn run(
    function: WindowFunction,
    samples: &[(i64, f64)],
    end: i64,
    params: [f64; 2],
) -> Option<f64> {
    let samples: Vec<Sample> = samples.iter().map(|(at, v)| Sample::new(at * 1000, *v)).collect();
    let end = end * 1000;
    function(&mut Window {
        samples: &samples,
        start: 0,
        end,
        at: end,
        params,
        scratch: &mut Vec::new(),
    })
}
