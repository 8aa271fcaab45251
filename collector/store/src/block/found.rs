//! Chunks of numbers on their way out of blocks.

use std::sync::Arc;

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

/// Visits chunks in their order: times, and values' bits. `bits` is room that is used again.
pub(crate) fn decode(
    found: &[Found],
    bits: &mut Vec<u64>,
    mut visit: impl FnMut(&[i64], &[u64]),
) -> Result<(), Error> {
    for group in found.chunks(AT_ONCE) {
        bits.resize(group.iter().map(|found| found.count).sum(), 0);
        let parts = in_parts(group, bits);
        if values::decode_all(parts.map(|(found, slots)| (found.encoded(), slots))).is_err() {
            // One by one it is seen which of them is damaged.
            in_parts(group, bits).try_for_each(|(found, slots)| found.values(slots))?;
        }
        for (found, values) in in_parts(group, bits) {
            visit(found.times()?, values);
        }
    }
    Ok(())
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
