//! The samples of one series, read into room that is reused from series to series.

use std::sync::Arc;

use tributary_model::histogram::{Histogram, HistogramSample, ResetHint};
use tributary_model::sample::{Numbers, Sample, Timestamp, is_stale};

use super::budget::Budget;
use super::series::histogram_size;
use crate::source::{self, Starts};
use crate::value::EvalError;

/// Numbers and histograms of one series, each in order of time.
#[derive(Debug, Default)]
pub(super) struct Loaded {
    pub(super) numbers: Numbers,
    /// The numbers, once they are joined.
    pub(super) samples: Vec<Sample>,
    pub(super) histograms: Vec<HistogramSample>,
    /// Since when they count; empty if it is not known or was not asked for.
    pub(super) starts: Starts,
}

impl Loaded {
    /// Reads the samples between two milliseconds, staleness markers among them, in place of those here.
    pub(super) fn read(
        &mut self,
        series: &source::Series,
        (from, to): (i64, i64),
        with_starts: bool,
        budget: &Budget<'_>,
    ) -> Result<(), EvalError> {
        budget.check()?;
        self.clear();
        let (from, to) = (Timestamp::from_millis(from), Timestamp::from_millis(to));
        series.samples.read(from, to, &mut self.numbers, &mut self.histograms)?;
        if with_starts {
            series.samples.read_starts(from, to, &mut self.starts)?;
        }
        budget.count_read(self.size());
        Ok(())
    }

    /// Makes samples of the numbers, for those who want times and values together.
    pub(super) fn join(&mut self) {
        self.samples.extend(self.numbers.iter());
        self.numbers.clear();
    }

    /// Whether there are numbers only, of which nothing else is known.
    pub(super) fn has_only_numbers(&self) -> bool {
        self.histograms.is_empty() && !self.has_starts()
    }

    pub(super) fn clear(&mut self) {
        self.numbers.clear();
        self.samples.clear();
        self.histograms.clear();
        self.starts.samples.clear();
        self.starts.histograms.clear();
    }

    /// Joins what was read, without staleness markers.
    pub(super) fn join_fresh(&mut self) {
        self.join();
        retain_both(&mut self.samples, &mut self.starts.samples, |s| !is_stale(s.value));
        let starts = &mut self.starts.histograms;
        retain_both(&mut self.histograms, starts, |s| !s.histogram.is_stale());
    }

    /// Leaves only the number and the sum of observations. What buckets tell of resets is put into the hints before.
    pub(super) fn reduce_to_totals(&mut self) {
        let mut before: Option<Arc<Histogram>> = None;
        for sample in &mut self.histograms {
            if sample.histogram.is_stale() {
                continue;
            }
            let mut whole = Arc::clone(&sample.histogram);
            if let (ResetHint::Unknown, Some(before)) = (whole.hint(), &before) {
                let reset = whole.is_reset_after(before);
                let hint = if reset { ResetHint::Reset } else { ResetHint::NotReset };
                whole = Arc::new(Histogram::clone(&whole).with_hint(hint));
            }
            sample.histogram = Arc::new(whole.totals());
            before = Some(whole);
        }
    }

    /// How much it holds, in samples.
    pub(super) fn size(&self) -> usize {
        let histograms = self.histograms.iter().map(|sample| histogram_size(&sample.histogram));
        self.numbers.len() + self.samples.len() + histograms.sum::<usize>()
    }

    /// Whether anything is known of since when the samples count.
    pub(super) fn has_starts(&self) -> bool {
        !(self.starts.samples.is_empty() && self.starts.histograms.is_empty())
    }
}

/// Keeps values, and with each its companion if there are any.
fn retain_both<T, C>(values: &mut Vec<T>, companions: &mut Vec<C>, keep: impl Fn(&T) -> bool) {
    if values.iter().all(&keep) {
        return;
    }
    if !companions.is_empty() {
        let mut kept = values.iter().map(&keep);
        companions.retain(|_| kept.next().unwrap_or(false));
    }
    values.retain(|value| keep(value));
}
