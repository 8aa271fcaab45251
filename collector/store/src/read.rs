//! The read path: matchers to series, series to blocks and head chunks, chunks to samples.

mod histograms;

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use roaring::RoaringBitmap;
use tributary_model::label::Labels;
use tributary_model::matcher::Matcher;
use tributary_model::sample::{Sample, Timestamp};

use crate::block::{BlockName, Place};
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

/// What the series of one selection share: which blocks there are.
struct Plan {
    core: Arc<Core>,
    from: i64,
    to: i64,
    shards: Mutex<HashMap<u32, Listed>>,
}

/// The blocks of a shard, as of a generation.
#[derive(Clone)]
struct Listed {
    generation: u64,
    names: Arc<Vec<BlockName>>,
}

impl SelectedSeries {
    /// Appends the samples between two times, both inclusive, by ascending time. Of a range wider than the one the
    /// series was selected for, the part outside may be missing.
    pub fn read(&self, from: Timestamp, to: Timestamp, out: &mut Vec<Sample>) -> Result<(), Error> {
        let (from, to) = (from.as_millis(), to.as_millis());
        let start = out.len();
        let core = &self.plan.core;
        let pieces = loop {
            let generation = core.generation.load(Ordering::Acquire);
            let read = self.blocks(generation, from, to, out);
            read.map_err(|e| core.blocks.count(e))?;
            let pieces = self.shard.head().read(self.place.series, from, to);
            if core.generation.load(Ordering::Acquire) == generation {
                break pieces;
            }
            // Samples moved meanwhile, which happens once in minutes.
            out.truncate(start);
        };
        for chunk in &pieces.chunks {
            let read = chunk.read(|sample| {
                let at = sample.at.as_millis();
                if at >= from && at <= to {
                    out.push(sample);
                }
                at < to
            });
            read.map_err(Error::damaged("a chunk in memory"))?;
        }
        out.extend(pieces.late.iter().map(|(at, v)| Sample::new(*at, f64::from_bits(*v))));
        sort_from(out, start);
        Ok(())
    }

    /// Appends what blocks have.
    fn blocks(
        &self,
        generation: u64,
        from: i64,
        to: i64,
        out: &mut Vec<Sample>,
    ) -> Result<(), Error> {
        let names = self.plan.blocks(self.shard.id, generation);
        let blocks = &self.plan.core.blocks;
        let (first, last) = (window(from), window(to));
        let mut scratch = Vec::new();
        for name in names.iter().filter(|name| name.overlaps(first, last)) {
            let Some(block) = blocks.block(self.shard.id, name)? else { continue };
            let mut visit = |times: &[i64], values: &[u64]| {
                let begin = times.partition_point(|at| *at < from);
                let end = times.partition_point(|at| *at <= to);
                let times = times.get(begin..end).unwrap_or_default();
                let values = values.get(begin..end).unwrap_or_default();
                let samples = times.iter().zip(values);
                out.extend(samples.map(|(at, bits)| Sample::new(*at, f64::from_bits(*bits))));
            };
            block.read(&blocks.cache, self.place, (from, to), &mut scratch, &mut visit)?;
        }
        Ok(())
    }
}

/// Brings the samples from `start` on in order, each time once.
fn sort_from(out: &mut Vec<Sample>, start: usize) {
    let Some(new) = out.get_mut(start..) else { return };
    if new.is_sorted_by(|a, b| a.at < b.at) {
        return;
    }
    new.sort_by_key(|sample| sample.at);
    let mut index = 0;
    let mut before = None;
    out.retain(|sample| {
        let keep = index < start || before != Some(sample.at);
        if index >= start {
            before = Some(sample.at);
        }
        index += 1;
        keep
    });
}

impl Plan {
    fn blocks(&self, shard: u32, generation: u64) -> Arc<Vec<BlockName>> {
        let mut shards = self.shards.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(listed) = shards.get(&shard).filter(|l| l.generation == generation) {
            return Arc::clone(&listed.names);
        }
        let names = self.core.blocks.overlapping(shard, window(self.from), window(self.to));
        let names = Arc::new(names);
        shards.insert(shard, Listed { generation, names: Arc::clone(&names) });
        names
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
    let shards = Mutex::default();
    let plan = Arc::new(Plan { core: Arc::clone(core), from, to, shards });
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
