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

/// Visits chunks in their order: times, and values' bits. `bits` is room that is used again.
pub(crate) fn decode(
    found: &[Found],
    bits: &mut Vec<u64>,
    mut visit: impl FnMut(&[i64], &[u64]),
) -> Result<(), Error> {
    for pair in found.chunks(2) {
        bits.resize(pair.iter().map(|found| found.count).sum(), 0);
        match pair {
            [one, other] => {
                let (one_bits, other_bits) = bits.split_at_mut(one.count);
                let encoded = [one.encoded(), other.encoded()];
                if values::decode_two(encoded, [&mut *one_bits, &mut *other_bits]).is_err() {
                    // One by one it is seen which of them is damaged.
                    one.values(one_bits)?;
                    other.values(other_bits)?;
                }
                visit(one.times()?, one_bits);
                visit(other.times()?, other_bits);
            }
            rest => {
                for found in rest {
                    found.values(bits)?;
                    visit(found.times()?, bits);
                }
            }
        }
    }
    Ok(())
}
