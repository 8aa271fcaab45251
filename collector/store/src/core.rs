//! What the writer and the readers share.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use tributary_model::cluster::ClusterName;
use tributary_model::label::Labels;
use tributary_model::sample::Numbers;

use crate::Options;
use crate::batch::SeriesId;
use crate::block::{Place, Recent, decode};
use crate::blocks::Blocks;
use crate::error::Error;
use crate::head::{Head, Value};
use crate::index::Index;
use crate::keys::{metric_group, window};
use crate::kv::Kv;
use crate::ledger::Ledger;

/// Locks are taken in this order: shards, index, head, ledger.
pub(crate) struct Core {
    pub(crate) options: Options,
    pub(crate) kv: Box<dyn Kv>,
    shards: RwLock<Shards>,
    pub(crate) ledger: RwLock<Ledger>,
    pub(crate) blocks: Blocks,
    /// Nothing at or behind this time is in blocks.
    pub(crate) in_blocks_until: AtomicI64,
    /// Raised before samples leave the head for blocks, or a block for another: a reader that sees it change starts
    /// again.
    pub(crate) generation: AtomicU64,
    /// A coarse clock, in hours since 1970, raised by what is received and by `maintain`.
    pub(crate) hour: AtomicU32,
    /// When the catalogue was last cleaned; 0 before the first round of maintenance.
    pub(crate) cleaned_hour: AtomicU32,
    pub(crate) poisoned: AtomicBool,
    pub(crate) journal_bytes: AtomicU64,
}

#[derive(Default)]
struct Shards {
    by_name: HashMap<ClusterName, Arc<Shard>>,
    all: Vec<Arc<Shard>>,
}

impl Shards {
    fn add(&mut self, cluster: &ClusterName) -> Arc<Shard> {
        let shard = Arc::new(Shard {
            id: u32::try_from(self.all.len()).unwrap_or(u32::MAX),
            cluster: cluster.clone(),
            index: RwLock::default(),
            head: RwLock::default(),
            saved: AtomicU32::new(0),
        });
        self.all.push(Arc::clone(&shard));
        self.by_name.insert(cluster.clone(), Arc::clone(&shard));
        shard
    }
}

/// One cluster's series.
pub(crate) struct Shard {
    pub(crate) id: u32,
    pub(crate) cluster: ClusterName,
    index: RwLock<Index>,
    head: RwLock<Head>,
    /// Series below this number are in the key-value store.
    pub(crate) saved: AtomicU32,
}

impl Shard {
    pub(crate) fn index(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn index_mut(&self) -> RwLockWriteGuard<'_, Index> {
        self.index.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn head(&self) -> RwLockReadGuard<'_, Head> {
        self.head.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn head_mut(&self) -> RwLockWriteGuard<'_, Head> {
        self.head.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Core {
    pub(crate) fn new(options: Options, kv: Box<dyn Kv>, blocks: Blocks) -> Self {
        Self {
            options,
            kv,
            shards: RwLock::default(),
            ledger: RwLock::default(),
            blocks,
            in_blocks_until: AtomicI64::new(i64::MIN),
            generation: AtomicU64::new(0),
            hour: AtomicU32::new(0),
            cleaned_hour: AtomicU32::new(0),
            poisoned: AtomicBool::new(false),
            journal_bytes: AtomicU64::new(0),
        }
    }

    pub(crate) fn ledger(&self) -> RwLockReadGuard<'_, Ledger> {
        self.ledger.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn ledger_mut(&self) -> RwLockWriteGuard<'_, Ledger> {
        self.ledger.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every shard, by number.
    pub(crate) fn shards(&self) -> Vec<Arc<Shard>> {
        self.shards.read().unwrap_or_else(PoisonError::into_inner).all.clone()
    }

    /// A cluster's shard, if it is there.
    pub(crate) fn find_shard(&self, cluster: &ClusterName) -> Option<Arc<Shard>> {
        let shards = self.shards.read().unwrap_or_else(PoisonError::into_inner);
        shards.by_name.get(cluster).cloned()
    }

    /// A cluster's shard, made if it is missing.
    pub(crate) fn shard(&self, cluster: &ClusterName) -> Arc<Shard> {
        if let Some(shard) = self.find_shard(cluster) {
            return shard;
        }
        let mut shards = self.shards.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(shard) = shards.by_name.get(cluster) {
            return Arc::clone(shard);
        }
        shards.add(cluster)
    }

    /// Makes the shards in front of `id` that are missing, which stay empty, so that the next one has this number.
    pub(crate) fn skip_shards(&self, id: u32) {
        let mut shards = self.shards.write().unwrap_or_else(PoisonError::into_inner);
        while shards.all.len() < usize::try_from(id).unwrap_or(usize::MAX) {
            let Ok(name) = format!("lost-shard-{}", shards.all.len()).parse() else { return };
            shards.add(&name);
        }
    }

    /// The series with these labels, if it is there.
    pub(crate) fn find(&self, cluster: &ClusterName, labels: &Labels) -> Option<SeriesId> {
        let shard = self.find_shard(cluster)?;
        let number = shard.index().find(labels, self.hour.load(Ordering::Relaxed))?;
        Some(SeriesId::new(shard.id, number))
    }

    /// The series with these labels, made if it is missing.
    pub(crate) fn resolve(&self, cluster: &ClusterName, labels: &Labels) -> SeriesId {
        let shard = self.shard(cluster);
        let hour = self.hour.load(Ordering::Relaxed);
        if let Some(number) = shard.index().find(labels, hour) {
            return SeriesId::new(shard.id, number);
        }
        let mut index = shard.index_mut();
        // Another thread may have made it between the two locks.
        let number = index.find(labels, hour).unwrap_or_else(|| {
            shard.head_mut().push_series(metric_group(labels.metric_name()));
            index.push(labels, hour)
        });
        SeriesId::new(shard.id, number)
    }

    /// Raises the coarse clock.
    pub(crate) fn tick(&self, millis: i64) {
        let hour = u32::try_from(millis / 3_600_000).unwrap_or(0);
        self.hour.fetch_max(hour, Ordering::Relaxed);
    }

    /// Where a series' samples stand in a block.
    pub(crate) fn place(shard: &Shard, series: u32) -> Place {
        Place { group: shard.head().group(series).unwrap_or(0), series }
    }

    /// The value of a series at a time, if it is in a block.
    pub(crate) fn find_in_blocks(
        &self,
        shard: u32,
        place: Place,
        at: i64,
    ) -> Result<Option<Value>, Error> {
        if at >= self.in_blocks_until.load(Ordering::Acquire) {
            return Ok(None);
        }
        let window = window(at);
        let (mut numbers, mut histograms) = (Numbers::default(), Vec::new());
        for name in self.blocks.overlapping(shard, window, window) {
            let Some(block) = self.blocks.block(shard, &name)? else { continue };
            let cache = &self.blocks.cache;
            let mut chunks = Vec::new();
            let read = block.find(cache, &mut Recent::default(), place, (at, at), &mut chunks);
            let read = read.and_then(|()| decode(&chunks, (at, at), &mut numbers));
            read.map_err(|e| self.blocks.count(e))?;
            let read = block.read_histograms(cache, place, (at, at), &mut histograms);
            read.map_err(|e| self.blocks.count(e))?;
        }
        let histogram = histograms.into_iter().next().map(|(_, h)| Value::Histogram(h));
        let number = numbers.values.first().map(|value| Value::Number(value.to_bits()));
        Ok(number.or(histogram))
    }

    /// How long a cluster's samples are kept.
    pub(crate) fn retention(&self, cluster: &ClusterName) -> std::time::Duration {
        let own = self.options.cluster_retention.get(cluster);
        own.copied().unwrap_or(self.options.retention)
    }
}
