//! Range functions where a series has native histograms, or where it is known since when its samples count.

use tributary_model::histogram::{Histogram, HistogramSample};
use tributary_model::sample::{Sample, Timestamp};

use super::native_sum::{HistogramAccumulator, HistogramMean, HistogramSum, accumulate};
use super::remark::{Remark, Remarks};
use super::start::Counted;
use super::{Window, WindowFunction, counter, extended_native, native_counter, number};
use crate::ast::Extend;
use crate::signature::Function;
use crate::value::Element;

/// What such a function sees. Times are in milliseconds, as in [`Window`].
#[derive(Debug)]
pub(crate) struct MixedWindow<'a> {
    /// The numbers of the window.
    pub(crate) samples: &'a [Sample],
    /// Since when each of them counts, if anything is known of that.
    pub(crate) starts: &'a [Timestamp],
    /// The histograms of the window.
    pub(crate) histograms: &'a [HistogramSample],
    /// Since when each of them counts, if anything is known of that.
    pub(crate) histogram_starts: &'a [Timestamp],
    /// The window's start, itself outside.
    pub(crate) start: i64,
    /// The window's end, itself inside.
    pub(crate) end: i64,
    /// The step's own time.
    pub(crate) at: i64,
    /// The scalar arguments at this step.
    pub(crate) params: [f64; 2],
    /// Room for a copy of values.
    pub(crate) scratch: &'a mut Vec<f64>,
    /// What is to be said of the result.
    pub(crate) remarks: &'a mut Remarks,
}

/// A sample of either kind.
#[derive(Debug, Clone, Copy)]
enum Either<'a> {
    Float(f64),
    Histogram(&'a Histogram),
}

impl<'a> MixedWindow<'a> {
    /// The length of the window in seconds.
    pub(crate) fn range_seconds(&self) -> f64 {
        number::seconds(self.end.saturating_sub(self.start))
    }

    fn has_both(&self) -> bool {
        !self.samples.is_empty() && !self.histograms.is_empty()
    }

    /// A function of the numbers alone.
    fn numbers(&mut self, function: WindowFunction) -> Option<Element> {
        let value = function(&mut Window {
            samples: self.samples,
            start: self.start,
            end: self.end,
            at: self.at,
            params: self.params,
            scratch: self.scratch,
        });
        value.map(Element::Float)
    }

    /// All samples in order of time.
    fn merged(&self) -> impl Iterator<Item = (Counted, Either<'a>)> + use<'a> {
        let (samples, starts) = (self.samples, self.starts);
        let (histograms, histogram_starts) = (self.histograms, self.histogram_starts);
        let (mut i, mut j) = (0, 0);
        std::iter::from_fn(move || {
            let (float, histogram) = (samples.get(i), histograms.get(j));
            let float_first = match (float, histogram) {
                (Some(float), Some(histogram)) => float.at < histogram.at,
                (float, _) => float.is_some(),
            };
            if float_first {
                i += 1;
                let float = float?;
                return Some((Counted::new(float.at, starts, i - 1), Either::Float(float.value)));
            }
            j += 1;
            let histogram = histogram?;
            let counted = Counted::new(histogram.at, histogram_starts, j - 1);
            Some((counted, Either::Histogram(&histogram.histogram)))
        })
    }

    /// Leaves one sample at or before the start, the last one of either kind; none if there is none after it.
    fn anchor(&mut self) -> Option<()> {
        let start = self.start;
        let floats = self.samples.partition_point(|s| s.at.as_millis() <= start);
        let histograms = self.histograms.partition_point(|s| s.at.as_millis() <= start);
        if floats == self.samples.len() && histograms == self.histograms.len() {
            return None;
        }
        let last_float = floats.checked_sub(1).and_then(|at| self.samples.get(at)).map(|s| s.at);
        let last_histogram =
            histograms.checked_sub(1).and_then(|at| self.histograms.get(at)).map(|s| s.at);
        let float_is_anchor = last_float >= last_histogram;
        let from = floats - usize::from(last_float.is_some() && float_is_anchor);
        self.samples = self.samples.get(from..)?;
        self.starts = self.starts.get(from..).unwrap_or_default();
        let from = histograms - usize::from(last_histogram.is_some() && !float_is_anchor);
        self.histograms = self.histograms.get(from..)?;
        self.histogram_starts = self.histogram_starts.get(from..).unwrap_or_default();
        Some(())
    }
}

/// Computes a range function; `plain` is what it is for numbers.
pub(crate) fn call(
    function: Function,
    extend: Option<Extend>,
    plain: WindowFunction,
    window: &mut MixedWindow<'_>,
) -> Option<Element> {
    match function {
        Function::Rate => rise(window, extend, plain, true, true),
        Function::Increase => rise(window, extend, plain, true, false),
        Function::Delta => rise(window, extend, plain, false, false),
        Function::Irate => last_two(window, true),
        Function::Idelta => last_two(window, false),
        Function::Resets | Function::Changes => {
            if extend == Some(Extend::Anchored) {
                window.anchor()?;
            }
            let count = if function == Function::Resets { resets(window) } else { changes(window) };
            Some(Element::Float(count))
        }
        Function::CountOverTime => {
            Some(Element::Float((window.samples.len() + window.histograms.len()) as f64))
        }
        Function::PresentOverTime | Function::AbsentOverTime => Some(Element::Float(1.0)),
        Function::FirstOverTime | Function::TsOfFirstOverTime => {
            let (counted, either) = window.merged().next()?;
            Some(edge(function, counted, either))
        }
        Function::LastOverTime | Function::TsOfLastOverTime => {
            let (counted, either) = window.merged().last()?;
            Some(edge(function, counted, either))
        }
        Function::SumOverTime => aggregate::<HistogramSum>(window, plain),
        Function::AvgOverTime => aggregate::<HistogramMean>(window, plain),
        Function::Deriv | Function::PredictLinear | Function::DoubleExponentialSmoothing => {
            ignoring_histograms(window, plain, 1)
        }
        _ => ignoring_histograms(window, plain, 0),
    }
}

fn edge(function: Function, counted: Counted, either: Either<'_>) -> Element {
    match (function, either) {
        (Function::TsOfFirstOverTime | Function::TsOfLastOverTime, _) => {
            Element::Float(number::seconds(counted.at))
        }
        (_, Either::Float(value)) => Element::Float(value),
        (_, Either::Histogram(histogram)) => histogram.clone().into(),
    }
}

/// A function of numbers, which leaves histograms out; it needs more than `too_few` numbers, and says so if it has just
/// that many.
fn ignoring_histograms(
    window: &mut MixedWindow<'_>,
    plain: WindowFunction,
    too_few: usize,
) -> Option<Element> {
    if window.samples.len() < too_few.max(1) {
        return None;
    }
    if !window.histograms.is_empty() {
        window.remarks.add(Remark::HistogramsIgnored);
    }
    window.numbers(plain)
}

fn aggregate<A: HistogramAccumulator>(
    window: &mut MixedWindow<'_>,
    plain: WindowFunction,
) -> Option<Element> {
    if window.has_both() {
        window.remarks.add(Remark::MixedSamples);
        return None;
    }
    if window.histograms.is_empty() {
        return window.numbers(plain);
    }
    let histograms = window.histograms.iter().map(|sample| &*sample.histogram);
    accumulate::<A>(histograms, window.remarks).map(Element::from)
}

/// `rate`, `increase`, `delta`.
fn rise(
    window: &mut MixedWindow<'_>,
    extend: Option<Extend>,
    plain: WindowFunction,
    counter: bool,
    per_second: bool,
) -> Option<Element> {
    if window.has_both() {
        window.remarks.add(Remark::MixedSamples);
        return None;
    }
    if window.histograms.is_empty() {
        let starts_count = extend.is_none() && counter && !window.starts.is_empty();
        return if starts_count { counted_rise(window, per_second) } else { window.numbers(plain) };
    }
    let result = match extend {
        None => native_counter::extrapolated(window, counter, per_second),
        Some(extend) => {
            let smoothed = extend == Extend::Smoothed;
            extended_native::difference(window, smoothed, counter, per_second)
        }
    };
    result.map(Element::from)
}

/// `rate` and `increase` of numbers of which it is known since when they count.
fn counted_rise(window: &mut MixedWindow<'_>, per_second: bool) -> Option<Element> {
    let [first, ..] = window.samples else { return None };
    let last = window.samples.last()?;
    let mut rise = last.value - first.value;
    let mut overlaps = false;
    let counted = |at: usize, sample: &Sample| Counted::new(sample.at, window.starts, at);
    let pairs = window.samples.iter().zip(window.samples.iter().skip(1)).enumerate();
    for (index, (before, after)) in pairs {
        let (then, now) = (counted(index, before), counted(index + 1, after));
        overlaps |= now.overlaps(then);
        if after.value < before.value || now.is_reset_after(then) {
            rise += before.value;
        }
    }
    if overlaps {
        window.remarks.add(Remark::StartsOverlap);
    }
    let stretch = counter::Stretch {
        start: window.start,
        end: window.end,
        first: first.at.as_millis(),
        last: last.at.as_millis(),
        gaps: window.samples.len() - 1,
    };
    let since = counted(0, first).since;
    let mut factor = if since != 0 && since > window.start && since < stretch.first {
        rise += first.value;
        stretch.factor_since(since)
    } else if stretch.gaps == 0 {
        return None;
    } else {
        let from_zero = rise > 0.0 && first.value >= 0.0;
        stretch.factor(from_zero.then_some((first.value, rise)), false)
    };
    if per_second {
        factor /= window.range_seconds();
    }
    Some(Element::Float(rise * factor))
}

/// `irate` and `idelta`.
fn last_two(window: &mut MixedWindow<'_>, counter: bool) -> Option<Element> {
    let skip = (window.samples.len() + window.histograms.len()).checked_sub(2)?;
    let mut last = window.merged().skip(skip);
    let ((before, from), (after, to)) = (last.next()?, last.next()?);
    if before.at == after.at {
        return None;
    }
    match (from, to) {
        (Either::Float(from), Either::Float(to)) => {
            let reset = counter && (to < from || after.is_reset_after(before));
            let rise = if reset { to } else { to - from };
            let elapsed = number::seconds(after.at.saturating_sub(before.at));
            Some(Element::Float(if counter { rise / elapsed } else { rise }))
        }
        (Either::Histogram(from), Either::Histogram(to)) => {
            let remarks = &mut *window.remarks;
            native_counter::last_two((from, before), (to, after), counter, remarks)
                .map(Element::from)
        }
        _ => {
            window.remarks.add(Remark::MixedSamples);
            None
        }
    }
}

fn resets(window: &MixedWindow<'_>) -> f64 {
    count_pairs(window, |(before, from), (after, to)| match (from, to) {
        (Either::Float(from), Either::Float(to)) => to < from || after.is_reset_after(before),
        (Either::Histogram(from), Either::Histogram(to)) => {
            after.is_reset_after(before) || to.is_reset_after(from)
        }
        _ => true,
    })
}

fn changes(window: &MixedWindow<'_>) -> f64 {
    count_pairs(window, |(_, from), (_, to)| match (from, to) {
        (Either::Float(from), Either::Float(to)) => from != to && !(from.is_nan() && to.is_nan()),
        (Either::Histogram(from), Either::Histogram(to)) => !to.has_data_of(from),
        _ => true,
    })
}

type Item<'a> = (Counted, Either<'a>);

fn count_pairs<'a>(window: &MixedWindow<'a>, counts: impl Fn(Item<'a>, Item<'a>) -> bool) -> f64 {
    let pairs = window.merged().zip(window.merged().skip(1));
    pairs.filter(|(before, after)| counts(*before, *after)).count() as f64
}
