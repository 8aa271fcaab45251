//! How much fits into a frame: no sample may take more bytes than is said here.

use tributary_model::fields::MAX_VARINT_BYTES;
use tributary_model::histogram::HistogramSample;
use tributary_model::label::Labels;
use tributary_model::sample::Sample;

use super::{Encoder, value};
use crate::limits;

impl Encoder {
    /// How many of these samples, from the front, surely fit into one frame beside a little metadata. At least one,
    /// unless there is none.
    pub fn prefix(&self, samples: &[(Labels, Sample)]) -> usize {
        self.prefixes(samples, &[]).0
    }

    /// The same for numbers and, once all of these fit, native histograms.
    pub fn prefixes(
        &self,
        samples: &[(Labels, Sample)],
        histograms: &[(Labels, HistogramSample)],
    ) -> (usize, usize) {
        let mut filled = Filled { cost: 0, samples: 0, previous: None };
        let numbers = self.fitting(samples, |_| SAMPLE_COST, &mut filled);
        if numbers < samples.len() {
            return (numbers, 0);
        }
        (numbers, self.fitting(histograms, histogram_cost, &mut filled))
    }

    fn fitting<T>(
        &self,
        samples: &[(Labels, T)],
        each: impl Fn(&T) -> usize,
        filled: &mut Filled,
    ) -> usize {
        let mut fitting = 0;
        for (labels, sample) in samples {
            let known = self.dictionary.find(labels, filled.previous);
            filled.previous = known.or(filled.previous);
            filled.cost = filled.cost.saturating_add(each(sample));
            if known.is_none() {
                filled.cost = filled.cost.saturating_add(series_cost(labels));
            }
            let full = filled.cost > limits::MAX_FRAME_BYTES / 4 * 3
                || filled.samples >= limits::MAX_SAMPLES_PER_FRAME;
            if full && filled.samples > 0 {
                break;
            }
            fitting += 1;
            filled.samples += 1;
        }
        fitting
    }
}

/// What a frame would hold already.
struct Filled {
    cost: usize,
    samples: usize,
    previous: Option<u32>,
}

/// Most bytes a gap takes.
pub(super) const GAP_COST: usize = 1 + 3 * MAX_VARINT_BYTES;
/// Most bytes a sample takes: a group of its own with a list in full and an absolute time, and the dearest value. The
/// range coder's rounding costs less than the byte on top.
pub(super) const SAMPLE_COST: usize = 12 + MAX_VARINT_BYTES + value::MAX_VALUE_BITS.div_ceil(8) + 1;

/// Most bytes a histogram takes: beside its own, a time and a series.
pub(super) fn histogram_cost(sample: &HistogramSample) -> usize {
    sample.histogram.encoded_bound().saturating_add(MAX_VARINT_BYTES + 5)
}

/// Most bytes a new series takes in the dictionary: per text two lengths and a reference.
pub(super) fn series_cost(labels: &Labels) -> usize {
    2 + limits::text_bytes(labels) + labels.len() * 2 * (2 * 3 + 5)
}
