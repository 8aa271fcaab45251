//! The read path: matchers to series, series to blocks and head chunks, chunks to samples.

mod histograms;

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use roaring::RoaringBitmap;
use tributary_model::label::Labels;
use tributary_model::matcher::Matcher;
use tributary_model::sample::{Numbers, Timestamp};

use crate::block::{Block, BlockName, Place, Recent};
use crate::core::{Core, Shard};
use crate::error::Error;
use crate::head::Head;
use crate::index::Index;
use crate::keys::window;

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
}

struct Kept {
    name: BlockName,
    block: Option<Arc<Block>>,
    recent: Recent,
}

/// More blocks than this are not kept open.
const KEPT_BLOCKS: usize = 32;

impl SelectedSeries {
    /// Appends the samples between two times, both inclusive, by ascending time. Of a range wider than the one the
    /// series was selected for, the part outside may be missing.
    pub fn read(&self, from: Timestamp, to: Timestamp, out: &mut Numbers) -> Result<(), Error> {
        let (from, to) = (from.as_millis(), to.as_millis());
        let start = out.len();
        let core = &self.plan.core;
        loop {
            let generation = core.generation.load(Ordering::Acquire);
            self.blocks(generation, (from, to), &mut |block, recent| {
                self.numbers(block, recent, (from, to), out)
            })?;
            let read = self.shard.head().read(self.place.series, (from, to), out);
            read.map_err(Error::damaged("a chunk in memory"))?;
            if core.generation.load(Ordering::Acquire) == generation {
                break;
            }
            // Samples moved meanwhile, which happens once in minutes.
            out.truncate(start);
        }
        out.sort_from(start);
        Ok(())
    }

    /// Appends what a block has.
    fn numbers(
        &self,
        block: &Block,
        recent: &mut Recent,
        (from, to): (i64, i64),
        out: &mut Numbers,
    ) -> Result<(), Error> {
        let mut visit = |times: &[i64], values: &[u64]| {
            // Nearly always all of them.
            let begin = match times.first() {
                Some(first) if *first >= from => 0,
                _ => times.partition_point(|at| *at < from),
            };
            let end = match times.last() {
                Some(last) if *last <= to => times.len(),
                _ => times.partition_point(|at| *at <= to),
            };
            let inside = values.get(begin..end).unwrap_or_default();
            out.times.extend_from_slice(times.get(begin..end).unwrap_or_default());
            out.values.extend(inside.iter().map(|bits| f64::from_bits(*bits)));
        };
        block.read(&self.plan.core.blocks.cache, recent, self.place, (from, to), &mut visit)
    }

    /// Visits the blocks of a range.
    fn blocks(
        &self,
        generation: u64,
        range: (i64, i64),
        visit: &mut dyn FnMut(&Block, &mut Recent) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut lane = self.plan.lanes().pop().unwrap_or_default();
        let read = self.blocks_of(&mut lane, generation, range, visit);
        self.plan.lanes().push(lane);
        read.map_err(|e| self.plan.core.blocks.count(e))
    }

    fn blocks_of(
        &self,
        lane: &mut Lane,
        generation: u64,
        (from, to): (i64, i64),
        visit: &mut dyn FnMut(&Block, &mut Recent) -> Result<(), Error>,
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
            visit(&block, &mut kept.recent)?;
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
) -> Vec<String> {
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
) -> Vec<String> {
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
) -> Vec<String> {
    let (from, to) = (from.as_millis(), to.as_millis());
    let mut out: BTreeSet<Arc<str>> = BTreeSet::new();
    for shard in core.shards() {
        let index = shard.index();
        let head = shard.head();
        let recent = head.recent(from);
        let selected = (!matchers.is_empty()).then(|| index.select(matchers, recent));
        let wanted = |number| alive(&head, number, from, to);
        out.extend(find(&index, selected.as_ref().or(recent), &wanted));
    }
    out.iter().map(ToString::to_string).collect()
}

/// Whether a series has samples at or behind `from` and at or in front of `to`.
fn alive(head: &Head, number: u32, from: i64, to: i64) -> bool {
    head.span(number).is_some_and(|(first, last)| first <= to && from <= last)
}
