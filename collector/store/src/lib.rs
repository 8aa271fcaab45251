//! The embedded, insert-only sample store: acknowledged means on disk, and what was accepted stays.
//!
//! A batch is decided about, journalled and synced by one writer thread; samples live in the head, compressed in memory,
//! until their two-hour window is closed and moves into a block, an immutable file. The catalogue and everything else
//! that changes is in the key-value store. `FORMAT.md` has every byte.

mod batch;
mod block;
mod blocks;
mod cache;
mod catalogue;
mod codec;
mod compact;
mod core;
mod error;
mod expire;
mod flush;
mod head;
mod index;
mod keys;
mod kv;
mod ledger;
mod read;
mod record;
mod recover;
mod sealed;
mod snapshot;
mod state;
mod summary;
mod v1;
mod verify;
mod writer;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tributary_model::cluster::ClusterName;
use tributary_model::label::Labels;
use tributary_model::matcher::Matcher;
use tributary_model::sample::Timestamp;
use tributary_model::series::Metadata;

use crate::compact::Due;
use crate::core::Core;
use crate::flush::{Progress, ask};
use crate::keys::{window, window_start};
use crate::writer::{Request, Writer};

pub use batch::{Accepted, Batch, GapEntry, Reason, SeriesId, StreamKey, StreamState};
pub use error::{Error, KvError};
pub use ledger::Gap;
pub use read::SelectedSeries;
pub use recover::{OpenReport, Replay, ReplayError, Resolver};
pub use snapshot::Snapshot;
pub use summary::{ClusterSummary, Stats, StreamSummary};
pub use verify::Verified;
pub use writer::{AppendDone, StateDone};

/// Requests that wait for the writer. Full: the caller of `append` waits.
const QUEUE: usize = 64;
/// A window stays in the head for so long after its end, for what comes late.
const GRACE: Duration = Duration::from_secs(15 * 60);
/// Closed windows wait for each other for so long, so that a backlog becomes few and full blocks.
const FLUSH_INTERVAL: Duration = Duration::from_secs(5 * 60);
/// Queries of less than this look only at series that had a sample since.
const RECENT: Duration = Duration::from_secs(86_400);
/// A flush begins a new journal segment when the current one is this long.
const ROLL_BYTES: u64 = 1 << 20;
/// Closed windows of so many bytes in memory do not wait: a restart would have to read them again.
const CLOSED_BYTES: usize = 24 << 20;

/// Where a store lives and what it accepts.
#[derive(Debug, Clone)]
pub struct Options {
    /// The folder; made if it is missing.
    pub path: PathBuf,
    /// Blocks older than this are dropped, and older samples refused.
    pub retention: Duration,
    /// The same, for clusters that have a retention of their own.
    pub cluster_retention: BTreeMap<ClusterName, Duration>,
    /// The oldest blocks over so many bytes are dropped, whatever their age; 0 for no limit.
    pub retention_bytes: u64,
    /// How far behind its stream a sample may lie that is not newer than its series' last one.
    pub out_of_order_window: Duration,
    /// How far in the future a sample may lie when it is received.
    pub future_window: Duration,
    /// Length of a journal segment.
    pub journal_segment_bytes: u64,
    /// sled's cache.
    pub cache_bytes: u64,
    /// Open blocks, pages and clocks kept for queries.
    pub page_cache_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            path: PathBuf::from("data"),
            retention: Duration::from_secs(3 * 365 * 86_400),
            cluster_retention: BTreeMap::new(),
            retention_bytes: 0,
            out_of_order_window: Duration::from_secs(2 * 3600),
            future_window: Duration::from_secs(120),
            journal_segment_bytes: 32 << 20,
            cache_bytes: 64 << 20,
            page_cache_bytes: 32 << 20,
        }
    }
}

/// What a maintenance round did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MaintainReport {
    /// Samples moved from the head into blocks.
    pub flushed_samples: u64,
    /// Blocks written for them.
    pub flushed_blocks: u64,
    /// Their bytes.
    pub flushed_bytes: u64,
    /// Bytes of journal deleted.
    pub journal_freed: u64,
    /// Blocks that became blocks of a day.
    pub compacted_blocks: u64,
    /// Bytes of the blocks that they became.
    pub compacted_bytes: u64,
    /// Blocks dropped because of the retention.
    pub dropped_blocks: u64,
    /// Series removed from the catalogue.
    pub dropped_series: u64,
}

/// The store. Clones share it; it closes with the last one.
#[derive(Clone)]
pub struct Store(Arc<Shared>);

struct Shared {
    core: Arc<Core>,
    progress: Mutex<Progress>,
    /// Taken when the store closes, which ends the writer.
    queue: Option<SyncSender<Request>>,
    writer: Option<JoinHandle<()>>,
}

impl Drop for Shared {
    /// Waits until the writer has answered everything that was asked.
    fn drop(&mut self) {
        self.queue = None;
        // A callback that held the last clone drops it on the writer's own thread, which cannot wait for itself.
        if let Some(writer) = self.writer.take()
            && writer.thread().id() != std::thread::current().id()
        {
            // A writer that panicked has nothing left to wait for.
            let _ = writer.join();
        }
    }
}

impl Store {
    /// Opens or makes a store, and reads back what the journal has, on a thread for each reader. A cluster's records go
    /// to one reader, in order.
    pub fn open<R: Replay + Send>(
        options: Options,
        readers: &mut [R],
    ) -> Result<(Self, OpenReport), Error> {
        Self::start(recover::open(options, None, readers)?)
    }

    fn start(opened: recover::Opened) -> Result<(Self, OpenReport), Error> {
        let recover::Opened { core, journal, summaries, starts, progress, report } = opened;
        let (queue, requests) = sync_channel(QUEUE);
        let writer = Writer::new(Arc::clone(&core), journal, summaries, starts);
        let writer = std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || writer.run(&requests))
            .map_err(|source| Error::Io {
                doing: "starting the writer of",
                path: core.options.path.clone(),
                source,
            })?;
        let progress = Mutex::new(progress);
        let shared = Shared { core, progress, queue: Some(queue), writer: Some(writer) };
        Ok((Self(Arc::new(shared)), report))
    }

    /// The series with these labels, made if it is missing. The labels already carry the cluster label. The number
    /// stays valid while the series is written to, and for a day after this call.
    pub fn resolve(&self, cluster: &ClusterName, labels: &Labels) -> SeriesId {
        self.0.core.resolve(cluster, labels)
    }

    /// The series with these labels, if it is there. The number stays valid as after [`Store::resolve`].
    pub fn find(&self, cluster: &ClusterName, labels: &Labels) -> Option<SeriesId> {
        self.0.core.find(cluster, labels)
    }

    /// The series of a cluster that count against its limit: those with samples in the head, and those that were
    /// resolved and have no sample yet.
    pub fn series_count(&self, cluster: &ClusterName) -> usize {
        let Some(shard) = self.0.core.find_shard(cluster) else { return 0 };
        let series = shard.index().len();
        let head = shard.head();
        head.active() + series.saturating_sub(head.sampled())
    }

    /// Decides about a batch, journals its payload, and calls `done` once it is on disk. `done` runs on the writer
    /// thread and must be quick. Waits while the queue is full. A batch whose number is not above its stream's last is
    /// known already: it is answered with zeros.
    pub fn append(&self, payload: Vec<u8>, batch: Batch, done: AppendDone) {
        let batch = Box::new(batch);
        match self.queue() {
            Ok(queue) => {
                if let Err(refused) = queue.send(Request::Append { payload, batch, done })
                    && let Request::Append { done, .. } = refused.0
                {
                    done(Err(Error::Poisoned));
                }
            }
            Err(e) => done(Err(e)),
        }
    }

    /// How far a stream is on disk; `None` for one that never sent.
    pub fn stream(&self, key: &StreamKey) -> Option<StreamState> {
        self.0.core.ledger().streams.get(key).map(|stream| stream.state)
    }

    /// Whether a stream may go on in the middle of its frame segment. If not, [`Store::append`] takes only a frame that
    /// starts one, for state only if its number is not above the stream's last.
    pub fn knows_segment(&self, key: &StreamKey) -> bool {
        self.0.core.ledger().streams.get(key).is_some_and(|stream| stream.segment_start.is_some())
    }

    /// Changes small durable state: keys with their new values, `None` to remove. All or nothing; `done` as in `append`.
    pub fn put_state(&self, changes: Vec<(String, Option<Vec<u8>>)>, done: StateDone) {
        for (key, value) in &changes {
            let bytes = value.as_ref().map_or(0, Vec::len);
            let (what, bytes, limit) = if key.len() > state::MAX_KEY_BYTES || key.contains('\0') {
                ("a key of the state", key.len(), state::MAX_KEY_BYTES)
            } else {
                ("a value of the state", bytes, state::MAX_STATE_BYTES)
            };
            if bytes > limit || key.contains('\0') {
                return done(Err(Error::TooLarge { what, bytes, limit }));
            }
        }
        match self.queue() {
            Ok(queue) => {
                if let Err(refused) = queue.send(Request::State { changes, done })
                    && let Request::State { done, .. } = refused.0
                {
                    done(Err(Error::Poisoned));
                }
            }
            Err(e) => done(Err(e)),
        }
    }

    /// The state whose keys begin with `prefix`, by key.
    pub fn state(&self, prefix: &str) -> Result<Vec<(String, Vec<u8>)>, Error> {
        let ledger = self.0.core.ledger();
        let from = ledger.state.range(prefix.to_owned()..);
        let found = from.take_while(|(key, _)| key.starts_with(prefix));
        Ok(found.map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    /// The series that satisfy the matchers and may have samples between two times, both inclusive.
    pub fn select(
        &self,
        matchers: &[Matcher],
        from: Timestamp,
        to: Timestamp,
    ) -> Result<Vec<SelectedSeries>, Error> {
        Ok(read::select(&self.0.core, matchers, from, to))
    }

    /// The label sets of those series.
    pub fn series(&self, matchers: &[Matcher], from: Timestamp, to: Timestamp) -> Vec<Labels> {
        read::series(&self.0.core, matchers, from, to)
    }

    /// The label names of those series, sorted.
    pub fn label_names(
        &self,
        matchers: &[Matcher],
        from: Timestamp,
        to: Timestamp,
    ) -> Vec<Arc<str>> {
        read::label_names(&self.0.core, matchers, from, to)
    }

    /// The values of a label in those series, sorted.
    pub fn label_values(
        &self,
        name: &str,
        matchers: &[Matcher],
        from: Timestamp,
        to: Timestamp,
    ) -> Vec<Arc<str>> {
        read::label_values(&self.0.core, name, matchers, from, to)
    }

    /// What is known of metrics, by cluster and metric.
    pub fn metadata(&self) -> Vec<(ClusterName, Metadata)> {
        let ledger = self.0.core.ledger();
        let all = ledger.metadata.iter();
        all.flat_map(|(c, known)| known.values().map(|m| (c.clone(), m.clone()))).collect()
    }

    /// The gap ledger, in the order in which the gaps were reported.
    pub fn gaps(&self) -> Vec<Gap> {
        self.0.core.ledger().gaps.clone()
    }

    /// Every cluster with its streams, by name.
    pub fn clusters(&self) -> Vec<ClusterSummary> {
        summary::clusters(&self.0.core)
    }

    /// Every stream, by cluster and instance.
    pub fn streams(&self) -> Vec<StreamSummary> {
        summary::streams(&self.0.core)
    }

    /// Numbers of the whole store. Looks at files: not for every request.
    pub fn stats(&self) -> Stats {
        summary::stats(&self.0.core)
    }

    /// Moves closed windows into blocks, deletes journal that is not needed, compacts at most one day of one cluster,
    /// and drops what is older than the retention. To be called every few seconds, from a thread that may block.
    pub fn maintain(&self, now: Timestamp) -> Result<MaintainReport, Error> {
        let core = &self.0.core;
        core.tick(now.as_millis());
        let mut progress = self.0.progress.lock().unwrap_or_else(PoisonError::into_inner);
        let before = flush::horizon(now, GRACE);
        let mut report = MaintainReport::default();
        if self.due(&progress, before, now) {
            self.flush(&mut progress, (before, ROLL_BYTES), now, &mut report)?;
        }
        for shard in core.shards() {
            shard.head_mut().pass(now.minus(RECENT).as_millis());
        }
        let expired = expire::expire(core, now)?;
        report.dropped_blocks = expired.blocks;
        report.dropped_series = expired.series;
        let compacted = compact::compact(core, progress.attempts, Due::Settled(now))?;
        report.compacted_blocks = compacted.taken;
        report.compacted_bytes = compacted.bytes;
        Ok(report)
    }

    /// Moves every window that begins before `now` into blocks, closed or not. For tests and before a copy is made.
    pub fn flush_head_before(&self, now: Timestamp) -> Result<MaintainReport, Error> {
        let mut progress = self.0.progress.lock().unwrap_or_else(PoisonError::into_inner);
        let mut report = MaintainReport::default();
        let before = window_start(window(now.as_millis()).saturating_add(1));
        self.flush(&mut progress, (before, ROLL_BYTES), now, &mut report)?;
        Ok(report)
    }

    /// Moves everything in memory into blocks, makes one block of each day's, and lets all of the journal go that holds no
    /// sample: agents that send on begin their frame segments anew. For a store that nobody writes to.
    pub fn compact(&self, now: Timestamp) -> Result<MaintainReport, Error> {
        let mut report = MaintainReport::default();
        let mut progress = self.0.progress.lock().unwrap_or_else(PoisonError::into_inner);
        self.0.core.ledger_mut().forget_segments();
        let newest = now.plus(self.0.core.options.future_window).as_millis();
        let before = window_start(window(newest).saturating_add(1));
        self.flush(&mut progress, (before, 0), now, &mut report)?;
        loop {
            let compacted = compact::compact(&self.0.core, progress.attempts, Due::Now)?;
            if compacted.taken == 0 {
                return Ok(report);
            }
            report.compacted_blocks += compacted.taken;
            report.compacted_bytes += compacted.bytes;
        }
    }

    /// Reads all of every block, and says what is damaged; `progress` hears how many of how many bytes are done.
    pub fn verify(&self, progress: &mut dyn FnMut(u64, u64)) -> Result<Verified, Error> {
        verify::verify(&self.0.core, progress)
    }

    /// Copies the store to a folder that must not be there yet, with everything that was acknowledged before. Maintenance
    /// waits meanwhile; nothing else does.
    pub fn snapshot(&self, to: &Path) -> Result<Snapshot, Error> {
        let _still = self.0.progress.lock().unwrap_or_else(PoisonError::into_inner);
        snapshot::snapshot(&self.0.core, to)
    }

    fn flush(
        &self,
        progress: &mut Progress,
        (before, roll): (i64, u64),
        now: Timestamp,
        report: &mut MaintainReport,
    ) -> Result<(), Error> {
        let queue = self.queue()?;
        let flushed = flush::flush(&self.0.core, queue, progress, before, roll, now)?;
        progress.flushed_at = Some(now);
        report.flushed_samples = flushed.samples;
        report.flushed_blocks = flushed.blocks;
        report.flushed_bytes = flushed.bytes;
        let marks = progress.marks.clone();
        let attempt = progress.attempts;
        let forget = |reply| Request::Forget { marks, attempt, now, reply };
        report.journal_freed = ask(queue, forget)?;
        Ok(())
    }

    /// Whether a flush is worth it: there is something to move or journal to free, and the last one is some time ago
    /// or memory is short.
    fn due(&self, progress: &Progress, before: i64, now: Timestamp) -> bool {
        let core = &self.0.core;
        let shards = core.shards();
        let closed = shards.iter().any(|s| s.head().oldest().is_some_and(|at| at < before));
        let rested = progress.flushed_at.is_none_or(|last| now.since(last) >= FLUSH_INTERVAL);
        if closed && !rested {
            let closed = shards.iter().map(|shard| shard.head().closed_bytes(before));
            return closed.sum::<usize>() >= CLOSED_BYTES;
        }
        let journal = core.journal_bytes.load(std::sync::atomic::Ordering::Relaxed);
        rested && (closed || journal > 2 * core.options.journal_segment_bytes)
    }

    fn queue(&self) -> Result<&SyncSender<Request>, Error> {
        self.0.queue.as_ref().ok_or(Error::Closed)
    }
}

#[cfg(test)]
mod tests;
