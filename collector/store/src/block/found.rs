//! Chunks of numbers on their way out of blocks.

use std::ops::Range;
use std::sync::Arc;

use tributary_model::sample::Numbers;

use super::clocks::Clocks;
use super::page::{ChunkRef, Page};
use super::read::Block;
use crate::codec::values;
use crate::error::Error;

/// A chunk that was found and is not decoded yet.
#[derive(Debug)]
pub(crate) struct Found {
    pub(super) block: Arc<Block>,
    pub(super) page: Arc<Page>,
    /// The page's place in the block.
    pub(super) offset: u64,
    pub(super) chunk: ChunkRef,
    pub(super) clocks: Arc<Clocks>,
    /// The chunk's clock among them.
    pub(super) clock: u32,
    /// How many samples it has.
    pub(super) count: usize,
}

impl Found {
    fn times(&self) -> Result<&[i64], Error> {
        let clock = self.clocks.at(self.clock).map_err(self.block.damaged(self.offset))?;
        self.clocks.times(clock).map_err(self.block.damaged(self.offset))
    }

    fn encoded(&self) -> &[u8] {
        self.page.encoded(&self.chunk)
    }

    fn values(&self, slots: &mut [u64]) -> Result<(), Error> {
        values::decode(self.encoded(), slots).map_err(self.block.damaged(self.offset))
    }
}

/// Chunks that are decoded at once: enough for pairs, and few enough for their values to stay in the nearest cache.
const AT_ONCE: usize = 8;

/// Appends what chunks have between two times, both inclusive; nothing at all if one is damaged.
pub(crate) fn decode(
    found: &[Found],
    range: (i64, i64),
    numbers: &mut Numbers,
) -> Result<(), Error> {
    let start = numbers.len();
    numbers.reserve(count(found));
    let read = found.chunks(AT_ONCE).try_for_each(|group| decode_group(group, range, numbers));
    if read.is_err() {
        numbers.truncate(start);
    }
    read
}

fn count(found: &[Found]) -> usize {
    found.iter().map(|found| found.count).sum()
}

/// The values are decoded where they will stand, and what lies outside is taken away: nearly always nothing.
fn decode_group(group: &[Found], range: (i64, i64), numbers: &mut Numbers) -> Result<(), Error> {
    let start = numbers.values.len();
    numbers.values.resize(start + count(group), 0.0);
    let bits = bytemuck::cast_slice_mut(numbers.values.get_mut(start..).unwrap_or_default());
    let parts = in_parts(group, bits);
    if values::decode_all(parts.map(|(found, slots)| (found.encoded(), slots))).is_err() {
        // One by one it is seen which of them is damaged.
        in_parts(group, bits).try_for_each(|(found, slots)| found.values(slots))?;
    }
    for found in group {
        let times = found.times()?;
        let inside = inside(times, range);
        let begin = numbers.times.len();
        numbers.values.drain(begin + inside.end..begin + times.len());
        numbers.values.drain(begin..begin + inside.start);
        numbers.times.extend_from_slice(times.get(inside).unwrap_or_default());
    }
    Ok(())
}

/// Which of the times lie in the range.
fn inside(times: &[i64], (from, to): (i64, i64)) -> Range<usize> {
    let begin = match times.first() {
        Some(first) if *first >= from => 0,
        _ => times.partition_point(|at| *at < from),
    };
    let end = match times.last() {
        Some(last) if *last <= to => times.len(),
        _ => times.partition_point(|at| *at <= to),
    };
    begin..end.max(begin)
}

/// The chunks with their slots.
fn in_parts<'a>(
    found: &'a [Found],
    mut bits: &'a mut [u64],
) -> impl Iterator<Item = (&'a Found, &'a mut [u64])> {
    found.iter().map(move |found| {
        let (slots, rest) = std::mem::take(&mut bits).split_at_mut(found.count);
        bits = rest;
        (found, slots)
    })
}
