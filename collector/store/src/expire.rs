//! Drops blocks that are older than the retention or too many, and series that have no sample in it.

use std::sync::atomic::Ordering;

use tributary_model::sample::Timestamp;

use crate::block::BlockName;
use crate::catalogue;
use crate::core::{Core, Shard};
use crate::error::Error;

/// A series that was resolved in the last hours may be written to at any moment. Also how often the catalogue is cleaned.
const RESOLVED_HOURS: u32 = 24;

/// What expired.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Expired {
    pub(crate) blocks: u64,
    pub(crate) series: u64,
}

/// Drops what every cluster's retention has passed, and the oldest blocks over [`crate::Options::retention_bytes`].
pub(crate) fn expire(core: &Core, now: Timestamp) -> Result<Expired, Error> {
    let mut expired = Expired::default();
    let horizon = |shard: &Shard| now.minus(core.retention(&shard.cluster));
    for shard in core.shards() {
        let end = horizon(&shard).as_millis();
        let blocks = core.blocks.of_shard(shard.id).into_iter().map(|(name, _)| name);
        let old: Vec<BlockName> = blocks.filter(|name| name.end() <= end).collect();
        expired.blocks += drop_blocks(core, shard.id, &old)?;
    }
    expired.blocks += shrink(core)?;
    if clean_due(core) {
        for shard in core.shards() {
            expired.series += series(core, &shard, horizon(&shard))?;
        }
        if expired.series > 0 {
            core.kv.persist().map_err(Error::kv("flushing the catalogue to disk"))?;
        }
    }
    Ok(expired)
}

/// Drops the oldest blocks until the others fit.
fn shrink(core: &Core) -> Result<u64, Error> {
    let limit = core.options.retention_bytes;
    if limit == 0 {
        return Ok(0);
    }
    let mut blocks = core.blocks.all();
    blocks.sort_unstable_by_key(|(_, name, _)| (name.end(), name.number));
    let mut over =
        blocks.iter().map(|(_, _, entry)| entry.bytes).sum::<u64>().saturating_sub(limit);
    let mut dropped = 0;
    for (shard, name, entry) in blocks {
        if over == 0 {
            break;
        }
        over = over.saturating_sub(entry.bytes);
        dropped += drop_blocks(core, shard, &[name])?;
    }
    Ok(dropped)
}

fn drop_blocks(core: &Core, shard: u32, names: &[BlockName]) -> Result<u64, Error> {
    if names.is_empty() {
        return Ok(0);
    }
    core.blocks.change(shard, &[], names);
    core.generation.fetch_add(1, Ordering::AcqRel);
    names.iter().try_for_each(|name| core.blocks.delete(shard, name))?;
    core.blocks.sync(shard)?;
    Ok(names.len() as u64)
}

/// Once in a while, and not before the store was open that long: what was resolved before is not known better.
fn clean_due(core: &Core) -> bool {
    let now = core.hour.load(Ordering::Relaxed);
    let last = core.cleaned_hour.load(Ordering::Relaxed);
    let due = last > 0 && now >= last.saturating_add(RESOLVED_HOURS);
    if due || last == 0 {
        core.cleaned_hour.store(now, Ordering::Relaxed);
    }
    due
}

/// Removes the series of a shard whose newest sample lies before `horizon`, and those that never had one.
fn series(core: &Core, shard: &Shard, horizon: Timestamp) -> Result<u64, Error> {
    let hour = core.hour.load(Ordering::Relaxed).saturating_sub(RESOLVED_HOURS);
    let saved = shard.saved.load(Ordering::Relaxed);
    let mut removed = Vec::new();
    {
        let mut index = shard.index_mut();
        let mut head = shard.head_mut();
        for number in index.live().clone() {
            let ended = head.span(number).is_none_or(|(_, last)| last < horizon.as_millis());
            if ended && !head.is_active(number) && number < saved && index.remove(number, hour) {
                head.forget(number);
                removed.push(number);
            }
        }
        index.shrink();
    }
    if !removed.is_empty() {
        catalogue::rewrite(core, shard)?;
        catalogue::drop_spans(core, shard.id, &removed)?;
    }
    Ok(removed.len() as u64)
}
