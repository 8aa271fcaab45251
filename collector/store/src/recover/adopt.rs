//! Takes in blocks that the key-value store does not know of: it was lost, or lost what it had said to be on disk.
//!
//! A block has the label sets of its series. Before a flush writes blocks, the catalogue is on disk; so whatever a block
//! names and the catalogue lacks was lost, and what both have must agree.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tributary_model::label::Labels;

use crate::block::Block;
use crate::catalogue::{self, Spans};
use crate::core::{Core, Shard};
use crate::error::Error;
use crate::keys::metric_group;

/// Adopts the blocks of flushes behind `attempts`, and says how many brought series with them.
pub(crate) fn adopt(core: &Core, attempts: u32, damaged: &mut Vec<String>) -> Result<u64, Error> {
    let mut unknown = core.blocks.all();
    unknown.retain(|(_, name, _)| name.attempt() > attempts);
    unknown.sort_unstable_by_key(|(shard, name, _)| (*shard, name.number));
    let mut adopted = 0;
    for (shard, name, _) in unknown {
        let opened = core.blocks.block(shard, &name);
        let read = opened.and_then(|block| match block {
            Some(block) => block.label_sets().map(|sets| Some((block, sets))),
            None => Ok(None),
        });
        match read {
            Ok(Some((block, sets))) => {
                if belongs(core, shard, &block, &sets) {
                    adopted += u64::from(take_in(core, shard, &block, &sets)?);
                } else {
                    let why = "its series are others than the catalogue's; it was set aside";
                    damaged.push(format!("the block {name:?} of shard {shard}: {why}"));
                    core.blocks.set_aside(shard, &name)?;
                }
            }
            Ok(None) => {}
            Err(e @ Error::Damaged { .. }) => damaged.push(e.to_string()),
            Err(e) => return Err(e),
        }
    }
    Ok(adopted)
}

/// Whether shard and series are what the catalogue says they are, as far as it says something.
fn belongs(core: &Core, shard: u32, block: &Block, sets: &[(u32, Labels)]) -> bool {
    let cluster = &block.directory.cluster;
    let shards = core.shards();
    let by_number = shards.iter().find(|known| known.id == shard);
    if by_number.is_some_and(|known| known.cluster != *cluster) {
        return false;
    }
    let Some(known) = core.find_shard(cluster) else { return true };
    let index = known.index();
    known.id == shard
        && sets.iter().all(|(number, labels)| match index.labels(*number) {
            Some(here) => here == labels,
            None => index.number(labels).is_none(),
        })
}

/// Adds the series that are missing, and what the block has to the spans of all of its series.
fn take_in(core: &Core, shard: u32, block: &Block, sets: &[(u32, Labels)]) -> Result<bool, Error> {
    core.skip_shards(shard);
    let shard: Arc<Shard> = core.shard(&block.directory.cluster);
    let (first, last) = block.directory.span;
    core.in_blocks_until.fetch_max(last.saturating_add(1), Ordering::AcqRel);
    let mut new = false;
    let mut spans = Spans::new();
    {
        let mut index = shard.index_mut();
        let mut head = shard.head_mut();
        for (number, labels) in sets {
            let group = metric_group(labels.metric_name());
            while index.next() <= *number {
                head.push_series(group);
                index.skip();
            }
            if index.labels(*number).is_none() {
                head.set_group(*number, group);
                index.put(*number, labels);
                new = true;
            }
            head.widen(*number, first, last);
            spans.insert(*number, (first, last));
        }
    }
    if new {
        // What the catalogue lacked may lie in front of what it had: all of it is written anew.
        shard.saved.fetch_max(shard.index().next(), Ordering::Relaxed);
        catalogue::save(core)?;
        catalogue::rewrite(core, &shard)?;
    }
    catalogue::widen_spans(core, shard.id, &spans)?;
    Ok(new)
}
