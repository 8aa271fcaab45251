//! Stores of version 1, whose samples were pages in the key-value store: writes them anew as blocks.

mod clock;
mod pack;
mod values;

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use tributary_model::fields::{Fields, Malformed};

use crate::block::{MAX_CHUNK_SAMPLES, Place, Writer};
use crate::blocks::Entry;
use crate::core::Core;
use crate::error::Error;
use crate::flush::in_order;
use crate::keys::window_start;
use crate::sealed::unseal;

const PAGES_PREFIX: &str = "pages/";

/// The samples of one window and shard.
type Window = BTreeMap<Place, Vec<(i64, u64)>>;

/// Writes every page as part of a block of its window; damaged ones are described and left out.
pub(crate) fn migrate(core: &Core, attempt: u32, damaged: &mut Vec<String>) -> Result<u64, Error> {
    // What is there already is from a migration that did not end.
    for (shard, name, _) in core.blocks.all() {
        core.blocks.change(shard, &[], &[name]);
        core.blocks.delete(shard, &name)?;
    }
    let mut blocks = 0;
    for tree in trees(core) {
        let mut open: Option<(i64, u32, Window)> = None;
        let mut failed = Ok(());
        let visit = &mut |key: &[u8], value: &[u8]| {
            let read = Key::decode(key);
            let at = read.as_ref().map(|key| (key.window, key.shard));
            let full =
                open.take_if(|(window, shard, _)| at.is_ok_and(|at| at != (*window, *shard)));
            if let Some(full) = full {
                blocks += 1;
                failed = write(core, attempt, full);
            }
            let read = read.and_then(|known| {
                let window = &mut open.get_or_insert((known.window, known.shard, Window::new())).2;
                page(&known, key, value, window)
            });
            if let Err(why) = read {
                damaged.push(format!("the page {key:?} of \"{tree}\": {why}"));
            }
            if failed.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        };
        core.kv.range(&tree, &[], visit).map_err(Error::kv("reading pages"))?;
        failed?;
        if let Some(last) = open {
            blocks += 1;
            write(core, attempt, last)?;
        }
    }
    Ok(blocks)
}

/// Drops the trees of pages: their content is in blocks.
pub(crate) fn drop_trees(core: &Core) -> Result<(), Error> {
    for tree in trees(core) {
        core.kv.drop_tree(&tree).map_err(Error::kv("dropping pages"))?;
    }
    Ok(())
}

fn trees(core: &Core) -> Vec<String> {
    core.kv.trees().into_iter().filter(|tree| tree.starts_with(PAGES_PREFIX)).collect()
}

fn write(core: &Core, attempt: u32, (at, shard, window): (i64, u32, Window)) -> Result<(), Error> {
    let shards = core.shards();
    let Some(shard) = shards.iter().find(|known| known.id == shard) else { return Ok(()) };
    let name = core.blocks.name(at, 1, attempt);
    let mut writer = Writer::new(&core.blocks.folder(shard.id)?, shard.id, name, Vec::new())?;
    for (place, mut samples) in window {
        if shard.index().labels(place.series).is_none() {
            continue;
        }
        in_order(&mut samples);
        writer.add(place, &samples)?;
    }
    let labels = |series| shard.index().labels(series).cloned();
    let written = writer.finish(shard.cluster.as_str(), labels)?;
    core.blocks.sync(shard.id)?;
    core.blocks.change(shard.id, &[(name, Entry { bytes: written.bytes, written: None })], &[]);
    Ok(())
}

/// A page's key.
struct Key {
    window: i64,
    shard: u32,
    group: u32,
    first: u32,
}

impl Key {
    fn decode(key: &[u8]) -> Result<Self, Malformed> {
        let mut fields = Fields(key);
        let high = u64::from(fields.u32_be()?) << 32 | u64::from(fields.u32_be()?);
        let (shard, group) = (fields.u32_be()?, fields.u32_be()?);
        let (_last, first) = (fields.u32_be()?, fields.u32_be()?);
        let (_flush, _number) = (fields.u32_be()?, fields.u32_be()?);
        fields.end()?;
        Ok(Self { window: (high ^ 1 << 63).cast_signed(), shard, group, first })
    }
}

fn page(known: &Key, key: &[u8], value: &[u8], out: &mut Window) -> Result<(), Malformed> {
    let raw = unseal(key, value)?;
    let mut fields = Fields(&raw);
    let mut clocks = Vec::new();
    for _ in 0..fields.count()? {
        let base = window_start(known.window);
        clocks.push(clock::decode(fields.bytes()?, base, MAX_CHUNK_SAMPLES)?);
    }
    let mut series = known.first;
    let mut bits = Vec::new();
    for _ in 0..fields.count()? {
        series = series.wrapping_add(fields.small()?);
        let times = clocks.get(fields.count()?).ok_or(Malformed("a chunk has no clock"))?;
        bits.clear();
        values::decode(fields.bytes()?, times.len(), &mut bits)?;
        let samples = out.entry(Place { group: known.group, series }).or_default();
        samples.extend(times.iter().copied().zip(bits.iter().copied()));
    }
    fields.end()
}
