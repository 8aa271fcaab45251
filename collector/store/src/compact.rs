//! Makes one block of the blocks of a day, once nothing more is expected in it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tributary_model::sample::Timestamp;

use crate::block::{self, Block, BlockName, Column, Cursor, Place, Written};
use crate::blocks::Entry;
use crate::core::{Core, Shard};
use crate::error::Error;
use crate::flush::in_order;
use crate::keys::{PARTITION_WINDOWS, partition_of, window_start};

/// A day is left alone for so long after its end.
const SETTLED: Duration = Duration::from_secs(3 * 3600);
/// A day is left alone for so long after something was written into it: what comes late comes together.
const QUIET: Duration = Duration::from_secs(3600);

/// What was done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Compacted {
    /// Blocks that became others.
    pub(crate) taken: u64,
    /// Blocks written.
    pub(crate) made: u64,
    /// Their bytes.
    pub(crate) bytes: u64,
}

/// Which days are compacted.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Due {
    /// Those in which nothing more is expected at this time.
    Settled(Timestamp),
    /// All.
    Now,
}

/// Compacts the first day, of any shard, that is due; nothing if there is none. To be called again while it does
/// something: one day at a time leaves room for everything else.
pub(crate) fn compact(core: &Core, attempt: u32, when: Due) -> Result<Compacted, Error> {
    for shard in core.shards() {
        if let Some((day, inputs)) = due(core, &shard, when) {
            let written = merge(core, &shard, day, &inputs, attempt)?;
            return Ok(Compacted { taken: inputs.len() as u64, made: 1, bytes: written.bytes });
        }
    }
    Ok(Compacted::default())
}

/// Deletes what blocks have taken over, where a compaction was cut short after its end.
pub(crate) fn finish(core: &Core) -> Result<(), Error> {
    for shard in core.shards() {
        let names: Vec<BlockName> =
            core.blocks.of_shard(shard.id).into_iter().map(|(name, _)| name).collect();
        for name in names.iter().filter(|name| name.windows > 1) {
            let others = names.iter().filter(|n| *n != name && n.overlaps(name.first, name.last()));
            let others: Vec<&BlockName> = others.collect();
            if others.is_empty() {
                continue;
            }
            let Ok(Some(block)) = core.blocks.block(shard.id, name) else { continue };
            let replaces = &block.directory.replaces;
            for gone in others.into_iter().filter(|other| replaces.contains(&other.number)) {
                core.blocks.change(shard.id, &[], &[*gone]);
                core.blocks.delete(shard.id, gone)?;
            }
        }
    }
    Ok(())
}

/// The first day of a shard that is due, with its blocks.
fn due(core: &Core, shard: &Shard, when: Due) -> Option<(i64, Vec<BlockName>)> {
    let mut days: BTreeMap<i64, (Vec<BlockName>, Option<Timestamp>)> = BTreeMap::new();
    for (name, entry) in core.blocks.of_shard(shard.id) {
        let (names, written) = days.entry(partition_of(name.first)).or_default();
        names.push(name);
        *written = entry.written.max(*written);
    }
    let is_due = |(day, (names, written)): &(i64, (Vec<BlockName>, Option<Timestamp>))| {
        let end = window_start(day.saturating_add(1).saturating_mul(PARTITION_WINDOWS));
        names.len() > 1
            && match when {
                Due::Now => true,
                Due::Settled(now) => {
                    end <= now.minus(SETTLED).as_millis()
                        && written.is_none_or(|written| now.since(written) >= QUIET)
                }
            }
    };
    days.into_iter().find(is_due).map(|(day, (names, _))| (day, names))
}

fn merge(
    core: &Core,
    shard: &Shard,
    day: i64,
    inputs: &[BlockName],
    attempt: u32,
) -> Result<Written, Error> {
    let first = day.saturating_mul(PARTITION_WINDOWS);
    let windows = u32::try_from(PARTITION_WINDOWS).unwrap_or(1);
    let name = core.blocks.name(first, windows, attempt);
    let replaces = inputs.iter().map(|input| input.number).collect();
    let mut writer = block::Writer::new(&core.blocks.folder(shard.id)?, shard.id, name, replaces)?;
    let mut blocks = Vec::new();
    for input in inputs {
        blocks.extend(core.blocks.block(shard.id, input)?);
    }
    merge_column(core, shard, (&blocks, Column::Numbers), Cursor::take, |place, samples| {
        writer.add(place, samples)
    })?;
    merge_column(
        core,
        shard,
        (&blocks, Column::Histograms),
        Cursor::take_histograms,
        |place, h| writer.add_histograms(place, h),
    )?;
    let labels = |series| shard.index().labels(series).cloned();
    let written = writer.finish(shard.cluster.as_str(), labels)?;
    core.blocks.sync(shard.id)?;
    core.blocks.change(shard.id, &[(name, Entry { bytes: written.bytes, written: None })], inputs);
    core.generation.fetch_add(1, Ordering::AcqRel);
    for input in inputs {
        core.blocks.delete(shard.id, input)?;
    }
    core.blocks.sync(shard.id)?;
    Ok(written)
}

/// Merges one column of blocks, series by series.
fn merge_column<T>(
    core: &Core,
    shard: &Shard,
    (blocks, column): (&[Arc<Block>], Column),
    take: impl Fn(&mut Cursor, &mut Vec<(i64, T)>) -> Result<(), Error>,
    mut add: impl FnMut(Place, &[(i64, T)]) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut cursors = Vec::new();
    for block in blocks {
        cursors.push(Cursor::new(Arc::clone(block), column)?);
    }
    let mut samples = Vec::new();
    while let Some(place) = cursors.iter().filter_map(Cursor::place).min() {
        samples.clear();
        for cursor in cursors.iter_mut().filter(|cursor| cursor.place() == Some(place)) {
            take(cursor, &mut samples).map_err(|e| core.blocks.count(e))?;
        }
        // A series that left the catalogue has nothing within the retention.
        if shard.index().labels(place.series).is_none() {
            continue;
        }
        in_order(&mut samples);
        add(place, &samples)?;
    }
    Ok(())
}
