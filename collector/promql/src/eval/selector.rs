//! Instant vector selectors, and raw range vectors at the top of an instant query.

use std::sync::Arc;

use tributary_model::histogram::HistogramSample;
use tributary_model::sample::{Numbers, Sample, Timestamp, is_stale};

use super::Evaluator;
use super::grid::{Grid, Reference};
use super::loaded::Loaded;
use super::series::{Points, Series};
use super::{duration, matrix_from_samples, workers};
use crate::ast::{Extend, MatrixSelector, VectorSelector};
use crate::functions::remark::{Remark, Remarks};
use crate::functions::{extended, extended_native};
use crate::source::{self, Select};
use crate::value::{EvalError, MatrixSeries};

/// What a selector takes from the sample it finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Take {
    /// The value.
    Value,
    /// The sample's own time, in seconds.
    Time,
    /// Since when it counts, in seconds; zero if that is not known.
    Start,
}

/// Which sample of a series stands for each step.
#[derive(Debug, Clone, Copy)]
struct Latest {
    grid: Grid,
    reference: Reference,
    lookback: i64,
    take: Take,
}

impl Evaluator<'_> {
    pub(super) fn vector_selector(
        &mut self,
        selector: &VectorSelector,
        grid: Grid,
    ) -> Result<Vec<Series>, EvalError> {
        let reference = self.reference(&selector.time)?;
        if selector.extend == Some(Extend::Smoothed) {
            return self.smoothed_selector(selector, reference, grid);
        }
        self.latest(selector, reference, grid, Take::Value)
    }

    /// The latest sample of each series at each step, not older than the lookback and not stale.
    pub(super) fn latest(
        &mut self,
        selector: &VectorSelector,
        reference: Reference,
        grid: Grid,
        take: Take,
    ) -> Result<Vec<Series>, EvalError> {
        let latest = Latest { grid, reference, lookback: self.lookback(), take };
        let bounds = latest.bounds();
        let selected = self.select(&selector.matchers, bounds.0, bounds.1)?;
        let (budget, totals_only) = (&self.budget, self.wanted.only_totals());
        let points = workers::map(
            budget,
            &selected,
            workers::READING + grid.count,
            |loaded: &mut Loaded, series| {
                loaded.read(series, bounds, take == Take::Start, budget)?;
                if totals_only {
                    loaded.reduce_to_totals();
                }
                let points = latest.points(loaded);
                budget.hold(points.size())?;
                Ok(points)
            },
        )?;
        Ok(with_points(selected, points))
    }

    /// The value at each step, interpolated between the samples before and after.
    fn smoothed_selector(
        &mut self,
        selector: &VectorSelector,
        reference: Reference,
        grid: Grid,
    ) -> Result<Vec<Series>, EvalError> {
        let lookback = self.lookback();
        let from = reference.of(grid.start).saturating_sub(lookback).saturating_add(1);
        let to = reference.of(grid.last()).saturating_add(lookback);
        let selected = self.select(&selector.matchers, from, to)?;
        let mut all = Vec::with_capacity(selected.len());
        let mut loaded = Loaded::default();
        let mut remarks = Remarks::default();
        for series in &selected {
            loaded.read(series, (from, to), false, &self.budget)?;
            loaded.join_fresh();
            let mut points = Points::with_capacity(grid.count);
            for (step, time) in grid.times() {
                smoothed(&loaded, reference.of(time), lookback, step, &mut points, &mut remarks);
            }
            self.hold(points.size())?;
            self.annotations.remarks(&mut remarks, series.labels.metric_name(), selector.span);
            all.push(points);
        }
        Ok(with_points(selected, all))
    }

    /// Asks the source for series.
    pub(super) fn select(
        &mut self,
        matchers: &[tributary_model::matcher::Matcher],
        from: i64,
        to: i64,
    ) -> Result<Vec<source::Series>, EvalError> {
        let request =
            Select { matchers, from: Timestamp::from_millis(from), to: Timestamp::from_millis(to) };
        Ok(self.source.select(&request)?)
    }

    /// The samples of a range vector, for an instant query of nothing else.
    pub(super) fn raw_matrix(
        &mut self,
        matrix: &MatrixSelector,
        grid: Grid,
    ) -> Result<Vec<MatrixSeries>, EvalError> {
        let reference = self.reference(&matrix.selector.time)?;
        let range = duration::positive(&matrix.range, self.durations())?;
        let to = reference.of(grid.start);
        let start = to.saturating_sub(range);
        let lookback = self.lookback();
        let (before, after) = match matrix.selector.extend {
            None => (0, 0),
            Some(Extend::Anchored) => (lookback, 0),
            Some(Extend::Smoothed) => (lookback, lookback),
        };
        let from = start.saturating_sub(before).saturating_add(1);
        let until = to.saturating_add(after);
        let mut out = Vec::new();
        for series in self.select(&matrix.selector.matchers, from, until)? {
            let mut loaded = Loaded::default();
            loaded.read(&series, (from, until), false, &self.budget)?;
            loaded.join_fresh();
            if let Some(extend) = matrix.selector.extend {
                if !loaded.histograms.is_empty() {
                    return Err(EvalError::ExtendedHistograms(extend.as_str()));
                }
                let smoothed = extend == Extend::Smoothed;
                loaded.samples = extended::cut(&loaded.samples, start, to, smoothed);
            }
            self.hold(loaded.size())?;
            let Loaded { samples, histograms, .. } = loaded;
            out.push(MatrixSeries { labels: series.labels, samples, histograms });
        }
        Ok(matrix_from_samples(out))
    }
}

impl Latest {
    /// The first and last millisecond that any step looks at.
    fn bounds(&self) -> (i64, i64) {
        let first = self.reference.of(self.grid.start);
        (first.saturating_sub(self.lookback).saturating_add(1), self.reference.of(self.grid.last()))
    }

    fn points(&self, loaded: &mut Loaded) -> Points {
        let mut points = Points::with_capacity(self.grid.count);
        if loaded.histograms.is_empty() && self.take != Take::Start {
            self.numbers(&loaded.numbers, &mut points);
        } else {
            loaded.join();
            self.either(loaded, &mut points);
        }
        points
    }

    fn numbers(&self, numbers: &Numbers, points: &mut Points) {
        let Numbers { times, values } = numbers;
        let mut next = 0;
        for (step, time) in self.grid.times() {
            let now = self.reference.of(time);
            while times.get(next).is_some_and(|at| *at <= now) {
                next += 1;
            }
            let oldest = now.saturating_sub(self.lookback);
            let latest = next.checked_sub(1).and_then(|i| times.get(i).zip(values.get(i)));
            if let Some((at, value)) = latest
                && *at > oldest
                && !is_stale(*value)
            {
                let at = Timestamp::from_millis(*at);
                points.push(step, if self.take == Take::Time { at.as_secs_f64() } else { *value });
            }
        }
    }

    fn either(&self, loaded: &Loaded, points: &mut Points) {
        let (mut floats, mut histograms) = (0, 0);
        for (step, time) in self.grid.times() {
            let now = self.reference.of(time);
            let oldest = now.saturating_sub(self.lookback);
            floats = after(&loaded.samples, floats, |s| s.at.as_millis() <= now);
            histograms = after(&loaded.histograms, histograms, |s| s.at.as_millis() <= now);
            let last = |count: usize| count.checked_sub(1);
            let float = last(floats).and_then(|at| Some((at, loaded.samples.get(at)?)));
            let histogram = last(histograms).and_then(|at| Some((at, loaded.histograms.get(at)?)));
            let (at, stale, start) = match (float, histogram) {
                (Some((_, s)), Some((at, h))) if h.at > s.at => {
                    (h.at, h.histogram.is_stale(), loaded.starts.histograms.get(at))
                }
                (Some((at, s)), _) => (s.at, is_stale(s.value), loaded.starts.samples.get(at)),
                (None, Some((at, h))) => {
                    (h.at, h.histogram.is_stale(), loaded.starts.histograms.get(at))
                }
                (None, None) => continue,
            };
            if stale || at.as_millis() <= oldest {
                continue;
            }
            match (self.take, float, histogram) {
                (Take::Time, ..) => points.push(step, at.as_secs_f64()),
                (Take::Start, ..) => {
                    points.push(step, start.map_or(0.0, |start| start.as_secs_f64()));
                }
                (Take::Value, _, Some((_, h))) if h.at == at => {
                    points.push_histogram(step, Arc::clone(&h.histogram));
                }
                (Take::Value, Some((_, s)), _) => points.push(step, s.value),
                _ => {}
            }
        }
    }
}

/// How many samples pass, when so many are known to.
fn after<T>(samples: &[T], known: usize, passes: impl Fn(&T) -> bool) -> usize {
    known + samples.iter().skip(known).take_while(|sample| passes(sample)).count()
}

/// Adds the value at a time, interpolated between its neighbours within the lookback.
fn smoothed(
    loaded: &Loaded,
    now: i64,
    lookback: i64,
    step: usize,
    points: &mut Points,
    remarks: &mut Remarks,
) {
    let (from, to) = (now.saturating_sub(lookback), now.saturating_add(lookback));
    let first = loaded.histograms.partition_point(|s| s.at.as_millis() <= from);
    let end = loaded.histograms.partition_point(|s| s.at.as_millis() <= to);
    let histograms: &[HistogramSample] = loaded.histograms.get(first..end).unwrap_or_default();
    if histograms.is_empty() {
        if let Some(value) = extended::value_at(&loaded.samples, now, lookback) {
            points.push(step, value);
        }
        return;
    }
    let near = |s: &Sample| s.at.as_millis() > from && s.at.as_millis() <= to;
    let mut call = Remarks::default();
    if loaded.samples.iter().any(near) {
        call.add(Remark::MixedSamples);
    } else if let Some(histogram) = extended_native::value_at(histograms, now, &mut call) {
        points.push_histogram(step, Arc::new(histogram));
    }
    remarks.absorb(&mut call);
}

/// The series that have values.
fn with_points(selected: Vec<source::Series>, points: Vec<Points>) -> Vec<Series> {
    let all = selected.into_iter().zip(points).filter(|(_, points)| !points.is_empty());
    all.map(|(series, points)| Series { labels: series.labels, drop_name: false, points }).collect()
}

impl Evaluator<'_> {
    /// The time of the latest sample at each step, in milliseconds.
    pub(super) fn latest_times(
        &self,
        series: &source::Series,
        reference: Reference,
        grid: Grid,
        loaded: &mut Loaded,
    ) -> Result<Points, EvalError> {
        let lookback = self.lookback();
        let latest = Latest { grid, reference, lookback, take: Take::Time };
        loaded.read(series, latest.bounds(), false, &self.budget)?;
        let values = Latest { take: Take::Value, ..latest }.points(loaded);
        if !values.histograms().is_empty() {
            return Err(EvalError::HistogramInfo(series.labels.clone()));
        }
        let mut points = latest.points(loaded);
        points.map(|_, time| Some((time * 1000.0).round()));
        self.hold(points.size())?;
        Ok(points)
    }
}
