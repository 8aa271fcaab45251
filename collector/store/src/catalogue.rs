//! The series catalogue in the key-value store: shards, label sets, and the spans of what is in blocks.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::atomic::Ordering;

use tributary_model::fields::{Fields, Malformed, put_bytes, put_signed, put_varint};
use tributary_model::label::Labels;

use crate::codec::checked::{checked, unchecked};
use crate::core::{Core, Shard};
use crate::error::Error;
use crate::index::Index;
use crate::keys::{self, block_key, block_of};
use crate::kv::{Change, Kv, MAX_VALUE_BYTES};
use crate::sealed::{compressor, seal, unseal};

/// A block of label sets is closed when it passes this before compression; label sets compress well.
const LABEL_BLOCK_BYTES: usize = 16 << 10;
/// Series in a block of spans.
const SPAN_BLOCK: u32 = 256;

/// First and last time of what a series has in blocks.
pub(crate) type Spans = BTreeMap<u32, (i64, i64)>;

/// Writes the shards and the label sets that are not written yet.
pub(crate) fn save(core: &Core) -> Result<(), Error> {
    let mut shards = Vec::new();
    for shard in core.shards() {
        let saved = shard.saved.load(Ordering::Relaxed);
        let (changes, next) = {
            let index = shard.index();
            (blocks(&shard, &index, saved..index.next())?, index.next())
        };
        let mut value = Vec::new();
        put_bytes(&mut value, shard.cluster.as_str().as_bytes());
        put_varint(&mut value, u64::from(next));
        let key = shard.id.to_be_bytes();
        shards.push((key.to_vec(), Some(checked(&key, &value))));
        if !changes.is_empty() {
            core.kv.batch(keys::SERIES, changes).map_err(Error::kv("writing the catalogue"))?;
        }
        shard.saved.store(next, Ordering::Relaxed);
    }
    core.kv.batch(keys::SHARDS, shards).map_err(Error::kv("writing the shards"))
}

/// The blocks of a range of series.
fn blocks(
    shard: &Shard,
    index: &Index,
    numbers: std::ops::Range<u32>,
) -> Result<Vec<Change>, Error> {
    let mut zstd = compressor().map_err(Error::damaged("the compressor"))?;
    let mut changes = Vec::new();
    let mut block: Vec<(u32, Vec<u8>)> = Vec::new();
    let mut bytes = 0;
    for number in numbers {
        let Some(labels) = index.labels(number) else { continue };
        let mut entry = Vec::new();
        encode_series(&mut entry, number, labels);
        if bytes + entry.len() > LABEL_BLOCK_BYTES {
            seal_block(shard.id, &block, &mut zstd, &mut changes);
            block.clear();
            bytes = 0;
        }
        bytes += entry.len();
        block.push((number, entry));
    }
    seal_block(shard.id, &block, &mut zstd, &mut changes);
    Ok(changes)
}

/// Makes one block, or more when the labels do not compress well.
fn seal_block(
    shard: u32,
    block: &[(u32, Vec<u8>)],
    zstd: &mut zstd::bulk::Compressor<'_>,
    changes: &mut Vec<Change>,
) {
    let Some((first, _)) = block.first() else { return };
    let raw: Vec<u8> = block.iter().flat_map(|(_, entry)| entry.iter().copied()).collect();
    let key = block_key(shard, *first);
    let value = seal(&key, &raw, zstd);
    if value.len() > MAX_VALUE_BYTES && block.len() > 1 {
        let (low, high) = block.split_at(block.len() / 2);
        seal_block(shard, low, zstd, changes);
        seal_block(shard, high, zstd, changes);
    } else {
        changes.push((key, Some(value)));
    }
}

/// Writes the blocks of a shard anew after series were removed.
pub(crate) fn rewrite(core: &Core, shard: &Shard) -> Result<(), Error> {
    let mut changes: BTreeMap<Vec<u8>, Option<Vec<u8>>> = BTreeMap::new();
    for_shard(core.kv.as_ref(), keys::SERIES, shard.id, |key, _| {
        changes.insert(key.to_vec(), None);
    })?;
    let saved = shard.saved.load(Ordering::Relaxed);
    changes.extend(blocks(shard, &shard.index(), 0..saved)?);
    let changes = changes.into_iter().collect();
    core.kv.batch(keys::SERIES, changes).map_err(Error::kv("writing the catalogue"))
}

/// Widens the spans of series that went into blocks.
pub(crate) fn widen_spans(core: &Core, shard: u32, new: &Spans) -> Result<(), Error> {
    change_spans(core, shard, new.keys().copied(), |series, span| {
        let (min, max) = *new.get(&series)?;
        Some(span.map_or((min, max), |(first, last)| (min.min(first), max.max(last))))
    })
}

/// Forgets the spans of series that were removed.
pub(crate) fn drop_spans(core: &Core, shard: u32, series: &[u32]) -> Result<(), Error> {
    change_spans(core, shard, series.iter().copied(), |_, _| None)
}

fn change_spans(
    core: &Core,
    shard: u32,
    series: impl Iterator<Item = u32>,
    change: impl Fn(u32, Option<(i64, i64)>) -> Option<(i64, i64)>,
) -> Result<(), Error> {
    let mut blocks: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for series in series {
        blocks.entry(series / SPAN_BLOCK).or_default().push(series);
    }
    let mut changes = Vec::new();
    for (block, members) in blocks {
        let key = block_key(shard, block);
        let value = core.kv.get(keys::SPANS, &key).map_err(Error::kv("reading spans"))?;
        let spans = value.map_or(Ok(Spans::new()), |value| decode_spans(&key, &value));
        let mut spans = spans.map_err(Error::damaged(format!("the spans {key:?}")))?;
        for series in members {
            match change(series, spans.get(&series).copied()) {
                Some(span) => spans.insert(series, span),
                None => spans.remove(&series),
            };
        }
        let value = encode_spans(&key, &spans);
        changes.push((key, Some(value)));
    }
    core.kv.batch(keys::SPANS, changes).map_err(Error::kv("writing spans"))
}

/// Reads shards, label sets and spans into an empty core. Damaged blocks are skipped and described.
pub(crate) fn load(core: &Core, damaged: &mut Vec<String>) -> Result<(), Error> {
    let mut shards = Vec::new();
    let visit = &mut |key: &[u8], value: &[u8]| {
        shards.push((key.to_vec(), value.to_vec()));
        ControlFlow::Continue(())
    };
    core.kv.range(keys::SHARDS, &[], visit).map_err(Error::kv("reading the shards"))?;
    for (key, value) in shards {
        let decoded = decode_shard(&key, &value);
        let (cluster, next) = decoded.map_err(Error::damaged("the list of shards"))?;
        let shard = core.shard(&cluster);
        if key != shard.id.to_be_bytes() {
            return Err(Error::damaged("the list of shards")(Malformed("a shard is missing")));
        }
        load_series(core, &shard, next, damaged)?;
        load_spans(core, &shard, damaged)?;
    }
    Ok(())
}

/// Reads the spans of a shard. The series of a damaged block are taken to be in blocks from the beginning to the end,
/// which costs queries some time and hides nothing.
fn load_spans(core: &Core, shard: &Shard, damaged: &mut Vec<String>) -> Result<(), Error> {
    let mut spans = Spans::new();
    let mut repaired = Vec::new();
    let in_blocks_until = core.in_blocks_until.load(Ordering::Acquire);
    for_shard(core.kv.as_ref(), keys::SPANS, shard.id, |key, value| {
        match decode_spans(key, value) {
            Ok(block) => spans.extend(block),
            Err(why) => {
                damaged.push(format!("the spans {key:?}: {why}"));
                let first = block_of(key).map_or(0, |(_, block)| block.saturating_mul(SPAN_BLOCK));
                let whole = (keys::EARLIEST_MILLIS, in_blocks_until.saturating_sub(1));
                let series = first..first.saturating_add(SPAN_BLOCK);
                let block: Spans = series.map(|series| (series, whole)).collect();
                repaired.push((key.to_vec(), Some(encode_spans(key, &block))));
                spans.extend(block);
            }
        }
    })?;
    let index = shard.index();
    let mut head = shard.head_mut();
    for (series, (first, last)) in spans {
        if index.labels(series).is_some() {
            head.widen(series, first, last);
        }
    }
    if repaired.is_empty() {
        return Ok(());
    }
    core.kv.batch(keys::SPANS, repaired).map_err(Error::kv("repairing spans"))
}

fn load_series(
    core: &Core,
    shard: &Shard,
    next: u32,
    damaged: &mut Vec<String>,
) -> Result<(), Error> {
    let mut found: BTreeMap<u32, Labels> = BTreeMap::new();
    for_shard(core.kv.as_ref(), keys::SERIES, shard.id, |key, value| {
        let decode = unseal(key, value).and_then(|raw| decode_block(&raw));
        match decode {
            Ok(block) => found.extend(block),
            Err(why) => damaged.push(format!("the catalogue's block {key:?}: {why}")),
        }
    })?;
    let next = found.last_key_value().map_or(next, |(last, _)| next.max(last.saturating_add(1)));
    let mut index = shard.index_mut();
    let mut head = shard.head_mut();
    for number in 0..next {
        let labels = found.get(&number);
        head.push_series(labels.map_or(0, |labels| keys::metric_group(labels.metric_name())));
        match labels {
            Some(labels) => {
                index.push(labels, 0);
            }
            None => index.skip(),
        }
    }
    shard.saved.store(next, Ordering::Relaxed);
    Ok(())
}

/// Visits the blocks of a shard.
fn for_shard(
    kv: &dyn Kv,
    tree: &str,
    shard: u32,
    mut visit: impl FnMut(&[u8], &[u8]),
) -> Result<(), Error> {
    kv.range(tree, &block_key(shard, 0), &mut |key, value| match block_of(key) {
        Ok((owner, _)) if owner == shard => {
            visit(key, value);
            ControlFlow::Continue(())
        }
        _ => ControlFlow::Break(()),
    })
    .map_err(Error::kv("reading the catalogue"))
}

fn decode_shard(
    key: &[u8],
    value: &[u8],
) -> Result<(tributary_model::cluster::ClusterName, u32), Malformed> {
    let mut fields = Fields(unchecked(key, value)?);
    let out = (crate::ledger::cluster(&mut fields)?, fields.small()?);
    fields.end()?;
    Ok(out)
}

pub(crate) fn encode_series(out: &mut Vec<u8>, number: u32, labels: &Labels) {
    put_varint(out, u64::from(number));
    put_varint(out, labels.len() as u64);
    for label in labels {
        put_bytes(out, label.name.as_bytes());
        put_bytes(out, label.value.as_bytes());
    }
}

pub(crate) fn decode_block(raw: &[u8]) -> Result<Vec<(u32, Labels)>, Malformed> {
    let mut fields = Fields(raw);
    let mut out = Vec::new();
    while !fields.0.is_empty() {
        let number = fields.small()?;
        let mut pairs = Vec::new();
        for _ in 0..fields.count()? {
            pairs.push((fields.text()?, fields.text()?));
        }
        let labels = Labels::from_pairs(pairs).map_err(|_| Malformed("labels are not valid"))?;
        out.push((number, labels));
    }
    Ok(out)
}

fn encode_spans(key: &[u8], spans: &Spans) -> Vec<u8> {
    let mut out = Vec::new();
    let mut before = 0;
    let mut first_before = 0;
    for (series, (first, last)) in spans {
        put_varint(&mut out, u64::from(series - before));
        put_signed(&mut out, first.wrapping_sub(first_before));
        put_varint(&mut out, last.abs_diff(*first));
        before = *series;
        first_before = *first;
    }
    checked(key, &out)
}

fn decode_spans(key: &[u8], value: &[u8]) -> Result<Spans, Malformed> {
    let mut fields = Fields(unchecked(key, value)?);
    let mut spans = Spans::new();
    let (mut series, mut first) = (0u32, 0i64);
    while !fields.0.is_empty() {
        series = series.checked_add(fields.small()?).ok_or(Malformed("a number is too large"))?;
        first = first.wrapping_add(fields.signed()?);
        spans.insert(series, (first, first.wrapping_add(fields.varint()?.cast_signed())));
    }
    Ok(spans)
}
