//! The read path: matchers to series, series to blocks and head chunks, chunks to samples.

mod histograms;

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use roaring::RoaringBitmap;
use tributary_model::histogram::{Histogram, HistogramSample};
use tributary_model::label::Labels;
use tributary_model::matcher::Matcher;
use tributary_model::sample::{Numbers, Timestamp};

use crate::block::{Block, BlockName, Found, Place, Recent, decode};
use crate::core::{Core, Shard};
use crate::error::Error;
use crate::flush::in_order;
use crate::head::Head;
use crate::index::Index;
use crate::keys::window;
use histograms::with_hints;

/// A series that may have samples in the range it was selected for.
#[derive(Clone)]
pub struct SelectedSeries {
    /// Its labels.
    pub labels: Labels,
    shard: Arc<Shard>,
    place: Place,
    plan: Arc<Plan>,
}

impl std::fmt::Debug for SelectedSeries {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.labels.fmt(f)
    }
}

/// What the series of one selection share.
struct Plan {
    core: Arc<Core>,
    from: i64,
    to: i64,
    /// As many as there are threads that read at once.
    lanes: Mutex<Vec<Lane>>,
}

/// What a thread keeps from series to series: neighbours are in the same pages of the same blocks.
#[derive(Default)]
struct Lane {
    /// The shard and the generation of these blocks.
    of: Option<(u32, u64)>,
    blocks: Vec<Kept>,
    /// Those of the series being read.
    chunks: Vec<Found>,
}

/// Times and histograms.
type Histograms = Vec<(i64, Arc<Histogram>)>;

struct Kept {
    name: BlockName,
    block: Option<Arc<Block>>,
    recent: Recent,
}

/// More blocks than this are not kept open.
const KEPT_BLOCKS: usize = 32;

impl SelectedSeries {
    /// Appends the samples between two times, both inclusive, by ascending time: numbers and native histograms, of which
    /// a series mostly has only one. Of a range wider than the one the series was selected for, the part outside may be
    /// missing. What histograms say of resets follows from the one before, as Prometheus' storage has it; of the first
    /// one it is not known.
    pub fn read(
        &self,
        from: Timestamp,
        to: Timestamp,
        numbers: &mut Numbers,
        histograms: &mut Vec<HistogramSample>,
    ) -> Result<(), Error> {
        let range = (from.as_millis(), to.as_millis());
        let start = numbers.len();
        let mut found = Vec::new();
        let core = &self.plan.core;
        let in_memory = loop {
            let generation = core.generation.load(Ordering::Acquire);
            self.blocks(generation, range, numbers, &mut found)?;
            let read = self.shard.head().read(self.place.series, range, numbers);
            let in_memory = read.map_err(Error::damaged("a chunk in memory"))?;
            if core.generation.load(Ordering::Acquire) == generation {
                break in_memory;
            }
            // Samples moved meanwhile, which happens once in minutes.
            numbers.truncate(start);
            found.clear();
        };
        numbers.sort_from(start);
        in_memory.append(range, &mut found).map_err(Error::damaged("a chunk in memory"))?;
        if !found.is_empty() {
            in_order(&mut found);
            let numbers = numbers.times.get(start..).unwrap_or_default();
            histograms.extend(with_hints(found, numbers));
        }
        Ok(())
    }

    /// Appends what blocks have.
    fn blocks(
        &self,
        generation: u64,
        range: (i64, i64),
        numbers: &mut Numbers,
        histograms: &mut Histograms,
    ) -> Result<(), Error> {
        let mut lane = self.plan.lanes().pop().unwrap_or_default();
        lane.chunks.clear();
        let found = self.find(&mut lane, generation, range, histograms);
        let read = found.and_then(|()| decode(&lane.chunks, range, numbers));
        self.plan.lanes().push(lane);
        read.map_err(|e| self.plan.core.blocks.count(e))
    }

    /// Finds the chunks of numbers, and appends the histograms.
    fn find(
        &self,
        lane: &mut Lane,
        generation: u64,
        (from, to): (i64, i64),
        histograms: &mut Histograms,
    ) -> Result<(), Error> {
        let (shard, blocks) = (self.shard.id, &self.plan.core.blocks);
        if lane.of != Some((shard, generation)) {
            let names = blocks.overlapping(shard, window(self.plan.from), window(self.plan.to));
            let kept = |name| Kept { name, block: None, recent: Recent::default() };
            lane.blocks = names.into_iter().map(kept).collect();
            lane.of = Some((shard, generation));
        }
        let keep = lane.blocks.len() <= KEPT_BLOCKS;
        let (first, last) = (window(from), window(to));
        for kept in lane.blocks.iter_mut().filter(|kept| kept.name.overlaps(first, last)) {
            let opened = match kept.block.take() {
                Some(block) => Some(block),
                None => blocks.block(shard, &kept.name)?,
            };
            let Some(block) = opened else { continue };
            let cache = &blocks.cache;
            block.find(cache, &mut kept.recent, self.place, (from, to), &mut lane.chunks)?;
            block.read_histograms(cache, self.place, (from, to), histograms)?;
            if keep {
                kept.block = Some(block);
            } else {
                kept.recent = Recent::default();
            }
        }
        Ok(())
    }
}

impl Plan {
    fn lanes(&self) -> MutexGuard<'_, Vec<Lane>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The series that satisfy the matchers and may have samples between two times, both inclusive.
pub(crate) fn select(
    core: &Arc<Core>,
    matchers: &[Matcher],
    from: Timestamp,
    to: Timestamp,
) -> Vec<SelectedSeries> {
    let (from, to) = (from.as_millis(), to.as_millis());
    let plan = Arc::new(Plan { core: Arc::clone(core), from, to, lanes: Mutex::default() });
    let mut out = Vec::new();
    for shard in core.shards() {
        let index = shard.index();
        let head = shard.head();
        let found = index.select(matchers, head.recent(from));
        for number in found.into_iter().filter(|number| alive(&head, *number, from, to)) {
            let Some(labels) = index.labels(number) else { continue };
            out.push(SelectedSeries {
                labels: labels.clone(),
                shard: Arc::clone(&shard),
                place: Place { group: head.group(number).unwrap_or(0), series: number },
                plan: Arc::clone(&plan),
            });
        }
    }
    out
}

/// The label sets of the series that `select` would find.
pub(crate) fn series(
    core: &Core,
    matchers: &[Matcher],
    from: Timestamp,
    to: Timestamp,
) -> Vec<Labels> {
    let (from, to) = (from.as_millis(), to.as_millis());
    let mut out = Vec::new();
    for shard in core.shards() {
        let index = shard.index();
        let head = shard.head();
        let found = index.select(matchers, head.recent(from));
        let found = found.into_iter().filter(|number| alive(&head, *number, from, to));
        out.extend(found.filter_map(|number| index.labels(number).cloned()));
    }
    out
}

/// The label names of those series, sorted.
pub(crate) fn label_names(
    core: &Core,
    matchers: &[Matcher],
    from: Timestamp,
    to: Timestamp,
) -> Vec<Arc<str>> {
    texts(core, matchers, (from, to), |index, among, wanted| {
        index.names(among, wanted).cloned().collect()
    })
}

/// The values of a label in those series, sorted.
pub(crate) fn label_values(
    core: &Core,
    name: &str,
    matchers: &[Matcher],
    from: Timestamp,
    to: Timestamp,
) -> Vec<Arc<str>> {
    texts(core, matchers, (from, to), |index, among, wanted| {
        index.values(name, among, wanted).cloned().collect()
    })
}

/// What `find` finds in every shard, sorted. It is told among which series to look, if not all, and which are wanted.
fn texts(
    core: &Core,
    matchers: &[Matcher],
    (from, to): (Timestamp, Timestamp),
    find: impl Fn(&Index, Option<&RoaringBitmap>, &dyn Fn(u32) -> bool) -> Vec<Arc<str>>,
) -> Vec<Arc<str>> {
    let (from, to) = (from.as_millis(), to.as_millis());
    let mut out: Vec<Arc<str>> = Vec::new();
    for shard in core.shards() {
        let index = shard.index();
        let head = shard.head();
        let recent = head.recent(from);
        let selected = (!matchers.is_empty()).then(|| index.select(matchers, recent));
        let wanted = |number| alive(&head, number, from, to);
        out.extend(find(&index, selected.as_ref().or(recent), &wanted));
    }
    // Each shard's are in order: the stable sort merges them.
    out.sort();
    out.dedup();
    out
}

/// Whether a series has samples at or behind `from` and at or in front of `to`.
fn alive(head: &Head, number: u32, from: i64, to: i64) -> bool {
    head.span(number).is_some_and(|(first, last)| first <= to && from <= last)
}
