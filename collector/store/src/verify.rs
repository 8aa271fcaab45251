//! Reads all of every block, and says what is damaged.

use crate::block::{Block, BlockName};
use crate::core::Core;
use crate::error::Error;

/// What was read, and what is wrong with it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verified {
    /// Blocks read.
    pub blocks: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Chunks in them.
    pub chunks: u64,
    /// Samples in those.
    pub samples: u64,
    /// What is damaged, and where; one sentence each.
    pub damaged: Vec<String>,
}

/// Reads every block; `progress` hears after each how many of how many bytes are done.
pub(crate) fn verify(core: &Core, progress: &mut dyn FnMut(u64, u64)) -> Result<Verified, Error> {
    let blocks = core.blocks.all();
    let total = blocks.iter().map(|(_, _, entry)| entry.bytes).sum();
    let mut out = Verified::default();
    for (shard, name, entry) in blocks {
        match check(core, shard, &name) {
            Ok(Some((chunks, samples))) => {
                out.blocks += 1;
                out.chunks += chunks;
                out.samples += samples;
            }
            // Dropped or compacted meanwhile.
            Ok(None) => {}
            Err(e @ Error::Damaged { .. }) => out.damaged.push(e.to_string()),
            Err(e) => return Err(e),
        }
        out.bytes += entry.bytes;
        progress(out.bytes, total);
    }
    Ok(out)
}

/// Chunks and samples of a block that is whole.
fn check(core: &Core, shard: u32, name: &BlockName) -> Result<Option<(u64, u64)>, Error> {
    let Some(block) = core.blocks.block(shard, name)? else { return Ok(None) };
    let chunks = Block::verify(&block)?;
    Ok(Some((chunks, block.directory.samples)))
}
