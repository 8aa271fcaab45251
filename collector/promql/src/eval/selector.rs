//! Instant vector selectors, and raw range vectors at the top of an instant query.

use tributary_model::sample::{Sample, Timestamp, is_stale};

use super::Evaluator;
use super::grid::{Grid, Reference};
use super::series::{Points, Series};
use super::{duration, matrix_from_samples};
use crate::ast::{Extend, MatrixSelector, VectorSelector};
use crate::functions::extended;
use crate::source::{self, Select};
use crate::value::{EvalError, MatrixSeries};

/// What a selector takes from the sample it finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Take {
    /// The value.
    Value,
    /// The sample's own time, in seconds.
    Time,
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
        let lookback = self.lookback();
        let from = reference.of(grid.start).saturating_sub(lookback).saturating_add(1);
        let to = reference.of(grid.last());
        let selected = self.select(&selector.matchers, from, to)?;
        let mut out = Vec::with_capacity(selected.len());
        let mut samples = Vec::new();
        for series in selected {
            self.read(&series, from, to, &mut samples)?;
            let mut points = Points::with_capacity(grid.count);
            let mut rest = samples.iter().peekable();
            let mut latest: Option<&Sample> = None;
            for (step, time) in grid.times() {
                let now = reference.of(time);
                while let Some(sample) = rest.next_if(|sample| sample.at.as_millis() <= now) {
                    latest = Some(sample);
                }
                let oldest = now.saturating_sub(lookback);
                if let Some(sample) =
                    latest.filter(|s| s.at.as_millis() > oldest && !is_stale(s.value))
                {
                    points.push(
                        step,
                        match take {
                            Take::Value => sample.value,
                            Take::Time => sample.at.as_secs_f64(),
                        },
                    );
                }
            }
            self.keep(&mut out, series, points)?;
        }
        Ok(out)
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
        let mut out = Vec::with_capacity(selected.len());
        let mut samples = Vec::new();
        for series in selected {
            self.read(&series, from, to, &mut samples)?;
            samples.retain(|sample| !is_stale(sample.value));
            let mut points = Points::with_capacity(grid.count);
            for (step, time) in grid.times() {
                let now = reference.of(time);
                if let Some(value) = extended::value_at(&samples, now, lookback) {
                    points.push(step, value);
                }
            }
            self.keep(&mut out, series, points)?;
        }
        Ok(out)
    }

    fn keep(
        &mut self,
        out: &mut Vec<Series>,
        series: source::Series,
        points: Points,
    ) -> Result<(), EvalError> {
        let count = points.count();
        if count > 0 {
            self.hold(count)?;
            out.push(Series { labels: series.labels, drop_name: false, points });
        }
        Ok(())
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

    /// Reads the samples of one series in place of those in `out`.
    pub(super) fn read(
        &mut self,
        series: &source::Series,
        from: i64,
        to: i64,
        out: &mut Vec<Sample>,
    ) -> Result<(), EvalError> {
        self.check()?;
        out.clear();
        series.samples.read(Timestamp::from_millis(from), Timestamp::from_millis(to), out)?;
        self.read += out.len();
        Ok(())
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
            let mut samples = Vec::new();
            self.read(&series, from, until, &mut samples)?;
            samples.retain(|sample| !is_stale(sample.value));
            if let Some(extend) = matrix.selector.extend {
                samples = extended::cut(&samples, start, to, extend == Extend::Smoothed);
            }
            self.hold(samples.len())?;
            out.push(MatrixSeries { labels: series.labels, samples });
        }
        Ok(matrix_from_samples(out))
    }
}
