//! Drops days that are older than the retention, and series that have no sample in it.

use std::sync::atomic::Ordering;

use tributary_model::sample::Timestamp;

use crate::catalogue;
use crate::core::{Core, Shard};
use crate::error::Error;
use crate::keys::{pages_tree, partition_end};

/// A series that was resolved in the last hours may be written to at any moment. Also how often the catalogue is cleaned.
const RESOLVED_HOURS: u32 = 24;

/// What expired.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Expired {
    pub(crate) partitions: u64,
    pub(crate) series: u64,
}

/// Drops what ended before `horizon`.
pub(crate) fn expire(core: &Core, horizon: Timestamp) -> Result<Expired, Error> {
    let mut expired = Expired::default();
    for partition in core.partitions() {
        if partition_end(partition) > horizon {
            break;
        }
        let mut partitions =
            core.partitions.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        partitions.remove(&partition);
        drop(partitions);
        core.kv.drop_tree(&pages_tree(partition)).map_err(Error::kv("dropping a day"))?;
        expired.partitions += 1;
    }
    if expired.partitions > 0 {
        core.cache.clear();
        core.kv.persist().map_err(Error::kv("dropping a day"))?;
    }
    if clean_due(core) {
        for shard in core.shards() {
            expired.series += series(core, &shard, horizon)?;
        }
        if expired.series > 0 {
            core.kv.persist().map_err(Error::kv("flushing the catalogue to disk"))?;
        }
    }
    Ok(expired)
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
