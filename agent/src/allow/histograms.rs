//! Native histograms on their way through the allowlist.

use tributary_model::histogram::HistogramSample;
use tributary_model::label::Labels;
use tributary_model::sample::{Sample, Timestamp};

use super::metrics::Dropped;
use super::tally::Tally;
use super::{Allowlist, Kept, LAST};

impl Allowlist {
    /// Histograms pass as numbers do, but are not merged: theirs would need members of one layout.
    pub(super) fn pass_histogram(
        &mut self,
        labels: Labels,
        histogram: HistogramSample,
        now: Timestamp,
        kept: &mut Kept,
        tally: &mut Tally,
    ) {
        let at = histogram.at;
        if at < Timestamp::default() || at > LAST {
            return tally.drop(Dropped::timestamp);
        }
        let decision = self.decision(labels, at, now);
        // Of a sample, only the time and whether it is a marker count here.
        let sample = Sample { at, value: histogram.histogram.sum() };
        if let Some(labels) = self.admit(decision, sample, now, tally) {
            kept.histograms.push((labels, histogram));
        }
    }
}
