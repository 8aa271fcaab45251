//! The native histograms of a series, from blocks and the head.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tributary_model::histogram::{Histogram, HistogramSample};
use tributary_model::sample::{Numbers, Timestamp};

use super::SelectedSeries;
use crate::error::Error;
use crate::flush::in_order;

impl SelectedSeries {
    /// Appends the native histograms between two times, as [`SelectedSeries::read`] does with numbers. What they say of
    /// resets follows from the one before, as Prometheus' storage has it; of the first one it is not known.
    pub fn read_histograms(
        &self,
        from: Timestamp,
        to: Timestamp,
        out: &mut Vec<HistogramSample>,
    ) -> Result<(), Error> {
        let found = self.stored_histograms(from.as_millis(), to.as_millis())?;
        let mut numbers = Numbers::default();
        if found.len() > 1 {
            // A number between two histograms parts them.
            self.read(from, to, &mut numbers)?;
        }
        let mut before: Option<&(i64, Arc<Histogram>)> = None;
        for sample in &found {
            let (at, histogram) = sample;
            let previous = before.filter(|(time, previous)| {
                !previous.is_stale() && !any_between(&numbers.times, *time, *at)
            });
            let hint = histogram.hint_after(previous.map(|(_, previous)| &**previous));
            let histogram = if hint == histogram.hint() {
                Arc::clone(histogram)
            } else {
                Arc::new(Histogram::clone(histogram).with_hint(hint))
            };
            out.push(HistogramSample { at: Timestamp::from_millis(*at), histogram });
            before = Some(sample);
        }
        Ok(())
    }

    /// What was stored, by ascending time, each time once.
    fn stored_histograms(&self, from: i64, to: i64) -> Result<Vec<(i64, Arc<Histogram>)>, Error> {
        let core = &self.plan.core;
        let mut out = Vec::new();
        let pieces = loop {
            let generation = core.generation.load(Ordering::Acquire);
            out.clear();
            self.blocks(generation, (from, to), &mut |block, _| {
                block.read_histograms(&core.blocks.cache, self.place, (from, to), &mut out)
            })?;
            let pieces = self.shard.head().histograms(self.place.series, from, to);
            if core.generation.load(Ordering::Acquire) == generation {
                break pieces;
            }
        };
        for chunk in &pieces.chunks {
            let read = chunk.read(|at, histogram| {
                if at >= from && at <= to {
                    out.push((at, histogram));
                }
                at < to
            });
            read.map_err(Error::damaged("a chunk in memory"))?;
        }
        out.extend(pieces.late);
        in_order(&mut out);
        Ok(out)
    }
}

/// Whether a sample lies between two times.
fn any_between(times: &[i64], from: i64, to: i64) -> bool {
    let at = times.partition_point(|at| *at <= from);
    times.get(at).is_some_and(|at| *at < to)
}
