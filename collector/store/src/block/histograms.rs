//! The native histograms of a block. Their pages have the form of all pages, with another encoding of the values.

use std::sync::Arc;

use tributary_model::histogram::Histogram;

use super::page::{ChunkRef, Page, Place};
use super::read::{Block, Column, Cursor};
use crate::cache::Cache;
use crate::codec::histograms;
use crate::error::Error;

/// Times and histograms.
type Samples = Vec<(i64, Arc<Histogram>)>;

impl Block {
    /// Appends a series' histograms between two times, both inclusive, chunk by chunk.
    pub(crate) fn read_histograms(
        &self,
        cache: &Cache,
        place: Place,
        (from, to): (i64, i64),
        out: &mut Samples,
    ) -> Result<(), Error> {
        for reference in self.pages_of(Column::Histograms, place) {
            let page = self.page(cache, reference)?;
            for chunk in page.of(place) {
                self.histograms(cache, (&page, reference.offset), chunk, (from, to), out)?;
            }
        }
        Ok(())
    }

    fn histograms(
        &self,
        cache: &Cache,
        (page, offset): (&Page, u64),
        chunk: &ChunkRef,
        (from, to): (i64, i64),
        out: &mut Samples,
    ) -> Result<(), Error> {
        let (clocks, number) = self.clocks_of(cache, chunk.clock)?;
        let clock = clocks.at(number).map_err(self.damaged(offset))?;
        if clock.first > to || clock.last < from {
            return Ok(());
        }
        let mut times = clocks.times(clock).map_err(self.damaged(offset))?.iter();
        let read = histograms::decode(page.encoded(chunk), clock.count, |histogram| {
            let Some(at) = times.next().copied() else { return false };
            if at >= from && at <= to {
                out.push((at, histogram));
            }
            at < to
        });
        read.map_err(self.damaged(offset))
    }
}

impl Cursor {
    /// Appends all histograms of the next series, chunk by chunk, and passes over it.
    pub(crate) fn take_histograms(&mut self, out: &mut Samples) -> Result<(), Error> {
        let Some(place) = self.place() else { return Ok(()) };
        while self.place() == Some(place) {
            let Some((page, offset)) = &self.page else { break };
            if let Some(chunk) = page.chunks().get(self.next_chunk) {
                let all = (i64::MIN, i64::MAX);
                self.block.histograms(&self.cache, (page, *offset), chunk, all, out)?;
            }
            self.pass()?;
        }
        Ok(())
    }
}
