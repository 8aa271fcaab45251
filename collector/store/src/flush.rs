//! Moves closed windows from the head into blocks, and writes the checkpoint that lets the journal go.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{SyncSender, sync_channel};

use tributary_journal::Position;
use tributary_model::fields::{Fields, Malformed, put_signed, put_varint};
use tributary_model::histogram::Histogram;
use tributary_model::sample::Timestamp;

use crate::block::{self, BlockName, Place};
use crate::blocks::Entry;
use crate::catalogue::{self, Spans};
use crate::codec::checked::checked;
use crate::core::{Core, Shard};
use crate::error::Error;
use crate::head::{Chunk, Frozen, HistogramChunk};
use crate::keys::{self, window, window_start};
use crate::ledger::{encode_metadata, put_stream_key};
use crate::state;
use crate::writer::{Cut, Mark, Request};

/// What of the head is in blocks. There is one, behind a lock: it is moved by one thread at a time.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Progress {
    /// By falling `before`.
    pub(crate) marks: Vec<Mark>,
    /// Numbers the flushes.
    pub(crate) attempts: u32,
    /// When the last flush was.
    pub(crate) flushed_at: Option<Timestamp>,
}

/// What a flush did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Flushed {
    pub(crate) samples: u64,
    pub(crate) blocks: u64,
    pub(crate) bytes: u64,
}

/// Sends a request to the writer and waits for its answer.
pub(crate) fn ask<T>(
    queue: &SyncSender<Request>,
    request: impl FnOnce(SyncSender<Result<T, Error>>) -> Request,
) -> Result<T, Error> {
    let (reply, answer) = sync_channel(1);
    queue.send(request(reply)).map_err(|_| Error::Closed)?;
    answer.recv().map_err(|_| Error::Closed)?
}

/// Moves everything older than `before`, a window's start, into blocks. After a failure everything is where it was,
/// and the next flush tries again; blocks that were written stay, since reading and compacting drop what is there twice.
pub(crate) fn flush(
    core: &Core,
    queue: &SyncSender<Request>,
    progress: &mut Progress,
    before: i64,
    roll: u64,
    now: Timestamp,
) -> Result<Flushed, Error> {
    progress.attempts = progress.attempts.wrapping_add(1);
    let cut = ask(queue, |reply| Request::Freeze { before, roll, reply })?;
    // From now on a late sample has to be looked for in blocks, too.
    core.in_blocks_until.fetch_max(before, Ordering::AcqRel);
    let mut made = Vec::new();
    let written = write(core, progress, &cut, before, &mut made);
    // After a failure, too: the checkpoint may reach the disk later and say that they are there.
    for (shard, name, bytes) in made {
        core.blocks.change(shard, &[(name, Entry { bytes, written: Some(now) })], &[]);
    }
    match written {
        Ok((flushed, marks)) => {
            progress.marks = marks;
            core.generation.fetch_add(1, Ordering::AcqRel);
            for (shard, frozen) in &cut.shards {
                shard.head_mut().release(frozen);
            }
            Ok(flushed)
        }
        Err(e) => {
            core.ledger_mut().undo(cut.checkpoint);
            Err(e)
        }
    }
}

/// Shard, name and bytes of the blocks of one flush.
type Made = Vec<(u32, BlockName, u64)>;

fn write(
    core: &Core,
    progress: &Progress,
    cut: &Cut,
    before: i64,
    made: &mut Made,
) -> Result<(Flushed, Vec<Mark>), Error> {
    // A block names series by their numbers: they are on disk before it is.
    catalogue::save(core)?;
    core.kv.persist().map_err(Error::kv("flushing the catalogue to disk"))?;
    let mut flushed = Flushed::default();
    for (shard, frozen) in &cut.shards {
        let spans = write_shard(core, shard, frozen, progress.attempts, &mut flushed, made)?;
        catalogue::widen_spans(core, shard.id, &spans)?;
    }
    write_ledger(core, cut)?;
    core.kv.persist().map_err(Error::kv("flushing the checkpoint to disk"))?;
    // Only now may the checkpoint say that they are there.
    let marks = with_mark(&progress.marks, Mark { position: cut.position, before });
    write_checkpoint(core, &marks, progress.attempts)?;
    Ok((flushed, marks))
}

/// Writes the checkpoint and waits until it is on disk.
pub(crate) fn write_checkpoint(core: &Core, marks: &[Mark], attempts: u32) -> Result<(), Error> {
    let checkpoint = Stored {
        marks: marks.to_vec(),
        attempts,
        in_blocks_until: core.in_blocks_until.load(Ordering::Acquire),
    };
    let value = checked(keys::META_CHECKPOINT, &checkpoint.encode());
    let change = (keys::META_CHECKPOINT.to_vec(), Some(value));
    core.kv.batch(keys::META, vec![change]).map_err(Error::kv("writing the checkpoint"))?;
    core.kv.persist().map_err(Error::kv("flushing the checkpoint to disk"))
}

/// Adds a mark and drops those it makes needless.
fn with_mark(marks: &[Mark], new: Mark) -> Vec<Mark> {
    let needless = |old: &&Mark| old.position <= new.position && old.before <= new.before;
    let mut out: Vec<Mark> = marks.iter().filter(|old| !needless(old)).copied().collect();
    out.push(new);
    out
}

/// Writes what was set aside of a shard, a block for each window.
fn write_shard(
    core: &Core,
    shard: &Shard,
    frozen: &[Frozen],
    attempt: u32,
    flushed: &mut Flushed,
    made: &mut Made,
) -> Result<Spans, Error> {
    let mut spans = Spans::new();
    let starts = frozen.iter().flat_map(Frozen::starts);
    let windows: BTreeSet<i64> = starts.map(window).collect();
    if windows.is_empty() {
        return Ok(spans);
    }
    let folder = core.blocks.folder(shard.id)?;
    for at in windows {
        let name = core.blocks.name(at, 1, attempt);
        let mut writer = block::Writer::new(&folder, shard.id, name, Vec::new())?;
        let (mut samples, mut histograms) = (Vec::new(), Vec::new());
        for Frozen { series, group, chunks, histograms: frozen } in frozen {
            let place = Place { group: *group, series: *series };
            samples_of(chunks, at, &mut samples)?;
            widen(&mut spans, *series, &samples);
            writer.add(place, &samples)?;
            histograms_of(frozen, at, &mut histograms)?;
            widen(&mut spans, *series, &histograms);
            writer.add_histograms(place, &histograms)?;
        }
        let labels = |series| shard.index().labels(series).cloned();
        let written = writer.finish(shard.cluster.as_str(), labels)?;
        made.push((shard.id, name, written.bytes));
        flushed.samples += written.samples;
        flushed.bytes += written.bytes;
        flushed.blocks += 1;
    }
    core.blocks.sync(shard.id)?;
    Ok(spans)
}

/// The samples of a series in a window, by ascending time, each time once.
fn samples_of(chunks: &[Arc<Chunk>], at: i64, out: &mut Vec<(i64, u64)>) -> Result<(), Error> {
    out.clear();
    for chunk in chunks.iter().filter(|chunk| window(chunk.min) == at) {
        chunk
            .read(|at, value| {
                out.push((at, value));
                true
            })
            .map_err(Error::damaged("a chunk in memory"))?;
    }
    in_order(out);
    Ok(())
}

/// The same of its native histograms.
fn histograms_of(
    chunks: &[Arc<HistogramChunk>],
    at: i64,
    out: &mut Vec<(i64, Arc<Histogram>)>,
) -> Result<(), Error> {
    out.clear();
    for chunk in chunks.iter().filter(|chunk| window(chunk.min) == at) {
        chunk
            .read(|at, histogram| {
                out.push((at, histogram));
                true
            })
            .map_err(Error::damaged("a chunk in memory"))?;
    }
    in_order(out);
    Ok(())
}

/// Notes the times of samples, which ascend.
fn widen<T>(spans: &mut Spans, series: u32, samples: &[(i64, T)]) {
    if let (Some((first, _)), Some((last, _))) = (samples.first(), samples.last()) {
        let span = spans.entry(series).or_insert((*first, *last));
        *span = (span.0.min(*first), span.1.max(*last));
    }
}

/// Brings samples in the order of time, each time once.
pub(crate) fn in_order<T>(samples: &mut Vec<(i64, T)>) {
    if !samples.is_sorted_by(|(a, _), (b, _)| a < b) {
        samples.sort_by_key(|(at, _)| *at);
        samples.dedup_by_key(|(at, _)| *at);
    }
}

fn write_ledger(core: &Core, cut: &Cut) -> Result<(), Error> {
    let checkpoint = &cut.checkpoint;
    let streams = checkpoint.streams.iter().map(|(key, stream)| {
        let mut bytes = Vec::new();
        put_stream_key(&mut bytes, key);
        let value = checked(&bytes, &stream.encode());
        (bytes, Some(value))
    });
    let gaps = checkpoint.gaps.iter();
    let gaps = gaps.map(|(number, gap)| {
        let key = number.to_be_bytes().to_vec();
        let value = checked(&key, &gap.encode());
        (key, Some(value))
    });
    let metadata = checkpoint.metadata.iter().map(|(cluster, metadata)| {
        let (key, value) = encode_metadata(cluster, metadata);
        let value = checked(&key, &value);
        (key, Some(value))
    });
    for (tree, changes) in [
        (keys::STREAMS, streams.collect::<Vec<_>>()),
        (keys::GAPS, gaps.collect()),
        (keys::METADATA, metadata.collect()),
        (keys::STATE, state::changes(core.kv.as_ref(), &checkpoint.state)?),
    ] {
        if !changes.is_empty() {
            core.kv.batch(tree, changes).map_err(Error::kv("writing the checkpoint"))?;
        }
    }
    Ok(())
}

/// The window start in front of which `maintain` flushes: windows that ended `grace` ago.
pub(crate) fn horizon(now: Timestamp, grace: std::time::Duration) -> i64 {
    window_start(window(now.minus(grace).as_millis()))
}

/// The checkpoint's value.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) marks: Vec<Mark>,
    pub(crate) attempts: u32,
    pub(crate) in_blocks_until: i64,
}

impl Stored {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_varint(&mut out, u64::from(self.attempts));
        put_signed(&mut out, self.in_blocks_until);
        put_varint(&mut out, self.marks.len() as u64);
        for mark in &self.marks {
            put_varint(&mut out, mark.position.segment);
            put_varint(&mut out, mark.position.offset);
            put_signed(&mut out, mark.before);
        }
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut fields = Fields(bytes);
        let (attempts, in_blocks_until) = (fields.small()?, fields.signed()?);
        let mut marks = Vec::new();
        for _ in 0..fields.count()? {
            let position = Position { segment: fields.varint()?, offset: fields.varint()? };
            marks.push(Mark { position, before: fields.signed()? });
        }
        fields.end()?;
        Ok(Self { marks, attempts, in_blocks_until })
    }
}
