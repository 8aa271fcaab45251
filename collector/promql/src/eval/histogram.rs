//! Quantiles and fractions of histograms, native ones and classic ones, whose buckets are series that differ in `le`.

use std::collections::HashMap;
use std::sync::Arc;

use tributary_model::histogram::Histogram as NativeHistogram;
use tributary_model::label::{Labels, METRIC_NAME};
use tributary_model::number;

use super::Evaluator;
use super::annotation::with_metric_name;
use super::call::arg;
use super::grid::Grid;
use super::labels::text;
use super::series::{Points, Series};
use crate::ast::{Call, Expr, Span};
use crate::functions::bucket::{self, Bucket, Forced};
use crate::functions::native;
use crate::functions::number::is_quantile;
use crate::functions::remark::Remarks;
use crate::value::EvalError;
use tributary_model::number::format_general;

/// The label with a bucket's upper bound.
const BOUND: &str = "le";

/// One classic histogram, its native namesake, or both: the labels without `le`, and the buckets by bound.
struct Histogram {
    labels: Labels,
    drop_name: bool,
    buckets: Vec<(f64, Points)>,
    native: Points,
}

/// What of the two there is at a step.
enum Kind<'a> {
    Native(&'a NativeHistogram),
    Classic,
    /// Which one is meant cannot be known.
    Both,
    Neither,
}

/// What a number is computed from.
enum Of<'a> {
    Native(&'a NativeHistogram),
    /// Sorted by bound.
    Classic(&'a mut Vec<Bucket>),
}

impl Histogram {
    /// What there is at a step; its buckets are put into `out` if it is a classic one.
    fn kind(&self, step: usize, out: &mut Vec<Bucket>) -> Kind<'_> {
        self.at(step, out);
        match (self.native.histogram(step), out.is_empty()) {
            (Some(native), true) => Kind::Native(native),
            (Some(_), false) => Kind::Both,
            (None, false) => Kind::Classic,
            (None, true) => Kind::Neither,
        }
    }

    /// The buckets that have a value at a step.
    fn at(&self, step: usize, out: &mut Vec<Bucket>) {
        out.clear();
        let present = |(bound, points): &(f64, Points)| {
            Some(Bucket { bound: *bound, count: points.float(step)? })
        };
        out.extend(self.buckets.iter().filter_map(present));
    }
}

impl Evaluator<'_> {
    pub(super) fn histogram_quantile(
        &mut self,
        call: &Call,
        grid: Grid,
    ) -> Result<Vec<Series>, EvalError> {
        let (quantile, vector) = (arg(call, 0)?, arg(call, 1)?);
        let quantiles = self.quantiles(quantile, grid)?;
        let histograms = self.histograms(vector, grid)?;
        let out = self.quantile_series(&histograms, &quantiles, vector.span(), grid);
        self.unite(out, grid)
    }

    pub(super) fn histogram_quantiles(
        &mut self,
        call: &Call,
        grid: Grid,
    ) -> Result<Vec<Series>, EvalError> {
        let vector = arg(call, 0)?;
        let label = text(arg(call, 1)?);
        let mut all = Vec::new();
        for quantile in call.args.iter().skip(2) {
            all.push(self.quantiles(quantile, grid)?);
        }
        let histograms = self.histograms(vector, grid)?;
        let mut out = Vec::new();
        for quantiles in &all {
            for series in self.quantile_series(&histograms, quantiles, vector.span(), grid) {
                label_quantiles(&series, label, quantiles, &mut out);
            }
        }
        super::labels::merge(out)
    }

    pub(super) fn histogram_fraction(
        &mut self,
        call: &Call,
        grid: Grid,
    ) -> Result<Vec<Series>, EvalError> {
        let lower = self.scalar(arg(call, 0)?, grid)?;
        let upper = self.scalar(arg(call, 1)?, grid)?;
        let histograms = self.histograms(arg(call, 2)?, grid)?;
        let span = arg(call, 2)?.span();
        let out = self.computed(&histograms, span, grid, |step, of, remarks| {
            let (lower, upper) = (*lower.get(step)?, *upper.get(step)?);
            let fraction = match of {
                Of::Native(histogram) => native::fraction(lower, upper, histogram, remarks),
                Of::Classic(buckets) => bucket::fraction(lower, upper, buckets),
            };
            Some((fraction, None))
        });
        self.unite(out, grid)
    }

    /// A quantile argument, with a warning for each value that is none.
    fn quantiles(&mut self, arg: &Expr, grid: Grid) -> Result<Vec<f64>, EvalError> {
        let quantiles = self.scalar(arg, grid)?;
        for q in quantiles.iter().filter(|q| !is_quantile(**q)) {
            self.annotations.bad_quantile(*q, arg.span());
        }
        Ok(quantiles)
    }

    /// The histograms that a vector's series are the buckets of.
    fn histograms(&mut self, vector: &Expr, grid: Grid) -> Result<Vec<Histogram>, EvalError> {
        let mut places: HashMap<Labels, usize> = HashMap::new();
        let mut out: Vec<Histogram> = Vec::new();
        let mut place = |labels: Labels, drop_name: bool, out: &mut Vec<Histogram>| {
            *places.entry(labels.clone()).or_insert_with(|| {
                let native = Points::default();
                out.push(Histogram { labels, drop_name, buckets: Vec::new(), native });
                out.len() - 1
            })
        };
        for series in self.vector(vector, grid)? {
            let Series { labels, drop_name, points } = series;
            if !points.histograms().is_empty() {
                let place = place(labels.clone(), drop_name, &mut out);
                if let Some(histogram) = out.get_mut(place) {
                    for (step, native) in points.histograms() {
                        histogram.native.push_histogram(*step, Arc::clone(native));
                    }
                }
            }
            if points.floats().next().is_none() {
                continue;
            }
            let Some(bound) = labels.get(BOUND).and_then(number::parse_float) else {
                self.remark_bad_bound(&labels, vector.span());
                continue;
            };
            let place = place(labels.with(BOUND, ""), drop_name, &mut out);
            if let Some(histogram) = out.get_mut(place) {
                histogram.buckets.push((bound, points));
            }
        }
        for histogram in &mut out {
            histogram.buckets.sort_by(|(a, _), (b, _)| a.total_cmp(b));
        }
        Ok(out)
    }

    fn remark_bad_bound(&mut self, labels: &Labels, span: Span) {
        let bound = tributary_model::quote::quote(labels.value(BOUND));
        let text =
            format!("bucket label \"{BOUND}\" is missing or has a malformed value of {bound}");
        let name = if self.delayed() { labels.value(METRIC_NAME) } else { "" };
        self.annotations.warning(&with_metric_name(&text, name), span);
    }

    fn quantile_series(
        &mut self,
        histograms: &[Histogram],
        quantiles: &[f64],
        span: Span,
        grid: Grid,
    ) -> Vec<Series> {
        self.computed(histograms, span, grid, |step, of, remarks| {
            let q = *quantiles.get(step)?;
            Some(match of {
                Of::Native(histogram) => (native::quantile(q, histogram, remarks), None),
                Of::Classic(buckets) => bucket::quantile(q, buckets),
            })
        })
    }

    /// One number per histogram and step, and what had to be corrected for it.
    fn computed(
        &mut self,
        histograms: &[Histogram],
        span: Span,
        grid: Grid,
        compute: impl Fn(usize, Of<'_>, &mut Remarks) -> Option<(f64, Option<Forced>)>,
    ) -> Vec<Series> {
        let mut out = Vec::with_capacity(histograms.len());
        let mut buckets = Vec::new();
        let mut remarks = Remarks::default();
        for histogram in histograms {
            let name = if self.delayed() { histogram.labels.value(METRIC_NAME) } else { "" };
            let mut points = Points::with_capacity(grid.count);
            for step in 0..grid.count {
                let of = match histogram.kind(step, &mut buckets) {
                    Kind::Neither => continue,
                    Kind::Native(native) => Of::Native(native),
                    Kind::Classic => Of::Classic(&mut buckets),
                    Kind::Both => {
                        let text = "vector contains a mix of classic and native histograms";
                        self.annotations.warning(&with_metric_name(text, name), span);
                        continue;
                    }
                };
                let Some((value, forced)) = compute(step, of, &mut remarks) else { continue };
                if let Some(forced) = forced {
                    self.annotations.forced_monotonic(name, grid.time(step), forced, span);
                }
                points.push(step, value);
            }
            self.annotations.remarks(&mut remarks, name, span);
            out.push(self.named_after(histogram, points));
        }
        out
    }

    fn named_after(&self, histogram: &Histogram, points: Points) -> Series {
        let labels = histogram.labels.clone();
        let mut series = Series { labels, drop_name: histogram.drop_name, points };
        self.drop_name(&mut series);
        series
    }
}

/// The series with its quantile as a label; one series per value the quantile takes.
fn label_quantiles(series: &Series, label: &str, quantiles: &[f64], out: &mut Vec<Series>) {
    let mut places: HashMap<u64, usize> = HashMap::new();
    for (step, value) in series.points.floats() {
        let q = quantiles.get(step).copied().unwrap_or(f64::NAN);
        let place = *places.entry(q.to_bits()).or_insert_with(|| {
            let labels = series.labels.with(label, &open_metrics_float(q));
            out.push(Series { labels, drop_name: series.drop_name, points: Points::default() });
            out.len() - 1
        });
        if let Some(labelled) = out.get_mut(place) {
            labelled.points.push(step, value);
        }
    }
}

/// A number as `OpenMetrics` writes it: whole numbers end in `.0`.
fn open_metrics_float(value: f64) -> String {
    let text = format_general(value);
    if value.is_finite() && !text.contains(['.', 'e']) { format!("{text}.0") } else { text }
}
