//! What the writer and the readers share.

use std::collections::{BTreeSet, HashMap};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use tributary_model::cluster::ClusterName;
use tributary_model::label::Labels;

use crate::Options;
use crate::batch::SeriesId;
use crate::cache::PageCache;
use crate::error::Error;
use crate::head::Head;
use crate::index::Index;
use crate::keys::{PageKey, metric_group, pages_tree, partition_of};
use crate::kv::Kv;
use crate::ledger::Ledger;
use crate::page::Page;

/// Locks are taken in this order: shards, index, head, ledger.
pub(crate) struct Core {
    pub(crate) options: Options,
    pub(crate) kv: Box<dyn Kv>,
    shards: RwLock<Shards>,
    pub(crate) ledger: RwLock<Ledger>,
    /// Days that have pages.
    pub(crate) partitions: RwLock<BTreeSet<i64>>,
    /// Nothing at or behind this time is in pages.
    pub(crate) paged_until: AtomicI64,
    /// Raised before samples leave the head for pages: a reader that sees it change starts again.
    pub(crate) generation: AtomicU64,
    pub(crate) cache: PageCache,
    /// A coarse clock, in hours since 1970, raised by what is received and by `maintain`.
    pub(crate) hour: AtomicU32,
    /// When the catalogue was last cleaned; 0 before the first round of maintenance.
    pub(crate) cleaned_hour: AtomicU32,
    pub(crate) poisoned: AtomicBool,
    pub(crate) journal_bytes: AtomicU64,
    pub(crate) damaged_pages: AtomicU64,
}

#[derive(Default)]
struct Shards {
    by_name: HashMap<ClusterName, Arc<Shard>>,
    all: Vec<Arc<Shard>>,
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
    pub(crate) fn new(options: Options, kv: Box<dyn Kv>) -> Self {
        let cache = PageCache::new(options.page_cache_bytes);
        Self {
            options,
            kv,
            shards: RwLock::default(),
            ledger: RwLock::default(),
            partitions: RwLock::default(),
            paged_until: AtomicI64::new(i64::MIN),
            generation: AtomicU64::new(0),
            cache,
            hour: AtomicU32::new(0),
            cleaned_hour: AtomicU32::new(0),
            poisoned: AtomicBool::new(false),
            journal_bytes: AtomicU64::new(0),
            damaged_pages: AtomicU64::new(0),
        }
    }

    pub(crate) fn ledger(&self) -> RwLockReadGuard<'_, Ledger> {
        self.ledger.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn ledger_mut(&self) -> RwLockWriteGuard<'_, Ledger> {
        self.ledger.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn partitions(&self) -> BTreeSet<i64> {
        self.partitions.read().unwrap_or_else(PoisonError::into_inner).clone()
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
        let shard = Arc::new(Shard {
            id: u32::try_from(shards.all.len()).unwrap_or(u32::MAX),
            cluster: cluster.clone(),
            index: RwLock::default(),
            head: RwLock::default(),
            saved: AtomicU32::new(0),
        });
        shards.all.push(Arc::clone(&shard));
        shards.by_name.insert(cluster.clone(), Arc::clone(&shard));
        shard
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

    /// The keys of the pages of a shard and metric group in a range of windows, both inclusive, by ascending window.
    pub(crate) fn page_keys(
        &self,
        shard: u32,
        group: u32,
        windows: (i64, i64),
    ) -> Result<Vec<PageKey>, Error> {
        let (from, to) = windows;
        let mut keys = Vec::new();
        if from > to {
            return Ok(keys);
        }
        let partitions = self.partitions();
        for partition in partitions.range(partition_of(from)..=partition_of(to)) {
            let tree = pages_tree(*partition);
            let mut at = PageKey { window: from, shard, group, last: 0, first: 0, number: 0 };
            // Skips from window to window: only the windows that are there cost a look.
            loop {
                let mut next = None;
                self.kv
                    .range(&tree, &at.encode(), &mut |key, _| {
                        let Ok(key) = PageKey::decode(key) else {
                            return ControlFlow::Continue(());
                        };
                        if (key.window, key.shard, key.group) == (at.window, shard, group) {
                            keys.push(key);
                            return ControlFlow::Continue(());
                        }
                        next = Some(key);
                        ControlFlow::Break(())
                    })
                    .map_err(Error::kv("listing pages"))?;
                let Some(next) = next else { break };
                let here = (next.shard, next.group) <= (shard, group);
                at.window = if next.window > at.window && here {
                    next.window
                } else {
                    next.window.max(at.window).saturating_add(1)
                };
                if at.window > to {
                    break;
                }
            }
        }
        Ok(keys)
    }

    /// A page by its key; `None` if it was dropped in the meantime.
    pub(crate) fn page(&self, key: &PageKey) -> Result<Option<Arc<Page>>, Error> {
        if let Some(page) = self.cache.find(key) {
            return Ok(Some(page));
        }
        let version = self.cache.version();
        let tree = pages_tree(partition_of(key.window));
        let Some(value) = self.kv.get(&tree, &key.encode()).map_err(Error::kv("reading a page"))?
        else {
            return Ok(None);
        };
        match Page::open(key, &value) {
            Ok(page) => Ok(Some(self.cache.insert(*key, page, version))),
            Err(why) => {
                self.damaged_pages.fetch_add(1, Ordering::Relaxed);
                Err(Error::damaged(format!("the page {key:?}"))(why))
            }
        }
    }

    /// The value of a series at a time, if it is in a page.
    pub(crate) fn find_in_pages(
        &self,
        shard: u32,
        group: u32,
        series: u32,
        at: i64,
    ) -> Result<Option<u64>, Error> {
        if at >= self.paged_until.load(Ordering::Acquire) {
            return Ok(None);
        }
        let window = crate::keys::window(at);
        for key in self.page_keys(shard, group, (window, window))? {
            if !(key.first..=key.last).contains(&series) {
                continue;
            }
            let Some(page) = self.page(&key)? else { continue };
            let mut found = None;
            page.read(series, |time, bits| {
                if time == at {
                    found = Some(bits);
                }
            })
            .map_err(Error::damaged(format!("the page {key:?}")))?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }
}
