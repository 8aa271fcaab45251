//! Moves closed windows from the head into pages, writes the checkpoint, and lets the journal go.
//!
//! Pages of two hours are what is written; merging them into pages of a day would be another writer of the same pages.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{SyncSender, sync_channel};

use tributary_journal::Position;
use tributary_model::sample::Timestamp;

use crate::catalogue::{self, Spans};
use crate::codec::fields::{Fields, Malformed, checked, put_signed, put_varint};
use crate::core::Core;
use crate::error::Error;
use crate::head::Frozen;
use crate::keys::{self, PageKey, pages_tree, partition_of, window, window_start};
use crate::kv::Change;
use crate::ledger::{encode_metadata, put_stream_key};
use crate::page::{Builder, Encoded, MAX_CHUNK_SAMPLES, compressor};
use crate::state;
use crate::writer::{Cut, Mark, Request};

/// Bytes of pages that go into one batch.
const BATCH_BYTES: usize = 256 << 10;

/// What of the head is in pages. There is one, behind a lock: it is moved by one thread at a time.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Progress {
    /// By falling `before`.
    pub(crate) marks: Vec<Mark>,
    /// Numbers the pages.
    pub(crate) attempts: u32,
    /// When the last flush was.
    pub(crate) flushed_at: Option<Timestamp>,
}

/// What a flush did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Flushed {
    pub(crate) samples: u64,
    pub(crate) pages: u64,
    pub(crate) page_bytes: u64,
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

/// Moves everything older than `before`, a window's start, into pages. After a failure everything is where it was,
/// and the next flush tries again.
pub(crate) fn flush(
    core: &Core,
    queue: &SyncSender<Request>,
    progress: &mut Progress,
    before: i64,
) -> Result<Flushed, Error> {
    progress.attempts = progress.attempts.wrapping_add(1);
    let cut = ask(queue, |reply| Request::Freeze { before, reply })?;
    // From now on a late sample has to be looked for in pages, too.
    core.paged_until.fetch_max(before, Ordering::AcqRel);
    match write(core, progress, &cut, before) {
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

fn write(
    core: &Core,
    progress: &Progress,
    cut: &Cut,
    before: i64,
) -> Result<(Flushed, Vec<Mark>), Error> {
    catalogue::save(core)?;
    let (flushed, spans) = write_pages(core, cut, progress.attempts)?;
    for (shard, spans) in &spans {
        catalogue::widen_spans(core, *shard, spans)?;
    }
    write_ledger(core, cut)?;
    core.kv.persist().map_err(Error::kv("flushing pages to disk"))?;
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
        paged_until: core.paged_until.load(Ordering::Acquire),
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

/// Writes what was set aside, window by window, so that keys come in order.
fn write_pages(
    core: &Core,
    cut: &Cut,
    attempt: u32,
) -> Result<(Flushed, BTreeMap<u32, Spans>), Error> {
    let frozen = || cut.shards.iter().flat_map(|(_, frozen)| frozen);
    let windows: BTreeSet<i64> =
        frozen().flat_map(|f| &f.chunks).map(|chunk| window(chunk.min)).collect();
    let zstd = compressor().map_err(Error::damaged("the compressor"))?;
    let mut writer = PageWriter {
        core,
        zstd,
        next: u64::from(attempt) << 32,
        changes: Vec::new(),
        keys: Vec::new(),
        bytes: 0,
        flushed: Flushed::default(),
    };
    let mut spans: BTreeMap<u32, Spans> = BTreeMap::new();
    for at in windows {
        let mut partitions =
            core.partitions.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        partitions.insert(partition_of(at));
        drop(partitions);
        for (shard, frozen) in &cut.shards {
            let spans = spans.entry(shard.id).or_default();
            writer.window_of_shard(at, shard.id, frozen, spans)?;
        }
        writer.send(at)?;
    }
    Ok((writer.flushed, spans))
}

struct PageWriter<'a> {
    core: &'a Core,
    zstd: zstd::bulk::Compressor<'static>,
    next: u64,
    changes: Vec<Change>,
    keys: Vec<PageKey>,
    bytes: usize,
    flushed: Flushed,
}

impl PageWriter<'_> {
    fn window_of_shard(
        &mut self,
        at: i64,
        shard: u32,
        frozen: &[Frozen],
        spans: &mut Spans,
    ) -> Result<(), Error> {
        let mut builder: Option<(u32, Builder)> = None;
        let mut samples: Vec<(i64, u64)> = Vec::new();
        for series in frozen {
            samples_of(series, at, &mut samples)?;
            let (Some((first, _)), Some((last, _))) = (samples.first(), samples.last()) else {
                continue;
            };
            let span = spans.entry(series.series).or_insert((*first, *last));
            *span = (span.0.min(*first), span.1.max(*last));
            if let Some((_, full)) = builder.take_if(|(group, _)| *group != series.group) {
                self.page(at, full)?;
            }
            let (_, page) = builder
                .get_or_insert_with(|| (series.group, Builder::new(at, shard, series.group)));
            self.flushed.samples += samples.len() as u64;
            for part in samples.chunks(MAX_CHUNK_SAMPLES) {
                let (times, bits): (Vec<i64>, Vec<u64>) = part.iter().copied().unzip();
                let chunk = Encoded::new(series.series, at, &times, &bits);
                if let Err(chunk) = page.add(chunk) {
                    let empty = Builder::new(at, shard, series.group);
                    self.page(at, std::mem::replace(page, empty))?;
                    // An empty page takes any chunk.
                    let _ = page.add(chunk);
                }
            }
        }
        builder.map_or(Ok(()), |(_, last)| self.page(at, last))
    }

    fn page(&mut self, at: i64, builder: Builder) -> Result<(), Error> {
        if builder.is_empty() {
            return Ok(());
        }
        let (key, value) = builder.finish(self.next, &mut self.zstd);
        self.next += 1;
        self.flushed.pages += 1;
        self.flushed.page_bytes += value.len() as u64;
        self.bytes += value.len();
        self.changes.push((key.encode(), Some(value)));
        self.keys.push(key);
        if self.bytes >= BATCH_BYTES { self.send(at) } else { Ok(()) }
    }

    fn send(&mut self, at: i64) -> Result<(), Error> {
        self.bytes = 0;
        let changes = std::mem::take(&mut self.changes);
        if changes.is_empty() {
            return Ok(());
        }
        let tree = pages_tree(partition_of(at));
        let written = self.core.kv.batch(&tree, changes);
        self.core.cache.written(&std::mem::take(&mut self.keys));
        written.map_err(Error::kv("writing pages"))
    }
}

/// The samples of a series in a window, by ascending time, each time once.
fn samples_of(series: &Frozen, at: i64, out: &mut Vec<(i64, u64)>) -> Result<(), Error> {
    out.clear();
    for chunk in series.chunks.iter().filter(|chunk| window(chunk.min) == at) {
        chunk
            .read(|sample| {
                out.push((sample.at.as_millis(), sample.value.to_bits()));
                true
            })
            .map_err(Error::damaged("a chunk in memory"))?;
    }
    if !out.is_sorted_by(|(a, _), (b, _)| a < b) {
        out.sort_by_key(|(at, _)| *at);
        out.dedup_by_key(|(at, _)| *at);
    }
    Ok(())
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
    pub(crate) paged_until: i64,
}

impl Stored {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_varint(&mut out, u64::from(self.attempts));
        put_signed(&mut out, self.paged_until);
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
        let (attempts, paged_until) = (fields.small()?, fields.signed()?);
        let mut marks = Vec::new();
        for _ in 0..fields.count()? {
            let position = Position { segment: fields.varint()?, offset: fields.varint()? };
            marks.push(Mark { position, before: fields.signed()? });
        }
        fields.end()?;
        Ok(Self { marks, attempts, paged_until })
    }
}
