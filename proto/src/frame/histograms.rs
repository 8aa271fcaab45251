//! The histograms section: series, times, and each histogram as what changed since the one before it of its series.

use std::collections::HashMap;
use std::sync::Arc;

use tributary_model::fields::put_signed;
use tributary_model::histogram::{CodecError, Histogram, HistogramSample, MAX_BUCKETS, Schema};
use tributary_model::sample::Timestamp;

use super::wire::{Reader, put_len};
use super::{FrameError, FrameHistogram};
use crate::limits::{Limits, MAX_REMEMBERED_COUNTS};

const WHAT: &str = "histograms";

/// A segment's newest histogram of each series, the same at both ends.
#[derive(Debug, Default)]
pub(super) struct Histograms {
    newest: HashMap<u32, Arc<Histogram>>,
    counts: usize,
}

impl Histograms {
    /// The section's body. `base` is the frame's oldest time.
    pub(super) fn write(&mut self, histograms: &[FrameHistogram], base: Timestamp) -> Vec<u8> {
        let mut sorted: Vec<&FrameHistogram> = histograms.iter().collect();
        // Stable, so that of two of one series and time the earlier one stays first.
        sorted.sort_by_key(|histogram| (histogram.sample.at, histogram.series));
        let mut body = Vec::new();
        put_len(&mut body, sorted.len());
        let mut before = (base.as_millis(), 0);
        for FrameHistogram { series, sample } in sorted {
            let at = sample.at.as_millis();
            put_signed(&mut body, at.wrapping_sub(before.0));
            put_signed(&mut body, i64::from(*series) - before.1);
            let newest = self.newest.get(series).map(|newest| &**newest);
            sample.histogram.encode(newest, &mut body);
            self.keep(*series, &sample.histogram);
            before = (at, i64::from(*series));
        }
        body
    }

    /// Reads a body of exactly `expected` histograms of `series` series.
    pub(super) fn read(
        &mut self,
        body: &[u8],
        series: usize,
        expected: usize,
        base: Timestamp,
        limits: &Limits,
    ) -> Result<Vec<FrameHistogram>, FrameError> {
        let mut reader = Reader::new(body, WHAT);
        // Time, series, flags, sum and two counts.
        let count = reader.count(13)?;
        if count > limits.max_samples_per_frame {
            let limit = limits.max_samples_per_frame;
            return Err(FrameError::too_large("number of samples", count, limit));
        }
        if count != expected {
            return Err(reader.malformed("the header names another number of samples"));
        }
        let mut out = Vec::with_capacity(count);
        let mut before = (base.as_millis(), 0i64);
        for _ in 0..count {
            let at = before.0.wrapping_add(reader.signed()?);
            let number = before.1.checked_add(reader.signed()?);
            let number = number.and_then(|number| u32::try_from(number).ok());
            let known = number.filter(|n| usize::try_from(*n).is_ok_and(|n| n < series));
            let number =
                known.ok_or_else(|| reader.malformed("a series is not in the dictionary"))?;
            let mut rest = reader.rest();
            let newest = self.newest.get(&number).map(|newest| &**newest);
            let histogram = Histogram::decode(&mut rest, newest).map_err(refused)?;
            reader.take(reader.remaining() - rest.len())?;
            let histogram = Arc::new(histogram);
            self.keep(number, &histogram);
            let at_time = Timestamp::from_millis(at);
            let sample = HistogramSample { at: at_time, histogram };
            out.push(FrameHistogram { series: number, sample });
            before = (at, i64::from(number));
        }
        reader.end()?;
        Ok(out)
    }

    /// Remembers a series' newest histogram, as long as there is room for it.
    fn keep(&mut self, series: u32, histogram: &Arc<Histogram>) {
        if let Some(old) = self.newest.remove(&series) {
            self.counts = self.counts.saturating_sub(cost(&old));
        }
        let cost = cost(histogram);
        if self.counts + cost <= MAX_REMEMBERED_COUNTS {
            self.counts += cost;
            self.newest.insert(series, Arc::clone(histogram));
        }
    }
}

/// What remembering a histogram counts for: its buckets, its bounds, and 16 for the rest.
fn cost(histogram: &Histogram) -> usize {
    let bounds = match histogram.schema() {
        Schema::Custom(bounds) => bounds.len(),
        Schema::Exponential(_) => 0,
    };
    16 + histogram.positive().len() + histogram.negative().len() + bounds
}

fn refused(error: CodecError) -> FrameError {
    match error {
        CodecError::Truncated => FrameError::Truncated { what: WHAT },
        CodecError::Malformed(why) => FrameError::Malformed { what: WHAT, why },
        CodecError::TooMany => {
            FrameError::Malformed { what: WHAT, why: "one has too many buckets" }
        }
        CodecError::Invalid(_) => FrameError::Malformed { what: WHAT, why: "one is not valid" },
    }
}

/// Whether a histogram may be in a frame.
pub(super) fn check(histogram: &Histogram) -> Result<(), FrameError> {
    if histogram.is_within_bounds() {
        return Ok(());
    }
    let found = histogram.positive().len() + histogram.negative().len();
    Err(FrameError::too_large("number of buckets", found, MAX_BUCKETS))
}
