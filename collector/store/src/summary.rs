//! Numbers for people and metrics: streams, clusters and the store itself.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use tributary_model::cluster::ClusterName;
use tributary_model::sample::Timestamp;

use crate::batch::{Reason, StreamKey, StreamState};
use crate::core::Core;

/// One stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamSummary {
    /// Who sends.
    pub key: StreamKey,
    /// How far it is.
    pub state: StreamState,
    /// When its newest frame was received.
    pub received_at: Timestamp,
    /// The agent vouches that nothing older is missing.
    pub complete_until: Timestamp,
    /// Its newest sample.
    pub newest: Option<Timestamp>,
    /// Samples stored.
    pub stored: u64,
    /// Samples not stored, for each reason.
    pub refused: [(Reason, u64); Reason::ALL.len()],
}

/// One cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterSummary {
    /// Its name.
    pub cluster: ClusterName,
    /// Series in the catalogue.
    pub series: usize,
    /// Series with samples in the head.
    pub active_series: usize,
    /// Its newest sample.
    pub newest: Option<Timestamp>,
    /// Its streams.
    pub streams: Vec<StreamSummary>,
}

/// The store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Series in the catalogue.
    pub series: usize,
    /// Series with samples in the head.
    pub active_series: usize,
    /// Bytes of the head, about.
    pub head_bytes: usize,
    /// Bytes of the journal.
    pub journal_bytes: u64,
    /// Bytes of the key-value store's files.
    pub kv_bytes: u64,
    /// Files of the key-value store that hold one value each; should stay few.
    pub kv_blobs: u64,
    /// Blocks.
    pub blocks: usize,
    /// Their bytes.
    pub block_bytes: u64,
    /// Sections of blocks found damaged since the start.
    pub damaged_sections: u64,
    /// Gaps and metadata dropped because there were too many.
    pub ledger_dropped: u64,
    /// Whether a write failed, and nothing more is accepted.
    pub poisoned: bool,
}

/// Every stream, by cluster and instance.
pub(crate) fn streams(core: &Core) -> Vec<StreamSummary> {
    let ledger = core.ledger();
    let mut out: Vec<StreamSummary> = ledger
        .streams
        .iter()
        .map(|(key, stream)| {
            let mut refused = Reason::ALL.map(|reason| (reason, 0));
            refused.iter_mut().zip(stream.refused).for_each(|(to, from)| to.1 = from);
            StreamSummary {
                key: key.clone(),
                state: stream.state,
                received_at: stream.received_at,
                complete_until: stream.complete_until,
                newest: stream.newest.map(Timestamp::from_millis),
                stored: stream.stored,
                refused,
            }
        })
        .collect();
    out.sort_by(|a, b| a.key.cmp(&b.key));
    out
}

/// Every cluster that has a series or a stream, by name.
pub(crate) fn clusters(core: &Core) -> Vec<ClusterSummary> {
    let mut out: BTreeMap<ClusterName, ClusterSummary> = BTreeMap::new();
    let empty = |cluster: &ClusterName| ClusterSummary {
        cluster: cluster.clone(),
        series: 0,
        active_series: 0,
        newest: None,
        streams: Vec::new(),
    };
    for shard in core.shards().into_iter().filter(|shard| shard.index().len() > 0) {
        let summary = out.entry(shard.cluster.clone()).or_insert_with(|| empty(&shard.cluster));
        summary.series = shard.index().len();
        summary.active_series = shard.head().active();
    }
    for stream in streams(core) {
        let cluster = &stream.key.cluster;
        let summary = out.entry(cluster.clone()).or_insert_with(|| empty(cluster));
        summary.newest = summary.newest.max(stream.newest);
        summary.streams.push(stream);
    }
    out.into_values().collect()
}

/// Numbers of the whole store.
pub(crate) fn stats(core: &Core) -> Stats {
    let (kv_bytes, kv_blobs) = core.kv.disk();
    let blocks = core.blocks.all();
    let mut stats = Stats {
        journal_bytes: core.journal_bytes.load(Ordering::Relaxed),
        kv_bytes,
        kv_blobs,
        blocks: blocks.len(),
        block_bytes: blocks.iter().map(|(_, _, entry)| entry.bytes).sum(),
        damaged_sections: core.blocks.damaged.load(Ordering::Relaxed),
        ledger_dropped: core.ledger().dropped,
        poisoned: core.poisoned.load(Ordering::Acquire),
        ..Stats::default()
    };
    for shard in core.shards() {
        stats.series += shard.index().len();
        let head = shard.head();
        stats.active_series += head.active();
        stats.head_bytes += head.bytes();
    }
    stats
}
